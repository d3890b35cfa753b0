"""The command `binet synth`."""

import re
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer


def synth(
    data_format: Annotated[
        Literal["prw", "cuhk-sysu"], typer.Option("--format", help="Whose on-disk format to write.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new or empty folder.")],
    seed: Annotated[int, typer.Option(help="Equal seeds give equal files.")],
    identities: Annotated[int, typer.Option(help="People of the training part.")] = 40,
    test_identities: Annotated[int, typer.Option(help="Other people, of the test part.")] = 20,
    scenes: Annotated[int, typer.Option(help="Pictures of the training part.")] = 240,
    test_scenes: Annotated[int, typer.Option(help="Pictures of the test part.")] = 120,
    cameras: Annotated[int, typer.Option(help="Views, each with its own light; 2 to 9.")] = 4,
    size: Annotated[str, typer.Option(metavar="WxH", help="Of a picture, in pixels.")] = "320x240",
    context_bias: Annotated[
        float,
        typer.Option(help="How often surroundings tell who it is, in training only: 0 to 1."),
    ] = 0.0,
    unlabelled: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of people without identity: 0 to 0.8.")
    ] = 0.15,
) -> None:
    """Draw a small world of people and cameras as a data set."""
    from training.synth.plan import SynthConfig, SynthError
    from training.synth.write import write_world

    sides = re.fullmatch(r"(\d+)x(\d+)", size)
    if not sides:
        raise SynthError(f"size {size!r}: give WIDTHxHEIGHT, for example 320x240")
    config = SynthConfig(
        seed=seed,
        identities=identities,
        test_identities=test_identities,
        scenes=scenes,
        test_scenes=test_scenes,
        cameras=cameras,
        width=int(sides[1]),
        height=int(sides[2]),
        context_bias=context_bias,
        unlabelled=unlabelled,
    )
    pictures = scenes + test_scenes
    if sys.stderr.isatty():
        with typer.progressbar(length=pictures, label="drawing", file=sys.stderr) as bar:
            people = write_world(out, data_format, config, tick=lambda: bar.update(1))
    else:
        people = write_world(out, data_format, config)
    typer.echo(
        f"{out}: {data_format}, {pictures} pictures, {people} people, "
        f"{identities} + {test_identities} identities, context bias {context_bias:g}"
    )
