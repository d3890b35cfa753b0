"""A report as a folder: JSON, Markdown, HTML, plots, and pictures of single queries."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.evaluation import Evaluation
from benchmark.pictures import Strip, draw_queries
from benchmark.plots import draw_plots
from benchmark.report import METRICS, Measured, Report, write_json
from benchmark.scores import LIST_LENGTHS

MARKDOWN, HTML = "report.md", "report.html"
STAGES = {
    "read": "reading",
    "trunk": "trunk",
    "rpn": "RPN",
    "align": "RoIAlign",
    "head": "head",
    "detect": "whole of detection, with resizing and NMS",
}


@dataclass(frozen=True)
class Table:
    """What Markdown and HTML show alike."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    #: Row that is set off.
    headline: int | None = None


def publish(evaluation: Evaluation, out: Path, *, pictures: bool = True) -> None:
    """Write everything to a folder; what an earlier report left there is replaced.

    Parameters
    ----------
    pictures
        Whether to show people. A report without pictures can be passed on more freely.
    """
    report = evaluation.report
    write_json(report, evaluation.outcomes, out)
    plots = draw_plots(report, out / "plots")
    for old in (out / "pictures").glob("*.jpg"):
        old.unlink()
    strips = draw_queries(evaluation, out / "pictures") if pictures else []
    tables = list(make_tables(report))
    settings = flat_settings(report)
    (out / MARKDOWN).write_text(
        "\n".join(_markdown(report, tables, plots, strips, settings)), encoding="utf-8"
    )
    (out / HTML).write_text(_html(report, tables, plots, strips, settings), encoding="utf-8")


def make_tables(report: Report) -> Iterator[Table]:
    """Lay the numbers out."""
    yield Table(
        "Search",
        ["searched", "queries", *METRICS],
        [
            [str(row.key), str(row.queries - len(row.excluded))]
            + [interval(row.metric(name)) for name in METRICS]
            for row in report.results
        ],
        f"Per cent, with bootstrap intervals of 95 % over the queries. Gallery of the headline: "
        f"{report.head.gallery_rule}. Right is: {report.settings['match_rule']}. "
        f"{_excluded(report)}",
        next(i for i, row in enumerate(report.results) if row.key == report.headline),
    )
    yield Table(
        "Detection",
        ["people", "recall", "precision", "AP x recall"],
        [
            [name, percent(found.recall), percent(found.precision), percent(found.ap)]
            for name, found in (
                ("all", report.detection),
                ("with identity", report.detection_labelled),
            )
        ],
        f"Per cent, overlap of at least 0.5, scores of at least "
        f"{report.settings['det_threshold']:g}. Precision of those with identity counts everybody "
        "else as wrong.",
    )
    for kind, groups in report.recall_by.items():
        title = "height of the box" if kind == "height" else "what another person hides"
        yield Table(
            f"Found by {title}",
            ["group", "true boxes", "recall"],
            [[g["group"], str(g["true_boxes"]), percent(g["recall"])] for g in groups],
            "" if kind == "height" else "Estimated: the box that reaches lower is nearer.",
        )
    yield from _open_set_tables(report)
    yield Table(
        "Calibration",
        ["query", "pairs", "same person", "similarity for 50 %", "for 90 %", "error"],
        [
            [
                kind,
                str(curve["pairs"]),
                str(curve["same_person"]),
                _similarity_at(curve, 0.5),
                _similarity_at(curve, 0.9),
                percent(curve["error_on_other_people"]),
            ]
            for kind, curve in report.calibration.items()
        ],
        "How often one of the first 50 results of a query is the person, by similarity: isotonic "
        "regression. It holds for galleries like this one: in a larger one the same similarity is "
        "worth less. The error is that on people it was not fitted to.",
    )
    if report.through_gallery is not None:
        asked = report.through_gallery
        yield Table(
            "Through the gallery",
            ["asked", "mAP", "top-1"],
            [
                ["gallery", percent(asked["mAP"]), percent(asked["top1"])],
                [
                    "evaluator, the same float16 embeddings",
                    percent(asked["evaluator_mAP"]),
                    percent(asked["evaluator_top1"]),
                ],
            ],
            f"The headline's queries, asked of a gallery with {asked['boxes']} boxes.",
        )
    if report.sizes:
        yield Table(
            "By gallery size",
            ["pictures", "query", "mAP", "top-1"],
            [
                [str(row["size"]), row["query"], percent(row["mAP"]), percent(row["top1"])]
                for row in report.sizes
            ],
        )
    seconds = report.seconds["seconds"]
    yield Table(
        "Time for a picture",
        ["stage", "milliseconds"],
        [[words, f"{1000 * seconds[s]:.0f}"] for s, words in STAGES.items() if s in seconds],
        f"Medians over {report.seconds['pictures']} pictures, one at a time, on "
        f"{report.environment.get('gpu') or report.environment['cpu']}.",
    )


def _open_set_tables(report: Report) -> Iterator[Table]:
    rates = []
    for kind, errors in report.open_set.items():
        for rate in errors["at_false_positive_rate"]:
            miss = "too few searches" if rate["fnir"] is None else percent(rate["fnir"])
            threshold = "-" if rate["threshold"] is None else f"{rate['threshold']:.3f}"
            rates.append([kind, percent(rate["fpir"]), threshold, miss])
    yield Table(
        "When the person may be absent",
        ["query", "false positives (FPIR)", "similarity above", "misses (FNIR)"],
        rates,
        "Each query is also searched in the scenes that do not show the person; what is returned "
        "there is a false positive. People without identity may in truth be the person.",
    )
    yield Table(
        "Misses by length of the list",
        ["query", *map(str, LIST_LENGTHS)],
        [
            [kind, *(percent(v) for v in errors["missed_by_list_length"].values())]
            for kind, errors in report.open_set.items()
        ],
        "Share of the queries whose person is not among the first so many results, per cent.",
    )


def _excluded(report: Report) -> str:
    numbers = report.head.excluded
    if not numbers:
        return "Every query's person is in its gallery."
    return f"{len(numbers)} queries without the person in the gallery count in no mean: {numbers}."


def _similarity_at(curve: dict[str, Any], share: float) -> str:
    for similarity, probability in zip(curve["similarity"], curve["probability"], strict=True):
        if probability >= share:
            return f"{similarity:.3f}"
    return "never"


def percent(value: float | None) -> str:
    """Give a fraction in per cent."""
    return "-" if value is None else f"{100 * value:.1f}"


def interval(value: Measured) -> str:
    """Give a mean and its interval in per cent."""
    return f"{100 * value.value:.1f} ({100 * value.low:.1f} to {100 * value.high:.1f})"


def flat_settings(report: Report) -> dict[str, str]:
    """Give everything that a number depends on, as name and value."""
    network = {k: v for k, v in report.network.items() if k not in ("config", "provenance")}
    flat: dict[str, str] = {}
    for part in (report.dataset, network, report.settings, report.environment):
        flat |= {name: str(value) for name, value in part.items()}
    return {
        **flat,
        "dataset sha256": str(report.dataset["sha256"]),
        "weights sha256": str(report.network["sha256"]),
    }


def _markdown(
    report: Report,
    tables: list[Table],
    plots: dict[str, str],
    strips: list[Strip],
    settings: dict[str, str],
) -> Iterator[str]:
    head = report.head
    yield f"# {report.name}"
    yield ""
    yield f"{report.created_at}. Headline: {report.headline}: **mAP {percent(head.mAP.value)} %, "
    yield f"top-1 {percent(head.top1.value)} %**. Results are similar people, never identified."
    for table in tables:
        yield from ["", f"## {table.title}", ""]
        yield from [table.note, ""] if table.note else []
        yield f"| {' | '.join(table.columns)} |"
        yield "|---" * len(table.columns) + "|"
        for row in table.rows:
            yield f"| {' | '.join(row)} |"
    yield from ["", "## Plots", ""]
    for file, caption in plots.items():
        yield from [f"![{caption}](plots/{file})", ""]
    for strip in strips:
        yield f"![{strip.caption}](pictures/{strip.file})"
        yield from ["", f"{strip.group}: {strip.caption}", ""]
    yield from ["## Settings", ""]
    for name, value in settings.items():
        yield f"- {name}: {value}"
    yield ""


def _html(
    report: Report,
    tables: list[Table],
    plots: dict[str, str],
    strips: list[Strip],
    settings: dict[str, str],
) -> str:
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("benchmark"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda measured: percent(measured.value)
    return environment.get_template("report.html").render(
        report=report, tables=tables, plots=plots, strips=strips, settings=settings
    )
