"""A drawn world on disk, as PRW or CUHK-SYSU come: folders, names, .mat files and their nesting."""

import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.annotations import UNLABELLED
from training.synth.draw import Painter
from training.synth.plan import Scene, SynthConfig, SynthError, make_world

Format: TypeAlias = Literal["prw", "cuhk-sysu"]

#: PRW's number for a person without identity.
PRW_UNLABELLED = -2
#: PRW annotates every 25th frame.
PRW_STEP = 25
#: The gallery sizes of CUHK-SYSU.
GALLERY_SIZES = (50, 100, 500, 1000, 2000, 4000)
#: CUHK-SYSU marks people as hard; here those of whom less than this share is seen.
HARD_BELOW = 0.7
#: Text at the start of a .mat file; the format gives it this length.
MAT_HEADER = b"MATLAB 5.0 MAT-file, written by binet synth".ljust(116)


@dataclass(frozen=True)
class Box:
    """One annotated person, xywh in whole pixels."""

    scene: str
    camera: int
    pid: int
    xywh: tuple[int, int, int, int]
    visible: float

    @property
    def hard(self) -> int:
        """1 or 0, as `ishard`."""
        return int(self.visible < HARD_BELOW)


#: Picture's name -> its people.
Part: TypeAlias = dict[str, list[Box]]


def write_world(
    out: Path, data_format: Format, config: SynthConfig, tick: Callable[[], None] = lambda: None
) -> int:
    """Make a world and write it; equal arguments give equal bytes, by equal versions of Pillow.

    The folder appears when it is complete, and not at all when something fails. Beside the
    original's files it holds `synth.json`, the arguments.

    Parameters
    ----------
    out
        A folder that is empty or does not exist.
    tick
        Called after each picture.

    Returns
    -------
    Number of annotated people.

    Raises
    ------
    SynthError
        The folder has something in it, SciPy is missing, or the format is unknown.
    """
    if data_format not in get_args(Format):
        raise SynthError(f"format {data_format!r}: give {' or '.join(get_args(Format))}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SynthError(f"{out} is not an empty folder: give another one, or delete it first")
    savemat = _savemat()
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        root = work / "tree"
        root.mkdir()
        writer = _write_prw if data_format == "prw" else _write_cuhk_sysu
        people = writer(root, config, savemat, tick)
        arguments = {"format": data_format, **asdict(config)}
        (root / "synth.json").write_text(json.dumps(arguments, indent=2) + "\n", encoding="utf-8")
        root.replace(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return people


def gallery_sizes(pool: int, most_positives: int) -> list[int]:
    """Sizes of CUHK-SYSU's galleries that so many test pictures allow, else the largest possible.

    A gallery holds all pictures of its person but the query's.
    """
    return [n for n in GALLERY_SIZES if most_positives <= n < pool] or [pool - 1]


SaveMat: TypeAlias = Callable[[Path, dict[str, Any]], None]


def _savemat() -> SaveMat:
    try:
        from scipy import io
    except ImportError as error:
        raise SynthError("writing .mat files needs SciPy: pip install 'binet[train]'") from error

    def savemat(path: Path, content: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        io.savemat(path, content, appendmat=False)
        with path.open("r+b") as file:  # SciPy writes the date
            file.write(MAT_HEADER)

    return savemat


def _draw(
    painter: Painter,
    scenes: Sequence[Scene],
    names: Sequence[str],
    folder: Path,
    tick: Callable[[], None],
) -> Part:
    """Write the pictures of one part."""
    folder.mkdir(parents=True, exist_ok=True)
    part: Part = {}
    for scene, name in zip(scenes, names, strict=True):
        drawn = painter.draw(scene)
        # Full colour resolution: at half of it, a stand's colour would run into the box beside it.
        Image.fromarray(drawn.picture).save(folder / name, quality=92, subsampling=0)
        part[name] = [
            Box(name, scene.camera.number, person.pid, (x1, y1, x2 - x1, y2 - y1), visible)
            for person, (x1, y1, x2, y2), visible in zip(
                scene.people, drawn.boxes_xyxy.tolist(), drawn.visible.tolist(), strict=True
            )
        ]
        tick()
    return part


def _boxes(part: Part) -> Iterable[Box]:
    return (box for boxes in part.values() for box in boxes)


def _by_pid(part: Part) -> dict[int, list[Box]]:
    """Labelled people by number, in the order of the numbers."""
    found: dict[int, list[Box]] = defaultdict(list)
    for box in _boxes(part):
        if box.pid != UNLABELLED:
            found[box.pid].append(box)
    return dict(sorted(found.items()))


def _write_prw(root: Path, config: SynthConfig, savemat: SaveMat, tick: Callable[[], None]) -> int:
    """Training pictures are of sequence 1, test pictures of sequence 2."""
    world = make_world(config)
    painter = Painter(world)
    parts: dict[str, Part] = {}
    for sequence, (key, scenes) in enumerate((("train", world.train), ("test", world.test)), 1):
        names = [
            f"c{scene.camera.number}s{sequence}_{1 + PRW_STEP * scene.number:06d}"
            for scene in scenes
        ]
        files = [f"{name}.jpg" for name in names]
        parts[key] = _draw(painter, scenes, files, root / "frames", tick)
        savemat(root / f"frame_{key}.mat", {f"img_index_{key}": _cells(names)})
        for name, boxes in parts[key].items():
            rows = [
                (PRW_UNLABELLED if box.pid == UNLABELLED else box.pid, *box.xywh) for box in boxes
            ]
            savemat(root / "annotations" / f"{name}.mat", {"box_new": np.array(rows, np.float64)})
    savemat(root / "ID_train.mat", {"ID_train": np.array([list(_by_pid(parts["train"]))])})
    savemat(root / "ID_test.mat", {"ID_test2": np.array([list(_by_pid(parts["test"]))])})
    lines = []
    for pid, boxes in _by_pid(parts["test"]).items():
        # As in PRW: one query for each camera that sees the person, where it is seen best.
        for camera in sorted({box.camera for box in boxes}):
            best = max((box for box in boxes if box.camera == camera), key=lambda b: b.visible)
            lines.append(f"{pid} {' '.join(map(str, best.xywh))} {best.scene.removesuffix('.jpg')}")
    (root / "query_info.txt").write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    return sum(1 for part in parts.values() for _ in _boxes(part))


def _write_cuhk_sysu(
    root: Path, config: SynthConfig, savemat: SaveMat, tick: Callable[[], None]
) -> int:
    world = make_world(config)
    painter = Painter(world)
    rng = np.random.default_rng([config.seed, len("cuhk-sysu")])
    # Numbers of training and test pictures are mixed, as in the original.
    numbers = rng.permutation(config.scenes + config.test_scenes) + 1
    names = [f"s{number}.jpg" for number in numbers]
    folder = root / "Image" / "SSM"
    train = _draw(painter, world.train, names[: config.scenes], folder, tick)
    test = _draw(painter, world.test, names[config.scenes :], folder, tick)
    everything = {**train, **test}
    ordered = sorted(everything, key=lambda name: int(name[1:-4]))
    annotation = root / "annotation"
    images = [
        (
            name,
            _small(len(everything[name])),
            _struct(
                ("idlocate", "ishard"),
                [(_small(*box.xywh), _small(box.hard)) for box in everything[name]],
            ),
        )
        for name in ordered
    ]
    savemat(annotation / "Images.mat", {"Img": _struct(("imname", "nAppear", "box"), images)})
    savemat(annotation / "pool.mat", {"pool": _cells(list(test))})
    folder = annotation / "test" / "train_test"
    people = [
        _struct(
            ("idname", "nAppear", "scene"),
            [(f"p{pid}", _small(len(boxes)), _struct(PLACE, [_place(box) for box in boxes]))],
        )
        for pid, boxes in _by_pid(train).items()
    ]
    savemat(folder / "Train.mat", {"Train": _cells(people)})
    most = max(len(boxes) for boxes in _by_pid(test).values()) - 1
    for size in gallery_sizes(len(test), most):
        tests = _struct(("Query", "Gallery"), _galleries(rng, test, size))
        savemat(folder / f"TestG{size}.mat", {f"TestG{size}": tests})
    return sum(1 for _ in _boxes(everything))


PLACE = ("imname", "idlocate", "ishard")


def _place(box: Box) -> tuple[Any, ...]:
    return box.scene, _small(*box.xywh), _small(box.hard)


def _galleries(rng: np.random.Generator, test: Part, size: int) -> list[tuple[Any, ...]]:
    """One query for each person, where it is seen best; first its pictures, then others."""
    rows = []
    for pid, boxes in _by_pid(test).items():
        query = max(boxes, key=lambda box: box.visible)
        positives = [box for box in boxes if box is not query]
        absent = sorted(set(test) - {box.scene for box in boxes})
        others = rng.permutation(len(absent))[: size - len(positives)]
        # The picture is listed, the place in it is empty.
        nothing = np.empty((1, 0))
        gallery = [_place(box) for box in positives]
        gallery += [(absent[i], nothing, nothing) for i in others]
        rows.append(
            (_struct((*PLACE, "idname"), [(*_place(query), f"p{pid}")]), _struct(PLACE, gallery))
        )
    return rows


def _struct(fields: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> npt.NDArray[Any]:
    """Make a MATLAB struct array [1, rows]."""
    array = np.empty((1, len(rows)), [(field, object) for field in fields])
    for i, row in enumerate(rows):
        for field, value in zip(fields, row, strict=True):
            array[field][0, i] = value
    return array


def _cells(values: Sequence[Any]) -> npt.NDArray[np.object_]:
    """Make a MATLAB cell array [values, 1]."""
    array = np.empty((len(values), 1), object)
    for i, value in enumerate(values):
        array[i, 0] = value
    return array


def _small(*values: int) -> npt.NDArray[Any]:
    """[1, values] in the smallest unsigned type, as MATLAB saves whole numbers."""
    return np.array([values], np.min_scalar_type(max(values)))
