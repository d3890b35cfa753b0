"""A service over a small gallery of real picture files, with an encoder that needs no network."""

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from indexer.decode_protocol import Pixels
from indexer.gallery import Gallery
from indexer.index_command import IndexRequest
from indexer.indexing import index_sources
from indexer.jobs import read_job
from indexer.media_store import Box
from model.detections import Detections, FloatArray
from service.app import create_app
from service.settings import Settings
from service.state import Service
from tests.indexer.archives_made import make_picture, run_index
from tests.indexer.fake_branch import DIMENSION, FakeBranch, people_of

LOOPBACK = ("127.0.0.1", 50_000)
PATIENCE_S = 30.0


class FakeEncoder(FakeBranch):
    """Embeddings follow from the pixels alone; the black picture breaks every batch."""

    def embed_crops(self, crops: Sequence[Pixels]) -> FloatArray:
        if any(not crop.any() for crop in crops):
            raise ValueError("a black picture")
        return np.stack([embedding_of(crop) for crop in crops])

    def find_people(self, scene: Pixels) -> Detections:
        return people_of(scene)

    def embed_box(self, scene: Pixels, box_xyxy: Box) -> FloatArray:
        return embedding_of(scene, str(box_xyxy))[None]


def embedding_of(pixels: Pixels, more: str = "") -> FloatArray:
    seed = hashlib.sha256(np.ascontiguousarray(pixels).tobytes() + more.encode()).digest()
    vector = np.random.default_rng(list(seed)).standard_normal(DIMENSION)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `door` and `yard` of picture files, whose names say when they were taken."""
    root = tmp_path_factory.mktemp("cameras")
    for camera, count in (("door", 4), ("yard", 3)):
        for number in range(count):
            name = f"2026-05-04_10-0{number}-00.png"
            make_picture(root / camera / name, seed=hash_of(camera, number))
    return root


def hash_of(*parts: Any) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


@pytest.fixture
def folder(tmp_path: Path, pictures: Path) -> Path:
    """A gallery of them."""
    run_index(tmp_path / "gallery", [pictures / "door", pictures / "yard"])
    return tmp_path / "gallery"


Start = Callable[..., TestClient]


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts a service on the gallery; settings may be given."""
    with ExitStack() as stack:

        def call(
            encoder: Any = None,
            client: tuple[str, int] = LOOPBACK,
            run_job: Any = None,
            **settings: Any,
        ) -> Any:
            load = encoder or FakeEncoder
            app = create_app(Settings(**{"gallery": str(folder), **settings}), load, run_job)
            made = stack.enter_context(
                TestClient(app, client=client, raise_server_exceptions=False)
            )
            service = service_in(app)
            assert service.worker.wait_until_ready(10)
            assert service._loaded.wait(10)
            return made

        yield call


def run_here(folder: Path, job_id: int, owner: str) -> None:
    """Run a job with a network that is none, in the service's own process."""
    with Gallery.open(folder) as gallery:
        with gallery.database.read() as connection:
            request = IndexRequest(**read_job(connection, job_id).request)
        index_sources(
            gallery, FakeBranch(), request.sources, request.options(),
            request=vars(request), job_id=job_id, held_by=owner,
        )  # fmt: skip


def until(happened: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Wait for something, as long as one is patient."""
    end = time.monotonic() + patience_s
    waiting = threading.Event()
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        waiting.wait(0.02)


@contextmanager
def serving(folder: Path, run_job: Any = None, **settings: Any) -> Iterator[tuple[str, Service]]:
    """Serve a gallery on a socket of this machine; gives its address."""
    app = create_app(Settings(gallery=str(folder), **settings), FakeEncoder, run_job)
    service = service_in(app)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    # Whoever comes before the server does waits, rather than being refused.
    listening.listen()
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        assert service.worker.wait_until_ready(20)
        assert service._loaded.wait(20)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", service
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()


def service_in(app: FastAPI) -> Service:
    service: Service = app.state.service
    return service


@pytest.fixture
def client(start: Start) -> TestClient:
    """A service that is tried out on this machine, without keys."""
    return start(allow_local=True)


def service_of(client: TestClient) -> Service:
    app: Any = client.app
    return service_in(app)
