"""One encoder's boxes in Milvus, fed from SQL; searches there, with scores from SQL.

Milvus follows SQL by ascending box id and by tombstones, one process at a time; how far it is
stands beside its vectors. What it finds are candidates: their scores are computed from SQL's
float16 rows, so that with the index FLAT the answers are those of the exact search.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row, func, select

from indexer import ingest, schema
from indexer.database import Database
from indexer.errors import EmbeddingError
from indexer.filters import Filter, allowed_rows
from indexer.ingest import chunks
from indexer.milvus_address import MilvusAddress
from indexer.milvus_client import (
    MAX_WIDTH,
    FedUpTo,
    Milvus,
    MilvusCollection,
    expression,
)
from indexer.mirror import Encoder, damaged, first_bad, knows, new_boxes
from indexer.vector_index import (
    BLOCK_ROWS,
    Float16,
    Float32,
    Ids,
    ScoreRule,
    check_vectors,
    exact_scores,
    product_error,
)

_log = logging.getLogger(__name__)

#: Of `Database.alone`: who feeds Milvus.
_FEEDING = 8

#: Candidates asked for beyond those wanted: what is deleted in SQL takes places until Milvus
#: follows, and the proof of exactness needs some that are worse.
_MARGIN = 64
#: Of an approximate index, so many times more where negatives push candidates down.
_PUSHED = 10

Best = tuple[Ids, Float32]


@dataclass(frozen=True, eq=False)
class MilvusView:
    """The gallery as Milvus had it at one change; what is fed later is found, too.

    Attributes
    ----------
    boxes
        How many it had.
    """

    encoder: Encoder
    revision: int
    token: str
    boxes: int
    database: Database
    collection: MilvusCollection

    @property
    def nbytes(self) -> int:
        """Memory in this process: none."""
        return 0

    @property
    def exact(self) -> bool:
        """Whether answers are those of the exact search."""
        return self.collection.exact

    def __len__(self) -> int:
        return self.boxes

    def stored(self, box: int, scope: Collection[int] | None) -> Float32 | None:
        """Return a box's embedding [D]; None when it is not there, or of no camera of the scope."""
        columns = schema.box.c
        query = select(columns.embedding, columns.camera_id).where(
            columns.id == box, columns.encoder_id == self.encoder.id
        )
        with self.database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None or (scope is not None and row.camera_id not in scope):
            return None
        vector: Float32 = self._vectors([row.embedding], [box])[0].astype(np.float32)
        return vector

    def embeddings(self, boxes: Ids) -> tuple[Ids, Float16]:
        """Return those of the boxes (ascending) that SQL has, and their vectors [N, D]."""
        columns = schema.box.c
        rows: list[Row[Any]] = []
        with self.database.read() as connection:
            for chunk in chunks(boxes.tolist()):
                query = select(columns.id, columns.embedding).where(
                    columns.id.in_(chunk), columns.encoder_id == self.encoder.id
                )
                rows += connection.execute(query.order_by(columns.id)).all()
        ids = [row.id for row in rows]
        return np.array(ids, np.int64), self._vectors([row.embedding for row in rows], ids)

    def _vectors(self, embeddings: list[bytes], ids: list[int]) -> Float16:
        dimension = self.encoder.dimension
        for box, embedding in zip(ids, embeddings, strict=True):
            if len(embedding) != 2 * dimension:
                raise damaged(box)
        return np.frombuffer(bytearray().join(embeddings), "<f2").reshape(-1, dimension)

    def find(self, rule: ScoreRule, k: int, wanted: Filter) -> Best:
        """Find the k best of the allowed boxes: ids and scores, best first, ties by ascending id.

        With the index FLAT exactly; where Milvus cannot prove it, SQL is read from end to end.

        Raises
        ------
        IndexOutageError
            When Milvus does not answer.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        asked = expression(wanted)
        if asked is None:
            return _NOTHING
        first = k + _MARGIN
        if len(rule.negatives):
            first *= _PUSHED
        for width in (min(first, MAX_WIDTH), MAX_WIDTH):
            found = self.collection.search(rule.probes, width, asked)
            ids, vectors = self.embeddings(np.unique(np.concatenate([one for one, _ in found])))
            best_ids, scores = _best(ids, vectors, rule, k)
            full = [products[-1] for one, products in found if len(one) >= width]
            if not full or (not self.exact and len(best_ids) == k):
                return best_ids, scores
            error = product_error(self.encoder.dimension) * rule.scale
            if self.exact and len(best_ids) == k and scores[-1] > max(full) + error:
                return best_ids, scores
        if not self.exact:
            return best_ids, scores
        with self.database.read() as connection:
            return best_in_sql(connection, self.encoder, rule, k, wanted)


_NOTHING: Best = (np.zeros(0, np.int64), np.zeros(0, np.float32))


def _best(ids: Ids, vectors: Float16, rule: ScoreRule, k: int) -> Best:
    """Return the k best of some boxes, ids ascending."""
    scores = np.empty(len(ids), np.float32)
    for start in range(0, len(ids), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        scores[block] = exact_scores(rule, vectors[block])
    order = np.argsort(-scores, kind="stable")[:k]
    return ids[order], scores[order]


def best_in_sql(
    connection: Connection, encoder: Encoder, rule: ScoreRule, k: int, wanted: Filter
) -> Best:
    """Find the k best of the allowed boxes by reading all of them from SQL."""
    best_ids, best_scores = _NOTHING
    for ids, vectors, columns in new_boxes(connection, encoder, 0):
        allowed = allowed_rows(wanted, columns, ids)
        if allowed is not None:
            ids, vectors = ids[allowed], vectors[allowed]
        own_ids, own_scores = _best(ids, vectors, rule, k)
        # Blocks come by ascending id: a stable sort keeps ties in their order.
        best_ids = np.concatenate([best_ids, own_ids])
        best_scores = np.concatenate([best_scores, own_scores])
        order = np.lexsort((best_ids, -best_scores))[:k]
        best_ids, best_scores = best_ids[order], best_scores[order]
    return best_ids, best_scores


class MilvusMirror:
    """Keeps a gallery's collections in Milvus up to date; one thread at a time may call it.

    Parameters
    ----------
    database
        The gallery's.
    address
        Where Milvus is.
    """

    def __init__(self, database: Database, address: MilvusAddress) -> None:
        self._database = database
        self.address = address
        self._milvus: Milvus | None = None
        self._collections: dict[int, MilvusCollection] = {}

    def close(self) -> None:
        """Close the connection."""
        self._collections.clear()
        if self._milvus is not None:
            self._milvus.close()
            self._milvus = None

    def follow(self, last: MilvusView | None) -> MilvusView:
        """Feed what was committed since, and return the view that has it.

        Raises
        ------
        EncoderError
            When no encoder is active.
        IndexOutageError
            When Milvus does not answer.
        """
        with self._database.read() as connection:
            encoder = ingest.active_encoder(connection)
            revision, token = latest_change(connection)
        if (
            last is not None
            and last.encoder.id == encoder.id
            and (revision, token)
            == (
                last.revision,
                last.token,
            )
        ):
            # It answers, and has what it had.
            if last.collection.count() == last.boxes:
                return last
            _log.warning("Milvus has other boxes than it had: they are compared with SQL")
        view = self._bring_alone(encoder.id)
        self._connect().point_to(encoder.id)
        return view

    def prepare(self, encoder_id: int) -> None:
        """Bring the boxes of an encoder that is not active yet into Milvus."""
        with self._database.read() as connection:
            ingest.encoder(connection, encoder_id)
            revision, _ = latest_change(connection)
        # Before the first change there are none, nor what tells the gallery from others.
        if revision:
            self._bring_alone(encoder_id)

    def _bring_alone(self, encoder_id: int) -> MilvusView:
        try:
            # First the lock: what is read after it is not older than what is in Milvus.
            with self._database.alone(_FEEDING), self._database.read() as connection:
                encoder = ingest.encoder(connection, encoder_id)
                return self._bring(connection, encoder)
        except BaseException:
            # A server that was away may come back without its collections.
            self._collections.clear()
            raise

    def drop(self, encoder_id: int) -> None:
        """Delete an encoder's collection."""
        with self._database.alone(_FEEDING):
            self._collections.pop(encoder_id, None)
            self._connect().drop(encoder_id)

    def collection(self, encoder: Encoder) -> MilvusCollection:
        """Return an encoder's collection."""
        found = self._collections.get(encoder.id)
        if found is None:
            found = MilvusCollection(self._connect(), encoder.id, encoder.dimension)
            self._collections[encoder.id] = found
        return found

    def _connect(self) -> Milvus:
        if self._milvus is None:
            with self._database.read() as connection:
                tokens = select(schema.revision.c.token).order_by(schema.revision.c.id).limit(1)
                first = connection.execute(tokens).scalar() or "empty"
            # Galleries that share a server are told apart by their first change.
            self._milvus = Milvus(self.address, first[:12])
        return self._milvus

    def _bring(self, connection: Connection, encoder: Encoder) -> MilvusView:
        milvus = self._connect()
        new = encoder.id not in self._collections
        fed = milvus.fed(encoder.id)
        if fed.revision and not knows(connection, fed.revision, fed.token):
            _log.warning("The gallery's database was replaced: its index in Milvus is rebuilt.")
            fed = self._start_anew(encoder)
        collection = self.collection(encoder)
        revision, token = latest_change(connection)
        before = fed.revision
        if fed.revision != revision:
            fed = self._feed(connection, encoder, fed, FedUpTo(revision, token))
        boxes = collection.count()
        if new or before == revision:
            columns = schema.box.c
            count = select(func.count()).where(columns.encoder_id == encoder.id)
            in_sql = connection.execute(count).scalar_one()
            if in_sql != boxes:
                _log.warning("Milvus has %d boxes and SQL %d: the index is rebuilt.", boxes, in_sql)
                self._start_anew(encoder)
                collection = self.collection(encoder)
                self._feed(connection, encoder, FedUpTo(), FedUpTo(revision, token))
                boxes = collection.count()
        return MilvusView(encoder, revision, token, boxes, self._database, collection)

    def _start_anew(self, encoder: Encoder) -> FedUpTo:
        self._collections.pop(encoder.id, None)
        self._connect().drop(encoder.id)
        return FedUpTo()

    def _feed(
        self, connection: Connection, encoder: Encoder, fed: FedUpTo, upto: FedUpTo
    ) -> FedUpTo:
        milvus, collection = self._connect(), self.collection(encoder)
        if not fed.box_id:
            # What was deleted before is not among what is read now.
            newest = select(func.max(schema.tombstone.c.id))
            fed = replace(fed, tombstone_id=connection.execute(newest).scalar() or 0)
        last_box, last_tombstone = fed.box_id, fed.tombstone_id
        for ids, vectors, columns in new_boxes(connection, encoder, fed.box_id):
            try:
                check_vectors(vectors, encoder.dimension)
            except EmbeddingError as error:
                raise damaged(first_bad(ids, vectors)) from error
            collection.upsert(ids, vectors, columns)
            last_box = int(ids[-1])
            # What is broken off goes on from here; the change itself is not complete yet.
            milvus.mark(encoder.id, FedUpTo(fed.revision, fed.token, last_box, last_tombstone))
        last_tombstone = self._bury(connection, collection, fed)
        done = FedUpTo(upto.revision, upto.token, last_box, last_tombstone)
        milvus.mark(encoder.id, done)
        return done

    def _bury(self, connection: Connection, collection: MilvusCollection, fed: FedUpTo) -> int:
        tombstones = schema.tombstone.c
        found = connection.execute(
            select(tombstones.id, tombstones.kind, tombstones.target_id)
            .where(tombstones.id > fed.tombstone_id)
            .order_by(tombstones.id)
        ).all()
        if not found:
            return fed.tombstone_id
        boxes = [row.target_id for row in found if row.kind == schema.TombstoneKind.BOX]
        frame = schema.frame.c
        for name, (start, end) in collection.partitions().items():
            within = select(frame.id).where(
                frame.captured_at_us >= start, frame.captured_at_us < end
            )
            if connection.execute(within.limit(1)).first() is None:
                collection.drop_partition(name)
        collection.delete(np.array(boxes, np.int64))
        return int(found[-1].id)


def latest_change(connection: Connection) -> tuple[int, str]:
    """Return the last change of the database, and its token; 0 and "" before the first."""
    columns = schema.revision.c
    query = select(columns.id, columns.token).order_by(columns.id.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return (0, "") if row is None else (row.id, row.token)
