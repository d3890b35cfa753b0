"""What there is to index: videos, pictures, and pictures in archives, in an order of their own."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from indexer.archives import Member, is_archive
from indexer.errors import SourceError
from indexer.pictures import SUFFIXES as PICTURE_SUFFIXES

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg")
) | frozenset(
    (".flv", ".wmv", ".asf", ".dav", ".dv", ".mxf", ".ogv", ".h264", ".264", ".h265", ".hevc")
)

#: Between an archive and the file in it.
MEMBER_MARK = "!/"


class SourceKind(StrEnum):
    """What a source is."""

    VIDEO = "video"
    PICTURE = "picture"


@dataclass(frozen=True)
class SourceFile:
    """One file to index; it is indexed, or it fails with a reason.

    Attributes
    ----------
    path
        Absolute; of the archive where the picture is in one.
    member
        The name in the archive.
    size
        Bytes, for the progress.
    changed_at
        Date of the file; without a time zone where a zip says it.
    folder
        Name of the folder that it is in: its camera, where none is given.
    problem
        Why it is refused at once.
    """

    path: str
    kind: SourceKind
    size: int
    changed_at: datetime | None
    folder: str
    member: str | None = None
    problem: str | None = None

    @property
    def uri(self) -> str:
        """What the gallery and the lists of failures call it."""
        return self.path if self.member is None else f"{self.path}{MEMBER_MARK}{self.member}"

    @property
    def inner_path(self) -> str:
        """The path in which a time of capture may be written."""
        return self.path if self.member is None else self.member


@dataclass(frozen=True)
class Discovered:
    """What was found, sorted by name.

    Attributes
    ----------
    files
        Everything that will be indexed or fail.
    ignored
        How many files are neither pictures, videos nor archives.
    """

    files: list[SourceFile]
    ignored: int


def discover(
    paths: Sequence[str | Path], list_archive: Callable[[str], list[Member]]
) -> Discovered:
    """Find the files to index below some paths; the same, whatever the order of the paths.

    Folders are searched to their depths; what is hidden is passed over, and links to folders are
    not followed. A file that is named is tried whatever its ending.

    Parameters
    ----------
    list_archive
        Lists an archive's pictures, see `indexer.archives.list_members`.

    Raises
    ------
    SourceError
        When a path is not there, or nothing to index is found at all.
    """
    found: set[str] = set()
    ignored = 0
    for given in paths:
        path = Path(given).expanduser().absolute()
        if not path.exists():
            raise SourceError(f"{given}: there is no such file or folder")
        if path.is_dir():
            for file in _below(path):
                if _is_known(file):
                    found.add(os.path.realpath(file))
                else:
                    ignored += 1
        else:
            found.add(os.path.realpath(path))
    files = [file for path in sorted(found) for file in _files(path, list_archive)]
    if not files:
        raise SourceError(f"Nothing to index was found in {', '.join(map(str, paths))}")
    return Discovered(files, ignored)


def _below(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield str(Path(parent) / name)


def _is_known(path: str) -> bool:
    return is_archive(path) or Path(path).suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES


def _files(path: str, list_archive: Callable[[str], list[Member]]) -> Iterable[SourceFile]:
    folder = Path(path).parent.name or "/"
    try:
        status = Path(path).stat()
        size, changed_at = status.st_size, datetime.fromtimestamp(status.st_mtime, UTC)
    except OSError as error:
        problem = error.strerror or "it cannot be read"
        return [SourceFile(path, SourceKind.VIDEO, 0, None, folder, problem=problem)]
    if is_archive(path):
        try:
            members = list_archive(path)
        except SourceError as error:
            refused = SourceFile(path, SourceKind.PICTURE, size, changed_at, folder)
            return [_with_problem(refused, str(error))]
        return [
            SourceFile(
                path,
                SourceKind.PICTURE,
                member.size,
                member.changed_at or changed_at,
                folder,
                member.name,
                member.problem,
            )
            for member in members
        ]
    is_picture = Path(path).suffix.lower() in PICTURE_SUFFIXES
    kind = SourceKind.PICTURE if is_picture else SourceKind.VIDEO
    odd = None if Path(path).is_file() else "it is not a file"
    return [SourceFile(path, kind, size, changed_at, folder, problem=odd)]


def _with_problem(file: SourceFile, problem: str) -> SourceFile:
    return SourceFile(
        file.path, file.kind, file.size, file.changed_at, file.folder, file.member, problem
    )


def hash_file(path: str, alive: Callable[[], None] | None = None) -> str:
    """SHA-256 of a file's content.

    Parameters
    ----------
    alive
        Called every 8 MiB; what it raises ends the hashing.

    Raises
    ------
    SourceError
        When the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(8 << 20):
                digest.update(block)
                if alive is not None:
                    alive()
    except OSError as error:
        raise SourceError(error.strerror or "it cannot be read") from error
    return digest.hexdigest()
