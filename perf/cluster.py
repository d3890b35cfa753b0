"""How much faster do two Ray workers index than one? Frames per second, in one run.

    python -m perf.cluster --gallery postgresql+psycopg://postgres@127.0.0.1:5432/postgres
    python -m perf.cluster --gallery ... --video street.mp4 --frames 400

Needs an empty database; its tables are dropped between the runs. A cluster on this machine
has one node with half of the cores, then two with half of them each; before both, one process
without Ray has half of the cores too. The clips are cut before the clock starts, and the
time of an actor's start is not counted: it runs from the first committed batch to the last.
"""

import argparse
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import create_engine, text

from indexer import cluster
from indexer.branch import NetworkBranch
from indexer.gallery import Gallery
from indexer.indexing import index_sources, leading
from indexer.limits import Limits
from indexer.work import IndexOptions
from model.files import DEFAULT_WEIGHTS
from perf.indexing import cut


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gallery", required=True, help="an empty PostgreSQL database")
    parser.add_argument("--video", type=Path, help="without it, a clip of 768x576 is made")
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("--frames", type=int, default=64, help="of each of four clips")
    given = parser.parse_args()
    cores = max((os.cpu_count() or 2) // 2, 1)
    torch.set_num_threads(cores)
    with tempfile.TemporaryDirectory() as name:
        clips = []
        for number in range(4):
            clip = cut(given.video, Path(name) / f"{number}.mkv", given.frames + number)
            clips.append(clip)
        load = partial(NetworkBranch.load, str(given.weights.absolute()), "cpu", "float32")
        options = IndexOptions(workers=1)
        print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, {cores} for each worker")
        alone = _alone(given.gallery, load, clips, options)
        print(f"one process: {alone:.2f} frames/s")
        rates = [
            _on_cluster(given.gallery, load, clips, options, workers, cores) for workers in (1, 2)
        ]
    for workers, rate in zip((1, 2), rates, strict=True):
        print(f"{workers} Ray workers: {rate:.2f} frames/s, {rate / alone:.2f} of one process")
    print(f"two workers over one: x {rates[1] / rates[0]:.2f}")
    return 0


def _alone(url: str, load: Any, clips: list[Path], options: IndexOptions) -> float:
    _clear(url)
    branch = load()
    with Gallery.open(url, create=True) as gallery:
        done = index_sources(gallery, branch, clips, options)
    rate: float = done.report["frames_per_s"]
    return rate


def _on_cluster(
    url: str, load: Any, clips: list[Path], options: IndexOptions, workers: int, cores: int
) -> float:
    from ray.cluster_utils import Cluster

    _clear(url)
    nodes: Any = Cluster()
    for _ in range(workers):
        nodes.add_node(num_cpus=cores, include_dashboard=False, object_store_memory=10**8)
    ray = cluster.connect(nodes.address)
    marks: list[tuple[float, int]] = []
    try:
        with Gallery.open(url, create=True) as gallery:
            request = {"sources": [str(clip) for clip in clips]}
            with leading(gallery, clips, options, request, None, None, Limits()) as led:

                def show(*_: int) -> None:
                    marks.append((time.perf_counter(), gallery.stats().frames))

                cluster.index_on_cluster(gallery, url, led, options, ray, "cpu", load, show)
    finally:
        ray.shutdown()
        nodes.shutdown()
    begun = next(mark for mark in marks if mark[1])
    return (marks[-1][1] - begun[1]) / (marks[-1][0] - begun[0])


def _clear(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()


if __name__ == "__main__":
    sys.exit(main())
