"""How fast a recipe trains: the loader alone, the network alone, and both together, in turns in one run.

In: a configuration, data, a device. Out: images per second of each, and what share of the network's speed the loader
costs. *Network* is a whole step (forward, loss, backward, optimiser, average) on one batch that lies on the device.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from rich import box
from rich.table import Table
from rich.text import Text

from refineseg.bench.benchmark import BenchReport
from refineseg.bench.timing import describe_machine
from refineseg.data.datasets import open_dataset, parse_sources
from refineseg.data.readers.transfer import joined_for_training
from refineseg.errors import ConfigError
from refineseg.networks.building import preprocessing_of
from refineseg.networks.model_spec import ModelSpec
from refineseg.networks.variants import find_variant
from refineseg.segmenter import Segmenter
from refineseg.terminal.printing import Terminal
from refineseg.training.config import TrainingConfig
from refineseg.training.crop_size import fit_crops, fit_input
from refineseg.training.engine import Engine, Stepper
from refineseg.training.feeding import Feed, PhaseData, TrainingData, default_workers, held, taught
from refineseg.training.objective import Objective
from refineseg.training.optim import set_rates
from refineseg.training.progress import TerminalProgress
from refineseg.training.state import RunState

ROUNDS = 5
ROUND_S = 3.0
"""About how long the network works in a round."""
WAYS = ("loader", "network", "together")


@dataclass(frozen=True)
class PhaseSpeed:
    """What was measured of a phase.

    Args:
        phase: Its number, from 1.
        crop: ``HEIGHTxWIDTH``.
        batch_size: Crops per step.
        steps: In each round.
        rates: Images per second of each round. ``loader``: batches are made, and nothing is done with them;
            ``network``: steps on one batch again and again; ``together``: as in training.
    """

    phase: int
    crop: str
    batch_size: int
    steps: int
    rates: Mapping[str, Sequence[float]]

    def images_per_s(self, way: str) -> float:
        """Median over the rounds."""
        return float(np.median(self.rates[way]))

    @property
    def loader_costs(self) -> float:
        """Share of the network's speed that is lost to the loader: median over the rounds."""
        pairs = zip(self.rates["together"], self.rates["network"], strict=True)
        return float(np.median([1 - both / alone for both, alone in pairs]))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "phase": self.phase,
            "crop": self.crop,
            "batch_size": self.batch_size,
            "steps": self.steps,
            **{f"{way}_images_per_s": self.images_per_s(way) for way in WAYS},
            "loader_costs": self.loader_costs,
            "rounds": {way: list(self.rates[way]) for way in WAYS},
        }


def bench_training(
    config: TrainingConfig,
    data: str,
    *,
    device: str = "auto",
    num_workers: int | None = None,
    rounds: int | None = None,
    console: Terminal,
) -> BenchReport:
    """Measure the phases of a configuration; those of equal crops and batches once.

    Args:
        config: What would be trained; ``compile`` = ``auto`` compiles nothing here.
        data: ``NAME:ROOT``, or several joined by ``+``.
        device: ``auto``, ``cpu``, ``cuda``, ...
        num_workers: Reading processes; None: as in training.
        rounds: How many; None: :data:`ROUNDS`.
        console: For messages.

    Raises:
        ConfigError: Wrong options, or less memory than is needed.
        DatasetError: Data that cannot be read.
    """
    rounds = ROUNDS if rounds is None else rounds
    if rounds < 1:
        raise ConfigError(f"expected at least one round, got {rounds}")
    find_variant(config.variant)
    progress = TerminalProgress(console)
    sources = parse_sources(data)
    parts = [open_dataset(name, root, split=config.train_split) for name, root in sources.items()]
    dataset, unions = joined_for_training(parts)
    config = fit_crops(fit_input(config, dataset, progress), dataset, progress)
    engine = Engine(config, device=device, say=progress.say)
    workers = default_workers(engine.device) if num_workers is None else num_workers
    learned = PhaseData(dataset, np.ones(dataset.class_info.num_classes, np.int64), unions=unions)
    whole = TrainingData((learned,) * len(config.phases), None, data)
    whole = whole.reduced(config.input_scale)
    whole = held(taught(whole, config, engine.device, progress), config, engine.device, progress)
    if workers == 0:
        whole = whole.cached(config)
    torch.manual_seed(config.seed)
    preprocessing = replace(preprocessing_of(config.variant), input_scale=config.input_scale or 1.0)
    spec = ModelSpec(config.variant, dataset.class_info, preprocessing, config.network)
    segmenter = Segmenter(spec)
    engine.place(segmenter)
    state = RunState.new(segmenter, config)
    speeds: list[PhaseSpeed] = []
    seen: set[tuple[tuple[int, int], int]] = set()
    for number, (phase, learned) in enumerate(zip(config.phases, whole.phases, strict=True), 1):
        if (phase.crops.crop_hw, phase.batch_size) not in seen:
            seen.add((phase.crops.crop_hw, phase.batch_size))
            feed = Feed(learned, phase, config, workers=workers, device=engine.device)
            counts = np.ones(dataset.class_info.num_classes, np.int64)  # weights of classes take no time
            objective = Objective(state.segmenter, config, counts, teacher=learned.teacher, unions=learned.unions)
            mode = engine.mode(phase, rest_s=None)
            stepper = engine.stepper(state, objective, mode, equal_crops=phase.crops.pad)
            state.segmenter.train()
            set_rates(state.optimiser, phase, phase.epochs / 2)
            found, steps = _measure(engine.device, stepper, feed, rounds)
            crop = f"{phase.crops.crop_hw[0]}x{phase.crops.crop_hw[1]}"
            speeds.append(PhaseSpeed(number, crop, phase.batch_size, steps, found))
    read = f"read by {workers} processes" if workers else "read in this process"
    where = read if whole.phases[0].resident is None else "held and cut on the device"
    return BenchReport(
        [speed.to_json() for speed in speeds],
        {**describe_machine(engine.device), "crops": where, "variant": config.variant},
        _table(speeds, f"{config.recipe} on {data}, {config.variant}, crops {where}"),
    )


def _measure(device: torch.device, stepper: Stepper, feed: Feed, rounds: int) -> tuple[dict[str, list[float]], int]:
    """All ways of one phase in turns, and the steps of a round; which is first changes from round to round."""
    epoch = 0

    def rate(way: str, steps: int) -> float:
        nonlocal epoch
        epoch += 1
        images, begun = 0, time.perf_counter()
        if way == "network":
            for _ in range(steps):
                stepper.step(first)
            images = steps * len(first.names)
        else:
            for batch in islice(feed.epoch(epoch), steps):
                images += len(batch.names)
                if way == "together":
                    stepper.step(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return images / (time.perf_counter() - begun)

    found = next(iter(feed.epoch(0)))
    first = type(found)(found.images.to(device), found.masks.to(device), found.names)
    for _ in range(4 if device.type == "cuda" else 2):  # compiles, chooses algorithms, records CUDA graphs
        stepper.step(first)
    step_s = len(first.names) / rate("network", 1)
    steps = max(1, min(len(feed.epoch(0)), round(ROUND_S / step_s)))
    rate("together", steps)  # the cache of decoded images fills
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(rounds):
        for shift in range(len(WAYS)):
            way = WAYS[(turn + shift) % len(WAYS)]
            rates[way].append(rate(way, steps))
    return rates, steps


def _table(speeds: Sequence[PhaseSpeed], title: str) -> Table:
    table = Table("phase", "crops", "batch", title=title, title_justify="left", box=box.SIMPLE)
    for name in ("loader alone\nimages/s", "network alone\nimages/s", "together\nimages/s", "loader costs"):
        table.add_column(Text(name), justify="right")
    for speed in speeds:
        medians = [f"{speed.images_per_s(way):.1f}" for way in WAYS]
        table.add_row(
            str(speed.phase), speed.crop, str(speed.batch_size), *medians, f"{100 * speed.loader_costs:.1f} %"
        )
    return table
