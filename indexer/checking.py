"""`binet gallery check`: what SQL holds agrees with itself, and what lies beside it with SQL."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, FromClause, Row, func, or_, select

from indexer import schema
from indexer.database import Database
from indexer.media import wanted_media
from indexer.media_store import MediaStore
from indexer.schema import EncoderState, JobState, SourceState, TombstoneKind
from indexer.snapshot import SnapshotError, SnapshotReader
from indexer.vector_index import LENGTH_TOLERANCE

#: Rows of embeddings that are looked at together.
_BLOCK = 8192


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes
    ----------
    is_problem
        False for what is only worth knowing.
    """

    what: str
    count: int
    is_problem: bool = True


def check(database: Database) -> list[Finding]:
    """Look through the whole gallery; an empty list is a gallery in order.

    Raises
    ------
    GalleryError
        When the database cannot be read.
    """
    with database.read() as connection:
        findings = [
            finding
            for finding in (
                *_database_itself(database, connection),
                *_orphans(connection),
                *_contradictions(connection),
                Finding(
                    "embeddings of the wrong size, not finite or not of length 1",
                    len(bad_embeddings(connection)),
                ),
            )
            if finding.count
        ]
    store = MediaStore.of(database)
    if store is not None:
        wanted = wanted_media(database, store)
        extra = sum(name not in wanted for name in store.names())
        if extra:
            findings.append(Finding("kept pictures of nothing that is here", extra, False))
        damaged = len(store.damaged())
        if damaged:
            findings.append(Finding("kept pictures that cannot be read", damaged))
    snapshots = len(bad_snapshots(database))
    if snapshots:
        findings.append(Finding("index snapshots that are not what SQL holds", snapshots))
    return findings


def _database_itself(database: Database, connection: Connection) -> Iterator[Finding]:
    if database.is_sqlite:
        rows = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        yield Finding("damages of the database file", sum(row != "ok" for row in rows))


def _orphans(connection: Connection) -> Iterator[Finding]:
    tables = schema
    parents: list[tuple[str, FromClause, ColumnElement[int], FromClause]] = [
        ("sources without their camera", tables.source, tables.source.c.camera_id, tables.camera),
        ("frames without their source", tables.frame, tables.frame.c.source_id, tables.source),
        ("boxes without their frame", tables.box, tables.box.c.frame_id, tables.frame),
        ("boxes without their encoder", tables.box, tables.box.c.encoder_id, tables.encoder),
        ("indexed marks without frame", tables.indexed, tables.indexed.c.frame_id, tables.frame),
    ]
    for what, child, key, parent in parents:
        yield Finding(what, _count(connection, child, lost(child, key, parent)))
    yield Finding(
        "boxes of frames that nobody looked at", _count(connection, schema.box, unmarked())
    )


def lost(child: FromClause, key: ColumnElement[int], parent: FromClause) -> ColumnElement[bool]:
    """Return whether what a row of `child` belongs to is not there."""
    return ~select(parent.c.id).where(parent.c.id == key).correlate(child).exists()


def unmarked() -> ColumnElement[bool]:
    """Return whether a row of `box` is of a frame that its encoder has not looked at."""
    box, indexed = schema.box.c, schema.indexed.c
    marked = (
        select(indexed.frame_id)
        .where(indexed.frame_id == box.frame_id, indexed.encoder_id == box.encoder_id)
        .correlate(schema.box)
        .exists()
    )
    return ~marked


def boxes_and_frames() -> FromClause:
    """Join boxes, frames and sources."""
    box, frame, source = schema.box.c, schema.frame.c, schema.source.c
    return schema.box.join(schema.frame, frame.id == box.frame_id).join(
        schema.source, source.id == frame.source_id
    )


def contradicts() -> ColumnElement[bool]:
    """Return whether a row of `boxes_and_frames` does not agree with itself."""
    box, frame, source = schema.box.c, schema.frame.c, schema.source.c
    return or_(
        box.source_id != frame.source_id,
        box.camera_id != source.camera_id,
        box.captured_at_us != frame.captured_at_us,
    )


def impossible() -> ColumnElement[bool]:
    """Return whether a row of `box` has numbers that no box has."""
    box = schema.box.c
    return or_(box.x2 < box.x1, box.y2 < box.y1, box.score < 0, box.score > 1)


def uneven() -> ColumnElement[bool]:
    """Return whether a row of `job` is done, and its files do not add up."""
    job = schema.job.c
    return (job.state == JobState.DONE) & (job.indexed + job.failed != job.discovered)


def _contradictions(connection: Connection) -> Iterator[Finding]:
    source = schema.source.c
    wrong = _count(connection, boxes_and_frames(), contradicts())
    yield Finding("boxes that contradict their frame", wrong)
    yield Finding("boxes with impossible numbers", _count(connection, schema.box, impossible()))
    found = "frames with another number of boxes than was found"
    yield Finding(found, _count(connection, schema.indexed, miscounted(connection)))
    active = _count(connection, schema.encoder, schema.encoder.c.state == EncoderState.ACTIVE)
    frames = connection.execute(select(func.count()).select_from(schema.frame)).scalar_one()
    yield Finding("galleries with frames and no active encoder", int(frames > 0 and active != 1))
    yield Finding("jobs whose files do not add up", _count(connection, schema.job, uneven()))
    unfinished = _count(connection, schema.source, source.state != SourceState.COMPLETE)
    yield Finding("sources not indexed to their end", unfinished, is_problem=False)


def miscounted(connection: Connection) -> ColumnElement[bool]:
    """Return whether a row of `indexed` has too many boxes, or too few.

    Too few only where no box was ever deleted by itself.
    """
    box, indexed, tombstone = schema.box.c, schema.indexed.c, schema.tombstone.c
    boxes = (
        select(func.count())
        .select_from(schema.box)
        .where(box.frame_id == indexed.frame_id, box.encoder_id == indexed.encoder_id)
        .correlate(schema.indexed)
        .scalar_subquery()
    )
    deleted = _count(connection, schema.tombstone, tombstone.kind == TombstoneKind.BOX)
    return boxes > indexed.boxes if deleted else boxes != indexed.boxes


def bad_embeddings(connection: Connection) -> list[int]:
    """Return the boxes whose embedding is of the wrong size, not finite or not of length 1."""
    bad: list[int] = []
    for rows in _blocks(connection):
        by_size: dict[int, list[Any]] = {}
        for row in rows:
            if len(row.embedding) == 2 * row.dimension:
                by_size.setdefault(row.dimension, []).append(row)
            else:
                bad.append(row.id)
        for dimension, whole in by_size.items():
            data = b"".join(row.embedding for row in whole)
            vectors = np.frombuffer(data, "<f2").reshape(-1, dimension).astype(np.float32)
            length = np.linalg.norm(vectors, axis=1)
            # Not "off by more than": a length that is not a number is off too.
            off = ~(np.abs(length - 1) <= LENGTH_TOLERANCE)
            bad += [whole[place].id for place in np.flatnonzero(off)]
    return bad


def _blocks(connection: Connection, encoder_id: int | None = None) -> Iterator[Sequence[Row[Any]]]:
    """Give id, embedding and dimension of all boxes, or of an encoder's, by ascending id."""
    box, encoder = schema.box.c, schema.encoder.c
    last = 0
    while True:
        query = (
            select(box.id, box.embedding, encoder.dimension)
            .join(schema.encoder, encoder.id == box.encoder_id)
            .where(box.id > last)
            .order_by(box.id)
            .limit(_BLOCK)
        )
        if encoder_id is not None:
            query = query.where(box.encoder_id == encoder_id)
        rows = connection.execute(query).all()
        if not rows:
            return
        last = rows[-1].id
        yield rows


def bad_snapshots(database: Database) -> list[Path]:
    """Return the index snapshots that are damaged or hold something else than SQL.

    A search would throw most of them away by itself. What this finds beyond that are vectors that
    are in a snapshot with a good checksum, and not in SQL.
    """
    if database.file is None:
        return []
    bad = []
    for path in sorted(database.file.parent.glob(f"{database.file.stem}.index-*.snapshot")):
        with database.read() as connection:
            try:
                right = _agrees(connection, path)
            except SnapshotError:
                right = False
        if not right:
            bad.append(path)
    return bad


def _agrees(connection: Connection, path: Path) -> bool:
    with SnapshotReader.open(path) as reader:
        header = reader.header
        ids, _ = reader.read_rows()
        vectors = np.empty((header.count, header.dimension), np.float16)
        reader.read_vectors(vectors)
        reader.finish()
    encoder, revision, tombstone = schema.encoder.c, schema.revision.c, schema.tombstone.c
    by = connection.execute(
        select(encoder.id).where(
            encoder.weights_sha256 == header.weights_sha256,
            encoder.preprocess_sha256 == header.preprocess_sha256,
        )
    ).scalar()
    token = select(revision.token).where(revision.id == header.revision)
    if by is None or (header.revision and connection.execute(token).scalar() != header.token):
        return False
    later = select(tombstone.target_id).where(
        tombstone.kind == TombstoneKind.BOX, tombstone.id > header.last_tombstone_id
    )
    expected = set(ids.tolist()) - set(connection.execute(later).scalars())
    places = {box_id: place for place, box_id in enumerate(ids.tolist())}
    seen = 0
    for rows in _blocks(connection, by):
        for row in rows:
            if row.id > header.last_box_id:
                continue
            place = places.get(row.id)
            if place is None or vectors[place].astype("<f2").tobytes() != row.embedding:
                return False
            seen += 1
    return seen == len(expected)


def _count(connection: Connection, table: FromClause, where: ColumnElement[bool]) -> int:
    found: int = connection.execute(
        select(func.count()).select_from(table).where(where)
    ).scalar_one()
    return found
