"""Which runtimes there are, in which precisions and where they compute, and whose files are whose; without torch.

In: a runtime's name, a file's name. Out: :data:`BACKENDS`, and what can be said of a name before anything is opened.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from refineseg.errors import ConfigError, MissingExtraError
from refineseg.files.special import special_kind
from refineseg.terminal.arguments import check_word

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Output = Literal["class_map", "logits"]
OUTPUTS: tuple[Output, ...] = get_args(Output)
"""What a file gives: ``class_map`` (N, H, W) uint8 (int32 above 256 classes), ``logits`` (N, K, H, W) float32."""


@dataclass(frozen=True)
class Backend:
    """A runtime.

    Args:
        summary: What it is, in a few words.
        packages: Packages that must be installed, the runtime first.
        suffix: Ending of the files it reads; empty: model files only.
        precisions: Precisions in which it computes a model file.
        devices: Kinds of devices that it computes on.
        compiles: It spends a minute on compiling first, so it is used only where it is named.
        extra: Extra of this package that brings it; empty: it is always there.
        quantises: It is also measured with a network of 8 bits, where nncf can make one.
    """

    summary: str
    packages: tuple[str, ...]
    suffix: str
    precisions: tuple[str, ...]
    devices: tuple[str, ...]
    compiles: bool = False
    extra: str = ""
    quantises: bool = False

    @property
    def measured_precisions(self) -> tuple[str, ...]:
        """In which it is measured, with a network that is quantised for that where it can be done."""
        quantises = self.quantises and importlib.util.find_spec("nncf") is not None
        return (*self.precisions, "int8") if quantises else self.precisions

    @property
    def is_installed(self) -> bool:
        """Whether its packages can be found (none is imported)."""
        return all(importlib.util.find_spec(package) is not None for package in self.packages)


_ONNX_TOOLS = ("onnx", "onnxscript")
BACKENDS: dict[str, Backend] = {
    "openvino": Backend(
        "OpenVINO",
        ("openvino", *_ONNX_TOOLS),
        ".xml",
        ("float32", "bfloat16"),
        ("cpu",),
        extra="openvino",
        quantises=True,
    ),
    "onnxruntime": Backend(
        "ONNX Runtime", ("onnxruntime", *_ONNX_TOOLS), ".onnx", ("float32",), ("cpu", "cuda"), extra="onnx"
    ),
    "tensorrt": Backend(
        "TensorRT in ONNX Runtime", ("onnxruntime", *_ONNX_TOOLS), "", ("float32",), ("cuda",), extra="onnx"
    ),
    "torch": Backend("PyTorch, eager", ("torch",), "", ("float32", "bfloat16"), ("cpu", "cuda", "mps")),
    "torch_export": Backend("a traced PyTorch program", ("torch",), ".pt2", ("float32",), ("cpu", "cuda")),
    "torch_compile": Backend("torch.compile", ("torch",), "", ("float32", "bfloat16"), ("cpu", "cuda"), True),
}
"""Every runtime by name; on a CPU those that stand first are faster (docs/speed.md). ``auto`` is never one after
``torch``, which is always there."""


SUFFIXES = {backend.suffix: name for name, backend in BACKENDS.items() if backend.suffix}
"""Which runtime reads an exported file."""


def check_name(name: str) -> str:
    """A backend's name, or ``auto``.

    Raises:
        ConfigError: No such backend.
    """
    return check_word("backend", name, ("auto", *BACKENDS))


def is_exported(model: str) -> bool:
    """Whether a model's name is that of an exported file."""
    return Path(model).suffix.lower() in SUFFIXES


def own_backend(path: Path) -> str:
    """The runtime that an exported file is for, by its ending."""
    return SUFFIXES[path.suffix.lower()]


def check_installed(name: str, *, for_file: bool = False) -> None:
    """Whether a runtime's packages can be found; none is imported.

    Args:
        name: A key of :data:`BACKENDS`.
        for_file: An exported file is read, which needs the runtime alone and no tools that export.

    Raises:
        MissingExtraError: They cannot.
    """
    packages = BACKENDS[name].packages[: 1 if for_file else None]
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise MissingExtraError(missing[0], extra=BACKENDS[name].extra, purpose=f"compute with the backend {name}")


def check_fits(name: str, *, precision: str, device: str) -> None:
    """Whether a runtime computes in a precision, and on a kind of device (``cuda:1``; ``auto``: any).

    Raises:
        ConfigError: It does not.
    """
    backend = BACKENDS[name]
    if precision not in backend.precisions:
        fitting = ", ".join(other for other, known in BACKENDS.items() if precision in known.precisions)
        raise ConfigError(
            f"expected a precision of {name} ({', '.join(backend.precisions)}), got {precision}; "
            + (f"backends that have it: {fitting}" if fitting else "choose one of those")
        )
    if device != "auto" and device.partition(":")[0] not in backend.devices:
        raise ConfigError(f"expected a device of {name} ({', '.join(backend.devices)}), got {device}")


def check_takes_models(backend: str, model: str) -> None:
    """Whether a runtime reads model files, and not exported files alone.

    Raises:
        ConfigError: It does not.
    """
    if backend == "torch_export":
        raise ConfigError(
            f"expected an exported file ({BACKENDS[backend].suffix}) for {backend}, got {model}; export it first"
        )


def check_reads(path: Path, backend: str | None) -> str:
    """The runtime that is to read an exported file; None and ``auto``: the file's own.

    Raises:
        ConfigError: It does not read such files, or there is no such file.
    """
    own = own_backend(path)
    name = own if backend is None or backend == "auto" else check_name(backend)
    if name != own and not (own == "onnxruntime" and name in ("openvino", "tensorrt")):
        raise ConfigError(f"expected a file of {name} ({BACKENDS[name].suffix or 'a model file'}), got {path}")
    if not path.is_file():
        kind = special_kind(path)
        there = f"got {path}, which is {kind} and never opened" if kind else f"but there is no {path}"
        raise ConfigError(f"expected an exported file, {there}; name an ordinary file")
    return name
