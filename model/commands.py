"""Commands of the network."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    weights: Annotated[Path, typer.Option(help="Checkpoint folder.")],
    out: Annotated[Path, typer.Option(help="The .onnx file to write.")],
) -> None:
    """Write the search branch, or the crop encoder, as ONNX."""
    raise SystemExit(f"{weights} {out}")
