"""Putting people into a gallery, and looking for them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from model.files import DEFAULT_WEIGHTS

GALLERY_HELP = "A folder, sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME."

Url = Annotated[
    str, typer.Option("--gallery", metavar="URL", envvar="BINET_GALLERY", help=GALLERY_HELP)
]
IndexUrl = Annotated[
    str | None,
    typer.Option(
        "--index",
        metavar="URL",
        envvar="BINET_INDEX",
        help="Where vectors are, such as milvus+http://HOST:PORT; in memory without.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Roi = Annotated[
    str | None,
    typer.Option(
        metavar="X1,Y1,X2,Y2,...",
        help="Polygon in pixels: only people whose foot point is inside are kept.",
    ),
]
MinHeight = Annotated[
    float, typer.Option(min=0, metavar="PIXELS", help="Keep people at least so tall.")
]
Device = Annotated[str, typer.Option(help="What the network runs on: cpu, cuda, cuda:1.")]
PrecisionName = Annotated[
    Literal["float32", "bfloat16"], typer.Option(help="What the network computes in.")
]
BatchSize = Annotated[
    int, typer.Option(min=1, max=256, help="Frames that are looked at and stored together.")
]


def index(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Videos, pictures, folders and zip or tar files of pictures.",
        ),
    ] = None,
    gallery_url: Url = "gallery",
    weights: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Checkpoint folder of the network.")
    ] = DEFAULT_WEIGHTS,
    camera: Annotated[
        str | None,
        typer.Option(help="Name of the camera; without it, of the folder that each file is in."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When the first frame of one video was captured."),
    ] = None,
    utc_offset: Annotated[
        str, typer.Option(metavar="+HH:MM", help="Of clocks whose times have no time zone.")
    ] = "+00:00",
    fps: Annotated[
        float | None,
        typer.Option(min=0.001, help="Frames per second of a video to look at; all without it."),
    ] = None,
    roi: Roi = None,
    min_height: MinHeight = 0.0,
    device: Device = "cpu",
    precision: PrecisionName = "float32",
    batch: BatchSize = 8,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Processes that decode, each a file at a time.")
    ] = 2,
    keep: Annotated[
        Literal["off", "thumbnails", "frames"],
        typer.Option(help="Pictures to keep beside the database: none, crops, crops and frames."),
    ] = "off",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the last job, with its own options.")
    ] = False,
    join: Annotated[
        int | None,
        typer.Option(metavar="JOB", help="Help with a job that another process runs."),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="auto|HOST:PORT",
            help="Have a Ray cluster do it, into a PostgreSQL gallery; auto is this machine's.",
        ),
    ] = None,
    index_url: IndexUrl = None,
    as_json: AsJson = False,
) -> None:
    """Find the people of videos and pictures and put them into a gallery.

    What is in the gallery already, by its content, is passed over. Exit code 3: some files failed.
    """
    from indexer import index_command as command

    request = None
    if (resume or join is not None) and sources:
        raise typer.BadParameter("--resume and --join go on with a job: give no SOURCE")
    if resume and join is not None:
        raise typer.BadParameter("give --resume or --join, not both")
    if not resume and join is None:
        if not sources:
            raise typer.BadParameter("give a SOURCE, --resume or --join")
        request = command.IndexRequest(
            sources=[str(path.absolute()) for path in sources],
            weights=str(weights.absolute()),
            camera=camera,
            start=start,
            utc_offset=utc_offset,
            fps=fps,
            roi=roi,
            min_height=min_height,
            device=device,
            precision=precision,
            batch=batch,
            workers=workers,
            keep=keep,
        )
    if cluster is not None and join is not None:
        raise typer.BadParameter("--join helps with a job from this process: give no --cluster")
    if cluster is not None:
        with command.progress_bar_of("files") as show_files:
            result = command.run_on_cluster(gallery_url, request, cluster, show_files, index_url)
    else:
        with command.progress_bar() as show:
            if join is not None:
                result = command.run_help(gallery_url, join, show, index=index_url)
            else:
                result = command.run_index(gallery_url, request, show, index_url)
    if as_json:
        typer.echo(command.as_json(result))
    else:
        for line in command.summary(result):
            typer.echo(line)
    if result.failed:
        raise typer.Exit(3)


def search(
    gallery_url: Url = "gallery",
    crop: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A picture of the person.")
    ] = None,
    scene: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A picture with the person in it.")
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(metavar="X1,Y1,X2,Y2", help="Where in the scene the person is, in pixels."),
    ] = None,
    box_id: Annotated[
        int | None, typer.Option(metavar="N", help="A person in the gallery.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Checkpoint folder; without it, that last indexed with."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="How many to find.")] = 20,
    camera: Annotated[
        list[str] | None, typer.Option(help="Only this camera; may be given several times.")
    ] = None,
    after: Annotated[
        str | None, typer.Option(metavar="TIME", help="Captured then or later (ISO 8601).")
    ] = None,
    before: Annotated[
        str | None, typer.Option(metavar="TIME", help="Captured earlier (ISO 8601).")
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="The detector's score, at least.")
    ] = None,
    index_url: IndexUrl = None,
    as_json: AsJson = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with the crops, too.")
    ] = None,
) -> None:
    """Find the people in a gallery who look similar to one person."""
    import json

    from indexer import search_command as command
    from indexer.gallery import Gallery
    from indexer.media import MediaReader

    request = command.SearchRequest(
        crop=crop,
        scene=scene,
        box_xyxy=None if box is None else command.parse_box(box),
        box_id=box_id,
        weights=weights,
        k=k,
        cameras=tuple(camera or ()),
        after=after,
        before=before,
        min_score=min_score,
    )
    request.check()
    with Gallery.open(gallery_url, index=index_url) as opened:
        found = command.run_search(opened, request)
        if html is not None:
            from indexer.search_page import write_page

            with MediaReader(opened) as reader:
                write_page(html, found, reader)
    if as_json:
        typer.echo(json.dumps(command.document(found), indent=2))
    else:
        for line in command.lines(found):
            typer.echo(line)
