"""`POST /v1/search`: pictures, boxes and filters in; similar people out, and a row in the audit."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, File, Form, UploadFile
from starlette.concurrency import run_in_threadpool

from indexer.decode_protocol import Pixels
from indexer.errors import SourceError
from indexer.gallery import Gallery
from indexer.grouping import by_appearance, by_frame
from indexer.limits import Limits
from indexer.pictures import decode_picture
from indexer.query import Query, SearchResult
from indexer.search_command import parse_box
from indexer.vector_index import Float32
from model.calibration import Calibration
from service.access import ServiceHere, Viewer
from service.conditions import Conditions, Given, GroupBy, StoredId
from service.documents import (
    PREFIX,
    CalibrationDocument,
    EncoderDocument,
    GroupDocument,
    PersonDocument,
    SearchDocument,
    group_document,
    result_document,
)
from service.keys import Key
from service.problems import ProblemError
from service.recording import record
from service.state import Service

router = APIRouter(prefix=PREFIX, tags=["search"])

#: What is let in, by the bytes of the file.
FORMATS = ("JPEG", "PNG", "WEBP")
#: Stored boxes in one request.
_MOST_BOXES = 100


@dataclass(frozen=True, eq=False)
class _Picture:
    """A decoded picture and the hash of its file."""

    pixels: Pixels
    sha256: str


async def _place(service: ServiceHere) -> AsyncIterator[None]:
    """Take one of the service's places for as long as a search lasts."""
    with service.place():
        yield


@router.post("/search", dependencies=[Depends(_place)])
async def search(
    service: ServiceHere,
    key: Viewer,
    given: Given,
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
    box_id: Annotated[
        list[StoredId], Form(description="Stored boxes of the person.", max_length=_MOST_BOXES)
    ] = [],  # noqa: B006
    not_box_id: Annotated[
        list[StoredId], Form(description="Stored boxes of others.", max_length=_MOST_BOXES)
    ] = [],  # noqa: B006
) -> SearchDocument:
    """Find people who look similar to one person.

    The person is given by pictures (`crop`), by a picture of a scene and a box in it, or by stored
    boxes; several of them may be given. A scene without a box is answered with the people in it.
    Results are similar; nobody is identified.
    """
    begun = time.perf_counter()
    given.check(service)
    pictures = await _decode(service, [*crop, *not_crop, *([scene] if scene else [])])
    in_scene = pictures[-1].pixels if scene else None
    if box is not None and in_scene is None:
        raise ProblemError(422, "`box` marks a person in a `scene`: give both")
    if in_scene is not None and box is None:
        return await _people(service, key, given, pictures[-1], begun)
    if not (crop or in_scene is not None or box_id):
        raise ProblemError(422, "Give one query at least: `crop`, `scene` with `box`, or `box_id`")
    positives = await _embedded(service, pictures[: len(crop)])
    if in_scene is not None and box is not None:
        with service.stages.labels("encode").time():
            marked = await asyncio.wrap_future(service.worker.embed_box(in_scene, parse_box(box)))
        own = np.asarray(marked, np.float32)[None]
        positives = own if positives is None else np.concatenate([positives, own])
    query = Query(
        positives=positives,
        negatives=await _embedded(service, pictures[len(crop) : len(crop) + len(not_crop)]),
        boxes=box_id,
        negative_boxes=not_box_id,
        combine=given.combine,
        negative_weight=given.negative_weight,
    )
    asked = {
        "pictures_sha256": [picture.sha256 for picture in pictures],
        "box_ids": box_id,
        "not_box_ids": not_box_id,
        "box": box,
    }
    return await _answer(service, key, given, query, asked, begun)


@router.post("/searches", dependencies=[Depends(_place)])
async def searches(
    service: ServiceHere,
    key: Viewer,
    given: Given,
    crop: Annotated[list[UploadFile], File(description="A picture of a person each.")] = [],  # noqa: B006
    box_id: Annotated[
        list[StoredId], Form(description="Stored boxes.", max_length=_MOST_BOXES)
    ] = [],  # noqa: B006
) -> list[SearchDocument]:
    """Search for several people at once, each by one picture or one stored box.

    The answers are in the order of the pictures, then of the boxes; each is a row of the audit.
    """
    begun = time.perf_counter()
    given.check(service)
    if not (crop or box_id):
        raise ProblemError(422, "Give one query at least: `crop` or `box_id`")
    pictures = await _decode(service, crop)
    vectors = await _embedded(service, pictures)
    queries: list[tuple[Query, dict[str, Any]]] = [
        (Query(positives=vectors[i : i + 1]), {"pictures_sha256": [picture.sha256]})
        for i, picture in enumerate(pictures)
        if vectors is not None
    ]
    queries += [(Query(boxes=[box]), {"box_ids": [box]}) for box in box_id]
    return [await _answer(service, key, given, query, asked, begun) for query, asked in queries]


async def _answer(
    service: Service,
    key: Key,
    given: Conditions,
    query: Query,
    asked: dict[str, Any],
    begun: float,
) -> SearchDocument:
    wanted = await run_in_threadpool(given.filter, service, key)
    with service.stages.labels("index").time():
        result = await run_in_threadpool(service.gallery.search, query, given.k, wanted)
    least = given.min_score
    hits = [hit for hit in result.hits if least is None or hit.score >= least]
    # With negatives a score is no similarity any more.
    plain = not (query.negative_boxes or query.negatives is not None)
    curve = service.calibration(result.encoder) if plain else None
    with service.stages.labels("group").time():
        groups = await run_in_threadpool(_groups, service.gallery, hits, given.group_by, curve)
    took_ms = 1e3 * (time.perf_counter() - begun)
    detail = {
        **given.detail(key),
        **asked,
        "encoder": result.encoder.weights_sha256,
        "index_revision": result.revision,
        "results": [[hit.box_id, round(hit.score, 4)] for hit in hits],
        "took_ms": round(took_ms, 1),
    }
    # Nothing leaves before the audit holds it.
    with service.stages.labels("audit").time():
        audit_id = await run_in_threadpool(record, service, key, "search", detail)
    return SearchDocument(
        audit_id=audit_id,
        encoder=_encoder(result),
        took_ms=took_ms,
        exact=result.exact,
        calibration=(
            None
            if curve is None
            else CalibrationDocument(
                benchmark=curve.benchmark, query=curve.query, pairs=curve.pairs
            )
        ),
        results=[result_document(hit, curve) for hit in hits],
        groups=groups,
    )


async def _people(
    service: Service, key: Key, given: Conditions, scene: _Picture, begun: float
) -> SearchDocument:
    with service.stages.labels("encode").time():
        found = await asyncio.wrap_future(service.worker.find_people(scene.pixels))
    people = [
        PersonDocument.model_validate({"box": box.tolist(), "detection_score": float(score)})
        for box, score in zip(found.boxes_xyxy, found.scores, strict=True)
    ]
    detail = {
        "reason": given.reason,
        "case": given.case,
        "pictures_sha256": [scene.sha256],
        "people_of_scene": len(people),
    }
    audit_id = await run_in_threadpool(record, service, key, "search", detail)
    return SearchDocument(
        audit_id=audit_id,
        encoder=None,
        took_ms=1e3 * (time.perf_counter() - begun),
        people=people,
        results=[],
    )


async def _decode(service: Service, files: Sequence[UploadFile]) -> list[_Picture]:
    if len(files) > service.settings.pictures:
        raise ProblemError(422, f"{service.settings.pictures} pictures at most in one request")
    limits = Limits(pixels=service.settings.pixels)
    pictures = []
    for number, file in enumerate(files, 1):
        data = await file.read()
        try:
            with service.stages.labels("decode").time():
                decoded = await run_in_threadpool(decode_picture, data, limits, FORMATS)
        except SourceError as error:
            raise ProblemError(
                422, f"Picture {number} cannot be used: {error}; send a JPEG, PNG or WebP"
            ) from error
        pictures.append(_Picture(decoded.pixels, hashlib.sha256(data).hexdigest()))
    return pictures


async def _embedded(service: Service, pictures: Sequence[_Picture]) -> Float32 | None:
    if not pictures:
        return None
    waiting = [asyncio.wrap_future(service.worker.embed_crop(one.pixels)) for one in pictures]
    with service.stages.labels("encode").time():
        return np.stack(await asyncio.gather(*waiting)).astype(np.float32)


def _groups(
    gallery: Gallery, hits: Sequence[Any], group_by: GroupBy, curve: Calibration | None
) -> list[GroupDocument]:
    if group_by == "frame":
        return [group_document(group, curve) for group in by_frame(hits)]
    if group_by == "appearance":
        embeddings = gallery.embeddings([hit.box_id for hit in hits])
        return [group_document(group, curve) for group in by_appearance(hits, embeddings)]
    return []


def _encoder(result: SearchResult) -> EncoderDocument:
    return EncoderDocument(
        id=result.encoder.id,
        weights_sha256=result.encoder.weights_sha256,
        index_revision=result.revision,
    )
