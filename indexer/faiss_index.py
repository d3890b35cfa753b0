"""The vector index on FAISS: exact, float16. Besides `fast_tier`, the one module that knows FAISS.

FAISS crashes when a thread adds while another searches, accepts an id twice, answers a NaN with
nothing, and hangs in a forked child. So its indexes here never change: rows are kept in segments
that are written once, small ones are merged into larger ones beside the readers, removed rows are
masked, ids are ours, and a forked child is refused.
"""

import math
import os
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, cast

import numpy as np

from indexer.errors import DuplicateIdError, IndexEngineError
from indexer.growing import GrowingArray
from indexer.huge_pages import huge_memory
from indexer.vector_index import (
    LENGTH_TOLERANCE,
    Allowed,
    Candidates,
    Float16,
    Float32,
    Ids,
    IndexStats,
    Mask,
    Rows,
    check_vectors,
)

#: Rows of the largest segments, 128 MiB at 256 numbers each. It bounds what a merge copies.
SEGMENT_ROWS = 262_144

#: Rows that are scanned too, and dropped, rather than asking a bitmap about every row.
SKIPPED_ROWS = 64

#: Rows that are copied together to be scanned apart from the others, at most: 8 MiB of them.
#: Measured with 10 k of 100 k rows, one thread: 0.96 ms, with 4096 at once 1.3 ms; a scan's own
#: candidates cost as much whether it is long or short.
GATHERED_ROWS = 16_384
#: Rows below which another thread gains nothing.
_THREAD_ROWS = 2048

#: What FAISS on a GPU returns at most.
GPU_MAX_WIDTH = 2048

#: All of them own the same folder, `faiss`.
_PACKAGES = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12", "faiss-gpu-cuvs")

Device = Literal["cpu", "gpu"]
Fill = Callable[[Float16], None]


@cache
def faiss_module() -> Any:
    """Import FAISS; say what to install when it is missing or there twice."""
    installed = []
    for name in _PACKAGES:
        try:
            installed.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    if len(installed) > 1:
        raise IndexEngineError(
            f"{' and '.join(installed)} overwrite each other's files: uninstall all, then "
            "install binet[cpu] or binet[gpu]"
        )
    try:
        with warnings.catch_warnings():
            # SWIG's own types lack a __module__; newer Pythons complain, and FAISS cannot help it.
            warnings.filterwarnings(
                "ignore", message=r"builtin type \w+ has no __module__", category=DeprecationWarning
            )
            import faiss
    except ImportError as error:
        raise IndexEngineError(
            "Searching needs FAISS: pip install 'binet[cpu]', or 'binet[gpu]' with a GPU"
        ) from error
    return faiss


def _threads() -> int:
    """Threads that FAISS may use; OMP_NUM_THREADS sets them."""
    return int(faiss_module().omp_get_max_threads())


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_threads(), "faiss-scan")


@dataclass(frozen=True, eq=False)
class _Segment:
    """Rows that never change: FAISS's index, and its float16 codes as an array [N, D].

    The index may look into the array's memory: whoever searches it has to hold the segment.
    """

    index: Any
    vectors: Float16

    def __len__(self) -> int:
        return len(self.vectors)


def _unfilled(dimension: int, rows: int) -> _Segment:
    """Make a segment on the CPU whose vectors are to be written."""
    faiss = faiss_module()
    index = faiss.IndexScalarQuantizer(
        dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    # Its codes are plain float16. Written in place they need no second copy, exact size
    # included: growing would reserve up to twice as much.
    size = rows * index.code_size
    codes = huge_memory(size)
    if codes is None:
        index.codes.resize(size)
        codes = np.asarray(_Codes(index))
    else:
        # What FAISS's constructor of such a view does, which Python cannot call.
        lent, start = index.codes, faiss.swig_ptr(codes)
        lent.is_owned, lent.view_data, lent.view_size = False, start, size
        lent.c_ptr, lent.c_size = start, size
    index.ntotal = rows
    return _Segment(index, codes.view(np.float16).reshape(rows, dimension))


#: Segments of `GATHERED_ROWS` rows to copy rows to, by dimension: as many as searches ever ran at
#: once. Taken and put back by one call each, which no other thread comes between.
_ROOMS: defaultdict[int, list[_Segment]] = defaultdict(list)


@dataclass(frozen=True, eq=False)
class FaissView:
    """One state of a `FaissIndex`; see `vector_index.VectorView`."""

    ids: Ids
    live: Mask | None
    segments: tuple[_Segment, ...]
    device: Device
    scan_error: float
    scan_margin: int
    max_width: int
    # A GPU's scratch memory serves one search at a time.
    lock: "threading.Lock | None"
    process: int

    def __len__(self) -> int:
        return len(self.ids) if self.live is None else int(np.count_nonzero(self.live))

    def vectors(self, rows: Rows) -> Float16:
        """Return the stored vectors of rows in ascending order: float16 [C, D]."""
        if not self.segments:
            raise IndexError("the index is empty")
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
            start = 0
            for segment in self.segments:
                if start <= rows[0] and rows[-1] < start + len(segment):
                    return segment.vectors[rows[0] - start : rows[-1] - start + 1]
                start += len(segment)
        out = np.empty((len(rows), self.segments[0].vectors.shape[1]), np.float16)
        self._gather(rows, out)
        return out

    def _gather(self, rows: Rows, out: Float16) -> None:
        """Copy the vectors of rows, in ascending order, to `out` [C, D]."""
        start = low = 0
        for segment in self.segments:
            stop = start + len(segment)
            high = len(rows) if stop == len(self.ids) else int(np.searchsorted(rows, stop))
            # With a mode other than "raise" NumPy writes in place.
            own = rows[low:high] - start if start else rows[low:high]
            np.take(segment.vectors, own, 0, out=out[low:high], mode="clip")
            start, low = stop, high

    def scan(self, queries: Float32, width: int, allowed: Allowed | None) -> list[Candidates]:
        """Find the `width` best of the allowed rows (None: all) for each query [Q, D]."""
        if os.getpid() != self.process:
            raise IndexEngineError(
                "FAISS hangs in a forked process: start processes with 'spawn', "
                "and open the gallery in each"
            )
        scans: list[Callable[[], tuple[Float32, Rows]]] = []
        if allowed is not None and allowed.dtype != np.bool_:
            rows = cast("Rows", allowed)
            threads = min(_threads(), len(rows) // _THREAD_ROWS)
            size = min(-(-len(rows) // max(threads, 1)), GATHERED_ROWS)
            if size == len(rows):
                # Nothing to merge, which is a tenth of such a search. FAISS puts the best first.
                best, best_rows = self._scan_rows(rows, queries, width)
                bounds = best[:, -1].tolist() if width <= len(rows) else [-math.inf] * len(best)
                return [Candidates(*one) for one in zip(best_rows, bounds, strict=True)]
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                scans.append(partial(self._scan_rows, part, queries, width))
        else:
            start = 0
            for segment in self.segments:
                mask = None if allowed is None else cast("Mask", allowed[start:][: len(segment)])
                if mask is None or mask.any():
                    scans.append(partial(self._scan_segment, start, segment, queries, width, mask))
                start += len(segment)
        # FAISS spreads queries over the processor's cores, but not the rows of one query.
        spread = self.device == "cpu" and len(queries) == 1 and len(scans) > 1 and _threads() > 1
        found = list((_pool().map if spread else map)(lambda scan: scan(), scans))
        if len(found) == 1:
            return _merge(found[0][0], found[0][1], width)
        scores = np.concatenate([scores for scores, _ in found], axis=1)
        return _merge(scores, np.concatenate([rows for _, rows in found], axis=1), width)

    def _scan_rows(self, rows: Rows, queries: Float32, width: int) -> tuple[Float32, Rows]:
        """Scan up to `GATHERED_ROWS` rows, ascending, apart from the others."""
        dimension = queries.shape[1]
        try:
            room = _ROOMS[dimension].pop()
        except IndexError:
            room = _unfilled(dimension, GATHERED_ROWS)
        try:
            self._gather(rows, room.vectors[: len(rows)])
            room.index.ntotal = len(rows)
            scores, found = room.index.search(queries, min(width, len(rows)))
        finally:
            _ROOMS[dimension].append(room)
        return scores, rows[found]

    def _scan_segment(
        self, start: int, segment: _Segment, queries: Float32, width: int, mask: Mask | None
    ) -> tuple[Float32, Rows]:
        scores, rows = self._scan_within(segment, queries, width, mask)
        return scores, np.where(rows >= 0, rows + start, -1)

    def _scan_within(
        self, segment: _Segment, queries: Float32, width: int, mask: Mask | None
    ) -> tuple[Float32, Rows]:
        skipped = 0 if mask is None else len(segment) - int(np.count_nonzero(mask))
        if mask is None or skipped <= SKIPPED_ROWS or self.device == "gpu":
            count = min(width + min(skipped, self.max_width - width), len(segment))
            scores, rows = self._call(segment.index, queries, count)
            if mask is not None:
                # The worst score still tells how good a row that was not seen may be.
                last = scores[:, -1:].copy()
                out = ~mask[rows]
                scores[out], rows[out] = -np.inf, -1
                if count < len(segment):
                    scores = np.concatenate([scores, last], axis=1)
                    rows = np.concatenate([rows, np.full_like(rows[:, :1], -1)], axis=1)
            return scores, rows
        faiss = faiss_module()
        bits = np.packbits(mask, bitorder="little")
        parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
        count = min(width, len(segment) - skipped)
        found: tuple[Float32, Rows] = segment.index.search(queries, count, params=parameters)
        return found

    def _call(self, index: Any, queries: Float32, count: int) -> tuple[Float32, Rows]:
        found: tuple[Float32, Rows]
        if self.lock is None:
            found = index.search(queries, count)
        else:
            with self.lock:
                found = index.search(queries, count)
        return found


def _merge(scores: Float32, rows: Rows, width: int) -> list[Candidates]:
    """Take each query's best from what the segments found: [Q, C] each.

    A row of -1 stands for rows that were not seen, none of them above its score.
    """
    merged = []
    for own_scores, own_rows in zip(scores, rows, strict=True):
        bound = -math.inf
        if own_rows.min(initial=0) < 0:
            seen = own_rows >= 0
            bound = float(own_scores[~seen].max())
            own_scores, own_rows = own_scores[seen], own_rows[seen]
        if len(own_rows) > width:
            best = np.argpartition(-own_scores, width - 1)[:width]
            own_scores, own_rows = own_scores[best], own_rows[best]
        if len(own_rows) == width:
            bound = max(bound, float(own_scores.min()))
        merged.append(Candidates(own_rows, bound))
    return merged


class FaissIndex:
    """An index that grows and shrinks while its views are searched; see `VectorIndex`.

    Parameters
    ----------
    dimension
        Numbers of a vector.
    device
        "gpu" keeps a second copy of the vectors on the first GPU and scans there.

    Raises
    ------
    IndexEngineError
        When FAISS is missing or installed twice, or there is no GPU.
    """

    def __init__(self, dimension: int, device: Device = "cpu") -> None:
        faiss = faiss_module()
        self.dimension = dimension
        self._gpu: Any = None
        if device == "gpu":
            # FAISS without CUDA may lack the function altogether.
            if not getattr(faiss, "get_num_gpus", lambda: 0)():
                raise IndexEngineError(
                    "FAISS sees no GPU: install binet[gpu] on a machine with one, or search on "
                    "the CPU"
                )
            self._gpu = faiss.StandardGpuResources()
        self._lock = threading.Lock()
        self._ids = GrowingArray(np.int64)
        self._last_id = -1
        rounding = float(np.finfo(np.float32).eps) * (dimension + 2) * (1 + LENGTH_TOLERANCE)
        self._view = FaissView(
            ids=np.zeros(0, np.int64),
            live=None,
            segments=(),
            device=device,
            # A GPU rounds the query to float16, too.
            scan_error=rounding if device == "cpu" else rounding + 2.0**-10,
            scan_margin=8 if device == "cpu" else 256,
            max_width=2048 if device == "cpu" else GPU_MAX_WIDTH,
            lock=None if device == "cpu" else threading.Lock(),
            process=os.getpid(),
        )

    def __len__(self) -> int:
        return len(self._view)

    def view(self) -> FaissView:
        """Return the present state."""
        return self._view

    def add(self, ids: Ids, vectors: Float16) -> None:
        """Append rows; see `VectorIndex.add`."""
        check_vectors(vectors, self.dimension)
        if len(ids) != len(vectors):
            raise ValueError(f"{len(ids)} ids for {len(vectors)} vectors")
        given = iter(np.split(vectors, range(SEGMENT_ROWS, len(vectors), SEGMENT_ROWS)))

        def fill(rows: Float16) -> None:
            rows[:] = next(given)

        self.add_filled(ids, fill)

    def add_filled(self, ids: Ids, fill: Fill) -> None:
        """Append rows whose vectors are written in place: nothing is held twice.

        Parameters
        ----------
        fill
            Called for consecutive parts of the rows; writes float16 [part, D] that are known to
            be good, as `check_vectors` would find.
        """
        ids = np.ascontiguousarray(ids, np.int64)
        if not len(ids):
            return
        with self._lock:
            if ids[0] <= self._last_id or (np.diff(ids) <= 0).any():
                raise DuplicateIdError(
                    "Ids must ascend, beyond those in the index: one is there already"
                )
            view = self._view
            segments = list(view.segments)
            for start in range(0, len(ids), SEGMENT_ROWS):
                rows = min(SEGMENT_ROWS, len(ids) - start)
                segments.append(self._segment(rows, fill))
            live = view.live
            if live is not None:
                live = np.concatenate([live, np.ones(len(ids), np.bool_)])
            self._last_id = int(ids[-1])
            self._view = replace(
                view,
                ids=self._ids.append(ids),
                live=live,
                segments=tuple(self._merged(segments)),
            )

    def remove(self, ids: Ids) -> int:
        """Remove rows; see `VectorIndex.remove`."""
        with self._lock:
            view = self._view
            rows = np.searchsorted(view.ids, ids)
            there = rows < len(view.ids)
            rows, ids = rows[there], np.asarray(ids, np.int64)[there]
            rows = rows[view.ids[rows] == ids]
            live = np.ones(len(view.ids), np.bool_) if view.live is None else view.live.copy()
            before = np.count_nonzero(live)
            live[rows] = False
            removed = int(before - np.count_nonzero(live))
            if removed:
                self._view = replace(view, live=live)
            return removed

    def compact(self) -> Mask | None:
        """Free removed rows; see `VectorIndex.compact`."""
        with self._lock:
            view = self._view
            live = view.live
            if live is None:
                return None
            segments: list[_Segment] = []
            start = 0
            for segment in view.segments:
                kept = live[start : start + len(segment)]
                start += len(segment)
                if kept.all():
                    segments.append(segment)
                elif kept.any():
                    source = segment.vectors[kept]
                    segments.append(self._segment(len(source), _copy_of(source)))
                segments = self._merged(segments)
            self._ids = GrowingArray(np.int64)
            self._view = replace(
                view,
                ids=self._ids.append(view.ids[live]),
                live=None,
                segments=tuple(segments),
            )
            return live

    def stats(self) -> IndexStats:
        """Return what the index holds."""
        view = self._view
        rows = len(view)
        masked = 0 if view.live is None else view.live.nbytes
        return IndexStats(
            engine="faiss",
            device=view.device,
            rows=rows,
            removed=len(view.ids) - rows,
            segments=len(view.segments),
            bytes=sum(s.vectors.nbytes for s in view.segments) + view.ids.nbytes + masked,
        )

    def _segment(self, rows: int, fill: Fill) -> _Segment:
        segment = _unfilled(self.dimension, rows)
        vectors = segment.vectors
        fill(vectors)
        if self._gpu is None:
            return segment
        faiss = faiss_module()
        config = faiss.GpuIndexFlatConfig()
        config.useFloat16 = True
        on_gpu = faiss.GpuIndexFlatIP(self._gpu, self.dimension, config)
        for start in range(0, rows, 65_536):
            on_gpu.add(vectors[start : start + 65_536].astype(np.float32))
        return _Segment(on_gpu, vectors)

    def _merged(self, segments: list[_Segment]) -> list[_Segment]:
        """Merge the last segments while they are of like size: logarithmically many remain."""
        while len(segments) > 1:
            left, right = segments[-2:]
            if len(left) >= 2 * len(right) or len(left) + len(right) > SEGMENT_ROWS:
                break
            segments[-2:] = [
                self._segment(len(left) + len(right), _copy_of(left.vectors, right.vectors))
            ]
        return segments


class _Codes:
    """Memory that FAISS owns, for NumPy to look at: the index stays as long as the array does."""

    def __init__(self, index: Any) -> None:
        codes = faiss_module().rev_swig_ptr(index.codes.data(), index.codes.size())
        self.index = index
        self.__array_interface__ = codes.__array_interface__


def _copy_of(*parts: Float16) -> Fill:
    def fill(rows: Float16) -> None:
        np.concatenate(parts, out=rows)

    return fill
