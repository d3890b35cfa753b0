"""`binet gallery`: what options mean, and what is shown."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from indexer.capture_time import parse_time
from indexer.checking import Finding
from indexer.deletion import Deleted, read_holds
from indexer.errors import GalleryError
from indexer.filters import Filter
from indexer.gallery import Gallery
from indexer.jobs import Job, failures_of, list_jobs

#: Jobs that are shown.
_JOBS = 5


def stats(gallery: Gallery) -> dict[str, Any]:
    """Return counts, encoders and the last jobs as JSON has them."""
    counts = asdict(gallery.stats())
    with gallery.database.read() as connection:
        jobs = list_jobs(connection, _JOBS)
        failures = {job.id: failures_of(connection, job.id) for job in jobs}
    return {
        **{key: counts[key] for key in ("cameras", "sources", "frames", "boxes", "tombstones")},
        "camera_names": sorted(gallery.cameras()),
        "encoders": [asdict(encoder) for encoder in gallery.encoders()],
        "jobs": [
            {**_job(job), "failures": [asdict(failure) for failure in failures[job.id]]}
            for job in jobs
        ],
    }


def _job(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state.value,
        "discovered": job.discovered,
        "indexed": job.indexed,
        "failed": job.failed,
        "reason": job.reason,
        "created_at": job.created_at.isoformat(),
        "report": job.report,
    }


def stats_lines(document: dict[str, Any]) -> list[str]:
    """Return `stats` as lines to read."""
    lines = [
        f"{name:<10} {document[name]}"
        for name in ("cameras", "sources", "frames", "boxes", "tombstones")
    ]
    lines += [
        f"encoder {one['id']} is {one['state']}: weights {one['weights_sha256'][:12]}, "
        f"{one['dimension']} dimensions"
        for one in document["encoders"]
    ]
    for job in document["jobs"]:
        reason = f": {job['reason']}" if job["reason"] else ""
        lines.append(
            f"job {job['id']} ({job['kind']}) is {job['state']}, {job['indexed']} indexed and "
            f"{job['failed']} failed of {job['discovered']} files{reason}"
        )
    return lines


def findings_document(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return what a check found as JSON has it."""
    return {
        "in_order": not any(finding.is_problem for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }


def findings_lines(findings: Sequence[Finding]) -> list[str]:
    """Return what a check found as lines to read."""
    lines = [
        f"{'problem' if finding.is_problem else 'note'}: {finding.count} {finding.what}"
        for finding in findings
    ]
    if not any(finding.is_problem for finding in findings):
        lines.append("in order")
    return lines


def named_filter(
    gallery: Gallery,
    cameras: Sequence[str] | None = None,
    sources: Sequence[int] | None = None,
    after: str | None = None,
    before: str | None = None,
    min_score: float | None = None,
) -> Filter:
    """Read a filter from options; what is not given allows everything.

    Raises
    ------
    GalleryError, SourceError
        When there is no such camera, or a time cannot be read.
    """
    wanted = None
    if cameras:
        known = gallery.cameras()
        unknown = [name for name in cameras if name not in known]
        if unknown:
            raise GalleryError(
                f"There is no camera {unknown[0]!r}; there are {', '.join(known) or 'none'}"
            )
        wanted = [known[name] for name in cameras]
    return Filter(
        cameras=wanted,
        sources=sources or None,
        after=None if after is None else parse_time(after),
        before=None if before is None else parse_time(before),
        min_score=min_score,
    )


def deleted_line(gone: Deleted) -> str:
    """Return what a deletion came to as a line to read."""
    held = f"; {gone.held_frames} frames are held and stay" if gone.held_frames else ""
    return f"deleted: {gone.boxes} boxes, {gone.frames} frames, {gone.sources} sources{held}"


def holds(gallery: Gallery) -> list[dict[str, Any]]:
    """Return the holds that are not released, as JSON has them."""
    with gallery.database.read() as connection:
        found = read_holds(connection)
    return [
        {
            "hold": one.id,
            "reason": one.reason,
            "camera": one.camera,
            "source": one.source,
            "frame": one.frame,
            "after": None if one.after is None else one.after.isoformat(),
            "before": None if one.before is None else one.before.isoformat(),
            "created_at": one.created_at.isoformat(),
        }
        for one in found
    ]
