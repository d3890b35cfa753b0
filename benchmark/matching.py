"""Which detections may be the person of a true box."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from benchmark.people import Int64, People, ragged
from model.detections import FloatArray
from training.datasets.protocol import RetrievalProtocol

#: What becomes of a picture that a gallery lists twice. `oim`: it is scored twice, each time with
#: its own true box (OIM, NAE; the paper's year). `seqnet`: the second adds to the number of true
#: boxes and is not scored (SeqNet, COAT, GFN). Four queries of CUHK-SYSU have such a picture.
Duplicates = Literal["oim", "seqnet"]

#: A detection is the person from this overlap on; less for small boxes, which are granted so many
#: pixels of slack in width and height.
MATCH_IOU = 0.5
SLACK_PX = 10


@dataclass(frozen=True, eq=False)
class Truth:
    """The true boxes of all queries' galleries.

    Attributes
    ----------
    ptr
        int64 [Q + 1]; query q has the entries `ptr[q]:ptr[q + 1]` of the others.
    images
        int64 [N], scenes.
    boxes_xyxy
        float32 [N, 4].
    listings
        int64 [N]; which entry of its query's own list it is.
    scored
        bool [N]; False for what only counts as missed.
    """

    ptr: Int64
    images: Int64
    boxes_xyxy: FloatArray
    listings: Int64
    scored: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs of a true box and a detection that overlaps it enough, by true box.

    Attributes
    ----------
    entries
        int64 [P], rows of `Truth`, ascending.
    rows
        int64 [P], rows of `People`.
    """

    entries: Int64
    rows: Int64


def read_truth(protocol: RetrievalProtocol, duplicates: Duplicates) -> Truth:
    """Collect the true boxes of each query's gallery."""
    gallery = protocol.gallery
    present = ~np.isnan(gallery.boxes_xyxy[:, 0])
    ptr = np.concatenate([[0], np.cumsum(present)])[gallery.ptr]
    images = gallery.images[present].astype(np.int64)
    before = np.repeat(gallery.ptr[:-1], np.diff(gallery.ptr))
    listings = (np.arange(len(gallery.images)) - before)[present]
    scored = np.ones(len(images), bool)
    if duplicates == "seqnet":
        # The first listing of a picture is the one that is scored, with or without a box.
        for query in range(len(protocol)):
            listed = gallery.images[gallery.ptr[query] : gallery.ptr[query + 1]]
            first = np.zeros(len(listed), bool)
            first[np.unique(listed, return_index=True)[1]] = True
            here = present[gallery.ptr[query] : gallery.ptr[query + 1]]
            scored[ptr[query] : ptr[query + 1]] = first[here]
    return Truth(ptr.astype(np.int64), images, gallery.boxes_xyxy[present], listings, scored)


def find_candidates(truth: Truth, people: People) -> Candidates:
    """Pair true boxes with the detections of their scene that overlap them enough."""
    counts = people.counts[truth.images]
    entries = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    rows = ragged(people.ptr[truth.images], counts)
    overlaps = pairwise_iou(truth.boxes_xyxy[entries], people.boxes_xyxy[rows])
    enough = (overlaps >= least_overlap(truth.boxes_xyxy)[entries]) & truth.scored[entries]
    return Candidates(entries[enough], rows[enough])


def junk_rows(images: npt.NDArray[np.integer], boxes_xyxy: FloatArray, people: People) -> Int64:
    """Return the detections at junk boxes [J] in scenes [J]: by the overlap of true boxes."""
    counts = people.counts[images]
    entries = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    rows = ragged(people.ptr[images], counts)
    overlaps = pairwise_iou(boxes_xyxy[entries], people.boxes_xyxy[rows])
    return np.unique(rows[overlaps >= least_overlap(boxes_xyxy)[entries]])


def least_overlap(boxes_xyxy: FloatArray) -> npt.NDArray[np.float64]:
    """Overlap from which a detection is the person of a true box: [N, 4] -> [N]."""
    width, height = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).astype(np.float64).T
    slack = width * height / ((width + SLACK_PX) * (height + SLACK_PX))
    least: npt.NDArray[np.float64] = np.minimum(MATCH_IOU, slack)
    return least


def pairwise_iou(one: FloatArray, other: FloatArray) -> npt.NDArray[np.float64]:
    """Intersection over union of boxes in the same rows: [N, 4] and [N, 4] -> [N]."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    intersection = sides.clip(0).prod(axis=1)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - intersection
    overlaps: npt.NDArray[np.float64] = np.zeros_like(union)
    np.divide(intersection, union, out=overlaps, where=union > 0)
    return overlaps
