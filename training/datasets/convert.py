"""From the formats people have to the neutral one."""

import configparser
import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image

from model.annotations import AnnotatedScene
from training.datasets.crops import Crop, CropSource, read_crops
from training.datasets.cuhk_sysu import read_cuhk_sysu
from training.datasets.dataset import Dataset, make_scene, relabel
from training.datasets.layout import listing
from training.datasets.neutral import FILES, PROTOCOL_FILE, write_coco, write_coco_protocol
from training.datasets.opening import open_protocol
from training.datasets.protocol import RetrievalProtocol
from training.datasets.prw import read_prw
from training.errors import DatasetError

SourceFormat: TypeAlias = Literal["prw", "cuhk-sysu", "mot", "market"]
Split: TypeAlias = Literal["train", "test"]

#: Class of pedestrians in MOT challenge files; MOT15 has -1 for all.
MOT_PEOPLE = (1, -1)
#: Folders of Market-1501 by split.
MARKET_FOLDERS = {"train": "bounding_box_train", "test": "bounding_box_test"}


def convert(
    source: Path,
    out: Path,
    source_format: SourceFormat,
    *,
    copy: bool = False,
    split: Split = "train",
    gallery_size: int = 100,
    min_visibility: float = 0.0,
) -> Dataset:
    """Write `source` in the neutral format to the new folder `out`.

    Parameters
    ----------
    copy
        Copy the pictures to `out/images`; otherwise they stay, and the files name the folder.
    split
        For MOT challenge and folders without Market-1501's own two parts.
    gallery_size
        For CUHK-SYSU.
    min_visibility
        For MOT challenge: boxes of people who are seen less than this are left out (0 to 1).

    Returns
    -------
    What was written.

    Raises
    ------
    DatasetError
        The source is wrong or incomplete, or `out` holds a dataset already.
    """
    if any((out / name).exists() for name in (*FILES, PROTOCOL_FILE)):
        raise DatasetError(f"{out} holds a dataset already: name another folder")
    protocol: RetrievalProtocol | None = None
    if source_format == "market":
        dataset, pictures = _market(source, out, copy, split)
    elif source_format == "mot":
        dataset, pictures = _mot(source, split, min_visibility)
    else:
        if source_format == "prw":
            dataset, pictures = read_prw(source), source / "frames"
        else:
            dataset, pictures = read_cuhk_sysu(source), source / "Image" / "SSM"
        protocol = open_protocol(dataset, gallery_size=gallery_size)
    if copy and pictures != out / "images":
        for scene in (*dataset.train, *dataset.test):
            target = out / "images" / scene.path.relative_to(pictures)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(scene.path, target)
    sizes = {scene.path: picture_size(scene.path) for scene in (*dataset.train, *dataset.test)}
    write_coco(dataset, out, image_root="images" if copy else str(pictures.resolve()), sizes=sizes)
    if protocol is not None:
        write_coco_protocol(protocol, out)
    return dataset


def _dataset(source: Path, split: Split, scenes: list[AnnotatedScene]) -> Dataset:
    if split == "test":
        return Dataset("coco", source, [], scenes, {})
    train, pid_of = relabel(scenes)
    return Dataset("coco", source, train, [], pid_of)


def _mot(source: Path, split: Split, min_visibility: float) -> tuple[Dataset, Path]:
    """Read one sequence or a folder of them; each is a camera of its own, with its own people."""
    single = (source / "gt" / "gt.txt").is_file()
    sequences = (
        [source] if single else sorted(path.parent.parent for path in source.glob("*/gt/gt.txt"))
    )
    if not sequences:
        raise DatasetError(
            f"{source}: missing gt/gt.txt or SEQUENCE/gt/gt.txt; found {listing(source)}"
        )
    scenes: list[AnnotatedScene] = []
    first_pid = 0
    for camera, sequence in enumerate(sequences, 1):
        frames = _mot_boxes(sequence / "gt" / "gt.txt", min_visibility)
        folder, suffix = _mot_pictures(sequence)
        for path in sorted(path for path in folder.iterdir() if path.suffix == suffix):
            if not path.stem.isdecimal():
                raise DatasetError(f"{path}: expected a frame number, as in 000001{suffix}")
            rows = np.array(frames.pop(int(path.stem), []), np.float64).reshape(-1, 5)
            name = path.relative_to(source).as_posix()
            scenes.append(make_scene(name, path, rows[:, 1:], rows[:, 0] + first_pid, camera))
        if frames:
            raise DatasetError(
                f"{folder}: {len(frames)} frames of gt.txt have no picture, the first is "
                f"{min(frames)}; found {listing(folder)}"
            )
        labelled = [scene.pids.max() for scene in scenes if len(scene)]
        first_pid = int(max(labelled, default=0)) + 1
    return _dataset(source, split, scenes), source


def _mot_boxes(path: Path, min_visibility: float) -> dict[int, list[tuple[float, ...]]]:
    """Return rows of pid, x1, y1, x2, y2 by frame; what MOT says not to consider is left out."""
    frames: dict[int, list[tuple[float, ...]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if not row:
                continue
            try:
                frame, pid = int(float(row[0])), int(float(row[1]))
                x, y, w, h, confidence = map(float, row[2:7])
                kind = int(float(row[7])) if len(row) > 7 else -1
                visibility = float(row[8]) if len(row) > 8 else 1.0
            except (ValueError, IndexError) as error:
                raise DatasetError(
                    f"{path}:{number}: expected frame,id,x,y,w,h,conf,class,visibility, "
                    f"got {','.join(row)!r}"
                ) from error
            # MOT15 writes -1 where later challenges write the visibility.
            hidden = 0 <= visibility < min_visibility
            if confidence == 0 or kind not in MOT_PEOPLE or hidden:
                continue
            # The top left pixel is 1, 1 there.
            frames.setdefault(frame, []).append((pid, x - 1, y - 1, x - 1 + w, y - 1 + h))
    return frames


def _mot_pictures(sequence: Path) -> tuple[Path, str]:
    folder, suffix = "img1", ".jpg"
    if (sequence / "seqinfo.ini").is_file():
        parser = configparser.ConfigParser()
        try:
            parser.read(sequence / "seqinfo.ini", encoding="utf-8")
        except configparser.Error as error:
            raise DatasetError(f"{sequence / 'seqinfo.ini'}: {error}") from error
        folder = parser.get("Sequence", "imDir", fallback=folder)
        suffix = parser.get("Sequence", "imExt", fallback=suffix)
    if not (sequence / folder).is_dir():
        raise DatasetError(f"{sequence}: missing {folder}/; found {listing(sequence)}")
    return sequence / folder, suffix


def _market(source: Path, out: Path, copy: bool, split: Split) -> tuple[Dataset, Path]:
    """Read crops as pictures that one person fills; those of a zip file go to `out` at once."""
    parts = {part: source / name for part, name in MARKET_FOLDERS.items()}
    if not any(folder.is_dir() for folder in parts.values()):
        crops_source, crops = read_crops(source, distractors=split == "test")
        root = crops_source.path
        if crops_source.is_zip:
            if not copy:
                raise DatasetError(f"{root}: pictures in a zip file need --copy")
            root = out / "images"
            with crops_source:
                _unpack(crops_source, crops, root)
        return _dataset(source, split, [_crop_scene(root, crop) for crop in crops]), root
    scenes: dict[str, list[AnnotatedScene]] = {"train": [], "test": []}
    for part, folder in parts.items():
        if not folder.is_dir():
            continue
        # The test part keeps its background boxes, without identity: they are its distractors.
        crops_source, crops = read_crops(folder, distractors=part == "test")
        if crops_source.is_zip:
            raise DatasetError(f"{crops_source.path}: unpack it first")
        below = crops_source.path.relative_to(source)
        scenes[part] = [
            _crop_scene(source, replace(crop, name=(below / crop.name).as_posix()))
            for crop in crops
        ]
    train, pid_of = relabel(scenes["train"])
    return Dataset("coco", source, train, scenes["test"], pid_of), source


def _crop_scene(root: Path, crop: Crop) -> AnnotatedScene:
    path = root / crop.name
    box = np.array([[0, 0, *picture_size(path)]])
    return make_scene(crop.name, path, box, np.array([crop.pid]), crop.camera)


def _unpack(source: CropSource, crops: list[Crop], folder: Path) -> None:
    for crop in crops:
        target = folder / crop.name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise DatasetError(f"{source.path}: {crop.name} lies outside the folder to write")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read(crop.name))


def picture_size(path: Path) -> tuple[int, int]:
    """Return width and height of a picture, from its header."""
    try:
        with Image.open(path) as picture:
            return picture.size
    except OSError as error:
        raise DatasetError(f"{path} is not a picture: {error}") from error
