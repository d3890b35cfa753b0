"""Pictures of frames and boxes: kept ones, or cut from their source when somebody asks."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image
from sqlalchemy import Connection, select

from indexer import decode_protocol as protocol
from indexer import schema
from indexer.database import Database
from indexer.decode_protocol import Pixels
from indexer.decoder import Decoder
from indexer.errors import GalleryError, MediaError, SourceError, UnknownBoxError
from indexer.gallery import Gallery
from indexer.ingest import read_pts
from indexer.limits import Limits
from indexer.media_store import Box, MediaStore, cut_crop
from indexer.sources import MEMBER_MARK, SourceKind


@dataclass(frozen=True)
class _Origin:
    """Where a frame's picture can be had."""

    frame_id: int
    position: int
    timestamp_s: Fraction | None
    digest: str
    uri: str
    kind: str
    source_digest: str

    @property
    def name(self) -> str:
        """Of the file, without its folders: messages may be logged."""
        return Path(self.uri).name


class MediaReader:
    """Gives pictures; keeps a decoder process for those that are cut from their source.

    One thread at a time may use it.
    """

    def __init__(self, gallery: Gallery, limits: Limits | None = None) -> None:
        self._database = gallery.database
        self._store = MediaStore.of(gallery.database)
        self._decoder = Decoder(limits or Limits())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the decoder."""
        self._decoder.close()

    def frame(self, frame_id: int) -> Image.Image:
        """Return a frame, upright RGB.

        Raises
        ------
        GalleryError
            When there is no such frame.
        MediaError
            When its source is gone or has changed.
        """
        with self._database.read() as connection:
            origin = _origin(connection, frame_id)
        kept = (
            None if self._store is None else self._store.read(self._store.frame_name(origin.digest))
        )
        return kept or Image.fromarray(self._decode(origin))

    def crop(self, box_id: int) -> Image.Image:
        """Return a person cut out of their frame, RGB.

        Raises
        ------
        UnknownBoxError
            When there is no such box.
        MediaError
            When its source is gone or has changed.
        """
        column = schema.box.c
        with self._database.read() as connection:
            row = connection.execute(
                select(column.frame_id, column.x1, column.y1, column.x2, column.y2).where(
                    column.id == box_id
                )
            ).one_or_none()
            if row is None:
                raise UnknownBoxError(f"There is no box {box_id}")
            origin = _origin(connection, row.frame_id)
        box = (row.x1, row.y1, row.x2, row.y2)
        kept = None if self._store is None else self._kept_crop(self._store, origin, box)
        return kept or cut_crop(self._decode(origin), box)

    def _kept_crop(self, store: MediaStore, origin: _Origin, box: Box) -> Image.Image | None:
        crop = store.read(store.crop_name(origin.digest, box))
        if crop is not None:
            return crop
        frame = store.read(store.frame_name(origin.digest))
        return None if frame is None else cut_crop(np.asarray(frame), box)

    def _decode(self, origin: _Origin) -> Pixels:
        path, _, member = origin.uri.partition(MEMBER_MARK)
        if not Path(path).is_file():
            raise MediaError(
                f"Frame {origin.frame_id} is from {origin.name}, which is not there any more; put "
                "it back, or index it again where it is now"
            )
        request: protocol.Request
        if origin.kind == SourceKind.VIDEO:
            request = protocol.ReadFrame(path, origin.position, origin.timestamp_s, origin.digest)
        else:
            digests = (origin.source_digest,)
            archive = path if member else None
            request = protocol.ReadPictures((member or path,), digests, archive)
        pixels = None
        try:
            for reply in self._decoder.request(request):
                if isinstance(reply, protocol.Frame) and reply.head.digest == origin.digest:
                    pixels = reply.pixels
        except SourceError as error:
            raise MediaError(
                f"Frame {origin.frame_id} cannot be read from {origin.name} any more"
            ) from error
        if pixels is None:
            raise MediaError(
                f"Frame {origin.frame_id} is not in {origin.name} any more: the file has changed"
            )
        return pixels


def frame_picture(gallery: Gallery, frame_id: int) -> Image.Image:
    """Return one frame; see `MediaReader.frame`."""
    with MediaReader(gallery) as reader:
        return reader.frame(frame_id)


def crop_picture(gallery: Gallery, box_id: int) -> Image.Image:
    """Return one person; see `MediaReader.crop`."""
    with MediaReader(gallery) as reader:
        return reader.crop(box_id)


def prune_media(database: Database) -> int:
    """Delete the kept pictures of what is not in the gallery any more; return how many.

    Not while something is being indexed: its pictures are there a moment before their rows.
    """
    store = MediaStore.of(database)
    return 0 if store is None else store.prune(wanted_media(database, store))


def wanted_media(database: Database, store: MediaStore) -> set[str]:
    """Return the names under which pictures may be kept."""
    box, frame = schema.box.c, schema.frame.c
    with database.read() as connection:
        frames = connection.execute(select(frame.content_sha256)).scalars()
        wanted = {store.frame_name(digest) for digest in frames}
        boxes = connection.execute(
            select(frame.content_sha256, box.x1, box.y1, box.x2, box.y2).join(
                schema.frame, frame.id == box.frame_id
            )
        )
        wanted |= {store.crop_name(row[0], (row[1], row[2], row[3], row[4])) for row in boxes}
    return wanted


def _origin(connection: Connection, frame_id: int) -> _Origin:
    frame, source = schema.frame.c, schema.source.c
    row = connection.execute(
        select(
            *(frame.position, frame.pts_numerator, frame.pts_denominator),
            frame.content_sha256,
            *(source.uri, source.kind, source.content_sha256.label("source_sha256")),
        )
        .join(schema.source, source.id == frame.source_id)
        .where(frame.id == frame_id)
    ).one_or_none()
    if row is None:
        raise GalleryError(f"There is no frame {frame_id}")
    return _Origin(
        frame_id,
        row.position,
        read_pts(row.pts_numerator, row.pts_denominator),
        row.content_sha256,
        row.uri,
        row.kind,
        row.source_sha256,
    )
