"""Which scenes a step sees, and how they are read: pure functions of the seed and the step.

Nothing about the position in the data has to be saved: a run that is resumed at step N computes the
batches of step N again.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torchvision.transforms.v2 as transforms
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Image

from model import Preprocessing, Scene, Target, read_picture
from model.annotations import AnnotatedScene
from model.preprocessing import to_rgb

#: A scene's place in the data, and which time it is seen (the epoch): decides its augmentation.
Key = tuple[int, int]
Example = tuple[Scene, Target]


class TrainingScenes(Dataset[Example]):
    """Annotated scenes, read, augmented and resized on demand.

    Parameters
    ----------
    scenes
        Identities numbered 0..num_pids-1.
    preprocessing
        Of the network that is trained.
    flip
        Probability of a horizontal flip.
    seed
        Of the run.
    """

    def __init__(
        self,
        scenes: Sequence[AnnotatedScene],
        preprocessing: Preprocessing,
        flip: float,
        seed: int,
    ) -> None:
        self.scenes = scenes
        self.preprocessing = preprocessing
        self.flip = flip
        self.seed = seed

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, key: Key) -> Example:
        place, epoch = key
        annotated = self.scenes[place]
        pixels = to_rgb(read_picture(annotated.path))
        height, width = pixels.shape[-2:]
        # Boxes may reach past the picture; what the network has to find is inside.
        boxes = torch.from_numpy(annotated.boxes_xyxy).clone()
        boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
        boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
        inside = (boxes[:, 2:] - boxes[:, :2] >= 1).all(dim=1)
        sample = {
            "pixels": Image(pixels),
            "boxes": BoundingBoxes(
                boxes[inside],
                format=BoundingBoxFormat.XYXY,
                canvas_size=(height, width),
            ),
        }
        if np.random.default_rng((self.seed, epoch, place)).random() < self.flip:
            sample = transforms.RandomHorizontalFlip(p=1.0)(sample)
        target: Target = {
            "boxes_xyxy": sample["boxes"].as_subclass(torch.Tensor),
            "pids": torch.from_numpy(annotated.pids)[inside],
        }
        return self.preprocessing.scene(sample["pixels"].as_subclass(torch.Tensor)), target


class BatchStream(Sampler[list[Key]]):
    """The batches of one process, from any step on, without end.

    Parameters
    ----------
    scenes
        How many there are.
    batch_size
        Scenes of a batch.
    seed
        Of the run.
    start
        Batches of this process that a resumed run has behind it.
    groups
        Group of each scene; a batch holds one group only. None is one group for all.
    rank, world_size
        Processes take the batches in turn.
    """

    def __init__(
        self,
        scenes: int,
        batch_size: int,
        seed: int,
        start: int = 0,
        groups: Sequence[int] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.groups = np.zeros(scenes, int) if groups is None else np.asarray(groups)
        self.batch_size = batch_size
        self.seed = seed
        self.start = start
        self.rank, self.world_size = rank, world_size

    def epoch(self, number: int) -> list[list[int]]:
        """All batches of one pass over the data; a group's last batch may be smaller."""
        rng = np.random.default_rng((self.seed, number))
        order = rng.permutation(len(self.groups))
        batches = []
        for group in np.unique(self.groups):
            members = order[self.groups[order] == group]
            batches += [
                members[start : start + self.batch_size].tolist()
                for start in range(0, len(members), self.batch_size)
            ]
        return [batches[i] for i in rng.permutation(len(batches))]

    def __iter__(self) -> Iterator[list[Key]]:
        per_epoch = len(self.epoch(0))
        place = self.start * self.world_size + self.rank
        while True:
            epoch = place // per_epoch
            batches = self.epoch(epoch)
            while place // per_epoch == epoch:
                yield [(scene, epoch) for scene in batches[place % per_epoch]]
                place += self.world_size


def shape_groups(scenes: Sequence[AnnotatedScene]) -> list[int]:
    """0 for upright pictures, 1 for wide ones; only headers are read."""
    groups = []
    for scene in scenes:
        width, height = read_picture(scene.path).size
        groups.append(int(width > height))
    return groups


def loader(scenes: TrainingScenes, stream: BatchStream, workers: int) -> DataLoader[list[Example]]:
    """Read the batches of a stream ahead, in processes of its own."""
    return DataLoader(
        scenes,  # type: ignore[arg-type]
        batch_sampler=stream,
        num_workers=workers,
        collate_fn=list,
        persistent_workers=workers > 0,
        # Forked children of a process with threads can hang.
        multiprocessing_context="spawn" if workers else None,
    )
