"""Real pictures for development, as a dataset of the neutral format; users do not have them.

python -m tests.real_pictures DATA OUT      # then: binet ablation --data OUT ...
"""

import csv
import shutil
import sys
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from model.annotations import UNLABELLED, AnnotatedScene
from training.datasets.convert import picture_size
from training.datasets.dataset import Dataset, relabel
from training.datasets.neutral import write_coco, write_coco_protocol
from training.datasets.protocol import ListedGallery, Query, RetrievalProtocol

#: Share of the frames, in the order of time, that is trained on.
TRAINED = 0.5
CAMERA = 6


def write_prw_c6s1(data: Path, out: Path) -> None:
    """One camera of PRW split by time, searched with crops of the people by the other cameras.

    Queries are one crop for each camera and person of the second part who is not in the first.
    The crops are pictures of the test part, listed in no gallery.
    """
    source = data / "prw_c6s1"
    frames = sorted(path.name for path in (source / "frames").glob("*.jpg"))
    (out / "images").mkdir(parents=True)
    for frame in frames:
        shutil.copyfile(source / "frames" / frame, out / "images" / frame)
    people = _people(source)
    numbers = {person: i for i, person in enumerate(sorted({p for _, p, _ in people if p}))}
    scenes = []
    for frame in frames:
        here = [(person, box) for name, person, box in people if name == frame]
        boxes = np.array([box for _, box in here], np.float32).reshape(-1, 4)
        pids = np.array([numbers.get(person, UNLABELLED) for person, _ in here], np.int64)
        scenes.append(AnnotatedScene(frame, out / "images" / frame, boxes, pids, CAMERA))
    cut = round(TRAINED * len(scenes))
    trained = {int(pid) for scene in scenes[:cut] for pid in scene.pids}
    train, pid_of = relabel(scenes[:cut])
    test = scenes[cut:]

    queries, crops = _queries(data, out, {p: n for p, n in numbers.items() if n not in trained})
    first = [_first_boxes(test, query.pid) for query in queries]
    kept = [i for i, boxes in enumerate(first) if not np.isnan(boxes).all()]
    gallery = ListedGallery(
        np.arange(len(kept) + 1, dtype=np.int64) * len(test),
        np.tile(np.arange(len(test), dtype=np.int32), len(kept)),
        np.concatenate([first[i] for i in kept]),
    )
    every = test + [crops[i] for i in kept]
    dataset = Dataset("coco", out, train, every, pid_of)
    sizes = {scene.path: picture_size(scene.path) for scene in (*train, *every)}
    write_coco(dataset, out, image_root="images", sizes=sizes)
    names = [scene.name for scene in every]
    chosen = [queries[i] for i in kept]
    write_coco_protocol(RetrievalProtocol("prw_c6s1", names, chosen, gallery), out)


def _people(source: Path) -> list[tuple[str, str, list[float]]]:
    """Frame, person (empty without identity) and box of every row."""
    people = []
    with (source / "gt.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            x, y, w, h = (float(row[side]) for side in "xywh")
            people.append((row["frame"], row["person"], [x, y, x + w, y + h]))
    return people


def _queries(
    data: Path, out: Path, numbers: dict[str, int]
) -> tuple[list[Query], list[AnnotatedScene]]:
    """The first crop of each of these people and each other camera."""
    by_place: dict[tuple[str, str], str] = {}
    with (data / "prw_c6s1" / "cross_camera_crops.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["person"] in numbers:
                by_place.setdefault((row["person"], row["camera"]), row["file"])
    files: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
    for (person, number), path in sorted(by_place.items()):
        folder, _, member = path.partition("/")
        files[folder].append((person, int(number), member))
    queries, crops = [], []
    for folder, entries in files.items():
        with zipfile.ZipFile(data / folder / "images.zip") as archive:
            for person, camera, member in entries:
                name = f"crops/{Path(member).name}"
                target = out / "images" / name
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(archive.read(member))
                width, height = picture_size(target)
                box = np.array([[0, 0, width, height]], np.float32)
                queries.append(Query(name, (0, 0, width, height), numbers[person], camera))
                pids = np.array([numbers[person]])
                crops.append(AnnotatedScene(name, target, box, pids, camera))
    return queries, crops


def _first_boxes(
    scenes: list[AnnotatedScene], pid: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """The person's box in each scene, NaN where absent: [M, 4]."""
    boxes = np.full((len(scenes), 4), np.nan, np.float32)
    for i, scene in enumerate(scenes):
        places = np.flatnonzero(scene.pids == pid)
        if len(places):
            boxes[i] = scene.boxes_xyxy[places[0]]
    return boxes


if __name__ == "__main__":
    write_prw_c6s1(Path(sys.argv[1]), Path(sys.argv[2]))
