"""Indexes a source, or helps with the job that runs: a child of `test_sharing`.

`lead` begins a job, prints a line after its first batch and waits for one on its input; `join`
helps with the job that runs, and waits too; `take` takes a job from the queue and does nothing.
"""

import sys

from indexer.gallery import Gallery
from indexer.indexing import KIND, help_index, index_sources
from indexer.jobs import list_jobs, take_job
from indexer.leases import new_owner
from indexer.progress import Progress
from indexer.schema import JobState
from indexer.work import IndexOptions
from tests.indexer.fake_branch import FakeBranch
from tests.indexer.postgres import use_from_environment

OPTIONS = IndexOptions(batch=2, workers=1)


def main(role: str, place: str, source: str) -> None:
    use_from_environment()
    told = False

    def wait(_: Progress | None = None) -> None:
        nonlocal told
        if not told:
            told = True
            print("begun", flush=True)
            sys.stdin.readline()

    with Gallery.open(place, create=True) as gallery:
        if role == "take":
            with gallery.database.claim() as connection:
                assert take_job(connection, KIND, new_owner()) is not None
            wait()
        elif role == "join":
            with gallery.database.read() as connection:
                (job,) = (j for j in list_jobs(connection) if j.state == JobState.RUNNING)
            help_index(gallery, FakeBranch(), job.id, OPTIONS, on_progress=wait)
        else:
            index_sources(gallery, FakeBranch(), [source], OPTIONS, on_progress=wait)
