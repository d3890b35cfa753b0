"""How well a network searches, measured on held-out scenes while it is trained.

The rules are those of the literature (one positive a picture, the most similar detection that
overlaps the true box), in the plainest form: for hundreds of scenes, not for benchmarks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import box_iou

from model import BINet, Detections, read_picture
from model.annotations import UNLABELLED, AnnotatedScene
from model.cropping import cut, inside
from model.detections import FloatArray
from model.preprocessing import to_rgb
from training.datasets.dataset import relabel
from training.datasets.protocol import Query, RetrievalProtocol, rule_protocol

Branch = Literal["search", "instance"]
Boxes = Literal["detected", "labelled"]

#: A detection is the person of a true box from this overlap on; less for small boxes (below).
MATCH_IOU = 0.5
#: So many pixels of slack are granted to small boxes, in width and in height.
SLACK_PX = 10
TOP = (1, 5, 10)


@dataclass(frozen=True)
class SearchMetrics:
    """Fractions.

    Attributes
    ----------
    mean_ap
        Mean over the queries of average precision times the share of true boxes that were found.
    top1, top5, top10
        Share of the queries with the person among so many most similar detections.
    queries
        How many there are; those whose person is nowhere else are left out.
    standard_error
        Of `mean_ap`, by its spread over the queries; for few people, one is rather too small.
    """

    mean_ap: float
    top1: float
    top5: float
    top10: float
    queries: int
    standard_error: float


def hold_out(
    scenes: Sequence[AnnotatedScene], share: float, seed: int
) -> tuple[list[AnnotatedScene], list[AnnotatedScene], int]:
    """Take a share of the identities, with all scenes that show one of them, out of training.

    Returns
    -------
    The scenes to train on, renumbered; those held out; and the number of identities left.
    """
    labelled = [scene.pids[scene.pids != UNLABELLED] for scene in scenes]
    pids = np.unique(np.concatenate(labelled)) if labelled else np.empty(0, np.int64)
    taken = np.random.default_rng((seed, 2)).permutation(pids)[: round(share * len(pids))]
    out = [bool(np.isin(scene.pids, taken).any()) for scene in scenes]
    kept, pid_of = relabel([scene for scene, is_out in zip(scenes, out, strict=True) if not is_out])
    return kept, [scene for scene, is_out in zip(scenes, out, strict=True) if is_out], len(pid_of)


def every_person_once(scenes: Sequence[AnnotatedScene]) -> RetrievalProtocol:
    """Search each person, from the first scene of each camera, in all other scenes."""
    queries: dict[tuple[int, int | None], Query] = {}
    for scene in scenes:
        for pid, box in zip(scene.pids.tolist(), scene.boxes_xyxy.tolist(), strict=True):
            if pid != UNLABELLED:
                place = (pid, scene.camera)
                queries.setdefault(place, Query(scene.name, tuple(box), pid, scene.camera))
    return rule_protocol("held out", scenes, list(queries.values()), "other-images")


def embed_scenes(
    network: BINet, scenes: Sequence[AnnotatedScene], boxes: Boxes
) -> list[Detections]:
    """Embed the people of each scene by the search branch.

    Parameters
    ----------
    boxes
        The network's own, or the true ones (with the score 1).
    """
    gallery = []
    for scene in scenes:
        pixels = to_rgb(read_picture(scene.path))
        if boxes == "detected":
            gallery += network.detect([pixels], branch="search")
        else:
            true = inside(scene.boxes_xyxy, pixels)
            scores = np.ones(len(true), np.float32)
            gallery.append(Detections(true, scores, network.embed_boxes(pixels, true)))
    return gallery


def embed_as_crops(
    network: BINet, scenes: Sequence[AnnotatedScene], gallery: Sequence[Detections]
) -> list[Detections]:
    """Embed the same people again, cut from their scenes, by the instance-aware branch."""
    return [
        replace(people, embeddings=network.embed_crops(cut(pixels, people.boxes_xyxy)))
        for people, pixels in zip(
            gallery, (to_rgb(read_picture(scene.path)) for scene in scenes), strict=True
        )
    ]


def embed_queries(
    network: BINet,
    scenes: Sequence[AnnotatedScene],
    queries: Sequence[Query],
    branch: Branch,
) -> FloatArray:
    """Embed the queries at their boxes: scene queries by the search branch, crops by the other."""
    path_of = {scene.name: scene.path for scene in scenes}
    embeddings = []
    for query in queries:
        pixels = to_rgb(read_picture(path_of[query.scene]))
        box = inside(np.array([query.box_xyxy], np.float32), pixels)
        embeddings.append(
            network.embed_boxes(pixels, box)
            if branch == "search"
            else network.embed_crops(cut(pixels, box))
        )
    return np.concatenate(embeddings)


def search_metrics(
    protocol: RetrievalProtocol, gallery: Sequence[Detections], queries: FloatArray
) -> SearchMetrics:
    """Rank the gallery for each query.

    Parameters
    ----------
    gallery
        The people found in `protocol.scenes`, in that order.
    queries
        Unit vectors [Q, D].
    """
    aps, tops = [], []
    for number in range(len(protocol)):
        similarities, positives, true_boxes = [], [], 0
        images, boxes = protocol.entries(number)
        junk = list(zip(*protocol.junk_of(number), strict=True))
        for image, box in zip(images.tolist(), boxes, strict=True):
            people = gallery[image]
            for _, junk_box in (entry for entry in junk if entry[0] == image):
                overlap = _overlap(people.boxes_xyxy, junk_box)
                people = people[overlap < _least_overlap(junk_box)]
            true_boxes += int(not np.isnan(box[0]))
            if len(people) == 0:
                continue
            similarity = people.embeddings @ queries[number]
            positive = np.zeros(len(people), bool)
            if not np.isnan(box[0]):
                same = _overlap(people.boxes_xyxy, box) >= _least_overlap(box)
                if same.any():
                    positive[np.where(same, similarity, -np.inf).argmax()] = True
            similarities.append(similarity)
            positives.append(positive)
        if true_boxes:
            similarity, right = _ranked(similarities, positives)
            aps.append(_average_precision(similarity, right) * right.sum() / true_boxes)
            tops.append([bool(right[:k].any()) for k in TOP])
    if not aps:
        return SearchMetrics(0.0, 0.0, 0.0, 0.0, 0, 0.0)
    top1, top5, top10 = np.mean(tops, axis=0).tolist()
    error = float(np.std(aps) / np.sqrt(len(aps)))
    return SearchMetrics(float(np.mean(aps)), top1, top5, top10, len(aps), error)


def _ranked(
    similarities: list[FloatArray], positives: list[npt.NDArray[np.bool_]]
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Put the detections of all pictures in order, most similar first; ties stay as they were."""
    if not similarities:
        return np.zeros(0, np.float32), np.zeros(0, bool)
    similarity = np.concatenate(similarities)
    order = np.argsort(-similarity, kind="stable")
    return similarity[order], np.concatenate(positives)[order]


def _average_precision(similarity: FloatArray, right: npt.NDArray[np.bool_]) -> float:
    """Mean precision at the places of the positives; of equal similarity, at the last of them."""
    if not right.any():
        return 0.0
    ends = np.searchsorted(-similarity, -similarity[right], side="right")
    return float((np.cumsum(right)[ends - 1] / ends).mean())


def _overlap(boxes_xyxy: FloatArray, box_xyxy: FloatArray) -> FloatArray:
    overlaps: FloatArray = box_iou(
        torch.from_numpy(boxes_xyxy), torch.from_numpy(box_xyxy)[None]
    ).numpy()[:, 0]
    return overlaps


def _least_overlap(box_xyxy: FloatArray) -> float:
    width, height = (box_xyxy[2:] - box_xyxy[:2]).tolist()
    slack = width * height / ((width + SLACK_PX) * (height + SLACK_PX))
    return float(min(MATCH_IOU, slack))


def recall(scenes: Sequence[AnnotatedScene], found: Sequence[Detections]) -> float:
    """Share of the true boxes that some detection overlaps by at least `MATCH_IOU`."""
    true = matched = 0
    for scene, people in zip(scenes, found, strict=True):
        true += len(scene)
        if len(scene) and len(people):
            overlaps = box_iou(
                torch.from_numpy(scene.boxes_xyxy), torch.from_numpy(people.boxes_xyxy)
            )
            matched += int((overlaps.amax(dim=1) >= MATCH_IOU).sum())
    return matched / max(true, 1)


def validate(network: BINet, scenes: Sequence[AnnotatedScene]) -> dict[str, float]:
    """Search the held-out people with scenes and with crops, in the boxes that are detected."""
    protocol = every_person_once(scenes)
    gallery = embed_scenes(network, scenes, "detected")
    metrics = {"recall": recall(scenes, gallery)}
    for kind, branch in _QUERIES.items():
        queries = embed_queries(network, scenes, protocol.queries, branch)
        found = search_metrics(protocol, gallery, queries)
        metrics |= {f"{kind}_mAP": found.mean_ap, f"{kind}_top1": found.top1}
    return metrics


_QUERIES: dict[str, Branch] = {"scene": "search", "crop": "instance"}
