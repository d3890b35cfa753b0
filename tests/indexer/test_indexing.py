"""Indexing from files to the gallery, without a network: what is there afterwards, once only."""

import threading
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select

pytest.importorskip("av", reason="PyAV is not installed: pip install 'binet[video]'")

from indexer import schema
from indexer.capture_time import CaptureTime, Clock
from indexer.checking import check
from indexer.errors import EncoderError, GalleryError, JobCancelled, MediaError, SourceError
from indexer.gallery import Gallery
from indexer.indexing import KIND, index_sources
from indexer.jobs import Job, cancel_job, list_jobs, resumable
from indexer.schema import JobState, SourceState
from indexer.video import number_frames
from indexer.work import IndexOptions
from tests.indexer.archives_made import (
    content,
    date,
    frames_of,
    make_noise_clip,
    make_picture,
    run_index,
)
from tests.indexer.fake_branch import FakeBranch
from tests.indexer.postgres import sqlite_only
from tests.indexer.test_video import UNEVEN_MS, make_video


def make_archive(folder: Path) -> Path:
    """Two clips and five pictures, in the folders of two cameras."""
    (folder / "gate").mkdir(parents=True)
    (folder / "yard").mkdir()
    date(make_video(folder / "gate" / "a.mkv", UNEVEN_MS))
    date(make_video(folder / "yard" / "b.mp4", range(0, 1300, 100)))
    for number in range(5):
        make_picture(folder / "yard" / f"p{number}.png", number)
    return folder


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"))


def jobs_of(place: Path) -> list[Job]:
    with Gallery.open(place) as gallery, gallery.database.read() as connection:
        return list_jobs(connection)


def sources_of(place: Path) -> list[Any]:
    with Gallery.open(place) as gallery, gallery.database.read() as connection:
        return list(connection.execute(select(schema.source).order_by(schema.source.c.id)))


def in_order(place: Path) -> bool:
    with Gallery.open(place) as gallery:
        return check(gallery.database) == []


def test_nothing_to_index(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="Nothing to index"):
        run_index(tmp_path / "g", [tmp_path / "empty"])
    with pytest.raises(SourceError, match="no such file or folder"):
        run_index(tmp_path / "g", [tmp_path / "nowhere"])
    assert [job.state for job in jobs_of(tmp_path / "g")] == [JobState.FAILED] * 2


def test_clips_and_pictures_are_indexed_once(tmp_path: Path, archive: Path) -> None:
    first = run_index(tmp_path / "g", [archive])
    assert (first.discovered, first.indexed, first.failed, first.unchanged) == (7, 7, 0, 0)
    assert first.new_frames == len(UNEVEN_MS) + 13 + 5
    before = content(tmp_path / "g")
    again = run_index(tmp_path / "g", [archive])
    assert (again.indexed, again.unchanged, again.new_frames, again.new_boxes) == (7, 7, 0, 0)
    assert content(tmp_path / "g") == before
    assert in_order(tmp_path / "g")
    with Gallery.open(tmp_path / "g") as gallery:
        assert set(gallery.cameras()) == {"gate", "yard"}


@pytest.mark.parametrize(("workers", "batch"), [(1, 1), (3, 4)])
def test_order_workers_and_batch_change_nothing(
    tmp_path: Path, archive: Path, workers: int, batch: int
) -> None:
    run_index(tmp_path / "one", [archive])
    paths = [*sorted((archive / "yard").iterdir(), reverse=True), archive / "gate"]
    # In several runs, too.
    run_index(tmp_path / "two", paths[:3], workers=workers, batch=batch)
    run_index(tmp_path / "two", paths, workers=workers, batch=batch)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_timestamps_are_those_of_the_container(tmp_path: Path) -> None:
    clip = make_video(tmp_path / "a.mkv", UNEVEN_MS)
    run_index(tmp_path / "g", [clip])
    rows = frames_of(tmp_path / "g")
    times = [Fraction(row.pts_numerator, row.pts_denominator) for row in rows]
    assert times == [Fraction(ms, 1000) for ms in UNEVEN_MS]
    assert [row.captured_at_us - rows[0].captured_at_us for row in rows] == [
        ms * 1000 for ms in UNEVEN_MS
    ]


def test_sampling_takes_the_first_frame_of_each_interval(tmp_path: Path) -> None:
    clip = make_video(tmp_path / "a.mkv", UNEVEN_MS)
    run_index(tmp_path / "g", [clip], fps=2.0)
    taken = [UNEVEN_MS[row.position] for row in frames_of(tmp_path / "g")]
    assert taken == [0, 500, 1000, 3003, 3500]
    # More of the same clip adds what is missing, and only that.
    more = run_index(tmp_path / "g", [clip])
    assert more.new_frames == len(UNEVEN_MS) - 5
    less = run_index(tmp_path / "g", [clip], fps=1.0)
    assert (less.unchanged, less.report["frames"]) == (1, 0)
    assert len(sources_of(tmp_path / "g")) == 1


def test_another_name_adds_nothing_and_is_followed(tmp_path: Path) -> None:
    clip = date(make_video(tmp_path / "a.mkv", UNEVEN_MS))
    run_index(tmp_path / "g", [clip])
    rows = content(tmp_path / "g")
    copy = tmp_path / "copy.mkv"
    copy.write_bytes(clip.read_bytes())
    assert run_index(tmp_path / "g", [copy]).unchanged == 1
    assert content(tmp_path / "g") == rows
    clip.unlink()
    assert run_index(tmp_path / "g", [copy]).unchanged == 1
    (source,) = sources_of(tmp_path / "g")
    assert source.uri == str(copy)


def test_two_files_of_the_same_content_are_one_source(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        make_picture(tmp_path / "cam" / name)
    result = run_index(tmp_path / "g", [tmp_path / "cam"])
    assert (result.indexed, result.new_frames) == (2, 1)
    assert in_order(tmp_path / "g")


def test_a_changed_file_is_a_new_version(tmp_path: Path) -> None:
    clip = make_video(tmp_path / "a.mkv", UNEVEN_MS)
    run_index(tmp_path / "g", [clip])
    make_video(clip, UNEVEN_MS, size=(96, 64))
    result = run_index(tmp_path / "g", [clip])
    assert result.new_frames == len(UNEVEN_MS)
    assert [source.version for source in sources_of(tmp_path / "g")] == [1, 2]


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.ts"])
def test_a_growing_clip_gets_its_new_frames_only(tmp_path: Path, name: str) -> None:
    codec = "mpeg2video" if name.endswith("ts") else "mpeg4"
    whole = make_noise_clip(tmp_path / name, 30, codec).read_bytes()
    clip = tmp_path / "cam" / name
    clip.parent.mkdir()
    counts = []
    for share in (0.4, 0.405, 1.0):
        clip.write_bytes(whole[: int(len(whole) * share)])
        # The date of the file moves on, the clock of the clip does not.
        if share == 0.4:
            date(clip)
        result = run_index(tmp_path / "g", [clip])
        assert result.failed == 0
        counts.append(result.new_frames)
    (source,) = sources_of(tmp_path / "g")
    assert source.state == SourceState.COMPLETE
    run_index(tmp_path / "at once", [clip])
    at_once, grown = frames_of(tmp_path / "at once"), frames_of(tmp_path / "g")
    assert sum(counts) == len(at_once) == len(grown)
    assert 0 < counts[0] < len(grown), counts
    assert [row.content_sha256 for row in grown] == [row.content_sha256 for row in at_once]
    steps = [
        {row.captured_at_us - 1_000_000 * row.pts_numerator // row.pts_denominator for row in rows}
        for rows in (grown, at_once)
    ]
    assert len(steps[0]) == len(steps[1]) == 1


def test_failed_and_indexed_are_all_that_was_discovered(tmp_path: Path, archive: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    clip = (archive / "gate" / "a.mkv").read_bytes()
    (bad / "empty.mp4").write_bytes(b"")
    (bad / "text.avi").write_text("no video")
    (bad / "half.mkv").write_bytes(clip[:100])
    picture = (archive / "yard" / "p0.png").read_bytes()
    (bad / "cut.png").write_bytes(picture[: len(picture) // 2])
    (bad / "none.jpg").write_bytes(b"")
    (bad / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    result = run_index(tmp_path / "g", [archive, bad], batch=3)
    assert (result.discovered, result.indexed, result.failed) == (13, 7, 6)
    assert {Path(failure.uri).name for failure in result.failures} == {
        path.name for path in bad.iterdir()
    }
    assert all(failure.reason for failure in result.failures)
    (job,) = jobs_of(tmp_path / "g")
    assert (job.state, job.indexed + job.failed) == (JobState.DONE, job.discovered)
    run_index(tmp_path / "whole", [archive])
    assert content(tmp_path / "g") == content(tmp_path / "whole")


class OneFails(FakeBranch):
    """Raises for one picture, wherever it is in a batch."""

    def detect(self, scenes: list[Any]) -> list[Any]:
        if any(scene.shape[0] == 40 for scene in scenes):
            raise RuntimeError("the network does not like this one")
        return super().detect(scenes)


def test_a_picture_that_the_network_fails_on_fails_alone(tmp_path: Path) -> None:
    for number in range(6):
        size = (50, 40) if number == 3 else (64, 48)
        make_picture(tmp_path / "cam" / f"{number}.png", number, size)
    result = run_index(tmp_path / "g", [tmp_path / "cam"], branch=OneFails())
    assert (result.indexed, result.failed, result.new_frames) == (5, 1, 5)
    assert "network fails on frame 0" in result.failures[0].reason
    assert run_index(tmp_path / "g", [tmp_path / "cam"]).new_frames == 1


def test_cancelled_by_an_event_and_resumed(tmp_path: Path, archive: Path) -> None:
    cancel = threading.Event()
    with pytest.raises(JobCancelled, match="--resume"):
        run_index(
            tmp_path / "g", [archive], batch=2, on_progress=lambda _: cancel.set(), cancel=cancel
        )
    (job,) = jobs_of(tmp_path / "g")
    assert job.state == JobState.CANCELLED
    assert 0 < len(content(tmp_path / "g")) < 28
    result = run_index(tmp_path / "g", [archive], batch=2, job_id=job.id)
    assert (result.job_id, result.indexed) == (job.id, 7)
    run_index(tmp_path / "whole", [archive], batch=2)
    assert content(tmp_path / "g") == content(tmp_path / "whole")
    with pytest.raises(GalleryError, match="nothing to resume"):
        run_index(tmp_path / "g", [archive], job_id=job.id)


def test_cancelled_by_another_connection(tmp_path: Path, archive: Path) -> None:
    Gallery.open(tmp_path / "g", create=True).close()

    def cancel(_: object) -> None:
        with Gallery.open(tmp_path / "g") as other, other.database.write() as connection:
            job = resumable(other.database, KIND)
            if job is not None and job.state == JobState.RUNNING:
                cancel_job(connection, job.id)

    with pytest.raises(JobCancelled):
        run_index(tmp_path / "g", [archive], batch=2, on_progress=cancel)
    (job,) = jobs_of(tmp_path / "g")
    assert job.state == JobState.CANCELLED
    assert in_order_but_unfinished(tmp_path / "g")


def in_order_but_unfinished(place: Path) -> bool:
    with Gallery.open(place) as gallery:
        return not any(finding.is_problem for finding in check(gallery.database))


def test_a_job_that_runs_is_not_started_again(tmp_path: Path, archive: Path) -> None:
    refused: list[str] = []

    def start_again(_: object) -> None:
        with pytest.raises(GalleryError, match="is running") as error:
            run_index(tmp_path / "g", [archive], job_id=1)
        refused.append(str(error.value))

    result = run_index(tmp_path / "g", [archive], on_progress=start_again)
    assert refused
    assert (result.job_id, result.indexed) == (1, 7)
    assert [job.state for job in jobs_of(tmp_path / "g")] == [JobState.DONE]


def test_ctrl_c_is_a_cancelled_job(tmp_path: Path, archive: Path) -> None:
    class Interrupted(FakeBranch):
        def detect(self, scenes: list[Any]) -> list[Any]:
            raise KeyboardInterrupt(len(scenes))

    with pytest.raises(KeyboardInterrupt):
        run_index(tmp_path / "g", [archive], branch=Interrupted())
    assert jobs_of(tmp_path / "g")[0].state == JobState.CANCELLED


@sqlite_only
def test_disk_full_fails_the_job_with_that_reason(tmp_path: Path, archive: Path) -> None:
    with Gallery.open(tmp_path / "g", create=True) as gallery:
        with gallery.database.read() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

        def no_more(connection: Any, *_: object) -> None:
            connection.execute(f"PRAGMA max_page_count={pages}")

        engine: Any = gallery.database._engine
        engine.dispose()
        event.listen(engine, "connect", no_more)
        with pytest.raises(GalleryError, match="the disk is full"):
            index_sources(gallery, FakeBranch(), [archive], IndexOptions(batch=4))
    (job,) = jobs_of(tmp_path / "g")
    assert job.state == JobState.FAILED
    assert "disk is full" in str(job.reason)
    assert in_order_but_unfinished(tmp_path / "g")
    run_index(tmp_path / "g", [archive], batch=4)
    run_index(tmp_path / "whole", [archive], batch=4)
    assert content(tmp_path / "g") == content(tmp_path / "whole")


def test_no_room_for_pictures_fails_the_job(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    Gallery.open(tmp_path / "g", create=True).close()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(MediaError, match="No space left"):
        run_index(tmp_path / "g", [archive], keep="thumbnails")
    assert jobs_of(tmp_path / "g")[0].state == JobState.FAILED


def test_another_encoder_is_refused(tmp_path: Path, archive: Path) -> None:
    class Other(FakeBranch):
        weights_sha256 = "3" * 64

    run_index(tmp_path / "g", [archive / "gate"])
    with pytest.raises(EncoderError, match="made with other weights"):
        run_index(tmp_path / "g", [archive], branch=Other())


def test_a_start_is_that_of_one_video(tmp_path: Path, archive: Path) -> None:
    start = CaptureTime(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), Clock.GIVEN)
    with pytest.raises(SourceError, match="that of one video"):
        run_index(tmp_path / "g", [archive], start=start)
    run_index(tmp_path / "g", [archive / "gate" / "a.mkv"], start=start)
    first = frames_of(tmp_path / "g")[0]
    assert first.captured_at_us == int(start.moment.timestamp()) * 1_000_000
    assert first.clock == "given"


def test_a_camera_of_its_own_is_another_source(tmp_path: Path, archive: Path) -> None:
    clip = archive / "gate" / "a.mkv"
    run_index(tmp_path / "g", [clip])
    assert run_index(tmp_path / "g", [clip], camera="gate").new_frames == 0
    assert run_index(tmp_path / "g", [clip], camera="other").new_frames == len(UNEVEN_MS)


def test_real_timestamps(tmp_path: Path, shared: Path) -> None:
    clip = shared / "data" / "pets09_s2l1" / "vtest.avi"
    run_index(tmp_path / "g", [clip], fps=1.0)
    rows = frames_of(tmp_path / "g")
    assert len(rows) == 80
    expected = [frame.timestamp_s for frame in number_frames(clip)]
    assert len(expected) == 795
    for row in rows:
        stored = Fraction(row.pts_numerator, row.pts_denominator)
        assert stored == expected[row.position]
        since = Fraction(row.captured_at_us - rows[0].captured_at_us, 1_000_000)
        assert abs(since - stored + Fraction(rows[0].pts_numerator, 1)) < Fraction(1, 1000)
