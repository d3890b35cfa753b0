"""`kill -9` while indexing: what was written stays, and going on ends as if nothing had happened.

BINET_KILLS says how often (20 without it).
"""

import os
import random
from pathlib import Path

import pytest

pytest.importorskip("av", reason="PyAV is not installed: pip install 'binet[video]'")

from indexer.checking import check
from indexer.gallery import Gallery
from indexer.jobs import list_jobs
from indexer.schema import JobState
from tests.forked import Child
from tests.indexer import crash_child
from tests.indexer.archives_made import content, date, make_noise_clip, make_picture

KILLS = int(os.environ.get("BINET_KILLS", "20"))


def index(place: Path, source: Path, statement: int) -> tuple[int, list[int]]:
    """Run the child; return its exit code and the numbers that it printed."""
    with Child(crash_child.main, str(place), str(source), statement) as child:
        printed = [int(line) for line in child.stdout]
        code = child.wait()
        assert code in (0, -9), child.stderr.read()
    return code, printed


def test_killed_at_random_points(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    for number in range(5):
        make_picture(archive / "yard" / f"{number}.png", number)
    make_noise_clip(archive / "yard" / "a.mkv", 13)
    (archive / "yard" / "bad.mp4").write_bytes(b"no video")
    date(archive / "yard" / "bad.mp4")
    code, printed = index(tmp_path / "whole", archive, 0)
    assert code == 0
    *_, statements = printed
    expected = content(tmp_path / "whole")
    assert len(expected) == 18

    rng = random.Random(KILLS)
    kills = rounds = 0
    while kills < KILLS:
        place = tmp_path / f"g{rounds}"
        rounds += 1
        while True:
            # The first statements are those that make the tables.
            point = 0 if kills >= KILLS else rng.randrange(1, statements)
            code, printed = index(place, archive, point)
            if code == 0:
                break
            kills += 1
            if not printed:
                continue
            with Gallery.open(place) as gallery:
                # None of what was acknowledged is lost.
                assert gallery.stats().frames >= printed[-1]
                assert not any(finding.is_problem for finding in check(gallery.database))
        assert content(place) == expected
        with Gallery.open(place) as gallery:
            assert not any(finding.is_problem for finding in check(gallery.database))
            with gallery.database.read() as connection:
                job = list_jobs(connection)[0]
        assert (job.state, job.indexed, job.failed, job.discovered) == (JobState.DONE, 6, 1, 7)
