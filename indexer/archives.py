"""Pictures inside zip and tar files. Nothing is ever unpacked to disk, so no name leads anywhere.

What an archive asks for is checked from its directory before anything of it is read, and once more
while reading: directories lie.
"""

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from indexer.errors import SourceError
from indexer.limits import Limits
from indexer.pictures import SUFFIXES

ZIP_SUFFIXES = (".zip",)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

#: A ratio says something from this size on.
_FREE_BYTES = 1 << 20

_ENCRYPTED = 0x1
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
)


@dataclass(frozen=True)
class Member:
    """A picture in an archive.

    Attributes
    ----------
    changed_at
        The archive's date of it; without a time zone in a zip, which has none.
    problem
        Why it is refused, or None.
    """

    name: str
    size: int
    changed_at: datetime | None = None
    problem: str | None = None


def is_archive(name: str) -> bool:
    """Tell by the name whether this is an archive that can be read."""
    return name.lower().endswith(ZIP_SUFFIXES + TAR_SUFFIXES)


def list_members(path: str, limits: Limits) -> list[Member]:
    """List the pictures of an archive: a zip's by name, a tar's in its own order.

    Raises
    ------
    SourceError
        When it is no archive, is broken, or asks for too much as a whole.
    """
    members: list[Member] = []
    seen: set[str] = set()
    total = 0
    with _errors(path):
        for count, member in enumerate(_members(path, limits), 1):
            total += member.size
            if count > limits.archive_members:
                raise _refused(path, f"more than {limits.archive_members:,} files")
            if total > limits.archive_bytes:
                raise _refused(path, f"more than {limits.archive_bytes:,} bytes unpacked")
            if not _is_zip(path) and total > _FREE_BYTES:
                _check_ratio(path, total, limits)
            if PurePosixPath(member.name).suffix.lower() not in SUFFIXES:
                continue
            problem = member.problem
            if problem is None and member.name in seen:
                problem = "there is another file of this name in the archive"
            seen.add(member.name)
            members.append(Member(member.name, member.size, member.changed_at, problem))
    return sorted(members, key=lambda member: member.name) if _is_zip(path) else members


def read_members(
    path: str, names: Collection[str], limits: Limits
) -> Iterator[tuple[str, bytes | str]]:
    """Read pictures of an archive, in the order of `list_members`.

    Yields
    ------
    tuple
        The name, and the file's bytes or why it cannot be read.

    Raises
    ------
    SourceError
        When the archive cannot be read on.
    """
    with _errors(path):
        yield from (_read_zip if _is_zip(path) else _read_tar)(path, frozenset(names), limits)


def _is_zip(path: str) -> bool:
    return path.lower().endswith(ZIP_SUFFIXES)


def _members(path: str, limits: Limits) -> Iterator[Member]:
    if _is_zip(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    yield _zip_member(info, limits)
        return
    with tarfile.open(path) as archive_tar:
        while (entry := archive_tar.next()) is not None:
            if entry.isfile():
                problem = _problem(entry.name, entry.size, limits)
                changed_at = _utc(entry.mtime)
                yield Member(entry.name, entry.size, changed_at, problem)
            # Else it would keep them all.
            archive_tar.members = []  # type: ignore[attr-defined]


def _zip_member(info: zipfile.ZipInfo, limits: Limits) -> Member:
    problem = _problem(info.filename, info.file_size, limits)
    if problem is None and info.flag_bits & _ENCRYPTED:
        problem = "it is encrypted"
    packed = max(info.compress_size, 1)
    if (
        problem is None
        and info.file_size > _FREE_BYTES
        and info.file_size > packed * limits.archive_ratio
    ):
        problem = f"it unpacks to more than {limits.archive_ratio} times its size"
    try:
        changed_at = datetime(*info.date_time)
    except ValueError:
        changed_at = None
    return Member(info.filename, info.file_size, changed_at, problem)


def _problem(name: str, size: int, limits: Limits) -> str | None:
    if "\\" in name or name.startswith("/") or ".." in PurePosixPath(name).parts or "\0" in name:
        return "its name leads out of the archive"
    if size > limits.picture_bytes:
        return f"it has {size:,} bytes, more than {limits.picture_bytes:,} are refused"
    return None


def _check_ratio(path: str, total: int, limits: Limits) -> None:
    if total > Path(path).stat().st_size * limits.archive_ratio:
        raise _refused(path, f"more than {limits.archive_ratio} times its size unpacked")


def _read_zip(
    path: str, names: frozenset[str], limits: Limits
) -> Iterator[tuple[str, bytes | str]]:
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename: info for info in reversed(archive.infolist())}
        for name in sorted(names):
            try:
                with archive.open(infos[name]) as file:
                    data: bytes | str = file.read(limits.picture_bytes + 1)
                if len(data) > limits.picture_bytes:
                    data = "it unpacks to more than its size in the directory"
            except _BROKEN as error:
                data = f"it cannot be unpacked ({_short(error)})"
            yield name, data


def _read_tar(
    path: str, names: frozenset[str], limits: Limits
) -> Iterator[tuple[str, bytes | str]]:
    rest = set(names)
    with tarfile.open(path) as archive:
        while (entry := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]
            if not entry.isfile() or entry.name not in rest:
                continue
            rest.discard(entry.name)
            file = archive.extractfile(entry)
            if file is None or entry.size > limits.picture_bytes:
                continue
            data = file.read()
            if len(data) != entry.size:
                raise SourceError(f"{path}: it is cut off at {entry.name}")
            yield entry.name, data
            if not rest:
                return


def _utc(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _refused(path: str, what: str) -> SourceError:
    return SourceError(f"{path}: an archive with {what} is refused")


@contextmanager
def _errors(path: str) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise SourceError(f"{path} cannot be read as an archive ({_short(error)})") from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
