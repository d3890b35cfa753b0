"""What the documentation says exists, and what exists is in the documentation."""

import html
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from PIL import Image

import binet
from docs.generate import comments
from docs.hooks import PAGES as MADE
from model import VARIANTS, BINetConfig, PreprocessingConfig
from service.settings import Settings
from training.recipe import Augmentation, Recipe

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Where the program reads environment variables.
PACKAGES = ("model", "training", "benchmark", "indexer", "service", "perf")
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
        if "://" not in target and target not in MADE:
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


# --- the site -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with `--strict`: any warning, such as a link to nowhere, is an error."""
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def text_of(page: Path) -> str:
    """What a page says, without its tags."""
    return html.unescape(re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8")))


def test_every_page_is_in_the_navigation(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    for page in site.rglob("*.html"):
        name = page.relative_to(site).as_posix()
        assert name == "404.html" or name == "index.html" or f'href="{name}"' in start, name


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\ssrc=\"?([^\s\">]+)", text)
        links = re.findall(r"<link\b[^>]*>", text)
        loaded += [m[1] for link in links if (m := re.search(r"href=\"?([^\s\">]+)", link))]
        assert loaded
        for address in loaded:
            assert not re.match(r"(https?:)?//", address), f"{page.name}: {address}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_every_option_and_setting_is_in_the_site(site: Path) -> None:
    told = text_of(site / "reference" / "commands.html")
    for name, command in COMMANDS.items():
        assert f"binet {name}" in told
        for parameter in command.params:
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                assert option in told, f"binet {name} {option}"
    told = text_of(site / "reference" / "settings.html")
    for model in (Recipe, Augmentation, BINetConfig, PreprocessingConfig, Settings):
        for field in model.model_fields:
            assert re.search(rf"\b{field}\b", told), f"{model.__name__}.{field}"


def test_every_environment_variable_is_in_the_site(site: Path) -> None:
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    read = {
        name for path in sources for name in re.findall(r"\"(BINET_[A-Z_]+)\"", path.read_text())
    }
    assert "BINET_CACHE" in read
    told = " ".join(map(text_of, site.rglob("*.html")))
    assert read <= set(re.findall(r"\bBINET_[A-Z_]+\b", told))


def test_every_setting_is_explained() -> None:
    for model in (Recipe, Augmentation, Settings):
        told = comments(model)
        for field in model.model_fields:
            assert told[field], f"{model.__name__}.{field}"


def test_every_route_and_document_is_in_the_site(site: Path) -> None:
    told = text_of(site / "reference" / "http.html")
    document = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in told
    for name, schema in document["components"]["schemas"].items():
        assert name in told or name.startswith("Body_")
        for field in schema.get("properties", {}):
            assert re.search(rf"\b{field}\b", told), f"{name}.{field}"
