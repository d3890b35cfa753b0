"""Open-set errors, curves and groups against plain counting."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.people import People
from benchmark.scores import (
    CANDIDATES,
    LIST_LENGTHS,
    RECALLS,
    Scores,
    calibration,
    collect_scores,
    curves,
    hidden_share,
    interpolated_precision,
    open_set,
    recall_by_group,
)
from benchmark.search import NEVER, Ranking, SearchRules, evaluate_search, rank_queries
from benchmark.statistics import CONFIDENCE, calibrate, calibration_error, mean_interval
from model.annotations import AnnotatedScene
from tests.benchmark.test_search import Floats, World
from training.datasets.protocol import rule_protocol


def made_scores(
    positive: list[float], stranger: list[float], ranks: list[int] | None = None
) -> Scores:
    count = len(positive)
    return Scores(
        np.ones(count, bool),
        np.array(positive, np.float32),
        np.array(ranks or [0] * count),
        np.array(stranger, np.float32),
        np.full((count, CANDIDATES), np.nan, np.float32),
        np.zeros((count, CANDIDATES), bool),
        np.zeros((count, len(RECALLS))),
    )


def test_false_negatives_at_a_false_positive_rate() -> None:
    # 200 searches for absent people reach 0.001, 0.002, ...; at 1 % two of them may be returned.
    strangers = [i / 1000 for i in range(1, 201)]
    positives = [0.1985] * 50 + [0.5] * 100 + [-np.inf] * 50
    one = open_set(made_scores(positives, strangers))
    assert one["searches_without_person"] == 200
    rare, usual = one["at_false_positive_rate"]
    assert rare["fpir"] == 0.003
    assert rare["fnir"] is None, "200 searches cannot tell 3 in 1,000"
    assert usual["threshold"] == pytest.approx(0.198)
    assert (np.array(strangers, np.float32) > usual["threshold"]).sum() == 2
    assert usual["fnir"] == pytest.approx(50 / 200)


def test_a_hit_has_to_be_among_the_candidates() -> None:
    scores = made_scores([0.9] * 100, [0.1] * 100, [0] * 40 + [CANDIDATES] * 60)
    found = open_set(scores)
    assert found["at_false_positive_rate"][1]["fnir"] == pytest.approx(0.6)
    assert found["missed_by_list_length"] == {str(n): pytest.approx(0.6) for n in LIST_LENGTHS}


def test_nobody_to_search() -> None:
    found = open_set(made_scores([], []))
    assert found["searches_with_person"] == 0
    assert set(found["missed_by_list_length"].values()) == {None}
    assert curves(made_scores([], []))["precision"] == []


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_scores_are_those_of_plain_counting(seed: int, ties: bool) -> None:
    world = World(seed, scenes=6, ties=ties)
    protocol = world.listed(complete=False)
    people = People.from_detections(world.found)
    rules = SearchRules(0.4)
    kept = people.above(0.4)
    scores = collect_scores(
        protocol, kept, rank_queries(protocol, people, world.query_embeddings, rules)
    )
    result = evaluate_search(protocol, people, world.query_embeddings, rules)
    assert (scores.mated == result.included).all()
    assert (scores.ranks == result.ranks).all()
    for query in range(len(protocol)):
        images, boxes = protocol.entries(query)
        shows = {int(i) for i, box in zip(images, boxes, strict=True) if not np.isnan(box[0])}
        best = -np.inf
        everything = []
        for image in images.tolist():
            found = world.found[image]
            similar = found.embeddings @ world.query_embeddings[query]
            similar = similar[found.scores >= 0.4]
            everything += similar.tolist()
            if image not in shows and len(similar):
                best = max(best, float(similar.max()))
        assert scores.best_stranger[query] == pytest.approx(best, abs=1e-6)
        expected = sorted(everything, reverse=True)[:CANDIDATES]
        valid = np.isfinite(scores.similarities[query])
        np.testing.assert_allclose(scores.similarities[query][valid], expected, atol=1e-6)


def test_interpolated_precision_by_hand() -> None:
    similarity = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    ranking = Ranking(
        0,
        np.zeros(1, np.int32),
        np.arange(4),
        similarity,
        np.array([0, 2]),
        similarity[[0, 2]],
        0,
    )
    # Of four true boxes two are found: precision 1 at recall 1/4, 2/3 at 2/4, nothing beyond.
    precision = interpolated_precision(ranking, 4)
    assert precision[0] == precision[25] == 1.0
    assert precision[26] == precision[50] == pytest.approx(2 / 3)
    assert precision[51] == precision[100] == 0.0


def test_who_hides_whom() -> None:
    boxes = np.array([[0, 0, 10, 20], [5, 0, 15, 30], [100, 0, 110, 20]], np.float32)
    assert hidden_share(boxes).tolist() == [0.5, 0.0, 0.0]
    assert len(hidden_share(boxes[:0])) == 0


def test_recall_by_height_and_by_what_hides() -> None:
    true = np.array([[0, 0, 20, 60], [10, 0, 60, 100], [100, 0, 150, 150]], np.float32)
    scene = AnnotatedScene("a", Path(), true, np.array([-1, 0, 1]))
    found = true[1:]
    people = People(
        np.array([0, 2]), found, np.array([0.9, 0.4], np.float32), np.eye(2, dtype=np.float32)
    )
    groups = recall_by_group([scene], people, 0.5)
    by_height = {g["group"]: (g["true_boxes"], g["recall"]) for g in groups["height"]}
    assert by_height["0 to 64 px"] == (1, 0.0)
    assert by_height["64 to 128 px"] == (1, 1.0)
    assert by_height["128 to 256 px"] == (1, 0.0), "its score is below the threshold"
    assert by_height["512 px and more"] == (0, None)
    by_hidden = {g["group"]: g["true_boxes"] for g in groups["hidden"]}
    assert by_hidden == {"free": 2, "up to 35%": 0, "more": 1}


def test_bootstrap_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    holds = 0
    for trial in range(200):
        interval = mean_interval(rng.binomial(1, 0.3, 150).astype(float), trial)
        assert interval.low <= interval.value <= interval.high
        holds += interval.low <= 0.3 <= interval.high
    assert CONFIDENCE - 0.05 < holds / 200 <= 1.0
    nothing: Floats = np.zeros(0, np.float32)
    assert mean_interval(nothing).value == 0.0
    assert mean_interval(np.ones(5)).as_dict() == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_calibration_finds_the_curve_it_was_drawn_from() -> None:
    rng = np.random.default_rng(1)
    similarity = rng.uniform(0, 1, 20_000)
    right = rng.random(20_000) < similarity**2
    curve = calibrate(similarity, right)
    assert (np.diff(curve.similarity) > 0).all()
    assert (np.diff(curve.probability) > 0).all()
    assert curve.pairs.sum() == 20_000
    at = np.array([0.2, 0.5, 0.8])
    np.testing.assert_allclose(curve(at), at**2, atol=0.05)
    pids = rng.integers(0, 50, 20_000)
    error = calibration_error(similarity, right, pids)
    assert error is not None
    assert error < 0.02
    assert calibration_error(similarity, right, np.zeros(20_000, np.int64)) is None
    assert np.isnan(calibrate(similarity[:0], right[:0])(at)).all()


def test_a_curve_that_does_not_hold_for_other_people_is_told() -> None:
    pids = np.repeat(np.arange(2), 100)
    similarity = np.tile(np.linspace(0, 1, 100), 2)
    # For one of the two people the similarity means the opposite.
    error = calibration_error(similarity, (similarity > 0.5) ^ (pids == 0), pids)
    assert error is not None
    assert error > 0.4


def test_calibration_of_a_protocol() -> None:
    world = World(3, scenes=8, ties=False)
    protocol = rule_protocol("all", world.scenes, world.queries, "other-images")
    people = People.from_detections(world.found)
    scores = collect_scores(
        protocol,
        people.above(0.5),
        rank_queries(protocol, people, world.query_embeddings, SearchRules()),
    )
    found = calibration(scores, protocol, 0)
    assert found["pairs"] == np.isfinite(scores.similarities).sum() == sum(found["pairs_by_point"])
    assert found["same_person"] == scores.right.sum() > 0
    assert NEVER not in scores.ranks[scores.right.any(axis=1)]
