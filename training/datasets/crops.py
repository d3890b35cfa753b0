"""Datasets of single crops: Market-1501 style names, or CUHK03 style `index.csv`."""

import csv
import io
import os
import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from PIL import Image

from model.annotations import UNLABELLED
from model.errors import PictureError
from training.datasets.layout import listing, some
from training.errors import DatasetError

#: IIII_cCsS_FFFFFF_NN.jpg: identity, camera, sequence, frame, number.
MARKET_NAME = re.compile(r"(-1|\d{4,})_c(\d+)s\d+_\d+_\d+\.jpe?g", re.IGNORECASE)
#: Market-1501's number of its background boxes.
MARKET_DISTRACTOR = 0
COLUMNS = ("file", "id", "camera")
#: A further column of an index: the `person_id` that the crop's person has in the scenes, or empty.
PERSON_COLUMN = "person_id"


@dataclass(frozen=True)
class Crop:
    """A picture of one person.

    Attributes
    ----------
    name
        Path of the file, or of the member of the zip, below the source.
    pid
        The dataset's own number, or `UNLABELLED`.
    camera
        From 1, as the dataset numbers them.
    person
        The person's own number in the scenes that are trained on beside the crops; None for people
        who are not in them.
    """

    name: str
    pid: int
    camera: int
    person: int | None = None


class CropSource:
    """Opens the crops of a folder or a zip file.

    A zip file is opened at the first picture, and again in each process: a forked worker of a data
    loader must not share its position in the file.

    Parameters
    ----------
    path
        A folder, or a file whose name ends in .zip.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        self._pid = 0
        self.is_zip = path.suffix.lower() == ".zip"
        if not (path.is_file() if self.is_zip else path.is_dir()):
            raise DatasetError(f"{path}: expected a folder or a .zip file of crops")

    def names(self) -> list[str]:
        """Return the paths of all files below the source, sorted."""
        if self.is_zip:
            return sorted(name for name in self._opened().namelist() if not name.endswith("/"))
        files = (path for path in self.path.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.path).as_posix() for path in files)

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        try:
            return self._opened().read(name) if self.is_zip else (self.path / name).read_bytes()
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise DatasetError(f"{self.path}: {name} cannot be read: {error}") from error

    def open(self, name: str) -> Image.Image:
        """Return a decoded RGB picture."""
        try:
            return Image.open(io.BytesIO(self.read(name))).convert("RGB")
        except OSError as error:
            raise PictureError(f"{self.path}: {name} is not a picture: {error}") from error

    def close(self) -> None:
        """Close the zip file."""
        if self._zip is not None:
            self._zip.close()
            self._zip = None

    def __enter__(self) -> "CropSource":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_zip": None}

    def _opened(self) -> zipfile.ZipFile:
        if self._zip is None or self._pid != os.getpid():
            try:
                self._zip, self._pid = zipfile.ZipFile(self.path), os.getpid()
            except (OSError, zipfile.BadZipFile) as error:
                raise DatasetError(f"{self.path}: not a readable zip file: {error}") from error
        return self._zip


@dataclass(frozen=True)
class LabelledCrop:
    """A crop to train on.

    Attributes
    ----------
    pid
        Row of the look-up table, or `UNLABELLED`.
    """

    source: CropSource
    name: str
    pid: int

    def open(self) -> Image.Image:
        """Return the decoded RGB picture."""
        return self.source.open(self.name)


def number_crops(
    paths: Sequence[Path], first_pid: int, pid_of: Mapping[int, int] | None = None
) -> tuple[list[LabelledCrop], int]:
    """Read datasets of crops to train on; all their people are taken for different ones.

    Parameters
    ----------
    first_pid
        Number of the first person: how many the scenes have.
    pid_of
        From a person's own number in the scenes to the row of the look-up table, for the crops
        whose index says that they show somebody of the scenes.

    Returns
    -------
    The crops, and the number of people of scenes and crops together.

    Raises
    ------
    DatasetError
        When a crop shows somebody of the scenes who is not in them.
    """
    labelled = []
    for path in paths:
        source, crops = read_crops(path)
        known = {crop.pid: crop.person for crop in crops if crop.person is not None}
        absent = sorted({person for person in known.values() if person not in (pid_of or {})})
        if absent:
            raise DatasetError(
                f"{path}: {PERSON_COLUMN} {some(list(map(str, absent)))} of the index are not "
                "among the people of the scenes that are trained on"
            )
        new = sorted({crop.pid for crop in crops} - known.keys())
        rows = {pid: first_pid + i for i, pid in enumerate(new)}
        first_pid += len(new)
        rows |= {pid: (pid_of or {})[person] for pid, person in known.items()}
        labelled += [LabelledCrop(source, crop.name, rows[crop.pid]) for crop in crops]
    return labelled, first_pid


def read_crops(path: Path, *, distractors: bool = False) -> tuple[CropSource, list[Crop]]:
    """Read a dataset of crops.

    A folder that holds `images.zip` or `images/` and an `index.csv` (columns file, id, camera) is
    read by its index; every other folder or zip file by Market-1501's names.

    Parameters
    ----------
    distractors
        Keep Market-1501's background boxes (0000) and junk (-1), as people without identity.

    Raises
    ------
    DatasetError
        There is no crop, or the index and the pictures do not agree.
    """
    if (path / "index.csv").is_file():
        pictures = path / "images.zip"
        source = CropSource(pictures if pictures.is_file() else path / "images")
        crops = _indexed(path / "index.csv", source)
    else:
        zipped = path / "images.zip"
        source = CropSource(zipped if zipped.is_file() else path)
        crops = _named(source)
    crops = [crop for crop in crops if distractors or crop.pid != UNLABELLED]
    if not crops:
        found = listing(path) if path.is_dir() else some(source.names())
        raise DatasetError(
            f"{path}: no crops with names like 0002_c1s1_000451_03.jpg and no index.csv; "
            f"found {found or 'nothing'}"
        )
    return source, crops


def _named(source: CropSource) -> list[Crop]:
    crops = []
    for name in source.names():
        match = MARKET_NAME.fullmatch(name.rsplit("/", 1)[-1])
        if match:
            number = int(match[1])
            pid = UNLABELLED if number <= MARKET_DISTRACTOR else number
            crops.append(Crop(name, pid, int(match[2])))
    return crops


def _indexed(index: Path, source: CropSource) -> list[Crop]:
    names = source.names()
    # The index names files; a zip may hold them in a folder.
    paths = {name.rsplit("/", 1)[-1]: name for name in names}
    paths.update({name: name for name in names})
    crops, missing = [], []
    with index.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        absent = [column for column in COLUMNS if column not in (rows.fieldnames or [])]
        if absent:
            raise DatasetError(
                f"{index}: missing columns {some(absent)}; "
                f"found {some(list(rows.fieldnames or []))}"
            )
        for row in rows:
            try:
                pid, camera = int(row["id"]), int(row["camera"])
                person = int(row[PERSON_COLUMN]) if row.get(PERSON_COLUMN) else None
            except (TypeError, ValueError) as error:
                raise DatasetError(
                    f"{index}:{rows.line_num}: id and camera must be whole numbers, and "
                    f"{PERSON_COLUMN} if it is there"
                ) from error
            if row["file"] in paths:
                crops.append(Crop(paths[row["file"]], max(pid, UNLABELLED), camera, person))
            else:
                missing.append(row["file"])
    if missing:
        raise DatasetError(
            f"{index}: {len(missing)} files are not in {source.path}: {some(missing)}"
        )
    twice = [name for name, count in Counter(c.name for c in crops).items() if count > 1]
    if twice:
        raise DatasetError(f"{index}: listed twice: {some(twice)}")
    return crops
