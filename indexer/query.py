"""What is searched for: embeddings and stored boxes, wanted and unwanted; and what is found."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np

from indexer.errors import EmbeddingError, UnknownBoxError
from indexer.filters import Filter
from indexer.mirror import Encoder, SearchedView
from indexer.vector_index import Float32, ScoreRule, check_queries
from model.detections import UNIT_TOLERANCE


@dataclass(frozen=True, eq=False)
class Query:
    """Who is looked for.

    The score of a box is its similarity to the positives, the best of them or their mean, less
    `negative_weight` times its best similarity to the negatives where that is above 0. A box that
    is equally like both thus scores about 0, and one that is unlike the negatives loses nothing.

    Attributes
    ----------
    positives, negatives
        float32 [P, D] and [N, D], unit vectors; None for none.
    boxes, negative_boxes
        Ids of stored boxes, whose own embeddings are used. Boxes that are the query are not found.
    """

    positives: Float32 | None = None
    negatives: Float32 | None = None
    boxes: Sequence[int] = ()
    negative_boxes: Sequence[int] = ()
    combine: Literal["best", "mean"] = "best"
    negative_weight: float = field(default=1.0)

    def __post_init__(self) -> None:
        if not np.isfinite(self.negative_weight) or self.negative_weight < 0:
            raise ValueError(f"negative_weight must be 0 or more, got {self.negative_weight}")
        if self.combine not in ("best", "mean"):
            raise ValueError(f"combine must be 'best' or 'mean', got {self.combine!r}")


class FoundFrame(NamedTuple):
    """The frame that a box is in.

    Attributes
    ----------
    captured_at
        In UTC.
    pts_s
        Seconds in the container's own clock; None without timestamps.
    """

    id: int
    source_id: int
    position: int
    camera_id: int
    camera: str
    captured_at: datetime
    pts_s: Fraction | None
    width: int
    height: int


class Hit(NamedTuple):
    """A box that is similar.

    Attributes
    ----------
    score
        Similarity to the query.
    box_xyxy
        In pixels of the scene.
    detection_score
        The detector's.
    """

    box_id: int
    score: float
    box_xyxy: tuple[float, float, float, float]
    detection_score: float
    frame: FoundFrame


@dataclass(frozen=True)
class SearchResult:
    """Hits, best first, and by what they were found.

    Attributes
    ----------
    revision
        The state of the gallery that was searched.
    exact
        False where a fast tier named the candidates.
    """

    hits: list[Hit]
    encoder: Encoder
    revision: int
    exact: bool = True


def resolve(query: Query, wanted: Filter, view: SearchedView) -> tuple[ScoreRule, Filter]:
    """Turn a query into vectors, and exclude its own boxes.

    Raises
    ------
    EmbeddingError
        When an embedding is zero, not finite, not of length 1, or of another dimension; when there
        is no positive; or when the mean of the positives is zero.
    UnknownBoxError
        When a stored box is not there, or not within the scope.
    """
    dimension = view.encoder.dimension
    named = (*query.boxes, *query.negative_boxes)
    positives = [_given(query.positives, dimension), _stored(query.boxes, wanted, view)]
    negatives = [_given(query.negatives, dimension), _stored(query.negative_boxes, wanted, view)]
    rule = ScoreRule(
        np.concatenate(positives), np.concatenate(negatives), query.combine, query.negative_weight
    )
    if not len(rule.positives):
        raise EmbeddingError("A query needs at least one embedding or stored box to look for")
    try:
        check_queries(rule.probes, dimension)
    except EmbeddingError as error:
        raise EmbeddingError(
            "The mean of the query embeddings is zero: take combine='best'"
        ) from error
    if named:
        wanted = replace(wanted, exclude_boxes=frozenset(wanted.exclude_boxes) | frozenset(named))
    return rule, wanted


def _given(embeddings: Float32 | None, dimension: int) -> Float32:
    if embeddings is None:
        return np.zeros((0, dimension), np.float32)
    embeddings = check_queries(embeddings, dimension)
    if (np.abs(np.linalg.norm(embeddings, axis=1) - 1) > UNIT_TOLERANCE).any():
        raise EmbeddingError("A query embedding is not a unit vector: divide it by its length")
    return embeddings


def _stored(boxes: Sequence[int], wanted: Filter, view: SearchedView) -> Float32:
    if not boxes:
        return np.zeros((0, view.encoder.dimension), np.float32)
    vectors = []
    for box in boxes:
        # What is outside the scope and what does not exist look the same.
        vector = view.stored(box, wanted.scope_cameras)
        if vector is None:
            raise UnknownBoxError(f"There is no box {box} among those that may be searched")
        vectors.append(vector)
    return np.stack(vectors)
