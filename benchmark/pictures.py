"""The best and the worst queries of a report as strips of pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from benchmark.evaluation import Evaluation
from benchmark.people import People
from benchmark.search import NEVER, Ranking, rank_queries
from model import read_picture
from model.annotations import AnnotatedScene
from model.detections import FloatArray
from training.datasets.protocol import RetrievalProtocol

#: So many queries are shown from either end, and so many results of each.
QUERIES = 3
RESULTS = 6
#: Size of a tile in pixels, and how much of its surroundings a person is shown with.
TILE = (150, 240)
MARGIN = 0.35
FRAME = 6
CAPTION = 22
QUERY_COLOUR = "#1f6feb"
RIGHT_COLOUR = "#1a7f37"
WRONG_COLOUR = "#c4161c"
MISSED_COLOUR = "#8c8c8c"
DARK, LIGHT = "#101010", "#f4f4f4"


@dataclass(frozen=True)
class Strip:
    """A picture of one query and its results."""

    file: str
    #: `best` or `worst`.
    group: str
    #: What is seen.
    caption: str


def draw_queries(evaluation: Evaluation, folder: Path) -> list[Strip]:
    """Draw the queries with the highest and the lowest average precision of the headline."""
    protocol = evaluation.protocol
    outcomes = evaluation.outcomes[str(evaluation.report.headline)]
    mated = [q for q, outcome in enumerate(outcomes) if outcome.true_boxes]
    order = sorted(mated, key=lambda q: (-outcomes[q].ap, q))
    best = order[:QUERIES]
    worst = [q for q in reversed(order) if q not in best][:QUERIES]
    chosen = {**dict.fromkeys(best, "best"), **dict.fromkeys(worst, "worst")}
    folder.mkdir(parents=True, exist_ok=True)
    strips: dict[int, Strip] = {}
    people = evaluation.people.above(evaluation.rules.det_threshold)
    rankings = rank_queries(
        protocol, evaluation.people, evaluation.queries, evaluation.rules, evaluation.context
    )
    for ranking in rankings:
        query = ranking.query
        if query not in chosen:
            continue
        name = f"{chosen[query]}-{query}.jpg"
        _strip(evaluation, ranking, people).save(folder / name, quality=88)
        outcome = outcomes[query]
        place = "not found" if outcome.rank is None else f"first found at place {outcome.rank + 1}"
        strips[query] = Strip(
            name,
            chosen[query],
            f"query {query}: average precision {100 * outcome.ap:.1f} %, {place}, "
            f"{outcome.true_boxes} true boxes",
        )
    return [strips[query] for query in (*best, *worst)]


def _strip(evaluation: Evaluation, ranking: Ranking, people: People) -> Image.Image:
    protocol = evaluation.protocol
    scenes = {scene.name: scene for scene in evaluation.dataset.test}
    query = protocol.queries[ranking.query]
    box = np.array(query.box_xyxy, np.float32)
    tiles = [_tile(scenes[query.scene], box, f"query {ranking.query}", QUERY_COLOUR)]
    scene_of = np.repeat(np.arange(len(people.counts)), people.counts)
    best = np.argsort(-ranking.similarity, kind="stable")[:RESULTS]
    for place, at in enumerate(best.tolist()):
        row = int(ranking.rows[at])
        colour = RIGHT_COLOUR if row in ranking.positives else WRONG_COLOUR
        scene = scenes[protocol.scenes[int(scene_of[row])]]
        words = f"{place + 1}: {ranking.similarity[at]:.3f}"
        tiles.append(_tile(scene, people.boxes_xyxy[row], words, colour))
    if ranking.rank == NEVER or ranking.rank >= RESULTS:
        missed = _a_true_box(protocol, ranking.query)
        if missed is not None:
            image, true = missed
            tiles.append(_tile(scenes[protocol.scenes[image]], true, "not shown", MISSED_COLOUR))
    return _beside(tiles)


def _a_true_box(protocol: RetrievalProtocol, query: int) -> tuple[int, FloatArray] | None:
    images, boxes = protocol.entries(query)
    there = np.flatnonzero(~np.isnan(boxes[:, 0]))
    return (int(images[there[0]]), boxes[there[0]]) if len(there) else None


def _tile(scene: AnnotatedScene, box_xyxy: FloatArray, words: str, colour: str) -> Image.Image:
    """Cut a person out with some surroundings, its box drawn, in a frame of a colour."""
    picture = ImageOps.exif_transpose(read_picture(scene.path)).convert("RGB")
    x1, y1, x2, y2 = box_xyxy.tolist()
    height = max((y2 - y1) * (1 + 2 * MARGIN), (x2 - x1) * (1 + 2 * MARGIN) * TILE[1] / TILE[0])
    width = height * TILE[0] / TILE[1]
    left, top = (x1 + x2 - width) / 2, (y1 + y2 - height) / 2
    scale = TILE[1] / height
    view = picture.transform(
        TILE,
        Image.Transform.AFFINE,
        (1 / scale, 0, left, 0, 1 / scale, top),
        Image.Resampling.BICUBIC,
        fillcolor=DARK,
    )
    draw = ImageDraw.Draw(view)
    draw.rectangle(
        [(x1 - left) * scale, (y1 - top) * scale, (x2 - left) * scale, (y2 - top) * scale],
        outline=colour,
        width=2,
    )
    tile = Image.new("RGB", (TILE[0] + 2 * FRAME, TILE[1] + 2 * FRAME + CAPTION), colour)
    tile.paste(view, (FRAME, FRAME))
    font = ImageFont.load_default(15)
    ImageDraw.Draw(tile).text((FRAME, TILE[1] + FRAME + 2), words, fill=LIGHT, font=font)
    return tile


def _beside(tiles: Sequence[Image.Image]) -> Image.Image:
    gap = 6
    width = sum(tile.width for tile in tiles) + gap * (len(tiles) - 1)
    strip = Image.new("RGB", (width, max(tile.height for tile in tiles)), "white")
    left = 0
    for tile in tiles:
        strip.paste(tile, (left, 0))
        left += tile.width + gap
    return strip
