"""Opening, migrating and locking."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from indexer import database as database_module
from indexer.checking import check
from indexer.database import Database
from indexer.errors import GalleryError, SourceError
from indexer.filters import Filter
from indexer.gallery import Gallery
from indexer.jobs import end_interrupted, read_job
from indexer.media_store import set_media_url
from indexer.query import Query
from indexer.repairing import repair
from indexer.schema import metadata
from tests.indexer import postgres
from tests.indexer.archives_made import content, make_noise_clip, make_picture, run_index
from tests.indexer.galleries import DIMENSION, new_frames, new_gallery, new_source
from tests.indexer.oracle import unit


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database.open(tmp_path, create=True)
    yield made
    made.close()


def test_migrations_make_the_tables(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        assert connection.execute(text("PRAGMA foreign_key_check")).all() == []


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_gallery_of_the_first_version_is_brought_up_to_date(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place: str | Path = tmp_path if kind == "sqlite" else request.getfixturevalue("new_database")
    database = Database.open(place, create=True)
    with database.write() as connection:
        connection.execute(text("INSERT INTO camera (name) VALUES ('door')"))
        connection.execute(text("DROP TABLE setting"))
        connection.execute(text("DROP TABLE job_item"))
        for column in ("owner", "lease_until_us", "tries_left"):
            connection.execute(text(f"ALTER TABLE job DROP COLUMN {column}"))
        job = text(
            "INSERT INTO job (kind, state, request, discovered, indexed, failed, created_at_us)"
            " VALUES ('index', 'running', :request, 1, 0, 0, 0)"
        )
        told = {"request": {"sources": ["a"]}, "report": {"frames": 3}, "process": None}
        connection.execute(job, {"request": json.dumps(told)})
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    database.close()
    with Gallery.open(place) as gallery:
        assert gallery.cameras() == {"door": 1}
        with gallery.database.write() as writing:
            assert read_job(writing, 1).report == {"frames": 3}
            assert end_interrupted(writing) == [1]
        with gallery.database.read() as reading:
            assert compare_metadata(MigrationContext.configure(reading), metadata) == []


def test_how_sqlite_is_used(database: Database) -> None:
    with database.write() as connection:
        for pragma, value in (
            ("journal_mode", "wal"),
            ("synchronous", 2),
            ("foreign_keys", 1),
            ("busy_timeout", 30_000),
        ):
            assert connection.execute(text(f"PRAGMA {pragma}")).scalar_one() == value


def test_a_newer_gallery_is_refused(tmp_path: Path) -> None:
    Database.open(tmp_path, create=True).close()
    with sqlite3.connect(tmp_path / "gallery.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(GalleryError, match="newer version of binet"):
        Database.open(tmp_path)


def test_what_is_no_gallery(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="there is no gallery"):
        Database.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE something (x)")
    connection.close()
    with pytest.raises(GalleryError, match="not a gallery"):
        Database.open(f"sqlite:///{tmp_path}/other.db", create=True)
    (tmp_path / "text.db").write_text("no database at all, but long enough to have a header" * 9)
    with pytest.raises(GalleryError, match="not a database"):
        Database.open(f"sqlite:///{tmp_path}/text.db")
    for url, message in (
        ("sqlite://", "needs a file"),
        ("nonsense://x", "no database that is known"),
        ("://", "A gallery is a folder"),
    ):
        with pytest.raises(GalleryError, match=message):
            Database.open(url)


def test_a_password_is_not_shown() -> None:
    with pytest.raises(GalleryError) as caught:
        Database.open("nonsense://me:secret@host/name")
    assert "secret" not in str(caught.value)


def test_one_active_encoder_is_a_rule_of_sql(tmp_path: Path) -> None:
    gallery, _ = new_gallery(tmp_path)
    with gallery, gallery.database.write() as connection:
        values = "('x', 'y', 4, 'active', 0)"
        columns = "weights_sha256, preprocess_sha256, dimension, state, created_at_us"
        with pytest.raises(IntegrityError):
            connection.execute(text(f"INSERT INTO encoder ({columns}) VALUES {values}"))


def test_readers_see_one_state_and_do_not_wait(tmp_path: Path) -> None:
    first, second = Database.open(tmp_path, create=True), Database.open(tmp_path)
    count = text("SELECT count(*) FROM camera")
    with first.read() as reader:
        assert reader.execute(count).scalar_one() == 0
        with second.write() as writer:
            writer.execute(text("INSERT INTO camera (name) VALUES ('door')"))
        assert reader.execute(count).scalar_one() == 0
    with first.read() as reader:
        assert reader.execute(count).scalar_one() == 1
    first.close()
    second.close()


def test_a_second_writer_gives_up_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0)
    first, second = Database.open(tmp_path, create=True), Database.open(tmp_path)
    with first.write(), pytest.raises(GalleryError, match="try again later"), second.write():
        pass
    first.close()
    second.close()


# PostgreSQL


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres.server() as url:
        yield url


@pytest.fixture
def new_database(server: str) -> Iterator[str]:
    with postgres.new_database(server, "another") as url:
        yield url


def test_the_same_on_postgres(server: str, tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="holds no gallery"):
        Gallery.open(server)
    rng = np.random.default_rng(0)
    query = Query(unit(rng, 1, DIMENSION))
    results = []
    for place in (server, str(tmp_path)):
        rng = np.random.default_rng(1)
        gallery, encoder = new_gallery(place)
        with gallery:
            with gallery.database.read() as connection:
                context = MigrationContext.configure(connection, opts={"compare_type": True})
                assert compare_metadata(context, metadata) == []
            source = new_source(gallery, "door")
            frames = new_frames(rng, [4, 0, 5, 6])
            added = gallery.add_frames(encoder.id, source, frames)
            assert gallery.add_frames(encoder.id, source, frames).new_boxes == 0
            gallery.view()
            gallery.delete(boxes=[2], where=Filter(before=frames[0].captured_at))
            gallery.delete(frames=added.frame_ids[3:])
            gallery.add_frames(encoder.id, source, new_frames(rng, [3], first=8))
            gallery.compact()
            with Gallery.open(place) as other:
                results.append([gallery.search(query, 50), other.search(query, 50)])
            with gallery.database.read() as connection:
                assert gallery.database.last_ids(connection)["box"] == 18
    assert len(results[0][0].hits) == 11
    flat = [result.hits for pair in results for result in pair]
    assert flat[0] == flat[1] == flat[2] == flat[3]


def test_indexing_into_postgres(new_database: str, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'binet[video]'")
    make_picture(tmp_path / "cam" / "b.png")
    clip = make_noise_clip(tmp_path / "cam" / "a.mkv", 9)
    (tmp_path / "cam" / "broken.png").write_bytes(b"no picture")
    both = (new_database, str(tmp_path / "gallery"))
    for place in both:
        done = run_index(place, [tmp_path / "cam"], keep="off", batch=4)
        assert (done.discovered, done.indexed, done.failed) == (3, 2, 1)
        again = run_index(place, [clip], keep="off")
        assert (again.unchanged, again.new_frames, again.new_boxes) == (1, 0, 0)
    assert content(both[0]) == content(both[1])
    with pytest.raises(SourceError, match="binet gallery media"):
        run_index(new_database, [clip], keep="frames")
    with Gallery.open(new_database) as gallery:
        set_media_url(gallery.database, str(tmp_path / "media"))
        assert check(gallery.database) == []
        with pytest.raises(GalleryError, match="PostgreSQL"):
            gallery.save_snapshot()
    make_noise_clip(tmp_path / "cam" / "later.mkv", 3, "mpeg2video")
    assert run_index(new_database, [tmp_path / "cam"], keep="thumbnails").new_frames == 3
    with Gallery.open(new_database) as gallery:
        assert list((tmp_path / "media").rglob("*.jpg"))
        assert check(gallery.database) == []
        gallery.delete(frames=[1])
        assert repair(gallery.database).boxes == 0
        gallery.compact()
        assert check(gallery.database) == []


def test_the_password_comes_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    monkeypatch.setenv(database_module.PASSWORD_FILE_VARIABLE, str(file))
    url = "postgresql+psycopg://binet@localhost/binet"
    with pytest.raises(GalleryError, match=f"{file} cannot be read: No such file"):
        database_module._address(url, "gallery.db")
    file.write_bytes(b"p@ss word\n")
    assert database_module._address(url, "gallery.db").password == "p@ss word"
    own = database_module._address(url.replace("binet@", "binet:own@"), "gallery.db")
    assert own.password == "own"
    assert database_module._address(tmp_path, "gallery.db").password is None
    file.write_bytes(b"\xff")
    with pytest.raises(GalleryError, match="it is not text"):
        database_module._address(url, "gallery.db")
