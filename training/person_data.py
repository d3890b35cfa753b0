"""Scenes and crops for the CPU network, put together from the developers' real pictures.

`python -m training.person_data DATA OUT` writes `OUT/scenes` (the neutral format), `OUT/market` and
`OUT/cuhk03` to train on, and `OUT/market-held-out` to validate with. Pictures of scenes stay where
they are, and `OUT/pasted` holds new ones. For research and evaluation only; what is held out, and
why, is in docs/weights.md.
"""

import csv
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from model.annotations import UNLABELLED, AnnotatedScene
from training.datasets.crops import PERSON_COLUMN
from training.datasets.dataset import Dataset, relabel
from training.datasets.neutral import write_coco
from training.errors import DatasetError
from training.pasted import coco_cut_outs, penn_fudan_cut_outs, write_pasted

SOURCES = ("coco_val2017_person", "coco_small", "pennfudan", "prw_c6s1")
CROPS = ("market1501_train", "cuhk03")
#: A pedestrian is at least so many pixels high, and at most so wide for its height.
LEAST_HEIGHT = 24.0
MOST_ASPECT = 1.2
#: Share of the camera's time that is trained on; the rest is a benchmark.
PRW_SHARE = 0.5
PRW_CAMERA = 6
#: So many of Market-1501's people, the last ones, are kept for validation.
MARKET_HELD_OUT = 100
#: Scenes with pasted people, on empty pictures and on the frames of PRW that are trained on.
PASTED = 2000
#: People of PRW who are not in Market-1501 are numbered from here.
OTHER_PEOPLE = 100_000

Row = dict[str, str]


@dataclass(frozen=True)
class Summary:
    """What was written: pictures, boxes, people."""

    scenes: int
    boxes: int
    scene_people: int
    market_crops: int
    cuhk03_crops: int
    held_out_crops: int


def write_person_data(
    data: Path, out: Path, *, held_out: int = MARKET_HELD_OUT, pasted: int = PASTED
) -> Summary:
    """Write the training data of the recipe `cpu-person`.

    Parameters
    ----------
    data
        The developers' folder of real pictures.
    out
        A new folder.
    held_out
        People of Market-1501 to keep for validation.
    pasted
        Scenes with pasted people to make.

    Raises
    ------
    DatasetError
        When a source is missing, or `out` exists.
    """
    missing = [name for name in (*SOURCES, *CROPS) if not (data / name).is_dir()]
    if missing:
        raise DatasetError(f"{data}: missing {', '.join(missing)}")
    if out.exists():
        raise DatasetError(f"{out} exists: give another folder")
    rows = _rows(data / "market1501_train" / "index.csv")
    last = set(sorted({int(row["id"]) for row in rows})[-held_out:] if held_out else [])
    prw, later_people = _prw(data, last)
    scenes = [*_coco(data), *_penn_fudan(data), *prw]
    scenes += _pasted(data, out / "pasted", scenes, prw, pasted)
    train, pid_of = relabel(scenes)
    (out / "scenes").mkdir(parents=True)
    dataset = Dataset("coco", out / "scenes", train, [], pid_of)
    own = {scene.path: str(scene.path.resolve()) for scene in scenes if out in scene.path.parents}
    write_coco(dataset, out / "scenes", image_root=str(data.resolve()), file_names=own)

    kept = [row for row in rows if int(row["id"]) not in last | later_people]
    for row in kept:
        # The same person in the scenes and in the crops is one person.
        row[PERSON_COLUMN] = row["id"] if int(row["id"]) in pid_of else ""
    validation = [row for row in rows if int(row["id"]) in last]
    cuhk = _rows(data / "cuhk03" / "index.csv")
    _write_crops(data / "market1501_train", out / "market", kept)
    _write_crops(data / "cuhk03", out / "cuhk03", cuhk)
    if validation:
        _write_crops(data / "market1501_train", out / "market-held-out", validation)
    boxes = sum(len(scene) for scene in scenes)
    return Summary(len(scenes), boxes, len(pid_of), len(kept), len(cuhk), len(validation))


def _coco(data: Path) -> list[AnnotatedScene]:
    """Both parts of COCO, each picture once; pictures without people are negatives."""
    scenes = []
    seen: set[str] = set()
    for folder in ("coco_val2017_person", "coco_small"):
        by_name: dict[str, list[Row]] = defaultdict(list)
        for row in _rows(data / folder / "gt.csv"):
            by_name[row["image"]].append(row)
        for path in sorted((data / folder / "images").glob("*.jpg")):
            here = by_name[path.name]
            crowd = any(row.get("iscrowd") == "1" for row in here)
            # In a crowd people are not annotated one by one: all of them would be background.
            if path.name not in seen and not crowd:
                scenes.append(_scene(data, path, here))
            seen.add(path.name)
    return scenes


def _penn_fudan(data: Path) -> list[AnnotatedScene]:
    by_name: dict[str, list[Row]] = defaultdict(list)
    for row in _rows(data / "pennfudan" / "gt.csv"):
        by_name[row["image"]].append(row)
    images = data / "pennfudan" / "images"
    return [_scene(data, images / name, here) for name, here in sorted(by_name.items())]


def _prw(data: Path, held_out: set[int]) -> tuple[list[AnnotatedScene], set[int]]:
    """First part of the camera's time, and the Market numbers of the people of the rest.

    Who is held out in Market-1501 has no identity in the scenes either.
    """
    source = data / "prw_c6s1"
    by_name: dict[str, list[Row]] = defaultdict(list)
    for row in _rows(source / "gt.csv"):
        by_name[row["frame"]].append(row)
    paths = sorted((source / "frames").glob("*.jpg"))
    cut = round(PRW_SHARE * len(paths))
    others = sorted(
        {row["person"] for rows in by_name.values() for row in rows if row["person"]}
        - {row["person"] for rows in by_name.values() for row in rows if _market(row["person"])}
    )
    numbers = {person: OTHER_PEOPLE + i for i, person in enumerate(others)}

    def pid(row: Row) -> int:
        market = _market(row["person"])
        if market is None:
            return numbers.get(row["person"], UNLABELLED)
        return UNLABELLED if market in held_out else market

    scenes = [
        _scene(data, path, by_name[path.name], [pid(r) for r in by_name[path.name]], PRW_CAMERA)
        for path in paths[:cut]
    ]
    later = {_market(row["person"]) for path in paths[cut:] for row in by_name[path.name]}
    return scenes, {number for number in later if number is not None}


def _pasted(
    data: Path, out: Path, scenes: list[AnnotatedScene], prw: list[AnnotatedScene], count: int
) -> list[AnnotatedScene]:
    """Paste people on pictures without any and, by turns, on PRW's frames."""
    people = [*coco_cut_outs(data / "coco_small"), *penn_fudan_cut_outs(data / "pennfudan")]
    empty = [s for s in scenes if not len(s) and not len(s.ignored_xyxy)]
    frames = [scene for scene in prw if len(scene)]
    turns = [scene for pair in zip_longest(empty, frames) for scene in pair if scene is not None]
    if not people or not turns:
        return []
    return write_pasted(people, turns, out, count)


def _market(person: str) -> int | None:
    """Give the Market-1501 number of a person of prw_c6s1, who is called m0013 then."""
    return int(person[1:]) if person.startswith("m") else None


def _scene(
    data: Path,
    path: Path,
    rows: list[Row],
    pids: list[int] | None = None,
    camera: int | None = None,
) -> AnnotatedScene:
    """Make a scene; who is no pedestrian by size and shape becomes an ignored box."""
    boxes = np.array([[float(row[k]) for k in "xywh"] for row in rows], np.float32).reshape(-1, 4)
    width, height = boxes[:, 2], boxes[:, 3]
    upright = (height >= LEAST_HEIGHT) & (width < MOST_ASPECT * height)
    boxes[:, 2:] += boxes[:, :2]
    numbers = np.array(pids if pids is not None else [UNLABELLED] * len(rows), np.int64)
    # With an identity it is a pedestrian, whatever its shape.
    upright |= numbers != UNLABELLED
    has_extent = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return AnnotatedScene(
        path.relative_to(data).as_posix(),
        path,
        boxes[upright],
        numbers[upright],
        camera,
        boxes[~upright & has_extent],
    )


def _write_crops(source: Path, out: Path, rows: list[Row]) -> None:
    out.mkdir(parents=True)
    shutil.copyfile(source / "images.zip", out / "images.zip")
    fields = ["file", "id", "camera", PERSON_COLUMN]
    with (out / "index.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _rows(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main(arguments: Iterable[str]) -> None:
    """Write the data and say how much it is."""
    data, out = map(Path, arguments)
    print(write_person_data(data, out))


if __name__ == "__main__":
    main(sys.argv[1:])
