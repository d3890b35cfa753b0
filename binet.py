"""The `binet` command: one Typer app that mounts the packages' commands.

The command modules import torch and the like inside their functions, so `binet --help` is instant.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmark.commands import app as benchmark
from indexer.commands import index, search
from indexer.upkeep_commands import gallery
from model.commands import export
from model.errors import BINetError
from model.files import DEFAULT_WEIGHTS
from service.commands import audit, keys, serve
from training.commands import ablation, train
from training.datasets.commands import app as data
from training.synth.commands import synth

app = typer.Typer(
    help="Person search: one picture of a person in, the frames and boxes of similar people out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def demo(
    source: Annotated[
        Path | None,
        typer.Argument(help="A video, picture, folder or archive; without it, a sample video."),
    ] = None,
    query: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A crop of the person to ask for; without it, one who leaves and returns.",
        ),
    ] = None,
    weights: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Checkpoint folder.")
    ] = DEFAULT_WEIGHTS,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the results go.")] = Path(
        "demo"
    ),
    fps: Annotated[
        float, typer.Option(min=0.01, help="Frames per second of a video to look at.")
    ] = 5.0,
    serve_it: Annotated[
        bool, typer.Option("--serve", help="Go on with the service and its page, on this machine.")
    ] = False,
) -> None:
    """Index a video, ask for one person, and write a picture and a page with the answer."""
    from indexer.demo import facts, run_demo
    from indexer.index_command import progress_bar
    from indexer.sample_video import find_sample

    if source is None:
        source = find_sample(typer.echo) or _drawn_world(out)
    with progress_bar() as show:
        done = run_demo(source, weights, out, query, fps, show)
    for line in facts(done):
        typer.echo(line)
    typer.echo("best of the similar appearances (similar, not identified):")
    for rank, one in enumerate(done.appearances[:5], 1):
        typer.echo(
            f"  {rank}. similar {one.score:.3f}  {one.camera}  {one.begin:%H:%M:%S} to "
            f"{one.end:%H:%M:%S}  {len(one.hits)} frames"
        )
    typer.echo(f"picture: {done.picture}\npage:    {done.page}\nquery:   {done.query}")
    typer.echo(f"{done.seconds:.0f} s in all")
    typer.echo(
        f"next:    binet search --crop {done.query} --gallery {done.gallery} --weights {weights}\n"
        "         make demo SOURCE=my.mp4 QUERY=crop.jpg"
    )
    if serve_it:
        serve(str(done.gallery), weights)


def _drawn_world(out: Path) -> Path:
    """Draw scenes where no real video can be had, and say so."""
    from training.synth.plan import SynthConfig
    from training.synth.write import write_world

    world = out / "drawn-world"
    typer.secho("no real video can be fetched here: scenes are DRAWN for the demo", fg="yellow")
    if not (world / "frames").is_dir():
        write_world(world, "prw", SynthConfig(scenes=60, test_scenes=20, width=640, height=480))
    return world / "frames"


app.command()(ablation)
app.command()(export)
app.command()(index)
app.command()(search)
app.command()(serve)
app.command()(synth)
app.command()(train)
app.add_typer(audit, name="audit")
app.add_typer(benchmark, name="benchmark")
app.add_typer(data, name="data")
app.add_typer(gallery, name="gallery")
app.add_typer(keys, name="keys")


def main() -> None:
    """Run the command; an error that the user can mend is one line on stderr and exit code 1."""
    try:
        app()
    except BINetError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
