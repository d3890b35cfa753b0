"""What a picture looks like when it is trained on: torchvision's transforms v2, with boxes.

Drawn from the seed, the epoch and the picture alone, so that a resumed run sees the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import PIL.Image
import torch
import torchvision.transforms.v2 as transforms
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Image

from model import Scene
from model.preprocessing import resize, to_rgb
from training.recipe import Augmentation

#: Share of the picture that a random crop keeps at least, and of a crop that is erased at most.
LEAST_KEPT = 0.5
MOST_ERASED = 0.3
#: Height in pixels of somebody far away: between these.
FAR = (24, 96)
#: Quality of the JPEG compression that a far person has gone through: between these.
FAR_QUALITY = (30, 90)


class Augment:
    """Changes scenes with their boxes, and crops.

    Parameters
    ----------
    settings
        What is on; the paper's recipe flips only.
    seed
        Of the run.
    """

    def __init__(self, settings: Augmentation, seed: int) -> None:
        self.seed = seed
        self._most_shrunk = settings.shrink
        colour: list[Any] = []
        if settings.colour or settings.hue:
            c = settings.colour
            colour = [transforms.ColorJitter(c, c, c, hue=settings.hue)]
        flip = transforms.RandomHorizontalFlip(settings.flip)
        zoom: list[Any] = []
        if settings.crop:
            # Option 1 leaves the picture as it is: without it, one without people never ends.
            cropped = transforms.RandomIoUCrop(min_scale=LEAST_KEPT, sampler_options=[0.0, 1.0])
            zoom = [transforms.RandomApply([cropped], settings.crop)]
        self._scene = transforms.Compose([flip, *colour, *zoom])
        erase: list[Any] = []
        if settings.erase:
            erase = [transforms.RandomErasing(settings.erase, (0.02, MOST_ERASED))]
        moved: list[Any] = []
        if settings.jitter:
            j = settings.jitter
            moved = [transforms.RandomAffine(0, (j, j), (1 - j, 1 + j), fill=127)]
        self._coarse = settings.coarse
        self._crop = transforms.Compose([flip, *colour, *moved, *erase])

    def scene(
        self, pixels: Tensor, boxes_xyxy: Tensor, pids: Tensor, *place: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Change a scene; who is no longer in the picture is left out.

        Parameters
        ----------
        pixels
            uint8 [3, H, W].
        boxes_xyxy, pids
            [n, 4] in pixels of the scene, and [n].
        place
            Numbers that decide what is drawn, such as the epoch and the scene's place.
        """
        height, width = pixels.shape[-2:]
        boxes = BoundingBoxes(
            boxes_xyxy, format=BoundingBoxFormat.XYXY, canvas_size=(height, width)
        )
        sample = {"image": Image(pixels), "boxes": boxes, "labels": pids}
        with self._drawn(*place):
            sample = self._scene(sample)
        sample = transforms.SanitizeBoundingBoxes(min_size=1)(sample)
        return (
            sample["image"].as_subclass(Tensor),
            sample["boxes"].as_subclass(Tensor),
            sample["labels"],
        )

    def shrink(self, scene: Scene, *place: int) -> Scene:
        """Make a prepared scene's input smaller; its boxes are in pixels of the picture."""
        if not self._most_shrunk:
            return scene
        # The third stream of a place, apart from those of `scene` and `crop`.
        rng = np.random.default_rng((self.seed, *place, 2))
        factor = 1 - self._most_shrunk * rng.random()
        size = [max(1, round(side * factor)) for side in scene.pixels.shape[-2:]]
        return replace(scene, pixels=resize(scene.pixels, size))

    def crop(self, pixels: Tensor, *place: int) -> Tensor:
        """Change a crop, uint8 [3, h, w]."""
        with self._drawn(*place):
            changed: Tensor = self._crop(Image(pixels)).as_subclass(Tensor)
            if self._coarse and torch.rand(()) < self._coarse:
                changed = _far(changed)
        return changed

    @contextmanager
    def _drawn(self, *place: int) -> Iterator[None]:
        """Draw from the place alone; what others draw is not disturbed."""
        seed = np.random.SeedSequence((self.seed, *place)).generate_state(1, np.uint64)[0]
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: it tells every device that there is none, in 1.6 ms.
            torch.default_generator.manual_seed(int(seed >> 1))
            yield


def _far(pixels: Tensor) -> Tensor:
    """Take a crop's detail, uint8 [3, h, w], as if it were of somebody far away in a video."""
    far = int(torch.randint(FAR[0], FAR[1] + 1, ()))
    quality = int(torch.randint(*FAR_QUALITY, ()))
    height, width = pixels.shape[-2:]
    if height <= far:
        return pixels
    file = BytesIO()
    small = resize(pixels, [far, max(1, round(width * far / height))])
    to_pil_image(small).save(file, "JPEG", quality=quality)
    return resize(to_rgb(PIL.Image.open(file)), [height, width])
