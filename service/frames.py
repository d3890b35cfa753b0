"""Frames, boxes and cameras: pictures out, and deletion. A key sees its own cameras only."""

import io
from datetime import datetime
from typing import Annotated, Any, Self

import numpy as np
from fastapi import APIRouter, Query, Response
from PIL import Image
from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, Row, func, select, true

from indexer import schema
from indexer.deletion import Deleted
from indexer.draw import draw_boxes
from indexer.filters import Filter, from_us
from indexer.ingest import read_pts
from indexer.query import FoundFrame
from service.access import Operator, ServiceHere, Viewer
from service.documents import (
    PREFIX,
    Box,
    CameraDocument,
    FrameDocument,
    StatsDocument,
    frame_document,
)
from service.filtering import named_cameras, require_zones
from service.keys import Key
from service.problems import ProblemError
from service.recording import record
from service.state import Service

router = APIRouter(prefix=PREFIX, tags=["gallery"])

_JPEG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {}}, "description": "The picture."}
}


class BoxDocument(BaseModel):
    """A person in a frame."""

    box_id: int
    box: Box
    detection_score: float
    crop_url: str


class FrameWithBoxes(FrameDocument):
    """A frame and the people in it."""

    boxes: list[BoxDocument]


class SourceDocument(BaseModel):
    """A video or picture, in one version of its content."""

    id: int
    name: str = Field(description="Of the file, without where it is.")
    camera: str
    kind: str
    version: int
    state: str
    frames: int


class DeletedDocument(BaseModel):
    """What was deleted, and what a hold has kept."""

    boxes: int
    frames: int
    held_frames: int

    @classmethod
    def of(cls, deleted: Deleted) -> Self:
        """Describe a deletion."""
        return cls(boxes=deleted.boxes, frames=deleted.frames, held_frames=deleted.held_frames)


@router.get("/cameras")
def cameras(service: ServiceHere, key: Viewer) -> list[CameraDocument]:
    """List the cameras that the key may know of."""
    known = named_cameras(service, key)
    return [CameraDocument(id=camera, name=name) for name, camera in sorted(known.items())]


@router.get("/sources")
def sources(
    service: ServiceHere,
    key: Viewer,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[int, Query(ge=0, lt=2**63, description="Sources behind this id.")] = 0,
) -> list[SourceDocument]:
    """List the sources that the key may know of, by id: videos, and each picture for itself."""
    source, frame = schema.source.c, schema.frame.c
    query = (
        select(schema.source, schema.camera.c.name.label("camera"), func.count(frame.id).label("n"))
        .join(schema.camera, schema.camera.c.id == source.camera_id)
        .outerjoin(schema.frame, frame.source_id == source.id)
        .where(source.id > after)
        .group_by(*schema.source.c, schema.camera.c.name)
        .order_by(source.id)
        .limit(limit)
    )
    scope = service.scope(key)
    if scope is not None:
        query = query.where(source.camera_id.in_(scope))
    with service.gallery.database.read() as connection:
        rows = connection.execute(query).all()
    return [
        SourceDocument(
            id=row.id,
            name=row.uri.rpartition("/")[2],
            camera=row.camera,
            kind=row.kind,
            version=row.version,
            state=row.state,
            frames=row.n,
        )
        for row in rows
    ]


@router.get("/stats")
def stats(service: ServiceHere, key: Viewer) -> StatsDocument:
    """Count what the key may know of, and tell its role."""
    scope = service.scope(key)
    source, frame, box = schema.source.c, schema.frame.c, schema.box.c

    def within(column: ColumnElement[int]) -> ColumnElement[bool]:
        return true() if scope is None else column.in_(scope)

    counted = func.count()
    with service.gallery.database.read() as connection:
        of_sources = select(counted).select_from(schema.source).where(within(source.camera_id))
        frames = (
            select(counted)
            .select_from(schema.frame)
            .join(schema.source, source.id == frame.source_id)
            .where(within(source.camera_id))
        )
        boxes = select(counted).select_from(schema.box).where(within(box.camera_id))
        return StatsDocument(
            role=key.role,
            cameras=len(named_cameras(service, key)),
            sources=connection.execute(of_sources).scalar_one(),
            frames=connection.execute(frames).scalar_one(),
            boxes=connection.execute(boxes).scalar_one(),
        )


@router.get("/frames/{frame_id}")
def frame(service: ServiceHere, key: Viewer, frame_id: int) -> FrameWithBoxes:
    """Describe a frame and the people in it."""
    row = frame_within(service, key, frame_id)
    box, encoder = schema.box.c, schema.encoder.c
    with service.gallery.database.read() as connection:
        people = connection.execute(
            select(box.id, box.x1, box.y1, box.x2, box.y2, box.score)
            .join(schema.encoder, encoder.id == box.encoder_id)
            .where(box.frame_id == frame_id, encoder.state == schema.EncoderState.ACTIVE)
            .order_by(box.id)
        ).all()
    return FrameWithBoxes(
        **frame_document(_found(row)).model_dump(),
        boxes=[
            BoxDocument(
                box_id=person.id,
                box=(person.x1, person.y1, person.x2, person.y2),
                detection_score=person.score,
                crop_url=f"{PREFIX}/boxes/{person.id}/crop",
            )
            for person in people
        ],
    )


@router.get("/frames/{frame_id}/image", response_class=Response, responses=_JPEG)
def frame_image(
    service: ServiceHere,
    key: Viewer,
    frame_id: int,
    draw: Annotated[list[int], Query(description="Boxes to draw on it.", max_length=100)] = [],  # noqa: B006
) -> Response:
    """Return a frame's picture, with boxes on it where they are asked for."""
    frame_within(service, key, frame_id)
    boxes = [box_within(service, key, box_id) for box_id in draw]
    if any(box.frame_id != frame_id for box in boxes):
        raise ProblemError(404, "One of the boxes is not in this frame")
    with service.media() as media:
        picture = media.frame(frame_id)
    if boxes:
        corners = np.array([[box.x1, box.y1, box.x2, box.y2] for box in boxes])
        picture = draw_boxes(picture, corners, np.array([box.score for box in boxes]))
    return _jpeg(picture)


@router.get("/boxes/{box_id}/crop", response_class=Response, responses=_JPEG)
def crop(service: ServiceHere, key: Viewer, box_id: int) -> Response:
    """Return a person, cut out of their frame."""
    box_within(service, key, box_id)
    with service.media() as media:
        return _jpeg(media.crop(box_id))


@router.delete("/frames")
def delete_frames(
    service: ServiceHere,
    key: Operator,
    frame_id: Annotated[list[int], Query(description="Frames.")] = [],  # noqa: B006
    camera: Annotated[list[str], Query(description="Of these cameras.")] = [],  # noqa: B006
    after: Annotated[datetime | None, Query(description="Captured then or later.")] = None,
    before: Annotated[datetime | None, Query(description="Captured earlier.")] = None,
    reason: Annotated[str, Query(max_length=500, description="Why.")] = "",
) -> DeletedDocument:
    """Delete frames and everybody in them, for good: by id, or by camera and time.

    Held frames stay. The bytes are gone after `binet gallery compact`.
    """
    by_filter = bool(camera) or after is not None or before is not None
    if bool(frame_id) == by_filter:
        raise ProblemError(422, "Say what is to be deleted: frame_id, or camera, after and before")
    require_zones(after, before)
    where = None
    if by_filter:
        allowed = named_cameras(service, key, camera)
        of_cameras = allowed.values() if camera else service.scope(key)
        where = Filter(cameras=of_cameras, after=after, before=before)
    for one in frame_id:
        frame_within(service, key, one)
    detail: dict[str, Any] = {
        "reason": reason,
        "frame_ids": frame_id,
        "cameras": camera,
        "after": None if after is None else after.isoformat(),
        "before": None if before is None else before.isoformat(),
    }
    record(service, key, "delete", detail)
    deleted = service.gallery.delete(frames=frame_id, where=where)
    return DeletedDocument.of(deleted)


def frame_within(service: Service, key: Key, frame_id: int) -> Row[Any]:
    """Return a frame's row; what is outside the scope and what does not exist look the same."""
    frame, source = schema.frame.c, schema.source.c
    query = (
        select(schema.frame, source.camera_id, schema.camera.c.name.label("camera"))
        .join(schema.source, source.id == frame.source_id)
        .join(schema.camera, schema.camera.c.id == source.camera_id)
        .where(frame.id == frame_id)
    )
    scope = service.scope(key)
    if scope is not None:
        query = query.where(source.camera_id.in_(scope))
    row = _one(service, query) if is_id(frame_id) else None
    if row is None:
        raise ProblemError(404, f"There is no frame {frame_id}")
    return row


def box_within(service: Service, key: Key, box_id: int) -> Row[Any]:
    """Return a box's row; what is outside the scope and what does not exist look the same."""
    query = select(schema.box).where(schema.box.c.id == box_id)
    scope = service.scope(key)
    if scope is not None:
        query = query.where(schema.box.c.camera_id.in_(scope))
    row = _one(service, query) if is_id(box_id) else None
    if row is None:
        raise ProblemError(404, f"There is no box {box_id}")
    return row


def _one(service: Service, query: Any) -> Row[Any] | None:
    with service.gallery.database.read() as connection:
        row: Row[Any] | None = connection.execute(query).one_or_none()
        return row


def is_id(number: int) -> bool:
    """Tell whether SQL could hold it."""
    return 0 < number < 2**63


def _found(row: Row[Any]) -> FoundFrame:
    return FoundFrame(
        id=row.id,
        source_id=row.source_id,
        position=row.position,
        camera_id=row.camera_id,
        camera=row.camera,
        captured_at=from_us(row.captured_at_us),
        pts_s=read_pts(row.pts_numerator, row.pts_denominator),
        width=row.width,
        height=row.height,
    )


def as_jpeg(picture: Image.Image) -> bytes:
    """Encode a picture anew: nothing that the original file said about itself is in it."""
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=90)
    return file.getvalue()


def _jpeg(picture: Image.Image) -> Response:
    headers = {"Cache-Control": "private, no-store"}
    return Response(as_jpeg(picture), media_type="image/jpeg", headers=headers)
