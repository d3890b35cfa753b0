"""The fast evaluator gives what the plain one gives, on random galleries with all their traps."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.detection import evaluate_detection
from benchmark.matching import pairwise_iou
from benchmark.metrics import FEW, at_least, average_precision
from benchmark.people import People, ragged
from benchmark.search import NEVER, SearchRules, evaluate_search
from model import Detections
from model.annotations import AnnotatedScene
from training.datasets.protocol import (
    Junk,
    ListedGallery,
    Query,
    RetrievalProtocol,
    rule_protocol,
)
from training.validation import search_metrics

Floats = npt.NDArray[np.float32]
Kind = Literal["other-images", "other-cameras", "listed", "complete"]


class World:
    """Scenes with people, detections near them and elsewhere, and embeddings with many ties."""

    def __init__(self, seed: int, scenes: int, ties: bool) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.ties = ties
        self.scenes, self.found = [], []
        for number in range(scenes):
            count = int(rng.integers(0, 4))
            true = self.boxes(count)
            pids = rng.permutation(6)[:count].astype(np.int64) - 1
            camera = int(rng.integers(1, 4))
            self.scenes.append(AnnotatedScene(str(number), Path(), true, pids, camera))
            near = true + rng.integers(-4, 5, true.shape).astype(np.float32)
            far = self.boxes(int(rng.integers(0, 3)))
            boxes = np.concatenate([near, true[: rng.integers(0, 2)], far])
            scores = rng.choice([0.3, 0.5, 0.9], len(boxes)).astype(np.float32)
            self.found.append(Detections(boxes, scores, self.embeddings(len(boxes))))
        self.queries = [
            Query(scene.name, tuple(box), int(pid), scene.camera)
            for scene in self.scenes
            for box, pid in zip(scene.boxes_xyxy.tolist(), scene.pids, strict=True)
            if pid >= 0
        ]
        self.query_embeddings = self.embeddings(len(self.queries))

    def boxes(self, count: int) -> Floats:
        corners = self.rng.integers(0, 60, (count, 2))
        sides = self.rng.integers(8, 40, (count, 2))
        return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)

    def embeddings(self, count: int) -> Floats:
        values = (
            self.rng.integers(1, 3, (count, 2)) if self.ties else self.rng.normal(size=(count, 2))
        )
        unit: Floats = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
        return unit

    def listed(self, complete: bool) -> RetrievalProtocol:
        """Lists with some pictures twice, with another box or none, and the query's own."""
        ptr, images, boxes = [0], [], []
        for query in self.queries:
            for image in self.rng.integers(0, len(self.scenes), self.rng.integers(0, 9)):
                scene = self.scenes[image]
                at = np.flatnonzero(scene.pids == query.pid)
                absent = len(at) == 0 or self.rng.random() < 0.3
                images.append(image)
                boxes.append([np.nan] * 4 if absent else scene.boxes_xyxy[at[0]])
            ptr.append(len(images))
        gallery = ListedGallery(
            np.array(ptr, np.int64),
            np.array(images, np.int32),
            np.array(boxes, np.float32).reshape(-1, 4),
            complete,
        )
        names = [scene.name for scene in self.scenes]
        return RetrievalProtocol("listed", names, self.queries, gallery)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 12),
    st.booleans(),
    st.sampled_from(["other-images", "other-cameras", "listed", "complete"]),
    st.sampled_from([0.0, 0.5, 0.95]),
)
def test_equal_to_the_plain_evaluator(
    seed: int, scenes: int, ties: bool, kind: Kind, threshold: float
) -> None:
    world = World(seed, scenes, ties)
    if kind == "other-images" or kind == "other-cameras":
        protocol = rule_protocol(kind, world.scenes, world.queries, kind)
    else:
        protocol = world.listed(kind == "complete")
    kept = [people[people.scores >= threshold] for people in world.found]
    plain = search_metrics(protocol, kept, world.query_embeddings)
    fast = evaluate_search(
        protocol,
        People.from_detections(world.found),
        world.query_embeddings,
        SearchRules(det_threshold=threshold),
    )
    assert fast.mean_ap == pytest.approx(plain.mean_ap, abs=1e-9)
    assert int(fast.included.sum()) == plain.queries
    for k, expected in ((1, plain.top1), (5, plain.top5), (10, plain.top10)):
        assert fast.top(k) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.booleans())
def test_junk_is_left_out_as_the_plain_evaluator_does(seed: int, scenes: int, ties: bool) -> None:
    world = World(seed, scenes, ties)
    protocol = rule_protocol("junk", world.scenes, world.queries, "other-images")
    ptr, images, boxes = [0], [], []
    for _ in world.queries:
        for image in world.rng.integers(0, scenes, world.rng.integers(0, 4)).tolist():
            scene = world.scenes[image]
            if len(scene):
                images.append(image)
                boxes.append(scene.boxes_xyxy[world.rng.integers(len(scene))])
        ptr.append(len(images))
    junk = Junk(
        np.array(ptr, np.int64),
        np.array(images, np.int32),
        np.array(boxes, np.float32).reshape(-1, 4),
    )
    protocol = replace(protocol, junk=junk)
    again = RetrievalProtocol.from_arrays(protocol.arrays())
    kept = [people[people.scores >= 0.5] for people in world.found]
    plain = search_metrics(again, kept, world.query_embeddings)
    people = People.from_detections(world.found)
    fast = evaluate_search(protocol, people, world.query_embeddings)
    assert fast.mean_ap == pytest.approx(plain.mean_ap, abs=1e-9)
    for k, expected in ((1, plain.top1), (5, plain.top5), (10, plain.top10)):
        assert fast.top(k) == pytest.approx(expected, abs=1e-12)


def test_the_own_track_is_neither_right_nor_wrong() -> None:
    """Twice the same person: as junk the first box neither helps nor stands in the way."""
    box = np.array([[0, 0, 20, 50]], np.float32)
    embeddings = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    people = People.from_detections(
        [Detections(box, np.ones(1, np.float32), e[None]) for e in embeddings]
    )
    queries = [Query("elsewhere", (0, 0, 20, 50), 1)]
    gallery = ListedGallery(
        np.array([0, 2]), np.array([0, 1], np.int32), np.array([[np.nan] * 4, box[0]], np.float32)
    )
    protocol = RetrievalProtocol("track", ["own", "other"], queries, gallery)
    assert evaluate_search(protocol, people, embeddings[:1]).mean_ap == 0.5
    junk = Junk(np.array([0, 1]), np.array([0], np.int32), box)
    assert evaluate_search(replace(protocol, junk=junk), people, embeddings[:1]).mean_ap == 1.0


def test_what_is_ignored_is_neither_right_nor_wrong() -> None:
    true = np.array([[0, 0, 20, 50]], np.float32)
    crowd = np.array([[100, 0, 120, 50]], np.float32)
    plain = AnnotatedScene("a", Path(), true, np.array([1]))
    found = Detections(
        np.concatenate([crowd, true]),
        np.array([0.9, 0.8], np.float32),
        np.eye(2, dtype=np.float32),
    )
    people = People.from_detections([found])
    counted = evaluate_detection([plain], people)
    assert (counted.recall, counted.precision, counted.average_precision) == (1.0, 0.5, 0.5)
    left_out = evaluate_detection([replace(plain, ignored_xyxy=crowd)], people)
    assert (left_out.recall, left_out.precision, left_out.average_precision) == (1.0, 1.0, 1.0)


def test_a_picture_that_is_listed_twice() -> None:
    """Scored twice and found once each by `oim`; by `seqnet` the second listing is a miss."""
    box = np.array([[0, 0, 20, 50]], np.float32)
    found = Detections(box, np.ones(1, np.float32), np.array([[1.0, 0.0]], np.float32))
    gallery = ListedGallery(
        np.array([0, 2]), np.array([0, 0], np.int32), np.concatenate([box, box]), False
    )
    protocol = RetrievalProtocol("twice", ["a"], [Query("q", (0, 0, 20, 50), 1)], gallery)
    people, query = People.from_detections([found]), found.embeddings
    assert evaluate_search(protocol, people, query).mean_ap == 1.0
    rules = SearchRules(duplicates="seqnet")
    assert evaluate_search(protocol, people, query, rules).mean_ap == 0.5


def test_ties_are_broken_by_the_order_of_the_gallery() -> None:
    box = np.array([[0, 0, 20, 50]], np.float32)
    same = np.array([[1.0, 0.0]], np.float32)
    scenes = [
        AnnotatedScene(name, Path(), box, np.array([pid])) for name, pid in (("a", 2), ("b", 1))
    ]
    people = People.from_detections([Detections(box, np.ones(1, np.float32), same)] * 2)
    queries = [Query("elsewhere", (0, 0, 20, 50), 1)]
    result = evaluate_search(rule_protocol("ties", scenes, queries, "other-images"), people, same)
    assert result.ranks.tolist() == [1]
    assert result.mean_ap == 0.5


def test_nobody_and_nothing() -> None:
    scenes = [AnnotatedScene("a", Path(), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))]
    people = People.from_detections([Detections.empty(2)])
    queries = [Query("q", (0, 0, 1, 1), 1)]
    protocol = rule_protocol("empty", scenes, queries, "other-images")
    result = evaluate_search(protocol, people, np.ones((1, 2), np.float32))
    assert (result.mean_ap, result.top(10), result.included.tolist()) == (0, 0, [False])
    assert result.ranks.tolist() == [NEVER]


def test_arrays_that_do_not_fit_are_refused() -> None:
    protocol = rule_protocol("empty", [], [], "other-images")
    people = People.from_detections([Detections.empty(2)])
    with pytest.raises(ValueError, match="0 scenes and 0 queries, but people of 1 scenes"):
        evaluate_search(protocol, people, np.ones((0, 2), np.float32))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=8))
def test_ragged(ranges: list[tuple[int, int]]) -> None:
    starts = np.array([start for start, _ in ranges], np.int64)
    counts = np.array([count for _, count in ranges], np.int64)
    expected = [start + i for start, count in ranges for i in range(count)]
    assert ragged(starts, counts).tolist() == expected


def test_average_precision_by_hand() -> None:
    everything = np.array([0.9, 0.7, 0.5, 0.5, 0.1])
    assert average_precision(np.array([0.9]), everything) == 1.0
    # Of two that are equal, one right: precision at both is 2 of 4.
    assert average_precision(np.array([0.9, 0.5]), everything) == pytest.approx((1 + 2 / 4) / 2)
    assert average_precision(np.zeros(0), everything) == 0.0


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.data())
def test_many_positives_are_counted_as_few_are(values: list[int], data: st.DataObject) -> None:
    everything = np.array(values, np.float32)
    count = data.draw(st.integers(1, len(values)))
    thresholds = np.resize(everything[:count], FEW + 1)
    one_by_one = [int((everything >= threshold).sum()) for threshold in thresholds]
    assert at_least(everything, thresholds).tolist() == one_by_one


def test_pairwise_iou() -> None:
    one = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 0, 0]], np.float32)
    other = np.array([[0, 0, 10, 5], [20, 20, 30, 30], [0, 0, 0, 0]], np.float32)
    assert pairwise_iou(one, other).tolist() == [0.5, 0.0, 0.0]
