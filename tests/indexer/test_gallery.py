"""The gallery's promises that are about one situation each."""

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from indexer.deletion import Hold, replay_tombstones
from indexer.errors import EmbeddingError, EncoderError, GalleryError, UnknownBoxError
from indexer.filters import Filter
from indexer.gallery import Gallery
from indexer.ingest import NewFrame
from indexer.query import Query
from indexer.schema import EncoderState, SourceState
from model.detections import Detections
from tests.indexer.galleries import (
    DIMENSION,
    START,
    all_boxes,
    detections,
    folder_of,
    new_frames,
    new_gallery,
    new_source,
    sha,
)
from tests.indexer.oracle import oracle_scores, oracle_top_k, unit
from tests.indexer.postgres import sqlite_only

# R4


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        (np.zeros((1, DIMENSION)), "zero"),
        (np.full((1, DIMENSION), np.nan), "not finite"),
        (np.full((1, DIMENSION), np.inf), "not finite"),
        (np.eye(1, 17), "16 numbers"),
        (np.eye(DIMENSION)[0], "16 numbers"),
        (2 * np.eye(1, DIMENSION), "unit vector"),
        (np.zeros((0, DIMENSION)), "at least one"),
        (None, "at least one"),
    ],
)
def test_an_embedding_that_cannot_be_searched(
    gallery: Gallery, embedding: Any, message: str
) -> None:
    vectors = None if embedding is None else embedding.astype(np.float32)
    with pytest.raises(EmbeddingError, match=message):
        gallery.search(Query(vectors))
    good = np.eye(1, DIMENSION, dtype=np.float32)
    if vectors is not None and len(vectors):
        with pytest.raises(EmbeddingError, match=message):
            gallery.search(Query(good, negatives=vectors))


def test_opposite_positives_have_no_mean(gallery: Gallery) -> None:
    vector = np.eye(1, DIMENSION, dtype=np.float32)
    query = Query(np.concatenate([vector, -vector]), combine="mean")
    with pytest.raises(EmbeddingError, match="best"):
        gallery.search(query)


def test_embeddings_of_another_size_are_not_written(gallery: Gallery) -> None:
    people = Detections.empty(32)
    wide = Detections(
        np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.eye(1, 32, dtype=np.float32)
    )
    for bad in (people, wide):
        frame = NewFrame(90, START, 10, 10, sha("x"), bad)
        with pytest.raises(EmbeddingError, match="16"):
            gallery.add_frames(1, 1, [frame])
    assert gallery.stats().frames == 6


# Stored boxes and scope


def test_a_stored_box_finds_others_but_not_itself(gallery: Gallery) -> None:
    result = gallery.search(Query(boxes=[4]), 100)
    assert sorted(hit.box_id for hit in result.hits) == [*range(1, 4), *range(5, 13)]
    vectors = gallery.embeddings(list(range(1, 13))).astype(np.float16)
    scores = oracle_scores(np.delete(vectors, 3, 0), vectors[3:4].astype(np.float32))
    best = oracle_top_k(np.delete(np.arange(1, 13), 3), scores, 100)
    assert ([hit.box_id for hit in result.hits], [hit.score for hit in result.hits]) == best


def test_a_box_outside_the_scope_does_not_exist(gallery: Gallery) -> None:
    door = gallery.cameras()["door"]
    scope = Filter(scope_cameras=[door])
    errors = []
    for box in (7, 999):
        with pytest.raises(UnknownBoxError) as caught:
            gallery.search(Query(boxes=[box]), 5, scope)
        errors.append(str(caught.value).replace(str(box), "N"))
    assert errors[0] == errors[1]
    assert all(
        hit.frame.camera == "door" for hit in gallery.search(Query(boxes=[1]), 5, scope).hits
    )
    # A camera filter, however, only says where to look.
    other = Filter(cameras=[door])
    assert len(gallery.search(Query(boxes=[7]), 50, other).hits) == 6


# R2


@pytest.mark.parametrize("k", [1, 4, 100])
def test_exactly_as_many_as_are_allowed(gallery: Gallery, k: int) -> None:
    query = Query(unit(np.random.default_rng(0), 1, DIMENSION))
    for wanted, allowed in (
        (Filter(), 12),
        (Filter(cameras=[1]), 6),
        (Filter(cameras=[1, 2], scope_cameras=[2]), 6),
        (Filter(cameras=[1], scope_cameras=[2]), 0),
        (Filter(cameras=[]), 0),
        (Filter(sources=[2], before=START + timedelta(seconds=1)), 3),
        (Filter(exclude_boxes=[1, 2, 99]), 10),
    ):
        hits = gallery.search(query, k, wanted).hits
        assert len(hits) == min(k, allowed)
        assert all(hit.frame.camera_id in (wanted.allowed_cameras or (1, 2)) for hit in hits)


# Writing


def test_the_same_content_is_the_same_source(gallery: Gallery) -> None:
    door = gallery.camera("door")
    first = gallery.add_source(door, "a.mp4", "video", sha("content"))
    assert gallery.add_source(door, "copy of a.mp4", "video", sha("content")) == first
    changed = gallery.add_source(door, "a.mp4", "video", sha("other"))
    assert (first.version, changed.version) == (1, 2)
    gallery.set_source(changed.id, SourceState.COMPLETE, sha("grown"))
    again = gallery.add_source(door, "a.mp4", "video", sha("grown"))
    assert (again.id, again.state) == (changed.id, SourceState.COMPLETE)
    with pytest.raises(GalleryError, match="no source 99"):
        gallery.set_source(99, SourceState.COMPLETE)
    with pytest.raises(GalleryError, match="no source 99"):
        gallery.add_frames(1, 99, [])


def test_a_batch_is_written_whole_or_not_at_all(gallery: Gallery) -> None:
    rng = np.random.default_rng(2)
    changed = NewFrame(1, START, 320, 240, sha("another frame"), detections(rng, 2))
    for batch, message in (
        ([*new_frames(rng, [2, 2], first=10), changed], "has changed"),
        ([*new_frames(rng, [2], first=10), *new_frames(rng, [2], first=10)], "same position"),
    ):
        with pytest.raises(GalleryError, match=message):
            gallery.add_frames(1, 1, batch)
    assert gallery.stats().frames == 6
    assert len(all_boxes(gallery)) == 12


def test_frames_keep_their_exact_times(gallery: Gallery) -> None:
    (hit,) = gallery.search(Query(boxes=[4]), 1, Filter(exclude_boxes=range(5, 13))).hits
    frames = new_frames(np.random.default_rng(0), [0, 0, 0])
    expected = frames[hit.frame.position]
    assert hit.frame.captured_at == expected.captured_at
    assert hit.frame.pts_s == expected.pts_s
    assert (hit.frame.width, hit.frame.height) == (320, 240)


@sqlite_only
@pytest.mark.parametrize("damage", ["zeroblob(32)", "zeroblob(7)"])
def test_a_damaged_embedding_is_named(gallery: Gallery, damage: str) -> None:
    with gallery.database.write() as connection:
        connection.execute(text(f"UPDATE box SET embedding = {damage} WHERE id = 5"))
    with pytest.raises(GalleryError, match=r"box 5 is damaged"):
        gallery.view()
    gallery.delete(boxes=[5])
    assert len(all_boxes(gallery)) == 11


# Encoders


def test_a_new_encoder_is_built_beside_and_flipped(gallery: Gallery) -> None:
    old = all_boxes(gallery)
    new = gallery.register_encoder(sha("weights b"), sha("preprocessing"), DIMENSION)
    assert gallery.register_encoder(sha("weights b"), sha("preprocessing"), DIMENSION) == new
    other = Gallery.open(folder_of(gallery))
    other.view()
    added = gallery.add_frames(new.id, 1, new_frames(np.random.default_rng(1), [2, 2, 2]))
    assert (added.new_frames, added.new_boxes) == (0, 6)
    assert all_boxes(gallery) == old

    gallery.activate(new.id)
    built = all_boxes(gallery)
    assert not set(built) & set(old)
    assert len(built) == 6
    query = Query(unit(np.random.default_rng(0), 1, DIMENSION))
    with pytest.raises(EncoderError, match="encode it again"):
        gallery.search(query, encoder=1)
    # Another process goes on with what it has, and says so, until it follows.
    with other:
        assert other.search(query).encoder.id == 1
        other.refresh()
        assert other.search(query).encoder.id == new.id
    assert [encoder.state for encoder in gallery.encoders()] == [
        EncoderState.RETIRED,
        EncoderState.ACTIVE,
    ]
    with pytest.raises(EncoderError, match="retired"):
        gallery.add_frames(1, 1, [])
    with pytest.raises(EncoderError, match="is active"):
        gallery.drop_encoder(new.id)
    assert gallery.drop_encoder(1) == 12
    assert gallery.stats().boxes == 6
    assert all_boxes(gallery) == built


def test_no_active_encoder(tmp_path: Path) -> None:
    with Gallery.open(tmp_path, create=True) as gallery:
        with pytest.raises(EncoderError, match="no active encoder"):
            gallery.view()
        with pytest.raises(EncoderError, match="no encoder 7"):
            gallery.activate(7)


# Deletion


def test_a_deleted_source_is_gone_with_everything(gallery: Gallery) -> None:
    gallery.view()
    deleted = gallery.delete(sources=[1])
    assert (deleted.boxes, deleted.frames, deleted.sources) == (6, 3, 1)
    assert all_boxes(gallery) == list(range(7, 13))
    with pytest.raises(UnknownBoxError):
        gallery.search(Query(boxes=[1]))
    assert gallery.delete(sources=[1]).sources == 0
    stats = gallery.stats()
    assert (stats.sources, stats.frames, stats.boxes, stats.tombstones) == (1, 3, 6, 10)


def test_ids_do_not_come_again(gallery: Gallery) -> None:
    gallery.delete(sources=[1, 2])
    source = new_source(gallery, "door", "again")
    added = gallery.add_frames(1, source, new_frames(np.random.default_rng(3), [2]))
    assert (source, added.frame_ids) == (3, [7])
    assert added.box_ids[0].tolist() == [13, 14]


def test_a_search_does_not_answer_with_what_another_process_deleted(gallery: Gallery) -> None:
    gallery.view()
    with Gallery.open(folder_of(gallery)) as other:
        other.delete(boxes=[1, 2, 3])
    assert len(gallery.search(Query(boxes=[4]), 8).hits) == 8
    with pytest.raises(UnknownBoxError):
        gallery.search(Query(boxes=[2]), 8)


@sqlite_only
def test_bytes_are_gone_after_compaction(gallery: Gallery) -> None:
    folder = folder_of(gallery)
    # Of several boxes in one place, those that are another's copy do not count.
    rows = [row.astype("<f2").tobytes() for row in gallery.embeddings(list(range(1, 13)))]
    box = next(number for number, row in enumerate(rows, start=1) if rows.count(row) == 1)
    embedding = rows[box - 1]
    gallery.save_snapshot()

    def holders() -> list[str]:
        return [f.name for f in folder.iterdir() if embedding in f.read_bytes()]

    assert "gallery.index-1.snapshot" in holders()
    gallery.delete(boxes=[box])
    gallery.compact()
    assert holders() == []
    assert (folder / "gallery.index-1.snapshot").is_file()


def test_held_frames_stay(gallery: Gallery) -> None:
    hold = gallery.add_hold(Hold("case 7", camera=1, before=START + timedelta(seconds=60)))
    one_frame = gallery.add_hold(Hold("case 8", frame=6))
    deleted = gallery.delete(where=Filter())
    assert (deleted.frames, deleted.held_frames) == (3, 3)
    assert gallery.delete(boxes=[1, 2]).boxes == 0
    assert gallery.delete(sources=[1]).sources == 0
    assert all_boxes(gallery) == [1, 2, 3, 4, 11, 12]
    gallery.release_hold(hold)
    gallery.release_hold(one_frame)
    with pytest.raises(GalleryError, match="no hold"):
        gallery.release_hold(hold)
    assert gallery.delete(where=Filter()).frames == 3
    assert gallery.stats().boxes == 0


def test_deletion_by_what_frames_do_not_have(gallery: Gallery) -> None:
    with pytest.raises(ValueError, match="by frame"):
        gallery.delete(where=Filter(min_score=0.5))


@sqlite_only
def test_deleted_boxes_stay_deleted_when_a_backup_is_restored(
    gallery: Gallery, tmp_path: Path
) -> None:
    """E2: tombstones outlive the backup."""
    folder = folder_of(gallery)
    backup = tmp_path / "backup"
    backup.mkdir()
    gallery.compact()
    shutil.copy(folder / "gallery.db", backup)
    gallery.delete(boxes=[1], frames=[2])
    gallery.delete(sources=[2])
    gallery.add_frames(1, 1, new_frames(np.random.default_rng(3), [2], first=40))
    with Gallery.open(backup) as restored:
        assert len(all_boxes(restored)) == 12
        restored.save_snapshot()
        replayed = replay_tombstones(gallery.database, restored.database)
        assert (replayed.boxes, replayed.frames, replayed.sources) == (8, 4, 1)
    with Gallery.open(backup) as restored:
        assert all_boxes(restored) == [2, 3, 5, 6]
        # 13 and 14 were others, after the backup.
        added = restored.add_frames(1, 1, new_frames(np.random.default_rng(4), [1], first=50))
        assert added.box_ids[0].tolist() == [15]


def test_tombstones_of_another_gallery_are_refused(gallery: Gallery, tmp_path: Path) -> None:
    other, encoder = new_gallery(tmp_path / "other")
    with other:
        other.add_frames(
            encoder.id, new_source(other, "door"), new_frames(np.random.default_rng(1), [3])
        )
        gallery.delete(boxes=[1])
        with pytest.raises(GalleryError, match="not an earlier state"):
            replay_tombstones(gallery.database, other.database)
        assert len(all_boxes(other)) == 3
