"""What the service answers with, as models: the OpenAPI document is made of them."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from indexer.grouping import Appearance, FrameGroup
from indexer.query import FoundFrame, Hit
from model.calibration import Calibration
from service.audit import AuditEntry
from service.keys import Key
from service.roles import Role

#: Where the routes below are mounted.
PREFIX = "/v1"

Box = tuple[float, float, float, float]


class FrameDocument(BaseModel):
    """The frame that a box is in."""

    id: int = Field(examples=[1203])
    source_id: int
    camera: str = Field(examples=["gate"])
    captured_at: datetime
    timestamp_s: float | None = Field(description="In the clock of its video; null for pictures.")
    position: int = Field(description="Number of the frame in its source.")
    width: int
    height: int
    image_url: str = Field(examples=["/v1/frames/1203/image"])


class ResultDocument(BaseModel):
    """A box of a similar person."""

    box_id: int = Field(examples=[90412])
    score: float = Field(description="Similarity, from -1 to 1. Similar, not identified.")
    same_person: float | None = Field(
        None,
        description="Share of the benchmark's results with such a similarity that were the same "
        "person; see `calibration`. In another gallery it is another share.",
    )
    box: Box = Field(description="x1, y1, x2, y2 in pixels of the frame.")
    detection_score: float = Field(description="How sure the detector is that this is a person.")
    frame: FrameDocument
    crop_url: str = Field(examples=["/v1/boxes/90412/crop"])


class GroupDocument(BaseModel):
    """Results of one frame, or of one person passing one camera."""

    score: float = Field(description="Of the best result.")
    camera: str
    begin: datetime
    end: datetime
    results: list[ResultDocument]


class PersonDocument(BaseModel):
    """Somebody who was found in the query's scene."""

    box: Box
    detection_score: float


class EncoderDocument(BaseModel):
    """Whose embeddings were compared."""

    id: int
    weights_sha256: str
    index_revision: int


class CalibrationDocument(BaseModel):
    """Where `same_person` comes from."""

    benchmark: str
    query: str
    pairs: int


class SearchDocument(BaseModel):
    """The answer to a search."""

    meaning: Literal["similar, not identified"] = "similar, not identified"
    audit_id: int | None = Field(description="Where the audit holds this search; null for none.")
    encoder: EncoderDocument | None
    took_ms: float
    exact: bool = True
    calibration: CalibrationDocument | None = Field(
        default=None,
        description="null where the weights have none, and for searches with negatives.",
    )
    people: list[PersonDocument] = Field(
        default=[],
        description="For a scene without a box: who is in it. Ask again with the box of one.",
    )
    results: list[ResultDocument]
    groups: list[GroupDocument] = []


class CameraDocument(BaseModel):
    """A camera that the key may know of."""

    id: int
    name: str


class StatsDocument(BaseModel):
    """How much is there, of what the key may know, and what the key may do."""

    role: Role
    cameras: int
    sources: int
    frames: int
    boxes: int


class KeyDocument(BaseModel):
    """A key without its secret."""

    id: int
    name: str
    role: Role
    cameras: list[str] | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewKeyDocument(KeyDocument):
    """A new key. The secret is shown this once."""

    secret: str


class AuditDocument(BaseModel):
    """A row of the audit."""

    id: int
    at: datetime
    caller: str
    event: str
    detail: dict[str, object]
    hash: str


def frame_document(frame: FoundFrame) -> FrameDocument:
    """Describe a frame."""
    return FrameDocument(
        id=frame.id,
        source_id=frame.source_id,
        camera=frame.camera,
        captured_at=frame.captured_at,
        timestamp_s=None if frame.pts_s is None else float(frame.pts_s),
        position=frame.position,
        width=frame.width,
        height=frame.height,
        image_url=f"{PREFIX}/frames/{frame.id}/image",
    )


def result_document(hit: Hit, calibration: Calibration | None = None) -> ResultDocument:
    """Describe a box."""
    return ResultDocument(
        same_person=None if calibration is None else float(calibration.share(hit.score)),
        box_id=hit.box_id,
        score=hit.score,
        box=hit.box_xyxy,
        detection_score=hit.detection_score,
        frame=frame_document(hit.frame),
        crop_url=f"{PREFIX}/boxes/{hit.box_id}/crop",
    )


def group_document(
    group: FrameGroup | Appearance, calibration: Calibration | None = None
) -> GroupDocument:
    """Describe results that belong together."""
    times = [hit.frame.captured_at for hit in group.hits]
    return GroupDocument(
        score=group.score,
        camera=group.hits[0].frame.camera,
        begin=min(times),
        end=max(times),
        results=[result_document(hit, calibration) for hit in group.hits],
    )


def key_document(key: Key) -> KeyDocument:
    """Describe a key."""
    return KeyDocument(
        id=key.id,
        name=key.name,
        role=key.role,
        cameras=None if key.cameras is None else list(key.cameras),
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
    )


def audit_document(entry: AuditEntry) -> AuditDocument:
    """Describe a row of the audit."""
    return AuditDocument(
        id=entry.id,
        at=entry.at,
        caller=entry.caller,
        event=entry.event,
        detail=entry.detail,
        hash=entry.hash,
    )
