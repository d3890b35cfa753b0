"""`binet gallery repair`: what `check` finds is mended, or taken out to be indexed again.

Nothing is guessed: where two rows contradict each other, the frame goes, and indexing its source
again brings it back as the source has it.
"""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Select, delete, func, insert, or_, select, update

from indexer import ingest, schema
from indexer.checking import (
    bad_embeddings,
    bad_snapshots,
    boxes_and_frames,
    contradicts,
    impossible,
    lost,
    miscounted,
    uneven,
    unmarked,
)
from indexer.database import Database
from indexer.deletion import bury_boxes, bury_frames
from indexer.errors import GalleryError
from indexer.ingest import chunks
from indexer.media_store import MediaStore
from indexer.schema import EncoderState, JobState, SourceState


@dataclass(frozen=True)
class Repaired:
    """What was done.

    Attributes
    ----------
    boxes, frames
        Taken out, with tombstones.
    sources
        To be indexed again: they lack what was taken out.
    files
        Damaged pictures and snapshots that were deleted; both are made again when needed.
    """

    boxes: int
    frames: int
    sources: list[str]
    files: int


def repair(database: Database) -> Repaired:
    """Mend what can be mended. Not while something writes to the gallery.

    Raises
    ------
    GalleryError
        When the database file itself is damaged.
    """
    _mend_file(database)
    snapshots = bad_snapshots(database)
    with database.write() as connection:
        frames = _broken_frames(connection)
        boxes = bury_frames(connection, frames)
        pairs = _broken_pairs(connection)
        sources = _unfinished(connection, pairs)
        boxes += bury_boxes(connection, _boxes_of(connection, pairs))
        _remove_marks(connection, pairs)
        _mend_cameras(connection)
        _mend_encoders(connection)
        _mend_jobs(connection)
        ingest.revise(connection)
    for path in snapshots:
        path.unlink(missing_ok=True)
    pictures = []
    if (store := MediaStore.of(database)) is not None:
        pictures = store.damaged()
        store.remove(pictures)
    return Repaired(boxes, len(frames), sources, len(snapshots) + len(pictures))


def _mend_file(database: Database) -> None:
    if not database.is_sqlite:
        return
    with database.write() as connection:
        # SQL's own indexes are derived, too.
        connection.exec_driver_sql("REINDEX")
        if connection.exec_driver_sql("PRAGMA integrity_check").scalar() != "ok":
            raise GalleryError(
                "The database file is damaged beyond its indexes: restore a backup "
                "(binet gallery restore)"
            )


def _broken_frames(connection: Connection) -> set[int]:
    """Return frames that are of no source, or that contradict their boxes."""
    frame, box = schema.frame.c, schema.box.c
    alone = select(frame.id).where(lost(schema.frame, frame.source_id, schema.source))
    wrong = select(box.frame_id).select_from(boxes_and_frames()).where(contradicts())
    frames = {row[0] for query in (alone, wrong) for row in connection.execute(query)}
    # Their sources lack them now.
    for chunk in chunks(sorted(frames)):
        _reopen(connection, select(frame.source_id).where(frame.id.in_(chunk)))
    return frames


def _broken_pairs(connection: Connection) -> set[tuple[int, int]]:
    """Return frames and encoders whose boxes cannot be trusted."""
    box, indexed = schema.box.c, schema.indexed.c
    no_frame = lost(schema.box, box.frame_id, schema.frame)
    no_encoder = lost(schema.box, box.encoder_id, schema.encoder)
    wheres: list[ColumnElement[bool]] = [or_(no_frame, no_encoder, unmarked(), impossible())]
    wheres += [box.id.in_(chunk) for chunk in chunks(bad_embeddings(connection))]
    pairs: set[tuple[int, int]] = set()
    for where in wheres:
        pairs.update(_pairs(connection, select(box.frame_id, box.encoder_id).where(where)))
    of_nothing = lost(schema.indexed, indexed.frame_id, schema.frame)
    marks = select(indexed.frame_id, indexed.encoder_id)
    pairs.update(_pairs(connection, marks.where(or_(miscounted(connection), of_nothing))))
    return pairs


def _pairs(connection: Connection, query: Select[tuple[int, int]]) -> set[tuple[int, int]]:
    return {(row[0], row[1]) for row in connection.execute(query)}


def _boxes_of(connection: Connection, pairs: set[tuple[int, int]]) -> list[int]:
    box = schema.box.c
    found: list[int] = []
    for chunk in chunks(sorted({frame for frame, _ in pairs})):
        query = select(box.id, box.frame_id, box.encoder_id).where(box.frame_id.in_(chunk))
        found += [row[0] for row in connection.execute(query) if (row[1], row[2]) in pairs]
    return found


def _remove_marks(connection: Connection, pairs: set[tuple[int, int]]) -> None:
    indexed = schema.indexed.c
    for frame_id, encoder_id in sorted(pairs):
        connection.execute(
            delete(schema.indexed).where(
                indexed.frame_id == frame_id, indexed.encoder_id == encoder_id
            )
        )


def _unfinished(connection: Connection, pairs: set[tuple[int, int]]) -> list[str]:
    """Mark the sources of these frames as not indexed to their end; return all such."""
    frame, source, box = schema.frame.c, schema.source.c, schema.box.c
    for chunk in chunks(sorted({frame_id for frame_id, _ in pairs})):
        # The boxes know it too, of a frame that is gone.
        _reopen(connection, select(frame.source_id).where(frame.id.in_(chunk)))
        _reopen(connection, select(box.source_id).where(box.frame_id.in_(chunk)))
    query = select(source.uri).where(source.state != SourceState.COMPLETE).order_by(source.uri)
    return list(connection.execute(query).scalars())


def _reopen(connection: Connection, sources: Select[tuple[int]]) -> None:
    """Mark sources as not indexed to their end."""
    connection.execute(
        update(schema.source)
        .where(schema.source.c.id.in_(sources))
        .values(state=SourceState.INDEXING)
    )


def _mend_cameras(connection: Connection) -> None:
    source = schema.source.c
    of_none = lost(schema.source, source.camera_id, schema.camera)
    missing = select(source.camera_id).where(of_none).distinct()
    for camera_id in list(connection.execute(missing).scalars()):
        name = f"camera {camera_id} (its name is lost)"
        connection.execute(insert(schema.camera).values(id=camera_id, name=name))


def _mend_encoders(connection: Connection) -> None:
    """Where no encoder is active, activate the one with the most boxes."""
    encoder, box = schema.encoder.c, schema.box.c
    active = select(encoder.id).where(encoder.state == EncoderState.ACTIVE)
    if connection.execute(active).first() is not None:
        return
    most = (
        select(box.encoder_id)
        .join(schema.encoder, encoder.id == box.encoder_id)
        .group_by(box.encoder_id)
        .order_by(func.count().desc(), box.encoder_id.desc())
    )
    best = connection.execute(most.limit(1)).scalar()
    if best is not None:
        ingest.activate(connection, best)


def _mend_jobs(connection: Connection) -> None:
    connection.execute(
        update(schema.job)
        .where(uneven())
        .values(state=JobState.FAILED, reason="its files do not add up; index them again")
    )
