"""Pictures kept beside the database: crops, and frames where wanted, in a folder.

They are named by what they show (the frame's content and the box), not by ids: a crash between the
picture and its row leaves a file that nobody asks for, never a wrong picture.
"""

import hashlib
import io
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from indexer.database import Database
from indexer.decode_protocol import Pixels
from indexer.errors import MediaError
from model.detections import FloatArray

FOLDER = "media"
JPEG_QUALITY = 90

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class MediaStore:
    """A folder of JPEGs."""

    root: Path

    @classmethod
    def beside(cls, database: Database) -> "MediaStore | None":
        """Return the folder beside SQLite's file; None with PostgreSQL."""
        return None if database.file is None else cls(database.file.parent / FOLDER)

    def frame_path(self, digest: str) -> Path:
        """Path of a frame by its content."""
        return self.root / "frames" / digest[:2] / f"{digest}.jpg"

    def crop_path(self, digest: str, box_xyxy: Box) -> Path:
        """Path of a crop by its frame's content and its box."""
        key = crop_key(digest, box_xyxy)
        return self.root / "crops" / key[:2] / f"{key}.jpg"

    def save(self, path: Path, picture: Image.Image) -> None:
        """Write a picture that is not there yet; it is there whole or not at all.

        Raises
        ------
        MediaError
            When there is no room, or the folder cannot be written to.
        """
        if path.exists():
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(jpeg(picture))
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise MediaError(
                f"Pictures cannot be kept in {self.root}: {error.strerror or error}; make room, or "
                "index with --keep off"
            ) from error

    def files(self) -> Iterator[Path]:
        """List all pictures, and what a crash has left of one."""
        for kind in ("crops", "frames"):
            yield from sorted(p for p in (self.root / kind).glob("*/*") if p.is_file())

    def damaged(self) -> list[Path]:
        """List the pictures that cannot be read; what a crash has left of one is not among them."""
        return [path for path in self.files() if path.suffix == ".jpg" and read(path) is None]

    def prune(self, wanted: Collection[Path]) -> int:
        """Delete all pictures but those wanted; return how many."""
        gone = [path for path in self.files() if path not in wanted]
        for path in gone:
            path.unlink(missing_ok=True)
        return len(gone)


def crop_key(digest: str, box_xyxy: Box) -> str:
    """Name of a crop: SHA-256 of its frame's content and its box, as float32."""
    box = np.array(box_xyxy, "<f4").tobytes()
    return hashlib.sha256(digest.encode() + box).hexdigest()


def cut_crop(pixels: Pixels, box_xyxy: FloatArray | Box) -> Image.Image:
    """Cut a box out of a frame, to whole pixels and at least one."""
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = (round(float(value)) for value in box_xyxy)
    left, top = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
    crop = pixels[top : max(y2, top + 1), left : max(x2, left + 1)]
    return Image.fromarray(np.ascontiguousarray(crop))


def jpeg(picture: Image.Image) -> bytes:
    """Encode a picture."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def read(path: Path) -> Image.Image | None:
    """Read a kept picture; None when it is missing or damaged."""
    try:
        with Image.open(path, formats=("JPEG",)) as image:
            image.load()
            return image
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
        return None
