"""Index jobs on behalf of requests: queued in the gallery, each run by a process of its own."""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from indexer.gallery import Gallery
from indexer.index_command import IndexRequest
from indexer.indexing import KIND
from indexer.jobs import cancel_job, create_job, end_badly, list_jobs, read_job
from indexer.schema import JobState
from model.errors import BINetError

_log = logging.getLogger(__name__)

Run = Callable[[int], None]


class IndexJobs:
    """Runs the queued index jobs of a gallery, one after the other.

    Parameters
    ----------
    gallery_url, gallery
        Where the jobs are.
    run
        Runs one job to its end; None starts a process for it.
    """

    def __init__(self, gallery_url: str, gallery: Gallery, run: Run | None = None) -> None:
        self._url = gallery_url
        self._gallery = gallery
        self._run = run or self._in_a_process
        self._queue: SimpleQueue[int | None] = SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)

    def start(self) -> None:
        """Take up the jobs that were queued before, and wait for more."""
        with self._gallery.database.read() as connection:
            left = [
                job.id
                for job in reversed(list_jobs(connection))
                if job.state == JobState.QUEUED and job.kind == KIND
            ]
        for job_id in left:
            self._queue.put(job_id)
        self._thread.start()

    def stop(self) -> None:
        """End the process of the job that runs; it can be resumed with `binet index --resume`."""
        self._queue.put(None)
        process = self._process
        if process is not None:
            process.terminate()
        if self._thread.is_alive():
            self._thread.join(30)

    def add(self, request: IndexRequest) -> int:
        """Queue a job; return its id."""
        with self._gallery.database.write() as connection:
            job_id = create_job(connection, KIND, vars(request))
        self._queue.put(job_id)
        return job_id

    def cancel(self, job_id: int) -> None:
        """Cancel a job; what it has indexed stays.

        Raises
        ------
        GalleryError
            When there is no such job, or it is over.
        """
        with self._gallery.database.write() as connection:
            cancel_job(connection, job_id)

    def _work(self) -> None:
        while (job_id := self._queue.get()) is not None:
            with self._gallery.database.read() as connection:
                if read_job(connection, job_id).state != JobState.QUEUED:
                    continue  # cancelled while it waited
            try:
                self._run(job_id)
            except Exception as error:
                _log.warning("Index job %d failed: %s", job_id, type(error).__name__)
                self._end(job_id, error)

    def _end(self, job_id: int, error: Exception) -> None:
        with self._gallery.database.read() as connection:
            state = read_job(connection, job_id).state
        if state in (JobState.QUEUED, JobState.RUNNING):
            end_badly(self._gallery.database, job_id, error)

    def _in_a_process(self, job_id: int) -> None:
        command = [sys.executable, "-m", "service.index_process", self._url, str(job_id)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603
        code = self._process.wait()
        self._process = None
        if code:
            raise BINetError(f"its process ended with code {code}; the service's log says why")


def source_below(roots: tuple[Path, ...], name: str) -> Path | None:
    """Return the path of a source below one of the roots, symlinks resolved; None for none."""
    for root in roots:
        try:
            real_root = root.resolve(strict=True)
            path = (real_root / name).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            continue
        if path != real_root and path.is_relative_to(real_root):
            return path
    return None


def describe(request: dict[str, Any], roots: tuple[Path, ...]) -> list[str]:
    """Return the sources of a job as they were asked for: paths of the machine stay here."""
    names = []
    for source in request.get("sources", []):
        path = Path(source)
        below = [root for root in (r.resolve() for r in roots) if path.is_relative_to(root)]
        names.append(str(path.relative_to(below[0])) if below else path.name)
    return names
