"""Who is kept, compared with a plain ray cast."""

import numpy as np
import pytest

from indexer.errors import SourceError
from indexer.region import Region, foot_points, inside_polygon, parse_polygon
from model.detections import Detections

SQUARE = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], np.float64)
#: An arrow: a corner that points inwards.
ARROW = np.array([[0, 0], [20, 0], [8, 8], [20, 20], [0, 20]], np.float64)


def plain(x: float, y: float, polygon: list[list[float]]) -> bool:
    """Count the edges that a ray to the right crosses."""
    crossings = 0
    for (x1, y1), (x2, y2) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
            crossings += 1
    return crossings % 2 == 1


@pytest.mark.parametrize("polygon", [SQUARE, SQUARE[::-1], ARROW, ARROW[::-1]])
def test_inside_equals_a_ray_cast(polygon: np.ndarray) -> None:
    points = np.random.default_rng(0).uniform(-3, 23, (500, 2))
    expected = [plain(x, y, polygon.tolist()) for x, y in points.tolist()]
    assert inside_polygon(points, polygon).tolist() == expected
    assert 50 < sum(expected) < 450


def test_edges_and_corners_are_inside() -> None:
    on_edge = np.array([[0, 0], [5, 0], [10, 5], [10, 10], [0, 5], [5, 10]], np.float64)
    assert inside_polygon(on_edge, SQUARE).all()
    outside = np.array([[-0.01, 5], [10.01, 10], [5, 10.01]], np.float64)
    assert not inside_polygon(outside, SQUARE).any()


def people(boxes: list[list[float]]) -> Detections:
    count = len(boxes)
    embeddings = np.eye(4, dtype=np.float32)[:1].repeat(count, axis=0)
    return Detections(
        np.array(boxes, np.float32).reshape(count, 4), np.ones(count, np.float32), embeddings
    )


def test_foot_point_and_height_decide() -> None:
    found = people([[0, 0, 10, 10], [0, 5, 10, 15], [4, 2, 6, 6]])
    assert foot_points(found.boxes_xyxy).tolist() == [[5, 10], [5, 15], [5, 6]]
    square = tuple((float(x), float(y)) for x, y in SQUARE)
    assert Region(square).keep(found).boxes_xyxy[:, 1].tolist() == [0, 2]
    assert len(Region(None, 10).keep(found)) == 2
    assert Region().keep(found) is found
    assert len(Region(square, 10).keep(people([]))) == 0


def test_polygons_as_text() -> None:
    assert parse_polygon("0,0, 1,0 1,1") == ((0, 0), (1, 0), (1, 1))
    for text in ("", "1,2,3,4", "0,0,1,0,1", "a,b,c,d,e,f", "0,0,1,0,1,nan"):
        with pytest.raises(SourceError, match="is no polygon"):
            parse_polygon(text)
