"""Embeddings as re-identification has them, and what an engine of `perf.search` is."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from indexer.vector_index import Float32

DIM = 256
VIEWS = 20
K = 100
#: Similarity of two views of one person.
SAME = 0.72
CAMERAS = 1000
#: Share of the boxes that a filter allows, by what is printed.
SHARES = {"all": 1.0, "10 %": 0.1, "1 %": 0.01, "0.1 %": 0.001}
LEAST_RECALL = 0.999
EFFORTS = (100, 400, 1600, 3200, 6400)
MOST_BYTES_PER_BOX = 560

Ids = npt.NDArray[np.int64]
#: From a query [D] and the number of allowed cameras to ids, best first.
Search = Callable[[Float32, int], Ids]


@dataclass(frozen=True, eq=False)
class Data:
    """Boxes with cameras, queries that are unseen views, and the true answers.

    Attributes
    ----------
    truth
        By share: int64 [Q, K], exact in float32.
    """

    vectors: Float32
    cameras: npt.NDArray[np.int32]
    queries: Float32
    truth: dict[str, list[Ids]]


def make_data(boxes: int, queries: int, seed: int) -> Data:
    """Make people, their views in order of time, and the exact answers."""
    rng = np.random.default_rng(seed)
    people = max(boxes // VIEWS, 1)
    centres = unit(rng.standard_normal((people, DIM), dtype=np.float32))

    def views(who: Ids) -> Float32:
        noise = unit(rng.standard_normal((len(who), DIM), dtype=np.float32))
        return unit(np.float32(SAME**0.5) * centres[who] + np.float32((1 - SAME) ** 0.5) * noise)

    vectors = views(rng.permutation(np.arange(boxes) % people))
    cameras = rng.integers(0, CAMERAS, boxes).astype(np.int32)
    asked = views(rng.integers(0, people, queries))
    truth = {
        name: [exact(vectors, q, np.flatnonzero(cameras < share * CAMERAS)) for q in asked]
        for name, share in SHARES.items()
    }
    return Data(vectors, cameras, asked, truth)


def unit(values: Float32) -> Float32:
    """Scale rows to length 1."""
    scaled: Float32 = values / np.linalg.norm(values, axis=1, keepdims=True)
    return scaled


def exact(vectors: Float32, query: Float32, rows: Ids) -> Ids:
    """Find the K most similar of these rows."""
    similar = vectors[rows] @ query if len(rows) < len(vectors) else vectors @ query
    best = np.argsort(-similar, kind="stable")[:K]
    return rows[best]


@dataclass(frozen=True, eq=False)
class Engine:
    """An engine that is filled: a search for each effort, and whether it can filter."""

    searches: list[tuple[str, Search]]
    bytes_per_box: float | None = None
    filters: bool = True
    close: Callable[[], None] | None = None
