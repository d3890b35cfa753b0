"""The searches on real pictures are those that their description counts."""

from pathlib import Path

from tests.real_pictures import CAMERA, write_prw_c6s1
from training.datasets.check import check_dataset
from training.datasets.opening import open_dataset, open_protocol


def test_prw_c6s1(shared: Path, tmp_path: Path) -> None:
    write_prw_c6s1(shared / "data", tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    protocol = open_protocol(dataset)
    frames = [scene for scene in (*dataset.train, *dataset.test) if scene.camera == CAMERA]
    assert len(frames) == 631
    assert sum(len(scene) for scene in frames) == 1162
    # One query for each person and other camera; none of them is trained on.
    assert len({(query.pid, query.camera) for query in protocol.queries}) == len(protocol)
    assert CAMERA not in {query.camera for query in protocol.queries}
    assert not {query.pid for query in protocol.queries} & dataset.pid_of.keys()
    searched = {protocol.scenes[image] for image in protocol.entries(0)[0]}
    assert searched == {scene.name for scene in dataset.test if scene.camera == CAMERA}
    assert check_dataset(tmp_path / "out").errors == 0
