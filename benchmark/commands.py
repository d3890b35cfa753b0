"""`binet benchmark`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from benchmark.evaluation import RunOptions
    from training.datasets.dataset import Dataset

app = typer.Typer(help="Score searches as the literature does.", no_args_is_help=True)

Weights = Annotated[Path, typer.Option(metavar="FOLDER", help="A checkpoint's folder.")]
Query = Annotated[
    Literal["scene", "crop"] | None,
    typer.Option(help="Headline: queries in their scene, or cut out. Scene where there is one."),
]
Boxes = Annotated[
    Literal["detected", "labelled"], typer.Option(help="Headline: boxes of the gallery.")
]
Branch = Annotated[
    Literal["search", "instance"],
    typer.Option(help="instance also embeds the gallery's people as crops (takes longer)."),
]
Rule = Annotated[
    Literal["oim", "seqnet"],
    typer.Option(help="A picture that a gallery lists twice: scored twice, or once."),
]
GallerySize = Annotated[
    str | None,
    typer.Option(metavar="N|all", help="Of gallery lists; 100, or the nearest, without it."),
]
CrossCamera = Annotated[bool, typer.Option("--cross-camera", help="Leave out the query's camera.")]
Threshold = Annotated[float, typer.Option(min=0, max=1, help="Least score of a detection.")]
Cbgm = Annotated[str | None, typer.Option(metavar="K1,K2", help="Re-rank by the people around.")]
Scaled = Annotated[
    bool, typer.Option("--scaled", help="Multiply similarities by detection scores.")
]
Precision = Annotated[
    Literal["float32", "bfloat16"], typer.Option(help="What the network computes in.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1; auto takes a GPU.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def score(
    arrays: Annotated[Path, typer.Argument(metavar="CASE.npz", help="Detections and queries.")],
    case: Annotated[Path, typer.Argument(metavar="CASE.json", help="Galleries.")],
    rule: Rule = "oim",
    gallery_size: GallerySize = None,
    det_threshold: Threshold = 0.5,
    cross_camera: CrossCamera = False,
    cbgm: Cbgm = None,
    scaled: Scaled = False,
) -> None:
    """Score saved detections; prints one JSON object, fractions, not per cent."""
    import json

    from benchmark.detection import evaluate_detection
    from benchmark.errors import BenchmarkError
    from benchmark.saved import read_case
    from benchmark.search import SearchRules, evaluate_search

    size = _size(gallery_size)
    rules = SearchRules(det_threshold, rule, scaled, _pair(cbgm) if cbgm else None)
    saved = read_case(arrays, case)
    if rules.cbgm and saved.context is None:
        raise BenchmarkError(f"--cbgm: {arrays} has no people around the queries (qctx_*)")
    number = None if size == "all" else size
    protocol = saved.protocol(number, size == "all", cross_camera)
    try:
        found = evaluate_search(
            protocol, saved.people, saved.query_embeddings, rules, saved.context
        )
    except ValueError as error:
        raise BenchmarkError(f"{arrays}: {error}") from error
    detection = {
        name: evaluate_detection(saved.scenes, saved.people, det_threshold, labelled)
        for name, labelled in (("detection", False), ("detection_labelled", True))
    }
    answer = {
        "protocol": protocol.name,
        "settings": {
            "rule": rule,
            "gallery_size": gallery_size,
            "det_threshold": det_threshold,
            "cross_camera": cross_camera,
            "cbgm": rules.cbgm,
            "scaled": scaled,
        },
        "queries": len(protocol),
        "excluded": [i for i, counts in enumerate(found.included.tolist()) if not counts],
        "mAP": found.mean_ap,
        **{f"top{k}": found.top(k) for k in (1, 5, 10)},
        "aps": found.aps.tolist(),
        **{
            name: {"recall": result.recall, "ap": result.average_precision}
            for name, result in detection.items()
        },
    }
    typer.echo(json.dumps(answer))


@app.command()
def run(
    weights: Weights,
    data: Annotated[Path, typer.Option(metavar="DIR", help="A dataset with a test part.")],
    out: Annotated[Path, typer.Option(metavar="REPORT", help="The report's folder.")],
    format: Annotated[  # noqa: A002
        Literal["cuhk-sysu", "prw", "coco"] | None,
        typer.Option(help="Format of the data; found out without it."),
    ] = None,
    query: Query = None,
    boxes: Boxes = "detected",
    branch: Branch = "search",
    gallery_size: GallerySize = None,
    cross_camera: CrossCamera = False,
    both_branches: Annotated[
        bool, typer.Option("--both-branches", help="Measure the instance branch beside it.")
    ] = False,
    through_gallery: Annotated[
        bool, typer.Option("--through-gallery", help="Ask a gallery too: same numbers, or fail.")
    ] = False,
    det_threshold: Threshold = 0.5,
    rule: Rule = "oim",
    scaled: Scaled = False,
    cbgm: Cbgm = None,
    precision: Precision = "float32",
    device: Device = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Threads that read pictures.")] = 2,
    seed: Annotated[int, typer.Option(help="Of bootstrap and drawn galleries.")] = 0,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where features are kept.")
    ] = None,
    no_pictures: Annotated[
        bool, typer.Option("--no-pictures", help="Show no people in the report.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Evaluate weights on a dataset and write a report: JSON, Markdown, HTML, plots, pictures."""
    from benchmark.evaluation import RunOptions
    from benchmark.search import SearchRules
    from training.datasets.opening import open_dataset

    options = RunOptions(
        query,
        boxes,
        branch,
        _size(gallery_size),
        cross_camera,
        both_branches,
        through_gallery,
        SearchRules(det_threshold, rule, scaled, _pair(cbgm) if cbgm else None),
        precision,
        _device(device),
        workers,
        seed,
        cache,
    )
    _run(weights, open_dataset(data, format), options, out, not no_pictures, as_json)


@app.command()
def local(
    weights: Weights,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Datasets and reports.")],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder with the real pictures.")
    ] = Path("../shared/data"),
    names: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Some of them: pets09_s2l1,prw_mini.")
    ] = None,
    query: Query = None,
    boxes: Boxes = "detected",
    branch: Branch = "search",
    det_threshold: Threshold = 0.5,
    precision: Precision = "float32",
    device: Device = "auto",
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Only make the datasets; weights are not used.")
    ] = False,
) -> None:
    """Evaluate weights on the real pictures that developers have; skip what is not there."""
    from benchmark.evaluation import RunOptions
    from benchmark.local import LOCAL, write_local
    from benchmark.search import SearchRules
    from training.datasets.opening import open_dataset

    options = RunOptions(
        query=query,
        boxes=boxes,
        branch=branch,
        rules=SearchRules(det_threshold),
        precision=precision,
        device=_device(device),
    )
    for name in names.split(",") if names else LOCAL:
        folder = write_local(name, data, out / name / "data")
        if folder is None:
            typer.echo(f"{name}: skipped, {data / LOCAL[name].folder} is not there")
        elif prepare:
            typer.echo(str(folder))
        else:
            _run(weights, open_dataset(folder), options, out / name / "report", True, False)


@app.command()
def crops(
    weights: Weights,
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="A dataset of crops, such as Market-1501's.")
    ],
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure the crop encoder as Market-1501 does: the same person by other cameras.

    The query is the first crop of each person and camera; all crops are the gallery. Crops of the
    same person by the same camera count neither way.
    """
    import json

    from benchmark.statistics import mean_interval
    from model import load
    from training.datasets.crops import read_crops
    from training.datasets.reid import measure_crops

    network, _ = load(weights, _device(device))
    found = measure_crops(network, *read_crops(data))
    intervals = {
        "mAP": mean_interval(found.average_precisions),
        "rank-1": mean_interval(found.firsts),
    }
    if as_json:
        numbers = {name: interval.as_dict() for name, interval in intervals.items()}
        typer.echo(json.dumps({"queries": found.queries, **numbers}))
        return
    shown = ", ".join(
        f"{name} {100 * i.value:.1f} ({100 * i.low:.1f} to {100 * i.high:.1f})"
        for name, i in intervals.items()
    )
    typer.echo(f"{found.queries} queries: {shown}")


@app.command()
def calibrate(
    report: Annotated[Path, typer.Argument(help="A report's folder, of these weights.")],
    weights: Weights,
    query: Annotated[
        Literal["scene", "crop"], typer.Option(help="Similarities of which queries.")
    ] = "crop",
) -> None:
    """Keep with the weights how often a similarity was the same person; the service tells it."""
    from benchmark.errors import BenchmarkError
    from benchmark.report import read_report
    from model.calibration import Calibration, write_calibration

    found = read_report(report)
    curve = found.calibration.get(query)
    if curve is None or not curve["similarity"]:
        known = ", ".join(found.calibration) or "none"
        raise BenchmarkError(f"{report} has no results of {query} queries; it has: {known}")
    table = Calibration(
        weights_sha256=found.network["sha256"],
        benchmark=found.headline.gallery,
        query=query,
        pairs=curve["pairs"],
        similarity=curve["similarity"],
        probability=curve["probability"],
    )
    typer.echo(str(write_calibration(weights, table)))


@app.command()
def paper(
    reports: Annotated[
        list[Path] | None, typer.Argument(metavar="[REPORT]...", help="Reports that were measured.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write there, not to the screen.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Lay out the paper's tables and figures: paper, measured, difference."""
    import json

    from benchmark.errors import BenchmarkError
    from benchmark.paper import paper_json, paper_markdown, paper_tables
    from benchmark.report import read_report

    tables = paper_tables([read_report(path) for path in reports or []])
    text = json.dumps(paper_json(tables)) if as_json else paper_markdown(tables)
    if out is None:
        typer.echo(text)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BenchmarkError(f"{out} cannot be written: {error.strerror}") from error
    typer.echo(str(out))


@app.command()
def compare(
    report: Annotated[Path, typer.Argument(help="A report's folder.")],
    baseline: Annotated[
        Path | None, typer.Argument(help="The report that it must not fall behind.")
    ] = None,
    expect: Annotated[
        Literal["paper"] | None,
        typer.Option(help="Fail when it is more than one point below the paper's BINet."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare a report with a baseline or the paper; exit code 1 when it is worse."""
    import json

    from benchmark.compare import below_paper, comparison_json, comparison_markdown
    from benchmark.compare import compare as differences_of
    from benchmark.errors import BenchmarkError
    from benchmark.report import read_report

    if baseline is None and expect is None:
        raise BenchmarkError("give a baseline's folder, or --expect paper")
    failures: list[str] = []
    texts: list[str] = []
    differences = differences_of(report, baseline) if baseline else []
    if baseline:
        failures += [f"{d.key}: {d.metric} fell" for d in differences if d.regression]
        texts.append(comparison_markdown(differences))
    if expect:
        shortfalls, text = below_paper(read_report(report))
        failures += shortfalls
        texts.append(text)
    if as_json:
        rows = comparison_json(differences)
        typer.echo(json.dumps({"differences": rows, "failures": failures}))
    else:
        typer.echo("\n".join([*texts, *(f"FAILED: {failure}" for failure in failures)]))
    if failures:
        raise typer.Exit(1)


def _run(
    weights: Path,
    dataset: "Dataset",
    options: "RunOptions",
    out: Path,
    pictures: bool,
    as_json: bool,
) -> None:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from benchmark.evaluation import evaluate
    from benchmark.publish import HTML, publish

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task(f"{dataset.root.name}: scenes", total=None)
        evaluation = evaluate(
            weights,
            dataset,
            options,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    publish(evaluation, out, pictures=pictures)
    head = evaluation.report.head
    if as_json:
        typer.echo(head.model_dump_json())
        return
    typer.echo(
        f"{head.key}: mAP {100 * head.mAP.value:.1f} % ({100 * head.mAP.low:.1f} to "
        f"{100 * head.mAP.high:.1f}), top-1 {100 * head.top1.value:.1f} %"
    )
    typer.echo(f"report: {out / HTML}")


def _size(text: str | None) -> "int | Literal['all'] | None":
    from benchmark.errors import BenchmarkError

    if text is None:
        return None
    if text == "all":
        return "all"
    if not text.isdecimal() or int(text) == 0:
        raise BenchmarkError(f"--gallery-size {text}: give a number, or all")
    return int(text)


def _device(text: str) -> str:
    import torch

    from model.allocator import keep_freed_memory

    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    if text == "cpu":
        keep_freed_memory()
    return text


def _pair(text: str) -> tuple[int, int]:
    from benchmark.errors import BenchmarkError

    first, _, second = text.partition(",")
    if not (first.strip().isdecimal() and second.strip().isdecimal()):
        raise BenchmarkError(f"--cbgm {text}: give two numbers, as in 30,4")
    return int(first), int(second)
