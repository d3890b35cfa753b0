"""Grouping on paths of people that are drawn by hand."""

from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from indexer.grouping import JoinRule, by_appearance, by_frame, overlap, timeline
from indexer.query import FoundFrame, Hit
from tests.indexer.galleries import START

CAMERAS = {1: "door", 2: "yard"}


def hit(box_id: int, second: float, x: float = 0, score: float = 0.5, camera: int = 1) -> Hit:
    frame = FoundFrame(
        id=int(second * 10) + 1000 * camera,
        source_id=camera,
        position=int(second * 10),
        camera_id=camera,
        camera=CAMERAS[camera],
        captured_at=START + timedelta(seconds=second),
        pts_s=None,
        width=100,
        height=100,
    )
    return Hit(box_id, score, (x, 0, x + 10, 30), 0.9, frame)


def embeddings(*angles: float) -> Any:
    """Unit vectors whose similarity is the cosine between them."""
    turns = np.radians(angles)
    return np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)


def ids(groups: Any) -> list[list[int]]:
    return [[hit.box_id for hit in group.hits] for group in groups]


def test_nothing() -> None:
    assert by_frame([]) == []
    assert by_appearance([], np.zeros((0, 4), np.float32)) == []
    assert timeline([]) == {}


def test_by_frame() -> None:
    hits = [hit(1, 0, score=0.3), hit(2, 1, score=0.9), hit(3, 0, score=0.8), hit(4, 2, score=0.8)]
    groups = by_frame(hits)
    assert ids(groups) == [[2], [3, 1], [4]]
    assert [group.score for group in groups] == [0.9, 0.8, 0.8]


def test_two_people_who_cross_stay_two() -> None:
    # One walks right, the other left; at second 2 they are in the same place.
    hits, angles = [], []
    for second in range(5):
        hits += [
            hit(2 * second + 1, second, x=10 * second),
            hit(2 * second + 2, second, 40 - 10 * second),
        ]
        angles += [0 + second, 80 - second]
    order = np.random.default_rng(0).permutation(len(hits))
    found = by_appearance([hits[i] for i in order], embeddings(*np.array(angles)[order]))
    assert ids(found) == [[1, 3, 5, 7, 9], [2, 4, 6, 8, 10]]
    assert (found[0].begin, found[0].end) == (START, START + timedelta(seconds=4))


@pytest.mark.parametrize(
    ("second", "angle", "x", "joined"),
    [
        (10, 50, 0, True),  # cos 50 is 0.64
        (10.1, 50, 0, False),  # too late
        (1, 60, 50, False),  # cos 60 is 0.5, elsewhere
        (1, 60, 4, True),  # 0.5, and overlap 0.43
        (1, 60, 8, False),  # 0.5, and overlap 0.11
        (1, 70, 0, False),  # cos 70 is 0.34
        (0, 0, 0, False),  # the same frame: two people
    ],
)
def test_when_two_boxes_are_joined(second: float, angle: float, x: float, joined: bool) -> None:
    found = by_appearance([hit(1, 0), hit(2, second, x)], embeddings(0, angle))
    assert ids(found) == ([[1, 2]] if joined else [[1], [2]])


def test_cameras_are_apart_and_the_rule_can_be_changed() -> None:
    hits = [hit(1, 0, score=0.1), hit(2, 1, camera=2, score=0.4), hit(3, 20, score=0.7)]
    same = embeddings(0, 0, 0)
    assert ids(by_appearance(hits, same)) == [[3], [2], [1]]
    longer = by_appearance(hits, same, JoinRule(max_gap=timedelta(minutes=1)))
    assert ids(longer) == [[1, 3], [2]]
    assert longer[0].best.box_id == 3
    cameras = timeline(by_appearance(hits, same))
    assert list(cameras) == ["door", "yard"]
    assert ids(cameras["door"]) == [[1], [3]]


def test_overlap() -> None:
    assert overlap(hit(1, 0, 0), hit(2, 0, 0)) == 1
    assert overlap(hit(1, 0, 0), hit(2, 0, 5)) == pytest.approx(1 / 3)
    assert overlap(hit(1, 0, 0), hit(2, 0, 50)) == 0
    point = Hit(1, 0.5, (3, 3, 3, 3), 0.9, hit(1, 0).frame)
    assert overlap(point, point) == 0


def test_as_many_embeddings_as_hits() -> None:
    with pytest.raises(ValueError, match="1 embeddings for 2 hits"):
        by_appearance([hit(1, 0), hit(2, 1)], embeddings(0))
