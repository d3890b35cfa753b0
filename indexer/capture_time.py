"""When a picture or a clip was captured, and where that is known from."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from pathlib import PurePath

from indexer.errors import SourceError

#: Date and time in a name, separated or not: 20260328_210005, 2026-03-28T21.00.05.250+02:00,
#: 20260328/210005. Digits right before or behind make it something else.
_NAME = re.compile(
    r"(?<!\d)(?P<year>(?:19|20)\d\d)(?P<s>[-_.]?)(?P<month>\d\d)(?P=s)(?P<day>\d\d)"
    r"(?:[T_\-. /]| at )?"
    r"(?P<hour>\d\d)(?P<t>[-_.:h]?)(?P<minute>\d\d)[-_.:m]?(?P<second>\d\d)s?"
    r"(?:[.,_-](?P<millisecond>\d{3}))?"
    r"(?P<zone>Z|[+-]\d\d:?\d\d)?(?!\d)"
)


class Clock(StrEnum):
    """Where a time of capture comes from."""

    GIVEN = "given"
    EXIF = "exif"
    NAME = "name"
    CONTAINER = "container"
    FILE = "file"


@dataclass(frozen=True)
class CaptureTime:
    """A time in UTC and where it is known from."""

    moment: datetime
    clock: Clock


def time_in_name(path: str) -> datetime | None:
    """Find date and time in a file's name, or the date in its folder's name and the time in it.

    Returns
    -------
    datetime or None
        Without a time zone unless the name has one.
    """
    parts = PurePath(path).parts
    for text in (parts[-1] if parts else "", "/".join(parts[-2:])):
        for match in _NAME.finditer(text):
            moment = _moment(match)
            if moment is not None:
                return moment
    return None


def _moment(match: re.Match[str]) -> datetime | None:
    zone = match["zone"]
    tz = None
    try:
        if zone == "Z":
            tz = UTC
        elif zone:
            minutes = int(zone[1:3]) * 60 + int(zone[-2:])
            tz = timezone(timedelta(minutes=-minutes if zone[0] == "-" else minutes))
        return datetime(
            year=int(match["year"]),
            month=int(match["month"]),
            day=int(match["day"]),
            hour=int(match["hour"]),
            minute=int(match["minute"]),
            second=int(match["second"]),
            microsecond=int(match["millisecond"] or 0) * 1000,
            tzinfo=tz,
        )
    except ValueError:
        return None


def exif_time(original: str, subsecond: str = "", offset: str = "") -> datetime | None:
    """Read EXIF's `DateTimeOriginal`, `SubSecTimeOriginal` and `OffsetTimeOriginal`.

    Returns
    -------
    datetime or None
        Without a time zone unless the offset is there; None when it is no time.
    """
    try:
        moment = datetime.strptime(original.strip("\0 "), "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None
    digits = subsecond.strip("\0 ")
    if digits.isascii() and digits.isdigit():
        moment = moment.replace(microsecond=int(digits[:6].ljust(6, "0")))
    try:
        zone = datetime.strptime(offset.strip("\0 "), "%z").tzinfo
    except ValueError:
        return moment
    return moment.replace(tzinfo=zone)


def capture_time(
    candidates: Sequence[tuple[Clock, datetime | None]], utc_offset: timedelta
) -> CaptureTime:
    """Choose the first time that is known.

    Parameters
    ----------
    utc_offset
        Of the clocks that give no time zone.

    Raises
    ------
    ValueError
        When none is known.
    """
    for clock, moment in candidates:
        if moment is None:
            continue
        if moment.utcoffset() is None:
            moment = moment.replace(tzinfo=timezone(utc_offset))
        return CaptureTime(moment.astimezone(UTC), clock)
    raise ValueError("no time of capture is known")


def parse_offset(text: str) -> timedelta:
    """Read `+02:00`.

    Raises
    ------
    SourceError
        When it is none.
    """
    try:
        offset = datetime.strptime(text, "%z").utcoffset()
    except ValueError:
        offset = None
    if offset is None:
        raise SourceError(f"{text!r} is no offset from UTC: write it like +02:00")
    return offset


def parse_time(text: str, utc_offset: timedelta = timedelta(0)) -> datetime:
    """Read an ISO 8601 time, as one in UTC.

    Raises
    ------
    SourceError
        When it is none.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise SourceError(
            f"{text!r} is no time: write it like 2026-03-28T21:00:05+01:00"
        ) from error
    if moment.utcoffset() is None:
        moment = moment.replace(tzinfo=timezone(utc_offset))
    return moment.astimezone(UTC)
