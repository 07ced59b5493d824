"""What each torch function means for a part of a map: which :mod:`~refineseg.predict.exact.region_ops` operation it is.

In: a call of a torch function with tensors without values. Out: its result (without values too) and the operations
that compute parts of it, or :class:`NotLocalError` where a pixel of the result depends on the whole image, or the
function is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from refineseg.predict.exact.graph import Map
from refineseg.predict.exact.region_ops import Pointwise
from refineseg.predict.exact.spatial_rules import SPATIAL, NotLocalError, Real, Step, find_matlab
from refineseg.resize import matlab_resize, matlab_resize_images

_MAKING = {
    *("batch_norm", "relu", "relu6", "hardtanh", "silu", "gelu", "hardswish", "hardsigmoid", "sigmoid", "tanh"),
    *("leaky_relu", "elu", "mish", "clamp", "clamp_min", "clamp_max", "exp", "neg", "abs", "sqrt", "rsqrt", "square"),
    *("pow", "add", "sub", "mul", "div", "radd", "rsub", "rmul", "truediv", "maximum", "minimum", "addcmul", "lerp"),
    *("cat", "concat", "layer_norm", "clone", "mean", "sum", "amax", "amin", "var", "softplus", "prelu", "log"),
}
"""Functions of single pixels that make new tensors."""
_KEEPING = {"to", "contiguous", "float", "double", "detach", "type", "chunk", "split", "unbind", "narrow", "identity"}
"""Functions of single pixels that may give back the memory they get."""
_OVERWRITING = {"relu", "relu6", "hardtanh", "silu", "leaky_relu", "elu", "hardswish", "mish"}
_OVER_CHANNELS = {"cat", "concat", "mean", "sum", "amax", "amin", "var", "chunk", "split", "unbind", "narrow"}
"""Functions along a dimension, which must not be rows or columns."""
_POOLING_ALL = {"adaptive_avg_pool2d", "adaptive_max_pool2d", "instance_norm", "group_norm", "norm", "var_mean"}


def operation_name(func: Callable[..., Any], path: str | None) -> str:
    """A short name for a torch function: ``torch.Tensor.__iadd__`` and ``torch.add`` are both ``add``."""
    if func is matlab_resize or func is matlab_resize_images:
        return "matlab"
    name = (path or str(func)).rsplit(".", 1)[-1]
    if name.startswith("__i") and name not in ("__invert__", "__init__"):
        name = name.replace("__i", "__", 1)
    return name.strip("_")


def find_operation(
    func: Callable[..., Any],
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    shapes: Mapping[int, Map],
    real: Real,
) -> tuple[Any, list[Step]]:
    """What a call gives and how its parts are computed.

    Args:
        func: The function that was called.
        name: Name of the operation, from :func:`operation_name`.
        args: With tensors without values.
        kwargs: The same.
        shapes: The maps among those tensors, by ``id``.
        real: Gives a weight, or nested arguments with weights, their values.

    Returns:
        The result, and for each map in it the operations that make it, one after the other; none: it is the map that
        was given. The result may also be no tensor (a size), without operations.

    Raises:
        NotLocalError: Not possible on parts.
    """
    if name == "matlab":
        return find_matlab(func, args, kwargs, shapes)
    result = func(*args, **kwargs)
    outputs = [result] if isinstance(result, Tensor) else list(result) if isinstance(result, list | tuple) else []
    if not outputs or not all(isinstance(output, Tensor) for output in outputs):
        return result, []
    if name == "dropout" and not kwargs.get("training", True):
        return result, [(result, [])]
    special = SPATIAL.get(name)
    if special is not None:
        return result, [(result, special(args, kwargs, shapes, result, real))]
    if name not in _MAKING | _KEEPING:
        whole = name in _POOLING_ALL
        raise NotLocalError(f"{name}, which {'sees the whole image at once' if whole else 'is not known'}")
    first = _same_grid(args, kwargs, shapes)
    if name in _OVER_CHANNELS:
        _check_dimension(name, args, kwargs, first)
    if name in ("batch_norm", "layer_norm"):
        _check_norm(name, args, kwargs, first)
    steps: list[Step] = []
    for index, output in enumerate(outputs):
        if tuple(output.shape[axis] for axis in first.axes) != first.size_hw or output.ndim != len(first.shape):
            raise NotLocalError(f"{name}, which changes the shape of a map")
        picked = None if isinstance(result, Tensor) else index
        operation = _pointwise(func, name, args, kwargs, shapes, real, first, picked)
        steps.append((output, [(operation, Map(tuple(output.shape), first.axes, output.dtype))]))
    return result, steps


def _maps_of(value: Any, shapes: Mapping[int, Map]) -> list[Map]:  # noqa: ANN401 - arguments of any torch function
    if isinstance(value, Tensor):
        return [shapes[id(value)]] if id(value) in shapes else []
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [found for item in value for found in _maps_of(item, shapes)]
    return []


def _same_grid(args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Mapping[int, Map]) -> Map:
    """The first of the maps, all of which have the same rows and columns."""
    maps = _maps_of([list(args), kwargs], shapes)
    if any((other.size_hw, other.axes) != (maps[0].size_hw, maps[0].axes) for other in maps):
        raise NotLocalError(f"maps of different sizes in one operation ({', '.join(str(m.shape) for m in maps)})")
    for value in [*args, *kwargs.values()]:
        weight = value if isinstance(value, Tensor) and id(value) not in shapes else None
        if weight is not None and weight.ndim > 1 and not _broadcasts(weight, maps[0]):
            raise NotLocalError(f"weights of the size of a map ({tuple(weight.shape)})")
    return maps[0]


def _broadcasts(weight: Tensor, shape: Map) -> bool:
    """Whether a weight is the same for all rows and columns."""
    missing = len(shape.shape) - weight.ndim
    return all(axis < missing or weight.shape[axis - missing] == 1 for axis in shape.axes)


def _check_dimension(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], shape: Map) -> None:
    position = 2 if name in ("chunk", "split") else 1
    dims = kwargs.get("dim", args[position] if len(args) > position else 0 if name in ("cat", "concat") else None)
    listed = dims if isinstance(dims, list | tuple) else [dims]
    if any(dim is None or dim % len(shape.shape) in shape.axes for dim in listed):
        raise NotLocalError(f"{name} over rows and columns, which sees the whole image at once")


def _check_norm(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], shape: Map) -> None:
    if name == "batch_norm":
        if kwargs.get("training", args[5] if len(args) > 5 else False):
            raise NotLocalError(
                "batch normalisation by the statistics of the image, which sees the whole image at once"
            )
        return
    normalised = kwargs.get("normalized_shape", args[1] if len(args) > 1 else ())
    if any(axis >= len(shape.shape) - len(normalised) for axis in shape.axes):
        raise NotLocalError("layer normalisation over rows and columns, which sees the whole image at once")


def _filled(template: Any, inputs: list[Tensor]) -> Any:  # noqa: ANN401 - arguments of any torch function
    """Arguments with the next input in place of each gap; the inputs are used up."""
    if template is _GAP:
        return inputs.pop(0)
    if isinstance(template, list | tuple) and not isinstance(template, torch.Size):
        return type(template)(_filled(item, inputs) for item in template)
    return template


class _Gap:
    """Where an input goes among the arguments of a function."""


_GAP = _Gap()


def _template(value: Any, shapes: Mapping[int, Map], real: Real) -> Any:  # noqa: ANN401 - arguments of any torch function
    if isinstance(value, Tensor) and id(value) in shapes:
        return _GAP
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        return type(value)(_template(item, shapes, real) for item in value)
    return real(value)


def _pointwise(
    func: Callable[..., Any],
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    shapes: Mapping[int, Map],
    real: Real,
    first: Map,
    picked: int | None,
) -> Pointwise:
    """The function itself on parts, never in place."""
    own = getattr(func, "__name__", "")
    if own.endswith("_") and not own.endswith("__"):
        func = getattr(Tensor, own[:-1])
    elif own.startswith("__i"):
        func = getattr(Tensor, own.replace("__i", "__", 1))
    plain = {**kwargs, **({"inplace": False} if "inplace" in kwargs else {})}
    places, keys = [_template(value, shapes, real) for value in args], list(plain)
    named = [_template(plain[key], shapes, real) for key in keys]

    def compute(inputs: Sequence[Tensor], *, overwrite: bool = False) -> Tensor:
        left = list(inputs)
        positional = [_filled(value, left) for value in places]
        options = {key: _filled(value, left) for key, value in zip(keys, named, strict=True)}
        if overwrite:
            options["inplace"] = True
        made = func(*positional, **options)
        result: Tensor = made if picked is None else made[picked]
        return result

    overwriting = (lambda inputs: compute(inputs, overwrite=True)) if name in _OVERWRITING else None
    overwriting = overwriting if "inplace" in kwargs else None
    return Pointwise(compute, first.size_hw, first.size_hw, fresh=name in _MAKING, overwriting=overwriting)
