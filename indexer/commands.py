"""Commands of the gallery."""

from pathlib import Path
from typing import Annotated

import typer


def demo(source: Annotated[Path, typer.Argument(help="A picture or a video file.")]) -> None:
    """Find the people of a picture or video and write a picture with their boxes."""
    raise SystemExit(f"{source}")
