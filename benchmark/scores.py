"""What the similarities of a benchmark mean: open-set errors, curves, and who was found."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.detection import matched
from benchmark.matching import Duplicates, read_truth
from benchmark.metrics import at_least
from benchmark.people import Int64, People
from benchmark.search import Ranking
from benchmark.statistics import calibrate, calibration_error
from model.annotations import AnnotatedScene
from model.detections import FloatArray
from training.datasets.protocol import RetrievalProtocol

#: Candidates that a search returns; the list of NIST's one-to-many evaluations of faces.
CANDIDATES = 50
#: Lengths of a candidate list, and rates of false positives, that are reported.
LIST_LENGTHS = (1, 5, 10, 20, 50)
FALSE_POSITIVE_RATES = (0.003, 0.01)
#: Places of the precision-recall curve: recall 0, 0.01, ..., 1.
RECALLS = np.linspace(0, 1, 101)
#: Bins of box height in pixels, by their lower edges.
HEIGHTS = (0, 64, 128, 256, 512)
#: Share of a person hidden by another: none, partly, heavily (the bins of Caltech Pedestrians).
HEAVILY = 0.35

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scores:
    """What the searches of Q queries gave.

    Attributes
    ----------
    mated
        bool [Q]: the person is in the gallery.
    best_positive
        float32 [Q]: similarity of the most similar positive; -inf when none was found.
    ranks
        int64 [Q], as in `SearchResult`.
    best_stranger
        float32 [Q]: highest similarity in the scenes that do not show the person, so that the
        person is absent; -inf when nobody is there.
    similarities, right
        float32 and bool [Q, CANDIDATES]: the most similar detections, best first; NaN past the end.
    precision
        float64 [Q, 101]: interpolated precision at `RECALLS`.
    """

    mated: npt.NDArray[np.bool_]
    best_positive: FloatArray
    ranks: Int64
    best_stranger: FloatArray
    similarities: FloatArray
    right: npt.NDArray[np.bool_]
    precision: Floats


def collect_scores(
    protocol: RetrievalProtocol,
    people: People,
    rankings: Iterable[Ranking],
    duplicates: Duplicates = "oim",
) -> Scores:
    """Keep what the analyses need of each ranking.

    Parameters
    ----------
    people
        What was ranked, with the threshold already applied.
    """
    truth = read_truth(protocol, duplicates)
    scene_of = np.repeat(np.arange(len(people.counts)), people.counts)
    count = len(protocol)
    true_boxes = np.diff(truth.ptr)
    scores = Scores(
        true_boxes > 0,
        np.full(count, -np.inf, np.float32),
        np.zeros(count, np.int64),
        np.full(count, -np.inf, np.float32),
        np.full((count, CANDIDATES), np.nan, np.float32),
        np.zeros((count, CANDIDATES), bool),
        np.zeros((count, len(RECALLS))),
    )
    for ranking in rankings:
        query, rows, similarity = ranking.query, ranking.rows, ranking.similarity
        scores.ranks[query] = ranking.rank
        if len(ranking.positives):
            scores.best_positive[query] = ranking.positive_similarity.max()
            scores.precision[query] = interpolated_precision(ranking, int(true_boxes[query]))
        shown = truth.images[truth.ptr[query] : truth.ptr[query + 1]]
        strangers = similarity[~np.isin(scene_of[rows], shown)]
        if len(strangers):
            scores.best_stranger[query] = strangers.max()
        best = np.argsort(-similarity, kind="stable")[:CANDIDATES]
        scores.similarities[query, : len(best)] = similarity[best]
        scores.right[query, : len(best)] = np.isin(rows[best], ranking.positives)
    return scores


def interpolated_precision(ranking: Ranking, true_boxes: int) -> Floats:
    """Highest precision at this recall or any higher one, for each of `RECALLS`."""
    positives = np.sort(ranking.positive_similarity)[::-1]
    precision = at_least(positives, positives) / at_least(ranking.similarity, positives)
    recall = np.arange(1, len(positives) + 1) / true_boxes
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS - 1e-9)
    values: Floats = np.append(best, 0.0)[places]
    return values


def open_set(scores: Scores) -> dict[str, Any]:
    """Errors when the person may be absent (FPIR and FNIR, ISO/IEC 19795-1, as NIST reports them).

    Each query is searched twice: in its gallery, and in the scenes of it that do not show the
    person. FPIR is the share of the second searches that return anybody at a threshold; FNIR is the
    share of the first that do not return the person at it among `CANDIDATES`.
    """
    mated = scores.mated
    strangers = scores.best_stranger[scores.best_stranger > -np.inf]
    rates = []
    for rate in FALSE_POSITIVE_RATES:
        allowed = int(rate * len(strangers))
        threshold = miss = None
        if allowed >= 1 and mated.any():
            # One more would be too many: a hit has to be above that one.
            threshold = float(np.sort(strangers)[::-1][allowed])
            found = (scores.best_positive > threshold) & (scores.ranks < CANDIDATES)
            miss = float(1 - found[mated].mean())
        rates.append({"fpir": rate, "threshold": threshold, "fnir": miss})
    lists = {
        str(length): float((scores.ranks[mated] >= length).mean()) if mated.any() else None
        for length in LIST_LENGTHS
    }
    return {
        "searches_with_person": int(mated.sum()),
        "searches_without_person": len(strangers),
        "at_false_positive_rate": rates,
        "missed_by_list_length": lists,
    }


def calibration(scores: Scores, protocol: RetrievalProtocol, seed: int) -> dict[str, Any]:
    """Say how often a result of a given similarity is the person, over each query's candidates."""
    valid = np.isfinite(scores.similarities)
    pids = np.array([query.pid for query in protocol.queries], np.int64)
    by_pair = np.broadcast_to(pids[:, None], valid.shape)[valid]
    values, right = scores.similarities[valid], scores.right[valid]
    curve = calibrate(values, right)
    return {
        "pairs": len(values),
        "same_person": int(right.sum()),
        "similarity": curve.similarity.round(4).tolist(),
        "probability": curve.probability.round(4).tolist(),
        "pairs_by_point": curve.pairs.tolist(),
        "error_on_other_people": calibration_error(values, right, by_pair, seed),
    }


def curves(scores: Scores) -> dict[str, Any]:
    """Give the mean precision-recall curve, CMC and histograms of similarities, to be plotted."""
    mated = scores.mated
    edges = np.linspace(-1, 1, 81)
    valid = np.isfinite(scores.similarities)
    histogram = {
        name: np.histogram(scores.similarities[valid & chosen].clip(-1, 1), edges)[0].tolist()
        for name, chosen in (("same", scores.right), ("other", ~scores.right))
    }
    return {
        "recall": RECALLS.round(2).tolist(),
        "precision": scores.precision[mated].mean(axis=0).tolist() if mated.any() else [],
        "cmc": [
            float((scores.ranks[mated] < k).mean()) if mated.any() else 0.0
            for k in range(1, CANDIDATES + 1)
        ],
        "similarity_edges": edges.round(3).tolist(),
        "similarity_counts": histogram,
    }


def recall_by_group(
    scenes: Sequence[AnnotatedScene], people: People, threshold: float
) -> dict[str, list[dict[str, Any]]]:
    """Count who is found, by the height of the true box and by how much another person hides it.

    What hides a person is a true box that reaches lower, and so stands nearer; the share is that
    of the one box that covers most. It is an estimate from boxes: nobody has labelled occlusion.
    """
    people = people.above(threshold)
    height, hidden, found = [], [], []
    for number, scene in enumerate(scenes):
        rows = slice(int(people.ptr[number]), int(people.ptr[number + 1]))
        pairs = matched(scene.boxes_xyxy, people.boxes_xyxy[rows])
        height.append(scene.boxes_xyxy[:, 3] - scene.boxes_xyxy[:, 1])
        hidden.append(hidden_share(scene.boxes_xyxy))
        found.append(np.isin(np.arange(len(scene)), pairs))
    heights, shares = np.concatenate(height), np.concatenate(hidden)
    is_found = np.concatenate(found)
    edges = [*HEIGHTS, np.inf]
    by_height = [
        (f"{low} to {high:g} px" if high < np.inf else f"{low} px and more", low, high)
        for low, high in pairwise(edges)
    ]
    groups = {
        "height": [(name, (heights >= low) & (heights < high)) for name, low, high in by_height],
        "hidden": [
            ("free", shares == 0),
            (f"up to {HEAVILY:.0%}", (shares > 0) & (shares <= HEAVILY)),
            ("more", shares > HEAVILY),
        ],
    }
    return {
        kind: [
            {
                "group": name,
                "true_boxes": int(chosen.sum()),
                "recall": float(is_found[chosen].mean()) if chosen.any() else None,
            }
            for name, chosen in entries
        ]
        for kind, entries in groups.items()
    }


def hidden_share(boxes_xyxy: FloatArray) -> FloatArray:
    """Largest share of each box that one box reaching lower covers: [N, 4] -> [N]."""
    if len(boxes_xyxy) == 0:
        return np.zeros(0, np.float32)
    corner = np.maximum(boxes_xyxy[:, None, :2], boxes_xyxy[None, :, :2])
    sides = (np.minimum(boxes_xyxy[:, None, 2:], boxes_xyxy[None, :, 2:]) - corner).clip(0)
    area = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1)
    nearer = boxes_xyxy[None, :, 3] > boxes_xyxy[:, None, 3]
    share = sides.prod(axis=2) / area[:, None] * nearer
    largest: FloatArray = share.max(axis=1).astype(np.float32)
    return largest
