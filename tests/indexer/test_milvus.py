"""Vectors in Milvus: addresses, filters, encoders, and what goes wrong; over milvus-lite."""

import logging
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import binet
from indexer import index_check
from indexer.errors import EncoderError, GalleryError, IndexEngineError, IndexOutageError
from indexer.filters import Filter, TimeOfDay
from indexer.gallery import Gallery
from indexer.index_check import check_index, measure_recall
from indexer.milvus_address import MilvusAddress
from indexer.milvus_client import expression
from indexer.query import Query
from tests.indexer.galleries import (
    DIMENSION,
    all_boxes,
    folder_of,
    new_frames,
    new_gallery,
    new_source,
    sha,
)
from tests.indexer.oracle import unit

pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://host:1", "milvus\\+http"),
        ("milvus+http://", "needs a host"),
        ("milvus+http://host:port", "no address"),
        ("milvus+file:vectors", "ends in .db"),
        ("milvus+http://host?index=CAGRA", "HNSW"),
        ("milvus+http://host?ef=200", "'ef' is no option of FLAT"),
        ("milvus+http://host?index=HNSW&ef=x", "whole number"),
        ("milvus+http://host?consistency=none", "Strong"),
        ("milvus+http://host?name=a-b", "letters"),
    ],
)
def test_an_address_that_is_none(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(IndexEngineError, match=message):
        Gallery.open(tmp_path, create=True, index=url)


def test_an_address() -> None:
    address = MilvusAddress.parse(
        "milvus+https://me:p%40ss@host:1?index=hnsw&ef=99&timeout=3&consistency=strong&name=a"
    )
    assert (address.uri, address.user, address.password) == ("https://host:1", "me", "p@ss")
    assert (address.index, address.exact) == ("HNSW", False)
    assert dict(address.build) == {"M": 32, "efConstruction": 200}
    assert (dict(address.effort), address.timeout_s) == ({"ef": 99}, 3)
    assert (address.consistency, address.name) == ("Strong", "a")
    assert "p@ss" not in repr(address)
    assert MilvusAddress.parse("milvus+http://host").uri == "http://host:19530"


def test_filters_in_its_language() -> None:
    noon = datetime(1970, 1, 1, 12, tzinfo=UTC)
    part = TimeOfDay(time(23), time(1), timedelta(hours=2))
    wanted = Filter(
        cameras=[3, 1],
        scope_cameras=[1, 3, 4],
        sources=[7],
        after=noon,
        before=noon,
        min_score=0.5,
        exclude_boxes=[9],
    )
    assert expression(Filter()) == ""
    assert expression(Filter(cameras=[1], scope_cameras=[2])) is None
    assert expression(wanted) == (
        "camera_id in [1, 3] and source_id in [7] and captured_at_us >= 43200000000 and "
        "captured_at_us < 43200000000 and score >= 0.5 and id not in [9]"
    )
    hour = 3_600_000_000
    assert expression(Filter(time_of_day=part)) == (
        f"(time_of_day_us >= {21 * hour} and time_of_day_us < {23 * hour})"
    )


def test_the_flip_to_another_encoder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    gallery, old = new_gallery(tmp_path, index=f"milvus+file:{tmp_path}/v.db")
    with gallery:
        source = new_source(gallery, "door")
        gallery.add_frames(old.id, source, new_frames(rng, [3, 2]))
        before = all_boxes(gallery)
        new = gallery.register_encoder(sha("other"), sha("preprocessing"), DIMENSION)
        gallery.add_frames(new.id, source, new_frames(rng, [3, 4]))
        assert all_boxes(gallery) == before
        gallery.activate(new.id)
        assert len(all_boxes(gallery)) == len(gallery.view()) == 7
        assert not set(all_boxes(gallery)) & set(before)
        milvus = gallery._milvus
        assert milvus is not None
        assert milvus._connect().encoders() == {old.id, new.id}
        assert gallery.drop_encoder(old.id) == 5
        assert milvus._connect().encoders() == {new.id}
        assert len(all_boxes(gallery)) == 7
        assert gallery.embeddings(all_boxes(gallery)[:2]).shape == (2, DIMENSION)
        with pytest.raises(GalleryError, match="in Milvus"):
            gallery.build_fast_tier()


def test_what_is_not_as_in_sql_is_found_and_mended(
    gallery: Gallery, caplog: pytest.LogCaptureFixture
) -> None:
    index = f"milvus+file:{folder_of(gallery)}/v.db"
    with Gallery.open(folder_of(gallery), index=index) as other:
        boxes = all_boxes(other)
        collection = other.view().collection
        collection.delete(np.array(boxes[:3]))
        caplog.set_level(logging.WARNING)
        assert len(other.refresh()) == len(boxes)
        assert "rebuilt" in caplog.text
        assert all_boxes(other) == boxes
        assert check_index(other) == []
    # A database that is another one.
    with Gallery.open(folder_of(gallery), index=index) as other:
        with other.database.write() as connection:
            connection.exec_driver_sql("UPDATE revision SET token = 'x' WHERE id > 1")
        assert all_boxes(other) == boxes


def test_an_approximate_index_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_check, "QUERIES", 20)
    rng = np.random.default_rng(0)
    url = f"milvus+file:{tmp_path}/v.db?index=HNSW&ef=64"
    gallery, encoder = new_gallery(tmp_path, index=url)
    with gallery:
        gallery.add_frames(encoder.id, new_source(gallery, "door"), new_frames(rng, [30] * 10))
        assert not gallery.search(Query(unit(rng, 1, DIMENSION)), 5).exact
        assert measure_recall(gallery).mean > 0.9
    runner = CliRunner()
    url = f"milvus+file:{tmp_path}/v.db"
    with Gallery.open(tmp_path, index=url) as exact:
        assert exact.search(Query(unit(rng, 1, DIMENSION)), 5).exact
    asked = ["gallery", "check", "--gallery", str(tmp_path), "--recall", "--index", url]
    answer = runner.invoke(binet.app, asked)
    assert answer.exit_code == 0
    assert "recall@100 1.0000 on 20 queries" in answer.output


def test_a_server_that_is_not_there(gallery: Gallery) -> None:
    with Gallery.open(folder_of(gallery), index="milvus+http://127.0.0.1:9?timeout=1") as other:
        with pytest.raises(IndexOutageError, match="nothing is lost"):
            all_boxes(other)
        with pytest.raises(EncoderError):
            other.activate(99)
        assert other.behind() > 0


def test_without_pymilvus(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    modules: Any = __import__("sys").modules
    monkeypatch.setitem(modules, "pymilvus", None)
    address = "milvus+http://127.0.0.1:9"
    with (
        Gallery.open(folder_of(gallery), index=address) as other,
        pytest.raises(IndexEngineError, match=r"binet\[milvus\]"),
    ):
        all_boxes(other)
