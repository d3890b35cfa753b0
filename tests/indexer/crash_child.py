"""Indexes, and kills itself without warning at a given SQL statement: a child of `test_crashes`.

Statement 0 is none. A line with the number of frames is printed after each commit; with statement 0
the last line is how many statements there were.
"""

import os
import signal
from itertools import count
from typing import Any

from sqlalchemy import Engine, event

from indexer.gallery import Gallery
from indexer.indexing import KIND, index_sources
from indexer.jobs import resumable
from indexer.progress import Progress
from indexer.work import IndexOptions, Keep
from tests.indexer.fake_branch import FakeBranch
from tests.indexer.postgres import use_from_environment

BATCH = 3


def main(place: str, source: str, last_statement: int) -> None:
    use_from_environment()
    numbers = count(1)
    reached = 0

    def step(*_: Any) -> None:
        nonlocal reached
        reached = next(numbers)
        if reached == last_statement:
            os.kill(os.getpid(), signal.SIGKILL)

    # Commits count too: just before one, everything of a batch is written and nothing is kept.
    event.listen(Engine, "before_cursor_execute", step)
    event.listen(Engine, "commit", step)
    with Gallery.open(place, create=True) as gallery:
        before = gallery.stats().frames

        def show(progress: Progress) -> None:
            print(before + progress.counts.new_frames, flush=True)

        job = resumable(gallery.database, KIND)
        index_sources(
            gallery,
            FakeBranch(),
            [source],
            IndexOptions(batch=BATCH, workers=1, keep=Keep.THUMBNAILS),
            job_id=None if job is None else job.id,
            on_progress=show,
        )
    print(reached, flush=True)
