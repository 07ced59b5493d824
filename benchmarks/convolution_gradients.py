"""What a convolution of single channels costs in training: PyTorch's gradients, and one way of our own for the weights.

``python benchmarks/convolution_gradients.py`` prints CPU milliseconds of one thread, the best of four.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from refineseg.devices import keep_freed_memory

SHAPES = (  # of refineseg_lite0 on 288x384 crops: channels, height, width, kernel, stride
    (144, 72, 96, 5, 2),
    (240, 36, 48, 5, 1),
    (480, 18, 24, 5, 1),
    (672, 18, 24, 5, 1),
    (1152, 9, 12, 5, 1),
    (1152, 9, 12, 3, 1),
)
BATCH = 8


def cpu_ms(function: Callable[[], object]) -> float:
    """CPU milliseconds of a call, the best of four after one that does not count."""
    function()
    best = float("inf")
    for _ in range(4):
        begun = time.process_time()
        function()
        best = min(best, time.process_time() - begun)
    return 1e3 * best


def weight_gradient(x: Tensor, gradient: Tensor, kernel: int, stride: int) -> Tensor:
    """By batched matrix products of rows, whose diagonals are summed: (C, 1, kernel, kernel)."""
    channels, (rows, columns) = x.shape[1], gradient.shape[2:]
    padded = F.pad(x, (kernel // 2,) * 4).permute(1, 0, 2, 3).contiguous()  # (C, N, H, W)
    left = gradient.permute(1, 3, 0, 2).reshape(channels, columns, -1)
    taps = []
    for offset in range(kernel):
        seen = padded[:, :, offset : offset + stride * (rows - 1) + 1 : stride]
        product = torch.bmm(left, seen.reshape(channels, left.shape[2], -1))
        strides = (product.stride(0), product.stride(1) + stride, 1)
        taps.append(product.as_strided((channels, columns, kernel), strides).sum(1))
    return torch.stack(taps, 1).unsqueeze(1)


def main() -> None:
    """One line for each shape."""
    torch.set_num_threads(1)
    keep_freed_memory()
    backward = torch.ops.aten.convolution_backward
    print("channels height width kernel stride | forward, input gradient, weight gradient, matrix products (ms)")
    for channels, height, width, kernel, stride in SHAPES:
        x = torch.randn(BATCH, channels, height, width).contiguous(memory_format=torch.channels_last)
        weight, half = torch.randn(channels, 1, kernel, kernel), kernel // 2
        y = torch.conv2d(x, weight, None, stride, half, 1, channels)
        gradient = torch.randn_like(y)

        def gradients(*mask: bool) -> Tensor:
            options = ([stride] * 2, [half] * 2, [1, 1], False, [0, 0], channels, list(mask))  # noqa: B023
            return backward(gradient, x, weight, None, *options)[1 if mask[1] else 0]  # noqa: B023

        error = (weight_gradient(x, gradient, kernel, stride) - gradients(False, True, False)).abs().max()
        assert error < 1e-3 * gradients(False, True, False).abs().max()
        times = (
            cpu_ms(lambda: torch.conv2d(x, weight, None, stride, half, 1, channels)),  # noqa: B023
            cpu_ms(lambda: gradients(True, False, False)),
            cpu_ms(lambda: gradients(False, True, False)),
            cpu_ms(lambda: weight_gradient(x, gradient, kernel, stride)),  # noqa: B023
        )
        print(channels, height, width, kernel, stride, "|", *(f"{ms:.1f}" for ms in times))


if __name__ == "__main__":
    main()
