"""decode -> preprocess -> network -> commit: each stage a thread, with a bounded queue before it.

The network runs in the caller's thread. What it finds depends on the files and the options, never
on how the threads fell out: batches are cut per file, and work is known by its content.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from indexer.channels import Channel, ChannelClosed, StageTime, Stopwatch
from indexer.database import Database
from indexer.decoder import Decoder
from indexer.errors import JobCancelled
from indexer.known import Scope
from indexer.limits import Limits
from indexer.progress import Progress
from indexer.reading import Reader, Task
from indexer.work import Batch, IndexOptions, Keep, SearchBranch, Taken
from indexer.writing import Writer
from model.detections import Detections

#: Batches that wait before each stage.
QUEUED_BATCHES = 2


@dataclass(frozen=True)
class Stages:
    """What a pipeline is made of.

    Attributes
    ----------
    on_progress
        Called after each batch, in the thread that commits.
    """

    branch: SearchBranch
    writer: Writer
    progress: Progress
    options: IndexOptions
    limits: Limits
    on_progress: Callable[[Progress], None] | None = None


class Pipeline:
    """One run over some tasks."""

    def __init__(self, stages: Stages, database: Database, scope: Scope) -> None:
        self._stages = stages
        self._database = database
        self._scope = scope
        workers = stages.options.workers
        self._decoded: Channel[Batch] = Channel(QUEUED_BATCHES, workers)
        self._prepared: Channel[Batch] = Channel(QUEUED_BATCHES)
        self._found: Channel[Batch] = Channel(QUEUED_BATCHES)
        self._error: BaseException | None = None
        self._lock = threading.Lock()

    def run(self, tasks: Iterator[Task]) -> None:
        """Run to the end.

        Raises
        ------
        BINetError
            The first error of any stage that is not the fault of one file.
        """
        source = _Shared(tasks)
        threads = [
            threading.Thread(target=self._guarded, args=(self._read, source), name="binet-decode")
            for _ in range(self._stages.options.workers)
        ]
        threads.append(threading.Thread(target=self._guarded, args=(self._prepare,)))
        threads.append(threading.Thread(target=self._guarded, args=(self._commit,)))
        for thread in threads:
            thread.start()
        try:
            self._guarded(self._look)
        except BaseException:
            # Ctrl-C reaches this thread only.
            self.abort()
            raise
        finally:
            for thread in threads:
                thread.join()
        if self._error is not None:
            raise self._error

    def check(self) -> None:
        """Do nothing, but raise `ChannelClosed` after `abort`."""
        self._decoded.check()

    def abort(self, error: BaseException | None = None) -> None:
        """Stop all stages; what is not committed is dropped. Any thread may call it."""
        with self._lock:
            if self._error is None:
                self._error = error
        for channel in (self._decoded, self._prepared, self._found):
            channel.abort()

    def _guarded(self, stage: Callable[..., None], *arguments: object) -> None:
        try:
            stage(*arguments)
        except ChannelClosed:
            return
        except Exception as error:  # it is raised again in `run`
            self.abort(error)

    def _read(self, tasks: "_Shared") -> None:
        spent = self._stages.progress.stages["decode"]
        watch = Stopwatch()

        def emit(batch: Batch) -> None:
            spent.busy_s += watch.lap()
            self._decoded.put(batch)
            spent.blocked_s += watch.lap()

        try:
            alive = self._decoded.check
            with Decoder(self._stages.limits, alive) as decoder:
                options = self._stages.options
                reader = Reader(decoder, self._database, self._scope, options, emit, alive)
                while (task := tasks.next()) is not None:
                    reader.read(task)
        finally:
            self._decoded.finish()

    def _prepare(self) -> None:
        try:
            self._stage("preprocess", self._decoded, self._prepare_batch, self._prepared)
        finally:
            self._prepared.finish()

    def _look(self) -> None:
        try:
            self._stage("network", self._prepared, self._look_at, self._found)
        finally:
            self._found.finish()

    def _commit(self) -> None:
        self._stage("commit", self._found, self._commit_batch, None)

    def _stage(
        self,
        name: str,
        before: Channel[Batch],
        work: Callable[[Batch], None],
        after: Channel[Batch] | None,
    ) -> None:
        spent: StageTime = self._stages.progress.stages[name]
        watch = Stopwatch()
        while True:
            try:
                batch = before.get()
            except ChannelClosed:
                return
            spent.waited_s += watch.lap()
            work(batch)
            spent.busy_s += watch.lap()
            if after is not None:
                after.put(batch)
                spent.blocked_s += watch.lap()

    def _prepare_batch(self, batch: Batch) -> None:
        keep = self._stages.options.keep != Keep.OFF
        for taken in batch.frames:
            if taken.pixels is None:
                continue
            taken.scene = self._stages.branch.prepare(taken.pixels)
            if not keep:
                taken.pixels = None

    def _look_at(self, batch: Batch) -> None:
        region = self._stages.options.region
        for taken, people in zip(batch.frames, self._detect(batch.frames), strict=True):
            taken.people = None if people is None else region.keep(people)
            taken.scene = None

    def _detect(self, frames: Sequence[Taken]) -> Sequence[Detections | None]:
        """Find people; a frame that the network does not stand fails with its file."""
        if not frames:
            return []
        try:
            return self._stages.branch.detect([taken.scene for taken in frames])
        except (ValueError, RuntimeError):
            if len(frames) > 1:
                return [self._detect([taken])[0] for taken in frames]
        self._stages.writer.fail_later(
            frames[0].file, f"the network fails on frame {frames[0].position}"
        )
        return [None]

    def _commit_batch(self, batch: Batch) -> None:
        self._stages.writer.write(batch)
        if self._stages.on_progress is not None:
            self._stages.on_progress(self._stages.progress)


class _Shared:
    """Tasks for several threads."""

    def __init__(self, tasks: Iterator[Task]) -> None:
        self._tasks = tasks
        self._lock = threading.Lock()

    def next(self) -> Task | None:
        """Return the next task; None after the last."""
        with self._lock:
            return next(self._tasks, None)


def cancelled() -> JobCancelled:
    """Make the error of a run that was told to stop."""
    return JobCancelled("Cancelled; `binet index --resume` goes on with it")
