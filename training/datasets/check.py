"""What is wrong, or looks wrong, with the data of a folder."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image

from model.annotations import UNLABELLED, AnnotatedScene
from training.datasets.dataset import EmptyBox
from training.datasets.opening import Format, detect_format, open_dataset

Kind: TypeAlias = Literal[
    "unreadable file",
    "empty box",
    "box outside",
    "box reaches out",
    "identity twice",
    "identity once",
]

#: What training cannot use; everything else may be meant.
ERRORS: frozenset[Kind] = frozenset({"unreadable file", "empty box"})
#: Annotation tools round: a box may reach so many pixels past its picture.
TOLERANCE_PX = 1.0


@dataclass(frozen=True)
class Problem:
    """One finding.

    Attributes
    ----------
    split
        "train" or "test"; "both" where the reader does not tell.
    scene
        Name of the picture.
    detail
        The box, the identity, or the reason, for people to read.
    """

    kind: Kind
    split: str
    scene: str
    detail: str

    @property
    def is_error(self) -> bool:
        """Whether training cannot use it."""
        return self.kind in ERRORS


@dataclass(frozen=True)
class CheckReport:
    """All findings, and what was looked at."""

    format: Format
    scenes: int
    boxes: int
    identities: int
    problems: list[Problem]

    @property
    def errors(self) -> int:
        """Number of problems that are errors."""
        return sum(problem.is_error for problem in self.problems)


def check_dataset(root: Path, data_format: Format | None = None) -> CheckReport:
    """Look at every picture and box; each file is decoded in full.

    Raises
    ------
    DatasetError
        The folder cannot be read at all: it is incomplete, or no dataset.
    """
    data_format = data_format or detect_format(root)
    empty: list[EmptyBox] = []
    # Missing pictures become findings, not one error for all of them.
    dataset = open_dataset(root, data_format, pictures=False, empty=empty)
    # CUHK-SYSU has boxes without extent, which its protocol drops.
    problems = [
        Problem("empty box", "both", box.scene, f"x1, y1, x2, y2 = {_numbers(box.box_xyxy)}")
        for box in empty
        if data_format != "cuhk-sysu"
    ]
    identities = 0
    own = {row: pid for pid, row in dataset.pid_of.items()}
    for split, scenes in (("train", dataset.train), ("test", dataset.test)):
        for scene in scenes:
            problems.extend(check_scene(scene, split, own if split == "train" else {}))
        pictures = _pictures_by_pid(scenes)
        identities += len(pictures)
        problems.extend(
            Problem("identity once", split, names[0], f"identity {_own(own, split, pid)}")
            for pid, names in sorted(pictures.items())
            if len(names) == 1
        )
    scenes = [*dataset.train, *dataset.test]
    return CheckReport(data_format, len(scenes), sum(map(len, scenes)), identities, problems)


def check_scene(
    scene: AnnotatedScene, split: str, own: dict[int, int] | None = None
) -> Iterator[Problem]:
    """Yield what is wrong with one picture and its boxes.

    Parameters
    ----------
    own
        From the scene's identities to the dataset's own numbers, where they differ.
    """
    for pid, count in Counter(scene.pids[scene.pids != UNLABELLED].tolist()).items():
        if count > 1:
            number = (own or {}).get(pid, pid)
            yield Problem(
                "identity twice", split, scene.name, f"identity {number} has {count} boxes"
            )
    try:
        with Image.open(scene.path) as picture:
            picture.load()
            size = np.array(picture.size, np.float32)
    # Pillow's plug-ins raise these for damaged files.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        yield Problem("unreadable file", split, scene.name, reason)
        return
    for box in scene.boxes_xyxy:
        outside = (box[2:] <= 0).any() or (box[:2] >= size).any()
        reaches = (box[:2] < -TOLERANCE_PX).any() or (box[2:] > size + TOLERANCE_PX).any()
        if outside or reaches:
            yield Problem(
                "box outside" if outside else "box reaches out",
                split,
                scene.name,
                f"x1, y1, x2, y2 = {_numbers(box)} in {size[0]:.0f} x {size[1]:.0f} pixels",
            )


def _pictures_by_pid(scenes: list[AnnotatedScene]) -> dict[int, list[str]]:
    pictures: dict[int, list[str]] = defaultdict(list)
    for scene in scenes:
        for pid in np.unique(scene.pids[scene.pids != UNLABELLED]).tolist():
            pictures[pid].append(scene.name)
    return pictures


def _own(own: dict[int, int], split: str, pid: int) -> int:
    return own[pid] if split == "train" else pid


def _numbers(box: Iterable[float]) -> str:
    return ", ".join(f"{side:g}" for side in box)
