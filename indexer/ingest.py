"""Writing to the gallery: cameras, sources, encoders, frames with their people."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any

import numpy as np
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Float,
    Integer,
    LargeBinary,
    Row,
    String,
    Table,
    func,
    insert,
    select,
    update,
)

from indexer import schema
from indexer.database import now_us
from indexer.errors import EncoderError, GalleryError
from indexer.filters import to_us
from indexer.mirror import Encoder
from indexer.schema import EncoderState, SourceState
from indexer.vector_index import Ids, check_vectors
from model.detections import Detections

#: Values in one IN list: SQLite takes 32,766, and a plan is made for each length.
IN_CHUNK = 500


#: Rows of one batch from which PostgreSQL takes them with COPY. Measured beside other work, all of
#: `add_frames`: 32 boxes 38 ms by insert, 32 by COPY; 512 boxes 157, 101; 10,000 boxes 2991, 1427.
COPY_FROM = 100

_COPY_TYPES = {
    BigInteger: "int8",
    Integer: "int4",
    Float: "float8",
    LargeBinary: "bytea",
    String: "text",
}


@dataclass(frozen=True, eq=False)
class NewFrame:
    """A frame and the people that the network found in it.

    Attributes
    ----------
    position
        Number of the frame in its source.
    captured_at
        With time zone.
    clock
        Where `captured_at` comes from: "given", "exif", "name", "file", ...
    pts_s
        Seconds in the container's own clock; None without timestamps.
    """

    position: int
    captured_at: datetime
    width: int
    height: int
    content_sha256: str
    detections: Detections
    clock: str = "given"
    pts_s: Fraction | None = None


@dataclass(frozen=True, eq=False)
class AddedFrames:
    """What a batch came to, frame by frame in its order.

    Attributes
    ----------
    box_ids
        int64 [N] of each frame, in the order of its detections.
    new_frames, new_boxes
        How many were not there already.
    """

    frame_ids: list[int]
    box_ids: list[Ids]
    new_frames: int
    new_boxes: int


@dataclass(frozen=True)
class Source:
    """A video file, picture folder or the like, in one version of its content."""

    id: int
    camera_id: int
    uri: str
    version: int
    kind: str
    content_sha256: str
    state: SourceState


def revise(connection: Connection) -> None:
    """Mark that what can be found changes with this transaction."""
    connection.execute(
        insert(schema.revision).values(token=secrets.token_hex(16), made_at_us=now_us())
    )


def camera_id(connection: Connection, name: str) -> int:
    """Return a camera's id, and make it if it is new."""
    column = schema.camera.c
    found: int | None = connection.execute(select(column.id).where(column.name == name)).scalar()
    return found or _insert(connection, schema.camera, name=name)


def add_source(
    connection: Connection, camera: int, uri: str, kind: str, content_sha256: str
) -> Source:
    """Return the source with this content, whatever its name; make it if it is new.

    Other content under a known name is the next version of it.
    """
    column = schema.source.c
    same = (column.camera_id == camera, column.content_sha256 == content_sha256)
    row = connection.execute(select(schema.source).where(*same)).one_or_none()
    if row is None:
        versions = select(func.max(column.version)).where(
            column.camera_id == camera, column.uri == uri
        )
        source_id = _insert(
            connection,
            schema.source,
            camera_id=camera,
            uri=uri,
            version=(connection.execute(versions).scalar() or 0) + 1,
            kind=kind,
            content_sha256=content_sha256,
            state=SourceState.INDEXING,
            created_at_us=now_us(),
        )
        row = connection.execute(select(schema.source).where(column.id == source_id)).one()
    return _source(row)


def set_source(
    connection: Connection,
    source_id: int,
    state: SourceState | None = None,
    content_sha256: str | None = None,
) -> None:
    """Change a source's state, or its content when more was appended to the same frames."""
    values: dict[str, Any] = {}
    if state is not None:
        values["state"] = state
    if content_sha256 is not None:
        values["content_sha256"] = content_sha256
    changed = connection.execute(
        update(schema.source).where(schema.source.c.id == source_id).values(**values)
    )
    if not changed.rowcount:
        raise _no_source(source_id)


def encoders(connection: Connection) -> list[Encoder]:
    """List all encoders, oldest first."""
    rows = connection.execute(select(schema.encoder).order_by(schema.encoder.c.id))
    return [_encoder(row) for row in rows]


def active_encoder(connection: Connection) -> Encoder:
    """Return the encoder that is searched with.

    Raises
    ------
    EncoderError
        When none is active.
    """
    query = select(schema.encoder).where(schema.encoder.c.state == EncoderState.ACTIVE)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise EncoderError("The gallery has no active encoder: index something first")
    return _encoder(row)


def add_encoder(
    connection: Connection, weights_sha256: str, preprocess_sha256: str, dimension: int
) -> Encoder:
    """Return the encoder of these weights and preprocessing; make it, building, if it is new."""
    column = schema.encoder.c
    same = (column.weights_sha256 == weights_sha256, column.preprocess_sha256 == preprocess_sha256)
    row = connection.execute(select(schema.encoder).where(*same)).one_or_none()
    if row is None:
        encoder_id = _insert(
            connection,
            schema.encoder,
            weights_sha256=weights_sha256,
            preprocess_sha256=preprocess_sha256,
            dimension=dimension,
            state=EncoderState.BUILDING,
            created_at_us=now_us(),
        )
        row = connection.execute(select(schema.encoder).where(column.id == encoder_id)).one()
    if row.dimension != dimension:
        raise EncoderError(
            f"This encoder was registered with dimension {row.dimension}, not {dimension}"
        )
    return _encoder(row)


def activate(connection: Connection, encoder_id: int) -> None:
    """Make an encoder the one that is searched with; the one before is retired."""
    encoder(connection, encoder_id)
    column = schema.encoder.c
    connection.execute(
        update(schema.encoder)
        .where(column.state == EncoderState.ACTIVE, column.id != encoder_id)
        .values(state=EncoderState.RETIRED)
    )
    connection.execute(
        update(schema.encoder).where(column.id == encoder_id).values(state=EncoderState.ACTIVE)
    )
    revise(connection)


def rebuild(connection: Connection, encoder_id: int) -> None:
    """Let a retired encoder take frames again."""
    column = schema.encoder.c
    connection.execute(
        update(schema.encoder)
        .where(column.id == encoder_id, column.state == EncoderState.RETIRED)
        .values(state=EncoderState.BUILDING)
    )


def lacks(encoder_id: int) -> ColumnElement[bool]:
    """Return whether a row of `frame` was not looked at by an encoder."""
    indexed, frame = schema.indexed.c, schema.frame.c
    looked = select(indexed.frame_id).where(
        indexed.frame_id == frame.id, indexed.encoder_id == encoder_id
    )
    return ~looked.correlate(schema.frame).exists()


def count_lacking(connection: Connection, encoder_id: int) -> int:
    """Count the frames that an encoder has not looked at."""
    query = select(func.count()).select_from(schema.frame).where(lacks(encoder_id))
    found: int = connection.execute(query).scalar_one()
    return found


def encoder(connection: Connection, encoder_id: int) -> Encoder:
    """Return an encoder."""
    query = select(schema.encoder).where(schema.encoder.c.id == encoder_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise EncoderError(f"The gallery has no encoder {encoder_id}: register it first")
    return _encoder(row)


def add_frames(
    connection: Connection, encoder_id: int, source_id: int, frames: Sequence[NewFrame]
) -> AddedFrames:
    """Write frames and boxes; what this encoder has done already is left as it is.

    Raises
    ------
    EmbeddingError, EncoderError, GalleryError
        When embeddings do not fit the encoder, the encoder is retired, the source is not there,
        or another frame is at the same position of it.
    """
    by = encoder(connection, encoder_id)
    if by.state == EncoderState.RETIRED:
        raise EncoderError(f"Encoder {encoder_id} is retired: index with the active one")
    for new in frames:
        check_vectors(new.detections.embeddings.astype(np.float16), by.dimension)
    column = schema.source.c
    camera = connection.execute(select(column.camera_id).where(column.id == source_id)).scalar()
    if camera is None:
        raise _no_source(source_id)

    frame_ids, new_frames = _frame_ids(connection, source_id, frames)
    done = _done(connection, encoder_id, frame_ids)
    fresh = [
        (frame_id, new)
        for frame_id, new in zip(frame_ids, frames, strict=True)
        if frame_id not in done
    ]
    boxes = [
        values
        for frame_id, new in fresh
        for values in _box_rows(frame_id, by, source_id, camera, new)
    ]
    if fresh:
        if boxes:
            _write(connection, schema.box, boxes)
        _write(
            connection,
            schema.indexed,
            [
                {"frame_id": frame_id, "encoder_id": encoder_id, "boxes": len(new.detections)}
                for frame_id, new in fresh
            ],
        )
        revise(connection)
    ids = _box_ids(connection, encoder_id, frame_ids)
    return AddedFrames(
        frame_ids,
        [np.array(ids.get(frame_id, []), np.int64) for frame_id in frame_ids],
        new_frames,
        len(boxes),
    )


def _frame_ids(
    connection: Connection, source_id: int, frames: Sequence[NewFrame]
) -> tuple[list[int], int]:
    """Return ids in the order of `frames`, after adding those that are new, and their number."""
    if len({new.position for new in frames}) != len(frames):
        raise GalleryError("Two frames of one batch have the same position in their source")
    known = _frames_at(connection, source_id, [new.position for new in frames])
    for new in frames:
        if known.get(new.position, (0, new.content_sha256))[1] != new.content_sha256:
            raise GalleryError(
                f"Frame {new.position} of source {source_id} has changed: index the file again, "
                "as a new version"
            )
    added = [new for new in frames if new.position not in known]
    if added:
        _write(connection, schema.frame, [_frame_row(source_id, new) for new in added])
        known |= _frames_at(connection, source_id, [new.position for new in added])
    return [known[new.position][0] for new in frames], len(added)


def _frames_at(
    connection: Connection, source_id: int, positions: list[int]
) -> dict[int, tuple[int, str]]:
    column = schema.frame.c
    query = select(column.position, column.id, column.content_sha256)
    return {
        row.position: (row.id, row.content_sha256)
        for chunk in chunks(positions)
        for row in connection.execute(
            query.where(column.source_id == source_id, column.position.in_(chunk))
        )
    }


def _done(connection: Connection, encoder_id: int, frame_ids: list[int]) -> set[int]:
    column = schema.indexed.c
    return {
        frame_id
        for chunk in chunks(frame_ids)
        for frame_id in connection.execute(
            select(column.frame_id).where(
                column.encoder_id == encoder_id, column.frame_id.in_(chunk)
            )
        ).scalars()
    }


def _box_ids(connection: Connection, encoder_id: int, frame_ids: list[int]) -> dict[int, list[int]]:
    column = schema.box.c
    found: dict[int, list[int]] = {}
    query = select(column.frame_id, column.id, column.encoder_id)
    for chunk in chunks(frame_ids):
        # Encoder and order are seen to here: SQLite would walk through all boxes of the encoder.
        for frame_id, box_id, by in connection.execute(query.where(column.frame_id.in_(chunk))):
            if by == encoder_id:
                found.setdefault(frame_id, []).append(box_id)
    return {frame_id: sorted(ids) for frame_id, ids in found.items()}


def _frame_row(source_id: int, new: NewFrame) -> dict[str, Any]:
    return {
        "source_id": source_id,
        "position": new.position,
        "pts_numerator": None if new.pts_s is None else new.pts_s.numerator,
        "pts_denominator": None if new.pts_s is None else new.pts_s.denominator,
        "captured_at_us": to_us(new.captured_at),
        "clock": new.clock,
        "width": new.width,
        "height": new.height,
        "content_sha256": new.content_sha256,
    }


def read_pts(numerator: int | None, denominator: int | None) -> Fraction | None:
    """Return the timestamp of a row of `frame` in seconds; None where it has none."""
    return None if numerator is None or denominator is None else Fraction(numerator, denominator)


def _box_rows(
    frame_id: int, by: Encoder, source_id: int, camera: int, new: NewFrame
) -> list[dict[str, Any]]:
    people = new.detections
    captured_at_us = to_us(new.captured_at)
    embeddings = people.embeddings.astype("<f2")
    return [
        {
            "frame_id": frame_id,
            "encoder_id": by.id,
            "source_id": source_id,
            "camera_id": camera,
            "captured_at_us": captured_at_us,
            "x1": x1,
            "y1": y1,
            "x2": x2,
            "y2": y2,
            "score": score,
            "embedding": embedding.tobytes(),
        }
        for (x1, y1, x2, y2), score, embedding in zip(
            people.boxes_xyxy.tolist(), people.scores.tolist(), embeddings, strict=True
        )
    ]


def _write(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows; many of them PostgreSQL takes with COPY."""
    if connection.dialect.name == "sqlite" or len(rows) < COPY_FROM:
        connection.execute(insert(table), rows)
        return
    names = list(rows[0])
    driver: Any = connection.connection.driver_connection
    statement = f"COPY {table.name} ({', '.join(names)}) FROM STDIN (FORMAT BINARY)"
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types([_COPY_TYPES[type(table.c[name].type)] for name in names])
        for row in rows:
            copy.write_row(list(row.values()))


def chunks(values: list[int]) -> list[list[int]]:
    """Cut a list to lengths that suit an IN list."""
    return [values[start : start + IN_CHUNK] for start in range(0, len(values), IN_CHUNK)]


def _insert(connection: Connection, table: Table, **values: Any) -> int:
    key: int = connection.execute(insert(table).values(**values).returning(table.c.id)).scalar_one()
    return key


def _encoder(row: Row[Any]) -> Encoder:
    return Encoder(
        row.id,
        row.weights_sha256,
        row.preprocess_sha256,
        row.dimension,
        EncoderState(row.state),
    )


def _source(row: Row[Any]) -> Source:
    return Source(
        row.id,
        row.camera_id,
        row.uri,
        row.version,
        row.kind,
        row.content_sha256,
        SourceState(row.state),
    )


def _no_source(source_id: int) -> GalleryError:
    return GalleryError(f"The gallery has no source {source_id}: it may have been deleted")
