"""The paper's own losses (Eq. 1-4) and their sum (Eq. 5).

Every loss of a step lives by name in a dict, unweighted; `total_loss` weighs and adds them.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from model.distributed import global_mean, global_sum

Direction = Literal["both", "instance_to_search", "search_to_instance"]

#: Weights of Eq. 5. L_det is Faster R-CNN's: RPN and RoI stage, classification and box, each 1.
WEIGHTS: dict[str, float] = {
    "rpn_objectness": 1.0,
    "rpn_box": 1.0,
    "roi_score": 1.0,
    "roi_box": 1.0,
    "feature_interaction": 1.0,
    "prediction_interaction": 1.0,
    "oim_search": 0.5,
    "oim_instance": 0.5,
}


def total_loss(losses: Mapping[str, Tensor]) -> Tensor:
    """Eq. 5: L = L_det + L_fi + L_pi + 0.5 (L_oim^s + L_oim^r).

    Without an instance-aware branch there is one OIM loss and its weight is 1, as in the network
    that the paper starts from: Eq. 5 averages over the branches that there are.
    """
    total = torch.stack([WEIGHTS[name] * value for name, value in losses.items()]).sum()
    if "oim_instance" not in losses:
        total = total + (1 - WEIGHTS["oim_search"]) * losses["oim_search"]
    return total


def one_way(search: Tensor, instance: Tensor, direction: Direction) -> tuple[Tensor, Tensor]:
    """Detach the side that must not learn: the tail of the gradient's arrow (sec. 4.4, Table 7)."""
    if direction == "instance_to_search":
        return search, instance.detach()
    if direction == "search_to_instance":
        return search.detach(), instance
    return search, instance


def feature_interaction_loss(search: Tensor, instance: Tensor) -> Tensor:
    """Eq. 1: mean over positive RoIs of 1 - cos(f_r, f_s); 0 with a graph when there are none.

    Parameters
    ----------
    search, instance
        Features f_s and f_r before the embedding layer, [N, F].
    """
    distance = 1 - F.cosine_similarity(instance, search, dim=1)
    return global_mean(distance.sum(), len(distance))


def prediction_interaction_loss(
    search: Tensor,
    instance: Tensor,
    temperature: float,
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """Eq. 2-4: KL(p_r || p_s) + KL(p_s || p_r) of the distributions softened by T.

    Parameters
    ----------
    search, instance
        p of Eq. 4 over the C rows of the look-up table, [N, C]: OIM's logits, or probabilities.
    temperature
        T in Eq. 4.
    reduction
        `sum` over the RoIs as Eq. 3 has it, or their `mean`.
    """
    log_s = F.log_softmax(search / temperature, dim=1)
    log_r = F.log_softmax(instance / temperature, dim=1)
    # The two terms share their logarithms: sum (p_r - p_s)(log p_r - log p_s) is both at once.
    total = ((log_r.exp() - log_s.exp()) * (log_r - log_s)).sum()
    return global_sum(total) if reduction == "sum" else global_mean(total, len(search))
