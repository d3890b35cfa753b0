"""What SQL knows of the boxes that the index found."""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, select

from indexer import schema
from indexer.filters import from_us
from indexer.ingest import chunks, read_pts
from indexer.query import FoundFrame, Hit
from indexer.vector_index import Float32, Ids


def _of_boxes() -> Select[Any]:
    box, frame, camera = schema.box.c, schema.frame.c, schema.camera.c
    return (
        select(
            *(box.id, box.x1, box.y1, box.x2, box.y2, box.score),
            *(frame.captured_at_us, frame.pts_numerator, frame.pts_denominator),
            *(frame.id, box.source_id, frame.position, box.camera_id, camera.name),
            *(frame.width, frame.height),
        )
        .join(schema.frame, frame.id == box.frame_id)
        .join(schema.camera, camera.id == box.camera_id)
        .where(box.id.in_(bindparam("boxes", expanding=True)))
    )


#: Made once: making it would take longer than running it.
_OF_BOXES = _of_boxes()


def read_hits(
    connection: Connection, ids: Ids, scores: Float32, named: Collection[int] = ()
) -> list[Hit] | None:
    """Make hits of boxes and their scores, in the given order.

    Returns
    -------
    list or None
        None when one of the boxes, or of those that the query names, is not there any more.
    """
    boxes = ids.tolist()
    wanted = {*boxes, *named}
    rows = _rows(connection, wanted)
    if len(rows) < len(wanted):
        return None
    return [_hit(rows[box], score) for box, score in zip(boxes, scores.tolist(), strict=True)]


def hits_still_there(connection: Connection, scores: Mapping[int, float]) -> dict[int, Hit]:
    """Make hits of boxes and their scores, without those that were deleted."""
    rows = _rows(connection, scores)
    return {box: _hit(rows[box], score) for box, score in scores.items() if box in rows}


def _rows(connection: Connection, boxes: Collection[int]) -> dict[int, Row[Any]]:
    return {
        row[0]: row
        for chunk in chunks(sorted(boxes))
        for row in connection.execute(_OF_BOXES, {"boxes": chunk})
    }


def _hit(row: Row[Any], score: float) -> Hit:
    (box_id, *box_xyxy, detection_score, captured_at_us, pts_numerator, pts_denominator) = row[:9]
    frame_id, source_id, position, camera_id, camera, width, height = row[9:]
    x1, y1, x2, y2 = box_xyxy
    return Hit(
        box_id,
        score,
        (x1, y1, x2, y2),
        detection_score,
        FoundFrame(
            id=frame_id,
            source_id=source_id,
            position=position,
            camera_id=camera_id,
            camera=camera,
            captured_at=from_us(captured_at_us),
            pts_s=read_pts(pts_numerator, pts_denominator),
            width=width,
            height=height,
        ),
    )
