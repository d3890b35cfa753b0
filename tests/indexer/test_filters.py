"""Filters against plain Python, one row at a time."""

from datetime import UTC, datetime, time, timedelta, timezone
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer import filters
from indexer.filters import (
    Columns,
    Filter,
    GrowingColumns,
    TimeOfDay,
    allowed_rows,
    from_us,
    rows_of,
    to_us,
)

MIDNIGHT = datetime(2026, 3, 29, tzinfo=UTC)


def columns(rng: np.random.Generator, rows: int) -> Columns:
    hours = rng.integers(-72, 72, rows)
    return Columns(
        rng.integers(1, 6, rows).astype(np.int32),
        rng.integers(1, 9, rows).astype(np.int32),
        np.array([to_us(MIDNIGHT + timedelta(hours=int(hour))) for hour in hours], np.int64),
        (rng.integers(0, 10, rows) / 10).astype(np.float32),
    )


def is_allowed(wanted: Filter, table: Columns, row: int, box: int) -> bool:
    moment = from_us(int(table.captured_at_us[row]))
    part = wanted.time_of_day
    at_time = True
    if part is not None:
        clock = (moment + part.utc_offset).time()
        if part.start < part.end:
            at_time = part.start <= clock < part.end
        else:
            at_time = clock >= part.start or clock < part.end
    return (
        (wanted.cameras is None or table.camera_ids[row] in wanted.cameras)
        and (wanted.scope_cameras is None or table.camera_ids[row] in wanted.scope_cameras)
        and (wanted.sources is None or table.source_ids[row] in wanted.sources)
        and (wanted.after is None or moment >= wanted.after)
        and (wanted.before is None or moment < wanted.before)
        and (wanted.min_score is None or table.scores[row] >= np.float32(wanted.min_score))
        and box not in wanted.exclude_boxes
        and at_time
    )


ids_or_none = st.none() | st.frozensets(st.integers(-2, 12), max_size=9)
moments = st.none() | st.integers(-80, 80).map(lambda hours: MIDNIGHT + timedelta(hours=hours))
clocks = st.integers(0, 23).map(time)
parts = (
    st.tuples(clocks, clocks, st.integers(-14, 14))
    .filter(lambda t: t[0] != t[1])
    .map(lambda t: TimeOfDay(t[0], t[1], timedelta(hours=t[2])))
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    wanted=st.builds(
        Filter,
        cameras=ids_or_none,
        sources=ids_or_none,
        after=moments,
        before=moments,
        time_of_day=st.none() | parts,
        exclude_boxes=st.frozensets(st.integers(0, 500), max_size=5),
        min_score=st.none() | st.sampled_from([0.0, 0.3, 0.7]),
        scope_cameras=ids_or_none,
    ),
    rows=st.sampled_from([0, 1, 150]),
    shares=st.sampled_from([(0.1, 0.3), (0.0, 1.0), (1.0, 1.0)]),
)
def test_filters_allow_what_plain_python_allows(
    wanted: Filter, rows: int, shares: tuple[float, float]
) -> None:
    rng = np.random.default_rng(rows)
    table, ids = columns(rng, rows), np.arange(rows, dtype=np.int64) * 3
    expected = [row for row in range(rows) if is_allowed(wanted, table, row, int(ids[row]))]
    listed, masked = shares
    with patch.multiple(
        filters, _UNLISTED_ROWS=20, _LISTED_SHARE=listed, _LISTED_MASK_SHARE=masked
    ):
        grown = GrowingColumns()
        grown.append(table[:60])
        grown.append(table[60:140])
        with_lists = grown.append(table[140:])
        both = [allowed_rows(wanted, each, ids) for each in (table, with_lists)]
    for found in both:
        if found is None:
            found = np.ones(rows, bool)
        assert (np.flatnonzero(found) if found.dtype == bool else found).tolist() == expected


def test_rows_of_few_cameras_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "_UNLISTED_ROWS", 20)
    rng = np.random.default_rng(1)
    table = columns(rng, 400)
    grown = GrowingColumns()
    grown.append(table[:300])
    first = grown.append(table[300:310])
    assert first.by_camera is not None
    assert first.by_camera.count == 300  # ten more are not worth new lists
    whole = grown.append(table[310:330])
    assert whole.by_camera is not None
    assert whole.by_camera.count == 330
    assert first.by_camera.count == 300  # what was handed out stays
    assert sum(map(len, first.by_camera.of.values())) == 300
    whole = grown.append(table[330:340])
    monkeypatch.setattr(filters, "_LISTED_SHARE", 0.5)
    monkeypatch.setattr(filters, "_LISTED_MASK_SHARE", 0.5)
    found = allowed_rows(Filter(cameras=[2, 4, 99]), whole, np.arange(340))
    assert found is not None
    assert found.dtype == np.int64
    assert found.tolist() == np.flatnonzero(np.isin(table.camera_ids[:340], [2, 4])).tolist()
    monkeypatch.setattr(filters, "_LISTED_SHARE", 0.1)
    for share in (0.5, 0.1):  # by the lists, and by looking at all rows
        monkeypatch.setattr(filters, "_LISTED_MASK_SHARE", share)
        mask = allowed_rows(Filter(cameras=[2, 4, 99]), whole, np.arange(340))
        assert mask is not None
        assert mask.dtype == bool
        assert np.flatnonzero(mask).tolist() == found.tolist()


def test_none_allows_all_and_empty_allows_nothing() -> None:
    table = columns(np.random.default_rng(0), 20)
    ids = np.arange(20, dtype=np.int64)
    assert allowed_rows(Filter(), table, ids) is None
    for nothing in (Filter(cameras=()), Filter(sources=[]), Filter(scope_cameras=frozenset())):
        mask = allowed_rows(nothing, table, ids)
        assert mask is not None
        assert not mask.any()


def test_rows_of_boxes_that_are_there() -> None:
    ids = np.array([2, 4, 9], np.int64)
    assert rows_of(ids, {9, 3, 100, 2}).tolist() in ([0, 2], [2, 0])
    assert rows_of(ids[:0], {9}).tolist() == []


def test_times_are_exact_and_have_a_zone() -> None:
    moment = datetime(2026, 3, 29, 1, 2, 3, 456789, tzinfo=timezone(timedelta(hours=2)))
    assert from_us(to_us(moment)) == moment
    assert to_us(datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)) == -1
    with pytest.raises(ValueError, match="no time zone"):
        Filter(after=datetime(2026, 3, 29))


@pytest.mark.parametrize(
    "fields",
    [
        {"start": time(3), "end": time(3)},
        {"start": time(3, tzinfo=UTC), "end": time(4)},
    ],
)
def test_times_of_day_that_mean_nothing(fields: Any) -> None:
    with pytest.raises(ValueError, match="time of day"):
        TimeOfDay(**fields)
