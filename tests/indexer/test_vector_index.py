"""The vector index against the NumPy oracle, and FAISS's traps: each a test."""

import re
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from indexer import faiss_index, vector_index
from indexer.errors import DuplicateIdError, EmbeddingError, IndexEngineError
from indexer.faiss_index import Device, FaissIndex
from indexer.vector_index import ScoreRule, VectorView, search, search_rules
from tests.indexer.oracle import oracle_scores, oracle_top_k, people, unit

DIMENSION = 16

DEVICES = [pytest.param("cpu", id="cpu"), pytest.param("gpu", id="gpu", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Device:
    if request.param == "gpu":
        import faiss

        if not getattr(faiss, "get_num_gpus", lambda: 0)():
            pytest.skip("FAISS sees no GPU: binet[gpu] on a machine with one")
    chosen: Device = request.param
    return chosen


@pytest.fixture
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Many segments and blocks, and scans from the first row on, already in a small index."""
    with monkeypatch.context() as patch:
        patch.setattr(faiss_index, "SEGMENT_ROWS", 700)
        patch.setattr(vector_index, "BLOCK_ROWS", 256)
        patch.setattr(faiss_index, "SKIPPED_ROWS", 5)
        patch.setattr(faiss_index, "GATHERED_ROWS", 150)
        patch.setattr(faiss_index, "_THREAD_ROWS", 60)
        patch.setattr(faiss_index, "_ROOMS", defaultdict(list))
        # Also where the suite runs with one thread.
        patch.setattr(faiss_index, "_threads", lambda: 2)
        faiss_index._pool.cache_clear()
        yield
        faiss_index._pool().shutdown()
    faiss_index._pool.cache_clear()


def filled(vectors: Any, device: Device = "cpu", batch: int = 97) -> FaissIndex:
    index = FaissIndex(DIMENSION, device)
    ids = np.arange(len(vectors)) * 3 + 5
    for start in range(0, len(vectors), batch):
        index.add(ids[start : start + batch], vectors[start : start + batch].astype(np.float16))
    return index


@pytest.mark.usefixtures("_small_parts")
@pytest.mark.parametrize("share", [1, 0.998, 0.6, 0.1, 0.01, 0.001, 0])
def test_every_plan_gives_what_the_oracle_gives(device: Device, share: float) -> None:
    rng = np.random.default_rng(7)
    vectors = people(rng, 4000, 60, DIMENSION).astype(np.float16)
    index = filled(vectors, device)
    assert len(index.view().segments) > 4
    allowed = rng.random(len(vectors)) < share
    queries = np.concatenate([unit(rng, 2, DIMENSION), vectors[:1].astype(np.float32)])
    # As a mask, and as rows.
    _search_by_plan(index.view(), vectors, queries, allowed, allowed)
    _search_by_plan(index.view(), vectors, queries, allowed, np.flatnonzero(allowed))
    # Removed rows are not found however they are asked for.
    index.remove(index.view().ids[5::9])
    left = allowed.copy()
    left[5::9] = False
    for asked in (allowed, np.flatnonzero(allowed)):
        _search_by_plan(index.view(), vectors, queries, left, asked)


def _search_by_plan(view: VectorView, vectors: Any, queries: Any, allowed: Any, asked: Any) -> None:
    for k in (1, 10, 300):
        ids, scores = search(view, queries, k, asked)
        alone = [search(view, query[None], k, asked) for query in queries]
        assert np.array_equal(ids, np.concatenate([one for one, _ in alone]))
        assert ids.shape == (3, min(k, np.count_nonzero(allowed)))
        for row, query in enumerate(queries):
            expected = oracle_scores(vectors[allowed], query[None])
            best = oracle_top_k(view.ids[allowed], expected, k)
            assert (ids[row].tolist(), scores[row].tolist()) == best


@pytest.mark.usefixtures("_small_parts")
@pytest.mark.parametrize("combine", ["best", "mean"])
@pytest.mark.parametrize("negatives", [0, 2])
def test_several_query_vectors(combine: Any, negatives: int) -> None:
    rng = np.random.default_rng(8)
    vectors = people(rng, 3000, 40, DIMENSION).astype(np.float16)
    view = filled(vectors).view()
    for weight in (0.5, 1.0, 3.0):
        # Unwanted is the person that is found first: nothing of the first candidates stays.
        wanted = unit(rng, 3, DIMENSION)
        rule = ScoreRule(wanted, wanted[:negatives], combine, weight)
        for share in (1.0, 0.5, 0.02):
            allowed = rng.random(len(vectors)) < share
            (found,) = search_rules(view, [rule], 50, allowed)
            expected = oracle_scores(vectors[allowed], wanted, rule.negatives, combine, weight)
            best = oracle_top_k(view.ids[allowed], expected, 50)
            assert (found[0].tolist(), found[1].tolist()) == best


@pytest.mark.usefixtures("_small_parts")
def test_ties_at_the_cut_go_to_the_smaller_ids(device: Device) -> None:
    rng = np.random.default_rng(9)
    one = unit(rng, 1, DIMENSION)
    vectors = np.repeat(one, 3000, axis=0)
    vectors[::7] = unit(rng, len(vectors[::7]), DIMENSION)
    view = filled(vectors, device).view()
    same = view.ids[np.arange(3000) % 7 != 0]
    ids, scores = search(view, one, 20)
    assert ids[0].tolist() == same[:20].tolist()
    assert len(set(scores[0].tolist())) == 1


def test_nothing_in_the_index(device: Device) -> None:
    view = FaissIndex(DIMENSION, device).view()
    ids, scores = search(view, unit(np.random.default_rng(0), 2, DIMENSION), 5)
    assert ids.shape == scores.shape == (2, 0)
    full = filled(unit(np.random.default_rng(0), 9, DIMENSION), device).view()
    for some in (view, full):
        assert search(some, np.zeros((0, DIMENSION), np.float32), 5)[0].shape == (0, 0)


@pytest.mark.parametrize("bad", ["zero", "nan", "inf", "short", "flat"])
def test_a_query_that_cannot_be_answered_is_an_error(bad: str) -> None:
    query = unit(np.random.default_rng(0), 1, DIMENSION)
    if bad in ("zero", "nan", "inf"):
        query[:] = {"zero": 0, "nan": np.nan, "inf": np.inf}[bad]
    query = query[:, :5] if bad == "short" else query[0] if bad == "flat" else query
    with pytest.raises(EmbeddingError, match="query"):
        vector_index.check_queries(query, DIMENSION)


@pytest.mark.parametrize("bad", [0, np.nan, np.inf, 2])
def test_a_vector_that_cannot_be_stored_is_an_error(bad: float) -> None:
    vectors = unit(np.random.default_rng(0), 3, DIMENSION).astype(np.float16)
    vectors[1] = bad
    index = FaissIndex(DIMENSION)
    with pytest.raises(EmbeddingError, match="unit vectors"):
        index.add(np.arange(3), vectors)
    with pytest.raises(EmbeddingError, match="16"):
        index.add(np.arange(3), vectors[:, :5])
    assert len(index) == 0


@pytest.mark.parametrize("ids", [[3, 3], [4, 3], [0, 9], [2, 9]])
def test_an_id_comes_once(ids: list[int]) -> None:
    """FAISS accepts an id twice, and answers with it twice."""
    vectors = unit(np.random.default_rng(0), 3, DIMENSION).astype(np.float16)
    index = FaissIndex(DIMENSION)
    index.add(np.arange(3), vectors)
    index.remove(np.array([2]))
    with pytest.raises(DuplicateIdError):
        index.add(np.array(ids), vectors[:2])
    assert len(index) == 2


@pytest.mark.usefixtures("_small_parts")
def test_removed_rows_are_not_found_and_others_are_themselves(device: Device) -> None:
    """FAISS's own removal shifts the ids of some indexes, and others cannot remove."""
    rng = np.random.default_rng(10)
    vectors = unit(rng, 2000, DIMENSION).astype(np.float16)
    index = filled(vectors, device)
    before = index.view()
    gone = rng.permutation(before.ids)[:900]
    assert index.remove(np.concatenate([gone, gone[:3], [1, 10**9]])) == 900
    assert index.remove(gone) == 0
    left = ~np.isin(before.ids, gone)
    for compacted in (False, True):
        view = index.view()
        assert len(view) == len(index) == 1100
        ids, _ = search(view, vectors[left].astype(np.float32), 1)
        assert ids[:, 0].tolist() == before.ids[left].tolist()
        if not compacted:
            kept = index.compact()
            assert kept is not None
            assert kept.tolist() == left.tolist()
            assert index.stats().removed == 0
    assert index.compact() is None
    # A view stays as it was.
    ids, _ = search(before, vectors.astype(np.float32), 1)
    assert ids[:, 0].tolist() == before.ids.tolist()


def test_searching_while_another_thread_adds_and_removes() -> None:
    """FAISS crashes the process here; each view answers as at its moment."""
    rng = np.random.default_rng(11)
    vectors = unit(rng, 6000, DIMENSION).astype(np.float16)
    index = FaissIndex(DIMENSION)
    index.add(np.arange(100), vectors[:100])
    done = threading.Event()
    problems: list[str] = []
    seen: set[int] = set()

    def look(seed: int) -> None:
        own = np.random.default_rng(seed)
        while not done.is_set() or not seen:
            view = index.view()
            size = len(view.ids)
            row = int(own.integers(size))
            query = vectors[view.ids[row]].astype(np.float32)
            ids, scores = search(view, query[None], 5)
            live = view.live is None or view.live[row]
            if (ids[0, 0] == view.ids[row]) != live or (np.diff(scores[0]) > 0).any():
                problems.append(f"row {row} of {size}")
            seen.add(size)

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    try:
        for start in range(100, 6000, 59):
            rows = np.arange(start, min(start + 59, 6000))
            index.add(rows, vectors[rows])
            index.remove(rows[::4] - 50)
            if start % 5 == 0:
                index.compact()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not problems
    assert len(seen) > 1


def test_a_view_keeps_its_memory() -> None:
    """Vectors lie in memory that FAISS owns: an array of them must not outlive it."""
    vectors = unit(np.random.default_rng(0), 50, DIMENSION).astype(np.float16)
    index = FaissIndex(DIMENSION)
    index.add(np.arange(50), vectors)
    own = index.view().vectors(np.arange(10, 40))
    index.remove(np.arange(40))
    index.compact()
    del index
    assert np.array_equal(own, vectors[10:40])


THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not THP.exists() or "[never]" in THP.read_text(), reason="this kernel has no huge pages"
)
def test_a_large_segment_asks_for_huge_pages() -> None:
    index = FaissIndex(256)
    vectors = people(np.random.default_rng(0), 70_000, 500, 256).astype(np.float16)
    index.add(np.arange(len(vectors)), vectors)
    view = index.view()
    (segment,) = view.segments
    assert (segment.vectors == vectors).all()
    middle = segment.vectors.ctypes.data + segment.vectors.nbytes // 2
    flags = None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            here = int(bounds[1], 16) <= middle < int(bounds[2], 16)
        elif line.startswith("VmFlags:") and here:
            flags = line.split()
    assert flags is not None
    assert "hg" in flags  # advised
    queries = vectors[[0, 40_000, 69_999]].astype(np.float32)
    found, scores = search(view, queries, 5)
    products = (vectors.astype(np.float64) @ queries.T.astype(np.float64)).T
    assert found.tolist() == np.argsort(-products, axis=1, kind="stable")[:, :5].tolist()
    np.testing.assert_allclose(scores, -np.sort(-products, axis=1)[:, :5], atol=1e-6)
    rows = view.vectors(np.arange(69_000, 70_000))
    index.remove(np.arange(69_000))
    index.compact()
    del index, view, segment
    assert np.array_equal(rows, vectors[69_000:])


def test_adding_and_searching_need_no_torch() -> None:
    code = """
import sys
import numpy as np
from indexer.faiss_index import FaissIndex
from indexer.vector_index import search
index = FaissIndex(4)
index.add(np.arange(900), np.eye(4, dtype=np.float16)[np.arange(900) % 4])
for k, allowed in ((10, None), (10, np.arange(300)), (400, np.arange(850))):
    search(index.view(), np.eye(4, dtype=np.float32), k, allowed)
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"  # it takes seconds to import, and stops every thread


def test_widening_is_exact() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    wide = vector_index.widen(every)
    finite = np.isfinite(every)
    assert (
        wide[finite].view(np.uint32).tolist()
        == every[finite].astype(np.float32).view(np.uint32).tolist()
    )
    assert (np.abs(wide[~finite]) >= 2**16).all()  # and so never of length 1


def test_a_forked_child_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAISS hangs there; processes are to be spawned."""
    vectors = unit(np.random.default_rng(0), 3000, DIMENSION)
    view = filled(vectors).view()
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(IndexEngineError, match="spawn"):
        search(view, vectors[:1], 5)


def test_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    faiss_index.faiss_module.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(faiss_index, "version", lambda _name: "1.15.1")
            with pytest.raises(IndexEngineError, match="uninstall all"):
                FaissIndex(DIMENSION)
        with monkeypatch.context() as patch:
            patch.setitem(__import__("sys").modules, "faiss", None)
            with pytest.raises(IndexEngineError, match=r"binet\[cpu\]"):
                FaissIndex(DIMENSION)
    finally:
        faiss_index.faiss_module.cache_clear()


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0, raising=False)
    with pytest.raises(IndexEngineError, match="no GPU"):
        FaissIndex(DIMENSION, "gpu")


class IndexMachine(RuleBasedStateMachine):
    """Adds, removes, compacts and searches in any order; the oracle does the same in lists."""

    @initialize(seed=st.integers(0, 2**32 - 1))
    def begin(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.index = FaissIndex(DIMENSION)
        self.ids = np.zeros(0, np.int64)
        self.vectors = np.zeros((0, DIMENSION), np.float16)
        self.last = 0
        self.old: list[tuple[VectorView, Any, Any]] = []

    @rule(count=st.integers(0, 300))
    def add(self, count: int) -> None:
        ids = self.last + np.cumsum(self.rng.integers(1, 4, count))
        vectors = people(self.rng, count, 8, DIMENSION).astype(np.float16)
        self.index.add(ids, vectors)
        self.ids = np.concatenate([self.ids, ids])
        self.vectors = np.concatenate([self.vectors, vectors])
        self.last = int(self.ids[-1]) if len(self.ids) else self.last
        self.last = max(self.last, int(ids[-1]) if count else 0)

    @rule(share=st.sampled_from([0.01, 0.3, 0.9]))
    def remove(self, share: float) -> None:
        gone = self.rng.random(len(self.ids)) < share
        unknown = np.array([self.last + 1])
        removed = self.index.remove(np.concatenate([self.ids[gone], unknown]))
        assert removed == np.count_nonzero(gone)
        self.ids, self.vectors = self.ids[~gone], self.vectors[~gone]

    @rule()
    def compact(self) -> None:
        self.index.compact()

    @rule()
    def keep_a_view(self) -> None:
        self.old.append((self.index.view(), self.ids, self.vectors))

    @rule(k=st.sampled_from([1, 7, 500]), share=st.sampled_from([1, 0.9, 0.3, 0.02, 0]))
    def search(self, k: int, share: float) -> None:
        self.compare(self.index.view(), self.ids, self.vectors, k, share)
        for view, ids, vectors in self.old[-2:]:
            self.compare(view, ids, vectors, k, share)

    @invariant()
    def same_size(self) -> None:
        assert len(self.index) == len(self.ids)

    def compare(self, view: VectorView, ids: Any, vectors: Any, k: int, share: float) -> None:
        allowed = self.rng.random(len(view.ids)) < share
        mine = np.isin(ids, view.ids[allowed])
        query = unit(self.rng, 1, DIMENSION)
        found, scores = search(view, query, k, allowed)
        best = oracle_top_k(ids[mine], oracle_scores(vectors[mine], query), k)
        assert (found[0].tolist(), scores[0].tolist()) == best


IndexMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, derandomize=True
)
TestIndexMachine = IndexMachine.TestCase
