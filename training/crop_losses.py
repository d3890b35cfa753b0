"""Ours, not the paper's: a step on crops alone, before there is a detector to train."""

from torch import Tensor

from model import BINet, Crops


def crop_losses(network: BINet, crops: Crops) -> dict[str, Tensor]:
    """OIM's loss of a batch of crops, by name; the memory is updated.

    The crops pass the instance-aware branch as at inference, but BatchNorm that is in training mode
    takes their statistics: within `BINet.forward` it keeps to those of the scenes.
    """
    images, _ = network.normalise(crops["pixels"])
    embeddings = network.predictor.embed(network.head_features(network.trunk_maps(images)))
    pids = crops["pids"].to(network.device)
    memory = network.instance_memory or network.search_memory
    loss = memory.loss(memory.logits(embeddings), pids)
    memory.update(embeddings, pids)
    return {"oim_instance": loss}
