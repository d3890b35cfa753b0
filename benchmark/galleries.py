"""Which galleries a report covers: the headline, its relatives, and the curve over their size."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from benchmark.errors import BenchmarkError
from training.datasets import cuhk_sysu
from training.datasets.dataset import Dataset
from training.datasets.opening import open_protocol
from training.datasets.protocol import ListedGallery, RetrievalProtocol

#: Sizes of galleries that are drawn where a dataset has no lists of its own.
DRAWN_SIZES = (50, 100, 200, 500, 1000, 2000, 4000)
#: They are drawn up to this share of the whole gallery.
MUCH_SMALLER = 0.8
#: Gallery size of CUHK-SYSU that papers report.
USUAL = 100
RULES = {
    "listed": "the protocol's list",
    "listed-then-all": "the protocol's list, then every other picture but the query's own",
    "other-images": "all pictures but the query's own",
    "other-cameras": "all pictures of other cameras",
}


@dataclass(frozen=True, eq=False)
class Galleries:
    """What is evaluated.

    Attributes
    ----------
    main
        The headline first, then others that a table shows.
    sizes
        Galleries of growing size, by size, for the curve.
    """

    main: list[RetrievalProtocol]
    sizes: dict[int, RetrievalProtocol]

    @property
    def all(self) -> list[RetrievalProtocol]:
        """Return every one of them."""
        return [*self.main, *self.sizes.values()]


def rule_name(protocol: RetrievalProtocol) -> str:
    """Say in words what a query searches."""
    gallery = protocol.gallery
    if isinstance(gallery, ListedGallery):
        words = RULES["listed-then-all" if gallery.complete else "listed"]
    else:
        words = RULES[gallery.rule]
    return words + ("; the query's junk boxes left out" if protocol.junk is not None else "")


def open_galleries(
    dataset: Dataset, size: int | Literal["all"] | None, cross_camera: bool, seed: int
) -> Galleries:
    """Read all protocols of a dataset that a report covers.

    Parameters
    ----------
    size
        Of the headline, for CUHK-SYSU; None is the usual 100, or the nearest there is.
    cross_camera
        The headline leaves out the query's camera; not for CUHK-SYSU.
    seed
        For galleries that are drawn.

    Raises
    ------
    BenchmarkError, DatasetError
        When the options do not fit the dataset, or files are missing.
    """
    if dataset.format == "cuhk-sysu":
        if cross_camera:
            raise BenchmarkError("--cross-camera: CUHK-SYSU has no cameras")
        return _cuhk_sysu(dataset.root, size)
    if size is not None:
        raise BenchmarkError(f"--gallery-size is for CUHK-SYSU; {dataset.format} has one gallery")
    main = [open_protocol(dataset, cross_camera=cross_camera)]
    if dataset.format == "prw":
        main.append(open_protocol(dataset, cross_camera=not cross_camera))
    whole = largest(main[0])
    sizes = {n: draw_gallery(main[0], n, seed) for n in DRAWN_SIZES if n < MUCH_SMALLER * whole}
    return Galleries(main, {**sizes, whole: main[0]})


def _cuhk_sysu(root: Path, size: int | Literal["all"] | None) -> Galleries:
    sizes = cuhk_sysu.gallery_sizes(root)
    chosen = size or (USUAL if USUAL in sizes else sizes[0])

    # The table and the curve share galleries; the largest takes 230 MB.
    @cache
    def read(number: int | Literal["all"]) -> RetrievalProtocol:
        if number == "all":
            return cuhk_sysu.read_cuhk_sysu_protocol(root, sizes[-1], complete=True)
        return cuhk_sysu.read_cuhk_sysu_protocol(root, number)

    main = [read(chosen)]
    main += [read(n) for n in (sizes[0], sizes[-1]) if n != chosen]
    for subset in get_args(cuhk_sysu.Subset):
        if (root / "annotation" / "test" / "subset" / cuhk_sysu.SUBSETS[subset][0]).is_file():
            main.append(cuhk_sysu.read_cuhk_sysu_protocol(root, subset=subset))
    curve = {n: read(n) for n in sizes}
    complete = read("all")
    return Galleries(main, {**curve, len(complete.scenes): complete})


def largest(protocol: RetrievalProtocol) -> int:
    """Count the pictures of the largest gallery."""
    return max((len(protocol.images(query)) for query in range(len(protocol))), default=0)


def draw_gallery(protocol: RetrievalProtocol, size: int, seed: int) -> RetrievalProtocol:
    """Keep all pictures with the query's person, and others at random up to `size`.

    Smaller galleries of the same seed are part of the larger ones.
    """
    priority = np.random.default_rng(seed).permutation(len(protocol.scenes))
    ptr, images, boxes = [0], [], []
    for query in range(len(protocol)):
        here, true = protocol.entries(query)
        absent = np.isnan(true[:, 0])
        rank = np.where(absent, priority[here], -1)
        kept = np.sort(np.argsort(rank, kind="stable")[: max(size, int((~absent).sum()))])
        images.append(here[kept])
        boxes.append(true[kept])
        ptr.append(ptr[-1] + len(kept))
    gallery = ListedGallery(
        np.array(ptr, np.int64),
        np.concatenate(images) if images else np.zeros(0, np.int32),
        np.concatenate(boxes) if boxes else np.zeros((0, 4), np.float32),
    )
    return replace(protocol, name=f"{protocol.name}, {size} pictures", gallery=gallery)


def only_bare_crops(dataset: Dataset, queries: Sequence[tuple[str, tuple[float, ...]]]) -> bool:
    """Whether every query fills its picture: then there is no scene to search with."""
    from PIL import Image

    paths = {scene.name: scene.path for scene in dataset.test}
    for name, (x1, y1, x2, y2) in queries:
        if name not in paths:
            raise BenchmarkError(f"a query is in {name}, which is not in the test part")
        try:
            with Image.open(paths[name]) as picture:
                area = picture.width * picture.height
        except OSError as error:
            raise BenchmarkError(f"{paths[name]} cannot be read: {error}") from error
        if (x2 - x1) * (y2 - y1) < 0.99 * area:
            return False
    return bool(queries)
