"""One type, validated once, whose arrays never come apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import Detections
from model.detections import Index


def some(n: int, dim: int = 4) -> Detections:
    rng = np.random.default_rng(n)
    corner = rng.uniform(0, 100, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 50, (n, 2))], axis=1)
    embeddings = rng.normal(size=(n, dim))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return Detections(
        boxes.astype(np.float32),
        rng.uniform(size=n).astype(np.float32),
        embeddings.astype(np.float32),
    )


def test_empty() -> None:
    empty = Detections.empty()
    assert len(empty) == 0
    assert empty.embeddings.shape == (0, 256)
    indices: list[Index] = [slice(None), slice(0, 5), np.zeros(0, bool), []]
    for index in indices:
        assert len(empty[index]) == 0
        assert empty[index].boxes_xyxy.shape == (0, 4)


@given(st.integers(0, 12), st.data())
def test_every_kind_of_index_keeps_the_arrays_aligned(n: int, data: st.DataObject) -> None:
    detections = some(n)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=bool)
    places = np.flatnonzero(mask)
    for index in (mask, places, places.tolist()):
        part = detections[index]
        np.testing.assert_array_equal(part.boxes_xyxy, detections.boxes_xyxy[places])
        np.testing.assert_array_equal(part.scores, detections.scores[places])
        np.testing.assert_array_equal(part.embeddings, detections.embeddings[places])
    start, stop = data.draw(st.tuples(st.integers(-15, 15), st.integers(-15, 15)))
    assert len(detections[start:stop]) == len(range(n)[start:stop])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("boxes_xyxy", np.zeros((3, 5), np.float32), r"expected shape \(3, 4\), got \(3, 5\)"),
        ("boxes_xyxy", np.zeros((2, 4), np.float32), r"got \(2, 4\)"),
        ("boxes_xyxy", np.zeros((3, 4)), "float64"),
        ("boxes_xyxy", np.array([[5, 0, 4, 9]] * 3, np.float32), "x2 < x1"),
        ("boxes_xyxy", np.full((3, 4), np.nan, np.float32), "not finite"),
        ("scores", np.zeros((3, 1), np.float32), r"expected shape \(3,\)"),
        ("embeddings", np.zeros((3, 4), np.float32), "unit"),
        ("embeddings", np.zeros(3, np.float32), "embeddings: expected shape"),
        ("embeddings", np.full((3, 4), np.inf, np.float32), "not finite"),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: object, message: str) -> None:
    good = some(3)
    arrays = {n: getattr(good, n) for n in ("boxes_xyxy", "scores", "embeddings")}
    with pytest.raises(ValueError, match=message):
        Detections(**{**arrays, name: value})
