"""Retrieval protocols: who is searched, in which pictures, and where the person stands there.

A protocol knows no dataset. Its arrays are plain, so that `np.savez(file, **protocol.arrays())`
and `RetrievalProtocol.from_arrays(np.load(file))` keep it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from model.annotations import AnnotatedScene
from training.errors import DatasetError

Int32: TypeAlias = npt.NDArray[np.int32]
Int64: TypeAlias = npt.NDArray[np.int64]
Float32: TypeAlias = npt.NDArray[np.float32]
Rule: TypeAlias = Literal["other-images", "other-cameras"]

#: Camera number of a picture whose camera is unknown.
NO_CAMERA = -1


@dataclass(frozen=True)
class Query:
    """A person to search, as a box in a scene.

    Attributes
    ----------
    scene
        Name of a scene, which the gallery need not hold.
    box_xyxy
        In pixels of the scene.
    pid
        The dataset's own number.
    camera
        None when unknown.
    """

    scene: str
    box_xyxy: tuple[float, float, float, float]
    pid: int
    camera: int | None = None


@dataclass(frozen=True, eq=False)
class ListedGallery:
    """A list of pictures for each query; its order and what it names twice are kept.

    Attributes
    ----------
    ptr
        int64 [Q + 1]; query q has the entries `ptr[q]:ptr[q + 1]`.
    images
        int32 [E], indices of `RetrievalProtocol.scenes`.
    boxes_xyxy
        float32 [E, 4]; NaN where the person is absent.
    complete
        Every scene that a query does not list follows, without the person; but its own does not.
    """

    ptr: Int64
    images: Int32
    boxes_xyxy: Float32
    complete: bool = False


@dataclass(frozen=True, eq=False)
class RuleGallery:
    """All pictures but some, for each query.

    Attributes
    ----------
    rule
        "other-images": all but the query's own. "other-cameras": nor any other of its camera.
    cameras
        int32 [M], of each scene; `NO_CAMERA` when unknown.
    ptr, images, boxes_xyxy
        As in `ListedGallery`, but only where the query's person stands. The first box with the
        identity is the true one of a picture.
    """

    rule: Rule
    cameras: Int32
    ptr: Int64
    images: Int32
    boxes_xyxy: Float32


@dataclass(frozen=True, eq=False)
class Junk:
    """For each query, boxes where a detection is neither right nor wrong, and is left out.

    The query's own track in a video is junk: to find it again is no achievement. Market-1501 and
    others treat pictures of the query's own camera so.

    Attributes
    ----------
    ptr, images, boxes_xyxy
        As in `ListedGallery`; no box is NaN.
    """

    ptr: Int64
    images: Int32
    boxes_xyxy: Float32


@dataclass(frozen=True, eq=False)
class RetrievalProtocol:
    """Queries and their galleries.

    Attributes
    ----------
    name
        How reports call it.
    scenes
        Names of all scenes that a gallery may hold, in the order of the dataset's test part.
    junk
        None where there is none, as in all protocols of the literature's person search.
    """

    name: str
    scenes: list[str]
    queries: list[Query]
    gallery: ListedGallery | RuleGallery
    junk: Junk | None = None

    def __post_init__(self) -> None:
        for part in (self.gallery, *([self.junk] if self.junk else [])):
            entries = len(part.images)
            if (
                part.ptr.shape != (len(self.queries) + 1,)
                or part.ptr[-1] != entries
                or part.boxes_xyxy.shape != (entries, 4)
            ):
                raise ValueError(f"{self.name}: the arrays of queries and galleries do not agree")

    def __len__(self) -> int:
        return len(self.queries)

    def images(self, query: int) -> Int32:
        """Return the pictures of a query's gallery, in order: int32 [N], indices of `scenes`."""
        gallery = self.gallery
        own = gallery.images[int(gallery.ptr[query]) : int(gallery.ptr[query + 1])]
        if isinstance(gallery, ListedGallery) and not gallery.complete:
            return own
        keep = np.ones(len(self.scenes), dtype=bool)
        if self.queries[query].scene in self._index:
            keep[self._index[self.queries[query].scene]] = False
        if isinstance(gallery, ListedGallery):
            keep[own] = False
            return np.concatenate([own, np.flatnonzero(keep).astype(np.int32)])
        if gallery.rule == "other-cameras":
            keep &= gallery.cameras != _camera_number(self.queries[query].camera)
        return np.flatnonzero(keep).astype(np.int32)

    def entries(self, query: int) -> tuple[Int32, Float32]:
        """Return the gallery of a query, in order.

        Returns
        -------
        images
            int32 [N], indices of `scenes`.
        boxes_xyxy
            float32 [N, 4], the true box, or NaN where the person is absent.
        """
        gallery = self.gallery
        own = slice(int(gallery.ptr[query]), int(gallery.ptr[query + 1]))
        images, boxes = self.images(query), gallery.boxes_xyxy[own]
        if isinstance(gallery, ListedGallery):
            absent = np.full((len(images) - len(boxes), 4), np.nan, np.float32)
            return images, np.concatenate([boxes, absent])
        everywhere = np.full((len(self.scenes), 4), np.nan, np.float32)
        everywhere[gallery.images[own]] = boxes
        return images, everywhere[images]

    def junk_of(self, query: int) -> tuple[Int32, Float32]:
        """Return a query's junk: pictures [J], indices of `scenes`, and a box in each [J, 4]."""
        if self.junk is None:
            return np.zeros(0, np.int32), np.zeros((0, 4), np.float32)
        part = slice(int(self.junk.ptr[query]), int(self.junk.ptr[query + 1]))
        return self.junk.images[part], self.junk.boxes_xyxy[part]

    @cached_property
    def _index(self) -> dict[str, int]:
        """From a scene's name to its place."""
        return {name: i for i, name in enumerate(self.scenes)}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return everything as plain arrays, for `np.savez`."""
        gallery = self.gallery
        arrays: dict[str, npt.NDArray[Any]] = {
            "name": np.array(self.name),
            "scenes": np.array(self.scenes, dtype=np.str_),
            "query_scenes": np.array([q.scene for q in self.queries], dtype=np.str_),
            "query_boxes_xyxy": np.array([q.box_xyxy for q in self.queries]).reshape(-1, 4),
            "query_pids": np.array([q.pid for q in self.queries], dtype=np.int64),
            "query_cameras": np.array([_camera_number(q.camera) for q in self.queries], np.int32),
            "ptr": gallery.ptr,
            "images": gallery.images,
            "boxes_xyxy": gallery.boxes_xyxy,
        }
        if self.junk is not None:
            arrays |= {
                "junk_ptr": self.junk.ptr,
                "junk_images": self.junk.images,
                "junk_boxes_xyxy": self.junk.boxes_xyxy,
            }
        if isinstance(gallery, RuleGallery):
            return {**arrays, "rule": np.array(gallery.rule), "cameras": gallery.cameras}
        return {**arrays, "rule": np.array("complete" if gallery.complete else "listed")}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "RetrievalProtocol":
        """Make a protocol from what `arrays` gave."""
        queries = [
            Query(str(scene), (box[0], box[1], box[2], box[3]), pid, None if cam < 0 else cam)
            for scene, box, pid, cam in zip(
                arrays["query_scenes"],
                arrays["query_boxes_xyxy"].tolist(),
                arrays["query_pids"].tolist(),
                arrays["query_cameras"].tolist(),
                strict=True,
            )
        ]
        ptr, images, boxes = arrays["ptr"], arrays["images"], arrays["boxes_xyxy"]
        kind = str(arrays["rule"])
        gallery: ListedGallery | RuleGallery
        if "cameras" in arrays:
            rule: Rule = "other-cameras" if kind == "other-cameras" else "other-images"
            gallery = RuleGallery(rule, arrays["cameras"], ptr, images, boxes)
        else:
            gallery = ListedGallery(ptr, images, boxes, complete=kind == "complete")
        junk = None
        if "junk_ptr" in arrays:
            junk = Junk(arrays["junk_ptr"], arrays["junk_images"], arrays["junk_boxes_xyxy"])
        return cls(str(arrays["name"]), arrays["scenes"].tolist(), queries, gallery, junk)


def _camera_number(camera: int | None) -> int:
    return NO_CAMERA if camera is None else camera


def rule_protocol(
    name: str, scenes: Sequence[AnnotatedScene], queries: list[Query], rule: Rule
) -> RetrievalProtocol:
    """Make a protocol from a rule and the test scenes.

    Raises
    ------
    DatasetError
        The rule needs cameras and they are not known.
    """
    if rule == "other-cameras":
        unknown = [s.name for s in scenes if s.camera is None]
        unknown += [q.scene for q in queries if q.camera is None]
        if unknown:
            raise DatasetError(
                f'{name}: the rule "other-cameras" needs the camera of every picture; '
                f"{len(unknown)} have none, the first is {unknown[0]}"
            )
    first: dict[int, list[tuple[int, Float32]]] = {}
    for image, scene in enumerate(scenes):
        seen: set[int] = set()
        for pid, box in zip(scene.pids.tolist(), scene.boxes_xyxy, strict=True):
            if pid not in seen:
                seen.add(pid)
                first.setdefault(pid, []).append((image, box))
    ptr, images, boxes = [0], [], []
    for query in queries:
        for image, box in first.get(query.pid, []):
            camera = scenes[image].camera
            same_camera = rule == "other-cameras" and camera == query.camera
            if scenes[image].name != query.scene and not same_camera:
                images.append(image)
                boxes.append(box)
        ptr.append(len(images))
    cameras = np.array([_camera_number(scene.camera) for scene in scenes], np.int32)
    gallery = RuleGallery(
        rule,
        cameras,
        np.array(ptr, np.int64),
        np.array(images, np.int32),
        np.array(boxes, np.float32).reshape(-1, 4),
    )
    return RetrievalProtocol(name, [scene.name for scene in scenes], queries, gallery)
