"""What an archive of 10^6, 10^8 or 10^10 boxes needs; skewed cameras, and nodes that are lost.

    python -m perf.scale_plan

Sizes follow by formula from constants that other scripts have measured (CONSTANTS names them).
What happens to shards and indexers under skew and losses is simulated from fixed seeds. The tables
of docs/scale.md are this script's output, and a test holds them to it.
"""

import heapq
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Constant:
    """A figure and where it comes from."""

    value: float
    unit: str
    source: str


CONSTANTS = {
    "memory": Constant(544, "bytes a box in memory, exact index", "perf.gallery, 1 M boxes"),
    "tier": Constant(64, "bytes a box more with `--fast`", "perf.search, 100 k boxes"),
    "hnsw": Constant(
        1950, "bytes a box in Milvus 2.3.5, HNSW", "one server, 1 M boxes, resident size"
    ),
    "disk": Constant(643, "bytes a box in SQL, 4 people in a frame", "perf.service, 1 M boxes"),
    "scan": Constant(26e-9, "seconds a box and search, two cores", "perf.gallery, 1 M boxes"),
    "open": Constant(1.4e-6, "seconds a box to start from a snapshot", "perf.gallery, 1 M boxes"),
    "write": Constant(10_600, "boxes a second written into SQLite", "perf.service, 1 M boxes"),
    "cpu": Constant(
        11.0, "frames/s of two cores, the CPU network, 768x576", "perf.indexing: 11.07"
    ),
    "gpu": Constant(
        12.5, "frames/s of a GTX 1080 Ti, ResNet-50, 900x1500", "the paper's Table 8; not ours"
    ),
}

#: Assumed, not measured: each archive has its own.
PEOPLE = 4.0
SEARCH_S = 0.1
NODE_GB = 256.0
#: Of a node's memory for vectors; the rest is for growth and the system.
USED = 0.7
REPLICAS = 2
DAYS = 30.0

CAMERAS = 10_000
SHARDS = 64
ROUNDS = 200


def main() -> int:
    """Print the tables."""
    for line in [*constants(), "", *sizes(), "", *skew(), "", *losses(), "", *indexing()]:
        print(line)
    return 0


def constants() -> Iterator[str]:
    """Give the table of what was measured."""
    yield "| constant | value | measured by |"
    yield "|---|---|---|"
    for constant in CONSTANTS.values():
        yield f"| {constant.unit} | {constant.value:g} | {constant.source} |"


def sizes() -> Iterator[str]:
    """Give the table of sizes."""
    c = {name: constant.value for name, constant in CONSTANTS.items()}
    boxes = [10.0**power for power in (6, 8, 10)]
    node = NODE_GB * 1e9 * USED
    rows: list[tuple[str, list[str]]] = [
        ("frames with people", [_count(n / PEOPLE) for n in boxes]),
        ("SQL on disk", [_bytes(n * c["disk"]) for n in boxes]),
        ("exact index in memory", [_bytes(n * c["memory"]) for n in boxes]),
        ("one search of everything, exact, two cores", [_seconds(n * c["scan"]) for n in boxes]),
        (
            f"two-core shards for {SEARCH_S:g} s, exact",
            [_count(max(1, np.ceil(n * c["scan"] / SEARCH_S))) for n in boxes],
        ),
        ("start from a snapshot, one process", [_seconds(n * c["open"]) for n in boxes]),
        ("Milvus, HNSW, in memory", [_bytes(n * c["hnsw"]) for n in boxes]),
        (
            f"its nodes of {NODE_GB:g} GB, {REPLICAS} replicas",
            [_count(max(REPLICAS, np.ceil(REPLICAS * n * c["hnsw"] / node))) for n in boxes],
        ),
        (
            f"two-core machines that index it in {DAYS:g} days",
            [_count(max(1, np.ceil(n / PEOPLE / c["cpu"] / DAYS / 86400))) for n in boxes],
        ),
        (
            "GPUs like the paper's for that",
            [_count(max(1, np.ceil(n / PEOPLE / c["gpu"] / DAYS / 86400))) for n in boxes],
        ),
        ("days of writing, one writer", [f"{n / c['write'] / 86400:.2g}" for n in boxes]),
    ]
    yield "| | 10^6 boxes | 10^8 boxes | 10^10 boxes |"
    yield "|---|---|---|---|"
    for name, values in rows:
        yield f"| {name} | {' | '.join(values)} |"


def skew() -> Iterator[str]:
    """Give the table of how even shards are, and how many of them a filter asks."""
    rng = np.random.default_rng(0)
    load = _camera_loads()
    days = 30
    by_camera = np.bincount(rng.integers(0, SHARDS, CAMERAS), load, SHARDS)
    of_day = rng.integers(0, SHARDS, (CAMERAS, days))
    by_day = np.bincount(of_day.ravel(), np.repeat(load / days, days), SHARDS)
    asked = np.mean([len(np.unique(of_day[camera, :7])) for camera in range(CAMERAS)])
    yield f"| {SHARDS} shards by | fullest shard, of the mean | shards asked for a camera's week |"
    yield "|---|---|---|"
    yield f"| camera | {by_camera.max() / by_camera.mean():.1f} | 1 |"
    yield f"| camera and day | {by_day.max() / by_day.mean():.1f} | {asked:.1f} |"
    yield f"| box | 1.0 | {SHARDS} |"


def losses() -> Iterator[str]:
    """Give the table of what cannot be found while nodes are away."""
    rng = np.random.default_rng(0)
    yield "| nodes lost, of 64 | 1 replica | 2 replicas | 3 replicas |"
    yield "|---|---|---|---|"
    for lost in (1, 2, 6):
        cells = []
        for replicas in (1, 2, 3):
            shares = []
            for _ in range(ROUNDS):
                away = np.zeros(SHARDS, np.bool_)
                away[rng.choice(SHARDS, lost, replace=False)] = True
                homes = np.array(
                    [rng.choice(SHARDS, replicas, replace=False) for _ in range(SHARDS)]
                )
                shares.append(away[homes].all(axis=1).mean())
            cells.append(f"{100 * np.mean(shares):.2g} %")
        yield f"| {lost} | {' | '.join(cells)} |"


def indexing() -> Iterator[str]:
    """Give the table of how long indexing takes beside the ideal."""
    hours = np.random.default_rng(0).lognormal(0.0, 0.7, 2000)
    workers = 32
    ideal = hours.sum() / workers
    fixed = np.bincount(np.arange(len(hours)) % workers, hours, workers).max()
    camera = np.random.default_rng(1).choice(200, len(hours), p=_camera_loads(200))
    grouped = np.bincount(camera % workers, hours, workers).max()
    yield "| 2,000 clips, 32 workers | time, of the ideal |"
    yield "|---|---|"
    yield f"| clips dealt out ahead, by camera | {grouped / ideal:.2f} |"
    yield f"| clips dealt out ahead, in turn | {fixed / ideal:.2f} |"
    yield f"| leases, nobody lost | {_leased(hours, workers, 0) / ideal:.2f} |"
    for lost in (1, 8):
        left = hours.sum() / (workers - lost / 2)
        took = _leased(hours, workers, lost)
        yield f"| leases, {lost} lost half way; of the ideal of those left | {took / left:.2f} |"


def _leased(hours: Floats, workers: int, lost: int) -> float:
    """Return when the last clip is done; the first workers end half way, as do their clips."""
    half = hours.sum() / workers / 2
    lease = 60 / 3600
    free = [(0.0, worker) for worker in range(workers)]
    clips: list[float] = hours[::-1].tolist()
    given_back: list[tuple[float, float]] = []
    end = 0.0
    while clips or given_back:
        now, worker = heapq.heappop(free)
        back = next((i for i, (when, _) in enumerate(given_back) if when <= now), None)
        if back is not None:
            clip = given_back.pop(back)[1]
        elif clips:
            clip = clips.pop()
        else:
            heapq.heappush(free, (min(when for when, _ in given_back), worker))
            continue
        if worker < lost and now + clip > half:
            # What it has committed stays; the rest waits for the end of its lease.
            given_back.append((max(half, now) + lease, clip - max(half - now, 0.0)))
            continue
        end = max(end, now + clip)
        heapq.heappush(free, (now + clip, worker))
    return end


def _camera_loads(cameras: int = CAMERAS) -> Floats:
    """Return each camera's share of all people: the n-th busiest has 1/n of the busiest."""
    load = 1 / np.arange(1, cameras + 1)
    shares: Floats = load / load.sum()
    return shares


def _bytes(value: float) -> str:
    return f"{value / 1e12:.3g} TB" if value >= 1e12 else f"{value / 1e9:.3g} GB"


def _seconds(value: float) -> str:
    return f"{1e3 * value:.0f} ms" if value < 1 else f"{value:,.1f} s"


def _count(value: float) -> str:
    return f"{value:.2g}".replace("e+0", " x 10^") if value >= 1e6 else f"{int(value):,}"


if __name__ == "__main__":
    sys.exit(main())
