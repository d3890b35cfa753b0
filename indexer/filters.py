"""What may be found: cameras, sources, time, scores. Applied before the nearest are chosen."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from typing import cast

import numpy as np
import numpy.typing as npt

from indexer.growing import GrowingArray
from indexer.vector_index import Allowed, Ids, Mask, Rows

DAY_US = 86_400_000_000
#: So many values are compared one by one: 0.15 ms each in 1 M rows, where look-ups take 1.1 ms.
_COMPARED_VALUES = 6

#: Up to this share of the rows, those of some cameras are named one by one; up to the next one,
#: their lists make a mask. Measured with 1 M rows at 1, 5, 10 and 15 %: named in 0.02, 0.14, 0.35
#: and 0.56 ms, as a mask in 0.05, 0.15, 0.29 and 0.43 ms; at 30 % a mask takes 0.83 ms, and with
#: a look-up for each row 1.1 ms.
_LISTED_SHARE = 0.15
_LISTED_MASK_SHARE = 0.3

#: So many new rows are looked through, 0.01 ms for each camera, before they are listed.
_UNLISTED_ROWS = 16_384

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_us(moment: datetime) -> int:
    """Return a time as microseconds since 1970, UTC.

    Raises
    ------
    ValueError
        When the time has no time zone.
    """
    if moment.utcoffset() is None:
        raise ValueError(f"{moment.isoformat()} has no time zone; give one, for example +00:00")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_us(microseconds: int) -> datetime:
    """Return microseconds since 1970 as a time in UTC."""
    return _EPOCH + timedelta(microseconds=int(microseconds))


@dataclass(frozen=True)
class TimeOfDay:
    """A part of every day, start included and end not; it may wrap midnight.

    Attributes
    ----------
    utc_offset
        Of the clock that start and end are read from. It is fixed: daylight saving is not known.
    """

    start: time
    end: time
    utc_offset: timedelta = timedelta(0)

    def __post_init__(self) -> None:
        if self.start == self.end:
            raise ValueError("A time of day that ends where it starts is no time at all")
        if self.start.tzinfo or self.end.tzinfo:
            raise ValueError("A time of day has no time zone of its own: use utc_offset")

    @property
    def offset_us(self) -> int:
        """What to add to a time in UTC before its part of the day is taken."""
        return self.utc_offset // timedelta(microseconds=1) % DAY_US

    @property
    def bounds_us(self) -> tuple[int, int]:
        """Start and end, in microseconds since midnight."""
        return _since_midnight_us(self.start), _since_midnight_us(self.end)


@dataclass(frozen=True)
class Filter:
    """What may be found. A field that is None allows everything; an empty collection, nothing.

    Attributes
    ----------
    cameras, sources
        Ids.
    after, before
        Captured at `after` or later, and earlier than `before`; with time zone.
    exclude_boxes
        Ids of boxes that are not to be found.
    min_score
        The detector's score, at least.
    scope_cameras
        Ids of the cameras that whoever asks may know of at all. Unlike `cameras`, it also hides
        stored boxes that are named as the query.
    """

    cameras: Collection[int] | None = None
    sources: Collection[int] | None = None
    after: datetime | None = None
    before: datetime | None = None
    time_of_day: TimeOfDay | None = None
    exclude_boxes: Collection[int] = ()
    min_score: float | None = None
    scope_cameras: Collection[int] | None = None

    def __post_init__(self) -> None:
        for moment in (self.after, self.before):
            if moment is not None:
                to_us(moment)

    @property
    def allowed_cameras(self) -> frozenset[int] | None:
        """Cameras within the scope; None when all are."""
        if self.cameras is None or self.scope_cameras is None:
            both = self.cameras if self.scope_cameras is None else self.scope_cameras
            return None if both is None else frozenset(both)
        return frozenset(self.cameras) & frozenset(self.scope_cameras)

    @property
    def of_cameras_only(self) -> bool:
        """Whether nothing but the camera is looked at."""
        others = (self.sources, self.after, self.before, self.time_of_day, self.min_score)
        return all(other is None for other in others) and len(self.exclude_boxes) == 0


@dataclass(frozen=True, eq=False)
class CameraLists:
    """The first rows, listed by camera: a filter for few cameras does not look at all rows.

    Attributes
    ----------
    count
        Rows that are listed.
    of
        Those of each camera, ascending.
    """

    count: int
    of: dict[int, npt.NDArray[np.int32]]

    def listing(self, camera_ids: npt.NDArray[np.int32]) -> "CameraLists":
        """List the rows that are not yet, too, given the cameras of all.

        Only the cameras that have new ones are touched: listing all 1 M rows anew would take 75 ms
        from the searches beside it.
        """
        new = camera_ids[self.count :]
        order = np.argsort(new, kind="stable")
        ordered = new[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        parts = np.split(order.astype(np.int32) + np.int32(self.count), starts[1:])
        of = dict(self.of)
        for camera, part in zip(ordered[starts].tolist(), parts, strict=True):
            of[camera] = np.concatenate([of[camera], part]) if camera in of else part
        return CameraLists(len(camera_ids), of)


@dataclass(frozen=True, eq=False)
class Columns:
    """What filters need of each row of the index, in its order: [R] each.

    Attributes
    ----------
    captured_at_us
        Microseconds since 1970, UTC.
    scores
        The detector's.
    by_camera
        Of the first rows, as many as it lists.
    """

    camera_ids: npt.NDArray[np.int32]
    source_ids: npt.NDArray[np.int32]
    captured_at_us: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    by_camera: CameraLists | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: Mask | Rows | slice) -> "Columns":
        """Return the columns of some rows."""
        return Columns(
            self.camera_ids[rows],
            self.source_ids[rows],
            self.captured_at_us[rows],
            self.scores[rows],
        )

    @classmethod
    def empty(cls) -> "Columns":
        """No rows."""
        return cls(
            np.zeros(0, np.int32),
            np.zeros(0, np.int32),
            np.zeros(0, np.int64),
            np.zeros(0, np.float32),
        )

    @classmethod
    def joined(cls, parts: Sequence["Columns"]) -> "Columns":
        """Put rows after one another."""
        return cls(
            np.concatenate([part.camera_ids for part in parts]),
            np.concatenate([part.source_ids for part in parts]),
            np.concatenate([part.captured_at_us for part in parts]),
            np.concatenate([part.scores for part in parts]),
        )

    @property
    def nbytes(self) -> int:
        """Memory of the columns."""
        arrays = (self.camera_ids, self.source_ids, self.captured_at_us, self.scores)
        listed = 0 if self.by_camera is None else np.dtype(np.int32).itemsize * self.by_camera.count
        return sum(array.nbytes for array in arrays) + listed


class GrowingColumns:
    """Columns to append to; what was handed out stays as it is."""

    def __init__(self) -> None:
        self._camera_ids = GrowingArray(np.int32)
        self._source_ids = GrowingArray(np.int32)
        self._captured_at_us = GrowingArray(np.int64)
        self._scores = GrowingArray(np.float32)
        self._by_camera = CameraLists(0, {})

    def append(self, rows: Columns) -> Columns:
        """Append rows and return all."""
        cameras = self._camera_ids.append(rows.camera_ids)
        if len(cameras) - self._by_camera.count > _UNLISTED_ROWS:
            self._by_camera = self._by_camera.listing(cameras)
        return Columns(
            cameras,
            self._source_ids.append(rows.source_ids),
            self._captured_at_us.append(rows.captured_at_us),
            self._scores.append(rows.scores),
            self._by_camera,
        )


def allowed_rows(wanted: Filter, columns: Columns, ids: Ids) -> Allowed | None:
    """Find the rows that a filter allows.

    Parameters
    ----------
    ids
        int64 [R], ascending: the boxes' ids.

    Returns
    -------
    array or None
        bool [R]; or int64, the rows themselves, ascending, where a filter leaves few cameras; None
        when all are allowed.
    """
    cameras = wanted.allowed_cameras
    of_cameras = None if cameras is None else _of_cameras(cameras, columns)
    if of_cameras is not None and of_cameras.dtype != np.bool_:
        listed = cast("Rows", of_cameras)
        if wanted.of_cameras_only:
            return listed
        rest = replace(wanted, cameras=None, scope_cameras=None)
        within = allowed_rows(rest, columns[listed], ids[listed])
        return listed if within is None else listed[within]
    masks: list[Mask] = []
    if of_cameras is not None:
        masks.append(cast("Mask", of_cameras))
    if wanted.sources is not None:
        masks.append(_is_one_of(columns.source_ids, wanted.sources))
    if wanted.after is not None:
        masks.append(columns.captured_at_us >= to_us(wanted.after))
    if wanted.before is not None:
        masks.append(columns.captured_at_us < to_us(wanted.before))
    if wanted.min_score is not None:
        masks.append(columns.scores >= np.float32(wanted.min_score))
    allowed = None
    for mask in masks:
        allowed = mask if allowed is None else np.logical_and(allowed, mask, out=allowed)
    if wanted.time_of_day is not None:
        allowed = _at_time_of_day(wanted.time_of_day, columns.captured_at_us, allowed)
    excluded = rows_of(ids, wanted.exclude_boxes)
    if len(excluded):
        allowed = np.ones(len(ids), np.bool_) if allowed is None else allowed
        allowed[excluded] = False
    return allowed


def _of_cameras(cameras: frozenset[int], columns: Columns) -> Allowed:
    """Return the rows of some cameras, ascending, or a mask where that is cheaper."""
    lists = columns.by_camera
    parts = [] if lists is None else [lists.of[one] for one in cameras if one in lists.of]
    count = sum(map(len, parts))
    if lists is None or count > _LISTED_MASK_SHARE * len(columns):
        return _is_one_of(columns.camera_ids, cameras)
    done = lists.count
    if done < len(columns):
        new = np.flatnonzero(_is_one_of(columns.camera_ids[done:], cameras)) + done
        parts.append(new.astype(np.int32))
    rows = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    if count > _LISTED_SHARE * len(columns):
        mask = np.zeros(len(columns), np.bool_)
        mask[rows] = True
        return mask
    if len(parts) > 1:
        # Half the time of sorting int64.
        rows.sort()
    return rows.astype(np.int64)


def rows_of(ids: Ids, boxes: Collection[int]) -> Rows:
    """Rows of those boxes that are there."""
    wanted = np.fromiter(boxes, np.int64, len(boxes))
    rows: Rows = np.searchsorted(ids, wanted)
    there = rows < len(ids)
    rows, wanted = rows[there], wanted[there]
    found: Rows = rows[ids[rows] == wanted]
    return found


def _is_one_of(column: npt.NDArray[np.int32], values: Collection[int]) -> Mask:
    if len(values) <= _COMPARED_VALUES:
        mask = np.zeros(len(column), np.bool_)
        for value in values:
            mask |= column == value
        return mask
    # One look-up for each row, however many values.
    top = int(column.max(initial=0))
    table = np.zeros(top + 1, np.bool_)
    table[[value for value in values if 0 <= value <= top]] = True
    return np.take(table, column)


def _at_time_of_day(
    part: TimeOfDay, captured_at_us: npt.NDArray[np.int64], allowed: Mask | None
) -> Mask:
    start, end = part.bounds_us
    rows = None if allowed is None else np.flatnonzero(allowed)
    times = captured_at_us if rows is None else captured_at_us[rows]
    times = (times + part.offset_us) % DAY_US
    begun, over = times >= start, times >= end
    inside = begun & ~over if start < end else begun | ~over
    if allowed is None or rows is None:
        return inside
    allowed[rows] = inside
    return allowed


def _since_midnight_us(clock: time) -> int:
    since = timedelta(
        hours=clock.hour,
        minutes=clock.minute,
        seconds=clock.second,
        microseconds=clock.microsecond,
    )
    return since // timedelta(microseconds=1)
