"""A faster first pass for large galleries: product quantisation names candidates.

It takes 64 bytes more for a box of 256 numbers. FAISS's fast-scan codes are looked at in a fraction
of the time that the vectors take; the best by code are then compared exactly. What the codes
misjudge is not found, so that the answer is not proven any more: recall is measured on the gallery
itself when the tier is built, and a tier below `LEAST_RECALL` is refused. Searches with a filter or
with negatives do not use it: they stay exact.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from indexer.faiss_index import faiss_module
from indexer.vector_index import (
    BLOCK_ROWS,
    Allowed,
    Candidates,
    Float16,
    Float32,
    Ids,
    Rows,
    VectorView,
    search,
    widen,
)

#: Of the true 100 best, on average.
LEAST_RECALL = 0.999
RECALL_AT = 100
#: Queries that the recall is measured with.
PROBES = 200
#: Candidates for each that is wanted, tried in turn.
FACTORS = (10, 20, 50, 100)
#: Rows from which codes are faster than the vectors themselves.
LEAST_ROWS = 100_000
#: Rows that came after the codes were made are compared one by one, up to this share of all.
MOST_NEW_SHARE = 0.1

_TRAINED_ROWS = 65_536


@dataclass(frozen=True)
class TierReport:
    """How a tier was measured.

    Attributes
    ----------
    recall
        Share of the true 100 best that is found, on average over queries made from the gallery.
    factor
        Candidates that are compared exactly, for each that is wanted.
    used
        False where the recall was too low, or there are too few rows.
    """

    rows: int
    recall: float
    factor: int
    used: bool


@dataclass(frozen=True, eq=False)
class FastTier:
    """Codes of the first rows of a view.

    Attributes
    ----------
    ids
        int64 [R] of those rows.
    """

    codes: Any
    ids: Ids
    factor: int

    def covers(self, view: VectorView) -> bool:
        """Tell whether these are still the view's first rows, and enough of them."""
        count = len(self.ids)
        return (
            count <= len(view.ids)
            and len(view.ids) - count <= MOST_NEW_SHARE * len(view.ids)
            # Ids ascend, and compaction moves rows forward.
            and view.ids[count - 1] == self.ids[-1]
        )


class TieredView:
    """A view whose first pass is a fast tier's where everything is allowed; see `VectorView`."""

    def __init__(self, base: VectorView, tier: FastTier) -> None:
        self._base = base
        self._tier = tier
        self.ids = base.ids
        self.live = base.live
        self.scan_error = base.scan_error
        self.scan_margin = base.scan_margin
        self.max_width = base.max_width

    def __len__(self) -> int:
        return len(self._base)

    def vectors(self, rows: Rows) -> Float16:
        """Return the stored vectors of rows in ascending order."""
        return self._base.vectors(rows)

    def scan(self, queries: Float32, width: int, allowed: Allowed | None) -> list[Candidates]:
        """Name candidates by their codes; exactly where a filter, or a proof, is asked for."""
        if (allowed is not None and allowed is not self.live) or width >= self.max_width:
            return self._base.scan(queries, width, allowed)
        return [self._candidates(query, width) for query in queries]

    def _candidates(self, query: Float32, width: int) -> Candidates:
        count = min(width * self._tier.factor, len(self._tier.ids))
        _, found = self._tier.codes.search(query[None], count)
        rows = found[0][found[0] >= 0].astype(np.int64)
        rows = np.concatenate([rows, self._best_new(query, width)])
        if self.live is not None:
            rows = rows[self.live[rows]]
        # No bound: what the codes put lower is given up.
        return Candidates(rows, -np.inf)

    def _best_new(self, query: Float32, width: int) -> Rows:
        """Return the best of the rows that have no codes."""
        rows = np.arange(len(self._tier.ids), len(self.ids))
        if self.live is not None:
            rows = rows[self.live[rows]]
        if len(rows) <= width:
            return rows
        blocks = range(0, len(rows), BLOCK_ROWS)
        scores = np.concatenate(
            [
                widen(self._base.vectors(rows[start : start + BLOCK_ROWS])) @ query
                for start in blocks
            ]
        )
        return rows[np.argpartition(-scores, width)[:width]]


def build(view: VectorView, seed: int = 0) -> tuple[FastTier | None, TierReport]:
    """Make codes of all rows of a view, and measure what they find.

    Returns
    -------
    tuple
        None in place of the tier where it is refused, and the measurements.
    """
    count = len(view.ids)
    if count < LEAST_ROWS:
        return None, TierReport(count, 0.0, 0, used=False)
    rng = np.random.default_rng(seed)
    dimension = view.vectors(np.zeros(1, np.int64)).shape[1]
    faiss = faiss_module()
    codes = faiss.IndexPQFastScan(dimension, dimension // 2, 4, faiss.METRIC_INNER_PRODUCT)
    sample = np.sort(rng.choice(count, min(_TRAINED_ROWS, count), replace=False))
    codes.train(widen(view.vectors(sample)))
    for start in range(0, count, _TRAINED_ROWS):
        rows = np.arange(start, min(start + _TRAINED_ROWS, count))
        codes.add(widen(view.vectors(rows)))

    probes = _probes(view, rng)
    true, _ = search(view, probes, RECALL_AT)
    recall, factor = 0.0, FACTORS[-1]
    for factor in FACTORS:
        tier = FastTier(codes, view.ids, factor)
        found, _ = search(TieredView(view, tier), probes, RECALL_AT)
        recall = float(
            np.mean([len(np.intersect1d(*pair)) for pair in zip(true, found, strict=True)])
            / RECALL_AT
        )
        if recall >= LEAST_RECALL:
            return tier, TierReport(count, recall, factor, used=True)
    return None, TierReport(count, recall, factor, used=False)


def _probes(view: VectorView, rng: np.random.Generator) -> Float32:
    """Make queries that are not in the gallery: rows, moved as far as their next row is away."""
    alive = np.arange(len(view.ids)) if view.live is None else np.flatnonzero(view.live)
    rows = widen(view.vectors(np.sort(rng.choice(alive, PROBES, replace=False))))
    _, scores = search(view, rows, 2)
    away = np.sqrt(np.maximum(2 - 2 * scores[:, 1:], 0))
    noise = rng.standard_normal(rows.shape, dtype=np.float32)
    moved = rows + away * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    probes: Float32 = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
    return probes
