"""The same searches through the gallery: what users get must be what the evaluator promises."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmark.errors import BenchmarkError
from benchmark.people import Int64, People
from benchmark.search import SearchRules, evaluate_search
from indexer.gallery import Gallery
from indexer.ingest import NewFrame
from indexer.mirror import GalleryView
from indexer.query import Query
from indexer.vector_index import search
from model import Detections
from model.detections import FloatArray
from training.datasets.protocol import RetrievalProtocol

#: How far the two may be apart: rounding can swap people who are equally similar.
TOLERANCE = 1e-4
#: Results of each query whose frame and box are compared too.
SHOWN = 10
#: Scenes that are written in one transaction.
BATCH = 64


def through_gallery(
    protocol: RetrievalProtocol, people: People, queries: FloatArray, rules: SearchRules
) -> dict[str, Any]:
    """Put everybody who was found into a gallery, search it, and score the answers.

    Parameters
    ----------
    people, queries
        As for `evaluate_search`.

    Returns
    -------
    dict
        The metrics of the gallery's answers and of the evaluator on the same embeddings, rounded to
        the float16 that the gallery stores.

    Raises
    ------
    BenchmarkError
        When they differ, or an answer names another frame or box; or when the rules change
        similarities, which a gallery does not do.
    """
    if rules.scaled or rules.cbgm:
        raise BenchmarkError("--through-gallery: a gallery neither scales nor re-ranks (CBGM)")
    kept = people.above(rules.det_threshold)
    with (
        TemporaryDirectory(prefix="binet-gallery-") as folder,
        Gallery.open(Path(folder), create=True) as gallery,
    ):
        box_ids = _fill(gallery, protocol, kept)
        view = gallery.view_in_memory()
        row_of = np.full(int(box_ids.max(initial=0)) + 1, -1, np.int64)
        row_of[box_ids] = np.arange(len(box_ids))

        def similarity(number: int) -> FloatArray:
            wanted = np.isin(view.index.ids, box_ids[kept.rows_of(protocol.images(number))])
            similar = np.full(len(box_ids), -np.inf, np.float32)
            if wanted.any():
                (ids,), (scores,) = search(
                    view.index, queries[number : number + 1], len(box_ids), wanted
                )
                similar[row_of[ids]] = scores
            return similar

        found = evaluate_search(protocol, kept, queries, rules, similarity_of=similarity)
        _check_answers(gallery, view, kept, box_ids, queries)
    rounded = replace(kept, embeddings=kept.embeddings.astype(np.float16).astype(np.float32))
    expected = evaluate_search(protocol, rounded, queries, rules)
    answer = {
        "boxes": len(box_ids),
        "mAP": found.mean_ap,
        "top1": found.top(1),
        "evaluator_mAP": expected.mean_ap,
        "evaluator_top1": expected.top(1),
    }
    if np.abs(found.aps - expected.aps).max(initial=0) > TOLERANCE:
        raise BenchmarkError(
            f"{protocol.name}: the gallery's answers are not the evaluator's: mAP "
            f"{found.mean_ap:.6f} and {expected.mean_ap:.6f}; please report this"
        )
    return answer


def _fill(gallery: Gallery, protocol: RetrievalProtocol, people: People) -> Int64:
    """Write every scene with its people; give the id of each person's box [D]."""
    encoder = gallery.register_encoder("0" * 64, "0" * 64, people.embeddings.shape[1])
    gallery.activate(encoder.id)
    source = gallery.add_source(gallery.camera("all"), protocol.name, "folder", "0" * 64)
    ids: list[Int64] = [np.zeros(0, np.int64)]
    for start in range(0, len(protocol.scenes), BATCH):
        frames = []
        for scene in range(start, min(start + BATCH, len(protocol.scenes))):
            rows = slice(int(people.ptr[scene]), int(people.ptr[scene + 1]))
            found = Detections(
                people.boxes_xyxy[rows], people.scores[rows], people.embeddings[rows]
            )
            when = datetime.fromtimestamp(scene, UTC)
            frames.append(NewFrame(scene, when, 1, 1, f"{scene:064x}", found))
        ids += gallery.add_frames(encoder.id, source.id, frames).box_ids
    return np.concatenate(ids)


def _check_answers(
    gallery: Gallery, view: GalleryView, people: People, box_ids: Int64, queries: FloatArray
) -> None:
    """Compare frame, box and score of each query's first results with what was put in."""
    scene_of = np.repeat(np.arange(len(people.counts)), people.counts)
    row_of = {int(box): row for row, box in enumerate(box_ids)}
    for embedding in queries:
        for hit in gallery.search(Query(embedding[None]), SHOWN).hits:
            row = row_of[hit.box_id]
            same = (
                hit.frame.position == scene_of[row]
                and np.allclose(hit.box_xyxy, people.boxes_xyxy[row], atol=1e-3)
                and abs(hit.score - people.embeddings[row] @ embedding) < 2e-3
            )
            if not same:
                raise BenchmarkError(
                    f"the gallery of {len(view)} boxes answers with another box than was put in; "
                    "please report this"
                )
