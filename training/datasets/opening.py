"""One way to open any of the datasets, known by what lies in the folder."""

from pathlib import Path
from typing import Literal, TypeAlias

from training.datasets import cuhk_sysu, neutral, prw
from training.datasets.dataset import Dataset, EmptyBox
from training.datasets.layout import listing
from training.datasets.protocol import RetrievalProtocol
from training.errors import DatasetError

Format: TypeAlias = Literal["coco", "prw", "cuhk-sysu"]

#: A folder is of a format when it holds any of these.
MARKS: dict[Format, tuple[str, ...]] = {
    "coco": neutral.FILES,
    "prw": ("frame_train.mat", "frame_test.mat", "query_info.txt"),
    "cuhk-sysu": ("annotation/pool.mat", "annotation/Images.mat"),
}


def detect_format(root: Path) -> Format:
    """Return the format of a folder.

    Raises
    ------
    DatasetError
        It is of none, or of several.
    """
    found = [name for name, marks in MARKS.items() if any((root / mark).exists() for mark in marks)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DatasetError(f"{root} looks like {' and '.join(found)}: say which it is")
    marks = "; ".join(f"{name}: {' or '.join(files)}" for name, files in MARKS.items())
    raise DatasetError(f"{root} is no dataset; found {listing(root)}; expected one of {marks}")


def open_dataset(
    root: Path | str,
    format: Format | None = None,  # noqa: A002
    *,
    pictures: bool = True,
    empty: list[EmptyBox] | None = None,
) -> Dataset:
    """Read a dataset.

    Parameters
    ----------
    format
        Found out when None.
    pictures
        Whether the pictures must be there.
    empty
        Takes the boxes without extent; without it they are an error, except in CUHK-SYSU, whose
        protocol drops them.

    Raises
    ------
    DatasetError
        The folder is missing, incomplete, or of no known format.
    """
    root = Path(root)
    readers = {
        "coco": neutral.read_coco,
        "prw": prw.read_prw,
        "cuhk-sysu": cuhk_sysu.read_cuhk_sysu,
    }
    return readers[format or detect_format(root)](root, pictures=pictures, empty=empty)


def open_protocol(
    dataset: Dataset, *, gallery_size: int = 100, cross_camera: bool = False
) -> RetrievalProtocol:
    """Read the retrieval protocol of a dataset.

    Parameters
    ----------
    gallery_size
        For CUHK-SYSU.
    cross_camera
        Leave out pictures of the query's camera; for all but CUHK-SYSU, which has no cameras.
    """
    if dataset.format == "cuhk-sysu":
        if cross_camera:
            raise DatasetError("CUHK-SYSU has no cameras, so no cross-camera gallery")
        return cuhk_sysu.read_cuhk_sysu_protocol(dataset.root, gallery_size)
    if dataset.format == "prw":
        return prw.read_prw_protocol(dataset, cross_camera=cross_camera)
    return neutral.read_coco_protocol(dataset, "other-cameras" if cross_camera else None)
