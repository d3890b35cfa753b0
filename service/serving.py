"""Where the service's tables are, who may be let in, and how its process runs and ends."""

import gc
import socket
import threading
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import uvicorn
from fastapi import FastAPI

from indexer.database import Database, now_us
from indexer.errors import GalleryError
from indexer.gallery import Gallery
from service.keys import list_keys
from service.schema import SERVICE


def open_store(gallery_url: str, gallery: Gallery) -> Database:
    """Open the service's tables: a file beside SQLite's gallery, or the same PostgreSQL.

    Raises
    ------
    GalleryError
        When they cannot be opened, or are of a newer program.
    """
    file = gallery.database.file
    place = gallery_url if file is None else f"sqlite:///{file.with_name(SERVICE.file_name)}"
    return Database.open(place, create=True, tables=SERVICE)


def check_exposure(store: Database, host: str) -> bool:
    """Tell whether this machine may ask without a key: where there is none, on loopback.

    Raises
    ------
    GalleryError
        When the service would listen beyond this machine, and there is no valid key.
    """
    now = now_us()
    valid = any(key.is_valid(now) for key in list_keys(store))
    if not valid and not is_loopback(host):
        raise GalleryError(
            f"{host} is reached from other machines, and there is no key: make one first, "
            "binet keys create NAME --role admin"
        )
    return not valid


def run(app: FastAPI, sockets: Sequence[socket.socket] | None = None, **config: Any) -> str | None:
    """Serve until the process is told to end, or its encoder is gone for good.

    Parameters
    ----------
    app
        See `service.app.create_app`.
    config
        What uvicorn is told.

    Returns
    -------
    str or None
        Why the service cannot go on; None when it was told to end.
    """
    service = app.state.service
    server = uvicorn.Server(uvicorn.Config(app, access_log=False, server_header=False, **config))

    def watch() -> None:
        service.broken.wait()
        server.should_exit = True

    def rest() -> None:
        service.settled.wait()
        settle()

    for thread in (watch, rest):
        threading.Thread(target=thread, name=thread.__name__, daemon=True).start()
    server.run(None if sockets is None else list(sockets))
    return service.worker.reason if service.broken.is_set() else None


def settle() -> None:
    """Once all is loaded, let the garbage collector never look at it again.

    Looking through everything takes 25 to 100 ms, in which no search goes on, and following the
    gallery makes it happen again and again.
    """
    gc.collect()
    gc.freeze()


def is_loopback(host: str) -> bool:
    """Tell whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
