"""What is there without people: grounds, walls, fixed objects, and the painted surroundings."""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from training.synth.figure import Sprite
from training.synth.texture import grain, pattern
from training.synth.world import Camera, Colour, Prop, Surrounding

#: Gap between a person's box and what is painted around it, as a share of the box's height.
GAP = 0.04
#: Breadth of a side panel, height of the lintel and of the mat, as shares of the box's height.
PANEL, LINTEL, MAT = 0.3, 0.16, 0.14

#: Props are drawn larger and made smaller, which smooths their edges.
ZOOM = 3

FloatPicture = npt.NDArray[np.float32]


def draw_background(camera: Camera, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Draw the empty view, uint8 [height, width, 3], without objects that can hide people."""
    rng = np.random.default_rng([camera.seed, 0])
    foot = round(camera.wall_foot * height)
    picture = np.empty((height, width, 3), np.float32)
    picture[:foot] = _wall(rng, camera, width, foot, height / 240)
    picture[foot:] = _ground(rng, camera, width, height)[foot:]
    picture *= grain(rng, height, width, max(height // 3, 1), 0.16)[..., None]
    edge = max(round(height / 80), 1)
    picture[foot - edge : foot] *= 0.75  # a skirting
    picture[foot : foot + edge] *= 0.6  # and the shade at its foot
    return picture.clip(0, 255).astype(np.uint8)


def _ground(rng: np.random.Generator, camera: Camera, width: int, height: int) -> FloatPicture:
    """Draw the whole picture as ground; lines run to a vanishing point on the horizon."""
    colour = np.array(camera.ground_colour, np.float32)
    below = np.maximum(np.arange(height) - camera.horizon * height, 1.0)[:, None]
    u = (np.arange(width)[None] - width * rng.uniform(0.3, 0.7)) / below
    v = np.broadcast_to(height / below, (height, width))
    fine = {"grass": 0.3, "asphalt": 0.16}.get(camera.ground, 0.07)
    light = grain(rng, height, width, 2, fine)
    if camera.ground == "tiles":
        cells = np.floor(u * 4) + np.floor(v * 4)
        light = light * np.where(cells % 2 == 0, 1.0, 0.9)
        light = light * np.where((u * 4 % 1 < 0.07) | (v * 4 % 1 < 0.07), 0.78, 1.0)
    elif camera.ground == "planks":
        planks = np.floor(u * 5).astype(int)
        light = light * rng.uniform(0.82, 1.1, 4096)[planks % 4096]
        light = light * np.where(u * 5 % 1 < 0.06, 0.6, 1.0)
    elif camera.ground == "asphalt":
        centre = rng.uniform(-0.5, 0.5)
        line = (np.abs(u - centre) < 0.04) & (v * 2.5 % 1 < 0.6)
        light = light * np.where(line, 1.8, 1.0)
    else:
        light = light * grain(rng, height, width, max(height // 16, 1), 0.2)
    return (light[..., None] * colour).astype(np.float32)


def _wall(
    rng: np.random.Generator, camera: Camera, width: int, foot: int, unit: float
) -> FloatPicture:
    """Draw the rows above the wall's foot; `unit` is a pixel of 240 lines."""
    colour = np.array(camera.wall_colour, np.float32)
    light = grain(rng, foot, width, 2, 0.05)
    y, x = np.arange(foot)[:, None] / unit, np.arange(width)[None] / unit
    picture = np.broadcast_to(colour, (foot, width, 3)).copy()
    if camera.wall == "bricks":
        row = np.floor(y / 5).astype(int)
        column = np.floor((x + row % 2 * 6) / 12).astype(int)
        light = light * rng.uniform(0.8, 1.15, 997)[(row * 131 + column) % 997]
        light = light * np.where((y % 5 < 1) | ((x + row % 2 * 6) % 12 < 1), 1.2, 1.0)
    elif camera.wall == "windows":
        across, down = rng.uniform(34, 50), rng.uniform(38, 56)
        pane = (x % across > 8) & (y % down > 12)
        picture[pane] = np.array((70, 88, 110), np.float32)
        light = light * np.where(pane & ((x - y) % 40 < 9), 1.35, 1.0)
    elif camera.wall == "hedge":
        edge = foot * rng.uniform(0.15, 0.4) / unit
        sky = np.broadcast_to(y < edge + 3 * np.sin(x / 7) + 2 * np.sin(x / 3.1), (foot, width))
        light = light * np.where(sky, 1.0, grain(rng, foot, width, 3, 0.4))
        picture[sky] = np.array((188, 206, 226), np.float32)
    else:
        light = light * grain(rng, foot, width, max(foot // 2, 1), 0.12)
        light = light * np.where(y > foot / unit * 0.72, 0.82, 1.0)
    if camera.wall != "hedge":
        left, broad = rng.uniform(0.1, 0.8) * width, 34 * unit
        door = slice(max(foot - round(66 * unit), 0), foot), slice(round(left), round(left + broad))
        picture[door] = rng.uniform(50, 170, 3)
        knob = round(left + broad * 0.8)
        picture[foot - round(32 * unit) : foot - round(28 * unit), knob : knob + 2] = 230
    return (picture * light[..., None]).astype(np.float32)


def draw_prop(prop: Prop, height_px: float) -> Sprite:
    """Draw a fixed object as a cut-out that stands on its point."""
    tall = max(height_px, 8.0) * ZOOM
    width = round(tall * 0.9)
    image = Image.new("RGBA", (width, round(tall)), (0, 0, 0, 0))
    canvas = ImageDraw.Draw(image)

    def block(left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        corners = (width / 2 + left * tall, top * tall, width / 2 + right * tall, bottom * tall - 1)
        canvas.rectangle(corners, fill=(*colour, 255))

    rng = np.random.default_rng([round(prop.x * 1e6), round(prop.y * 1e6)])
    if prop.kind == "post":
        block(-0.025, 0.0, 0.025, 1.0, (90, 92, 96))
        block(-0.1, 0.04, 0.1, 0.22, prop.colour)
        block(-0.08, 0.11, 0.08, 0.15, (240, 240, 240))
    elif prop.kind == "bollard":
        block(-0.09, 0.0, 0.09, 1.0, (210, 206, 196))
        block(-0.09, 0.15, 0.09, 0.38, (190, 40, 36))
    elif prop.kind == "bin":
        block(-0.27, 0.14, 0.27, 1.0, prop.colour)
        block(-0.31, 0.0, 0.31, 0.16, (60, 62, 66))
        block(-0.16, 0.3, 0.16, 0.4, (40, 40, 44))
    else:
        trunk = prop.kind == "tree"
        if trunk:
            block(-0.04, 0.4, 0.04, 1.0, (92, 68, 48))
        else:
            block(-0.4, 0.58, 0.4, 1.0, (150, 120, 96))
            block(-0.4, 0.58, 0.4, 0.66, (176, 146, 118))
        for _ in range(60):
            turn, out = rng.uniform(0, 2 * math.pi), math.sqrt(rng.random())
            x = width / 2 + math.cos(turn) * out * 0.3 * tall
            y = (0.26 + math.sin(turn) * out * 0.2 + (0.0 if trunk else 0.08)) * tall
            radius = rng.uniform(0.05, 0.09) * tall
            green = rng.uniform(0.7, 1.25)
            leaf = (int(54 * green), int(104 * green), int(48 * green), 255)
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=leaf)
    rgba = np.array(image.reduce(ZOOM))
    return Sprite(rgba, -(rgba.shape[1] // 2), -rgba.shape[0])


def paint_surrounding(
    image: Image.Image, surrounding: Surrounding, box_xyxy: tuple[int, int, int, int]
) -> None:
    """Paint the stand of the person in this box (of the whole figure, also past the picture).

    Nothing of it lies inside the box: what is painted is a frame of side panels, a mat in front
    and, for a portal, a lintel, `GAP` away from the box. Inside the box the camera's own background
    shows, so a crop of the person tells nothing about the stand; features of the scene do, by their
    receptive field. (A neighbour's stand may be seen in a box. It tells of the neighbour.)
    """
    left, top, right, bottom = box_xyxy
    tall = bottom - top
    gap, side = max(round(GAP * tall), 1), round(PANEL * tall)
    lintel = round(LINTEL * tall) if surrounding.form == "portal" else -round(0.12 * tall)
    x0, y0 = left - gap - side, top - gap - lintel
    x1, y1 = right + gap + side, bottom + gap + round(MAT * tall)
    texture = pattern(
        surrounding.pattern,
        x1 - x0,
        y1 - y0,
        surrounding.first,
        surrounding.second,
        surrounding.cell * tall,
    )
    mask = np.full(texture.shape[:2], 255, np.uint8)
    ends = max(lintel, 0)
    opening = slice(ends, bottom + gap - y0), slice(side, x1 - x0 - side)
    mask[opening] = 0
    floor = bottom + gap - y0
    edge = max(round(0.012 * tall), 1)
    texture[:edge] = texture[:floor, :edge] = texture[:floor, -edge:] = 40
    texture[floor - edge :, :] = (texture[floor - edge :, :] * 0.85).astype(np.uint8)
    # The panels end on the ground at the feet; the mat before them lies flat and tapers away.
    for row in range(floor, y1 - y0):
        taper = round((1 - (row - floor) / max(y1 - y0 - floor, 1)) * 0.06 * tall)
        mask[row, :taper] = 0
        mask[row, x1 - x0 - taper :] = 0
    image.paste(Image.fromarray(texture), (x0, y0), Image.fromarray(mask))
