"""Several indexers at once: a job is shared, no frame is added twice, the dead are taken over."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

pytest.importorskip("av", reason="PyAV is not installed: pip install 'binet[video]'")

from indexer import items, leases, schema
from indexer.checking import check
from indexer.errors import GalleryError, JobCancelled
from indexer.gallery import Gallery
from indexer.indexing import KIND, Indexed, help_index, index_sources
from indexer.jobs import (
    Job,
    create_job,
    end_interrupted,
    give_back_job,
    list_jobs,
    read_job,
    start_job,
    take_job,
)
from indexer.leases import LeaseLostError, is_gone, new_owner
from indexer.schema import JobState
from indexer.sources import SourceFile, SourceKind
from tests.forked import Child
from tests.indexer import postgres, share_child
from tests.indexer.archives_made import content, make_noise_clip, make_picture, run_index
from tests.indexer.fake_branch import FakeBranch
from tests.indexer.share_child import OPTIONS

PATIENCE_S = 60


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a gallery is made, on both databases."""
    if request.param == "postgres":
        if not postgres.WANTED:
            postgres.use(request.getfixturevalue("server"), monkeypatch)
    elif postgres.WANTED:
        pytest.skip("this run is PostgreSQL's")
    return tmp_path / "gallery"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres.server() as url:
        yield url


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips, and pictures for more than one item."""
    folder = tmp_path_factory.mktemp("archive") / "yard"
    for number in range(2 * items.BATCHES + 3):
        make_picture(folder / f"{number:02}.png", number)
    make_noise_clip(folder / "a.mkv", 13)
    make_noise_clip(folder / "z.avi", 9, "mpeg2video")
    return folder


@pytest.fixture(scope="module")
def expected(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What a single indexer makes of it."""
    place = tmp_path_factory.mktemp("whole")
    run_index(place, [archive], batch=OPTIONS.batch)
    return content(place)


class Children:
    """Processes of `share_child`."""

    def __init__(self, place: Path, archive: Path) -> None:
        self._where = [str(place), str(archive)]
        self._stack = ExitStack()

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin(self, role: str = "lead") -> Child:
        """Start one and wait until it is at work."""
        child = self._stack.enter_context(Child(share_child.main, role, *self._where))
        line = child.stdout.readline()
        assert line == "begun\n", child.stderr.read()
        return child


def end(*children: Child) -> None:
    """Let them all go on, and wait for their ends."""
    for child in children:
        child.go_on()
    for child in children:
        assert child.wait(PATIENCE_S) == 0, child.stderr.read()


def jobs_of(place: Path) -> list[Job]:
    with Gallery.open(place) as gallery, gallery.database.read() as connection:
        return list_jobs(connection)


def is_whole(place: Path, expected: list[Any]) -> bool:
    with Gallery.open(place) as gallery:
        problems = [finding for finding in check(gallery.database) if finding.is_problem]
    return problems == [] and content(place) == expected


def test_two_processes_share_a_job(place: Path, archive: Path, expected: list[Any]) -> None:
    with Children(place, archive) as children:
        leader = children.begin()
        helper = children.begin("join")
        end(leader, helper)
    (job,) = jobs_of(place)
    assert (job.state, job.indexed, job.failed) == (JobState.DONE, job.discovered, 0)
    assert job.report["new_frames"] == job.report["frames"] == len(expected)
    assert job.report["indexers"] == 2
    assert is_whole(place, expected)


def test_what_a_killed_one_leaves_is_taken_over(
    place: Path, archive: Path, expected: list[Any]
) -> None:
    with Children(place, archive) as children:
        leader = children.begin()
        before = len(content(place))
        helper = children.begin("join")
        leader.kill()
        end(helper)
    assert 0 < before < len(expected)
    (job,) = jobs_of(place)
    assert (job.state, job.indexed, job.failed) == (JobState.DONE, job.discovered, 0)
    # It went on after the last frame that was on disk.
    assert job.report["new_frames"] == len(expected)
    assert is_whole(place, expected)


def test_two_jobs_on_one_source_add_nothing_twice(
    place: Path, archive: Path, expected: list[Any]
) -> None:
    with Children(place, archive) as children:
        end(children.begin(), children.begin())
    jobs = jobs_of(place)
    assert [job.state for job in jobs] == [JobState.DONE] * 2
    assert sum(job.report["new_frames"] for job in jobs) == len(expected)
    assert is_whole(place, expected)


def test_sql_itself_refuses_a_frame_twice(place: Path, archive: Path) -> None:
    run_index(place, [archive / "00.png"])
    with Gallery.open(place) as gallery:
        for table in (schema.source, schema.frame, schema.indexed):
            with gallery.database.read() as connection:
                row = dict(connection.execute(select(table)).mappings().one())
            row.pop("id", None)
            with gallery.database.write() as connection, pytest.raises(IntegrityError):
                connection.execute(insert(table).values(**row))


def test_a_lost_lease_commits_nothing_more(place: Path, archive: Path) -> None:
    Gallery.open(place, create=True).close()
    committed = []

    def lose(_: object) -> None:
        with Gallery.open(place) as other, other.database.write() as connection:
            committed.append(len(content(place)))
            connection.execute(update(schema.job_item).values(owner="somebody else 1 - x"))

    with pytest.raises(LeaseLostError, match="taken over"):
        run_index(place, [archive], batch=2, on_progress=lose)
    assert committed == [len(content(place))]


def test_a_lease_that_is_over_is_taken_and_one_that_holds_is_not(
    place: Path, archive: Path
) -> None:
    with Gallery.open(place, create=True) as gallery, gallery.database.write() as connection:
        job_id = create_job(connection, KIND, {})
        start_job(connection, job_id, "far 0 1 - x")
        found = [SourceFile(str(archive / "a.mkv"), SourceKind.VIDEO, 7, None, "yard")]
        items.add_items(connection, job_id, found, 2)
        assert items.size_of_items(connection, job_id) == 7
        taken = items.take_item(connection, job_id, "far 0 1 - x")
        assert taken is not None
        assert taken.files == found
        assert items.take_item(connection, job_id, "near 0 1 - x") is None
        assert end_interrupted(connection) == []
        leases.renew(connection, job_id, "near 0 1 - x")
        now = leases.clock_us(connection)
        until = select(schema.job_item.c.lease_until_us)
        assert 0 < connection.execute(until).scalar_one() - now <= leases.LEASE_S * 1e6
        connection.execute(update(schema.job_item).values(lease_until_us=now - 1))
        connection.execute(update(schema.job).values(lease_until_us=now - 1))
        again = items.take_item(connection, job_id, "near 0 1 - x")
        assert again is not None
        assert again.id == taken.id
        # Somebody works at it, though not who began it.
        assert end_interrupted(connection) == []
        with pytest.raises(GalleryError, match="is running"):
            start_job(connection, job_id)
        connection.execute(update(schema.job_item).values(lease_until_us=now - 1))
        assert end_interrupted(connection) == [job_id]
        assert read_job(connection, job_id).state == JobState.FAILED


def test_a_queued_job_is_given_to_one_and_comes_back(place: Path) -> None:
    with Gallery.open(place, create=True) as gallery, Gallery.open(place) as other:
        with gallery.database.write() as connection:
            job_id = create_job(connection, KIND, {}, tries=2)
            create_job(connection, KIND, {})  # of somebody who begins it at once
        if not gallery.database.is_sqlite:
            with gallery.database.claim() as first, other.database.claim() as second:
                assert take_job(first, KIND, "a 0 1 - x") == job_id
                assert take_job(second, KIND, "b 0 1 - x") is None
                give_back_job(first, job_id)
        with gallery.database.claim() as connection:
            assert take_job(connection, "reindex", "a 0 1 - x") is None
            for number, left in enumerate(([], [job_id])):
                assert take_job(connection, KIND, f"{number} 0 1 - x") == job_id
                assert take_job(connection, KIND, "c 0 1 - x") is None
                connection.execute(update(schema.job).values(lease_until_us=0))
                assert end_interrupted(connection) == left
            assert take_job(connection, KIND, "d 0 1 - x") is None
            assert read_job(connection, job_id).state == JobState.FAILED


def test_one_item_by_its_number(place: Path, archive: Path) -> None:
    Gallery.open(place, create=True).close()
    shares: list[Indexed] = []

    def help_once(_: object) -> None:
        if shares:
            return
        with Gallery.open(place) as other:
            with other.database.read() as connection:
                (job,) = list_jobs(connection)
                held, *_, last = items.item_ids(connection, job.id)
            shares.extend(
                help_index(other, FakeBranch(), job.id, OPTIONS, item=item) for item in (held, last)
            )
            with other.database.read() as connection:
                assert last not in items.item_ids(connection, job.id)

    done = run_index(place, [archive], batch=2, on_progress=help_once)
    assert [share.new_frames for share in shares] == [0, 9]
    assert done.indexed == done.discovered
    with Gallery.open(place) as gallery, pytest.raises(GalleryError, match="nothing to help with"):
        help_index(gallery, FakeBranch(), done.job_id, OPTIONS)


def test_who_helps_stops_with_the_job(place: Path, archive: Path) -> None:
    class Stops(FakeBranch):
        def detect(self, scenes: list[Any]) -> list[Any]:
            with Gallery.open(place) as other:
                with other.database.read() as connection:
                    (job,) = list_jobs(connection)
                with pytest.raises(JobCancelled):
                    help_index(other, Cancels(), job.id, OPTIONS)
            return super().detect(scenes)

    class Cancels(FakeBranch):
        def detect(self, scenes: list[Any]) -> list[Any]:
            from indexer.jobs import cancel_job

            with Gallery.open(place) as other, other.database.write() as connection:
                if read_job(connection, 1).state == JobState.RUNNING:
                    cancel_job(connection, 1)
            return super().detect(scenes)

    with Gallery.open(place, create=True) as gallery, pytest.raises(JobCancelled):
        index_sources(gallery, Stops(), [archive], OPTIONS)
    assert jobs_of(place)[0].state == JobState.CANCELLED


def test_who_is_gone_is_known_on_the_same_machine_only() -> None:
    own = new_owner()
    assert not is_gone(own)
    host, namespace, pid, _, token = own.rsplit(" ", 4)
    assert is_gone(f"{host} {namespace} {pid} 1 {token}")
    assert not is_gone(f"another {namespace} {pid} 1 {token}")
    assert not is_gone(f"{host} pid:[1] {pid} 1 {token}")
    assert is_gone(None)
