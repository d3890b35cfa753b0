"""A tiny world for training tests: blocks of colour that stand for people."""

from pathlib import Path

import numpy as np
from PIL import Image

from model.annotations import UNLABELLED, AnnotatedScene
from training.recipe import Recipe

HEIGHT, WIDTH = 96, 128
#: Upper and lower half of each person.
COLOURS = np.array(
    [
        [[200, 30, 30], [30, 30, 120]],
        [[30, 160, 40], [20, 20, 20]],
        [[40, 60, 220], [200, 200, 200]],
        [[220, 200, 40], [90, 50, 20]],
    ],
    np.uint8,
)


def tiny_world(folder: Path, scenes: int = 8, seed: int = 0) -> list[AnnotatedScene]:
    """Scenes with two or three persons of 60x24 pixels on a noisy grey ground."""
    rng = np.random.default_rng(seed)
    world = []
    for number in range(scenes):
        pixels = rng.integers(100, 150, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        pids = rng.permutation(len(COLOURS))[: rng.integers(2, 4)]
        boxes = []
        for place, pid in enumerate(pids):
            x = 4 + 40 * place + int(rng.integers(0, 12))
            y = int(rng.integers(4, HEIGHT - 64))
            pixels[y : y + 30, x : x + 24] = COLOURS[pid, 0]
            pixels[y + 30 : y + 60, x + 4 : x + 20] = COLOURS[pid, 1]
            boxes.append([x, y, x + 24, y + 60])
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        labels = pids.astype(np.int64)
        if number % 4 == 3:
            labels[-1] = UNLABELLED
        world.append(AnnotatedScene(path.name, path, np.array(boxes, np.float32), labels))
    return world


def tiny_recipe(**fields: object) -> Recipe:
    return Recipe.model_validate(
        {
            "backbone_weights": "random",
            "steps": 6,
            "workers": 0,
            "log_every": 1,
            "checkpoint_every": 2,
            "clip_norm": 10.0,
            "network": {
                "backbone": "mobilenet_v2",
                "queue_size": 4,
                "rois_per_scene": 16,
                "rpn_post_nms_train": 100,
                "interaction_reduction": "mean",
                # Patches of a tenth of the usual size, for steps of half the time.
                "roi_size": [4, 2],
                "preprocessing": {
                    "min_side": HEIGHT,
                    "max_side": WIDTH,
                    "patch_size": [64, 32],
                },
            },
            **fields,
        }
    )
