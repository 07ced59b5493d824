"""Quantisation to 8 bits after training: convolutions with integers, calibrated on images.

In: an OpenVINO model in memory and calibration images. Out: another one, whose convolutions have filters of 8 bits with
a scale per channel, and 8-bit inputs with ranges that were seen on the images. The first convolution and the classifier
are not quantised: the one sees pixels of three channels and costs little, the other's logits are compared with
each other. Where 8 bits change too many classes, the layers that change most stay in floating point. The only door to
``nncf``.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray

from refineseg.errors import ConfigError, MissingExtraError
from refineseg.runtimes.description import KEY, Description
from refineseg.runtimes.programs import load_openvino
from refineseg.scoring import class_map_of
from refineseg.terminal.printing import warn

_CONVOLUTIONS = ("Convolution", "GroupConvolution")
_HALF_RANGE = "enable"
"""Filters of seven bits: processors without VNNI add two 8-bit products in 16 bits, which eight bits would overflow."""
_COMPARED = 32
"""Calibration images on which classes are compared."""
_RANKED_ON = 8
"""Of these, those that 8 bits change most: on them each layer is tried in floating point."""
_SILENT_S = 30.0
_LONGEST_S = 1200.0
"""Of the search: NNCF ranks all layers again where one more in floating point did not help."""


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """No progress bars and log lines on stdout, no logger class of its own for others."""
    logger_class = logging.getLoggerClass()
    torch_log = logging.getLogger("torch.utils.cpp_extension")  # which misses a compiler for GPUs
    level = torch_log.level
    torch_log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.setLoggerClass(logger_class)
        torch_log.setLevel(level)


def _nncf() -> Any:  # noqa: ANN401 - a module
    try:
        import nncf
    except ImportError as error:
        raise MissingExtraError("nncf", extra="openvino", purpose="quantise to 8 bits") from error
    return nncf


def is_available() -> bool:
    """Whether models can be quantised here."""
    import importlib.util

    return importlib.util.find_spec("nncf") is not None


def kept_in_float(model: Any) -> list[str]:  # noqa: ANN401 - openvino.Model
    """Names of the operations that stay: up to the first convolution, and from the classifier on."""
    operations = model.get_ordered_ops()
    convolutions = [i for i, operation in enumerate(operations) if operation.get_type_name() in _CONVOLUTIONS]
    if not convolutions:
        return []
    kept, reached = {convolutions[0], convolutions[-1]}, set[str]()
    # what follows the classifier: only there are logits
    for index, operation in enumerate(operations):
        sources = {value.get_node().get_friendly_name() for value in operation.input_values()}
        if index == convolutions[-1] or sources & reached:
            reached.add(operation.get_friendly_name())
    return sorted({operations[i].get_friendly_name() for i in kept} | reached)


def quantised(
    model: Any,  # noqa: ANN401 - openvino.Model
    description: Description,
    images: Sequence[UInt8[np.ndarray, "h w c"]],
    *,
    agreement: float = 0.0,
    report: Callable[[int, int], None] = lambda done, total: None,
    tell: Callable[[str], None] = lambda text: None,
) -> Any:  # noqa: ANN401 - openvino.Model
    """An OpenVINO model with 8-bit convolutions.

    A layer is put back into floating point by its effect on classes: NNCF tries each alone, and then keeps those that
    help most, one after another, until enough pixels have the class that they had before. That takes minutes, and is
    done only where 8 bits throughout do not suffice, for about 20 minutes at most.

    Args:
        model: Model in single precision; it stays as it is.
        description: Description of the result, whose precision says ``int8``.
        images: Images for the ranges of the feature maps; a few hundred of the kind the model is for.
        agreement: Share of the pixels of some of these images, 0..1, that keep their class; 0: all layers get 8 bits.
        report: Called with (images seen, in all) while ranges are found.
        tell: Called with sentences about what takes long, and what came of it.

    Raises:
        ConfigError: No image.
        MissingExtraError: nncf is not installed.
    """
    if not images:
        raise ConfigError("expected at least one image to calibrate with, got none")
    count = 0

    def seen(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        nonlocal count
        count += 1  # a second pass over the images corrects the filters
        report((count - 1) % len(images) + 1, len(images))
        return _batch(image)

    with _silence():
        nncf = _nncf()
        logging.getLogger("nncf").setLevel(logging.ERROR)
        for handler in logging.getLogger("nncf").handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                handler.setStream(sys.__stdout__)  # not the one that is silenced now and gone later
        settings = {
            "preset": nncf.QuantizationPreset.MIXED,  # feature maps after sums may be negative
            "subset_size": len(images),
            "ignored_scope": nncf.IgnoredScope(names=kept_in_float(model), validate=False),
        }
        advanced = nncf.AdvancedQuantizationParameters(overflow_fix=_HALF_RANGE)
        ranges = nncf.Dataset(images, seen)
        if agreement > 0:
            comparison = _Comparison(model, description, images[:: math.ceil(len(images) / _COMPARED)], agreement, tell)
            result = nncf.quantize_with_accuracy_control(
                model.clone(),
                ranges,
                nncf.Dataset(comparison.samples),
                comparison,
                max_drop=1 - agreement,
                advanced_quantization_parameters=advanced,
                advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
                    ranking_subset_size=_RANKED_ON
                ),
                **settings,
            )
            comparison.tell_result(result)
        else:
            result = nncf.quantize(model.clone(), ranges, advanced_parameters=advanced, **settings)
    result.set_rt_info(description.to_text(), [KEY])
    return result


class _Comparison:
    """What NNCF calls with a compiled model and samples: the share of pixels that have the model's own class."""

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - openvino.Model
        description: Description,
        images: Sequence[UInt8[np.ndarray, "h w c"]],
        agreement: float,
        tell: Callable[[str], None],
    ) -> None:
        self._gives_classes = "class_map" in description.outputs
        self._output = description.outputs.index("class_map") if self._gives_classes else 0
        compiled = load_openvino().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        self.samples = [(image, self._classes(compiled, image)) for image in images]  # no copies of large images
        self._agreement, self._tell, self._calls = agreement, tell, 0
        self._begun_s = self._said_s = 0.0  # of the search; 0: there is none yet

    def _classes(self, compiled: Any, image: NDArray[np.uint8]) -> NDArray[Any]:  # noqa: ANN401
        found = compiled(_batch(image))[self._output]
        if self._gives_classes:
            return np.array(found)
        classes: NDArray[Any] = class_map_of(torch.from_numpy(np.array(found))).numpy().astype(np.uint16)
        return classes

    def __call__(
        self,
        compiled: Any,  # noqa: ANN401 - openvino.CompiledModel
        samples: Iterable[tuple[NDArray[np.uint8], NDArray[Any]]],
    ) -> tuple[float, list[float]]:
        if self._begun_s and time.monotonic() - self._begun_s > _LONGEST_S:
            count = sum(1 for _ in samples)
            # of all images: ends the search; of the few of a ranking: what is not tried comes behind what was
            answer = 1.0 if count == len(self.samples) else 0.0
            return answer, [answer] * count
        shares = [float(np.mean(self._classes(compiled, image) == classes)) for image, classes in samples]
        share, now = float(np.mean(shares)), time.monotonic()
        if self._begun_s:
            self._calls += 1
            if now - self._said_s > _SILENT_S:
                self._said_s = now
                self._tell(f"{self._calls} versions of the model compared")
        elif share < self._agreement:
            self._begun_s = self._said_s = now
            self._tell(
                f"8 bits keep the class of {100 * share:.2f} % of the pixels of {len(shares)} calibration images, "
                f"expected {100 * self._agreement:g} %: now the layers that change most are looked for, which takes "
                "minutes; they stay in floating point (--calibrate-agreement)"
            )
        return share, shares

    def tell_result(self, model: Any) -> None:  # noqa: ANN401 - openvino.Model
        """After a search: what the result keeps, and how much of it has 8 bits."""
        if self._begun_s:
            compiled = load_openvino().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            share = np.mean([np.mean(self._classes(compiled, image) == classes) for image, classes in self.samples])
            operations = [operation for operation in model.get_ops() if operation.get_type_name() in _CONVOLUTIONS]
            eight_bits = sum(_has_8_bits(operation) for operation in operations)
            self._tell(
                f"{eight_bits} of {len(operations)} convolutions have 8 bits; the class of {100 * share:.2f} % of the "
                "pixels is kept"
            )
            if share < self._agreement:
                warn(
                    f"8 bits keep the class of {100 * share:.2f} % of the pixels, expected {100 * self._agreement:g} % "
                    f"(calibrate_agreement): the search for layers ended after {_LONGEST_S / 60:g} minutes; ask for "
                    "less, or compare the file with its model (accept)"
                )


def _has_8_bits(convolution: Any) -> bool:  # noqa: ANN401 - openvino.Node
    """Whether the filter comes from whole numbers, which are multiplied by a scale, or is rounded (depthwise ones)."""
    operation = convolution.input_value(1).get_node()
    while operation.get_type_name() not in ("Constant", "FakeQuantize"):
        operation = operation.input_value(0).get_node()
    return operation.get_type_name() == "FakeQuantize" or str(operation.get_element_type().get_type_name()) == "i8"


def _batch(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, C) -> (1, C, H, W)."""
    return np.ascontiguousarray(image.transpose(2, 0, 1))[None]
