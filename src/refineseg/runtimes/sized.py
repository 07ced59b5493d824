"""A segmenter computed by programs that are each for one shape: what compiled code and CUDA graphs have in common.

In: a segmenter. Out: :class:`SizedScorer`, which brings images to whole multiples of what the encoder takes by
repeating their border, so that pictures of many sizes share few shapes, and cuts the result.
"""

from __future__ import annotations

import copy
import threading
from typing import Literal

import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor, nn

from refineseg.class_info import ClassInfo
from refineseg.runtimes.description import Description
from refineseg.runtimes.table import OUTPUTS, Output
from refineseg.scoring import class_map_of
from refineseg.segmenter import Segmenter


class WholeFunction(nn.Module):
    """From pixels to one output, in one precision: what is compiled or recorded.

    Args:
        segmenter: Rewritten for inference, on its device.
        output: ``class_map`` (uint8, int32 above 256 classes) or ``logits`` (float32).
        precision: ``float32``, or ``bfloat16`` autocast.
    """

    def __init__(
        self, segmenter: Segmenter, *, output: Output, precision: Literal["float32", "bfloat16"] = "float32"
    ) -> None:
        super().__init__()
        self.segmenter, self.output = segmenter, output
        self.autocast = precision == "bfloat16"
        self.device_type = next(segmenter.parameters()).device.type
        self.class_dtype = torch.uint8 if segmenter.class_info.num_classes <= 256 else torch.int32

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) uint8 -> (N, H, W) or (N, K, H, W)."""
        # Without autocast's cache: a CUDA graph would keep weights that were converted while it was recorded.
        with torch.autocast(self.device_type, dtype=torch.bfloat16, enabled=self.autocast, cache_enabled=False):
            if self.output == "logits":
                return self.segmenter(images).float()  # type: ignore[no-any-return]
            if torch.compiler.is_compiling():  # which makes enlargement and argmax one loop; strips would be many
                return class_map_of(self.segmenter(images)).to(self.class_dtype)
            return self.segmenter.class_map(images)


def with_border(images: UInt8[Tensor, "n c h w"], multiple: int) -> UInt8[Tensor, "n c h2 w2"]:
    """Images whose sides are whole multiples: the last row and column repeated, as a segmenter does it.

    Args:
        images: Images of any size from 1x1 up.
        multiple: Number that both sides are multiples of.

    Example:
        >>> with_border(torch.tensor([[[[1, 2, 3]]]], dtype=torch.uint8), 4)[0, 0, 3].tolist()
        [1, 2, 3, 3]
    """
    height, width = images.shape[2:]
    if height % multiple == 0 and width % multiple == 0:
        return images
    rows, columns = (
        torch.arange(side + -side % multiple, device=images.device).clamp(max=side - 1) for side in (height, width)
    )
    return images.index_select(2, rows).index_select(3, columns)


class SizedScorer:
    """A segmenter on a device, computed by a program for each shape; subclasses say how.

    Args:
        segmenter: It is copied, and rewritten with fewer operations.
        device: Where.
        precision: ``float32`` or ``bfloat16``.
    """

    def __init__(
        self, segmenter: Segmenter, *, device: torch.device, precision: Literal["float32", "bfloat16"] = "float32"
    ) -> None:
        self.description = Description(segmenter.spec)
        fused = copy.deepcopy(segmenter).eval()
        fused = (fused if fused.is_fused else fused.fuse()).to(device).requires_grad_(False)
        self._device, self._spec, self._lock = device, segmenter.spec, threading.Lock()
        self._functions = {name: WholeFunction(fused, output=name, precision=precision).eval() for name in OUTPUTS}
        encoder = fused.network.encoder
        padded = segmenter.spec.options.padded or not encoder.takes_any_size
        self._multiple = int(encoder.size_multiple) if padded else 1  # type: ignore[arg-type]

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the logits."""
        return self._spec.class_info

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    def _compute(self, output: Output, images: Tensor) -> Tensor:
        """Whole multiples, on the device -> a tensor that the next call may overwrite."""
        raise NotImplementedError

    def _run(self, output: Output, images: Tensor) -> Tensor:
        """One at a time: a program has one input and one result, which the next call overwrites."""
        self.description.check(output, images, self._spec.variant)
        height, width = images.shape[2:]
        with self._lock, torch.inference_mode(False), torch.no_grad():
            # a copy, for programs are also for one layout in memory and one kind of tensor
            pixels = with_border(images.to(self._device), self._multiple).clone(memory_format=torch.contiguous_format)
            return self._compute(output, pixels)[..., :height, :width].clone()

    def logits(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """Logits at image size, on the device.

        Raises:
            ConfigError: Other channels, or the network cannot be compiled.
        """
        return self._run("logits", images)

    def class_map(self, images: UInt8[Tensor, "n c h w"]) -> Integer[Tensor, "n h w"]:
        """The likeliest class of every pixel, on the device.

        Raises:
            ConfigError: Other channels, or the network cannot be compiled.
        """
        return self._run("class_map", images)
