"""Another encoder is built beside the active one, from the same frames, and then searched."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("av", reason="PyAV is not installed: pip install 'binet[video]'")

import binet
from indexer.checking import check
from indexer.errors import EncoderError, JobCancelled
from indexer.filters import Filter
from indexer.gallery import Gallery
from indexer.jobs import cancel_job, list_jobs
from indexer.query import Query
from indexer.reindexing import Reindexed, reindex
from indexer.schema import JobState
from model import save
from model.detections import Detections
from tests.conftest import random_picture, set_weights, small_network
from tests.indexer.archives_made import date, make_picture, run_index
from tests.indexer.fake_branch import DIMENSION, FakeBranch
from tests.indexer.test_video import make_video


class OtherBranch(FakeBranch):
    """Finds the same people, with other embeddings."""

    weights_sha256 = "3" * 64

    def detect(self, scenes: list[Any]) -> list[Detections]:
        return [
            Detections(found.boxes_xyxy, found.scores, -found.embeddings)
            for found in super().detect(scenes)
        ]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A clip of twelve frames, and three pictures of another camera."""
    folder = tmp_path / "archive"
    (folder / "gate").mkdir(parents=True)
    (folder / "yard").mkdir()
    date(make_video(folder / "gate" / "a.mkv", range(0, 1200, 100)))
    for number in range(3):
        make_picture(folder / "yard" / f"p{number}.png", number)
    return folder


@pytest.fixture
def gallery(tmp_path: Path, archive: Path) -> Any:
    """Every third frame of the clip, and the pictures."""
    run_index(tmp_path / "g", [archive], fps=10 / 3)
    with Gallery.open(tmp_path / "g") as opened:
        assert opened.stats().frames == 4 + 3
        yield opened


def state(gallery: Gallery) -> list[Any]:
    """All boxes by frame, without their ids and embeddings, as a search finds them."""
    query = Query(np.eye(1, DIMENSION, dtype=np.float32))
    hits = gallery.search(query, 1000, Filter()).hits
    return sorted((hit.frame.id, hit.box_xyxy, hit.detection_score) for hit in hits)


def run(gallery: Gallery, **options: Any) -> Reindexed:
    return reindex(gallery, OtherBranch(), batch=2, **options)


def test_the_old_encoder_is_searched_until_the_flip(gallery: Gallery) -> None:
    before = state(gallery)
    old = gallery.view().encoder.id
    steps: list[int] = []

    def look(done: int, total: int) -> None:
        steps.append(done)
        assert total == 7
        assert gallery.refresh().encoder.id == old
        assert state(gallery) == before

    result = run(gallery, on_progress=look)
    assert (result.frames, result.lacking, result.active) == (7, 0, True)
    assert steps == [2, 4, 5, 6, 7]
    assert gallery.view().encoder.id == result.encoder != old
    assert state(gallery) == before
    assert check(gallery.database) == []
    with pytest.raises(EncoderError, match="with these weights already"):
        run(gallery)
    # And back: nothing has to be looked at again.
    back = reindex(gallery, FakeBranch())
    assert (back.frames, back.active, back.encoder) == (0, True, old)


def test_what_was_deleted_does_not_come_back(gallery: Gallery) -> None:
    gallery.delete(frames=[1, 6])

    def delete_more(done: int, _: int) -> None:
        if done == 2:
            gallery.delete(frames=[4, 7])

    run(gallery, on_progress=delete_more)
    assert {frame for frame, *_ in state(gallery)} == {2, 3, 5}
    assert check(gallery.database) == []


def test_a_source_that_is_gone_keeps_the_old_encoder(
    gallery: Gallery, archive: Path, tmp_path: Path
) -> None:
    clip = archive / "gate" / "a.mkv"
    clip.rename(tmp_path / "away.mkv")
    before = state(gallery)
    result = run(gallery)
    (failure,) = result.failures
    assert failure.uri == str(clip)
    assert (result.frames, result.lacking, result.active) == (3, 4, False)
    with gallery.database.read() as connection:
        job = list_jobs(connection)[0]
    assert (job.discovered, job.indexed, job.failed) == (4, 3, 1)
    assert state(gallery) == before

    date(make_video(clip, range(0, 600, 100)))
    shorter = run(gallery)
    assert "shorter" in shorter.failures[0].reason
    assert not shorter.active
    shutil.copy(tmp_path / "away.mkv", clip)
    again = run(gallery)
    assert (again.frames, again.lacking, again.active) == (2, 0, True)
    assert state(gallery) == before


def test_an_incomplete_flip_has_to_be_asked_for(gallery: Gallery, archive: Path) -> None:
    (archive / "gate" / "a.mkv").unlink()
    result = run(gallery, incomplete=True)
    assert (result.lacking, result.active) == (4, True)
    assert len({frame for frame, *_ in state(gallery)}) == 3


def test_a_run_that_was_cancelled_is_gone_on_with(gallery: Gallery) -> None:
    def cancel(done: int, _: int) -> None:
        if done == 4:
            with gallery.database.write() as connection:
                cancel_job(connection, list_jobs(connection)[0].id)

    with pytest.raises(JobCancelled):
        run(gallery, on_progress=cancel)
    with gallery.database.read() as connection:
        assert list_jobs(connection)[0].state == JobState.CANCELLED
    result = run(gallery)
    assert (result.frames, result.active) == (3, True)


def test_the_command_with_small_networks(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for seed in range(2):
        Image.fromarray(random_picture(96, 128, seed)).save(pictures / f"{seed}.png")
        date(pictures / f"{seed}.png")
    for seed in range(2):
        network = small_network(rpn_post_nms_test=8)
        set_weights(network, seed)
        save(network, tmp_path / f"w{seed}")

    def call(*line: str) -> str:
        result = CliRunner().invoke(binet.app, [*line, "--gallery", str(tmp_path / "g")])
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    call("index", str(pictures), "--weights", str(tmp_path / "w0"))
    said = call("gallery", "reindex", "--weights", str(tmp_path / "w1"), "--drop-old")
    assert "searched with encoder 2 now" in said
    assert "boxes of the old encoder are deleted" in said
    assert call("gallery", "repair").startswith("taken out: 0 frames and 0 boxes")
    # The right weights are taken without being named.
    found = json.loads(call("search", "--crop", str(pictures / "0.png"), "--json"))
    assert found["encoder"]["id"] == 2
