"""Indexing as a job: what is discovered is indexed, or fails with a reason."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from indexer import ingest
from indexer.archives import Member
from indexer.channels import StageTime
from indexer.decode_protocol import ListArchive
from indexer.decoder import Decoder
from indexer.errors import EncoderError, GalleryError, SourceError
from indexer.gallery import Gallery
from indexer.items import Share, add_items, size_of_items
from indexer.jobs import (
    Failure,
    create_job,
    end_badly,
    end_interrupted,
    failures_of,
    finish_if_done,
    hold_job,
    read_job,
    report_job,
    set_discovered,
    start_job,
)
from indexer.known import Scope
from indexer.leases import heartbeat, new_owner
from indexer.limits import Limits
from indexer.media_store import MediaStore
from indexer.mirror import Encoder
from indexer.pipeline import Pipeline, Stages, cancelled
from indexer.progress import STAGES, Progress
from indexer.schema import EncoderState, JobState
from indexer.sources import Discovered, discover
from indexer.work import IndexOptions, Keep, SearchBranch
from indexer.writing import Writer
from model.errors import BINetError

#: Kind of the jobs made here.
KIND = "index"


@dataclass(frozen=True)
class Indexed:
    """How a job ended.

    Attributes
    ----------
    discovered, indexed, failed
        Files; indexed + failed = discovered. Those that were in the gallery before are indexed.
    unchanged
        Of those indexed, how many were in the gallery before.
    ignored
        Files in the folders that are neither pictures, videos nor archives.
    report
        Rates and the time of the stages, as `Progress.report` has them.
    """

    job_id: int
    discovered: int
    indexed: int
    failed: int
    unchanged: int
    ignored: int
    new_frames: int
    new_boxes: int
    failures: list[Failure]
    report: dict[str, Any]


def index_sources(
    gallery: Gallery,
    branch: SearchBranch,
    paths: Sequence[str | Path],
    options: IndexOptions,
    *,
    request: dict[str, Any] | None = None,
    job_id: int | None = None,
    held_by: str | None = None,
    limits: Limits | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Indexed:
    """Index files, folders and archives; what is in the gallery already is passed over.

    Parameters
    ----------
    request
        What is remembered with the job.
    job_id
        A job that was queued, or that is resumed; None makes one.
    held_by
        Who has taken the job from the queue, for this process.
    on_progress
        Called after each batch, in another thread.
    cancel
        Set by anybody, it ends the run after the batch under way.

    Raises
    ------
    SourceError
        When a path is not there, or there is nothing to index.
    EncoderError
        When the gallery is of another encoder.
    JobCancelled
        When it was cancelled.
    LeaseLostError
        When it was not heard of for too long, and another process has the job.
    GalleryError, MediaError
        When nothing can be written any more. The job has failed with that reason then.
    """
    limits = limits or Limits()
    encoder = register(gallery, branch)
    wanted = request or {"sources": [str(path) for path in paths]}
    with leading(gallery, paths, options, wanted, job_id, held_by, limits) as led:
        work = _Work(gallery, branch, encoder, options, limits, on_progress, cancel)
        progress = work.run(led.job_id, led.owner, None, True)
    return _indexed(gallery, led.job_id, progress, led.ignored)


def help_index(
    gallery: Gallery,
    branch: SearchBranch,
    job_id: int,
    options: IndexOptions,
    *,
    item: int | None = None,
    wait: bool = True,
    limits: Limits | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Indexed:
    """Take a share of an index job that another process has begun.

    Parameters
    ----------
    options
        Those of the job.
    item
        The one item to index (see `indexer.items.item_ids`); None takes one after the other. One
        that is done, or that somebody else has, is passed over.
    wait
        Whether to stay until the job is done, and take over what another one leaves.

    Returns
    -------
    Indexed
        The job as it stands then; `unchanged`, `new_frames` and `new_boxes` are of this share.

    Raises
    ------
    EncoderError
        When the gallery is of another encoder.
    JobCancelled
        When the job was cancelled, or failed elsewhere.
    LeaseLostError
        When it was not heard of for too long, and another has taken its items.
    GalleryError, MediaError
        When the job does not run, or nothing can be written any more; its items are left to others.
    """
    limits = limits or Limits()
    encoder = register(gallery, branch)
    with gallery.database.read() as connection:
        job = read_job(connection, job_id)
    if job.kind != KIND or job.state != JobState.RUNNING:
        raise GalleryError(f"Job {job_id} is no index job that runs: there is nothing to help with")
    owner = new_owner()
    work = _Work(gallery, branch, encoder, options, limits, on_progress, cancel)
    with heartbeat(gallery.database, job_id, owner):
        progress = work.run(job_id, owner, item, wait)
    return _indexed(gallery, job_id, progress, 0)


@dataclass(frozen=True)
class Led:
    """A job that this process has begun; `owner` holds its lease."""

    job_id: int
    owner: str
    ignored: int


@contextmanager
def leading(
    gallery: Gallery,
    paths: Sequence[str | Path],
    options: IndexOptions,
    request: dict[str, Any],
    job_id: int | None,
    held_by: str | None,
    limits: Limits,
) -> Iterator[Led]:
    """Begin a job: find its files, and write down its items for whoever works at it.

    The lease of the job is held to the end of the block; what is raised there ends the job.
    """
    owner = new_owner()
    with gallery.database.write() as connection:
        end_interrupted(connection)
        key = create_job(connection, KIND, request) if job_id is None else job_id
        start_job(connection, key, owner, held_by)
    try:
        with heartbeat(gallery.database, key, owner):
            found = _discover(paths, options, limits)
            with gallery.database.write() as connection:
                hold_job(connection, key, owner)
                set_discovered(connection, key, len(found.files))
                add_items(connection, key, found.files, options.batch)
            yield Led(key, owner, found.ignored)
    except BaseException as error:
        end_badly(gallery.database, key, error, owner)
        raise


def _indexed(gallery: Gallery, job_id: int, progress: Progress, ignored: int) -> Indexed:
    with gallery.database.read() as connection:
        job = read_job(connection, job_id)
        failures = failures_of(connection, job_id)
    counts = progress.counts
    return Indexed(
        job_id,
        job.discovered,
        job.indexed,
        job.failed,
        counts.unchanged,
        ignored,
        counts.new_frames,
        counts.new_boxes,
        failures,
        job.report,
    )


def register(gallery: Gallery, branch: SearchBranch) -> Encoder:
    """Return the gallery's encoder, which must be this one; a new gallery takes it.

    Raises
    ------
    EncoderError
        When the gallery is searched by another one.
    """
    with gallery.database.write() as connection:
        encoder = ingest.add_encoder(
            connection, branch.weights_sha256, branch.preprocess_sha256, branch.dimension
        )
        active = [e for e in ingest.encoders(connection) if e.state == EncoderState.ACTIVE]
        if not active:
            ingest.activate(connection, encoder.id)
            return ingest.encoder(connection, encoder.id)
        if active[0].id != encoder.id:
            raise EncoderError(
                "The gallery was made with other weights "
                f"({active[0].weights_sha256[:12]}): index with those, or into another gallery"
            )
        return encoder


def _discover(paths: Sequence[str | Path], options: IndexOptions, limits: Limits) -> Discovered:
    with Decoder(limits) as decoder:

        def list_archive(path: str) -> list[Member]:
            return cast(list[Member], decoder.value(ListArchive(path)))

        found = discover(paths, list_archive)
    if options.start is not None and len(found.files) > 1:
        raise SourceError(
            "A start is that of one video or picture: index the others by themselves, or put date "
            "and time into their names"
        )
    return found


@dataclass(frozen=True)
class _Work:
    """What one indexer needs for its share of a job."""

    gallery: Gallery
    branch: SearchBranch
    encoder: Encoder
    options: IndexOptions
    limits: Limits
    on_progress: Callable[[Progress], None] | None
    cancel: threading.Event | None

    def run(self, job_id: int, owner: str, item: int | None, wait: bool) -> Progress:
        """Index items until none is left; see to it that a job without any is done."""
        database = self.gallery.database
        share = Share(database, job_id, owner, item, wait)
        with database.read() as connection:
            files, size = read_job(connection, job_id).discovered, size_of_items(connection, job_id)
        progress = Progress(files, size, {name: StageTime() for name in STAGES})
        try:
            while True:
                self._pass(job_id, share, progress)
                with database.write() as connection:
                    report_job(connection, job_id, progress.report(), owner)
                    if finish_if_done(connection, job_id) or not wait or item is not None:
                        return progress
        except BaseException:
            with suppress(BINetError):
                share.release()
            raise

    def _pass(self, job_id: int, share: Share, progress: Progress) -> None:
        scope = Scope(self.options.camera, self.encoder.id)
        media = MediaStore.of(self.gallery.database)
        keep = self.options.keep
        if media is None and keep != Keep.OFF:
            raise SourceError(
                "A gallery in PostgreSQL has no folder for pictures: say where they are kept with "
                "`binet gallery media`, or index with --keep off"
            )
        writer = Writer(self.gallery, scope, job_id, media, keep, progress, share)

        def report(now: Progress) -> None:
            if self.on_progress is not None:
                self.on_progress(now)
            if self.cancel is not None and self.cancel.is_set():
                raise cancelled()

        stages = Stages(self.branch, writer, progress, self.options, self.limits, report)
        pipeline = Pipeline(stages, self.gallery.database, scope)
        pipeline.run(share.tasks(self.options.batch, pipeline.check))
