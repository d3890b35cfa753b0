"""Commands of the network."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def export(
    weights: Annotated[Path, typer.Option(metavar="FOLDER", help="Checkpoint folder.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The .onnx file to write.")],
    part: Annotated[
        Literal["search", "crop"],
        typer.Option(help="search: scene to people; crop: patches to embeddings."),
    ] = "search",
) -> None:
    """Write the search branch, or the crop encoder, as ONNX, if it equals torch."""
    from model.export import export_onnx
    from model.factory import load

    network, _ = load(weights)
    differences = export_onnx(network, out, part)
    megabytes = out.stat().st_size / 1e6
    typer.echo(f"{out}: {part}, {megabytes:.1f} MB; largest differences from torch: {differences}")
