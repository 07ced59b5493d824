"""A schedule that ends on time: how many steps fit into a number of minutes, measured on this machine.

In: a model, a configuration, data sets, seconds. Out: the configuration with lengths in steps, fixed before training
begins, so that the rates end at zero, and a run that is killed and resumed ends with the same weights.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from refineseg.data.crops.loading import Batch
from refineseg.errors import ConfigError
from refineseg.networks.refinenet import count_parameters
from refineseg.predict.predictor import Predictor
from refineseg.predict.views.tiling import TilingOptions
from refineseg.segmenter import Segmenter
from refineseg.training import ranks
from refineseg.training.config import Phase, TrainingConfig
from refineseg.training.engine import Engine
from refineseg.training.feeding import Feed, TrainingData, default_workers, taught
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
_MEASURED_IMAGES = 3
_AVERAGED_SHARE = 0.1  # of all steps, over which the average of the weights reaches at most


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
    budget one for 10 to 20 minutes), and fewer where measuring after each would take more than a tenth of the time.

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
    step_s = [_step_s(model, config, data, index, engine, workers, most_s) for index in range(len(config.phases))]
    validation_s = _validation_s(model, data, engine)
    closing_s = _CLOSING_S + count_parameters(model) / _PARAMETERS_PER_S + _CLOSING_SHARE * budget.seconds
    del model
    available_s = budget.left_s - closing_s
    num_epochs = most_epochs = max(_MOST_EPOCHS, int(budget.seconds / _LONGEST_EPOCH_S))
    if validation_s:
        num_epochs = min(most_epochs, int(_VALIDATION_SHARE * available_s / validation_s))
    num_epochs = max(len(config.phases), num_epochs)
    samples = [len(phase.dataset) for phase in data.phases]
    fitted = _fitted(config, samples, step_s, available_s - num_epochs * validation_s, num_epochs)
    if fitted is not None and fitted.num_epochs > num_epochs:  # rounded up in several phases
        fitted = _fitted(config, samples, step_s, available_s - fitted.num_epochs * validation_s, num_epochs)
    fitted = ranks.agreed(fitted)
    if fitted is None:
        measured = f", a validation {validation_s:.1f} s" if validation_s else ""
        advice = ", or fewer validation images (--set val_split=null measures nothing)" if validation_s else ""
        raise ranks.told_once(
            ConfigError(
                f"expected a budget in which a step fits, got {budget.seconds:.0f} s, of which "
                f"{max(available_s, 0.0):.0f} s are left for training and validation; a step takes {max(step_s):.1f} s"
                f"{measured}; give more time, or choose smaller crops{advice}"
            )
        )
    steps = sum(phase.epochs * (phase.epoch_steps or 0) for phase in fitted.phases)
    progress.say(
        f"budget of {budget.seconds:.0f} s: {steps} steps of {sum(step_s) / len(step_s):.2f} s in {fitted.num_epochs} "
        f"epochs" + (f", {validation_s:.0f} s for each validation" if validation_s else "")
    )
    return fitted


def _fitted(
    config: TrainingConfig, num_samples: list[int], step_s: list[float], available_s: float, num_epochs: int
) -> TrainingConfig | None:
    """The phases at their new lengths; None: not one step of each fits."""
    planned = [
        phase.epochs * (phase.epoch_steps or _steps_of_a_pass(samples, phase))
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
    return replace(config, phases=tuple(phases), ema_decay=decay, val_every=1)


def _steps_of_a_pass(num_samples: int, phase: Phase) -> int:
    return num_samples // min(phase.batch_size, num_samples)


def _step_s(
    model: Segmenter,
    config: TrainingConfig,
    data: TrainingData,
    index: int,
    engine: Engine,
    workers: int,
    most_s: float,
) -> float:
    """Seconds of a step of a phase, reading included; the first one, in which kernels are chosen, does not count."""
    phase, learned = config.phases[index], data.phases[index]
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
    return (time.monotonic() - begun) / steps


def _validation_s(model: Segmenter, data: TrainingData, engine: Engine) -> float:
    """Seconds of a measurement of all validation images, which processes share; 0: there are none."""
    if data.val is None:
        return 0.0
    predictor = Predictor(model.eval(), device=str(engine.device), tiling=TilingOptions())
    images = [data.val[index].image for index in range(min(_MEASURED_IMAGES, len(data.val)))]
    predictor(images[0])
    begun = time.monotonic()
    for image in images:
        predictor(image)
    return (time.monotonic() - begun) / len(images) * len(ranks.share_of(len(data.val)))
