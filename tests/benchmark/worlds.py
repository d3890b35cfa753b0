"""Small drawn worlds and networks for the benchmark's tests."""

from pathlib import Path

from model import BINet, save
from tests.conftest import small_network
from training.synth.plan import SynthConfig
from training.synth.write import Format, write_world

#: Twelve searched pictures, five people.
WORLD = SynthConfig(
    seed=5,
    identities=3,
    test_identities=5,
    scenes=6,
    test_scenes=12,
    cameras=2,
    width=160,
    height=160,
)


def drawn_world(folder: Path, kind: Format = "prw") -> Path:
    write_world(folder, kind, WORLD)
    return folder


def quick_network() -> BINet:
    """Few boxes for each scene, since weights that are not trained keep half of them."""
    return small_network(rpn_post_nms_test=16)


def saved_network(folder: Path) -> Path:
    save(quick_network(), folder)
    return folder
