"""One way to a network: `create` a new one, `load` a saved one; `save` it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from model.backbones import DOWNLOAD
from model.binet import BINet
from model.checkpoint import Checkpoint, in_type, write_checkpoint
from model.config import BINetConfig
from model.errors import DeviceError
from model.preprocessing import Preprocessing


def create(
    config: BINetConfig, backbone_weights: str | Path = DOWNLOAD
) -> tuple[BINet, Preprocessing]:
    """Build a new network on ImageNet weights, in evaluation mode.

    Parameters
    ----------
    config
        What to build; `variant_config` gives the systems of the paper.
    backbone_weights
        `download` for torchvision's file, the path of a local one, or `random`.

    Raises
    ------
    WeightsError
        When the ImageNet weights cannot be had; the message names the three ways to get them.
    """
    network = BINet(config, backbone_weights).eval()
    return network, network.preprocessing


def check_device(device: str | torch.device) -> None:
    """Refuse a device that is not there.

    Raises
    ------
    DeviceError
        When nothing can be put there.
    """
    try:
        # Something has to be put there: a name alone is never refused.
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"There is no device {str(device)!r} here; leave --device out") from error


def load(folder: str | Path, device: str | torch.device = "cpu") -> tuple[BINet, Preprocessing]:
    """Load a checkpoint, in evaluation mode.

    Raises
    ------
    CheckpointError
        When it is missing, a pickle, damaged, or does not fit its own configuration.
    DeviceError
        When there is no such device.
    """
    check_device(device)
    network = BINet.from_checkpoint(folder).to(device)
    return network, network.preprocessing


def save(
    network: BINet,
    folder: str | Path,
    provenance: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> Checkpoint:
    """Write a checkpoint atomically, the OIM memory included.

    Parameters
    ----------
    provenance
        What to remember of the training (data, recipe, figures), beside what is known already.
    dtype
        Type of floating point numbers in the file, such as `torch.float16` for half the size; None
        keeps that of the network. `load` gives float32 again.

    Raises
    ------
    CheckpointError
        When a number is too large for `dtype`.
    """
    known = {**network.provenance, **(provenance or {})}
    state = network.checkpoint_state()
    return write_checkpoint(folder, network.config, in_type(state, dtype), known)
