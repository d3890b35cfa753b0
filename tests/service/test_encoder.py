"""The encoder worker: batches, what breaks them, a full queue, death, hanging; and readiness."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from indexer.decode_protocol import Pixels
from model.detections import FloatArray
from service.app import create_app
from service.encoder import (
    BusyError,
    EncoderWorker,
    EncodingError,
    NotReadyError,
    WorkerLimits,
    WorkerState,
)
from service.settings import Settings
from tests.service.conftest import (
    LOOPBACK,
    FakeEncoder,
    Start,
    embedding_of,
    service_in,
    service_of,
)
from tests.service.test_search import ask, crop

PATIENCE_S = 20


class Gate(FakeEncoder):
    """Waits for a gate in every batch, and remembers how large the batches were."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.batches: list[int] = []
        self.armed = False

    def embed_crops(self, crops: Sequence[Pixels]) -> FloatArray:
        if self.armed:
            self.entered.set()
            assert self.open.wait(PATIENCE_S)
            self.batches.append(len(crops))
        return super().embed_crops(crops)


def picture(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(1, 256, (8, 6, 3), dtype=np.uint8)


Started = Callable[..., EncoderWorker]


@pytest.fixture
def started() -> Iterator[Started]:
    workers = []

    def call(load: Callable[[], Any] = FakeEncoder, **limits: Any) -> EncoderWorker:
        worker = EncoderWorker(load, WorkerLimits(**limits))
        worker.start()
        workers.append(worker)
        assert worker.wait_until_ready(PATIENCE_S)
        return worker

    yield call
    for worker in workers:
        worker.stop()


def gated(started: Started, **limits: Any) -> tuple[EncoderWorker, Gate, "Future[Any]"]:
    """A worker whose first request holds everything up."""
    gate = Gate()
    worker = started(lambda: gate, **limits)
    gate.armed = True
    first = worker.embed_crop(picture(0))
    assert gate.entered.wait(PATIENCE_S)
    return worker, gate, first


def test_what_arrives_together_is_embedded_together(started: Started) -> None:
    worker, gate, first = gated(started, batch=4)
    others = [worker.embed_crop(picture(seed)) for seed in range(1, 10)]
    gate.open.set()
    for seed, future in enumerate([first, *others]):
        np.testing.assert_array_equal(future.result(PATIENCE_S), embedding_of(picture(seed)))
    assert gate.batches == [1, 4, 4, 1]
    assert worker.stats().requests == 10


def test_what_breaks_a_batch_fails_alone(started: Started) -> None:
    worker, gate, first = gated(started, batch=8)
    good = [worker.embed_crop(picture(1)), worker.embed_crop(picture(2))]
    bad = worker.embed_crop(np.zeros((8, 6, 3), np.uint8))
    good.append(worker.embed_crop(picture(3)))
    gate.open.set()
    assert first.result(PATIENCE_S) is not None
    for seed, future in enumerate(good, 1):
        np.testing.assert_array_equal(future.result(PATIENCE_S), embedding_of(picture(seed)))
    with pytest.raises(EncodingError, match="black"):
        bad.result(PATIENCE_S)
    assert worker.stats().failed == 1


def test_a_full_queue_refuses_and_says_when_to_come_back(started: Started) -> None:
    worker, gate, _ = gated(started, queue=3)
    waiting = [worker.embed_crop(picture(seed)) for seed in range(3)]
    with pytest.raises(BusyError) as refused:
        worker.embed_crop(picture(9))
    assert refused.value.retry_after_s >= 1
    assert worker.stats().refused == 1
    gate.open.set()
    for future in waiting:
        assert future.result(PATIENCE_S) is not None
    assert worker.embed_crop(picture(9)).result(PATIENCE_S) is not None


def test_a_worker_that_dies_is_started_again(started: Started) -> None:
    class Mortal(FakeEncoder):
        def embed_crops(self, crops: Sequence[Pixels]) -> FloatArray:
            if crops[0][0, 0, 0] == 255:
                raise MemoryError
            return super().embed_crops(crops)

    loads: list[int] = []

    def load() -> Mortal:
        loads.append(1)
        return Mortal()

    worker = started(load, restarts=2)
    deadly = picture(1)
    deadly[0, 0, 0] = 255
    for death in range(1, 4):
        with pytest.raises(NotReadyError, match="died"):
            worker.embed_crop(deadly).result(PATIENCE_S)
        if death < 3:
            assert worker.wait_until_ready(PATIENCE_S)
            assert worker.embed_crop(picture(2)).result(PATIENCE_S) is not None
    worker._thread.join(PATIENCE_S)
    assert worker.state == WorkerState.FAILED
    assert len(loads) == 3
    with pytest.raises(NotReadyError):
        worker.embed_crop(picture(2))


def test_a_worker_that_hangs_is_not_ready_and_whoever_waits_is_told(started: Started) -> None:
    worker, gate, first = gated(started, hang_s=0.05)
    second = worker.embed_crop(picture(1))
    for _ in range(1000):
        if worker.state == WorkerState.HANGING:
            break
        threading.Event().wait(0.01)
    assert worker.state == WorkerState.HANGING
    for future in (first, second):
        with pytest.raises(NotReadyError, match="hangs"):
            future.result(PATIENCE_S)
    with pytest.raises(NotReadyError, match="takes more than"):
        worker.embed_crop(picture(2))
    gate.open.set()


def test_weights_that_cannot_be_loaded_are_given_up() -> None:
    def load() -> FakeEncoder:
        raise OSError("no such file")

    worker = EncoderWorker(load, WorkerLimits(restarts=1))
    worker.start()
    worker._thread.join(PATIENCE_S)
    assert worker.state == WorkerState.FAILED


def test_stopping_answers_what_was_accepted(started: Started) -> None:
    worker, gate, first = gated(started)
    second = worker.embed_crop(picture(1))
    stopper = threading.Thread(target=worker.stop, args=(PATIENCE_S,))
    stopper.start()
    gate.open.set()
    stopper.join(PATIENCE_S)
    assert first.result(0) is not None
    assert second.result(0) is not None
    with pytest.raises(NotReadyError):
        worker.embed_crop(picture(2))


# --- over HTTP --------------------------------------------------------------------------------


def test_ready_only_after_the_weights_and_the_warm_up(folder: Path) -> None:
    gate = threading.Event()
    asked: list[int] = []

    class Slow(FakeEncoder):
        def embed_crops(self, crops: Sequence[Pixels]) -> FloatArray:
            asked.append(len(crops))
            return super().embed_crops(crops)

    def load() -> Slow:
        assert gate.wait(PATIENCE_S)
        return Slow()

    app = create_app(Settings(gallery=str(folder), allow_local=True), load)
    with TestClient(app, client=LOOPBACK) as client:
        service = service_in(app)
        assert client.get("/livez").status_code == 200
        early = client.get("/readyz")
        assert early.status_code == 503
        assert "starting" in early.json()["detail"]
        document = ask(client, crop(1), status=503)
        assert "not ready" in document["detail"]
        gate.set()
        assert service.worker.wait_until_ready(PATIENCE_S)
        assert asked == [1]  # the warm-up
        assert service._loaded.wait(PATIENCE_S)
        assert client.get("/readyz").json() == {"status": "ready", "detail": None}
        assert ask(client, crop(1))["results"]


def test_other_weights_than_the_gallerys_are_not_ready(start: Start) -> None:
    class Other(FakeEncoder):
        weights_sha256 = "9" * 64

    client = start(Other, allow_local=True)
    assert "other weights" in client.get("/readyz").json()["detail"]
    assert ask(client, crop(1), status=503)


def test_more_searches_than_places_are_refused(start: Start) -> None:
    # Searching takes longer than encoding in a large gallery: the encoder's queue stays short then.
    client = start(allow_local=True, queue=1, batch=1)
    service = service_of(client)
    files = crop(1)
    with service.place(), service.place():
        answer = client.post("/v1/search", files=files)
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1
        assert client.post("/v1/searches", files=files).status_code == 429
    for _ in range(3):
        assert client.post("/v1/search", files=files).status_code == 200


def test_overload_is_answered_with_429(start: Start) -> None:
    gate = Gate()
    client = start(lambda: gate, allow_local=True, queue=2, batch=1)
    gate.armed = True
    worker = service_of(client).worker
    waiting = [worker.embed_crop(picture(0))]
    assert gate.entered.wait(PATIENCE_S)
    waiting += [worker.embed_crop(picture(seed)) for seed in (1, 2)]
    answer = client.post("/v1/search", files=crop(1))
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    gate.open.set()
    for future in waiting:
        assert future.result(PATIENCE_S) is not None
    assert ask(client, crop(1))["results"]
