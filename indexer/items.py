"""The items of an index job: what one indexer takes at a time, so that several share a job.

An item is a video, an archive, or some batches of pictures. It is there until it is done.
"""

import json
import threading
import zlib
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


@dataclass
class Item:
    """What one indexer works at.

    Attributes
    ----------
    through
        A bit for each file that is through.
    """

    id: int
    files: list[SourceFile]
    through: int = 0

    def __post_init__(self) -> None:
        #: Places of the files with a name; an archive may have a name twice.
        self.places: dict[str, list[int]] = {}
        for place, file in enumerate(self.files):
            self.places.setdefault(file.uri, []).append(place)

    def tasks(self, batch: int) -> Iterator[Task]:
        """Cut up what is left, as all of it would be cut."""
        places = iter(range(len(self.files)))
        for task in tasks(self.files, batch):
            left = [file for file in task if not self.through >> next(places) & 1]
            if left:
                yield left

    def after(self, uris: Sequence[str]) -> int:
        """Return the bits once files with these names are through too."""
        bits = self.through
        for uri in uris:
            places = self.places[uri]
            bits |= 1 << next((p for p in places if not bits >> p & 1), places[0])
        return bits

    def is_done(self, through: int) -> bool:
        """Tell whether these bits are all of its files."""
        return through == (1 << len(self.files)) - 1


def add_items(connection: Connection, job_id: int, files: Sequence[SourceFile], batch: int) -> None:
    """Write what a job is to do, cut so that the batches are those of a single indexer."""
    rows = [
        {
            "job_id": job_id,
            "files": _packed(task),
            "through": b"",
            "bytes": sum(file.size for file in task),
        }
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
    query = select(column.id, column.files, column.through).where(
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
    return Item(row.id, _unpacked(row.files), int.from_bytes(row.through))


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
        self._items: dict[int, Item] = {}
        self._item_of: dict[str, int] = {}

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
                self._items[item.id] = item
                self._item_of.update((file.uri, item.id) for file in item.files)
            # Cut at once: what is through changes while it is read.
            yield from list(item.tasks(batch))
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
        until = end_us(connection)
        for item, through in self._after(batch):
            own = (column.id == item.id, column.owner == self.owner)
            if item.is_done(through):
                changed = connection.execute(delete(schema.job_item).where(*own))
            else:
                changed = connection.execute(
                    update(schema.job_item)
                    .where(*own)
                    .values(lease_until_us=until, through=_bytes(through))
                )
            if not changed.rowcount:
                raise LeaseLostError(
                    f"Another indexer has taken over what this one had of job {self._job_id}: "
                    "it was not heard of for too long"
                )

    def committed(self, batch: Batch) -> None:
        """Remember which files are through, once the batch is on disk."""
        for item, through in self._after(batch):
            item.through = through
            if item.is_done(through):
                with self._lock:
                    del self._items[item.id]
                    for file in item.files:
                        self._item_of.pop(file.uri, None)

    def _after(self, batch: Batch) -> list[tuple[Item, int]]:
        """Return the items that a batch is of, and what of them is through after it."""
        uris: dict[int, list[str]] = {}
        with self._lock:
            for taken in batch.frames:
                uris.setdefault(self._item_of[taken.file.uri], [])
            for outcome in batch.outcomes:
                uris.setdefault(self._item_of[outcome.file.uri], []).append(outcome.file.uri)
            return [(self._items[key], self._items[key].after(uris[key])) for key in sorted(uris)]

    def release(self) -> None:
        """Leave what was not done to others."""
        column = schema.job_item.c
        with self._database.claim() as connection:
            connection.execute(
                update(schema.job_item)
                .where(column.job_id == self._job_id, column.owner == self.owner)
                .values(owner=None, lease_until_us=None)
            )

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


def _bytes(bits: int) -> bytes:
    return bits.to_bytes((bits.bit_length() + 7) // 8)


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
