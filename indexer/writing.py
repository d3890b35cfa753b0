"""Writing batches into the gallery: frames, files and the job's counts in one transaction."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from PIL import Image
from sqlalchemy import Connection, func, select, update

from indexer import ingest, schema
from indexer.gallery import Gallery
from indexer.ingest import NewFrame
from indexer.items import Share
from indexer.jobs import Failure, advance_job
from indexer.known import Scope
from indexer.media_store import MediaStore, cut_crop
from indexer.progress import Progress
from indexer.schema import SourceState
from indexer.sources import SourceFile
from indexer.work import Batch, Keep, Outcome, Status, Taken


class Writer:
    """Writes batches; one thread uses it.

    Parameters
    ----------
    job_id
        Whose counts and report go with each batch.
    media
        Where pictures are kept; None keeps none.
    share
        Whose leases each batch is written under.
    """

    def __init__(
        self,
        gallery: Gallery,
        scope: Scope,
        job_id: int,
        media: MediaStore | None,
        keep: Keep,
        progress: Progress,
        share: Share,
    ) -> None:
        self._share = share
        self._gallery = gallery
        self._scope = scope
        self._job_id = job_id
        self._media = media if keep != Keep.OFF else None
        self._keep = keep
        self._progress = progress
        #: Sources of the files that are not through yet.
        self._sources: dict[str, int] = {}
        #: Files of which a frame failed: they fail, whatever else is said of them.
        self._broken: dict[str, str] = {}

    def fail_later(self, file: SourceFile, reason: str) -> None:
        """Let a file fail once it is through."""
        self._broken.setdefault(file.uri, reason)

    def write(self, batch: Batch) -> None:
        """Write a batch; when this returns, it is on disk.

        Raises
        ------
        JobCancelled
            When the job was cancelled; nothing of the batch is written then.
        LeaseLostError
            When another indexer has taken over what the batch is of; nothing is written either.
        GalleryError, MediaError
            When it cannot be written.
        """
        # First, so that no row is without its picture.
        self._keep_pictures(batch.frames)
        outcomes = [self._true(outcome) for outcome in batch.outcomes]
        failures = [Failure(o.file.uri, o.reason) for o in outcomes if o.status == Status.FAILED]
        with self._gallery.database.write() as connection:
            sources, new_frames, new_boxes = self._write_frames(connection, batch.frames)
            sources = {**self._sources, **sources}
            for outcome in outcomes:
                self._write_outcome(connection, outcome, sources)
            after = self._progress.after(batch.frames, outcomes, new_frames, new_boxes)
            advance_job(
                connection,
                self._job_id,
                len(outcomes) - len(failures),
                failures,
                after.report(),
                self._share.owner,
            )
            # Last: renewing a lease then takes part in no wait of this transaction's.
            self._share.hold(connection, batch)
        self._share.committed(batch)
        self._progress.become(after)
        for outcome in outcomes:
            sources.pop(outcome.file.uri, None)
            self._broken.pop(outcome.file.uri, None)
        self._sources = sources

    def _true(self, outcome: Outcome) -> Outcome:
        reason = self._broken.get(outcome.file.uri)
        if reason is None or outcome.status == Status.FAILED:
            return outcome
        return Outcome(outcome.file, Status.FAILED, reason, outcome.source_id)

    def _keep_pictures(self, frames: list[Taken]) -> None:
        if self._media is None:
            return
        for taken in frames:
            if taken.pixels is None or taken.people is None or not len(taken.people):
                continue
            for box in taken.people.boxes_xyxy:
                x1, y1, x2, y2 = (float(value) for value in box)
                name = self._media.crop_name(taken.digest, (x1, y1, x2, y2))
                self._media.save(name, cut_crop(taken.pixels, box))
            if self._keep == Keep.FRAMES:
                self._media.save(
                    self._media.frame_name(taken.digest), Image.fromarray(taken.pixels)
                )

    def _write_frames(
        self, connection: Connection, frames: list[Taken]
    ) -> tuple[dict[str, int], int, int]:
        """Write frames; return the sources of their files, and the number of new frames, boxes."""
        sources: dict[str, int] = {}
        by_source: dict[int, dict[int, NewFrame]] = defaultdict(dict)
        for taken in frames:
            uri = taken.file.uri
            if uri not in sources:
                sources[uri] = self._source(connection, taken)
            # Two files of the same content are one source.
            if taken.people is not None:
                by_source[sources[uri]].setdefault(taken.position, _new_frame(taken))
        new_frames = new_boxes = 0
        for source_id, of_source in by_source.items():
            added = ingest.add_frames(
                connection, self._scope.encoder_id, source_id, list(of_source.values())
            )
            new_frames += added.new_frames
            new_boxes += added.new_boxes
        return sources, new_frames, new_boxes

    def _source(self, connection: Connection, taken: Taken) -> int:
        if taken.source_id is not None:
            ingest.set_source(
                connection,
                taken.source_id,
                SourceState.INDEXING,
                taken.content_sha256 if taken.grown else None,
            )
            return taken.source_id
        camera = ingest.camera_id(connection, self._scope.camera_of(taken.file))
        return ingest.add_source(
            connection, camera, taken.file.uri, taken.file.kind, taken.content_sha256
        ).id

    def _write_outcome(
        self, connection: Connection, outcome: Outcome, sources: dict[str, int]
    ) -> None:
        source_id = sources.get(outcome.file.uri, outcome.source_id)
        if source_id is None:
            return
        failed = outcome.status == Status.FAILED
        ingest.set_source(
            connection, source_id, SourceState.FAILED if failed else SourceState.COMPLETE
        )
        if not failed:
            _follow_file(connection, source_id, outcome.file)


def _new_frame(taken: Taken) -> NewFrame:
    if taken.people is None:
        raise ValueError("a frame must be looked at before it is written")
    height, width = taken.shape
    return NewFrame(
        position=taken.position,
        captured_at=taken.captured.moment,
        width=width,
        height=height,
        content_sha256=taken.digest,
        detections=taken.people,
        clock=taken.captured.clock,
        pts_s=taken.timestamp_s,
    )


def _follow_file(connection: Connection, source_id: int, file: SourceFile) -> None:
    """Give a source the new name of its file when there is none under the old one any more."""
    column = schema.source.c
    row: Any = connection.execute(select(schema.source).where(column.id == source_id)).one()
    if row.uri == file.uri or file.member is not None or Path(row.uri).exists():
        return
    versions = select(func.max(column.version)).where(
        column.camera_id == row.camera_id, column.uri == file.uri
    )
    connection.execute(
        update(schema.source)
        .where(column.id == source_id)
        .values(uri=file.uri, version=(connection.execute(versions).scalar() or 0) + 1)
    )
