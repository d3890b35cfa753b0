"""Eq. 1-5 against NumPy written from the paper, and their gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.losses import (
    Direction,
    feature_interaction_loss,
    one_way,
    prediction_interaction_loss,
    total_loss,
)
from model.oim import EMPTY_LOGIT
from tests.model import oracles

sizes = st.tuples(st.integers(1, 6), st.integers(2, 12))


def random(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 3, shape))


@given(sizes, st.integers(0, 10_000))
def test_eq1_feature_interaction(size: tuple[int, int], seed: int) -> None:
    f_s, f_r = random(size, seed), random(size, seed + 1)
    expected = oracles.eq1_feature_interaction(f_r.numpy(), f_s.numpy())
    assert feature_interaction_loss(f_s, f_r).item() == pytest.approx(expected, abs=1e-9)


@given(sizes, st.integers(0, 10_000), st.sampled_from([0.3, 0.5, 1.0, 3.0]))
def test_eq2_to_4_prediction_interaction(
    size: tuple[int, int], seed: int, temperature: float
) -> None:
    p_s, p_r = random(size, seed), random(size, seed + 1)
    expected = oracles.eq2_prediction_interaction(p_r.numpy(), p_s.numpy(), temperature)
    loss = prediction_interaction_loss(p_s, p_r, temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    mean = prediction_interaction_loss(p_s, p_r, temperature, reduction="mean")
    assert mean.item() == pytest.approx(expected / size[0], rel=1e-9, abs=1e-9)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_gradients_by_finite_differences(seed: int) -> None:
    f_s, f_r = (random((3, 5), seed + i).requires_grad_() for i in (0, 1))
    assert torch.autograd.gradcheck(feature_interaction_loss, (f_s, f_r))
    assert torch.autograd.gradcheck(lambda s, r: prediction_interaction_loss(s, r, 0.7), (f_s, f_r))


def test_equal_branches_cost_nothing() -> None:
    f = random((4, 6), 0)
    assert feature_interaction_loss(f, f).item() == pytest.approx(0, abs=1e-12)
    assert prediction_interaction_loss(f, f, 1.0).item() == pytest.approx(0, abs=1e-12)


def test_the_scale_of_a_feature_does_not_matter() -> None:
    f_s, f_r = random((4, 6), 0), random((4, 6), 1)
    scaled = feature_interaction_loss(7 * f_s, f_r)
    assert scaled.item() == pytest.approx(feature_interaction_loss(f_s, f_r).item())


def test_no_positive_roi_is_zero_with_a_graph() -> None:
    f_s, f_r = (torch.zeros(0, 5, requires_grad=True) for _ in range(2))
    loss = feature_interaction_loss(f_s, f_r) + prediction_interaction_loss(f_s, f_r, 1.0)
    loss = loss + prediction_interaction_loss(f_s, f_r, 1.0, reduction="mean")
    assert loss.item() == 0
    loss.backward()
    assert f_s.grad is not None


def test_empty_rows_change_nothing() -> None:
    p_s, p_r = random((3, 5), 0).float(), random((3, 5), 1).float()
    empty = torch.full((3, 2), EMPTY_LOGIT)
    alone = prediction_interaction_loss(p_s, p_r, 0.3)
    padded = prediction_interaction_loss(
        torch.cat([p_s, empty], 1), torch.cat([p_r, empty], 1), 0.3
    )
    assert padded.item() == pytest.approx(alone.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("direction", "search_learns", "instance_learns"),
    [
        ("both", True, True),
        ("instance_to_search", True, False),
        ("search_to_instance", False, True),
    ],
)
def test_direction(direction: Direction, search_learns: bool, instance_learns: bool) -> None:
    f_s, f_r = (random((3, 5), i).requires_grad_() for i in (0, 1))
    sides = one_way(f_s, f_r, direction)
    (feature_interaction_loss(*sides) + prediction_interaction_loss(*sides, 1.0)).backward()
    assert (f_s.grad is not None) == search_learns
    assert (f_r.grad is not None) == instance_learns


def test_eq5() -> None:
    names = ["rpn_objectness", "rpn_box", "roi_score", "roi_box"]
    names += ["feature_interaction", "prediction_interaction", "oim_search", "oim_instance"]
    losses = {name: torch.tensor(10.0**i) for i, name in enumerate(names)}
    assert total_loss(losses).item() == 111_111 + 0.5 * 11_000_000


def test_eq5_without_instance_branch_counts_the_one_oim_loss_fully() -> None:
    losses = {"roi_score": torch.tensor(1.0), "oim_search": torch.tensor(10.0)}
    assert total_loss(losses).item() == 11
