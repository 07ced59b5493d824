"""Time of the Lovasz loss, forward and backward, beside the published algorithm, which sorts the pixels.

    ./dev python benchmarks/lovasz.py --threads 1

Batches of 8; probabilities and masks are smooth and random. Freed memory is kept, as in training. Both take turns; the
medians are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from refineseg.devices import keep_freed_memory
from refineseg.training.losses import lovasz_loss

SHAPES = ((2, 320, 320), (4, 256, 256), (11, 352, 480), (40, 288, 384))
VOID = 255


def sorted_lovasz(probabilities: Tensor, masks: Tensor) -> Tensor:
    """One loss for each row, by sorting (algorithm 1 of Berman et al., classes that are present)."""
    losses = []
    for chances, truth in zip(probabilities, masks, strict=True):
        of_classes = []
        for c in truth.unique():
            is_class = truth == c
            errors, order = (is_class.float() - chances[c]).abs().sort(descending=True)
            own = is_class[order]
            size = own.sum()
            jaccard = 1 - (size - own.cumsum(0)) / (size + (~own).cumsum(0))
            growth = torch.cat((jaccard[:1], jaccard[1:] - jaccard[:-1]))
            of_classes.append(errors @ growth)
        losses.append(torch.stack(of_classes).mean())
    return torch.stack(losses)


def main() -> None:
    """A line for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "sorted": sorted_lovasz,
        "counted": lambda probabilities, masks: lovasz_loss(probabilities, masks, ignore_index=VOID),
    }
    print("| classes | pixels | sorted, ms | counted, ms | ratio | difference |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for classes, height, width in SHAPES:
        coarse = torch.randn(2, 8, classes, height // 32, width // 32)
        logits, truth = (F.interpolate(x, (height, width), mode="bilinear").flatten(2) for x in coarse)
        masks, logits = truth.argmax(1), (4 * logits).requires_grad_()
        seconds: dict[str, list[float]] = {name: [] for name in losses}
        values = {}
        for _ in range(arguments.repeats + 1):
            for name, loss in losses.items():
                probabilities = logits.softmax(1)
                begun = time.perf_counter()
                value = loss(probabilities, masks).sum()
                torch.autograd.grad(value, probabilities)
                seconds[name].append(time.perf_counter() - begun)
                values[name] = float(value.detach()) / len(masks)
        slow, fast = (1000 * statistics.median(seconds[name][1:]) for name in losses)
        difference = abs(values["sorted"] - values["counted"])
        print(f"| {classes} | {height}x{width} | {slow:.0f} | {fast:.0f} | {slow / fast:.1f} | {difference:.1e} |")


if __name__ == "__main__":
    main()
