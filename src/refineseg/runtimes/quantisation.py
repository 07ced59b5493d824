"""Quantisation to 8 bits after training: convolutions with integers, calibrated on images.

In: an OpenVINO model in memory and calibration images. Out: another one, whose convolutions have filters of 8 bits with
a scale per channel, and 8-bit inputs with ranges that were seen on the images. The first convolution and the classifier
are not quantised: the one sees pixels of three channels and costs little, the other's logits are compared with
each other. The only door to ``nncf``.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from refineseg.errors import ConfigError, MissingExtraError
from refineseg.runtimes.description import KEY, Description

_CONVOLUTIONS = ("Convolution", "GroupConvolution")
_HALF_RANGE = "enable"
"""Filters of seven bits: processors without VNNI add two 8-bit products in 16 bits, which eight bits would overflow."""


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
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Any:  # noqa: ANN401 - openvino.Model
    """An OpenVINO model with 8-bit convolutions.

    Args:
        model: Model in single precision; it stays as it is.
        description: Description of the result, whose precision says ``int8``.
        images: Images for the ranges of the feature maps; a few hundred of the kind the model is for.
        report: Called with (images seen, in all) while ranges are found.

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
        result = nncf.quantize(
            model.clone(),
            nncf.Dataset(images, seen),
            preset=nncf.QuantizationPreset.MIXED,  # feature maps after sums may be negative
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=kept_in_float(model), validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=_HALF_RANGE),
        )
    result.set_rt_info(description.to_text(), [KEY])
    return result


def _batch(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, C) -> (1, C, H, W)."""
    return np.ascontiguousarray(image.transpose(2, 0, 1))[None]
