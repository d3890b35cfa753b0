"""Holds and retention over HTTP: what may not be deleted, and what has to be."""

from datetime import datetime, timedelta

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from indexer.deletion import Hold, read_holds
from indexer.errors import GalleryError
from indexer.upkeep import retain_age
from service.access import Admin, Operator, ServiceHere
from service.documents import PREFIX
from service.filtering import named_cameras, require_zones
from service.frames import DeletedDocument, frame_within
from service.keys import Key
from service.problems import ProblemError
from service.recording import record
from service.state import Service

router = APIRouter(prefix=PREFIX, tags=["retention"])


class HoldRequest(BaseModel):
    """Frames to hold: those that match everything that is given."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=500, examples=["case 2026-117"])
    camera: str | None = Field(None, min_length=1, max_length=200)
    frame_id: int | None = Field(None, ge=1, lt=2**63)
    after: datetime | None = None
    before: datetime | None = None


class HoldDocument(BaseModel):
    """A hold that is not released."""

    id: int
    reason: str
    camera: str | None
    source_id: int | None
    frame_id: int | None
    after: datetime | None
    before: datetime | None
    created_at: datetime


class Retention(BaseModel):
    """How long frames are kept."""

    model_config = ConfigDict(extra="forbid")

    days: float = Field(gt=0, le=36_500, description="Frames captured longer ago are deleted.")


@router.post("/holds", status_code=201)
def new_hold(service: ServiceHere, key: Operator, wanted: HoldRequest) -> HoldDocument:
    """Hold frames, those that come later too: no deletion and no retention touches them."""
    require_zones(wanted.after, wanted.before)
    camera = None
    if wanted.camera is not None:
        camera = named_cameras(service, key, [wanted.camera])[wanted.camera]
    if wanted.frame_id is not None:
        frame_within(service, key, wanted.frame_id)
    if key.cameras is not None and camera is None and wanted.frame_id is None:
        raise ProblemError(403, "This key may hold frames of its own cameras only: give `camera`")
    record(service, key, "hold", wanted.model_dump(mode="json"))
    hold = Hold(
        wanted.reason,
        camera=camera,
        frame=wanted.frame_id,
        after=wanted.after,
        before=wanted.before,
    )
    number = service.gallery.add_hold(hold)
    return next(one for one in _holds(service, key) if one.id == number)


@router.get("/holds")
def holds(service: ServiceHere, key: Operator) -> list[HoldDocument]:
    """List the holds that are not released."""
    return _holds(service, key)


@router.delete("/holds/{hold_id}", status_code=204)
def release(service: ServiceHere, key: Operator, hold_id: int) -> None:
    """End a hold: its frames may be deleted again."""
    if all(one.id != hold_id for one in _holds(service, key)):
        raise ProblemError(404, f"There is no hold {hold_id}")
    record(service, key, "release hold", {"hold_id": hold_id})
    try:
        service.gallery.release_hold(hold_id)
    except GalleryError as error:
        raise ProblemError(404, f"There is no hold {hold_id}") from error


@router.post("/retention")
def retain(service: ServiceHere, key: Admin, wanted: Retention) -> DeletedDocument:
    """Delete the frames that were captured longer ago; held ones stay.

    The bytes are gone after `binet gallery compact`.
    """
    if key.cameras is not None:
        raise ProblemError(403, "Retention is for all cameras: this needs a key for all of them")
    record(service, key, "retain", {"days": wanted.days})
    deleted = retain_age(service.gallery, timedelta(days=wanted.days))
    return DeletedDocument.of(deleted)


def _holds(service: Service, key: Key) -> list[HoldDocument]:
    """Return the holds; with a scope, those of its cameras and of frames of theirs."""
    with service.gallery.database.read() as connection:
        found = read_holds(connection, service.scope(key))
    return [
        HoldDocument(
            id=one.id,
            reason=one.reason,
            camera=one.camera,
            source_id=one.source,
            frame_id=one.frame,
            after=one.after,
            before=one.before,
            created_at=one.created_at,
        )
        for one in found
    ]
