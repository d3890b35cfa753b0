"""Junk and ignored boxes survive the neutral format; wrong ones are named."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.annotations import AnnotatedScene
from training.datasets.dataset import Dataset
from training.datasets.neutral import (
    read_coco,
    read_coco_protocol,
    write_coco,
    write_coco_protocol,
)
from training.datasets.protocol import Junk, ListedGallery, Query, RetrievalProtocol
from training.errors import DatasetError


def written(folder: Path) -> tuple[Dataset, RetrievalProtocol]:
    box = np.array([[1, 2, 11, 42]], np.float32)
    scenes = []
    for name in ("a.png", "b.png", "c.png"):
        path = folder / "images" / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (60, 80)).save(path)
        scenes.append(AnnotatedScene(name, path, box, np.array([4]), 1, box + 30))
    gallery = ListedGallery(
        np.array([0, 2]), np.array([1, 2], np.int32), np.array([box[0], [np.nan] * 4], np.float32)
    )
    junk = Junk(np.array([0, 1]), np.array([2], np.int32), box)
    protocol = RetrievalProtocol(
        "junk", [s.name for s in scenes], [Query("a.png", (1, 2, 11, 42), 4, 1)], gallery, junk
    )
    dataset = Dataset("coco", folder, [], scenes, {})
    write_coco(dataset, folder, image_root="images")
    write_coco_protocol(protocol, folder)
    return dataset, protocol


def test_round_trip(tmp_path: Path) -> None:
    dataset, protocol = written(tmp_path)
    again = read_coco(tmp_path)
    for before, after in zip(dataset.test, again.test, strict=True):
        np.testing.assert_array_equal(before.boxes_xyxy, after.boxes_xyxy)
        np.testing.assert_array_equal(before.ignored_xyxy, after.ignored_xyxy)
    read = read_coco_protocol(again)
    for one, other in zip(protocol.junk_of(0), read.junk_of(0), strict=True):
        np.testing.assert_array_equal(one, other)
    kept = RetrievalProtocol.from_arrays(read.arrays())
    np.testing.assert_array_equal(kept.junk_of(0)[1], protocol.junk_of(0)[1])


def test_without_junk_there_is_none(tmp_path: Path) -> None:
    written(tmp_path)
    content = json.loads((tmp_path / "protocol.json").read_text())
    del content["queries"][0]["junk"]
    (tmp_path / "protocol.json").write_text(json.dumps(content))
    protocol = read_coco_protocol(read_coco(tmp_path))
    assert protocol.junk is None
    images, boxes = protocol.junk_of(0)
    assert (images.shape, boxes.shape) == ((0,), (0, 4))


def test_junk_in_an_unknown_picture_is_an_error(tmp_path: Path) -> None:
    written(tmp_path)
    content = json.loads((tmp_path / "protocol.json").read_text())
    content["queries"][0]["junk"][0]["file_name"] = "nowhere.png"
    (tmp_path / "protocol.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"queries\.0: the junk's nowhere\.png is not in test"):
        read_coco_protocol(read_coco(tmp_path))
