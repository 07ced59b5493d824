"""Training on a CPU in bfloat16: gradients of convolutions of single channels by kernel, and whole steps of networks.

``python benchmarks/convolution_gradients.py`` prints CPU milliseconds of one thread, the best of four in turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
import torch.nn.functional as F

import refineseg
from refineseg.devices import keep_freed_memory
from refineseg.training.gradients import faster_gradients

SHAPES = (  # of refineseg_lite0 on 288x384 crops: channels, height, width, kernel, stride
    (96, 144, 192, 3, 2),
    (144, 72, 96, 3, 1),
    (144, 72, 96, 5, 2),
    (240, 36, 48, 5, 1),
    (240, 36, 48, 3, 2),
    (480, 18, 24, 5, 1),
    (672, 18, 24, 5, 1),
    (672, 18, 24, 5, 2),
    (1152, 9, 12, 5, 1),
)
NETWORKS = ("refineseg_lite0", "refinenet_lw_mobilenetv2", "refinenet_lw:convnext_tiny")
BATCH, CLASSES, SIZE_HW = 8, 11, (288, 384)
CPU = torch.device("cpu")


def cpu_ms(functions: Mapping[str, Callable[[], object]], *, turns: int = 4) -> dict[str, float]:
    """CPU milliseconds of each function, the best of the turns after one that does not count."""
    best = dict.fromkeys(functions, float("inf"))
    for turn in range(turns + 1):
        for name, function in functions.items():
            begun = time.process_time()
            function()
            if turn:
                best[name] = min(best[name], 1e3 * (time.process_time() - begun))
    return best


def print_ratios(what: str, ms: Mapping[str, float]) -> None:
    """One row: the times, and the faster of PyTorch's own divided by ours."""
    ratio = min(ms["float32"], ms["bfloat16"]) / ms["ours"]
    print(f"| {what} | {ms['float32']:.1f} | {ms['bfloat16']:.1f} | {ms['ours']:.1f} | {ratio:.2f} |", flush=True)


def convolution(channels: int, height: int, width: int, kernel: int, stride: int) -> dict[str, float]:
    """Backward of one convolution: PyTorch's in both precisions, and ours in bfloat16."""
    functions: dict[str, Callable[[], object]] = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("ours", torch.bfloat16)):
        x = torch.randn(BATCH, channels, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)
        weight = torch.randn(channels, 1, kernel, kernel, dtype=dtype, requires_grad=True)
        y = F.conv2d(x.requires_grad_(), weight, None, stride, kernel // 2, 1, channels)
        gradient = torch.randn_like(y)

        def backward(ours: bool = name == "ours", y: torch.Tensor = y, gradient: torch.Tensor = gradient) -> None:
            with faster_gradients(CPU) if ours else nullcontext():
                y.backward(gradient, retain_graph=True)

        functions[name] = backward
    return cpu_ms(functions)


def network(variant: str) -> dict[str, float]:
    """A whole step with AdamW."""
    segmenter = refineseg.build(variant, num_classes=CLASSES).train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(segmenter.parameters(), 1e-5)
    images = torch.randint(0, 255, (BATCH, 3, *SIZE_HW), dtype=torch.uint8)
    masks = torch.randint(0, CLASSES, (BATCH, *SIZE_HW))

    def step(bf16: bool, ours: bool) -> None:
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = segmenter(images)
        loss = F.cross_entropy(F.interpolate(logits.float(), SIZE_HW, mode="bilinear"), masks)
        with faster_gradients(CPU) if ours else nullcontext():
            loss.backward()
        optimiser.step()

    ways = {"float32": (False, False), "bfloat16": (True, False), "ours": (True, True)}
    return cpu_ms({name: lambda way=way: step(*way) for name, way in ways.items()})


def main() -> None:
    """One row for each shape and each network."""
    torch.set_num_threads(1)
    keep_freed_memory()
    print(f"PyTorch {torch.__version__}")
    print("| what | float32 | bfloat16 | ours | ratio |\n| --- | ---: | ---: | ---: | ---: |")
    for channels, height, width, kernel, stride in SHAPES:
        what = f"{channels} channels, {kernel}x{kernel}, stride {stride}, {height}x{width}"
        print_ratios(what, convolution(channels, height, width, kernel, stride))
    for variant in NETWORKS:
        ms = network(variant)
        print_ratios(f"{variant}, a crop", {name: value / BATCH for name, value in ms.items()})


if __name__ == "__main__":
    main()
