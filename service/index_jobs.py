"""Index jobs on behalf of requests: queued in the gallery, each run by a process of its own."""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from indexer import schema
from indexer.gallery import Gallery
from indexer.index_command import IndexRequest
from indexer.indexing import KIND
from indexer.jobs import (
    cancel_job,
    create_job,
    end_badly,
    end_interrupted,
    give_back_job,
    read_job,
    take_job,
)
from indexer.leases import LeaseLostError, heartbeat, is_gone, new_owner
from indexer.schema import JobState
from model.errors import BINetError

_log = logging.getLogger(__name__)

#: Runs a job to its end, whose lease an owner has taken.
Run = Callable[[int, str], None]

#: How often a job is begun before it counts as failed, where whoever ran it has died.
TRIES = 3
#: Seconds between looks for jobs that another service has queued, or left.
_LOOK_S = 2.0


class IndexJobs:
    """Runs the queued index jobs of a gallery, one after the other; several services share them.

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
        self._wake = threading.Event()
        self._stopping = False
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)

    def start(self) -> None:
        """Take up the jobs that are queued, and wait for more."""
        self._thread.start()

    def stop(self) -> None:
        """End the process of the job that runs, which goes back into the queue."""
        self._stopping = True
        self._wake.set()
        process = self._process
        if process is not None:
            process.terminate()
        if self._thread.is_alive():
            self._thread.join(30)

    def add(self, request: IndexRequest) -> int:
        """Queue a job; return its id."""
        with self._gallery.database.write() as connection:
            job_id = create_job(connection, KIND, vars(request), TRIES)
        self._wake.set()
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
        owner = new_owner()
        while not self._stopping:
            self._wake.clear()
            job_id = None
            try:
                job_id = self._take(owner)
            except BINetError as error:
                _log.warning("The queue of jobs cannot be read: %s", error)
            if job_id is None:
                self._wake.wait(_LOOK_S)
                continue
            try:
                with heartbeat(self._gallery.database, job_id, owner):
                    self._run(job_id, owner)
            except Exception as error:
                self._end(job_id, owner, error)

    def _take(self, owner: str) -> int | None:
        column = schema.job.c
        waiting = select(column.id).where(
            column.kind == KIND, column.state.in_((JobState.QUEUED, JobState.RUNNING))
        )
        with self._gallery.database.read() as connection:
            if connection.execute(waiting.limit(1)).first() is None:
                return None
        with self._gallery.database.claim() as connection:
            end_interrupted(connection)
            return take_job(connection, KIND, owner)

    def _is_ours(self, connection: Connection, job_id: int, owner: str) -> bool:
        """Tell whether a job still runs for us, or for a process of ours that has ended."""
        job = read_job(connection, job_id)
        return job.state == JobState.RUNNING and (job.owner == owner or is_gone(job.owner))

    def _end(self, job_id: int, owner: str, error: Exception) -> None:
        if isinstance(error, LeaseLostError):
            return  # it is another's
        with suppress(BINetError):
            if self._stopping:
                with self._gallery.database.claim() as connection:
                    if self._is_ours(connection, job_id, owner):
                        give_back_job(connection, job_id)
                return
            with self._gallery.database.read() as connection:
                ours = self._is_ours(connection, job_id, owner)
            if ours:
                _log.warning("Index job %d failed: %s", job_id, type(error).__name__)
                end_badly(self._gallery.database, job_id, error)

    def _in_a_process(self, job_id: int, owner: str) -> None:
        command = [sys.executable, "-m", "service.index_process", self._url, str(job_id), owner]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603
        if self._stopping:
            self._process.terminate()
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
