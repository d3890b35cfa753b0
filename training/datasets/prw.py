"""PRW from its original folder (Zheng et al., "Person Re-identification in the Wild", 2017).

Boxes are whole pixels, cut off as every published evaluation does: with fractions, a detection
could pass its IoU threshold here and fail it there.
"""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.annotations import AnnotatedScene
from training.datasets.dataset import Dataset, EmptyBox, make_scene, relabel
from training.datasets.layout import load_mat, require, require_pictures, some
from training.datasets.protocol import Query, RetrievalProtocol, Rule, rule_protocol
from training.errors import DatasetError

NEEDED = ["annotations/", "frame_train.mat", "frame_test.mat"]


def read_prw(root: Path, *, pictures: bool = True, empty: list[EmptyBox] | None = None) -> Dataset:
    """Read all boxes and identities.

    Parameters
    ----------
    pictures
        Whether the pictures must be there.
    empty
        Takes the boxes without extent; without it they are an error.

    Raises
    ------
    DatasetError
        The folder is not PRW, or not all of it.
    """
    require(root, NEEDED + ["frames/"] * pictures, "PRW")
    names = {split: _names(root, split) for split in ("train", "test")}
    every = [*names["train"], *names["test"]]
    have = {path.name for path in (root / "annotations").iterdir()}
    missing = [f"{name}.mat" for name in every if f"{name}.mat" not in have]
    if missing:
        raise DatasetError(
            f"{root / 'annotations'}: {len(missing)} of {len(every)} files are missing: "
            f"{some(missing)}; found {len(have)} files"
        )
    if pictures:
        require_pictures(root / "frames", every, "PRW")
    train, pid_of = relabel([_scene(root, name, empty) for name in names["train"]])
    return Dataset("prw", root, train, [_scene(root, n, empty) for n in names["test"]], pid_of)


def read_prw_protocol(dataset: Dataset, *, cross_camera: bool = False) -> RetrievalProtocol:
    """Read the 2,057 queries; the gallery is every test picture but the query's own.

    Parameters
    ----------
    cross_camera
        Leave out the other pictures of the query's camera too ("multi-view gallery").
    """
    require(dataset.root, ["query_info.txt"], "PRW")
    path = dataset.root / "query_info.txt"
    queries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        # Splitting on white space: the original has CRLF, copies have LF.
        words = line.split()
        if not words:
            continue
        try:
            pid, box, stem = int(words[0]), np.array(words[1:5], np.float64), words[5]
        except (ValueError, IndexError) as error:
            raise DatasetError(
                f"{path}:{number}: expected `pid x y w h name`, got {line.strip()!r}"
            ) from error
        # A query keeps its right edge where a negative x is cut off, an annotation keeps its
        # width (`_scene`): so do the evaluations that all published numbers come from.
        x1, y1, x2, y2 = np.trunc(np.clip(np.concatenate([box[:2], box[:2] + box[2:]]), 0, None))
        name = f"{stem.removesuffix('.jpg')}.jpg"
        queries.append(
            Query(name, (float(x1), float(y1), float(x2), float(y2)), pid, _camera(name))
        )
    rule: Rule = "other-cameras" if cross_camera else "other-images"
    title = "PRW cross-camera" if cross_camera else "PRW"
    return rule_protocol(title, dataset.test, queries, rule)


def _names(root: Path, split: str) -> list[str]:
    cells = load_mat(root / f"frame_{split}.mat", f"img_index_{split}")
    stems = [str(np.asarray(cell).item()) for cell in cells.ravel()]
    return [f"{stem.removesuffix('.jpg')}.jpg" for stem in stems]


def _camera(name: str) -> int:
    match = re.match(r"c(\d)s\d", name)
    if match is None:
        raise DatasetError(f"{name}: a PRW picture's name starts with its camera, as in c1s2_...")
    return int(match[1])


def _scene(root: Path, name: str, empty: list[EmptyBox] | None) -> AnnotatedScene:
    path = root / "annotations" / f"{name}.mat"
    table: npt.NDArray[np.float64] = load_mat(path, "box_new", "anno_file", "anno_previous")
    if table.size and (table.ndim != 2 or table.shape[1] != 5):
        raise DatasetError(f"{path}: expected columns id, x, y, w, h, got shape {table.shape}")
    table = table.reshape(-1, 5).astype(np.float64)
    corner = np.clip(table[:, 1:3], 0, None)
    boxes = np.trunc(np.concatenate([corner, corner + table[:, 3:5]], axis=1))
    return make_scene(name, root / "frames" / name, boxes, table[:, 0], _camera(name), empty)
