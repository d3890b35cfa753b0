"""What the gallery asks of a vector index, and the exact top-k that is built on it.

An index answers in two steps. A first pass names candidates fast, in float32; their scores are then
computed again in float64 and rounded, which does not depend on the order of the sums. With a bound
on the error of the first pass it is proven that nothing left out belongs to the answer; where the
proof fails, all rows are looked at. So every engine and the NumPy oracle agree: ids, scores, and
ties, which go to the smaller id.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from indexer.errors import EmbeddingError

Ids = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
#: Which rows may be found: bool [R], or their numbers, ascending.
Allowed = Mask | Rows
Float16 = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Float = Float32 | Float64

#: How far from 1 the length of a vector may be, float16 rounding included.
LENGTH_TOLERANCE = 2e-3

#: Rows whose vectors are widened to float32 at once: 2 MiB of them. Measured at 200 k rows: 75 ms,
#: with blocks of 512 rows 62 ms, of 4096 rows 80 ms.
BLOCK_ROWS = 2048

# A float16's bits, moved to where a float32 has them: its sign, and its exponent and fraction; the
# two bits between are cleared. The exponent counts from 15 there, and from 127 here.
_SIGN_AND_NUMBER = np.int32(0x8FFFFFFF - 2**32)
_EXPONENT_OFFSET = np.float32(2.0 ** (127 - 15))

#: Up to this share of the rows, the allowed ones are looked at one by one, rather than having the
#: engine scan past the others. Measured with one thread, one by one against the scan: of 100 k rows
#: at 1, 5, 10, 15 and 20 % in 0.09, 0.53, 0.92, 1.3 and 1.9 ms against 0.30, 0.69, 0.93, 1.1 and
#: 1.3 ms; of 1 M rows at 10, 15 and 20 % in 16, 24 and 32 ms against 21, 27 and 31 ms.
GATHER_SHARE = 0.15


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a first pass found for one query.

    Attributes
    ----------
    rows
        int64 [C], in any order.
    bound
        No row that was left out has a first-pass score above this; -inf when none was.
    """

    rows: Rows
    bound: float


class VectorView(Protocol):
    """One state of an index. It never changes; any number of threads may search it."""

    @property
    def ids(self) -> Ids:
        """int64 [R], ascending; removed rows are among them."""

    @property
    def live(self) -> Mask | None:
        """Rows that are not removed, bool [R]; None when that is all."""

    @property
    def scan_error(self) -> float:
        """How far a first-pass score may be from the true one, for a query of length 1."""

    @property
    def scan_margin(self) -> int:
        """How many candidates beyond k a first pass had better return."""

    @property
    def max_width(self) -> int:
        """How many candidates a first pass can return."""

    def __len__(self) -> int:
        """Count the rows that are not removed."""

    def vectors(self, rows: Rows) -> Float16:
        """Return the stored vectors, float16 [C, D], of rows in ascending order."""

    def scan(self, queries: Float32, width: int, allowed: Allowed | None) -> list[Candidates]:
        """Find the `width` best of the allowed rows (None: all) for each query [Q, D].

        Rows that are given by their numbers are looked at one by one; there is at least one.
        """


@dataclass(frozen=True)
class IndexStats:
    """What an index holds.

    Attributes
    ----------
    rows
        Live rows.
    removed
        Rows that compaction would free.
    bytes
        Memory of vectors and ids.
    """

    engine: str
    device: str
    rows: int
    removed: int
    segments: int
    bytes: int


class VectorIndex(Protocol):
    """An index that grows and shrinks; readers hold views, which stay as they are."""

    @property
    def dimension(self) -> int:
        """Numbers of a vector."""

    def view(self) -> VectorView:
        """Return the present state."""

    def add(self, ids: Ids, vectors: Float16) -> None:
        """Append rows [N, D]; ids ascend, beyond all that were ever added.

        Raises
        ------
        DuplicateIdError
            When an id is not beyond those before it.
        EmbeddingError
            When a vector is not finite, not of length 1, or of another dimension.
        """

    def remove(self, ids: Ids) -> int:
        """Remove rows; ids that are not there are passed over. Return how many were."""

    def compact(self) -> Mask | None:
        """Free removed rows; return bool [R], the rows that were kept, or None when all were."""

    def stats(self) -> IndexStats:
        """Return what the index holds."""

    def __len__(self) -> int:
        """Count the rows that are not removed."""


@dataclass(frozen=True, eq=False)
class ScoreRule:
    """How similarities to several query vectors become one score.

    Attributes
    ----------
    positives
        float32 [P, D], P at least 1.
    negatives
        float32 [N, D], N may be 0.
    combine
        The score is the best similarity to a positive, or their mean.
    negative_weight
        The best similarity to a negative, where it is above 0, is taken off this many times.
    """

    positives: Float32
    negatives: Float32
    combine: Literal["best", "mean"] = "best"
    negative_weight: float = 1.0

    @classmethod
    def single(cls, query: Float32) -> "ScoreRule":
        """One positive [D]: the score is the inner product."""
        return cls(query[None], query[:0].reshape(0, len(query)))

    @cached_property
    def probes(self) -> Float32:
        """Vectors [V, D] such that no score is above the best similarity to one of them."""
        if self.combine == "best":
            return self.positives
        mean: Float64 = self.positives.mean(axis=0, dtype=np.float64)
        return mean.astype(np.float32)[None]

    @cached_property
    def vectors(self) -> Float32:
        """All query vectors, positives first: [P + N, D]."""
        if not len(self.negatives):
            return self.positives
        return np.concatenate([self.positives, self.negatives])

    @cached_property
    def scale(self) -> float:
        """By how much more than one unit query errors can grow."""
        pushed = _longest(self.negatives) * self.negative_weight if len(self.negatives) else 0.0
        return _longest(self.positives) + pushed

    def score(self, products: Float) -> Float:
        """Combine inner products [P + N, C] to scores [C], in the type that came."""
        wanted = products[: len(self.positives)]
        best: Float = wanted[0]
        if len(wanted) > 1:
            best = wanted.max(axis=0) if self.combine == "best" else wanted.mean(axis=0)
        if not len(self.negatives):
            return best
        unwanted = products[len(self.positives) :].max(axis=0)
        pushed: Float = best - self.negative_weight * np.maximum(unwanted, 0)
        return pushed


def _longest(vectors: Float32) -> float:
    """Return the length of the longest of a query's few vectors."""
    return math.sqrt(max(float(np.dot(vector, vector)) for vector in vectors))


def widen(vectors: Float16) -> Float32:
    """Return float16 vectors as float32, exactly; what is not finite becomes large.

    Two and a half times as fast as NumPy's conversion, which does not use the processor's
    instruction for it. Torch takes half as long still, and seconds to be imported.
    """
    bits = vectors.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= _SIGN_AND_NUMBER
    widened: Float32 = bits.view(np.float32)
    widened *= _EXPONENT_OFFSET
    return widened


def check_vectors(vectors: Float16, dimension: int) -> None:
    """Refuse vectors that cannot be stored.

    Raises
    ------
    EmbeddingError
        When the shape is not [N, D], or one is not finite or not of length 1.
    """
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise EmbeddingError(f"Embeddings must be [N, {dimension}], not {list(vectors.shape)}")
    for start in range(0, len(vectors), BLOCK_ROWS):
        lengths = np.linalg.norm(widen(vectors[start : start + BLOCK_ROWS]), axis=1)
        # NaN is not near 1 either.
        if not (np.abs(lengths - 1) <= LENGTH_TOLERANCE).all():
            raise EmbeddingError("Embeddings must be unit vectors; one is zero, not finite or long")


def check_queries(queries: Float32, dimension: int) -> Float32:
    """Return queries [Q, D] as float32; refuse those that no search can answer.

    Raises
    ------
    EmbeddingError
        When the shape is not [Q, D], or one is zero or not finite.
    """
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise EmbeddingError(
            f"A query must have {dimension} numbers, as the gallery's encoder makes them; "
            f"got shape {list(queries.shape)}"
        )
    if not np.isfinite(queries).all():
        raise EmbeddingError("A query embedding is not finite: the encoder's output is broken")
    if not (np.linalg.norm(queries, axis=1) > 1e-6).all():
        raise EmbeddingError("A query embedding is zero: the encoder's output is broken")
    return queries


def search(
    view: VectorView, queries: Float32, k: int, allowed: Allowed | None = None
) -> tuple[Ids, Float32]:
    """Find the k most similar of the allowed rows, exactly.

    Parameters
    ----------
    queries
        float32 [Q, D], finite and not zero.
    allowed
        bool [R] over the view's rows, or the allowed ones themselves, int64, ascending; None allows
        all. Removed rows never are.

    Returns
    -------
    tuple
        ids [Q, K] and scores [Q, K], K = min(k, allowed); best first, ties by ascending id.
    """
    rules = [ScoreRule.single(query) for query in queries]
    found = search_rules(view, rules, k, allowed)
    if not found:
        return np.zeros((0, 0), np.int64), np.zeros((0, 0), np.float32)
    return np.array([ids for ids, _ in found]), np.array([scores for _, scores in found])


def search_rules(
    view: VectorView, rules: Sequence[ScoreRule], k: int, allowed: Allowed | None = None
) -> list[tuple[Ids, Float32]]:
    """Find the k best of the allowed rows by each rule, exactly; see `search`."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    rows = len(view.ids)
    mask, listed, count = view.live, None, rows
    if allowed is not None and allowed.dtype != np.bool_:
        listed = cast("Rows", allowed)
        listed = listed if view.live is None else listed[view.live[listed]]
        count = len(listed)
    else:
        if allowed is not None:
            mask = cast("Mask", allowed if view.live is None else allowed & view.live)
        count = rows if mask is None else int(np.count_nonzero(mask))
        if count == rows:
            mask = None
    k = min(k, count)
    if not k or not rules:
        return [(np.zeros(0, np.int64), np.zeros(0, np.float32)) for _ in rules]
    probes = [rule.probes for rule in rules]
    first_width = k + view.scan_margin
    no_first_pass = count <= 2 * first_width or first_width > view.max_width
    looked_at: Allowed | None = mask if listed is None else listed
    if no_first_pass or count <= GATHER_SHARE * rows:
        looked_at = _rows(rows, looked_at)
    elif listed is not None:
        looked_at = np.zeros(rows, np.bool_)
        looked_at[listed] = True
    if no_first_pass:
        return [_look_at_all(view, rule, k, _rows(rows, looked_at)) for rule in rules]
    found: list[tuple[Ids, Float32] | None] = [None] * len(rules)
    for width in (first_width, view.max_width):
        # What negatives push down lets others rise, from further below than the margin.
        left = [
            number
            for number, rule in enumerate(rules)
            if found[number] is None and (width == view.max_width or not len(rule.negatives))
        ]
        if not left or width >= count:
            continue
        scanned = iter(view.scan(np.concatenate([probes[i] for i in left]), width, looked_at))
        for number in left:
            candidates = [next(scanned) for _ in probes[number]]
            found[number] = _proven(view, rules[number], k, candidates)
    return [
        _look_at_all(view, rule, k, _rows(rows, looked_at)) if best is None else best
        for rule, best in zip(rules, found, strict=True)
    ]


def _rows(rows: int, allowed: Allowed | None) -> Rows:
    """Return the allowed rows by their numbers."""
    if allowed is None:
        return np.arange(rows)
    return np.flatnonzero(allowed) if allowed.dtype == np.bool_ else cast("Rows", allowed)


def _proven(
    view: VectorView, rule: ScoreRule, k: int, candidates: list[Candidates]
) -> tuple[Ids, Float32] | None:
    """Return the k best of the candidates if no other row can be among them, else None."""
    rows = np.sort(candidates[0].rows)
    if len(candidates) > 1:
        rows = np.unique(np.concatenate([found.rows for found in candidates]))
    ids, scores = _best(view, rule, k, rows)
    bound = max(found.bound for found in candidates) + view.scan_error * rule.scale
    return (ids, scores) if len(ids) == k and scores[-1] > bound else None


def _look_at_all(view: VectorView, rule: ScoreRule, k: int, rows: Rows) -> tuple[Ids, Float32]:
    """Compare all `rows` (ascending, at least k) with the query vectors in float32 first."""
    if len(rows) <= 2 * k:
        return _best(view, rule, k, rows)
    queries = rule.vectors
    rough = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        vectors = widen(view.vectors(rows[block]))
        rough[block] = rule.score(queries @ vectors.T)
    kth = np.partition(rough, len(rough) - k)[len(rough) - k]
    # A row of the answer is at most one error below the k-th score, and off by one itself.
    near = np.flatnonzero(rough >= kth - 2 * product_error(queries.shape[1]) * rule.scale)
    return _best(view, rule, k, rows[near])


def _best(view: VectorView, rule: ScoreRule, k: int, rows: Rows) -> tuple[Ids, Float32]:
    """Find the k best of `rows` (ascending) by their exact scores."""
    starts = range(0, len(rows), BLOCK_ROWS)
    blocks = [
        exact_scores(rule, view.vectors(rows[start : start + BLOCK_ROWS])) for start in starts
    ]
    scores = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    # Rows ascend and so do their ids: a stable sort leaves ties in their order.
    order = np.argsort(-scores, kind="stable")[:k]
    return view.ids[rows[order]], scores[order]


def exact_scores(rule: ScoreRule, vectors: Float16) -> Float32:
    """Score vectors [C, D] by their `exact_products`: [C]."""
    return rule.score(exact_products(vectors, rule.vectors)).astype(np.float32)


def exact_products(vectors: Float16, queries: Float32) -> Float64:
    """Multiply vectors [C, D] with queries [Q, D] to float64 [Q, C].

    The products themselves are exact in float64, and the sums to some 1e-15: rounded to float32,
    they are the same in whatever order the rows come.
    """
    # Not a matrix product, whose sums depend on a row's place in the matrix. Within a search, whose
    # cache is full of other things, NumPy converts 124 rows in 30 us, and torch in 60.
    products: Float64 = np.vecdot(vectors.astype(np.float64), queries.astype(np.float64)[:, None])
    return products


def product_error(dimension: int) -> float:
    """Bound the error of a float32 inner product of unit vectors, in any order of summation."""
    return (dimension + 2) * float(np.finfo(np.float32).eps) * (1 + LENGTH_TOLERANCE)
