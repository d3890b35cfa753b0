"""One encoder's boxes in memory, as SQL has them: vector index, columns, and how far it follows.

Everything here can be thrown away and made again. It follows SQL by ascending box id and by
tombstones, each time within one reading transaction, and publishes the whole of it as one
immutable view: who searches sees committed states only.
"""

import logging
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from sqlalchemy import Connection, Row, func, select

from indexer import schema
from indexer.errors import DuplicateIdError, EmbeddingError, GalleryError
from indexer.faiss_index import Device, FaissIndex
from indexer.filters import Columns, GrowingColumns, rows_of
from indexer.snapshot import Header, SnapshotError, SnapshotReader, write_snapshot
from indexer.vector_index import BLOCK_ROWS, LENGTH_TOLERANCE, Float16, Float32, Ids, VectorView

_log = logging.getLogger(__name__)

#: Rows read from SQL at once, and added to the index at once: 32 MiB of embeddings.
_READ_ROWS = 8192
_ADD_ROWS = 65_536

#: Compaction begins when this share of the rows is removed, and at least so many.
_COMPACT_SHARE = 0.2
_COMPACT_ROWS = 1024


@dataclass(frozen=True)
class Encoder:
    """Whose embeddings: the network's weights and the preprocessing before it."""

    id: int
    weights_sha256: str
    preprocess_sha256: str
    dimension: int
    state: schema.EncoderState


class SearchedView(Protocol):
    """One state of the gallery that can be searched, wherever its vectors are."""

    @property
    def encoder(self) -> Encoder:
        """Whose embeddings."""

    @property
    def revision(self) -> int:
        """The change of the database up to which it goes."""

    @property
    def nbytes(self) -> int:
        """Memory in this process."""

    def stored(self, box: int, scope: Collection[int] | None) -> Float32 | None:
        """Return a box's embedding [D]; None when it is not there, or of no camera of the scope."""

    def __len__(self) -> int:
        """Count the boxes."""


@dataclass(frozen=True, eq=False)
class GalleryView:
    """One committed state of the gallery, to search in; it never changes.

    Attributes
    ----------
    columns
        In the order of the index's rows.
    revision, token
        The change of the database up to which it goes; 0 and "" before the first.
    """

    encoder: Encoder
    index: VectorView
    columns: Columns
    revision: int = 0
    token: str = ""
    last_box_id: int = 0
    last_tombstone_id: int = 0

    def __len__(self) -> int:
        return len(self.index)

    def stored(self, box: int, scope: Collection[int] | None) -> Float32 | None:
        """Return a box's embedding [D]; None when it is not there, or of no camera of the scope."""
        rows = rows_of(self.index.ids, [box])
        live = self.index.live
        if not (
            len(rows)
            and (live is None or live[rows[0]])
            and (scope is None or self.columns.camera_ids[rows[0]] in scope)
        ):
            return None
        embedding: Float32 = self.index.vectors(rows)[0].astype(np.float32)
        return embedding

    @property
    def nbytes(self) -> int:
        """Memory of vectors, ids and columns."""
        vectors = 2 * self.encoder.dimension * len(self.index.ids)
        return vectors + self.index.ids.nbytes + self.columns.nbytes


class Mirror:
    """Keeps a `GalleryView` up to date. One thread at a time may call it; views are for all.

    After an exception its view is still whole, but it can no longer follow: load another.
    """

    def __init__(self, encoder: Encoder, device: Device = "cpu") -> None:
        self._index = FaissIndex(encoder.dimension, device)
        self._columns = GrowingColumns()
        self.view = GalleryView(encoder, self._index.view(), Columns.empty())

    @classmethod
    def load(
        cls, connection: Connection, encoder: Encoder, snapshot: Path | None, device: Device
    ) -> "Mirror":
        """Bring an encoder's boxes into memory, from the snapshot as far as it is good."""
        if snapshot is not None and snapshot.exists():
            try:
                mirror = cls._from_snapshot(connection, encoder, snapshot, device)
            except SnapshotError as error:
                _log.warning("The index snapshot is not used: %s. Rebuilding it from SQL.", error)
                with suppress(OSError):
                    snapshot.unlink()
            else:
                return mirror
        mirror = cls(encoder, device)
        mirror.catch_up(connection)
        return mirror

    @classmethod
    def _from_snapshot(
        cls, connection: Connection, encoder: Encoder, path: Path, device: Device
    ) -> "Mirror":
        mirror = cls(encoder, device)
        with SnapshotReader.open(path) as reader:
            header = reader.header
            made_by = (header.weights_sha256, header.preprocess_sha256, header.dimension)
            if made_by != (encoder.weights_sha256, encoder.preprocess_sha256, encoder.dimension):
                raise SnapshotError("it is of another encoder")
            if not knows(connection, header.revision, header.token):
                raise SnapshotError("it is of another history than the database")
            ids, columns = reader.read_rows()
            try:
                mirror._index.add_filled(ids, reader.read_vectors)
            except DuplicateIdError as error:
                raise SnapshotError("its ids are damaged") from error
            reader.finish()
        mirror.view = GalleryView(
            encoder,
            mirror._index.view(),
            mirror._columns.append(columns),
            header.revision,
            header.token,
            header.last_box_id,
            header.last_tombstone_id,
        )
        try:
            mirror.catch_up(connection)
        except DuplicateIdError as error:
            raise SnapshotError("the database has some of its boxes still to come") from error
        boxes = schema.box.c
        count = select(func.count()).where(boxes.encoder_id == encoder.id)
        if connection.execute(count).scalar_one() != len(mirror.view):
            raise SnapshotError("it has other boxes than the database")
        return mirror

    def follows(self, connection: Connection) -> bool:
        """Tell whether the database's history still contains what is in memory."""
        return knows(connection, self.view.revision, self.view.token)

    def catch_up(self, connection: Connection) -> None:
        """Apply what was committed since, and publish it as one view."""
        latest = connection.execute(
            select(schema.revision.c.id, schema.revision.c.token)
            .order_by(schema.revision.c.id.desc())
            .limit(1)
        ).one_or_none()
        if latest is None or latest.id == self.view.revision:
            return
        columns = self.view.columns
        last_box_id = self.view.last_box_id
        for ids, vectors, added in new_boxes(connection, self.view.encoder, last_box_id):
            try:
                self._index.add(ids, vectors)
            except EmbeddingError as error:
                raise damaged(first_bad(ids, vectors)) from error
            columns = self._columns.append(added)
            last_box_id = int(ids[-1])
        last_tombstone_id = self._bury(connection)
        columns = self._compacted(columns)
        self.view = replace(
            self.view,
            index=self._index.view(),
            columns=columns,
            revision=latest.id,
            token=latest.token,
            last_box_id=last_box_id,
            last_tombstone_id=last_tombstone_id,
        )

    def compact(self) -> None:
        """Free the memory of removed boxes."""
        columns = self._compacted(self.view.columns, always=True)
        self.view = replace(self.view, index=self._index.view(), columns=columns)

    def _bury(self, connection: Connection) -> int:
        tombstones = schema.tombstone.c
        found = connection.execute(
            select(tombstones.id, tombstones.kind, tombstones.target_id)
            .where(tombstones.id > self.view.last_tombstone_id)
            .order_by(tombstones.id)
        ).all()
        if not found:
            return self.view.last_tombstone_id
        boxes = [row.target_id for row in found if row.kind == schema.TombstoneKind.BOX]
        self._index.remove(np.array(boxes, np.int64))
        return int(found[-1].id)

    def _compacted(self, columns: Columns, always: bool = False) -> Columns:
        stats = self._index.stats()
        enough = max(_COMPACT_SHARE * (stats.rows + stats.removed), _COMPACT_ROWS)
        if not always and stats.removed < enough:
            return columns
        kept = self._index.compact()
        if kept is None:
            return columns
        self._columns = GrowingColumns()
        return self._columns.append(columns[kept])


def save(view: GalleryView, path: Path) -> None:
    """Write a view to disk, without the boxes that were removed.

    Raises
    ------
    GalleryError
        When it cannot be written.
    """
    index, encoder = view.index, view.encoder
    rows = np.arange(len(index.ids)) if index.live is None else np.flatnonzero(index.live)
    header = Header(
        encoder.weights_sha256,
        encoder.preprocess_sha256,
        encoder.dimension,
        view.revision,
        view.token,
        view.last_box_id,
        view.last_tombstone_id,
        len(rows),
    )
    live = slice(None) if index.live is None else index.live
    blocks = (
        index.vectors(rows[start : start + BLOCK_ROWS]) for start in range(0, len(rows), BLOCK_ROWS)
    )
    try:
        write_snapshot(path, header, index.ids[live], view.columns[live], blocks)
    except OSError as error:
        raise GalleryError(
            f"The index snapshot cannot be written beside the gallery: {error.strerror}"
        ) from error


def knows(connection: Connection, revision: int, token: str) -> bool:
    """Tell whether a change is part of the database's history."""
    if not revision:
        return True
    column = schema.revision.c
    found = connection.execute(select(column.token).where(column.id == revision)).scalar()
    return found == token


_Rows = list[Row[tuple[int, int, int, int, float, bytes]]]
_Arrays = tuple[Ids, Float16, Columns]


def new_boxes(connection: Connection, encoder: Encoder, last_box_id: int) -> Iterator[_Arrays]:
    """Read an encoder's boxes beyond an id: ids, vectors and columns of some thousands at a time.

    Raises
    ------
    GalleryError
        When an embedding is of the wrong size.
    """
    boxes = schema.box.c
    query = (
        select(
            *(boxes.id, boxes.camera_id, boxes.source_id),
            *(boxes.captured_at_us, boxes.score, boxes.embedding),
        )
        .where(boxes.id > last_box_id, boxes.encoder_id == encoder.id)
        .order_by(boxes.id)
        .execution_options(yield_per=_READ_ROWS)
    )
    read: list[_Arrays] = []
    for rows in connection.execute(query).partitions():
        read.append(_arrays(list(rows), encoder.dimension))
        if len(read) * _READ_ROWS >= _ADD_ROWS:
            yield _joined(read)
            read = []
    if read:
        yield _joined(read)


def _arrays(rows: _Rows, dimension: int) -> _Arrays:
    ids, cameras, sources, captured, scores, embeddings = zip(*rows, strict=True)
    for box_id, embedding in zip(ids, embeddings, strict=True):
        if len(embedding) != 2 * dimension:
            raise damaged(box_id)
    vectors = np.frombuffer(bytearray().join(embeddings), "<f2").reshape(len(rows), dimension)
    columns = Columns(
        np.array(cameras, np.int32),
        np.array(sources, np.int32),
        np.array(captured, np.int64),
        np.array(scores, np.float32),
    )
    return np.array(ids, np.int64), vectors, columns


def _joined(parts: list[_Arrays]) -> _Arrays:
    if len(parts) == 1:
        return parts[0]
    ids, vectors, columns = zip(*parts, strict=True)
    return np.concatenate(ids), np.concatenate(vectors), Columns.joined(columns)


def first_bad(ids: Ids, vectors: Float16) -> int:
    """Return the first box whose embedding is not a unit vector."""
    lengths = np.linalg.norm(vectors.astype(np.float32), axis=1)
    return int(ids[np.argmin(np.abs(lengths - 1) <= LENGTH_TOLERANCE)])


def damaged(box_id: int) -> GalleryError:
    """Return the error that names a box whose embedding cannot be used."""
    return GalleryError(f"The embedding of box {box_id} is damaged: run `binet gallery check`")
