"""Sums and rows over the processes of a run; with one process they change nothing."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def global_mean(total: Tensor, count: Tensor | int) -> Tensor:
    """Turn a sum over this process's persons into a loss that is the mean over everyone's.

    DDP averages gradients over the processes, however many persons each has. Divided by the mean
    count, the average is that of one process with all of them. 0 when there is nobody.
    """
    everyone = torch.as_tensor(count, device=total.device).to(torch.float32).clone()
    if world_size() > 1:
        dist.all_reduce(everyone)
    return total * world_size() / everyone.clamp(min=1)


def global_sum(total: Tensor) -> Tensor:
    """Undo DDP's averaging for a loss that is a sum over persons."""
    return total * world_size()


def gather_rows(embeddings: Tensor, pids: Tensor) -> tuple[Tensor, Tensor]:
    """Join the persons of all ranks in rank order; ranks may bring different numbers."""
    if world_size() == 1:
        return embeddings, pids
    count = torch.tensor([len(pids)], device=pids.device)
    counts = [torch.zeros_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    longest = int(max(counts))
    padded = F.pad(embeddings, (0, 0, 0, longest - len(embeddings)))
    padded_pids = F.pad(pids, (0, longest - len(pids)))
    all_embeddings = [torch.zeros_like(padded) for _ in counts]
    all_pids = [torch.zeros_like(padded_pids) for _ in counts]
    dist.all_gather(all_embeddings, padded)
    dist.all_gather(all_pids, padded_pids)
    return (
        torch.cat([part[:n] for part, n in zip(all_embeddings, counts, strict=True)]),
        torch.cat([part[:n] for part, n in zip(all_pids, counts, strict=True)]),
    )
