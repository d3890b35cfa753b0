"""When something was captured, from names, EXIF, containers and file dates."""

import os
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image

pytest.importorskip("av", reason="PyAV is not installed: pip install 'binet[video]'")

from indexer.capture_time import Clock, capture_time, exif_time, time_in_name
from tests.indexer.archives_made import CHANGED_AT, frames_of, make_picture, run_index
from tests.indexer.test_video import make_video

NAIVE = datetime(2026, 3, 28, 21, 0, 5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("20260328_210005.jpg", NAIVE),
        ("IMG_20260328_210005.jpg", NAIVE),
        ("gate-2026-03-28T21:00:05.mp4", NAIVE),
        ("2026-03-28 21.00.05.png", NAIVE),
        ("20260328210005.png", NAIVE),
        ("20260328/210005.jpg", NAIVE),
        ("2026-03-28/21-00-05.jpg", NAIVE),
        ("2026-03-28T21.00.05.250.jpg", NAIVE.replace(microsecond=250_000)),
        ("20260328T210005Z.mp4", NAIVE.replace(tzinfo=UTC)),
        (
            "2026-03-28T210005+02:00.mp4",
            NAIVE.replace(tzinfo=timezone(timedelta(hours=2))),
        ),
        ("20261328_210005.jpg", None),
        ("20260328_250005.jpg", None),
        ("120260328210005.jpg", None),
        ("c1s1_000151.jpg", None),
        ("", None),
    ],
)
def test_time_in_a_name(name: str, expected: datetime | None) -> None:
    assert time_in_name(name) == expected


def test_exif() -> None:
    assert exif_time("2026:03:28 21:00:05") == NAIVE
    assert exif_time("2026:03:28 21:00:05\0", "25") == NAIVE.replace(microsecond=250_000)
    zone = timezone(timedelta(hours=-5))
    assert exif_time("2026:03:28 21:00:05", "", "-05:00") == NAIVE.replace(tzinfo=zone)
    assert exif_time("2026:03:28 21:00:05", "x", "nowhere") == NAIVE
    assert exif_time("0000:00:00 00:00:00") is None


def test_the_first_that_is_known_counts() -> None:
    chosen = capture_time(
        [(Clock.EXIF, None), (Clock.NAME, NAIVE), (Clock.FILE, CHANGED_AT)], timedelta(hours=2)
    )
    assert (chosen.moment, chosen.clock) == (datetime(2026, 3, 28, 19, 0, 5, tzinfo=UTC), "name")
    with pytest.raises(ValueError, match="no time"):
        capture_time([(Clock.EXIF, None)], timedelta(0))


def captured(row: Any) -> datetime:
    return datetime.fromtimestamp(row.captured_at_us / 1_000_000, UTC)


def test_pictures_say_where_their_time_is_from(tmp_path: Path) -> None:
    cam = tmp_path / "cam"
    exif = Image.Exif()
    inner = exif.get_ifd(ExifTags.IFD.Exif)
    inner[ExifTags.Base.DateTimeOriginal] = "2026:01:02 03:04:05"
    inner[ExifTags.Base.OffsetTimeOriginal] = "+01:00"
    make_picture(cam / "a_20260328_210005.jpg", 1, exif=exif)
    make_picture(cam / "b_20260328_210005.png", 2)
    make_picture(cam / "c.png", 3)
    run_index(tmp_path / "g", [cam], utc_offset=timedelta(hours=1))
    assert [(row.clock, captured(row)) for row in frames_of(tmp_path / "g")] == [
        ("exif", datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)),
        ("name", datetime(2026, 3, 28, 20, 0, 5, tzinfo=UTC)),
        ("file", CHANGED_AT),
    ]


def test_a_file_is_dated_at_the_end_of_its_clip(tmp_path: Path) -> None:
    clip = make_video(tmp_path / "a.mp4", range(0, 2000, 100))
    os.utime(clip, (CHANGED_AT.timestamp(),) * 2)
    run_index(tmp_path / "g", [clip])
    first = frames_of(tmp_path / "g")[0]
    assert first.clock == "file"
    assert CHANGED_AT - captured(first) == timedelta(seconds=2)
