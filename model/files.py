"""Where files go, and how a crash leaves them whole. Needs no torch: the gallery uses it too."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

#: The network that comes with the program: docs/weights.md is its card.
DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "cpu-person"
#: The folder for what can be made or fetched again, in place of the user's own.
CACHE_VARIABLE = "BINET_CACHE"


def cache_folder() -> Path:
    """Return where things are kept: `$BINET_CACHE`, or `binet` in the user's cache folder."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "binet"


def sync(path: Path) -> None:
    """Bring a file's content, or the names in a folder (a rename), to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when all went well: it is whole or as before.

    It lies beside it until then, under a name of this process unless another is given.
    """
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that after a crash it is either whole or as before."""
    with replacing(path) as file:
        file.write(data)
