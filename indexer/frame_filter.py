"""A filter in SQL, for what goes through frames rather than through the index."""

from sqlalchemy import ColumnElement, and_, or_, select

from indexer import schema
from indexer.filters import DAY_US, Filter, to_us


def frames_where(where: Filter) -> ColumnElement[bool]:
    """Return whether a row of `frame` is allowed; what is about boxes is not asked."""
    frame, source = schema.frame.c, schema.source.c
    conditions: list[ColumnElement[bool]] = [frame.id.is_not(None)]
    cameras = where.allowed_cameras
    if cameras is not None:
        of_cameras = select(source.id).where(source.camera_id.in_(sorted(cameras)))
        conditions.append(frame.source_id.in_(of_cameras))
    if where.sources is not None:
        conditions.append(frame.source_id.in_(sorted(set(where.sources))))
    if where.after is not None:
        conditions.append(frame.captured_at_us >= to_us(where.after))
    if where.before is not None:
        conditions.append(frame.captured_at_us < to_us(where.before))
    if where.time_of_day is not None:
        start, end = where.time_of_day.bounds_us
        # Twice, since SQL's remainder of a time before 1970 is negative.
        local = (frame.captured_at_us + where.time_of_day.offset_us) % DAY_US
        local = (local + DAY_US) % DAY_US
        begun, not_over = local >= start, local < end
        conditions.append(and_(begun, not_over) if start < end else or_(begun, not_over))
    return and_(*conditions)
