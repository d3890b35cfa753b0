"""`binet search`: a crop, a person marked in a scene, or a stored box in; similar people out."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from indexer.errors import EncoderError, SourceError
from indexer.gallery import Gallery
from indexer.gallery_commands import named_filter
from indexer.indexing import KIND
from indexer.ingest import active_encoder
from indexer.jobs import list_jobs
from indexer.media_store import Box, cut_crop
from indexer.query import Hit, Query, SearchResult
from indexer.reindexing import KIND as REINDEX
from model.errors import BINetError


@dataclass(frozen=True)
class SearchRequest:
    """What is looked for, by one of three ways, and where.

    Attributes
    ----------
    crop
        A picture of one person.
    scene, box_xyxy
        A picture and a person marked in it.
    box_id
        A person in the gallery.
    min_score
        The detector's score of what is found, at least.
    """

    crop: Path | None = None
    scene: Path | None = None
    box_xyxy: Box | None = None
    box_id: int | None = None
    weights: Path | None = None
    k: int = 20
    cameras: tuple[str, ...] = ()
    after: str | None = None
    before: str | None = None
    min_score: float | None = None

    def check(self) -> None:
        """Refuse what is not exactly one query.

        Raises
        ------
        SourceError
            When it is none, or several.
        """
        if (self.scene is None) != (self.box_xyxy is None):
            raise SourceError("--scene and --box go together: a picture, and the person in it")
        given = [query for query in (self.crop, self.scene, self.box_id) if query is not None]
        if len(given) != 1:
            raise SourceError("Give one query: --crop, --scene with --box, or --box-id")


@dataclass(frozen=True)
class Found:
    """What a search gave.

    Attributes
    ----------
    picture
        The person looked for; None for a stored box.
    took_ms
        Of the search alone, without encoding the query.
    """

    result: SearchResult
    picture: Image.Image | None
    took_ms: float


def parse_box(text: str) -> Box:
    """Read `x1,y1,x2,y2`.

    Raises
    ------
    SourceError
        When it is no box.
    """
    try:
        x1, y1, x2, y2 = (float(part) for part in text.split(","))
    except ValueError:
        x1 = y1 = x2 = y2 = float("nan")
    if not (x2 > x1 and y2 > y1 and np.isfinite([x1, y1, x2, y2]).all()):
        raise SourceError(f"{text!r} is no box: give x1,y1,x2,y2 in pixels, x1 < x2 and y1 < y2")
    return x1, y1, x2, y2


def run_search(gallery: Gallery, request: SearchRequest) -> Found:
    """Search a gallery.

    Raises
    ------
    SourceError, PictureError
        When the query cannot be read.
    CheckpointError, EncoderError
        When the weights are missing, or not those of the gallery.
    UnknownBoxError, GalleryError
        When there is no such box or camera.
    """
    request.check()
    wanted = named_filter(
        gallery, request.cameras, None, request.after, request.before, request.min_score
    )
    encoder = gallery.view().encoder
    picture = None
    if request.box_id is not None:
        query = Query(boxes=[request.box_id])
    else:
        query, picture = _embedded(gallery, request)
    begun = time.perf_counter()
    result = gallery.search(query, request.k, wanted, encoder=encoder.id)
    return Found(result, picture, (time.perf_counter() - begun) * 1000)


def _embedded(gallery: Gallery, request: SearchRequest) -> tuple[Query, Image.Image]:
    from indexer.branch import NetworkBranch
    from model import read_picture
    from model.preprocessing import to_rgb

    path = request.crop or request.scene
    if path is None:
        raise SourceError("Give one query: --crop, --scene with --box, or --box-id")
    pixels = to_rgb(read_picture(path)).permute(1, 2, 0).numpy()
    branch = NetworkBranch.load(request.weights or _last_weights(gallery))
    encoder = gallery.view().encoder
    own = (branch.weights_sha256, branch.preprocess_sha256)
    if own != (encoder.weights_sha256, encoder.preprocess_sha256):
        raise EncoderError(
            f"The gallery was made with other weights ({encoder.weights_sha256[:12]}): search with "
            "those"
        )
    if request.box_xyxy is None:
        return Query(positives=branch.embed_crop(pixels)), Image.fromarray(pixels)
    try:
        embedding = branch.embed_box(pixels, request.box_xyxy)
    except ValueError as error:
        raise SourceError(str(error)) from error
    return Query(positives=embedding), cut_crop(pixels, request.box_xyxy)


def _last_weights(gallery: Gallery) -> str:
    """Return the folder of the weights that the gallery is searched with, by what jobs used."""
    from model.checkpoint import read_config

    with gallery.database.read() as connection:
        jobs = list_jobs(connection)
        wanted = active_encoder(connection).weights_sha256
    for job in jobs:
        folder = job.request.get("weights")
        if job.kind not in (KIND, REINDEX) or not isinstance(folder, str):
            continue
        with suppress(BINetError):
            if read_config(folder).sha256 == wanted:
                return folder
    raise SourceError("Give the weights that the gallery was made with: --weights FOLDER")


def document(found: Found) -> dict[str, Any]:
    """Return what was found as JSON has it."""
    encoder = found.result.encoder
    return {
        "meaning": "similar, not identified",
        "encoder": {"id": encoder.id, "weights_sha256": encoder.weights_sha256},
        "revision": found.result.revision,
        "took_ms": round(found.took_ms, 3),
        "results": [entry(hit) for hit in found.result.hits],
    }


def entry(hit: Hit) -> dict[str, Any]:
    """Return a hit as JSON has it."""
    frame = hit.frame
    return {
        "box_id": hit.box_id,
        "score": round(hit.score, 4),
        "box": [round(value, 2) for value in hit.box_xyxy],
        "detection_score": round(hit.detection_score, 4),
        "frame": {
            "id": frame.id,
            "camera": frame.camera,
            "captured_at": frame.captured_at.isoformat(timespec="milliseconds"),
            "timestamp_s": None if frame.pts_s is None else float(frame.pts_s),
            "position": frame.position,
            "width": frame.width,
            "height": frame.height,
        },
    }


def lines(found: Found) -> list[str]:
    """Return what was found as lines to read."""
    hits: Sequence[Hit] = found.result.hits
    shown = [f"{len(hits)} similar, best first ({found.took_ms:.1f} ms)"]
    shown += [
        f"{rank:>4}  similar {hit.score:6.3f}  box {hit.box_id:<9} {hit.frame.camera}  "
        f"{hit.frame.captured_at.isoformat(sep=' ', timespec='milliseconds')}"
        for rank, hit in enumerate(hits, 1)
    ]
    return shown
