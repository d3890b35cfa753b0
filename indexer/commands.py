"""Commands of the gallery."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    source: Annotated[Path, typer.Argument(help="A picture or a video file.")],
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Checkpoint folder; without it, untrained weights."),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where result.png and result.json go.")
    ] = Path("demo"),
    frames: Annotated[
        int, typer.Option(min=1, max=24, help="Frames of a video to look at, evenly spaced.")
    ] = 3,
) -> None:
    """Find the people of a picture or video and write a picture with their boxes."""
    from indexer.demo import UNTRAINED_BANNER, count, run_demo

    result = run_demo(source, weights, out, frames)
    typer.echo(
        f"{source.name}: {count(result.frames, 'frame', 'frames')}, "
        f"{count(result.boxes, 'box', 'boxes')}, {result.seconds_per_frame:.2f} s per frame "
        f"({result.backbone} on the CPU)"
    )
    typer.echo(f"picture: {result.picture}")
    typer.echo(f"boxes:   {result.document}")
    if result.trained:
        typer.echo("next:    open the picture; the README shows the same steps in Python")
    else:
        typer.secho(f"{UNTRAINED_BANNER}.", fg="red", bold=True)
        typer.echo(
            "next:    give the folder of a trained checkpoint, --weights FOLDER "
            "(make demo SOURCE=... WEIGHTS=FOLDER)"
        )
