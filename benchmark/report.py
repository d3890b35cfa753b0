"""The report of one evaluation: every number with the settings that it depends on."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark.errors import BenchmarkError

REPORT = "report.json"
#: Average precision and rank of every query, apart since they are many.
QUERIES = "queries.json"
VERSION = 1

QueryKind = Literal["scene", "crop"]
BoxKind = Literal["detected", "labelled"]
BranchKind = Literal["search", "instance"]
METRICS = ("mAP", "top1", "top5", "top10")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Measured(_Part):
    """A mean over queries, a fraction, with its bootstrap interval."""

    value: float
    low: float
    high: float


class ResultKey(_Part):
    """What was searched, with what, among what."""

    #: Name of the gallery.
    gallery: str
    #: `scene`: the query is embedded in its scene. `crop`: it is cut out first.
    query: QueryKind
    #: Boxes of the gallery.
    boxes: BoxKind
    #: What embeds the gallery: `search` in the scene; `instance` each person as a crop.
    branch: BranchKind

    def __str__(self) -> str:
        return f"{self.gallery}, {self.query} query, {self.boxes} boxes, {self.branch} branch"


class Result(_Part):
    """One row of the table."""

    key: ResultKey
    gallery_rule: str
    queries: int
    #: Numbers of the queries whose person is not in the gallery; they count in no mean.
    excluded: list[int]
    mAP: Measured  # noqa: N815 - the literature's own spelling
    top1: Measured
    top5: Measured
    top10: Measured

    def metric(self, name: str) -> Measured:
        """Return a metric by its name."""
        return {"mAP": self.mAP, "top1": self.top1, "top5": self.top5, "top10": self.top10}[name]


class Detection(_Part):
    """How well people are found, fractions."""

    recall: float
    #: Average precision times recall.
    ap: float
    precision: float


class QueryOutcome(_Part):
    """One query of a row."""

    ap: float
    #: From 0; None when the person was not found.
    rank: int | None
    true_boxes: int


class Report(_Part):
    """All of it, apart from single queries."""

    format: Literal["binet-benchmark-report"] = "binet-benchmark-report"
    version: Annotated[int, Field(ge=1, le=VERSION)] = VERSION
    name: str
    created_at: str
    #: Format, counts, and a hash of everything that was read.
    dataset: dict[str, Any]
    #: Variant, backbone, size, SHA-256, provenance.
    network: dict[str, Any]
    #: Commit, versions, machine, command.
    environment: dict[str, Any]
    #: Rules by name, thresholds, precision, seed.
    settings: dict[str, Any]
    headline: ResultKey
    results: list[Result]
    detection: Detection
    detection_labelled: Detection
    recall_by: dict[str, list[dict[str, Any]]]
    #: By kind of query; of the headline's gallery, boxes and branch.
    open_set: dict[str, Any]
    calibration: dict[str, Any]
    curves: dict[str, Any]
    #: Rows by gallery size.
    sizes: list[dict[str, Any]]
    seconds: dict[str, Any]
    #: The headline's numbers when the gallery is asked instead; None when it was not.
    through_gallery: dict[str, Any] | None = None

    def find(self, key: ResultKey) -> Result | None:
        """Return a row, None when it was not measured."""
        return next((row for row in self.results if row.key == key), None)

    @property
    def head(self) -> Result:
        """The row that stands for the report."""
        row = self.find(self.headline)
        if row is None:
            raise BenchmarkError(f"{self.name}: the report lacks its headline, {self.headline}")
        return row


Outcomes = dict[str, list[QueryOutcome]]


def write_json(report: Report, outcomes: Outcomes, folder: Path) -> None:
    """Write `report.json` and `queries.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    rows = {key: [o.model_dump(mode="json") for o in found] for key, found in outcomes.items()}
    (folder / QUERIES).write_text(json.dumps(rows) + "\n", encoding="utf-8")


def read_report(path: Path) -> Report:
    """Read a report's folder, or its `report.json`.

    Raises
    ------
    BenchmarkError
        When there is none, or it is of another format or a newer version.
    """
    file = path / REPORT if path.is_dir() else path
    try:
        return Report.model_validate_json(file.read_bytes())
    except OSError as error:
        raise BenchmarkError(f"{file}: there is no report: {error.strerror}") from error
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"])) or "file"
        raise BenchmarkError(f"{file} is no report: {where}: {problem['msg']}") from error


def read_outcomes(path: Path) -> Outcomes:
    """Read the single queries beside a report; none when they are not there."""
    file = (path if path.is_dir() else path.parent) / QUERIES
    if not file.is_file():
        return {}
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return {
            key: [QueryOutcome.model_validate(entry) for entry in found]
            for key, found in rows.items()
        }
    except (ValueError, AttributeError, TypeError) as error:
        raise BenchmarkError(f"{file} cannot be read: {error}") from error
