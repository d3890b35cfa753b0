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
import torch.nn.functional as F
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
#: What of a crop is the person, roughly: centres and half axes of ellipses, as shares of width and
#: height; head, trunk, legs. How far they move and grow at random, and how soft their edge is.
BODY = ((0.5, 0.11, 0.17, 0.12), (0.5, 0.36, 0.36, 0.24), (0.5, 0.74, 0.3, 0.3))
BODY_MOVES, BODY_GROWS, BODY_EDGE = 0.04, (0.9, 1.25), 0.12
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
        self._elsewhere = settings.elsewhere
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
            if self._elsewhere and torch.rand(()) < self._elsewhere:
                pixels = _elsewhere(pixels)
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


def _elsewhere(pixels: Tensor) -> Tensor:
    """Put a person, uint8 [3, h, w], before something else, as far as a rough outline goes.

    Pictures of a person by one camera share a background, and so a network learns grass and paving.
    """
    height, width = pixels.shape[-2:]
    y = torch.linspace(0, 1, height)[:, None] + BODY_MOVES * (2 * torch.rand(()) - 1)
    x = torch.linspace(0, 1, width)[None, :] + BODY_MOVES * (2 * torch.rand(()) - 1)
    grown = BODY_GROWS[0] + (BODY_GROWS[1] - BODY_GROWS[0]) * torch.rand(())
    outside = torch.stack(
        [
            (((x - centre_x) / half_x) ** 2 + ((y - centre_y) / half_y) ** 2).sqrt() / grown - 1
            for centre_x, centre_y, half_x, half_y in BODY
        ]
    ).amin(dim=0)
    person = torch.sigmoid(-outside / BODY_EDGE)
    # A few colours that run into each other, from nearly one to a coarse pattern, and their grain.
    colours = torch.rand(1, 1, 1) + torch.rand(()) * (torch.rand(3, 1, 1) - 0.5)
    colours = colours + 0.5 * torch.rand(()) * torch.randn(3, 6, 3)
    ground = F.interpolate(colours[None], size=(height, width), mode="bilinear")[0]
    ground = 255 * (ground + 0.08 * torch.rand(()) * torch.randn(1, height, width)).clamp(0, 1)
    # Between another colour of the same ground and another ground altogether.
    share = 0.4 + 0.6 * torch.rand(())
    behind = share * ground + (1 - share) * pixels
    return (person * pixels + (1 - person) * behind).round().to(torch.uint8)


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
