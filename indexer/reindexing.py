"""Another encoder for a gallery: its embeddings are made beside the old ones, then it flips.

The frames are those that the gallery has, no others: what was deleted does not come back, and what
was not sampled is not looked at. Searches go on with the old encoder until the flip, which is one
transaction. A run that ends early is gone on with by another one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row, select

from indexer import decode_protocol as protocol
from indexer import ingest, schema
from indexer.decode_protocol import Pixels
from indexer.decoder import Decoder
from indexer.errors import EncoderError, MediaError, SourceError
from indexer.filters import from_us
from indexer.gallery import Gallery
from indexer.ingest import NewFrame, chunks, read_pts
from indexer.jobs import (
    Failure,
    advance_job,
    create_job,
    end_badly,
    end_interrupted,
    finish_job,
    hold_job,
    set_discovered,
    start_job,
)
from indexer.leases import heartbeat, new_owner
from indexer.limits import Limits
from indexer.media import MediaReader
from indexer.mirror import Encoder
from indexer.region import Region
from indexer.schema import EncoderState, JobState
from indexer.sources import SourceKind
from indexer.work import SearchBranch
from model.detections import Detections

#: Kind of the jobs made here; they count sources.
KIND = "reindex"


@dataclass(frozen=True)
class Reindexed:
    """How it ended.

    Attributes
    ----------
    frames, boxes
        That this run has added to the new encoder.
    failures
        Sources whose frames cannot be had, and why.
    lacking
        Frames that the new encoder has not looked at.
    active
        Whether the gallery is searched with the new encoder now.
    """

    job_id: int
    encoder: int
    frames: int
    boxes: int
    failures: list[Failure]
    lacking: int
    active: bool


@dataclass(frozen=True)
class _Source:
    id: int
    uri: str
    kind: str
    frames: Sequence[Row[Any]]


def reindex(
    gallery: Gallery,
    branch: SearchBranch,
    *,
    region: Region | None = None,
    batch: int = 8,
    incomplete: bool = False,
    request: dict[str, Any] | None = None,
    limits: Limits | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Reindexed:
    """Look at every frame of the gallery with another encoder, then search with it.

    Parameters
    ----------
    region
        Which people are kept, as when the frames were indexed first; None keeps all.
    incomplete
        Flip although some frames cannot be had any more; nobody is found in those then.
    request
        What is remembered with the job.
    on_progress
        Called after each batch with the frames that are done and all of them.

    Raises
    ------
    EncoderError
        When the gallery is searched with these weights already, or with none.
    JobCancelled
        When it was cancelled; what it has done stays.
    GalleryError
        When nothing can be written any more.
    """
    owner = new_owner()
    with gallery.database.write() as connection:
        end_interrupted(connection)
        ingest.active_encoder(connection)
        encoder = ingest.add_encoder(
            connection, branch.weights_sha256, branch.preprocess_sha256, branch.dimension
        )
        if encoder.state == EncoderState.ACTIVE:
            raise EncoderError("The gallery is searched with these weights already")
        if encoder.state == EncoderState.RETIRED:
            ingest.rebuild(connection, encoder.id)
        job_id = create_job(connection, KIND, request or {})
        start_job(connection, job_id, owner)
    try:
        done = _Run(gallery, branch, encoder, job_id, owner, region or Region(), batch, on_progress)
        with heartbeat(gallery.database, job_id, owner):
            done.run(limits or Limits())
        active = _flip(gallery, encoder, incomplete)
    except BaseException as error:
        end_badly(gallery.database, job_id, error, owner)
        raise
    with gallery.database.write() as connection:
        finish_job(connection, job_id, JobState.DONE)
        lacking = ingest.count_lacking(connection, encoder.id)
    return Reindexed(job_id, encoder.id, done.frames, done.boxes, done.failures, lacking, active)


def _flip(gallery: Gallery, encoder: Encoder, incomplete: bool) -> bool:
    try:
        gallery.activate(encoder.id, complete=not incomplete)
    except EncoderError:
        return False
    return True


class _Run:
    """One run over the frames that an encoder lacks."""

    def __init__(
        self,
        gallery: Gallery,
        branch: SearchBranch,
        encoder: Encoder,
        job_id: int,
        owner: str,
        region: Region,
        batch: int,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self.frames = 0
        self.boxes = 0
        self.failures: list[Failure] = []
        self._gallery = gallery
        self._branch = branch
        self._encoder = encoder
        self._job_id = job_id
        self._owner = owner
        self._region = region
        self._batch = batch
        self._on_progress = on_progress
        self._total = 0

    def run(self, limits: Limits) -> None:
        """Go through all sources; one that cannot be read fails alone."""
        with self._gallery.database.write() as connection:
            self._total = ingest.count_lacking(connection, self._encoder.id)
            sources = _lacking_sources(connection, self._encoder.id)
            set_discovered(connection, self._job_id, len(sources))
        with Decoder(limits) as decoder, MediaReader(self._gallery, limits) as media:
            for source_id in sources:
                with self._gallery.database.read() as connection:
                    source = _source(connection, source_id, self._encoder.id)
                if source is None:  # deleted meanwhile
                    self._advance([])
                    continue
                try:
                    pictures = _pictures(source, decoder, media)
                    while some := list(islice(pictures, self._batch)):
                        self._look(source_id, some)
                except (SourceError, MediaError) as error:
                    self._advance([Failure(source.uri, str(error))])
                else:
                    self._advance([])

    def _look(self, source_id: int, pictures: Sequence[tuple[Row[Any], Pixels]]) -> None:
        scenes = [self._branch.prepare(pixels) for _, pixels in pictures]
        people = [self._region.keep(found) for found in self._branch.detect(scenes)]
        found = {row.id: (row, one) for (row, _), one in zip(pictures, people, strict=True)}
        with self._gallery.database.write() as connection:
            self._count(connection, 0, [])
            frame = schema.frame.c
            there: list[int] = []
            for chunk in chunks(sorted(found)):
                # What was deleted meanwhile does not come back.
                query = select(frame.id).where(frame.id.in_(chunk))
                there += connection.execute(query).scalars()
            added = ingest.add_frames(
                connection,
                self._encoder.id,
                source_id,
                [_new_frame(*found[frame_id]) for frame_id in there],
            )
        self.frames += len(there)
        self.boxes += added.new_boxes
        if self._on_progress is not None:
            self._on_progress(self.frames, self._total)

    def _advance(self, failures: list[Failure]) -> None:
        self.failures += failures
        with self._gallery.database.write() as connection:
            self._count(connection, 1 - len(failures), failures)

    def _count(self, connection: Connection, indexed: int, failures: list[Failure]) -> None:
        report = {"frames": self.frames}
        advance_job(connection, self._job_id, indexed, failures, report, self._owner)
        hold_job(connection, self._job_id, self._owner)


def _lacking_sources(connection: Connection, encoder_id: int) -> list[int]:
    frame = schema.frame.c
    query = select(frame.source_id).where(ingest.lacks(encoder_id)).distinct()
    return list(connection.execute(query.order_by(frame.source_id)).scalars())


def _source(connection: Connection, source_id: int, encoder_id: int) -> _Source | None:
    frame, source = schema.frame.c, schema.source.c
    row = connection.execute(select(schema.source).where(source.id == source_id)).one_or_none()
    if row is None:
        return None
    frames = connection.execute(
        select(schema.frame)
        .where(frame.source_id == source_id, ingest.lacks(encoder_id))
        .order_by(frame.position)
    ).all()
    return _Source(row.id, row.uri, row.kind, frames)


def _pictures(
    source: _Source, decoder: Decoder, media: MediaReader
) -> Iterator[tuple[Row[Any], Pixels]]:
    """Give the frames of a source with their pixels.

    Raises
    ------
    SourceError, MediaError
        When one of them cannot be had.
    """
    if source.kind != SourceKind.VIDEO or not Path(source.uri).is_file():
        for row in source.frames:
            yield row, np.asarray(media.frame(row.id).convert("RGB"))
        return
    by_position = {row.position: row for row in source.frames}
    wanted = np.array(sorted(by_position), np.int64)
    nothing = np.zeros(0, np.int64)
    request = protocol.ReadClip(source.uri, None, nothing, wanted)
    for reply in decoder.request(request):
        if isinstance(reply, protocol.Frame):
            row = by_position.pop(reply.head.position)
            if reply.head.digest != row.content_sha256:
                raise SourceError("the file has changed since it was indexed")
            yield row, reply.pixels
    if by_position:
        raise SourceError("the file is shorter than when it was indexed")


def _new_frame(row: Row[Any], people: Detections) -> NewFrame:
    return NewFrame(
        row.position,
        from_us(row.captured_at_us),
        row.width,
        row.height,
        row.content_sha256,
        people,
        row.clock,
        read_pts(row.pts_numerator, row.pts_denominator),
    )
