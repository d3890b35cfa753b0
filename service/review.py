"""`/v1/cases`: people agree on results, one after the other, and take the case with them."""

import json
import tempfile
from collections.abc import Iterator
from typing import IO, Annotated

from fastapi import APIRouter, Path
from fastapi.responses import StreamingResponse
from sqlalchemy import select

from indexer.hits import hits_still_there
from service import cases, schema
from service.access import Operator, ServiceHere, Viewer
from service.case_export import export_case
from service.documents import PREFIX, result_document
from service.frames import box_within, is_id
from service.keys import Key
from service.problems import ProblemError
from service.recording import record, writing
from service.review_documents import (
    CaseDocument,
    CaseSummary,
    NewCase,
    Note,
    Proposal,
)
from service.state import Service

router = APIRouter(prefix=PREFIX, tags=["review"])

#: Bytes of an export that are sent at once.
_CHUNK = 1 << 20
#: A larger one is on disk while it is made.
_IN_MEMORY = 32 << 20

CaseId = Annotated[int, Path(description="Of the case.")]
BoxId = Annotated[int, Path(description="Of the result.")]


@router.post("/cases", status_code=201)
def new_case(service: ServiceHere, key: Viewer, wanted: NewCase) -> CaseDocument:
    """Make a case."""
    if not wanted.name.strip():
        raise ProblemError(422, "A case needs a name")
    with writing(service) as connection:
        case_id = cases.create_case(connection, key, wanted.name)
    return _document(service, key, case_id)


@router.get("/cases")
def all_cases(service: ServiceHere, key: Viewer) -> list[CaseSummary]:
    """List the cases, newest first."""
    with service.store.read() as connection:
        found = cases.read_cases(connection, service.scope(key))
    return [case for case in found if _is_visible(key, case)]


@router.get("/cases/{case_id}")
def case(service: ServiceHere, key: Viewer, case_id: CaseId) -> CaseDocument:
    """Describe a case and the results in it."""
    return _document(service, key, case_id)


@router.post("/cases/{case_id}/reviews", status_code=201)
def propose(service: ServiceHere, key: Viewer, case_id: CaseId, wanted: Proposal) -> CaseDocument:
    """Put a result into a case."""
    of = _case(service, key, case_id)
    box = box_within(service, key, wanted.box_id)
    score = _score(service, key, wanted)
    with writing(service) as connection:
        cases.propose(connection, key, of, box.id, box.camera_id, score, wanted.note)
    return _document(service, key, case_id)


@router.post("/cases/{case_id}/reviews/{box_id}/confirm")
def confirm(
    service: ServiceHere, key: Viewer, case_id: CaseId, box_id: BoxId, said: Note
) -> CaseDocument:
    """Agree with a result. It is confirmed when two keys have agreed."""
    of, scope = _case(service, key, case_id), service.scope(key)
    with writing(service) as connection:
        cases.confirm(connection, key, of, box_id, scope, said.note)
    return _document(service, key, case_id)


@router.post("/cases/{case_id}/reviews/{box_id}/reject")
def reject(
    service: ServiceHere, key: Viewer, case_id: CaseId, box_id: BoxId, said: Note
) -> CaseDocument:
    """Disagree with a result. It can be proposed again."""
    of, scope = _case(service, key, case_id), service.scope(key)
    with writing(service) as connection:
        cases.reject(connection, key, of, box_id, scope, said.note)
    return _document(service, key, case_id)


@router.get(
    "/cases/{case_id}/export",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/zip": {}}, "description": "The case as a ZIP file."}},
)
def export(service: ServiceHere, key: Viewer, case_id: CaseId) -> StreamingResponse:
    """Return a case with its pictures, JSON, hashes and its part of the audit."""
    document = _document(service, key, case_id)
    # It is closed when it has been sent.
    file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
    try:
        digest = export_case(service, key, document, file)
        record(service, key, "export case", {"case": document.name, "sums_sha256": digest})
    except BaseException:
        file.close()
        raise
    file.seek(0)
    headers = {"Content-Disposition": f'attachment; filename="case-{case_id}.zip"'}
    return StreamingResponse(_chunks(file), media_type="application/zip", headers=headers)


@router.delete("/cases/{case_id}", status_code=204)
def delete_case(service: ServiceHere, key: Operator, case_id: CaseId) -> None:
    """Delete a case. Frames, boxes and the audit stay."""
    of = _case(service, key, case_id)
    if key.cameras is not None:
        raise ProblemError(403, "A case may hold other cameras: this needs a key for all of them")
    with writing(service) as connection:
        cases.delete_case(connection, key, of)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _case(service: Service, key: Key, case_id: int) -> CaseSummary:
    """Return a case; what is outside the scope and what does not exist look the same."""
    found: list[CaseSummary] = []
    if is_id(case_id):
        with service.store.read() as connection:
            found = cases.read_cases(connection, service.scope(key), case_id)
    if not found or not _is_visible(key, found[0]):
        raise ProblemError(404, f"There is no case {case_id}")
    return found[0]


def _is_visible(key: Key, case: CaseSummary) -> bool:
    """Tell whether a key may know of a case: a name alone can tell of other cameras."""
    return key.cameras is None or case.created_by == key.caller or bool(case.counts)


def _score(service: Service, key: Key, wanted: Proposal) -> float | None:
    """Look the similarity up in the audit: nobody can propose a result with another one."""
    if wanted.audit_id is None:
        return None
    audit = schema.audit.c
    with service.store.read() as connection:
        row = connection.execute(
            select(audit.detail).where(
                audit.id == wanted.audit_id, audit.event == "search", audit.caller == key.caller
            )
        ).one_or_none()
    results = [] if row is None else json.loads(row.detail).get("results", [])
    scores = dict(results)
    if wanted.box_id not in scores:
        raise ProblemError(
            422, f"Search {wanted.audit_id} of this key has not found box {wanted.box_id}"
        )
    return float(scores[wanted.box_id])


def _document(service: Service, key: Key, case_id: int) -> CaseDocument:
    of = _case(service, key, case_id)
    with service.store.read() as connection:
        reviews = cases.read_reviews(connection, case_id, service.scope(key))
    with service.gallery.database.read() as connection:
        scores = {review.box_id: review.score or 0.0 for review in reviews}
        hits = hits_still_there(connection, scores)
    for review in reviews:
        if review.box_id in hits:
            review.result = result_document(hits[review.box_id])
    return CaseDocument(**vars(of), reviews=reviews)
