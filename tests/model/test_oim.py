"""The OIM memory against NumPy written from Xiao et al. 2017, and its promises."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from model.annotations import UNLABELLED
from model.oim import OIMMemory
from tests.model import oracles

DIM = 8


def unit(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, DIM, generator=generator, dtype=torch.float64), dim=1)


def new_memory(num_pids: int = 4, queue_size: int = 3) -> OIMMemory:
    return OIMMemory(num_pids, queue_size, DIM, temperature=0.1, momentum=0.5).double()


steps = st.lists(st.lists(st.integers(-1, 3), max_size=9), min_size=1, max_size=5)


@settings(deadline=None)
@given(steps, st.integers(0, 4), st.integers(0, 10_000))
def test_equals_numpy_over_many_steps(
    pids_of_steps: list[list[int]], queue_size: int, seed: int
) -> None:
    memory = new_memory(queue_size=queue_size)
    oracle = oracles.OIM(4, queue_size, DIM, temperature=0.1, momentum=0.5)
    for step, pids in enumerate(pids_of_steps):
        x = unit(len(pids), seed + step)
        loss = memory.loss(memory.logits(x), torch.tensor(pids, dtype=torch.int64))
        assert loss.item() == pytest.approx(oracle.loss(x.numpy(), pids), rel=1e-9, abs=1e-9)
        memory.update(x, torch.tensor(pids, dtype=torch.int64))
        oracle.update(x.numpy(), pids)
        np.testing.assert_allclose(memory.lut.numpy(), oracle.lut, atol=1e-12)
        np.testing.assert_allclose(memory.queue.numpy(), oracle.queue, atol=1e-12)
        assert int(memory.queue_position) == oracle.position


def filled_memory() -> OIMMemory:
    memory = new_memory()
    memory.update(unit(7, 1), torch.tensor([0, 1, 2, 3, -1, -1, -1]))
    return memory


def test_gradient_by_finite_differences() -> None:
    memory = filled_memory()
    pids = torch.tensor([2, 0, UNLABELLED])

    def loss(raw: torch.Tensor) -> torch.Tensor:
        return memory.loss(memory.logits(F.normalize(raw, dim=1)), pids)

    raw = unit(3, 2).requires_grad_()
    assert torch.autograd.gradcheck(loss, (raw,))


def test_several_calls_and_the_update_before_backward() -> None:
    memory = filled_memory()
    x = unit(2, 3).requires_grad_()
    pids = torch.tensor([0, 1])
    first = memory.loss(memory.logits(x), pids)
    expected = torch.autograd.grad(first, x)[0]

    once = memory.loss(memory.logits(x), pids)
    again = memory.loss(memory.logits(x.flip(0)), pids.flip(0))
    memory.update(x, pids)
    (once + again).backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, 2 * expected)


def test_only_unlabelled_persons_is_a_zero_loss_with_a_graph() -> None:
    memory = filled_memory()
    x = unit(2, 3).requires_grad_()
    loss = memory.loss(memory.logits(x), torch.tensor([UNLABELLED, UNLABELLED]))
    loss.backward()
    assert loss.item() == 0
    assert x.grad is not None
    assert not x.grad.any()


def test_nobody_at_all() -> None:
    memory = filled_memory()
    before = memory.lut.clone()
    nobody = torch.zeros(0, DIM, dtype=torch.float64, requires_grad=True)
    pids = torch.zeros(0, dtype=torch.int64)
    memory.loss(memory.logits(nobody), pids).backward()
    memory.update(nobody, pids)
    assert torch.equal(memory.lut, before)


def test_rows_stay_unit_vectors_and_unlabelled_persons_stay_out_of_the_table() -> None:
    memory = filled_memory()
    table = memory.lut.clone()
    memory.update(unit(2, 9), torch.tensor([UNLABELLED, UNLABELLED]))
    assert torch.equal(memory.lut, table)
    memory.update(unit(3, 8), torch.tensor([0, 0, 1]))
    torch.testing.assert_close(memory.lut.norm(dim=1), torch.ones(4, dtype=torch.float64))


def test_a_row_that_is_not_finite_is_left_out() -> None:
    memory = filled_memory()
    before = memory.lut.clone()
    bad = unit(2, 3)
    bad[0, 0] = torch.nan
    memory.update(bad, torch.tensor([0, UNLABELLED]))
    assert torch.equal(memory.lut, before)
    assert memory.queue.isfinite().all()


def test_the_state_dict_continues_exactly() -> None:
    memory, copy = filled_memory(), new_memory()
    memory.update(unit(1, 5), torch.tensor([UNLABELLED]))  # the position is now inside the queue
    copy.load_state_dict(memory.state_dict())
    for each in (memory, copy):
        each.update(unit(2, 6), torch.tensor([UNLABELLED, 3]))
    assert torch.equal(memory.queue, copy.queue)
    assert torch.equal(memory.lut, copy.lut)
    assert int(memory.queue_position) == int(copy.queue_position) == 2


def test_the_tables_are_no_parameters() -> None:
    assert not list(new_memory().parameters())
