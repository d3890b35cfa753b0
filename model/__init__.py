"""The network: pixels in, boxes and embeddings out. It knows no dataset, no database, no HTTP.

>>> from model import create, variant_config
>>> network, preprocessing = create(variant_config("binet"))
>>> people = network.detect([picture])[0]                               # doctest: +SKIP
>>> people.boxes_xyxy, people.scores, people.embeddings                 # doctest: +SKIP

The names below are loaded on first use, so that `import model` alone imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.acceleration import InferenceOptions, optimise
    from model.binet import BINet
    from model.config import VARIANTS, BINetConfig, PreprocessingConfig, variant_config
    from model.detections import Detections
    from model.errors import BINetError, CheckpointError, PictureError, WeightsError
    from model.factory import create, load, save
    from model.losses import total_loss
    from model.preprocessing import Picture, Preprocessing, Scene, read_picture
    from model.roi import Crops, Target

_HOME = {
    "BINet": "binet",
    "BINetConfig": "config",
    "BINetError": "errors",
    "CheckpointError": "errors",
    "Crops": "roi",
    "Detections": "detections",
    "InferenceOptions": "acceleration",
    "Picture": "preprocessing",
    "PictureError": "errors",
    "Preprocessing": "preprocessing",
    "PreprocessingConfig": "config",
    "Scene": "preprocessing",
    "Target": "roi",
    "VARIANTS": "config",
    "WeightsError": "errors",
    "create": "factory",
    "load": "factory",
    "optimise": "acceleration",
    "read_picture": "preprocessing",
    "save": "factory",
    "total_loss": "losses",
    "variant_config": "config",
}

__all__ = [
    "VARIANTS",
    "BINet",
    "BINetConfig",
    "BINetError",
    "CheckpointError",
    "Crops",
    "Detections",
    "InferenceOptions",
    "Picture",
    "PictureError",
    "Preprocessing",
    "PreprocessingConfig",
    "Scene",
    "Target",
    "WeightsError",
    "create",
    "load",
    "optimise",
    "read_picture",
    "save",
    "total_loss",
    "variant_config",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'model' has no attribute {name!r}")
    return getattr(import_module(f"model.{_HOME[name]}"), name)
