"""`binet benchmark run`, `compare` and `paper`, as a user calls them, on drawn worlds."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import binet
from benchmark.errors import BenchmarkError
from benchmark.galleries import draw_gallery
from benchmark.paper import paper_tables
from benchmark.report import read_outcomes, read_report
from model import save
from model.calibration import read_calibration
from model.errors import BINetError
from tests.benchmark.worlds import drawn_world, quick_network, saved_network
from training.datasets.opening import open_dataset, open_protocol
from training.validation import embed_queries, embed_scenes, search_metrics


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(binet.app, ["benchmark", *map(str, words)], catch_exceptions=False)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("benchmark")
    return {
        "weights": saved_network(folder / "weights"),
        "prw": drawn_world(folder / "prw"),
        "cuhk": drawn_world(folder / "cuhk", "cuhk-sysu"),
        "cache": folder / "cache",
    }


@pytest.fixture(scope="module")
def prw_report(setting: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "prw"
    result = call(
        "run", "--weights", setting["weights"], "--data", setting["prw"], "--out", out,
        "--branch", "instance", "--query", "crop", "--cache", setting["cache"], "--json",
        "--through-gallery",
    )  # fmt: skip
    assert result.exit_code == 0
    assert json.loads(result.stdout)["key"]["branch"] == "instance"
    return out


@pytest.fixture(scope="module")
def cuhk_report(setting: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "cuhk"
    result = call(
        "run", "--weights", setting["weights"], "--data", setting["cuhk"], "--out", out,
        "--cache", setting["cache"], "--format", "cuhk-sysu",
    )  # fmt: skip
    assert "mAP" in result.stdout
    assert result.exit_code == 0
    return out


def test_the_numbers_are_those_of_the_plain_evaluator(
    prw_report: Path, setting: dict[str, Path]
) -> None:
    network = quick_network()
    report = read_report(prw_report)
    dataset = open_dataset(setting["prw"])
    rows = {str(row.key): row for row in report.results}
    assert len(rows) == 2 * 2 * 3, "two galleries, two kinds of boxes, S-S, R-S and R-R"
    for cross_camera, gallery in ((False, "PRW"), (True, "PRW cross-camera")):
        protocol = open_protocol(dataset, cross_camera=cross_camera)
        for boxes in ("detected", "labelled"):
            found = embed_scenes(
                network, dataset.test, "labelled" if boxes == "labelled" else "detected"
            )
            for kind, branch in (("scene", "search"), ("crop", "instance")):
                queries = embed_queries(
                    network, dataset.test, protocol.queries,
                    "search" if branch == "search" else "instance",
                )  # fmt: skip
                plain = search_metrics(protocol, found, queries)
                row = rows[f"{gallery}, {kind} query, {boxes} boxes, search branch"]
                assert row.mAP.value == pytest.approx(plain.mean_ap, abs=1e-3)
                assert row.top1.value == pytest.approx(plain.top1, abs=1e-9)
                assert row.queries - len(row.excluded) == plain.queries


def test_a_report_explains_itself(prw_report: Path) -> None:
    report = read_report(prw_report)
    assert report.settings["det_threshold"] == 0.5
    assert report.through_gallery is not None
    assert report.through_gallery["mAP"] == report.through_gallery["evaluator_mAP"]
    assert report.settings["duplicates_rule"] == "oim"
    assert "10" in report.settings["match_rule"]
    assert re.fullmatch(r"[0-9a-f]{64}", report.network["sha256"])
    assert report.network["variant"] == "binet"
    assert report.environment["commit"]
    assert not any("/" in word for word in report.environment["command"])
    assert report.created_at.endswith("+00:00")
    assert set(report.seconds["seconds"]) >= {"read", "trunk", "rpn", "head"}
    # With the instance branch there is no scene query.
    assert list(report.open_set) == list(report.calibration) == list(report.curves) == ["crop"]
    assert sum(g["true_boxes"] for g in report.recall_by["height"]) == report.dataset["true_boxes"]
    outcomes = read_outcomes(prw_report)
    for row in report.results:
        aps = [o.ap for o in outcomes[str(row.key)] if o.true_boxes]
        assert np.mean(aps) == pytest.approx(row.mAP.value)
        assert row.mAP.low <= row.mAP.value <= row.mAP.high


def test_the_folder_is_whole_and_asks_nobody(prw_report: Path) -> None:
    html = (prw_report / "report.html").read_text(encoding="utf-8")
    markdown = (prw_report / "report.md").read_text(encoding="utf-8")
    files = {*re.findall(r'src="([^"]+)"', html), *re.findall(r"\]\(([^)]+)\)", markdown)}
    assert {name.split("/")[0] for name in files} == {"plots", "pictures"}
    for name in files:
        with Image.open(prw_report / name) as picture:
            assert min(picture.size) > 100
    assert not re.findall(r"https?://|<script|url\(", html)
    assert "identified" in html
    report = read_report(prw_report)
    for row in report.results:
        assert str(row.key) in html
        assert f"| {row.key} |" in markdown


def test_cuhk_sysu_has_its_galleries_and_the_curve(cuhk_report: Path) -> None:
    report = read_report(cuhk_report)
    assert report.dataset["format"] == "cuhk-sysu"
    sizes = sorted({row["size"] for row in report.sizes})
    assert len(sizes) >= 2
    assert {row["query"] for row in report.sizes} == {"scene", "crop"}
    # More pictures never make it easier here: the lists are nested and boxes are the same.
    for kind in ("scene", "crop"):
        curve = [row["mAP"] for row in report.sizes if row["query"] == kind]
        assert curve == sorted(curve, reverse=True)
    assert (cuhk_report / "plots" / "gallery-size.png").is_file()


def test_no_pictures_shows_nobody(setting: dict[str, Path], tmp_path: Path) -> None:
    words: list[str | Path] = ["run", "--weights", setting["weights"]]
    words += ["--data", setting["prw"], "--out", tmp_path]
    options: list[str | Path] = ["--cache", setting["cache"], "--scaled", "--cbgm", "5,3"]
    assert call(*words, *options).exit_code == 0
    assert list(tmp_path.rglob("*.jpg")), "re-ranked queries can be drawn, too"
    assert call(*words, *options, "--no-pictures").exit_code == 0
    assert not list(tmp_path.rglob("*.jpg"))
    report = read_report(tmp_path)
    assert (report.settings["cbgm"], report.settings["scaled_similarities"]) == ([5, 3], True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gallery-size", "50"], "--gallery-size is for CUHK-SYSU"),
        (["--gallery-size", "none"], "give a number, or all"),
        (["--branch", "instance"], "is not measured: with --branch instance the query is a crop"),
        (["--cbgm", "5"], "give two numbers"),
        (["--through-gallery", "--scaled"], "a gallery neither scales nor re-ranks"),
        (["--weights", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_done_is_said(
    options: list[str], message: str, setting: dict[str, Path], tmp_path: Path
) -> None:
    words: list[str | Path] = ["run", "--weights", setting["weights"]]
    words += ["--data", setting["prw"], "--out", tmp_path]
    with pytest.raises(BINetError, match=re.escape(message)):
        call(*words, "--cache", setting["cache"], *options)


def test_a_report_says_what_similarities_of_these_weights_have_meant(
    prw_report: Path, setting: dict[str, Path], tmp_path: Path
) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(setting["weights"], weights)
    result = call("calibrate", prw_report, "--weights", weights)
    assert result.exit_code == 0
    found = read_calibration(weights)
    assert found is not None
    curve = read_report(prw_report).calibration["crop"]
    np.testing.assert_allclose(found.share(curve["similarity"]), curve["probability"], atol=1e-9)
    other = quick_network()
    with torch.no_grad():
        other.predictor.score.bias.add_(1)
    save(other, tmp_path / "others")
    with pytest.raises(BINetError, match="of other weights"):
        call("calibrate", prw_report, "--weights", tmp_path / "others")


def test_a_report_does_not_fall_behind_itself(cuhk_report: Path) -> None:
    result = call("compare", cuhk_report, cuhk_report)
    assert result.exit_code == 0
    assert "REGRESSION" not in result.stdout
    assert result.stdout.count("| ok |") == 2 * 4


def worse(report: Path, out: Path, by: float) -> Path:
    """A copy of a report whose queries are all worse."""
    out.mkdir()
    content: dict[str, Any] = json.loads((report / "report.json").read_text())
    outcomes = json.loads((report / "queries.json").read_text())
    for row in content["results"]:
        for metric in ("mAP", "top1", "top5", "top10"):
            row[metric] = {name: max(value - by, 0) for name, value in row[metric].items()}
    for queries in outcomes.values():
        for query in queries:
            query["ap"] = max(query["ap"] - by, 0)
            query["rank"] = None
    (out / "report.json").write_text(json.dumps(content))
    (out / "queries.json").write_text(json.dumps(outcomes))
    return out


@pytest.mark.parametrize("queries", [True, False])
def test_a_regression_fails(queries: bool, cuhk_report: Path, tmp_path: Path) -> None:
    fallen = worse(cuhk_report, tmp_path / "fallen", 0.9)
    if not queries:
        (fallen / "queries.json").unlink()
    result = call("compare", fallen, cuhk_report, "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["failures"]
    # Weights that are not trained find nobody, so there is nothing to lose in detected boxes.
    paired = [d for d in answer["differences"] if (d["metric"], d["boxes"]) == ("mAP", "labelled")]
    assert all(d["regression"] for d in paired)
    assert all((d["change"] is not None) == queries for d in paired)
    assert call("compare", cuhk_report, fallen).exit_code == 0, "better is no regression"


def test_a_row_that_is_gone_fails(cuhk_report: Path, tmp_path: Path) -> None:
    lacking = worse(cuhk_report, tmp_path / "lacking", 0.0)
    content = json.loads((lacking / "report.json").read_text())
    content["results"] = content["results"][:1]
    (lacking / "report.json").write_text(json.dumps(content))
    result = call("compare", lacking, cuhk_report)
    assert result.exit_code == 1
    assert "not measured" in result.stdout


def test_only_like_is_compared_with_like(
    cuhk_report: Path, prw_report: Path, tmp_path: Path
) -> None:
    with pytest.raises(BenchmarkError, match="of different data"):
        call("compare", prw_report, cuhk_report)
    other = worse(cuhk_report, tmp_path / "other", 0.0)
    content = json.loads((other / "report.json").read_text())
    content["settings"]["det_threshold"] = 0.2
    (other / "report.json").write_text(json.dumps(content))
    with pytest.raises(BenchmarkError, match="differ in det_threshold"):
        call("compare", other, cuhk_report)
    (other / "report.json").write_text('{"format": "binet-benchmark-report", "version": 99}')
    with pytest.raises(BenchmarkError, match="is no report: version"):
        call("compare", other, cuhk_report)
    with pytest.raises(BenchmarkError, match="there is no report"):
        call("compare", tmp_path / "nowhere", cuhk_report)
    with pytest.raises(BenchmarkError, match="give a baseline"):
        call("compare", cuhk_report)


def published(report: Path, out: Path, metrics: dict[str, float]) -> Path:
    """A report that says it is the paper's BINet on PRW, with these numbers in per cent."""
    worse(report, out, 0.0)
    content = json.loads((out / "report.json").read_text())
    content["network"]["backbone"] = "resnet50"
    for row in content["results"]:
        if row["key"] == {
            "gallery": "PRW", "query": "scene", "boxes": "detected", "branch": "search",
        }:  # fmt: skip
            for name, value in metrics.items():
                row[name] = dict.fromkeys(("value", "low", "high"), value / 100)
    (out / "report.json").write_text(json.dumps(content))
    return out


@pytest.mark.parametrize(
    ("metrics", "code"),
    [({"mAP": 44.4, "top1": 80.8}, 0), ({"mAP": 44.2, "top1": 85.0}, 1)],
)
def test_the_gate_of_the_paper(
    metrics: dict[str, float], code: int, prw_report: Path, tmp_path: Path
) -> None:
    report = published(prw_report, tmp_path / "published", metrics)
    result = call("compare", report, "--expect", "paper")
    assert result.exit_code == code
    assert f"45.3 / {metrics['mAP']:.1f} / {metrics['mAP'] - 45.3:+.1f}" in result.stdout
    assert ("FAILED" in result.stdout) == (code == 1)


def test_the_paper_without_reports_is_never_filled_in() -> None:
    result = call("paper", "--json")
    numbers = json.loads(result.stdout)
    assert {n["table"] for n in numbers} >= {f"Table {i}" for i in range(1, 9)} | {
        "Figure 2",
        "Figure 4",
    }
    assert all(n["measured"] is None and n["difference"] is None for n in numbers)


def test_only_the_papers_backbone_counts_as_measured(prw_report: Path, tmp_path: Path) -> None:
    own = [e for t in paper_tables([read_report(prw_report)]) for row in t.rows for e in row]
    assert all(entry.measured is None for entry in own), "MobileNetV2 is not the paper's"
    report = published(prw_report, tmp_path / "published", {"mAP": 45.0})
    filled = {
        (entry.table, entry.label, entry.cell.title): entry
        for table in paper_tables([read_report(report)])
        for row in table.rows
        for entry in row
        if entry.measured is not None
    }
    entry = filled["Table 1", "BINet, detected", "PRW mAP"]
    assert entry.measured == pytest.approx(45.0)
    assert entry.difference == pytest.approx(-0.3)
    # The instance branch, crops against crops, is the paper's R.
    assert ("Table 7", "both", "PRW R mAP") in filled
    assert ("Table 3", "T = 0.3", "PRW mAP") not in filled
    assert ("Table 8", "BINet", "seconds") not in filled, "its scenes are smaller"
    text = tmp_path / "paper.md"
    assert call("paper", report, "--out", text).exit_code == 0
    assert "45.3 / 45.0 / -0.3" in text.read_text()


def test_the_papers_numbers_are_the_papers(shared: Path) -> None:
    """Every row of the tables stands in the paper's text, with its numbers in order."""
    paper = (shared / "paper" / "binet.md").read_text(encoding="utf-8")
    lines = [
        re.sub(r"_\{[^}]*\}|<sub>.*?</sub>|</?b>|\$|\*", "", line) for line in paper.splitlines()
    ]
    in_text = [re.findall(r"(?<![\w.])\d+\.\d+", line) for line in lines]
    checked = 0
    for table in paper_tables([]):
        if table.name in ("Later systems", "Figure 2", "Figure 4"):
            continue
        for row in table.rows:
            digits = 2 if row[0].cell.metric == "seconds" else 1
            numbers = [f"{entry.paper:.{digits}f}" for entry in row]
            assert any(numbers == found[len(found) - len(numbers) :] for found in in_text), (
                table.name,
                row[0].label,
                numbers,
            )
            checked += 1
    assert checked > 40
    for number in ("89.0", "66.4", "91.8", "74.6"):
        assert f"{number}%" in paper


def test_drawn_galleries_are_nested_and_keep_the_person(setting: dict[str, Path]) -> None:
    protocol = open_protocol(open_dataset(setting["prw"]))
    small, large = (draw_gallery(protocol, size, seed=1) for size in (7, 9))
    for query in range(len(protocol)):
        whole = protocol.entries(query)
        some, more = small.entries(query), large.entries(query)
        assert set(some[0]) <= set(more[0]) <= set(whole[0])
        shown = (~np.isnan(whole[1][:, 0])).sum()
        assert len(some[0]) == max(7, shown)
        assert (~np.isnan(some[1][:, 0])).sum() == shown
