"""The `binet` command: one Typer app that mounts the packages' commands.

The command modules import torch and the like inside their functions, so `binet --help` is instant.
"""

import sys

import typer

from benchmark.commands import app as benchmark
from indexer.commands import demo, index, search
from indexer.upkeep_commands import gallery
from model.commands import export
from model.errors import BINetError
from training.commands import ablation, train
from training.datasets.commands import app as data
from training.synth.commands import synth

app = typer.Typer(
    help="Person search: one picture of a person in, the frames and boxes of similar people out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(ablation)
app.command()(demo)
app.command()(export)
app.command()(index)
app.command()(search)
app.command()(synth)
app.command()(train)
app.add_typer(benchmark, name="benchmark")
app.add_typer(data, name="data")
app.add_typer(gallery, name="gallery")


def main() -> None:
    """Run the command; an error that the user can mend is one line on stderr and exit code 1."""
    try:
        app()
    except BINetError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
