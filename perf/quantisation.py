"""A first look at int8 and bfloat16 for the crop encoder: speed, and what becomes of its figures.

    python -m perf.quantisation --data CROPS            # a dataset of crops, such as Market-1501's

Crops of people whom the network was not trained on are embedded by torch in float32 and bfloat16,
and by ONNX Runtime in float32 and int8 (static, per channel, its ranges from every tenth crop). All
take turns, batch by batch, on the same threads; milliseconds for a crop are medians of them.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from model import BINet, InferenceOptions, load, optimise
from model.detections import FloatArray
from model.export import export_onnx
from training.datasets.crops import read_crops
from training.datasets.reid import reid_metrics

BATCH = 32
CALIBRATION_STEP = 10

Encode = Callable[[npt.NDArray[np.uint8]], FloatArray]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=Path("model/weights/cpu-person"))
    options = parser.parse_args()
    network, _ = load(options.weights)
    source, crops = read_crops(options.data)
    patches = np.stack(
        [network.preprocessing.patch(source.open(crop.name)).numpy() for crop in crops]
    )
    folded = InferenceOptions(fold_batchnorm=True, channels_last=True)
    half = InferenceOptions(fold_batchnorm=True, channels_last=True, bfloat16=True)
    with tempfile.TemporaryDirectory() as folder:
        exported, quantised = Path(folder) / "crop.onnx", Path(folder) / "crop-int8.onnx"
        export_onnx(network, exported, "crop")
        quantise(exported, quantised, patches[::CALIBRATION_STEP])
        engines: dict[str, Encode] = {
            "torch float32": by_torch(optimise(network, folded)),
            "torch bfloat16": by_torch(optimise(network, half)),
            "ONNX Runtime float32": by_onnx(exported),
            "ONNX Runtime int8": by_onnx(quantised),
        }
        embedded: dict[str, list[FloatArray]] = {name: [] for name in engines}
        times: dict[str, list[float]] = {name: [] for name in engines}
        for start in range(0, len(patches), BATCH):
            batch = patches[start : start + BATCH]
            for name, encode in engines.items():
                begun = time.perf_counter()
                embedded[name].append(encode(batch))
                times[name].append(1e3 * (time.perf_counter() - begun) / len(batch))
        files = {"ONNX Runtime float32": exported, "ONNX Runtime int8": quantised}
        sizes = {name: file.stat().st_size / 1e6 for name, file in files.items()}
    pids = np.array([crop.pid for crop in crops], np.int64)
    cameras = np.array([crop.camera for crop in crops], np.int64)
    print(f"{len(crops)} crops, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| | ms a crop | times float32 | MB | mAP | rank-1 | least cosine with float32 |")
    print("|---|---|---|---|---|---|---|")
    reference = np.concatenate(embedded["torch float32"])
    base = statistics.median(times["torch float32"])
    for name in engines:
        own = np.concatenate(embedded[name])
        found = reid_metrics(own, pids, cameras)
        ms = statistics.median(times[name])
        megabytes = f"{sizes[name]:.1f}" if name in sizes else ""
        print(
            f"| {name} | {ms:.2f} | {base / ms:.2f} | {megabytes} | "
            f"{100 * found.mean_ap:.1f} | {100 * found.top1:.1f} | "
            f"{(own * reference).sum(axis=1).min():.3f} |"
        )


def by_torch(network: BINet) -> Encode:
    """Embed patches with a network."""
    return lambda patches: network.embed_crops(list(torch.from_numpy(patches)), BATCH)


def by_onnx(path: Path) -> Encode:
    """Open an exported crop encoder with torch's number of threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    opened = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = opened.get_inputs()

    def encode(patches: npt.NDArray[np.uint8]) -> FloatArray:
        (embeddings,) = opened.run(None, {given.name: patches})
        found: FloatArray = embeddings
        return found

    return encode


def quantise(exported: Path, out: Path, patches: npt.NDArray[np.uint8]) -> None:
    """Write an int8 edition of an exported crop encoder, its ranges from these patches."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Patches(CalibrationDataReader):  # type: ignore[misc]  # it has no types
        def __init__(self) -> None:
            starts = range(0, len(patches), BATCH)
            self.batches: Iterator[npt.NDArray[np.uint8]] = (patches[s : s + BATCH] for s in starts)

        def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"pixels": batch}

    quantize_static(
        exported, out, Patches(), per_channel=True, weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
