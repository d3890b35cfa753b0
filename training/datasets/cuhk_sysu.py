"""CUHK-SYSU from its original folder (Xiao et al., "Joint Detection and Identification", 2017).

Identities have no numbers of their own there that cover both parts. As in every public reader, a
training identity is numbered by its place in `Train.mat` and a test identity by its query's place
in the protocol files, both from 1.
"""

import logging
import re
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from model.annotations import UNLABELLED
from training.datasets.cache import cached_protocol
from training.datasets.dataset import Dataset, EmptyBox, make_scene, relabel
from training.datasets.layout import listing, load_mat, require, require_pictures, some
from training.datasets.mat_tests import Test, read_tests
from training.datasets.protocol import ListedGallery, Query, RetrievalProtocol
from training.errors import DatasetError

log = logging.getLogger(__name__)

TRAIN_TEST = "annotation/test/train_test"
NEEDED = ["annotation/Images.mat", "annotation/pool.mat", f"{TRAIN_TEST}/Train.mat"]
#: Name of a subset -> its file and variable below `annotation/test/subset`.
SUBSETS = {
    "occlusion": ("Occlusion.mat", "Occlusion1"),
    "resolution": ("Resolution.mat", "Test_Size"),
}
Subset = Literal["occlusion", "resolution"]
Cell = Any


def read_cuhk_sysu(
    root: Path, *, pictures: bool = True, empty: list[EmptyBox] | None = None
) -> Dataset:
    """Read all boxes and identities.

    Boxes without extent are dropped, as the protocol says; a box of `Train.mat` or of the
    protocol that equals none of the picture's boxes is dropped with a warning.

    Parameters
    ----------
    pictures
        Whether the pictures must be there.
    empty
        Takes the boxes without extent.

    Raises
    ------
    DatasetError
        The folder is not CUHK-SYSU, or not all of it.
    """
    require(root, NEEDED + ["Image/SSM/"] * pictures, "CUHK-SYSU")
    smallest = gallery_sizes(root)[0]
    boxes_xywh = {
        _text(record["imname"]): _boxes(record["box"])
        for record in load_mat(root / "annotation" / "Images.mat", "Img").ravel()
    }
    pids = {name: np.full(len(rows), UNLABELLED) for name, rows in boxes_xywh.items()}
    pool = _pool(root)
    unknown = [name for name in pool if name not in boxes_xywh]
    if unknown:
        raise DatasetError(
            f"{root}: pool.mat names {len(unknown)} pictures that are not in Images.mat: "
            f"{some(unknown)}"
        )
    if pictures:
        require_pictures(root / "Image" / "SSM", boxes_xywh, "CUHK-SYSU")
    _label(boxes_xywh, pids, _train_people(root), "Train.mat")
    people = _test_people(
        read_tests(root / TRAIN_TEST / f"TestG{smallest}.mat", f"TestG{smallest}")
    )
    _label(boxes_xywh, pids, people, f"TestG{smallest}.mat")

    rejected: list[EmptyBox] = [] if empty is None else empty
    scenes = {
        name: make_scene(
            name, root / "Image" / "SSM" / name, _xyxy(rows), pids[name], empty=rejected
        )
        for name, rows in boxes_xywh.items()
    }
    in_pool = set(pool)
    train, pid_of = relabel([scenes[name] for name in sorted(scenes) if name not in in_pool])
    return Dataset("cuhk-sysu", root, train, [scenes[name] for name in pool], pid_of)


def read_cuhk_sysu_protocol(
    root: Path,
    gallery_size: int = 100,
    *,
    subset: Subset | None = None,
    complete: bool = False,
) -> RetrievalProtocol:
    """Read queries and galleries, nothing removed and nothing merged.

    Parameters
    ----------
    gallery_size
        50, 100, 500, 1000, 2000 or 4000 in the original. The first reading takes about half a
        second for each 100; the result is kept (`training.datasets.cache`).
    subset
        The queries with occluded or small people, with galleries of their own.
    complete
        Every other picture of the pool follows the listed ones: the full set of 6,978.
    """
    require(root, ["annotation/pool.mat"], "CUHK-SYSU")
    sizes = gallery_sizes(root)
    # The order of the queries, which numbers the people, is that of every TestG file.
    base = root / TRAIN_TEST / f"TestG{sizes[0]}.mat"
    if subset is not None:
        file, key = SUBSETS[subset]
        path = root / "annotation" / "test" / "subset" / file
        require(root, [f"annotation/test/subset/{file}"], "CUHK-SYSU")
        name = f"CUHK-SYSU {subset}"
    else:
        if gallery_size not in sizes:
            raise DatasetError(
                f"{root / TRAIN_TEST}: no TestG{gallery_size}.mat; found the gallery sizes "
                f"{', '.join(map(str, sizes))}"
            )
        key = f"TestG{gallery_size}"
        path = root / TRAIN_TEST / f"{key}.mat"
        name = f"CUHK-SYSU {gallery_size}"
    name += ", complete" * complete
    return cached_protocol(
        name,
        [root / "annotation" / "pool.mat", path, base],
        lambda: _protocol(
            name, _pool(root), read_tests(path, key), read_tests(base, base.stem), complete
        ),
    )


def _protocol(
    name: str, pool: list[str], tests: Iterable[Test], base: Iterable[Test], complete: bool
) -> RetrievalProtocol:
    """Build the protocol; `base` is the file whose order of queries numbers the people."""
    numbers = {(test.scene, test.box): i for i, test in enumerate(base, 1)}
    index = {image: i for i, image in enumerate(pool)}
    queries, ptr = [], [0]
    # Arrays, since a list of 11.6 million numbers takes ten times as much: gallery 4000.
    images, places, boxes = array("i"), array("q"), array("q")
    for test in tests:
        x, y, w, h = test.box
        if (test.scene, test.box) not in numbers:
            raise DatasetError(f"{name}: the query {test.scene} {test.box} is in no TestG file")
        box = (float(x), float(y), float(x + w), float(y + h))
        queries.append(Query(test.scene, box, numbers[test.scene, test.box]))
        unknown = [image for image in test.images if image not in index]
        if unknown:
            raise DatasetError(f"{name}: {unknown[0]} is in a gallery but not in pool.mat")
        images.extend(index[image] for image in test.images)
        for place, xywh in test.boxes.items():
            places.append(ptr[-1] + place)
            boxes.extend(xywh)
        ptr.append(len(images))
    boxes_xyxy = np.full((len(images), 4), np.nan, np.float32)
    boxes_xyxy[np.array(places, np.int64)] = _xyxy(np.array(boxes, np.int64).reshape(-1, 4))
    listed = ListedGallery(
        np.array(ptr, np.int64), np.array(images, np.int32), boxes_xyxy, complete
    )
    return RetrievalProtocol(name, pool, queries, listed)


def gallery_sizes(root: Path) -> list[int]:
    """Return the sizes of the galleries that a folder has lists of, smallest first."""
    folder = root / TRAIN_TEST
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = [re.fullmatch(r"TestG(\d+)\.mat", name) for name in names]
    sizes = sorted(int(match[1]) for match in found if match)
    if not sizes:
        raise DatasetError(
            f"{root} is not a complete CUHK-SYSU folder: missing {TRAIN_TEST}/TestG50.mat (or "
            f"another gallery size); found {listing(folder)}"
        )
    return sizes


def _pool(root: Path) -> list[str]:
    return [_text(cell) for cell in load_mat(root / "annotation" / "pool.mat", "pool").ravel()]


def _train_people(root: Path) -> Iterable[tuple[int, str, npt.NDArray[np.int64]]]:
    items = load_mat(root / TRAIN_TEST / "Train.mat", "Train").ravel()
    for pid, item in enumerate(items, 1):
        # A cell of one struct: idname, nAppear, scene.
        for scene in item[0, 0][2].ravel():
            yield pid, _text(scene["imname"]), _box(scene["idlocate"])


def _test_people(
    tests: Iterable[Test],
) -> Iterable[tuple[int, str, npt.NDArray[np.int64]]]:
    for pid, test in enumerate(tests, 1):
        yield pid, test.scene, np.array(test.box)
        for place, box in test.boxes.items():
            yield pid, test.images[place], np.array(box)


def _label(
    boxes_xywh: dict[str, npt.NDArray[np.int64]],
    pids: dict[str, npt.NDArray[np.int64]],
    people: Iterable[tuple[int, str, npt.NDArray[np.int64]]],
    file: str,
) -> None:
    """Give each annotated box that is exactly equal its identity."""
    lost = []
    for pid, name, box in people:
        rows = boxes_xywh.get(name, np.empty((0, 4), np.int64))
        same = np.flatnonzero((rows == box).all(axis=1))
        if len(same):
            pids[name][same[0]] = pid
        else:
            lost.append(f"{name} {tuple(box.tolist())}")
    if lost:
        log.warning("%s: %d boxes are not in Images.mat: %s", file, len(lost), some(lost))


def _text(cell: Cell) -> str:
    return str(np.asarray(cell).ravel()[0])


def _box(cell: Cell) -> npt.NDArray[np.int64]:
    """Return x, y, w, h; cast first, because x + w overflows in the file's uint8 and uint16."""
    return np.asarray(cell).ravel().astype(np.int64)


def _boxes(cell: Cell) -> npt.NDArray[np.int64]:
    """Return the [N, 4] x, y, w, h of a picture."""
    rows = [_box(record["idlocate"]) for record in cell.ravel() if record["idlocate"].size]
    return np.array(rows, np.int64).reshape(-1, 4)


def _xyxy(boxes_xywh: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
