"""Who stands where, in which picture, and in front of what: a whole data set before it is drawn."""

from collections import Counter
from dataclasses import dataclass
from typing import get_args

import numpy as np

from model.annotations import UNLABELLED
from model.errors import BINetError
from training.synth.world import (
    MAX_SURROUNDINGS,
    Camera,
    Facing,
    Identity,
    Surrounding,
    make_cameras,
    make_identities,
    make_surroundings,
)

#: Mean number of people in a picture, labelled or not.
MEAN_PEOPLE = 2.7
MAX_PEOPLE = 5
#: Breadth of a usual box as a share of its height, for planning only.
USUAL_BREADTH = 0.38
#: Share of people who walk beside the one before, partly hidden or hiding.
COMPANIONS = 0.3
#: Share of a box that others may hide, as planned; the drawn share differs a little.
MAX_HIDDEN = 0.55
PLACES_TRIED = 24


class SynthError(BINetError):
    """The world that was asked for cannot be made."""


@dataclass(frozen=True)
class SynthConfig:
    """What to make; the options of `binet synth`.

    Raises
    ------
    SynthError
        For values that do not make a world, with what to change.
    """

    seed: int = 0
    identities: int = 40
    test_identities: int = 20
    scenes: int = 240
    test_scenes: int = 120
    cameras: int = 4
    width: int = 320
    height: int = 240
    context_bias: float = 0.0
    unlabelled: float = 0.15

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise SynthError(f"seed {self.seed}: give 0 or more")
        if not 2 <= self.cameras <= 9:
            # One digit after the c of a PRW file name; a search needs another camera.
            raise SynthError(f"{self.cameras} cameras: give 2 to 9")
        if not (160 <= self.width <= 4096 and 160 <= self.height <= 4096):
            raise SynthError(f"size {self.width}x{self.height}: give sides of 160 to 4096 pixels")
        for name, share, most in (
            ("context bias", self.context_bias, 1.0),
            ("unlabelled", self.unlabelled, 0.8),
        ):
            if not 0 <= share <= most:
                raise SynthError(f"{name} {share}: give a share of 0 to {most}")
        if not 2 <= self.identities <= MAX_SURROUNDINGS:
            # Each training identity has a surrounding of its own.
            raise SynthError(f"{self.identities} identities: give 2 to {MAX_SURROUNDINGS}")
        if self.test_identities < 1:
            raise SynthError(f"{self.test_identities} test identities: give 1 or more")
        for part, identities, scenes in (
            ("", self.identities, self.scenes),
            ("test ", self.test_identities, self.test_scenes),
        ):
            if scenes < 2 * self.cameras:
                raise SynthError(f"{scenes} {part}scenes: give {2 * self.cameras} or more")
            if self._appearances(scenes) < 2 * identities:
                needed = int(np.ceil(2 * identities / (MEAN_PEOPLE * (1 - self.unlabelled))))
                raise SynthError(
                    f"{scenes} {part}scenes are too few to show {identities} {part}identities "
                    f"twice: give {needed} scenes or fewer identities"
                )

    def _appearances(self, scenes: int) -> int:
        """Return the number of labelled people in so many pictures."""
        return int(scenes * MEAN_PEOPLE * (1 - self.unlabelled))


@dataclass(frozen=True)
class Person:
    """One person in one picture.

    Attributes
    ----------
    x, y
        Where the feet are, in pixels.
    height_px
        Of this person, upright.
    phase
        Of walking, in radians.
    surrounding
        Index into the world's surroundings.
    """

    pid: int
    identity: Identity
    x: float
    y: float
    height_px: float
    facing: Facing
    phase: float
    surrounding: int


@dataclass(frozen=True)
class Scene:
    """One picture, before it is drawn. `number` counts from 0 in its part."""

    number: int
    camera: Camera
    people: tuple[Person, ...]
    seed: int


@dataclass(frozen=True)
class World:
    """Everything there is to draw.

    Attributes
    ----------
    surroundings
        The first belongs to pid 1, and so on.
    train, test
        Pids are 1 to `identities` in the training part, from there on in the test part, and
        `UNLABELLED` for passers-by, who each look different.
    """

    config: SynthConfig
    surroundings: tuple[Surrounding, ...]
    train: tuple[Scene, ...]
    test: tuple[Scene, ...]


def make_world(config: SynthConfig) -> World:
    """Plan a world; equal configurations give equal worlds.

    Context bias: every person, in both parts, stands in one of `identities` painted surroundings.
    In the training part it is the identity's own with the probability `context_bias`, and drawn
    evenly from all of them otherwise. In the test part, and for people without identity, it is
    always drawn. What is seen around people is therefore the same in both parts, and says who they
    are in the training part only. People, places and poses do not depend on the bias: two worlds
    that differ in it alone differ in nothing but the training part's surroundings.
    """
    streams = [
        np.random.default_rng([config.seed, purpose]) for purpose in range(7)
    ]  # one for each purpose, so that the dials do not disturb each other
    cameras = make_cameras(streams[0], config.cameras)
    surroundings = make_surroundings(streams[1], config.identities)
    everyone = make_identities(streams[2], config.identities + config.test_identities)
    train_people = dict(enumerate(everyone[: config.identities], start=1))
    test_people = dict(enumerate(everyone[config.identities :], start=config.identities + 1))
    return World(
        config,
        tuple(surroundings),
        _part(config, cameras, train_people, config.scenes, True, streams[3], streams[4]),
        _part(config, cameras, test_people, config.test_scenes, False, streams[5], streams[6]),
    )


def _part(
    config: SynthConfig,
    cameras: list[Camera],
    people: dict[int, Identity],
    scenes: int,
    biased: bool,
    rng: np.random.Generator,
    surroundings_rng: np.random.Generator,
) -> tuple[Scene, ...]:
    """Plan the pictures of one part; cameras take turns."""
    views = [cameras[number % len(cameras)] for number in range(scenes)]
    pids = _timetable(rng, views, list(people), config)
    made = []
    for number, (camera, present) in enumerate(zip(views, pids, strict=True)):
        identities = [
            people[pid] if pid != UNLABELLED else make_identities(rng, 1)[0] for pid in present
        ]
        placed = []
        for pid, identity, place in zip(
            present, identities, _places(rng, camera, identities, config), strict=True
        ):
            # Both are drawn whatever comes of it, so that the stream does not depend on the bias.
            own = surroundings_rng.random() < config.context_bias
            drawn = int(surroundings_rng.integers(config.identities))
            facing = get_args(Facing)[rng.integers(4)]
            phase = float(rng.uniform(0, 2 * np.pi))
            surrounding = pid - 1 if own and biased and pid != UNLABELLED else drawn
            placed.append(Person(pid, identity, *place, facing, phase, surrounding))
        made.append(Scene(number, camera, tuple(placed), int(rng.integers(2**31))))
    return tuple(made)


def _timetable(
    rng: np.random.Generator, views: list[Camera], pids: list[int], config: SynthConfig
) -> list[list[int]]:
    """Choose pids for each picture: equally often, by camera in turn, never twice in a picture."""
    present: list[list[int]] = [[] for _ in views]
    room = 1 + rng.binomial(MAX_PEOPLE - 1, (MEAN_PEOPLE - 1) / (MAX_PEOPLE - 1), len(views))
    by_camera = {
        camera: np.array([i for i, view in enumerate(views) if view.number == camera])
        for camera in {view.number for view in views}
    }
    turns = {pid: rng.permutation(config.cameras) + 1 for pid in pids}
    appearances = config._appearances(len(views))
    order = [int(pid) for _ in range(appearances // len(pids) + 1) for pid in rng.permutation(pids)]
    seen: Counter[int] = Counter()
    for pid in order[:appearances]:
        camera = int(turns[pid][seen[pid] % config.cameras])
        seen[pid] += 1
        free = [i for i in by_camera[camera] if pid not in present[i]]
        if not free:  # few pictures, and this one is in all of the camera's
            continue
        # Mostly where room is left, so that pictures are full and empty as drawn above.
        left = np.array([room[i] - len(present[i]) for i in free])
        best = np.flatnonzero(left == left.max()) if left.max() <= 0 else np.flatnonzero(left > 0)
        present[free[int(rng.choice(best))]].append(pid)
    total = sum(map(len, present))
    for _ in range(round(total * config.unlabelled / (1 - config.unlabelled))):
        left = room - np.array([len(people) for people in present])
        best = np.flatnonzero(left == left.max()) if left.max() <= 0 else np.flatnonzero(left > 0)
        present[int(rng.choice(best))].append(UNLABELLED)
    for people in present:
        if not people:
            people.append(UNLABELLED)
    return present


def _places(
    rng: np.random.Generator, camera: Camera, identities: list[Identity], config: SynthConfig
) -> list[tuple[float, float, float]]:
    """Find a place (x, y, height) in pixels for each, apart but for companions.

    Of some random places, the one is taken where surroundings overlap least among those where
    nobody is hidden by more than `MAX_HIDDEN`.
    """
    width, height = config.width, config.height
    props = []
    for prop in camera.props:
        side = prop.height * height
        props.append(_box(prop.x * width, prop.y * height, side, 0.45))
    boxes: list[tuple[float, float, float, float]] = []
    places: list[tuple[float, float, float]] = []
    for identity in identities:
        companion = bool(places) and rng.random() < COMPANIONS
        options = []
        for _ in range(PLACES_TRIED):
            y = rng.uniform(camera.wall_foot + 0.04, 1.03)
            x = rng.uniform(0.04, 0.96) * width
            if companion:
                offset = rng.choice([-1, 1]) * rng.uniform(0.12, 0.4) * places[-1][2]
                x = float(np.clip(places[-1][0] + offset, 0.04 * width, 0.96 * width))
                y = min(places[-1][1] / height + rng.uniform(-0.03, 0.03), 1.03)
            tall = camera.person_height(y) * identity.height * height
            box = _box(x, y * height, tall, USUAL_BREADTH)
            hidden = _most_hidden([*boxes, box], props, height)
            crowding = 0.0 if companion else _crowding(box, boxes)
            options.append((max(hidden - MAX_HIDDEN, 0), crowding, (x, y * height, tall), box))
        *_, place, box = min(options, key=lambda option: option[:2])
        places.append(place)
        boxes.append(box)
    return [(float(x), float(y), float(tall)) for x, y, tall in places]


def _box(x: float, y: float, tall: float, breadth: float) -> tuple[float, float, float, float]:
    half = breadth * tall / 2
    return x - half, y - tall, x + half, y


def _overlap(
    a: tuple[float, float, float, float], b: tuple[float, float, float, float]
) -> tuple[float, float]:
    """Return the overlap of two boxes as shares of the first and of the second."""
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    tall = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return wide * tall / area_a, wide * tall / area_b


def _most_hidden(
    boxes: list[tuple[float, float, float, float]],
    props: list[tuple[float, float, float, float]],
    height: int,
) -> float:
    """Return the largest share of a person that others, things, or the lower edge hide."""
    most = 0.0
    for i, box in enumerate(boxes):
        others = boxes[:i] + boxes[i + 1 :] + props
        hidden = sum(_overlap(box, other)[0] for other in others if other[3] > box[3])
        hidden += max(0.0, box[3] - height) / (box[3] - box[1])
        most = max(most, hidden)
    return most


def _crowding(
    box: tuple[float, float, float, float], boxes: list[tuple[float, float, float, float]]
) -> float:
    """Say how much of the surroundings of a place and of those taken overlap."""
    wide = [(b[0] - (b[3] - b[1]) * 0.3, b[1], b[2] + (b[3] - b[1]) * 0.3, b[3]) for b in boxes]
    mine = (box[0] - (box[3] - box[1]) * 0.3, box[1], box[2] + (box[3] - box[1]) * 0.3, box[3])
    return sum(sum(_overlap(mine, other)) for other in wide)
