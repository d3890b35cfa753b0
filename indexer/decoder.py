"""The indexer's side of a decoder process: starts it, listens, and ends it when it misbehaves."""

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Self

import numpy as np

from indexer import decode_protocol as protocol
from indexer.decode_worker import main
from indexer.errors import SourceError
from indexer.limits import Limits

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

#: Threads that start processes at once would share each other's ends of the pipes.
_STARTING = threading.Lock()

#: Seconds for a process to end by itself before it is killed.
_END_S = 5.0


class DecoderLostError(SourceError):
    """The decoder process had to be ended, or ended: the fault of what it was decoding."""


class Decoder:
    """A decoder process, started at the first request and again after it was lost.

    One thread at a time may use it.

    Parameters
    ----------
    alive
        Called at every sign of life; what it raises ends the request, and the process.
    """

    def __init__(
        self, limits: Limits | None = None, alive: Callable[[], None] | None = None
    ) -> None:
        self.limits = limits or Limits()
        self._alive = alive
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(self, request: protocol.Request) -> Iterator[protocol.Reply]:
        """Send a request and give the replies as they come.

        Raises
        ------
        SourceError
            When the file cannot be decoded; `DecoderLostError` when it takes more than the limits
            allow, or crashed the process.
        """
        connection = self._started()
        finished = False
        try:
            connection.send(request)
            waited = 0.0
            while True:
                begun = time.monotonic()
                self._await(connection, self.limits.frame_s, "without a frame")
                waited += time.monotonic() - begun
                if waited > self.limits.clip_s:
                    raise DecoderLostError(f"decoding it took more than {self.limits.clip_s:g} s")
                reply = connection.recv()
                if self._alive is not None:
                    self._alive()
                if isinstance(reply, protocol.End):
                    finished = True
                    return
                if isinstance(reply, protocol.Failed):
                    if reply.lost:
                        raise DecoderLostError(reply.reason)
                    finished = True
                    raise SourceError(reply.reason)
                if isinstance(reply, protocol.FrameHead):
                    data = connection.recv_bytes()
                    pixels = np.frombuffer(data, np.uint8).reshape(*reply.shape, 3)
                    yield protocol.Frame(reply, pixels)
                else:
                    yield reply
        except (EOFError, OSError) as error:
            raise DecoderLostError(f"it {self._how_it_ended()}") from error
        finally:
            if not finished:
                self.kill()

    def value(self, request: protocol.Request) -> object:
        """Send a request whose answer is one value."""
        answer = None
        for reply in self.request(request):
            if isinstance(reply, protocol.Value):
                answer = reply.value
        return answer

    def kill(self) -> None:
        """End the process at once; the next request starts another."""
        if self._process is not None:
            self._process.kill()
        self.close()

    def close(self) -> None:
        """End the process."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if connection is not None:
            connection.close()
        if process is not None:
            process.join(_END_S)
            if process.exitcode is None:
                process.kill()
                process.join()
            process.close()

    def _started(self) -> Connection:
        if self._connection is not None:
            return self._connection
        context = multiprocessing.get_context("spawn")
        with _STARTING:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=main, args=(theirs, self.limits), name="binet-decoder", daemon=True
            )
            process.start()
            theirs.close()
        self._process, self._connection = process, ours
        try:
            self._await(ours, self.limits.start_s, "to start")
            ours.recv()
        except (EOFError, OSError, SourceError) as error:
            self.kill()
            raise SourceError("a decoder process cannot be started") from error
        return ours

    def _await(self, connection: Connection, seconds: float, what: str) -> None:
        if not connection.poll(seconds):
            raise DecoderLostError(f"decoding it took more than {seconds:g} s {what}")

    def _how_it_ended(self) -> str:
        process = self._process
        if process is None:
            return "ended the decoder"
        with suppress(AssertionError, ValueError):
            process.join(_END_S)
        code = process.exitcode
        if code is not None and code < 0:
            return f"crashed the decoder (signal {-code})"
        return f"ended the decoder (code {code})"
