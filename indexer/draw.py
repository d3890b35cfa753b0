"""Boxes, captions and contact sheets, readable on a thumbnail and on an 8K frame."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

#: The longer side of a drawn picture, in pixels, lies between these two.
MIN_SIDE = 640
MAX_SIDE = 1920

BOX_COLOUR = "#ffd400"
DARK = "#101010"
LIGHT = "#f4f4f4"
ALERT_COLOUR = "#c4161c"

Boxes = npt.NDArray[np.floating[Any]]
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def draw_boxes(picture: Image.Image, boxes_xyxy: Boxes, scores: Boxes) -> Image.Image:
    """Draw boxes with their scores on a copy, enlarged or reduced to a size that can be read.

    Parameters
    ----------
    picture
        Upright; a picture with another orientation in its EXIF would get its boxes turned.
    boxes_xyxy
        [N, 4] in pixels of the picture.
    scores
        [N].
    """
    longer = max(picture.size)
    scale = min(max(longer, MIN_SIDE), MAX_SIDE) / longer
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    canvas = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    line = max(2, round(max(size) / 400))
    font = font_for(max(size))
    # The best box is drawn last, so that it lies on top.
    for box, score in sorted(zip(boxes_xyxy, scores, strict=True), key=lambda pair: pair[1]):
        x1, y1, x2, y2 = (float(side) * scale for side in box)
        draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=DARK, width=line + 2)
        draw.rectangle((x1, y1, x2, y2), outline=BOX_COLOUR, width=line)
        _label(draw, f"{score:.2f}", (x1, y1), size, font)
    return canvas


def add_caption(picture: Image.Image, text: str, *, alert: bool = False) -> Image.Image:
    """Put a line of text on a strip above the picture; it is wrapped where it is too long."""
    width = max(picture.width, MIN_SIDE // 2)
    font = font_for(width)
    margin = max(4, width // 100)
    lines = _wrap(text, font, width - 2 * margin)
    line_height = round(font.getbbox("Ag")[3] * 1.3)
    strip = line_height * len(lines) + margin
    captioned = Image.new("RGB", (width, picture.height + strip), ALERT_COLOUR if alert else DARK)
    captioned.paste(picture, (0, strip))
    draw = ImageDraw.Draw(captioned)
    for row, words in enumerate(lines):
        draw.text((margin, margin // 2 + row * line_height), words, fill=LIGHT, font=font)
    return captioned


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Put pictures below each other: a contact sheet."""
    gap = 8
    width = max(picture.width for picture in pictures)
    height = sum(picture.height for picture in pictures) + gap * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, height), DARK)
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height + gap
    return sheet


def font_for(side: int) -> Font:
    """Return a font for a picture of so many pixels."""
    return ImageFont.load_default(max(14, round(side / 60)))


def _label(
    draw: ImageDraw.ImageDraw,
    text: str,
    corner: tuple[float, float],
    size: tuple[int, int],
    f: Font,
) -> None:
    """Write a label above the corner, or below it where there is no room, inside the picture."""
    left, top, right, bottom = f.getbbox(text)
    width, height = right - left + 6, bottom - top + 6
    x = min(max(corner[0], 0), max(0, size[0] - width))
    y = corner[1] - height if corner[1] >= height else corner[1]
    y = min(max(y, 0), max(0, size[1] - height))
    draw.rectangle((x, y, x + width, y + height), fill=BOX_COLOUR)
    draw.text((x + 3 - left, y + 3 - top), text, fill=DARK, font=f)


def _wrap(text: str, font: Font, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
