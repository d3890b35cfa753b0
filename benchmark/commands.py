"""`binet benchmark`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(help="Score searches as the literature does.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `score` a command of its own name while it is the only one."""


@app.command()
def score(
    arrays: Annotated[Path, typer.Argument(metavar="CASE.npz", help="Detections and queries.")],
    case: Annotated[Path, typer.Argument(metavar="CASE.json", help="Galleries.")],
    rule: Annotated[
        Literal["oim", "seqnet"],
        typer.Option(help="A picture that a gallery lists twice: scored twice, or once."),
    ] = "oim",
    gallery_size: Annotated[
        str | None, typer.Option(metavar="N|all", help="100, or else the largest there is.")
    ] = None,
    det_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Least score of a detection.")
    ] = 0.5,
    cross_camera: Annotated[
        bool, typer.Option("--cross-camera", help="Leave out the query's camera.")
    ] = False,
    cbgm: Annotated[
        str | None, typer.Option(metavar="K1,K2", help="Re-rank by the people around.")
    ] = None,
    scaled: Annotated[
        bool, typer.Option("--scaled", help="Multiply similarities by detection scores.")
    ] = False,
) -> None:
    """Score saved detections; prints one JSON object, fractions, not per cent."""
    import json

    from benchmark.detection import evaluate_detection
    from benchmark.errors import BenchmarkError
    from benchmark.saved import read_case
    from benchmark.search import SearchRules, evaluate_search

    size = None
    if gallery_size not in (None, "all"):
        if not str(gallery_size).isdecimal():
            raise BenchmarkError(f"--gallery-size {gallery_size}: give a number, or all")
        size = int(str(gallery_size))
    rules = SearchRules(det_threshold, rule, scaled, _pair(cbgm) if cbgm else None)
    saved = read_case(arrays, case)
    if rules.cbgm and saved.context is None:
        raise BenchmarkError(f"--cbgm: {arrays} has no people around the queries (qctx_*)")
    protocol = saved.protocol(size, gallery_size == "all", cross_camera)
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


def _pair(text: str) -> tuple[int, int]:
    from benchmark.errors import BenchmarkError

    first, _, second = text.partition(",")
    if not (first.strip().isdecimal() and second.strip().isdecimal()):
        raise BenchmarkError(f"--cbgm {text}: give two numbers, as in 30,4")
    return int(first), int(second)
