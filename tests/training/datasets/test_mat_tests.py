"""Protocol files are read query by query, and say the same as SciPy's reader."""

from pathlib import Path

import pytest
from scipy.io import loadmat, savemat

from tests.training.datasets import trees
from tests.training.datasets.trees import CUHK_TESTS
from training.datasets.mat_tests import read_tests
from training.errors import DatasetError

KEY = "TestG50"


def write(path: Path, compressed: bool, key: str = KEY) -> Path:
    savemat(path, {key: trees.tests_struct(CUHK_TESTS)}, do_compression=compressed)
    return path


@pytest.mark.parametrize("compressed", [True, False])
def test_queries_and_galleries(compressed: bool, tmp_path: Path) -> None:
    tests = list(read_tests(write(tmp_path / "a.mat", compressed), KEY))
    assert len(tests) == len(CUHK_TESTS)
    for test, (query, gallery) in zip(tests, CUHK_TESTS, strict=True):
        assert (test.scene, test.box) == query
        assert test.images == [name for name, _ in gallery]
        assert test.boxes == {i: box for i, (_, box) in enumerate(gallery) if box}


def test_the_real_file_as_scipy_reads_it(shared: Path) -> None:
    path = shared / "data" / "cuhk_sysu_protocol" / "TestG100.mat"
    expected = loadmat(path)["TestG100"].ravel()
    tests = list(read_tests(path, "TestG100"))
    assert len(tests) == len(expected) == 2900
    for test, other in zip(tests[::50], expected[::50], strict=True):
        query, gallery = other["Query"][0, 0], other["Gallery"].ravel()
        assert test.scene == str(query["imname"][0])
        assert list(test.box) == query["idlocate"].ravel().astype(int).tolist()
        assert test.images == [str(name[0]) for name in gallery["imname"]]
        assert {i: list(box) for i, box in test.boxes.items()} == {
            i: box.ravel().astype(int).tolist()
            for i, box in enumerate(gallery["idlocate"])
            if box.size
        }


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_a_file_that_is_cut_off(compressed: bool, share: float, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mat", compressed)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DatasetError, match=r"a\.mat: not a readable protocol file"):
        list(read_tests(path, KEY))


def test_other_files(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mat", compressed=True, key="TestG100")
    with pytest.raises(DatasetError, match="expected a variable TestG50, found TestG100"):
        list(read_tests(path, KEY))
    savemat(tmp_path / "b.mat", {KEY: [1, 2, 3]})
    with pytest.raises(DatasetError, match="expected a struct array"):
        list(read_tests(tmp_path / "b.mat", KEY))
    with pytest.raises(DatasetError, match="no such file"):
        list(read_tests(tmp_path / "c.mat", KEY))
