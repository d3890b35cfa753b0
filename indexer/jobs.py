"""Jobs: what was asked for, how far it is, what failed and why.

A job's row holds its request and, beside it, its report (progress and the time of the stages): JSON
both. The process that runs a job is in there too, so that a job whose process was killed can be
told from one that runs.
"""

import json
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from indexer import schema
from indexer.database import Database, now_us
from indexer.errors import GalleryError, JobCancelled
from indexer.filters import from_us
from indexer.schema import JobState
from model.errors import BINetError

#: States from which nothing comes any more by itself.
FINISHED = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)

INTERRUPTED = "its process ended before it was through; `binet index --resume` goes on with it"


@dataclass(frozen=True)
class Failure:
    """A file that was not indexed, and why."""

    uri: str
    reason: str


@dataclass(frozen=True)
class Job:
    """A job as it stands.

    Attributes
    ----------
    discovered, indexed, failed
        Files; when the job is done, indexed + failed = discovered.
    report
        Progress and the time of the stages; empty before the first batch.
    reason
        Of a job that failed.
    """

    id: int
    kind: str
    state: JobState
    request: dict[str, Any]
    report: dict[str, Any]
    discovered: int
    indexed: int
    failed: int
    reason: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


def create_job(connection: Connection, kind: str, request: dict[str, Any]) -> int:
    """Queue a job; return its id."""
    key: int = connection.execute(
        insert(schema.job)
        .values(
            kind=kind,
            state=JobState.QUEUED,
            request=_text(request, {}, None),
            discovered=0,
            indexed=0,
            failed=0,
            created_at_us=now_us(),
        )
        .returning(schema.job.c.id)
    ).scalar_one()
    return key


def start_job(connection: Connection, job_id: int) -> None:
    """Begin with a job, or once more; what failed before is tried again.

    Raises
    ------
    GalleryError
        When another process runs it, or it is done.
    """
    job = read_job(connection, job_id)
    if job.state == JobState.RUNNING and _is_alive(_process_of(connection, job_id)):
        raise GalleryError(f"Job {job_id} is running in another process; cancel it first")
    if job.state == JobState.DONE:
        raise GalleryError(f"Job {job_id} is done: there is nothing to resume")
    connection.execute(delete(schema.job_failure).where(schema.job_failure.c.job_id == job_id))
    _set(
        connection,
        job_id,
        state=JobState.RUNNING,
        request=_text(job.request, {}, _own_process()),
        discovered=0,
        indexed=0,
        failed=0,
        reason=None,
        started_at_us=now_us(),
        finished_at_us=None,
    )


def set_discovered(connection: Connection, job_id: int, files: int) -> None:
    """Say how many files a job is about."""
    _set(connection, job_id, discovered=files)


def advance_job(
    connection: Connection,
    job_id: int,
    indexed: int,
    failures: Sequence[Failure],
    report: dict[str, Any],
) -> None:
    """Count files that are through; in the transaction that writes what was found in them.

    Raises
    ------
    JobCancelled
        When somebody has cancelled it.
    """
    column = schema.job.c
    row = connection.execute(select(schema.job).where(column.id == job_id)).one_or_none()
    if row is None or row.state == JobState.CANCELLED:
        raise JobCancelled(f"Job {job_id} was cancelled; `binet index --resume` goes on with it")
    if failures:
        now = now_us()
        connection.execute(
            insert(schema.job_failure),
            [
                {
                    "job_id": job_id,
                    "uri": failure.uri,
                    "reason": failure.reason,
                    "failed_at_us": now,
                }
                for failure in failures
            ],
        )
    document = json.loads(row.request)
    _set(
        connection,
        job_id,
        indexed=column.indexed + indexed,
        failed=column.failed + len(failures),
        request=_text(document["request"], report, document["process"]),
    )


def finish_job(
    connection: Connection,
    job_id: int,
    state: JobState,
    reason: str | None = None,
    report: dict[str, Any] | None = None,
) -> None:
    """Say how a job ended. One that was cancelled meanwhile stays cancelled."""
    job = read_job(connection, job_id)
    if job.state == JobState.CANCELLED:
        state = JobState.CANCELLED
    _set(
        connection,
        job_id,
        state=state,
        reason=reason,
        request=_text(job.request, job.report if report is None else report, None),
        finished_at_us=now_us(),
    )


def end_badly(database: Database, job_id: int, error: BaseException) -> None:
    """Say that a job was stopped, or failed and why."""
    stopped = isinstance(error, JobCancelled | KeyboardInterrupt)
    state = JobState.CANCELLED if stopped else JobState.FAILED
    reason = str(error) if isinstance(error, BINetError) else type(error).__name__
    # Where not even this can be written, the next run finds that the process is gone.
    with suppress(BINetError), database.write() as connection:
        finish_job(connection, job_id, state, None if stopped else reason)


def cancel_job(connection: Connection, job_id: int) -> None:
    """Cancel a job; the process that runs it stops before its next batch.

    Raises
    ------
    GalleryError
        When there is no such job, or it is over.
    """
    job = read_job(connection, job_id)
    if job.state in FINISHED:
        raise GalleryError(f"Job {job_id} is {job.state}: there is nothing to cancel")
    _set(connection, job_id, state=JobState.CANCELLED, finished_at_us=now_us())


def fail_interrupted(connection: Connection) -> list[int]:
    """Mark the jobs whose process is gone as failed; return their ids."""
    column = schema.job.c
    running = connection.execute(
        select(column.id).where(column.state == JobState.RUNNING).order_by(column.id)
    ).scalars()
    gone = [job for job in running if not _is_alive(_process_of(connection, job))]
    for job in gone:
        finish_job(connection, job, JobState.FAILED, INTERRUPTED)
    return gone


def read_job(connection: Connection, job_id: int) -> Job:
    """Return a job.

    Raises
    ------
    GalleryError
        When there is none.
    """
    row = connection.execute(select(schema.job).where(schema.job.c.id == job_id)).one_or_none()
    if row is None:
        raise GalleryError(f"There is no job {job_id}")
    return _job(row)


def list_jobs(connection: Connection, limit: int = 100) -> list[Job]:
    """List the latest jobs, newest first."""
    rows = connection.execute(select(schema.job).order_by(schema.job.c.id.desc()).limit(limit))
    return [_job(row) for row in rows]


def failures_of(connection: Connection, job_id: int) -> list[Failure]:
    """List the files that a job could not index, in the order of their failing."""
    column = schema.job_failure.c
    rows = connection.execute(
        select(column.uri, column.reason).where(column.job_id == job_id).order_by(column.id)
    )
    return [Failure(row.uri, row.reason) for row in rows]


def resumable(database: Database, kind: str) -> Job | None:
    """Return the latest job of a kind, if it was not done; None when it was, or there is none."""
    column = schema.job.c
    with database.read() as connection:
        row = connection.execute(
            select(schema.job).where(column.kind == kind).order_by(column.id.desc()).limit(1)
        ).one_or_none()
    return None if row is None or row.state == JobState.DONE else _job(row)


def _set(connection: Connection, job_id: int, **values: Any) -> None:
    connection.execute(update(schema.job).where(schema.job.c.id == job_id).values(**values))


def _text(request: dict[str, Any], report: dict[str, Any], process: object) -> str:
    return json.dumps({"request": request, "report": report, "process": process})


def _job(row: Row[Any]) -> Job:
    document = json.loads(row.request)
    return Job(
        row.id,
        row.kind,
        JobState(row.state),
        document["request"],
        document["report"],
        row.discovered,
        row.indexed,
        row.failed,
        row.reason,
        from_us(row.created_at_us),
        None if row.started_at_us is None else from_us(row.started_at_us),
        None if row.finished_at_us is None else from_us(row.finished_at_us),
    )


def _process_of(connection: Connection, job_id: int) -> dict[str, Any] | None:
    text = connection.execute(
        select(schema.job.c.request).where(schema.job.c.id == job_id)
    ).scalar_one()
    process: dict[str, Any] | None = json.loads(text)["process"]
    return process


def _own_process() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "began": _began(pid)}


def _is_alive(process: dict[str, Any] | None) -> bool:
    """Tell whether the process of a running job is still there; on another machine, we say yes."""
    if process is None:
        return False
    if process["host"] != socket.gethostname():
        return True
    pid = process["pid"]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    # Numbers of processes come again.
    return bool(_began(pid) == process["began"])


def _began(pid: int) -> str | None:
    """When a process began, in the kernel's own clock; None where there is no such file."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
