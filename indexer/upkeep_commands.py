"""`binet gallery`: looking after a gallery."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from indexer.commands import (
    AsJson,
    BatchSize,
    Device,
    IndexUrl,
    MinHeight,
    PrecisionName,
    Roi,
    Url,
)

gallery = typer.Typer(help="Look after a gallery.", no_args_is_help=True)

Cameras = Annotated[
    list[str] | None, typer.Option("--camera", help="Of this camera; may be given several times.")
]
Sources = Annotated[
    list[int] | None,
    typer.Option("--source", metavar="N", help="Of this source; may be given several times."),
]
After = Annotated[str | None, typer.Option(metavar="TIME", help="Captured then or later.")]
Before = Annotated[str | None, typer.Option(metavar="TIME", help="Captured earlier.")]


def _show(document: Any, lines: Iterable[str], as_json: bool) -> None:
    import json

    for line in [json.dumps(document, indent=2)] if as_json else lines:
        typer.echo(line)


@gallery.command("stats")
def stats(gallery_url: Url = "gallery", as_json: AsJson = False) -> None:
    """Count what is in a gallery, and show its last jobs."""
    from indexer import gallery_commands as command
    from indexer.gallery import Gallery

    with Gallery.open(gallery_url) as opened:
        document = command.stats(opened)
    _show(document, command.stats_lines(document), as_json)


@gallery.command("check")
def check(
    gallery_url: Url = "gallery",
    index_url: IndexUrl = None,
    recall: Annotated[
        bool,
        typer.Option("--recall", help="Measure what Milvus finds of the exact answers, too."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that a gallery agrees with itself; exit code 1 when it does not."""
    from indexer import gallery_commands as command
    from indexer.checking import check as look
    from indexer.gallery import Gallery
    from indexer.index_check import check_index, measure_recall

    with Gallery.open(gallery_url, index=index_url) as opened:
        findings = look(opened.database)
        measured = None
        if index_url:
            findings += check_index(opened)
        if recall:
            measured = measure_recall(opened)
    document, lines = command.findings_document(findings), command.findings_lines(findings)
    if measured is not None:
        document["recall"] = asdict(measured)
        lines.append(
            f"recall@{measured.at} {measured.mean:.4f} on {measured.queries} queries, "
            f"the worst {measured.least:.4f}"
        )
    _show(document, lines, as_json)
    if any(finding.is_problem for finding in findings):
        raise typer.Exit(1)


@gallery.command("repair")
def repair(gallery_url: Url = "gallery") -> None:
    """Mend what `check` finds, or take it out to be indexed again. Stop what writes to it first."""
    from indexer.database import Database
    from indexer.repairing import repair as mend

    database = Database.open(gallery_url)
    try:
        done = mend(database)
    finally:
        database.close()
    typer.echo(
        f"taken out: {done.frames} frames and {done.boxes} boxes; "
        f"{done.files} damaged pictures and index snapshots deleted"
    )
    for uri in done.sources:
        typer.echo(f"index again: {uri}")


@gallery.command("reindex")
def reindex(
    weights: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Checkpoint folder of the new network.")
    ],
    gallery_url: Url = "gallery",
    roi: Roi = None,
    min_height: MinHeight = 0.0,
    device: Device = "cpu",
    precision: PrecisionName = "float32",
    batch: BatchSize = 8,
    incomplete: Annotated[
        bool,
        typer.Option(
            "--incomplete", help="Flip though some frames cannot be read; nobody is found there."
        ),
    ] = False,
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="After the flip, delete the old encoder's boxes.")
    ] = False,
    index_url: IndexUrl = None,
) -> None:
    """Look at all frames of a gallery with other weights, then search with those.

    The gallery can be searched throughout. Run it again when it was stopped. Exit code 3: some
    frames cannot be read any more, and the gallery is still searched with the old weights.
    """
    from indexer import reindex_command as command

    result, dropped = command.run_reindex(
        gallery_url,
        command.ReindexRequest(
            weights=str(weights.absolute()),
            roi=roi,
            min_height=min_height,
            device=device,
            precision=precision,
            batch=batch,
            incomplete=incomplete,
        ),
        drop_old,
        index_url,
    )
    for line in command.summary(result, dropped):
        typer.echo(line)
    if not result.active:
        raise typer.Exit(3)


@gallery.command("cancel")
def cancel(
    job: Annotated[int, typer.Argument(help="Number of the job.")], gallery_url: Url = "gallery"
) -> None:
    """Cancel a job, in whichever process it runs; it stops before its next batch."""
    from indexer.gallery import Gallery
    from indexer.jobs import cancel_job

    with Gallery.open(gallery_url) as opened, opened.database.write() as connection:
        cancel_job(connection, job)
    typer.echo(f"job {job} is cancelled; binet index --resume goes on with it")


@gallery.command("delete")
def delete(
    gallery_url: Url = "gallery",
    box: Annotated[
        list[int] | None, typer.Option(metavar="N", help="This box; may be given several times.")
    ] = None,
    frame: Annotated[
        list[int] | None, typer.Option(metavar="N", help="This frame; may be given several times.")
    ] = None,
    source: Sources = None,
    camera: Cameras = None,
    after: After = None,
    before: Before = None,
    compact: Annotated[
        bool, typer.Option("--compact", help="Overwrite the bytes, too; this may take a while.")
    ] = False,
) -> None:
    """Delete boxes, frames, or what matches all of source, camera, after and before.

    Held frames stay.
    """
    from indexer import gallery_commands as command
    from indexer import upkeep
    from indexer.gallery import Gallery

    if not (box or frame or source or camera or after or before):
        raise typer.BadParameter("say what: --box, --frame, --source, --camera, --after, --before")
    if (box or frame) and (source or camera or after or before):
        raise typer.BadParameter(
            "--box and --frame name what goes: no other option belongs to them"
        )
    with Gallery.open(gallery_url) as opened:
        where = command.named_filter(opened, camera, source, after, before)
        if camera or after or before:
            gone = opened.delete(where=where)
        else:
            gone = opened.delete(box or (), frame or (), source or ())
        typer.echo(command.deleted_line(gone))
        if compact:
            upkeep.compact(opened)


@gallery.command("retain")
def retain(
    gallery_url: Url = "gallery",
    days: Annotated[
        float | None, typer.Option(min=0, help="Delete frames captured longer ago.")
    ] = None,
    megabytes: Annotated[
        float | None,
        typer.Option(min=0, help="Delete the oldest frames until the database is no larger."),
    ] = None,
) -> None:
    """Keep a gallery within an age or a size, and give the space back. Held frames stay."""
    from indexer import gallery_commands as command
    from indexer import upkeep
    from indexer.errors import GalleryError
    from indexer.gallery import Gallery

    if days is None and megabytes is None:
        raise typer.BadParameter("give --days, --megabytes or both")
    with Gallery.open(gallery_url) as opened:
        if days is not None:
            try:
                longest = timedelta(days=days)
            except OverflowError as error:
                raise GalleryError(f"--days {days}: that is too long") from error
            typer.echo(command.deleted_line(upkeep.retain_age(opened, longest)))
            upkeep.compact(opened)
        if megabytes is not None:
            gone = upkeep.retain_size(opened, int(megabytes * 1e6))
            typer.echo(command.deleted_line(gone))


@gallery.command("compact")
def compact(gallery_url: Url = "gallery") -> None:
    """Overwrite what was deleted and give its space back; kept pictures of it are deleted."""
    from indexer import upkeep
    from indexer.gallery import Gallery

    with Gallery.open(gallery_url) as opened:
        pictures = upkeep.compact(opened)
    typer.echo(f"compact; {pictures} kept pictures deleted")


@gallery.command("hold")
def hold(
    reason: Annotated[str, typer.Argument(help="Why; it is shown with the hold.")],
    gallery_url: Url = "gallery",
    source: Annotated[int | None, typer.Option(metavar="N", help="Of this source.")] = None,
    frame: Annotated[int | None, typer.Option(metavar="N", help="This frame.")] = None,
    camera: Annotated[str | None, typer.Option(help="Of this camera.")] = None,
    after: After = None,
    before: Before = None,
) -> None:
    """Keep frames from every deletion, those to come too, until the hold is released.

    Held is what matches all the options; a hold without options holds everything.
    """
    from dataclasses import replace

    from indexer import gallery_commands as command
    from indexer.deletion import Hold
    from indexer.gallery import Gallery

    with Gallery.open(gallery_url) as opened:
        where = command.named_filter(opened, [camera] if camera else None, None, after, before)
        held = Hold(reason, next(iter(where.cameras or ()), None), source, frame, where.after)
        added = opened.add_hold(replace(held, before=where.before))
    typer.echo(f"hold {added}; `binet gallery release {added}` ends it")


@gallery.command("holds")
def holds(gallery_url: Url = "gallery", as_json: AsJson = False) -> None:
    """List the holds that are not released."""
    from indexer import gallery_commands as command
    from indexer.gallery import Gallery

    with Gallery.open(gallery_url) as opened:
        found = command.holds(opened)
    lines = [", ".join(f"{key} {value}" for key, value in one.items() if value) for one in found]
    _show(found, lines or ["no holds"], as_json)


@gallery.command("release")
def release(
    hold_id: Annotated[int, typer.Argument(metavar="HOLD", help="Number of the hold.")],
    gallery_url: Url = "gallery",
) -> None:
    """End a hold."""
    from indexer.gallery import Gallery

    with Gallery.open(gallery_url) as opened:
        opened.release_hold(hold_id)
    typer.echo(f"hold {hold_id} is released")


@gallery.command("export")
def export(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; it is overwritten.")],
    gallery_url: Url = "gallery",
    kind: Annotated[
        Literal["jsonl", "csv", "coco", "parquet"], typer.Option("--format", help="Of the file.")
    ] = "jsonl",
    source: Sources = None,
    camera: Cameras = None,
    after: After = None,
    before: Before = None,
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="The detector's score, at least.")
    ] = None,
) -> None:
    """Write the boxes of a gallery to a file, with their frames; embeddings stay here."""
    from indexer import gallery_commands as command
    from indexer.exporting import export as write
    from indexer.gallery import Gallery

    with Gallery.open(gallery_url) as opened:
        where = command.named_filter(opened, camera, source, after, before, min_score)
        count = write(opened.database, out, kind, where)
    typer.echo(f"{count} boxes in {out}")


@gallery.command("media")
def media(
    place: Annotated[
        str | None,
        typer.Argument(
            metavar="FOLDER|URL",
            help="Keep pictures here from now on. Without it, show where they are.",
        ),
    ] = None,
    gallery_url: Url = "gallery",
) -> None:
    """Say where a gallery's pictures are kept: a folder, or a URL that fsspec opens (s3://...).

    Pictures that are kept already are not moved: move them before.
    """
    from indexer.gallery import Gallery
    from indexer.media_store import media_url, set_media_url

    with Gallery.open(gallery_url) as opened:
        if place is not None:
            set_media_url(opened.database, place)
        where = media_url(opened.database)
    typer.echo(f"pictures are kept in {where}" if where else "no pictures are kept")


@gallery.command("backup")
def backup(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="Where to.")],
    gallery_url: Url = "gallery",
) -> None:
    """Copy the database of a gallery, also while others use it. Kept pictures are not in it."""
    from indexer import upkeep
    from indexer.gallery import Gallery

    with Gallery.open(gallery_url) as opened:
        upkeep.backup(opened.database, out)
    typer.echo(f"backup: {out}")


@gallery.command("restore")
def restore(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A backup.")],
    folder: Annotated[
        Path, typer.Option("--gallery", metavar="FOLDER", help="The gallery that it replaces.")
    ] = Path("gallery"),
) -> None:
    """Put a backup in the place of a gallery; what was deleted since stays deleted.

    Stop what uses the gallery first. Frames, jobs and holds that came after the backup are lost.
    """
    from indexer import gallery_commands as command
    from indexer import upkeep

    gone = upkeep.restore(folder, source)
    typer.echo(f"restored; of the backup, {command.deleted_line(gone)}")
