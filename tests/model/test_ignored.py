"""Ignored boxes: what may be people there is neither person nor background in training."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model import Target
from model.roi import MOST_IGNORED, PERSON, RoIStage, build_rpn, on_ignored
from tests.conftest import random_picture, random_targets, small_config, small_network
from tests.model import oracles


@given(st.integers(0, 2**32 - 1), st.integers(0, 20), st.integers(0, 4))
def test_the_covered_share_is_that_of_plain_loops(seed: int, boxes: int, ignored: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 20, (boxes + ignored, 2))
    all_boxes = np.concatenate([low, low + rng.integers(1, 15, low.shape)], axis=1)
    ours, other = all_boxes[:boxes], all_boxes[boxes:]

    def pixels(box: np.ndarray) -> set[tuple[int, int]]:
        x1, y1, x2, y2 = box.tolist()
        return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}

    expected = [
        any(len(pixels(a) & pixels(b)) > MOST_IGNORED * len(pixels(a)) for b in other) for a in ours
    ]
    found = on_ignored(torch.from_numpy(ours).float(), torch.from_numpy(other).float())
    assert found.tolist() == expected


def test_proposals_on_ignored_boxes_are_not_drawn_unless_a_person_is_there() -> None:
    stage = RoIStage(small_config())
    person = torch.tensor([[10.0, 10, 30, 70]])
    proposals = torch.tensor([[11.0, 10, 31, 70], [50.0, 10, 70, 70], [90.0, 10, 110, 70]])
    target: Target = {
        "boxes_xyxy": person,
        "pids": torch.tensor([3]),
        "ignored_xyxy": torch.tensor([[0.0, 0, 72, 80]]),
    }
    sampled = stage.sample([proposals], [target])
    drawn = {tuple(box) for box in sampled.boxes_xyxy[0].tolist()}
    assert drawn == {(11, 10, 31, 70), (90, 10, 110, 70), (10, 10, 30, 70)}
    assert sorted(sampled.labels.tolist()) == [0, PERSON, PERSON]


def test_anchors_on_ignored_boxes_are_not_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the person is ignored: the RPN learns from the person alone."""
    network = small_network().train()
    scene = network.preprocessing.scene(random_picture(120, 130))
    target = random_targets([1])
    everywhere = torch.tensor([[-500.0, -500, 900, 900]])
    seen: list[torch.Tensor] = []
    assign = network.rpn.assign_targets_to_anchors

    def look(*args: Any) -> Any:
        labels, boxes = assign(*args)
        seen.extend(labels)
        return labels, boxes

    monkeypatch.setattr(network.rpn, "assign_targets_to_anchors", look)
    network([scene], [target])
    network([scene], [{**target, "ignored_xyxy": everywhere}])
    plain, ignoring = seen
    assert (plain == 0).any()
    assert not (ignoring == 0).any()
    assert torch.equal(plain == 1, ignoring == 1)
    assert (ignoring == 1).any()


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.booleans())
def test_the_focal_loss_is_that_of_its_paper(seed: int, anchors: int, nobody: bool) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, anchors)
    labels = rng.integers(-1, 1 if nobody else 2, anchors).astype(float)
    outputs, targets = rng.normal(0, 1, (2, anchors, 4))
    rpn = build_rpn(small_config(rpn_loss="focal"), 8)
    score, box = rpn.compute_loss(
        torch.from_numpy(logits)[:, None],
        torch.from_numpy(outputs),
        list(torch.from_numpy(labels).split(5)),
        list(torch.from_numpy(targets).split(5)),
    )
    assert score.item() == pytest.approx(oracles.focal_loss(logits, labels), rel=1e-6)
    assert box.item() == pytest.approx(oracles.smooth_l1(outputs, targets, labels), rel=1e-6)
