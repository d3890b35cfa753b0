"""Pictures with their boxes and identities, to look at before anything is trained."""

import colorsys
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from model.annotations import UNLABELLED, AnnotatedScene
from model.errors import PictureError

#: Width of a picture on the sheet, in pixels.
CELL_WIDTH = 960
#: Pictures beside each other.
COLUMNS = 2
GAP = 8
UNLABELLED_COLOUR = (160, 160, 160)
DARK = (16, 16, 16)
#: Successive hues differ by the golden ratio of the circle, so that neighbours never look alike.
HUE_STEP = 0.618034

Colour = tuple[int, int, int]


def pick(scenes: Sequence[AnnotatedScene], count: int) -> list[AnnotatedScene]:
    """Return scenes spread evenly over the dataset, those with people first."""
    peopled = [scene for scene in scenes if len(scene)] or list(scenes)
    count = min(count, len(peopled))
    return [peopled[i * len(peopled) // count] for i in range(count)]


def draw_scene(scene: AnnotatedScene, own: dict[int, int] | None = None) -> Image.Image:
    """Draw the boxes and identities of a scene.

    Parameters
    ----------
    own
        From the scene's identities to the dataset's own numbers, where they differ.

    Returns
    -------
    `CELL_WIDTH` wide, with a line of text above.

    Raises
    ------
    PictureError
        The file is missing or not a picture.
    """
    try:
        with Image.open(scene.path) as file:
            picture = file.convert("RGB")
    except OSError as error:
        raise PictureError(f"{scene.path} is not a picture: {error}") from error
    scale = CELL_WIDTH / picture.width
    canvas = picture.resize((CELL_WIDTH, max(1, round(picture.height * scale))))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(18)
    for box, pid in zip(scene.boxes_xyxy.tolist(), scene.pids.tolist(), strict=True):
        colour = pid_colour(pid)
        x1, y1, x2, y2 = (side * scale for side in box)
        draw.rectangle((x1, y1, x2, y2), outline=colour, width=3)
        text = "?" if pid == UNLABELLED else str((own or {}).get(pid, pid))
        left, top, right, bottom = draw.textbbox((x1 + 3, y1 + 2), text, font=font)
        draw.rectangle((left - 2, top - 2, right + 2, bottom + 2), fill=colour)
        draw.text((x1 + 3, y1 + 2), text, fill=DARK, font=font)
    caption = Image.new("RGB", (CELL_WIDTH, canvas.height + 28), DARK)
    camera = "" if scene.camera is None else f", camera {scene.camera}"
    people = "1 person" if len(scene) == 1 else f"{len(scene)} people"
    words = f"{scene.name}{camera}, {people}"
    ImageDraw.Draw(caption).text((6, 4), words, fill=(244, 244, 244), font=font)
    caption.paste(canvas, (0, 28))
    return caption


def draw_sheet(scenes: Sequence[AnnotatedScene], own: dict[int, int] | None = None) -> Image.Image:
    """Draw scenes in rows of `COLUMNS`."""
    cells = [draw_scene(scene, own) for scene in scenes]
    rows = [cells[i : i + COLUMNS] for i in range(0, len(cells), COLUMNS)]
    heights = [max(cell.height for cell in row) for row in rows]
    columns = min(COLUMNS, len(cells))
    width = columns * CELL_WIDTH + (columns - 1) * GAP
    sheet = Image.new("RGB", (width, sum(heights) + GAP * (len(rows) - 1)), DARK)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (column * (CELL_WIDTH + GAP), top))
        top += height + GAP
    return sheet


def pid_colour(pid: int) -> Colour:
    """Return the same bright colour for the same person everywhere; grey without identity."""
    if pid == UNLABELLED:
        return UNLABELLED_COLOUR
    red, green, blue = colorsys.hsv_to_rgb(pid * HUE_STEP % 1, 0.75, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)
