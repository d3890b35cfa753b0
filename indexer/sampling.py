"""Which frames of a video are looked at: by time, so that it is the same however it ran."""

from collections.abc import Iterable
from fractions import Fraction
from math import floor

#: Of a file that has no timestamps and says nothing of its rate.
NOMINAL_RATE = Fraction(25)


class Sampler:
    """Takes the first frame of every 1/fps seconds, counted from the first frame of the clip.

    Parameters
    ----------
    fps
        Frames per second; None takes every frame.
    """

    def __init__(self, fps: float | None) -> None:
        self._fps = None if fps is None else Fraction(fps).limit_denominator(1_000_000)
        self._slot: int | None = None

    def takes(self, offset_s: Fraction) -> bool:
        """Tell whether to take the next frame, so many seconds after the first one."""
        if self._fps is None:
            return True
        slot = floor(offset_s * self._fps)
        # Not "later than": a clock that is set back must not silence the rest of the clip.
        taken = slot != self._slot
        self._slot = slot
        return taken


class ClipClock:
    """Seconds since the first frame of a clip, with timestamps or without."""

    def __init__(self, rate: Fraction | None) -> None:
        self._rate = rate or NOMINAL_RATE
        self._first: Fraction | None = None

    def offset_s(self, position: int, timestamp_s: Fraction | None) -> Fraction:
        """Return seconds after the first frame."""
        if timestamp_s is None:
            return position / self._rate
        if self._first is None:
            self._first = timestamp_s - (position / self._rate if position else 0)
        return timestamp_s - self._first


def sampled_positions(timestamps: Iterable[Fraction], fps: float | None) -> list[int]:
    """Return the numbers of the frames that are taken of a whole clip."""
    sampler, clock = Sampler(fps), ClipClock(None)
    return [
        position
        for position, timestamp_s in enumerate(timestamps)
        if sampler.takes(clock.offset_s(position, timestamp_s))
    ]
