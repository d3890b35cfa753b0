"""Files that a crash leaves whole. Needs no torch: the gallery uses it too."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Bring a file's content, or the names in a folder (a rename), to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
