"""The log says which requests there were, and nothing about whom they asked."""

import json
import logging
from collections.abc import Iterator

import pytest

from indexer.gallery import Gallery
from service import logs
from service.keys import create_key
from service.roles import Role
from tests.service.conftest import Start, service_of
from tests.service.test_search import crop


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.getLogger("service").level
    yield
    root.handlers[:], root.level = before[0], before[1]
    logging.getLogger("service").setLevel(before[2])


def test_json_lines_with_the_number_of_the_request(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    client = start()
    _, secret = create_key(service_of(client).store, "Ms Smith", Role.VIEWER)
    logs.configure("json")
    headers = {"Authorization": f"Bearer {secret}"}
    sent = {"reason": "the lost son of Ms Miller", "camera": "door"}
    found = client.post("/v1/search", files=crop(1), data=sent, headers=headers)
    box = found.json()["results"][0]["box_id"]
    client.get(f"/v1/boxes/{box}/crop", headers=headers)
    client.get("/v1/cameras")
    text = capsys.readouterr().err
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["route"], line["status"]) for line in lines] == [
        ("/v1/search", 200),
        ("/v1/boxes/{box_id}/crop", 200),
        ("/v1/cameras", 401),
    ]
    assert lines[0]["request_id"] == found.headers["x-request-id"]
    assert len({line["request_id"] for line in lines}) == 3
    for private in (secret, "Smith", "Miller", "door", "crop.png"):
        assert private not in text


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_goes_wrong_is_told_without_what_it_says(
    start: Start,
    form: logs.LogFormat,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = start(allow_local=True)

    def broken(*_: object) -> None:
        raise ValueError("/archive/people/ms-miller.mp4 is broken")

    monkeypatch.setattr(Gallery, "search", broken)
    logs.configure(form)
    answer = client.post("/v1/search", files=crop(1))
    assert answer.status_code == 500
    assert "miller" not in answer.text
    text = capsys.readouterr().err
    assert "ValueError" in text
    assert "test_logs.py" in text
    assert "miller" not in text
    assert "/archive" not in text
