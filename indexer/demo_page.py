"""What the demo found, as one picture and as one page: query, frames with boxes, timeline."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from indexer.draw import BOX_COLOUR, DARK, LIGHT, add_caption, draw_boxes, font_for, stack
from indexer.grouping import Appearance
from indexer.media_store import jpeg

#: Pixels.
_WIDTH = 1440
_GAP = 12
_COLUMNS = 4
_QUERY_HEIGHT = 260
_BAR_HEIGHT = 26
_OWN_COLOUR = "#5aa9e6"
NOTE = "These people look similar; nobody is identified. A person has to check every result."


@dataclass(frozen=True, eq=False)
class Shown:
    """A similar appearance and the frame of its best box."""

    appearance: Appearance
    frame: Image.Image


def write_sheet(
    path: Path, name: str, query: Image.Image, own: Appearance | None, shown: Sequence[Shown]
) -> None:
    """Draw the answer as one picture."""
    crop = query.resize(
        (max(1, round(query.width * _QUERY_HEIGHT / query.height)), _QUERY_HEIGHT),
        Image.Resampling.BICUBIC,
    )
    crop.thumbnail((_WIDTH // 3, _QUERY_HEIGHT))
    about = "" if own is None else f", seen {_span(own)}"
    parts = [add_caption(crop, f"the query{about}")]
    side = (_WIDTH - _GAP * (_COLUMNS - 1)) // _COLUMNS
    cells = [_cell(rank, one, side) for rank, one in enumerate(shown, 1)]
    parts += [_beside(cells[i : i + _COLUMNS]) for i in range(0, len(cells), _COLUMNS)]
    parts.append(_timeline(own, [one.appearance for one in shown]))
    title = f"{name}: people similar to the query, by appearance. Similar, not identified."
    add_caption(stack(parts), title).save(path)


def _cell(rank: int, one: Shown, side: int) -> Image.Image:
    best = one.appearance.best
    drawn = draw_boxes(one.frame, np.array([best.box_xyxy]), np.array([best.score]))
    drawn.thumbnail((side, side))
    canvas = Image.new("RGB", (side, drawn.height), DARK)
    canvas.paste(drawn, (0, 0))
    pts = best.frame.pts_s
    when = f"{best.frame.captured_at:%Y-%m-%d %H:%M:%S}" if pts is None else f"{float(pts):.1f} s"
    return add_caption(canvas, f"{rank}. similar {best.score:.2f}, {best.frame.camera}, {when}")


def _beside(pictures: Sequence[Image.Image]) -> Image.Image:
    height = max(picture.height for picture in pictures)
    row = Image.new("RGB", (_WIDTH, height), DARK)
    for number, picture in enumerate(pictures):
        row.paste(picture, (number * (picture.width + _GAP), 0))
    return row


def _timeline(own: Appearance | None, similar: Sequence[Appearance]) -> Image.Image:
    """Draw a bar for each camera: the query's own appearance in blue, the others by rank."""
    everyone = [*([own] if own else []), *similar]
    if not everyone:
        return Image.new("RGB", (_WIDTH, 1), DARK)
    begin = min(one.begin for one in everyone)
    length = max((max(one.end for one in everyone) - begin).total_seconds(), 1e-3)
    cameras = list(dict.fromkeys(one.camera for one in everyone))
    picture = Image.new("RGB", (_WIDTH, len(cameras) * (_BAR_HEIGHT * 2 + _GAP)), DARK)
    draw, font = ImageDraw.Draw(picture), font_for(_WIDTH // 2)
    for row, camera in enumerate(cameras):
        top = row * (_BAR_HEIGHT * 2 + _GAP)
        draw.text((2, top), f"{camera}: {length:.0f} s", fill=LIGHT, font=font)
        top += _BAR_HEIGHT
        draw.rectangle((0, top, _WIDTH - 1, top + _BAR_HEIGHT), fill="#303030")
        # The best are drawn last, on top of what lasts at the same time.
        for rank, one in reversed(list(enumerate(everyone, 0 if own else 1))):
            if one.camera != camera:
                continue
            left, right = (
                round((moment - begin).total_seconds() / length * (_WIDTH - 3))
                for moment in (one.begin, one.end)
            )
            colour = _OWN_COLOUR if own and rank == 0 else BOX_COLOUR
            box = (left, top, max(right, left + 2), top + _BAR_HEIGHT)
            draw.rectangle(box, fill=colour, outline=DARK)
            label = "query" if own and rank == 0 else str(rank)
            draw.text((left + 3, top + 3), label, fill=DARK, font=font)
    return picture


def _span(one: Appearance) -> str:
    first, last = one.hits[0].frame, one.hits[-1].frame
    if first.pts_s is None or last.pts_s is None:
        return f"{one.begin:%Y-%m-%d %H:%M:%S}"
    return f"from {float(first.pts_s):.1f} to {float(last.pts_s):.1f} s"


_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Similar people</title>
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: 1rem;
 padding: 0; list-style: none }
img { display: block; max-width: 100%; border-radius: 4px }
.query { max-height: 16rem }
figure { margin: 0 } figcaption { font-size: .9rem }
.track { position: relative; height: 1.6rem; background: #8883; margin-bottom: .8rem }
.track span { position: absolute; top: 0; bottom: 0; min-width: 3px; background: #ffd400;
 color: #101010; font-size: .75rem; padding-left: 2px; overflow: hidden }
.track .own { background: #5aa9e6 }
</style></head><body>
"""


def write_html(
    path: Path,
    name: str,
    query: Image.Image,
    own: Appearance | None,
    shown: Sequence[Shown],
    facts: Sequence[str],
) -> None:
    """Write the answer as a page that needs nothing beside it."""
    about = "" if own is None else f", {_span(own)}"
    parts = [_HEAD, f"<h1>Similar people in {escape(name)}</h1><p>{escape(NOTE)}</p>"]
    parts.append(f"<ul>{''.join(f'<li>{escape(fact)}</li>' for fact in facts)}</ul>")
    parts.append(
        f"<figure>{_inline(query, 'the query', 'query')}"
        f"<figcaption>the query{escape(about)}</figcaption></figure><h2>Appearances</h2><ol>"
    )
    for rank, one in enumerate(shown, 1):
        best = one.appearance.best
        drawn = draw_boxes(one.frame, np.array([best.box_xyxy]), np.array([best.score]))
        drawn.thumbnail((640, 640))
        text = (
            f"{rank}. similar {best.score:.3f}, {best.frame.camera}, {_span(one.appearance)}, "
            f"{len(one.appearance.hits)} frames"
        )
        parts.append(
            f"<li><figure>{_inline(drawn, f'frame {best.frame.id} with a box')}"
            f"<figcaption>{escape(text)}</figcaption></figure></li>"
        )
    parts.append("</ol><h2>Timeline</h2>")
    parts += _html_timeline(own, [one.appearance for one in shown])
    parts.append("</body></html>\n")
    path.write_text("\n".join(parts), encoding="utf-8")


def _html_timeline(own: Appearance | None, similar: Sequence[Appearance]) -> list[str]:
    everyone = [*([own] if own else []), *similar]
    if not everyone:
        return ["<p>Nobody similar was found.</p>"]
    begin = min(one.begin for one in everyone)
    length = max((max(one.end for one in everyone) - begin).total_seconds(), 1e-3)
    lines = []
    for camera in dict.fromkeys(one.camera for one in everyone):
        lines.append(f'<div>{escape(camera)}, {length:.0f} s</div><div class="track">')
        for rank, one in reversed(list(enumerate(everyone, 0 if own else 1))):
            if one.camera == camera:
                left = 100 * (one.begin - begin).total_seconds() / length
                width = 100 * (one.end - one.begin).total_seconds() / length
                is_own = own is not None and rank == 0
                lines.append(
                    f'<span class="{"own" if is_own else "other"}" '
                    f'style="left:{left:.2f}%;width:{width:.2f}%">'
                    f"{'query' if is_own else rank}</span>"
                )
        lines.append("</div>")
    return lines


def _inline(picture: Image.Image, text: str, kind: str = "frame") -> str:
    data = base64.b64encode(jpeg(picture.convert("RGB"))).decode("ascii")
    return f'<img class="{kind}" alt="{escape(text)}" src="data:image/jpeg;base64,{data}">'
