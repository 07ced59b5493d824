"""The operations of a convolutional network on a part of their map, with the results they have on the whole.

In: the pixels that a rectangle of the output needs, and where both lie on the whole maps. Out: that rectangle. Zeros
(or minus infinity) surround the whole map only, never a part of it; resizing weighs pixels by their place on the whole
map.

Each operation says by :mod:`refineseg.predict.exact.axis_rules` which pixels it needs, and how many multiply-adds a
pixel of its output takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from refineseg.predict.exact.axis_rules import AxisRule, Span, Taps, Window
from refineseg.resize import HALF

Spans = tuple[Span, Span]
"""Rows and columns."""


@runtime_checkable
class Operation(Protocol):
    """What is computed of one or more maps."""

    @property
    def multiply_adds(self) -> int:
        """For each pixel of the output, all channels together."""

    @property
    def fresh(self) -> bool:
        """Whether the output is memory of its own, that may be overwritten."""

    def rule(self, axis: int) -> AxisRule:
        """What the output needs of each input; axis 0: rows, 1: columns."""

    def compute(self, inputs: Sequence[Tensor], needs: Spans, out: Spans) -> Tensor:
        """A rectangle of the output from the rectangles ``needs`` of the inputs, which :meth:`rule` asks for."""


@dataclass(frozen=True, eq=False)
class Pointwise:
    """Every pixel of the output depends on the same pixel of the inputs.

    Args:
        function: Function of the inputs.
        size_hw: Height and width of the whole output, which may be cut at the bottom and the right.
        in_hw: Height and width of the whole inputs.
        multiply_adds: Multiply-adds of each pixel.
        fresh: The function returns memory of its own.
        overwriting: The same function, which may overwrite its input.
    """

    function: Callable[[Sequence[Tensor]], Tensor]
    size_hw: tuple[int, int]
    in_hw: tuple[int, int]
    multiply_adds: int = 0
    fresh: bool = False
    overwriting: Callable[[Sequence[Tensor]], Tensor] | None = None

    def rule(self, axis: int) -> AxisRule:
        """The pixel itself."""
        return Window(self.in_hw[axis], self.size_hw[axis])

    def compute(self, inputs: Sequence[Tensor], needs: Spans, out: Spans) -> Tensor:
        """The function."""
        return self.function(inputs)


@dataclass(frozen=True, eq=False)
class Chain:
    """An operation, then functions of single pixels: computed at once, so that nothing between is kept.

    Args:
        head: The first one.
        tail: Operations behind it, each of one map.
    """

    head: Operation
    tail: tuple[Pointwise, ...]

    @property
    def multiply_adds(self) -> int:
        """Of all of them."""
        return self.head.multiply_adds + sum(operation.multiply_adds for operation in self.tail)

    @property
    def fresh(self) -> bool:
        """Whether any of them makes memory of its own."""
        return self.head.fresh or any(operation.fresh for operation in self.tail)

    def rule(self, axis: int) -> AxisRule:
        """As the first one."""
        return self.head.rule(axis)

    def compute(self, inputs: Sequence[Tensor], needs: Spans, out: Spans) -> Tensor:
        """One after the other, in place where that is nobody else's memory."""
        x, own = self.head.compute(inputs, needs, out), self.head.fresh
        for operation in self.tail:
            x = (operation.overwriting if own and operation.overwriting else operation.function)([x])
            own = own or operation.fresh
        return x


def _padded(x: Tensor, rules: tuple[Window, Window], out: Spans, value: float) -> tuple[Tensor, tuple[int, int]]:
    """The pixels with what the window sees beyond the whole map; and padding left for the operation itself to do."""
    pads, own = [0, 0, 0, 0], [0, 0]  # left, right, top, bottom; rows, columns
    for axis, (rule, span) in enumerate(zip(rules, out, strict=True)):
        low, high = rule.surplus(span)
        outputs = (x.shape[2 + axis] + 2 * low - rule.reach - 1) // rule.stride + 1
        if 0 <= 2 * low <= rule.kernel and outputs == span[1] - span[0]:  # the operation pads alike, without a copy
            own[axis] = low
        else:
            pads[2 - 2 * axis], pads[3 - 2 * axis] = low, high
    return (F.pad(x, pads, value=value) if any(pads) else x), (own[0], own[1])


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution.

    Args:
        weight: Filters.
        bias: One for each output channel, or None.
        rules: Rules of rows and columns.
        groups: Groups of channels.
    """

    weight: Tensor
    bias: Tensor | None
    rules: tuple[Window, Window]
    groups: int
    fresh: bool = field(default=True, init=False)

    @property
    def multiply_adds(self) -> int:
        """One for each weight."""
        return self.weight.numel()

    def rule(self, axis: int) -> AxisRule:
        """A window."""
        return self.rules[axis]

    def compute(self, inputs: Sequence[Tensor], needs: Spans, out: Spans) -> Tensor:
        """With zeros around the whole map."""
        x, padding = _padded(inputs[0], self.rules, out, 0.0)
        rows, columns = self.rules
        strides, dilations = (rows.stride, columns.stride), (rows.dilation, columns.dilation)
        return F.conv2d(x, self.weight, self.bias, strides, padding, dilations, self.groups)


@dataclass(frozen=True, eq=False)
class MaxPooling:
    """The largest value in a window.

    Args:
        rules: Rules of rows and columns.
    """

    rules: tuple[Window, Window]
    multiply_adds: int = field(default=0, init=False)
    fresh: bool = field(default=True, init=False)

    def rule(self, axis: int) -> AxisRule:
        """A window."""
        return self.rules[axis]

    def compute(self, inputs: Sequence[Tensor], needs: Spans, out: Spans) -> Tensor:
        """With minus infinity around the whole map."""
        rows, columns = self.rules
        x, padding = _padded(inputs[0], self.rules, out, -torch.inf)
        kernels, strides = (rows.kernel, columns.kernel), (rows.stride, columns.stride)
        return F.max_pool2d(x, kernels, strides, padding, (rows.dilation, columns.dilation))


@dataclass(frozen=True, eq=False)
class AveragePooling:
    """The mean over a window.

    Args:
        rules: Rules of rows and columns.
        padding: As the whole map is padded; windows that reach beyond it count fewer pixels.
        count_include_pad: Whether padding counts as pixels.
        divisor: What sums are divided by in any case; None: the number of pixels.
    """

    rules: tuple[Window, Window]
    padding: tuple[int, int]
    count_include_pad: bool
    divisor: int | None
    multiply_adds: int = field(default=0, init=False)
    fresh: bool = field(default=True, init=False)

    def rule(self, axis: int) -> AxisRule:
        """A window."""
        return self.rules[axis]

    def compute(self, inputs: Sequence[Tensor], needs: Spans, out: Spans) -> Tensor:
        """Sums over windows, each divided by its own number of pixels."""
        rows, columns = self.rules
        x, padding = _padded(inputs[0], self.rules, out, 0.0)
        kernels, strides = (rows.kernel, columns.kernel), (rows.stride, columns.stride)
        area = rows.kernel * columns.kernel
        means = F.avg_pool2d(x, kernels, strides, padding, count_include_pad=True, divisor_override=area)
        if self.divisor is not None:
            return means * (area / self.divisor)
        counts = [self._counts(axis, span) for axis, span in enumerate(out)]
        if all((count == rule.kernel).all() for count, rule in zip(counts, self.rules, strict=True)):
            return means
        factors = area / (counts[0][:, None] * counts[1][None, :])
        return means * torch.from_numpy(factors).to(means)

    def _counts(self, axis: int, span: Span) -> NDArray[np.int64]:
        """Pixels under each window of one axis."""
        rule, padding = self.rules[axis], self.padding[axis]
        starts = np.arange(*span) * rule.stride - padding
        if self.count_include_pad:
            return np.minimum(starts + rule.kernel, rule.in_size + padding) - starts
        return np.minimum(starts + rule.kernel, rule.in_size) - np.maximum(starts, 0)


@dataclass(frozen=True, eq=False)
class Doubling:
    """Bilinear enlargement by powers of two, ``align_corners=False``: the same everywhere, so torch does it.

    Args:
        factors: Factors of rows and columns.
        taps: The same as a table, for what it needs.
    """

    factors: tuple[int, int]
    taps: tuple[Taps, Taps]
    multiply_adds: int = field(default=0, init=False)
    fresh: bool = field(default=True, init=False)

    def rule(self, axis: int) -> AxisRule:
        """Two pixels."""
        return self.taps[axis]

    def compute(self, inputs: Sequence[Tensor], needs: Spans, out: Spans) -> Tensor:
        """A part enlarged as a whole, without the border of which torch knows no better."""
        x = inputs[0]
        size = [side * factor for side, factor in zip(x.shape[2:], self.factors, strict=True)]
        enlarged = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        for axis, (factor, need, (first, end)) in enumerate(zip(self.factors, needs, out, strict=True)):
            enlarged = enlarged.narrow(2 + axis, first - need[0] * factor, end - first)
        return enlarged


@dataclass(frozen=True, eq=False)
class Resampling:
    """Resizing by tables of taps, rows and columns one after the other.

    Args:
        taps: Taps of rows and columns.
        order: Axis that comes first.
        rounded: Pixels: rounded to whole values 0..255 after each axis that changes, halves upwards.
        changed: Axes that change at all.
    """

    taps: tuple[Taps, Taps]
    order: tuple[int, int] = (0, 1)
    rounded: bool = False
    changed: tuple[bool, bool] = (True, True)
    multiply_adds: int = field(default=0, init=False)
    fresh: bool = field(default=True, init=False)

    def rule(self, axis: int) -> AxisRule:
        """As the table says."""
        return self.taps[axis]

    def compute(self, inputs: Sequence[Tensor], needs: Spans, out: Spans) -> Tensor:
        """Weighted sums of rows, and of columns."""
        x = inputs[0]
        kind = torch.float64 if self.rounded or x.dtype == torch.float64 else torch.float32
        kind = torch.float32 if x.device.type == "mps" else kind
        y = x.to(kind).permute(0, 2, 3, 1).contiguous()  # whole pixels lie together
        for axis in self.order:
            if not self.changed[axis]:  # cut only
                y = y.narrow(1 + axis, out[axis][0] - needs[axis][0], out[axis][1] - out[axis][0])
                continue
            y = self._one_axis(y, axis, needs[axis], out[axis])
            if self.rounded:
                y = (y + HALF).floor_().clamp_(0, 255)
        return y.permute(0, 3, 1, 2).to(x.dtype)

    def _one_axis(self, x: Tensor, axis: int, need: Span, out: Span) -> Tensor:
        table = self.taps[axis]
        indices = torch.from_numpy(table.indices[slice(*out)] - need[0]).to(x.device)
        weights = torch.from_numpy(table.weights[slice(*out)]).to(x)
        shape = [1, 1, 1, 1]
        shape[1 + axis] = -1
        total: Tensor | None = None
        for tap in range(indices.shape[1]):
            part = x.index_select(1 + axis, indices[:, tap]).mul_(weights[:, tap].view(shape))
            total = part if total is None else total.add_(part)
        assert total is not None
        return total


@dataclass(frozen=True, eq=False)
class Shift:
    """Cut, move or pad a map.

    Args:
        rules: Windows of one pixel.
        mode: What lies beyond the whole map: its border repeated, or a constant.
        value: The constant.
    """

    rules: tuple[Window, Window]
    mode: Literal["replicate", "constant"]
    value: float
    multiply_adds: int = field(default=0, init=False)
    fresh: bool = field(default=False, init=False)

    def rule(self, axis: int) -> AxisRule:
        """One pixel, the nearest on the map."""
        return self.rules[axis]

    def compute(self, inputs: Sequence[Tensor], needs: Spans, out: Spans) -> Tensor:
        """Pixels by their new places."""
        x = inputs[0]
        for axis, (rule, need, span) in enumerate(zip(self.rules, needs, out, strict=True)):
            places = torch.arange(*span) * rule.stride - rule.padding
            nearest = places.clamp(0, rule.in_size - 1)
            if rule.stride == 1 and torch.equal(places, nearest):
                x = x.narrow(2 + axis, int(places[0]) - need[0], len(places))
                continue
            inside = places == nearest
            x = x.index_select(2 + axis, (nearest - need[0]).to(x.device))
            if self.mode == "constant" and not inside.all():
                shape = (-1, 1) if axis == 0 else (1, -1)
                x = torch.where(inside.view(shape).to(x.device), x, torch.full((), self.value).to(x))
        return x
