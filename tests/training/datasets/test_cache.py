"""A protocol is read once; a cache that is broken or cannot be written does no harm."""

from pathlib import Path

import numpy as np
import pytest

from tests.training.datasets import trees
from training.datasets import cuhk_sysu
from training.datasets.cache import cached_protocol
from training.datasets.cuhk_sysu import read_cuhk_sysu_protocol
from training.datasets.protocol import RetrievalProtocol


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BINET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def assert_same(one: RetrievalProtocol, other: RetrievalProtocol) -> None:
    arrays, others = one.arrays(), other.arrays()
    assert arrays.keys() == others.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(value, others[name], err_msg=name)


def unread(*_: object) -> RetrievalProtocol:
    raise AssertionError("read again")


@pytest.mark.parametrize("complete", [True, False])
def test_the_second_time_no_file_is_parsed(
    complete: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = trees.write_cuhk(tmp_path / "data")
    first = read_cuhk_sysu_protocol(root, 50, complete=complete)
    monkeypatch.setattr(cuhk_sysu, "_protocol", unread)
    assert_same(read_cuhk_sysu_protocol(root, 50, complete=complete), first)
    with pytest.raises(AssertionError, match="read again"):
        read_cuhk_sysu_protocol(root, 50, complete=not complete)


def test_other_content_is_another_protocol(tmp_path: Path) -> None:
    root = trees.write_cuhk(tmp_path / "data")
    protocol = read_cuhk_sysu_protocol(root, 50)
    file = tmp_path / "file"
    for content in ("a", "b", "a"):
        file.write_text(content)
        cached_protocol("name", [file], lambda: protocol)
    assert len(list((tmp_path / "cache").iterdir())) == 3


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_broken_cache_is_written_anew(damage: str, cache: Path, tmp_path: Path) -> None:
    root = trees.write_cuhk(tmp_path / "data")
    first = read_cuhk_sysu_protocol(root, 50)
    (kept,) = cache.iterdir()
    content = kept.read_bytes()
    kept.write_bytes({"cut": content[:300], "empty": b"", "other": b"no archive"}[damage])
    assert_same(read_cuhk_sysu_protocol(root, 50), first)
    assert len(kept.read_bytes()) == len(content)


def test_a_cache_that_cannot_be_written(cache: Path, tmp_path: Path) -> None:
    cache.write_text("a file where the folder should be")
    root = trees.write_cuhk(tmp_path / "data")
    assert len(read_cuhk_sysu_protocol(root, 50)) == len(trees.CUHK_TESTS)
