"""Other formats become the neutral one: the same pictures, boxes, people and searches."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from model.annotations import UNLABELLED
from tests.conftest import random_picture
from training.datasets.convert import SourceFormat, convert
from training.datasets.opening import open_dataset, open_protocol
from training.errors import DatasetError
from training.synth.plan import SynthConfig
from training.synth.write import write_world

WORLD = SynthConfig(
    identities=4, test_identities=3, scenes=8, test_scenes=8, cameras=2, width=160, height=160
)


@pytest.mark.parametrize("source_format", ["prw", "cuhk-sysu"])
@pytest.mark.parametrize("copy", [True, False])
def test_a_converted_dataset_is_the_same_dataset(
    source_format: Literal["prw", "cuhk-sysu"], copy: bool, tmp_path: Path
) -> None:
    write_world(tmp_path / "source", source_format, WORLD)
    original = open_dataset(tmp_path / "source")
    sizes = sorted((tmp_path / "source").rglob("TestG*.mat"))
    gallery = int(sizes[0].stem.removeprefix("TestG")) if sizes else 100
    convert(tmp_path / "source", tmp_path / "out", source_format, copy=copy, gallery_size=gallery)
    converted = open_dataset(tmp_path / "out")
    assert converted.num_pids == original.num_pids
    for one, other in zip(
        [*converted.train, *converted.test], [*original.train, *original.test], strict=True
    ):
        assert one.name == other.name
        assert one.camera == other.camera
        assert one.path.read_bytes() == other.path.read_bytes()
        assert one.path.is_relative_to(tmp_path / "out") == copy
        np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=1e-3)
        assert one.pids.tolist() == other.pids.tolist()

    before = open_protocol(original, gallery_size=gallery)
    after = open_protocol(converted)
    assert [q.pid for q in after.queries] == [q.pid for q in before.queries]
    for query in range(len(before)):
        images, boxes = before.entries(query)
        images_after, boxes_after = after.entries(query)
        names = [before.scenes[image] for image in images]
        assert [after.scenes[image] for image in images_after] == names
        np.testing.assert_allclose(boxes_after, boxes, atol=1e-3)


def mot_sequence(folder: Path, lines: list[str], frames: int, pictures: str = "img1") -> None:
    (folder / "gt").mkdir(parents=True)
    (folder / pictures).mkdir()
    (folder / "gt" / "gt.txt").write_text("\n".join(lines) + "\n")
    for number in range(1, frames + 1):
        Image.fromarray(random_picture(64, 96)).save(folder / pictures / f"{number:06}.jpg")


def test_mot_challenge(tmp_path: Path) -> None:
    """Pixels from 1, objects that are no people, ignored and hidden boxes, several sequences."""
    source = tmp_path / "MOT"
    lines = [
        "1,1,11,21,30,40,1,1,0.9",  # a person, on pixels 10..40 x 20..60
        "1,2,1,1,10,10,1,3,1.0",  # a car
        "1,3,1,1,10,10,0,1,1.0",  # not to be considered
        "1,4,51,11,20,30,1,1,0.1",  # hardly seen
        "3,1,12,22,30,40,1,1,1.0",
    ]
    mot_sequence(source / "A", lines, frames=3)
    (source / "B").mkdir()
    (source / "B" / "seqinfo.ini").write_text("[Sequence]\nimDir=frames\nimExt=.jpg\n")
    mot_sequence(source / "B", ["2,1,1,1,20,40,1,1,1"], frames=2, pictures="frames")

    convert(source, tmp_path / "out", "mot", min_visibility=0.3)
    dataset = open_dataset(tmp_path / "out")
    assert [(s.name, s.camera) for s in dataset.train] == [
        ("A/img1/000001.jpg", 1),
        ("A/img1/000002.jpg", 1),
        ("A/img1/000003.jpg", 1),
        ("B/frames/000001.jpg", 2),
        ("B/frames/000002.jpg", 2),
    ]
    assert dataset.train[0].boxes_xyxy.tolist() == [[10, 20, 40, 60]]
    # Number 1 of another sequence is another person.
    assert [s.pids.tolist() for s in dataset.train] == [[0], [], [0], [], [1]]

    convert(source / "A", tmp_path / "one", "mot", split="test")
    alone = open_dataset(tmp_path / "one")
    assert alone.train == []
    assert [len(scene) for scene in alone.test] == [2, 0, 1]


def test_a_market_dataset_with_both_parts(tmp_path: Path) -> None:
    source = tmp_path / "Market"
    names = {
        "bounding_box_train": ["0002_c1s1_000001_00.jpg", "0007_c2s1_000001_00.jpg"],
        "bounding_box_test": ["0003_c1s1_000001_00.jpg", "-1_c1s1_000001_00.jpg"],
    }
    for folder, files in names.items():
        (source / folder).mkdir(parents=True)
        for file in files:
            Image.fromarray(random_picture(64, 32)).save(source / folder / file)
    convert(source, tmp_path / "out", "market", copy=True)
    dataset = open_dataset(tmp_path / "out")
    assert [scene.pids.tolist() for scene in dataset.train] == [[0], [1]]
    # A background box stays in the test part, as a person without identity.
    assert sorted(scene.pids.tolist() for scene in dataset.test) == [[UNLABELLED], [3]]
    assert dataset.train[0].boxes_xyxy.tolist() == [[0, 0, 32, 64]]


@pytest.mark.parametrize("source_format", ["prw", "cuhk-sysu", "mot", "market"])
def test_a_wrong_folder_is_said_and_nothing_is_written(
    source_format: SourceFormat, tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "notes.txt").touch()
    with pytest.raises(DatasetError, match=r"notes\.txt"):
        convert(tmp_path / "source", tmp_path / "out", source_format)
    assert not (tmp_path / "out").exists()


def test_a_dataset_is_not_written_over(tmp_path: Path) -> None:
    mot_sequence(tmp_path / "A", ["1,1,1,1,20,40,1,1,1"], frames=1)
    convert(tmp_path / "A", tmp_path / "out", "mot")
    before = (tmp_path / "out" / "train.json").read_bytes()
    with pytest.raises(DatasetError, match="holds a dataset already: name another folder"):
        convert(tmp_path / "A", tmp_path / "out", "mot")
    assert (tmp_path / "out" / "train.json").read_bytes() == before


def test_the_neutral_file_is_plain_coco(tmp_path: Path) -> None:
    mot_sequence(tmp_path / "A", ["1,1,11,21,30,40,1,1,1"], frames=1)
    convert(tmp_path / "A", tmp_path / "out", "mot", copy=True)
    content = json.loads((tmp_path / "out" / "train.json").read_text())
    assert content["images"] == [
        {"id": 0, "file_name": "img1/000001.jpg", "camera": 1, "width": 96, "height": 64}
    ]
    (annotation,) = content["annotations"]
    assert annotation["bbox"] == [10, 20, 30, 40]
    assert annotation["person_id"] == 1
    assert content["categories"] == [{"id": 1, "name": "person"}]
