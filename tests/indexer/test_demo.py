"""The demo from source file to result files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import binet
from indexer.demo import UNTRAINED_BANNER, UNTRAINED_BOXES, read_source, run_demo
from indexer.draw import ALERT_COLOUR
from indexer.errors import OutputError, SourceError
from model import CheckpointError, PictureError, PreprocessingConfig, create, save, variant_config

RED = tuple(int(ALERT_COLOUR[i : i + 2], 16) for i in (1, 3, 5))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small network; random weights, but the demo cannot know."""
    config = variant_config(
        "binet",
        backbone="mobilenet_v2",
        num_pids=2,
        queue_size=2,
        score_threshold=0.1,
        preprocessing=PreprocessingConfig(min_side=64, max_side=128),
    )
    folder = tmp_path_factory.mktemp("weights")
    save(create(config, backbone_weights="random")[0], folder)
    return folder


def noise(path: Path, size: tuple[int, int] = (80, 60), **options: Any) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def has_banner(picture: Path) -> bool:
    with Image.open(picture) as image:
        return image.getpixel((0, 0)) == RED


def test_picture_with_weights(tmp_path: Path, weights: Path) -> None:
    result = run_demo(noise(tmp_path / "street.png"), weights, tmp_path / "new" / "out", 3)
    assert result.trained
    assert not has_banner(result.picture)
    document = json.loads(result.document.read_text())
    assert document["source"] == "street.png"
    assert document["settings"]["score_threshold"] == 0.1
    (frame,) = document["frames"]
    assert (frame["timestamp_s"], frame["width"], frame["height"]) == (None, 80, 60)
    assert len(frame["boxes_xyxy"]) == len(frame["scores"]) == result.boxes > 0
    boxes = np.array(frame["boxes_xyxy"])
    assert boxes.min() >= 0
    assert (boxes.max(axis=0) <= [80, 60, 80, 60]).all()


def test_untrained_is_marked_repeatable_and_bounded(tmp_path: Path) -> None:
    source = noise(tmp_path / "street.png", (64, 64))
    results = [run_demo(source, None, tmp_path / out, 3) for out in ("a", "b")]
    documents = [json.loads(result.document.read_text()) for result in results]
    assert documents[0]["frames"] == documents[1]["frames"]
    assert documents[0]["settings"]["trained"] is False
    assert 0 < results[0].boxes <= UNTRAINED_BOXES
    assert has_banner(results[0].picture)


def test_command_says_what_it_did(tmp_path: Path, weights: Path) -> None:
    source, out = noise(tmp_path / "street.png"), tmp_path / "out"
    runner = CliRunner()
    trained = runner.invoke(
        binet.app, ["demo", str(source), "--weights", str(weights), "--out", str(out)]
    )
    assert trained.exit_code == 0, trained.output
    assert "1 frame, " in trained.output
    assert "s per frame" in trained.output
    assert str(out / "result.png") in trained.output
    assert UNTRAINED_BANNER not in trained.output

    untrained = runner.invoke(binet.app, ["demo", str(source), "--out", str(out)])
    assert untrained.exit_code == 0, untrained.output
    assert UNTRAINED_BANNER in untrained.output
    assert "WEIGHTS=" in untrained.output


def test_video_becomes_a_contact_sheet(tmp_path: Path, weights: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'binet[video]'")
    from tests.indexer.test_video import make_video

    source = make_video(tmp_path / "clip.mp4")
    result = run_demo(source, weights, tmp_path / "out", 4)
    assert result.frames == 4
    document = json.loads(result.document.read_text())
    assert [frame["timestamp_s"] for frame in document["frames"]] == [0.5, 1.5, 2.5, 3.5]
    with Image.open(result.picture) as sheet:
        assert sheet.width == 640
        assert sheet.height > 4 * 480


def test_picture_comes_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right
    source = noise(tmp_path / "turned.jpg", (80, 60), exif=exif)
    (frame,) = read_source(source, 1)
    assert frame.picture.size == (60, 80)
    assert frame.timestamp_s is None


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "I;16", "P", "1"])
def test_any_kind_of_picture_is_read_as_rgb(tmp_path: Path, mode: str) -> None:
    source = tmp_path / "picture.tif"
    Image.new(mode, (20, 10)).save(source)
    (frame,) = read_source(source, 1)
    assert (frame.picture.mode, frame.picture.size) == ("RGB", (20, 10))


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        read_source(tmp_path / "nothing.jpg", 1)
    with pytest.raises(SourceError, match="is a folder"):
        read_source(tmp_path, 1)
    whole = noise(tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PictureError, match=r"half\.png"):
        read_source(tmp_path / "half.png", 1)


def test_an_mpeg_is_a_video_although_pillow_knows_it(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'binet[video]'")
    from tests.indexer.test_video import make_video

    source = make_video(tmp_path / "clip.mkv", codec="mpeg2video").rename(tmp_path / "clip.mpg")
    assert len(read_source(source, 2)) == 2


def test_weights_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        run_demo(noise(tmp_path / "street.png"), tmp_path / "nowhere", tmp_path / "out", 1)


def test_out_that_is_a_file(tmp_path: Path, weights: Path) -> None:
    source = noise(tmp_path / "street.png")
    with pytest.raises(OutputError, match=r"street\.png"):
        run_demo(source, weights, source, 1)
