"""The searches on real pictures are those that their descriptions count."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import binet
from benchmark.errors import BenchmarkError
from benchmark.galleries import largest, only_bare_crops
from benchmark.local import LOCAL, PRW_CAMERA, write_local
from tests.benchmark.worlds import saved_network
from training.datasets.check import check_dataset
from training.datasets.dataset import Dataset
from training.datasets.opening import open_dataset, open_protocol
from training.datasets.protocol import RetrievalProtocol


def opened(shared: Path, tmp_path: Path, name: str) -> tuple[Dataset, RetrievalProtocol]:
    folder = write_local(name, shared / "data", tmp_path / name)
    assert folder is not None
    dataset = open_dataset(folder)
    assert check_dataset(folder).errors == 0
    return dataset, open_protocol(dataset)


def true_boxes(protocol: RetrievalProtocol) -> int:
    return sum(
        int((~np.isnan(protocol.entries(query)[1][:, 0])).sum()) for query in range(len(protocol))
    )


def test_prw_c6s1(shared: Path, tmp_path: Path) -> None:
    dataset, protocol = opened(shared, tmp_path, "prw_c6s1")
    frames = [scene for scene in dataset.test if scene.camera == PRW_CAMERA]
    assert (len(frames), sum(len(scene) for scene in frames)) == (631, 1162)
    # One crop for each of 50 people and each camera that saw them. (The 168 of the description's
    # baselines are fewer than the crops that lie here.)
    assert len({(query.pid, query.camera) for query in protocol.queries}) == len(protocol) == 202
    assert PRW_CAMERA not in {query.camera for query in protocol.queries}
    assert largest(protocol) == 631
    assert only_bare_crops(dataset, [(q.scene, q.box_xyxy) for q in protocol.queries])


def test_the_second_half_holds_other_people(shared: Path, tmp_path: Path) -> None:
    dataset, protocol = opened(shared, tmp_path, "prw_c6s1_half")
    assert len(dataset.train) == 316
    assert not {query.pid for query in protocol.queries} & dataset.pid_of.keys()
    searched = {protocol.scenes[image] for image in protocol.entries(0)[0]}
    assert searched == {scene.name for scene in dataset.test if scene.camera == PRW_CAMERA}


def test_within_a_camera_the_same_visit_is_junk(shared: Path, tmp_path: Path) -> None:
    dataset, protocol = opened(shared, tmp_path, "prw_c6s1_within")
    assert len(protocol) > 10
    place = {scene.name: i for i, scene in enumerate(dataset.test)}
    for number, query in enumerate(protocol.queries):
        images, boxes = protocol.entries(number)
        shown = set(images[~np.isnan(boxes[:, 0])].tolist())
        junk = set(protocol.junk_of(number)[0].tolist())
        assert place[query.scene] in junk
        assert shown
        assert not shown & junk


def test_pets_is_as_its_description_says(shared: Path, tmp_path: Path) -> None:
    dataset, protocol = opened(shared, tmp_path, "pets09_s2l1")
    assert len(dataset.test) == 159
    counted = sum(len(scene) for scene in dataset.test)
    ignored = sum(len(scene.ignored_xyxy) for scene in dataset.test)
    assert counted + ignored == 929
    assert ignored > 0
    assert len(protocol) == 16
    assert len({query.pid for query in protocol.queries}) == 7
    assert only_bare_crops(dataset, [(q.scene, q.box_xyxy) for q in protocol.queries]) is False
    for number in range(len(protocol)):
        images, boxes = protocol.entries(number)
        assert set(images.tolist()) == set(range(159))
        shown = set(images[~np.isnan(boxes[:, 0])].tolist())
        # Tracks of one person never overlap in time.
        assert not shown & set(protocol.junk_of(number)[0].tolist())


def test_prw_mini(shared: Path, tmp_path: Path) -> None:
    dataset, protocol = opened(shared, tmp_path, "prw_mini")
    assert (len(dataset.test), sum(len(scene) for scene in dataset.test)) == (16, 61)
    assert {query.camera for query in protocol.queries} == {1, 3}
    assert true_boxes(protocol) > len(protocol)


def test_what_is_not_there_is_skipped_and_said(tmp_path: Path) -> None:
    weights = saved_network(tmp_path / "weights")
    words = ["--weights", str(weights), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(binet.app, ["benchmark", "local", *words], catch_exceptions=False)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == len(LOCAL)
    assert all("skipped" in line and "is not there" in line for line in lines)
    with pytest.raises(BenchmarkError, match="no local benchmark elsewhere: choose of pets09"):
        write_local("elsewhere", tmp_path, tmp_path / "out")
