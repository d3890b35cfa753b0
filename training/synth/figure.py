"""A person as a picture: simple limbs on joints, in clothes."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from training.synth.texture import pattern
from training.synth.world import Colour, Facing, Garment, Identity

#: Lengths as shares of the height; y counts upwards from the soles.
HIP, KNEE_TO_ANKLE, THIGH, SHOULDER, NECK, HEAD = 0.49, 0.22, 0.23, 0.815, 0.845, 0.92
UPPER_ARM, FOREARM = 0.165, 0.16
#: Figures are drawn at least this high and then made smaller, which smooths their edges.
DRAWN_PX = 190

Point = tuple[float, float]
Fill = Colour | Image.Image


@dataclass(frozen=True)
class Sprite:
    """A cut-out. `left`, `top`: its corner in pixels from the point where it stands."""

    rgba: npt.NDArray[np.uint8]
    left: int
    top: int


def draw_figure(identity: Identity, facing: Facing, phase: float, height_px: float) -> Sprite:
    """Draw a person in a phase of walking; the sprite ends where the person ends.

    The lowest sole stands on the point, and the sprite's borders touch the figure on all sides:
    they are the person's box.
    """
    zoom = max(2, math.ceil(DRAWN_PX / height_px))
    body = _Body(identity, facing, phase, height_px * zoom)
    body.draw()
    small = body.image.reduce(zoom)
    rgba = np.array(small)
    rgba[..., :3] = (rgba[..., :3] * _roundness(rgba[..., 3])[None, :, None]).astype(np.uint8)
    solid = rgba[..., 3] >= 128
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    return Sprite(
        np.ascontiguousarray(rgba[top:bottom, left:right]),
        int(left) - round(body.centre / zoom),
        int(top) - int(bottom),
    )


def _roundness(alpha: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return brightness by column: light comes from the left."""
    return np.linspace(1.06, 0.8, alpha.shape[1]).clip(0, 1)


def _dark(fill: Fill, factor: float) -> Fill:
    if isinstance(fill, Image.Image):
        return fill.point([int(i * factor) for i in range(256)] * 3)
    return (int(fill[0] * factor), int(fill[1] * factor), int(fill[2] * factor))


class _Body:
    """One figure being drawn. Points are shares of the height from the point between the soles."""

    def __init__(self, identity: Identity, facing: Facing, phase: float, scale: float) -> None:
        self.identity, self.facing, self.phase, self.scale = identity, facing, phase, scale
        self.side = {"left": -1, "right": 1}.get(facing, 0)
        self.size = (round(1.3 * scale), round(1.12 * scale))
        self.centre, self.base = self.size[0] / 2, 1.06 * scale
        self.image = Image.new("RGBA", self.size, (0, 0, 0, 0))
        self.canvas = ImageDraw.Draw(self.image)
        self.upper = self._cloth(identity.upper, middle=0.66)
        self.lower = self._cloth(identity.lower, middle=0.3)

    def _cloth(self, garment: Garment, middle: float) -> Fill:
        """Return a colour, or a canvas full of pattern with its middle at that height."""
        if garment.pattern == "plain":
            return garment.colour
        width, height = self.size
        cell = {"horizontal": 0.034, "vertical": 0.032, "checks": 0.04}.get(garment.pattern, 0.05)
        texture = pattern(
            garment.pattern, width, 2 * height, garment.colour, garment.second, cell * self.scale
        )
        start = height - round(self.base - middle * self.scale)
        return Image.fromarray(texture[start : start + height])

    def at(self, point: Point) -> Point:
        return self.centre + point[0] * self.scale, self.base - point[1] * self.scale

    def polygon(self, points: list[Point], fill: Fill) -> None:
        corners = [self.at(point) for point in points]
        if isinstance(fill, Image.Image):
            mask = Image.new("L", self.size)
            ImageDraw.Draw(mask).polygon(corners, fill=255)
            self.image.paste(fill, mask=mask)
        else:
            self.canvas.polygon(corners, fill=(*fill, 255))

    def ellipse(self, centre: Point, across: float, down: float, fill: Fill) -> None:
        turns = np.linspace(0, 2 * math.pi, 25)[:-1]
        self.polygon(
            [(centre[0] + across * math.cos(t), centre[1] + down * math.sin(t)) for t in turns],
            fill,
        )

    def limb(self, start: Point, end: Point, wide: float, narrow: float, fill: Fill) -> None:
        """Draw a tapering limb with round ends; `wide` and `narrow` are its breadths there."""
        across, up = end[0] - start[0], end[1] - start[1]
        angle = math.atan2(up, across)
        outline = []
        for centre, breadth, turn in ((start, wide, math.pi / 2), (end, narrow, -math.pi / 2)):
            for step in np.linspace(0, math.pi, 9):
                direction = angle + turn + step
                outline.append(
                    (
                        centre[0] + breadth / 2 * math.cos(direction),
                        centre[1] + breadth / 2 * math.sin(direction),
                    )
                )
        self.polygon(outline, fill)

    def draw(self) -> None:
        swing = math.sin(self.phase)
        carries = self.identity.bag
        if self.side and carries == "backpack":
            self._backpack()
        far, near = (0.72, 1.0) if self.side else (1.0, 1.0)
        self._arm(-1, -swing, far)
        self._leg(-1, swing, far)
        self._leg(1, -swing, near)
        if self.side:
            self._head()
            self._torso()
        else:
            self._torso()
            self._head()
        if not self.side and carries == "backpack":
            self._backpack()
        if carries == "shoulder":
            self._shoulder_bag()
        self._arm(1, swing, near)

    def _leg(self, which: int, swing: float, light: float) -> None:
        """Draw a leg; `which` -1 is the far one, or the left one in the picture."""
        person, build = self.identity, self.identity.build
        if self.side:
            angle, bend = 0.46 * swing, 0.08 + 0.5 * max(0.0, which * math.cos(self.phase))
            hip = (0.0, HIP)
            knee = (
                hip[0] + self.side * THIGH * math.sin(angle),
                hip[1] - THIGH * math.cos(angle),
            )
            ankle = (
                knee[0] + self.side * KNEE_TO_ANKLE * math.sin(angle - bend),
                knee[1] - KNEE_TO_ANKLE * math.cos(angle - bend),
            )
            toe = (ankle[0] + self.side * 0.075, ankle[1] - 0.018)
        else:
            lift = 0.045 * max(0.0, swing)
            hip = (which * 0.05 * build, HIP)
            knee = (which * (0.056 * build + 0.01 * abs(swing)), HIP - THIGH + lift * 0.5)
            ankle = (which * 0.055 * build, HIP - THIGH - KNEE_TO_ANKLE + lift)
            toe = (ankle[0] + which * 0.018, ankle[1] - (0.02 if self.facing == "front" else 0.01))
        cloth, skin = _dark(self.lower, light), _dark(person.skin, light)
        shin = cloth if person.lower_kind == "trousers" else skin
        thigh = skin if person.lower_kind == "skirt" else cloth
        self.limb(ankle, toe, 0.045, 0.035, _dark(person.shoes, light))
        self.limb(knee, ankle, 0.068 * build, 0.05 * build, shin)
        self.limb(hip, knee, 0.105 * build, 0.082 * build, thigh)
        if person.lower_kind == "shorts":
            self.ellipse(knee, 0.043 * build, 0.03, cloth)

    def _torso(self) -> None:
        person, build = self.identity, self.identity.build
        shoulder, waist = (0.07, 0.062) if self.side else (0.118, 0.086)
        hem = 0.33 if person.length == "long" else 0.475
        hips = (0.075 if self.side else 0.098) * build
        if person.lower_kind == "skirt":
            flare = 1.5 if self.side else 1.3
            self.polygon(
                [(-hips, 0.52), (hips, 0.52), (hips * flare, 0.27), (-hips * flare, 0.27)],
                self.lower,
            )
        else:
            self.ellipse((0, HIP), hips * 0.98, 0.05, self.lower)
        right = [
            (0.035, NECK + 0.005),
            (shoulder * build * 0.8, SHOULDER + 0.016),
            (shoulder * build, SHOULDER - 0.02),
            (waist * build, 0.62),
            (hips, 0.5),
            (hips * (1.08 if person.length == "long" else 1.0), hem),
        ]
        self.polygon([*right, *((-x, y) for x, y in reversed(right))], self.upper)

    def _arm(self, which: int, swing: float, light: float) -> None:
        person, build = self.identity, self.identity.build
        if self.side:
            angle, bend = 0.5 * swing, 0.25
            shoulder = (0.0, SHOULDER - 0.02)
            elbow = (
                shoulder[0] + self.side * UPPER_ARM * math.sin(angle),
                shoulder[1] - UPPER_ARM * math.cos(angle),
            )
            hand = (
                elbow[0] + self.side * FOREARM * math.sin(angle + bend),
                elbow[1] - FOREARM * math.cos(angle + bend),
            )
        else:
            shoulder = (which * 0.112 * build, SHOULDER - 0.018)
            elbow = (which * (0.112 * build + 0.035), shoulder[1] - UPPER_ARM)
            hand = (which * (0.112 * build + 0.03), elbow[1] - FOREARM * (1 - 0.12 * abs(swing)))
        cloth, skin = _dark(self.upper, 0.9 * light), _dark(person.skin, light)
        self.limb(elbow, hand, 0.05, 0.04, cloth if person.sleeves == "long" else skin)
        self.ellipse(hand, 0.022, 0.026, skin)
        self.limb(
            shoulder, elbow, 0.068 * build, 0.056, skin if person.sleeves == "none" else cloth
        )
        # The left hand of the person: the near one of a side only when facing left.
        left_hand = {"front": 1, "back": -1, "left": 1, "right": -1}[self.facing]
        if person.bag == "handbag" and which == left_hand:
            x, y = hand
            self.limb((x, y), (x, y - 0.04), 0.012, 0.012, _dark(person.bag_colour, 0.6))
            self.polygon(
                [
                    (x - 0.05, y - 0.03),
                    (x + 0.05, y - 0.03),
                    (x + 0.06, y - 0.13),
                    (x - 0.06, y - 0.13),
                ],
                _dark(person.bag_colour, light),
            )

    def _head(self) -> None:
        person, across = self.identity, 0.052
        if person.hair_style == "long" and self.facing != "back":
            self.ellipse((-0.02 * self.side, HEAD - 0.035), across * 1.12, 0.085, person.hair)
        self.limb((0, NECK - 0.02), (0, HEAD - 0.03), 0.05, 0.05, _dark(person.skin, 0.85))
        self.ellipse((0.01 * self.side, HEAD), across, 0.072, person.skin)
        if person.hair_style == "bald":
            return
        colour = person.bag_colour if person.hair_style == "cap" else person.hair
        if self.facing == "back":
            self.ellipse((0, HEAD + 0.004), across * 1.04, 0.07, colour)
            if person.hair_style == "long":
                self.limb((0, HEAD), (0, HEAD - 0.1), 0.106, 0.09, colour)
            return
        turns = np.linspace(-0.15, math.pi + 0.15, 15)
        lean = 0.02 * self.side
        top = [
            (across * 1.06 * math.cos(t) - lean * 0.4, HEAD + 0.012 + 0.064 * math.sin(t))
            for t in turns
        ]
        self.polygon(top, colour)
        if self.side:
            self.ellipse((-0.026 * self.side, HEAD + 0.01), 0.03, 0.05, colour)
        if person.hair_style == "cap":
            peak = 0.085 * self.side if self.side else 0.0
            self.limb((0.0, HEAD + 0.022), (peak, HEAD + 0.018), 0.03, 0.016, _dark(colour, 0.8))

    def _backpack(self) -> None:
        person, build = self.identity, self.identity.build
        dark = _dark(person.bag_colour, 0.65)
        if self.facing == "back":
            self.limb((0, 0.765), (0, 0.6), 0.15 * build, 0.16 * build, person.bag_colour)
            self.limb((-0.04, 0.6), (0.04, 0.6), 0.06, 0.06, dark)
        elif self.facing == "front":
            for which in (-1, 1):
                x = which * 0.07 * build
                self.limb((x, SHOULDER + 0.01), (x * 1.1, 0.62), 0.026, 0.022, person.bag_colour)
        else:
            x = -self.side * 0.1 * build
            self.limb((x, 0.765), (x * 1.08, 0.6), 0.1, 0.12, person.bag_colour)
            self.limb((x * 1.35, 0.62), (x * 1.35, 0.58), 0.06, 0.06, dark)

    def _shoulder_bag(self) -> None:
        """Draw the bag over the person's right shoulder, at the left hip."""
        person = self.identity
        strap = _dark(person.bag_colour, 0.7)
        hip = {"front": 0.1, "back": -0.1, "left": 0.02, "right": 0.0}[self.facing]
        top = {"front": -0.07, "back": 0.07, "left": -0.03, "right": 0.03}[self.facing]
        self.limb((top, SHOULDER + 0.01), (hip, 0.53), 0.02, 0.02, strap)
        if self.facing != "right":  # the body is before it
            self.polygon(
                [(hip - 0.06, 0.54), (hip + 0.06, 0.54), (hip + 0.06, 0.43), (hip - 0.06, 0.43)],
                person.bag_colour,
            )
