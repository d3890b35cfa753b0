"""What every reader returns."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.annotations import UNLABELLED, AnnotatedScene
from training.errors import DatasetError


@dataclass(frozen=True)
class EmptyBox:
    """A box without extent, in the numbers of its file."""

    scene: str
    path: Path
    box_xyxy: tuple[float, ...]
    pid: int


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset in two parts.

    Attributes
    ----------
    format
        "cuhk-sysu", "prw", or "coco".
    root
        Its folder.
    train
        Scenes whose identities are numbered 0 to `num_pids` - 1, without a gap.
    test
        Scenes whose identities keep the dataset's own numbers.
    pid_of
        From the dataset's number of a training identity to the one in `train`.
    """

    format: str
    root: Path
    train: list[AnnotatedScene]
    test: list[AnnotatedScene]
    pid_of: dict[int, int]

    @property
    def num_pids(self) -> int:
        """Number of training identities: the rows of the OIM memory."""
        return len(self.pid_of)


def make_scene(
    name: str,
    path: Path,
    boxes_xyxy: npt.NDArray[Any],
    pids: npt.NDArray[Any],
    camera: int | None = None,
    empty: list[EmptyBox] | None = None,
) -> AnnotatedScene:
    """Make a scene from what a file says.

    Parameters
    ----------
    boxes_xyxy
        [N, 4].
    pids
        [N]; every negative number means a person without identity.
    empty
        Takes the boxes without extent, which are then left out.

    Raises
    ------
    DatasetError
        A box is empty, and no list was given to put it in.
    """
    boxes = np.asarray(boxes_xyxy, dtype=np.float32).reshape(-1, 4)
    numbers = np.asarray(pids).reshape(-1).astype(np.int64)
    numbers[numbers < 0] = UNLABELLED
    good = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & np.isfinite(boxes).all(axis=1)
    if not good.all():
        bad = [
            EmptyBox(name, path, tuple(map(float, boxes[i])), int(numbers[i]))
            for i in np.flatnonzero(~good)
        ]
        if empty is None:
            raise DatasetError(
                f"{name}: {len(bad)} boxes are empty or not finite, the first is x1, y1, x2, y2 = "
                f"{bad[0].box_xyxy}; `binet data check` lists them all"
            )
        empty.extend(bad)
        boxes, numbers = boxes[good], numbers[good]
    return AnnotatedScene(name, path, boxes, numbers, camera)


def relabel(scenes: list[AnnotatedScene]) -> tuple[list[AnnotatedScene], dict[int, int]]:
    """Renumber the identities 0, 1, ... in the order of their own numbers.

    A gap in the numbers would otherwise train identities against rows of the queue: PRW's own go
    from 1 to 932 for 483 people.
    """
    labelled = [pids[pids != UNLABELLED] for pids in (scene.pids for scene in scenes)]
    own = np.unique(np.concatenate(labelled)) if labelled else np.empty(0, np.int64)
    renumbered = []
    for scene in scenes:
        pids = np.where(scene.pids == UNLABELLED, UNLABELLED, np.searchsorted(own, scene.pids))
        renumbered.append(replace(scene, pids=pids.astype(np.int64)))
    return renumbered, {int(pid): row for row, pid in enumerate(own)}
