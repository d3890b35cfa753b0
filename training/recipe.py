"""A training run as data: every knob, with its meaning, read from a TOML file.

Files in `training/recipes/` say what differs from the defaults here. `NAME/VARIANT` takes a file
with another system of the paper: `prw/siamese`.
"""

import json
import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model import VARIANTS, BINetConfig, variant_config
from training.errors import RecipeError

FOLDER = Path(__file__).parent / "recipes"

Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


Share = Annotated[float, Field(ge=0, le=1)]


class Augmentation(BaseModel):
    """Random changes of the pictures that are trained on; the paper flips only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Probability of a horizontal flip.
    flip: Share = 0.5
    #: Brightness, contrast and saturation change by up to this share.
    colour: Share = 0.0
    #: The hue turns by up to this share of the circle.
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    #: Probability that a scene is cropped to a part of it, at least half as wide and high.
    crop: Share = 0.0
    #: A scene's input is made smaller by up to this share: smaller people, and less to compute.
    shrink: Annotated[float, Field(ge=0, lt=1)] = 0.0
    #: Probability that a rectangle of a person crop is erased. Scenes are left alone.
    erase: Share = 0.0
    #: Probability that a crop loses its detail, as that of somebody far away.
    coarse: Share = 0.0
    #: Probability that what is around a crop's person is another ground.
    elsewhere: Share = 0.0
    #: A crop moves and grows or shrinks in its frame by up to this share, as a detector's boxes do.
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Recipe(BaseModel):
    """Everything that decides a run, apart from the data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: A system of the paper, a key of `model.VARIANTS`.
    variant: str = "binet"
    #: Fields of `BINetConfig` that differ from the variant's; `num_pids` comes from the data.
    network: dict[str, Any] = {}
    #: `download`, a file, or `random`; see `model.create`.
    backbone_weights: str = "download"
    #: Folder of a checkpoint to begin with, OIM's memory included, in place of ImageNet weights:
    #: one of another run on the same people. Empty is off.
    start_from: str = ""

    # --- batches ------------------------------------------------------------------------------
    #: Scenes that go through the network together, on each process.
    batch_size: Count = 2
    #: Batches whose gradients are added up before the weights change.
    accumulation: Count = 1
    #: Person crops (`--crops`) that join each batch, in the instance-aware branch.
    crops_per_batch: NonNegative = 0
    #: Steps at the beginning of the run that see crops alone, and whose BatchNorm takes the
    #: statistics of crops; 0 is off. Ours: docs/weights.md says why.
    crops_alone_steps: NonNegative = 0
    #: Crops of each batch of these steps, on each process.
    crops_alone_batch: Count = 64
    #: Beginnings of the names of the parameters that are trained, such as `rpn`; empty is all.
    train_only: list[str] = []
    #: Random changes of scenes and crops.
    augmentation: Augmentation = Augmentation()
    #: Upright and wide scenes in batches of their own: less padding.
    group_by_shape: bool = False
    #: Processes that read and resize pictures; 0 reads in the training process.
    workers: NonNegative = 4

    # --- optimiser ----------------------------------------------------------------------------
    #: SGD is the paper's.
    optimiser: Literal["sgd", "adamw"] = "sgd"
    #: Learning rate after the warm-up.
    lr: Positive = 1e-3
    #: Factor of the learning rate of parameters by the beginning of their name, such as
    #: `trunk = 0.1`; the longest one counts, and 1 is for all others.
    lr_factors: dict[str, Positive] = {}
    #: Of SGD.
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    #: L2 penalty of the weights; AdamW decouples it.
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    #: Changes of the weights in the whole run.
    steps: Count = 50_000
    #: Steps before which the learning rate rises linearly from 0; 0 is off, as in the paper.
    warmup_steps: NonNegative = 0
    #: After each of these steps the learning rate is a tenth of what it was.
    lr_drops: list[Count] = []
    #: Cosine decay to 0 over the run instead of drops.
    cosine: bool = False
    #: Largest norm of the gradient; 0 is off, as in the paper.
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    #: From this step on BatchNorm keeps its statistics, as at inference; the weights adapt to them.
    #: 0 is off.
    fix_statistics_after: NonNegative = 0
    #: Decay of a moving average of the weights, which then is what is validated and kept; 0 is off.
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0

    # --- how it is computed -------------------------------------------------------------------
    #: bfloat16 computes trunk, RPN and head in bfloat16; weights and losses stay float32.
    precision: Literal["float32", "bfloat16"] = "float32"
    #: Weights and maps in the order of memory that convolutions on a CPU are fastest with.
    channels_last: bool = False
    #: torch.compile for the trunk.
    compile: bool = False
    #: Decides weights that start at random, the order of the scenes, flips and RoI sampling.
    seed: int = 0

    # --- validation ---------------------------------------------------------------------------
    #: Share of the identities that are held out, with every scene that shows one of them. 0 trains
    #: on everything, as the paper does, and validates nothing.
    hold_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    #: Steps between validations on what is held out.
    validate_every: Count = 1000

    # --- what is written ----------------------------------------------------------------------
    #: Steps between lines of the log.
    log_every: Count = 20
    #: Steps between states to resume from; pictures for the trackers are made there too.
    checkpoint_every: Count = 1000

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant {self.variant!r}: choose one of {', '.join(VARIANTS)}")
        if "num_pids" in self.network:
            raise ValueError("network.num_pids comes from the data")
        config = self.network_config(num_pids=1)  # its own checks
        if self.crops_per_batch and not config.instance_branch:
            raise ValueError(
                f"crops_per_batch needs an instance-aware branch: {self.variant} has none"
            )
        if self.crops_alone_steps and not self.crops_per_batch:
            raise ValueError("crops_alone_steps needs crops_per_batch")
        if self.cosine and self.lr_drops:
            raise ValueError("cosine and lr_drops exclude each other")
        return self

    def network_config(self, num_pids: int) -> BINetConfig:
        """Give the configuration of the network for data with so many identities."""
        return variant_config(self.variant, **{**self.network, "num_pids": num_pids})

    def lr_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.cosine:
            share = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
            return self.lr * 0.5 * (1 + math.cos(math.pi * share))
        return float(self.lr * 0.1 ** sum(step >= drop for drop in self.lr_drops))


def load_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe and change single fields of it.

    Parameters
    ----------
    name
        A file of `training/recipes/` without its ending, or the path of a TOML file; `/VARIANT`
        behind a name takes another system of the paper.
    settings
        `key=value`, `network.key=value`; values as in TOML, quotes around words may be left out.

    Raises
    ------
    RecipeError
        When there is no such recipe, or a field is unknown or of the wrong kind.
    """
    stem, _, variant = name.partition("/") if not name.endswith(".toml") else (name, "", "")
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{stem}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.toml")))
        raise RecipeError(f"there is no recipe {name!r}: choose {known}, or give a .toml file")
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from error
    if variant:
        fields["variant"] = variant
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise RecipeError(f"--set {setting}: give key=value")
        *parents, last = key.split(".")
        place = fields
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = _value(value)
    return parse_recipe(fields, str(path))


def parse_recipe(fields: dict[str, Any], source: str) -> Recipe:
    """Validate a recipe's fields; errors name the field in one line."""
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'recipe'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise RecipeError(f"{source}: {problems}") from error


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def dump_recipe(recipe: Recipe) -> str:
    """Give the resolved recipe, every field of it, as JSON."""
    return json.dumps(recipe.model_dump(mode="json"), indent=2) + "\n"
