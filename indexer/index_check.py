"""What Milvus holds against what SQL holds, and what its searches find of the true answers."""

from dataclasses import dataclass

import numpy as np
from sqlalchemy import func, select

from indexer import schema
from indexer.checking import Finding
from indexer.errors import GalleryError
from indexer.filters import Filter
from indexer.gallery import Gallery
from indexer.milvus_client import MAX_WIDTH
from indexer.milvus_mirror import MilvusView
from indexer.mirror import new_boxes
from indexer.vector_index import Float32, Ids, ScoreRule, widen

#: Recall is measured on so many queries, and of so many best.
QUERIES = 100
RECALL_AT = 100


@dataclass(frozen=True)
class Recall:
    """What searches without a filter find of the true best boxes.

    Attributes
    ----------
    mean, least
        Shares of the true `at` best, on average and for the worst query.
    """

    queries: int
    at: int
    mean: float
    least: float


def _view(gallery: Gallery) -> MilvusView:
    view = gallery.refresh()
    if not isinstance(view, MilvusView):
        raise GalleryError("Vectors in memory are exact: --recall needs --index milvus+http://...")
    return view


def check_index(gallery: Gallery) -> list[Finding]:
    """Compare the boxes in Milvus with the active encoder's in SQL, after catching up.

    Raises
    ------
    IndexOutageError
        When Milvus does not answer.
    """
    view = _view(gallery)
    box = schema.box.c
    lacking = extra = 0
    with gallery.database.read() as connection:
        last = connection.execute(select(func.max(box.id))).scalar() or 0
        for start in range(1, last + 1, MAX_WIDTH):
            end = start + MAX_WIDTH - 1
            there = view.collection.ids_between(start, end)
            rows = connection.execute(
                select(box.id).where(box.id.between(start, end), box.encoder_id == view.encoder.id)
            )
            true = np.array(rows.scalars().all(), np.int64)
            lacking += len(np.setdiff1d(true, there))
            extra += len(np.setdiff1d(there, true))
    return [
        finding
        for finding in (
            Finding("boxes that the index in Milvus lacks", lacking),
            Finding("boxes of the index in Milvus that are not in SQL", extra),
        )
        if finding.count
    ]


def measure_recall(gallery: Gallery, seed: int = 0) -> Recall:
    """Measure what Milvus finds of SQL's exact answers, with queries made from the gallery.

    Raises
    ------
    GalleryError
        When the vectors are in memory, or there are none.
    IndexOutageError
        When Milvus does not answer.
    """
    view = _view(gallery)
    rng = np.random.default_rng(seed)
    box = schema.box.c
    with gallery.database.read() as connection:
        ids = connection.execute(select(box.id).where(box.encoder_id == view.encoder.id))
        all_ids = np.array(ids.scalars().all(), np.int64)
    if not len(all_ids):
        raise GalleryError("The gallery has no boxes to measure recall with")
    chosen = np.sort(rng.choice(all_ids, min(QUERIES, len(all_ids)), replace=False))
    rows = widen(view.embeddings(chosen)[1])
    # Other views of the same people, as it were: rows, moved a little.
    noise = rng.standard_normal(rows.shape, dtype=np.float32)
    moved = rows + 0.5 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    queries = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    count = min(RECALL_AT, len(all_ids))
    true = _true_best(gallery, view, queries, count)
    shares = []
    for query, best in zip(queries, true, strict=True):
        found, _ = view.find(ScoreRule.single(query), count, Filter())
        shares.append(len(np.intersect1d(found, best)) / count)
    return Recall(len(shares), count, float(np.mean(shares)), float(min(shares)))


def _true_best(gallery: Gallery, view: MilvusView, queries: Float32, k: int) -> Ids:
    """Find the k best boxes of each query by reading SQL: [Q, k]."""
    ids = np.zeros((len(queries), 0), np.int64)
    scores = np.zeros((len(queries), 0), np.float32)
    with gallery.database.read() as connection:
        for own, vectors, _ in new_boxes(connection, view.encoder, 0):
            ids = np.concatenate([ids, np.broadcast_to(own, (len(queries), len(own)))], axis=1)
            scores = np.concatenate([scores, queries @ widen(vectors).T], axis=1)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            ids = np.take_along_axis(ids, order, axis=1)
            scores = np.take_along_axis(scores, order, axis=1)
    return ids
