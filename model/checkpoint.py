"""Checkpoints: a folder with `config.json` and one safetensors file that it names.

`config.json` holds the network's configuration (preprocessing included), the SHA-256 of the weights
and where they come from. It is written last and replaced atomically, and the weights' file carries
its hash in its name: a crash at any moment leaves the old checkpoint or the new one, never a mix.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from safetensors import SafetensorError

from model.config import BINetConfig
from model.errors import CheckpointError
from model.files import replace_file

if TYPE_CHECKING:  # torch takes seconds to import, and `read_config` does not need it
    import torch
    from torch import Tensor, nn

CONFIG_NAME = "config.json"
FORMAT = "binet-checkpoint"
VERSION = 1
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True)
class Checkpoint:
    """What `config.json` says."""

    config: BINetConfig
    #: The weights' file beside `config.json`.
    weights: str
    sha256: str
    #: Data, recipe, figures: whatever the training wrote.
    provenance: dict[str, Any]


def write_checkpoint(
    folder: str | Path,
    config: BINetConfig,
    state: "Mapping[str, Tensor]",
    provenance: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Write a checkpoint atomically; an older one in the same folder is replaced."""
    import safetensors.torch

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data = safetensors.torch.save({name: value.contiguous() for name, value in state.items()})
    sha256 = hashlib.sha256(data).hexdigest()
    checkpoint = Checkpoint(
        config, f"weights-{sha256[:16]}.safetensors", sha256, dict(provenance or {})
    )
    replace_file(folder / checkpoint.weights, data)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "weights": checkpoint.weights,
        "sha256": sha256,
        "config": config.model_dump(mode="json"),
        "provenance": checkpoint.provenance,
    }
    replace_file(folder / CONFIG_NAME, (json.dumps(document, indent=2) + "\n").encode())
    for old in (*folder.glob("weights-*.safetensors"), *folder.glob(".*.tmp")):
        if old.name != checkpoint.weights:
            old.unlink()
    return checkpoint


def in_type(state: "Mapping[str, Tensor]", dtype: "torch.dtype | None") -> "dict[str, Tensor]":
    """Turn the floating point tensors of a state into another type; counters stay as they are.

    Raises
    ------
    CheckpointError
        When a number that was finite is not so in the other type.
    """
    turned = {
        name: value.to(dtype) if dtype and value.is_floating_point() else value
        for name, value in state.items()
    }
    for name, value in turned.items():
        if not bool((value.isfinite() | ~state[name].isfinite()).all()):
            raise CheckpointError(f"{name} holds numbers that are too large for {dtype}")
    return turned


def read_config(folder: str | Path) -> Checkpoint:
    """Read `config.json` alone.

    Raises
    ------
    CheckpointError
        When there is none, or it is not of this format and version.
    """
    folder = Path(folder)
    if folder.suffix in PICKLES and not folder.is_dir():
        raise CheckpointError(
            f"{folder} is a pickle, which can run code when it is opened: it is refused. "
            "A BINet checkpoint is a folder with config.json and a .safetensors file."
        )
    path = folder / CONFIG_NAME
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(_not_there(folder)) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a BINet checkpoint (no format {FORMAT!r} in it)")
    if document.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has version {document.get('version')}, this program reads {VERSION}: "
            "update the program or the checkpoint"
        )
    try:
        return Checkpoint(
            config=BINetConfig.model_validate(document["config"]),
            weights=Path(document["weights"]).name,  # never outside the folder
            sha256=document["sha256"],
            provenance=document["provenance"],
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _not_there(folder: Path) -> str:
    found = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    if any(Path(name).suffix in PICKLES for name in found):
        return (
            f"{folder} holds pickled weights ({', '.join(found)}), which can run code when they "
            "are opened: they are refused. Save them again with model.save()."
        )
    if found:
        return f"{folder} is no BINet checkpoint: no {CONFIG_NAME} in it, found {found[:5]}"
    return f"There is no checkpoint folder {folder}"


def read_state(folder: str | Path, checkpoint: Checkpoint) -> "dict[str, Tensor]":
    """Read the weights that `config.json` names, after checking their hash.

    Raises
    ------
    CheckpointError
        When the file is missing, damaged, or no safetensors.
    """
    import safetensors.torch

    path = Path(folder) / checkpoint.weights
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"The weights cannot be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != checkpoint.sha256:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one in {CONFIG_NAME}")
    try:
        state: dict[str, Tensor] = safetensors.torch.load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
    return state


def load_strictly(network: "nn.Module", state: "Mapping[str, Tensor]") -> None:
    """Load every tensor; one too few, too many or of another shape is an error that names it."""
    own = network.state_dict()
    problems = [
        *(f"missing {name}" for name in own if name not in state),
        *(f"unexpected {name}" for name in state if name not in own),
        *(
            f"{name} has shape {list(value.shape)}, expected {list(own[name].shape)}"
            for name, value in state.items()
            if name in own and value.shape != own[name].shape
        ),
    ]
    if problems:
        shown = "; ".join(problems[:10])
        more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise CheckpointError(f"The weights do not fit the network: {shown}{more}")
    network.load_state_dict(dict(state))
