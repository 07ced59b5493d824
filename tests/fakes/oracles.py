"""The stored truth about the original networks: weights from a formula, an input, and the logits they must give.

The files lie outside this repository, in ``reference/oracles`` of a folder ``shared`` beside it, or of the folder in
the environment variable ``REFINESEG_SHARED``. Without them the tests marked with :data:`needs_oracles` are skipped.
"""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import SHARED

ORACLES = SHARED / "reference" / "oracles"

needs_oracles = pytest.mark.skipif(not ORACLES.is_dir(), reason=f"shared oracles are absent: {ORACLES}")

VARIANT_OF = {
    "rf_lwmbv2_21": "refinenet_lw_mobilenetv2",
    "rf_lw50_21": "refinenet_lw_resnet50",
    "rf_lw50_40": "refinenet_lw_resnet50",
    "rf50_21": "refinenet_resnet50",
    "rf101_21": "refinenet_resnet101",
}
"""Oracles with logits, and the variant each belongs to."""


def read_json(name: str) -> Any:
    return json.loads((ORACLES / name).read_text())


def shapes(model: str) -> list[tuple[str, tuple[int, ...]]]:
    """Original tensor names in their order, with shapes."""
    return [(name, tuple(shape)) for name, shape in read_json(f"keys_{model}.json")]


def _normal(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def weights(model: str) -> dict[str, Tensor]:
    """The deterministic weights: tensor number i is drawn from seed 1000 + i and scaled by what it is."""
    named = shapes(model)
    dims = {name: len(shape) for name, shape in named}
    state: dict[str, Tensor] = {}
    for i, (name, shape) in enumerate(named):
        layer, leaf = name.rpartition(".")[::2]
        if leaf == "num_batches_tracked":
            state[name] = torch.zeros(shape, dtype=torch.int64)
            continue
        value = _normal(1000 + i, shape)
        if leaf == "running_mean":
            value *= 0.1
        elif leaf == "running_var":
            value = 1 + 0.1 * np.abs(value)
        elif len(shape) == 4:
            encoder = name.split(".")[0] in ("conv1", "bn1", "0") or name.startswith("layer")
            value *= np.sqrt((2.0 if encoder else 0.5) / np.prod(shape[1:]))
        elif leaf == "weight":
            value = (0.25 if name.endswith("bn3.weight") else 1.0) * (1 + 0.1 * value)
        else:
            assert leaf == "bias", name
            value *= 0.01 if dims.get(f"{layer}.weight") == 4 else 0.1
        state[name] = torch.from_numpy(value.astype(np.float32))
    return state


def checksum(state: dict[str, Tensor]) -> float:
    """Sum of all values in double precision, tensor by tensor."""
    return float(sum(tensor.double().sum() for tensor in state.values()))


def normalised_image(height: int, width: int) -> Tensor:
    """(1, 3, H, W): the input of every oracle with logits."""
    return torch.from_numpy(_normal(7, (1, 3, height, width)).astype(np.float32))


def features(sizes: list[list[int]], channels: list[int]) -> list[Tensor]:
    """Non-negative feature maps, the input of the oracles of decoders alone."""
    maps = (_normal(7 + i, (1, c, *size)) for i, (size, c) in enumerate(zip(sizes, channels, strict=True)))
    return [torch.from_numpy(np.maximum(x, 0).astype(np.float32)) for x in maps]


def stored(name: str, array: str) -> Tensor:
    """One array of an ``.npz`` oracle."""
    with np.load(ORACLES / f"{name}.npz") as arrays:
        return torch.from_numpy(arrays[array])
