"""`binet serve`, `binet keys`, `binet audit`, and the committed OpenAPI document."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import binet
from indexer.errors import GalleryError
from model import BINetError
from service import audit
from service.keys import find_key
from service.openapi import document
from service.serving import check_exposure, is_loopback
from tests.service.conftest import FakeEncoder, Start, service_of
from tests.service.test_search import ask, crop

OPENAPI = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"


def run(*arguments: Any, code: int = 0) -> Result:
    result = CliRunner().invoke(binet.app, [str(argument) for argument in arguments])
    if isinstance(result.exception, BINetError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def test_keys_from_the_command_line(folder: Path, start: Start) -> None:
    here = ("--gallery", folder)
    made = run("keys", "create", "desk", "--role", "operator", "--camera", "door", *here)
    secret = made.stdout.strip()
    assert secret.startswith("binet_")
    run("keys", "create", "late", "--expires", "2099-01-01T00:00:00Z", *here)
    listed = run("keys", "list", *here).stdout
    assert "1: desk, operator, door\n" in listed
    assert "2: late, viewer, all cameras, until 2099-01-01T00:00:00+00:00" in listed
    assert secret not in listed
    store = service_of(start()).store
    assert find_key(store, secret) is not None
    run("keys", "revoke", 1, *here)
    assert find_key(store, secret) is None
    assert "REVOKED" in run("keys", "list", *here).stdout
    with pytest.raises(GalleryError, match="no key 7"):
        run("keys", "revoke", 7, *here)


def test_the_audit_from_the_command_line(folder: Path, start: Start) -> None:
    client = start(allow_local=True)
    ask(client, crop(1), reason="theft")
    shown = json.loads(run("audit", "show", "--gallery", folder).stdout)
    assert (shown["event"], shown["reason"]) == ("search", "theft")
    assert "1 rows are as they were written" in run("audit", "verify", "--gallery", folder).stdout
    with service_of(client).store.write() as connection:
        connection.exec_driver_sql("UPDATE audit SET caller = 'somebody else'")
    assert "row 1 is not" in run("audit", "verify", "--gallery", folder, code=1).stdout
    assert audit.verify(service_of(client).store).broken_at == 1


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.7", False),
        ("example.org", False),
    ],
)
def test_it_listens_beyond_this_machine_with_keys_only(
    folder: Path, start: Start, host: str, alone: bool
) -> None:
    store = service_of(start()).store
    assert is_loopback(host) == alone
    if alone:
        assert check_exposure(store, host)
    else:
        with pytest.raises(GalleryError, match="make one first"):
            check_exposure(store, host)
    run("keys", "create", "desk", "--gallery", folder)
    assert not check_exposure(store, host)  # with keys, nobody is let in without one
    run("keys", "revoke", 1, "--gallery", folder)
    if not alone:
        with pytest.raises(GalleryError, match="there is no key"):
            check_exposure(store, host)


def test_serve_starts_the_app(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from service import serving, state

    started: list[Any] = []
    monkeypatch.setattr(serving, "run", lambda app, **options: started.append((app, options)))
    monkeypatch.setattr(state.Service, "_load", lambda _: FakeEncoder())
    result = run("serve", "--gallery", folder, "--port", 8123, "--require-reason")
    ((app, options),) = started
    service = app.state.service
    service.close()
    assert service.settings.allow_local
    assert service.settings.require_reason
    assert (options["host"], options["port"]) == ("127.0.0.1", 8123)
    assert "no keys" in result.stderr
    run("keys", "create", "desk", "--gallery", folder)
    run("serve", "--gallery", folder, "--host", "0.0.0.0")
    assert not started[1][0].state.service.settings.allow_local
    started[1][0].state.service.close()


def test_the_openapi_document_is_the_committed_one() -> None:
    assert OPENAPI.read_text(encoding="utf-8") == document(), (
        "the interface has changed: python -m service.openapi > docs/openapi.json"
    )
