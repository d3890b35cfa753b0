"""The encoder worker: one thread owns the network; requests wait for it in a bounded queue.

Crops that arrive together are embedded together. What breaks a batch fails alone. A worker that
dies is started again; one that hangs cannot be: it is not ready any more, whoever waits is told,
and the supervisor of the process has to start it anew.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

import numpy as np

from indexer.decode_protocol import Pixels
from indexer.media_store import Box
from model.detections import Detections, FloatArray

_log = logging.getLogger(__name__)

Kind = Literal["crop", "people", "box"]


class Encoder(Protocol):
    """The network as the service needs it; `indexer.branch.NetworkBranch` is one.

    Attributes
    ----------
    weights_sha256, preprocess_sha256, dimension
        Whose embeddings they are.
    """

    weights_sha256: str
    preprocess_sha256: str
    dimension: int

    def embed_crops(self, crops: Sequence[Pixels]) -> FloatArray:
        """Embed crops of one person each: float32 [N, D]."""
        ...

    def find_people(self, scene: Pixels) -> Detections:
        """Find the people of a scene."""
        ...

    def embed_box(self, scene: Pixels, box_xyxy: Box) -> FloatArray:
        """Embed a person marked in a scene: float32 [1, D]."""
        ...


class BusyError(Exception):
    """The queue is full: ask again in `retry_after_s`."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("the service is busy")
        self.retry_after_s = retry_after_s


class NotReadyError(Exception):
    """The encoder is starting, has died or hangs."""


class EncodingError(Exception):
    """The network cannot do anything with this picture, or with this box of it."""


class WorkerState(StrEnum):
    """Whether there is an encoder to ask."""

    STARTING = "starting"
    READY = "ready"
    HANGING = "hanging"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class WorkerLimits:
    """How much waits, and how long.

    Attributes
    ----------
    batch
        Crops that are embedded together, at most.
    wait_s
        How long the first crop of a batch waits for others.
    queue
        Requests that wait; more are refused.
    hang_s
        A batch that takes longer counts as hanging.
    restarts
        How often a worker that died is started again before it is given up.
    """

    batch: int = 16
    wait_s: float = 0.003
    queue: int = 64
    hang_s: float = 30.0
    restarts: int = 3


@dataclass(eq=False)
class _Task:
    kind: Kind
    payload: tuple[Any, ...]
    future: "Future[Any]" = field(default_factory=Future)


@dataclass(frozen=True)
class WorkerStats:
    """What the worker did so far."""

    requests: int
    batches: int
    refused: int
    failed: int
    busy_s: float
    waiting: int


class EncoderWorker:
    """Owns an encoder and answers requests in the order of their arrival.

    Parameters
    ----------
    load
        Makes the encoder, in the worker's thread.
    limits
        See `WorkerLimits`.
    """

    def __init__(self, load: Callable[[], Encoder], limits: WorkerLimits | None = None) -> None:
        self.limits = limits or WorkerLimits()
        self.encoder: Encoder | None = None
        self.reason = ""
        self._load = load
        self._tasks: deque[_Task] = deque()
        self._changed = threading.Condition()
        self._state = WorkerState.STARTING
        self._batch: list[_Task] = []
        self._batch_begun: float | None = None
        self._restarts = 0
        self._counts = {"requests": 0, "batches": 0, "refused": 0, "failed": 0}
        self._busy_s = 0.0
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)

    def start(self) -> None:
        """Load the encoder and warm it up, in the background."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Finish what waits, then end the thread."""
        with self._changed:
            if self._state in (WorkerState.READY, WorkerState.STARTING):
                self._state = WorkerState.STOPPED
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._refuse_waiting("the service ends")

    @property
    def state(self) -> WorkerState:
        """Whether there is an encoder to ask; a batch that takes too long changes it."""
        with self._changed:
            begun = self._batch_begun
            hangs = begun is not None and time.monotonic() - begun > self.limits.hang_s
            if hangs and self._state == WorkerState.READY:
                self._state = WorkerState.HANGING
                self.reason = f"a batch takes more than {self.limits.hang_s:g} s"
                _log.error("The encoder hangs: %s", self.reason)
                waiting = [*self._batch, *self._tasks]
                self._tasks.clear()
                _fail(waiting, NotReadyError("the encoder hangs"))
            return self._state

    def wait_until_ready(self, timeout_s: float) -> bool:
        """Wait for the encoder to be loaded; return whether it is."""
        with self._changed:
            self._changed.wait_for(lambda: self._state != WorkerState.STARTING, timeout_s)
        return self.state == WorkerState.READY

    def stats(self) -> WorkerStats:
        """Return counts so far."""
        with self._changed:
            return WorkerStats(**self._counts, busy_s=self._busy_s, waiting=len(self._tasks))

    def embed_crop(self, crop: Pixels) -> "Future[FloatArray]":
        """Embed a crop: float32 [D]; see `submit`."""
        return self.submit("crop", crop)

    def find_people(self, scene: Pixels) -> "Future[Detections]":
        """Find the people of a scene; see `submit`."""
        return self.submit("people", scene)

    def embed_box(self, scene: Pixels, box_xyxy: Box) -> "Future[FloatArray]":
        """Embed a person marked in a scene: float32 [D]; see `submit`."""
        return self.submit("box", scene, box_xyxy)

    def submit(self, kind: Kind, *payload: Any) -> "Future[Any]":
        """Put a request into the queue.

        Raises
        ------
        NotReadyError
            When there is no encoder.
        BusyError
            When too many wait already.
        """
        if self.state != WorkerState.READY:
            raise NotReadyError(self.reason or f"the encoder is {self._state}")
        task = _Task(kind, payload)
        with self._changed:
            if len(self._tasks) >= self.limits.queue:
                self._counts["refused"] += 1
                per_request = self._busy_s / max(self._counts["requests"], 1)
                raise BusyError(max(1, round(per_request * len(self._tasks))))
            self._tasks.append(task)
            self._counts["requests"] += 1
            self._changed.notify_all()
        return task.future

    # The worker's thread.

    def _run(self) -> None:
        while True:
            try:
                self._serve()
            except Exception as error:
                _log.exception("The encoder died")
                with self._changed:
                    self.reason = f"the encoder died: {type(error).__name__}"
                    dead = [*self._batch, *self._tasks]
                    self._batch, self._batch_begun = [], None
                    self._tasks.clear()
                    self._restarts += 1
                    given_up = self._restarts > self.limits.restarts
                    self._state = WorkerState.FAILED if given_up else WorkerState.STARTING
                    self._changed.notify_all()
                _fail(dead, NotReadyError(self.reason))
                if not given_up:
                    continue
            return

    def _serve(self) -> None:
        encoder = self._load()
        _warm_up(encoder)
        with self._changed:
            if self._state == WorkerState.STOPPED:
                return
            self.encoder = encoder
            self._state = WorkerState.READY
            self.reason = ""
            self._changed.notify_all()
        while batch := self._next():
            begun = time.monotonic()
            try:
                self._answer(encoder, batch)
            finally:
                with self._changed:
                    self._busy_s += time.monotonic() - begun
                    self._counts["batches"] += 1
            with self._changed:
                self._batch, self._batch_begun = [], None

    def _next(self) -> list[_Task]:
        """Wait for requests; of crops, take those that arrive within a moment. Empty: stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._tasks or self._state == WorkerState.STOPPED)
            if not self._tasks:
                return []
            first = self._tasks.popleft()
            batch = [first]
            until = time.monotonic() + self.limits.wait_s
            while first.kind == "crop" and len(batch) < self.limits.batch:
                if not self._tasks:
                    left = until - time.monotonic()
                    if left <= 0 or not self._changed.wait(left):
                        break
                    continue
                if self._tasks[0].kind != "crop":
                    break
                batch.append(self._tasks.popleft())
            self._batch, self._batch_begun = batch, time.monotonic()
            return batch

    def _answer(self, encoder: Encoder, batch: list[_Task]) -> None:
        if batch[0].kind != "crop":
            self._answer_one(encoder, batch[0])
            return
        try:
            embeddings = encoder.embed_crops([task.payload[0] for task in batch])
        except MemoryError:
            raise
        except Exception:
            if len(batch) == 1:
                self._answer_one(encoder, batch[0])
                return
            # One of them breaks the batch: it fails alone.
            for task in batch:
                self._answer_one(encoder, task)
            return
        for task, embedding in zip(batch, embeddings, strict=True):
            _set(task, np.array(embedding))

    def _answer_one(self, encoder: Encoder, task: _Task) -> None:
        answer: Any
        try:
            if task.kind == "crop":
                answer = encoder.embed_crops([task.payload[0]])[0]
            elif task.kind == "people":
                answer = encoder.find_people(task.payload[0])
            else:
                answer = encoder.embed_box(*task.payload)[0]
        except MemoryError:
            raise
        except Exception as error:  # whatever a picture does to the network, it is its own affair
            with self._changed:
                self._counts["failed"] += 1
            why = str(error) if isinstance(error, ValueError) else type(error).__name__
            failed = EncodingError(f"the network cannot use this: {why}")
            failed.__cause__ = error
            _fail([task], failed)
        else:
            _set(task, answer)

    def _refuse_waiting(self, why: str) -> None:
        with self._changed:
            waiting = list(self._tasks)
            self._tasks.clear()
        _fail(waiting, NotReadyError(why))


def _warm_up(encoder: Encoder) -> None:
    """Ask for everything once: the first time takes longer."""
    scene = np.full((256, 256, 3), 127, np.uint8)
    encoder.embed_crops([scene[:, :96]])
    encoder.find_people(scene)


def _set(task: _Task, answer: Any) -> None:
    # Whoever asked may have gone, or been told already that the worker hangs.
    if not task.future.done() and task.future.set_running_or_notify_cancel():
        task.future.set_result(answer)


def _fail(tasks: Sequence[_Task], error: Exception) -> None:
    for task in tasks:
        if not task.future.done() and task.future.set_running_or_notify_cancel():
            task.future.set_exception(error)
