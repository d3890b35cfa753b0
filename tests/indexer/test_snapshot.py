"""Index snapshots: what is torn, cut off, flipped or of another history is never served."""

import hashlib
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from indexer import snapshot
from indexer.errors import GalleryError
from indexer.gallery import Gallery
from indexer.query import Query
from tests.indexer.galleries import new_frames, new_gallery, new_source
from tests.indexer.postgres import sqlite_only

pytestmark = sqlite_only

WARNING = "The index snapshot is not used"


def filled(folder: Path, seed: int = 0, batches: int = 3) -> Path:
    """A gallery with some deleted boxes and a snapshot; returns the snapshot."""
    rng = np.random.default_rng(seed)
    gallery, encoder = new_gallery(folder)
    with gallery:
        source = new_source(gallery, "door")
        for batch in range(batches):
            gallery.add_frames(encoder.id, source, new_frames(rng, [3, 0, 4], first=3 * batch))
        gallery.view()
        gallery.delete(boxes=[2, 9])
        gallery.save_snapshot()
    return folder / "gallery.index-1.snapshot"


def found(folder: Path) -> list[int]:
    with Gallery.open(folder) as gallery:
        return [hit.box_id for hit in gallery.search(Query(boxes=[1]), k=100).hits]


def without_snapshot(folder: Path, copy: Path) -> list[int]:
    copy.mkdir()
    shutil.copy(folder / "gallery.db", copy / "gallery.db")
    return found(copy)


def test_a_good_one_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path / "a")
    expected = without_snapshot(tmp_path / "a", tmp_path / "b")
    with monkeypatch.context() as patch:
        # SQL is asked only for what came later.
        patch.setattr("indexer.mirror._arrays", lambda *_: pytest.fail("rows were read from SQL"))
        assert found(tmp_path / "a") == expected
    assert WARNING not in caplog.text
    assert len(expected) == 18


def test_it_holds_no_deleted_boxes(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with snapshot.SnapshotReader.open(path) as reader:
        ids, columns = reader.read_rows()
    assert set(range(1, 22)) - set(ids.tolist()) == {2, 9}
    assert len(columns) == 19


def test_what_came_after_it_is_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(tmp_path / "a")
    with Gallery.open(tmp_path / "a") as gallery:
        gallery.add_frames(1, 1, new_frames(np.random.default_rng(5), [2, 2], first=50))
        gallery.delete(boxes=[5, 22])
    assert found(tmp_path / "a") == without_snapshot(tmp_path / "a", tmp_path / "b")
    assert WARNING not in caplog.text


def test_every_damage_is_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = filled(tmp_path)
    good = path.read_bytes()
    expected = found(tmp_path)
    rng = np.random.default_rng(3)
    damaged: list[bytes] = [b"", good[:20], good[: len(good) // 2], good[:-1], good + b"\0"]
    for byte in (*range(0, 60, 3), *rng.integers(60, len(good), 60).tolist()):
        flipped = bytearray(good)
        flipped[byte] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    torn = bytearray(good)
    torn[-300:-100] = bytes(200)
    damaged.append(bytes(torn))
    for content in damaged:
        path.write_bytes(content)
        caplog.clear()
        assert found(tmp_path) == expected
        assert caplog.text.count(WARNING) == 1, content[:80]
        assert not path.exists()


def rewritten(path: Path, **fields: object) -> None:
    """Change the header and make the checksum right again."""
    data = path.read_bytes()
    length = int.from_bytes(data[40:44], "little")
    header = json.loads(data[44 : 44 + length]) | fields
    text = json.dumps(header).encode()
    rest = len(text).to_bytes(4, "little") + text + data[44 + length :]
    path.write_bytes(snapshot.MAGIC + hashlib.sha256(rest).digest() + rest)


@pytest.mark.parametrize(
    "fields",
    [
        {"weights_sha256": "0" * 64},
        {"preprocess_sha256": "0" * 64},
        {"dimension": 32},
        {"format": 2},
        {"token": "0" * 32},
        {"revision": 99},
        {"count": -1},
        {"count": 10**15},
        {"count": "many"},
        {"unknown": 1},
    ],
    ids=str,
)
def test_what_does_not_match_is_thrown_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fields: dict[str, object]
) -> None:
    path = filled(tmp_path)
    expected = found(tmp_path)
    rewritten(path, **fields)
    assert found(tmp_path) == expected
    assert caplog.text.count(WARNING) == 1
    assert not path.exists()


def test_an_older_database_beneath_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A backup is put back; then as many boxes come again, under the same ids."""
    folder = tmp_path / "a"
    path = filled(folder, batches=1)
    shutil.copy(folder / "gallery.db", tmp_path / "backup.db")
    with Gallery.open(folder) as gallery:
        gallery.add_frames(1, 1, new_frames(np.random.default_rng(5), [4], first=50))
        gallery.save_snapshot()
    for leftover in folder.glob("gallery.db*"):
        leftover.unlink()
    shutil.copy(tmp_path / "backup.db", folder / "gallery.db")
    with Gallery.open(folder) as gallery:
        gallery.add_frames(1, 1, new_frames(np.random.default_rng(6), [4], first=50))
    assert found(folder) == without_snapshot(folder, tmp_path / "b")
    assert caplog.text.count(WARNING) == 1
    assert "another history" in caplog.text
    assert not path.exists()


def test_an_interrupted_write_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled(tmp_path)
    old = path.read_bytes()
    path.with_name(f"{path.name}.tmp").write_bytes(b"left from a crash")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with Gallery.open(tmp_path) as gallery, monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(GalleryError, match="No space left"):
            gallery.save_snapshot()
    assert path.read_bytes() == old
    assert not list(tmp_path.glob("*.tmp"))


def test_nothing_private_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = filled(tmp_path)
    path.write_bytes(b"BINETIDX")
    with caplog.at_level(logging.DEBUG):
        found(tmp_path)
    assert str(tmp_path) not in caplog.text
