"""Which scenes and crops a step sees, and how they are read: pure functions of seed and step.

Nothing about the position in the data has to be saved: a run that is resumed at step N computes the
batches of step N again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from model import Crops, Preprocessing, Scene, Target, read_picture
from model.annotations import UNLABELLED, AnnotatedScene
from model.preprocessing import to_rgb
from training.augment import Augment
from training.datasets.crops import LabelledCrop

#: Stands in for the identity of an ignored box while a scene is augmented.
IGNORED = UNLABELLED - 1


class Key(NamedTuple):
    """A scene or crop, and which time it is seen: decides how it is augmented."""

    is_crop: bool
    place: int
    epoch: int


class SceneExample(NamedTuple):
    """A scene as the network takes it."""

    scene: Scene
    target: Target


class CropExample(NamedTuple):
    """A person crop as the network takes it: uint8 [3, h, w]."""

    pixels: Tensor
    pid: int


@dataclass(frozen=True)
class Batch:
    """What goes through the network at once."""

    scenes: list[Scene]
    targets: list[Target]
    crops: Crops | None


class TrainingData(Dataset[SceneExample | CropExample]):
    """Annotated scenes and person crops, read, augmented and resized on demand.

    Parameters
    ----------
    scenes
        Identities numbered 0..num_pids-1.
    crops
        More people, numbered likewise.
    preprocessing
        Of the network that is trained.
    augment
        What is changed at random.
    """

    def __init__(
        self,
        scenes: Sequence[AnnotatedScene],
        crops: Sequence[LabelledCrop],
        preprocessing: Preprocessing,
        augment: Augment,
    ) -> None:
        self.scenes = scenes
        self.crops = crops
        self.preprocessing = preprocessing
        self.augment = augment

    def __getitem__(self, key: Key) -> SceneExample | CropExample:
        return self._crop(*key) if key.is_crop else self._scene(*key)

    def _scene(self, is_crop: bool, place: int, epoch: int) -> SceneExample:
        annotated = self.scenes[place]
        pixels = to_rgb(read_picture(annotated.path))
        height, width = pixels.shape[-2:]
        # Boxes may reach past the picture; what the network has to find is inside.
        # Ignored boxes go along with a number of their own.
        boxes = torch.from_numpy(np.concatenate([annotated.boxes_xyxy, annotated.ignored_xyxy]))
        pids = torch.from_numpy(annotated.pids)
        pids = torch.cat([pids, pids.new_full((len(annotated.ignored_xyxy),), IGNORED)])
        boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
        boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
        inside = (boxes[:, 2:] - boxes[:, :2] >= 1).all(dim=1)
        pixels, boxes, pids = self.augment.scene(
            pixels, boxes[inside], pids[inside], is_crop, place, epoch
        )
        people = pids != IGNORED
        target: Target = {
            "boxes_xyxy": boxes[people],
            "pids": pids[people],
            "ignored_xyxy": boxes[~people],
        }
        scene = self.augment.shrink(self.preprocessing.scene(pixels), is_crop, place, epoch)
        return SceneExample(scene, target)

    def _crop(self, is_crop: bool, place: int, epoch: int) -> CropExample:
        crop = self.crops[place]
        pixels = self.augment.crop(to_rgb(crop.open()), is_crop, place, epoch)
        return CropExample(self.preprocessing.patch(pixels), crop.pid)


class BatchStream(Sampler[list[Key]]):
    """The batches of one process, from any step on, without end.

    Every epoch is cut into batches for all processes together, of which each takes its part: two
    processes see the scenes that one with twice the batch would see.

    Parameters
    ----------
    scenes
        How many there are.
    batch_size
        Scenes of a batch of one process.
    seed
        Of the run.
    start
        Batches of this process that a resumed run has behind it.
    groups
        Group of each scene; a batch holds one group only. None is one group for all.
    crops, crops_per_batch
        How many crops there are, and how many join each batch of one process.
    rank, world_size
        This process, and how many there are.
    crops_alone
        So many batches at the beginning of the run hold no scenes, and so many crops.
    """

    def __init__(
        self,
        scenes: int,
        batch_size: int,
        seed: int,
        start: int = 0,
        groups: Sequence[int] | None = None,
        crops: int = 0,
        crops_per_batch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        crops_alone: tuple[int, int] = (0, 0),
    ) -> None:
        self.groups = np.zeros(scenes, int) if groups is None else np.asarray(groups)
        self.batch_size = batch_size
        self.seed = seed
        self.start = start
        self.crops, self.crops_per_batch = crops, crops_per_batch if crops else 0
        self.alone_batches, self.alone_per_batch = crops_alone if crops else (0, 0)
        self.rank, self.world_size = rank, world_size
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None

    def epoch(self, number: int) -> list[list[int]]:
        """All batches, for all processes, of one pass over the data.

        A group's last batch is filled up with scenes from the beginning of its order.
        """
        rng = np.random.default_rng((self.seed, number))
        order = rng.permutation(len(self.groups))
        size = self.batch_size * self.world_size
        batches = []
        for group in np.unique(self.groups):
            members = order[self.groups[order] == group]
            full = np.resize(members, -(-len(members) // size) * size)
            batches += full.reshape(-1, size).tolist()
        return [batches[i] for i in rng.permutation(len(batches))]

    def __iter__(self) -> Iterator[list[Key]]:
        per_epoch = len(self.epoch(0))
        number = self.start
        while number < self.alone_batches:
            yield self._crops(number)
            number += 1
        while True:
            epoch = (number - self.alone_batches) // per_epoch
            batches = self.epoch(epoch)
            while (number - self.alone_batches) // per_epoch == epoch:
                place = (number - self.alone_batches) % per_epoch
                own = self._own(batches[place], self.batch_size)
                yield [Key(False, scene, epoch) for scene in own] + self._crops(number)
                number += 1

    def _own(self, batch: list[int], size: int) -> list[int]:
        return batch[self.rank * size : (self.rank + 1) * size]

    def _crops(self, number: int) -> list[Key]:
        """Crops of a batch: they go round in an order of their own."""
        alone = min(number, self.alone_batches)
        before = alone * self.alone_per_batch + (number - alone) * self.crops_per_batch
        size = self.alone_per_batch if number < self.alone_batches else self.crops_per_batch
        first = before * self.world_size
        keys = []
        for place in self._own(list(range(first, first + size * self.world_size)), size):
            epoch, index = divmod(place, self.crops)
            keys.append(Key(True, int(self._crop_order(epoch)[index]), epoch))
        return keys

    def _crop_order(self, epoch: int) -> npt.NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            # The third number keeps the order apart from that of the scenes.
            rng = np.random.default_rng((self.seed, epoch, 1))
            self._order = (epoch, rng.permutation(self.crops))
        return self._order[1]


def shape_groups(scenes: Sequence[AnnotatedScene]) -> list[int]:
    """0 for upright pictures, 1 for wide ones; only headers are read."""
    groups = []
    for scene in scenes:
        width, height = read_picture(scene.path).size
        groups.append(int(width > height))
    return groups


def join(examples: list[SceneExample | CropExample]) -> Batch:
    """Put what was read for a batch together."""
    scenes = [example for example in examples if isinstance(example, SceneExample)]
    crops = [example for example in examples if isinstance(example, CropExample)]
    return Batch(
        [example.scene for example in scenes],
        [example.target for example in scenes],
        {
            "pixels": [crop.pixels for crop in crops],
            "pids": torch.tensor([crop.pid for crop in crops], dtype=torch.int64),
        }
        if crops
        else None,
    )


def loader(data: TrainingData, stream: BatchStream, workers: int) -> DataLoader[Batch]:
    """Read the batches of a stream ahead, in processes of its own."""
    return DataLoader(
        data,  # type: ignore[arg-type]
        batch_sampler=stream,
        num_workers=workers,
        collate_fn=join,
        persistent_workers=workers > 0,
        # Forked children of a process with threads can hang.
        multiprocessing_context="spawn" if workers else None,
    )
