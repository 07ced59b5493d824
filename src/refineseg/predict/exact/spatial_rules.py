"""Torch functions between pixels, as operations on parts of a map: windows, resizing, cuts and new orders.

In: a call of a torch function with tensors without values. Out: the operations that compute parts of its result, one
after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from refineseg.predict.exact.axis_rules import Window, matlab_taps, torch_taps
from refineseg.predict.exact.graph import Map
from refineseg.predict.exact.region_ops import (
    AveragePooling,
    Convolution,
    Doubling,
    MaxPooling,
    Operation,
    Pointwise,
    Resampling,
    Shift,
)
from refineseg.resize import matlab_resize_images


class NotLocalError(Exception):
    """A function that cannot be computed on a part of its map; says what it does."""


Real = Callable[[Any], Any]
Step = tuple[Tensor, list[tuple[Operation, Map]]]
"""A map in the result of a call, and the operations that make it."""


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    listed = (value,) * 2 if isinstance(value, int) else tuple(value)
    return (int(listed[0]), int(listed[-1]))


def _output_of(shape: Map, output: Tensor) -> Map:
    return Map(tuple(output.shape), shape.axes, output.dtype)


def _image_like(args: Sequence[Any], shapes: Mapping[int, Map]) -> Map:
    """The map in front of an operation that wants channels before rows and columns."""
    shape = shapes.get(id(args[0])) if args else None
    if shape is None or shape.axes != (2, 3) or len(shape.shape) != 4:
        raise NotLocalError("an operation on something that is no map (1, C, H, W)")
    return shape


def _conv2d(
    args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Mapping[int, Map], output: Tensor, real: Real
) -> list[tuple[Operation, Map]]:
    def arguments(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,  # noqa: ANN401 - a number or a pair
        padding: Any = 0,  # noqa: ANN401 - a number, a pair or a word
        dilation: Any = 1,  # noqa: ANN401 - a number or a pair
        groups: int = 1,
    ) -> tuple[Any, ...]:
        return weight, bias, stride, padding, dilation, groups

    shape = _image_like(args, shapes)
    weight, bias, stride, padding, dilation, groups = arguments(*args, **kwargs)
    kernels, strides, dilations = tuple(weight.shape[2:]), _pair(stride), _pair(dilation)
    if isinstance(padding, str):
        same = padding == "same"  # an odd pixel of padding goes to the end
        paddings = tuple(d * (k - 1) // 2 if same else 0 for d, k in zip(dilations, kernels, strict=True))
    else:
        paddings = _pair(padding)
    if id(weight) in shapes:
        raise NotLocalError("a convolution with filters that depend on the image")
    rules = _windows(shape, output, kernels, strides, paddings, dilations)
    return [(Convolution(real(weight), real(bias), rules, groups), _output_of(shape, output))]


def _windows(
    shape: Map,
    output: Tensor,
    kernels: Sequence[int],
    strides: Sequence[int],
    paddings: Sequence[int],
    dilations: Sequence[int] = (1, 1),
) -> tuple[Window, Window]:
    rows, columns = (
        Window(shape.size_hw[i], output.shape[2 + i], kernels[i], strides[i], paddings[i], dilations[i]) for i in (0, 1)
    )
    return rows, columns


def _max_pool2d(
    args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Mapping[int, Map], output: Tensor, real: Real
) -> list[tuple[Operation, Map]]:
    def arguments(
        x: Tensor,
        kernel_size: Any,  # noqa: ANN401 - a number or a pair
        stride: Any = None,  # noqa: ANN401 - a number or a pair
        padding: Any = 0,  # noqa: ANN401 - a number or a pair
        dilation: Any = 1,  # noqa: ANN401 - a number or a pair
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> tuple[Any, ...]:
        return kernel_size, stride or kernel_size, padding, dilation

    shape = _image_like(args, shapes)
    rules = _windows(shape, output, *(_pair(value) for value in arguments(*args, **kwargs)))
    return [(MaxPooling(rules), _output_of(shape, output))]


def _avg_pool2d(
    args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Mapping[int, Map], output: Tensor, real: Real
) -> list[tuple[Operation, Map]]:
    def arguments(
        x: Tensor,
        kernel_size: Any,  # noqa: ANN401 - a number or a pair
        stride: Any = None,  # noqa: ANN401 - a number or a pair
        padding: Any = 0,  # noqa: ANN401 - a number or a pair
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> tuple[Any, ...]:
        return kernel_size, stride or kernel_size, padding, count_include_pad, divisor_override

    shape = _image_like(args, shapes)
    kernel, stride, padding, counted, divisor = arguments(*args, **kwargs)
    rules = _windows(shape, output, _pair(kernel), _pair(stride), _pair(padding))
    return [(AveragePooling(rules, _pair(padding), counted, divisor), _output_of(shape, output))]


def _interpolate(
    args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Mapping[int, Map], output: Tensor, real: Real
) -> list[tuple[Operation, Map]]:
    shape = _image_like(args, shapes)
    new_hw = (output.shape[2], output.shape[3])
    mode = kwargs.get("mode", "nearest")
    aligned, antialias = bool(kwargs.get("align_corners")), bool(kwargs.get("antialias"))
    if mode not in ("bilinear", "bicubic", "nearest") or kwargs.get("size") is None:
        raise NotLocalError(f"interpolate by {mode} to {'a size' if kwargs.get('size') else 'a scale'}, not known")
    dtype = torch.float64 if shape.dtype == torch.float64 else torch.float32
    rows, columns = (
        torch_taps(
            old, new, mode=mode, align_corners=aligned, antialias=antialias, dtype=dtype, device=real(output.device)
        )
        for old, new in zip(shape.size_hw, new_hw, strict=True)
    )
    factors = tuple(new // old for old, new in zip(shape.size_hw, new_hw, strict=True))
    exact = all(f > 0 and f & (f - 1) == 0 and f * shape.size_hw[i] == new_hw[i] for i, f in enumerate(factors))
    operation: Operation
    if mode == "bilinear" and exact and not aligned and not antialias:
        operation = Doubling((factors[0], factors[1]), (rows, columns))
    else:
        operation = Resampling((rows, columns), order=_cheaper_first(shape.size_hw, new_hw))
    return [(operation, _output_of(shape, output))]


def _cheaper_first(old_hw: tuple[int, int], new_hw: tuple[int, int]) -> tuple[int, int]:
    return (0, 1) if new_hw[0] * old_hw[1] <= old_hw[0] * new_hw[1] else (1, 0)


def find_matlab(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Mapping[int, Map]
) -> tuple[Tensor, list[Step]]:
    """MATLAB's resizing of maps or of pixels, whose matrices must not be made for a whole image."""
    shape, new_hw = _image_like(args, shapes), (int(args[1][0]), int(args[1][1]))
    scales = [new / old for old, new in zip(shape.size_hw, new_hw, strict=True)]
    rounded = func is matlab_resize_images
    if rounded and kwargs.get("scale") is not None:
        scales = [kwargs["scale"]] * 2
    elif not rounded and kwargs["style"] == "gpu":
        scales = [max(scales)] * 2
    rows, columns = (matlab_taps(*sizes) for sizes in zip(shape.size_hw, new_hw, scales, strict=True))
    order = _cheaper_first(shape.size_hw, new_hw)
    if rounded:
        order = (0, 1) if scales[0] <= scales[1] else (1, 0)
    changed = (scales[0] != 1, scales[1] != 1)
    result = torch.empty((*shape.shape[:2], *new_hw), dtype=shape.dtype, device="meta")
    operation = Resampling((rows, columns), order=order, rounded=rounded, changed=changed)
    return result, [(result, [(operation, _output_of(shape, result))])]


def _shift(shape: Map, output_hw: Sequence[int], offsets: Sequence[int], steps: Sequence[int]) -> tuple[Window, Window]:
    rows, columns = (
        Window(shape.size_hw[i], output_hw[i], kernel=1, stride=steps[i], padding=offsets[i]) for i in (0, 1)
    )
    return rows, columns


def _pad(
    args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Mapping[int, Map], output: Tensor, real: Real
) -> list[tuple[Operation, Map]]:
    shape = _image_like(args, shapes)
    amounts = list(kwargs.get("pad", args[1] if len(args) > 1 else ()))
    mode, value = kwargs.get("mode", "constant"), kwargs.get("value")
    if mode not in ("constant", "replicate") or any(amounts[4:]):
        raise NotLocalError(f"padding by {mode} with {amounts}, which is not known")
    amounts += [0] * (4 - len(amounts))
    rules = _shift(shape, output.shape[2:], (amounts[2], amounts[0]), (1, 1))
    return [(Shift(rules, mode, 0.0 if value is None else float(value)), _output_of(shape, output))]


def _getitem(
    args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Mapping[int, Map], output: Tensor, real: Real
) -> list[tuple[Operation, Map]]:
    shape = shapes[id(args[0])]
    key = args[1] if isinstance(args[1], tuple) else (args[1],)
    if not all(isinstance(part, slice) for part in key) or output.ndim != len(shape.shape):
        raise NotLocalError("an index that is no slice, which is not known")
    ranges = [part.indices(size) for part, size in zip(key, shape.shape)]  # noqa: B905 - the rest is whole
    ranges += [(0, size, 1) for size in shape.shape[len(key) :]]
    channels = tuple(slice(None) if i in shape.axes else slice(*part) for i, part in enumerate(ranges))
    grid = [ranges[axis] for axis in shape.axes]
    new_hw = (output.shape[shape.axes[0]], output.shape[shape.axes[1]])
    whole = all(start == 0 and step == 1 for start, _, step in grid)
    cut = Pointwise(lambda inputs: inputs[0][channels], new_hw if whole else shape.size_hw, shape.size_hw)
    if whole:
        return [(cut, _output_of(shape, output))]
    if shape.axes != (2, 3):
        raise NotLocalError("a cut of a map whose channels come last, which is not known")
    between = replace(shape, shape=(*output.shape[:2], *shape.shape[2:]))
    rules = _shift(between, new_hw, [-start for start, _, _ in grid], [step for _, _, step in grid])
    return [(cut, between), (Shift(rules, "constant", 0.0), _output_of(shape, output))]


def _permute(
    args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Mapping[int, Map], output: Tensor, real: Real
) -> list[tuple[Operation, Map]]:
    shape = shapes[id(args[0])]
    dims = kwargs.get("dims", args[1] if len(args) == 2 and not isinstance(args[1], int) else args[1:])
    order = [dim % len(shape.shape) for dim in dims]
    axes = (order.index(shape.axes[0]), order.index(shape.axes[1]))
    operation = Pointwise(lambda inputs: inputs[0].permute(order), shape.size_hw, shape.size_hw)
    return [(operation, Map(tuple(output.shape), axes, output.dtype))]


def _linear(
    args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Mapping[int, Map], output: Tensor, real: Real
) -> list[tuple[Operation, Map]]:
    shape = shapes.get(id(args[0]))
    if shape is None or len(shape.shape) - 1 in shape.axes or len(shape.shape) != 4:
        raise NotLocalError("a linear layer over something that is no map with its channels last")
    weight, bias = real(args[1]), real(args[2] if len(args) > 2 else kwargs.get("bias"))

    def compute(inputs: Sequence[Tensor]) -> Tensor:
        return torch.nn.functional.linear(inputs[0], weight, bias)

    operation = Pointwise(compute, shape.size_hw, shape.size_hw, multiply_adds=weight.numel(), fresh=True)
    return [(operation, _output_of(shape, output))]


_Finder = Callable[[Sequence[Any], Mapping[str, Any], Mapping[int, Map], Tensor, Real], list[tuple[Operation, Map]]]
SPATIAL: dict[str, _Finder] = {
    "conv2d": _conv2d,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "interpolate": _interpolate,
    "pad": _pad,
    "getitem": _getitem,
    "permute": _permute,
    "linear": _linear,
}
"""By :func:`~refineseg.predict.exact.graph_rules.operation_name`."""
