"""Jobs: what was asked for, how far it is, what failed and why.

A job's row holds its request and, beside it, its report (progress and the time of the stages): JSON
both, the report of each indexer that works at it by itself. A job that runs has a lease (see
`indexer.leases`), so that one whose process was killed can be told from one that runs.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from indexer import leases, schema
from indexer.database import Database, now_us
from indexer.errors import GalleryError, JobCancelled
from indexer.filters import from_us
from indexer.leases import LeaseLostError
from indexer.progress import merged
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
    owner
        Who holds the lease of a job that runs.
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
    owner: str | None = None


def create_job(connection: Connection, kind: str, request: dict[str, Any], tries: int = 0) -> int:
    """Queue a job; return its id.

    Parameters
    ----------
    tries
        How often it may be begun by those who look into the queue; 0 is for a job that its maker
        begins, and that fails when its maker is gone.
    """
    key: int = connection.execute(
        insert(schema.job)
        .values(
            kind=kind,
            state=JobState.QUEUED,
            request=_text(request, {}),
            discovered=0,
            indexed=0,
            failed=0,
            created_at_us=now_us(),
            tries_left=tries,
        )
        .returning(schema.job.c.id)
    ).scalar_one()
    return key


def start_job(
    connection: Connection, job_id: int, owner: str | None = None, held_by: str | None = None
) -> None:
    """Begin with a job, or once more; what failed before is tried again.

    Parameters
    ----------
    owner
        Who holds its lease from now on; None is a new owner in this process.
    held_by
        Who held it until now, and gives it to `owner`.

    Raises
    ------
    GalleryError
        When another process runs it, or it is done.
    """
    column = schema.job.c
    job = read_job(connection, job_id, locked=True)
    if held_by is not None and job.owner != held_by:
        raise LeaseLostError(f"Job {job_id} was taken over by another process")
    if job.state == JobState.RUNNING and held_by is None and _is_held(connection, job_id):
        raise GalleryError(
            f"Job {job_id} is running in another process; cancel it first, or help it with "
            f"`binet index --join {job_id}`"
        )
    if job.state == JobState.DONE:
        raise GalleryError(f"Job {job_id} is done: there is nothing to resume")
    connection.execute(delete(schema.job_failure).where(schema.job_failure.c.job_id == job_id))
    _forget_items(connection, job_id)
    _set(
        connection,
        job_id,
        state=JobState.RUNNING,
        request=_text(job.request, {}),
        discovered=0,
        indexed=0,
        failed=0,
        reason=None,
        started_at_us=now_us(),
        finished_at_us=None,
        owner=owner or leases.new_owner(),
        lease_until_us=leases.end_us(connection),
    )
    # A job that somebody begins by hand is not for the queue any more.
    if held_by is None:
        connection.execute(update(schema.job).where(column.id == job_id).values(tries_left=0))


def take_job(connection: Connection, kind: str, owner: str) -> int | None:
    """Take the oldest job that is queued for whoever looks; None when there is none.

    PostgreSQL passes over the rows that others are taking at this moment: of several services,
    one has a job.
    """
    column = schema.job.c
    row = connection.execute(
        select(column.id)
        .where(column.kind == kind, column.state == JobState.QUEUED, column.tries_left > 0)
        .order_by(column.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if row is None:
        return None
    _set(
        connection,
        row.id,
        state=JobState.RUNNING,
        started_at_us=now_us(),
        owner=owner,
        lease_until_us=leases.end_us(connection),
        tries_left=column.tries_left - 1,
    )
    return int(row.id)


def give_back_job(connection: Connection, job_id: int, counts: bool = False) -> None:
    """Put a job that runs back into the queue; where `counts`, it has used up a try."""
    job = read_job(connection, job_id, locked=True)
    if job.state == JobState.RUNNING:
        _forget_items(connection, job_id)
        tries = schema.job.c.tries_left + (0 if counts else 1)
        _set(
            connection,
            job_id,
            state=JobState.QUEUED,
            owner=None,
            lease_until_us=None,
            tries_left=tries,
        )


def hold_job(connection: Connection, job_id: int, owner: str) -> None:
    """Renew the lease of a job in a transaction that goes on with it.

    Raises
    ------
    LeaseLostError
        When another process has the job: nothing may be committed.
    """
    column = schema.job.c
    changed = connection.execute(
        update(schema.job)
        .where(column.id == job_id, column.owner == owner)
        .values(lease_until_us=leases.end_us(connection))
    )
    if not changed.rowcount:
        raise LeaseLostError(f"Job {job_id} was taken over by another process")


def set_discovered(connection: Connection, job_id: int, files: int) -> None:
    """Say how many files a job is about."""
    _set(connection, job_id, discovered=files)


def advance_job(
    connection: Connection,
    job_id: int,
    indexed: int,
    failures: Sequence[Failure],
    report: dict[str, Any],
    owner: str,
) -> None:
    """Count files that are through; in the transaction that writes what was found in them.

    Parameters
    ----------
    owner
        Whose report this is.

    Raises
    ------
    JobCancelled
        When somebody has cancelled it, or it does not run any more.
    """
    column = schema.job.c
    query = select(schema.job).where(column.id == job_id).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None or row.state == JobState.CANCELLED:
        raise JobCancelled(f"Job {job_id} was cancelled; `binet index --resume` goes on with it")
    if row.state != JobState.RUNNING:
        raise JobCancelled(f"Job {job_id} does not run any more: it is {row.state}")
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
    _set(
        connection,
        job_id,
        indexed=column.indexed + indexed,
        failed=column.failed + len(failures),
        request=_with_report(row.request, report, owner),
    )


def report_job(connection: Connection, job_id: int, report: dict[str, Any], owner: str) -> None:
    """Write down what an indexer says of its share when that is through."""
    query = select(schema.job.c.request).where(schema.job.c.id == job_id).with_for_update()
    text = connection.execute(query).scalar_one()
    _set(connection, job_id, request=_with_report(text, report, owner))


def finish_job(
    connection: Connection, job_id: int, state: JobState, reason: str | None = None
) -> None:
    """Say how a job ended. One that was cancelled meanwhile stays cancelled."""
    job = read_job(connection, job_id, locked=True)
    if job.state == JobState.CANCELLED:
        state = JobState.CANCELLED
    _forget_items(connection, job_id)
    _set(
        connection,
        job_id,
        state=state,
        reason=reason,
        finished_at_us=now_us(),
        owner=None,
        lease_until_us=None,
    )


def finish_if_done(connection: Connection, job_id: int) -> bool:
    """End a job that runs and of which no item is left; return whether it is over."""
    job = read_job(connection, job_id, locked=True)
    if job.state != JobState.RUNNING:
        return True
    column = schema.job_item.c
    if connection.execute(select(column.id).where(column.job_id == job_id).limit(1)).first():
        return False
    finish_job(connection, job_id, JobState.DONE)
    return True


def end_badly(
    database: Database, job_id: int, error: BaseException, owner: str | None = None
) -> None:
    """Say that a job was stopped, or failed and why; with an owner, only if it is still theirs."""
    stopped = isinstance(error, JobCancelled | KeyboardInterrupt)
    state = JobState.CANCELLED if stopped else JobState.FAILED
    reason = str(error) if isinstance(error, BINetError) else type(error).__name__
    # Where not even this can be written, the next run finds that its lease is over.
    with suppress(BINetError), database.write() as connection:
        job = read_job(connection, job_id, locked=True)
        if job.state not in (JobState.DONE, JobState.FAILED) and owner in (None, job.owner):
            finish_job(connection, job_id, state, None if stopped else reason)


def cancel_job(connection: Connection, job_id: int) -> None:
    """Cancel a job; the processes that run it stop before their next batch.

    Raises
    ------
    GalleryError
        When there is no such job, or it is over.
    """
    job = read_job(connection, job_id, locked=True)
    if job.state in FINISHED:
        raise GalleryError(f"Job {job_id} is {job.state}: there is nothing to cancel")
    finish_job(connection, job_id, JobState.CANCELLED)


def end_interrupted(connection: Connection) -> list[int]:
    """See to the jobs that nobody works at any more: back into the queue, or failed.

    Returns
    -------
    list of int
        Those that have failed.
    """
    leases.end_those_of_the_dead(connection)
    column = schema.job.c
    running = connection.execute(
        select(column.id, column.tries_left)
        .where(column.state == JobState.RUNNING)
        .order_by(column.id)
        .with_for_update(skip_locked=True)
    ).all()
    failed = []
    for row in running:
        if _is_held(connection, row.id):
            continue
        if row.tries_left > 0:
            give_back_job(connection, row.id, counts=True)
        else:
            finish_job(connection, row.id, JobState.FAILED, INTERRUPTED)
            failed.append(row.id)
    return failed


def read_job(connection: Connection, job_id: int, locked: bool = False) -> Job:
    """Return a job; locked, nobody else changes its row before this transaction ends.

    Raises
    ------
    GalleryError
        When there is none.
    """
    query = select(schema.job).where(schema.job.c.id == job_id)
    row = connection.execute(query.with_for_update() if locked else query).one_or_none()
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


def _is_held(connection: Connection, job_id: int) -> bool:
    """Tell whether somebody holds the lease of a job, or of one of its items."""
    now = leases.clock_us(connection)
    job, item = schema.job, schema.job_item
    own = select(job.c.id).where(job.c.id == job_id, ~leases.is_over(job, now))
    some = select(item.c.id).where(item.c.job_id == job_id, ~leases.is_over(item, now)).limit(1)
    return any(connection.execute(query).first() is not None for query in (own, some))


def _forget_items(connection: Connection, job_id: int) -> None:
    connection.execute(delete(schema.job_item).where(schema.job_item.c.job_id == job_id))


def _text(request: dict[str, Any], reports: dict[str, dict[str, Any]]) -> str:
    return json.dumps({"request": request, "reports": reports})


def _with_report(text: str, report: dict[str, Any], owner: str) -> str:
    request, reports = _read_text(text)
    return _text(request, {**reports, owner: report})


def _read_text(text: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    document = json.loads(text)
    # Jobs of the first version have one report.
    reports = document.get("reports", {"": document.get("report", {})})
    return document["request"], reports


def _job(row: Row[Any]) -> Job:
    request, reports = _read_text(row.request)
    return Job(
        row.id,
        row.kind,
        JobState(row.state),
        request,
        merged(list(reports.values())),
        row.discovered,
        row.indexed,
        row.failed,
        row.reason,
        from_us(row.created_at_us),
        None if row.started_at_us is None else from_us(row.started_at_us),
        None if row.finished_at_us is None else from_us(row.finished_at_us),
        row.owner,
    )
