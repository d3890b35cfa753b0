"""The plots of a report, as PNG files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 110
COLOURS = {"scene": "C0", "crop": "C1"}


def draw_plots(report: Report, folder: Path) -> dict[str, str]:
    """Draw every plot that the report has numbers for.

    Returns
    -------
    dict
        Caption by file name, in `folder`.
    """
    plots = {
        "precision-recall.png": ("Precision and recall", _precision_recall),
        "cmc.png": ("Found among the first k results (CMC)", _cmc),
        "gallery-size.png": ("mAP by gallery size (as in Figure 4 of the paper)", _sizes),
        "similarities.png": ("Similarities of the first 50 results of each query", _similarities),
        "calibration.png": ("How often a result of this similarity is the person", _calibration),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, (caption, draw) in plots.items():
        if name == "gallery-size.png" and len({row["size"] for row in report.sizes}) < 2:
            continue
        _draw(folder / name, caption, lambda axes, draw=draw: draw(axes, report))
        written[name] = caption
    return written


def _draw(path: Path, title: str, fill: Any) -> None:
    # `Figure` without pyplot: nothing global, so that reports can be written from any thread.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    fill(axes)
    figure.savefig(path, dpi=DPI)


def _precision_recall(axes: "Axes", report: Report) -> None:
    for kind, curve in report.curves.items():
        if curve["precision"]:
            axes.plot(
                curve["recall"], curve["precision"], color=COLOURS[kind], label=f"{kind} query"
            )
    axes.set(xlabel="recall", ylabel="precision, mean over queries", xlim=(0, 1), ylim=(0, 1.02))
    _legend(axes)


def _cmc(axes: "Axes", report: Report) -> None:
    for kind, curve in report.curves.items():
        places = range(1, len(curve["cmc"]) + 1)
        axes.plot(places, curve["cmc"], color=COLOURS[kind], label=f"{kind} query")
    axes.set(xlabel="k", ylabel="share of queries", ylim=(0, 1.02))
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    _legend(axes)


def _sizes(axes: "Axes", report: Report) -> None:
    for kind, colour in COLOURS.items():
        rows = sorted((row["size"], row["mAP"]) for row in report.sizes if row["query"] == kind)
        if rows:
            sizes, values = zip(*rows, strict=True)
            axes.plot(sizes, [100 * v for v in values], "o-", color=colour, label=f"{kind} query")
    axes.set_xscale("log")
    axes.set(xlabel="pictures in the gallery", ylabel="mAP, per cent")
    _legend(axes)


def _similarities(axes: "Axes", report: Report) -> None:
    kind, curve = next(iter(report.curves.items()))
    edges = curve["similarity_edges"]
    for name, colour in (("other", "C7"), ("same", "C2")):
        counts = curve["similarity_counts"][name]
        axes.stairs(counts, edges, fill=True, alpha=0.6, color=colour, label=f"{name} person")
    axes.set_yscale("symlog")
    used = [e for e, n in zip(edges, curve["similarity_counts"]["other"], strict=False) if n]
    axes.set(xlabel=f"similarity ({kind} query)", ylabel="results", xlim=(min([*used, 0.9]), 1))
    _legend(axes)


def _calibration(axes: "Axes", report: Report) -> None:
    for kind, curve in report.calibration.items():
        axes.plot(
            curve["similarity"],
            curve["probability"],
            ".-",
            color=COLOURS[kind],
            label=f"{kind} query",
        )
    axes.set(xlabel="similarity", ylabel="share that is the person", ylim=(-0.02, 1.02))
    _legend(axes)


def _legend(axes: "Axes") -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
