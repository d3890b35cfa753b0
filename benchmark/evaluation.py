"""A network and a dataset in, a report out."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmark.detection import evaluate_detection
from benchmark.errors import BenchmarkError
from benchmark.features import Features, FeatureSettings, compute_features, searched_scenes
from benchmark.galleries import Galleries, only_bare_crops, open_galleries, rule_name
from benchmark.people import People
from benchmark.report import (
    METRICS,
    BoxKind,
    BranchKind,
    Detection,
    Measured,
    Outcomes,
    QueryKind,
    QueryOutcome,
    Report,
    Result,
    ResultKey,
)
from benchmark.reranking import Context, query_context
from benchmark.scores import calibration, collect_scores, curves, open_set, recall_by_group
from benchmark.search import NEVER, SearchResult, SearchRules, evaluate_search, rank_queries
from benchmark.statistics import mean_interval
from benchmark.through_gallery import through_gallery
from benchmark.timing import time_stages
from model import InferenceOptions, load, optimise
from model.checkpoint import read_config
from model.config import VARIANTS, BINetConfig, variant_config
from model.detections import FloatArray
from model.files import cache_folder
from model.provenance import environment
from training.datasets.dataset import Dataset
from training.datasets.protocol import RetrievalProtocol

BRANCH_OF: dict[QueryKind, BranchKind] = {"scene": "search", "crop": "instance"}
MATCH_RULE = (
    "in a picture that shows the person, the most similar detection with an overlap of at least "
    "min(0.5, wh / ((w + 10)(h + 10))) is right, all others are wrong"
)


@dataclass(frozen=True)
class RunOptions:
    """What the user chose.

    Attributes
    ----------
    query, boxes, branch, gallery_size, cross_camera
        The headline: the row that pictures, curves and the other analyses are made of.
    both_branches
        Also measure the instance-aware branch on the gallery, where it is not the headline.
    through_gallery
        Also ask a gallery the headline's queries; it has to give the same numbers.
    precision
        `float32` or `bfloat16`; BatchNorm is folded and channels come last in both.
    cache
        Where features are kept; the user's own cache folder when None.
    """

    query: QueryKind | None = None
    boxes: BoxKind = "detected"
    branch: BranchKind = "search"
    gallery_size: int | Literal["all"] | None = None
    cross_camera: bool = False
    both_branches: bool = False
    through_gallery: bool = False
    rules: SearchRules = field(default_factory=SearchRules)
    precision: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"
    workers: int = 2
    seed: int = 0
    cache: Path | None = None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A report, and what its pictures are drawn from.

    Attributes
    ----------
    protocol, people, queries, rules, context
        Of the headline: what `rank_queries` takes.
    """

    report: Report
    outcomes: Outcomes
    dataset: Dataset
    protocol: RetrievalProtocol
    people: People
    queries: FloatArray
    rules: SearchRules
    context: Context | None


def evaluate(
    weights: Path,
    dataset: Dataset,
    options: RunOptions,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Search the test part of a dataset in every mode that it has.

    Parameters
    ----------
    weights
        A checkpoint's folder.
    progress
        Is told how many of the scenes are done.

    Raises
    ------
    BINetError
        When weights, data or options cannot be used; the message says what to do.
    """
    sha256 = read_config(weights).sha256
    network = load(weights, options.device)[0]
    config = network.config
    provenance = network.provenance
    network = optimise(
        network,
        InferenceOptions(
            fold_batchnorm=True, channels_last=True, bfloat16=options.precision == "bfloat16"
        ),
    )
    if not dataset.test:
        raise BenchmarkError(f"{dataset.root}: there is no test part to search")
    galleries = open_galleries(dataset, options.gallery_size, options.cross_camera, options.seed)
    head = galleries.main[0]
    bare = only_bare_crops(dataset, [(q.scene, q.box_xyxy) for q in head.queries])
    if bare and options.query == "scene":
        raise BenchmarkError("--query scene: the queries are bare crops, without a scene")
    key = ResultKey(
        gallery=head.name,
        query=options.query or ("crop" if bare else "scene"),
        boxes=options.boxes,
        branch=options.branch,
    )
    if key.branch == "instance" and key.query == "scene":
        raise BenchmarkError(
            f"the headline {key} is not measured: with --branch instance the query is a crop"
        )
    settings = FeatureSettings(
        sha256,
        f"{options.precision}, folded, channels last, {options.device.partition(':')[0]}",
        options.rules.det_threshold,
        options.both_branches or options.branch == "instance",
    )
    features = compute_features(
        network,
        settings,
        dataset.test,
        galleries.all,
        options.cache or cache_folder() / "features",
        workers=options.workers,
        progress=progress,
    )
    kinds: list[QueryKind] = ["crop"] if bare else ["scene", "crop"]
    job = _Job(dataset, galleries, features, options, key, kinds)
    results, outcomes = job.results()
    detection, labelled = job.detection(False), job.detection(True)
    analyses = job.analyses()
    report = Report(
        name=f"{dataset.root.name}, {variant_of(config) or 'own'} {config.backbone}",
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset=_about_dataset(dataset, head, features),
        network={
            "sha256": sha256,
            "variant": variant_of(config),
            "backbone": config.backbone,
            "parameters": sum(p.numel() for p in network.parameters()),
            "temperature": config.temperature,
            "config": config.model_dump(mode="json"),
            "provenance": provenance,
        },
        environment={**environment(), "device": options.device, "command": command()},
        settings=_settings(options, config),
        headline=key,
        results=results,
        detection=detection,
        detection_labelled=labelled,
        recall_by=recall_by_group(
            job.searched, job.people_of_searched, options.rules.det_threshold
        ),
        sizes=job.sizes(),
        seconds=time_stages(network, job.searched),
        open_set=analyses["open_set"],
        calibration=analyses["calibration"],
        curves=analyses["curves"],
        through_gallery=job.through_gallery() if options.through_gallery else None,
    )
    people, queries, context = job.inputs(head, key)
    return Evaluation(report, outcomes, dataset, head, people, queries, job.rules(key), context)


class _Job:
    """One evaluation's data; each method is a part of the report."""

    def __init__(
        self,
        dataset: Dataset,
        galleries: Galleries,
        features: Features,
        options: RunOptions,
        headline: ResultKey,
        kinds: list[QueryKind],
    ) -> None:
        self.galleries, self.features, self.options = galleries, features, options
        self.headline, self.kinds = headline, kinds
        self._found: dict[ResultKey, SearchResult] = {}
        everywhere = np.any([searched_scenes(p) for p in galleries.main], axis=0)
        self.searched = [s for s, used in zip(dataset.test, everywhere, strict=True) if used]
        found = features.galleries["detected", "search"]
        rows = found.rows_of(np.flatnonzero(everywhere))
        self.people_of_searched = People(
            np.concatenate([[0], np.cumsum(found.counts[everywhere])]),
            found.boxes_xyxy[rows],
            found.scores[rows],
            found.embeddings[rows],
        )

    def keys(self) -> Iterator[tuple[RetrievalProtocol, ResultKey]]:
        """Every row of the table, the headline's gallery first."""
        boxes: list[BoxKind] = ["detected", "labelled"]
        for protocol in self.galleries.main:
            for box in boxes:
                for kind in self.kinds:
                    yield protocol, self._key(protocol, kind, box, "search")
                if ("detected", "instance") in self.features.galleries:
                    yield protocol, self._key(protocol, "crop", box, "instance")

    @staticmethod
    def _key(
        protocol: RetrievalProtocol, query: QueryKind, boxes: BoxKind, branch: BranchKind
    ) -> ResultKey:
        return ResultKey(gallery=protocol.name, query=query, boxes=boxes, branch=branch)

    def search(self, protocol: RetrievalProtocol, key: ResultKey) -> SearchResult:
        """Score one row; the curve shares some with the table."""
        if key not in self._found:
            people, queries, context = self.inputs(protocol, key)
            self._found[key] = evaluate_search(protocol, people, queries, self.rules(key), context)
        return self._found[key]

    def rules(self, key: ResultKey) -> SearchRules:
        """Give the rules of a row; who is around a bare crop is unknown, so CBGM is not for it."""
        rules = self.options.rules
        if key.query == "scene":
            return rules
        return SearchRules(rules.det_threshold, rules.duplicates, rules.scaled)

    def inputs(
        self, protocol: RetrievalProtocol, key: ResultKey
    ) -> tuple[People, FloatArray, Context | None]:
        """Give the people and queries of a row, and for CBGM who is around the queries."""
        people = self.features.galleries[key.boxes, key.branch]
        queries = self.features.of(protocol, BRANCH_OF[key.query])
        context = None
        if self.options.rules.cbgm and key.query == "scene":
            context = query_context(
                protocol, people.above(self.options.rules.det_threshold), queries
            )
        return people, queries, context

    def results(self) -> tuple[list[Result], Outcomes]:
        """Give the table, and the single queries of each row."""
        rows, outcomes = [], {}
        for protocol, key in self.keys():
            found = self.search(protocol, key)
            rows.append(self._row(protocol, key, found))
            outcomes[str(key)] = [
                QueryOutcome(ap=ap, rank=None if rank == NEVER else rank, true_boxes=true)
                for ap, rank, true in zip(
                    found.aps.tolist(), found.ranks.tolist(), found.true_boxes.tolist(), strict=True
                )
            ]
        return rows, outcomes

    def _row(self, protocol: RetrievalProtocol, key: ResultKey, found: SearchResult) -> Result:
        included, seed = found.included, self.options.seed
        values = {"mAP": found.aps[included]}
        for name in METRICS[1:]:
            values[name] = (found.ranks[included] < int(name.removeprefix("top"))).astype(float)
        intervals = {n: Measured(**mean_interval(v, seed).as_dict()) for n, v in values.items()}
        return Result(
            key=key,
            gallery_rule=rule_name(protocol),
            queries=len(protocol),
            excluded=np.flatnonzero(~included).tolist(),
            **intervals,
        )

    def detection(self, labelled_only: bool) -> Detection:
        """Give the metrics of detection over all pictures that are searched."""
        found = evaluate_detection(
            self.searched,
            self.people_of_searched,
            self.options.rules.det_threshold,
            labelled_only,
        )
        return Detection(recall=found.recall, ap=found.average_precision, precision=found.precision)

    def through_gallery(self) -> dict[str, Any]:
        """Give the headline's numbers as the gallery answers them."""
        protocol = self.galleries.main[0]
        people, queries, _ = self.inputs(protocol, self.headline)
        return through_gallery(protocol, people, queries, self.options.rules)

    def sizes(self) -> list[dict[str, Any]]:
        """Give mAP and top-1 by gallery size, for the curve."""
        rows = []
        for size, protocol in self.galleries.sizes.items():
            for kind in self.kinds:
                key = self._key(protocol, kind, self.headline.boxes, "search")
                found = self.search(protocol, key)
                rows.append(
                    {
                        "size": size,
                        "gallery": protocol.name,
                        "query": kind,
                        "boxes": key.boxes,
                        "mAP": found.mean_ap,
                        "top1": found.top(1),
                    }
                )
        return rows

    def analyses(self) -> dict[str, dict[str, Any]]:
        """Give open-set errors, calibration and curves for each kind of query."""
        parts: dict[str, dict[str, Any]] = {"open_set": {}, "calibration": {}, "curves": {}}
        protocol = self.galleries.main[0]
        for kind in self.kinds:
            if self.headline.branch == "instance" and kind == "scene":
                continue
            key = self._key(protocol, kind, self.headline.boxes, self.headline.branch)
            people, queries, context = self.inputs(protocol, key)
            rules = self.rules(key)
            scores = collect_scores(
                protocol,
                people.above(rules.det_threshold),
                rank_queries(protocol, people, queries, rules, context),
                rules.duplicates,
            )
            parts["open_set"][kind] = open_set(scores)
            parts["calibration"][kind] = calibration(scores, protocol, self.options.seed)
            parts["curves"][kind] = curves(scores)
        return parts


def variant_of(config: BINetConfig) -> str | None:
    """Name the system of the paper that a network is, whatever its backbone and sizes."""
    switches = sorted({name for fields in VARIANTS.values() for name in fields} - {"roi_size"})
    for name in VARIANTS:
        if all(
            getattr(config, switch) == getattr(variant_config(name), switch) for switch in switches
        ):
            return name
    return None


def command() -> list[str]:
    """Give the command line, of paths the last part only: a report may be passed on."""
    return [Path(word).name if "/" in word else word for word in sys.argv]


def _settings(options: RunOptions, config: BINetConfig) -> dict[str, Any]:
    rules = options.rules
    sizes = config.preprocessing
    return {
        "det_threshold": rules.det_threshold,
        "match_rule": MATCH_RULE,
        "duplicates_rule": rules.duplicates,
        "query_embedding": "at the true box: in its scene (scene query), or cut out (crop query)",
        "scaled_similarities": rules.scaled,
        "cbgm": list(rules.cbgm) if rules.cbgm else None,
        "score_threshold_nms_iou": config.detection_nms_iou,
        "precision": options.precision,
        "network_input": f"{sizes.min_side} to {sizes.max_side} px",
        "crop_input": f"{sizes.patch_size[0]}x{sizes.patch_size[1]} px",
        "torch_threads": torch.get_num_threads(),
        "seed": options.seed,
    }


def _about_dataset(dataset: Dataset, head: RetrievalProtocol, features: Features) -> dict[str, Any]:
    return {
        "name": dataset.root.name,
        "format": dataset.format,
        "scenes": int(searched_scenes(head).sum()),
        "true_boxes": sum(
            len(scene)
            for scene, used in zip(dataset.test, searched_scenes(head), strict=True)
            if used
        ),
        "queries": len(head),
        "people": len({query.pid for query in head.queries}),
        "sha256": features.sha256,
        "features_reused": features.reused,
    }
