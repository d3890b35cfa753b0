"""Online Instance Matching: the memory of identities and its loss.

Xiao et al., "Joint Detection and Identification Feature Learning for Person Search", CVPR 2017,
sec. 3.3. The look-up table has one row for each labelled identity, the circular queue the latest
unlabelled persons, who serve as negatives only.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.annotations import UNLABELLED
from model.distributed import gather_rows, global_mean

#: Logit of an empty row: its probability is exactly 0 in float32, yet sums and KL stay finite.
EMPTY_LOGIT = -1e4


class OIMMemory(nn.Module):
    """Look-up table, circular queue and the queue's position; buffers, all in the state dict.

    `logits` reads a copy of the tables, so several calls in a step and a later `update` are safe
    for the backward pass. Call `update` after the losses of a step.
    """

    lut: Tensor
    queue: Tensor
    queue_position: Tensor

    def __init__(
        self, num_pids: int, queue_size: int, dim: int, temperature: float, momentum: float
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.momentum = momentum
        self.register_buffer("lut", torch.zeros(num_pids, dim))  # [P, D], unit rows or zero
        self.register_buffer("queue", torch.zeros(queue_size, dim))  # [Q, D], unit rows or zero
        self.register_buffer("queue_position", torch.zeros((), dtype=torch.int64))

    @property
    def num_pids(self) -> int:
        """Rows of the look-up table."""
        return self.lut.shape[0]

    @property
    def filled(self) -> Tensor:
        """Which rows of the look-up table hold an embedding: bool [P]."""
        return self.lut.any(dim=1)

    def logits(self, embeddings: Tensor) -> Tensor:
        """Similarity to every row, over the temperature; `EMPTY_LOGIT` for empty rows.

        Parameters
        ----------
        embeddings
            Unit vectors [N, D].

        Returns
        -------
        Tensor
            [N, P + Q], first the look-up table, then the queue. Gradient flows to the embeddings.
        """
        table = torch.cat([self.lut, self.queue])
        scores = embeddings @ table.T / self.temperature
        return scores.masked_fill(~table.any(dim=1), EMPTY_LOGIT)

    def loss(self, logits: Tensor, pids: Tensor) -> Tensor:
        """Mean negative log-likelihood of the labelled persons' own rows.

        Unlabelled persons are no targets, nor is an identity whose row is still empty: there is
        nothing to match yet. Without any target the loss is 0 and still has a graph.

        Parameters
        ----------
        logits
            [N, P + Q] from `logits`.
        pids
            int64 [N], 0..P-1 or `UNLABELLED`.
        """
        known = (pids >= 0) & self.filled[pids.clamp(min=0)]
        targets = torch.where(known, pids, UNLABELLED)
        total = F.cross_entropy(logits, targets, ignore_index=UNLABELLED, reduction="sum")
        return global_mean(total, known.sum())

    @torch.no_grad()
    def update(self, embeddings: Tensor, pids: Tensor) -> None:
        """Write a step's persons into the tables, in order; equal on every rank under DDP.

        Labelled: v <- momentum * v + (1 - momentum) * x, then back to unit length, once for each
        x in turn. Unlabelled: into the queue. Rows that are not finite are left out, so that one
        bad step cannot spoil the memory.

        Parameters
        ----------
        embeddings
            Unit vectors [N, D].
        pids
            int64 [N], 0..P-1 or `UNLABELLED`.

        Raises
        ------
        ValueError
            When an identity number is not below `num_pids`.
        """
        embeddings, pids = gather_rows(embeddings.detach().to(self.lut.dtype), pids)
        if len(pids) and int(pids.max()) >= self.num_pids:
            raise ValueError(
                f"identity {int(pids.max())} does not fit a look-up table of {self.num_pids} rows: "
                "set num_pids to the number of labelled identities and number them from 0"
            )
        finite = embeddings.isfinite().all(dim=1)
        embeddings, pids = embeddings[finite], pids[finite]
        labelled = pids >= 0
        self._update_lut(embeddings[labelled], pids[labelled])
        self._update_queue(embeddings[~labelled])

    def _update_lut(self, embeddings: Tensor, pids: Tensor) -> None:
        # The k-th persons of all identities are independent of each other: one round for each k.
        rank = _occurrence(pids)
        for k in range(int(rank.max()) + 1 if len(rank) else 0):
            now = rank == k
            rows = pids[now]
            mixed = self.momentum * self.lut[rows] + (1 - self.momentum) * embeddings[now]
            self.lut[rows] = F.normalize(mixed, dim=1)

    def _update_queue(self, embeddings: Tensor) -> None:
        size = len(self.queue)
        if size == 0 or len(embeddings) == 0:
            return
        places = torch.arange(len(embeddings), device=embeddings.device) + self.queue_position
        # Of more than `size` persons only the last `size` remain: no place is written twice.
        self.queue[places[-size:] % size] = embeddings[-size:]
        self.queue_position.copy_((self.queue_position + len(embeddings)) % size)


def _occurrence(pids: Tensor) -> Tensor:
    """How many equal identities stand before each: [5, 7, 5] -> [0, 0, 1]."""
    return (pids[:, None] == pids[None, :]).tril(diagonal=-1).sum(dim=1)
