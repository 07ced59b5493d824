"""refineseg: RefineNet and Light-Weight RefineNet, alive. Importing it loads no torch; names are loaded when used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from refineseg._version import __version__
from refineseg.runtimes import telemetry

telemetry.switch_off()

if TYPE_CHECKING:
    from refineseg.api.evaluate import evaluate
    from refineseg.api.export import export
    from refineseg.api.predict import predict
    from refineseg.api.train import train
    from refineseg.class_info import ClassInfo
    from refineseg.data.datasets import DATASETS, open_dataset
    from refineseg.data.samples.sample import Dataset, Sample
    from refineseg.devices import keep_freed_memory
    from refineseg.errors import RefinesegError
    from refineseg.evaluate.metrics import ConfusionMatrix
    from refineseg.networks.hub import Hub
    from refineseg.networks.variants import VARIANTS
    from refineseg.original.checkpoints import load_original_decoder
    from refineseg.original.conversion import load_original
    from refineseg.predict.files import FilePredictor as Predictor
    from refineseg.prediction import Prediction
    from refineseg.preprocessing import Preprocessing
    from refineseg.segmenter import Segmenter, build, from_pretrained, load
    from refineseg.training.callbacks import EarlyStopping
    from refineseg.training.recipes.table import RECIPES

_HOME = {
    "DATASETS": "data.datasets",
    "RECIPES": "training.recipes.table",
    "VARIANTS": "networks.variants",
    "ClassInfo": "class_info",
    "ConfusionMatrix": "evaluate.metrics",
    "Dataset": "data.samples.sample",
    "EarlyStopping": "training.callbacks",
    "Hub": "networks.hub",
    "Prediction": "prediction",
    "Predictor": "predict.files:FilePredictor",
    "Preprocessing": "preprocessing",
    "RefinesegError": "errors",
    "Sample": "data.samples.sample",
    "Segmenter": "segmenter",
    "build": "segmenter",
    "from_pretrained": "segmenter",
    "keep_freed_memory": "devices",
    "load": "segmenter",
    "load_original": "original.conversion",
    "load_original_decoder": "original.checkpoints",
    "open_dataset": "data.datasets",
    "train": "api.train",
}
_PACKAGES = ("evaluate", "export", "predict")  # which are functions, too: see _calling.py

__all__ = [
    "DATASETS",
    "RECIPES",
    "VARIANTS",
    "ClassInfo",
    "ConfusionMatrix",
    "Dataset",
    "EarlyStopping",
    "Hub",
    "Prediction",
    "Predictor",
    "Preprocessing",
    "RefinesegError",
    "Sample",
    "Segmenter",
    "__version__",
    "build",
    "evaluate",
    "export",
    "from_pretrained",
    "keep_freed_memory",
    "load",
    "load_original",
    "load_original_decoder",
    "open_dataset",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name in _PACKAGES:
        return importlib.import_module(f"refineseg.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'refineseg' has no attribute {name!r}")
    module, _, own_name = _HOME[name].partition(":")
    return getattr(importlib.import_module(f"refineseg.{module}"), own_name or name)


def __dir__() -> list[str]:
    return sorted(__all__)
