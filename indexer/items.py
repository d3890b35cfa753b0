"""The items of an index job: what one indexer takes at a time, so that several share a job.

An item is a video, an archive, or some batches of pictures. It is there until it is done.
"""

import json
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from indexer import schema
from indexer.database import Database
from indexer.errors import JobCancelled
from indexer.leases import LeaseLostError, clock_us, end_those_of_the_dead, end_us, is_over
from indexer.reading import Task, tasks
from indexer.schema import JobState
from indexer.sources import SourceFile, SourceKind
from indexer.work import Batch

#: Batches of pictures in one item: each item costs a transaction.
BATCHES = 16
#: Items that are written with one statement.
_CHUNK = 200
#: Seconds between looks whether another indexer has left something.
_LOOK_S = 0.5


@dataclass(frozen=True)
class Item:
    """What one indexer works at."""

    id: int
    files: list[SourceFile]


def add_items(connection: Connection, job_id: int, files: Sequence[SourceFile], batch: int) -> None:
    """Write what a job is to do, cut so that the batches are those of a single indexer."""
    rows = [
        {"job_id": job_id, "files": _packed(task), "bytes": sum(file.size for file in task)}
        for task in tasks(files, batch * BATCHES)
    ]
    for start in range(0, len(rows), _CHUNK):
        connection.execute(insert(schema.job_item), rows[start : start + _CHUNK])


def item_ids(connection: Connection, job_id: int) -> list[int]:
    """List the items of a job that are not done, in their order."""
    column = schema.job_item.c
    query = select(column.id).where(column.job_id == job_id).order_by(column.id)
    return list(connection.execute(query).scalars())


def size_of_items(connection: Connection, job_id: int) -> int:
    """Return the bytes of the files that are still to be done."""
    column = schema.job_item.c
    query = select(func.coalesce(func.sum(column.bytes), 0)).where(column.job_id == job_id)
    return int(connection.execute(query).scalar_one())


def take_item(
    connection: Connection, job_id: int, owner: str, wanted: int | None = None
) -> Item | None:
    """Take the next item that nobody holds, or the one that is wanted; None when there is none.

    PostgreSQL passes over the rows that others are taking at this moment.
    """
    column = schema.job_item.c
    query = select(column.id, column.files).where(
        column.job_id == job_id, is_over(schema.job_item, clock_us(connection))
    )
    if wanted is not None:
        query = query.where(column.id == wanted)
    query = query.order_by(column.id).limit(1).with_for_update(skip_locked=True)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    connection.execute(
        update(schema.job_item)
        .where(column.id == row.id)
        .values(owner=owner, lease_until_us=end_us(connection))
    )
    return Item(row.id, _unpacked(row.files))


class Share:
    """The items that one indexer takes from a job.

    Parameters
    ----------
    wanted
        The one item to take; None takes one after the other.
    wait
        Whether to stay until the job is done, and take over what another one leaves.
    """

    def __init__(
        self, database: Database, job_id: int, owner: str, wanted: int | None, wait: bool
    ) -> None:
        self.owner = owner
        self._database = database
        self._job_id = job_id
        self._wanted = wanted
        self._wait = wait and wanted is None
        self._lock = threading.Lock()
        self._item_of: dict[str, int] = {}
        #: Files of each item that are not through.
        self._left: Counter[int] = Counter()

    def tasks(self, batch: int, check: Callable[[], None]) -> Iterator[Task]:
        """Give what is to be read, item by item.

        Parameters
        ----------
        check
            Called while it waits; may raise to end it.

        Raises
        ------
        JobCancelled
            When the job does not run any more.
        """
        while (item := self._next(check)) is not None:
            with self._lock:
                self._item_of.update((file.uri, item.id) for file in item.files)
                self._left[item.id] = len(item.files)
            yield from tasks(item.files, batch)
            if self._wanted is not None:
                return

    def hold(self, connection: Connection, batch: Batch) -> None:
        """Renew the leases of a batch's items in its transaction; those that are done go.

        Raises
        ------
        LeaseLostError
            When another indexer has one of them: nothing of the batch may be committed.
        """
        column = schema.job_item.c
        done = self._through(batch)
        with self._lock:
            concerned = {self._item_of[taken.file.uri] for taken in batch.frames} | set(done)
            finished = {item for item, count in done.items() if self._left[item] == count}
        until = end_us(connection)
        for item in sorted(concerned):
            own = (column.id == item, column.owner == self.owner)
            if item in finished:
                changed = connection.execute(delete(schema.job_item).where(*own))
            else:
                changed = connection.execute(
                    update(schema.job_item).where(*own).values(lease_until_us=until)
                )
            if not changed.rowcount:
                raise LeaseLostError(
                    f"Another indexer has taken over what this one had of job {self._job_id}: "
                    "it was not heard of for too long"
                )

    def committed(self, batch: Batch) -> None:
        """Count the files of a batch that is on disk."""
        done = self._through(batch)
        with self._lock:
            self._left.subtract(done)
            finished = {item for item in done if not self._left[item]}
            if finished:
                self._item_of = {
                    u: item for u, item in self._item_of.items() if item not in finished
                }

    def release(self) -> None:
        """Leave what was not done to others."""
        column = schema.job_item.c
        with self._database.claim() as connection:
            connection.execute(
                update(schema.job_item)
                .where(column.job_id == self._job_id, column.owner == self.owner)
                .values(owner=None, lease_until_us=None)
            )

    def _through(self, batch: Batch) -> Counter[int]:
        with self._lock:
            return Counter(self._item_of[outcome.file.uri] for outcome in batch.outcomes)

    def _next(self, check: Callable[[], None]) -> Item | None:
        column = schema.job_item.c
        others = select(column.id).where(
            column.job_id == self._job_id, column.owner.is_distinct_from(self.owner)
        )
        waiting = threading.Event()
        while True:
            with self._database.claim() as connection:
                item = take_item(connection, self._job_id, self.owner, self._wanted)
                if item is not None:
                    return item
                state = connection.execute(
                    select(schema.job.c.state).where(schema.job.c.id == self._job_id)
                ).scalar()
                if state == JobState.DONE:
                    return None
                if state != JobState.RUNNING:
                    raise JobCancelled(f"Job {self._job_id} does not run any more")
                if not self._wait or connection.execute(others.limit(1)).first() is None:
                    return None
                end_those_of_the_dead(connection)
            check()
            waiting.wait(_LOOK_S)
            check()


def _packed(files: Sequence[SourceFile]) -> bytes:
    rows = [
        {**asdict(file), "changed_at": file.changed_at and file.changed_at.isoformat()}
        for file in files
    ]
    return zlib.compress(json.dumps(rows).encode())


def _unpacked(data: bytes) -> list[SourceFile]:
    return [_file(**row) for row in json.loads(zlib.decompress(data))]


def _file(kind: str, changed_at: str | None, **values: Any) -> SourceFile:
    changed = None if changed_at is None else datetime.fromisoformat(changed_at)
    return SourceFile(kind=SourceKind(kind), changed_at=changed, **values)
