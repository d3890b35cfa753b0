"""How well people are found, whoever they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import from_numpy
from torchvision.ops import box_iou

from benchmark.metrics import average_precision
from benchmark.people import People
from model.annotations import UNLABELLED, AnnotatedScene

#: A detection finds a true box from this overlap on.
MATCH_IOU = 0.5


@dataclass(frozen=True)
class DetectionResult:
    """Fractions: recall, and average precision times recall."""

    recall: float
    average_precision: float


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
        if len(true) == 0 or rows.start == rows.stop:
            continue
        overlaps = box_iou(from_numpy(true), from_numpy(people.boxes_xyxy[rows])).numpy()
        found = np.arange(overlaps.shape[1])
        nearest_true = overlaps.argmax(axis=0)
        nearest_found = overlaps.argmax(axis=1)
        mutual = nearest_found[nearest_true] == found
        right[rows] = mutual & (overlaps[nearest_true, found] >= MATCH_IOU)
    recall = int(right.sum()) / max(true_boxes, 1)
    ap = average_precision(people.scores[right], people.scores[counted])
    return DetectionResult(recall, ap * recall)
