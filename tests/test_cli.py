"""The `binet` command as a user meets it: in a process of its own."""

import importlib.metadata
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer.main
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import binet

HEAVY = ("torch", "torchvision", "numpy", "PIL", "av", "onnx", "safetensors", "pydantic")

#: Typer's commands by name.
COMMANDS: dict[str, Any] = typer.main.get_command(binet.app).commands  # type: ignore[attr-defined]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "binet", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run_python(code: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from binet import main
sys.argv = ["binet", "--help"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print("MODULES", *sorted({name.split(".")[0] for name in sys.modules}))
"""
    text, modules = run_python(code).split("MODULES")
    assert "demo" in text
    assert not set(HEAVY) & set(modules.split())


def test_what_a_decoder_imports_of_who_started_it_is_not_heavy() -> None:
    """Processes that are spawned import the main module of the process that started them."""
    code = """
import sys
import service.index_process, perf.indexing
print("MODULES", *sorted({name.split(".")[0] for name in sys.modules}))
"""
    _, modules = run_python(code).split("MODULES")
    assert not {"torch", "faiss", "sqlalchemy"} & set(modules.split())


def test_help_takes_under_a_second() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert run("--help").returncode == 0
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.0, seconds


def plain_install() -> set[str]:
    """Distributions that `pip install binet` brings, without any extra."""
    found: set[str] = set()
    pending = [Requirement("binet")]
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        if name in found and not requirement.extras:
            continue
        found.add(name)
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            extras = ["", *requirement.extras]
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras):
                pending.append(needed)
    return found


def test_plain_install_is_enough() -> None:
    core = plain_install()
    assert {"torch", "typer"} <= core
    assert not {"av", "onnx", "pytest", "faiss-cpu"} & core
    extras_only = [
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not any(canonicalize_name(owner) in core for owner in owners)
    ]
    assert {"av", "onnx", "pytest"} <= set(extras_only)
    code = """
import importlib, json, pkgutil, sys
sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))  # None: not importable
import binet, indexer, model
for package in (model, indexer):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith(".migrations.env"):  # Alembic runs it, nobody imports it
            importlib.import_module(module.name)
for name in model.__all__:
    getattr(model, name)
sys.argv = ["binet", "--help"]
binet.main()
"""
    assert "demo" in run_python(code, json.dumps(extras_only))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    for parameter in command.params:
        assert parameter.help, f"{name}: {parameter.name}"
    result = run(name, "--help")
    assert result.returncode == 0
    assert not result.stderr


def test_unknown_file_is_a_one_line_error() -> None:
    result = run("demo", "nothing/here.jpg")
    assert result.returncode == 1
    assert result.stdout == ""
    assert re.fullmatch(r"error: nothing/here\.jpg: there is no such file.*\n", result.stderr)


@pytest.mark.parametrize(
    "arguments",
    [["demo", "broken.png"], ["demo", "good.png", "--weights", "nowhere"]],
    ids=["broken picture", "missing weights"],
)
def test_what_a_user_can_mend_is_a_one_line_error(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("good.png")
    Path("broken.png").write_bytes(Path("good.png").read_bytes()[:40])
    monkeypatch.setattr(sys, "argv", ["binet", *arguments])
    with pytest.raises(SystemExit) as stop:
        binet.main()
    assert stop.value.code == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"error: .+\n", captured.err)


def test_wrong_usage_says_so() -> None:
    for arguments in ([], ["index"], ["demo", "x.jpg", "--fps", "0"], ["nonsense"]):
        result = run(*arguments)
        assert result.returncode == 2, arguments
        assert "Traceback" not in result.stderr
