"""Named benchmarks on real pictures that developers of BINet have and users do not.

Each becomes a dataset of the neutral format (docs/data.md), so that everything that follows is what
happens with anybody's own data. The pictures are for research and evaluation only.
"""

import csv
import re
import shutil
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark.errors import BenchmarkError
from model.annotations import UNLABELLED, AnnotatedScene
from model.detections import FloatArray
from training.datasets.convert import picture_size
from training.datasets.dataset import Dataset, relabel
from training.datasets.neutral import write_coco, write_coco_protocol
from training.datasets.protocol import (
    Int32,
    Int64,
    Junk,
    ListedGallery,
    Query,
    RetrievalProtocol,
    rule_protocol,
)

#: Every so-manieth frame of the PETS video is searched.
PETS_STEP = 5
#: PRW's camera in `prw_c6s1`, and for how many frames of video after a query its person is junk.
PRW_CAMERA = 6
PRW_JUNK_FRAMES = 125

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class LocalBenchmark:
    """A folder of real pictures, and how it becomes a dataset."""

    folder: str
    about: str
    write: Callable[[Path, Path], None]


def write_pets(data: Path, out: Path) -> None:
    """Search returning people in a video: the query's track is junk, its person's others count."""
    from indexer.video import read_frames

    source = data / "pets09_s2l1"
    images = out / "images"
    images.mkdir(parents=True)
    sizes: dict[Path, tuple[int, int]] = {}
    for number, frame in enumerate(read_frames(source / "vtest.avi"), 1):
        if (number - 1) % PETS_STEP == 0:
            path = images / _pets_name(number)
            frame.picture.save(path, compress_level=1)
            sizes[path] = frame.picture.size
    rows = [
        (int(r["frame"]), int(r["person"]), int(r["track"]), _one_based_box(r), r["flag"] == "1")
        for r in _rows(source / "gt_person.csv")
    ]
    scenes = []
    for path in sorted(sizes):
        here = [row for row in rows if _pets_name(row[0]) == path.name]
        counted = [row for row in here if row[4]]
        scenes.append(
            AnnotatedScene(
                path.name,
                path,
                _boxes(row[3] for row in counted),
                np.array([row[1] for row in counted], np.int64),
                1,
                _boxes(row[3] for row in here if not row[4]),
            )
        )
    place = {scene.name: i for i, scene in enumerate(scenes)}
    queries, true, junk = [], [], []
    for r in _rows(source / "queries.csv"):
        person, track = int(r["person"]), int(r["track"])
        queries.append(Query(_pets_name(int(r["frame"])), _one_based_box(r), person, 1))
        same = [row for row in rows if row[1] == person and _pets_name(row[0]) in place]
        true.append([(place[_pets_name(row[0])], row[3]) for row in same if row[2] != track])
        junk.append([(place[_pets_name(row[0])], row[3]) for row in same if row[2] == track])
    gallery = _everything_listed(len(scenes), true)
    ptr, places, boxes = _ragged(junk)
    protocol = RetrievalProtocol(
        "pets09_s2l1", list(place), queries, gallery, Junk(ptr, places, boxes)
    )
    _write(out, [], scenes, protocol)


def write_prw_c6s1(data: Path, out: Path, trained_share: float = 0.0) -> None:
    """Search one camera of PRW with crops of its people by the other cameras.

    Parameters
    ----------
    trained_share
        Share of the frames, in the order of time, that becomes the training part. Queries are then
        only of people who are not in it.
    """
    frames = _prw_scenes(data, out)
    cut = round(trained_share * len(frames[0]))
    train, pid_of = relabel(frames[0][:cut])
    test, numbers = frames[0][cut:], frames[1]
    trained = {int(pid) for scene in frames[0][:cut] for pid in scene.pids}
    queries, crops = _crop_queries(
        data, out, {person: n for person, n in numbers.items() if n not in trained}
    )
    true = [_first_boxes(test, query.pid) for query in queries]
    kept = [i for i, boxes in enumerate(true) if boxes]
    every = test + [crops[i] for i in kept]
    protocol = RetrievalProtocol(
        "prw_c6s1, cross-camera crops",
        [scene.name for scene in every],
        [queries[i] for i in kept],
        _everything_listed(len(test), [true[i] for i in kept]),
    )
    _write(out, train, every, protocol, pid_of)


def write_prw_c6s1_half(data: Path, out: Path) -> None:
    """Search the second half of the camera's time for people who are not in the first."""
    write_prw_c6s1(data, out, 0.5)


def write_prw_c6s1_within(data: Path, out: Path) -> None:
    """Search one camera of PRW for a person's first box; the same visit is junk."""
    scenes, _ = _prw_scenes(data, out)
    source_frame = {s.name: int(re.split(r"[_.]", s.name)[1]) for s in scenes}
    queries, true, junk = [], [], []
    for pid in sorted({int(p) for scene in scenes for p in scene.pids if p != UNLABELLED}):
        everywhere = _first_boxes(scenes, pid)
        first, box = everywhere[0]
        near = [
            e
            for e in everywhere
            if abs(source_frame[scenes[e[0]].name] - source_frame[scenes[first].name])
            <= PRW_JUNK_FRAMES
        ]
        far = [e for e in everywhere if e not in near]
        if far:
            queries.append(Query(scenes[first].name, box, pid, PRW_CAMERA))
            true.append(far)
            junk.append(near)
    ptr, places, boxes = _ragged(junk)
    protocol = RetrievalProtocol(
        "prw_c6s1, within the camera",
        [scene.name for scene in scenes],
        queries,
        _everything_listed(len(scenes), true),
        Junk(ptr, places, boxes),
    )
    _write(out, [], scenes, protocol)


def write_prw_mini(data: Path, out: Path) -> None:
    """Search sixteen frames of two cameras for each person, once for each camera."""
    source = data / "prw_mini"
    rows = list(_rows(source / "gt.csv"))
    scenes = []
    for name in sorted({r["frame"] for r in rows}):
        path = _copy(source / "frames" / name, out / "images" / name)
        here = [r for r in rows if r["frame"] == name]
        pids = np.array([int(r["id"]) for r in here], np.int64)
        scenes.append(
            AnnotatedScene(name, path, _boxes(map(_box, here)), pids, int(here[0]["camera"]))
        )
    queries: dict[tuple[int, int | None], Query] = {}
    for scene in scenes:
        for pid, box in zip(scene.pids.tolist(), scene.boxes_xyxy.tolist(), strict=True):
            if pid != UNLABELLED:
                query = Query(scene.name, tuple(box), pid, scene.camera)
                queries.setdefault((pid, scene.camera), query)
    protocol = rule_protocol("prw_mini", scenes, list(queries.values()), "other-images")
    _write(out, [], scenes, protocol)


#: By name.
LOCAL = {
    "pets09_s2l1": LocalBenchmark(
        "pets09_s2l1", "returning people in one surveillance video", write_pets
    ),
    "prw_c6s1": LocalBenchmark(
        "prw_c6s1", "one camera, crops of its people by five others", write_prw_c6s1
    ),
    "prw_c6s1_half": LocalBenchmark(
        "prw_c6s1",
        "the same, second half of the time, people not in the first",
        write_prw_c6s1_half,
    ),
    "prw_c6s1_within": LocalBenchmark(
        "prw_c6s1", "the same people within the camera, another visit", write_prw_c6s1_within
    ),
    "prw_mini": LocalBenchmark(
        "prw_mini", "sixteen frames of two cameras, a smoke test", write_prw_mini
    ),
}


def write_local(name: str, data: Path, out: Path) -> Path | None:
    """Make the dataset of a named benchmark, anew; None where its folder is not there.

    Raises
    ------
    BenchmarkError
        When there is no benchmark of this name.
    """
    if name not in LOCAL:
        raise BenchmarkError(f"no local benchmark {name}: choose of {', '.join(LOCAL)}")
    if not (data / LOCAL[name].folder).is_dir():
        return None
    if out.exists():
        shutil.rmtree(out)
    LOCAL[name].write(data, out)
    return out


def _prw_scenes(data: Path, out: Path) -> tuple[list[AnnotatedScene], dict[str, int]]:
    """Copy the frames; give them as scenes, and the number of each person."""
    source = data / "prw_c6s1"
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    for r in _rows(source / "gt.csv"):
        rows[r["frame"]].append(r)
    people = sorted({r["person"] for here in rows.values() for r in here if r["person"]})
    numbers = {person: number for number, person in enumerate(people)}
    scenes = []
    for frame in sorted((source / "frames").glob("*.jpg")):
        path = _copy(frame, out / "images" / frame.name)
        here = rows[frame.name]
        pids = np.array([numbers.get(r["person"], UNLABELLED) for r in here], np.int64)
        boxes = _boxes(map(_box, here))
        scenes.append(AnnotatedScene(frame.name, path, boxes, pids, PRW_CAMERA))
    return scenes, numbers


def _crop_queries(
    data: Path, out: Path, numbers: dict[str, int]
) -> tuple[list[Query], list[AnnotatedScene]]:
    """Take the first crop of each of these people by each other camera, as a picture of its own."""
    first: dict[tuple[str, str], str] = {}
    for r in _rows(data / "prw_c6s1" / "cross_camera_crops.csv"):
        if r["person"] in numbers:
            first.setdefault((r["person"], r["camera"]), r["file"])
    queries, crops = [], []
    archives: dict[str, zipfile.ZipFile] = {}
    for (person, camera), file in sorted(first.items()):
        folder, _, member = file.partition("/")
        if folder not in archives:
            archives[folder] = zipfile.ZipFile(data / folder / "images.zip")
        name = f"crops/{Path(member).name}"
        path = out / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(archives[folder].read(member))
        width, height = picture_size(path)
        box = (0.0, 0.0, float(width), float(height))
        pid = numbers[person]
        queries.append(Query(name, box, pid, int(camera)))
        crops.append(AnnotatedScene(name, path, _boxes([box]), np.array([pid]), int(camera)))
    for archive in archives.values():
        archive.close()
    return queries, crops


def _first_boxes(scenes: list[AnnotatedScene], pid: int) -> list[tuple[int, Box]]:
    """Give the scenes that show a person, and the first box in each."""
    found = []
    for i, scene in enumerate(scenes):
        at = np.flatnonzero(scene.pids == pid)
        if len(at):
            x1, y1, x2, y2 = scene.boxes_xyxy[at[0]].tolist()
            found.append((i, (x1, y1, x2, y2)))
    return found


def _everything_listed(scenes: int, true: list[list[tuple[int, Box]]]) -> ListedGallery:
    """Every query searches the first so many scenes; `true` says where its person stands."""
    boxes = np.full((len(true), scenes, 4), np.nan, np.float32)
    for query, entries in enumerate(true):
        for scene, box in entries:
            boxes[query, scene] = box
    return ListedGallery(
        np.arange(len(true) + 1, dtype=np.int64) * scenes,
        np.tile(np.arange(scenes, dtype=np.int32), len(true)),
        boxes.reshape(-1, 4),
    )


def _ragged(entries: list[list[tuple[int, Box]]]) -> tuple[Int64, Int32, FloatArray]:
    ptr = np.cumsum([0, *map(len, entries)]).astype(np.int64)
    places = np.array([scene for row in entries for scene, _ in row], np.int32)
    return ptr, places, _boxes(box for row in entries for _, box in row)


def _write(
    out: Path,
    train: list[AnnotatedScene],
    test: list[AnnotatedScene],
    protocol: RetrievalProtocol,
    pid_of: dict[int, int] | None = None,
) -> None:
    dataset = Dataset("coco", out, train, test, pid_of or {})
    sizes = {scene.path: picture_size(scene.path) for scene in (*train, *test)}
    write_coco(dataset, out, image_root="images", sizes=sizes)
    write_coco_protocol(protocol, out)


def _rows(path: Path) -> Iterable[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _box(row: dict[str, str]) -> Box:
    x, y, w, h = (float(row[side]) for side in "xywh")
    return x, y, x + w, y + h


def _one_based_box(row: dict[str, str]) -> Box:
    """MOT counts pixels from 1."""
    x1, y1, x2, y2 = _box(row)
    return x1 - 1, y1 - 1, x2 - 1, y2 - 1


def _boxes(boxes: Iterable[Box]) -> FloatArray:
    return np.array(list(boxes), np.float32).reshape(-1, 4)


def _copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target


def _pets_name(number: int) -> str:
    return f"frame{number:04d}.png"
