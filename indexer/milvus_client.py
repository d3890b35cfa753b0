"""Vectors in Milvus: the one module that knows pymilvus.

A collection holds one encoder's boxes: id, camera, source, time, score, vector. What it holds is
derived from SQL and fed by `indexer.milvus_mirror`.
"""

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from indexer.errors import IndexEngineError, IndexOutageError
from indexer.filters import DAY_US, Columns, Filter, to_us
from indexer.milvus_address import MilvusAddress
from indexer.vector_index import Float16, Float32, Ids, widen

#: Most hits of one query, and most ids of one answer.
MAX_WIDTH = 16_384

#: Rows sent in one message, 8 MiB of vectors; Milvus takes up to 64 MiB.
SEND_ROWS = 8192


@dataclass(frozen=True)
class FedUpTo:
    """How far a collection follows SQL.

    Attributes
    ----------
    revision, token
        The change that is in it with all of its boxes and tombstones; 0 and "" before the first.
    box_id, tombstone_id
        The last ones that are in it, some of later changes included.
    """

    revision: int = 0
    token: str = ""
    box_id: int = 0
    tombstone_id: int = 0


@contextmanager
def _errors(address: MilvusAddress) -> Iterator[None]:
    """Say in one line that Milvus does not do what it is asked."""
    import grpc
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError, ConnectionError) as error:
        text = getattr(error, "message", "") or str(error) or type(error).__name__
        reason = " ".join(str(text).split())[:200]
        raise IndexOutageError(
            f"Milvus at {address.uri} does not answer as it should ({reason}): nothing is lost, "
            "the index follows SQL again once Milvus is back"
        ) from error


class Milvus:
    """A connection to Milvus, and the collections of one gallery.

    Parameters
    ----------
    address
        Where it is.
    gallery
        What tells the collections of galleries apart.

    Raises
    ------
    IndexEngineError, IndexOutageError
        When pymilvus is missing, or Milvus cannot be reached.
    """

    def __init__(self, address: MilvusAddress, gallery: str) -> None:
        try:
            from pymilvus import MilvusClient
        except ImportError as error:
            raise IndexEngineError(
                "Vectors in Milvus need pymilvus: pip install 'binet[milvus]'"
            ) from error
        # It logs stack traces of what is an error of one line here.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        self.address = address
        self.prefix = f"{address.name}_{gallery}"
        with _errors(address):
            self._client: Any = MilvusClient(
                uri=address.uri,
                user=address.user,
                password=address.password,
                timeout=address.timeout_s,
            )

    def close(self) -> None:
        """Close the connection."""
        with suppress(Exception):
            self._client.close()

    @contextmanager
    def asking(self) -> Iterator[tuple[Any, float]]:
        """Give the client and its time limit; what goes wrong is `IndexOutageError`."""
        with _errors(self.address):
            yield self._client, self.address.timeout_s

    def collection_of(self, encoder: int) -> str:
        """Return the name of an encoder's collection."""
        return f"{self.prefix}_e{encoder}"

    def encoders(self) -> set[int]:
        """Return the encoders that have a collection."""
        with self.asking() as (client, limit):
            names = client.list_collections(timeout=limit)
        start = f"{self.prefix}_e"
        return {
            int(name.removeprefix(start))
            for name in names
            if name.startswith(start) and name.removeprefix(start).isdigit()
        }

    def drop(self, encoder: int) -> None:
        """Delete an encoder's collection, and what is known of it."""
        self.mark(encoder, FedUpTo())
        name = self.collection_of(encoder)
        with self.asking() as (client, limit):
            if client.has_collection(name, timeout=limit):
                if self._alias_of() == name:
                    client.drop_alias(self.prefix, timeout=limit)
                client.drop_collection(name, timeout=limit)

    def point_to(self, encoder: int) -> None:
        """Let the gallery's alias mean this encoder's collection."""
        name = self.collection_of(encoder)
        present = self._alias_of()
        with self.asking() as (client, limit):
            if present is None:
                client.create_alias(name, self.prefix, timeout=limit)
            elif present != name:
                client.alter_alias(name, self.prefix, timeout=limit)

    def _alias_of(self) -> str | None:
        with self.asking() as (client, limit):
            for encoder in self.encoders():
                name = self.collection_of(encoder)
                if self.prefix in client.list_aliases(name, timeout=limit)["aliases"]:
                    return name
        return None

    def fed(self, encoder: int) -> FedUpTo:
        """Return how far an encoder's collection follows SQL."""
        name = self._marks()
        with self.asking() as (client, limit):
            rows = client.query(
                name,
                filter=f"encoder_id == {encoder}",
                output_fields=["revision", "token", "box_id", "tombstone_id"],
                consistency_level="Strong",
                timeout=limit,
            )
        if not rows:
            return FedUpTo()
        (row,) = rows
        return FedUpTo(row["revision"], row["token"], row["box_id"], row["tombstone_id"])

    def mark(self, encoder: int, fed: FedUpTo) -> None:
        """Write down how far an encoder's collection follows SQL."""
        row = {"encoder_id": encoder, **vars(fed), "vector": [0.0, 1.0]}
        name = self._marks()
        with self.asking() as (client, limit):
            client.upsert(name, [row], timeout=limit)

    def _marks(self) -> str:
        from pymilvus import DataType

        name = f"{self.prefix}_fed"
        with self.asking() as (client, limit):
            if client.has_collection(name, timeout=limit):
                return name
            schema = client.create_schema(auto_id=False)
            schema.add_field("encoder_id", DataType.INT64, is_primary=True)
            for column in ("revision", "box_id", "tombstone_id"):
                schema.add_field(column, DataType.INT64)
            schema.add_field("token", DataType.VARCHAR, max_length=64)
            # Milvus makes no collection without vectors.
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
            parameters = client.prepare_index_params()
            parameters.add_index("vector", index_type="FLAT", metric_type="IP")
            client.create_collection(
                name, schema=schema, index_params=parameters, timeout=limit, num_shards=1
            )
            client.load_collection(name, timeout=limit)
        return name


class MilvusCollection:
    """One encoder's boxes in Milvus; made if it is not there.

    Parameters
    ----------
    encoder, dimension
        Whose vectors, and how many numbers each has.
    """

    def __init__(self, milvus: Milvus, encoder: int, dimension: int) -> None:
        self._milvus = milvus
        self._address = milvus.address
        self.name = milvus.collection_of(encoder)
        self._dimension = dimension
        self._open()

    @property
    def exact(self) -> bool:
        """Whether its index compares all vectors."""
        return self._address.exact

    def _open(self) -> None:
        from pymilvus import DataType

        with self._milvus.asking() as (client, limit):
            if client.has_collection(self.name, timeout=limit):
                self._set_index(client, limit)
            else:
                schema = client.create_schema(auto_id=False)
                schema.add_field("id", DataType.INT64, is_primary=True)
                for column in ("camera_id", "source_id", "captured_at_us", "time_of_day_us"):
                    schema.add_field(column, DataType.INT64)
                schema.add_field("score", DataType.FLOAT)
                schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=self._dimension)
                client.create_collection(
                    self.name, schema=schema, index_params=self._index(client), timeout=limit
                )
            client.load_collection(self.name, timeout=limit)
            self._partitions = set(client.list_partitions(self.name, timeout=limit))

    def _index(self, client: Any) -> Any:
        parameters = client.prepare_index_params()
        parameters.add_index(
            "embedding",
            index_type=self._address.index,
            metric_type="IP",
            params=dict(self._address.build),
        )
        return parameters

    def _set_index(self, client: Any, limit: float) -> None:
        """Build another index where the address asks for another one than there is."""
        names = client.list_indexes(self.name, timeout=limit)
        for name in names:
            found = client.describe_index(self.name, name, timeout=limit)
            own = {key: int(found.get(key, -1)) for key, _ in self._address.build}
            if found["index_type"] == self._address.index and own == dict(self._address.build):
                return
        client.release_collection(self.name, timeout=limit)
        for name in names:
            client.drop_index(self.name, name, timeout=limit)
        client.create_index(self.name, self._index(client), timeout=limit)

    def count(self) -> int:
        """Count the boxes, once all that was written before can be found."""
        with self._milvus.asking() as (client, limit):
            rows = client.query(
                self.name, output_fields=["count(*)"], consistency_level="Strong", timeout=limit
            )
        return int(rows[0]["count(*)"])

    def upsert(self, ids: Ids, vectors: Float16, columns: Columns) -> None:
        """Write boxes; those that are there are written over."""
        parts = columns.captured_at_us // (DAY_US * self._address.partition_days)
        for part in np.unique(parts).tolist():
            rows = np.flatnonzero(parts == part)
            name = f"t{part}" if part >= 0 else f"t_{-part}"
            with self._milvus.asking() as (client, limit):
                if name not in self._partitions:
                    if not client.has_partition(self.name, name, timeout=limit):
                        client.create_partition(self.name, name, timeout=limit)
                    self._partitions.add(name)
            for start in range(0, len(rows), SEND_ROWS):
                self._send(rows[start : start + SEND_ROWS], ids, vectors, columns, name)

    def _send(
        self, rows: Ids, ids: Ids, vectors: Float16, columns: Columns, partition: str
    ) -> None:
        own, wide = columns[rows], widen(vectors[rows])
        values = zip(
            ids[rows].tolist(),
            own.camera_ids.tolist(),
            own.source_ids.tolist(),
            own.captured_at_us.tolist(),
            own.scores.tolist(),
            wide,
            strict=True,
        )
        data = [
            {
                "id": box,
                "camera_id": camera,
                "source_id": source,
                "captured_at_us": captured,
                "time_of_day_us": captured % DAY_US,
                "score": score,
                "embedding": vector,
            }
            for box, camera, source, captured, score, vector in values
        ]
        with self._milvus.asking() as (client, limit):
            client.upsert(self.name, data, timeout=limit, partition_name=partition)

    def delete(self, ids: Ids) -> None:
        """Delete boxes; those that are not there are passed over."""
        with self._milvus.asking() as (client, limit):
            for start in range(0, len(ids), SEND_ROWS):
                part = ids[start : start + SEND_ROWS].tolist()
                client.delete(self.name, ids=part, timeout=limit)

    def partitions(self) -> dict[str, tuple[int, int]]:
        """Return the partitions by time, with the microseconds that each is from and up to."""
        with self._milvus.asking() as (client, limit):
            self._partitions = set(client.list_partitions(self.name, timeout=limit))
        length = DAY_US * self._address.partition_days
        spans = {}
        for name in self._partitions:
            number = name.removeprefix("t").replace("_", "-")
            if name.startswith("t") and number.lstrip("-").isdigit():
                spans[name] = (int(number) * length, (int(number) + 1) * length)
        return spans

    def drop_partition(self, name: str) -> None:
        """Delete a partition with all that is in it."""
        with self._milvus.asking() as (client, limit):
            if self._address.is_server:
                # milvus-lite drops what is loaded, and does not know of releasing a part.
                client.release_partitions(self.name, [name], timeout=limit)
            client.drop_partition(self.name, name, timeout=limit)
        self._partitions.discard(name)

    def ids_between(self, first: int, last: int) -> Ids:
        """Return the ids from `first` up to `last`, both included, at most `MAX_WIDTH` of them."""
        with self._milvus.asking() as (client, limit):
            rows = client.query(
                self.name,
                filter=f"id >= {first} and id <= {last}",
                output_fields=["id"],
                consistency_level="Strong",
                timeout=limit,
            )
        return np.sort(np.array([row["id"] for row in rows], np.int64))

    def search(self, queries: Float32, width: int, wanted: str) -> list[tuple[Ids, Float32]]:
        """Find up to `width` boxes for each query [Q, D]: ids and inner products, best first."""
        effort = dict(self._address.effort)
        if "ef" in effort:
            effort["ef"] = max(effort["ef"], width)
        with self._milvus.asking() as (client, limit):
            found = client.search(
                self.name,
                data=list(queries),
                filter=wanted,
                limit=width,
                search_params={"metric_type": "IP", "params": effort},
                anns_field="embedding",
                consistency_level=self._address.consistency,
                timeout=limit,
            )
        return [
            (
                np.array([hit["id"] for hit in hits], np.int64),
                np.array([hit["distance"] for hit in hits], np.float32),
            )
            for hits in found
        ]


def expression(wanted: Filter) -> str | None:
    """Return a filter in Milvus's language; None where it allows nothing."""
    parts = []
    cameras = wanted.allowed_cameras
    for column, values in (("camera_id", cameras), ("source_id", wanted.sources)):
        if values is not None:
            if not values:
                return None
            parts.append(f"{column} in {_listed(values)}")
    if wanted.after is not None:
        parts.append(f"captured_at_us >= {to_us(wanted.after)}")
    if wanted.before is not None:
        parts.append(f"captured_at_us < {to_us(wanted.before)}")
    if wanted.min_score is not None:
        parts.append(f"score >= {float(np.float32(wanted.min_score))!r}")
    if wanted.time_of_day is not None:
        start, end = (
            (bound - wanted.time_of_day.offset_us) % DAY_US
            for bound in wanted.time_of_day.bounds_us
        )
        both = "and" if start < end else "or"
        parts.append(f"(time_of_day_us >= {start} {both} time_of_day_us < {end})")
    if wanted.exclude_boxes:
        parts.append(f"id not in {_listed(wanted.exclude_boxes)}")
    return " and ".join(parts)


def _listed(values: Collection[int]) -> str:
    return "[" + ", ".join(str(int(value)) for value in sorted(set(values))) + "]"
