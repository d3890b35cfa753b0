"""Which of the people found are kept: those who stand in a region and are tall enough."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from indexer.errors import SourceError
from model.detections import Detections, FloatArray

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Region:
    """Who is kept.

    Attributes
    ----------
    polygon_xy
        Corners in pixels of the scene, at least three; None is everywhere. People count whose foot
        point, the middle of the lower edge of their box, is inside or on the edge.
    min_height_px
        Of a box, in pixels of the scene.
    """

    polygon_xy: tuple[tuple[float, float], ...] | None = None
    min_height_px: float = 0.0

    def keep(self, people: Detections) -> Detections:
        """Return those who are kept, in their order."""
        boxes = people.boxes_xyxy
        kept = boxes[:, 3] - boxes[:, 1] >= self.min_height_px
        if self.polygon_xy is not None:
            kept &= inside_polygon(foot_points(boxes), np.array(self.polygon_xy, np.float64))
        return people if kept.all() else people[kept]


def foot_points(boxes_xyxy: FloatArray) -> Points:
    """Middle of the lower edge: [N, 4] -> float64 [N, 2]."""
    boxes = boxes_xyxy.astype(np.float64)
    return np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 3]], axis=1)


def inside_polygon(points_xy: Points, polygon_xy: Points) -> npt.NDArray[np.bool_]:
    """Tell which points [N, 2] are in a polygon [C, 2] by the even-odd rule, edges included."""
    inside = np.zeros(len(points_xy), np.bool_)
    on_edge = np.zeros(len(points_xy), np.bool_)
    x, y = points_xy[:, 0], points_xy[:, 1]
    for (x1, y1), (x2, y2) in zip(polygon_xy, np.roll(polygon_xy, -1, axis=0), strict=True):
        # Twice the signed area of the triangle with the edge: 0 on its line.
        area = (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1)
        on_edge |= (
            (area == 0)
            & (min(x1, x2) <= x)
            & (x <= max(x1, x2))
            & (min(y1, y2) <= y)
            & (y <= max(y1, y2))
        )
        crosses = (y1 > y) != (y2 > y)
        inside ^= crosses & ((area > 0) == (y2 > y1))
    return inside | on_edge


def parse_polygon(text: str) -> tuple[tuple[float, float], ...]:
    """Read `x1,y1,x2,y2,x3,y3,...`.

    Raises
    ------
    SourceError
        When it is no polygon.
    """
    try:
        numbers = [float(part) for part in text.replace(" ", ",").split(",") if part]
    except ValueError:
        numbers = []
    if len(numbers) < 6 or len(numbers) % 2 or not np.isfinite(numbers).all():
        raise SourceError(
            f"{text!r} is no polygon: give at least three corners in pixels, x1,y1,x2,y2,x3,y3"
        )
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))
