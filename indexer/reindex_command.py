"""`binet gallery reindex`: what the options mean, and what is shown."""

from dataclasses import asdict, dataclass
from pathlib import Path

from indexer.gallery import Gallery
from indexer.index_command import progress_bar_of
from indexer.ingest import active_encoder
from indexer.region import Region, parse_polygon
from indexer.reindexing import Reindexed, reindex
from indexer.work import Precision


@dataclass(frozen=True)
class ReindexRequest:
    """What a job is asked for; its row holds this as JSON."""

    weights: str
    roi: str | None = None
    min_height: float = 0.0
    device: str = "cpu"
    precision: Precision = "float32"
    batch: int = 8
    incomplete: bool = False


def run_reindex(
    url: str, request: ReindexRequest, drop_old: bool, index: str | None = None
) -> tuple[Reindexed, int]:
    """Re-index a gallery; return how it ended, and how many old boxes were deleted."""
    from indexer.branch import NetworkBranch

    polygon = None if request.roi is None else parse_polygon(request.roi)
    with Gallery.open(url, index=index) as gallery, progress_bar_of("frames") as show:
        branch = NetworkBranch.load(request.weights, request.device, request.precision)
        with gallery.database.read() as connection:
            old = active_encoder(connection).id
        result = reindex(
            gallery,
            branch,
            region=Region(polygon, request.min_height),
            batch=request.batch,
            incomplete=request.incomplete,
            request=asdict(request),
            on_progress=show,
        )
        dropped = gallery.drop_encoder(old) if drop_old and result.active else 0
    return result, dropped


def summary(result: Reindexed, dropped: int) -> list[str]:
    """Return a result as lines to read."""
    lines = [
        f"job {result.job_id}: encoder {result.encoder} has looked at {result.frames} more frames "
        f"and found {result.boxes} boxes"
    ]
    lines += [f"failed: {Path(f.uri).name}: {f.reason}" for f in result.failures]
    if result.active:
        lines.append(f"the gallery is searched with encoder {result.encoder} now")
        if result.lacking:
            lines.append(f"{result.lacking} frames were left out: nobody is found in them")
        if dropped:
            lines.append(f"{dropped} boxes of the old encoder are deleted")
    else:
        lines.append(
            f"{result.lacking} frames are still to come, and the gallery is searched with the old "
            "weights: put their files back and run it again, or give --incomplete"
        )
    return lines
