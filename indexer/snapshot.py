"""The index on disk, for a quick start: plain arrays under one checksum.

A snapshot is never trusted. It is written to a temporary file, synced and renamed; what does not
match on reading, be it the checksum, the encoder or the database's history, is `SnapshotError`, and
the caller builds the index from SQL. (FAISS's own files are not used: it loads damaged ones.)

Layout: magic, SHA-256 of all that follows, length of the header, header in JSON, then ids, columns
and vectors of the rows, little-endian.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from indexer.filters import Columns
from indexer.vector_index import Float16, Ids
from model.files import replacing

MAGIC = b"BINETIDX"
FORMAT = 1

_DIGEST_BYTES = 32
_PREFIX_BYTES = len(MAGIC) + _DIGEST_BYTES
_MAX_HEADER_BYTES = 65_536
_COLUMNS: tuple[np.dtype[Any], ...] = (
    np.dtype("<i8"),  # id
    np.dtype("<i4"),  # camera
    np.dtype("<i4"),  # source
    np.dtype("<i8"),  # captured_at_us
    np.dtype("<f4"),  # score
)


class SnapshotError(Exception):
    """A snapshot cannot be used; the message says why. It never reaches a user."""


@dataclass(frozen=True)
class Header:
    """What a snapshot was made from.

    Attributes
    ----------
    weights_sha256, preprocess_sha256, dimension
        The encoder whose embeddings these are.
    revision, token
        The last change of the database that is in it.
    last_box_id, last_tombstone_id
        From where the database is followed.
    """

    weights_sha256: str
    preprocess_sha256: str
    dimension: int
    revision: int
    token: str
    last_box_id: int
    last_tombstone_id: int
    count: int
    format: int = FORMAT

    @property
    def payload_bytes(self) -> int:
        """Length of the arrays."""
        row = sum(column.itemsize for column in _COLUMNS) + 2 * self.dimension
        return row * self.count


def write_snapshot(
    path: Path, header: Header, ids: Ids, columns: Columns, vectors: Iterable[Float16]
) -> None:
    """Write a snapshot; the file at `path` is the old or the new one at any moment.

    Parameters
    ----------
    ids, columns, vectors
        `header.count` rows; the vectors in blocks.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    with _only_writer(path), replacing(path, temporary) as file:
        digest = hashlib.sha256()

        def put(data: bytes | memoryview) -> None:
            digest.update(data)
            file.write(data)

        file.write(bytes(_PREFIX_BYTES))
        text = json.dumps(asdict(header)).encode()
        put(len(text).to_bytes(4, "little"))
        put(text)
        for dtype, column in zip(_COLUMNS, _arrays(ids, columns), strict=True):
            put(_bytes_of(np.ascontiguousarray(column, dtype)))
        for block in vectors:
            put(_bytes_of(np.ascontiguousarray(block, "<f2")))
        file.seek(0)
        file.write(MAGIC + digest.digest())


class SnapshotReader:
    """A snapshot being read: header, then ids and columns, then vectors, then `finish`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        prefix = file.read(_PREFIX_BYTES)
        if len(prefix) < _PREFIX_BYTES or not prefix.startswith(MAGIC):
            raise SnapshotError("it is no snapshot")
        self._expected = prefix[len(MAGIC) :]
        length = int.from_bytes(self._take(4), "little")
        if length > _MAX_HEADER_BYTES:
            raise SnapshotError("its header is damaged")
        try:
            fields = json.loads(self._take(length))
            self.header = Header(**fields)
        except (ValueError, TypeError) as error:
            raise SnapshotError("its header is damaged, or of another version") from error
        self._check_size(length)

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """Open a snapshot; what cannot be read is `SnapshotError`."""
        try:
            with path.open("rb") as file:
                yield cls(file)
        except OSError as error:
            raise SnapshotError(error.strerror or str(error)) from error

    def _check_size(self, header_bytes: int) -> None:
        header = self.header
        if header.format != FORMAT:
            raise SnapshotError(f"its format is {header.format}, not {FORMAT}")
        numbers = (header.count, header.dimension, header.revision, header.last_box_id)
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise SnapshotError("its header is damaged")
        # Before anything is reserved for what a damaged header says.
        expected = _PREFIX_BYTES + 4 + header_bytes + header.payload_bytes
        actual = os.fstat(self._file.fileno()).st_size
        if actual != expected:
            raise SnapshotError(f"it has {actual} bytes instead of {expected}")

    def read_rows(self) -> tuple[Ids, Columns]:
        """Read ids and columns."""
        arrays: list[npt.NDArray[Any]] = []
        for dtype in _COLUMNS:
            array = np.empty(self.header.count, dtype)
            self._read_into(array)
            arrays.append(array)
        ids, camera_ids, source_ids, captured_at_us, scores = arrays
        return ids, Columns(camera_ids, source_ids, captured_at_us, scores)

    def read_vectors(self, rows: Float16) -> None:
        """Read the next vectors into float16 [N, D]."""
        self._read_into(rows)

    def finish(self) -> None:
        """Check all that was read; until then none of it may be used."""
        if self._digest.digest() != self._expected:
            raise SnapshotError("its checksum does not match")

    def _take(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise SnapshotError("it is cut off")
        self._digest.update(data)
        return data

    def _read_into(self, array: npt.NDArray[Any]) -> None:
        rest = _bytes_of(array)
        while rest.nbytes:
            # In parts, so that what is hashed is still in the processor's cache.
            part = rest[: 1 << 20]
            if self._file.readinto(part) != part.nbytes:  # type: ignore[attr-defined]
                raise SnapshotError("it is cut off")
            self._digest.update(part)
            rest = rest[part.nbytes :]


def _arrays(ids: Ids, columns: Columns) -> tuple[npt.NDArray[Any], ...]:
    return ids, columns.camera_ids, columns.source_ids, columns.captured_at_us, columns.scores


def _bytes_of(array: npt.NDArray[Any]) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8).data)


@contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    """Let one process write at a time: all temporary files are then left from crashes."""
    with path.with_name(f"{path.name}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
