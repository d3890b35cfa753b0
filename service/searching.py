"""`POST /v1/search`: pictures, boxes and filters in; similar people out, and a row in the audit."""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, File, Form, UploadFile
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from indexer.decode_protocol import Pixels
from indexer.errors import SourceError
from indexer.filters import Filter
from indexer.gallery import Gallery
from indexer.grouping import by_appearance, by_frame
from indexer.limits import Limits
from indexer.pictures import decode_picture
from indexer.query import Query, SearchResult
from indexer.search_command import parse_box
from indexer.vector_index import Float32
from service.access import ServiceHere, Viewer
from service.documents import (
    PREFIX,
    EncoderDocument,
    GroupDocument,
    PersonDocument,
    SearchDocument,
    group_document,
    result_document,
)
from service.filtering import named_cameras, require_zones
from service.keys import Key
from service.problems import ProblemError
from service.recording import record
from service.state import Service

router = APIRouter(prefix=PREFIX, tags=["search"])

#: What is let in, by the bytes of the file.
FORMATS = ("JPEG", "PNG", "WEBP")
#: Longest text of a reason or case.
_TEXT = 500

#: What SQL can hold.
BoxId = Annotated[int, Field(ge=1, lt=2**63)]
GroupBy = Literal["box", "frame", "appearance"]


@dataclass(frozen=True, eq=False)
class _Asked:
    """A search as it was asked for, pictures decoded."""

    crops: list[Pixels]
    not_crops: list[Pixels]
    scene: Pixels | None
    digests: list[str]


@router.post("/search")
async def search(
    service: ServiceHere,
    key: Viewer,
    crop: Annotated[list[UploadFile], File(description="Pictures of one person each.")] = [],  # noqa: B006
    not_crop: Annotated[
        list[UploadFile], File(description="Pictures of people who are not meant.")
    ] = [],  # noqa: B006
    scene: Annotated[
        UploadFile | None, File(description="A picture with the person in it.")
    ] = None,
    box: Annotated[
        str | None,
        Form(description="x1,y1,x2,y2 of the person in the scene.", examples=["1,2,30,90"]),
    ] = None,
    box_id: Annotated[list[BoxId], Form(description="Stored boxes of the person.")] = [],  # noqa: B006
    not_box_id: Annotated[list[BoxId], Form(description="Stored boxes of others.")] = [],  # noqa: B006
    k: Annotated[int, Form(ge=1, description="How many results.")] = 20,
    camera: Annotated[list[str], Form(description="Only these cameras.")] = [],  # noqa: B006
    after: Annotated[datetime | None, Form(description="Captured then or later.")] = None,
    before: Annotated[datetime | None, Form(description="Captured earlier.")] = None,
    min_detection: Annotated[
        float | None, Form(ge=0, le=1, description="The detector's score, at least.")
    ] = None,
    min_score: Annotated[
        float | None, Form(ge=-1, le=1, description="Similarity, at least.")
    ] = None,
    combine: Annotated[
        Literal["best", "mean"], Form(description="How several positives become one score.")
    ] = "best",
    group_by: Annotated[GroupBy, Form(description="How results are put together.")] = "box",
    reason: Annotated[str, Form(max_length=_TEXT, description="Why this is asked.")] = "",
    case: Annotated[str, Form(max_length=_TEXT, description="What it belongs to.")] = "",
) -> SearchDocument:
    """Find people who look similar to one person.

    The person is given by pictures (`crop`), by a picture of a scene and a box in it, or by stored
    boxes; several of them may be given. A scene without a box is answered with the people in it.
    Results are similar; nobody is identified.
    """
    begun = time.perf_counter()
    if service.settings.require_reason and not reason.strip():
        raise ProblemError(422, "This service asks for a reason with every search: give `reason`")
    if k > service.settings.most_results:
        raise ProblemError(422, f"k may be {service.settings.most_results} at most")
    if (problem := service.problem()) is not None:
        raise ProblemError(503, f"The service is not ready: {problem}", {"Retry-After": "5"})
    asked = await _decode(service, crop, not_crop, scene)
    if box is not None and asked.scene is None:
        raise ProblemError(422, "`box` marks a person in a `scene`: give both")
    if asked.scene is not None and box is None:
        return await _people(service, key, asked.scene, begun)
    if not (asked.crops or asked.scene is not None or box_id):
        raise ProblemError(422, "Give one query at least: `crop`, `scene` with `box`, or `box_id`")
    wanted = await run_in_threadpool(_filter, service, key, camera, after, before, min_detection)
    query = Query(
        positives=await _positives(service, asked, box),
        negatives=await _embedded(service, asked.not_crops),
        boxes=box_id,
        negative_boxes=not_box_id,
        combine=combine,
    )
    result = await run_in_threadpool(service.gallery.search, query, k, wanted)
    hits = [hit for hit in result.hits if min_score is None or hit.score >= min_score]
    groups = await run_in_threadpool(_groups, service.gallery, hits, group_by)
    took_ms = 1e3 * (time.perf_counter() - begun)
    detail = {
        "reason": reason,
        "case": case,
        "pictures_sha256": asked.digests,
        "box_ids": box_id,
        "not_box_ids": not_box_id,
        "box": box,
        "filter": {
            "cameras": sorted(camera),
            "scope": None if key.cameras is None else list(key.cameras),
            "after": None if after is None else after.isoformat(),
            "before": None if before is None else before.isoformat(),
            "min_detection": min_detection,
            "min_score": min_score,
        },
        "k": k,
        "combine": combine,
        "encoder": result.encoder.weights_sha256,
        "index_revision": result.revision,
        "results": [[hit.box_id, round(hit.score, 4)] for hit in hits],
        "took_ms": round(took_ms, 1),
    }
    # Nothing leaves before the audit holds it.
    audit_id = await run_in_threadpool(record, service, key, "search", detail)
    return SearchDocument(
        audit_id=audit_id,
        encoder=_encoder(result),
        took_ms=took_ms,
        exact=result.exact,
        results=[result_document(hit) for hit in hits],
        groups=groups,
    )


async def _people(service: Service, key: Key, scene: Pixels, begun: float) -> SearchDocument:
    found = await asyncio.wrap_future(service.worker.find_people(scene))
    people = [
        PersonDocument.model_validate({"box": box.tolist(), "detection_score": float(score)})
        for box, score in zip(found.boxes_xyxy, found.scores, strict=True)
    ]
    audit_id = await run_in_threadpool(
        record, service, key, "search", {"people_of_scene": len(people)}
    )
    return SearchDocument(
        audit_id=audit_id,
        encoder=None,
        took_ms=1e3 * (time.perf_counter() - begun),
        people=people,
        results=[],
    )


async def _decode(
    service: Service,
    crops: Sequence[UploadFile],
    not_crops: Sequence[UploadFile],
    scene: UploadFile | None,
) -> _Asked:
    files = [*crops, *not_crops, *([scene] if scene else [])]
    if len(files) > service.settings.pictures:
        raise ProblemError(422, f"{service.settings.pictures} pictures at most in one request")
    limits = Limits(pixels=service.settings.pixels)
    digests, pictures = [], []
    for number, file in enumerate(files, 1):
        data = await file.read()
        digests.append(hashlib.sha256(data).hexdigest())
        try:
            decoded = await run_in_threadpool(decode_picture, data, limits, FORMATS)
        except SourceError as error:
            raise ProblemError(
                422, f"Picture {number} cannot be used: {error}; send a JPEG, PNG or WebP"
            ) from error
        pictures.append(decoded.pixels)
    ends = len(crops), len(crops) + len(not_crops)
    return _Asked(
        pictures[: ends[0]],
        pictures[ends[0] : ends[1]],
        pictures[-1] if scene else None,
        digests,
    )


async def _positives(service: Service, asked: _Asked, box: str | None) -> Float32 | None:
    vectors = await _embedded(service, asked.crops)
    if asked.scene is None or box is None:
        return vectors
    marked = await asyncio.wrap_future(service.worker.embed_box(asked.scene, parse_box(box)))
    own = np.asarray(marked, np.float32)[None]
    return own if vectors is None else np.concatenate([vectors, own])


async def _embedded(service: Service, crops: Sequence[Pixels]) -> Float32 | None:
    if not crops:
        return None
    waiting = [asyncio.wrap_future(service.worker.embed_crop(crop)) for crop in crops]
    return np.stack(await asyncio.gather(*waiting)).astype(np.float32)


def _filter(
    service: Service,
    key: Key,
    cameras: Sequence[str],
    after: datetime | None,
    before: datetime | None,
    min_detection: float | None,
) -> Filter:
    require_zones(after, before)
    return Filter(
        cameras=named_cameras(service, key, cameras).values() if cameras else None,
        after=after,
        before=before,
        min_score=min_detection,
        scope_cameras=service.scope(key),
    )


def _groups(gallery: Gallery, hits: Sequence[Any], group_by: GroupBy) -> list[GroupDocument]:
    if group_by == "frame":
        return [group_document(group) for group in by_frame(hits)]
    if group_by == "appearance":
        embeddings = gallery.embeddings([hit.box_id for hit in hits])
        return [group_document(group) for group in by_appearance(hits, embeddings)]
    return []


def _encoder(result: SearchResult) -> EncoderDocument:
    return EncoderDocument(
        id=result.encoder.id,
        weights_sha256=result.encoder.weights_sha256,
        index_revision=result.revision,
    )
