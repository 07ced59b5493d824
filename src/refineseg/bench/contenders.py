"""The ways to compute a model's class maps that ``refineseg bench`` measures side by side.

In: a segmenter. Out: contenders: eager PyTorch, every installed runtime with the rewritten network, the plain export in
the same runtimes (the best other way to run the same function).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from refineseg.bench.timing import PLAIN_EXPORT, Contender, example_images
from refineseg.errors import ConfigError
from refineseg.runtimes import quantisation
from refineseg.runtimes.description import KEY, Description
from refineseg.runtimes.eager import TorchScorer
from refineseg.runtimes.graph import export_program, takes_any_size
from refineseg.runtimes.onnx_runtime import OnnxScorer, onnx_model
from refineseg.runtimes.open import onnx_device, scorer_of
from refineseg.runtimes.openvino_runtime import OpenVinoScorer, openvino_from_onnx
from refineseg.runtimes.program_files import program_bytes
from refineseg.runtimes.programs import computes_on
from refineseg.runtimes.table import BACKENDS, Precision
from refineseg.runtimes.torch_programs import TorchProgramScorer
from refineseg.scoring import Scorer
from refineseg.segmenter import Segmenter
from refineseg.terminal.printing import Terminal

CALIBRATION_IMAGES = 8
"""Example images that 8-bit rows are calibrated on; they are no photographs, so their agreement is a lower bound."""

_CALIBRATED = f"calibrated on {CALIBRATION_IMAGES} example images"
OF_SEGMENTERS = ("torch_compile",)
"""Runtimes of PyTorch that start from the segmenter itself, not from a traced program."""

Refused = Callable[[str, ConfigError], None]
"""Told the name of a runtime and why it cannot be measured here."""


def in_default_order(segmenter: Segmenter) -> Segmenter:
    """Let a segmenter compute in PyTorch's default memory order, which its ``forward`` does not use; changes it."""
    for parameter in segmenter.parameters():
        parameter.data = parameter.data.contiguous()
    # One more copy of the normalised image, well below a hundredth of the time; what is computed stays one definition.
    segmenter.network.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    return segmenter


def plain_contender(model: str, segmenter: Segmenter, *, device: torch.device) -> Contender:
    """The released structure in PyTorch's defaults."""
    plain = in_default_order(copy.deepcopy(segmenter))
    return Contender(model, "torch", "float32", False, True, "nchw", TorchScorer(plain, device=device))


def torch_contenders(
    model: str, segmenter: Segmenter, *, device: torch.device, precisions: Sequence[Precision]
) -> list[Contender]:
    """The plain contender, and the segmenter in each precision as it is, and rewritten for inference.

    Args:
        model: Its name.
        segmenter: It is moved to the device.
        device: Device of the network.
        precisions: ``float32``, ``bfloat16``.
    """
    contenders = [plain_contender(model, segmenter, device=device)]
    begin = time.perf_counter()
    fused = copy.deepcopy(segmenter).fuse()
    fused_s = time.perf_counter() - begin
    for precision in precisions:
        for candidate, is_fused in ((segmenter, False), (fused, True)):
            scorer = TorchScorer(candidate, device=device, precision=precision)
            built_s = fused_s if is_fused else 0.0
            contenders.append(Contender(model, "torch", precision, is_fused, False, "nhwc", scorer, built_s))
    return contenders


@dataclass(frozen=True)
class RuntimeChoice:
    """Which runtimes are measured, and on what.

    Args:
        backends: Keys of :data:`~refineseg.runtimes.table.BACKENDS`, without ``torch``.
        precisions: ``float32``, ``bfloat16``, ``int8``.
        size_hw: Height and width of the images.
        batch: Images at a time; a program for one image has a fixed size, which is what is fastest.
        device: Device of the network.
    """

    backends: Sequence[str]
    precisions: Sequence[str]
    size_hw: tuple[int, int]
    batch: int
    device: torch.device

    @property
    def fixed_hw(self) -> tuple[int, int] | None:
        """The one size a program is for; None: any."""
        return self.size_hw if self.batch == 1 else None


def runtime_contenders(
    model: str,
    segmenter: Segmenter,
    choice: RuntimeChoice,
    *,
    console: Terminal | None = None,
    refused: Refused | None = None,
) -> list[Contender]:
    """The rewritten network and the plain export in every runtime and precision.

    Args:
        model: Its name.
        segmenter: On the CPU; it stays as it is.
        choice: What is measured.
        console: Shows what is exported, which takes a while.
        refused: Told which runtime does not start here, which is then left out; None: that is an error.

    Raises:
        ConfigError: The network cannot be exported.
        MissingExtraError: A runtime is not installed.
    """
    if choice.fixed_hw is None and not takes_any_size(segmenter):
        raise ConfigError("expected --batch 1 for a model that resizes images, whose exported files are for one size")
    contenders: list[Contender] = []
    for rewritten in (True, False):
        backends = [name for name in choice.backends if rewritten or name in ("onnxruntime", "openvino")]
        if backends:
            if console is not None:
                what = "the rewritten network" if rewritten else "the plain export"
                console.say(f"exporting {what}")
            own = replace(choice, backends=backends)
            contenders += _of_program(model, segmenter, own, rewritten=rewritten, refused=refused)
    return contenders


def _of_program(
    model: str, segmenter: Segmenter, choice: RuntimeChoice, *, rewritten: bool, refused: Refused | None
) -> list[Contender]:
    """One trace in every runtime."""
    description = Description(segmenter.spec, ("class_map",), size_hw=choice.fixed_hw)

    def traced(*, two_passes: bool) -> Any:  # noqa: ANN401 - ExportedProgram
        return export_program(
            segmenter, outputs=("class_map",), size_hw=choice.fixed_hw, rewritten=rewritten, two_passes=two_passes
        )

    contenders: list[Contender] = []
    note = "" if rewritten else PLAIN_EXPORT

    def add(backend: str, precision: str, made: Callable[[], Scorer], before_s: float) -> None:
        started = time.perf_counter()
        try:
            scorer = made()
        except ConfigError as error:
            if refused is None:
                raise
            refused(backend, error)
            return
        built_s = before_s + time.perf_counter() - started
        own = f"{note}; {_CALIBRATED}".removeprefix("; ") if precision == "int8" and rewritten else note
        order = "nhwc" if backend == "openvino" else "nchw"
        contenders.append(Contender(model, backend, precision, rewritten, False, order, scorer, built_s, own))

    if "torch_export" in choice.backends and "float32" in choice.precisions:
        begin = time.perf_counter()
        own = program_bytes(traced(two_passes=False), {KEY: description.to_text()})
        traced_s = time.perf_counter() - begin
        add("torch_export", "float32", partial(TorchProgramScorer, own, device=choice.device), traced_s)
    if not {"onnxruntime", "tensorrt", "openvino"} & set(choice.backends):
        return contenders
    begin = time.perf_counter()
    proto = onnx_model(traced(two_passes=rewritten), description)
    onnx_s = time.perf_counter() - begin
    for name in ("onnxruntime", "tensorrt"):
        if name in choice.backends and "float32" in choice.precisions:
            place = onnx_device(name, choice.device)
            add(name, "float32", partial(OnnxScorer, proto.SerializeToString(), device=place), onnx_s)
    if "openvino" in choice.backends:
        converted = openvino_from_onnx(proto, description)
        if "float32" in choice.precisions:
            add("openvino", "float32", lambda: OpenVinoScorer(converted), onnx_s)
        if "bfloat16" in choice.precisions:
            add("openvino", "bfloat16", lambda: OpenVinoScorer(converted, precision="bfloat16"), onnx_s)
        if "int8" in choice.precisions and quantisation.is_available():
            add("openvino", "int8", lambda: _quantised(converted, description, choice), onnx_s)
    return contenders


def _quantised(model: Any, description: Description, choice: RuntimeChoice) -> Scorer:  # noqa: ANN401 - openvino.Model
    channels = description.spec.preprocessing.in_channels
    images = [image.permute(1, 2, 0).numpy() for image in example_images(CALIBRATION_IMAGES, channels, choice.size_hw)]
    return OpenVinoScorer(quantisation.quantised(model, replace(description, precision="int8"), images))


def compiled_contenders(
    model: str,
    segmenter: Segmenter,
    choice: RuntimeChoice,
    *,
    console: Terminal | None = None,
    refused: Refused | None = None,
) -> list[Contender]:
    """The rewritten network in those of :data:`OF_SEGMENTERS` that were chosen, compiled and recorded already.

    Args:
        model: Its name.
        segmenter: On the CPU; it stays as it is.
        choice: What is measured.
        console: Shows what is compiled, which takes minutes.
        refused: Told what cannot be compiled, which is then left out; None: that is an error.

    Raises:
        ConfigError: One cannot be compiled.
    """
    images = example_images(choice.batch, segmenter.spec.preprocessing.in_channels, choice.size_hw)
    contenders: list[Contender] = []
    for name in (name for name in choice.backends if name in OF_SEGMENTERS):
        for precision in (p for p in choice.precisions if p in BACKENDS[name].precisions):
            if console is not None:
                console.say(f"{name}, {precision}: preparing; compilers take minutes")
            begin = time.perf_counter()
            try:
                scorer = scorer_of(segmenter, backend=name, device=choice.device, precision=precision)
                scorer.class_map(images)  # or it would be compiled, and fail, among the rounds
            except ConfigError as error:
                if refused is None:
                    raise
                refused(name, error)
                break
            built_s = time.perf_counter() - begin
            contenders.append(Contender(model, name, precision, True, False, "nhwc", scorer, built_s))
    return contenders


def measurable(device: torch.device) -> list[str]:
    """Runtimes that are installed and compute there; on a CPU none that spends minutes on compiling.

    TensorRT is measured only where it is named: it is listed where its libraries need not be.
    """
    return [
        name
        for name, known in BACKENDS.items()
        if known.is_installed
        and device.type in known.devices
        and name != "tensorrt"
        and (name != "onnxruntime" or computes_on(device.type))
        and not (known.compiles and device.type == "cpu")
    ]
