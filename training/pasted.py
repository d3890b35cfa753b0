"""People cut from pictures with masks and pasted, small, on other pictures: scenes for a detector.

Surveillance shows many people of 40 to 160 pixels; COCO and Penn-Fudan show few and large ones.
Pasting follows Dwibedi et al., "Cut, Paste and Learn" (https://arxiv.org/abs/1708.01642): soft
edges, so that no seam tells where a person is.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from model.annotations import UNLABELLED, AnnotatedScene

#: A person to cut out is at least so many pixels high, and that much higher than wide.
LEAST_HEIGHT = 80
LEAST_ASPECT = 1.9
#: Longer side of a pasted scene, and the people on it: how many, and their heights.
LONG_SIDE = 768
MOST_PEOPLE = 14
HEIGHTS = (32.0, 190.0)
#: A person of whom less than this is visible is ignored, not annotated.
LEAST_VISIBLE = 0.3
#: Things that are nobody, pasted the same way on a scene: up to so many. A detector that has seen
#: none takes posts, signs and tripods for people, and seams for outlines.
MOST_THINGS = 8
THING_ASPECT = (1.5, 4.5)
#: Signs, boards and posts that stand before people, likewise: up to so many. A sign is so high as a
#: share of the person, a post so much higher; and how much higher than wide they are.
MOST_COVERS = 5
SIGN, SIGN_ASPECT = (0.3, 0.65), (0.6, 2.0)
POST, POST_ASPECT = (1.1, 2.5), (10.0, 25.0)
#: Probability that a person is pasted beside the one before, before or behind.
CROWDED = 0.5
#: Change of brightness, contrast and colour of a person, up to this factor either way.
CHANGE = 0.35


def coco_cut_outs(folder: Path) -> list[Image.Image]:
    """Cut people of `coco_small`, as RGBA, along polygons: whole, upright, not at the edge."""
    content = json.loads((folder / "person_instances.json").read_text(encoding="utf-8"))
    images = {image["id"]: image for image in content["images"]}
    found = []
    for person in content["annotations"]:
        image = images[person["image_id"]]
        x, y, width, height = person["bbox"]
        at_edge = y < 2 or x < 2 or x + width > image["width"] - 2
        at_edge |= y + height > image["height"] - 2
        if person["iscrowd"] or at_edge or not _is_pedestrian(width, height):
            continue
        picture = Image.open(folder / "images" / image["file_name"]).convert("RGB")
        mask = Image.new("L", picture.size)
        for polygon in person["segmentation"]:
            ImageDraw.Draw(mask).polygon(polygon, fill=255)
        found.append(_cut_out(picture, mask))
    return found


def penn_fudan_cut_outs(folder: Path) -> list[Image.Image]:
    """Cut every person of `pennfudan` out, as RGBA."""
    by_picture: dict[str, list[dict[str, str]]] = defaultdict(list)
    with (folder / "gt.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            by_picture[row["image"]].append(row)
    found = []
    for name, rows in sorted(by_picture.items()):
        picture = Image.open(folder / "images" / name).convert("RGB")
        masks = np.asarray(Image.open(folder / "masks" / Path(name).with_suffix(".png").name))
        for row in rows:
            if _is_pedestrian(float(row["w"]), float(row["h"])):
                here = (masks == int(row["mask_value"])).astype(np.uint8) * 255
                found.append(_cut_out(picture, Image.fromarray(here)))
    return found


def _is_pedestrian(width: float, height: float) -> bool:
    return height >= LEAST_HEIGHT and height >= LEAST_ASPECT * width


def _cut_out(picture: Image.Image, mask: Image.Image) -> Image.Image:
    # The outermost pixels show the old background: the mask shrinks by one and its edge is soft.
    soft = mask.filter(ImageFilter.MinFilter(3)).filter(ImageFilter.GaussianBlur(0.8))
    box = mask.getbbox()
    whole = picture.copy()
    whole.putalpha(soft)
    return whole.crop(box)


def write_pasted(
    cut_outs: Sequence[Image.Image],
    backgrounds: Sequence[AnnotatedScene],
    out: Path,
    count: int,
    seed: int = 0,
    *,
    most_covers: int = MOST_COVERS,
) -> list[AnnotatedScene]:
    """Write `count` scenes as JPEG pictures and give their people.

    Parameters
    ----------
    cut_outs
        People to paste, RGBA; their identities are not known afterwards.
    backgrounds
        Pictures, with the people who are on them already.
    out
        A new folder.
    count
        How many; the backgrounds go round.
    seed
        Decides everything.
    most_covers
        Signs and posts before the people of a scene: up to so many.
    """
    out.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    scenes = []
    nobody = [scene.path for scene in backgrounds if not len(scene) and not len(scene.ignored_xyxy)]
    for number in range(count):
        path = out / f"{number:05d}.jpg"
        background = backgrounds[number % len(backgrounds)]
        picture, boxes, pids, ignored = _paste(cut_outs, nobody, background, most_covers, rng)
        picture.save(path, quality=int(rng.integers(60, 95)))
        scenes.append(
            AnnotatedScene(path.name, path, boxes, pids, background.camera, ignored_xyxy=ignored)
        )
    return scenes


def _paste(
    cut_outs: Sequence[Image.Image],
    nobody: Sequence[Path],
    background: AnnotatedScene,
    most_covers: int,
    rng: np.random.Generator,
) -> tuple[Image.Image, npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    scene = Image.open(background.path).convert("RGB")
    scale = LONG_SIDE / max(scene.size)
    scene = scene.resize(
        (round(scene.width * scale), round(scene.height * scale)), Image.Resampling.BILINEAR
    )
    # Who covers whom: the number of the person that each pixel shows.
    shown = np.zeros((scene.height, scene.width), np.int16)
    boxes: list[list[float]] = []
    areas: list[int] = []
    for number, box in enumerate((background.boxes_xyxy * scale).tolist(), start=1):
        x1, y1, x2, y2 = (round(side) for side in box)
        shown[max(y1, 0) : y2, max(x1, 0) : x2] = number
        boxes.append(box)
        areas.append(max((x2 - max(x1, 0)) * (y2 - max(y1, 0)), 1))
    # People of one scene have heights alike, and stand together now and then.
    typical = float(np.exp(rng.uniform(np.log(HEIGHTS[0]), np.log(HEIGHTS[1]))))
    for _ in range(int(rng.integers(MOST_THINGS + 1)) if nobody else 0):
        height = int(np.clip(typical * rng.uniform(0.4, 1.4), *HEIGHTS))
        thing = _thing(nobody[int(rng.integers(len(nobody)))], height, rng)
        x = int(rng.integers(max(scene.width - thing.width, 1)))
        y = int(rng.integers(max(scene.height - height, 1)))
        if not shown[y : y + height, x : x + thing.width].any():
            scene.paste(thing, (x, y), thing)
    last: tuple[float, float] | None = None
    for _ in range(int(rng.integers(3, MOST_PEOPLE + 1))):
        height = int(np.clip(typical * rng.uniform(0.7, 1.4), *HEIGHTS))
        person = _changed(cut_outs[int(rng.integers(len(cut_outs)))], height, rng)
        left = rng.uniform(-0.3 * person.width, scene.width - 0.7 * person.width)
        top = rng.uniform(0, max(scene.height - 0.85 * height, 1))
        if last is not None and rng.random() < CROWDED:
            left = last[0] + rng.uniform(-1.2, 1.2) * person.width
            top = last[1] + rng.uniform(-0.25, 0.25) * height
        x, y = round(left), round(top)
        last = (left, top)
        alpha = np.asarray(person.getchannel("A")) > 127
        x1, y1 = max(x, 0), max(y, 0)
        x2, y2 = min(x + person.width, scene.width), min(y + person.height, scene.height)
        if x2 - x1 < 4 or y2 - y1 < 8:
            continue
        scene.paste(person, (x, y), person)
        shown[y1:y2, x1:x2][alpha[y1 - y : y2 - y, x1 - x : x2 - x]] = len(boxes) + 1
        boxes.append([x1, y1, x2, y2])
        areas.append(max(int(alpha.sum()), 1))
    for _ in range(int(rng.integers(most_covers + 1)) if nobody and boxes else 0):
        x1, y1, x2, y2 = boxes[int(rng.integers(len(boxes)))]
        cover = _cover(nobody[int(rng.integers(len(nobody)))], y2 - y1, rng)
        x = round(rng.uniform(x1, x2) - cover.width / 2)
        y = round(rng.uniform(y1, y2) - cover.height / 2)
        scene.paste(cover, (x, y), cover)
        shown[max(y, 0) : max(y + cover.height, 0), max(x, 0) : max(x + cover.width, 0)] = 0
    seen = np.bincount(shown.ravel(), minlength=len(boxes) + 1)[1:]
    visible = seen >= LEAST_VISIBLE * np.array(areas)
    of = np.array(boxes, np.float32).reshape(-1, 4)
    pids = np.full(len(of), UNLABELLED, np.int64)
    pids[: len(background)] = background.pids
    ignored = np.concatenate([of[~visible], background.ignored_xyxy * np.float32(scale)])
    return scene, of[visible], pids[visible], ignored


def _thing(path: Path, height: int, rng: np.random.Generator) -> Image.Image:
    """Cut an upright piece, a box or an oval, from a picture without people, as RGBA."""
    picture = Image.open(path).convert("RGB")
    tall = int(picture.height * rng.uniform(0.3, 0.9))
    wide = min(max(4, round(tall / rng.uniform(*THING_ASPECT))), picture.width)
    x = int(rng.integers(picture.width - wide + 1))
    y = int(rng.integers(picture.height - tall + 1))
    mask = Image.new("L", picture.size)
    draw = ImageDraw.Draw(mask)
    (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(
        (x, y, x + wide - 1, y + tall - 1), fill=255
    )
    return _changed(_cut_out(picture, mask), height, rng)


def _cover(path: Path, behind: float, rng: np.random.Generator) -> Image.Image:
    """Make a sign or a post, of one colour or a piece of a picture, for a person so high."""
    share, aspect = (SIGN, SIGN_ASPECT) if rng.random() < 0.6 else (POST, POST_ASPECT)
    height = max(4, round(behind * rng.uniform(*share)))
    width = max(2, round(height / rng.uniform(*aspect)))
    if rng.random() < 0.5:
        colour = tuple(int(level) for level in rng.integers(256, size=3))
        return Image.new("RGBA", (width, height), (*colour, 255))
    picture = Image.open(path).convert("RGB")
    x = int(rng.integers(max(picture.width - width, 1)))
    y = int(rng.integers(max(picture.height - height, 1)))
    return picture.crop((x, y, x + width, y + height)).convert("RGBA")


def _changed(person: Image.Image, height: int, rng: np.random.Generator) -> Image.Image:
    """Resize a cut-out, flip it at random, and change its light and colours."""
    width = max(3, round(person.width * height / person.height * rng.uniform(0.9, 1.1)))
    person = person.resize((width, height), Image.Resampling.BOX)
    if rng.random() < 0.5:
        person = person.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    alpha = person.getchannel("A")
    changed = person.convert("RGB")
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        changed = change(changed).enhance(1 + CHANGE * rng.uniform(-1, 1))
    # The order of the channels gives clothes of other colours; skin changes with it, seldom.
    if rng.random() < 0.25:
        channels = changed.split()
        changed = Image.merge("RGB", [channels[i] for i in rng.permutation(3)])
    changed.putalpha(alpha)
    return changed
