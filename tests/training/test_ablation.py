"""The ablation: resumable, each number in its place, whatever is finished is reported."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import binet
from training.ablation import BOXES, METRICS, MODES, SYSTEMS, Plan, Run, run_all
from training.ablation_report import write_report
from training.synth.plan import SynthConfig

TINY = (
    "steps=2",
    "warmup_steps=1",
    "checkpoint_every=1",
    "network.rois_per_scene=8",
    "network.preprocessing.min_side=96",
    "network.preprocessing.max_side=96",
)
WORLD = SynthConfig(
    identities=3, test_identities=2, scenes=6, test_scenes=4, cameras=2, width=160, height=160
)


def test_a_run_measures_every_mode_and_is_not_done_twice(tmp_path: Path) -> None:
    plan = Plan(tmp_path, "random", 1, TINY, systems=("baseline", "binet"), drawn=WORLD)
    runs = plan.runs()
    assert [run.name for run in runs] == [
        "baseline-bias0.9-seed0",
        "binet-bias0.9-seed0",
        "baseline-bias0-seed0",
        "binet-bias0-seed0",
    ]
    finished = list(run_all(plan, jobs=1))
    assert sorted(run.name for run in finished) == sorted(run.name for run in runs)
    metrics = plan.metrics_of(runs[1])
    assert metrics is not None
    expected = {f"{m}, {b} {n}" for m in MODES for b in BOXES for n in ("mAP", "top-1", "error")}
    assert metrics.keys() == expected | {"recall"}
    assert list(run_all(plan, jobs=1)) == []
    # Worlds of one seed are searched in the same test part.
    tests = [plan.world_of(run) / "query_info.txt" for run in (runs[0], runs[2])]
    assert tests[0].read_bytes() == tests[1].read_bytes()


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    plan = Plan(tmp_path, "random", 1, TINY, systems=("baseline",), drawn=WORLD)
    (first, _) = plan.runs()
    list(run_all(plan, jobs=1))
    path = tmp_path / "runs" / first.name / METRICS
    before = path.read_bytes()
    path.unlink()
    assert [run.name for run in run_all(plan, jobs=1)] == [first.name]
    assert path.read_bytes() == before


def fake_runs(plan: Plan) -> None:
    """Metrics that tell where they belong; one run is missing."""
    for run in plan.runs():
        if run == Run("binet", "bias0", 1):
            continue
        folder = plan.out / "runs" / run.name
        folder.mkdir(parents=True)
        value = SYSTEMS.index(run.system) / 10 + (run.world == "bias0") / 100 + run.seed / 1000
        names = [f"{m}, {b} {n}" for m in MODES for b in BOXES for n in ("mAP", "top-1", "error")]
        (folder / METRICS).write_text(json.dumps(dict.fromkeys([*names, "recall"], value)))


def test_the_report_has_means_spreads_and_what_is_missing(tmp_path: Path) -> None:
    plan = Plan(tmp_path, "random", 2)
    fake_runs(plan)
    text = write_report(plan).read_text()
    high = text[text.index("World bias0.9, detected") : text.index("World bias0.9, labelled")]
    assert "| siamese | 10.1 ± 0.1 | 10.1 ± 0.1 | 10.1 ± 0.1 |" in high
    low = text[text.index("World bias0, detected") : text.index("World bias0, labelled")]
    assert "| binet | 21.0 | 21.0 | 21.0 |" in low
    assert "| bias0 | detected | binet - baseline | +20.0 |" in text
    assert (tmp_path / "ablation.png").stat().st_size > 1000


def test_the_report_of_nothing(tmp_path: Path) -> None:
    assert "| binet | - | - | - |" in write_report(Plan(tmp_path, "random", 1)).read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--systems", "binet,bi-net"], "--systems bi-net: choose some of baseline"),
        (["--data", "nowhere", "--systems", "baseline", "--seeds", "1"], "nowhere is no dataset"),
    ],
)
def test_what_cannot_be_compared_is_said(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(binet.app, ["ablation", "--out", str(tmp_path), *arguments])
    assert message in str(result.exception)
