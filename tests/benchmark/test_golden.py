"""Every answer that the public evaluators gave, by the same command that users call."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import binet
from model.errors import BINetError

#: Peers by what they do with a picture that a gallery lists twice.
RULES = {
    "OIM-orig": "oim",
    "OIM-port": "oim",
    "NAE4PS": "oim",
    "SeqNet": "seqnet",
    "COAT": "seqnet",
    "PS-ARM": "seqnet",
}
#: Peers that are known to differ, each for its own reason (see the goldens' description): GFN takes
#: the first box with the query's number as the true one, QEEPS normalises what it compares.
OWN_WAYS = {"GFN", "QEEPS"}
CASES = ["cuhk_anomalies", "cuhk_edge", "cuhk_empty", "cuhk_s0", "prw_edge", "prw_s0"]
TOP = (1, 5, 10)


def options(answer: dict[str, Any]) -> list[str] | None:
    """How to ask for what a peer computed; None where it is not to be imitated."""
    params = answer["params"]
    words = ["--rule", RULES[answer["peer"]], "--det-threshold", str(params["det_thresh"])]
    if "gallery_size" in params:
        size = params["gallery_size"]
        if size == -1 and RULES[answer["peer"]] == "seqnet":
            return None  # their full set holds the listed pictures twice
        words += ["--gallery-size", "all" if size == -1 else str(size)]
    elif not params["ignore_cam_id"]:
        words.append("--cross-camera")
    if params.get("cbgm"):
        words += ["--cbgm", f"{params['k1']},{params['k2']}"]
    return words


def score(shared: Path, name: str, *words: str) -> dict[str, Any]:
    files = [str(shared / "golden" / f"{name}{ending}") for ending in (".npz", ".json")]
    result = CliRunner().invoke(
        binet.app, ["benchmark", "score", *files, *words], catch_exceptions=False
    )
    answer: dict[str, Any] = json.loads(result.output)
    return answer


@pytest.mark.parametrize("name", CASES)
def test_searches(name: str, shared: Path) -> None:
    golden = json.loads((shared / "golden" / f"{name}.json").read_text())
    ours: dict[tuple[str, ...], dict[str, Any]] = {}
    compared = 0
    for answer in golden["search"]:
        if answer["peer"] in OWN_WAYS or not answer.get("aps"):
            continue
        words = options(answer)
        if words is None:
            continue
        key = tuple(words)
        if key not in ours:
            ours[key] = score(shared, name, *words)
        found, where = ours[key], (name, answer["peer"], words)
        assert found["aps"] == pytest.approx(answer["aps"], abs=1e-6), where
        ties = len(answer.get("topk_tie_range") or {}) / len(answer["aps"])
        if not found["excluded"]:
            assert found["mAP"] == pytest.approx(answer["mAP"], abs=1e-6), where
            for k in TOP:
                assert found[f"top{k}"] == pytest.approx(answer[f"top{k}"], abs=ties + 1e-9), where
        compared += 1
    assert compared >= 5


@pytest.mark.parametrize("name", CASES)
def test_detection(name: str, shared: Path) -> None:
    golden = json.loads((shared / "golden" / f"{name}.json").read_text())
    answers = [a for a in golden["detection"] if a["peer"] == "SeqNet"]
    assert answers
    for answer in answers:
        threshold = answer["params"]["det_thresh"]
        ours = score(shared, name, "--det-threshold", str(threshold))
        labelled = answer["params"]["labeled_only"]
        found = ours["detection_labelled" if labelled else "detection"]
        assert found["recall"] == pytest.approx(answer["recall"], abs=1e-12)
        assert found["ap"] == pytest.approx(answer["ap"], abs=1e-6)


def test_scaled_embeddings(shared: Path) -> None:
    """Class-weighted similarity: scores multiplied in, or already in what is saved."""
    golden = json.loads((shared / "golden" / "prw_s0.json").read_text())
    assert golden["embeddings"] == "unit"
    plain, scaled = score(shared, "prw_s0"), score(shared, "prw_s0", "--scaled")
    assert plain["settings"]["scaled"] is False
    assert plain["mAP"] != scaled["mAP"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gallery-size", "10"], "no gallery lists"),
        (["--gallery-size", "many"], "--gallery-size many: give a number, or all"),
        (["--cbgm", "30"], "--cbgm 30: give two numbers, as in 30,4"),
    ],
)
def test_options_that_do_not_fit(words: list[str], message: str, shared: Path) -> None:
    files = [str(shared / "golden" / f"prw_s0{ending}") for ending in (".npz", ".json")]
    result = CliRunner().invoke(binet.app, ["benchmark", "score", *files, *words])
    assert message in str(result.exception)


def test_files_that_are_no_case(tmp_path: Path, shared: Path) -> None:
    good = shared / "golden" / "prw_s0.npz"
    description = tmp_path / "case.json"
    description.write_text((shared / "golden" / "prw_s0.json").read_text())
    arrays = dict(np.load(good))
    contents: dict[str, tuple[bytes, str]] = {
        "cut.npz": (good.read_bytes()[:5000], "is not a file of arrays"),
        "text.npz": (b"text", "is not a file of arrays"),
        "empty.npz": (b"", "is not a file of arrays"),
    }
    for name, (content, message) in contents.items():
        (tmp_path / name).write_bytes(content)
        assert message in failure(tmp_path / name, description)
    np.savez(tmp_path / "less.npz", **{k: v for k, v in arrays.items() if k != "q_feat"})
    assert "missing arrays q_feat" in failure(tmp_path / "less.npz", description)
    arrays["det_feats"][3, 5] = np.nan
    np.savez(tmp_path / "nan.npz", **arrays)
    assert "not finite: det_feats" in failure(tmp_path / "nan.npz", description)
    assert "no such file" in failure(tmp_path / "absent.npz", description).lower()
    description.write_text("[]")
    assert "is not the description of a case" in failure(good, description)


def failure(arrays: Path, description: Path) -> str:
    result = CliRunner().invoke(binet.app, ["benchmark", "score", str(arrays), str(description)])
    assert isinstance(result.exception, BINetError), result.exception
    return str(result.exception)
