"""Detections of any system, saved in two files; docs/benchmark.md has their format."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from benchmark.errors import BenchmarkError
from benchmark.people import People
from benchmark.reranking import Context
from model.annotations import UNLABELLED, AnnotatedScene
from model.detections import FloatArray
from training.datasets.protocol import (
    ListedGallery,
    Query,
    RetrievalProtocol,
    Rule,
    rule_protocol,
)

ARRAYS = (
    "img_names",
    "img_cam",
    "gt_ptr",
    "gt_boxes",
    "gt_pids",
    "det_ptr",
    "det_boxes",
    "det_scores",
    "det_feats",
    "q_img",
    "q_box",
    "q_pid",
    "q_cam",
    "q_feat",
)
CONTEXT = ("qctx_ptr", "qctx_feats")
#: Gallery size of CUHK-SYSU that papers report.
USUAL_GALLERY = 100
PREFIX = "TestG"


@dataclass(frozen=True, eq=False)
class SavedCase:
    """What is in the two files."""

    kind: str
    scenes: list[AnnotatedScene]
    people: People
    queries: list[Query]
    query_embeddings: FloatArray
    context: Context | None
    #: Gallery lists by size, for `cuhk`.
    lists: dict[int, list[list[dict[str, Any]]]]

    def protocol(
        self, gallery_size: int | None, everything: bool, cross_camera: bool
    ) -> RetrievalProtocol:
        """Give the protocol to score by.

        Parameters
        ----------
        gallery_size
            For lists; the usual 100 or else the largest when None.
        everything
            For lists: all other scenes follow the listed ones.
        cross_camera
            For cases without lists: leave out scenes of the query's camera.
        """
        if not self.lists:
            if gallery_size is not None or everything:
                raise BenchmarkError("--gallery-size: this case has no gallery lists (kind prw)")
            rule: Rule = "other-cameras" if cross_camera else "other-images"
            return rule_protocol("prw", self.scenes, self.queries, rule)
        if cross_camera:
            raise BenchmarkError("--cross-camera: this case has gallery lists, not cameras")
        size = gallery_size
        if size is None:
            usual = USUAL_GALLERY if USUAL_GALLERY in self.lists else max(self.lists)
            size = max(self.lists) if everything else usual
        if size not in self.lists:
            known = ", ".join(str(n) for n in sorted(self.lists))
            raise BenchmarkError(f"--gallery-size {size}: this case has {known} and all")
        return RetrievalProtocol(
            f"{PREFIX}{size}",
            [scene.name for scene in self.scenes],
            self.queries,
            self._listed(self.lists[size], everything),
        )

    def _listed(self, lists: list[list[dict[str, Any]]], everything: bool) -> ListedGallery:
        place = {scene.name: i for i, scene in enumerate(self.scenes)}
        ptr, images, boxes = [0], [], []
        for entries in lists:
            for entry in entries:
                if entry["img"] not in place:
                    raise BenchmarkError(f"a gallery lists {entry['img']}, which has no detections")
                x, y, w, h = entry["gt_xywh"] or (np.nan,) * 4
                images.append(place[entry["img"]])
                boxes.append((x, y, x + w, y + h))
            ptr.append(len(images))
        return ListedGallery(
            np.array(ptr, np.int64),
            np.array(images, np.int32),
            np.array(boxes, np.float32).reshape(-1, 4),
            complete=everything,
        )


def read_case(arrays_path: Path, case_path: Path) -> SavedCase:
    """Read `CASE.npz` and `CASE.json`.

    Raises
    ------
    BenchmarkError
        When a file cannot be read, or something is missing or does not fit.
    """
    arrays = _read_arrays(arrays_path)
    try:
        content = json.loads(case_path.read_text(encoding="utf-8"))
        kind, lists = content["kind"], content.get("protocols") or {}
        unlabelled = content.get("unlabelled_pid", UNLABELLED)
        galleries = {int(name.removeprefix(PREFIX)): rows for name, rows in lists.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchmarkError(
            f"{case_path} is not the description of a case: {type(error).__name__}: {error}"
        ) from error
    try:
        return SavedCase(
            kind,
            _scenes(arrays, unlabelled),
            People(
                arrays["det_ptr"].astype(np.int64),
                arrays["det_boxes"].astype(np.float32),
                arrays["det_scores"].astype(np.float32),
                arrays["det_feats"].astype(np.float32),
            ),
            _queries(arrays),
            arrays["q_feat"].astype(np.float32),
            _context(arrays),
            galleries,
        )
    except (ValueError, IndexError) as error:
        raise BenchmarkError(f"{arrays_path}: {error}") from error


def _read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            arrays = {name: file[name] for name in file.files}
    # What NumPy raises for files that are missing, cut off, or something else.
    except (OSError, ValueError, AttributeError, TypeError, EOFError, BadZipFile) as error:
        raise BenchmarkError(f"{path} is not a file of arrays (.npz): {error}") from error
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        raise BenchmarkError(f"{path}: missing arrays {', '.join(missing)}")
    bad = [
        name
        for name in ("det_boxes", "det_scores", "det_feats", "q_feat")
        if not np.isfinite(arrays[name]).all()
    ]
    if bad:
        raise BenchmarkError(f"{path}: not finite: {', '.join(bad)}")
    return arrays


def _scenes(arrays: dict[str, npt.NDArray[Any]], unlabelled: int) -> list[AnnotatedScene]:
    pids = arrays["gt_pids"].astype(np.int64)
    pids[pids == unlabelled] = UNLABELLED
    boxes = arrays["gt_boxes"].astype(np.float32)
    scenes = []
    for i, (name, camera) in enumerate(
        zip(arrays["img_names"].tolist(), arrays["img_cam"].tolist(), strict=True)
    ):
        rows = slice(int(arrays["gt_ptr"][i]), int(arrays["gt_ptr"][i + 1]))
        known = camera if camera >= 0 else None
        scenes.append(AnnotatedScene(name, Path(name), boxes[rows], pids[rows], known))
    return scenes


def _queries(arrays: dict[str, npt.NDArray[Any]]) -> list[Query]:
    return [
        Query(scene, (box[0], box[1], box[2], box[3]), pid, camera if camera >= 0 else None)
        for scene, box, pid, camera in zip(
            arrays["q_img"].tolist(),
            arrays["q_box"].tolist(),
            arrays["q_pid"].tolist(),
            arrays["q_cam"].tolist(),
            strict=True,
        )
    ]


def _context(arrays: dict[str, npt.NDArray[Any]]) -> Context | None:
    if any(name not in arrays for name in CONTEXT):
        return None
    return Context(arrays["qctx_ptr"].astype(np.int64), arrays["qctx_feats"].astype(np.float32))
