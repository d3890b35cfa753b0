"""How well the crop encoder knows people again: Market-1501's protocol on crops that are held out.

The query of a person and camera is the first crop there; all crops are the gallery, except those of
the same person by the same camera, which are junk.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model import BINet
from model.detections import FloatArray
from training.datasets.crops import Crop, CropSource

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ReidMetrics:
    """Fractions.

    Attributes
    ----------
    mean_ap
        Mean average precision over the queries.
    top1
        Share of the queries whose most similar crop shows the person.
    queries
        How many there are; those without any crop by another camera are left out.
    cosine
        Mean similarity of crops of different people: near 1 where all embeddings fall together.
    average_precisions, firsts
        Of each query [Q]: average precision, and whether the most similar crop shows the person.
    """

    mean_ap: float
    top1: float
    queries: int
    cosine: float
    average_precisions: npt.NDArray[np.float64]
    firsts: npt.NDArray[np.float64]


def first_of_each_camera(pids: Int64, cameras: Int64) -> list[int]:
    """Give the place of the first crop of each person and camera."""
    first: dict[tuple[int, int], int] = {}
    for place, key in enumerate(zip(pids.tolist(), cameras.tolist(), strict=True)):
        first.setdefault(key, place)
    return list(first.values())


def reid_metrics(embeddings: FloatArray, pids: Int64, cameras: Int64) -> ReidMetrics:
    """Measure unit vectors [n, d] of crops of known people and cameras [n]."""
    different = pids[:, None] != pids
    similarity = embeddings @ embeddings.T
    cosine = float(similarity[different].mean()) if different.any() else 0.0
    aps, tops = [], []
    for query in first_of_each_camera(pids, cameras):
        gallery = (pids != pids[query]) | (cameras != cameras[query])
        right = (pids == pids[query])[gallery]
        if not right.any():
            continue
        order = np.argsort(-similarity[query][gallery], kind="stable")
        places = np.flatnonzero(right[order])
        aps.append(float(((np.arange(len(places)) + 1) / (places + 1)).mean()))
        tops.append(bool(places[0] == 0))
    if not aps:
        return ReidMetrics(0.0, 0.0, 0, cosine, np.zeros(0), np.zeros(0))
    return ReidMetrics(
        float(np.mean(aps)),
        float(np.mean(tops)),
        len(aps),
        cosine,
        np.array(aps),
        np.array(tops, np.float64),
    )


def measure_crops(
    network: BINet, source: CropSource, crops: Sequence[Crop], batch_size: int = 64
) -> ReidMetrics:
    """Measure the instance-aware branch of a network on crops that it has not been trained on."""
    embeddings = [np.zeros((0, network.config.embedding_dim), np.float32)]
    for start in range(0, len(crops), batch_size):
        pictures = [source.open(crop.name) for crop in crops[start : start + batch_size]]
        embeddings.append(network.embed_crops(pictures, batch_size))
    return reid_metrics(
        np.concatenate(embeddings),
        np.array([crop.pid for crop in crops], np.int64),
        np.array([crop.camera for crop in crops], np.int64),
    )
