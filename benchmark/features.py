"""Everything that a network says about a dataset's test part, computed once and kept.

What is kept is known by its content: the weights, the settings, the bytes of the pictures and the
boxes that were embedded. An evaluation that was stopped goes on where it was, and a picture that
changes is computed again, with its neighbours.
"""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from benchmark.errors import BenchmarkError
from benchmark.people import People
from model import BINet, Detections, Scene, read_picture
from model.annotations import AnnotatedScene
from model.cropping import cut, inside
from model.detections import FloatArray
from model.preprocessing import to_rgb
from training.datasets.protocol import ListedGallery, RetrievalProtocol

Branch: TypeAlias = Literal["search", "instance"]
Boxes: TypeAlias = Literal["detected", "labelled"]
Arrays: TypeAlias = dict[str, npt.NDArray[np.float32]]
#: Scene and box of a query.
QueryKey: TypeAlias = tuple[str, tuple[float, float, float, float]]

#: Part of every key: to be raised when the arrays or their meaning change.
VERSION = 1
#: Scenes that are computed and kept together; what is lost when an evaluation is stopped.
SHARD = 16


@dataclass(frozen=True)
class FeatureSettings:
    """What is computed, apart from network and data.

    Attributes
    ----------
    weights
        What identifies the network: the SHA-256 of its weights.
    computed
        How: names of the precision and of the options of `model.acceleration`.
    det_threshold
        Detections with a lower score are not kept.
    instance_gallery
        Also embed the people of the gallery as crops, by the instance-aware branch.
    """

    weights: str
    computed: str
    det_threshold: float = 0.5
    instance_gallery: bool = False


@dataclass(frozen=True, eq=False)
class Features:
    """What was found and embedded.

    Attributes
    ----------
    galleries
        By boxes and branch: the people of all scenes, in their order.
    queries
        By branch: different queries at their true boxes [U, E]. `search` is the scene query,
        `instance` the crop query.
    place
        Row of a query in these.
    reused
        Share of the scenes that did not have to be computed.
    sha256
        Of the data: pictures and boxes.
    """

    galleries: dict[tuple[Boxes, Branch], People]
    queries: dict[Branch, FloatArray]
    place: dict[QueryKey, int]
    reused: float
    sha256: str

    def of(self, protocol: RetrievalProtocol, branch: Branch) -> FloatArray:
        """Return the embeddings of a protocol's queries [Q, E]."""
        rows = [self.place[query.scene, query.box_xyxy] for query in protocol.queries]
        return self.queries[branch][rows]


class Work(NamedTuple):
    """A scene, and what is to be done there."""

    scene: AnnotatedScene
    searched: bool
    #: Boxes of the different queries that are cut from it.
    queries: tuple[tuple[float, float, float, float], ...]

    @property
    def query_boxes(self) -> FloatArray:
        """Boxes [n, 4]."""
        return np.array(self.queries, np.float32).reshape(-1, 4)


class _Read(NamedTuple):
    pixels: Tensor
    prepared: Scene


def compute_features(
    network: BINet,
    settings: FeatureSettings,
    scenes: Sequence[AnnotatedScene],
    protocols: Sequence[RetrievalProtocol],
    folder: Path,
    *,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Detect and embed, or take what is kept in `folder`.

    Parameters
    ----------
    scenes
        The dataset's test part.
    protocols
        Over these scenes, in that order.
    workers
        Threads that read and resize pictures.
    progress
        Is told how many of the scenes are done.

    Raises
    ------
    BenchmarkError
        When a protocol searches or queries scenes that the dataset does not have.
    PictureError
        When a picture cannot be read.
    """
    work = list_work(scenes, protocols)
    shards = [work[start : start + SHARD] for start in range(0, len(work), SHARD)]
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        data = list(pool.map(hash_shard, shards))
        # What the weights do depends on the configuration: the size of the input, for example.
        what = f"{VERSION} {settings} {network.config.model_dump_json()}"
        paths = [folder / f"features-{_sha256(f'{what} {one}')}.npz" for one in data]
        kept = [_load(path) for path in paths]
        missing = [i for i, arrays in enumerate(kept) if arrays is None]
        done = len(work) - sum(len(shards[i]) for i in missing)
        reused = done / max(len(work), 1)
        tell = progress or (lambda done, total: None)  # noqa: ARG005
        tell(done, len(work))
        for i, pictures in _read_ahead(pool, network, shards, missing):
            kept[i] = _compute(network, settings, shards[i], pictures)
            _save(paths[i], kept[i])
            done += len(shards[i])
            tell(done, len(work))
    pieces = [
        piece
        for arrays, shard in zip(kept, shards, strict=True)
        for piece in _pieces(arrays or {}, shard)
    ]
    dim = network.config.embedding_dim
    return _assemble(dim, scenes, work, pieces, reused, _sha256(" ".join(data)))


def list_work(
    scenes: Sequence[AnnotatedScene], protocols: Sequence[RetrievalProtocol]
) -> list[Work]:
    """Say what is to be done in each scene; scenes that nobody needs are left out."""
    names = [scene.name for scene in scenes]
    queries: dict[str, dict[tuple[float, float, float, float], None]] = {n: {} for n in names}
    searched = np.zeros(len(scenes), bool)
    for protocol in protocols:
        if names != protocol.scenes:
            raise BenchmarkError(f"{protocol.name}: its scenes are not those of the dataset")
        for number, query in enumerate(protocol.queries):
            if query.scene not in queries:
                raise BenchmarkError(f"{protocol.name}: query {number}: there is no {query.scene}")
            queries[query.scene][query.box_xyxy] = None
        searched |= searched_scenes(protocol)
    return [
        Work(scene, is_searched, tuple(queries[scene.name]))
        for scene, is_searched in zip(scenes, searched.tolist(), strict=True)
        if is_searched or queries[scene.name]
    ]


def searched_scenes(protocol: RetrievalProtocol) -> npt.NDArray[np.bool_]:
    """Say which scenes are in a gallery at all: bool [M]."""
    gallery = protocol.gallery
    searched = np.zeros(len(protocol.scenes), bool)
    if isinstance(gallery, ListedGallery) and not gallery.complete:
        searched[gallery.images] = True
    else:
        searched[:] = len(protocol) > 0
    return searched


def hash_shard(shard: Sequence[Work]) -> str:
    """Hash the data that decides the arrays of a shard: pictures and boxes."""
    digest = hashlib.sha256()
    for scene, searched, boxes in shard:
        try:
            with scene.path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise BenchmarkError(f"{scene.path} cannot be read: {error.strerror}") from error
        digest.update(f"{searched} {boxes} {len(scene)}".encode() + scene.boxes_xyxy.tobytes())
    return digest.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read_ahead(
    pool: ThreadPoolExecutor, network: BINet, shards: list[list[Work]], missing: list[int]
) -> Iterator[tuple[int, list[_Read]]]:
    """Read each shard while the one before it is computed."""

    def read(work: Work) -> _Read:
        pixels = to_rgb(read_picture(work.scene.path))
        return _Read(pixels, network.preprocessing.scene(pixels))

    def start(i: int) -> list[Future[_Read]]:
        return [pool.submit(read, work) for work in shards[i]]

    waiting = start(missing[0]) if missing else []
    for i, following in zip_longest(missing, missing[1:]):
        pictures = [future.result() for future in waiting]
        waiting = start(following) if following is not None else []
        yield i, pictures


def _compute(
    network: BINet, settings: FeatureSettings, shard: Sequence[Work], pictures: Sequence[_Read]
) -> Arrays:
    """Give the arrays of each scene, one scene after the other."""
    searched = [i for i, work in enumerate(shard) if work.searched]
    nobody = Detections.empty(network.config.embedding_dim)
    found = [nobody] * len(shard)
    prepared = [pictures[i].prepared for i in searched]
    # `detect` keeps what is above its threshold; the protocol keeps what reaches it.
    below = float(np.nextafter(np.float32(settings.det_threshold), np.float32(-1)))
    found_people = network.detect(prepared, below, branch="search")
    for i, people in zip(searched, found_people, strict=True):
        found[i] = people
    parts: dict[str, list[FloatArray]] = {}

    def keep(name: str, array: FloatArray) -> None:
        parts.setdefault(name, []).append(array)

    for work, (pixels, scene), people in zip(shard, pictures, found, strict=True):
        true = inside(work.scene.boxes_xyxy, pixels) if work.searched else nobody.boxes_xyxy
        asked = inside(work.query_boxes, pixels)
        both = np.concatenate([true, asked])
        embedded = network.embed_boxes(scene, both) if len(both) else nobody.embeddings
        keep("found_boxes", people.boxes_xyxy)
        keep("found_scores", people.scores)
        keep("found_search", people.embeddings)
        keep("true_search", embedded[: len(true)])
        keep("query_search", embedded[len(true) :])
        keep("query_instance", network.embed_crops(cut(pixels, asked)))
        if settings.instance_gallery:
            keep("found_instance", network.embed_crops(cut(pixels, people.boxes_xyxy)))
            keep("true_instance", network.embed_crops(cut(pixels, true)))
        keep("found_count", np.array([len(people)], np.float32))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _pieces(arrays: Arrays, shard: Sequence[Work]) -> Iterator[Arrays]:
    """Take the arrays of a shard apart again, scene by scene."""
    ends = {"found": 0, "true": 0, "query": 0}
    for i, work in enumerate(shard):
        counts = {
            "found": int(arrays["found_count"][i]),
            "true": len(work.scene) if work.searched else 0,
            "query": len(work.queries),
        }
        piece = {}
        for name, array in arrays.items():
            kind = name.partition("_")[0]
            if name != "found_count":
                piece[name] = array[ends[kind] : ends[kind] + counts[kind]]
        for kind, count in counts.items():
            ends[kind] += count
        yield piece


def _assemble(
    dim: int,
    scenes: Sequence[AnnotatedScene],
    work: Sequence[Work],
    pieces: Sequence[Arrays],
    reused: float,
    sha256: str,
) -> Features:
    branches: list[Branch] = ["search", "instance"]
    keys: list[QueryKey] = [(one.scene.name, box) for one in work for box in one.queries]
    queries: dict[Branch, FloatArray] = {
        branch: np.concatenate([piece[f"query_{branch}"] for piece in pieces])
        if pieces
        else np.zeros((0, dim), np.float32)
        for branch in branches
    }
    galleries: dict[tuple[Boxes, Branch], list[Detections]] = {}
    place = {scene.name: i for i, scene in enumerate(scenes)}
    for one, piece in zip(work, pieces, strict=True):
        for branch in branches:
            if not one.searched or f"found_{branch}" not in piece:
                continue
            here: dict[Boxes, Detections] = {
                "detected": Detections(
                    piece["found_boxes"], piece["found_scores"], piece[f"found_{branch}"]
                ),
                "labelled": Detections(
                    one.scene.boxes_xyxy,
                    np.ones(len(one.scene), np.float32),
                    piece[f"true_{branch}"],
                ),
            }
            for boxes, people in here.items():
                everywhere = galleries.setdefault(
                    (boxes, branch), [Detections.empty(dim)] * len(scenes)
                )
                everywhere[place[one.scene.name]] = people
    return Features(
        {key: People.from_detections(found) for key, found in galleries.items()},
        queries,
        {key: row for row, key in enumerate(keys)},
        reused,
        sha256,
    )


def _load(path: Path) -> Arrays | None:
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return {name: arrays[name] for name in arrays.files}
    # What NumPy raises for files that are missing, cut off, or something else.
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _save(path: Path, arrays: Arrays | None) -> None:
    temporary = path.with_name(f"{path.stem}-{os.getpid()}.tmp.npz")
    try:
        np.savez(temporary, allow_pickle=False, **(arrays or {}))
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise BenchmarkError(f"{path.parent} cannot be written to: {error.strerror}") from error
