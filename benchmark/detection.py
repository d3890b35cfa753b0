"""How well people are found, whoever they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import from_numpy
from torchvision.ops import box_iou

from benchmark.metrics import average_precision
from benchmark.people import Int64, People
from model.annotations import UNLABELLED, AnnotatedScene
from model.detections import FloatArray

#: A detection finds a true box from this overlap on.
MATCH_IOU = 0.5


@dataclass(frozen=True)
class DetectionResult:
    """Fractions: recall, average precision times recall, and precision at the threshold."""

    recall: float
    average_precision: float
    precision: float


def matched(true_xyxy: FloatArray, found_xyxy: FloatArray) -> Int64:
    """Pair true boxes and detections of a scene: each overlaps the other most, and enough.

    Parameters
    ----------
    true_xyxy, found_xyxy
        [N, 4] and [M, 4].

    Returns
    -------
    int64 [M], the true box of each detection, -1 for none.
    """
    pairs = np.full(len(found_xyxy), -1, np.int64)
    if len(true_xyxy) == 0 or len(found_xyxy) == 0:
        return pairs
    overlaps = box_iou(from_numpy(true_xyxy), from_numpy(found_xyxy)).numpy()
    found = np.arange(len(found_xyxy))
    nearest_true = overlaps.argmax(axis=0)
    nearest_found = overlaps.argmax(axis=1)
    mutual = nearest_found[nearest_true] == found
    right = mutual & (overlaps[nearest_true, found] >= MATCH_IOU)
    pairs[right] = nearest_true[right]
    return pairs


def _overlaps_any(ignored_xyxy: FloatArray, found_xyxy: FloatArray) -> npt.NDArray[np.bool_]:
    if len(ignored_xyxy) == 0 or len(found_xyxy) == 0:
        return np.zeros(len(found_xyxy), bool)
    overlaps = box_iou(from_numpy(ignored_xyxy), from_numpy(found_xyxy)).numpy()
    inside: npt.NDArray[np.bool_] = overlaps.max(axis=0) >= MATCH_IOU
    return inside


def evaluate_detection(
    scenes: Sequence[AnnotatedScene],
    people: People,
    threshold: float = 0.5,
    labelled_only: bool = False,
) -> DetectionResult:
    """Compare detections and true boxes: a pair counts when each overlaps the other most.

    Parameters
    ----------
    scenes
        In the order of `people`.
    threshold
        Least score of a detection.
    labelled_only
        Leave out people without identity, and scenes that then have nobody.
    """
    people = people.above(threshold)
    right = np.zeros(len(people.scores), bool)
    counted = np.zeros(len(people.scores), bool)
    true_boxes = 0
    for number, scene in enumerate(scenes):
        true = scene.boxes_xyxy[scene.pids != UNLABELLED] if labelled_only else scene.boxes_xyxy
        if labelled_only and len(true) == 0:
            continue
        true_boxes += len(true)
        rows = slice(int(people.ptr[number]), int(people.ptr[number + 1]))
        counted[rows] = True
        right[rows] = matched(true, people.boxes_xyxy[rows]) >= 0
        counted[rows] &= right[rows] | ~_overlaps_any(scene.ignored_xyxy, people.boxes_xyxy[rows])
    recall = int(right.sum()) / max(true_boxes, 1)
    precision = int(right.sum()) / max(int(counted.sum()), 1)
    ap = average_precision(people.scores[right], people.scores[counted])
    return DetectionResult(recall, ap * recall, precision)
