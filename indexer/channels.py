"""Bounded queues between the stages: a slow stage holds the others back, not the memory."""

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


class ChannelClosed(Exception):  # noqa: N818 - it is how a stage learns that its work is over
    """There is nothing more to get, or nobody wants anything any more."""


class Channel(Generic[Item]):
    """A queue of a few items, with an end and an emergency stop.

    Parameters
    ----------
    capacity
        Items that may wait in it.
    producers
        How many stages put into it; it ends when each has called `finish`.
    """

    def __init__(self, capacity: int, producers: int = 1) -> None:
        self._items: deque[Item] = deque()
        self._capacity = capacity
        self._producers = producers
        self._aborted = False
        self._changed = threading.Condition()

    def put(self, item: Item) -> None:
        """Add an item; wait while it is full.

        Raises
        ------
        ChannelClosed
            After `abort`.
        """
        with self._changed:
            while len(self._items) >= self._capacity and not self._aborted:
                self._changed.wait()
            if self._aborted:
                raise ChannelClosed
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> Item:
        """Take the oldest item; wait while it is empty.

        Raises
        ------
        ChannelClosed
            After the last item, or `abort`.
        """
        with self._changed:
            while not self._items and self._producers and not self._aborted:
                self._changed.wait()
            if self._aborted or not self._items:
                raise ChannelClosed
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def check(self) -> None:
        """Do nothing, but raise `ChannelClosed` after `abort`."""
        if self._aborted:
            raise ChannelClosed

    def finish(self) -> None:
        """Say that one producer has put its last item."""
        with self._changed:
            self._producers -= 1
            self._changed.notify_all()

    def abort(self) -> None:
        """Throw away what waits and wake everybody."""
        with self._changed:
            self._aborted = True
            self._items.clear()
            self._changed.notify_all()


@dataclass
class StageTime:
    """What a stage's time went into, in seconds.

    Attributes
    ----------
    busy_s
        At its own work.
    waited_s
        For something to do.
    blocked_s
        For the next stage to take what was done.
    """

    busy_s: float = 0.0
    waited_s: float = 0.0
    blocked_s: float = 0.0


class Stopwatch:
    """Adds up the time between calls."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last call."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return seconds
