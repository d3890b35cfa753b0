"""People's own data: what is written comes back, and other formats convert to it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.annotations import UNLABELLED
from tests.conftest import random_picture
from tests.training.scenes import tiny_world
from training.datasets.convert import convert
from training.datasets.dataset import Dataset
from training.datasets.neutral import write_coco
from training.datasets.opening import detect_format, open_dataset
from training.errors import DatasetError


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    scenes = tiny_world(tmp_path / "images")
    pid_of = {pid: pid for pid in range(4)}
    write_coco(Dataset("coco", tmp_path, scenes, [], pid_of), tmp_path, image_root="images")
    assert detect_format(tmp_path) == "coco"
    again = open_dataset(tmp_path)
    assert again.num_pids == 4
    assert len(again.train) == len(scenes)
    for one, other in zip(again.train, scenes, strict=True):
        assert one.path.samefile(other.path)
        np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=1e-3)
        assert ((one.pids == UNLABELLED) == (other.pids == UNLABELLED)).all()


def test_a_market_folder_converts(tmp_path: Path) -> None:
    source = tmp_path / "market"
    source.mkdir()
    for pid, camera in ((2, 1), (2, 3), (7, 1)):
        crop = Image.fromarray(random_picture(64, 32, seed=pid))
        crop.save(source / f"{pid:04d}_c{camera}s1_000001_00.jpg")
    convert(source, tmp_path / "out", "market")
    dataset = open_dataset(tmp_path / "out")
    scenes = dataset.train + dataset.test
    assert len(scenes) == 3
    assert all(len(scene) == 1 for scene in scenes)
    assert sorted(scene.camera or 0 for scene in scenes) == [1, 1, 3]


def test_a_folder_of_something_else_says_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DatasetError, match=r"notes\.txt"):
        open_dataset(tmp_path)
