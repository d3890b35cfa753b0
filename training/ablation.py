"""The paper's tables in miniature: systems, context bias and seeds, trained and searched.

Every run is a folder that can be resumed; what is finished is not done again.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch

from model import BINet, Detections
from model.detections import FloatArray
from training.datasets.opening import open_dataset, open_protocol
from training.loop import train
from training.recipe import Recipe, load_recipe
from training.synth.plan import SynthConfig
from training.synth.write import write_world
from training.validation import (
    Boxes,
    Branch,
    embed_as_crops,
    embed_queries,
    embed_scenes,
    recall,
    search_metrics,
)

RECIPE = "ablation"
#: The tables' own systems first, so that a run that is cut short holds what matters most.
MAIN = ("baseline", "siamese", "binet")
DIRECTIONS = ("binet-1", "binet-2", "binet-3", "binet-4")
SYSTEMS = (*MAIN, *DIRECTIONS)
#: Context bias of the drawn worlds, by the world's name.
BIASES = {"bias0.9": 0.9, "bias0": 0.0}
#: Name of the one world that is the user's own data.
OWN = "own"
#: What is searched with, what is searched, as the report calls it: query and gallery branch.
MODES: dict[str, tuple[Branch, Branch]] = {
    "scene query": ("search", "search"),
    "crop query": ("instance", "search"),
    "instance branch": ("instance", "instance"),
}
BOXES: tuple[Boxes, ...] = ("detected", "labelled")
METRICS = "metrics.json"


@dataclass(frozen=True)
class Run:
    """One training."""

    system: str
    world: str
    seed: int

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.system}-{self.world}-seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """Which runs there are, and how.

    Attributes
    ----------
    out
        Worlds, runs, and the report.
    backbone_weights
        See `model.create`.
    settings
        `key=value` for the recipe.
    data
        A dataset to train and search on; drawn worlds without it.
    systems
        Which are compared.
    drawn
        What the worlds are like, apart from seed and bias.
    """

    out: Path
    backbone_weights: str
    seeds: int = 3
    settings: tuple[str, ...] = ()
    data: Path | None = None
    systems: tuple[str, ...] = SYSTEMS
    drawn: SynthConfig = field(default_factory=SynthConfig)

    @property
    def worlds(self) -> list[str]:
        """Names of what is trained and searched on."""
        return [OWN] if self.data else list(BIASES)

    def runs(self) -> list[Run]:
        """All of them, those of the main table first."""
        main = [system for system in self.systems if system in MAIN]
        others = [system for system in self.systems if system not in MAIN]
        return [
            Run(system, world, seed)
            for systems in (main, others)
            for world, seed, system in product(self.worlds, range(self.seeds), systems)
        ]

    def recipe(self, run: Run) -> Recipe:
        """Give the recipe of a run."""
        fixed = (f'backbone_weights="{self.backbone_weights}"', f"seed={run.seed}")
        return load_recipe(f"{RECIPE}/{run.system}", [*self.settings, *fixed])

    def world_of(self, run: Run) -> Path:
        """Give the folder of a run's data: one for each bias and seed, or the user's."""
        return self.data or self.out / "worlds" / f"{run.world}-seed{run.seed}"

    def metrics_of(self, run: Run) -> dict[str, float] | None:
        """Give what a run measured, None before it is finished."""
        path = self.out / "runs" / run.name / METRICS
        return json.loads(path.read_text()) if path.is_file() else None


def run_all(plan: Plan, jobs: int) -> Iterator[Run]:
    """Do what is not done yet, in `jobs` processes of one thread each; yield the finished runs."""
    plan.out.mkdir(parents=True, exist_ok=True)
    waiting = [run for run in plan.runs() if plan.metrics_of(run) is None]
    for run in waiting if plan.data is None else []:
        _make_world(plan, run)
    # Forked children of a process with threads can hang.
    with ProcessPoolExecutor(
        jobs, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        futures = {pool.submit(do_run, plan, run): run for run in waiting}
        for future in as_completed(futures):
            future.result()
            yield futures[future]


def _make_world(plan: Plan, run: Run) -> None:
    """Worlds of one seed differ in the surroundings of the training part alone."""
    folder = plan.world_of(run)
    if not folder.exists():
        bias = BIASES[run.world]
        write_world(folder, "prw", replace(plan.drawn, seed=run.seed, context_bias=bias))


def do_run(plan: Plan, run: Run) -> None:
    """Train and measure; go on where an earlier attempt ended."""
    folder = plan.out / "runs" / run.name
    dataset = open_dataset(plan.world_of(run))
    network = train(
        plan.recipe(run),
        dataset.train,
        dataset.num_pids,
        folder,
        resume=(folder / "recipe.json").is_file(),
    )
    path = folder / METRICS
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(measure(network, plan.world_of(run))) + "\n")
    temporary.replace(path)


def measure(network: BINet, world: Path) -> dict[str, float]:
    """Search the test part in every mode.

    Returns
    -------
    dict
        `recall`, and mAP, top-1 and the standard error of mAP by `MODE, BOXES` names: `scene query,
        detected mAP`.
    """
    dataset = open_dataset(world)
    protocol = open_protocol(dataset)
    queries: dict[Branch, FloatArray] = {
        "search": embed_queries(network, dataset.test, protocol.queries, "search"),
        "instance": embed_queries(network, dataset.test, protocol.queries, "instance"),
    }
    # Pictures in no gallery are there for the queries alone.
    listed = sorted({i for q in range(len(protocol)) for i in protocol.entries(q)[0].tolist()})
    scenes = [dataset.test[i] for i in listed]

    def everywhere(found: list[Detections]) -> list[Detections]:
        gallery = [Detections.empty(network.config.embedding_dim)] * len(dataset.test)
        for place, people in zip(listed, found, strict=True):
            gallery[place] = people
        return gallery

    metrics: dict[str, float] = {}
    for boxes in BOXES:
        found = embed_scenes(network, scenes, boxes)
        galleries: dict[Branch, list[Detections]] = {
            "search": everywhere(found),
            "instance": everywhere(embed_as_crops(network, scenes, found)),
        }
        if boxes == "detected":
            metrics["recall"] = recall(scenes, found)
        for mode, (query, gallery) in MODES.items():
            search = search_metrics(protocol, galleries[gallery], queries[query])
            metrics[f"{mode}, {boxes} mAP"] = search.mean_ap
            metrics[f"{mode}, {boxes} top-1"] = search.top1
            metrics[f"{mode}, {boxes} error"] = search.standard_error
    return metrics
