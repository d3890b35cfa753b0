"""The demo from source file to picture, page and figures."""

import gzip
import hashlib
import json
import subprocess
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("av", reason="PyAV is not installed: pip install 'binet[video]'")

import binet
from indexer import sample_video
from indexer.demo import DemoResult, run_demo
from indexer.errors import OutputError, SourceError
from indexer.grouping import Appearance
from indexer.query import FoundFrame, Hit
from indexer.returning import choose
from model import CheckpointError, PictureError, PreprocessingConfig, create, save, variant_config
from tests.indexer.archives_made import make_noise_clip, make_picture
from tests.indexer.galleries import START


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small network; random weights, but the demo cannot know."""
    config = variant_config(
        "binet",
        backbone="mobilenet_v2",
        num_pids=2,
        queue_size=2,
        score_threshold=0.1,
        rpn_post_nms_test=10,
        # As the repository's own: a person's own crop is embedded as it was in the gallery.
        gallery_branch="instance",
        preprocessing=PreprocessingConfig(min_side=64, max_side=128),
    )
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    save(create(config, backbone_weights="random")[0], folder)
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> DemoResult:
    folder = tmp_path_factory.mktemp("demo")
    return run_demo(make_noise_clip(folder / "street.mkv", 8), weights, folder / "new" / "out")


def test_the_demo_indexes_asks_and_shows(done: DemoResult) -> None:
    assert done.indexed.new_frames == 8
    assert done.indexed.new_boxes > 8
    assert done.returns is not None
    assert done.appearances
    scores = [appearance.score for appearance in done.appearances]
    assert scores == sorted(scores, reverse=True)
    with Image.open(done.picture) as picture:
        assert picture.width >= 1440
        assert len(picture.getcolors(10**6) or []) > 50
    page = done.page.read_text()
    assert page.count("<img") == 1 + min(len(done.appearances), 8)
    assert "nobody is identified" in page
    assert "http" not in page.replace("http-equiv", "")
    document = json.loads(done.document.read_text())
    assert document["meaning"] == "similar, not identified"
    assert len(document["appearances"]) == len(done.appearances)
    own = document["query"]["best"]["box_id"]
    assert all(a["best"]["box_id"] != own for a in document["appearances"])


def test_a_second_run_looks_at_nothing_again(done: DemoResult, weights: Path) -> None:
    out = done.page.parent
    again = run_demo(out.parents[1] / "street.mkv", weights, out, query=done.query)
    assert (again.indexed.new_frames, again.indexed.unchanged) == (0, 1)
    assert again.returns is None
    # With its own crop, the person's own appearance is the most similar one.
    assert again.appearances[0].score > 0.99
    result = CliRunner().invoke(
        binet.app,
        ["demo", str(out.parents[1] / "street.mkv"), "--weights", str(weights), "--out", str(out)],
    )
    assert result.exit_code == 0, result.output
    assert "nothing was indexed again" in result.output
    assert "similar, not identified" in result.output
    assert f"binet search --crop {done.query}" in result.output


def test_a_folder_of_pictures(tmp_path: Path, weights: Path) -> None:
    make_picture(tmp_path / "cam" / "a.png")
    make_picture(tmp_path / "cam" / "b.png")
    found = run_demo(tmp_path / "cam", weights, tmp_path / "out")
    assert found.indexed.new_frames > 0
    assert found.page.is_file()


def test_what_cannot_be_shown_says_why(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        run_demo(tmp_path / "none.mp4", weights, tmp_path / "out")
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 50)
    with pytest.raises(SourceError, match="nothing could be indexed"):
        run_demo(tmp_path / "broken.mp4", weights, tmp_path / "out")
    clip = make_noise_clip(tmp_path / "a.mkv", 2)
    with pytest.raises(CheckpointError):
        run_demo(clip, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(PictureError):
        run_demo(clip, weights, tmp_path / "out", query=tmp_path / "none.jpg")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError):
        run_demo(clip, weights, tmp_path / "file" / "out")


# --- who leaves and returns -------------------------------------------------------------------


def seen(first: int, seconds: range, height: float = 50, step: float = 10) -> Appearance:
    """Somebody in a frame of each of these seconds, who goes so many pixels a second."""
    return Appearance(
        tuple(
            Hit(
                first + number,
                0.0,
                (step * number, 0, step * number + 20, height + number),
                0.9,
                FoundFrame(
                    second, 1, second, 1, "door", START + timedelta(seconds=second), None, 99, 99
                ),
            )
            for number, second in enumerate(seconds)
        )
    )


def vectors(people: dict[int, list[Appearance]], spread: float = 0.1) -> dict[int, Any]:
    rng = np.random.default_rng(0)
    found = {}
    for person, appearances in people.items():
        for appearance in appearances:
            for hit in appearance.hits:
                vector = np.eye(8)[person] + spread * rng.standard_normal(8)
                found[hit.box_id] = (vector / np.linalg.norm(vector)).astype(np.float32)
    return found


def test_who_leaves_and_returns_is_asked_for() -> None:
    stays, leaves, back = seen(0, range(40)), seen(100, range(5)), seen(200, range(20, 26))
    other = seen(300, range(21, 30))
    of = vectors({0: [stays], 1: [leaves, back], 2: [other]})
    chosen = choose([stays, leaves, back, other], of)
    assert chosen is not None
    assert chosen.returns
    assert chosen.appearance is leaves
    assert chosen.best.box_id == 104  # the tallest


def test_a_post_that_is_taken_for_somebody_is_not_asked_for() -> None:
    post, again = seen(0, range(30), step=0.1), seen(100, range(40, 60), step=0.1)
    leaves, back = seen(200, range(5)), seen(300, range(20, 26))
    of = {**vectors({0: [post, again]}, 0.01), **vectors({1: [leaves, back]})}
    chosen = choose([post, again, leaves, back], of)
    assert chosen is not None
    assert chosen.appearance is leaves
    alone = choose([post], of)
    assert alone is not None
    assert alone.appearance is post


def test_who_is_seen_at_the_same_time_is_somebody_else() -> None:
    one, twin, third = seen(0, range(10)), seen(100, range(5, 15)), seen(200, range(40, 44))
    of = vectors({0: [one, twin], 1: [third]})
    chosen = choose([one, twin, third], of)
    assert chosen is not None
    assert chosen.appearance in (one, twin)  # unlike `third`, but nearer to it than to nobody
    alone = choose([one, twin], of)
    assert alone is not None
    assert not alone.returns


def test_without_a_return_the_longest_is_asked_for() -> None:
    long, short = seen(0, range(9)), seen(100, range(1))
    chosen = choose([short, long], vectors({0: [long], 1: [short]}))
    assert chosen is not None
    assert chosen.appearance is long
    assert not chosen.returns
    assert choose([], {}) is None


# --- the sample video -------------------------------------------------------------------------


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bytes:
    data = b"a clip"
    monkeypatch.setattr(sample_video, "SHA256", hashlib.sha256(data).hexdigest())
    monkeypatch.setenv("BINET_CACHE", str(tmp_path / "cache"))
    return data


def test_the_sample_is_fetched_once(monkeypatch: pytest.MonkeyPatch, sample: bytes) -> None:
    monkeypatch.setattr(sample_video, "urlopen", lambda *_, **__: BytesIO(sample))
    said: list[str] = []
    first = sample_video.find_sample(said.append)
    assert first is not None
    assert first.read_bytes() == sample
    assert sample_video.find_sample(said.append) == first
    assert len(said) == 1


def test_debians_package_is_the_second_choice(
    monkeypatch: pytest.MonkeyPatch, sample: bytes
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route")

    def run(command: tuple[str, ...], cwd: str, **_: object) -> None:
        if command[0] == "apt-get":
            Path(cwd, "opencv-doc_4.deb").touch()
        else:
            target = Path(cwd, "files/usr/share/doc/data/vtest.avi.gz")
            target.parent.mkdir(parents=True)
            target.write_bytes(gzip.compress(sample))

    monkeypatch.setattr(sample_video, "urlopen", refuse)
    monkeypatch.setattr(subprocess, "run", run)
    said: list[str] = []
    found = sample_video.find_sample(said.append)
    assert found is not None
    assert found.read_bytes() == sample
    assert any("no route" in line for line in said)


def test_another_file_is_not_used(monkeypatch: pytest.MonkeyPatch, sample: bytes) -> None:
    assert sample
    monkeypatch.setattr(sample_video, "urlopen", lambda *_, **__: BytesIO(b"something else"))
    monkeypatch.setattr(sample_video, "_from_debian", lambda: b"another thing")
    said: list[str] = []
    assert sample_video.find_sample(said.append) is None
    assert sum("not used" in line for line in said) == 2
