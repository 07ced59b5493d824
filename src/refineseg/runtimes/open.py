"""A model's name, a backend and a device -> something that scores.

In: a shipped name, a model file or an exported file; what the command line said. Out: a segmenter (eager PyTorch) or
the scorer of a runtime, and the backend and device that were chosen where ``auto`` was said.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from refineseg.devices import find_device
from refineseg.errors import ConfigError
from refineseg.networks.model_spec import ModelSpec
from refineseg.runtimes.opening import RuntimeScorer, open_model, read_description
from refineseg.runtimes.table import BACKENDS, is_exported, own_backend
from refineseg.segmenter import Segmenter, load_spec


@dataclass(frozen=True)
class OpenedModel:
    """A model in a runtime.

    Args:
        scorer: A segmenter for eager PyTorch, else a scorer.
        backend: A key of :data:`~refineseg.runtimes.opening.BACKENDS`.
        precision: ``float32``, ``bfloat16``; ``int8``: of a quantised file.
        device: Where it computes.
        source: What it was made from: a segmenter, or a file.
    """

    scorer: Segmenter | RuntimeScorer
    backend: str
    precision: str
    device: str
    source: Segmenter | Path

    @property
    def segmenter(self) -> Segmenter | None:
        """The model, where PyTorch computes; None: a runtime does, which gives nothing but logits at image size."""
        return self.scorer if isinstance(self.scorer, Segmenter) else None

    @property
    def spec(self) -> ModelSpec:
        """What the model is."""
        return self.scorer.spec if isinstance(self.scorer, Segmenter) else self.scorer.description.spec

    def needs_segmenter(self, what: str) -> Segmenter:
        """The model, for what looks inside it.

        Raises:
            ConfigError: A runtime computes.
        """
        if self.segmenter is None:
            raise ConfigError(
                f"expected --backend torch and a model file for {what}, which looks inside the network, got "
                f"{self.backend}"
            )
        return self.segmenter


def place_of(device: str, backend: str, model: str) -> torch.device:
    """``auto`` is where the backend can be; a named device is kept."""
    name = own_backend(Path(model)) if is_exported(model) and backend in ("torch", "auto") else backend
    known = BACKENDS.get(name)
    if device == "auto" and known is not None and known.devices == ("cpu",):
        return torch.device("cpu")
    return find_device(device)


def open_scored(model: str, *, backend: str, device: str, precision: str) -> OpenedModel:
    """Open a model for prediction.

    Args:
        model: A shipped name, a model file, or an exported file.
        backend: A backend's name, or ``auto``: the fastest installed one of this precision.
        device: ``auto``, ``cpu``, ``cuda``, ...
        precision: ``float32`` or ``bfloat16``; it is never lowered but by a quantised file itself.

    Raises:
        ConfigError: Backend, device, precision or file do not fit each other.
        ModelFileError: No such model.
    """
    place = place_of(device, backend, model)
    opened = open_model(model, backend=backend, device=place, precision=precision)
    if isinstance(opened.scorer, Segmenter):
        return OpenedModel(opened.scorer, opened.backend, precision, device, opened.source)
    quantised = opened.scorer.description.precision == "int8"
    return OpenedModel(opened.scorer, opened.backend, "int8" if quantised else precision, str(place), opened.source)


def file_digest(path: Path) -> str:
    """SHA-256 of an exported file, its weights beside it included."""
    digest = hashlib.sha256(path.read_bytes())
    weights = path.with_suffix(".bin")
    if path.suffix == ".xml" and weights.is_file():
        digest.update(weights.read_bytes())
    return digest.hexdigest()


def read_spec(model: str) -> ModelSpec:
    """What a model or an exported file says of itself.

    Raises:
        ConfigError: There is no such file.
        ModelFileError: It is no model.
    """
    if not is_exported(model):
        return load_spec(model)
    return read_description(Path(model)).spec
