"""What keeping freed memory is worth on a CPU: the same work with and without, in turns, each in a process of its own.

    python benchmarks/allocation.py --rounds 3 --json allocation.json

Training steps on made-up crops, and class maps of made-up pixels in eager PyTorch; one thread, so that two can be run
beside each other. Out: seconds of a step or image (medians over rounds), peak memory of the process, and both as
ratios. See :mod:`refineseg.devices`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

WAYS = ("given_back", "kept")
WORK = (
    ("train", "refineseg_small", 288),
    ("train", "refineseg_nano", 288),
    ("train", "refineseg_lite0", 288),
    ("predict", "refineseg_small", 512),
    ("predict", "refineseg_small", 2048),
    ("predict", "refinenet_lw_mobilenetv2", 512),
    ("predict", "refinenet_lw_mobilenetv2", 1024),
)
"""What is done, on which network (11 classes), with crops (4:3) or images (square) of which height."""
_CALLS = 4


def training_step(variant: str, height: int) -> Callable[[], object]:
    """A whole step (forward, loss, backward, optimiser, average) on eight crops, as the CamVid recipes have it."""
    import numpy as np
    import torch

    from refineseg.data.crops.loading import Batch
    from refineseg.data.samples.catalog import catalog_classes
    from refineseg.preprocessing import Preprocessing
    from refineseg.segmenter import ModelSpec, Segmenter
    from refineseg.training.engine import Engine
    from refineseg.training.objective import Objective
    from refineseg.training.optim import set_rates
    from refineseg.training.recipes.table import find_recipe
    from refineseg.training.state import RunState

    config = find_recipe(f"camvid_{variant}")
    engine = Engine(config, device="cpu", say=print)
    segmenter = Segmenter(ModelSpec(variant, catalog_classes("camvid"), Preprocessing.imagenet(), config.network))
    engine.place(segmenter)
    state = RunState.new(segmenter, config)
    stepper = engine.stepper(state, Objective(segmenter, config, np.ones(11, np.int64)), "off")
    segmenter.train()
    set_rates(state.optimiser, config.phases[0], 1.0)
    size, count = (height, height * 4 // 3), 8
    images = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8)
    batch = Batch(images, torch.randint(0, 11, (count, *size)), tuple(map(str, range(count))))
    return lambda: stepper.step(batch)


def class_map(variant: str, height: int) -> Callable[[], object]:
    """The class map of one image."""
    import torch

    import refineseg
    from refineseg.runtimes.eager import TorchScorer

    scorer = TorchScorer(refineseg.build(variant, num_classes=11), device=torch.device("cpu"))
    images = torch.randint(0, 256, (1, 3, height, height), dtype=torch.uint8)
    return lambda: scorer.class_map(images)


def measure(way: str, kind: str, variant: str, height: int) -> None:
    """In the child: one line of JSON on stdout."""
    import torch

    from refineseg.devices import keep_freed_memory
    from refineseg.training import engine

    if way == "given_back":
        engine.keep_freed_memory = lambda: False  # training asks for it
    elif not keep_freed_memory():
        sys.exit("expected glibc, whose memory can be kept, got another C library")
    torch.set_num_threads(1)
    work = (training_step if kind == "train" else class_map)(variant, height)
    work()
    work()
    times = []
    for _ in range(_CALLS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": median(times), "peak_bytes": peak}))


def in_turns(rounds: int) -> list[dict[str, object]]:
    """Every piece of work in both ways, in turns."""
    rows: list[dict[str, object]] = []
    for kind, variant, height in WORK:
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for turn in range(rounds):
            for way in WAYS if turn % 2 == 0 else WAYS[::-1]:
                command = [sys.executable, __file__, "--child", way, kind, variant, str(height)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[way].append(json.loads(done.stdout.splitlines()[-1]))
        row: dict[str, object] = {"work": kind, "variant": variant, "height": height}
        for key in ("seconds", "peak_bytes"):
            row |= {f"{way}_{key}": median(result[key] for result in found[way]) for way in WAYS}
            ratios = [a[key] / b[key] for a, b in zip(*(found[way] for way in WAYS), strict=True)]
            row[f"{key}_given_back_over_kept"] = median(ratios)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, or be the process that is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child is not None:
        way, kind, variant, height = arguments.child
        measure(way, kind, variant, int(height))
        return
    rows = in_turns(arguments.rounds)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
