"""Everybody who was found in the pictures of a gallery, as a few flat arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model import Detections
from model.detections import FloatArray

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class People:
    """Detections of M scenes, one after the other.

    Attributes
    ----------
    ptr
        int64 [M + 1]; scene m has the rows `ptr[m]:ptr[m + 1]`.
    boxes_xyxy
        float32 [D, 4] in pixels of the scene.
    scores
        float32 [D], probability of a person.
    embeddings
        float32 [D, E]. Unit vectors, unless a system scales them itself.
    """

    ptr: Int64
    boxes_xyxy: FloatArray
    scores: FloatArray
    embeddings: FloatArray

    def __post_init__(self) -> None:
        rows = len(self.scores)
        shapes = (self.boxes_xyxy.shape, self.embeddings.shape[:1], self.ptr[-1:].tolist())
        if shapes != ((rows, 4), (rows,), [rows]) or (np.diff(self.ptr) < 0).any():
            raise ValueError(f"people: arrays of {rows} scores do not agree: {shapes}")

    @classmethod
    def from_detections(cls, detections: Sequence[Detections]) -> "People":
        """Join what was found in each scene, in the order of the scenes."""
        counts = [len(people) for people in detections]
        return cls(
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.concatenate([people.boxes_xyxy for people in detections]),
            np.concatenate([people.scores for people in detections]),
            np.concatenate([people.embeddings for people in detections]),
        )

    @property
    def counts(self) -> Int64:
        """How many people each scene has: [M]."""
        return np.diff(self.ptr)

    def rows_of(self, scenes: npt.NDArray[np.integer]) -> Int64:
        """Return the rows of these scenes, scene by scene; a scene may come twice."""
        return ragged(self.ptr[scenes], self.counts[scenes])

    def above(self, threshold: float) -> "People":
        """Keep people with at least this score; scenes stay, even when they are left empty."""
        keep = self.scores >= threshold
        kept_before = np.concatenate([[0], np.cumsum(keep)])
        return People(
            kept_before[self.ptr], self.boxes_xyxy[keep], self.scores[keep], self.embeddings[keep]
        )


def ragged(starts: npt.NDArray[np.integer], counts: npt.NDArray[np.integer]) -> Int64:
    """Join ranges: starts [3, 9] and counts [2, 1] give [3, 4, 9]."""
    ends = np.cumsum(counts, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - counts), counts)
