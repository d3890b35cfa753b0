"""Children of tests: copies of one process that has imported torch, for importing takes seconds.

That process has no threads; copying a test's own, which has some, could hang. What a child prints
is read here line by line.
"""

import json
import os
import shlex
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from torch.multiprocessing.spawn import start_processes

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


def on_ranks(function: Callable[..., object], *arguments: object) -> None:
    """Run `function(rank, *arguments)` for ranks 0 and 1 at once; both must succeed."""
    start_processes(function, arguments, nprocs=2, start_method="forkserver")


@contextmanager
def commands(folder: Path) -> Iterator[str]:
    """A command line that is `binet`, for scripts that call it many times, within the block."""

    class Call(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with Child(run_binet, *json.loads(self.rfile.readline())) as child:
                output = child.stdout.read()
                answer = {"code": child.wait(), "output": output}
            self.wfile.write(json.dumps(answer).encode())

    place = str(folder / "binet.socket")
    client = str(Path(__file__).with_name("forked_client.py"))
    with socketserver.ThreadingUnixStreamServer(place, Call) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield shlex.join([sys.executable, "-IS", client, place])
        finally:
            server.shutdown()


def run_binet(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Be the command `binet` in a folder; what it says comes out of one pipe."""
    import binet

    os.dup2(1, 2)
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = ["binet", *arguments]
    binet.main()
