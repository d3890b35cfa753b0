"""PRW: each trap of its files in a small folder, then goldens and the real boxes at full size."""

import json
from pathlib import Path

import numpy as np
import pytest

from model.annotations import UNLABELLED
from tests.training.datasets import trees
from tests.training.datasets.test_cuhk_sysu import own_numbers
from training.datasets.prw import read_prw, read_prw_protocol
from training.errors import DatasetError


def test_identities_are_numbered_without_gaps(tmp_path: Path) -> None:
    dataset = read_prw(trees.write_prw(tmp_path))
    assert dataset.pid_of == {1: 0, 483: 1, 932: 2}
    assert [scene.pids.tolist() for scene in dataset.train] == [[0, UNLABELLED], [1, 2]]
    # The test part keeps its own numbers, those of training identities too.
    assert [scene.pids.tolist() for scene in dataset.test] == [[479], [479, 479], [479, 1], []]
    assert [scene.camera for scene in dataset.test] == [6, 6, 3, 3]
    assert dataset.train[0].path.is_file()


def test_boxes_are_whole_pixels_inside_the_picture(tmp_path: Path) -> None:
    dataset = read_prw(trees.write_prw(tmp_path))
    np.testing.assert_array_equal(dataset.train[0].boxes_xyxy, [[10, 20, 40, 80], [50, 20, 80, 80]])
    np.testing.assert_array_equal(dataset.train[1].boxes_xyxy[0], [0, 20, 30, 80])
    assert len(dataset.test[3]) == 0


@pytest.mark.parametrize("line_end", ["\r\n", "\n"])
def test_queries_with_either_line_end(tmp_path: Path, line_end: str) -> None:
    dataset = read_prw(trees.write_prw(tmp_path, line_end=line_end))
    first, second = read_prw_protocol(dataset).queries
    assert (first.scene, first.pid, first.camera) == ("c6s3_000901.jpg", 479, 6)
    assert first.box_xyxy == pytest.approx((5, 6, 26, 56))
    assert second.box_xyxy == pytest.approx((0, 8, 19, 58))


def test_regular_gallery_holds_the_same_camera(tmp_path: Path) -> None:
    protocol = read_prw_protocol(read_prw(trees.write_prw(tmp_path)))
    images, boxes = protocol.entries(0)
    assert images.tolist() == [1, 2, 3]
    # The first box with the identity is the true one.
    np.testing.assert_array_equal(boxes[:2], [[15, 6, 35, 56], [70, 6, 90, 56]])
    assert np.isnan(boxes[2]).all()


def test_cross_camera_gallery(tmp_path: Path) -> None:
    protocol = read_prw_protocol(read_prw(trees.write_prw(tmp_path)), cross_camera=True)
    images, boxes = protocol.entries(0)
    assert images.tolist() == [2, 3]
    assert np.isnan(boxes[:, 0]).tolist() == [False, True]
    # A query whose person nowhere else appears keeps a gallery without any true box.
    images, boxes = protocol.entries(1)
    assert images.tolist() == [0, 1]
    assert np.isnan(boxes).all()


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"missing annotations/, frame_train\.mat"):
        read_prw(tmp_path)
    root = trees.write_prw(tmp_path / "prw")
    (root / "frames" / "c6s3_000901.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of 6 pictures .*c6s3_000901\.jpg"):
        read_prw(root)
    dataset = read_prw(root, pictures=False)
    (root / "query_info.txt").write_text("479 5 6 20 c6s3_000901\n")
    with pytest.raises(DatasetError, match=r"query_info\.txt:1: expected `pid x y w h name`"):
        read_prw_protocol(dataset)
    (root / "query_info.txt").unlink()
    with pytest.raises(DatasetError, match=r"missing query_info\.txt"):
        read_prw_protocol(dataset)
    (root / "annotations" / "c6s3_000901.jpg.mat").unlink()
    with pytest.raises(DatasetError, match=r"1 of 6 files are missing: c6s3_000901\.jpg\.mat"):
        read_prw(root, pictures=False)


def test_an_empty_box_is_an_error_that_names_the_picture(tmp_path: Path) -> None:
    root = trees.write_prw(tmp_path, train={"c1s1_000151": [(1, 10, 20, 0, 60)]})
    with pytest.raises(DatasetError, match=r"c1s1_000151\.jpg: 1 boxes are empty"):
        read_prw(root)


def test_a_name_without_camera(tmp_path: Path) -> None:
    root = trees.write_prw(tmp_path, train={"frame7": []})
    with pytest.raises(DatasetError, match=r"frame7\.jpg: .* starts with its camera"):
        read_prw(root)


def test_golden(shared: Path) -> None:
    tree = shared / "golden" / "trees" / "prw_s0"
    expected = json.loads((tree / "expected_annotations.json").read_text())["splits"]
    dataset = read_prw(tree, pictures=False)
    assert own_numbers(dataset, "train") == expected["train"]
    assert own_numbers(dataset, "test") == expected["gallery"]
    queries = [
        {"img": q.scene, "boxes": [list(q.box_xyxy)], "pids": [q.pid], "cam": q.camera}
        for q in read_prw_protocol(dataset).queries
    ]
    assert queries == expected["query"]


@pytest.mark.slow
def test_real_counts(shared: Path, tmp_path: Path) -> None:
    """All of PRW's boxes, written back into its own format."""
    splits: dict[str, dict[str, list[tuple[float, ...]]]] = {}
    for split in ("train", "test"):
        source = shared / "data" / "prw_annotations" / f"{split}_pid.json"
        content = json.loads(source.read_text())
        rows: dict[int, list[tuple[float, ...]]] = {e["id"]: [] for e in content["images"]}
        for entry in content["annotations"]:
            # The file has training identities already numbered: give the last two their own.
            pid = entry["person_id"]
            if split == "train":
                pid = {-1: -2, 482: 932}.get(pid, pid + 1 if pid < 478 else pid + 2)
            rows[entry["image_id"]].append((pid, *entry["bbox"]))
        splits[split] = {
            e["file_name"].removesuffix(".jpg"): rows[e["id"]] for e in content["images"]
        }
    root = trees.write_prw(tmp_path, splits["train"], splits["test"], [], pictures=False)
    dataset = read_prw(root, pictures=False)
    assert (len(dataset.train), len(dataset.test)) == (5704, 6112)
    train = np.concatenate([scene.pids for scene in dataset.train])
    test = np.concatenate([scene.pids for scene in dataset.test])
    assert (len(train), len(test)) == (18_048, 25_062)
    assert ((train == UNLABELLED).sum(), (test == UNLABELLED).sum()) == (3141, 5935)
    assert set(dataset.pid_of) == {*range(1, 479), *range(480, 484), 932}
    assert dataset.num_pids == 483
    np.testing.assert_array_equal(np.unique(train), np.arange(-1, 483))
    assert len(np.unique(test)) - 1 == 544
    boxes = np.concatenate([scene.boxes_xyxy for scene in (*dataset.train, *dataset.test)])
    assert (boxes[:, 0] == 0).sum() >= 14
    assert boxes.min() == 0
