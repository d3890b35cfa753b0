"""From planned scenes to pixels and boxes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from training.synth.backdrop import draw_background, draw_prop, paint_surrounding
from training.synth.figure import Sprite, draw_figure
from training.synth.plan import Scene, World
from training.synth.world import Camera


@dataclass(frozen=True, eq=False)
class Drawn:
    """A picture and its people.

    Attributes
    ----------
    picture
        uint8 [height, width, 3], RGB.
    boxes_xyxy
        int64 [N, 4], in the order of the scene's people. Of the whole body, as in PRW: what others
        or objects hide counts, what lies past the picture does not.
    visible
        float64 [N], the shown share of each whole figure.
    """

    picture: npt.NDArray[np.uint8]
    boxes_xyxy: npt.NDArray[np.int64]
    visible: npt.NDArray[np.float64]


class Painter:
    """Draws the scenes of a world.

    A scene's pixels depend on the world and the scene alone, not on what was drawn before: any
    process can draw any scene.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._views: dict[int, tuple[Image.Image, list[tuple[Sprite, int, int]]]] = {}

    def draw(self, scene: Scene) -> Drawn:
        """Draw a scene."""
        width, height = self.world.config.width, self.world.config.height
        background, props = self._view(scene.camera)
        image = background.copy()
        people = []
        for person in scene.people:
            sprite = draw_figure(person.identity, person.facing, person.phase, person.height_px)
            people.append((sprite, round(person.x), round(person.y)))
        whole = [_box(*placed) for placed in people]
        far_to_near = sorted(range(len(people)), key=lambda i: (people[i][2], i))
        # Stands go behind everybody, also behind who is farther: they hide nobody.
        for i in far_to_near:
            paint_surrounding(image, self.world.surroundings[scene.people[i].surrounding], whole[i])
        _shadows(image, people + props)
        owner = np.full((height, width), -1)
        picture = np.asarray(image).astype(np.uint8)
        things = [(placed, i) for i, placed in enumerate(people)]
        things += [(placed, -2) for placed in props]
        for placed, number in sorted(things, key=lambda thing: (thing[0][2], thing[1])):
            _paste(picture, owner, *placed, number)
        inside = np.array(whole, np.int64).reshape(-1, 4).clip(0, [width, height, width, height])
        solid = np.array([(sprite.rgba[..., 3] >= 128).sum() for sprite, _, _ in people])
        shown = np.array([(owner == i).sum() for i in range(len(people))])
        return Drawn(self._expose(picture, scene), inside, shown / np.maximum(solid, 1))

    def _view(self, camera: Camera) -> tuple[Image.Image, list[tuple[Sprite, int, int]]]:
        if camera.number not in self._views:
            width, height = self.world.config.width, self.world.config.height
            background = Image.fromarray(draw_background(camera, width, height))
            props = [
                (
                    draw_prop(prop, prop.height * height),
                    round(prop.x * width),
                    round(prop.y * height),
                )
                for prop in camera.props
            ]
            self._views[camera.number] = background, props
        return self._views[camera.number]

    def _expose(self, picture: npt.NDArray[np.uint8], scene: Scene) -> npt.NDArray[np.uint8]:
        """Apply the camera's blur, light and noise; the light changes a little between pictures."""
        rng = np.random.default_rng(scene.seed)
        camera = scene.camera
        image = Image.fromarray(picture)
        radius = camera.softness * picture.shape[0] / 240
        if radius > 0.2:
            image = image.filter(ImageFilter.GaussianBlur(radius))
        gain = camera.gain * rng.uniform(0.93, 1.07)
        levels = np.arange(256) / 255
        table = [(levels * gain * cast).clip(0, 1) ** camera.gamma * 255 for cast in camera.cast]
        lit = np.asarray(image.point(np.concatenate(table).round().astype(int).tolist()))
        noise = rng.standard_normal(lit.shape, np.float32) * np.float32(camera.noise)
        exposed: npt.NDArray[np.uint8] = (lit + noise).round().clip(0, 255).astype(np.uint8)
        return exposed


def _box(sprite: Sprite, x: int, y: int) -> tuple[int, int, int, int]:
    height, width = sprite.rgba.shape[:2]
    return (
        x + sprite.left,
        y + sprite.top,
        x + sprite.left + width,
        y + sprite.top + height,
    )


def _shadows(image: Image.Image, placed: list[tuple[Sprite, int, int]]) -> None:
    """Darken the ground under everything that stands."""
    mask = Image.new("L", image.size)
    canvas = ImageDraw.Draw(mask)
    for sprite, x, y in placed:
        tall = len(sprite.rgba)
        base = np.flatnonzero((sprite.rgba[-max(tall // 10, 1) :, :, 3] >= 128).any(axis=0))
        if not len(base):  # feet that are too small to be solid anywhere
            continue
        left, right = x + sprite.left + int(base[0]), x + sprite.left + int(base[-1])
        flat = max(tall * 0.02, 1)
        canvas.ellipse((left - 1, y - flat, right + (right - left) * 0.3 + 2, y + flat), fill=110)
    image.paste((20, 20, 24), mask=mask)


def _paste(
    picture: npt.NDArray[np.uint8],
    owner: npt.NDArray[np.int64],
    sprite: Sprite,
    x: int,
    y: int,
    number: int,
) -> None:
    """Put a cut-out into the picture, and its number where it is solid."""
    height, width = picture.shape[:2]
    left, top, right, bottom = _box(sprite, x, y)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if x0 >= x1 or y0 >= y1:
        return
    part = sprite.rgba[y0 - top : y1 - top, x0 - left : x1 - left].astype(np.int32)
    alpha = part[..., 3:]
    view = picture[y0:y1, x0:x1]
    view[:] = (part[..., :3] * alpha + view.astype(np.int32) * (255 - alpha) + 127) // 255
    owner[y0:y1, x0:x1][alpha[..., 0] >= 128] = number
