"""`binet index`: what the options mean, and what is shown."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from indexer.capture_time import CaptureTime, Clock, parse_offset, parse_time
from indexer.errors import GalleryError
from indexer.gallery import Gallery
from indexer.indexing import KIND, Indexed, help_index, index_sources, leading
from indexer.jobs import read_job, resumable
from indexer.limits import Limits
from indexer.progress import Progress
from indexer.region import Region, parse_polygon
from indexer.work import IndexOptions, Keep, Precision


@dataclass(frozen=True)
class IndexRequest:
    """What a job is asked for; its row holds this as JSON.

    Attributes
    ----------
    sources, weights
        Absolute paths.
    start, roi
        As given on the command line.
    """

    sources: list[str]
    weights: str
    camera: str | None = None
    start: str | None = None
    utc_offset: str = "+00:00"
    fps: float | None = None
    roi: str | None = None
    min_height: float = 0.0
    device: str = "cpu"
    precision: Precision = "float32"
    batch: int = 8
    workers: int = 2
    keep: str = Keep.OFF.value

    def options(self) -> IndexOptions:
        """Read the options.

        Raises
        ------
        SourceError
            When one of them cannot be read.
        """
        offset = parse_offset(self.utc_offset)
        polygon = None if self.roi is None else parse_polygon(self.roi)
        start = None
        if self.start is not None:
            start = CaptureTime(parse_time(self.start, offset), Clock.GIVEN)
        return IndexOptions(
            camera=self.camera,
            start=start,
            utc_offset=offset,
            fps=self.fps,
            region=Region(polygon, self.min_height),
            batch=self.batch,
            workers=self.workers,
            keep=Keep(self.keep),
        )


def run_index(
    url: str,
    request: IndexRequest | None,
    show: Callable[[Progress], None] | None = None,
    index: str | None = None,
) -> Indexed:
    """Index what is asked for; without a request, go on with the last job.

    Parameters
    ----------
    index
        Where Milvus is, which is fed in the end; see `Gallery.open`.

    Raises
    ------
    GalleryError
        When there is nothing to resume.
    """
    from indexer.branch import NetworkBranch

    job_id = None
    with contextlib.ExitStack() as stack:
        if request is None:
            gallery = stack.enter_context(Gallery.open(url, index=index))
            job = resumable(gallery.database, KIND)
            if job is None:
                raise GalleryError("There is nothing to resume: the last job is done")
            request, job_id = IndexRequest(**job.request), job.id
            options = request.options()
            branch = NetworkBranch.load(request.weights, request.device, request.precision)
        else:
            # A new gallery is made only once everything else is in order.
            options = request.options()
            branch = NetworkBranch.load(request.weights, request.device, request.precision)
            gallery = stack.enter_context(Gallery.open(url, create=True, index=index))
        result = index_sources(
            gallery,
            branch,
            request.sources,
            options,
            request=asdict(request),
            job_id=job_id,
            on_progress=show,
        )
        if index:
            gallery.refresh()
        return result


def run_help(
    url: str,
    job_id: int,
    show: Callable[[Progress], None] | None = None,
    item: int | None = None,
    wait: bool = True,
    index: str | None = None,
) -> Indexed:
    """Take a share of an index job that another process has begun, with the job's options.

    See `indexer.indexing.help_index`, and `run_index` for `index`.
    """
    from indexer.branch import NetworkBranch

    with Gallery.open(url, index=index) as gallery:
        with gallery.database.read() as connection:
            request = IndexRequest(**read_job(connection, job_id).request)
        branch = NetworkBranch.load(request.weights, request.device, request.precision)
        result = help_index(
            gallery, branch, job_id, request.options(), item=item, wait=wait, on_progress=show
        )
        if index:
            gallery.refresh()
        return result


def run_on_cluster(
    url: str,
    request: IndexRequest | None,
    address: str,
    show: Callable[[int, int], None] | None,
    index: str | None = None,
) -> Indexed:
    """Index what is asked for on a Ray cluster; without a request, go on with the last job.

    See `run_index` for `index`.

    Raises
    ------
    GalleryError
        When the gallery is no PostgreSQL's, there is nothing to resume, or no cluster answers.
    """
    from indexer.branch import NetworkBranch
    from indexer.cluster import connect, index_on_cluster

    with Gallery.open(url, create=request is not None, index=index) as gallery:
        if gallery.database.file is not None:
            raise GalleryError(
                "The nodes of a cluster cannot share SQLite's file: give a PostgreSQL gallery, "
                "--gallery postgresql+psycopg://..."
            )
        job_id = None
        if request is None:
            job = resumable(gallery.database, KIND)
            if job is None:
                raise GalleryError("There is nothing to resume: the last job is done")
            request, job_id = IndexRequest(**job.request), job.id
        options = request.options()
        load = partial(NetworkBranch.load, request.weights, request.device, request.precision)
        ray = connect(address)
        try:
            with leading(
                gallery, request.sources, options, asdict(request), job_id, None, Limits()
            ) as led:
                return index_on_cluster(gallery, url, led, options, ray, request.device, load, show)
        finally:
            ray.shutdown()


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[Progress], None] | None]:
    """Show a bar on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("indexing", total=1.0, counts="")

        def show(now: Progress) -> None:
            about = "?" if now.frames_all is None else str(now.frames_all)
            bar.update(
                task,
                completed=now.share,
                counts=f"{now.counts.frames}/{about} frames, {now.frames_per_s:.1f}/s, "
                f"{now.counts.new_boxes} boxes",
            )

        yield show


@contextlib.contextmanager
def progress_bar_of(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar for so many of all on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def as_json(result: Indexed) -> str:
    """Return a result as one JSON object."""
    return json.dumps(asdict(result), indent=2)


def summary(result: Indexed) -> list[str]:
    """Return a result as lines to read."""
    report = result.report
    lines = [
        f"job {result.job_id}: {result.discovered} files discovered, {result.indexed} indexed "
        f"({result.unchanged} of them were there already), {result.failed} failed",
        f"new: {result.new_frames} frames, {result.new_boxes} boxes",
        f"{report['frames']} frames in {report['seconds']:.1f} s, "
        f"{report['frames_per_s']:.2f} frames per second; the network was busy "
        f"{report['network_busy_share']:.0%} of the time",
    ]
    lines += [
        f"  {name:<10} busy {stage['busy_s']:.1f} s, waited {stage['waited_s']:.1f} s, held back "
        f"{stage['blocked_s']:.1f} s"
        for name, stage in report["stages"].items()
    ]
    if result.ignored:
        lines.append(f"{result.ignored} files are neither pictures, videos nor archives")
    lines += [f"failed: {Path(f.uri).name}: {f.reason}" for f in result.failures]
    return lines
