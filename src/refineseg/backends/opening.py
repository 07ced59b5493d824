"""Which runtimes there are, and a scorer from a model's name and a runtime's.

In: a shipped name, a model file or an exported file, and a backend. Out: a segmenter for eager PyTorch, or a
:class:`~refineseg.scoring.Scorer`.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from refineseg.backends import quantisation
from refineseg.backends.cuda_graphs import CudaGraphScorer
from refineseg.backends.description import Description
from refineseg.backends.graph import export_program
from refineseg.backends.onnx_runtime import OnnxScorer, onnx_model
from refineseg.backends.openvino_runtime import OpenVinoScorer, openvino_model
from refineseg.backends.torch_compile import CompiledScorer
from refineseg.backends.torch_programs import TorchProgramScorer
from refineseg.errors import ConfigError
from refineseg.segmenter import Segmenter, load


@dataclass(frozen=True)
class Backend:
    """A runtime.

    Args:
        summary: What it is, in a few words.
        packages: What must be installed.
        suffix: Of the files it reads; empty: model files only.
        precisions: In which it computes a model file.
        devices: Where.
        compiles: It spends a minute on compiling first, so it is used only where it is named.
    """

    summary: str
    packages: tuple[str, ...]
    suffix: str
    precisions: tuple[str, ...]
    devices: tuple[str, ...]
    compiles: bool = False

    @property
    def measured_precisions(self) -> tuple[str, ...]:
        """In which it is measured: OpenVINO also with a network that is quantised for that, where that can be done."""
        quantises = self.summary == "OpenVINO" and quantisation.is_available()
        return (*self.precisions, "int8") if quantises else self.precisions

    @property
    def is_installed(self) -> bool:
        """Whether its packages can be found (none is imported)."""
        return all(importlib.util.find_spec(package) is not None for package in self.packages)


_ONNX_TOOLS = ("onnx", "onnxscript")
BACKENDS: dict[str, Backend] = {
    "openvino": Backend("OpenVINO", ("openvino", *_ONNX_TOOLS), ".xml", ("float32", "bfloat16"), ("cpu",)),
    "onnxruntime": Backend("ONNX Runtime", ("onnxruntime", *_ONNX_TOOLS), ".onnx", ("float32",), ("cpu", "cuda")),
    "tensorrt": Backend("TensorRT in ONNX Runtime", ("onnxruntime", *_ONNX_TOOLS), "", ("float32",), ("cuda",)),
    "torch": Backend("PyTorch, eager", ("torch",), "", ("float32", "bfloat16"), ("cpu", "cuda", "mps")),
    "torch_export": Backend("a traced PyTorch program", ("torch",), ".pt2", ("float32",), ("cpu", "cuda")),
    "torch_compile": Backend("torch.compile", ("torch",), "", ("float32", "bfloat16"), ("cpu", "cuda"), True),
    "torch_cuda_graphs": Backend("PyTorch in CUDA graphs", ("torch",), "", ("float32", "bfloat16"), ("cuda",)),
}
"""Every runtime by name; on a CPU those that stand first are faster (docs/speed.md). ``auto`` is never one after
``torch``, which is always there."""

ExportedScorer = OnnxScorer | OpenVinoScorer | TorchProgramScorer
"""What scores with a file; each has a ``description``."""

RuntimeScorer = ExportedScorer | CompiledScorer | CudaGraphScorer
"""What scores in another runtime than eager PyTorch; each has a ``description``."""

SUFFIXES = {backend.suffix: name for name, backend in BACKENDS.items() if backend.suffix}
"""Which runtime reads an exported file."""


def fastest(device: torch.device, precision: str) -> str:
    """The fastest installed runtime that computes in this precision; it is never lowered."""
    if device.type != "cpu":
        return "torch"
    return next(name for name, backend in BACKENDS.items() if backend.is_installed and precision in backend.precisions)


def check_name(name: str) -> str:
    """A backend's name, or ``auto``.

    Raises:
        ConfigError: No such backend.
    """
    if name != "auto" and name not in BACKENDS:
        raise ConfigError(f"expected a backend of auto, {', '.join(BACKENDS)}, got {name!r}")
    return name


def check_backend(name: str, *, precision: str, device: torch.device) -> str:
    """A backend's name with ``auto`` resolved.

    Raises:
        ConfigError: No such backend, or it does not compute in this precision or there.
    """
    if check_name(name) == "auto":
        return fastest(device, precision)
    backend = BACKENDS[name]
    if precision not in backend.precisions:
        fitting = ", ".join(other for other, known in BACKENDS.items() if precision in known.precisions)
        raise ConfigError(
            f"expected a precision of {name} ({', '.join(backend.precisions)}), got {precision}; backends that have "
            f"it: {fitting}"
        )
    if device.type not in backend.devices:
        raise ConfigError(f"expected a device of {name} ({', '.join(backend.devices)}), got {device}")
    return name


def own_backend(path: Path) -> str:
    """The runtime that an exported file is for, by its ending."""
    return SUFFIXES[path.suffix]


def is_exported(model: str) -> bool:
    """Whether a model's name is that of an exported file."""
    return Path(model).suffix in SUFFIXES


def file_backend(path: Path, backend: str) -> str:
    """The runtime for an exported file: its own, if none was named but ``torch``, which stands for nothing said."""
    return own_backend(path) if backend in ("torch", "auto") else backend


def open_exported(path: Path, *, backend: str, device: torch.device, precision: str) -> ExportedScorer:
    """A scorer of an exported file.

    Args:
        path: ``.onnx``, ``.xml`` or ``.pt2``.
        backend: ``torch`` (nothing was said) and ``auto``: the file's own; an ``.onnx`` file is also read by openvino.
        device: Where.
        precision: Of openvino: ``float32`` or ``bfloat16``; others compute as the file was exported.

    Raises:
        ConfigError: The backend does not read such files.
        ModelFileError: The file is missing or damaged.
    """
    own, name = own_backend(path), file_backend(path, check_name(backend))
    if name != own and not (own == "onnxruntime" and name in ("openvino", "tensorrt")):
        raise ConfigError(f"expected a file of {name} ({BACKENDS[name].suffix or 'a model file'}), got {path}")
    if not path.is_file():
        raise ConfigError(f"expected an exported file, but there is no {path}")
    check_backend(name, precision=precision, device=device)
    if name == "openvino":
        return OpenVinoScorer(path, precision="bfloat16" if precision == "bfloat16" else "float32")
    if name == "torch_export":
        return TorchProgramScorer(path, device=device)
    return OnnxScorer(path, device=onnx_device(name, device))


def onnx_device(backend: str, device: torch.device) -> str:
    """Where ONNX Runtime computes, in the words of :class:`~refineseg.backends.onnx_runtime.OnnxScorer`."""
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


def _check_takes_models(backend: str, model: str) -> None:
    """Refuse a runtime that reads exported files only."""
    if backend == "torch_export":
        raise ConfigError(
            f"expected an exported file ({BACKENDS[backend].suffix}) for {backend}, got {model}; export it first"
        )


def scorer_of(segmenter: Segmenter, *, backend: str, device: torch.device, precision: str) -> RuntimeScorer:
    """A segmenter in another runtime than eager PyTorch: exported in memory, which takes some seconds.

    Raises:
        ConfigError: The network cannot be exported, or compiled here, or the runtime reads files only.
        MissingExtraError: The runtime is not installed.
    """
    kind: Literal["float32", "bfloat16"] = "bfloat16" if precision == "bfloat16" else "float32"
    if backend == "torch_compile":
        return CompiledScorer(segmenter, device=device, precision=kind)
    if backend == "torch_cuda_graphs":
        return CudaGraphScorer(segmenter, device=device, precision=kind)
    _check_takes_models(backend, segmenter.spec.variant)
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
    _check_takes_models(name, model)
    segmenter = load(model)
    if name == "torch":
        return Opened(segmenter, name, segmenter)
    return Opened(scorer_of(segmenter, backend=name, device=device, precision=precision), name, segmenter)
