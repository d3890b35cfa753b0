"""Search and ingest of a gallery on its engines, in one run: `python -m perf.scale`.

FAISS + SQLite, which is the embedded path, FAISS + PostgreSQL, Milvus + PostgreSQL. Prints rows a
second of ingest (written, and found by a search), p50 and p99 of a search through `Gallery.search`
with its metadata, and each as a ratio to the embedded path. PostgreSQL is made for the run
(Debian's programs); Milvus is the server at --milvus.
"""

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from indexer import ingest
from indexer.filters import Filter
from indexer.gallery import Gallery
from indexer.query import Query
from perf.gallery import CAMERAS, PER_FRAME, People
from perf.vectors import DIM

SEARCHES = 100
BATCH_FRAMES = 500


@dataclass(frozen=True)
class Measured:
    """Of one engine: rows a second, and milliseconds of searches of everything and a tenth."""

    written: float
    found: float
    all_ms: list[float]
    tenth_ms: list[float]


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Run a PostgreSQL of Debian's for a while; gives its URL."""
    (programs, *_) = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    folder.chmod(0o755)
    place = folder / "postgresql"
    place.mkdir()
    shutil.chown(place, "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run = partial(subprocess.run, check=True, user="postgres", cwd=place, stdout=subprocess.DEVNULL)
    data = place / "data"
    run([programs / "initdb", "-D", data, "-A", "trust", "-E", "UTF8", "--no-locale"])
    settings = f"-p {port} -k {place} -c listen_addresses=127.0.0.1 -c shared_buffers=512MB"
    settings += " -c max_wal_size=4GB"
    run([programs / "pg_ctl", "-D", data, "-w", "-l", place / "log", "-o", settings, "start"])
    try:
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    finally:
        run([programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"])


def measure(url: str, boxes: int, index: str | None) -> Measured:
    """Fill a gallery and search it."""
    people = People(boxes)
    with Gallery.open(url, create=True, index=index) as gallery:
        encoder = gallery.register_encoder("1" * 64, "2" * 64, DIM)
        gallery.activate(encoder.id)
        begun = time.perf_counter()
        of_camera = boxes // PER_FRAME // CAMERAS
        for number in range(CAMERAS):
            camera = gallery.camera(f"camera {number}")
            source = gallery.add_source(camera, f"{number}.mp4", "video", f"{number:064x}").id
            for first in range(0, of_camera, BATCH_FRAMES):
                count = min(BATCH_FRAMES, of_camera - first)
                with gallery.database.write() as connection:
                    ingest.add_frames(connection, encoder.id, source, people.frames(first, count))
        written = time.perf_counter() - begun
        rows = len(gallery.refresh())
        found = time.perf_counter() - begun
        queries = people.views(SEARCHES)
        cameras = sorted(gallery.cameras().values())[: CAMERAS // 10]
        times = []
        for wanted in (Filter(), Filter(cameras=cameras)):
            own = []
            for query in (*queries[:5], *queries):
                start = time.perf_counter()
                gallery.search(Query(query[None]), 100, wanted)
                own.append(1e3 * (time.perf_counter() - start))
            times.append(own[5:])
    return Measured(rows / written, rows / found, *times)


def show(name: str, own: Measured, base: Measured) -> None:
    """Print one line, with ratios to the embedded path."""
    parts = [
        f"written {own.written:.0f} rows/s ({own.written / base.written:.2f})",
        f"found {own.found:.0f} rows/s ({own.found / base.found:.2f})",
    ]
    for what, ms, theirs in (
        ("all", own.all_ms, base.all_ms),
        ("10 %", own.tenth_ms, base.tenth_ms),
    ):
        p50, p99 = np.percentile(ms, (50, 99))
        parts.append(f"{what} p50 {p50:.1f} ms p99 {p99:.1f} ({p50 / np.median(theirs):.2f})")
    print(f"{name:<32}", "; ".join(parts), flush=True)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boxes", type=int, default=100_000)
    parser.add_argument(
        "--milvus", action="append", default=[], help="An address as --index takes it; several."
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = measure(str(folder / "gallery"), arguments.boxes, None)
        print(f"{arguments.boxes} boxes; in brackets the ratio to the embedded path")
        show("FAISS + SQLite", base, base)
        for index in (None, *arguments.milvus):
            part = Path(tempfile.mkdtemp(dir=folder))
            folder.chmod(0o755)
            with postgresql(part) as url:
                own = measure(url, arguments.boxes, index)
            title = "FAISS" if index is None else f"Milvus {index.partition('?')[2] or 'FLAT'}"
            show(f"{title} + PostgreSQL", own, base)
    return 0


if __name__ == "__main__":
    sys.exit(main())
