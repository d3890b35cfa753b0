"""What mkdocs runs: pages that are made of the program itself, so that they cannot be out of date.

`reference/commands.md`, `reference/settings.md` and `reference/http.md` exist in the site only.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from docs.generate import commands_page, http_page, settings_page

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

PAGES: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands_page,
    "reference/settings.md": settings_page,
    "reference/http.md": lambda: http_page(Path(__file__).with_name("openapi.json")),
}


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the pages that are made."""
    from mkdocs.structure.files import File

    for name, page in PAGES.items():
        files.append(File.generated(config, name, content=page()))
    return files
