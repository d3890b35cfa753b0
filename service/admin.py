"""Keys and audit over HTTP, for administrators."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from service import audit
from service.access import Admin, ServiceHere
from service.documents import (
    PREFIX,
    AuditDocument,
    KeyDocument,
    NewKeyDocument,
    audit_document,
    key_document,
)
from service.keys import create_key, list_keys, revoke_key
from service.problems import ProblemError
from service.recording import record
from service.roles import Role

router = APIRouter(prefix=PREFIX, tags=["administration"])


class KeyRequest(BaseModel):
    """A key to make."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200, examples=["front desk"])
    role: Role = Role.VIEWER
    cameras: list[str] | None = Field(None, description="Its cameras; null for all.")
    expires_at: datetime | None = None


class VerifiedDocument(BaseModel):
    """Whether the audit is as it was written."""

    rows: int
    last_hash: str
    broken_at: int | None = Field(description="The first row that is not; null for none.")


@router.post("/keys", status_code=201)
def new_key(service: ServiceHere, key: Admin, wanted: KeyRequest) -> NewKeyDocument:
    """Make a key. Its secret is in this answer, and nowhere else."""
    if wanted.expires_at is not None and wanted.expires_at.utcoffset() is None:
        raise ProblemError(422, "expires_at needs a time zone")
    record(
        service, key, "create key",
        {"name": wanted.name, "role": wanted.role, "cameras": wanted.cameras},
    )  # fmt: skip
    made, secret = create_key(
        service.store, wanted.name, wanted.role, wanted.cameras, wanted.expires_at
    )
    return NewKeyDocument(**key_document(made).model_dump(), secret=secret)


@router.get("/keys")
def keys(service: ServiceHere, _: Admin) -> list[KeyDocument]:
    """List all keys, without their secrets."""
    return [key_document(key) for key in list_keys(service.store)]


@router.delete("/keys/{key_id}", status_code=204)
def end_key(service: ServiceHere, key: Admin, key_id: int) -> None:
    """Revoke a key: its next request is refused."""
    if not 0 < key_id < 2**63 or all(one.id != key_id for one in list_keys(service.store)):
        raise ProblemError(404, f"There is no key {key_id}")
    record(service, key, "revoke key", {"key_id": key_id})
    revoke_key(service.store, key_id)


@router.get("/audit")
def rows(
    service: ServiceHere,
    _: Admin,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[int | None, Query(ge=1, lt=2**63, description="Rows before this id.")] = None,
) -> list[AuditDocument]:
    """Return rows of the audit, newest first."""
    return [audit_document(entry) for entry in audit.entries(service.store, limit, before)]


@router.get("/audit/verify")
def verified(service: ServiceHere, _: Admin) -> VerifiedDocument:
    """Compute the audit's hashes again."""
    found = audit.verify(service.store)
    return VerifiedDocument(rows=found.rows, last_hash=found.last_hash, broken_at=found.broken_at)
