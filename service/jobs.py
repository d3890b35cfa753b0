"""`/v1/jobs`: put sources below the service's roots into the gallery, and watch it happen."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from indexer.errors import GalleryError
from indexer.index_command import IndexRequest
from indexer.indexing import KIND
from indexer.jobs import FINISHED, Job, failures_of, list_jobs, read_job
from indexer.schema import JobState
from service.access import Operator, ServiceHere, Viewer
from service.documents import PREFIX
from service.index_jobs import describe, source_below
from service.keys import Key
from service.problems import ProblemError
from service.recording import record
from service.state import Service

router = APIRouter(prefix=PREFIX, tags=["jobs"])

#: Seconds between looks at a job that is followed.
_LOOK_S = 0.5
#: Failures that are told one by one.
_FAILURES = 1000


class JobRequest(BaseModel):
    """What is to be indexed."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(
        min_length=1, max_length=1000, examples=["gate/2026-05-04.mp4"],
        description="A video, picture, folder or archive, below one of the service's roots.",
    )  # fmt: skip
    camera: str | None = Field(None, min_length=1, max_length=200)
    start: datetime | None = Field(None, description="When the first frame of a video was taken.")
    fps: float | None = Field(None, gt=0, le=1000, description="Frames of each second.")
    min_height: float = Field(0.0, ge=0, le=100_000)


class FailureDocument(BaseModel):
    """A file that was not indexed."""

    name: str
    reason: str


class JobDocument(BaseModel):
    """A job as it stands."""

    id: int
    state: JobState
    sources: list[str]
    camera: str | None
    discovered: int
    indexed: int
    failed: int
    reason: str | None
    report: dict[str, Any] = Field(description="Progress, rates and the time of the stages.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    failures: list[FailureDocument] = []


@router.post("/jobs", status_code=202)
def new_job(service: ServiceHere, key: Operator, wanted: JobRequest) -> JobDocument:
    """Queue a job that indexes a source."""
    if not service.settings.roots:
        raise ProblemError(409, "This service has no roots to index from: binet serve --root DIR")
    path = source_below(service.settings.roots, wanted.source)
    if path is None:
        raise ProblemError(404, f"There is no {wanted.source!r} below the service's roots")
    if key.cameras is not None and wanted.camera not in key.cameras:
        raise ProblemError(403, "This key may index for its own cameras only: give `camera`")
    if wanted.start is not None and wanted.start.utcoffset() is None:
        raise ProblemError(422, "start needs a time zone")
    request = IndexRequest(
        sources=[str(path)],
        weights=str(service.settings.weights.absolute()),
        camera=wanted.camera,
        start=None if wanted.start is None else wanted.start.isoformat(),
        fps=wanted.fps,
        min_height=wanted.min_height,
        device=service.settings.device,
    )
    record(service, key, "index", {"source": wanted.source, "camera": wanted.camera})
    return _read(service, key, service.jobs.add(request))


@router.get("/jobs")
def jobs(
    service: ServiceHere, key: Viewer, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> list[JobDocument]:
    """List the latest index jobs, newest first."""
    with service.gallery.database.read() as connection:
        found = list_jobs(connection, limit)
    return [_document(service, job) for job in found if _is_visible(key, job)]


@router.get("/jobs/{job_id}")
def job(service: ServiceHere, key: Viewer, job_id: int) -> JobDocument:
    """Describe a job, with the files that failed and why."""
    return _read(service, key, job_id)


@router.get(
    "/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "The job, as it goes."}},
)
async def events(
    request: Request, service: ServiceHere, key: Viewer, job_id: int
) -> StreamingResponse:
    """Follow a job: an event with the job each time that it has changed, until it is over."""
    first = await run_in_threadpool(_read, service, key, job_id)

    async def stream() -> AsyncIterator[str]:
        now, told = first, ""
        while True:
            text = json.dumps(now.model_dump(mode="json"))
            if text != told:
                yield f"event: job\ndata: {text}\n\n"
                told = text
            if now.state in FINISHED or await request.is_disconnected():
                return
            await asyncio.sleep(_LOOK_S)
            now = await run_in_threadpool(_read, service, key, job_id)

    return StreamingResponse(stream(), media_type="text/event-stream")


@router.delete("/jobs/{job_id}", status_code=202)
def cancel(service: ServiceHere, key: Operator, job_id: int) -> JobDocument:
    """Cancel a job. What it has indexed so far stays."""
    _read(service, key, job_id)
    record(service, key, "cancel job", {"job_id": job_id})
    try:
        service.jobs.cancel(job_id)
    except GalleryError as error:
        raise ProblemError(409, str(error)) from error
    return _read(service, key, job_id)


def _read(service: Service, key: Key, job_id: int) -> JobDocument:
    """Return a job; what is outside the scope and what does not exist look the same."""
    missing = ProblemError(404, f"There is no job {job_id}")
    if not 0 < job_id < 2**63:
        raise missing
    with service.gallery.database.read() as connection:
        try:
            found = read_job(connection, job_id)
        except GalleryError as error:
            raise missing from error
        failures = failures_of(connection, job_id)[:_FAILURES]
    if not _is_visible(key, found):
        raise missing
    document = _document(service, found)
    document.failures = [
        FailureDocument(name=failure.uri.rpartition("/")[2], reason=failure.reason)
        for failure in failures
    ]
    return document


def _is_visible(key: Key, job: Job) -> bool:
    return job.kind == KIND and (key.cameras is None or job.request.get("camera") in key.cameras)


def _document(service: Service, job: Job) -> JobDocument:
    return JobDocument(
        id=job.id,
        state=job.state,
        sources=describe(job.request, service.settings.roots),
        camera=job.request.get("camera"),
        discovered=job.discovered,
        indexed=job.indexed,
        failed=job.failed,
        reason=job.reason,
        report=job.report,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )
