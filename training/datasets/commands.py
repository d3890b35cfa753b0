"""`binet data`: convert, look at, and check datasets."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from training.datasets.check import CheckReport
    from training.datasets.opening import Format

app = typer.Typer(help="Convert, look at, and check datasets.", no_args_is_help=True)

#: The table of `binet data check` shows so many findings of each kind.
MAX_ROWS = 10


class FormatChoice(StrEnum):
    """Formats that are read, and `auto`."""

    auto = "auto"
    coco = "coco"
    prw = "prw"
    cuhk_sysu = "cuhk-sysu"

    def resolve(self) -> "Format | None":
        """Return the format, None for `auto`."""
        choices: dict[str, Format] = {"coco": "coco", "prw": "prw", "cuhk-sysu": "cuhk-sysu"}
        return choices.get(self.value)


Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the dataset.")]
FormatOption = Annotated[
    FormatChoice, typer.Option("--format", help="auto: by what lies in the folder.")
]


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder, or a .zip of crops.")],
    source_format: Annotated[
        Literal["prw", "cuhk-sysu", "mot", "market"],
        typer.Option("--from", help="What SOURCE is."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write.")],
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy the pictures; without it they stay in SOURCE.")
    ] = False,
    split: Annotated[
        Literal["train", "test"],
        typer.Option(help="mot, and market without its two folders: the part to write."),
    ] = "train",
    gallery_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="cuhk-sysu: gallery of the protocol.")
    ] = 100,
    min_visibility: Annotated[
        float, typer.Option(min=0, max=1, help="mot: leave out boxes that are seen less.")
    ] = 0.0,
) -> None:
    """Write a dataset in the neutral format."""
    from training.datasets.convert import convert as convert_dataset

    dataset = convert_dataset(
        source,
        out,
        source_format,
        copy=copy,
        split=split,
        gallery_size=gallery_size,
        min_visibility=min_visibility,
    )
    for name, scenes in (("train", dataset.train), ("test", dataset.test)):
        if scenes:
            typer.echo(f"{out / name}.json: {len(scenes)} pictures, {sum(map(len, scenes))} boxes")


@app.command()
def show(
    root: Folder,
    data_format: FormatOption = FormatChoice.auto,
    split: Annotated[Literal["train", "test"], typer.Option(help="Part to show.")] = "train",
    scenes: Annotated[int, typer.Option(min=1, metavar="N", help="Number of pictures.")] = 8,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Picture to write.")] = Path(
        "dataset.png"
    ),
) -> None:
    """Draw boxes and identities of some pictures on one sheet."""
    from training.datasets.opening import open_dataset
    from training.datasets.show import draw_sheet, pick
    from training.errors import DatasetError

    dataset = open_dataset(root, data_format.resolve(), pictures=False)
    part = dataset.train if split == "train" else dataset.test
    if not part:
        raise DatasetError(f"{root} has no {split} part")
    own = {row: pid for pid, row in dataset.pid_of.items()} if split == "train" else None
    chosen = pick(part, scenes)
    sheet = draw_sheet(chosen, own)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(out)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{out} cannot be written: {error}") from error
    typer.echo(f"{out}: {len(chosen)} of {len(part)} pictures of the {split} part")


@app.command()
def check(
    root: Folder,
    data_format: FormatOption = FormatChoice.auto,
    as_json: Annotated[bool, typer.Option("--json", help="All findings, as JSON.")] = False,
) -> None:
    """Find what is wrong with the data; exit code 1 when something cannot be used."""
    from training.datasets.check import check_dataset

    report = check_dataset(root, data_format.resolve())
    if as_json:
        _print_json(report)
    else:
        _print_table(report)
    raise typer.Exit(1 if report.errors else 0)


def _print_json(report: "CheckReport") -> None:
    import json
    from dataclasses import asdict

    problems = [
        {"level": "error" if problem.is_error else "warning", **asdict(problem)}
        for problem in report.problems
    ]
    typer.echo(json.dumps({**asdict(report), "errors": report.errors, "problems": problems}))


def _print_table(report: "CheckReport") -> None:
    typer.echo(
        f"{report.format}: {report.scenes} pictures, {report.boxes} boxes, "
        f"{report.identities} identities"
    )
    width = max((len(problem.scene) for problem in report.problems), default=0)
    for kind in dict.fromkeys(problem.kind for problem in report.problems):
        found = [problem for problem in report.problems if problem.kind == kind]
        typer.echo(f"\n{'error' if found[0].is_error else 'warning'}: {kind}: {len(found)}")
        for problem in found[:MAX_ROWS]:
            typer.echo(f"  {problem.split:5}  {problem.scene:{width}}  {problem.detail}")
        if len(found) > MAX_ROWS:
            typer.echo(f"  and {len(found) - MAX_ROWS} more; --json lists all")
    warnings = len(report.problems) - report.errors
    typer.echo(f"\n{report.errors} errors, {warnings} warnings")
