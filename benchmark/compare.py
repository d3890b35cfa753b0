"""The gate: whether a report is worse than another, or than the paper."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import BenchmarkError
from benchmark.paper import paper_markdown, paper_tables
from benchmark.report import Outcomes, Report, Result, ResultKey, read_outcomes, read_report
from benchmark.statistics import Interval, mean_interval

#: What a regression is judged by.
GATED = ("mAP", "top1")
#: Settings that must agree, or the numbers mean different things.
COMPARABLE = ("det_threshold", "match_rule", "duplicates_rule", "scaled_similarities", "cbgm")
#: What the paper reports of BINet, in per cent, by format and gallery: mAP and top-1.
PAPER = {
    "cuhk-sysu": ("CUHK-SYSU 100", {"mAP": 90.0, "top1": 90.7}),
    "prw": ("PRW", {"mAP": 45.3, "top1": 81.7}),
}
#: Points below the paper that still pass.
TOLERANCE = 1.0


@dataclass(frozen=True)
class Difference:
    """One number of two reports, fractions.

    Attributes
    ----------
    change
        New minus old with its interval: paired by query where both reports hold the queries.
    regression
        The interval lies below 0 (or, unpaired, the new value below the old interval).
    """

    key: ResultKey
    metric: str
    before: float
    after: float | None
    change: Interval | None
    regression: bool


def compare(report_path: Path, baseline_path: Path) -> list[Difference]:
    """Compare the rows of the baseline's headline gallery.

    Raises
    ------
    BenchmarkError
        When a report cannot be read, or the two are of different data or rules.
    """
    report, baseline = read_report(report_path), read_report(baseline_path)
    _require_comparable(report, baseline)
    after, before = read_outcomes(report_path), read_outcomes(baseline_path)
    return [
        difference
        for row in baseline.results
        if row.key.gallery == baseline.headline.gallery
        for difference in _differences(row, report, after, before)
    ]


def _require_comparable(report: Report, baseline: Report) -> None:
    one, other = report.dataset["sha256"], baseline.dataset["sha256"]
    if one != other:
        raise BenchmarkError(
            f"{report.name} and {baseline.name} are of different data ({one[:12]} and "
            f"{other[:12]}): a baseline holds for the pictures and boxes that it was measured on"
        )
    different = [
        name for name in COMPARABLE if report.settings.get(name) != baseline.settings.get(name)
    ]
    if different:
        raise BenchmarkError(
            f"{report.name} and {baseline.name} differ in {', '.join(different)}: run the "
            "benchmark with the settings of the baseline"
        )


def _differences(
    row: Result, report: Report, after: Outcomes, before: Outcomes
) -> Iterator[Difference]:
    now = report.find(row.key)
    for metric in GATED:
        old = row.metric(metric)
        if now is None:
            yield Difference(row.key, metric, old.value, None, None, regression=True)
            continue
        new = now.metric(metric)
        pairs = _paired(str(row.key), metric, after, before)
        change = mean_interval(pairs) if pairs is not None else None
        worse = change.high < 0 if change else new.value < old.low
        yield Difference(row.key, metric, old.value, new.value, change, worse)


def _paired(
    key: str, metric: str, after: Outcomes, before: Outcomes
) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
    """Give the differences by query, of the queries whose person is in the gallery."""
    new, old = after.get(key), before.get(key)
    if not new or not old or len(new) != len(old):
        return None
    if metric == "mAP":
        pairs = [n.ap - o.ap for n, o in zip(new, old, strict=True) if o.true_boxes]
    else:
        pairs = [
            float(n.rank == 0) - float(o.rank == 0)
            for n, o in zip(new, old, strict=True)
            if o.true_boxes
        ]
    return np.array(pairs, np.float64)


def comparison_markdown(differences: list[Difference]) -> str:
    """Write the comparison as a table."""
    lines = [
        "| searched | metric | baseline | now | change (95 %) | |",
        "|---|---|---|---|---|---|",
    ]
    for d in differences:
        now = "not measured" if d.after is None else f"{100 * d.after:.1f}"
        change = "-"
        if d.change is not None:
            change = (
                f"{100 * d.change.value:+.1f} ({100 * d.change.low:+.1f} to "
                f"{100 * d.change.high:+.1f})"
            )
        verdict = "REGRESSION" if d.regression else "ok"
        lines.append(
            f"| {d.key} | {d.metric} | {100 * d.before:.1f} | {now} | {change} | {verdict} |"
        )
    return "\n".join(lines) + "\n"


def comparison_json(differences: list[Difference]) -> list[dict[str, Any]]:
    """Give the comparison as plain objects."""
    return [
        {
            **d.key.model_dump(mode="json"),
            "metric": d.metric,
            "before": d.before,
            "after": d.after,
            "change": None if d.change is None else d.change.as_dict(),
            "regression": d.regression,
        }
        for d in differences
    ]


def below_paper(report: Report) -> tuple[list[str], str]:
    """Say where a report is more than `TOLERANCE` points below the paper's BINet.

    Returns
    -------
    The shortfalls, in words; and the whole comparison as Markdown.

    Raises
    ------
    BenchmarkError
        When the report is of another dataset than the paper's.
    """
    if report.dataset["format"] not in PAPER:
        raise BenchmarkError(
            f"--expect paper: {report.name} is of format {report.dataset['format']}; the paper has "
            "CUHK-SYSU and PRW"
        )
    gallery, expected = PAPER[report.dataset["format"]]
    key = ResultKey(gallery=gallery, query="scene", boxes="detected", branch="search")
    row = report.find(key)
    shortfalls = []
    for metric, value in expected.items():
        measured = None if row is None else 100 * row.metric(metric).value
        if measured is None:
            shortfalls.append(f"{key}: {metric} was not measured, the paper has {value}")
        elif measured < value - TOLERANCE:
            shortfalls.append(f"{key}: {metric} {measured:.1f}, the paper has {value}")
    return shortfalls, paper_markdown(paper_tables([report]))
