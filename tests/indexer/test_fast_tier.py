"""The fast tier: its loss is measured, and filters, deletions and proofs do not notice it."""

from pathlib import Path

import numpy as np
import pytest

from indexer import fast_tier
from indexer.errors import EmbeddingError
from indexer.faiss_index import FaissIndex
from indexer.fast_tier import TieredView, build
from indexer.gallery import Gallery
from indexer.ingest import NewFrame
from indexer.query import Query
from indexer.vector_index import ScoreRule, search, search_rules
from model.detections import Detections
from tests.indexer.galleries import START, new_gallery, new_source, sha
from tests.indexer.oracle import people

DIMENSION = 64
ROWS = 6000


@pytest.fixture(autouse=True)
def small_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_tier, "LEAST_ROWS", 1000)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return people(np.random.default_rng(3), ROWS + 900, 300, DIMENSION).astype(np.float16)


@pytest.fixture
def index(vectors: np.ndarray) -> FaissIndex:
    made = FaissIndex(DIMENSION)
    made.add(np.arange(1, ROWS + 1), vectors[:ROWS])
    return made


def recall(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(found, true, strict=True)]))


def test_what_is_found_is_as_measured_and_scored_exactly(
    index: FaissIndex, vectors: np.ndarray
) -> None:
    tier, report = build(index.view())
    assert tier is not None
    assert report.used
    assert report.recall >= 0.999
    queries = people(np.random.default_rng(4), 50, 300, DIMENSION)
    ids, scores = search(TieredView(index.view(), tier), queries, 100)
    true_ids, _ = search(index.view(), queries, 100)
    assert recall(ids, true_ids) > 0.99
    for query, own_ids, own_scores in zip(queries, ids, scores, strict=True):
        products = vectors[own_ids - 1].astype(np.float64) @ query.astype(np.float64)
        np.testing.assert_array_equal(own_scores, products.astype(np.float32))
        assert (np.diff(own_scores) <= 0).all()


def test_filters_and_negatives_stay_exact(index: FaissIndex) -> None:
    tier, _ = build(index.view())
    assert tier is not None
    tiered = TieredView(index.view(), tier)
    queries = people(np.random.default_rng(5), 8, 300, DIMENSION)
    for share in (0.5, 0.02):
        allowed = np.random.default_rng(6).random(ROWS) < share
        for found, true in zip(
            search(tiered, queries, 40, allowed),
            search(index.view(), queries, 40, allowed),
            strict=True,
        ):
            np.testing.assert_array_equal(found, true)
    rule = ScoreRule(queries[:2], queries[2:4])
    ((found, _),) = search_rules(tiered, [rule], 50)
    ((true, _),) = search_rules(index.view(), [rule], 50)
    np.testing.assert_array_equal(found, true)


def test_what_comes_later_is_found_and_what_goes_is_not(
    index: FaissIndex, vectors: np.ndarray
) -> None:
    tier, _ = build(index.view())
    assert tier is not None
    index.add(np.arange(ROWS + 1, ROWS + 501), vectors[ROWS : ROWS + 500])
    new = vectors[ROWS : ROWS + 500 : 25].astype(np.float32)
    assert tier.covers(index.view())
    ids, _ = search(TieredView(index.view(), tier), new, 10)
    expected = np.arange(ROWS + 1, ROWS + 501, 25)
    assert (ids == expected[:, None]).any(axis=1).all()
    gone = np.concatenate([expected, np.arange(1, 60)])
    index.remove(gone)
    assert tier.covers(index.view())
    ids, _ = search(TieredView(index.view(), tier), new, 100)
    assert not np.isin(ids, gone).any()
    assert ids.shape == (20, 100)
    # Compaction moves rows: the codes mean something else then.
    index.compact()
    assert not tier.covers(index.view())


def test_a_tier_that_has_grown_old_is_not_used(index: FaissIndex, vectors: np.ndarray) -> None:
    tier, _ = build(index.view())
    assert tier is not None
    index.add(np.arange(ROWS + 1, ROWS + 901), vectors[ROWS:])
    assert not tier.covers(index.view())


def test_a_tier_that_loses_too_much_is_refused(
    index: FaissIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_tier, "FACTORS", (1,))
    tier, report = build(index.view())
    assert tier is None
    assert not report.used
    assert 0.2 < report.recall < 0.999
    monkeypatch.setattr(fast_tier, "LEAST_ROWS", ROWS + 1)
    assert build(index.view())[1].rows == ROWS


def test_the_gallery_says_by_what_it_searched(tmp_path: Path) -> None:
    with _gallery(tmp_path) as gallery:
        query = Query(boxes=[5])
        before = gallery.search(query, 20)
        assert before.exact
        assert gallery.build_fast_tier().used
        # The query's own box is excluded: that is a filter.
        assert gallery.search(query, 20).exact
        vector = gallery.embeddings([5])
        fast = gallery.search(Query(vector), 21)
        assert not fast.exact
        assert fast.hits[0].box_id == 5
        assert {hit.box_id for hit in before.hits} <= {hit.box_id for hit in fast.hits}
        gallery.delete(boxes=[5])
        assert 5 not in [hit.box_id for hit in gallery.search(Query(vector), 21).hits]
        with pytest.raises(EmbeddingError):
            gallery.search(Query(np.zeros((1, 16), np.float32)))


def _gallery(place: Path) -> Gallery:
    gallery, encoder = new_gallery(place)
    source = new_source(gallery, "door")
    embeddings = people(np.random.default_rng(7), 2000, 100, 16)
    gallery.add_frames(
        encoder.id,
        source,
        [
            NewFrame(
                number,
                START,
                64,
                48,
                sha(f"{number}"),
                Detections(
                    np.tile(np.array([1, 1, 20, 40], np.float32), (100, 1)),
                    np.full(100, 0.9, np.float32),
                    embeddings[100 * number : 100 * (number + 1)],
                ),
            )
            for number in range(20)
        ],
    )
    return gallery
