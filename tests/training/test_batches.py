"""The order of the scenes, and what a scene looks like when it is trained on."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model import Preprocessing, PreprocessingConfig
from model.annotations import AnnotatedScene
from tests.conftest import random_picture
from training.augment import Augment
from training.batches import BatchStream, Key, SceneExample, TrainingData, loader, shape_groups
from training.datasets.crops import LabelledCrop, number_crops
from training.recipe import Augmentation

counts = st.integers(1, 40)


sizes = st.integers(1, 5)


@given(counts, sizes, st.integers(0, 60), st.integers(0, 7), st.integers(0, 3))
def test_resuming_gives_the_same_batches(
    scenes: int, batch_size: int, start: int, crops: int, per_batch: int
) -> None:
    def batches(first: int, number: int) -> list[list[Key]]:
        stream = BatchStream(
            scenes, batch_size, seed=3, start=first, crops=crops, crops_per_batch=per_batch
        )
        return list(islice(stream, number))

    assert batches(start, 10) == batches(0, start + 10)[start:]


@given(counts, sizes, st.integers(2, 4), st.integers(0, 9), st.integers(0, 3))
def test_processes_together_see_the_batches_of_one(
    scenes: int, batch_size: int, world_size: int, crops: int, per_batch: int
) -> None:
    alone = BatchStream(
        scenes, batch_size * world_size, 3, crops=crops, crops_per_batch=per_batch * world_size
    )
    ranks = [
        BatchStream(
            scenes,
            batch_size,
            3,
            crops=crops,
            crops_per_batch=per_batch,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    for whole, *parts in islice(zip(alone, *ranks, strict=True), 6):
        for is_crop in (False, True):
            joined = [key for part in parts for key in part if key.is_crop == is_crop]
            assert joined == [key for key in whole if key.is_crop == is_crop]


@given(st.lists(st.integers(0, 1), min_size=1, max_size=40), sizes)
def test_each_epoch_has_every_scene_in_full_batches_of_one_group(
    groups: list[int], batch_size: int
) -> None:
    stream = BatchStream(len(groups), batch_size, seed=0, groups=groups)
    first, second = stream.epoch(0), stream.epoch(1)
    for epoch in (first, second):
        seen = [scene for batch in epoch for scene in batch]
        assert set(seen) == set(range(len(groups)))
        # Each group is filled up to whole batches, no more.
        assert all(len(batch) == batch_size for batch in epoch)
        assert len(seen) < len(groups) + len(set(groups)) * batch_size
        assert all(len({groups[scene] for scene in batch}) == 1 for batch in epoch)
    if len(groups) > 20:
        assert first != second


@given(st.integers(1, 30), st.integers(1, 4))
def test_crops_go_round(crops: int, per_batch: int) -> None:
    stream = BatchStream(3, 1, seed=0, crops=crops, crops_per_batch=per_batch)
    keys = [key for batch in islice(stream, crops * 2) for key in batch if key.is_crop]
    assert len(keys) == 2 * crops * per_batch
    rounds = [keys[i : i + crops] for i in range(0, len(keys), crops)]
    assert all({key.place for key in once} == set(range(crops)) for once in rounds)


def annotated(folder: Path, height: int = 100, width: int = 160) -> AnnotatedScene:
    path = folder / f"{height}x{width}.png"
    Image.fromarray(random_picture(height, width)).save(path)
    boxes = np.array([[10, 20, 40, 90], [-14, 5, 20, 60], [150, 90, 190, 130]], np.float32)
    return AnnotatedScene(path.name, path, boxes, np.array([4, -1, 2]))


PREPROCESSING = Preprocessing(PreprocessingConfig(min_side=50, max_side=200))


def read_scene(data: TrainingData, epoch: int = 0) -> SceneExample:
    example = data[Key(False, 0, epoch)]
    assert isinstance(example, SceneExample)
    return example


def training_data(
    scenes: list[AnnotatedScene],
    crops: list[LabelledCrop] | None = None,
    seed: int = 0,
    **settings: float,
) -> TrainingData:
    augment = Augment(Augmentation(**settings), seed)
    return TrainingData(scenes, crops or [], PREPROCESSING, augment)


def test_a_scene_and_its_mirror_image(tmp_path: Path) -> None:
    scenes = [annotated(tmp_path)]
    plain, target = read_scene(training_data(scenes, flip=0))
    mirrored, mirrored_target = read_scene(training_data(scenes, flip=1))
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
        data = training_data(scenes, seed=seed)
        return [read_scene(data, epoch).scene.pixels.numpy().tobytes() for epoch in range(12)]

    assert pixels(0) == pixels(0)
    assert len(set(pixels(0))) == 2
    assert pixels(0) != pixels(1)


def test_a_box_outside_the_picture_is_left_out(tmp_path: Path) -> None:
    scene = annotated(tmp_path)
    boxes = np.array([[200, 20, 240, 90], [10, 20, 40, 90]], np.float32)
    scene = AnnotatedScene(scene.name, scene.path, boxes, np.array([1, 2]))
    _, target = read_scene(training_data([scene], flip=0))
    assert target["pids"].tolist() == [2]


def test_ignored_boxes_go_where_the_picture_goes(tmp_path: Path) -> None:
    scene = replace(annotated(tmp_path), ignored_xyxy=np.array([[100.0, 20, 130, 80]], np.float32))
    data = training_data([scene], flip=1.0)
    target = read_scene(data).target
    assert len(target["boxes_xyxy"]) == len(target["pids"]) == len(scene)
    assert target["ignored_xyxy"].tolist() == [[30, 20, 60, 80]]
    assert (target["pids"] >= -1).all()


def test_a_shrunk_scene_shows_the_same_people_smaller(tmp_path: Path) -> None:
    scenes = [annotated(tmp_path)]
    plain, target = read_scene(training_data(scenes, flip=0))
    shrunk = [read_scene(training_data(scenes, flip=0, shrink=0.5), epoch) for epoch in range(30)]
    heights = [scene.pixels.shape[1] for scene, _ in shrunk]
    assert 25 <= min(heights) < 32
    assert 43 < max(heights) <= 50
    for scene, boxes in shrunk:
        assert (scene.width, scene.height) == (plain.width, plain.height)
        torch.testing.assert_close(boxes["boxes_xyxy"], target["boxes_xyxy"])
        assert float(scene.scale[1]) == pytest.approx(scene.pixels.shape[1] / 100)
    again = read_scene(training_data(scenes, flip=0, shrink=0.5), 3)
    assert torch.equal(again.scene.pixels, shrunk[3].scene.pixels)


def test_every_augmentation_keeps_boxes_on_their_people(tmp_path: Path) -> None:
    """A picture that is white where its one person stands, and black elsewhere."""
    pixels = np.zeros((100, 160, 3), np.uint8)
    pixels[20:90, 10:40] = 255
    path = tmp_path / "white.png"
    Image.fromarray(pixels).save(path)
    box = np.array([[10, 20, 40, 90]], np.float32)
    scene = AnnotatedScene(path.name, path, box, np.array([7]))
    data = training_data([scene], flip=0.5, colour=0.2, crop=1.0)
    preprocessed = [read_scene(data, epoch) for epoch in range(40)]
    sizes = {(example.scene.width, example.scene.height) for example in preprocessed}
    assert len(sizes) > 5
    for example in preprocessed:
        assert example.target["pids"].tolist() == [7]
        x1, y1, x2, y2 = (example.target["boxes_xyxy"][0] * example.scene.scale).round().int()
        light = example.scene.pixels.float().mean(dim=0) > 60
        assert light[y1:y2, x1:x2].float().mean() > 0.9
        light[y1:y2, x1:x2] = False
        assert light.float().mean() < 0.05


def test_a_person_is_put_elsewhere_and_stays_who_it_is() -> None:
    """The ground at the edges is another; the middle of the body is left as it was."""
    crop = torch.full((3, 160, 64), 120, dtype=torch.uint8)
    augment = Augment(Augmentation(flip=0, elsewhere=1.0), seed=0)
    changed = torch.stack([augment.crop(crop, place) for place in range(50)]).float()
    assert changed.shape == (50, *crop.shape)
    difference = (changed - crop.float()).abs().mean(dim=1)
    assert difference[:, 50:70, 28:36].mean() < 2
    assert difference[:, :20, :8].mean() > 20
    torch.testing.assert_close(augment.crop(crop, 3).float(), changed[3])


def test_a_coarse_crop_has_its_shape_and_less_detail() -> None:
    pixels = torch.randint(256, (3, 128, 64), generator=torch.Generator().manual_seed(0)).byte()
    augment = Augment(Augmentation(flip=0, coarse=1.0), seed=0)
    changed = [augment.crop(pixels, 1, place, 0) for place in range(8)]

    def detail(crop: torch.Tensor) -> float:
        return float(crop.float().diff(dim=1).abs().mean())

    for crop in changed:
        assert crop.shape == pixels.shape
        assert crop.dtype == torch.uint8
        assert detail(crop) < 0.8 * detail(pixels)
    assert torch.equal(augment.crop(pixels, 1, 3, 0), changed[3])
    far = pixels[:, :20]
    assert torch.equal(augment.crop(far, 1, 0, 0), far)


def test_a_moved_crop_shows_its_person_elsewhere() -> None:
    pixels = torch.zeros(3, 128, 64, dtype=torch.uint8)
    pixels[:, 32:96, 16:48] = 255
    augment = Augment(Augmentation(flip=0, jitter=0.1), seed=0)
    tops, heights = [], []
    for place in range(30):
        rows = (augment.crop(pixels, 1, place, 0)[0] == 255).any(dim=1).nonzero().flatten()
        tops.append(int(rows[0]))
        heights.append(len(rows))
    assert max(abs(top - 32) for top in tops) <= 0.1 * 128 + 0.1 * 64
    assert len(set(tops)) > 5
    assert min(heights) < 62 <= 66 < max(heights)


def test_crops_and_scenes_in_one_batch(tmp_path: Path) -> None:
    scenes = [annotated(tmp_path)]
    folder = tmp_path / "crops"
    folder.mkdir()
    for name, seed in (("0007_c1s1_000001_01.jpg", 1), ("0009_c2s1_000001_01.jpg", 2)):
        Image.fromarray(random_picture(64, 32, seed=seed)).save(folder / name)
    crops, pids = number_crops([folder, folder], first_pid=5)
    assert (pids, [crop.pid for crop in crops]) == (9, [5, 6, 7, 8])
    data = training_data(scenes, crops, erase=1.0)
    stream = BatchStream(1, 1, seed=0, crops=len(crops), crops_per_batch=3)
    batch = next(iter(loader(data, stream, workers=0)))
    assert len(batch.scenes) == len(batch.targets) == 1
    assert batch.crops is not None
    assert [tuple(pixels.shape) for pixels in batch.crops["pixels"]] == [(3, 224, 96)] * 3
    assert len(set(batch.crops["pids"].tolist())) == 3


def test_workers_read_the_same_as_the_process_itself(tmp_path: Path) -> None:
    scenes = [annotated(tmp_path, height=60 + 10 * i) for i in range(5)]
    data = training_data(scenes)

    def read(workers: int) -> list[list[bytes]]:
        batches = iter(loader(data, BatchStream(5, 2, seed=0), workers))
        return [[s.pixels.numpy().tobytes() for s in next(batches).scenes] for _ in range(5)]

    assert read(0) == read(1)


def test_shape_groups(tmp_path: Path) -> None:
    assert shape_groups([annotated(tmp_path, 100, 160), annotated(tmp_path, 160, 100)]) == [1, 0]
