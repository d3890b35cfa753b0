"""Indexing as a job: what is discovered is indexed, or fails with a reason."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from indexer import ingest
from indexer.archives import Member
from indexer.channels import StageTime
from indexer.decode_protocol import ListArchive
from indexer.decoder import Decoder
from indexer.errors import EncoderError, SourceError
from indexer.gallery import Gallery
from indexer.jobs import (
    Failure,
    create_job,
    end_badly,
    fail_interrupted,
    failures_of,
    finish_job,
    read_job,
    set_discovered,
    start_job,
)
from indexer.known import Scope
from indexer.limits import Limits
from indexer.media_store import MediaStore
from indexer.mirror import Encoder
from indexer.pipeline import Pipeline, Stages, cancelled, total_bytes
from indexer.progress import STAGES, Progress
from indexer.reading import tasks
from indexer.schema import EncoderState, JobState
from indexer.sources import Discovered, discover
from indexer.work import IndexOptions, Keep, SearchBranch
from indexer.writing import Writer

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
    GalleryError, MediaError
        When nothing can be written any more. The job has failed with that reason then.
    """
    limits = limits or Limits()
    encoder = register(gallery, branch)
    with gallery.database.write() as connection:
        fail_interrupted(connection)
        if job_id is None:
            job_id = create_job(connection, KIND, request or {"sources": [str(p) for p in paths]})
        start_job(connection, job_id)
    try:
        found = _discover(paths, options, limits)
        with gallery.database.write() as connection:
            set_discovered(connection, job_id, len(found.files))
        progress = _run(
            gallery, branch, encoder, found, options, job_id, limits, on_progress, cancel
        )
    except BaseException as error:
        end_badly(gallery.database, job_id, error)
        raise
    with gallery.database.write() as connection:
        finish_job(connection, job_id, JobState.DONE, report=progress.report())
        job = read_job(connection, job_id)
        failures = failures_of(connection, job_id)
    return Indexed(
        job_id,
        job.discovered,
        job.indexed,
        job.failed,
        progress.counts.unchanged,
        found.ignored,
        progress.counts.new_frames,
        progress.counts.new_boxes,
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


def _run(
    gallery: Gallery,
    branch: SearchBranch,
    encoder: Encoder,
    found: Discovered,
    options: IndexOptions,
    job_id: int,
    limits: Limits,
    on_progress: Callable[[Progress], None] | None,
    cancel: threading.Event | None,
) -> Progress:
    stages = {name: StageTime() for name in STAGES}
    progress = Progress(len(found.files), total_bytes(found.files), stages)
    scope = Scope(options.camera, encoder.id)
    media = MediaStore.of(gallery.database)
    if media is None and options.keep != Keep.OFF:
        raise SourceError(
            "A gallery in PostgreSQL has no folder for pictures: say where they are kept with "
            "`binet gallery media`, or index with --keep off"
        )
    writer = Writer(gallery, scope, job_id, media, options.keep, progress)

    def report(now: Progress) -> None:
        if on_progress is not None:
            on_progress(now)
        if cancel is not None and cancel.is_set():
            raise cancelled()

    pipeline = Pipeline(
        Stages(branch, writer, progress, options, limits, report), gallery.database, scope
    )
    pipeline.run(tasks(found.files, options.batch))
    return progress
