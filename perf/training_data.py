"""Does reading and augmenting the pictures hold the training up? Shares of the step time.

    python -m perf.training_data                                  # a drawn world, recipe cpu-small
    python -m perf.training_data --recipe prw --data PRW --steps 20 --set workers=4

Two shares are printed: what the training loop waited for data (what counts), and what reading alone
takes when nothing else runs (what the wait would be without reading ahead). A run of the real loop,
in a folder that is thrown away. Exit code 1 when the wait is above 5 % of the step time.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from model import Preprocessing
from training.augment import Augment
from training.batches import BatchStream, TrainingData, loader
from training.datasets.opening import open_dataset
from training.loop import train
from training.recipe import Recipe, load_recipe
from training.record import LOG
from training.synth.plan import SynthConfig
from training.synth.write import write_world

#: What the repository promises for the recipe cpu-small.
MOST_SHARE = 0.05
#: The first steps build caches and start workers.
WARM_UP = 3


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="cpu-small")
    parser.add_argument("--data", type=Path, help="a dataset's folder; a drawn world without it")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    options = parser.parse_args()
    fixed = [f"steps={options.steps + WARM_UP}", "log_every=1", "backbone_weights=random"]
    recipe = load_recipe(options.recipe, [*options.settings, *fixed])
    with tempfile.TemporaryDirectory() as name:
        data = options.data or Path(name) / "world"
        if not options.data:
            write_world(data, "prw", SynthConfig())
        waits, steps = _train(recipe, data, Path(name) / "run")
        alone = _read_alone(recipe, data, options.steps)
    wait, step = statistics.median(waits), statistics.median(steps)
    share = sum(waits) / sum(steps)
    print(f"recipe {options.recipe}, {options.steps} steps, {recipe.workers} workers")
    print(f"step {1000 * step:.0f} ms, of which waited for data {1000 * wait:.1f} ms (medians)")
    print(f"waited for data: {share:.2%} of all step time, promised at most {MOST_SHARE:.0%}")
    print(f"reading alone: {1000 * alone:.1f} ms a batch, {alone / step:.2%} of a step")
    return int(share > MOST_SHARE)


def _train(recipe: Recipe, data: Path, out: Path) -> tuple[list[float], list[float]]:
    """Seconds of waiting and of the whole step, for each step after the warm-up."""
    dataset = open_dataset(data)
    train(recipe, dataset.train, dataset.num_pids, out)
    lines = [json.loads(line) for line in (out / LOG).read_text().splitlines()][WARM_UP:]
    return [line["data_s"] for line in lines], [line["step_s"] for line in lines]


def _read_alone(recipe: Recipe, data: Path, batches: int) -> float:
    """Seconds a batch takes in one process that does nothing else."""
    scenes = open_dataset(data).train
    preprocessing = Preprocessing(recipe.network_config(1).preprocessing)
    augment = Augment(recipe.augmentation, recipe.seed)
    stream = BatchStream(len(scenes), recipe.batch_size * recipe.accumulation, recipe.seed)
    reader = iter(loader(TrainingData(scenes, [], preprocessing, augment), stream, workers=0))
    next(reader)
    started = time.perf_counter()
    for _ in islice(reader, batches):
        pass
    return (time.perf_counter() - started) / batches


if __name__ == "__main__":
    sys.exit(main())
