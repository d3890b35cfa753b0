"""How far an indexing is, and what its time goes into."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from indexer.channels import StageTime
from indexer.work import Outcome, Status, Taken

STAGES = ("decode", "preprocess", "network", "commit")


@dataclass(frozen=True)
class Counts:
    """What was done so far.

    Attributes
    ----------
    files, bytes_done
        That are through, of `Progress.files` and `Progress.bytes_all`.
    frames
        That were looked at.
    new_frames, new_boxes
        That were not in the gallery before.
    partly
        Of files under way: how far through, by name.
    """

    files: int = 0
    unchanged: int = 0
    failed: int = 0
    bytes_done: int = 0
    frames: int = 0
    new_frames: int = 0
    new_boxes: int = 0
    partly: dict[str, tuple[int, float]] = field(default_factory=dict)


class Progress:
    """Counts, rates, and the time that is left.

    Parameters
    ----------
    files, bytes_all
        That were discovered.
    stages
        Time of each stage by name, kept up to date by whoever runs them.
    """

    def __init__(
        self,
        files: int,
        bytes_all: int,
        stages: dict[str, StageTime],
        counts: Counts | None = None,
        begun: float | None = None,
    ) -> None:
        self.files = files
        self.bytes_all = bytes_all
        self.stages = stages
        self.counts = counts or Counts()
        self._begun = time.perf_counter() if begun is None else begun

    def after(
        self, frames: Sequence[Taken], outcomes: Sequence[Outcome], new_frames: int, new_boxes: int
    ) -> "Progress":
        """Return the progress once these are written."""
        old = self.counts
        partly = dict(old.partly)
        for taken in frames:
            if taken.share is not None:
                partly[taken.file.uri] = (taken.file.size, taken.share)
        for outcome in outcomes:
            partly.pop(outcome.file.uri, None)
        counts = replace(
            old,
            files=old.files + len(outcomes),
            unchanged=old.unchanged + sum(o.status == Status.UNCHANGED for o in outcomes),
            failed=old.failed + sum(o.status == Status.FAILED for o in outcomes),
            bytes_done=old.bytes_done + sum(o.file.size for o in outcomes),
            frames=old.frames + len(frames),
            new_frames=old.new_frames + new_frames,
            new_boxes=old.new_boxes + new_boxes,
            partly=partly,
        )
        return Progress(self.files, self.bytes_all, self.stages, counts, self._begun)

    def become(self, other: "Progress") -> None:
        """Take the counts of another one."""
        self.counts = other.counts

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.perf_counter() - self._begun

    @property
    def share(self) -> float:
        """How far it is by the bytes of the files, 0 to 1."""
        counts = self.counts
        if counts.files >= self.files:
            return 1.0
        partly = sum(size * share for size, share in counts.partly.values())
        return min((counts.bytes_done + partly) / max(self.bytes_all, 1), 1.0)

    @property
    def frames_per_s(self) -> float:
        """Frames looked at for each second."""
        return self.counts.frames / max(self.seconds, 1e-9)

    @property
    def frames_all(self) -> int | None:
        """About how many frames it will be in all; None when nobody knows yet."""
        share = self.share
        return round(self.counts.frames / share) if share > 0 else None

    @property
    def left_s(self) -> float | None:
        """About how many seconds are left; None when nobody knows yet."""
        share = self.share
        return self.seconds * (1 - share) / share if share > 0 else None

    @property
    def busy_share(self) -> float:
        """Share of the time in which the network was at work, 0 to 1."""
        return self.stages["network"].busy_s / max(self.seconds, 1e-9)

    def report(self) -> dict[str, Any]:
        """Return it all as JSON has it; times in seconds."""
        counts = self.counts
        return {
            "files": self.files,
            "unchanged": counts.unchanged,
            "frames": counts.frames,
            "new_frames": counts.new_frames,
            "new_boxes": counts.new_boxes,
            "share": round(self.share, 4),
            "seconds": round(self.seconds, 3),
            "frames_per_s": round(self.frames_per_s, 3),
            "network_busy_share": round(self.busy_share, 4),
            "stages": {
                name: {key: round(value, 3) for key, value in asdict(stage).items()}
                for name, stage in self.stages.items()
            },
        }


def merged(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the report of several indexers that share a job; {} for none.

    Counts and the times of the stages are added up; the time is that of the longest.
    """
    if len(reports) <= 1:
        return dict(reports[0]) if reports else {}
    sums = {
        key: sum(report.get(key, 0) for report in reports)
        for key in ("unchanged", "frames", "new_frames", "new_boxes")
    }
    seconds = max(report["seconds"] for report in reports)
    stages: dict[str, dict[str, float]] = {}
    for report in reports:
        for name, times in report["stages"].items():
            into = stages.setdefault(name, dict.fromkeys(times, 0.0))
            for key, value in times.items():
                into[key] = round(into[key] + value, 3)
    return {
        "files": max(report["files"] for report in reports),
        **sums,
        "share": round(min(sum(report["share"] for report in reports), 1.0), 4),
        "seconds": seconds,
        "frames_per_s": round(sums["frames"] / max(seconds, 1e-9), 3),
        "network_busy_share": round(
            stages["network"]["busy_s"] / max(seconds * len(reports), 1e-9), 4
        ),
        "stages": stages,
        "indexers": len(reports),
    }
