"""Small galleries made from a seed, and what the NumPy oracle knows of them."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import numpy as np

from indexer.filters import Filter
from indexer.gallery import Gallery
from indexer.ingest import NewFrame
from indexer.mirror import Encoder
from indexer.query import Query
from model.detections import Detections
from tests.indexer.oracle import people, unit
from tests.indexer.postgres import FOLDERS

DIMENSION = 16
START = datetime(2026, 3, 28, 21, 0, tzinfo=UTC)


def sha(text: str) -> str:
    return text.encode().hex().ljust(64, "0")[:64]


def new_gallery(
    place: str | Path, name: str = "a", index: str | None = None
) -> tuple[Gallery, Encoder]:
    """An empty gallery with an active encoder."""
    gallery = Gallery.open(place, create=True, index=index)
    encoder = gallery.register_encoder(sha(f"weights {name}"), sha("preprocessing"), DIMENSION)
    gallery.activate(encoder.id)
    return gallery, encoder


def new_source(gallery: Gallery, camera: str, content: str = "clip") -> int:
    return gallery.add_source(gallery.camera(camera), f"{content}.mp4", "video", sha(content)).id


def detections(rng: np.random.Generator, count: int, pids: int = 12) -> Detections:
    corners = rng.integers(0, 200, (count, 2)).astype(np.float32)
    return Detections(
        boxes_xyxy=np.concatenate([corners, corners + np.array([20, 50], np.float32)], axis=1),
        scores=rng.random(count).astype(np.float32),
        embeddings=people(rng, count, pids, DIMENSION),
    )


def new_frames(
    rng: np.random.Generator,
    counts: list[int],
    first: int = 0,
    step: timedelta = timedelta(seconds=40),
) -> list[NewFrame]:
    """Frames with so many people each."""
    return [
        NewFrame(
            position=first + number,
            captured_at=START + step * (first + number),
            width=320,
            height=240,
            content_sha256=sha(f"frame {first + number}"),
            detections=detections(rng, count),
            pts_s=Fraction(1001 * (first + number), 30000),
        )
        for number, count in enumerate(counts)
    ]


def all_boxes(gallery: Gallery, wanted: Filter | None = None) -> list[int]:
    query = Query(unit(np.random.default_rng(0), 1, DIMENSION))
    return sorted(hit.box_id for hit in gallery.search(query, 10_000, wanted or Filter()).hits)


def folder_of(gallery: Gallery) -> Path:
    if gallery.database.file is None:
        return FOLDERS[gallery.database]
    return gallery.database.file.parent
