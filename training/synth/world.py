"""Who is in the world: identities, the surroundings they stand in, and the cameras.

All of it is plain data made from a seed; nothing here draws.
"""

from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import Literal, TypeVar, get_args

import numpy as np

T = TypeVar("T")
Colour = tuple[int, int, int]
Pattern = Literal["plain", "horizontal", "vertical", "checks", "block", "diagonal", "dots"]
Facing = Literal["front", "back", "left", "right"]
PropKind = Literal["post", "bin", "planter", "bollard", "tree"]
Form = Literal["portal", "panels"]
Ground = Literal["asphalt", "tiles", "planks", "grass"]
Wall = Literal["bricks", "plaster", "windows", "hedge"]

CLOTHES: tuple[Colour, ...] = (
    (32, 34, 40), (226, 224, 216), (128, 130, 134), (34, 52, 104), (70, 126, 190), (176, 34, 40),
    (226, 120, 40), (236, 204, 70), (46, 110, 60), (140, 176, 90), (110, 60, 130), (226, 140, 170),
    (116, 78, 48), (196, 168, 128), (44, 140, 146),
)  # fmt: skip
TROUSERS: tuple[Colour, ...] = (
    (30, 32, 38), (44, 60, 100), (92, 116, 156), (120, 120, 122), (186, 166, 132), (84, 62, 44),
    (62, 78, 54), (218, 214, 206), (130, 40, 50),
)  # fmt: skip
SKIN: tuple[Colour, ...] = ((244, 208, 180), (222, 176, 140), (182, 130, 94), (126, 84, 58))
HAIR: tuple[Colour, ...] = (
    (28, 24, 22), (74, 48, 30), (128, 84, 44), (206, 170, 100), (150, 148, 146), (140, 60, 30),
)  # fmt: skip
#: Colours of surroundings: saturated, and far from each other under any of the cameras' light.
PAINT: tuple[Colour, ...] = (
    (214, 40, 40), (240, 150, 30), (244, 224, 60), (60, 170, 70), (30, 180, 190), (40, 80, 200),
    (140, 60, 180), (240, 130, 180), (245, 245, 245), (25, 25, 30),
)  # fmt: skip

SURROUNDING_PATTERNS: tuple[Pattern, ...] = (
    "horizontal", "vertical", "checks", "diagonal", "dots",
)  # fmt: skip
#: Size of the pattern's cells, as shares of the person's height.
SURROUNDING_CELLS = (0.08, 0.14)


@dataclass(frozen=True)
class Garment:
    """What covers the upper or the lower body."""

    colour: Colour
    second: Colour
    pattern: Pattern


@dataclass(frozen=True)
class Identity:
    """How a person looks in every picture.

    Attributes
    ----------
    height, build
        Shares of the usual height and breadth.
    sleeves, length
        `length` long is a coat down to the thigh.
    """

    height: float
    build: float
    skin: Colour
    hair: Colour
    hair_style: Literal["short", "long", "bald", "cap"]
    upper: Garment
    sleeves: Literal["long", "short", "none"]
    length: Literal["short", "long"]
    lower: Garment
    lower_kind: Literal["trousers", "shorts", "skirt"]
    shoes: Colour
    bag: Literal["none", "backpack", "shoulder", "handbag"]
    bag_colour: Colour

    @property
    def look(self) -> tuple[object, ...]:
        """What can be seen of it from all sides: no two identities of a part share it."""
        return (self.upper, self.sleeves, self.length, self.lower, self.lower_kind, self.bag)


@dataclass(frozen=True)
class Surrounding:
    """A painted stand around a person: side panels, a mat, and a lintel where it is a portal."""

    first: Colour
    second: Colour
    pattern: Pattern
    cell: float
    form: Form


@dataclass(frozen=True)
class Prop:
    """A fixed object. `x`, `y`: where it stands, `height`: all as shares of the picture's size."""

    kind: PropKind
    x: float
    y: float
    height: float
    colour: Colour


@dataclass(frozen=True)
class Camera:
    """A fixed view and its light.

    Attributes
    ----------
    horizon, wall_foot
        Heights in the picture, as shares from the top: where people would shrink to nothing, and
        where the wall meets the ground.
    near_height
        Height of a usual person whose feet are on the lower edge, as a share of the picture.
    gain, gamma, cast
        Light: brightness, exponent, and factors of red, green, blue.
    noise, softness
        Deviation of the noise in grey levels, and radius of the blur in pixels of 240 lines.
    """

    number: int
    seed: int
    horizon: float
    wall_foot: float
    near_height: float
    ground: Ground
    ground_colour: Colour
    wall: Wall
    wall_colour: Colour
    props: tuple[Prop, ...]
    gain: float
    gamma: float
    cast: tuple[float, float, float]
    noise: float
    softness: float

    def person_height(self, y: float) -> float:
        """Height of a usual person with the feet at y; both are shares of the picture's height."""
        return self.near_height * (y - self.horizon) / (1 - self.horizon)


def make_identities(
    rng: np.random.Generator, count: int, lookalikes: float = 0.35
) -> list[Identity]:
    """Identities without two alike; a share of `lookalikes` wears the colours of another one.

    Such a hard negative differs in patterns, cut or bag only, so a mean colour does not tell it.
    """
    people: list[Identity] = []
    looks: set[tuple[object, ...]] = set()
    while len(people) < count:
        person = _identity(rng)
        if people and rng.random() < lookalikes:
            other = people[rng.integers(len(people))]
            person = replace(
                person,
                upper=replace(person.upper, colour=other.upper.colour, second=other.upper.second),
                lower=replace(person.lower, colour=other.lower.colour),
                skin=other.skin,
            )
        if person.look not in looks:
            looks.add(person.look)
            people.append(person)
    return people


def _identity(rng: np.random.Generator) -> Identity:
    first, second = rng.permutation(len(CLOTHES))[:2]
    below = TROUSERS[rng.integers(len(TROUSERS))]
    lighter = (min(below[0] + 60, 255), min(below[1] + 60, 255), min(below[2] + 60, 255))
    upper_patterns: tuple[Pattern, ...] = ("plain", "horizontal", "vertical", "checks", "block")
    lower_patterns: tuple[Pattern, ...] = ("plain", "vertical", "checks")
    return Identity(
        height=float(rng.uniform(0.86, 1.08)),
        build=float(rng.uniform(0.85, 1.3)),
        skin=SKIN[rng.integers(len(SKIN))],
        hair=HAIR[rng.integers(len(HAIR))],
        hair_style=_choice(rng, ("short", "long", "bald", "cap"), (0.4, 0.35, 0.1, 0.15)),
        upper=Garment(
            CLOTHES[first],
            CLOTHES[second],
            _choice(rng, upper_patterns, (0.36, 0.18, 0.14, 0.14, 0.18)),
        ),
        sleeves=_choice(rng, ("long", "short", "none"), (0.5, 0.4, 0.1)),
        length=_choice(rng, ("short", "long"), (0.75, 0.25)),
        lower=Garment(below, lighter, _choice(rng, lower_patterns, (0.76, 0.12, 0.12))),
        lower_kind=_choice(rng, ("trousers", "shorts", "skirt"), (0.6, 0.2, 0.2)),
        shoes=((30, 28, 28), (220, 220, 220), (110, 70, 40))[rng.integers(3)],
        bag=_choice(rng, ("none", "backpack", "shoulder", "handbag"), (0.4, 0.25, 0.2, 0.15)),
        bag_colour=CLOTHES[rng.integers(len(CLOTHES))],
    )


def _choice(rng: np.random.Generator, values: tuple[T, ...], shares: tuple[float, ...]) -> T:
    return values[rng.choice(len(values), p=shares)]


#: Every surrounding there can be.
MAX_SURROUNDINGS = len(PAINT) * (len(PAINT) - 1) // 2 * len(SURROUNDING_PATTERNS) * 2 * 2


def make_surroundings(rng: np.random.Generator, count: int) -> list[Surrounding]:
    """Different surroundings, at most `MAX_SURROUNDINGS`.

    A pair of colours comes in one order only: stripes of red and white are those of white and red.
    """
    forms: tuple[Form, ...] = ("portal", "panels")
    pairs = [(a, b) for a, b in permutations(PAINT, 2) if a < b]
    everything = [
        Surrounding(first, second, pattern, cell, form)
        for (first, second), pattern, cell, form in product(
            pairs, SURROUNDING_PATTERNS, SURROUNDING_CELLS, forms
        )
    ]
    return [everything[i] for i in rng.permutation(len(everything))[:count]]


GROUND_COLOURS: dict[Ground, tuple[Colour, ...]] = {
    "asphalt": ((104, 106, 112), (132, 128, 124)),
    "tiles": ((176, 170, 160), (160, 148, 140)),
    "planks": ((150, 116, 84), (124, 100, 80)),
    "grass": ((98, 130, 74), (120, 138, 84)),
}
WALL_COLOURS: dict[Wall, tuple[Colour, ...]] = {
    "bricks": ((150, 92, 76), (168, 132, 104)),
    "plaster": ((206, 198, 180), (168, 182, 190)),
    "windows": ((140, 146, 156), (186, 176, 160)),
    "hedge": ((66, 96, 58), (84, 104, 60)),
}


def make_cameras(rng: np.random.Generator, count: int) -> list[Camera]:
    """Cameras 1, 2, ...; neighbours in number never share their ground or wall."""
    grounds, walls = rng.permutation(get_args(Ground)), rng.permutation(get_args(Wall))
    return [
        _camera(rng, number, grounds[number % len(grounds)], walls[(number * 3 + 1) % len(walls)])
        for number in range(1, count + 1)
    ]


def _camera(rng: np.random.Generator, number: int, ground: Ground, wall: Wall) -> Camera:
    horizon = float(rng.uniform(0.02, 0.22))
    wall_foot = float(rng.uniform(0.36, 0.46))
    props = []
    for slot in rng.permutation(5)[: rng.integers(2, 5)]:
        kind = _choice(rng, get_args(PropKind), (0.2, 0.2, 0.25, 0.2, 0.15))
        usual = {"post": 1.25, "bin": 0.5, "planter": 0.5, "bollard": 0.5, "tree": 1.7}[kind]
        y = float(rng.uniform(wall_foot + 0.04, 0.96))
        height = 0.55 * (y - horizon) / (1 - horizon) * usual
        x = float((slot + rng.uniform(0.2, 0.8)) / 5)
        props.append(Prop(kind, x, y, height, CLOTHES[rng.integers(len(CLOTHES))]))
    warmth, tint = rng.uniform(-0.13, 0.13), rng.uniform(-0.05, 0.05)
    return Camera(
        number=number,
        seed=int(rng.integers(2**31)),
        horizon=horizon,
        wall_foot=wall_foot,
        near_height=float(rng.uniform(0.5, 0.6)),
        ground=ground,
        ground_colour=GROUND_COLOURS[ground][rng.integers(2)],
        wall=wall,
        wall_colour=WALL_COLOURS[wall][rng.integers(2)],
        props=tuple(props),
        gain=float(rng.uniform(0.72, 1.12)),
        gamma=float(rng.uniform(0.85, 1.25)),
        cast=(float(1 + warmth), float(1 + tint), float(1 - warmth)),
        noise=float(rng.uniform(1.5, 6)),
        softness=float(rng.uniform(0, 0.7)),
    )
