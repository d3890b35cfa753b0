"""The training loop: scenes in, a run folder out.

The step decides everything random (order, flips, RoI sampling), so that a resumed run is the run
that was not interrupted, bit by bit.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model import BINet, Preprocessing, create, save, total_loss
from model.annotations import AnnotatedScene
from model.backbones import RANDOM, batchnorms
from model.checkpoint import load_strictly, read_config, read_state
from model.provenance import environment
from training.augment import Augment
from training.batches import Batch, BatchStream, TrainingData, loader, shape_groups
from training.crop_losses import crop_losses
from training.datasets.crops import Crop, CropSource, LabelledCrop
from training.errors import RunError
from training.recipe import Recipe, dump_recipe, parse_recipe
from training.record import BEST, LOG, VALIDATION, Record, Tracker, use_average
from training.state import read_into, saved_states, step_of, write_state

RECIPE = "recipe.json"
ENVIRONMENT = "environment.json"
STATES = "states"
#: Where the finished network lies in a run's folder, as a checkpoint.
FINAL = "final"
BAD_BATCH = "bad-batch.pt"
README = "README.md"
EXPLANATION = f"""# A training run of BINet

| file | what it is |
|---|---|
| `{RECIPE}` | every setting of the run |
| `{ENVIRONMENT}` | commit, versions, machine, and the command that started it |
| `{LOG}` | losses by name, learning rate, seconds of step and data, a line every few steps |
| `{VALIDATION}` | what was measured on held-out people, if any are held out |
| `{STATES}/` | the last state to resume from: the same command with `--resume` |
| `{BEST}/` | the network that was best at validation |
| `{FINAL}/` | the finished network; `binet demo --weights` and `model.load` take either |
| `tensorboard/` | with `--tensorboard`: `tensorboard --logdir` shows it |
| `{BAD_BATCH}` | only when a loss was not finite: the batch that gave it |
"""


@dataclass(frozen=True)
class Process:
    """One process among those of a run (torchrun sets the variables)."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def from_environment(cls) -> "Process":
        """Read what torchrun says."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def writes(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0


def train(
    recipe: Recipe,
    scenes: Sequence[AnnotatedScene],
    num_pids: int,
    out: Path,
    device: str | torch.device = "cpu",
    resume: bool = False,
    trackers: Sequence[Tracker] = (),
    process: Process | None = None,
    crops: Sequence[LabelledCrop] = (),
    held_out: Sequence[AnnotatedScene] = (),
    held_out_crops: tuple[CropSource, Sequence[Crop]] | None = None,
) -> BINet:
    """Train a network and leave it in `out/final`.

    Parameters
    ----------
    recipe
        What to do.
    scenes
        The training part; identities numbered 0..num_pids-1.
    out
        The run's folder: recipe, environment, log, states to resume from, checkpoints.
    resume
        Go on where the last saved state of `out` ends; the recipe must be the same.
    process
        This process of several, with torch.distributed already initialised.
    crops
        Person crops that join the batches, as many as the recipe says; numbered likewise.
    held_out
        Scenes to validate on, with people who are in none of the others. The best network by the
        mAP of scene queries is kept in `out/best`.
    held_out_crops
        Crops of people whom no other crop and no scene shows: the crop encoder is validated on
        them. Without scenes to validate on, it decides which network is the best.

    Raises
    ------
    RunError
        When there is a run in `out` already, or none to resume; when a loss is not finite (the
        batch is saved); when the recipe asks for crops or held-out scenes and there are none.
    """
    process = process or Process()
    _require_data(recipe, scenes, crops, held_out)
    if recipe.crops_alone_steps and process.world_size > 1:
        raise RunError(
            "crops_alone_steps is for one process: set it to 0, or start without torchrun"
        )
    _open_run(out, recipe, resume, process)
    torch.manual_seed(recipe.seed)
    network = _new_network(recipe, num_pids)
    _require_names(network, "train_only", recipe.train_only)
    _require_names(network, "lr_factors", list(recipe.lr_factors))
    _freeze(network, recipe.train_only)
    network.to(device).train()
    if recipe.channels_last:
        network.to(memory_format=torch.channels_last)
    if recipe.precision == "bfloat16":
        network.bfloat16_parts = frozenset({"trunk", "rpn", "head"})
    optimiser = _optimiser(recipe, network)
    average = {n: p.detach().clone() for n, p in network.named_parameters()} if recipe.ema else {}
    first = 0
    states = saved_states(out / STATES)
    if resume and states:
        first = step_of(states[-1])
        read_into(states[-1], network, optimiser, average)
    data = TrainingData(
        scenes,
        crops,
        Preprocessing(network.config.preprocessing),
        Augment(recipe.augmentation, recipe.seed),
    )
    stream = BatchStream(
        len(scenes),
        recipe.batch_size,
        recipe.seed,
        start=first * recipe.accumulation,
        groups=shape_groups(scenes) if recipe.group_by_shape else None,
        crops=len(crops),
        crops_per_batch=recipe.crops_per_batch,
        rank=process.rank,
        world_size=process.world_size,
        crops_alone=(recipe.crops_alone_steps * recipe.accumulation, recipe.crops_alone_batch),
    )
    batches = iter(loader(data, stream, recipe.workers))
    forward = _forward(network, recipe, process)
    provenance: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "training_scenes": len(scenes),
        "training_crops": len(crops),
        **environment(),
    }
    # Only one process writes; the others wait for it at their next exchange of gradients.
    record = (
        Record(
            recipe,
            out,
            network,
            average,
            trackers,
            held_out,
            scenes,
            provenance,
            held_out_crops,
        )
        if process.writes
        else None
    )
    try:
        if record:
            record.forget_after(first)
        for step in range(first, recipe.steps):
            started = time.perf_counter()
            step_batches = list(islice(batches, recipe.accumulation))
            data_s = time.perf_counter() - started
            lr = recipe.lr_at(step)
            if recipe.fix_statistics_after and step >= recipe.fix_statistics_after:
                for layer in batchnorms(network):
                    layer.eval()
            for group in optimiser.param_groups:
                group["lr"] = lr * group["factor"]
            losses = _step(network, forward, optimiser, recipe, step, step_batches, process, out)
            for name, parameter in network.named_parameters() if recipe.ema else ():
                average[name].lerp_(parameter.detach(), 1 - recipe.ema)
            if record:
                step_s = time.perf_counter() - started
                record.step(step + 1, {**losses, "lr": lr, "data_s": data_s, "step_s": step_s})
                done = step + 1
                if done % recipe.checkpoint_every == 0 or done == recipe.steps:
                    write_state(out / STATES, done, network, optimiser, average, provenance)
    finally:
        for tracker in trackers:
            tracker.close()
    use_average(network, average)
    network.eval()
    if process.writes:
        save(network, out / FINAL, {**provenance, "step": recipe.steps})
    return network


def _new_network(recipe: Recipe, num_pids: int) -> BINet:
    config = recipe.network_config(num_pids)
    if not recipe.start_from:
        return create(config, recipe.backbone_weights)[0]
    network = create(config, RANDOM)[0]
    checkpoint = read_config(recipe.start_from)
    load_strictly(network, read_state(recipe.start_from, checkpoint))
    network.provenance = {"start_from": checkpoint.provenance}
    return network


def _require_names(network: BINet, field: str, prefixes: list[str]) -> None:
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name, _ in network.named_parameters()):
            raise RunError(f"{field}: no parameter's name begins with {prefix!r}")


def _freeze(network: BINet, train_only: list[str]) -> None:
    """Stop the training of all parameters but these; BatchNorm's statistics are not parameters."""
    for name, parameter in network.named_parameters() if train_only else ():
        if not name.startswith(tuple(train_only)):
            parameter.requires_grad_(False)


def _require_data(
    recipe: Recipe,
    scenes: Sequence[AnnotatedScene],
    crops: Sequence[LabelledCrop],
    held_out: Sequence[AnnotatedScene],
) -> None:
    if not scenes:
        raise RunError("there are no scenes to train on")
    if bool(crops) != bool(recipe.crops_per_batch):
        raise RunError(
            f"crops_per_batch is {recipe.crops_per_batch} and there are {len(crops)} crops: "
            "give both or neither"
        )
    if bool(held_out) != bool(recipe.hold_out):
        raise RunError(
            f"hold_out is {recipe.hold_out:g} and {len(held_out)} scenes are held out: too few "
            "people to hold any out?"
        )


def _step(
    network: BINet,
    forward: Callable[..., dict[str, Tensor]],
    optimiser: torch.optim.Optimizer,
    recipe: Recipe,
    step: int,
    batches: list[Batch],
    process: Process,
    out: Path,
) -> dict[str, float]:
    """Change the weights once; return the losses by name, the mean over the batches."""
    sums: dict[str, float] = {}
    optimiser.zero_grad(set_to_none=True)
    for number, batch in enumerate(batches):
        # A number for each batch of the whole run and process: RoI sampling draws from it.
        place = (step * recipe.accumulation + number) * process.world_size + process.rank
        torch.manual_seed(recipe.seed * 1_000_003 + place)
        last = number == len(batches) - 1
        # Gradients are exchanged between processes once, with the last batch.
        exchange = (
            forward.no_sync()
            if isinstance(forward, DistributedDataParallel) and not last
            else nullcontext()
        )
        with exchange:
            if batch.scenes:
                losses = forward(batch.scenes, batch.targets, batch.crops)
                loss = total_loss(losses)
            else:
                losses = crop_losses(network, batch.crops) if batch.crops else {}
                loss = torch.stack(list(losses.values())).sum()
            if not bool(loss.isfinite()):
                _stop_on(losses, batch, step, out)
            (loss / len(batches)).backward()  # type: ignore[no-untyped-call]
        for name, value in {**losses, "loss": loss}.items():
            sums[name] = sums.get(name, 0.0) + value.item() / len(batches)
    if recipe.clip_norm:
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
    optimiser.step()
    return sums


def _stop_on(losses: dict[str, Tensor], batch: Batch, step: int, out: Path) -> None:
    bad = [name for name, value in losses.items() if not bool(value.isfinite())]
    scenes = [
        {"pixels": scene.pixels, "width": scene.width, "height": scene.height, **target}
        for scene, target in zip(batch.scenes, batch.targets, strict=True)
    ]
    torch.save({"scenes": scenes, "crops": batch.crops}, out / BAD_BATCH)
    raise RunError(
        f"step {step + 1}: not finite: {', '.join(bad) or 'their sum'}; the batch is in "
        f"{out / BAD_BATCH}. A smaller lr, a warm-up or clip_norm help most often."
    )


def _forward(network: BINet, recipe: Recipe, process: Process) -> Callable[..., dict[str, Tensor]]:
    if recipe.compile:
        network.trunk.compile()
    if process.world_size == 1:
        return network
    devices = [network.device.index] if network.device.type == "cuda" else None
    # The memory is equal on all ranks by itself. Statistics that are trained are the first rank's.
    trained = recipe.network_config(1).freeze_batchnorm != "all"
    return DistributedDataParallel(network, device_ids=devices, forward_sync_buffers=trained)


def _optimiser(recipe: Recipe, network: BINet) -> torch.optim.Optimizer:
    by_factor: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            begins = [prefix for prefix in recipe.lr_factors if name.startswith(prefix)]
            factor = recipe.lr_factors[max(begins, key=len)] if begins else 1.0
            by_factor.setdefault(factor, []).append(parameter)
    parameters = [{"params": p, "factor": factor} for factor, p in by_factor.items()]
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        parameters, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )


def _open_run(out: Path, recipe: Recipe, resume: bool, process: Process) -> None:
    """Make the run's folder, or check that the one to resume is of the same recipe."""
    if resume:
        if not (out / RECIPE).is_file():
            raise RunError(f"{out} holds no run to resume")
        before = parse_recipe(json.loads((out / RECIPE).read_text()), str(out / RECIPE))
        if before != recipe:
            changed = [
                name
                for name in Recipe.model_fields
                if getattr(before, name) != getattr(recipe, name)
            ]
            raise RunError(
                f"{out} is a run of another recipe: {', '.join(changed)} differ; resume it with "
                "the settings it began with, or start another run"
            )
        return
    if (out / RECIPE).exists() and process.writes:
        raise RunError(f"there is a run in {out} already: give --resume or another folder")
    if process.writes:
        (out / STATES).mkdir(parents=True, exist_ok=True)
        # The command names the user's folders: it stays with the run, outside the checkpoints.
        about = {**environment(), "command": sys.argv}
        (out / ENVIRONMENT).write_text(json.dumps(about, indent=2) + "\n")
        (out / RECIPE).write_text(dump_recipe(recipe))
        (out / README).write_text(EXPLANATION)
    if process.world_size > 1:
        dist.barrier()
