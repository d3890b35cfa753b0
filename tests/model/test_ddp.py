"""OIM under DistributedDataParallel: two gloo processes end with one and the same memory."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

from model import total_loss
from model.oim import OIMMemory
from tests.conftest import random_picture, random_targets, small_network
from tests.forked import on_ranks

DIM = 8
#: Identities of each step for rank 0 and rank 1: different numbers, nobody, one identity on both.
STEPS: list[tuple[list[int], list[int]]] = [
    ([0, 1, -1], [1, 1, -1, -1, 2]),
    ([], [3, -1]),
    ([-1, -1, -1], []),
    ([], []),
    ([3, 0], [0, 3]),
]


def persons(step: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    pids = torch.tensor(STEPS[step][rank], dtype=torch.int64)
    generator = torch.Generator().manual_seed(10 * step + rank)
    return F.normalize(torch.randn(len(pids), DIM, generator=generator), dim=1), pids


def join(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )


def update_on_rank(rank: int, folder: str) -> None:
    join(rank, folder)
    memory = OIMMemory(4, 5, DIM, temperature=0.1, momentum=0.5)
    for step in range(len(STEPS)):
        memory.update(*persons(step, rank))
    torch.save(memory.state_dict(), f"{folder}/memory-{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_equal_one_process_that_sees_both(tmp_path: Path) -> None:
    on_ranks(update_on_rank, str(tmp_path))
    alone = OIMMemory(4, 5, DIM, temperature=0.1, momentum=0.5)
    for step in range(len(STEPS)):
        parts = [persons(step, rank) for rank in (0, 1)]
        alone.update(torch.cat([x for x, _ in parts]), torch.cat([pids for _, pids in parts]))
    for rank in (0, 1):
        state = torch.load(tmp_path / f"memory-{rank}.pt", weights_only=True)
        for name, value in alone.state_dict().items():
            assert torch.equal(state[name], value), (rank, name)


def train_on_rank(rank: int, folder: str) -> None:
    join(rank, folder)
    torch.manual_seed(rank)
    network = small_network().train()
    model = torch.nn.parallel.DistributedDataParallel(network)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.001)
    for step in range(2):
        scene = network.preprocessing.scene(random_picture(120, 120, seed=2 * step + rank))
        # Rank 1 has nobody at first: every parameter must still take part.
        pids = [0, 1, -1] if rank == 0 or step else []
        loss = total_loss(model([scene], [random_targets(pids, seed=step)]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.save(network.state_dict(), f"{folder}/network-{rank}.pt")
    dist.destroy_process_group()


def test_a_network_in_ddp_stays_equal_on_all_ranks(tmp_path: Path) -> None:
    on_ranks(train_on_rank, str(tmp_path))
    first, second = (
        torch.load(tmp_path / f"network-{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    assert first["search_memory.lut"][:2].any()
    for name in first:
        assert torch.equal(first[name], second[name]), name
