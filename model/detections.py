"""People found in one scene: the type that the network hands to everything else."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Index = slice | list[int] | npt.NDArray[np.bool_] | npt.NDArray[np.intp]

#: How far from 1 the length of an embedding may be.
UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Detections:
    """Parallel arrays of N people, validated once.

    Attributes
    ----------
    boxes_xyxy
        float32 [N, 4] in pixels of the scene itself, x1 <= x2 and y1 <= y2.
    scores
        float32 [N], probability of a person.
    embeddings
        float32 [N, D], unit vectors.

    Examples
    --------
    >>> none = Detections.empty(embedding_dim=256)
    >>> len(none), none[:3].boxes_xyxy.shape
    (0, (0, 4))
    """

    boxes_xyxy: FloatArray
    scores: FloatArray
    embeddings: FloatArray

    def __post_init__(self) -> None:
        n = len(self.scores)
        expected = {"boxes_xyxy": (n, 4), "scores": (n,)}
        if self.embeddings.ndim != 2 or len(self.embeddings) != n:
            raise ValueError(
                f"embeddings: expected shape ({n}, dimension), got {self.embeddings.shape}"
            )
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name}: expected shape {shape}, got {getattr(self, name).shape}")
        for name in (*expected, "embeddings"):
            array = getattr(self, name)
            if array.dtype != np.float32:
                raise ValueError(f"{name}: expected float32, got {array.dtype}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name}: not finite")
        if (self.boxes_xyxy[:, 2:] < self.boxes_xyxy[:, :2]).any():
            raise ValueError("boxes_xyxy: x2 < x1 or y2 < y1")
        length = np.linalg.norm(self.embeddings, axis=1)
        if (np.abs(length - 1) > UNIT_TOLERANCE).any():
            raise ValueError("embeddings: not unit vectors")

    @classmethod
    def empty(cls, embedding_dim: int = 256) -> "Detections":
        """Nobody was found."""
        return cls(
            boxes_xyxy=np.zeros((0, 4), np.float32),
            scores=np.zeros(0, np.float32),
            embeddings=np.zeros((0, embedding_dim), np.float32),
        )

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Index) -> "Detections":
        """Return the people at a slice, a mask or a list of positions; the arrays stay aligned."""
        if isinstance(index, list):
            index = np.asarray(index, dtype=np.intp)
        return Detections(self.boxes_xyxy[index], self.scores[index], self.embeddings[index])
