"""A schedule that ends on time: how many steps fit into a number of minutes, measured on this machine.

In: a model, a configuration, data sets, seconds. Out: the configuration with lengths in steps, fixed before training
begins, so that the rates end at zero, and a run that is killed and resumed ends with the same weights.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from refineseg.data.crops.loading import Batch, DecodedCache, memory_of
from refineseg.data.samples.sample import Dataset, image_header
from refineseg.data.samples.views import Subset, evenly_spread
from refineseg.errors import ConfigError
from refineseg.networks.refinenet import count_parameters
from refineseg.segmenter import Segmenter
from refineseg.training import ranks
from refineseg.training.config import TrainingConfig
from refineseg.training.engine import Engine
from refineseg.training.feeding import (
    Feed,
    TrainingData,
    default_workers,
    host_cache,
    most_validation_bytes,
    steps_of_an_epoch,
    taught,
)
from refineseg.training.measuring import MOST_WHOLE_PIXELS, Measure
from refineseg.training.objective import Objective
from refineseg.training.optim import set_rates
from refineseg.training.progress import Progress
from refineseg.training.request import Budget
from refineseg.training.state import RunState

_VALIDATION_SHARE = 0.1
_MOST_EPOCHS = 10  # each with a measurement, a line of metrics and perhaps a checkpoint
_LONGEST_EPOCH_S = 600.0  # of a long budget, because a run is saved when an epoch ends
_CLOSING_S, _CLOSING_SHARE = 2.0, 0.02  # the last files, and what a step may take longer than measured
_PARAMETERS_PER_S = 20e6  # written at the end, as two models and a checkpoint; 21 million on a local disk
_MEASURED_SHARE, _FEWEST_STEPS, _MOST_STEPS = 0.03, 3, 20
_MEASURED_IMAGES, _LOOKED_AT = 3, 50
_AVERAGED_SHARE = 0.1  # of all steps, over which the average of the weights reaches at most


class _StepCost(NamedTuple):
    """Seconds of a step, and of one of the first pass, which reads what later ones find in memory; steps of a pass."""

    each_s: float
    first_s: float
    pass_steps: float

    def mean_s(self, available_s: float) -> float:
        """Seconds of a step on average, of as many as fit into a time."""
        within = available_s / self.first_s  # steps, if all were of the first pass
        beyond = (available_s - self.pass_steps * (self.first_s - self.each_s)) / self.each_s
        return available_s / max(within, beyond)


def fit_to_budget(
    segmenter: Segmenter,
    config: TrainingConfig,
    data: TrainingData,
    budget: Budget,
    *,
    device: str,
    num_workers: int | None,
    progress: Progress,
) -> TrainingConfig:
    """Measure steps and validation, and fix the length of every phase.

    Phases keep their shares of the time, and warm-up its share of a phase. There are at most ten epochs (of a long
    budget one for 10 to 20 minutes). There are fewer, or some are not measured, where measuring after each would take
    more than a tenth of the time.

    Args:
        segmenter: The model to start from; it stays as it is.
        config: Configuration of the run; the lengths of its phases say how the time is shared out.
        data: Checked data sets.
        budget: Time there is.
        device: As for training.
        num_workers: Reading processes; None: chosen.
        progress: Shows what was found.

    Raises:
        ConfigError: The time is over before a step fits.
    """
    engine = Engine(config, device=device, say=progress.say)
    model = copy.deepcopy(segmenter)
    engine.place(model)
    workers = default_workers(engine.device) if num_workers is None else num_workers
    data = taught(data, config, engine.device, progress)
    most_s = max(1.0, _MEASURED_SHARE * budget.seconds)
    costs = [_step_cost(model, config, data, index, engine, workers, most_s) for index in range(len(config.phases))]
    validation_s, holding_s = _validation_cost(model, config, data, engine, most_s)
    closing_s = _CLOSING_S + count_parameters(model) / _PARAMETERS_PER_S + _CLOSING_SHARE * budget.seconds
    del model
    available_s = budget.left_s - closing_s - holding_s
    if data.val is not None and 0 < _VALIDATION_SHARE * available_s < validation_s:
        config, validation_s = _with_fewer_images(config, len(data.val), validation_s, available_s, progress)
    num_epochs = most_epochs = max(_MOST_EPOCHS, int(budget.seconds / _LONGEST_EPOCH_S))
    if validation_s:
        num_epochs = min(most_epochs, int(_VALIDATION_SHARE * available_s / validation_s))
    measured = max(1, num_epochs)
    num_epochs = max(len(config.phases), measured, min(most_epochs, int(available_s / _LONGEST_EPOCH_S)))
    config = replace(config, val_every=-(-num_epochs // measured))
    samples = [len(phase.dataset) for phase in data.phases]
    fitted: TrainingConfig | None = None
    for _ in range(2):  # epochs may be rounded up in several phases
        epochs = num_epochs if fitted is None else max(num_epochs, fitted.num_epochs)
        learning_s = available_s - -(-epochs // config.val_every) * validation_s
        step_s = _mean_steps_s(config, samples, costs, learning_s)
        fitted = _fitted(config, samples, step_s, learning_s, num_epochs)
    fitted = ranks.agreed(fitted)
    if fitted is None:
        validation = f", a validation {validation_s:.1f} s" if validation_s else ""
        advice = ", or fewer validation images (--set val_split=null measures nothing)" if validation_s else ""
        raise ranks.told_once(
            ConfigError(
                f"expected a budget in which a step fits, got {budget.seconds:.0f} s, of which "
                f"{max(available_s, 0.0):.0f} s are left for training and validation; a step takes {max(step_s):.1f} s"
                f"{validation}; give more time, or choose smaller crops{advice}"
            )
        )
    steps = sum(phase.epochs * (phase.epoch_steps or 0) for phase in fitted.phases)
    progress.say(
        f"budget of {budget.seconds:.0f} s: {steps} steps of {sum(step_s) / len(step_s):.2f} s in {fitted.num_epochs} "
        f"epochs" + (f", {validation_s:.0f} s for each validation" if validation_s else "")
    )
    return fitted


def _mean_steps_s(
    config: TrainingConfig, num_samples: list[int], costs: list[_StepCost], available_s: float
) -> list[float]:
    """Seconds of a step of each phase on average, where phases keep their shares of the time."""
    if available_s <= 0:
        return [cost.first_s for cost in costs]
    planned_s = [
        phase.epochs * steps_of_an_epoch(phase, samples) * cost.each_s
        for phase, samples, cost in zip(config.phases, num_samples, costs, strict=True)
    ]
    return [cost.mean_s(available_s * seconds / sum(planned_s)) for cost, seconds in zip(costs, planned_s, strict=True)]


def _with_fewer_images(
    config: TrainingConfig, total: int, validation_s: float, available_s: float, progress: Progress
) -> tuple[TrainingConfig, float]:
    """The configuration that measures so few images that one measurement takes a tenth of the time, and its seconds."""
    few = min(total, max(1, int(total * _VALIDATION_SHARE * available_s / validation_s)))
    if few < total:
        progress.say(
            f"measuring all {total} validation images would take {validation_s:.0f} s, more than a tenth of the time, "
            "so fewer are measured; `refineseg evaluate` measures all"
        )
    return replace(config, val_images=few), validation_s * few / total


def _fitted(
    config: TrainingConfig, num_samples: list[int], step_s: list[float], available_s: float, num_epochs: int
) -> TrainingConfig | None:
    """The phases at their new lengths; None: not one step of each fits."""
    planned = [
        phase.epochs * steps_of_an_epoch(phase, samples)
        for phase, samples in zip(config.phases, num_samples, strict=True)
    ]
    planned_s = [steps * seconds for steps, seconds in zip(planned, step_s, strict=True)]
    factor = available_s / sum(planned_s)
    phases = []
    for phase, steps, seconds in zip(config.phases, planned, planned_s, strict=True):
        wanted = int(steps * factor)
        if wanted < 1:
            return None
        most = max(1, min(wanted, round(num_epochs * seconds / sum(planned_s))))
        # of equal epochs, as many steps as possible
        epochs = max(range((most + 1) // 2, most + 1), key=lambda number: (wanted // number * number, number))
        warmup = phase.warmup_epochs / phase.epochs * epochs
        phases.append(replace(phase, epochs=epochs, epoch_steps=wanted // epochs, warmup_epochs=warmup))
    total = sum(phase.epochs * (phase.epoch_steps or 0) for phase in phases)
    decay = config.ema_decay
    if decay is not None:
        decay = min(decay, max(0.5, 1 - 1 / max(_AVERAGED_SHARE * total, 1.0)))
    return replace(config, phases=tuple(phases), ema_decay=decay)


def _step_cost(
    model: Segmenter,
    config: TrainingConfig,
    data: TrainingData,
    index: int,
    engine: Engine,
    workers: int,
    most_s: float,
) -> _StepCost:
    """What a step of a phase takes; the first one, in which kernels are chosen, does not count."""
    phase, learned = config.phases[index], data.phases[index]
    count, size = len(learned.dataset), min(phase.batch_size, len(learned.dataset))
    read_s = again_s = 0.0
    if workers == 0:  # training decodes what its cache holds once, so reading is timed apart
        some = DecodedCache(Subset(learned.dataset, evenly_spread(count, size)), max_bytes=1 << 62)
        room = host_cache(config) // len({id(phase.dataset) for phase in data.phases})
        begun, used, held_bytes = time.monotonic(), 0, 0
        while used < size and held_bytes <= room:  # large images do not take more memory than training lets them
            held_bytes += memory_of(some[used])
            used += 1
        each_read_s = (time.monotonic() - begun) / used
        read_s = each_read_s * size / ranks.size() * (1 + phase.crops.copy_paste)  # which reads other samples as well
        again_s = read_s * max(0.0, 1 - room / max(1.0, held_bytes / used * count))
        learned = replace(learned, dataset=Subset(some, [number % used for number in range(size)]))
    feed_phase = replace(phase, epoch_steps=1 + _MOST_STEPS)  # one epoch: beginning another would count
    feed = Feed(learned, feed_phase, config, workers=workers, device=engine.device)
    state = RunState.new(model, config)
    objective = Objective(model, config, learned.pixel_counts, teacher=learned.teacher, unions=learned.unions)
    stepper = engine.stepper(state, objective, "off", equal_crops=phase.crops.pad)
    batches: Iterator[Batch] = iter(feed.epoch(0))
    model.train()
    set_rates(state.optimiser, phase, 0.0)
    float(stepper.step(next(batches))[0])
    begun, steps = time.monotonic(), 0
    for batch in islice(batches, _MOST_STEPS):
        float(stepper.step(batch)[0])  # a GPU is waited for
        steps += 1
        if ranks.most(steps >= _FEWEST_STEPS and time.monotonic() - begun > most_s):
            break
    step_s = (time.monotonic() - begun) / steps
    # each process reads what its crops are cut from, in the end nearly all samples
    pass_steps = count / size * ranks.size() / (1 + phase.crops.copy_paste)
    return _StepCost(step_s + again_s, step_s + read_s, pass_steps)


def _validation_cost(
    model: Segmenter, config: TrainingConfig, data: TrainingData, engine: Engine, most_s: float
) -> tuple[float, float]:
    """Seconds of a measurement of all validation images, which processes share, and of reading those that are held.

    A few images stand for all of them. They are evenly spread, because sizes may differ.
    """
    if data.val is None:
        return 0.0, 0.0
    count, max_bytes = len(data.val), most_validation_bytes(config, engine.device)
    some = Subset(data.val, evenly_spread(count, _MEASURED_IMAGES * ranks.size()))
    pixels, pixels_of_some = _pixels(data.val), _pixels(some)
    ratio = statistics.mean(pixels) / statistics.mean(pixels_of_some) if pixels and pixels_of_some else 1.0
    ratio *= len(ranks.share_of(count)) / max(1, len(ranks.share_of(len(some))))
    if max(pixels, default=0) > MOST_WHOLE_PIXELS:
        max_bytes = 0  # one such image, and training reads all of them at each measurement
    begun = time.monotonic()
    measure = Measure(some, engine.device, max_bytes=max_bytes * len(some) // count)
    once_s = time.monotonic() - begun if measure.is_held else 0.0
    begun = time.monotonic()
    measure(model.eval())
    each_s = time.monotonic() - begun
    if not ranks.most(each_s > most_s):  # the first time is longer than the next ones
        begun = time.monotonic()
        measure(model)
        each_s = time.monotonic() - begun
    return each_s * ratio, once_s * ratio


def _pixels(dataset: Dataset) -> list[int]:
    """Pixels of some images, which are not decoded; empty if the size of one is not known so."""
    headers = [image_header(dataset, index) for index in evenly_spread(len(dataset), _LOOKED_AT)]
    return [] if None in headers else [math.prod(header[0]) for header in headers if header is not None]
