"""Retention, holds, export, backup and restore, from the command line."""

import csv
import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select
from typer.testing import CliRunner

import binet
from indexer import schema, upkeep
from indexer.checking import check
from indexer.errors import GalleryError
from indexer.gallery import Gallery
from indexer.jobs import create_job, start_job
from indexer.media_store import MediaStore
from model import BINetError
from tests.indexer.galleries import (
    START,
    all_boxes,
    folder_of,
    new_frames,
    new_gallery,
    new_source,
)
from tests.indexer.postgres import sqlite_only

Run = Callable[..., str]


@pytest.fixture
def run(gallery: Gallery) -> Run:
    """Runs a command of `binet gallery` on the gallery and returns what it prints."""

    def call(*arguments: str | Path | int, code: int = 0) -> str:
        line = ["gallery", *map(str, arguments), "--gallery", str(folder_of(gallery))]
        result = CliRunner().invoke(binet.app, line)
        if isinstance(result.exception, BINetError):
            raise result.exception
        assert result.exit_code == code, result.output
        return result.stdout

    return call


def test_delete_takes_what_matches_all_options(gallery: Gallery, run: Run) -> None:
    after = (START + timedelta(seconds=40)).isoformat()
    assert "deleted: 3 boxes, 2 frames, 0 sources" in run("delete", "--source", 1, "--after", after)
    assert len(all_boxes(gallery)) == 9
    assert "1 sources" in run("delete", "--source", 2)
    assert "deleted: 1 boxes" in run("delete", "--box", 1)
    assert gallery.stats().boxes == 2
    run("delete", code=2)
    run("delete", "--box", 1, "--camera", "door", code=2)
    with pytest.raises(GalleryError, match="There is no camera 'roof'; there are door, yard"):
        run("delete", "--camera", "roof")


def test_held_frames_outlive_deletion_and_retention(gallery: Gallery, run: Run) -> None:
    assert run("hold", "case 7", "--camera", "door", "--after", START.isoformat()).startswith(
        "hold 1;"
    )
    (held,) = json.loads(run("holds", "--json"))
    assert (held["reason"], held["camera"], held["before"]) == ("case 7", "door", None)
    assert "3 frames are held and stay" in run("retain", "--days", 0)
    assert gallery.stats().frames == 3
    if gallery.database.is_sqlite:
        assert "3 frames are held" in run("retain", "--megabytes", 0)
    run("delete", "--camera", "door")
    assert gallery.stats().frames == 3
    run("release", 1)
    assert "no holds" in run("holds")
    run("retain", "--days", 0)
    assert gallery.stats().frames == 0
    with pytest.raises(GalleryError, match="no hold 1"):
        run("release", 1)
    run("retain", code=2)
    with pytest.raises(GalleryError, match="no source 99"):
        run("hold", "case 8", "--source", 99)


def test_retention_by_age_keeps_what_is_younger(gallery: Gallery) -> None:
    now = START + timedelta(days=30, seconds=40)
    gone = upkeep.retain_age(gallery, timedelta(days=30), now)
    assert (gone.frames, gone.boxes) == (2, 6)
    with pytest.raises(GalleryError, match="before the year 1"):
        upkeep.retain_age(gallery, timedelta(days=10_000_000), now)


@sqlite_only
def test_retention_by_size_deletes_the_oldest(tmp_path: Path) -> None:
    gallery, encoder = new_gallery(tmp_path / "large")
    with gallery:
        source = new_source(gallery, "door")
        gallery.add_frames(encoder.id, source, new_frames(np.random.default_rng(2), [5] * 600))
        upkeep.compact(gallery)
        assert gallery.database.file is not None
        full = gallery.database.file.stat().st_size
        gone = upkeep.retain_size(gallery, full * 2 // 3)
        assert 0.55 * full < gallery.database.file.stat().st_size <= full * 2 / 3
        frame = schema.frame.c
        with gallery.database.read() as connection:
            left = list(connection.execute(select(frame.position).order_by(frame.id)).scalars())
        assert left == list(range(gone.frames, 600))


def test_compaction_deletes_pictures_and_waits_for_no_job(gallery: Gallery, run: Run) -> None:
    store = MediaStore(str(folder_of(gallery) / "media"))
    stray = store.crop_name("0" * 64, (0, 0, 1, 1))
    store.save(stray, Image.new("RGB", (2, 2)))
    with gallery.database.write() as connection:
        job = create_job(connection, "index", {})
        start_job(connection, job)
    with pytest.raises(GalleryError, match=f"Job {job} is running"):
        run("compact")
    run("cancel", job)
    assert "1 kept pictures deleted" in run("compact")
    assert list(store.names()) == []


def test_exports_hold_the_allowed_boxes_and_no_embedding(
    gallery: Gallery, run: Run, tmp_path: Path
) -> None:
    gallery.delete(boxes=[2])
    assert "11 boxes" in run("export", tmp_path / "all.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [row["box_id"] for row in rows] == [1, *range(3, 13)]
    assert rows[0]["captured_at"] == START.isoformat()
    assert not any("embedding" in row for row in rows)

    run("export", tmp_path / "yard.csv", "--format", "csv", "--camera", "yard")
    with (tmp_path / "yard.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(row["box_id"]) for row in table] == [row["box_id"] for row in rows][5:]
    assert {row["camera"] for row in table} == {"yard"}
    assert float(table[0]["x1"]) == rows[5]["x1"]

    before = (START + timedelta(seconds=1)).isoformat()
    run("export", tmp_path / "coco.json", "--format", "coco", "--before", before)
    coco = json.loads((tmp_path / "coco.json").read_text())
    assert len(coco["images"]) == 2
    assert [one["id"] for one in coco["annotations"]] == [1, 3, 7, 8, 9]
    first = coco["annotations"][0]
    assert first["bbox"][2:] == [rows[0]["x2"] - rows[0]["x1"], rows[0]["y2"] - rows[0]["y1"]]
    with pytest.raises(GalleryError, match="cannot be written"):
        run("export", tmp_path / "nowhere" / "all.jsonl")


def test_a_parquet_export_has_the_rows_of_the_others(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    monkeypatch.setattr("indexer.exporting._ROWS", 5)
    assert "12 boxes" in run("export", tmp_path / "all.parquet", "--format", "parquet")
    run("export", tmp_path / "all.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    table = parquet.read_table(tmp_path / "all.parquet")
    assert table.schema.field("captured_at").type.tz == "UTC"
    found = table.to_pylist()
    for row in found:
        row["captured_at"] = row["captured_at"].isoformat()
    assert found == rows


def test_parquet_without_its_library_says_what_to_install(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(GalleryError, match=r"pip install 'binet\[parquet\]'"):
        run("export", tmp_path / "all.parquet", "--format", "parquet")
    assert list(tmp_path.glob("*all.parquet*")) == []


@sqlite_only
def test_what_was_deleted_after_a_backup_stays_deleted(
    gallery: Gallery, run: Run, tmp_path: Path
) -> None:
    folder, saved = folder_of(gallery), tmp_path / "saved.db"
    gallery.delete(boxes=[3])
    run("backup", saved)
    with pytest.raises(GalleryError, match="is there already"):
        run("backup", saved)
    gallery.delete(boxes=[1], sources=[2])
    with pytest.raises(GalleryError, match="open in another program"):
        run("restore", saved)
    gallery.close()
    assert "deleted: 7 boxes" in run("restore", saved)
    with Gallery.open(folder) as restored:
        assert all_boxes(restored) == [2, 4, 5, 6]
        assert not [finding for finding in check(restored.database) if finding.is_problem]
    assert sorted(path.name for path in folder.iterdir()) == ["gallery.db"]


@sqlite_only
def test_a_backup_replaces_a_gallery_that_is_lost(run: Run, tmp_path: Path) -> None:
    run("backup", tmp_path / "saved.db")
    upkeep.restore(tmp_path / "new", tmp_path / "saved.db")
    with Gallery.open(tmp_path / "new") as restored:
        assert len(all_boxes(restored)) == 12
    (tmp_path / "broken.db").write_bytes(b"no database")
    with pytest.raises(GalleryError, match="database"):
        upkeep.restore(tmp_path / "other", tmp_path / "broken.db")
    assert list((tmp_path / "other").iterdir()) == []
    with pytest.raises(GalleryError, match="there is no backup"):
        upkeep.restore(tmp_path / "other", tmp_path / "none.db")
