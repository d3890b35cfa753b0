"""Drawing: nothing breaks, nothing leaves the picture, and what is drawn is where it should be."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from indexer.draw import BOX_COLOUR, MAX_SIDE, MIN_SIDE, add_caption, draw_boxes, stack

YELLOW = tuple(int(BOX_COLOUR[i : i + 2], 16) for i in (1, 3, 5))


def yellow(picture: Image.Image) -> npt.NDArray[np.bool_]:
    same: npt.NDArray[np.bool_] = np.all(np.asarray(picture) == np.array(YELLOW), axis=2)
    return same


def test_nobody_is_drawn_as_nothing() -> None:
    picture = Image.new("RGB", (800, 600), "grey")
    drawn = draw_boxes(picture, np.zeros((0, 4)), np.zeros(0))
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(picture))


def test_box_is_where_it_belongs_and_the_picture_is_untouched() -> None:
    picture = Image.new("RGB", (1000, 800), "grey")
    drawn = draw_boxes(picture, np.array([[200, 300, 400, 700]]), np.array([0.9]))
    assert drawn.size == picture.size
    assert not yellow(picture).any()
    marked = yellow(drawn)
    assert marked[500, 200]
    assert marked[500, 400]
    assert marked[700, 300]
    assert not marked[500, 210:390].any()
    rows, columns = np.nonzero(marked)
    assert columns.min() >= 199
    assert columns.max() <= 401
    assert rows.max() <= 701
    assert rows.min() < 300  # the label stands above the box


@pytest.mark.parametrize(
    ("size", "drawn_size"),
    [
        ((8, 8), (640, 640)),
        ((320, 160), (640, 320)),
        ((8000, 4000), (1920, 960)),
        ((8000, 2), (1920, 1)),
    ],
)
def test_small_is_enlarged_and_large_reduced(
    size: tuple[int, int], drawn_size: tuple[int, int]
) -> None:
    whole = np.array([[0, 0, *size]])
    drawn = draw_boxes(Image.new("RGB", size), whole, np.array([1.0]))
    assert drawn.size == drawn_size
    assert yellow(drawn).any()


@settings(max_examples=25, deadline=None)
@given(
    width=st.integers(1, 2500),
    height=st.integers(1, 60),
    corners=st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=4),
)
def test_any_box_on_any_picture(
    width: int, height: int, corners: list[tuple[float, float, float, float]]
) -> None:
    boxes = np.array(
        [
            (min(a, c) * width, min(b, d) * height, max(a, c) * width, max(b, d) * height)
            for a, b, c, d in corners
        ]
    ).reshape(-1, 4)
    drawn = draw_boxes(Image.new("RGB", (width, height)), boxes, np.linspace(0, 1, len(boxes)))
    assert MIN_SIDE <= max(drawn.size) <= MAX_SIDE


def test_caption_is_wrapped_and_leaves_the_picture_whole() -> None:
    picture = Image.new("RGB", (400, 100), "blue")
    one = add_caption(picture, "short")
    many = add_caption(picture, "many words " * 30)
    assert one.width == many.width == 400
    assert many.height > one.height > 100
    np.testing.assert_array_equal(np.asarray(many)[-100:], np.asarray(picture))


def test_stack_puts_one_below_the_other() -> None:
    red, blue = Image.new("RGB", (50, 20), "red"), Image.new("RGB", (30, 40), "blue")
    sheet = stack([red, blue])
    assert sheet.width == 50
    assert sheet.height >= 60
    assert sheet.getpixel((0, 0)) == (255, 0, 0)
    assert sheet.getpixel((0, sheet.height - 1)) == (0, 0, 255)
