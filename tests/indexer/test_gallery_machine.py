"""The gallery against lists and NumPy, over everything that can happen to it in any order."""

import tempfile
from dataclasses import dataclass
from datetime import time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from indexer import faiss_index, mirror
from indexer.filters import Filter, TimeOfDay
from indexer.gallery import Gallery
from indexer.query import Query
from tests.indexer.galleries import DIMENSION, START, new_frames, new_gallery, new_source
from tests.indexer.oracle import oracle_scores, oracle_top_k, unit


@dataclass(frozen=True, eq=False)
class Known:
    """What the oracle knows of one box."""

    id: int
    frame: int
    camera: int
    source: int
    captured_at: Any
    score: float
    embedding: Any


seconds = st.none() | st.integers(0, 3000)
some = st.none() | st.frozensets(st.integers(1, 4), max_size=3)


class GalleryMachine(RuleBasedStateMachine):
    """One process's gallery, opened again and again; every answer is compared."""

    def index(self) -> str | None:
        """Where the vectors are; None for memory."""
        return None

    @initialize(seed=st.integers(0, 2**32 - 1))
    def begin(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name)
        self.gallery, self.encoder = new_gallery(self.folder, index=self.index())
        self.sources = [
            new_source(self.gallery, camera, content)
            for camera, content in (("door", "one"), ("yard", "two"), ("yard", "three"))
        ]
        self.cameras = {self.sources[0]: 1, self.sources[1]: 2, self.sources[2]: 2}
        self.next = 0
        self.boxes: list[Known] = []

    def teardown(self) -> None:
        if hasattr(self, "gallery"):
            self.gallery.close()
            self.temporary.cleanup()

    @rule(which=st.integers(0, 2), counts=st.lists(st.integers(0, 12), max_size=6))
    def add(self, which: int, counts: list[int]) -> None:
        source = self.sources[which]
        frames = new_frames(self.rng, counts, self.next)
        self.next += len(counts)
        added = self.gallery.add_frames(self.encoder.id, source, frames)
        assert (added.new_frames, added.new_boxes) == (len(counts), sum(counts))
        again = self.gallery.add_frames(self.encoder.id, source, frames)
        assert (again.new_frames, again.new_boxes) == (0, 0)
        for frame_id, ids, new in zip(added.frame_ids, added.box_ids, frames, strict=True):
            people = new.detections
            for box, score, embedding in zip(ids, people.scores, people.embeddings, strict=True):
                self.boxes.append(
                    Known(
                        int(box),
                        frame_id,
                        self.cameras[source],
                        source,
                        new.captured_at,
                        float(score),
                        embedding.astype(np.float16),
                    )
                )

    @rule(share=st.sampled_from([0.05, 0.5]))
    def delete_boxes(self, share: float) -> None:
        gone = {known.id for known in self.boxes if self.rng.random() < share}
        assert self.gallery.delete(boxes=gone | {10**6}).boxes == len(gone)
        self.boxes = [known for known in self.boxes if known.id not in gone]

    @rule(count=st.integers(1, 3))
    def delete_frames(self, count: int) -> None:
        frames = sorted({known.frame for known in self.boxes})
        gone = set(self.rng.permutation(frames)[:count].tolist())
        assert self.gallery.delete(frames=gone).frames == len(gone)
        self.boxes = [known for known in self.boxes if known.frame not in gone]

    @rule(after=seconds, before=seconds, cameras=some)
    def delete_by_filter(self, after: int | None, before: int | None, cameras: Any) -> None:
        wanted = self.filter(after, before, cameras=cameras)
        gone = {known.id for known in self.boxes if self.allows(wanted, known)}
        assert self.gallery.delete(where=wanted).boxes == len(gone)
        self.boxes = [known for known in self.boxes if known.id not in gone]

    @rule()
    def snapshot(self) -> None:
        if self.gallery.database.is_sqlite and self.index() is None:
            self.gallery.save_snapshot()

    @rule()
    def reopen(self) -> None:
        self.gallery.close()
        self.gallery = Gallery.open(self.folder, index=self.index())

    @rule()
    def compact(self) -> None:
        self.gallery.compact()

    @rule(
        k=st.sampled_from([1, 5, 1000]),
        after=seconds,
        before=seconds,
        cameras=some,
        scope=some,
        min_score=st.none() | st.just(0.5),
        at=st.none() | st.just(TimeOfDay(time(22, 30), time(0, 15), timedelta(hours=1))),
    )
    def search(self, k: int, scope: Any, **fields: Any) -> None:
        wanted = self.filter(scope_cameras=scope, **fields)
        query = unit(self.rng, 1, DIMENSION)
        self.compare(Query(query), query, query[:0], wanted, k)

    @rule(
        k=st.sampled_from([1, 5, 1000]),
        combine=st.sampled_from(["best", "mean"]),
        negatives=st.integers(0, 2),
    )
    def search_for_stored(self, k: int, combine: Any, negatives: int) -> None:
        if len(self.boxes) < 4:
            return
        chosen = [self.boxes[row] for row in self.rng.permutation(len(self.boxes))[:4]]
        wanted, unwanted = chosen[:2], chosen[2 : 2 + negatives]
        query = Query(
            boxes=[known.id for known in wanted],
            negative_boxes=[known.id for known in unwanted],
            combine=combine,
            negative_weight=0.5,
        )
        vectors = np.array([known.embedding for known in chosen], np.float32)
        named = Filter(exclude_boxes=[known.id for known in (*wanted, *unwanted)])
        self.compare(query, vectors[:2], vectors[2 : 2 + negatives], named, k)

    def filter(
        self,
        after: int | None,
        before: int | None,
        at: TimeOfDay | None = None,
        **fields: Any,
    ) -> Filter:
        return Filter(
            after=None if after is None else START + timedelta(seconds=after),
            before=None if before is None else START + timedelta(seconds=before),
            time_of_day=at,
            **fields,
        )

    def allows(self, wanted: Filter, known: Known) -> bool:
        part = wanted.time_of_day
        clock = (known.captured_at + timedelta(hours=1)).time()
        return (
            (wanted.cameras is None or known.camera in wanted.cameras)
            and (wanted.scope_cameras is None or known.camera in wanted.scope_cameras)
            and (wanted.after is None or known.captured_at >= wanted.after)
            and (wanted.before is None or known.captured_at < wanted.before)
            and (wanted.min_score is None or known.score >= wanted.min_score)
            and known.id not in wanted.exclude_boxes
            and (part is None or clock >= part.start or clock < part.end)
        )

    def compare(self, query: Query, wanted: Any, unwanted: Any, allowed: Filter, k: int) -> None:
        mine = [known for known in self.boxes if self.allows(allowed, known)]
        filters = Filter(**{**vars(allowed), "exclude_boxes": ()}) if query.boxes else allowed
        result = self.gallery.search(query, k, filters)
        assert len(result.hits) == min(k, len(mine))
        vectors = np.array([known.embedding for known in mine], np.float16)
        vectors = vectors.reshape(len(mine), DIMENSION)
        scores = oracle_scores(vectors, wanted, unwanted, query.combine, query.negative_weight)
        ids = np.array([known.id for known in mine], np.int64)
        best = oracle_top_k(ids, scores, k)
        assert ([hit.box_id for hit in result.hits], [hit.score for hit in result.hits]) == best
        by_id = {known.id: known for known in mine}
        for hit in result.hits:
            known = by_id[hit.box_id]
            assert hit.frame.captured_at == known.captured_at
            assert (hit.frame.id, hit.frame.camera_id) == (known.frame, known.camera)

    @invariant()
    def nothing_lost_and_nothing_left_over(self) -> None:
        if hasattr(self, "gallery"):
            stats = self.gallery.stats()
            assert stats.boxes == len(self.boxes)
            assert stats.index_boxes in (0, len(self.boxes))


class SmallParts(GalleryMachine):
    """The same, with many parts and early compaction."""

    def begin_small(self) -> None:
        self.patch = pytest.MonkeyPatch()
        for module, name, value in (
            (faiss_index, "SEGMENT_ROWS", 40),
            (mirror, "_COMPACT_ROWS", 1),
            (mirror, "_READ_ROWS", 7),
            (mirror, "_ADD_ROWS", 20),
        ):
            self.patch.setattr(module, name, value)

    @initialize(seed=st.integers(0, 2**32 - 1))
    def begin(self, seed: int) -> None:
        self.begin_small()
        super().begin(seed)

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()
        super().teardown()


quick = settings(max_examples=10, stateful_step_count=20, deadline=None, derandomize=True)
GalleryMachine.TestCase.settings = quick
SmallParts.TestCase.settings = quick
TestGalleryMachine = GalleryMachine.TestCase
TestSmallParts = SmallParts.TestCase
