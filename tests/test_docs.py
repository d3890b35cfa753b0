"""What the documentation says exists, and what exists is in the documentation."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from PIL import Image

import binet
from model import VARIANTS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(group: Any, prefix: str = "") -> dict[str, Any]:
    """Every command by its full name: `data check`."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        inner = hasattr(command, "commands")
        found |= commands(command, f"{prefix}{name} ") if inner else {prefix + name: command}
    return found


COMMANDS = commands(typer.main.get_command(binet.app))


def shell_lines(page: Path) -> Iterator[str]:
    """Lines of fenced blocks that are not Python or a diagram, and inline code."""
    text = page.read_text(encoding="utf-8")
    for language, block in FENCE.findall(text):
        if language in ("", "bash", "sh", "console"):
            yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def used(program: str) -> list[tuple[str, str]]:
    """Page and what follows the program's name, wherever the documentation shows a call."""
    return [
        (page.name, match[1])
        for page in PAGES
        for line in shell_lines(page)
        if (match := re.match(rf"(?:[$] )?(?:\S*/)?{program} +(.+)", line))
    ]


def command_of(call: str) -> str:
    """The longest command that a call begins with."""
    words = call.split()
    names = (" ".join(words[:n]) for n in range(len(words), 0, -1))
    return next((name for name in names if name in COMMANDS), words[0])


def test_commands_and_options_exist() -> None:
    calls = used("binet")
    assert calls
    for page, call in calls:
        name = command_of(call)
        is_group = any(command.startswith(f"{call} ") for command in COMMANDS)
        if call.split()[0] == "--help" or is_group:
            continue
        assert name in COMMANDS, f"{page}: binet {call}"
        rest = call.removeprefix(name).split()
        options = {option for p in COMMANDS[name].params for option in p.opts} | {"--help"}
        for word in rest:
            if word.startswith("-"):
                assert word.split("=")[0] in options, f"{page}: binet {call}"


def test_every_command_is_documented() -> None:
    documented = {command_of(call) for _, call in used("binet")}
    assert set(COMMANDS) <= documented


def test_make_targets_and_variables_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z]+) \?=", makefile, re.MULTILINE))
    calls = used("make")
    assert {call.split()[0] for _, call in calls} >= {"demo", "test"}
    for page, call in calls:
        for word in re.sub(r"\s#.*", "", call).split():
            name, is_variable, _ = word.partition("=")
            assert name in (variables if is_variable else targets), f"{page}: make {call}"


def test_every_make_target_is_described() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    for target in phony.split():
        assert re.search(rf"^{target}:.*## \S", makefile, re.MULTILINE), target


def test_extras_table_is_complete() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `([a-z]+)` \|", readme, re.MULTILINE))
    assert rows == set(project["optional-dependencies"])


def test_variants_table_is_complete() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `([a-z0-9-]+)`[^|]*\|", page, re.MULTILINE))
    assert set(VARIANTS) <= rows


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_to_files(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target
    for path in re.findall(r"`(\w+/\w+\.py)`", text):
        assert (ROOT / path).exists(), path


def test_gallery_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    (block,) = [block for language, block in FENCE.findall(page) if language == "python"]
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "gallery.md", "exec"), {})
    assert capsys.readouterr().out.startswith("1.0 gate")


def test_readme_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = [block for language, block in FENCE.findall(readme) if language == "python"]
    assert blocks
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    for name in ("street.jpg", "person.jpg"):
        Image.fromarray(noise).save(name)
    names: dict[str, Any] = {}
    exec(compile("\n".join(blocks), "README.md", "exec"), names)
    assert len(names["people"]) > 0
