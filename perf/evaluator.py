"""CPU seconds of the search evaluator at full size, beside a plain transcription of the protocol.

    python -m perf.evaluator                      # CUHK-SYSU at gallery 4000, and PRW
    python -m perf.evaluator --plain-queries 2900 # the plain one on every query

Cases are made from a seed: as many queries, pictures and detections as the real ones. The plain
evaluator is `training.validation.search_metrics`; it is run on the first queries and extrapolated,
and both must give the same on these. SeqNet's own evaluator took 163 and 181 CPU seconds for cases
of this size on a machine of two cores; the exit code is 1 when ours needs more than a fiftieth.
"""

import argparse
import resource
import sys
import time
from dataclasses import replace

import numpy as np

from benchmark.people import People
from benchmark.search import evaluate_search
from model import Detections
from model.detections import FloatArray
from training.datasets.protocol import ListedGallery, Query, RetrievalProtocol, RuleGallery
from training.validation import search_metrics

DIM = 256
#: CPU seconds of SeqNet's evaluator, measured once, and the share that is promised.
SEQNET_S = {"CUHK-SYSU, gallery 4000": 163.0, "PRW": 181.0}
MOST_SHARE = 1 / 50
MOST_MEMORY_GB = 2.0


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plain-queries", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    slow = False
    for name, make in (("CUHK-SYSU, gallery 4000", cuhk_sysu), ("PRW", prw)):
        protocol, found, queries = make(np.random.default_rng(options.seed))
        people = People.from_detections(found)
        started = time.process_time()
        result = evaluate_search(protocol, people, queries)
        ours = time.process_time() - started
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        some = first_queries(protocol, options.plain_queries)
        started = time.process_time()
        plain = search_metrics(some, found, queries[: len(some)])
        plain_s = (time.process_time() - started) * len(protocol) / len(some)
        same = abs(float(result.aps[: len(some)].mean()) - plain.mean_ap) < 1e-9
        share = ours / SEQNET_S[name]
        slow |= share > MOST_SHARE or memory > MOST_MEMORY_GB or not same
        print(f"{name}: {len(protocol)} queries, {len(people.scores)} detections")
        print(f"  ours {ours:.2f} CPU s, plain {plain_s:.0f} CPU s (from {len(some)} queries)")
        print(f"  1/{1 / share:.0f} of SeqNet's {SEQNET_S[name]:.0f} s")
        print(f"  1/{plain_s / ours:.0f} of the plain one's")
        print(f"  same result on these queries: {same}; peak memory so far {memory:.2f} GB")
    return int(slow)


def cuhk_sysu(
    rng: np.random.Generator,
) -> tuple[RetrievalProtocol, list[Detections], FloatArray]:
    """Make 2,900 queries with lists of 4,000 of 6,978 pictures, about two with the person."""
    scenes, size, count = 6978, 4000, 2900
    true, found = people_of(rng, scenes, 6.0)
    images = np.stack([rng.permutation(scenes)[:size] for _ in range(count)]).astype(np.int32)
    boxes = np.full((count, size, 4), np.nan, np.float32)
    for query in range(count):
        for place in range(int(rng.integers(1, 4))):
            boxes[query, place] = true[images[query, place]][0]
    ptr = np.arange(count + 1, dtype=np.int64) * size
    gallery = ListedGallery(ptr, images.ravel(), boxes.reshape(-1, 4))
    names = [f"s{i}.jpg" for i in range(scenes)]
    queries = [Query(f"q{i}.jpg", (0, 0, 50, 120), i) for i in range(count)]
    return RetrievalProtocol("TestG4000", names, queries, gallery), found, unit(rng, count)


def prw(rng: np.random.Generator) -> tuple[RetrievalProtocol, list[Detections], FloatArray]:
    """Make 2,057 queries in all of 6,112 pictures, 43 with the person."""
    scenes, per_query, count = 6112, 43, 2057
    true, found = people_of(rng, scenes, 5.6)
    images = np.stack([np.sort(rng.permutation(scenes)[:per_query]) for _ in range(count)])
    boxes = np.stack([[true[image][0] for image in row] for row in images.tolist()])
    ptr = np.arange(count + 1, dtype=np.int64) * per_query
    gallery = RuleGallery(
        "other-images",
        rng.integers(1, 7, scenes).astype(np.int32),
        ptr,
        images.ravel().astype(np.int32),
        boxes.reshape(-1, 4).astype(np.float32),
    )
    names = [f"c{i}.jpg" for i in range(scenes)]
    own = rng.integers(0, scenes, count).tolist()
    queries = [Query(names[image], (0, 0, 50, 120), i, 1) for i, image in enumerate(own)]
    return RetrievalProtocol("PRW", names, queries, gallery), found, unit(rng, count)


def people_of(
    rng: np.random.Generator, scenes: int, mean: float
) -> tuple[list[FloatArray], list[Detections]]:
    """Make true boxes of each scene, one at least, and detections of nine tenths of them."""
    true, found = [], []
    for _ in range(scenes):
        count = 1 + int(rng.poisson(mean - 1))
        corners = rng.uniform(0, 800, (count, 2))
        sides = rng.uniform(20, 60, (count, 1)) * np.array([[1.0, 2.5]])
        boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
        true.append(boxes)
        shifted = boxes + rng.normal(0, 3, boxes.shape).astype(np.float32)
        shifted[:, 2:] = np.maximum(shifted[:, 2:], shifted[:, :2] + 1)
        scores = np.where(rng.random(count) < 0.9, 0.9, 0.3).astype(np.float32)
        found.append(Detections(shifted, np.ones_like(scores), unit(rng, count)))
    return true, found


def unit(rng: np.random.Generator, count: int) -> FloatArray:
    """Make random unit vectors."""
    values: FloatArray = rng.standard_normal((count, DIM), dtype=np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values


def first_queries(protocol: RetrievalProtocol, count: int) -> RetrievalProtocol:
    """Keep the first queries of a protocol."""
    gallery = protocol.gallery
    ptr = gallery.ptr[: count + 1]
    last = int(ptr[-1])
    part = replace(
        gallery, ptr=ptr, images=gallery.images[:last], boxes_xyxy=gallery.boxes_xyxy[:last]
    )
    return replace(protocol, queries=protocol.queries[:count], gallery=part)


if __name__ == "__main__":
    sys.exit(main())
