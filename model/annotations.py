"""The one annotation schema: what training, benchmark and indexer know of a scene.

Readers of any dataset give `AnnotatedScene`s; nothing else about the dataset travels further.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

#: Identity number of a person without identity.
UNLABELLED = -1


@dataclass(frozen=True, eq=False)
class AnnotatedScene:
    """A picture and its people, validated once.

    Attributes
    ----------
    name
        Unique in its dataset; how protocols and reports call it.
    path
        The picture's file.
    boxes_xyxy
        float32 [N, 4] in pixels of the upright picture, x1 < x2 and y1 < y2. A box may reach past
        the picture.
    pids
        int64 [N], 0 or more, or `UNLABELLED`.
    camera
        Camera number, None when unknown.
    ignored_xyxy
        float32 [K, 4], boxes like the others of what may be people and is not annotated: a
        detection there is neither right nor wrong.
    """

    name: str
    path: Path
    boxes_xyxy: npt.NDArray[np.float32]
    pids: npt.NDArray[np.int64]
    camera: int | None = None
    ignored_xyxy: npt.NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((0, 4), np.float32)
    )

    def __post_init__(self) -> None:
        n = len(self.pids)
        if self.boxes_xyxy.shape != (n, 4) or self.boxes_xyxy.dtype != np.float32:
            raise ValueError(
                f"{self.name}: boxes_xyxy: expected float32 ({n}, 4), got "
                f"{self.boxes_xyxy.dtype} {self.boxes_xyxy.shape}"
            )
        if self.pids.shape != (n,) or self.pids.dtype != np.int64:
            raise ValueError(f"{self.name}: pids: expected int64 ({n},), got {self.pids.dtype}")
        if not (self.boxes_xyxy[:, 2:] > self.boxes_xyxy[:, :2]).all():
            raise ValueError(f"{self.name}: boxes_xyxy: a box is empty or not finite")
        if self.ignored_xyxy.ndim != 2 or self.ignored_xyxy.shape[1] != 4:
            raise ValueError(
                f"{self.name}: ignored_xyxy: expected float32 (K, 4), got {self.ignored_xyxy.shape}"
            )
        if (self.pids < UNLABELLED).any():
            raise ValueError(f"{self.name}: pids below {UNLABELLED}")

    def __len__(self) -> int:
        return len(self.pids)
