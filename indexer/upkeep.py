"""Upkeep of a gallery: retention, giving space back, backup and restore."""

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import select

from indexer import deletion, schema
from indexer.database import GALLERY, Database
from indexer.deletion import Deleted, replay_tombstones
from indexer.errors import GalleryError
from indexer.filters import Filter
from indexer.gallery import Gallery
from indexer.jobs import end_interrupted
from indexer.media import prune_media
from indexer.schema import JobState
from model.files import sync

#: Frames that a round of `retain_size` deletes at least.
_MIN_FRAMES = 16


def retain_age(gallery: Gallery, longest: timedelta, now: datetime | None = None) -> Deleted:
    """Delete the frames that were captured longer ago than this; held frames stay.

    Raises
    ------
    GalleryError
        When that is before all time.
    """
    try:
        oldest = (now or datetime.now(UTC)) - longest
    except OverflowError as error:
        raise GalleryError(f"{longest.days} days ago is before the year 1: give less") from error
    return gallery.delete(where=Filter(before=oldest))


def retain_size(gallery: Gallery, most_bytes: int) -> Deleted:
    """Delete the oldest frames until the database is no larger, and compact it; held frames stay.

    Raises
    ------
    GalleryError
        When the gallery is in PostgreSQL, whose size is not known here, or see `compact`.
    """
    file = gallery.database.file
    if file is None:
        raise GalleryError("The size of a gallery in PostgreSQL is not known here: retain by age")
    total = Deleted(0, 0, 0, 0)
    frame = schema.frame.c
    while True:
        # Without this the size does not tell what is in use, and too much would go.
        compact(gallery)
        size, frames = file.stat().st_size, gallery.stats().frames
        if size <= most_bytes:
            return total
        oldest = (
            select(frame.id)
            .where(~deletion.is_held())
            .order_by(frame.captured_at_us, frame.id)
            .limit(max(_MIN_FRAMES, int((size - most_bytes) / size * frames)))
        )
        with gallery.database.read() as connection:
            wanted = list(connection.execute(oldest).scalars())
        if not wanted:
            return Deleted(total.boxes, total.frames, 0, frames)
        gone = gallery.delete(frames=wanted)
        total = Deleted(total.boxes + gone.boxes, total.frames + gone.frames, 0, 0)


def compact(gallery: Gallery) -> int:
    """Free what was deleted, in the database, the index and the kept pictures.

    Returns
    -------
    int
        How many pictures were deleted.

    Raises
    ------
    GalleryError
        While something is being indexed, whose pictures are there before their rows.
    """
    job = schema.job.c
    with gallery.database.write() as connection:
        end_interrupted(connection)
        running = connection.execute(select(job.id).where(job.state == JobState.RUNNING)).scalar()
    if running is not None:
        raise GalleryError(f"Job {running} is running: wait for it, or cancel it first")
    gallery.compact()
    return prune_media(gallery.database)


def backup(database: Database, path: Path) -> None:
    """Write a copy of the database as it is now; others may read and write meanwhile.

    The bytes of what was deleted are not in it, and neither are kept pictures.

    Raises
    ------
    GalleryError
        When the gallery is in PostgreSQL (use its own tools), there is such a file already, or it
        cannot be written.
    """
    if database.file is None:
        raise GalleryError("A gallery in PostgreSQL is backed up with pg_dump")
    if path.exists():
        raise GalleryError(f"{path} is there already: give another name")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with closing(sqlite3.connect(database.file)) as connection:
            connection.execute("VACUUM INTO ?", (str(temporary),))
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except (OSError, sqlite3.Error) as error:
        raise GalleryError(f"The backup cannot be written to {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def restore(folder: Path, path: Path) -> Deleted:
    """Put a backup in the place of a gallery; what was deleted since stays deleted.

    Returns
    -------
    Deleted
        What the backup still held.

    Raises
    ------
    GalleryError
        When the backup cannot be read or is of another gallery, or a program has the gallery open.
    """
    if not path.is_file():
        raise GalleryError(f"{path}: there is no backup")
    file = folder / GALLERY.file_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".restore-") as place:
            copy = Path(place) / GALLERY.file_name
            shutil.copyfile(path, copy)
            gone = _prepare(folder if file.is_file() else None, Path(place))
            _close_for_good(copy)
            if file.is_file():
                _close_for_good(file)
            sync(copy)
            copy.replace(file)
        sync(folder)
    except (OSError, sqlite3.Error) as error:
        raise GalleryError(f"The backup cannot be restored: {error}") from error
    return gone


def _prepare(current: Path | None, place: Path) -> Deleted:
    """Migrate a copy of a backup and replay the gallery's tombstones on it."""
    restored = Database.open(place)
    try:
        if current is None:
            return Deleted(0, 0, 0, 0)
        now = Database.open(current)
        try:
            return replay_tombstones(now, restored)
        finally:
            now.close()
    finally:
        restored.close()


def _close_for_good(file: Path) -> None:
    """Bring SQLite's log into its file and delete it.

    Raises
    ------
    GalleryError
        When another program has the file open.
    """
    with closing(sqlite3.connect(file, timeout=1)) as connection:
        try:
            # Only a single connection may leave WAL.
            connection.execute("PRAGMA journal_mode=DELETE")
        except sqlite3.OperationalError as error:
            raise GalleryError(
                f"{file.parent} is open in another program: stop it first ({error})"
            ) from error
