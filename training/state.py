"""What a run needs to continue bit by bit, written so that a kill at any moment leaves it whole.

A saved state is a folder `step-N`: the network as a checkpoint that anything can load, and beside
it the optimiser and the moving average as safetensors. It is written under another name and
renamed when it is complete.
"""

import shutil
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from model import BINet, CheckpointError, save
from model.checkpoint import load_strictly, read_config, read_state
from model.files import sync
from training.errors import RunError

STATE = "state.safetensors"


def write_state(
    folder: Path,
    step: int,
    network: BINet,
    optimiser: torch.optim.Optimizer,
    average: dict[str, Tensor],
    provenance: dict[str, object],
) -> Path:
    """Save step `step` below `folder` and remove the older ones."""
    final = folder / f"step-{step:08d}"
    unfinished = folder / f".{final.name}.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(final, ignore_errors=True)
    save(network, unfinished, {**provenance, "step": step})
    tensors = {f"average.{name}": value for name, value in average.items()}
    for number, values in optimiser.state_dict()["state"].items():
        for name, value in values.items():
            tensors[f"optimiser.{number}.{name}"] = torch.as_tensor(value)
    path = unfinished / STATE
    path.write_bytes(safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}))
    for synced in (path, unfinished):
        sync(synced)
    unfinished.rename(final)
    for old in saved_states(folder)[:-1]:
        shutil.rmtree(old)
    return final


def saved_states(folder: Path) -> list[Path]:
    """Complete states, oldest first."""
    return sorted(folder.glob("step-*"))


def step_of(state: Path) -> int:
    """Return the number of steps behind a saved state."""
    return int(state.name.removeprefix("step-"))


def read_into(
    state: Path,
    network: BINet,
    optimiser: torch.optim.Optimizer,
    average: dict[str, Tensor],
) -> None:
    """Load a saved state into a run that was set up in the same way.

    Raises
    ------
    RunError
        When it is damaged or of another run.
    """
    try:
        checkpoint = read_config(state)
        if checkpoint.config != network.config:
            raise RunError(f"{state} is of another network than the recipe's")
        load_strictly(network, read_state(state, checkpoint))
        tensors = safetensors.torch.load((state / STATE).read_bytes())
    except (CheckpointError, OSError, SafetensorError) as error:
        raise RunError(f"{state} cannot be resumed: {error}") from error
    values: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        if kind == "optimiser":
            number, _, name = name.partition(".")
            values.setdefault(int(number), {})[name] = value
        else:
            average[name] = value.to(network.device)
    optimiser.load_state_dict(
        {"state": values, "param_groups": optimiser.state_dict()["param_groups"]}
    )
