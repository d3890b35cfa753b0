"""CUHK-SYSU's TestG files, read query by query.

`scipy.io.loadmat` makes an object of every cell: 279 MB for galleries of 100, some 11 GB for 4000.
Here one query's gallery is held at a time, and equal cells are decoded once.

Format: "MAT-File Format", The MathWorks; version 5, little-endian, compressed or not.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from training.datasets.layout import listing
from training.errors import DatasetError

Box = tuple[int, int, int, int]
#: What a cell holds: a text, or numbers.
Value = str | tuple[int, ...]
Read = Callable[[int], bytes]

HEADER_BYTES = 128
LITTLE_ENDIAN = b"IM"
#: Data types of elements.
MATRIX, COMPRESSED = 14, 15
#: Classes of matrices.
CELL, STRUCT, CHAR = 1, 2, 4
#: Letter of `struct` for each type of numbers, by the type's number.
NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
UTF8, UTF16 = 16, 17
CHUNK_BYTES = 1 << 20


class Test(NamedTuple):
    """One query and its gallery.

    Attributes
    ----------
    scene, box
        Where the person is marked: x, y, width, height.
    images
        Names of the gallery's pictures, in order.
    boxes
        From the place of a picture in `images` to the person's box there.
    """

    scene: str
    box: Box
    images: list[str]
    boxes: dict[int, Box]


class _Broken(Exception):  # noqa: N818 - never leaves this module
    """The file is not what it should be."""


def read_tests(path: Path, key: str) -> Iterator[Test]:
    """Yield the queries of a file, in order.

    Parameters
    ----------
    key
        Name of the variable: `TestG100`.

    Raises
    ------
    DatasetError
        The file is missing, damaged, or of another kind.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; found {listing(path.parent)}")
    try:
        with path.open("rb") as file:
            yield from _tests(file, key)
    except (OSError, zlib.error, struct.error, ValueError, KeyError, IndexError, _Broken) as error:
        raise DatasetError(f"{path}: not a readable protocol file: {error}") from error


def _tests(file: BinaryIO, key: str) -> Iterator[Test]:
    header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES or header[126:] != LITTLE_ENDIAN:
        raise _Broken("not a little-endian MATLAB 5 file")
    kind, _ = struct.unpack("<II", _exactly(file.read, 8))
    engine = zlib.decompressobj()
    compressed = kind == COMPRESSED
    if compressed:
        read = _decompressed(file, engine)
        kind, _ = struct.unpack("<II", read(8))
    else:
        read = _reader(file)
    name, count, fields = _struct_header(read)
    if kind != MATRIX or name != key:
        raise _Broken(f"expected a variable {key}, found {name}")
    known: dict[bytes, Value] = {}
    for _ in range(count):
        cells = {field: _element(read) for field in fields}
        yield _test(cells["Query"], cells["Gallery"], known)
    # The checksum stands at the end.
    while compressed and not engine.eof:
        engine.decompress(_more(file, engine), CHUNK_BYTES)


def _test(query: bytes, gallery: bytes, known: dict[bytes, Value]) -> Test:
    (person,) = _records(query, known)
    images, boxes = [], {}
    for place, record in enumerate(_records(gallery, known)):
        images.append(_text(record["imname"]))
        if record["idlocate"]:
            boxes[place] = _box(record["idlocate"])
    return Test(_text(person["imname"]), _box(person["idlocate"]), images, boxes)


def _records(matrix: bytes, known: dict[bytes, Value]) -> Iterator[dict[str, Value]]:
    """Yield the elements of a struct array, field by field."""
    file = BytesIO(matrix)
    _, count, fields = _struct_header(_reader(file))
    position = file.tell()
    for _ in range(count):
        record = {}
        for field in fields:
            end = position + 8 + int.from_bytes(matrix[position + 4 : position + 8], "little")
            cell = matrix[position + 8 : end]
            value = known.get(cell)
            if value is None:
                value = known[cell] = _value(cell)
            record[field] = value
            position = end
        yield record


def _struct_header(read: Read) -> tuple[str, int, list[str]]:
    """Return a struct array's name, its number of elements, and its fields."""
    kind, name, count = _matrix_header(read)
    if kind != STRUCT:
        raise _Broken(f"expected a struct array, found class {kind}")
    _, length_bytes = _subelement(read)
    length = int.from_bytes(length_bytes, "little")
    _, names = _subelement(read)
    fields = [names[i : i + length].rstrip(b"\0").decode() for i in range(0, len(names), length)]
    return name, count, fields


def _matrix_header(read: Read) -> tuple[int, str, int]:
    """Return a matrix's class, name, and number of elements."""
    _, flags = _subelement(read)
    _, dimensions = _subelement(read)
    _, name = _subelement(read)
    count = 1
    for (side,) in struct.iter_unpack("<i", dimensions):
        count *= side
    return flags[0], name.decode(), count


def _value(cell: bytes) -> Value:
    """Decode a matrix of text or numbers, or a cell that holds one."""
    if not cell:
        return ()
    read = _reader(BytesIO(cell))
    kind, _, count = _matrix_header(read)
    if count == 0:
        return "" if kind == CHAR else ()
    if kind == CELL:
        return _value(_element(read))
    if kind == STRUCT:
        return ()  # nothing here is needed that is a struct in a struct
    number, data = _subelement(read)
    if kind == CHAR:
        encoding = {UTF8: "utf-8", UTF16: "utf-16-le", 4: "utf-16-le"}.get(number, "latin-1")
        return data.decode(encoding)
    letter = NUMBERS[number]
    return tuple(int(value) for value in struct.unpack(f"<{count}{letter}", data))


def _element(read: Read) -> bytes:
    """Read the content of the next matrix element."""
    kind, size = struct.unpack("<II", read(8))
    if kind != MATRIX:
        raise _Broken(f"expected a matrix, found data type {kind}")
    return read(size)


def _subelement(read: Read) -> tuple[int, bytes]:
    """Read a data element, in its long or its small form: its type and its bytes."""
    first = read(8)
    kind, size = struct.unpack("<II", first)
    if kind >> 16:
        return kind & 0xFFFF, first[4 : 4 + (kind >> 16)]
    padded = -(-size // 8) * 8
    return kind, read(padded)[:size]


def _text(value: Value) -> str:
    if not isinstance(value, str):
        raise _Broken(f"expected a name, found {value}")
    return value


def _box(value: Value) -> Box:
    if isinstance(value, str) or len(value) != 4:
        raise _Broken(f"expected x, y, width, height, found {value!r}")
    return value[0], value[1], value[2], value[3]


def _exactly(read: Read, size: int) -> bytes:
    data = read(size)
    if len(data) != size:
        raise _Broken("the file ends too early")
    return data


def _reader(file: BinaryIO) -> Read:
    return lambda size: _exactly(file.read, size)


def _decompressed(file: BinaryIO, engine: Any) -> Read:
    """Decompress as far as is read."""
    ready = bytearray()

    def read(size: int) -> bytes:
        while len(ready) < size:
            ready.extend(engine.decompress(_more(file, engine), CHUNK_BYTES))
        data = bytes(ready[:size])
        del ready[:size]
        return data

    return read


def _more(file: BinaryIO, engine: Any) -> bytes:
    """Give what is to be decompressed next."""
    chunk: bytes = engine.unconsumed_tail or file.read(CHUNK_BYTES)
    if not chunk:
        raise _Broken("the file ends too early")
    return chunk
