"""The one way to open a model: a name, a backend, a device, a precision -> something that scores.

In: a shipped name, a model file or an exported file, and what the command line said; None where it said nothing. Out:
:class:`OpenedModel`, a :class:`~refineseg.scoring.Scorer` that knows what it was opened from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from refineseg.class_info import ClassInfo
from refineseg.devices import find_device
from refineseg.errors import ConfigError
from refineseg.networks.model_spec import ModelSpec
from refineseg.runtimes.description import Description
from refineseg.runtimes.eager import TorchScorer
from refineseg.runtimes.graph import export_program, takes_any_size
from refineseg.runtimes.onnx_runtime import OnnxScorer, onnx_model
from refineseg.runtimes.opened_file import file_digest, looks_inside
from refineseg.runtimes.openvino_runtime import OpenVinoScorer, openvino_model
from refineseg.runtimes.program_scorer import DescribedScorer
from refineseg.runtimes.table import (
    BACKENDS,
    PRECISIONS,
    SUFFIXES,
    Precision,
    check_fits,
    check_name,
    check_reads,
    check_takes_models,
    is_exported,
    own_backend,
)
from refineseg.runtimes.torch_compile import CompiledScorer
from refineseg.runtimes.torch_programs import TorchProgramScorer
from refineseg.scoring import Scorer
from refineseg.segmenter import Segmenter, load, load_spec
from refineseg.terminal.arguments import check_word


@dataclass(frozen=True)
class OpenedModel(Scorer):
    """A model in a runtime, which scores as that does.

    Args:
        scorer: Scorer of the runtime.
        backend: Name of the runtime, a key of :data:`~refineseg.runtimes.table.BACKENDS`.
        precision: Precision: ``float32``, ``bfloat16``; ``int8``: of a quantised file.
        device: Device where it computes.
        spec: Specification of the model.
        source: Segmenter or file that it was made from.
    """

    scorer: Scorer
    backend: str
    precision: str
    device: str
    spec: ModelSpec
    source: Segmenter | Path

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the logits."""
        return self.scorer.class_info

    @property
    def num_channels(self) -> int:
        """Channels of the images that it takes."""
        return self.spec.preprocessing.in_channels

    @property
    def description(self) -> Description:
        """What it gives, for images of which size; it may be less than everything only in an exported file."""
        return self.scorer.description if isinstance(self.scorer, DescribedScorer) else Description(self.spec)

    @property
    def inner(self) -> TorchScorer | None:
        """The scorer, where PyTorch computes and the network can be looked into."""
        inner: TorchScorer | None = self.scorer.inner
        return inner

    def logits(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """Logits at image size."""
        return self.scorer.logits(images)

    def class_map(self, images: UInt8[Tensor, "n c h w"]) -> Integer[Tensor, "n h w"]:
        """The likeliest class of every pixel."""
        return self.scorer.class_map(images)

    def needs_inner(self, what: str) -> TorchScorer:
        """The scorer, for what looks inside the network.

        Raises:
            ConfigError: A runtime computes that gives nothing but logits at image size.
        """
        if self.inner is None:
            raise looks_inside(what, self.backend)
        return self.inner

    @property
    def digest(self) -> str:
        """SHA-256 of what the result depends on: the weights, or the exported file with its weights beside it."""
        if isinstance(self.source, Segmenter):
            return self.source.digest()
        return file_digest(self.source)


def open_model(
    model: str | Segmenter, *, backend: str | None = None, device: str = "auto", precision: Precision = "float32"
) -> OpenedModel:
    """A model in a runtime.

    Args:
        model: A shipped name, a model file, an exported file, or a segmenter.
        backend: Name of a backend; ``auto``: the fastest installed one of this precision that can run the network;
            None: ``torch``, and of an exported file its own.
        device: Name of a device; ``auto``: where the backend can be.
        precision: Precision; it is never lowered but by a quantised file itself.

    Raises:
        ConfigError: Backend, device, precision or file do not fit each other.
        ModelFileError: No such model.
    """
    place = place_of(device, backend, model if isinstance(model, str) else "")
    if isinstance(model, str) and is_exported(model):
        path = Path(model)
        file = open_exported(path, backend=backend, device=place, precision=precision)
        known: str = "int8" if file.description.precision == "int8" else precision
        return OpenedModel(file, check_reads(path, backend), known, str(place), file.description.spec, path)
    name = check_backend(backend, precision=precision, device=place)
    if isinstance(model, str):
        check_takes_models(name, model)
    segmenter = load(model) if isinstance(model, str) else model
    try:
        scorer = scorer_of(segmenter, backend=name, device=place, precision=precision)
    except ConfigError:  # the network cannot be traced, or for one size only
        if backend != "auto" or name == "torch":
            raise
        name, scorer = "torch", scorer_of(segmenter, backend="torch", device=place, precision=precision)
    return OpenedModel(scorer, name, precision, device if name == "torch" else str(place), segmenter.spec, segmenter)


def place_of(device: str, backend: str | None, model: str) -> torch.device:
    """The device of a name; ``auto``: where the backend can be.

    Raises:
        ConfigError: No such device on this machine.
    """
    name = own_backend(Path(model)) if is_exported(model) and backend in (None, "auto") else backend
    known = BACKENDS.get(name or "torch")
    if device == "auto" and known is not None and known.devices == ("cpu",):
        return torch.device("cpu")
    return find_device(device)


def fastest(device: torch.device, precision: str) -> str:
    """The fastest installed runtime that computes in this precision; it is never lowered."""
    if device.type != "cpu":
        return "torch"
    return next(name for name, backend in BACKENDS.items() if backend.is_installed and precision in backend.precisions)


def check_backend(name: str | None, *, precision: str, device: torch.device) -> str:
    """A backend's name; None: ``torch``; ``auto``: the fastest.

    Raises:
        ConfigError: No such backend, or it does not compute in this precision or there.
    """
    if name is None:
        name = "torch"
    if check_name(name) == "auto":
        check_word("precision", precision, PRECISIONS)
        return fastest(device, precision)
    check_fits(name, precision=precision, device=str(device))
    return name


def open_exported(path: Path, *, backend: str | None, device: torch.device, precision: str) -> DescribedScorer:
    """A scorer of an exported file.

    Args:
        path: Path of an ``.onnx``, ``.xml`` or ``.pt2`` file.
        backend: Name of a backend; None and ``auto``: the file's own; an ``.onnx`` file is also read by openvino.
        device: Device where it computes.
        precision: Precision in OpenVINO: ``float32`` or ``bfloat16``; others compute as the file was exported.

    Raises:
        ConfigError: The backend does not read such files.
        ModelFileError: The file is missing or damaged.
    """
    name = check_reads(path, backend)
    check_fits(name, precision=precision, device=str(device))
    if name == "openvino":
        return OpenVinoScorer(path, precision="bfloat16" if precision == "bfloat16" else "float32")
    if name == "torch_export":
        return TorchProgramScorer(path, device=device)
    return OnnxScorer(path, device=onnx_device(name, device))


def onnx_device(backend: str, device: torch.device) -> str:
    """Where ONNX Runtime computes, in the words of :class:`~refineseg.runtimes.onnx_runtime.OnnxScorer`."""
    return f"tensorrt:{device.index or 0}" if backend == "tensorrt" else str(device)


def scorer_of(segmenter: Segmenter, *, backend: str, device: torch.device, precision: str) -> Scorer:
    """A segmenter in a runtime; in another than PyTorch it is exported in memory, which takes some seconds.

    Raises:
        ConfigError: The network cannot be exported, or compiled here, or the runtime reads files only.
        MissingExtraError: The runtime is not installed.
    """
    kind: Literal["float32", "bfloat16"] = "bfloat16" if precision == "bfloat16" else "float32"
    if backend == "torch":
        return TorchScorer(segmenter, device=device, precision=kind)
    if backend == "torch_compile":
        return CompiledScorer(segmenter, device=device, precision=kind)
    check_takes_models(backend, segmenter.spec.variant)
    if not takes_any_size(segmenter):
        raise ConfigError(
            f"expected --backend torch or auto for a model that resizes images in front of the network, got {backend}; "
            f"or export the model with --size HEIGHTxWIDTH, for images of that size"
        )
    description = Description(segmenter.spec)
    program = export_program(segmenter, two_passes=True)
    if backend == "openvino":
        return OpenVinoScorer(openvino_model(program, description), precision=kind)
    return OnnxScorer(onnx_model(program, description).SerializeToString(), device=onnx_device(backend, device))


def read_description(path: Path) -> Description:
    """What an exported file says of itself, in its own runtime.

    Raises:
        ConfigError: There is no such file, or its ending is of no format.
        ModelFileError: It is damaged, or of others.
    """
    if not is_exported(str(path)):
        raise ConfigError(f"expected a file ending in {', '.join(SUFFIXES)}, got {path}")
    return open_exported(path, backend=None, device=torch.device("cpu"), precision="float32").description


def read_spec(model: str | Segmenter) -> ModelSpec:
    """What a model or an exported file says of itself.

    Raises:
        ConfigError: There is no such file.
        ModelFileError: It is no model.
    """
    if isinstance(model, Segmenter):
        return model.spec
    return read_description(Path(model)).spec if is_exported(model) else load_spec(model)
