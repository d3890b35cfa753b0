"""The tables of the paper beside what was measured; nothing is filled in that was not measured."""

import math
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from benchmark.report import BoxKind, BranchKind, QueryKind, Report, ResultKey

FILE = Path(__file__).with_name("paper.toml")
#: Only this backbone and these rules are what the paper measured with.
BACKBONE = "resnet50"
RULES = {
    "det_threshold": 0.5,
    "duplicates_rule": "oim",
    "scaled_similarities": False,
    "cbgm": None,
}
#: Scenes of Table 8 have this shorter side.
TIMED_SIDE = 900


class Cell(BaseModel):
    """What a number of the paper is: the fields of its column and row together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: Literal["mAP", "top1", "seconds"]
    dataset: Literal["cuhk-sysu", "prw"] | None = None
    #: Gallery size of CUHK-SYSU, of a row of the table or a point of the curve.
    gallery: int | None = None
    size: int | None = None
    boxes: BoxKind = "detected"
    query: QueryKind = "scene"
    branch: BranchKind = "search"
    temperature: float = 1.0
    #: A variant of `model.VARIANTS`; None for somebody else's system.
    system: str | None = None

    @property
    def title(self) -> str:
        """Say it as a column's head."""
        data = {"cuhk-sysu": "CUHK-SYSU", "prw": "PRW", None: ""}[self.dataset]
        size = self.gallery or self.size or ""
        branch = "R" if self.branch == "instance" else ""
        return " ".join(str(part) for part in (data, size, branch, self.metric) if part)


@dataclass(frozen=True)
class Entry:
    """A number of the paper, and ours."""

    table: str
    label: str
    cell: Cell
    paper: float | None
    measured: float | None
    #: What the measured number was computed on.
    hardware: str = ""

    @property
    def difference(self) -> float | None:
        """Measured minus paper, in the paper's unit."""
        if self.paper is None or self.measured is None:
            return None
        return self.measured - self.paper


@dataclass(frozen=True)
class PaperTable:
    """A table with its rows, row by row."""

    name: str
    title: str
    columns: list[str]
    rows: list[list[Entry]]


def paper_tables(reports: Sequence[Report]) -> list[PaperTable]:
    """Lay out every table; a number that no report holds stays empty."""
    tables = []
    for table in tomllib.loads(FILE.read_text(encoding="utf-8"))["table"]:
        rows = [list(_row(table, row, reports)) for row in table["rows"]]
        columns = [Cell(**column).title for column in table["columns"]]
        tables.append(PaperTable(table["name"], table["title"], columns, rows))
    return tables


def _row(table: dict[str, Any], row: dict[str, Any], reports: Sequence[Report]) -> Iterator[Entry]:
    fields = {name: value for name, value in row.items() if name not in ("label", "paper")}
    for place, column in enumerate(table["columns"]):
        cell = Cell(**{**column, **fields})
        number = row["paper"][place] if place < len(row["paper"]) else math.nan
        measured, hardware = measured_in(cell, reports)
        paper = None if math.isnan(number) else float(number)
        yield Entry(table["name"], row["label"], cell, paper, measured, hardware)


def measured_in(cell: Cell, reports: Sequence[Report]) -> tuple[float | None, str]:
    """Look a number up, in the paper's unit; of several reports the newest counts."""
    for report in sorted(reports, key=lambda r: r.created_at, reverse=True):
        value = _value(cell, report) if is_papers(cell, report) else None
        if value is not None:
            hardware = report.environment.get("gpu") or report.environment["cpu"]
            return value, str(hardware)
    return None, ""


def is_papers(cell: Cell, report: Report) -> bool:
    """Whether a report is of this system, with the paper's backbone and rules."""
    network = report.network
    return (
        cell.system is not None
        and network["variant"] == cell.system
        and network["backbone"] == BACKBONE
        and network["temperature"] == cell.temperature
        and cell.dataset in (None, report.dataset["format"])
        and all(report.settings[name] == value for name, value in RULES.items())
    )


def _value(cell: Cell, report: Report) -> float | None:
    if cell.metric == "seconds":
        side = report.network["config"]["preprocessing"]["min_side"]
        seconds: float | None = report.seconds["seconds"].get("detect")
        return seconds if side == TIMED_SIDE else None
    if cell.size is not None:
        for point in report.sizes:
            if (point["size"], point["query"], point["boxes"]) == (
                cell.size,
                cell.query,
                cell.boxes,
            ):
                return 100 * float(point[cell.metric])
        return None
    gallery = f"CUHK-SYSU {cell.gallery}" if cell.dataset == "cuhk-sysu" else "PRW"
    row = report.find(
        ResultKey(gallery=gallery, query=cell.query, boxes=cell.boxes, branch=cell.branch)
    )
    return None if row is None else 100 * row.metric(cell.metric).value


def paper_markdown(tables: Sequence[PaperTable]) -> str:
    """Write the tables: for each number paper, measured, difference."""
    lines = [
        "# The paper's tables",
        "",
        "Per cent. Each number: paper / measured / difference; a dash where nothing is printed or "
        f"nothing was measured. Only reports of the {BACKBONE} backbone with the paper's rules "
        "count as measured.",
    ]
    for table in tables:
        lines += ["", f"## {table.name}: {table.title}", ""]
        lines.append(f"| | {' | '.join(table.columns)} |")
        lines.append("|---" * (len(table.columns) + 1) + "|")
        for row in table.rows:
            lines.append(f"| {row[0].label} | {' | '.join(map(_three, row))} |")
        hardware = sorted({entry.hardware for row in table.rows for entry in row if entry.hardware})
        if hardware:
            lines += ["", f"Measured on: {', '.join(hardware)}."]
    return "\n".join(lines) + "\n"


def _three(entry: Entry) -> str:
    digits = 3 if entry.cell.metric == "seconds" else 1
    paper, measured = (
        "-" if value is None else f"{value:.{digits}f}" for value in (entry.paper, entry.measured)
    )
    gap = "-" if entry.difference is None else f"{entry.difference:+.{digits}f}"
    return f"{paper} / {measured} / {gap}"


def paper_json(tables: Sequence[PaperTable]) -> list[dict[str, Any]]:
    """Give every number of the tables as one flat list."""
    return [
        {
            "table": entry.table,
            "label": entry.label,
            **entry.cell.model_dump(mode="json", exclude_none=True),
            "paper": entry.paper,
            "measured": entry.measured,
            "difference": entry.difference,
        }
        for table in tables
        for row in table.rows
        for entry in row
    ]
