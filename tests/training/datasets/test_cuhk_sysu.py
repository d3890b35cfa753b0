"""CUHK-SYSU: each trap of its files in a small folder, then the public readers' own answers."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from model.annotations import UNLABELLED
from tests.training.datasets import trees
from training.datasets.cuhk_sysu import read_cuhk_sysu, read_cuhk_sysu_protocol
from training.datasets.dataset import Dataset, EmptyBox
from training.datasets.protocol import ListedGallery
from training.errors import DatasetError


def test_train_is_what_is_not_in_the_pool_sorted(tmp_path: Path) -> None:
    dataset = read_cuhk_sysu(trees.write_cuhk(tmp_path))
    assert [scene.name for scene in dataset.train] == ["s10.jpg", "s2.jpg"]
    assert [scene.name for scene in dataset.test] == trees.CUHK_POOL
    assert dataset.train[0].path == tmp_path / "Image" / "SSM" / "s10.jpg"
    assert dataset.train[0].path.is_file()


def test_identities_and_boxes(tmp_path: Path) -> None:
    rejected: list[EmptyBox] = []
    dataset = read_cuhk_sysu(trees.write_cuhk(tmp_path), empty=rejected)
    s10, s2 = dataset.train
    np.testing.assert_array_equal(s10.boxes_xyxy, [[10, 20, 40, 80], [50, 20, 80, 80]])
    assert s10.pids.tolist() == [1, 0]
    assert s2.pids.tolist() == [1]
    assert dataset.pid_of == {1: 0, 2: 1}
    assert dataset.num_pids == 2
    s3, s1, s5, s4 = dataset.test
    assert s3.pids.tolist() == [1]
    assert s1.pids.tolist() == [1, 2]
    assert s5.pids.tolist() == [2]
    # A picture whose only box has no extent stays, without people.
    assert len(s4) == 0
    assert [box.scene for box in rejected] == ["s10.jpg", "s4.jpg"]


def test_boxes_do_not_overflow_their_integers(tmp_path: Path) -> None:
    root = trees.write_cuhk(tmp_path)
    dataset = read_cuhk_sysu(root)
    np.testing.assert_array_equal(dataset.test[0].boxes_xyxy, [[250, 30, 300, 90]])
    np.testing.assert_array_equal(dataset.test[2].boxes_xyxy, [[300, 400, 65600, 65600]])
    protocol = read_cuhk_sysu_protocol(root, 50)
    assert protocol.queries[0].box_xyxy == pytest.approx((200, 30, 300, 90))
    assert protocol.queries[1].box_xyxy == pytest.approx((300, 400, 65600, 65600))


def test_protocol_keeps_order_duplicates_and_the_query_picture(tmp_path: Path) -> None:
    protocol = read_cuhk_sysu_protocol(trees.write_cuhk(tmp_path), 50)
    assert [(q.scene, q.pid, q.camera) for q in protocol.queries] == [
        ("s1.jpg", 1, None),
        ("s5.jpg", 2, None),
    ]
    images, boxes = protocol.entries(0)
    assert [protocol.scenes[i] for i in images] == ["s3.jpg", "s4.jpg", "s3.jpg"]
    assert np.isnan(boxes[1]).all()
    np.testing.assert_array_equal(boxes[[0, 2]], [[250, 30, 300, 90]] * 2)
    images, _ = protocol.entries(1)
    assert [protocol.scenes[i] for i in images] == ["s5.jpg", "s1.jpg"]


def test_complete_gallery_adds_the_rest_but_the_query_picture(tmp_path: Path) -> None:
    protocol = read_cuhk_sysu_protocol(trees.write_cuhk(tmp_path), 50, complete=True)
    images, boxes = protocol.entries(0)
    names = [protocol.scenes[i] for i in images]
    assert names == ["s3.jpg", "s4.jpg", "s3.jpg", "s5.jpg"]
    assert np.isnan(boxes[3]).all()
    images, _ = protocol.entries(1)
    # Its own picture is listed, so it stays.
    assert [protocol.scenes[i] for i in images] == ["s5.jpg", "s1.jpg", "s3.jpg", "s4.jpg"]


def test_subset_numbers_people_as_the_full_protocol(tmp_path: Path) -> None:
    root = trees.write_cuhk(tmp_path)
    folder = root / "annotation" / "test" / "subset"
    folder.mkdir()
    content = trees.tests_struct(trees.CUHK_TESTS[1:])
    savemat(folder / "Occlusion.mat", {"Occlusion1": content})
    savemat(folder / "Resolution.mat", {"Test_Size": content})
    for subset in ("occlusion", "resolution"):
        protocol = read_cuhk_sysu_protocol(root, subset=subset)
        assert [q.pid for q in protocol.queries] == [2]
        assert len(protocol.entries(0)[0]) == 2


def test_a_box_that_is_nowhere_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    people = [("p7", [("s10.jpg", (50, 20, 31, 60)), ("s99.jpg", (1, 2, 3, 4))])]
    with caplog.at_level(logging.WARNING):
        dataset = read_cuhk_sysu(trees.write_cuhk(tmp_path, train=people))
    assert "Train.mat: 2 boxes are not in Images.mat: s10.jpg (50, 20, 31, 60)" in caplog.text
    assert all((scene.pids == UNLABELLED).all() for scene in dataset.train)
    assert dataset.num_pids == 0


def test_one_error_lists_all_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        read_cuhk_sysu(tmp_path / "nowhere")
    (tmp_path / "frames").mkdir()
    with pytest.raises(DatasetError) as error:
        read_cuhk_sysu(tmp_path)
    for name in ("Images.mat", "pool.mat", "Train.mat", "Image/SSM/", "found frames/"):
        assert name in str(error.value)


def test_missing_pictures_and_protocols(tmp_path: Path) -> None:
    root = trees.write_cuhk(tmp_path)
    with pytest.raises(DatasetError, match=r"no TestG100\.mat; found the gallery sizes 50"):
        read_cuhk_sysu_protocol(root, 100)
    with pytest.raises(DatasetError, match=r"missing .*Occlusion\.mat"):
        read_cuhk_sysu_protocol(root, subset="occlusion")
    (root / "Image" / "SSM" / "s3.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of 6 pictures .* missing: s3\.jpg; found 5 files"):
        read_cuhk_sysu(root)
    (root / "annotation" / "test" / "train_test" / "TestG50.mat").unlink()
    with pytest.raises(DatasetError, match=r"TestG50\.mat"):
        read_cuhk_sysu(root)


def test_a_wrong_file(tmp_path: Path) -> None:
    root = trees.write_cuhk(tmp_path)
    savemat(root / "annotation" / "pool.mat", {"Img": np.zeros(3)})
    with pytest.raises(DatasetError, match="expected a variable pool, found Img"):
        read_cuhk_sysu(root)
    (root / "annotation" / "pool.mat").write_bytes(b"not MATLAB" * 30)
    with pytest.raises(DatasetError, match="not a readable MATLAB file"):
        read_cuhk_sysu(root)
    savemat(root / "annotation" / "pool.mat", {"pool": trees.cell(["s3.jpg", "s77.jpg"])})
    with pytest.raises(DatasetError, match=r"1 pictures that are not in Images\.mat: s77\.jpg"):
        read_cuhk_sysu(root)


def own_numbers(dataset: Dataset, split: str) -> list[dict[str, Any]]:
    """A split as the golden files write it: the dataset's own numbers, 5555 for no identity."""
    own = {row: pid for pid, row in dataset.pid_of.items()} if split == "train" else {}
    return [
        {
            "img": scene.name,
            "boxes": scene.boxes_xyxy.tolist(),
            "pids": [
                5555 if pid == UNLABELLED else own[pid] if split == "train" else pid
                for pid in scene.pids.tolist()
            ],
            **({} if scene.camera is None else {"cam": scene.camera}),
        }
        for scene in (dataset.train if split == "train" else dataset.test)
    ]


@pytest.mark.parametrize("case", ["cuhk_s0", "cuhk_anomalies"])
def test_golden(shared: Path, case: str) -> None:
    tree = shared / "golden" / "trees" / case
    expected = json.loads((tree / "expected_annotations.json").read_text())["splits"]
    dataset = read_cuhk_sysu(tree, pictures=False)
    assert own_numbers(dataset, "train") == expected["train"]
    assert own_numbers(dataset, "test") == expected["gallery"]
    protocols = json.loads((shared / "golden" / f"{case}.json").read_text())["protocols"]
    for key, galleries in protocols.items():
        protocol = read_cuhk_sysu_protocol(tree, int(key.removeprefix("TestG")))
        assert [
            {"img": q.scene, "boxes": [list(q.box_xyxy)]} for q in protocol.queries
        ] == expected["query"]
        for query, gallery in enumerate(galleries):
            images, boxes = protocol.entries(query)
            assert [protocol.scenes[i] for i in images] == [entry["img"] for entry in gallery]
            for box, entry in zip(boxes, gallery, strict=True):
                if entry["gt_xywh"] is None:
                    assert np.isnan(box).all()
                else:
                    x, y, w, h = entry["gt_xywh"]
                    assert box.tolist() == [x, y, x + w, y + h]


@pytest.fixture(scope="module")
def full_size(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real TestG100.mat, with a pool and boxes made of what it names."""
    from scipy.io import loadmat

    source = shared / "data" / "cuhk_sysu_protocol" / "TestG100.mat"
    boxes: dict[str, list[Any]] = {}
    for test in loadmat(source)["TestG100"].ravel():
        for record in (*test["Query"].ravel(), *test["Gallery"].ravel()):
            rows = boxes.setdefault(str(record["imname"][0]), [(0, 0, 0, 0)])
            row = tuple(record["idlocate"].astype(int).ravel().tolist())
            if row and row not in rows:
                rows.append(row)
    boxes["train.jpg"] = [(1, 2, 3, 4)]
    root = tmp_path_factory.mktemp("cuhk")
    trees.write_cuhk(
        root,
        boxes,
        [name for name in boxes if name != "train.jpg"],
        [("p1", [("train.jpg", (1, 2, 3, 4))])],
        pictures=False,
    )
    folder = root / "annotation" / "test" / "train_test"
    (folder / "TestG50.mat").unlink()
    (folder / "TestG100.mat").symlink_to(source)
    return root


def test_real_protocol(full_size: Path) -> None:
    protocol = read_cuhk_sysu_protocol(full_size, 100)
    assert len(protocol) == 2900
    gallery = protocol.gallery
    assert isinstance(gallery, ListedGallery)
    assert gallery.images.shape == (290_000,)
    assert gallery.images.dtype == np.int32
    there = ~np.isnan(gallery.boxes_xyxy[:, 0])
    per_query = np.add.reduceat(there.astype(int), gallery.ptr[:-1])
    assert (per_query.min(), per_query.max()) == (1, 13)
    assert round(float(per_query.mean()), 2) == 1.88
    # Reading x + w in the file's own integers would wrap around for these.
    boxes = np.array([query.box_xyxy for query in protocol.queries])
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    twice, own = [], []
    for q, query in enumerate(protocol.queries):
        images, boxes = protocol.entries(q)
        if len(np.unique(images)) < len(images):
            twice.append(q)
        if query.scene in {protocol.scenes[i] for i in images[~np.isnan(boxes[:, 0])]}:
            own.append(q)
    assert twice == [1250, 1633, 1997, 2561]
    assert own == [493, 2132]


def test_real_overflow(full_size: Path) -> None:
    from scipy.io import loadmat

    path = full_size / "annotation" / "test" / "train_test" / "TestG100.mat"
    wrapped = 0
    protocol = read_cuhk_sysu_protocol(full_size, 100)
    for test, query in zip(loadmat(path)["TestG100"].ravel(), protocol.queries, strict=True):
        x, y, w, h = test["Query"][0, 0]["idlocate"][0]
        with np.errstate(over="ignore"):
            wrapped += [x, y, x + w, y + h] != list(query.box_xyxy)
    assert wrapped == 400


def test_real_identities(full_size: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = read_cuhk_sysu(full_size, pictures=False)
    assert not caplog.records
    people = np.concatenate([scene.pids for scene in dataset.test])
    assert len(np.unique(people[people != UNLABELLED])) == 2900
