"""Sizes, and what is refused as a picture. What each kind looks like to the network is in
test_inference."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model import PictureError, Preprocessing, PreprocessingConfig, read_picture
from model.preprocessing import to_rgb
from tests.conftest import random_picture

PAPER = Preprocessing(PreprocessingConfig())


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (1920, 1080, (562, 1000)),  # the longer side decides: 1080 * 1000 / 1920
        (800, 600, (600, 800)),
        (576, 768, (800, 600)),
        (400, 300, (600, 800)),  # small pictures grow
        (8000, 40, (5, 1000)),
        (5000, 1, (1, 1000)),
    ],
)
def test_sizes_of_the_paper(width: int, height: int, expected: tuple[int, int]) -> None:
    scene = PAPER.scene(np.zeros((height, width, 3), np.uint8))
    assert tuple(scene.pixels.shape) == (3, *expected)
    assert scene.pixels.dtype == torch.uint8
    assert (scene.width, scene.height) == (width, height)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 300), st.integers(1, 300))
def test_boxes_scale_to_the_input(width: int, height: int) -> None:
    scene = PAPER.scene(np.zeros((height, width, 3), np.uint8))
    whole = torch.tensor([0, 0, width, height]) * scene.scale
    expected = torch.tensor([0, 0, scene.pixels.shape[2], scene.pixels.shape[1]])
    torch.testing.assert_close(whole, expected.float())


def test_resizing_is_pillows() -> None:
    picture = random_picture(300, 500)
    ours = PAPER.patch(picture).permute(1, 2, 0).numpy().astype(int)
    theirs = np.asarray(Image.fromarray(picture).resize((96, 224), Image.Resampling.BILINEAR))
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((4, 4, 5), np.uint8), "channels"),
        (np.zeros((3, 4, 4, 3), np.uint8), "uint8 array"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"\[3, H, W\]"),
        (torch.zeros(3, 4, 4), "uint8 tensor"),
        ("scene.jpg", "read_picture"),
    ],
)
def test_what_is_no_picture_is_named(picture: object, message: str) -> None:
    with pytest.raises(PictureError, match=message):
        to_rgb(picture)  # type: ignore[arg-type]


def test_reading(tmp_path: Path) -> None:
    Image.fromarray(random_picture(20, 30)).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert (np.asarray(picture) == random_picture(20, 30)).all()


def test_missing_broken_and_cut_files(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"none\.png"):
        read_picture(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(PictureError, match=r"text\.png"):
        read_picture(tmp_path / "text.png")
    Image.fromarray(random_picture(200, 300)).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(PictureError, match=r"cut\.jpg"):
        read_picture(tmp_path / "cut.jpg")


def test_a_decompression_bomb_is_refused_from_the_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for side in (40, 60):  # above the limit, where Pillow warns; above twice, where it raises
        Image.new("L", (side, side)).save(tmp_path / "bomb.png")
        with pytest.raises(PictureError, match="too large"):
            read_picture(tmp_path / "bomb.png")
