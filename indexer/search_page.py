"""A search's result as one HTML file that needs nothing beside it."""

import base64
from html import escape
from pathlib import Path

from PIL import Image

from indexer.errors import MediaError, OutputError
from indexer.media import MediaReader
from indexer.media_store import jpeg
from indexer.query import Hit
from indexer.search_command import Found

#: Longest side of a crop on the page, in pixels.
SIDE = 240

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Similar people</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #161616; background: #fafafa }
ol { display: flex; flex-wrap: wrap; gap: 1rem; padding: 0; list-style: none }
li, .query { background: #fff; border: 1px solid #ddd; border-radius: 6px; padding: .6rem }
.query { display: inline-block }
img, .none { display: block; height: 180px; margin-bottom: .4rem }
.none { width: 90px; background: #eee; font-size: 12px }
p.note { max-width: 60rem }
</style></head><body>
"""


def write_page(path: Path, found: Found, reader: MediaReader) -> None:
    """Write the page; a crop whose source is gone is said to be so.

    Raises
    ------
    OutputError
        When it cannot be written.
    """
    hits = found.result.hits
    # By source and place in it: each is decoded forwards.
    order = sorted(hits, key=lambda hit: (hit.frame.source_id, hit.frame.position))
    crops = {hit.box_id: _crop(hit, reader) for hit in order}
    parts = [_HEAD, "<h1>Similar people</h1>"]
    parts.append(
        '<p class="note">These people look <em>similar</em>; nobody is identified. A result is a '
        "hint where to look, to be checked by a person.</p>"
    )
    if found.picture is not None:
        parts.append(f'<div class="query">{_image(found.picture, "query")}query</div>')
    parts.append("<ol>")
    parts += [
        f"<li>{crops[hit.box_id]}{_caption(rank, hit)}</li>" for rank, hit in enumerate(hits, 1)
    ]
    parts.append("</ol></body></html>\n")
    try:
        path.write_text("\n".join(parts), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"The page cannot be written to {path}: {error.strerror}") from error


def _crop(hit: Hit, reader: MediaReader) -> str:
    try:
        return _image(reader.crop(hit.box_id), f"box {hit.box_id}")
    except MediaError as error:
        return f'<div class="none">{escape(str(error))}</div>'


def _image(picture: Image.Image, text: str) -> str:
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    data = base64.b64encode(jpeg(small)).decode("ascii")
    return f'<img alt="{escape(text)}" src="data:image/jpeg;base64,{data}">'


def _caption(rank: int, hit: Hit) -> str:
    when = hit.frame.captured_at.isoformat(sep=" ", timespec="milliseconds")
    return (
        f"{rank}. similar {hit.score:.3f}<br>{escape(hit.frame.camera)}<br>{escape(when)}"
        f"<br>box {hit.box_id}, frame {hit.frame.id}"
    )
