"""The neutral format for people's own data: COCO JSON and a protocol file; see docs/data.md."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from model.annotations import AnnotatedScene
from training.datasets.dataset import Dataset, EmptyBox, make_scene, relabel
from training.datasets.layout import listing, some
from training.datasets.protocol import (
    Junk,
    ListedGallery,
    Query,
    RetrievalProtocol,
    Rule,
    rule_protocol,
)
from training.errors import DatasetError

FILES = ("train.json", "test.json")
PROTOCOL_FILE = "protocol.json"
#: The category whose boxes are people, where a file has several.
PERSON = "person"
#: An error shows at most so many of the wrong entries of a file.
MAX_SHOWN = 3

Bbox = Annotated[list[FiniteFloat], Field(min_length=4, max_length=4)]


class _Entry(BaseModel):
    """Other fields of COCO files are nobody's business here."""

    model_config = ConfigDict(extra="ignore", strict=True)


class CocoInfo(_Entry):
    """Where the pictures are: a folder, relative to the JSON file or absolute."""

    image_root: str = "images"


class CocoImage(_Entry):
    """A picture."""

    id: int
    file_name: Annotated[str, Field(min_length=1)]
    camera: Annotated[int, Field(ge=0)] | None = None
    width: int | None = None
    height: int | None = None


class CocoAnnotation(_Entry):
    """A box: x, y, width, height in pixels; x and y of its top left corner, from 0."""

    image_id: int
    bbox: Bbox
    id: int | None = None
    category_id: int | None = None
    person_id: int | None = None
    #: 1: may be people, but is not annotated one by one; as COCO has it for crowds.
    iscrowd: int = 0


class CocoCategory(_Entry):
    """What a box may be."""

    id: int
    name: str


class CocoFile(_Entry):
    """One split."""

    info: CocoInfo = CocoInfo()
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory] = []


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class GalleryEntry(_Strict):
    """A picture, and where the query's person stands in it."""

    file_name: str
    bbox: Bbox


class ProtocolQuery(_Strict):
    """A person to search."""

    file_name: str
    bbox: Bbox
    person_id: Annotated[int, Field(ge=0)]
    camera: Annotated[int, Field(ge=0)] | None = None
    gallery: list[str | GalleryEntry] | None = None
    junk: list[GalleryEntry] = []


class ProtocolFile(_Strict):
    """The retrieval protocol."""

    name: str = "own"
    gallery: Literal["other-images", "other-cameras", "listed", "listed-then-all"] = "other-images"
    queries: list[ProtocolQuery]


File = TypeVar("File", bound=BaseModel)


def read_coco(root: Path, *, pictures: bool = True, empty: list[EmptyBox] | None = None) -> Dataset:
    """Read `train.json` and `test.json`, at least one of which is there.

    Parameters
    ----------
    pictures
        Whether the pictures must be there.
    empty
        Takes the boxes without extent; without it they are an error.

    Raises
    ------
    DatasetError
        The folder has neither file, or an entry of one is wrong: the message says which.
    """
    if not any((root / name).is_file() for name in FILES):
        raise DatasetError(
            f"{root} is not a folder of the neutral format: missing {' and '.join(FILES)}; "
            f"found {listing(root)}"
        )
    splits = [
        _scenes(root / name, pictures, empty) if (root / name).is_file() else [] for name in FILES
    ]
    train, pid_of = relabel(splits[0])
    return Dataset("coco", root, train, splits[1], pid_of)


def read_coco_protocol(dataset: Dataset, rule: Rule | None = None) -> RetrievalProtocol:
    """Read `protocol.json`.

    Parameters
    ----------
    rule
        Takes the place of the gallery that the file names.
    """
    path = dataset.root / PROTOCOL_FILE
    if not path.is_file():
        raise DatasetError(
            f"{dataset.root}: missing {PROTOCOL_FILE}; found {listing(dataset.root)}"
        )
    content = _parse(path, ProtocolFile)
    scenes = {scene.name: i for i, scene in enumerate(dataset.test)}
    cameras = {scene.name: scene.camera for scene in dataset.test}
    queries = []
    for number, query in enumerate(content.queries):
        box = _xyxy(query.bbox, f"{path}: queries.{number}")
        camera = query.camera if query.camera is not None else cameras.get(query.file_name)
        queries.append(Query(query.file_name, box, query.person_id, camera))
    chosen = rule or content.gallery
    junk = _junk(path, content, scenes)
    if chosen == "other-images" or chosen == "other-cameras":
        return replace(rule_protocol(content.name, dataset.test, queries, chosen), junk=junk)
    gallery = _listed(path, content, scenes, chosen == "listed-then-all")
    return RetrievalProtocol(content.name, list(scenes), queries, gallery, junk)


def write_coco(
    dataset: Dataset,
    out: Path,
    *,
    image_root: str,
    sizes: dict[Path, tuple[int, int]] | None = None,
    file_names: dict[Path, str] | None = None,
) -> None:
    """Write the splits that have scenes, with the dataset's own numbers of people.

    Parameters
    ----------
    image_root
        The folder of the pictures, relative to `out` or absolute.
    sizes
        Width and height of pictures; they are left out for the others.
    file_names
        Path of a picture below `image_root`; the scene's name when not given.
    """
    own = {row: pid for pid, row in dataset.pid_of.items()}
    for split, scenes in zip(FILES, (dataset.train, dataset.test), strict=True):
        if not scenes:
            continue
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, scene in enumerate(scenes):
            image: dict[str, Any] = {
                "id": number,
                "file_name": (file_names or {}).get(scene.path, scene.name),
            }
            if scene.camera is not None:
                image["camera"] = scene.camera
            if sizes and scene.path in sizes:
                image["width"], image["height"] = sizes[scene.path]
            images.append(image)
            for box, pid in zip(scene.boxes_xyxy.tolist(), scene.pids.tolist(), strict=True):
                person = None if pid < 0 else own[pid] if split == FILES[0] else pid
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": number,
                        "category_id": 1,
                        "bbox": _xywh(box),
                        "person_id": person,
                    }
                )
            for box in scene.ignored_xyxy.tolist():
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": number,
                        "category_id": 1,
                        "bbox": _xywh(box),
                        "iscrowd": 1,
                    }
                )
        content = {
            "info": {"image_root": image_root},
            "categories": [{"id": 1, "name": PERSON}],
            "images": images,
            "annotations": annotations,
        }
        _dump(out / split, content)


def write_coco_protocol(protocol: RetrievalProtocol, out: Path) -> None:
    """Write `protocol.json`."""
    gallery = protocol.gallery
    listed = isinstance(gallery, ListedGallery)
    queries = []
    for number, query in enumerate(protocol.queries):
        entry: dict[str, Any] = {
            "file_name": query.scene,
            "bbox": _xywh(list(query.box_xyxy)),
            "person_id": query.pid,
        }
        if query.camera is not None:
            entry["camera"] = query.camera
        if listed:
            part = slice(int(gallery.ptr[number]), int(gallery.ptr[number + 1]))
            entry["gallery"] = [
                protocol.scenes[image]
                if box[0] != box[0]  # NaN: the person is absent
                else {"file_name": protocol.scenes[image], "bbox": _xywh(box)}
                for image, box in zip(
                    gallery.images[part].tolist(), gallery.boxes_xyxy[part].tolist(), strict=True
                )
            ]
        images, boxes = protocol.junk_of(number)
        if len(images):
            entry["junk"] = [
                {"file_name": protocol.scenes[image], "bbox": _xywh(box)}
                for image, box in zip(images.tolist(), boxes.tolist(), strict=True)
            ]
        queries.append(entry)
    if isinstance(gallery, ListedGallery):
        rule = "listed-then-all" if gallery.complete else "listed"
    else:
        rule = gallery.rule
    _dump(out / PROTOCOL_FILE, {"name": protocol.name, "gallery": rule, "queries": queries})


def _scenes(path: Path, pictures: bool, empty: list[EmptyBox] | None) -> list[AnnotatedScene]:
    content = _parse(path, CocoFile)
    folder = path.parent / content.info.image_root
    by_id: dict[int, list[CocoAnnotation]] = {}
    names: set[str] = set()
    for number, image in enumerate(content.images):
        if image.id in by_id or image.file_name in names:
            raise DatasetError(
                f"{path}: images.{number}: the id {image.id} or the name {image.file_name} "
                "is there twice"
            )
        by_id[image.id] = []
        names.add(image.file_name)
    people = {category.id for category in content.categories if category.name == PERSON}
    for number, annotation in enumerate(content.annotations):
        if annotation.image_id not in by_id:
            raise DatasetError(
                f"{path}: annotations.{number}: there is no picture with the id "
                f"{annotation.image_id}"
            )
        if not people or annotation.category_id in people or annotation.category_id is None:
            by_id[annotation.image_id].append(annotation)
    missing = [n for n in sorted(names) if pictures and not (folder / n).is_file()]
    if missing:
        raise DatasetError(
            f"{path}: {len(missing)} of {len(names)} pictures are missing below {folder}: "
            f"{some(missing)}; found {listing(folder)}"
        )
    scenes = []
    for image in content.images:
        boxes = np.array([a.bbox for a in by_id[image.id]], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        pids = np.array(
            [-1 if a.person_id is None else a.person_id for a in by_id[image.id]], np.int64
        )
        crowd = np.array([bool(a.iscrowd) for a in by_id[image.id]], bool)
        scene = make_scene(
            image.file_name,
            folder / image.file_name,
            boxes[~crowd],
            pids[~crowd],
            image.camera,
            empty,
        )
        scenes.append(replace(scene, ignored_xyxy=boxes[crowd].astype(np.float32)))
    return scenes


def _listed(
    path: Path, content: ProtocolFile, scenes: dict[str, int], complete: bool
) -> ListedGallery:
    ptr, images, boxes = [0], [], []
    absent = (float("nan"),) * 4
    for number, query in enumerate(content.queries):
        where = f"{path}: queries.{number}"
        if query.gallery is None:
            raise DatasetError(f"{where}: the gallery is listed, but this query has no list")
        for entry in query.gallery:
            name = entry if isinstance(entry, str) else entry.file_name
            if name not in scenes:
                raise DatasetError(f"{where}: the gallery's {name} is not in test.json")
            images.append(scenes[name])
            boxes.append(absent if isinstance(entry, str) else _xyxy(entry.bbox, where))
        ptr.append(len(images))
    return ListedGallery(
        np.array(ptr, np.int64),
        np.array(images, np.int32),
        np.array(boxes, np.float32).reshape(-1, 4),
        complete,
    )


def _junk(path: Path, content: ProtocolFile, scenes: dict[str, int]) -> Junk | None:
    if not any(query.junk for query in content.queries):
        return None
    ptr, images, boxes = [0], [], []
    for number, query in enumerate(content.queries):
        where = f"{path}: queries.{number}"
        for entry in query.junk:
            if entry.file_name not in scenes:
                raise DatasetError(f"{where}: the junk's {entry.file_name} is not in test.json")
            images.append(scenes[entry.file_name])
            boxes.append(_xyxy(entry.bbox, where))
        ptr.append(len(images))
    return Junk(
        np.array(ptr, np.int64),
        np.array(images, np.int32),
        np.array(boxes, np.float32).reshape(-1, 4),
    )


def _parse(path: Path, kind: type[File]) -> File:
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        shown = "; ".join(
            f"{'.'.join(map(str, p['loc'])) or 'file'}: {p['msg']}" for p in problems[:MAX_SHOWN]
        )
        rest = len(problems) - MAX_SHOWN
        more = f"; and {rest} more" if rest > 0 else ""
        raise DatasetError(f"{path}: {shown}{more}") from error


def _dump(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")


def _xywh(box_xyxy: list[float]) -> list[float]:
    x1, y1, x2, y2 = box_xyxy
    return [x1, y1, x2 - x1, y2 - y1]


def _xyxy(bbox: list[float], where: str) -> tuple[float, float, float, float]:
    x, y, w, h = bbox
    if w <= 0 or h <= 0:
        raise DatasetError(f"{where}: the box {bbox} is empty")
    return x, y, x + w, y + h
