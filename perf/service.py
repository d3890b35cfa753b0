"""The service beside the loop inside it: requests per second, overload, memory, cold start.

    python -m perf.service                        # a million boxes: some minutes, 2 GB on disk
    python -m perf.service --boxes 20000 --seconds 3 --requests 500

`binet serve` runs in a process of its own with the weights of the repository, and is asked with
JPEG crops by 1, 8 and 64 clients of this process, each on a connection that stays open. The bare
loop does the same work in this process without a service: decode, embed in batches, search. Clients
and service share the machine's cores; the loop has them alone. Then four times as many clients as
the service has places ask at once, and memory is read before and after many requests. Exit code 1:
the service is below 0.8 of the loop with 8 clients, overload is not refused with 429, memory grows
by more than 5 %, or a start takes more than 5 s beyond the loading of the network.
"""

import argparse
import contextlib
import http.client
import io
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from indexer.branch import NetworkBranch
from indexer.gallery import Gallery
from indexer.limits import Limits
from indexer.pictures import decode_picture
from indexer.query import Query
from model.files import DEFAULT_WEIGHTS
from perf.gallery import fill

CLIENTS = (1, 8, 64)
BATCH = 8
PLACES = 64
LEAST_SHARE = 0.8
MOST_START_S = 5.0
MOST_GROWTH = 1.05
K = 20


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boxes", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("--folder", type=Path, help="where the gallery is; kept, and used again")
    options = parser.parse_args()
    load_s = _load_seconds(options.weights)
    branch = NetworkBranch.load(options.weights, "cpu")
    crops = _crops(64)
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name) / "gallery"
        if not (folder / "gallery.db").exists():
            fill(folder, options.boxes, (branch.weights_sha256, branch.preprocess_sha256))
        print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, {options.boxes} boxes")
        bare = _bare(branch, folder, crops, options.seconds)
        print(f"bare loop, batches of {BATCH}: {bare:.1f} searches/s")
        del branch
        with _served(folder, options.weights) as (port, process, start_s):
            beyond = start_s - load_s
            print(f"cold start {start_s:.1f} s; loading the network alone {load_s:.1f} s")
            failed = beyond > MOST_START_S
            for clients in CLIENTS:
                codes, times, rate = _ask(port, crops, clients, options.seconds)
                p50, p99 = (1e3 * np.percentile(times, share) for share in (50, 99))
                share = rate / bare
                print(
                    f"{clients:3d} clients: {rate:6.1f} requests/s ({share:.2f} of the loop), "
                    f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, {dict(codes)}"
                )
                failed |= clients == BATCH and share < LEAST_SHARE
            before = _memory_mb(process.pid)
            codes, times, rate = _ask(port, crops, 4 * PLACES, options.seconds)
            p99 = 1e3 * np.percentile(times, 99)
            print(
                f"overload, {4 * PLACES} clients: {rate:.1f} answered/s, p99 {p99:.0f} ms, "
                f"{dict(codes)}; memory {before:.0f} to {_memory_mb(process.pid):.0f} MB"
            )
            failed |= set(codes) != {200, 429}
            before = _memory_mb(process.pid)
            codes, _, _ = _ask(port, crops, BATCH, None, options.requests)
            growth = _memory_mb(process.pid) / before
            print(f"{sum(codes.values())} requests: memory x {growth:.3f}")
            failed |= growth > MOST_GROWTH
    return int(failed)


def _load_seconds(weights: Path) -> float:
    """Return how long a process takes that does nothing but load the network."""
    code = "import sys; from indexer.branch import NetworkBranch; NetworkBranch.load(sys.argv[1])"
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, str(weights)], check=True)
    return time.perf_counter() - begun


def _crops(count: int) -> list[bytes]:
    rng, crops = np.random.default_rng(0), []
    for _ in range(count):
        cells = Image.fromarray(rng.integers(0, 256, (8, 4, 3), dtype=np.uint8))
        file = io.BytesIO()
        cells.resize((64, 160), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
        crops.append(file.getvalue())
    return crops


def _bare(branch: NetworkBranch, folder: Path, crops: list[bytes], seconds: float) -> float:
    """Return the loop's searches per second."""
    done = 0
    with Gallery.open(folder) as gallery:
        gallery.view()
        for warm in (True, False):
            end, begun = time.perf_counter() + (1 if warm else seconds), time.perf_counter()
            done = 0
            while time.perf_counter() < end:
                batch = [crops[(done + i) % len(crops)] for i in range(BATCH)]
                vectors = branch.embed_crops(
                    [decode_picture(data, Limits()).pixels for data in batch]
                )
                for vector in vectors:
                    gallery.search(Query(vector[None]), K)
                done += BATCH
    return done / (time.perf_counter() - begun)


@contextlib.contextmanager
def _served(folder: Path, weights: Path) -> Iterator[tuple[int, subprocess.Popen[bytes], float]]:
    """Start the service; gives its port, its process, and how long it took to be ready."""
    port = 18_000 + os.getpid() % 2000
    command = [sys.executable, "-m", "binet", "serve", "--gallery", str(folder)]
    command += ["--weights", str(weights), "--port", str(port), "--rate", "1000000/second"]
    begun = time.perf_counter()
    process = subprocess.Popen([*command, "--queue", str(PLACES)], stderr=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 200:
                    break
            if process.poll() is not None:
                raise SystemExit("the service has ended: see `binet serve`")
            time.sleep(0.05)
        yield port, process, time.perf_counter() - begun
    finally:
        process.terminate()
        process.wait(60)


def _ask(
    port: int, crops: list[bytes], clients: int, seconds: float | None, requests: int = 0
) -> tuple[Counter[int], list[float], float]:
    """Ask for a time or a number of requests; statuses, seconds of the answers, answers/s."""
    end = None if seconds is None else time.perf_counter() + seconds
    codes: Counter[int] = Counter()
    times: list[float] = []
    lock = threading.Lock()
    left = [requests]
    boundary = uuid.uuid4().hex

    def body(data: bytes) -> bytes:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="crop"; filename="c"\r\n\r\n'
        return head.encode() + data + f"\r\n--{boundary}--\r\n".encode()

    bodies = [body(data) for data in crops]
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        turn = number
        while True:
            with lock:
                if end is None:
                    if left[0] <= 0:
                        return
                    left[0] -= 1
                elif time.perf_counter() >= end:
                    return
            begun = time.perf_counter()
            connection.request("POST", "/v1/search", bodies[turn % len(bodies)], headers)
            answer = connection.getresponse()
            answer.read()
            took = time.perf_counter() - begun
            turn += clients
            with lock:
                codes[answer.status] += 1
                if answer.status == 200:
                    times.append(took)
            if answer.status == 429:
                # A client that is told to wait waits, though not as long as it is told.
                time.sleep(0.2)

    begun = time.perf_counter()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return codes, times, len(times) / (time.perf_counter() - begun)


def _memory_mb(pid: int) -> float:
    status = (Path("/proc") / str(pid) / "status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
