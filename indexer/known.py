"""What the gallery has of a file already: work is known by its content, not by its name."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sqlalchemy import ColumnElement, Connection, select

from indexer import schema
from indexer.capture_time import CaptureTime, Clock
from indexer.filters import from_us
from indexer.ingest import IN_CHUNK
from indexer.schema import SourceState
from indexer.sources import SourceFile, SourceKind

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class KnownClip:
    """A clip's source in the gallery.

    Attributes
    ----------
    done
        int64 [N], ascending: positions that the encoder has seen.
    first
        When its first frame was captured, if that is still there.
    """

    source_id: int
    state: SourceState
    done: Positions
    first: CaptureTime | None


@dataclass(frozen=True)
class Scope:
    """For which camera and encoder something is known.

    Attributes
    ----------
    camera
        The name that was given. None: what is known under any camera is known.
    """

    camera: str | None
    encoder_id: int

    def camera_of(self, file: SourceFile) -> str:
        """Return the name of a file's camera: the given one, or its folder's."""
        return (self.camera or file.folder)[:200]


def known_pictures(connection: Connection, scope: Scope, digests: list[str]) -> set[str]:
    """Return those contents that are indexed completely."""
    source, frame, indexed = schema.source.c, schema.frame.c, schema.indexed.c
    query = (
        select(source.content_sha256)
        .join(schema.frame, frame.source_id == source.id)
        .join(schema.indexed, indexed.frame_id == frame.id)
        .where(indexed.encoder_id == scope.encoder_id, source.state == SourceState.COMPLETE)
    )
    query = query.where(*_of_camera(scope.camera))
    found: set[str] = set()
    for start in range(0, len(digests), IN_CHUNK):
        some = query.where(source.content_sha256.in_(digests[start : start + IN_CHUNK]))
        found.update(connection.execute(some).scalars())
    return found


def known_clip(connection: Connection, scope: Scope, digest: str) -> KnownClip | None:
    """Find a clip by its content."""
    source = schema.source.c
    query = (
        select(source.id, source.state)
        .where(source.content_sha256 == digest, *_of_camera(scope.camera))
        .order_by(source.id)
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else _clip(connection, scope, row.id, row.state)


def earlier_clip(connection: Connection, scope: Scope, file: SourceFile) -> KnownClip | None:
    """Find the last version of a clip by its name: the file may be the same, only longer."""
    source, camera = schema.source.c, schema.camera.c
    query = (
        select(source.id, source.state)
        .join(schema.camera, camera.id == source.camera_id)
        .where(
            source.uri == file.uri,
            source.kind == SourceKind.VIDEO,
            camera.name == scope.camera_of(file),
        )
        .order_by(source.version.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else _clip(connection, scope, row.id, row.state)


def clip_digests(connection: Connection, source_id: int) -> tuple[Positions, tuple[str, ...]]:
    """Return position and content of every frame of a source."""
    frame = schema.frame.c
    rows = connection.execute(
        select(frame.position, frame.content_sha256)
        .where(frame.source_id == source_id)
        .order_by(frame.position)
    ).all()
    positions = np.array([row.position for row in rows], np.int64)
    return positions, tuple(row.content_sha256 for row in rows)


def _clip(connection: Connection, scope: Scope, source_id: int, state: str) -> KnownClip:
    frame, indexed = schema.frame.c, schema.indexed.c
    done = connection.execute(
        select(frame.position)
        .join(schema.indexed, indexed.frame_id == frame.id)
        .where(frame.source_id == source_id, indexed.encoder_id == scope.encoder_id)
        .order_by(frame.position)
    ).scalars()
    first = connection.execute(
        select(frame.captured_at_us, frame.clock).where(
            frame.source_id == source_id, frame.position == 0
        )
    ).one_or_none()
    return KnownClip(
        source_id,
        SourceState(state),
        np.fromiter(done, np.int64),
        None if first is None else CaptureTime(from_us(first[0]), Clock(first[1])),
    )


def _of_camera(name: str | None) -> list[ColumnElement[bool]]:
    if name is None:
        return []
    camera = schema.camera.c
    of_name = select(camera.id).where(camera.name == name).scalar_subquery()
    return [schema.source.c.camera_id == of_name]
