"""Speed of the search branch by stage, beside torchvision's Faster R-CNN and the machine's limit.

    python -m perf.inference                  # ResNet-50, 900x1500 and 600x1000, all options
    python -m perf.inference --backbone mobilenet_v2 --sizes 576x768
    python -m perf.inference --table          # parameters and GFLOP of every variant, no timing

The matrix products are those of torch.matmul; in float32 its library need not reach what the
convolutions reach, so shares above 100 % occur there.

All candidates take turns within a round and the medians over the rounds are printed, so that a
machine whose speed drifts slows all of them alike. GFLOP count multiplications and additions of
convolutions and matrix products; RoIAlign counts its interpolation. RoIs are 128, as the paper's.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from model import (
    VARIANTS,
    BINet,
    BINetConfig,
    InferenceOptions,
    PreprocessingConfig,
    Scene,
    create,
    optimise,
    variant_config,
)

ROIS = 128
STAGES = ("trunk", "rpn", "align", "head")
OPTIONS = {
    "eager float32": InferenceOptions(),
    "folded": InferenceOptions(fold_batchnorm=True),
    "folded channels-last": InferenceOptions(fold_batchnorm=True, channels_last=True),
    "bfloat16": InferenceOptions(bfloat16=True),
    "folded channels-last bfloat16": InferenceOptions(
        fold_batchnorm=True, channels_last=True, bfloat16=True
    ),
    "the same, compiled": InferenceOptions(
        fold_batchnorm=True, channels_last=True, bfloat16=True, compile=True
    ),
}
#: What the repository promises on a CPU with bfloat16 instructions, ResNet-50.
LEAST_SPEED_UP, LEAST_SHARE_OF_RATE = 3.5, 0.70
PROMISED_AT = (900, 1500)


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--sizes", nargs="+", default=["900x1500", "600x1000"], help="HxW pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--table", action="store_true", help="parameters and GFLOP only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    sizes = [tuple(int(side) for side in size.split("x")) for size in args.sizes]
    print(
        f"torch {torch.__version__}, {platform.machine()}, {args.device}, {args.threads} threads, "
        f"{args.rounds} rounds, {ROIS} RoIs"
    )
    print_variants(args.backbone, sizes)
    if args.table:
        return
    for size in sizes:
        measure(args.backbone, size, args.rounds, torch.device(args.device))


def config_for(variant: str, backbone: str, size: tuple[int, ...]) -> BINetConfig:
    """Give a variant whose scenes keep this size."""
    return variant_config(
        variant,
        backbone="resnet50" if variant == "oim" else backbone,
        rpn_post_nms_test=ROIS,
        preprocessing=PreprocessingConfig(min_side=min(size), max_side=max(size)),
    )


# --- counting --------------------------------------------------------------------------------


def gflop(run: Callable[[], Any]) -> float:
    """Count what a call computes, in 10^9 operations."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        run()
    return float(counter.get_total_flops()) / 1e9


def stage_gflop(network: BINet, size: tuple[int, ...]) -> dict[str, float]:
    """GFLOP of each stage for one scene, without computing anything (on the meta device)."""
    network = network.to("meta")
    config = network.config
    height, width = (-(-side // 16) * 16 for side in size)
    images = torch.empty(1, 3, height, width, device="meta")
    maps = network.trunk(images)
    channels = maps.shape[1]
    rois = torch.empty(ROIS, channels, *config.roi_size, device="meta")
    taps = 4 * config.roi_sampling_ratio**2
    return {
        "trunk": gflop(lambda: network.trunk(images)),
        "rpn": gflop(lambda: network.rpn.head([maps])),
        "align": 2 * taps * rois.numel() / 1e9,
        "head": gflop(lambda: network.head(rois)),
    }


def print_variants(backbone: str, sizes: list[tuple[int, ...]]) -> None:
    """Print parameters and GFLOP of every variant."""
    print(f"\n## Parameters and GFLOP of every variant ({backbone}; oim: resnet50)\n")
    print("| variant | parameters | scene | trunk | RPN | RoIAlign | head | sum | per crop |")
    print("|---|---|---|---|---|---|---|---|---|")
    for variant in VARIANTS:
        for size in sizes:
            network, _ = create(config_for(variant, backbone, size), backbone_weights="random")
            parameters = sum(p.numel() for p in network.parameters())
            stages = stage_gflop(network, size)
            crop = "-"
            if network.config.instance_branch:
                patch = torch.empty(1, 3, *network.config.preprocessing.patch_size, device="meta")
                crop = f"{gflop(lambda n=network, p=patch: n.head(n.trunk(p))):.2f}"  # type: ignore[misc]
            print(
                f"| {variant} | {parameters:,} | {size[0]}x{size[1]} | "
                + " | ".join(f"{stages[stage]:.1f}" for stage in STAGES)
                + f" | {sum(stages.values()):.1f} | {crop} |"
            )


# --- timing ----------------------------------------------------------------------------------


def seconds(run: Callable[[], Any]) -> float:
    """Time one call, until the device is done."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Candidate:
    """A network whose stages are timed on one scene and fixed RoIs."""

    def __init__(self, network: BINet, scene: Scene) -> None:
        self.network, self.scene = network, scene
        self.times: dict[str, list[float]] = {stage: [] for stage in (*STAGES, "detect")}
        generator = torch.Generator().manual_seed(0)
        height, width = scene.pixels.shape[-2:]
        corner = torch.rand(ROIS, 2, generator=generator) * torch.tensor([width, height]) * 0.7
        extent = torch.rand(ROIS, 1, generator=generator) * 0.2 * height + 40
        boxes = torch.cat([corner, corner + extent * torch.tensor([0.4, 1.0])], dim=1)
        self.boxes = boxes.to(network.device)

    @torch.inference_mode()
    def round(self) -> None:
        """Time each stage once, then the whole of `detect`."""
        network = self.network
        images, sizes = network.normalise([self.scene.pixels])
        results: dict[str, Tensor] = {}

        def trunk() -> None:
            results["maps"] = network.trunk_maps(images)

        def align() -> None:
            results["rois"] = network.align(results["maps"], [self.boxes])

        def head() -> None:
            head_maps, features = network.head_outputs(results["rois"])
            network.detect_rois(head_maps, features)
            network.predictor.embed(features)

        self.times["trunk"].append(seconds(trunk))
        self.times["rpn"].append(seconds(lambda: network.propose(images, results["maps"], sizes)))
        self.times["align"].append(seconds(align))
        self.times["head"].append(seconds(head))
        self.times["detect"].append(seconds(lambda: network.detect([self.scene])))

    def median(self, stage: str) -> float:
        """Seconds of a stage, the first round (warm-up) left out."""
        return statistics.median(self.times[stage][1:])


class MatrixRate:
    """The rate at which the machine multiplies matrices, in GFLOP/s: the limit of any network."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        side = 8192 if device.type == "cuda" else 4096
        self.a, self.b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        self.rates: list[float] = []

    def round(self) -> None:
        """Measure once."""
        self.rates.append(2 * len(self.a) ** 3 / seconds(lambda: self.a @ self.b) / 1e9)

    @property
    def median(self) -> float:
        """GFLOP/s, the first round left out."""
        return statistics.median(self.rates[1:])


def measure(backbone: str, size: tuple[int, ...], rounds: int, device: torch.device) -> None:
    """Time all options and references at one size and print them."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, *size), dtype=np.uint8)
    scene = Scene(torch.from_numpy(pixels), width=size[1], height=size[0])
    network = create(config_for("binet", backbone, size), backbone_weights="random")[0].to(device)
    gflops = {"binet": stage_gflop(create(network.config, "random")[0], size)}
    candidates = {
        name: Candidate(optimise(network, option), scene) for name, option in OPTIONS.items()
    }
    if backbone == "resnet50":
        oim = create(config_for("oim", backbone, size), backbone_weights="random")[0].to(device)
        gflops["oim"] = stage_gflop(create(oim.config, "random")[0], size)
        for name in ("eager float32", "folded channels-last bfloat16"):
            candidates[f"oim, {name}"] = Candidate(optimise(oim, OPTIONS[name]), scene)
    rates = {dtype: MatrixRate(dtype, device) for dtype in (torch.float32, torch.bfloat16)}
    peer = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=min(size), max_size=max(size)
    )
    peer = peer.to(device).eval()
    peer_input = [(scene.pixels / 255).to(device)]
    peer_gflop = gflop(lambda: peer(peer_input))
    peer_times = []
    for _ in range(rounds + 1):
        for candidate in candidates.values():
            candidate.round()
        for rate in rates.values():
            rate.round()
        with torch.inference_mode():
            peer_times.append(seconds(lambda: peer(peer_input)))
    peer_time = statistics.median(peer_times[1:])

    print(f"\n## {backbone}, scene {size[0]}x{size[1]}\n")
    print(
        f"matrix products: float32 {rates[torch.float32].median:.0f} GFLOP/s, "
        f"bfloat16 {rates[torch.bfloat16].median:.0f} GFLOP/s; "
        f"torchvision fasterrcnn_resnet50_fpn, eager float32: {1e3 * peer_time:.0f} ms, "
        f"{peer_gflop:.0f} GFLOP\n"
    )
    print(
        "milliseconds; `rate` is the share of the matrix rate in the same precision, `detect` the "
        "whole call with resizing, NMS and transfers\n"
    )
    print(
        "| candidate | trunk | RPN | RoIAlign | head | stages | detect | rate | "
        "x eager | x torchvision |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    eager = sum(candidates["eager float32"].median(stage) for stage in STAGES)
    for name, candidate in candidates.items():
        stages = [candidate.median(stage) for stage in STAGES]
        total = sum(stages)
        kind = "oim" if name.startswith("oim") else "binet"
        dtype = torch.bfloat16 if candidate.network.bfloat16_parts else torch.float32
        share = sum(gflops[kind].values()) / total / rates[dtype].median
        print(
            f"| {name} | "
            + " | ".join(f"{1e3 * t:.0f}" for t in stages)
            + f" | {1e3 * total:.0f} | {1e3 * candidate.median('detect'):.0f} | {share:.0%} | "
            f"{eager / total:.2f} | {peer_time / total:.2f} |"
        )
    best = min((c for n, c in candidates.items() if not n.startswith("oim")), key=total_seconds)
    if backbone == "resnet50" and size == PROMISED_AT and device.type == "cpu":
        dtype = torch.bfloat16 if best.network.bfloat16_parts else torch.float32
        share = sum(gflops["binet"].values()) / total_seconds(best) / rates[dtype].median
        for what, value, least in (
            ("times faster than eager float32", eager / total_seconds(best), LEAST_SPEED_UP),
            ("of the machine's matrix rate", share, LEAST_SHARE_OF_RATE),
        ):
            verdict = "holds" if value >= least else "DOES NOT HOLD"
            print(f"\nbar: best option {value:.2f} {what}, at least {least:.2f}: {verdict}")


def total_seconds(candidate: Candidate) -> float:
    """Sum of the stages' medians."""
    return sum(candidate.median(stage) for stage in STAGES)


if __name__ == "__main__":
    main()
