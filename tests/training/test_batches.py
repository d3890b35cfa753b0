"""The order of the scenes, and what a scene looks like when it is trained on."""

from itertools import islice
from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model import Preprocessing, PreprocessingConfig
from model.annotations import AnnotatedScene
from tests.conftest import random_picture
from training.batches import BatchStream, TrainingScenes, loader, shape_groups

counts = st.integers(1, 40)


@given(counts, st.integers(1, 5), st.integers(0, 60))
def test_resuming_gives_the_same_batches(scenes: int, batch_size: int, start: int) -> None:
    whole = list(islice(BatchStream(scenes, batch_size, seed=3), start + 10))
    resumed = list(islice(BatchStream(scenes, batch_size, seed=3, start=start), 10))
    assert resumed == whole[start:]


@given(counts, st.integers(1, 5), st.integers(2, 4))
def test_processes_share_the_batches(scenes: int, batch_size: int, world_size: int) -> None:
    alone = list(islice(BatchStream(scenes, batch_size, seed=3), 6 * world_size))
    shares = [
        list(islice(BatchStream(scenes, batch_size, 3, rank=r, world_size=world_size), 6))
        for r in range(world_size)
    ]
    assert alone == [share[i] for i in range(6) for share in shares]


@given(st.lists(st.integers(0, 1), min_size=1, max_size=40), st.integers(1, 5))
def test_each_epoch_has_every_scene_once_and_groups_do_not_mix(
    groups: list[int], batch_size: int
) -> None:
    stream = BatchStream(len(groups), batch_size, seed=0, groups=groups)
    first, second = stream.epoch(0), stream.epoch(1)
    for epoch in (first, second):
        assert sorted(scene for batch in epoch for scene in batch) == list(range(len(groups)))
        assert all(len({groups[scene] for scene in batch}) == 1 for batch in epoch)
    if len(groups) > 20:
        assert first != second


def annotated(folder: Path, height: int = 100, width: int = 160) -> AnnotatedScene:
    path = folder / f"{height}x{width}.png"
    Image.fromarray(random_picture(height, width)).save(path)
    boxes = np.array([[10, 20, 40, 90], [-14, 5, 20, 60], [150, 90, 190, 130]], np.float32)
    return AnnotatedScene(path.name, path, boxes, np.array([4, -1, 2]))


PREPROCESSING = Preprocessing(PreprocessingConfig(min_side=50, max_side=200))


def test_a_scene_and_its_mirror_image(tmp_path: Path) -> None:
    scenes = [annotated(tmp_path)]
    plain, target = TrainingScenes(scenes, PREPROCESSING, flip=0.0, seed=0)[0, 0]
    mirrored, mirrored_target = TrainingScenes(scenes, PREPROCESSING, flip=1.0, seed=0)[0, 0]
    assert (plain.width, plain.height) == (160, 100)
    assert plain.pixels.shape == (3, 50, 80)
    assert torch.equal(mirrored.pixels, plain.pixels.flip(-1))
    # Boxes are cut at the picture's edge.
    expected = torch.tensor([[10.0, 20, 40, 90], [0, 5, 20, 60], [150, 90, 160, 100]])
    torch.testing.assert_close(target["boxes_xyxy"], expected)
    turned = expected.clone()
    turned[:, [0, 2]] = 160 - expected[:, [2, 0]]
    torch.testing.assert_close(mirrored_target["boxes_xyxy"], turned)
    for each in (target, mirrored_target):
        assert each["pids"].tolist() == [4, -1, 2]
        assert type(each["boxes_xyxy"]) is torch.Tensor


def test_flips_are_decided_by_seed_epoch_and_scene(tmp_path: Path) -> None:
    scenes = [annotated(tmp_path)]

    def pixels(seed: int) -> list[bytes]:
        data = TrainingScenes(scenes, PREPROCESSING, flip=0.5, seed=seed)
        return [data[0, epoch][0].pixels.numpy().tobytes() for epoch in range(12)]

    assert pixels(0) == pixels(0)
    assert len(set(pixels(0))) == 2
    assert pixels(0) != pixels(1)


def test_a_box_outside_the_picture_is_left_out(tmp_path: Path) -> None:
    scene = annotated(tmp_path)
    boxes = np.array([[200, 20, 240, 90], [10, 20, 40, 90]], np.float32)
    scene = AnnotatedScene(scene.name, scene.path, boxes, np.array([1, 2]))
    _, target = TrainingScenes([scene], PREPROCESSING, flip=0.0, seed=0)[0, 0]
    assert target["pids"].tolist() == [2]


def test_workers_read_the_same_as_the_process_itself(tmp_path: Path) -> None:
    scenes = [annotated(tmp_path, height=60 + 10 * i) for i in range(5)]
    data = TrainingScenes(scenes, PREPROCESSING, flip=0.5, seed=0)

    def read(workers: int) -> list[list[bytes]]:
        batches = iter(loader(data, BatchStream(5, 2, seed=0), workers))
        return [[s.pixels.numpy().tobytes() for s, _ in next(batches)] for _ in range(5)]

    assert read(0) == read(1)


def test_shape_groups(tmp_path: Path) -> None:
    assert shape_groups([annotated(tmp_path, 100, 160), annotated(tmp_path, 160, 100)]) == [1, 0]
