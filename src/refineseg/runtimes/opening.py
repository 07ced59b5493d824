"""A scorer from a model's name and a runtime's.

In: a shipped name, a model file or an exported file, and a backend. Out: a segmenter for eager PyTorch, or a
:class:`~refineseg.scoring.Scorer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from refineseg.errors import ConfigError
from refineseg.runtimes.description import Description
from refineseg.runtimes.graph import export_program
from refineseg.runtimes.onnx_runtime import OnnxScorer, onnx_model
from refineseg.runtimes.openvino_runtime import OpenVinoScorer, openvino_model
from refineseg.runtimes.table import (
    BACKENDS,
    SUFFIXES,
    check_fits,
    check_name,
    check_reads,
    check_takes_models,
    is_exported,
    own_backend,
)
from refineseg.runtimes.torch_compile import CompiledScorer
from refineseg.runtimes.torch_programs import TorchProgramScorer
from refineseg.segmenter import Segmenter, load

ExportedScorer = OnnxScorer | OpenVinoScorer | TorchProgramScorer
"""What scores with a file; each has a ``description``."""

RuntimeScorer = ExportedScorer | CompiledScorer
"""What scores in another runtime than eager PyTorch; each has a ``description``."""


def fastest(device: torch.device, precision: str) -> str:
    """The fastest installed runtime that computes in this precision; it is never lowered."""
    if device.type != "cpu":
        return "torch"
    return next(name for name, backend in BACKENDS.items() if backend.is_installed and precision in backend.precisions)


def check_backend(name: str, *, precision: str, device: torch.device) -> str:
    """A backend's name with ``auto`` resolved.

    Raises:
        ConfigError: No such backend, or it does not compute in this precision or there.
    """
    if check_name(name) == "auto":
        return fastest(device, precision)
    check_fits(name, precision=precision, device=str(device))
    return name


def file_backend(path: Path, backend: str) -> str:
    """The runtime for an exported file: its own, if none was named but ``torch``, which stands for nothing said."""
    return own_backend(path) if backend in ("torch", "auto") else backend


def open_exported(path: Path, *, backend: str, device: torch.device, precision: str) -> ExportedScorer:
    """A scorer of an exported file.

    Args:
        path: ``.onnx``, ``.xml`` or ``.pt2``.
        backend: ``torch`` (nothing was said) and ``auto``: the file's own; an ``.onnx`` file is also read by openvino.
        device: Where.
        precision: Precision in OpenVINO: ``float32`` or ``bfloat16``; others compute as the file was exported.

    Raises:
        ConfigError: The backend does not read such files.
        ModelFileError: The file is missing or damaged.
    """
    name = check_reads(path, backend)
    check_backend(name, precision=precision, device=device)
    if name == "openvino":
        return OpenVinoScorer(path, precision="bfloat16" if precision == "bfloat16" else "float32")
    if name == "torch_export":
        return TorchProgramScorer(path, device=device)
    return OnnxScorer(path, device=onnx_device(name, device))


def onnx_device(backend: str, device: torch.device) -> str:
    """Where ONNX Runtime computes, in the words of :class:`~refineseg.runtimes.onnx_runtime.OnnxScorer`."""
    return f"tensorrt:{device.index or 0}" if backend == "tensorrt" else str(device)


def read_description(path: Path) -> Description:
    """What an exported file says of itself, in its own runtime.

    Raises:
        ConfigError: There is no such file, or its ending is of no format.
        ModelFileError: It is damaged, or of others.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"expected a file ending in {', '.join(SUFFIXES)}, got {path}")
    return open_exported(path, backend="auto", device=torch.device("cpu"), precision="float32").description


def scorer_of(segmenter: Segmenter, *, backend: str, device: torch.device, precision: str) -> RuntimeScorer:
    """A segmenter in another runtime than eager PyTorch: exported in memory, which takes some seconds.

    Raises:
        ConfigError: The network cannot be exported, or compiled here, or the runtime reads files only.
        MissingExtraError: The runtime is not installed.
    """
    kind: Literal["float32", "bfloat16"] = "bfloat16" if precision == "bfloat16" else "float32"
    if backend == "torch_compile":
        return CompiledScorer(segmenter, device=device, precision=kind)
    check_takes_models(backend, segmenter.spec.variant)
    description = Description(segmenter.spec)
    program = export_program(segmenter, two_passes=True)
    if backend == "openvino":
        model = openvino_model(program, description)
        return OpenVinoScorer(model, precision=kind)
    content = onnx_model(program, description).SerializeToString()
    return OnnxScorer(content, device=onnx_device(backend, device))


@dataclass(frozen=True)
class Opened:
    """A model in a runtime.

    Args:
        scorer: A segmenter for ``torch``, else a scorer.
        backend: The runtime.
        source: What it was made from: a segmenter, or a file.
    """

    scorer: Segmenter | RuntimeScorer
    backend: str
    source: Segmenter | Path


def open_model(model: str, *, backend: str = "torch", device: torch.device, precision: str = "float32") -> Opened:
    """A model by name, in a runtime.

    Args:
        model: A shipped name, a model file, or an exported file.
        backend: A key of :data:`BACKENDS`, or ``auto``: the fastest installed one of this precision.
        device: Where.
        precision: ``float32`` or ``bfloat16``.

    Raises:
        ConfigError: Backend, device, precision or file do not fit each other.
        ModelFileError: No such model.
    """
    if is_exported(model):
        path = Path(model)
        scorer = open_exported(path, backend=backend, device=device, precision=precision)
        return Opened(scorer, file_backend(path, backend), path)
    name = check_backend(backend, precision=precision, device=device)
    check_takes_models(name, model)
    segmenter = load(model)
    if name == "torch":
        return Opened(segmenter, name, segmenter)
    return Opened(scorer_of(segmenter, backend=name, device=device, precision=precision), name, segmenter)
