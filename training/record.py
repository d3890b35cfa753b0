"""What a run leaves behind while it goes on: log, validation, the best network, pictures."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torchvision.utils import draw_bounding_boxes

from model import BINet, read_picture, save
from model.annotations import AnnotatedScene
from model.preprocessing import to_rgb
from training.datasets.crops import Crop, CropSource
from training.datasets.reid import measure_crops
from training.recipe import Recipe
from training.validation import validate

LOG = "log.jsonl"
VALIDATION = "validation.jsonl"
#: The network that was best at validation, as a checkpoint.
BEST = "best"
#: What makes a network the best.
CRITERION = "scene_mAP"
CROP_CRITERION = "reid_mAP"
#: Scenes that are drawn for the trackers, each time the same.
PICTURES = 4


class Tracker(Protocol):
    """What follows a run: a progress bar, TensorBoard, or the user's own."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Take the numbers of a step: losses by name, `lr`, `step_s`, `data_s`."""

    def validation(self, step: int, values: dict[str, float]) -> None:
        """Take what was measured on the scenes that are held out."""

    def pictures(self, step: int, pictures: dict[str, Tensor]) -> None:
        """Take scenes with their boxes drawn, by name: uint8 [3, H, W]."""

    def close(self) -> None:
        """End of the run, also after an error."""


class Record:
    """Writes a run's files and tells its trackers; has no influence on the training itself.

    Parameters
    ----------
    average
        The moving average of the weights, changed by the loop; empty without one.
    held_out
        Scenes to validate on, or none.
    scenes
        Those that are trained on: drawn where none are held out.
    provenance
        Saved with every checkpoint.
    held_out_crops
        Crops to validate on, or none.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        network: BINet,
        average: dict[str, Tensor],
        trackers: Sequence[Tracker],
        held_out: Sequence[AnnotatedScene],
        scenes: Sequence[AnnotatedScene],
        provenance: dict[str, Any],
        held_out_crops: tuple[CropSource, Sequence[Crop]] | None = None,
    ) -> None:
        self.recipe = recipe
        self.out = out
        self.network = network
        self.average = average
        self.trackers = trackers
        self.held_out = held_out
        self.drawn = [scene for scene in held_out or scenes if len(scene)][:PICTURES]
        self.provenance = provenance
        self.held_out_crops = held_out_crops
        self.criterion = CRITERION if held_out else CROP_CRITERION

    def forget_after(self, step: int) -> None:
        """Remove the lines of steps that a resumed run does again."""
        for name in (LOG, VALIDATION):
            path = self.out / name
            if path.exists():
                kept = [json.dumps(line) + "\n" for line in _lines(path) if line["step"] <= step]
                temporary = path.with_suffix(".tmp")
                temporary.write_text("".join(kept))
                temporary.replace(path)

    def step(self, done: int, numbers: dict[str, float]) -> None:
        """Take the numbers of a step; validate and draw when it is time to."""
        last = done == self.recipe.steps
        if done % self.recipe.log_every == 0 or last:
            self._append(LOG, done, numbers)
            for tracker in self.trackers:
                tracker.scalars(done, numbers)
        measured = self.held_out or self.held_out_crops
        validates = measured and (done % self.recipe.validate_every == 0 or last)
        draws = self.trackers and (done % self.recipe.checkpoint_every == 0 or last)
        if validates or draws:
            with _evaluated(self.network, self.average):
                if validates:
                    self._validate(done)
                if draws:
                    pictures = {scene.name: draw(self.network, scene) for scene in self.drawn}
                    for tracker in self.trackers:
                        tracker.pictures(done, pictures)

    def _validate(self, done: int) -> None:
        metrics = validate(self.network, self.held_out) if self.held_out else {}
        if self.held_out_crops:
            found = measure_crops(self.network, *self.held_out_crops)
            metrics |= {
                "reid_mAP": found.mean_ap,
                "reid_top1": found.top1,
                "reid_cosine": found.cosine,
            }
        before = [line[self.criterion] for line in _lines(self.out / VALIDATION)]
        if metrics[self.criterion] > max(before, default=-1.0):
            save(self.network, self.out / BEST, {**self.provenance, "step": done, **metrics})
        self._append(VALIDATION, done, metrics)
        for tracker in self.trackers:
            tracker.validation(done, metrics)

    def _append(self, name: str, done: int, numbers: dict[str, float]) -> None:
        with (self.out / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": done, **numbers}) + "\n")


def draw(network: BINet, scene: AnnotatedScene) -> Tensor:
    """Draw a scene with its true boxes in green and what the network finds in red.

    Returns
    -------
    Tensor
        uint8 [3, H, W].
    """
    pixels = to_rgb(read_picture(scene.path))
    found = network.detect([pixels])[0].boxes_xyxy
    for boxes, colour, width in ((scene.boxes_xyxy, "lime", 2), (found, "red", 1)):
        if len(boxes):
            pixels = draw_bounding_boxes(
                pixels, torch.from_numpy(boxes), colors=colour, width=width
            )
    return pixels


def use_average(network: BINet, average: dict[str, Tensor]) -> None:
    """Give the network the averaged weights, where there are any."""
    with torch.no_grad():
        for name, parameter in network.named_parameters() if average else ():
            parameter.copy_(average[name])


@contextmanager
def _evaluated(network: BINet, average: dict[str, Tensor]) -> Iterator[None]:
    """Put the network into the state that is delivered in the end, for a while."""
    current = {name: p.detach().clone() for name, p in network.named_parameters() if average}
    use_average(network, average)
    network.eval()
    try:
        yield
    finally:
        use_average(network, current)
        network.train()


def _lines(path: Path) -> list[dict[str, Any]]:
    """Read what was logged; a line that was cut off by a kill is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
