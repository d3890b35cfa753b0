"""`binet gallery check`: what SQL holds agrees with itself."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sqlalchemy import ColumnElement, Connection, FromClause, func, or_, select

from indexer import schema
from indexer.database import Database
from indexer.media import wanted_media
from indexer.media_store import MediaStore
from indexer.schema import EncoderState, JobState, SourceState, TombstoneKind
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
                *_embeddings(connection),
            )
            if finding.count
        ]
    store = MediaStore.beside(database)
    if store is not None:
        wanted = wanted_media(database, store)
        extra = sum(path not in wanted for path in store.files())
        if extra:
            findings.append(Finding("kept pictures of nothing that is here", extra, False))
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
        there = select(parent.c.id).where(parent.c.id == key).correlate(child).exists()
        yield Finding(what, _count(connection, child, ~there))
    box, indexed = schema.box.c, schema.indexed.c
    marked = (
        select(indexed.frame_id)
        .where(indexed.frame_id == box.frame_id, indexed.encoder_id == box.encoder_id)
        .correlate(schema.box)
        .exists()
    )
    yield Finding("boxes of frames that nobody looked at", _count(connection, schema.box, ~marked))


def _contradictions(connection: Connection) -> Iterator[Finding]:
    box, frame, source = schema.box.c, schema.frame.c, schema.source.c
    joined = schema.box.join(schema.frame, frame.id == box.frame_id).join(
        schema.source, source.id == frame.source_id
    )
    differs = or_(
        box.source_id != frame.source_id,
        box.camera_id != source.camera_id,
        box.captured_at_us != frame.captured_at_us,
    )
    yield Finding("boxes that contradict their frame", _count(connection, joined, differs))
    odd = or_(box.x2 < box.x1, box.y2 < box.y1, box.score < 0, box.score > 1)
    yield Finding("boxes with impossible numbers", _count(connection, schema.box, odd))
    yield Finding("frames with another number of boxes than was found", _miscounted(connection))
    active = _count(connection, schema.encoder, schema.encoder.c.state == EncoderState.ACTIVE)
    frames = connection.execute(select(func.count()).select_from(schema.frame)).scalar_one()
    yield Finding("galleries with frames and no active encoder", int(frames > 0 and active != 1))
    job = schema.job.c
    uneven = (job.state == JobState.DONE) & (job.indexed + job.failed != job.discovered)
    yield Finding("jobs whose files do not add up", _count(connection, schema.job, uneven))
    unfinished = _count(connection, schema.source, source.state != SourceState.COMPLETE)
    yield Finding("sources not indexed to their end", unfinished, is_problem=False)


def _miscounted(connection: Connection) -> int:
    """Count frames whose boxes are too many, or too few where no box was ever deleted by itself."""
    box, indexed, tombstone = schema.box.c, schema.indexed.c, schema.tombstone.c
    boxes = (
        select(func.count())
        .select_from(schema.box)
        .where(box.frame_id == indexed.frame_id, box.encoder_id == indexed.encoder_id)
        .correlate(schema.indexed)
        .scalar_subquery()
    )
    deleted = _count(connection, schema.tombstone, tombstone.kind == TombstoneKind.BOX)
    wrong = boxes > indexed.boxes if deleted else boxes != indexed.boxes
    return _count(connection, schema.indexed, wrong)


def _embeddings(connection: Connection) -> Iterator[Finding]:
    box, encoder = schema.box.c, schema.encoder.c
    bad = 0
    last = 0
    while True:
        rows = connection.execute(
            select(box.id, box.embedding, encoder.dimension)
            .join(schema.encoder, encoder.id == box.encoder_id)
            .where(box.id > last)
            .order_by(box.id)
            .limit(_BLOCK)
        ).all()
        if not rows:
            break
        last = rows[-1].id
        whole = [row.embedding for row in rows if len(row.embedding) == 2 * row.dimension]
        bad += len(rows) - len(whole)
        for dimension in {len(data) for data in whole}:
            data = b"".join(data for data in whole if len(data) == dimension)
            vectors = np.frombuffer(data, "<f2").reshape(-1, dimension // 2).astype(np.float32)
            length = np.linalg.norm(vectors, axis=1)
            # Not "off by more than": a length that is not a number is off too.
            bad += int((~(np.abs(length - 1) <= LENGTH_TOLERANCE)).sum())
    yield Finding("embeddings of the wrong size, not finite or not of length 1", bad)


def _count(connection: Connection, table: FromClause, where: ColumnElement[bool]) -> int:
    found: int = connection.execute(
        select(func.count()).select_from(table).where(where)
    ).scalar_one()
    return found
