"""Gradients on a CPU that computes in bfloat16, by the fastest kernel for each: a step takes about half the time.

In: a backward pass. Out: the same gradients, to the rounding of bfloat16.

PyTorch's bfloat16 kernels for convolutions of single channels are the fastest for the output, for 3x3 weights and for
the input where the stride is 1. For the input where the stride is 2, and for 5x5 weights, they take up to eighty times
as long as others do. ``python benchmarks/convolution_gradients.py`` prints the time of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_backward = torch.ops.aten.convolution_backward.default


def faster_gradients(device: torch.device, *, compiled: bool = False) -> AbstractContextManager[object]:
    """A context for ``loss.backward()``; it does something on a CPU, for convolutions of single channels in bfloat16.

    Args:
        device: Device of the loss.
        compiled: Whether the loss is compiled; a compiled program chooses kernels itself.

    Example:
        >>> parameter = torch.ones(1, requires_grad=True)
        >>> with faster_gradients(parameter.device):
        ...     (2 * parameter).sum().backward()
        >>> parameter.grad
        tensor([2.])
    """
    return nullcontext() if compiled or device.type != "cpu" else _FasterGradients()  # type: ignore[no-untyped-call]


class _FasterGradients(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - any operation of PyTorch
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever it gives
        """The operation itself, or its faster equal."""
        if func is _backward and _is_slow(args):
            return _of_single_channels(args)
        return func(*args, **(kwargs or {}))


def _is_slow(call: Sequence[Any]) -> bool:
    """Whether a call is of single channels in bfloat16, and of the kind that :func:`_of_single_channels` takes."""
    _, x, weight, _, stride, padding, dilation, transposed, _, groups, wanted = call
    return (
        x.dtype == torch.bfloat16
        and x.device.type == "cpu"
        and x.ndim == 4
        and 1 < groups == x.shape[1] == weight.shape[0]
        and not transposed
        and not wanted[2]  # of a bias
        and list(dilation) == [1, 1]
        and len({*stride}) == len({*padding}) == 1
    )


def _of_single_channels(call: Sequence[Any]) -> tuple[Tensor | None, Tensor | None, None]:
    """The gradients of input and weights, as ``aten::convolution_backward`` gives them."""
    gradient, x, weight, _, stride, padding, *same, (wants_input, wants_weight, _) = call
    of_input = of_weight = None
    if wants_input:
        operands = (gradient, x, weight)
        if stride[0] > 1:  # only the shape of the input counts
            operands = (gradient.float(), torch.empty_like(x, dtype=torch.float32), weight.float())
        of_input = _backward(*operands, None, stride, padding, *same, [True, False, False])[0].to(x.dtype)
    if wants_weight and tuple(weight.shape[2:]) == (5, 5):
        around = F.pad(x, (padding[0],) * 4)
        height, width = (step * (side - 1) + 3 for step, side in zip(stride, gradient.shape[2:], strict=True))
        of_weight = torch.empty_like(weight)
        for i in (0, 2):  # four corners of 3x3, which overlap in the middle row and column
            for j in (0, 2):
                seen = around[:, :, i : i + height, j : j + width].contiguous(memory_format=torch.channels_last)
                operands = (gradient, seen, weight[:, :, :3, :3])
                corner = _backward(*operands, None, stride, [0, 0], *same, [False, True, False])[1]
                of_weight[:, :, i : i + 3, j : j + 3] = corner
    elif wants_weight:
        of_weight = _backward(gradient, x, weight, None, stride, padding, *same, [False, True, False])[1]
    return of_input, of_weight, None
