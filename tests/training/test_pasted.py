"""Pasted scenes: the boxes are where the people are."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from model.annotations import AnnotatedScene
from training.pasted import (
    HEIGHTS,
    LONG_SIDE,
    coco_cut_outs,
    penn_fudan_cut_outs,
    write_pasted,
)


def red_person() -> Image.Image:
    person = Image.new("RGBA", (60, 180))
    ImageDraw.Draw(person).ellipse((0, 0, 59, 179), fill=(250, 0, 0, 255))
    return person


def grey_scene(path: Path, boxes: list[list[float]] | None = None) -> AnnotatedScene:
    Image.new("RGB", (LONG_SIDE, 576), (128, 128, 128)).save(path)
    of = np.array(boxes or [], np.float32).reshape(-1, 4)
    return AnnotatedScene(path.name, path, of, np.full(len(of), 7, np.int64))


def coloured(path: Path) -> np.ndarray:
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    shown: np.ndarray = (pixels.max(axis=2) - pixels.min(axis=2)) > 60
    return shown


def test_boxes_are_around_the_people(tmp_path: Path) -> None:
    background = grey_scene(tmp_path / "grey.png")
    scenes = write_pasted([red_person()], [background], tmp_path / "out", 8, seed=5, most_covers=0)
    assert len(scenes) == 8
    for scene in scenes:
        shown = coloured(scene.path)
        around = np.zeros_like(shown)
        for x1, y1, x2, y2 in np.concatenate([scene.boxes_xyxy, scene.ignored_xyxy]).astype(int):
            around[y1:y2, x1:x2] = True
        # JPEG's colours reach a few pixels further.
        assert (shown & ~around).sum() <= 0.02 * shown.sum()
        for x1, y1, x2, y2 in scene.boxes_xyxy.astype(int):
            assert shown[y1:y2, x1:x2].mean() > 0.25
        heights = scene.boxes_xyxy[:, 3] - scene.boxes_xyxy[:, 1]
        assert heights.max() <= HEIGHTS[1]
        assert (scene.pids == -1).all()


def test_whoever_is_covered_is_ignored(tmp_path: Path) -> None:
    """People of the background keep their numbers as long as they are seen."""
    small = [[400.0, 300.0, 412.0, 330.0]]
    background = grey_scene(tmp_path / "grey.png", small)
    scenes = write_pasted([red_person()], [background], tmp_path / "out", 60)
    kept = sum(7 in scene.pids for scene in scenes)
    covered = [
        scene for scene in scenes if any(np.allclose(box, small[0]) for box in scene.ignored_xyxy)
    ]
    assert covered
    assert kept + len(covered) == 60
    x1, y1, x2, y2 = map(int, small[0])
    for scene in covered:
        assert coloured(scene.path)[y1:y2, x1:x2].mean() > 0.5


def test_things_are_pasted_that_are_nobody(tmp_path: Path) -> None:
    """They come from pictures without people, cover nobody, and have no box."""
    red, grey = tmp_path / "red.png", grey_scene(tmp_path / "grey.png", [[300.0, 200, 360, 400]])
    Image.new("RGB", (LONG_SIDE, 576), (250, 0, 0)).save(red)
    empty = AnnotatedScene(red.name, red, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    white = Image.new("RGBA", (60, 180), (250, 250, 250, 255))
    scenes = write_pasted([white], [grey, empty], tmp_path / "out", 40, most_covers=0)[::2]
    # Whatever has a colour is a thing.
    shown = [coloured(scene.path) for scene in scenes]
    assert sum(things.any() for things in shown) >= 10
    assert not any(things[202:398, 302:358].any() for things in shown)


def test_signs_and_posts_stand_before_people(tmp_path: Path) -> None:
    """Whoever is seen enough behind one keeps the whole box, all others are ignored."""
    red = tmp_path / "red.png"
    Image.new("RGB", (LONG_SIDE, 576), (250, 0, 0)).save(red)
    empty = AnnotatedScene(red.name, red, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    person = [300.0, 200, 360, 400]
    one = grey_scene(tmp_path / "one.png", [person])
    # Nothing is to be seen of the people who are pasted: all that has a colour covers somebody.
    nobody = Image.new("RGBA", (60, 180), (128, 128, 128, 0))
    scenes = write_pasted([nobody], [one, empty], tmp_path / "out", 120)[::2]
    hidden = []
    for scene in scenes:
        x1, y1, x2, y2 = map(int, person)
        covered = coloured(scene.path)[y1 + 4 : y2 - 4, x1 + 4 : x2 - 4].mean()
        seen = any(np.allclose(box, person) for box in scene.boxes_xyxy)
        assert seen != any(np.allclose(box, person) for box in scene.ignored_xyxy)
        assert seen or covered > 0.3
        hidden.append(covered if seen else 0)
    assert sum(share > 0.1 for share in hidden) >= 10


def test_a_seed_gives_the_same_scenes(tmp_path: Path) -> None:
    background = grey_scene(tmp_path / "grey.png")
    one, two, other = (
        write_pasted([red_person()], [background], tmp_path / name, 2, seed=seed)
        for name, seed in (("one", 3), ("two", 3), ("other", 4))
    )
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.boxes_xyxy, b.boxes_xyxy)
        assert a.path.read_bytes() == b.path.read_bytes()
    assert one[0].path.read_bytes() != other[0].path.read_bytes()


@pytest.mark.parametrize(("height", "found"), [(120, 1), (60, 0)])
def test_people_are_cut_along_their_masks(tmp_path: Path, height: int, found: int) -> None:
    person = (20, 10, 20 + height // 3, 10 + height)
    picture = Image.new("RGB", (100, 160), (0, 0, 200))
    ImageDraw.Draw(picture).rectangle(person, fill=(250, 0, 0))
    (tmp_path / "images").mkdir()
    picture.save(tmp_path / "images" / "p.jpg", quality=95)
    x, y, right, bottom = person
    box = [x, y, right - x, bottom - y]
    annotation = {
        "image_id": 0,
        "bbox": box,
        "iscrowd": 0,
        "segmentation": [[x, y, right, y, right, bottom, x, bottom]],
    }
    content = {
        "images": [{"id": 0, "file_name": "p.jpg", "width": 100, "height": 160}],
        "annotations": [annotation, {**annotation, "iscrowd": 1}],
    }
    (tmp_path / "person_instances.json").write_text(json.dumps(content))
    (tmp_path / "masks").mkdir()
    mask = Image.new("L", picture.size)
    ImageDraw.Draw(mask).rectangle(person, fill=2)
    mask.save(tmp_path / "masks" / "p.png")
    row = ",".join(map(str, ["p.jpg", *box, 2]))
    (tmp_path / "gt.csv").write_text(f"image,x,y,w,h,mask_value\n{row}\n")
    for cut_outs in (coco_cut_outs(tmp_path), penn_fudan_cut_outs(tmp_path)):
        assert len(cut_outs) == found
        for cut_out in cut_outs:
            values = np.asarray(cut_out)
            solid = values[values[..., 3] > 250]
            assert (solid[:, 0] > 150).all()
            assert (solid[:, 2] < 100).all()
