"""`binet gallery stats` and `check`: what is shown."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from indexer.checking import Finding
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
