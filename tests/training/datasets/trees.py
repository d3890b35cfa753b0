"""Small folders in the original formats of the datasets, made with SciPy."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

#: Name -> boxes of x, y, w, h.
Boxes = dict[str, list[tuple[int, int, int, int]]]
#: Picture, and the person's box there or None.
Place = tuple[str, tuple[int, int, int, int] | None]

CUHK_BOXES: Boxes = {
    "s10.jpg": [(10, 20, 30, 60), (50, 20, 30, 60), (5, 5, 0, 9)],
    "s2.jpg": [(12, 22, 30, 60)],
    "s1.jpg": [(200, 30, 100, 60), (1, 2, 30, 40)],
    "s3.jpg": [(250, 30, 50, 60)],
    "s4.jpg": [(3, 4, 5, 0)],
    "s5.jpg": [(300, 400, 65300, 65200)],
}
CUHK_POOL = ["s3.jpg", "s1.jpg", "s5.jpg", "s4.jpg"]
CUHK_TRAIN: list[tuple[str, list[tuple[str, tuple[int, int, int, int]]]]] = [
    ("p7", [("s10.jpg", (50, 20, 30, 60))]),
    ("p8", [("s10.jpg", (10, 20, 30, 60)), ("s2.jpg", (12, 22, 30, 60))]),
]
CUHK_TESTS: list[tuple[Place, list[Place]]] = [
    (
        ("s1.jpg", (200, 30, 100, 60)),
        [("s3.jpg", (250, 30, 50, 60)), ("s4.jpg", None), ("s3.jpg", (250, 30, 50, 60))],
    ),
    (
        ("s5.jpg", (300, 400, 65300, 65200)),
        [("s5.jpg", (300, 400, 65300, 65200)), ("s1.jpg", (1, 2, 30, 40))],
    ),
]


def cell(values: list[Any], shape: tuple[int, int] | None = None) -> Any:
    """A MATLAB cell array."""
    array = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        array[i] = value
    return array.reshape(shape or (1, len(values)))


def struct(rows: list[dict[str, Any]]) -> Any:
    """A MATLAB struct array [1, N]."""
    array = np.empty((1, len(rows)), dtype=[(key, object) for key in rows[0]])
    for i, row in enumerate(rows):
        array[0, i] = tuple(row.values())
    return array


def location(box: tuple[int, int, int, int] | None) -> Any:
    """A box in the smallest unsigned type, as MATLAB saved it: the trap."""
    if box is None:
        return np.empty((1, 0))
    return np.array([box], dtype=np.uint8 if max(box) < 256 else np.uint16)


def tests_struct(tests: list[tuple[Place, list[Place]]]) -> Any:
    def place(name: str, box: tuple[int, int, int, int] | None) -> dict[str, Any]:
        return {"imname": name, "idlocate": location(box), "ishard": np.zeros((1, 1))}

    return struct(
        [
            {
                "Query": struct([{**place(*query), "idname": f"p{i}"}]),
                "Gallery": struct([place(*entry) for entry in gallery]),
            }
            for i, (query, gallery) in enumerate(tests)
        ]
    )


def write_cuhk(
    root: Path,
    boxes: Boxes = CUHK_BOXES,
    pool: list[str] = CUHK_POOL,
    train: list[tuple[str, list[tuple[str, tuple[int, int, int, int]]]]] = CUHK_TRAIN,
    tests: dict[str, list[tuple[Place, list[Place]]]] | None = None,
    pictures: bool = True,
) -> Path:
    """Write a CUHK-SYSU folder; `tests` is by gallery size or subset file."""
    folder = root / "annotation" / "test" / "train_test"
    folder.mkdir(parents=True)
    images = [
        {
            "imname": name,
            "nAppear": len(rows),
            "box": struct([{"idlocate": location(row), "ishard": 0} for row in rows]),
        }
        for name, rows in boxes.items()
    ]
    savemat(root / "annotation" / "Images.mat", {"Img": struct(images)})
    savemat(root / "annotation" / "pool.mat", {"pool": cell(list(pool), (len(pool), 1))})
    people = [
        struct(
            [
                {
                    "idname": name,
                    "nAppear": len(places),
                    "scene": struct(
                        [{"imname": n, "idlocate": location(b), "ishard": 0} for n, b in places]
                    ),
                }
            ]
        )
        for name, places in train
    ]
    savemat(folder / "Train.mat", {"Train": cell(people, (len(people), 1))})
    for size, content in (tests or {"50": CUHK_TESTS}).items():
        savemat(folder / f"TestG{size}.mat", {f"TestG{size}": tests_struct(content)})
    if pictures:
        write_pictures(root / "Image" / "SSM", list(boxes))
    return root


PRW_TRAIN: dict[str, list[tuple[float, ...]]] = {
    "c1s1_000151": [(1, 10.5, 20.25, 30, 60), (-2, 50, 20, 30, 60)],
    "c2s1_000176": [(483, -1.7, 20, 30.9, 60), (932, 60, 20, 20, 50)],
}
PRW_TEST: dict[str, list[tuple[float, ...]]] = {
    "c6s3_000901": [(479, 5, 6, 20, 50)],
    "c6s3_000926": [(479, 15, 6, 20, 50), (479, 45, 6, 20, 50)],
    "c3s2_000026": [(479, 70, 6, 20, 50), (1, -1.7, 8, 20.9, 50)],
    "c3s2_000051": [],
}
PRW_QUERIES = ["479 5.9 6 20.9 50 c6s3_000901", "1 -1.7 8 20.9 50 c3s2_000026"]


def write_prw(
    root: Path,
    train: dict[str, list[tuple[float, ...]]] = PRW_TRAIN,
    test: dict[str, list[tuple[float, ...]]] = PRW_TEST,
    queries: list[str] = PRW_QUERIES,
    line_end: str = "\r\n",
    pictures: bool = True,
) -> Path:
    """Write a PRW folder; the variable's name changes from file to file, as in the original."""
    (root / "annotations").mkdir(parents=True)
    keys = ("box_new", "anno_file", "anno_previous")
    for i, (stem, rows) in enumerate([*train.items(), *test.items()]):
        table = np.array(rows, dtype=np.float64).reshape(-1, 5)
        savemat(root / "annotations" / f"{stem}.jpg.mat", {keys[i % 3]: table})
    for split, names in (("train", train), ("test", test)):
        rows = cell([np.array([name]) for name in names], (len(names), 1))
        savemat(root / f"frame_{split}.mat", {f"img_index_{split}": rows})
    text = "".join(line + line_end for line in queries)
    (root / "query_info.txt").write_bytes(text.encode())
    if pictures:
        write_pictures(root / "frames", [f"{name}.jpg" for name in [*train, *test]])
    return root


def write_pictures(folder: Path, names: list[str], size: tuple[int, int] = (120, 100)) -> None:
    """Write noise; `size` is width, height."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in names:
        noise = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name)
