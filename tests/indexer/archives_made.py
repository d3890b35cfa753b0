"""What the tests of the indexing share: small archives, and galleries as rows to compare."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sqlalchemy import select

from indexer import schema
from indexer.gallery import Gallery
from indexer.indexing import Indexed, index_sources
from indexer.work import IndexOptions
from tests.indexer.fake_branch import FakeBranch

#: Date of all files that are made here.
CHANGED_AT = datetime(2026, 3, 28, 12, 0, tzinfo=UTC)


def make_picture(
    path: Path, seed: int = 0, size: tuple[int, int] = (64, 48), **options: Any
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(cells).resize(size, Image.Resampling.NEAREST).save(path, **options)
    return date(path)


def make_noise_clip(path: Path, frames: int, codec: str = "mpeg4") -> Path:
    """A clip at 10 frames per second whose frames have bytes to lose."""
    import av

    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=10, options={"g": "5"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(frames):
            pixels = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return date(path)


def date(path: Path) -> Path:
    os.utime(path, (CHANGED_AT.timestamp(),) * 2)
    return path


def run_index(
    place: str | Path, paths: Sequence[str | Path], *, branch: Any = None, **options: Any
) -> Indexed:
    """Index into a gallery that is made if it is not there."""
    extra = {
        key: options.pop(key)
        for key in ("limits", "on_progress", "cancel", "job_id", "request")
        if key in options
    }
    # Each decoder takes half a second to start.
    options.setdefault("workers", 1)
    with Gallery.open(place, create=True) as gallery:
        return index_sources(
            gallery, branch or FakeBranch(), paths, IndexOptions(**options), **extra
        )


def content(place: str | Path) -> list[Any]:
    """All that a gallery holds, without ids and without the order in which it came."""
    frame, source, box = schema.frame.c, schema.source.c, schema.box.c
    with Gallery.open(place) as gallery, gallery.database.read() as connection:
        rows = connection.execute(
            select(
                schema.camera.c.name, source.content_sha256, source.uri, source.version,
                source.kind, source.state, frame.id, frame.position, frame.pts_numerator,
                frame.pts_denominator, frame.captured_at_us, frame.clock, frame.width,
                frame.height, frame.content_sha256, schema.indexed.c.boxes,
            )
            .join(schema.source, source.id == frame.source_id)
            .join(schema.camera, schema.camera.c.id == source.camera_id)
            .join(schema.indexed, schema.indexed.c.frame_id == frame.id)
        ).all()  # fmt: skip
        boxes: dict[int, list[Any]] = {}
        for row in connection.execute(
            select(
                box.frame_id, box.x1, box.y1, box.x2, box.y2, box.score, box.embedding,
                box.captured_at_us,
            ).order_by(box.id)
        ):  # fmt: skip
            boxes.setdefault(row.frame_id, []).append(tuple(row[1:]))
    made = []
    for row in rows:
        found = boxes.pop(row.id, [])
        assert len(found) == row.boxes
        assert all(one[-1] == row.captured_at_us for one in found)
        made.append((*row[:6], *row[7:], found))
    assert not boxes
    return sorted(made)


def frames_of(place: str | Path) -> list[Any]:
    """Position, timestamp, time of capture and clock of every frame, in order."""
    frame = schema.frame.c
    with Gallery.open(place) as gallery, gallery.database.read() as connection:
        return list(
            connection.execute(select(schema.frame).order_by(frame.source_id, frame.position))
        )
