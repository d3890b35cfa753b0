"""Protocols that take long to read are kept in a compact form, by the content of their files."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from model.files import cache_folder
from training.datasets.protocol import RetrievalProtocol

#: Part of every key: to be raised when readers or arrays change.
VERSION = 1


def cached_protocol(
    name: str, files: Sequence[Path], build: Callable[[], RetrievalProtocol]
) -> RetrievalProtocol:
    """Return what `build` gives, from the cache where these files have been read before.

    A cache that cannot be read or written is done without.

    Parameters
    ----------
    name
        Settings that decide the protocol besides the files.
    files
        Everything that is read.
    """
    digest = hashlib.sha256(f"{VERSION} {name}".encode())
    for file in files:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    path = cache_folder() / f"protocol-{digest.hexdigest()[:32]}.npz"
    kept = _load(path)
    if kept is not None:
        return kept
    protocol = build()
    temporary = path.with_name(f"{path.stem}-{os.getpid()}.tmp.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Most boxes of a large gallery are absent, so this is a fraction of the arrays' size.
        np.savez_compressed(temporary, allow_pickle=False, **protocol.arrays())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
    return protocol


def _load(path: Path) -> RetrievalProtocol | None:
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return RetrievalProtocol.from_arrays(arrays)
    # What NumPy raises for files that are missing, cut off, or something else.
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
