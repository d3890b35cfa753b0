"""Who leaves and comes back: a query for the demo that has an answer worth looking at."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from indexer.grouping import Appearance
from indexer.query import Hit
from indexer.vector_index import Float32


@dataclass(frozen=True)
class Chosen:
    """A person to ask for.

    Attributes
    ----------
    best
        The box to ask with.
    returns
        Whether somebody much like them appears again, after a time in which they are not seen.
    """

    appearance: Appearance
    best: Hit
    returns: bool


def choose(
    appearances: Sequence[Appearance],
    embeddings: dict[int, Float32],
    least_gap: timedelta = timedelta(seconds=3),
    least_boxes: int = 3,
) -> Chosen | None:
    """Choose the appearance whose most similar other one is the most alike and begins later.

    The two must be each other's most similar, `least_gap` apart, and `least_boxes` long, and walk:
    what stands in one place may be a post that the detector takes for somebody. Where there are
    none, whoever is seen longest is chosen, of those who walk if anybody does; None without
    anybody.

    Parameters
    ----------
    embeddings
        float32 [D], a unit vector, by box id.
    """
    if not appearances:
        return None
    walking = [a for a in appearances if _walks(a)]
    long = [a for a in walking if len(a.hits) >= least_boxes]
    means = [_mean([embeddings[hit.box_id] for hit in a.hits]) for a in long]
    best: tuple[float, Appearance] | None = None
    if len(long) > 1:
        similarity = np.array(means) @ np.array(means).T
        for i, one in enumerate(long):
            for j, other in enumerate(long):
                if other.begin - one.begin <= timedelta(0):
                    continue
                # Who is seen together with the other is somebody else.
                if one.source_id == other.source_id and other.begin <= one.end:
                    similarity[i, j] = similarity[j, i] = -1
        np.fill_diagonal(similarity, -1)
        nearest = similarity.argmax(axis=1)
        for i, one in enumerate(long):
            other = long[nearest[i]]
            if nearest[nearest[i]] == i and other.begin - one.end >= least_gap:
                value = float(similarity[i, nearest[i]])
                if best is None or value > best[0]:
                    best = (value, one)
    chosen = best[1] if best else max(walking or appearances, key=lambda a: len(a.hits))
    return Chosen(chosen, max(chosen.hits, key=_quality), best is not None)


def _walks(appearance: Appearance) -> bool:
    """Whether the boxes' centres move by more than half a height: those of a post tremble only."""
    boxes = np.array([hit.box_xyxy for hit in appearance.hits])
    moved = np.ptp(boxes[:, 2:] + boxes[:, :2], axis=0).max() / 2
    return bool(moved > np.median(boxes[:, 3] - boxes[:, 1]) / 2)


def _quality(hit: Hit) -> float:
    """Tall and surely a person."""
    return (hit.box_xyxy[3] - hit.box_xyxy[1]) * hit.detection_score


def _mean(vectors: list[Float32]) -> Float32:
    mean = np.mean(vectors, axis=0)
    unit: Float32 = mean / max(float(np.linalg.norm(mean)), 1e-6)
    return unit
