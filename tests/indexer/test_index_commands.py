"""`binet index`, `binet search`, `binet gallery` from the command line, with a small network."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("av", reason="PyAV is not installed: pip install 'binet[video]'")

import binet
from indexer.gallery import Gallery
from indexer.jobs import cancel_job, create_job, list_jobs
from indexer.query import Query
from indexer.schema import JobState
from model import BINetError, save
from tests.conftest import random_picture, small_network
from tests.indexer.archives_made import content, date, make_picture
from tests.indexer.test_video import make_video

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save(small_network(rpn_post_nms_test=8), folder)
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in a folder of its own and returns its JSON."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path | int, code: int = 0) -> Any:
        result = CliRunner().invoke(binet.app, [*map(str, arguments), "--json"])
        if isinstance(result.exception, BINetError):
            raise result.exception
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    return call


def scene(path: Path, seed: int = 0) -> Path:
    Image.fromarray(random_picture(96, 128, seed)).save(path)
    return date(path)


def test_index_and_search_in_every_way(tmp_path: Path, weights: Path, run: Run) -> None:
    (tmp_path / "gate").mkdir()
    date(make_video(tmp_path / "gate" / "a.mkv", range(0, 600, 100)))
    street = scene(tmp_path / "gate" / "street.png")
    indexed = run("index", "gate", "--weights", weights, "--keep", "thumbnails")
    assert (indexed["discovered"], indexed["indexed"], indexed["failed"]) == (2, 2, 0)
    assert indexed["report"]["frames"] == indexed["new_frames"] == 7
    assert set(indexed["report"]["stages"]) == {"decode", "preprocess", "network", "commit"}
    assert 0 < indexed["report"]["network_busy_share"] <= 1

    stats = run("gallery", "stats")
    assert (stats["frames"], stats["boxes"]) == (7, indexed["new_boxes"])
    assert stats["jobs"][0]["state"] == "done"
    assert run("gallery", "check") == {"in_order": True, "findings": []}

    # A person marked in a scene that is in the gallery is most similar to themselves.
    with Gallery.open("gallery") as gallery:
        hits = [hit for hit in _all_hits(gallery) if hit.frame.width == 128]
    marked = max(hits, key=lambda hit: hit.detection_score)
    box = ",".join(map(str, marked.box_xyxy))
    found = run("search", "--scene", street, "--box", box, "-k", 3, "--html", "page.html")
    assert found["meaning"] == "similar, not identified"
    assert len(found["results"]) == 3
    first = found["results"][0]
    assert first["box_id"] == marked.box_id
    assert first["score"] > 0.999
    assert first["frame"]["camera"] == "gate"

    page = Path("page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4
    assert not re.search(r"https?://|identified as", page)

    by_id = run("search", "--box-id", marked.box_id, "-k", 5)
    assert marked.box_id not in [one["box_id"] for one in by_id["results"]]
    crop = run("search", "--crop", street, "--weights", weights, "--camera", "gate")
    assert crop["results"]
    late = run("search", "--box-id", marked.box_id, "--after", "2027-01-01")
    assert late["results"] == []


def _all_hits(gallery: Gallery) -> list[Any]:
    direction = np.zeros((1, gallery.view().encoder.dimension), np.float32)
    direction[0, 0] = 1
    return gallery.search(Query(positives=direction), 1000).hits


def test_batch_and_workers_change_nothing(tmp_path: Path, weights: Path, run: Run) -> None:
    folder = tmp_path / "cam"
    folder.mkdir()
    date(make_video(folder / "a.mkv", range(0, 500, 100)))
    for seed in range(3):
        scene(folder / f"s{seed}.png", seed)
    run("index", "cam", "--weights", weights, "--gallery", "one", "--batch", 1, "--workers", 1)
    run("index", "cam", "--weights", weights, "--gallery", "two", "--batch", 4, "--workers", 3)
    one, two = content("one"), content("two")
    assert [row[:-1] for row in one] == [row[:-1] for row in two]
    for a, b in zip(one, two, strict=True):
        # Sums of another length are rounded otherwise: the last digits may differ.
        numbers_a, numbers_b = ([found[:5] for found in row[-1]] for row in (a, b))
        np.testing.assert_allclose(numbers_a, numbers_b, rtol=1e-3, atol=2e-3)
        vectors_a, vectors_b = (
            np.array([np.frombuffer(found[5], "<f2") for found in row[-1]], np.float32)
            for row in (a, b)
        )
        np.testing.assert_allclose(vectors_a, vectors_b, atol=2e-3)


def test_region_and_height_leave_people_out(tmp_path: Path, weights: Path, run: Run) -> None:
    folder = tmp_path / "cam"
    folder.mkdir()
    scene(folder / "s.png")
    run("index", "cam", "--weights", weights, "--gallery", "all")
    run("index", "cam", "--weights", weights, "--gallery", "left", "--roi", "0,0,64,0,64,96,0,96")
    run("index", "cam", "--weights", weights, "--gallery", "tall", "--min-height", 40)
    boxes = {name: content(name)[0][-1] for name in ("all", "left", "tall")}
    assert boxes["left"] == [b for b in boxes["all"] if (b[0] + b[2]) / 2 <= 64 and b[3] <= 96]
    assert boxes["tall"] == [b for b in boxes["all"] if b[3] - b[1] >= 40]
    assert 0 < len(boxes["left"]) < len(boxes["all"])


def test_a_broken_file_is_exit_code_3(tmp_path: Path, weights: Path, run: Run) -> None:
    folder = tmp_path / "cam"
    make_picture(folder / "good.png")
    (folder / "bad.mp4").write_bytes(b"no video at all")
    (folder / "notes.txt").write_text("nothing to index")
    result = run("index", "cam", "--weights", weights, code=3)
    assert (result["discovered"], result["indexed"], result["failed"]) == (2, 1, 1)
    assert result["ignored"] == 1
    assert result["failures"][0]["uri"].endswith("bad.mp4")
    assert "not a video" in result["failures"][0]["reason"]


def test_other_weights_are_refused(tmp_path: Path, weights: Path, run: Run) -> None:
    make_picture(tmp_path / "cam" / "a.png")
    run("index", "cam", "--weights", weights)
    save(small_network(rpn_post_nms_test=8, num_pids=7), tmp_path / "other")
    with pytest.raises(BINetError, match="made with other weights"):
        run("index", "cam", "--weights", tmp_path / "other")
    with pytest.raises(BINetError, match="made with other weights"):
        run("search", "--crop", "cam/a.png", "--weights", tmp_path / "other")


def test_resume_without_a_job(tmp_path: Path, weights: Path, run: Run) -> None:
    make_picture(tmp_path / "cam" / "a.png")
    run("index", "cam", "--weights", weights)
    with pytest.raises(BINetError, match="nothing to resume"):
        run("index", "--resume")


def test_resume_goes_on_with_a_cancelled_job(tmp_path: Path, weights: Path, run: Run) -> None:
    for number in range(4):
        make_picture(tmp_path / "cam" / f"{number}.png", number)
    run("index", "cam/0.png", "--weights", weights, "--gallery", "g")
    with Gallery.open("g") as gallery, gallery.database.write() as connection:
        (job,) = list_jobs(connection)
        cancel_job(
            connection,
            create_job(connection, "index", {**job.request, "sources": [str(tmp_path / "cam")]}),
        )
    result = run("index", "--resume", "--gallery", "g")
    assert (result["job_id"], result["indexed"], result["unchanged"]) == (2, 4, 1)
    with Gallery.open("g") as gallery, gallery.database.read() as connection:
        assert [job.state for job in list_jobs(connection)] == [JobState.DONE, JobState.DONE]


@pytest.mark.parametrize(
    "arguments",
    [
        ["search"],
        ["search", "--scene", "a.png"],
        ["search", "--scene", "a.png", "--box", "5,5,1,1"],
        ["search", "--box-id", "1", "--crop", "a.png"],
        ["search", "--box-id", "1", "--gallery", "nowhere"],
        ["index", "nowhere.mp4", "--weights", "nowhere"],
        ["index", "a.png", "--weights", "w", "--roi", "1,2,3"],
        ["index", "a.png", "--weights", "w", "--start", "yesterday"],
        ["gallery", "check", "--gallery", "nowhere"],
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], run: Run) -> None:
    with pytest.raises(BINetError) as error:
        run(*arguments)
    assert "\n" not in str(error.value)
    assert not Path("gallery").exists()


def test_the_real_clip(shared: Path, weights: Path, run: Run) -> None:
    clip = shared / "data" / "intel_one_by_one" / "one-by-one-person-detection.mp4"
    result = run("index", clip, "--weights", weights, "--fps", "0.1", "--camera", "table")
    assert (result["indexed"], result["failed"]) == (1, 0)
    assert result["new_frames"] == 14
    assert run("gallery", "check")["in_order"]
