"""How fast bfloat16 convolutions are beside float32 in the installed PyTorch, forward and backward, in one thread.

    python benchmarks/bfloat16_convolutions.py

It imports nothing but PyTorch, so that it runs in an environment of any version. Layers are of the kinds and sizes of
``refineseg_lite0`` on eight crops of 288x384, channels last; one 3x3 convolution of 64 channels is beside them. Best of
the turns, in CPU milliseconds. With ``ONEDNN_MAX_CPU_ISA=AVX2`` in the environment it shows a processor without
bfloat16 instructions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

BATCH, TURNS = 8, 4
LAYERS = (  # in channels, out channels, height, width, kernel, groups
    (3, 32, 288, 384, 3, 1),
    (16, 96, 144, 192, 1, 1),
    (96, 96, 144, 192, 3, 96),
    (144, 40, 36, 48, 1, 1),
    (240, 240, 36, 48, 5, 240),
    (320, 64, 9, 12, 1, 1),
    (64, 64, 72, 96, 3, 1),
    (64, 256, 72, 96, 1, 1),
)


def best_ms(function: Callable[[], object]) -> float:
    """CPU milliseconds of the best turn, after one that does not count."""
    function()
    found = []
    for _ in range(TURNS):
        begun = time.process_time()
        function()
        found.append(1000 * (time.process_time() - begun))
    return min(found)


def main() -> None:
    """Print a row per layer, and the sums."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}")
    print(f"{'layer':34} {'float32':>16} {'bfloat16':>16} {'bfloat16 takes':>18}")
    sums: dict[tuple[torch.dtype, str], float] = {}
    for channels, out, height, width, kernel, groups in LAYERS:
        found = {}
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(BATCH, channels, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)
            weight = torch.randn(out, channels // groups, kernel, kernel, dtype=dtype)
            weight = weight.contiguous(memory_format=torch.channels_last).requires_grad_()
            x.requires_grad_()
            forward = partial(F.conv2d, x, weight, padding=kernel // 2, groups=groups)
            y = forward()
            backward = partial(y.backward, torch.randn_like(y), retain_graph=True)
            for way, function in (("forward", forward), ("backward", backward)):
                found[dtype, way] = best_ms(function)
                sums[dtype, way] = sums.get((dtype, way), 0.0) + found[dtype, way]
        kind = f"{channels} -> {out}, {kernel}x{kernel}" + (f", {groups} groups" if groups > 1 else "")
        print(_row(f"{kind}, {height}x{width}", found))
    print(_row("sum", sums))


def _row(name: str, found: dict[tuple[torch.dtype, str], float]) -> str:
    times = [found[dtype, way] for dtype in (torch.float32, torch.bfloat16) for way in ("forward", "backward")]
    ratios = f"{times[2] / times[0]:8.2f} {times[3] / times[1]:9.2f}"
    return f"{name:34} {times[0]:7.1f} {times[1]:8.1f} {times[2]:7.1f} {times[3]:8.1f} {ratios}"


if __name__ == "__main__":
    main()
