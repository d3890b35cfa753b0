"""Is the network kept busy by `binet index`? Frames per second against a bare loop; peak memory.

    python -m perf.indexing                                      # a clip made for it
    python -m perf.indexing --video street.mp4 --frames 200 --weights runs/small/final

The bare loop has the same frames in memory and does nothing but prepare and detect them, in batches
of the same size. The pipeline starts from the file and ends with rows on disk. Both run twice in
turn, and the better of each counts. Memory is the highest resident size of a process that indexes
a quarter of the clip, and of one that indexes all of it. Exit code 1: below 0.9 of the bare loop,
or more than a tenth more memory for four times the length.

The processes that decode import this module as well: what only a measurement needs it imports late.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from indexer.decode_protocol import Pixels
from indexer.video import number_frames

if TYPE_CHECKING:
    from indexer.branch import NetworkBranch

LEAST_RATIO = 0.9
MOST_GROWTH = 1.1
ROUNDS = 2
PARTS = 4


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--video", type=Path, help="without it, a clip of 768x576 is made")
    parser.add_argument("--weights", type=Path, help="without it, MobileNetV2 at random")
    parser.add_argument("--frames", type=int, default=96, help="of the video")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        weights, clip = options.memory_of
        return _index_for_memory(Path(weights), Path(clip), options.batch)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = options.weights or _random_weights(folder / "weights")
        clip = cut(options.video, folder / "clip.mkv", options.frames)
        return _measure(weights, clip, options.batch, folder)


def _measure(weights: Path, clip: Path, batch: int, folder: Path) -> int:
    import torch

    from indexer.branch import NetworkBranch
    from indexer.gallery import Gallery
    from indexer.indexing import index_sources
    from indexer.work import IndexOptions

    branch = NetworkBranch.load(weights)
    frames = [frame.pixels() for frame in number_frames(str(clip))]
    torch_alone = _torch_loop(weights, frames[: 4 * batch])
    _bare(branch, frames[:batch], batch)
    bare, piped = [], []
    report: dict[str, object] = {}
    for number in range(ROUNDS):
        bare.append(len(frames) / _bare(branch, frames, batch))
        with Gallery.open(folder / f"gallery{number}", create=True) as gallery:
            report = index_sources(gallery, branch, [clip], IndexOptions(batch=batch)).report
            boxes = gallery.stats().boxes
        piped.append(float(str(report["frames_per_s"])))
    count = len(frames)
    height, width = frames[0].shape[:2]
    del frames
    ratio = max(piped) / max(bare)
    print(f"{width}x{height}, batch {batch}, torch {torch.__version__}, "
          f"{torch.get_num_threads()} threads, {boxes} boxes")  # fmt: skip
    print(f"bare loop {max(bare):.2f} frames/s, decode to commit {max(piped):.2f}: {ratio:.2f} "
          f"of it (promised {LEAST_RATIO})")  # fmt: skip
    print(f"the same network in torch alone {torch_alone:.2f} frames/s: the bare loop is "
          f"{max(bare) / torch_alone:.2f} times as fast")  # fmt: skip
    print(f"the network was busy {float(str(report['network_busy_share'])):.0%} of the time")
    short = cut(clip, folder / "short.mkv", count // PARTS)
    once, often = (_memory(weights, one, batch) for one in (short, clip))
    growth = often / once
    print(f"peak memory {once:.0f} MB, of {PARTS} times the length {often:.0f} MB: {growth:.2f}")
    return int(ratio < LEAST_RATIO or growth > MOST_GROWTH)


def _bare(branch: "NetworkBranch", frames: list[Pixels],
          batch: int) -> float:  # fmt: skip
    begun = time.perf_counter()
    for start in range(0, len(frames), batch):
        branch.detect([branch.prepare(frame) for frame in frames[start : start + batch]])
    return time.perf_counter() - begun


def _torch_loop(weights: Path, frames: list[Pixels]) -> float:
    """Frames per second of the network without ONNX Runtime, which `NetworkBranch` may use."""
    from model import InferenceOptions, load, optimise

    network = optimise(load(weights)[0], InferenceOptions(fold_batchnorm=True, channels_last=True))
    times = []
    for _ in range(1 + ROUNDS):
        begun = time.perf_counter()
        for frame in frames:
            network.detect([network.preprocessing.scene(frame)])
        times.append(time.perf_counter() - begun)
    return len(frames) / min(times)


def _memory(weights: Path, clip: Path, batch: int) -> float:
    """Peak of a fresh process, decoders not counted, in MB."""
    arguments = ["--memory-of", str(weights), str(clip), "--batch", str(batch)]
    done = subprocess.run(
        [sys.executable, "-m", "perf.indexing", *arguments],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return float(done.stdout) / 1024


def _index_for_memory(weights: Path, clip: Path, batch: int) -> int:
    from indexer.branch import NetworkBranch
    from indexer.gallery import Gallery
    from indexer.indexing import index_sources
    from indexer.work import IndexOptions

    branch = NetworkBranch.load(weights)
    with tempfile.TemporaryDirectory() as name, Gallery.open(name, create=True) as gallery:
        index_sources(gallery, branch, [clip], IndexOptions(batch=batch))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return 0


def _random_weights(folder: Path) -> Path:
    from model import create, save, variant_config

    config = variant_config("binet", num_pids=10, backbone="mobilenet_v2")
    network, _ = create(config, "random")
    save(network.eval(), folder)
    return folder


def cut(video: Path | None, path: Path, count: int) -> Path:
    """Write so many frames of a video, or of moving noise and shapes, losslessly."""
    import av

    pictures = (
        _drawn(count)
        if video is None
        else (f.pixels() for f in islice(number_frames(str(video)), count))
    )
    with av.open(str(path), "w") as container:
        stream = None
        for pixels in pictures:
            if stream is None:
                stream = container.add_stream("mpeg4", rate=10)
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode())
    return path


def _drawn(count: int) -> Iterator[Pixels]:
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 200, (9, 12, 3), np.uint8).repeat(64, 0).repeat(64, 1)
    for number in range(count):
        picture = ground.copy()
        for person in range(6):
            left = (person * 120 + number * 5) % 700
            picture[200 + 20 * person : 330 + 20 * person, left : left + 44] = 40 * person
        yield picture


if __name__ == "__main__":
    sys.exit(main())
