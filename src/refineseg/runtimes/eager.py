"""A segmenter on a device, as a scorer.

In: a segmenter, a device, a precision. Out: :class:`TorchScorer`, which :class:`~refineseg.predict.predictor.Predictor`
and tests of speed score images with.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from refineseg.class_info import ClassInfo
from refineseg.runtimes.table import PRECISIONS, Precision
from refineseg.scoring import Scorer
from refineseg.segmenter import Segmenter
from refineseg.terminal.arguments import check_word


class TorchScorer(Scorer):
    """A segmenter on a device, in a precision.

    Args:
        segmenter: The model; it is moved to the device and set to evaluation mode.
        device: Device of the network.
        precision: ``float32``, or ``bfloat16`` autocast (faster where the hardware has it, slightly other masks).

    Raises:
        ConfigError: Another precision.
    """

    def __init__(self, segmenter: Segmenter, *, device: torch.device, precision: Precision = "float32") -> None:
        check_word("precision", precision, PRECISIONS)
        self._segmenter = segmenter.to(device).eval()
        self._device = device
        self._autocast = precision == "bfloat16"

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the logits."""
        return self._segmenter.class_info

    @property
    def num_channels(self) -> int:
        """Channels of the images that it takes."""
        return self._segmenter.spec.preprocessing.in_channels

    @torch.inference_mode()
    def logits(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """Logits at image size, on the device."""
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._autocast):
            scores: Tensor = self._segmenter(images.to(self._device))
            return scores

    @torch.inference_mode()
    def output_logits(
        self, images: UInt8[Tensor, "n c h w"], *, resized_already: bool = False
    ) -> Float[Tensor, "n k h2 w2"]:
        """Logits at the network's own resolution, on the device; see :mod:`refineseg.predict.views.authors`."""
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._autocast):
            return self._segmenter.output_logits(images.to(self._device), resized_already=resized_already)

    def cubic_logits(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """Logits at image size, enlarged bicubically (a = -0.75, border repeated: as OpenCV does it), on the device."""
        logits = self.output_logits(images).float()
        return F.interpolate(logits, size=images.shape[2:], mode="bicubic", align_corners=False)

    @torch.inference_mode()
    def class_map(self, images: UInt8[Tensor, "n c h w"]) -> Integer[Tensor, "n h w"]:
        """The likeliest class of every pixel, on the device; see :meth:`~refineseg.segmenter.Segmenter.class_map`."""
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._autocast):
            return self._segmenter.class_map(images.to(self._device))

    @property
    def inner(self) -> TorchScorer:
        """This one."""
        return self

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    @property
    def segmenter(self) -> Segmenter:
        """The model."""
        return self._segmenter

    @property
    def precision(self) -> Precision:
        """Of the network."""
        return "bfloat16" if self._autocast else "float32"
