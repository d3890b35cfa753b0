"""CPU seconds and memory of reading CUHK-SYSU's largest protocol, galleries of 4000.

    python -m perf.protocol
    python -m perf.protocol --gallery 100 --scipy       # beside scipy.io.loadmat

A folder of full size is made from a seed: 6,978 pictures, 2,900 queries, and a TestG file as MATLAB
wrote it, cell by cell. What `loadmat` takes grows with the file: 279 MB at galleries of 100, so
some 11 GB here. The exit code is 1 when reading needs more than 1 GB.
"""

import argparse
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

POOL, QUERIES, SMALL = 6978, 2900, 50
MOST_GB = 1.0


def main() -> int:
    """Make the folder, read it in processes of their own, print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gallery", type=int, default=4000)
    parser.add_argument("--scipy", action="store_true", help="also read it with loadmat")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--with-scipy", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        _read(options.read, options.gallery, options.with_scipy)
        return 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        _make(root, options.gallery)
        os.environ["BINET_CACHE"] = str(root / "cache")
        first = _measured(root, options.gallery, "read")
        again = _measured(root, options.gallery, "from the cache")
        if options.scipy:
            _measured(root, options.gallery, "loadmat", "--with-scipy")
    return int(max(first, again) > MOST_GB)


def _measured(root: Path, gallery: int, what: str, *words: str) -> float:
    command = [sys.executable, "-m", "perf.protocol", "--read", str(root)]
    command += ["--gallery", str(gallery), *words]
    line = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seconds, gigabytes = (float(word) for word in line.split())
    print(f"gallery {gallery}, {what}: {seconds:.1f} CPU s, {gigabytes:.2f} GB", flush=True)
    return gigabytes


def _read(root: Path, gallery: int, with_scipy: bool) -> None:
    """Print CPU seconds and this process's peak memory in GB, imports included."""
    from scipy.io import loadmat

    from training.datasets.cuhk_sysu import TRAIN_TEST, read_cuhk_sysu_protocol

    started = time.process_time()
    if with_scipy:
        loadmat(root / TRAIN_TEST / f"TestG{gallery}.mat")
    else:
        protocol = read_cuhk_sysu_protocol(root, gallery)
        assert len(protocol.gallery.images) == QUERIES * gallery
    # Not getrusage: its peak is inherited from the process that started this one.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(time.process_time() - started, int(peak) / 2**20)


def _make(root: Path, gallery: int) -> None:
    from scipy.io import savemat

    from training.datasets.cuhk_sysu import TRAIN_TEST

    folder = root / TRAIN_TEST
    folder.mkdir(parents=True)
    names = [f"s{number}.jpg" for number in range(1, POOL + 1)]
    cells = np.array(names, dtype=object).reshape(-1, 1)
    savemat(root / "annotation" / "pool.mat", {"pool": cells})
    texts = [_matrix(4, (1, len(name)), 16, name.encode()) for name in names]
    for size in {SMALL, gallery}:
        _write_tests(folder / f"TestG{size}.mat", size, texts)


def _write_tests(path: Path, size: int, texts: list[bytes]) -> None:
    """Write a TestG file; the variable's length has to be known before its content."""
    rng = np.random.default_rng(0)
    absent = _matrix(6, (1, 0), 9, b"")
    hard = _matrix(9, (1, 1), 2, b"\0")
    head = _head(2, (1, QUERIES), path.stem.encode()) + _fields("Query", "Gallery")
    # The length of everything stands before it: the parts wait packed.
    parts, total = [], len(head)
    for query in range(QUERIES):
        boxes = [
            _matrix(11, (1, 4), 4, struct.pack("<4H", query % 500, 20, 50, 120 + place))
            for place in range(2)
        ]
        person = texts[query] + boxes[0] + hard + _matrix(4, (1, 2), 16, b"p1")
        listed = rng.permutation(POOL)[:size].tolist()
        records = [
            texts[image] + (boxes[place] if place < 2 else absent) + hard
            for place, image in enumerate(listed)
        ]
        content = _struct((1, 1), ("imname", "idlocate", "ishard", "idname"), person)
        content += _struct((1, size), ("imname", "idlocate", "ishard"), b"".join(records))
        parts.append(zlib.compress(content, 1))
        total += len(content)
    engine = zlib.compressobj(1)
    packed = [engine.compress(struct.pack("<II", 14, total) + head)]
    packed += [engine.compress(zlib.decompress(part)) for part in parts]
    compressed = b"".join(packed) + engine.flush()
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    path.write_bytes(header + struct.pack("<II", 15, len(compressed)) + compressed)


def _struct(shape: tuple[int, int], fields: tuple[str, ...], content: bytes) -> bytes:
    body = _head(2, shape, b"") + _fields(*fields) + content
    return struct.pack("<II", 14, len(body)) + body


def _matrix(kind: int, shape: tuple[int, int], number: int, data: bytes) -> bytes:
    body = _head(kind, shape, b"") + _part(number, data)
    return struct.pack("<II", 14, len(body)) + body


def _head(kind: int, shape: tuple[int, int], name: bytes) -> bytes:
    flags = _part(6, struct.pack("<II", kind, 0))
    return flags + _part(5, struct.pack("<2i", *shape)) + _part(1, name)


def _fields(*names: str) -> bytes:
    length = 16
    packed = b"".join(name.encode().ljust(length, b"\0") for name in names)
    return struct.pack("<HHi", 5, 4, length) + _part(1, packed)


def _part(number: int, data: bytes) -> bytes:
    return struct.pack("<II", number, len(data)) + data + b"\0" * (-len(data) % 8)


if __name__ == "__main__":
    sys.exit(main())
