"""The demo: index a video, ask for a person who leaves and returns, and show the answer."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from indexer.branch import NetworkBranch
from indexer.demo_page import Shown, write_html, write_sheet
from indexer.errors import OutputError, SourceError
from indexer.filters import Filter
from indexer.gallery import Gallery
from indexer.grouping import Appearance, JoinRule, by_appearance
from indexer.hits import read_hits
from indexer.index_command import IndexRequest
from indexer.indexing import Indexed, index_sources
from indexer.media import MediaReader
from indexer.progress import Progress
from indexer.query import Query
from indexer.returning import choose
from indexer.search_command import entry
from indexer.sources import MEMBER_MARK
from indexer.vector_index import Float32
from model import read_picture

#: Boxes that are joined to appearances; more are not needed to choose somebody.
_MOST_BOXES = 20_000
#: Somebody who was not seen for longer has left. Stricter than the default, so that nobody is mixed
#: with whoever crosses their way: measured on PETS at 5 frames/s, 94 % of an appearance's boxes are
#: of one person (82 % with the default), in four times as many parts.
_RULE = JoinRule(timedelta(seconds=2), min_similarity=0.8, min_overlapping_similarity=0.7)
#: Hits that are asked for, and appearances that are shown.
_HITS = 1000
_SHOWN = 8


@dataclass(frozen=True)
class DemoResult:
    """What a run of the demo wrote and found.

    Attributes
    ----------
    returns
        Whether the person asked for was chosen since they leave and return; None for a query that
        the user gave.
    appearances
        Similar people by appearance, best first, without the query's own.
    """

    page: Path
    picture: Path
    document: Path
    gallery: Path
    query: Path
    indexed: Indexed
    returns: bool | None
    appearances: list[Appearance]
    seconds: float
    search_ms: float


def run_demo(
    source: Path,
    weights: Path,
    out: Path,
    query: Path | None = None,
    fps: float | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> DemoResult:
    """Index a source, ask for one person, and write `result.html`, `.png` and `.json`.

    Parameters
    ----------
    source
        A video, a picture, a folder or an archive.
    weights
        A checkpoint's folder.
    out
        The folder to write to. Its gallery is kept: a second run looks at new frames only.
    query
        A crop of the person to ask for; None chooses one who leaves and returns.
    fps
        Frames per second of a video to look at; None is all.

    Raises
    ------
    SourceError, PictureError, CheckpointError
        When the source, the query or the weights cannot be read, or nobody is found.
    OutputError
        When the results cannot be written.
    """
    begun = time.perf_counter()
    if not source.exists():
        raise SourceError(f"{source}: there is no such file or folder")
    asked = None if query is None else read_picture(query).convert("RGB")
    branch = NetworkBranch.load(weights)
    place = out / f"gallery-{branch.weights_sha256[:8]}"
    _make(place)
    request = IndexRequest([str(source.absolute())], str(weights.absolute()), fps=fps, batch=4)
    with Gallery.open(place, create=True) as gallery, MediaReader(gallery) as media:
        indexed = index_sources(
            gallery,
            branch,
            request.sources,
            request.options(),
            request=vars(request),
            on_progress=on_progress,
        )
        if indexed.indexed == 0:
            reasons = "; ".join(f.reason for f in indexed.failures[:3]) or "it holds no pictures"
            raise SourceError(f"{source}: nothing could be indexed: {reasons}")
        own: Appearance | None = None
        returns = None
        wanted = Filter(sources=_sources_of(gallery, source))
        if asked is None:
            chosen = choose(*_everybody(gallery, wanted))
            if chosen is None:
                raise SourceError(f"{source}: nobody was found, there is no one to ask for")
            own, returns = chosen.appearance, chosen.returns
            asked = media.crop(chosen.best.box_id)
        searched = time.perf_counter()
        embedding = branch.embed_crop(np.asarray(asked))
        result = gallery.search(Query(positives=embedding), _HITS, wanted)
        search_ms = 1e3 * (time.perf_counter() - searched)
        vectors = gallery.embeddings([hit.box_id for hit in result.hits])
        similar = [
            appearance
            for appearance in by_appearance(result.hits, vectors, _RULE)
            if own is None or not _share_a_box(appearance, own)
        ]
        shown = [
            Shown(appearance, media.frame(appearance.best.frame.id))
            for appearance in similar[:_SHOWN]
        ]
    done = DemoResult(
        page=out / "result.html",
        picture=out / "result.png",
        document=out / "result.json",
        gallery=place,
        query=out / "query.png",
        indexed=indexed,
        returns=returns,
        appearances=similar,
        seconds=time.perf_counter() - begun,
        search_ms=search_ms,
    )
    try:
        asked.save(done.query)
        write_sheet(done.picture, source.name, asked, own, shown)
        write_html(done.page, source.name, asked, own, shown, facts(done))
        done.document.write_text(
            json.dumps(_document(done, source, weights, fps, own), indent=2) + "\n",
            encoding="utf-8",
        )
    except OSError as error:
        raise OutputError(f"The results cannot be written to {out}: {error.strerror}") from error
    return done


def facts(done: DemoResult) -> list[str]:
    """Return what was done, as lines to read."""
    report = done.indexed.report
    lines = [
        f"{report['frames']} frames looked at in {report['seconds']:.1f} s "
        f"({report['frames_per_s']:.1f} frames per second, decoding to stored boxes); "
        f"{done.indexed.new_boxes} people's boxes found",
        f"the query was encoded and searched for in {done.search_ms:.0f} ms; "
        f"{len(done.appearances)} similar appearances",
    ]
    if not report["frames"]:
        lines[0] = "everything was in the gallery already: nothing was indexed again"
    if done.returns is False:
        lines.append("nobody seems to leave and return: who is seen longest was asked for")
    return lines


def _make(folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder.parent} cannot be made: {error.strerror}") from error


def _sources_of(gallery: Gallery, source: Path) -> list[int]:
    """Return the sources in the gallery that lie at a path or below it."""
    from sqlalchemy import select

    from indexer import schema

    root = str(source.absolute())
    with gallery.database.read() as connection:
        rows = connection.execute(select(schema.source.c.id, schema.source.c.uri)).all()
    below = (f"{root}/", f"{root}{MEMBER_MARK}")
    inside = [row.id for row in rows if row.uri == root or row.uri.startswith(below)]
    # A file that was indexed before under another name has kept that one.
    return inside or [row.id for row in rows]


def _everybody(gallery: Gallery, wanted: Filter) -> tuple[list[Appearance], dict[int, Float32]]:
    view = gallery.view_in_memory()
    rows = np.flatnonzero(np.isin(view.columns.source_ids, list(wanted.sources or ())))
    if view.index.live is not None:
        rows = rows[view.index.live[rows]]
    ids = view.index.ids[rows[:_MOST_BOXES]]
    with gallery.database.read() as connection:
        hits = read_hits(connection, ids, np.zeros(len(ids), np.float32)) or []
    vectors = gallery.embeddings([hit.box_id for hit in hits])
    by_box = {hit.box_id: vector for hit, vector in zip(hits, vectors, strict=True)}
    return by_appearance(hits, vectors, _RULE), by_box


def _share_a_box(one: Appearance, other: Appearance) -> bool:
    return bool({hit.box_id for hit in one.hits} & {hit.box_id for hit in other.hits})


def _document(
    done: DemoResult, source: Path, weights: Path, fps: float | None, own: Appearance | None
) -> dict[str, Any]:
    return {
        "meaning": "similar, not identified",
        "source": source.name,
        "settings": {"weights": weights.name, "fps": fps, "hits": _HITS},
        "indexing": done.indexed.report,
        "boxes": done.indexed.new_boxes,
        "search_ms": round(done.search_ms, 1),
        "query": None if own is None else _appearance(own),
        "leaves_and_returns": done.returns,
        "appearances": [_appearance(appearance) for appearance in done.appearances],
    }


def _appearance(appearance: Appearance) -> dict[str, Any]:
    def iso(moment: datetime) -> str:
        return moment.isoformat(timespec="milliseconds")

    return {
        "camera": appearance.camera,
        "begin": iso(appearance.begin),
        "end": iso(appearance.end),
        "boxes": len(appearance.hits),
        "best": entry(appearance.best),
    }
