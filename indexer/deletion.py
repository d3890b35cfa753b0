"""Deleting: rows go and tombstones come in one transaction; held frames stay.

A tombstone outlives what it stands for, so that whatever was derived or copied from the gallery
earlier can be brought to the same state: an index in memory, a snapshot, a restored backup.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, delete, insert, not_, or_, select, update
from sqlalchemy import func as sql

from indexer import schema
from indexer.database import Database, now_us
from indexer.errors import EncoderError, GalleryError
from indexer.filters import Filter, from_us, to_us
from indexer.frame_filter import frames_where
from indexer.ingest import chunks, encoder, revise
from indexer.schema import EncoderState, TombstoneKind


@dataclass(frozen=True)
class Deleted:
    """What a deletion removed, and how many of the frames asked for stay because they are held."""

    boxes: int
    frames: int
    sources: int
    held_frames: int


@dataclass(frozen=True)
class Hold:
    """Frames that no deletion touches, those that match every field that is not None.

    Attributes
    ----------
    after, before
        Captured at `after` or later, and earlier than `before`; with time zone.
    """

    reason: str
    camera: int | None = None
    source: int | None = None
    frame: int | None = None
    after: datetime | None = None
    before: datetime | None = None


@dataclass(frozen=True)
class ActiveHold:
    """A hold that is not released; `camera` is a name."""

    id: int
    reason: str
    camera: str | None
    source: int | None
    frame: int | None
    after: datetime | None
    before: datetime | None
    created_at: datetime


def add_hold(connection: Connection, hold: Hold) -> int:
    """Hold frames, those that come later too, until the hold is released; return its id.

    Raises
    ------
    GalleryError
        When the source or the frame is not there: nothing would be held.
    """
    for table, wanted in ((schema.source, hold.source), (schema.frame, hold.frame)):
        there = select(table.c.id).where(table.c.id == wanted)
        if wanted is not None and connection.execute(there).first() is None:
            raise GalleryError(f"There is no {table.name} {wanted} that could be held")
    values = {
        "reason": hold.reason,
        "camera_id": hold.camera,
        "source_id": hold.source,
        "frame_id": hold.frame,
        "after_us": None if hold.after is None else to_us(hold.after),
        "before_us": None if hold.before is None else to_us(hold.before),
        "created_at_us": now_us(),
    }
    added: int = connection.execute(
        insert(schema.hold).values(values).returning(schema.hold.c.id)
    ).scalar_one()
    return added


def read_holds(connection: Connection, scope: Collection[int] | None = None) -> list[ActiveHold]:
    """Return the holds that are not released; of a scope, those of its cameras and frames."""
    hold, source = schema.hold.c, schema.source.c
    query = (
        select(schema.hold, schema.camera.c.name.label("camera"))
        .outerjoin(schema.camera, schema.camera.c.id == hold.camera_id)
        .where(hold.released_at_us.is_(None))
        .order_by(hold.id)
    )
    if scope is not None:
        own = select(source.id).where(source.camera_id.in_(scope))
        frames = select(schema.frame.c.id).where(schema.frame.c.source_id.in_(own))
        query = query.where(
            hold.camera_id.in_(scope) | (hold.camera_id.is_(None) & hold.frame_id.in_(frames))
        )
    return [
        ActiveHold(
            id=row.id,
            reason=row.reason,
            camera=row.camera,
            source=row.source_id,
            frame=row.frame_id,
            after=None if row.after_us is None else from_us(row.after_us),
            before=None if row.before_us is None else from_us(row.before_us),
            created_at=from_us(row.created_at_us),
        )
        for row in connection.execute(query)
    ]


def release_hold(connection: Connection, hold_id: int) -> None:
    """End a hold; its row stays, with the time."""
    column = schema.hold.c
    released = connection.execute(
        update(schema.hold)
        .where(column.id == hold_id, column.released_at_us.is_(None))
        .values(released_at_us=now_us())
    )
    if not released.rowcount:
        raise GalleryError(f"There is no hold {hold_id} that could be released")


def delete_where(
    connection: Connection,
    boxes: Collection[int] = (),
    frames: Collection[int] = (),
    sources: Collection[int] = (),
    where: Filter | None = None,
) -> Deleted:
    """Delete boxes, frames, whole sources, and the frames that a filter allows.

    Frames go with all their boxes, of every encoder. Ids that are not there are passed over.

    Raises
    ------
    ValueError
        When the filter names boxes or detection scores: it is about frames.
    """
    frame = schema.frame.c
    targets: list[ColumnElement[bool]] = [
        frame.id.in_(chunk) for chunk in chunks(sorted(set(frames)))
    ]
    targets += [frame.source_id.in_(chunk) for chunk in chunks(sorted(set(sources)))]
    if where is not None:
        if where.exclude_boxes or where.min_score is not None:
            raise ValueError("Deletion is by frame: exclude_boxes and min_score do not apply")
        targets.append(frames_where(where))

    frame_ids: set[int] = set()
    wanted: set[int] = set()
    for target in targets:
        wanted.update(connection.execute(select(frame.id).where(target)).scalars())
        free = select(frame.id).where(target, not_(is_held()))
        frame_ids.update(connection.execute(free).scalars())

    gone = _delete_boxes(connection, boxes)
    gone += bury_frames(connection, frame_ids)
    emptied = _delete_sources(connection, sources)
    if gone or frame_ids or emptied:
        revise(connection)
    return Deleted(gone, len(frame_ids), emptied, len(wanted - frame_ids))


def drop_encoder(connection: Connection, encoder_id: int) -> int:
    """Delete the boxes of an encoder that is not active, and what it has done; return how many.

    Raises
    ------
    EncoderError
        When it is active.
    """
    if encoder(connection, encoder_id).state == EncoderState.ACTIVE:
        raise EncoderError(f"Encoder {encoder_id} is active: activate another one first")
    found = select(schema.box.c.id).where(schema.box.c.encoder_id == encoder_id)
    gone = 0
    for chunk in chunks(list(connection.execute(found).scalars())):
        gone += bury_boxes(connection, chunk)
    connection.execute(delete(schema.indexed).where(schema.indexed.c.encoder_id == encoder_id))
    revise(connection)
    return gone


def replay_tombstones(current: Database, restored: Database) -> Deleted:
    """Delete from a restored backup what the gallery has deleted since the backup was made.

    Holds are not asked: these deletions were made, and allowed, before.

    Raises
    ------
    GalleryError
        When the backup is not an earlier state of this gallery: its ids mean something else.
    """
    revision, tombstone = schema.revision.c, schema.tombstone.c
    with restored.read() as connection:
        last = connection.execute(
            select(revision.id, revision.token).order_by(revision.id.desc()).limit(1)
        ).one_or_none()
    with current.read() as connection:
        if last is not None:
            token = connection.execute(select(revision.token).where(revision.id == last.id))
            if token.scalar() != last.token:
                raise GalleryError("The backup is not an earlier state of this gallery")
        last_ids = current.last_ids(connection)
        graves = connection.execute(
            select(tombstone.kind, tombstone.target_id).order_by(tombstone.id)
        ).all()
    of_kind = {
        kind: [row.target_id for row in graves if row.kind == kind] for kind in TombstoneKind
    }
    with restored.write() as connection:
        gone = 0
        for chunk in chunks(of_kind[TombstoneKind.BOX]):
            gone += bury_boxes(connection, _existing(connection, chunk))
        frames = _delete_rows(connection, TombstoneKind.FRAME, of_kind[TombstoneKind.FRAME])
        sources = _delete_rows(connection, TombstoneKind.SOURCE, of_kind[TombstoneKind.SOURCE])
        if gone or frames or sources:
            revise(connection)
        # What comes next gets no id that meant something else after the backup.
        restored.raise_last_ids(connection, last_ids)
    return Deleted(gone, frames, sources, 0)


def _existing(connection: Connection, box_ids: list[int]) -> list[int]:
    found = select(schema.box.c.id).where(schema.box.c.id.in_(box_ids)).order_by(schema.box.c.id)
    return list(connection.execute(found).scalars())


def _delete_rows(connection: Connection, kind: TombstoneKind, ids: list[int]) -> int:
    table = schema.frame if kind == TombstoneKind.FRAME else schema.source
    gone = 0
    for chunk in chunks(ids):
        there = list(connection.execute(select(table.c.id).where(table.c.id.in_(chunk))).scalars())
        if kind == TombstoneKind.FRAME:
            connection.execute(delete(schema.indexed).where(schema.indexed.c.frame_id.in_(there)))
        connection.execute(delete(table).where(table.c.id.in_(there)))
        _bury(connection, kind, there)
        gone += len(there)
    return gone


def _delete_boxes(connection: Connection, box_ids: Collection[int]) -> int:
    gone = 0
    for chunk in chunks(sorted(set(box_ids))):
        free = (
            select(schema.box.c.id)
            .join(schema.frame, schema.frame.c.id == schema.box.c.frame_id)
            .where(schema.box.c.id.in_(chunk), not_(is_held()))
        )
        gone += bury_boxes(connection, connection.execute(free).scalars())
    return gone


def bury_frames(connection: Connection, frame_ids: Collection[int]) -> int:
    """Delete frames with their boxes, held or not; return how many boxes."""
    gone = 0
    for chunk in chunks(sorted(frame_ids)):
        found = select(schema.box.c.id).where(schema.box.c.frame_id.in_(chunk))
        gone += bury_boxes(connection, connection.execute(found).scalars())
        connection.execute(delete(schema.indexed).where(schema.indexed.c.frame_id.in_(chunk)))
        connection.execute(delete(schema.frame).where(schema.frame.c.id.in_(chunk)))
        _bury(connection, TombstoneKind.FRAME, chunk)
    return gone


def bury_boxes(connection: Connection, box_ids: Iterable[int]) -> int:
    """Delete boxes, held or not; return how many."""
    ids = sorted(box_ids)
    for chunk in chunks(ids):
        connection.execute(delete(schema.box).where(schema.box.c.id.in_(chunk)))
        _bury(connection, TombstoneKind.BOX, chunk)
    return len(ids)


def _delete_sources(connection: Connection, sources: Collection[int]) -> int:
    """Delete those sources that have no frame left."""
    source = schema.source.c
    gone = 0
    for chunk in chunks(sorted(set(sources))):
        has_frames = select(schema.frame.c.id).where(schema.frame.c.source_id == source.id).exists()
        empty = select(source.id).where(source.id.in_(chunk), not_(has_frames))
        ids = list(connection.execute(empty).scalars())
        connection.execute(delete(schema.source).where(source.id.in_(ids)))
        _bury(connection, TombstoneKind.SOURCE, ids)
        gone += len(ids)
    return gone


def _bury(connection: Connection, kind: TombstoneKind, ids: list[int]) -> None:
    tombstone = schema.tombstone.c
    there = select(tombstone.target_id).where(tombstone.kind == kind, tombstone.target_id.in_(ids))
    # Rows that came back after they were deleted, as damages and repairs do.
    fresh = sorted(set(ids) - set(connection.execute(there).scalars()))
    if fresh:
        now = now_us()
        connection.execute(
            insert(schema.tombstone),
            [{"kind": kind, "target_id": target, "deleted_at_us": now} for target in fresh],
        )


def is_held() -> ColumnElement[bool]:
    """Return whether a row of `frame` is under a hold."""
    hold, frame, source = schema.hold.c, schema.frame.c, schema.source.c
    camera = (
        select(source.camera_id)
        .where(source.id == frame.source_id)
        .correlate(schema.frame)
        .scalar_subquery()
    )
    captured = frame.captured_at_us
    return (
        select(sql.count())
        .select_from(schema.hold)
        .where(
            hold.released_at_us.is_(None),
            or_(hold.camera_id.is_(None), hold.camera_id == camera),
            or_(hold.source_id.is_(None), hold.source_id == frame.source_id),
            or_(hold.frame_id.is_(None), hold.frame_id == frame.id),
            or_(hold.after_us.is_(None), captured >= hold.after_us),
            or_(hold.before_us.is_(None), captured < hold.before_us),
        )
        .correlate(schema.frame)
        .scalar_subquery()
        > 0
    )
