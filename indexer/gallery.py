"""The gallery: frames and people in, similar people out. SQL is the truth, the rest follows it."""

import logging
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from sqlalchemy import Connection, func, select

from indexer import deletion, ingest, schema
from indexer.database import Database
from indexer.deletion import Deleted, Hold
from indexer.errors import EncoderError, GalleryError, IndexOutageError, UnknownBoxError
from indexer.faiss_index import Device
from indexer.fast_tier import RECALL_AT, FastTier, TieredView, TierReport, build
from indexer.filters import Filter, allowed_rows, rows_of
from indexer.hits import read_hits
from indexer.ingest import AddedFrames, NewFrame, Source
from indexer.milvus_address import MilvusAddress
from indexer.milvus_mirror import MilvusMirror, MilvusView
from indexer.mirror import Encoder, GalleryView, Mirror, save
from indexer.query import Query, SearchResult, resolve
from indexer.schema import SourceState
from indexer.vector_index import Float32, Ids, ScoreRule, VectorView, search_rules

_log = logging.getLogger(__name__)

#: How often a search begins anew because boxes that it found were deleted meanwhile.
_MAX_RETRIES = 8

_EVERYTHING = Filter()


@dataclass(frozen=True)
class GalleryStats:
    """Counts of what SQL holds, and the memory of the loaded index (0 when it is not loaded)."""

    cameras: int
    sources: int
    frames: int
    boxes: int
    tombstones: int
    index_boxes: int
    index_bytes: int


class Gallery:
    """An archive of frames and the people in them.

    Any number of threads may search; a search uses one view, a committed state, to its end, and
    waits for nobody. Threads that write wait for each other. Processes may share a gallery if each
    opens it for itself (start them with "spawn"); `refresh` then brings what others wrote.

    Parameters
    ----------
    database
        See `open`.
    device
        Where the index is scanned: "cpu", or "gpu".
    index
        Where Milvus is; None keeps the vectors in this process.
    """

    def __init__(
        self, database: Database, device: Device = "cpu", index: MilvusAddress | None = None
    ) -> None:
        self.database = database
        self._device: Device = device
        self._mirror: Mirror | None = None
        self._milvus = None if index is None else MilvusMirror(database, index)
        self._view: GalleryView | MilvusView | None = None
        self._tier: tuple[int, FastTier] | None = None
        self._following = threading.Lock()

    @classmethod
    def open(
        cls,
        url: str | Path,
        create: bool = False,
        device: Device = "cpu",
        index: str | None = None,
    ) -> Self:
        """Open a gallery; its index is loaded at the first search.

        Parameters
        ----------
        url
            A folder, `sqlite:///FILE`, or `postgresql+psycopg://...`.
        create
            Make the gallery if there is none yet.
        index
            `milvus+http://HOST:PORT` or `milvus+file:FILE.db`, see `MilvusAddress.parse`; None
            keeps the vectors in this process.

        Raises
        ------
        GalleryError
            When there is no gallery, or it is of a newer program.
        IndexEngineError
            When `index` is no address.
        """
        address = None if not index else MilvusAddress.parse(index)
        return cls(Database.open(url, create), device, address)

    def close(self) -> None:
        """Close the database. Views that were handed out can still be searched."""
        if self._milvus is not None:
            self._milvus.close()
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Writing

    def camera(self, name: str) -> int:
        """Return a camera's id; make it if it is new."""
        with self.database.write() as connection:
            return ingest.camera_id(connection, name)

    def cameras(self) -> dict[str, int]:
        """Return the ids of all cameras by name."""
        with self.database.read() as connection:
            rows = connection.execute(select(schema.camera).order_by(schema.camera.c.name))
            return {row.name: row.id for row in rows}

    def add_source(self, camera: int, uri: str, kind: str, content_sha256: str) -> Source:
        """Return the source with this content, whatever its name; make it if it is new."""
        with self.database.write() as connection:
            return ingest.add_source(connection, camera, uri, kind, content_sha256)

    def set_source(
        self, source: int, state: SourceState | None = None, content_sha256: str | None = None
    ) -> None:
        """Change a source's state, or its content when it has grown."""
        with self.database.write() as connection:
            ingest.set_source(connection, source, state, content_sha256)

    def register_encoder(
        self, weights_sha256: str, preprocess_sha256: str, dimension: int
    ) -> Encoder:
        """Return the encoder of these weights and preprocessing; make it, building, if new."""
        with self.database.write() as connection:
            return ingest.add_encoder(connection, weights_sha256, preprocess_sha256, dimension)

    def encoders(self) -> list[Encoder]:
        """List all encoders, oldest first."""
        with self.database.read() as connection:
            return ingest.encoders(connection)

    def activate(self, encoder: int, complete: bool = False) -> None:
        """Search with this encoder from now on; the one before is retired.

        Its boxes are brought into memory first, while the old ones are still searched.

        Parameters
        ----------
        complete
            Only if it has looked at every frame.

        Raises
        ------
        EncoderError
            When there is no such encoder, or it is to be complete and is not.
        """
        with self._following:
            prepared = None
            if self._milvus is not None:
                self._milvus.prepare(encoder)
            elif self._view is not None:
                with self.database.read() as connection:
                    prepared = self._load(connection, ingest.encoder(connection, encoder))
            with self.database.write() as connection:
                if complete and (lacking := ingest.count_lacking(connection, encoder)):
                    raise EncoderError(f"Encoder {encoder} has not looked at {lacking} frames yet")
                ingest.activate(connection, encoder)
            if prepared is not None:
                self._mirror = prepared
            if self._view is not None or self._milvus is not None:
                self._follow()

    def add_frames(self, encoder: int, source: int, frames: Sequence[NewFrame]) -> AddedFrames:
        """Write frames and their people in one transaction; what is there already is left.

        When this returns, they are on disk, and found by searches of this process.

        Raises
        ------
        EmbeddingError, EncoderError, GalleryError
            When embeddings do not fit the encoder, the encoder is retired, the source is not
            there, or another frame is at the same position of it. Nothing is written then.
        """
        with self.database.write() as connection:
            added = ingest.add_frames(connection, encoder, source, frames)
        self._follow_if_loaded()
        return added

    def delete(
        self,
        boxes: Collection[int] = (),
        frames: Collection[int] = (),
        sources: Collection[int] = (),
        where: Filter | None = None,
    ) -> Deleted:
        """Delete boxes, frames, whole sources, and the frames that a filter allows.

        Held frames stay. When this returns, nothing of the rest is found any more; its bytes are
        gone after `compact`.
        """
        with self.database.write() as connection:
            deleted = deletion.delete_where(connection, boxes, frames, sources, where)
        self._follow_if_loaded()
        return deleted

    def drop_encoder(self, encoder: int) -> int:
        """Delete all boxes of an encoder that is not active; return how many."""
        with self.database.write() as connection:
            dropped = deletion.drop_encoder(connection, encoder)
        if self._milvus is not None:
            self._milvus.drop(encoder)
        return dropped

    def add_hold(self, hold: Hold) -> int:
        """Keep frames from being deleted; return the hold's id."""
        with self.database.write() as connection:
            return deletion.add_hold(connection, hold)

    def release_hold(self, hold: int) -> None:
        """End a hold."""
        with self.database.write() as connection:
            deletion.release_hold(connection, hold)

    # Following SQL

    def view(self) -> GalleryView | MilvusView:
        """Return the present view; load the index if it is not.

        Raises
        ------
        EncoderError
            When no encoder is active.
        """
        view = self._view
        return self.refresh() if view is None else view

    def view_in_memory(self) -> GalleryView:
        """Return the present view, with all its vectors.

        Raises
        ------
        GalleryError
            When the vectors are in Milvus.
        """
        view = self.view()
        if isinstance(view, MilvusView):
            raise GalleryError("This needs the vectors in memory, and they are in Milvus")
        return view

    def refresh(self) -> GalleryView | MilvusView:
        """Follow what was committed since, by whichever process, and return the new view.

        Searches go on in the old view until it is there.

        Raises
        ------
        IndexOutageError
            When the index is in Milvus, which does not answer.
        """
        with self._following:
            return self._follow()

    def behind(self) -> int:
        """Count the changes in SQL that the view does not show yet."""
        view = self._view
        with self.database.read() as connection:
            last = connection.execute(select(func.max(schema.revision.c.id))).scalar_one()
        return (last or 0) - (0 if view is None else view.revision)

    def save_snapshot(self) -> None:
        """Write the index to disk, for a quick start. Needs a folder: SQLite, that is."""
        view = self.view_in_memory()
        path = self._snapshot(view.encoder)
        if path is None:
            raise GalleryError("A gallery in PostgreSQL has no folder for an index snapshot")
        save(view, path)

    def compact(self) -> None:
        """Free what deleted boxes take, in memory and on disk: their bytes are gone then."""
        with self._following:
            if self._milvus is None:
                self._follow()
            if self._mirror is not None:
                self._mirror.compact()
                self._view = self._mirror.view
        self.database.vacuum()
        file = self.database.file
        stale = [] if file is None else list(file.parent.glob(f"{file.stem}.index-*.snapshot"))
        for path in stale:
            path.unlink(missing_ok=True)
        if stale and self._milvus is None:
            self.save_snapshot()

    def build_fast_tier(self) -> TierReport:
        """Make searches without a filter faster, at a measured loss; see `indexer.fast_tier`.

        Searches go on meanwhile. It has to be called again when the gallery has grown by a tenth or
        was compacted: until then searches are exact.
        """
        view = self.view_in_memory()
        tier, report = build(view.index)
        self._tier = None if tier is None else (view.encoder.id, tier)
        if not report.used:
            _log.warning(
                "No fast tier for %d boxes: recall@%d %.4f", report.rows, RECALL_AT, report.recall
            )
        return report

    def stats(self) -> GalleryStats:
        """Count what is there."""
        tables = (schema.camera, schema.source, schema.frame, schema.box, schema.tombstone)
        with self.database.read() as connection:
            cameras, sources, frames, boxes, tombstones = (
                connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in tables
            )
        view = self._view
        return GalleryStats(
            cameras,
            sources,
            frames,
            boxes,
            tombstones,
            index_boxes=0 if view is None else len(view),
            index_bytes=0 if view is None else view.nbytes,
        )

    def _follow_if_loaded(self) -> None:
        if self._view is None:
            return
        try:
            self.refresh()
        except IndexOutageError as error:
            # What was written is in SQL, and the index catches up.
            _log.warning("%s", error)

    def _follow(self) -> GalleryView | MilvusView:
        """Bring the mirror up to date, or load another one. Call it with the lock."""
        if self._milvus is not None:
            last = self._view if isinstance(self._view, MilvusView) else None
            self._view = self._milvus.follow(last)
            return self._view
        with self.database.read() as connection:
            encoder = ingest.active_encoder(connection)
            mirror = self._mirror
            try:
                if mirror is None or mirror.view.encoder.id != encoder.id:
                    mirror = self._load(connection, encoder)
                elif not mirror.follows(connection):
                    _log.warning("The gallery's database was replaced: its index is rebuilt.")
                    mirror = self._load(connection, encoder)
                else:
                    mirror.catch_up(connection)
            except BaseException:
                # It may have taken half of what is new; the view does not show it.
                self._mirror = None
                raise
        self._mirror = mirror
        self._view = mirror.view
        return mirror.view

    def _load(self, connection: Connection, encoder: Encoder) -> Mirror:
        return Mirror.load(connection, encoder, self._snapshot(encoder), self._device)

    def _snapshot(self, encoder: Encoder) -> Path | None:
        file = self.database.file
        if file is None:
            return None
        return file.with_name(f"{file.stem}.index-{encoder.id}.snapshot")

    # Searching

    def search(
        self,
        query: Query,
        k: int = 100,
        wanted: Filter = _EVERYTHING,
        encoder: int | None = None,
    ) -> SearchResult:
        """Find the k boxes most like the query among those that the filter allows.

        The answer is exact unless `build_fast_tier` was called, or Milvus has an approximate index;
        the result says which.

        Parameters
        ----------
        encoder
            Id of the encoder that made the query's embeddings; given, it must be the one searched.

        Returns
        -------
        SearchResult
            min(k, allowed) hits, best first, ties by ascending box id.

        Raises
        ------
        EmbeddingError
            When an embedding is zero, not finite, not of length 1 or of the wrong size.
        UnknownBoxError
            When a stored box is not there, or not within the filter's scope.
        EncoderError
            When no encoder is active, or another one than `encoder`.
        IndexOutageError
            When the index is in Milvus, which does not answer.
        """
        view = self.view()
        for _ in range(_MAX_RETRIES):
            if encoder is not None and encoder != view.encoder.id:
                raise EncoderError(
                    f"The query is of encoder {encoder}, the gallery of encoder {view.encoder.id}: "
                    "encode it again"
                )
            rule, own = resolve(query, wanted, view)
            ids, scores, exact = self._find(view, rule, k, own)
            with self.database.read() as connection:
                hits = read_hits(connection, ids, scores, [*query.boxes, *query.negative_boxes])
            if hits is not None:
                return SearchResult(hits, view.encoder, view.revision, exact)
            # Something of it was deleted since, perhaps by another process: in the view that
            # follows, others take its place.
            view = self.refresh()
        raise GalleryError("What was found is deleted as fast as it is searched: try again")

    def _find(
        self, view: GalleryView | MilvusView, rule: ScoreRule, k: int, wanted: Filter
    ) -> tuple[Ids, Float32, bool]:
        """Find the best of the allowed boxes in a view; and tell whether that is proven."""
        if isinstance(view, MilvusView):
            return *view.find(rule, k, wanted), view.exact
        allowed = allowed_rows(wanted, view.columns, view.index.ids)
        index = self._index(view)
        ((ids, scores),) = search_rules(index, [rule], k, allowed)
        exact = index is view.index or allowed is not None or len(rule.negatives) > 0
        return ids, scores, exact

    def _index(self, view: GalleryView) -> VectorView:
        """Return the index to search a view by: with the fast tier, where there is one for it."""
        encoder, tier = self._tier or (None, None)
        if tier is None or encoder != view.encoder.id or not tier.covers(view.index):
            return view.index
        return TieredView(view.index, tier)

    def embeddings(self, boxes: Sequence[int]) -> Float32:
        """Return the stored embeddings of boxes, float32 [N, D], in their order.

        Raises
        ------
        UnknownBoxError
            When one is not in the present view.
        """
        view = self.view()
        wanted = np.unique(np.array(boxes, np.int64))
        places = np.searchsorted(wanted, np.array(boxes, np.int64))
        if isinstance(view, MilvusView):
            ids, vectors = view.embeddings(wanted)
            if len(ids) != len(wanted):
                raise UnknownBoxError("One of the boxes is not in the gallery any more")
            return vectors[places].astype(np.float32)
        rows = rows_of(view.index.ids, wanted.tolist())
        if view.index.live is not None:
            rows = rows[view.index.live[rows]]
        if len(rows) != len(wanted):
            raise UnknownBoxError("One of the boxes is not in the gallery any more")
        if not len(rows):
            return np.zeros((0, view.encoder.dimension), np.float32)
        return view.index.vectors(rows)[places].astype(np.float32)
