"""The ablation's tables and plot: mean and spread over the seeds, whatever came out."""

from pathlib import Path

import numpy as np

from training.ablation import BIASES, BOXES, MAIN, MODES, SYSTEMS, Plan, Run

TABLE = "ablation.md"
PLOT = "ablation.png"
#: A picture is saved with so many dots per inch.
DPI = 120

#: Numbers of a system at a bias: one for each seed that is finished.
Values = list[float]


def values(plan: Plan, system: str, bias: float, metric: str) -> Values:
    """Collect a metric over the seeds, in per cent; unfinished runs are left out."""
    runs = [plan.metrics_of(Run(system, bias, seed)) for seed in range(plan.seeds)]
    return [100 * run[metric] for run in runs if run is not None]


def write_report(plan: Plan) -> Path:
    """Write `ablation.md` and `ablation.png` of what is finished; return the first."""
    lines = [
        "# Ablation on drawn worlds",
        "",
        f"mAP in per cent, mean ± standard deviation over the seeds (of {plan.seeds}), each with a "
        "world of its own. Recipe and worlds: `binet ablation --help`.",
    ]
    for bias in BIASES:
        for boxes in BOXES:
            lines += [
                "",
                f"## Context bias {bias:g}, {boxes} boxes",
                "",
                *_table(plan, bias, boxes),
            ]
    lines += ["", "## Differences within a seed", "", *_differences(plan), ""]
    path = plan.out / TABLE
    path.write_text("\n".join(lines), encoding="utf-8")
    _plot(plan, plan.out / PLOT)
    return path


def _table(plan: Plan, bias: float, boxes: str) -> list[str]:
    lines = [
        f"| system | {' | '.join(MODES)} | found | seeds |",
        "|---|" + "---|" * (len(MODES) + 2),
    ]
    for system in SYSTEMS:
        cells = [_cell(values(plan, system, bias, f"{mode}, {boxes} mAP")) for mode in MODES]
        found = values(plan, system, bias, "recall")
        recall = _cell(found) if boxes == "detected" else "all"
        lines.append(f"| {system} | {' | '.join(cells)} | {recall} | {len(found)} |")
    return lines


def _differences(plan: Plan) -> list[str]:
    """Paired, since a seed's world is harder or easier for all systems alike."""
    lines = [
        "Detected boxes, mAP of the first minus mAP of the second, each seed.",
        "",
        f"| bias | systems | {' | '.join(MODES)} |",
        "|---|---|" + "---|" * len(MODES),
    ]
    for bias in BIASES:
        for better, worse in (("siamese", "baseline"), ("binet", "siamese"), ("binet", "baseline")):
            cells = []
            for mode in MODES:
                pairs = [
                    100 * (a[f"{mode}, detected mAP"] - b[f"{mode}, detected mAP"])
                    for seed in range(plan.seeds)
                    if (a := plan.metrics_of(Run(better, bias, seed)))
                    and (b := plan.metrics_of(Run(worse, bias, seed)))
                ]
                cells.append(", ".join(f"{pair:+.1f}" for pair in pairs) or "-")
            lines.append(f"| {bias:g} | {better} - {worse} | {' | '.join(cells)} |")
    return lines


def _cell(numbers: Values) -> str:
    if not numbers:
        return "-"
    return (
        f"{np.mean(numbers):.1f} ± {np.std(numbers, ddof=1):.1f}"
        if len(numbers) > 1
        else (f"{numbers[0]:.1f}")
    )


def _plot(plan: Plan, path: Path) -> None:
    """Draw a bar for each system, bias and kind of query; each seed is a dot."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(MODES), figsize=(5 * len(MODES), 4.2), sharey=True)
    width = 0.8 / len(BIASES)
    for axis, mode in zip(axes, MODES, strict=True):
        for number, bias in enumerate(BIASES):
            for place, system in enumerate(SYSTEMS):
                dots = values(plan, system, bias, f"{mode}, detected mAP")
                if not dots:
                    continue
                x = place + (number - (len(BIASES) - 1) / 2) * width
                label = f"context bias {bias:g}" if system == MAIN[0] else None
                axis.bar(x, np.mean(dots), width * 0.9, color=f"C{number}", alpha=0.6, label=label)
                axis.plot([x] * len(dots), dots, "k.", markersize=4)
        axis.set_xticks(range(len(SYSTEMS)), SYSTEMS, rotation=40, ha="right")
        axis.set_title(f"{mode}, detected boxes")
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("mAP, per cent")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
