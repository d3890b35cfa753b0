"""What the pages take as given: clips, pictures, datasets and weights, small and drawn."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.models import mobilenet_v2

from model import save
from tests.conftest import random_picture, small_network
from tests.training.datasets.test_convert import mot_sequence
from training.datasets.convert import convert
from training.synth.plan import SynthConfig
from training.synth.write import Format, write_world


def _world(out: Path, kind: Format = "prw", seed: int = 5, size: int = 160) -> None:
    config = SynthConfig(
        seed=seed,
        identities=3,
        test_identities=5,
        scenes=6,
        test_scenes=12,
        cameras=2,
        width=size,
        height=size,
    )
    write_world(out, kind, config)


def _scenes(out: Path, seed: int) -> list[Path]:
    """Pictures that the repository's own network finds people in."""
    world = out.with_name(f".{out.name}-world")
    if not world.exists():
        _world(world, seed=seed, size=320)
    return sorted((world / "frames").glob("*.jpg"))


def _clip(out: Path, seed: int) -> None:
    import av

    with av.open(str(out), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=2)
        stream.width, stream.height, stream.pix_fmt = 320, 320, "yuv420p"
        stream.bit_rate = 4_000_000
        for path in _scenes(out, seed)[:6]:
            with Image.open(path) as picture:
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())


def _picture(out: Path) -> None:
    shutil.copy(_scenes(out, seed=5)[0], out)


def _crop(out: Path) -> None:
    """The first labelled person of the first scene."""
    from training.datasets.opening import open_dataset

    _scenes(out, seed=5)
    scene = open_dataset(out.with_name(f".{out.name}-world")).train[0]
    with Image.open(scene.path) as picture:
        left, top, right, bottom = scene.boxes_xyxy[0]
        picture.crop((int(left), int(top), int(right), int(bottom))).save(out)


def _archive(out: Path) -> None:
    (out / "yard").mkdir(parents=True)
    for number, path in enumerate(_scenes(out, seed=6)[:3]):
        shutil.copy(path, out / "yard" / f"2026-05-04_10-0{number}-00.jpg")


def _weights(out: Path, seed: int = 0) -> None:
    torch.manual_seed(seed)
    save(small_network(rpn_post_nms_test=8), out)


def _backbone(out: Path) -> None:
    torch.manual_seed(0)
    torch.save(mobilenet_v2(weights=None).state_dict(), out)


def _crops(out: Path) -> None:
    for part, pids in (("bounding_box_train", (2, 7)), ("bounding_box_test", (3, 5))):
        (out / part).mkdir(parents=True)
        for pid in pids:
            for camera in (1, 2):
                name = f"{pid:04}_c{camera}s1_000001_00.jpg"
                Image.fromarray(random_picture(64, 32, seed=pid)).save(out / part / name)


def _mot(out: Path) -> None:
    lines = [f"{frame},1,11,21,30,40,1,1,0.9" for frame in (1, 2, 3)]
    mot_sequence(out / "MOT17-02", lines, 3)


def _neutral(out: Path) -> None:
    source = out.with_name(f".{out.name}-source")
    _world(source)
    convert(source, out, "prw", copy=True)


def _case(out: Path) -> None:
    """Detections of two pictures, saved in both files."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((4, 8)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    boxes = np.array([[10, 10, 50, 110], [60, 10, 100, 110]] * 2, np.float32)
    np.savez(
        out,
        img_names=np.array(["c1s1_000001.jpg", "c2s1_000001.jpg"]),
        img_cam=np.array([1, 2]),
        gt_ptr=np.array([0, 2, 4]),
        gt_boxes=boxes,
        gt_pids=np.array([1, 2, 1, 2]),
        det_ptr=np.array([0, 2, 4]),
        det_boxes=boxes,
        det_scores=np.array([0.9, 0.8, 0.9, 0.7], np.float32),
        det_feats=features,
        q_img=np.array([0]),
        q_box=boxes[:1],
        q_pid=np.array([1]),
        q_cam=np.array([1]),
        q_feat=features[:1],
        qctx_ptr=np.array([0, 2]),
        qctx_feats=features[:2],
    )


def _case_description(out: Path) -> None:
    out.write_text(json.dumps({"kind": "prw", "unlabelled_pid": -2}))


MAKERS: dict[str, Callable[[Path], None]] = {
    "street.mp4": lambda out: _clip(out, seed=5),
    "gate.mp4": lambda out: _clip(out, seed=7),
    "yard.mp4": lambda out: _clip(out, seed=8),
    "street.jpg": _picture,
    "person.jpg": _crop,
    "archive": _archive,
    "world": _world,
    "PRW": lambda out: _world(out, seed=6),
    "CUHK-SYSU": lambda out: _world(out, "cuhk-sysu"),
    "own": _neutral,
    "Market-1501": _crops,
    "MOT17/train": _mot,
    "case.npz": _case,
    "case.json": _case_description,
    "weights.pth": _backbone,
    "mobilenet_v2.pth": _backbone,
    "runs/small/final": _weights,
    "runs/binet/final": _weights,
    "runs/better/final": lambda out: _weights(out, seed=1),
}


class World:
    """Makes each thing once and copies it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def give(self, name: str, target: Path) -> None:
        """Put it into a folder."""
        made = self._folder / name
        if not made.exists():
            made.parent.mkdir(parents=True, exist_ok=True)
            MAKERS[name](made)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if made.is_dir():
            shutil.copytree(made, target / name)
        else:
            shutil.copy(made, target / name)
