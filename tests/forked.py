"""Children of tests: copies of one process that has imported torch, for importing takes seconds.

That process has no threads; copying a test's own, which has some, could hang. What a child prints
is read here line by line.
"""

import os
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection

_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["tests.conftest", "training.loop", "benchmark.commands", "indexer.indexing", "service.app"]
)


class Child:
    """A function that runs in a process of its own; it ends with the block."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        (its_in, our_in), (our_out, its_out), (our_errors, its_errors) = (
            _FORKS.Pipe(duplex=False) for _ in range(3)
        )
        its = (its_in, its_out, its_errors)
        self._process = _FORKS.Process(
            target=_run, args=(its, dict(os.environ), function, arguments)
        )
        self._process.start()
        for end in its:
            end.close()
        self._ends = (our_in, our_out, our_errors)
        self.stdin = os.fdopen(our_in.fileno(), "w", closefd=False)
        self.stdout = os.fdopen(our_out.fileno(), closefd=False)
        self.stderr = os.fdopen(our_errors.fileno(), closefd=False)

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wait()
        for end in self._ends:
            end.close()

    def go_on(self) -> None:
        """Give it the line that it waits for."""
        self.stdin.write("go on\n")
        self.stdin.flush()

    def kill(self) -> None:
        """`kill -9`."""
        self._process.kill()

    def wait(self, timeout_s: float = 120) -> int:
        """Its exit code; -9 where it was killed."""
        self._process.join(timeout_s)
        if self._process.exitcode is None:
            raise TimeoutError(f"{self._process} is still there after {timeout_s} s")
        return self._process.exitcode


def _run(
    ends: tuple[Connection, ...],
    environment: dict[str, str],
    function: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, end in enumerate(ends):
        os.dup2(end.fileno(), number)
        end.close()
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, mode) for n, mode in enumerate("rww"))
    function(*arguments)
    sys.stdout.flush()
