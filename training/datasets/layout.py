"""What a dataset's folder must hold, said in one error when it does not."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from training.errors import DatasetError

#: An error names at most so many of what is missing or found.
MAX_NAMED = 8


def some(names: Sequence[str]) -> str:
    """Name the first few, and say how many more there are."""
    rest = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def listing(folder: Path) -> str:
    """Say what lies in a folder."""
    if not folder.is_dir():
        return "no such folder"
    names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
    return some(names) or "an empty folder"


def require(root: Path, needed: Sequence[str], dataset: str) -> None:
    """Raise one `DatasetError` for everything that is missing.

    Parameters
    ----------
    needed
        Files and folders (with a slash at the end), relative to `root`.
    """
    missing = [
        name
        for name in needed
        if not ((root / name).is_dir() if name.endswith("/") else (root / name).is_file())
    ]
    if missing:
        raise DatasetError(
            f"{root} is not a complete {dataset} folder: missing {some(missing)}; "
            f"found {listing(root)}"
        )


def require_pictures(folder: Path, names: Iterable[str], dataset: str) -> None:
    """Raise one `DatasetError` when pictures that annotations name are not in their folder."""
    names = list(names)
    # One listing instead of a question per picture: CUHK-SYSU has 18,184.
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    missing = [name for name in names if name not in present]
    if missing:
        raise DatasetError(
            f"{folder}: {len(missing)} of {len(names)} pictures of {dataset} are missing: "
            f"{some(missing)}; found {len(present)} files"
        )


def load_mat(path: Path, *keys: str) -> Any:
    """Read the first of these variables that a MATLAB file holds.

    Returns
    -------
    The array as `scipy.io.loadmat` gives it.

    Raises
    ------
    DatasetError
        The file is missing or unreadable, or has none of the variables.
    """
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise DatasetError("reading .mat files needs SciPy: pip install 'binet[train]'") from error
    try:
        content = loadmat(path)
    # SciPy has no error of its own for most damaged files.
    except (OSError, MatReadError, ValueError, TypeError, NotImplementedError) as error:
        raise DatasetError(f"{path}: not a readable MATLAB file: {error}") from error
    for key in keys:
        if key in content:
            return content[key]
    found = [key for key in content if not key.startswith("__")]
    raise DatasetError(
        f"{path}: expected a variable {' or '.join(keys)}, found {some(found) or 'none'}"
    )
