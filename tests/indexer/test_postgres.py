"""The core of the gallery's tests on PostgreSQL; `make test-postgres` runs all of them there.

Tests of other modules that are named here are run once more, with a folder standing for a database.
"""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.indexer import postgres
from tests.indexer.test_gallery import (
    test_a_search_does_not_answer_with_what_another_process_deleted,
    test_held_frames_stay,
    test_ids_do_not_come_again,
)
from tests.indexer.test_gallery_machine import SmallParts
from tests.indexer.test_indexing import (
    archive,
    test_cancelled_by_an_event_and_resumed,
    test_clips_and_pictures_are_indexed_once,
)
from tests.indexer.test_upkeep import (
    run,
    test_compaction_deletes_pictures_and_waits_for_no_job,
    test_held_frames_outlive_deletion_and_retention,
    test_retention_by_age_keeps_what_is_younger,
)

__all__ = [
    "archive",
    "run",
    "test_a_search_does_not_answer_with_what_another_process_deleted",
    "test_cancelled_by_an_event_and_resumed",
    "test_clips_and_pictures_are_indexed_once",
    "test_compaction_deletes_pictures_and_waits_for_no_job",
    "test_held_frames_outlive_deletion_and_retention",
    "test_held_frames_stay",
    "test_ids_do_not_come_again",
    "test_retention_by_age_keeps_what_is_younger",
]

pytestmark = pytest.mark.skipif(postgres.WANTED, reason="this run is PostgreSQL's as a whole")


@pytest.fixture(autouse=True, scope="module")
def _in_postgres() -> Iterator[None]:
    with postgres.server() as url, pytest.MonkeyPatch.context() as patch:
        postgres.use(url, patch)
        yield


class OnPostgres(SmallParts):
    """The congruence machine."""


OnPostgres.TestCase.settings = settings(
    max_examples=4, stateful_step_count=20, deadline=None, derandomize=True
)
TestMachineOnPostgres = OnPostgres.TestCase
