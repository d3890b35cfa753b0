"""Every bash and Python block of README.md and docs/ runs, or says why it cannot."""

import re
from pathlib import Path

import pytest

pytest.importorskip("av", reason="PyAV is not installed: pip install 'binet[video]'")

from tests.docs_runner import PAGES, ROOT, Runner, blocks
from tests.docs_world import World

#: What each page takes as given; the rest it makes itself.
GIVEN = {
    "README.md": ["street.jpg", "person.jpg", "street.mp4"],
    "docs/benchmark.md": [
        *("PRW", "CUHK-SYSU", "own", "case.npz", "case.json", "runs/binet/final"),
        "runs/small/final",
    ],
    "docs/data.md": ["world", "PRW", "CUHK-SYSU", "Market-1501", "MOT17/train"],
    "docs/first-search.md": ["street.mp4", "person.jpg"],
    "docs/gallery.md": ["gate.mp4", "runs/better/final"],
    "docs/indexing.md": [
        *("gate.mp4", "yard.mp4", "archive", "person.jpg", "street.jpg", "runs/small/final"),
    ],
    "docs/own-data.md": ["own", "mobilenet_v2.pth", "runs/small/final"],
    "docs/reproducing.md": ["PRW", "CUHK-SYSU"],
    "docs/searching.md": ["gate.mp4", "person.jpg", "street.jpg"],
    "docs/service.md": ["street.mp4", "person.jpg"],
    "docs/training.md": ["PRW", "Market-1501", "weights.pth", "mobilenet_v2.pth"],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("given"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(block.runs for block in blocks(page))],
    ids=lambda page: page.name,
)
def test_blocks_run(
    page: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(page.relative_to(ROOT))
    for thing in GIVEN.get(name, []):
        world.give(thing, tmp_path)
    monkeypatch.chdir(tmp_path)
    with Runner() as runner:
        for block in blocks(page):
            if block.runs:
                runner.run(block, name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_marks_and_languages(page: Path) -> None:
    """A block of commands is `bash`, one of Python `python`; what does not run says why."""
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"^[ \t]+```", text, re.MULTILINE), "a fence that is indented"
    assert text.count("<!--") == sum(bool(block.mark) for block in blocks(page))
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        assert re.match(r"$|(not run|exit \d+|with [^:]+): \S.{15}", block.mark, re.DOTALL), where
        if block.language not in ("bash", "python"):
            assert not block.mark, where
            assert block.language in ("", "json", "mermaid", "toml", "yaml", "text"), where
            first = r"^(\$ )?(binet|make|python|pip|docker|helm|curl|torchrun) [^\n]"
            assert not re.search(first, block.text, re.MULTILINE), where
