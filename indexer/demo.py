"""The demo: the search branch on one picture or video, as a picture to look at and as JSON."""

import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError

from indexer.draw import add_caption, draw_boxes, stack
from indexer.errors import OutputError, SourceError
from indexer.video import Frame, sample_frames
from model import BINet, Detections, create, load, read_picture, variant_config
from model.preprocessing import to_rgb

#: Boxes that are kept of an untrained network, whose scores mean nothing.
UNTRAINED_BOXES = 10
UNTRAINED_SEED = 0
UNTRAINED_BANNER = "untrained weights: these boxes are not people"


@dataclass(frozen=True)
class DemoResult:
    """What a run of the demo wrote and found."""

    picture: Path
    document: Path
    trained: bool
    backbone: str
    frames: int
    boxes: int
    seconds_per_frame: float


def run_demo(source: Path, weights: Path | None, out: Path, frames: int) -> DemoResult:
    """Find the people of a picture or video; write `result.png` and `result.json`.

    Parameters
    ----------
    source
        A picture or a video file.
    weights
        A checkpoint's folder. None takes an untrained network: its boxes show that everything
        runs, and are marked as meaningless.
    out
        The folder to write to; older results in it are replaced.
    frames
        How many frames of a video are looked at.

    Raises
    ------
    SourceError, PictureError
        When the source is missing or cannot be read.
    CheckpointError
        When the weights cannot be loaded.
    OutputError
        When the results cannot be written.
    """
    scenes = read_source(source, frames)
    network = _network(weights)
    threshold = network.config.score_threshold if weights else 0.0
    start = time.perf_counter()
    people = [network.detect([scene.picture], threshold)[0] for scene in scenes]
    seconds_per_frame = (time.perf_counter() - start) / len(scenes)
    if not weights:
        people = [found[:UNTRAINED_BOXES] for found in people]

    document = {
        "source": source.name,
        "settings": {
            "weights": str(weights) if weights else None,
            "trained": weights is not None,
            "backbone": network.config.backbone,
            "score_threshold": threshold,
            "max_boxes": None if weights else UNTRAINED_BOXES,
            "seed": None if weights else UNTRAINED_SEED,
            "frames": frames,
        },
        "seconds_per_frame": round(seconds_per_frame, 4),
        "frames": [_entry(scene, found) for scene, found in zip(scenes, people, strict=True)],
    }
    picture = _sheet(source.name, scenes, people, trained=weights is not None)
    picture_path, document_path = out / "result.png", out / "result.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        picture.save(picture_path)
        document_path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"The results cannot be written to {out}: {error.strerror}") from error
    return DemoResult(
        picture=picture_path,
        document=document_path,
        trained=weights is not None,
        backbone=network.config.backbone,
        frames=len(scenes),
        boxes=sum(len(found) for found in people),
        seconds_per_frame=seconds_per_frame,
    )


def read_source(source: Path, frames: int) -> list[Frame]:
    """Read a picture file as one frame without timestamp, a video as `frames` sampled ones."""
    if not source.is_file():
        what = "is a folder" if source.is_dir() else "there is no such file"
        raise SourceError(f"{source}: {what}; give a picture or a video file")
    if not _is_picture(source):
        return sample_frames(source, frames)
    # What is drawn on is what the network sees: upright, RGB, transparency on white.
    pixels = to_rgb(read_picture(source)).permute(1, 2, 0)
    return [Frame(None, Image.fromarray(pixels.numpy()))]


def _is_picture(path: Path) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image.format != "MPEG"  # Pillow knows these videos by their header only
    except UnidentifiedImageError:
        return False
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return True  # `read_picture` says what is wrong with it


def _network(weights: Path | None) -> BINet:
    if weights:
        return load(weights)[0]
    config = variant_config("binet", backbone="mobilenet_v2")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        return create(config, backbone_weights="random")[0]


def _entry(scene: Frame, people: Detections) -> dict[str, Any]:
    return {
        "timestamp_s": None if scene.timestamp_s is None else float(scene.timestamp_s),
        "width": scene.picture.width,
        "height": scene.picture.height,
        "boxes_xyxy": people.boxes_xyxy.astype(float).round(2).tolist(),
        "scores": people.scores.astype(float).round(4).tolist(),
    }


def _sheet(
    name: str, scenes: list[Frame], people: list[Detections], *, trained: bool
) -> Image.Image:
    pictures = []
    for scene, found in zip(scenes, people, strict=True):
        drawn = draw_boxes(scene.picture, found.boxes_xyxy, found.scores)
        when = "" if scene.timestamp_s is None else f" at {float(scene.timestamp_s):.3f} s"
        pictures.append(add_caption(drawn, f"{name}{when}: {count(len(found), 'box', 'boxes')}"))
    sheet = stack(pictures)
    return sheet if trained else add_caption(sheet, UNTRAINED_BANNER, alert=True)


def count(number: int, one: str, many: str) -> str:
    """Return "1 box", "2 boxes"."""
    return f"{number} {one if number == 1 else many}"
