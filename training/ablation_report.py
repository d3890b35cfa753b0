"""The ablation's tables and plot: mean and spread over the seeds, whatever came out."""

from pathlib import Path

import numpy as np

from training.ablation import BOXES, MODES, Plan, Run

TABLE = "ablation.md"
PLOT = "ablation.png"
#: A picture is saved with so many dots per inch.
DPI = 120

#: Pairs whose difference the paper's claim is about.
PAIRS = (("siamese", "baseline"), ("binet", "siamese"), ("binet", "baseline"))


def values(plan: Plan, system: str, world: str, metric: str) -> list[float]:
    """Collect a metric over the seeds, in per cent; unfinished runs are left out."""
    runs = [plan.metrics_of(Run(system, world, seed)) for seed in range(plan.seeds)]
    return [100 * run[metric] for run in runs if run is not None]


def write_report(plan: Plan) -> Path:
    """Write `ablation.md` and `ablation.png` of what is finished; return the first."""
    lines = [
        "# Ablation",
        "",
        f"mAP in per cent: mean ± standard deviation over the seeds (of {plan.seeds}). Drawn "
        "worlds differ with the seed. `error` is the mean standard error over the queries of one "
        "run, scene query.",
    ]
    for world in plan.worlds:
        for boxes in BOXES:
            lines += ["", f"## World {world}, {boxes} boxes", "", *_table(plan, world, boxes)]
    lines += ["", "## Differences within a seed", "", *_differences(plan), ""]
    path = plan.out / TABLE
    path.write_text("\n".join(lines), encoding="utf-8")
    _plot(plan, plan.out / PLOT)
    return path


def _table(plan: Plan, world: str, boxes: str) -> list[str]:
    lines = [
        f"| system | {' | '.join(MODES)} | error | found | seeds |",
        "|---|" + "---|" * (len(MODES) + 3),
    ]
    for system in plan.systems:
        cells = [_cell(values(plan, system, world, f"{mode}, {boxes} mAP")) for mode in MODES]
        errors = values(plan, system, world, f"{next(iter(MODES))}, {boxes} error")
        error = f"{np.mean(errors):.1f}" if errors else "-"
        found = values(plan, system, world, "recall")
        recall = _cell(found) if boxes == "detected" else "all"
        lines.append(f"| {system} | {' | '.join(cells)} | {error} | {recall} | {len(found)} |")
    return lines


def _differences(plan: Plan) -> list[str]:
    """Paired, since a seed's world is harder or easier for all systems alike."""
    lines = [
        "mAP of the first minus mAP of the second, one number for each seed.",
        "",
        f"| world | boxes | systems | {' | '.join(MODES)} |",
        "|---|---|---|" + "---|" * len(MODES),
    ]
    for world in plan.worlds:
        for boxes in BOXES:
            for better, worse in PAIRS:
                cells = []
                for mode in MODES:
                    metric = f"{mode}, {boxes} mAP"
                    pairs = [
                        100 * (a[metric] - b[metric])
                        for seed in range(plan.seeds)
                        if (a := plan.metrics_of(Run(better, world, seed)))
                        and (b := plan.metrics_of(Run(worse, world, seed)))
                    ]
                    cells.append(", ".join(f"{pair:+.1f}" for pair in pairs) or "-")
                lines.append(f"| {world} | {boxes} | {better} - {worse} | {' | '.join(cells)} |")
    return lines


def _cell(numbers: list[float]) -> str:
    if len(numbers) > 1:
        return f"{np.mean(numbers):.1f} ± {np.std(numbers, ddof=1):.1f}"
    return f"{numbers[0]:.1f}" if numbers else "-"


def _plot(plan: Plan, path: Path) -> None:
    """Draw a bar for each system, world and kind of query; each seed is a dot."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(MODES), figsize=(5 * len(MODES), 4.2), sharey=True)
    width = 0.8 / len(plan.worlds)
    for axis, mode in zip(axes, MODES, strict=True):
        for number, world in enumerate(plan.worlds):
            for place, system in enumerate(plan.systems):
                dots = values(plan, system, world, f"{mode}, detected mAP")
                if not dots:
                    continue
                x = place + (number - (len(plan.worlds) - 1) / 2) * width
                label = world if place == 0 else None
                axis.bar(x, np.mean(dots), width * 0.9, color=f"C{number}", alpha=0.6, label=label)
                axis.plot([x] * len(dots), dots, "k.", markersize=4)
        axis.set_xticks(range(len(plan.systems)), plan.systems, rotation=40, ha="right")
        axis.set_title(f"{mode}, detected boxes")
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("mAP, per cent")
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
