"""Pictures kept outside the database: crops, and frames where wanted.

They lie in a folder beside it, or wherever `Gallery.set_media` says: any URL that fsspec can open.
They are named by what they show (the frame's content and the box), not by ids: a crash between the
picture and its row leaves a file that nobody asks for, never a wrong picture.
"""

import hashlib
import io
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from PIL import Image, UnidentifiedImageError
from sqlalchemy import delete, insert, select

from indexer import schema
from indexer.database import Database
from indexer.decode_protocol import Pixels
from indexer.errors import MediaError
from model.detections import FloatArray

FOLDER = "media"
JPEG_QUALITY = 90
#: Key of the setting that holds where pictures are kept.
SETTING = "media"

Box = tuple[float, float, float, float]


class MediaStore:
    """JPEGs below a folder or URL, by names such as `crops/ab/abcd.jpg`.

    Parameters
    ----------
    url
        A folder's path, or a URL such as `s3://bucket/gallery`.

    Raises
    ------
    MediaError
        When nothing can open such a URL.

    Attributes
    ----------
    url
        As given; of a folder its full path.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._files, root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise MediaError(f"Pictures cannot be kept in {url}: {error}") from error
        self._root = root.rstrip("/")
        if isinstance(self._files, LocalFileSystem):
            self.url = self._root

    @classmethod
    def of(cls, database: Database) -> "MediaStore | None":
        """Return the store of a gallery; None for PostgreSQL whose media were not set."""
        url = media_url(database)
        return None if url is None else cls(url)

    @staticmethod
    def frame_name(digest: str) -> str:
        """Name of a frame by its content."""
        return f"frames/{digest[:2]}/{digest}.jpg"

    @staticmethod
    def crop_name(digest: str, box_xyxy: Box) -> str:
        """Name of a crop by its frame's content and its box."""
        key = crop_key(digest, box_xyxy)
        return f"crops/{key[:2]}/{key}.jpg"

    def save(self, name: str, picture: Image.Image) -> None:
        """Write a picture that is not there yet; it is there whole or not at all.

        Raises
        ------
        MediaError
            When there is no room, or it cannot be written to.
        """
        path = f"{self._root}/{name}"
        try:
            if self._files.exists(path):
                return
            if isinstance(self._files, LocalFileSystem):
                _write_whole(Path(path), jpeg(picture))
            else:
                # Object stores put whole objects.
                self._files.pipe_file(path, jpeg(picture))
        except Exception as error:  # each protocol raises its own
            raise MediaError(
                f"Pictures cannot be kept in {self.url}: "
                f"{getattr(error, 'strerror', None) or error}; make room, choose another place "
                "(binet gallery media), or index with --keep off"
            ) from error

    def read(self, name: str) -> Image.Image | None:
        """Read a kept picture; None when it is missing or damaged.

        Raises
        ------
        MediaError
            When the store cannot be reached.
        """
        try:
            data = self._files.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._unreachable(error) from error
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                image.load()
                return image
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
            return None

    def names(self) -> Iterator[str]:
        """List all pictures, and what a crash has left of one."""
        for kind in ("crops", "frames"):
            try:
                paths = sorted(self._files.find(f"{self._root}/{kind}"))
            except FileNotFoundError:
                continue
            except Exception as error:
                raise self._unreachable(error) from error
            for path in paths:
                yield path[path.rindex(f"/{kind}/") + 1 :]

    def damaged(self) -> list[str]:
        """List the pictures that cannot be read; what a crash has left of one is not among them."""
        return [name for name in self.names() if name.endswith(".jpg") and self.read(name) is None]

    def remove(self, names: Collection[str]) -> None:
        """Delete pictures; those that are gone already are none of its business."""
        for name in names:
            try:
                self._files.rm_file(f"{self._root}/{name}")
            except FileNotFoundError:
                continue
            except Exception as error:
                raise self._unreachable(error) from error

    def prune(self, wanted: Collection[str]) -> int:
        """Delete all pictures but those wanted; return how many."""
        gone = [name for name in self.names() if name not in wanted]
        self.remove(gone)
        return len(gone)

    def _unreachable(self, error: Exception) -> MediaError:
        return MediaError(f"The kept pictures in {self.url} cannot be reached: {error}")


def _write_whole(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def media_url(database: Database) -> str | None:
    """Return where a gallery's pictures are kept: as set, or the folder beside SQLite's file."""
    setting = schema.setting.c
    with database.read() as connection:
        found = connection.execute(select(setting.value).where(setting.name == SETTING)).scalar()
    if found is not None:
        return str(found)
    return None if database.file is None else str(database.file.parent / FOLDER)


def set_media_url(database: Database, url: str) -> None:
    """Keep a gallery's pictures at a folder or URL from now on; those elsewhere are not moved.

    Raises
    ------
    MediaError
        When nothing can be written there; nothing is changed then.
    """
    store, probe = MediaStore(url), "probe/probe.jpg"
    store.save(probe, Image.new("RGB", (1, 1)))
    if store.read(probe) is None:
        raise MediaError(f"What is written to {url} cannot be read back")
    store.remove([probe])
    with database.write() as connection:
        connection.execute(delete(schema.setting).where(schema.setting.c.name == SETTING))
        connection.execute(insert(schema.setting).values(name=SETTING, value=store.url))


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
