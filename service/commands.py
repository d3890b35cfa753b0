"""`binet serve`, `binet keys` and `binet audit`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from indexer.commands import IndexUrl, Url
from indexer.errors import GalleryError
from model.files import DEFAULT_WEIGHTS
from service.roles import Role

if TYPE_CHECKING:
    from indexer.database import Database

keys = typer.Typer(help="Keys of the service: who may ask.", no_args_is_help=True)
audit = typer.Typer(help="The record of who asked what.", no_args_is_help=True)


def serve(
    gallery_url: Url = "gallery",
    weights: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Checkpoint folder; the gallery's.")
    ] = DEFAULT_WEIGHTS,
    index_url: IndexUrl = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at.")] = 8000,
    root: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="A folder that index jobs may take sources from; may be given several times.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="What the network runs on: cpu, cuda.")] = "cpu",
    require_reason: Annotated[
        bool, typer.Option("--require-reason", help="Refuse searches that do not say why.")
    ] = False,
    rate: Annotated[
        str, typer.Option(metavar="N/UNIT", help="Requests of one key, such as 600/minute.")
    ] = "600/minute",
    queue: Annotated[
        int, typer.Option(min=1, help="Requests that wait for the network; more are refused.")
    ] = 64,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="Quicker searches without a filter, at a measured loss."),
    ] = False,
    log: Annotated[
        Literal["text", "json"], typer.Option(help="How the log is written, to stderr.")
    ] = "text",
) -> None:
    """Answer searches over HTTP.

    Without keys it answers this machine alone, for trying out; beyond it, make keys first
    (`binet keys create`).
    """
    from service import logs
    from service.app import create_app
    from service.serving import check_exposure, run
    from service.settings import Settings

    with _store(gallery_url) as store:
        allow_local = check_exposure(store, host)
    settings = Settings(
        gallery=gallery_url,
        index=index_url,
        weights=weights,
        device=device,
        roots=tuple(root or ()),
        allow_local=allow_local,
        require_reason=require_reason,
        rate=rate,
        queue=queue,
        fast=fast,
    )
    logs.configure(log)
    app = create_app(settings)
    if allow_local:
        typer.secho("no keys: whoever is on this machine may ask everything", fg="yellow", err=True)
    typer.echo(f"listening at http://{host}:{port}/ (end with Ctrl-C)", err=True)
    reason = run(app, host=host, port=port, log_config=None)
    if reason is not None:
        raise GalleryError(f"The service has ended: {reason}. Start it again")


@keys.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is; it is in the audit.")],
    gallery_url: Url = "gallery",
    role: Annotated[Role, typer.Option(help="What it may do.")] = Role.VIEWER,
    camera: Annotated[
        list[str] | None,
        typer.Option(help="A camera that it may know of; may be given several times. All without."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="Until when it is valid (ISO 8601).")
    ] = None,
) -> None:
    """Make a key and show its secret, once. A gallery that is not there yet is made."""
    from indexer.capture_time import parse_time
    from service.keys import create_key

    with _store(gallery_url, create=True) as store:
        until = None if expires is None else parse_time(expires)
        key, secret = create_key(store, name, role, camera, until)
    typer.echo(f"key {key.id} ({key.name}, {key.role}); this is its secret, shown once:", err=True)
    typer.echo(secret)


@keys.command("list")
def show(gallery_url: Url = "gallery") -> None:
    """List keys, without their secrets."""
    from service.keys import list_keys

    with _store(gallery_url) as store:
        for key in list_keys(store):
            cameras = "all cameras" if key.cameras is None else ", ".join(key.cameras)
            until = "" if key.expires_at is None else f", until {key.expires_at.isoformat()}"
            ended = "" if key.revoked_at is None else f", REVOKED {key.revoked_at.isoformat()}"
            typer.echo(f"{key.id}: {key.name}, {key.role}, {cameras}{until}{ended}")


@keys.command("revoke")
def revoke(
    key_id: Annotated[int, typer.Argument(metavar="ID", help="Of the key.")],
    gallery_url: Url = "gallery",
) -> None:
    """End a key: its next request is refused."""
    from service.keys import revoke_key

    with _store(gallery_url) as store:
        revoke_key(store, key_id)
    typer.echo(f"key {key_id} is revoked")


@audit.command("verify")
def verify(gallery_url: Url = "gallery") -> None:
    """Check that no row was changed, taken out or put in; exit code 1 when one was."""
    from service.audit import verify as look

    with _store(gallery_url) as store:
        found = look(store)
    if found.broken_at is not None:
        typer.echo(f"row {found.broken_at} is not as it was written, or is missing")
        raise typer.Exit(1)
    typer.echo(f"{found.rows} rows are as they were written; the last hash: {found.last_hash}")


@audit.command("show")
def rows(
    gallery_url: Url = "gallery",
    limit: Annotated[int, typer.Option(min=1, help="How many rows, the newest.")] = 50,
) -> None:
    """Show the newest rows, one JSON object a line."""
    import json

    from service.audit import entries

    with _store(gallery_url) as store:
        for entry in entries(store, limit):
            line = {
                "id": entry.id,
                "at": entry.at.isoformat(),
                "caller": entry.caller,
                "event": entry.event,
                **entry.detail,
            }
            typer.echo(json.dumps(line, ensure_ascii=False))


@contextmanager
def _store(gallery_url: str, create: bool = False) -> "Iterator[Database]":
    from indexer.gallery import Gallery
    from service.serving import open_store

    with Gallery.open(gallery_url, create=create) as gallery:
        store = open_store(gallery_url, gallery)
    try:
        yield store
    finally:
        store.close()
