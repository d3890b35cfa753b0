"""Imports point one way: service -> indexer -> model, training -> model, benchmark -> all three."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: What each package may import of ours, beside itself; those of `FREE` may import anything.
ALLOWED: dict[str, set[str]] = {
    "model": set(),
    "training": {"model"},
    "indexer": {"model"},
    "benchmark": {"training.datasets", "indexer", "model"},
    "service": {"indexer", "model"},
    "binet": {"model", "training", "indexer", "benchmark", "service"},
}
FREE = {"docs", "perf", "tests"}
OURS = set(ALLOWED) | FREE


def imported_names(source: str, module: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, inside functions and by `import_module` too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import cannot leave its package: only its first name matters here.
            base = module.split(".")[0] if node.level else node.module
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = (
                node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
            )
            if called in ("import_module", "__import__"):
                name = node.args[0]
                if isinstance(name, ast.JoinedStr):
                    name = name.values[0]
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    yield node.lineno, name.value


def violations(source: str, module: str) -> list[str]:
    package = module.split(".")[0]
    if package in FREE:
        return []
    allowed = ALLOWED[package] | {package}
    return [
        f"{module}:{line} imports {name}"
        for line, name in imported_names(source, module)
        if name.split(".")[0] in OURS
        and not any(name == prefix or name.startswith(f"{prefix}.") for prefix in allowed)
    ]


def our_modules() -> dict[str, Path]:
    paths = [ROOT / "binet.py"]
    for package in sorted(OURS - {"binet"}):
        paths += sorted((ROOT / package).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}


def test_imports_point_one_way() -> None:
    modules = our_modules()
    assert {name.split(".")[0] for name in modules} >= set(ALLOWED), "a package is missing"
    found = [
        problem
        for name, path in modules.items()
        for problem in violations(path.read_text(encoding="utf-8"), name)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("model.binet", "import indexer.video"),
        ("model.binet", "def f():\n    from training import datasets"),
        ("model.binet", "import importlib\nimportlib.import_module('service.app')"),
        ("model.binet", "from importlib import import_module\nimport_module(f'indexer.{x}')"),
        ("indexer.video", "from training.datasets import prw"),
        ("indexer.video", "if TYPE_CHECKING:\n    import service"),
        ("training.loop", "import numpy, indexer"),
        ("benchmark.tables", "import training"),
        ("benchmark.tables", "from training import loop"),
        ("benchmark.tables", "from training.datasets_old import prw"),
        ("service.app", "from benchmark import tables"),
        ("service.app", "import binet"),
        ("indexer.demo", "from tests.conftest import network"),
        ("binet", "from perf import inference"),
    ],
)
def test_a_violation_is_caught(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("model.factory", "from model.binet import BINet\nfrom . import config\nimport torch"),
        ("indexer.demo", "from model import create\nimport indexer.draw"),
        ("benchmark.tables", "from training import datasets\nimport training.datasets.prw"),
        ("service.app", "import model, indexer.video"),
        ("binet", "from service.commands import serve"),
        ("tests.test_x", "import service, binet, perf"),
        ("training.loop", "import models, indexer_tools"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert violations(source, module) == []
