"""The losses of an epoch, which stay on the device until they are read, and what is kept of a loss that is no number.

In: scalars on the device, one or two for each step. Out: floats, read once in a while, so that a GPU is not waited for;
and ``nan_batch.json``.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from refineseg.data.samples.sample import Sample
from refineseg.evaluate.metrics import ConfusionMatrix
from refineseg.files.writing import written_beside

READ_EVERY_S = 1.0
"""How often the losses of a GPU are read while an epoch lasts; a CPU has nothing to wait for."""
NAN_FILE = "nan_batch.json"
_KEPT_LOSSES = 50


@dataclass(frozen=True)
class NotFinite:
    """The first step of an epoch with a loss, or a gradient, that is no number.

    Args:
        step: Its number in the epoch, from 1.
        what: ``loss`` or ``gradient``.
        value: ``nan`` or ``inf``.
        names: Names of the samples in the batch.
    """

    step: int
    what: str
    value: float
    names: tuple[str, ...]


class LossRecord:
    """Losses and gradient norms of the steps of an epoch.

    Args:
        num_steps: How many there will be.
        device: Where they are computed.
    """

    def __init__(self, num_steps: int, device: torch.device) -> None:
        self._values = torch.zeros(num_steps, 2, device=device)
        self._names: list[tuple[str, ...]] = []
        self._pause_s = 0.0 if device.type == "cpu" else READ_EVERY_S
        self._read_at = time.monotonic()
        self.losses: list[float] = []

    def add(self, loss: Tensor, norm: Tensor | None, names: tuple[str, ...]) -> None:
        """Note a step; nothing is waited for."""
        row = self._values[len(self._names)]
        row[0].copy_(loss)
        if norm is not None:
            row[1].copy_(norm)
        self._names.append(names)

    @property
    def is_due(self) -> bool:
        """Whether it is time to read."""
        return time.monotonic() - self._read_at >= self._pause_s

    def read(self) -> NotFinite | None:
        """Fetch what has been noted since the last time; returns the first step that went wrong, if one did."""
        first, count = len(self.losses), len(self._names)
        for step, (loss, norm) in enumerate(self._values[first:count].tolist(), first):
            self.losses.append(loss)
            for what, value in (("loss", loss), ("gradient", norm)):
                if not math.isfinite(value):
                    return NotFinite(step + 1, what, value, self._names[step])
        self._read_at = time.monotonic()
        return None

    @property
    def mean(self) -> float:
        """Of the losses read so far."""
        return math.fsum(self.losses) / max(len(self.losses), 1)


def write_nan_batch(
    folder: Path, bad: NotFinite, *, epoch: int, losses: list[float], rates: Mapping[str, float]
) -> Path:
    """What is needed to look into a loss that is no number, in ``nan_batch.json``.

    Args:
        folder: Folder of the run.
        bad: The step.
        epoch: From 1.
        losses: Losses of the steps of the epoch up to it; the last of them are kept.
        rates: Learning rates of encoder and decoder in the last step.

    Raises:
        OutputError: It cannot be written.
    """
    content: dict[str, Any] = {
        "epoch": epoch,
        "step": bad.step,
        "names": list(bad.names),
        bad.what: str(bad.value),  # JSON has no nan
        "last_losses": [value if math.isfinite(value) else str(value) for value in losses[-_KEPT_LOSSES:]],
        "rates": dict(rates),
    }
    path = folder / NAN_FILE
    with written_beside(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Measured:
    """What a measurement gives.

    Args:
        matrix: The counts.
        shown: Sample and predicted mask of the first samples.
    """

    matrix: ConfusionMatrix
    shown: tuple[tuple[Sample, NDArray[Any]], ...]
