"""Which pixels of its input an operation needs, one axis at a time.

In: an interval of rows (or columns) of an operation's output. Out: the interval of its input that they depend on, in
coordinates of the whole map, and the other way round: how many output rows can be computed once so many input rows are
there. Resampling at any ratio is a table of taps; the tables of torch's own resizing are read off torch itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from refineseg.resize import cubic_taps

Span = tuple[int, int]
"""Half-open interval ``(first, end)`` of rows or columns."""


@runtime_checkable
class AxisRule(Protocol):
    """What one axis of an output needs of the same axis of an input; both bounds never decrease."""

    def first(self, index: int) -> int:
        """The lowest input index that an output index needs."""

    def last(self, index: int) -> int:
        """The highest."""

    def available(self, count: int) -> int:
        """How many outputs, from 0 on, need nothing but the inputs before ``count``."""

    def extent(self, count: int) -> int:
        """The most inputs, from the first to the last, that so many outputs beside each other need."""


def needed(rule: AxisRule, span: Span) -> Span:
    """The inputs that an interval of outputs needs.

    Example:
        >>> needed(Window(10, 5, kernel=3, stride=2, padding=1), (2, 4))
        (3, 8)
    """
    return rule.first(span[0]), rule.last(span[1] - 1) + 1


@dataclass(frozen=True)
class Window:
    """A sliding window, as of convolutions and pooling; with a kernel of 1 also shifts, cuts and single pixels.

    Args:
        in_size: Length of the whole input axis.
        out_size: Length of the whole output axis.
        kernel: Taps.
        stride: Step of the window.
        padding: Positions in front of the first input; negative where a cut leaves inputs out.
        dilation: Distance of the taps.
    """

    in_size: int
    out_size: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    @property
    def reach(self) -> int:
        """From the first to the last tap."""
        return self.dilation * (self.kernel - 1)

    def extent(self, count: int) -> int:
        """The taps, and what lies between them."""
        return (count - 1) * self.stride + self.reach + 1

    def first(self, index: int) -> int:
        """The first tap that lies on the input."""
        return min(max(index * self.stride - self.padding, 0), self.in_size - 1)

    def last(self, index: int) -> int:
        """The last tap that lies on the input."""
        return min(max(index * self.stride - self.padding + self.reach, 0), self.in_size - 1)

    def available(self, count: int) -> int:
        """All of them once the whole input is there."""
        if count >= self.in_size:
            return self.out_size
        outputs = (count - 1 + self.padding - self.reach) // self.stride + 1
        return min(max(outputs, 0), self.out_size) if count > 0 else 0

    def surplus(self, span: Span) -> Span:
        """How many positions before and after the input the window of an interval of outputs lies over."""
        low, high = span[0] * self.stride - self.padding, (span[1] - 1) * self.stride - self.padding + self.reach
        return self.first(span[0]) - low, high - self.last(span[1] - 1)


@dataclass(frozen=True, eq=False)
class Taps:
    """Resampling: every output is a weighted sum of a few inputs.

    Args:
        indices: (out, T) of inputs.
        weights: (out, T) float64; 0 where a tap is not used.
    """

    indices: NDArray[np.int64]
    weights: NDArray[np.float64]

    def __post_init__(self) -> None:
        used = self.weights != 0
        lowest = np.where(used, self.indices, np.iinfo(np.int64).max).min(axis=1)
        highest = np.where(used, self.indices, -1).max(axis=1)
        # mirrored borders go back by a pixel or two: the bounds are made monotone
        object.__setattr__(self, "_lowest", np.minimum.accumulate(lowest[::-1])[::-1])
        object.__setattr__(self, "_highest", np.maximum.accumulate(highest))

    _lowest: NDArray[np.int64] = None  # type: ignore[assignment]
    _highest: NDArray[np.int64] = None  # type: ignore[assignment]

    def extent(self, count: int) -> int:
        """Of the outputs whose taps lie farthest apart."""
        beside = min(count, len(self._highest)) - 1
        return int((self._highest[beside:] - self._lowest[: len(self._lowest) - beside]).max()) + 1

    def first(self, index: int) -> int:
        """The lowest tap of this and all later outputs."""
        return int(self._lowest[index])

    def last(self, index: int) -> int:
        """The highest tap of this and all earlier outputs."""
        return int(self._highest[index])

    def available(self, count: int) -> int:
        """Outputs whose taps all lie before ``count``."""
        return int(np.searchsorted(self._highest, count - 1, side="right"))


def _compact(indices: NDArray[np.int64], weights: NDArray[np.float64]) -> Taps:
    """Without the columns that no output uses; an unused tap repeats a used one."""
    order = np.argsort(weights == 0, axis=1, kind="stable")
    indices, weights = np.take_along_axis(indices, order, 1), np.take_along_axis(weights, order, 1)
    most = int((weights != 0).sum(axis=1).max())
    indices, weights = indices[:, :most], weights[:, :most]
    return Taps(np.where(weights == 0, indices[:, :1], indices), weights)


@lru_cache(maxsize=64)
def matlab_taps(size: int, new_size: int, scale: float) -> Taps:
    """Of MATLAB's bicubic resizing."""
    return _compact(*cubic_taps(size, new_size, scale))


@lru_cache(maxsize=64)
def torch_taps(
    size: int,
    new_size: int,
    *,
    mode: str,
    align_corners: bool | None,
    antialias: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> Taps:
    """Of ``torch.nn.functional.interpolate``, with the very weights it uses on that device.

    torch computes positions in the precision of the map: in single precision, at the far end of a large image, its
    weights are off by a thousandth. They are therefore not computed anew but read off: resizing maps that are 1 at
    every m-th pixel tells which share each pixel has in each new one. The maps lie in memory as a segmenter's do,
    channels last: for others torch rounds differently.

    Args:
        size: Old length of the axis.
        new_size: New length.
        mode: ``bilinear``, ``bicubic`` or ``nearest``.
        align_corners: As given to torch.
        antialias: As given to torch.
        dtype: Type of the map.
        device: Where it is resized.
    """
    scale = size / new_size
    support = math.ceil(2 * max(scale, 1.0)) if antialias else 2
    period = 2 * support + 5
    device = torch.device("cpu") if device.type == "meta" else device
    pattern = torch.arange(size, device=device) % period == torch.arange(period, device=device)[:, None]
    probe = pattern.to(dtype)[None, :, :, None].expand(-1, -1, -1, 2).contiguous(memory_format=torch.channels_last)
    aligned = None if mode == "nearest" else align_corners
    found = F.interpolate(probe, size=(new_size, 2), mode=mode, align_corners=aligned, antialias=antialias)
    shares: Tensor = found[0, :, :, 0].double().cpu()  # (period, new_size)
    positions = np.arange(new_size)
    centres = positions * ((size - 1) / max(new_size - 1, 1)) if align_corners else (positions + 0.5) * scale - 0.5
    indices = (np.floor(centres).astype(np.int64) - support - 1)[:, None] + np.arange(period)
    weights = np.take_along_axis(shares.numpy().T, indices % period, axis=1)
    inside = (indices >= 0) & (indices < size)
    return _compact(indices.clip(0, size - 1), np.where(inside, weights, 0.0))
