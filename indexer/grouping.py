"""Results by frame, by appearance, and as a timeline.

An appearance is one person passing one camera: boxes of one source, one after the other in time,
joined by similarity and place.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from indexer.query import FoundFrame, Hit
from indexer.vector_index import Float32


@dataclass(frozen=True)
class FrameGroup:
    """The hits of one frame, best first."""

    frame: FoundFrame
    hits: tuple[Hit, ...]

    @property
    def score(self) -> float:
        """The best hit's score."""
        return self.hits[0].score


@dataclass(frozen=True)
class Appearance:
    """The hits of one person passing one camera, in order of time."""

    hits: tuple[Hit, ...]

    @property
    def best(self) -> Hit:
        """The hit with the best score; of several, the earliest."""
        return max(self.hits, key=lambda hit: hit.score)

    @property
    def score(self) -> float:
        """The best hit's score."""
        return self.best.score

    @property
    def camera(self) -> str:
        """The camera's name."""
        return self.hits[0].frame.camera

    @property
    def source_id(self) -> int:
        """The source that all hits are of."""
        return self.hits[0].frame.source_id

    @property
    def begin(self) -> datetime:
        """When the first frame was captured, UTC."""
        return self.hits[0].frame.captured_at

    @property
    def end(self) -> datetime:
        """When the last frame was captured, UTC."""
        return self.hits[-1].frame.captured_at


@dataclass(frozen=True)
class JoinRule:
    """When two boxes of different frames are the same person still passing.

    Both conditions hold: the gap in time, and one of the two for similarity. A box near the last
    one needs less similarity, since people move on steadily; with frames sampled seconds apart
    boxes no longer overlap, and similarity alone decides.

    Attributes
    ----------
    max_gap
        Time since the appearance's last box, at most.
    min_similarity
        Of the two embeddings, where the boxes do not overlap enough.
    min_overlap
        Intersection over union of the two boxes, from which `min_overlapping_similarity` is enough.
    """

    max_gap: timedelta = timedelta(seconds=10)
    min_similarity: float = 0.6
    min_overlap: float = 0.3
    min_overlapping_similarity: float = 0.4


_DEFAULT_RULE = JoinRule()


def by_frame(hits: Sequence[Hit]) -> list[FrameGroup]:
    """Group hits by frame, the frame with the best hit first; ties by ascending frame id."""
    groups: dict[int, list[Hit]] = defaultdict(list)
    for hit in hits:
        groups[hit.frame.id].append(hit)
    made = [
        FrameGroup(group[0].frame, tuple(sorted(group, key=_rank))) for group in groups.values()
    ]
    return sorted(made, key=lambda group: (-group.score, group.frame.id))


def by_appearance(
    hits: Sequence[Hit], embeddings: Float32, rule: JoinRule = _DEFAULT_RULE
) -> list[Appearance]:
    """Group hits by appearance, the one with the best hit first; ties by ascending box id.

    Frame by frame in time, the most similar pairs of an open appearance and a new box are joined
    first. An appearance takes one box of a frame at most: two boxes of a frame are two people.

    Parameters
    ----------
    embeddings
        float32 [K, D], unit vectors, of the hits in their order.
    """
    if len(embeddings) != len(hits):
        raise ValueError(f"{len(embeddings)} embeddings for {len(hits)} hits")
    streams: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, hit in enumerate(hits):
        streams[hit.frame.camera_id, hit.frame.source_id].append(row)
    found: list[list[int]] = []
    for rows in streams.values():
        found += _appearances(hits, embeddings, rows, rule)
    made = [Appearance(tuple(hits[row] for row in rows)) for rows in found]
    return sorted(made, key=lambda appearance: _rank(appearance.best))


def timeline(appearances: Sequence[Appearance]) -> dict[str, list[Appearance]]:
    """Order appearances by time for each camera; cameras by their first appearance."""
    cameras: dict[str, list[Appearance]] = defaultdict(list)
    for appearance in sorted(appearances, key=lambda a: (a.begin, a.end, a.hits[0].box_id)):
        cameras[appearance.camera].append(appearance)
    return dict(cameras)


def _appearances(
    hits: Sequence[Hit], embeddings: Float32, rows: list[int], rule: JoinRule
) -> list[list[int]]:
    """Join the hits of one source; returns rows in order of time."""
    frames: dict[tuple[datetime, int], list[int]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: hits[row].box_id):
        frames[hits[row].frame.captured_at, hits[row].frame.position].append(row)
    found: list[list[int]] = []
    open_: list[list[int]] = []
    for moment, new in sorted(frames.items()):
        open_ = [a for a in open_ if moment[0] - hits[a[-1]].frame.captured_at <= rule.max_gap]
        for appearance, row in _pairs(hits, embeddings, open_, new, rule):
            appearance.append(row)
        joined = {appearance[-1] for appearance in open_}
        begun = [[row] for row in new if row not in joined]
        open_ += begun
        found += begun
    return found


def _pairs(
    hits: Sequence[Hit],
    embeddings: Float32,
    appearances: list[list[int]],
    new: list[int],
    rule: JoinRule,
) -> list[tuple[list[int], int]]:
    """Choose which open appearance each new box continues, each used once."""
    possible = []
    for number, appearance in enumerate(appearances):
        last = appearance[-1]
        for row in new:
            similarity = float(embeddings[last] @ embeddings[row])
            overlapping = overlap(hits[last], hits[row]) >= rule.min_overlap
            needed = rule.min_overlapping_similarity if overlapping else rule.min_similarity
            if similarity >= needed:
                possible.append((-similarity, number, row))
    pairs = []
    used: set[tuple[str, int]] = set()
    for _, number, row in sorted(possible):
        keys = {("appearance", number), ("row", row)}
        if not keys & used:
            used |= keys
            pairs.append((appearances[number], row))
    return pairs


def overlap(first: Hit, second: Hit) -> float:
    """Return the intersection over union of two hits' boxes."""
    a, b = np.array(first.box_xyxy), np.array(second.box_xyxy)
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    total = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - shared
    return shared / total if total > 0 else 0.0


def _rank(hit: Hit) -> tuple[float, int]:
    return -hit.score, hit.box_id
