"""Damages of many kinds: `check` finds each, `repair` mends it, and indexing again completes it."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("av", reason="PyAV is not installed: pip install 'binet[video]'")

import binet
from indexer.checking import check
from indexer.gallery import Gallery
from indexer.work import Keep
from tests.indexer.archives_made import content, date, make_picture, run_index
from tests.indexer.postgres import sqlite_only
from tests.indexer.test_video import make_video

pytestmark = sqlite_only

#: Seeded damages that are tried; each takes 0.1 s.
DAMAGES = int(os.environ.get("BINET_CORRUPTIONS", "100"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An indexed archive, with kept pictures and a snapshot of the index."""
    folder = tmp_path_factory.mktemp("repair")
    (folder / "archive" / "gate").mkdir(parents=True)
    date(make_video(folder / "archive" / "gate" / "a.mkv", range(0, 800, 100)))
    for number in range(4):
        make_picture(folder / "archive" / f"p{number}.png", number)
    run_index(folder / "g", [folder / "archive"], keep=Keep.THUMBNAILS)
    with Gallery.open(folder / "g") as gallery:
        gallery.save_snapshot()
    return folder


def sql(*statements: str) -> Callable[[Path, np.random.Generator], None]:
    """A damage in SQL; `?` is one of the boxes by chance."""

    def apply(place: Path, rng: np.random.Generator) -> None:
        with closing(sqlite3.connect(place / "gallery.db")) as connection:
            boxes = [row[0] for row in connection.execute("SELECT id FROM box ORDER BY id")]
            box = str(boxes[rng.integers(len(boxes))])
            for statement in statements:
                assert connection.execute(statement.replace("?", box)).rowcount
            connection.commit()

    return apply


def flip_snapshot(place: Path, rng: np.random.Generator) -> None:
    """One byte of the index's snapshot."""
    (path,) = place.glob("*.snapshot")
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 0x10
    path.write_bytes(data)


def lose_box_unseen(place: Path, rng: np.random.Generator) -> None:
    """A vector that the snapshot holds and SQL does not; SQL agrees with itself."""
    sql(
        "UPDATE indexed SET boxes = boxes - 1 WHERE frame_id = (SELECT frame_id FROM box "
        "WHERE id = ?)",
        "DELETE FROM box WHERE id = ?",
    )(place, rng)


def break_picture(place: Path, rng: np.random.Generator) -> None:
    """A kept picture that is cut off."""
    pictures = sorted((place / "media").rglob("*.jpg"))
    picture = pictures[rng.integers(len(pictures))]
    picture.write_bytes(picture.read_bytes()[: rng.integers(0, 200)])


KINDS: dict[str, Callable[[Path, np.random.Generator], None]] = {
    "a box is missing": sql("DELETE FROM box WHERE id = ?"),
    "a frame is missing": sql(
        "DELETE FROM frame WHERE id = (SELECT frame_id FROM box WHERE id = ?)"
    ),
    "a source is missing": sql(
        "DELETE FROM source WHERE id = (SELECT source_id FROM box WHERE id = ?)"
    ),
    "a camera is missing": sql(
        "DELETE FROM camera WHERE id = (SELECT camera_id FROM box WHERE id = ?)"
    ),
    "a mark is missing": sql(
        "DELETE FROM indexed WHERE frame_id = (SELECT frame_id FROM box WHERE id = ?)"
    ),
    "an embedding is cut off": sql(
        "UPDATE box SET embedding = substr(embedding, 1, 9) WHERE id = ?"
    ),
    "an embedding is zero": sql("UPDATE box SET embedding = zeroblob(32) WHERE id = ?"),
    "an embedding is not finite": sql(
        "UPDATE box SET embedding = CAST(x'007E' || substr(embedding, 3) AS BLOB) WHERE id = ?"
    ),
    "a box is inside out": sql("UPDATE box SET x2 = x1 - 5 WHERE id = ?"),
    "a score is impossible": sql("UPDATE box SET score = 7 WHERE id = ?"),
    "a time contradicts": sql("UPDATE box SET captured_at_us = captured_at_us + 1 WHERE id = ?"),
    "a camera contradicts": sql("UPDATE box SET camera_id = camera_id + 7 WHERE id = ?"),
    "a source contradicts": sql("UPDATE box SET source_id = source_id + 70 WHERE id = ?"),
    "a box is there twice": sql(
        "INSERT INTO box (frame_id, encoder_id, source_id, camera_id, captured_at_us, x1, y1, x2, "
        "y2, score, embedding) SELECT frame_id, encoder_id, source_id, camera_id, captured_at_us, "
        "x1, y1, x2, y2, score, embedding FROM box WHERE id = ?"
    ),
    "no encoder is active": sql("UPDATE encoder SET state = 'retired'"),
    "a job does not add up": sql("UPDATE job SET indexed = indexed - 1"),
    "the snapshot is damaged": flip_snapshot,
    "the snapshot has a vector more": lose_box_unseen,
    "a picture is damaged": break_picture,
}


def problems(place: Path) -> list[str]:
    with Gallery.open(place) as gallery:
        return [finding.what for finding in check(gallery.database) if finding.is_problem]


def repair(place: Path) -> str:
    result = CliRunner().invoke(binet.app, ["gallery", "repair", "--gallery", str(place)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_whole_gallery_is_left_as_it_is(whole: Path, tmp_path: Path) -> None:
    place = shutil.copytree(whole / "g", tmp_path / "g")
    assert problems(place) == []
    assert repair(place).startswith("taken out: 0 frames and 0 boxes; 0 damaged")
    assert content(place) == content(whole / "g")


@pytest.mark.parametrize("seed", range(DAMAGES))
def test_every_damage_is_found_and_mended(whole: Path, tmp_path: Path, seed: int) -> None:
    place = shutil.copytree(whole / "g", tmp_path / "g")
    kind = list(KINDS)[seed % len(KINDS)]
    KINDS[kind](place, np.random.default_rng(seed))
    assert problems(place), kind
    repair(place)
    assert problems(place) == [], kind
    with Gallery.open(place) as gallery:
        assert len(gallery.view()) == gallery.stats().boxes


@pytest.mark.parametrize(
    "kind",
    ["a box is missing", "a frame is missing", "a source is missing", "a time contradicts",
     "an embedding is zero"],
)  # fmt: skip
def test_indexing_again_completes_what_was_taken_out(
    whole: Path, tmp_path: Path, kind: str
) -> None:
    place = shutil.copytree(whole / "g", tmp_path / "g")
    KINDS[kind](place, np.random.default_rng(5))
    said = repair(place)
    if kind != "a source is missing":  # nobody knows what it was
        assert "index again: " in said
    run_index(place, [whole / "archive"], keep=Keep.THUMBNAILS)
    assert problems(place) == []
    assert content(place) == content(whole / "g")
