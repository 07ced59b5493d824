"""The training loop, readable from top to bottom.

In: a configuration, data sets, a folder. Out, in that folder: ``run.json``; after every epoch a line of
``metrics.jsonl``; once in a while and at the end ``checkpoint.pt``, ``best.safetensors`` and ``last.safetensors``; at
the end ``curves.png`` and ``metrics.json``.

Killed at any moment, a run goes on from its last checkpoint and ends with the same weights: the order of samples,
every random draw and the dropout of an epoch depend on nothing but seed and epoch number.

Several processes go through the same lines, each with its share of every batch. What happens is decided together or by
the first process (:mod:`refineseg.training.ranks`), which alone writes files.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from refineseg.data.crops.loading import mix_seeds
from refineseg.errors import CheckpointError, ConfigError, OutputError, ProcessError
from refineseg.evaluate.metrics import ConfusionMatrix
from refineseg.evaluate.reports import write_report
from refineseg.segmenter import Segmenter, load_spec
from refineseg.training import ranks
from refineseg.training.callbacks import Callbacks, EarlyStopping
from refineseg.training.checkpoint import load_checkpoint
from refineseg.training.config import Phase, TrainingConfig, to_json
from refineseg.training.distillation import teacher_facts
from refineseg.training.engine import Engine, Stepper
from refineseg.training.feeding import (
    Feed,
    PhaseData,
    TrainingData,
    default_workers,
    held,
    most_validation_bytes,
    steps_of_a_run,
    taught,
)
from refineseg.training.loggers import Loggers
from refineseg.training.measuring import Measure
from refineseg.training.objective import Objective
from refineseg.training.optim import check_statistics, freeze_statistics, let_statistics_follow, set_rates
from refineseg.training.pictures import write_pictures
from refineseg.training.progress import Progress
from refineseg.training.record import LossRecord, Measured, NotFinite, write_nan_batch
from refineseg.training.state import METRICS_FILE, RunState, append_metrics, how_to_resume, no_room
from refineseg.training.stopping import StoppedBySignal, StopSignals, TimeLimit, is_no_longer_better


def train(
    segmenter: Segmenter,
    config: TrainingConfig,
    data: TrainingData,
    folder: Path,
    *,
    device: str = "auto",
    num_workers: int | None = None,
    progress: Progress,
    log: Sequence[str] = (),
    stop_after_s: float | None = None,
    callbacks: Callbacks | None = None,
) -> Segmenter:
    """Train, and resume where ``folder`` holds a checkpoint of the same configuration.

    Args:
        segmenter: The model to start from; it is trained in place.
        config: Everything else that decides the result.
        data: Checked data sets.
        folder: Where results go.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        num_workers: Reading processes; None: none on a CPU, which computes longer than it reads, else up to 8.
        progress: Shows what happens.
        log: Where numbers go beside ``metrics.jsonl``, see :func:`~refineseg.training.loggers.open_logger`.
        stop_after_s: Seconds within which the last epoch of this call ends (one is always done); None: no limit.
        callbacks: What is called after each epoch, and may end the run.

    Returns:
        The last measured model; its ``provenance["epochs"]`` tells whether the run is complete.

    Raises:
        CheckpointError: The folder's checkpoint is of another configuration or damaged, the folder has no room, or the
            loss is no number.
        ConfigError: Nothing to stop by, or options that do not fit the machine: data held on the device, or a single
            crop, need more memory than there is.
        MissingExtraError: A logger's package is not installed.
        KeyboardInterrupt: Ctrl-C; the last checkpoint is intact. SIGTERM ends with ``SystemExit`` likewise.
    """
    _check_stopping(callbacks, data)
    limit = TimeLimit(stop_after_s)
    engine = Engine(config, device=device, say=progress.say)
    engine.place(segmenter)
    ranks.of_all(lambda: check_statistics(segmenter, config, [len(phase.dataset) for phase in data.phases]))
    let_statistics_follow(segmenter, steps_of_a_run(config, data))
    state = RunState.new(segmenter, config)
    checkpoint = _same_checkpoint(folder)
    if checkpoint is not None:
        state.restore(checkpoint, config, folder)
        progress.say(f"resuming after epoch {state.epoch} of {config.num_epochs}")
    elif ranks.is_first():
        (folder / METRICS_FILE).unlink(missing_ok=True)  # of epochs that a killed run never saved
    data = held(taught(data, config, engine.device, progress), config, engine.device, progress)
    workers = default_workers(engine.device) if num_workers is None else num_workers
    if workers == 0:  # worker processes would each fill a cache of their own, anew in every epoch
        data = data.cached(config)
    loggers = Loggers.open(log if ranks.is_first() else (), folder, to_json(config), done=state.epoch, say=progress.say)
    progress.start(config, [len(phase.dataset) for phase in data.phases], done=state.epoch)
    run = _Run(engine, state, config, data, folder, workers, progress, loggers, limit, callbacks or Callbacks())
    try:
        with StopSignals() as run.signals:
            matrix = run.all_epochs()
    except StoppedBySignal as stopped:
        saved = f"the checkpoint is of epoch {state.saved_epoch}" if state.saved_epoch else "no epoch had been saved"
        progress.ended(
            f"{stopped.name}: stopped in epoch {len(state.history) + 1}; {saved}; go on with: {how_to_resume(folder)}"
        )
        stopped.exit_like_it()
    finally:
        progress.stop()
        no_better = is_no_longer_better(state.history, config.patience)
        loggers.close(finished=no_better or state.epoch == config.num_epochs)
    if ranks.is_first():
        _write_report(folder, state, matrix)
    if no_better:
        progress.ended(f"stopped after epoch {state.epoch}: {config.patience} measurements in a row were not better")
    elif state.epoch < config.num_epochs:
        progress.ended(_unfinished(state.epoch, config, folder, asked=run.ended))
    if "epochs" not in state.measured.spec.provenance:  # the run was complete before; its file says where it comes from
        state.measured.with_provenance(load_spec(folder / "last.safetensors").provenance)
    return state.measured


def _check_stopping(callbacks: Callbacks | None, data: TrainingData) -> None:
    """Whether there is something to stop by.

    Raises:
        ConfigError: There is not.
    """
    stop = None if callbacks is None else callbacks.stop_when
    if isinstance(stop, EarlyStopping) and stop.metric == "mean_iou" and data.val is None:
        raise ConfigError(
            "expected validation images to stop by mean_iou, got none; give a validation split, or stop by "
            'metric="loss"'
        )


def _write_report(folder: Path, state: RunState, matrix: ConfusionMatrix | None) -> None:
    """Curves and the last measurement.

    Raises:
        CheckpointError: There is no room.
    """
    try:
        write_report(folder, state.history, matrix, protocol=state.segmenter.spec.provenance.get("protocol"))
    except OutputError as error:
        raise CheckpointError(no_room(folder, state.saved_epoch, error)) from error


def _same_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The checkpoint in the folder, which every process reads for itself.

    Raises:
        CheckpointError: It is damaged, or not every process sees it.
    """
    checkpoint = ranks.of_all(lambda: load_checkpoint(folder))
    epochs = ranks.gathered(None if checkpoint is None else checkpoint["epoch"])
    if len(set(epochs)) > 1:
        raise ranks.told_once(
            CheckpointError(
                f"expected one checkpoint in {folder} for all processes, got epochs {epochs}; give --out a folder that "
                "every machine shares"
            )
        )
    return checkpoint


def _unfinished(epoch: int, config: TrainingConfig, folder: Path, *, asked: bool) -> str:
    """What is said of a run that did not come to its last epoch."""
    return (
        f"{'asked to stop' if asked else 'the time is used up'}: stopped after epoch {epoch} of {config.num_epochs}, "
        f"which is saved; go on with: {how_to_resume(folder)}"
    )


class _Run:
    """The epochs of one call."""

    signals: StopSignals

    def __init__(
        self,
        engine: Engine,
        state: RunState,
        config: TrainingConfig,
        data: TrainingData,
        folder: Path,
        workers: int,
        progress: Progress,
        loggers: Loggers,
        limit: TimeLimit,
        callbacks: Callbacks,
    ) -> None:
        self._engine, self._state, self._config, self._data = engine, state, config, data
        self._folder, self._workers, self._progress, self._loggers = folder, workers, progress, loggers
        self._limit, self._callbacks = limit, callbacks
        self.ended = False  # by a callback
        max_bytes = most_validation_bytes(config, engine.device)
        self._measure = None if data.val is None else Measure(data.val, engine.device, max_bytes=max_bytes)
        self._steps: _PhaseSteps | None = None

    def all_epochs(self) -> ConfusionMatrix | None:
        """Until the last one, or until the time is used up; returns the last measurement."""
        state, config, matrix = self._state, self._config, None
        while state.epoch < config.num_epochs and not ranks.agreed(self._limit.is_up) and not self.ended:
            if is_no_longer_better(state.history, config.patience):
                break
            begun = time.monotonic()
            matrix = self._epoch() or matrix
            self._limit.epoch_took(time.monotonic() - begun)
        if state.saved_epoch < state.epoch:
            state.save(config, self._folder)
        if self._measure is not None and (matrix is None or "mean_iou" not in state.history[-1]):
            # resumed after the last epoch, or stopped after one that was not measured: the report is of the last model
            matrix = self._measured().matrix
        return matrix

    def _measured(self) -> Measured:
        """A measurement; of several processes, with other numbers of images, none is stopped before all are done."""
        assert self._measure is not None
        check = self.signals.check if ranks.size() == 1 else lambda: None
        measured = self._measure(self._state.measured.eval(), check=check)
        self.signals.check()
        return measured

    def _epoch(self) -> ConfusionMatrix | None:
        """One epoch with its measurement, files and checkpoint, in the order that makes a kill harmless."""
        state, config = self._state, self._config
        begun = time.monotonic()
        phase, epoch_in_phase = config.phase_of(state.epoch)
        mean_loss, images_per_s = self._learn(phase, epoch_in_phase)
        state.epoch += 1
        entry: dict[str, Any] = {
            "epoch": state.epoch,
            "loss": mean_loss,
            "images_per_s": images_per_s,
            **_rates(state.optimiser),
        }
        measured: Measured | None = None
        last = state.epoch == config.num_epochs
        if self._measure is not None and (last or state.epoch % config.val_every == 0):
            measured = self._measured()
            entry |= _numbers(measured.matrix)
        entry["seconds"] = time.monotonic() - begun
        state.complete(entry, self._provenance(entry))
        append_metrics(self._folder, entry, saved_epoch=state.saved_epoch)
        self._loggers.epoch(entry)
        if last or state.is_due(config.checkpoint_every_s):
            saving = time.monotonic()
            state.save(config, self._folder)
            if measured is not None and ranks.is_first():
                self._draw(measured)
            state.saving_s = time.monotonic() - saving
        self._progress.epoch_done(entry)
        self.ended = ranks.of_first(lambda: self._callbacks.epoch_done(state.history))
        return None if measured is None else measured.matrix

    def _draw(self, measured: Measured) -> None:
        """Pictures of some validation images, in the folder and for trackers."""
        try:
            write_pictures(self._folder, measured, self._state.epoch)
        except OutputError as error:
            raise CheckpointError(no_room(self._folder, self._state.saved_epoch, error)) from error
        self._loggers.pictures(self._state.epoch, measured)

    def _learn(self, phase: Phase, epoch_in_phase: int) -> tuple[float, float]:
        """One pass over the training data; returns mean loss and images per second."""
        state, config = self._state, self._config
        if self._steps is None or self._steps.phase is not phase:
            learned = self._data.phases[_index(config, phase)]
            self._steps = _PhaseSteps(self._engine, state, config, phase, learned, self._workers)
        batches = self._steps.feed.epoch(state.epoch)
        stepper = self._steps.stepper(phase.epochs - epoch_in_phase, self._limit.left_s)
        torch.manual_seed(mix_seeds(config.seed, state.epoch, 1 + ranks.rank()))  # dropout
        state.segmenter.train()
        if config.freeze_norm:
            freeze_statistics(state.segmenter.network.encoder)
        record = LossRecord(len(batches), self._engine.device)
        images, begun = 0, time.monotonic()
        for index, batch in enumerate(batches):
            self.signals.check()
            share = (index + 1) / len(batches)
            set_rates(state.optimiser, phase, epoch_in_phase + share)
            loss, norm = stepper.step(batch)
            record.add(loss, norm, batch.names)
            images += len(batch.names) * ranks.size()
            if share == 1 and epoch_in_phase + 1 < phase.epochs:
                self._steps.feed.prepare(state.epoch + 1)  # before the device is waited for
            if ranks.most(record.is_due) or share == 1:
                self._stop_on(record.read(), record.losses)
                self._progress.step(record.mean, images / (time.monotonic() - begun), share)
        seconds = time.monotonic() - begun
        self._steps.epoch_took(seconds)
        return record.mean, images / seconds

    def _stop_on(self, bad: NotFinite | None, losses: list[float]) -> None:
        """End the run where a loss is no number, and keep what shows why."""
        if bad is None:
            return
        names = [name for part in ranks.gathered(bad.names) for name in part]
        if not ranks.is_first():
            raise ProcessError
        epoch, saved = self._state.epoch + 1, self._state.saved_epoch
        intact = f"the checkpoint of epoch {saved} is intact" if saved else "no epoch had been saved yet"
        try:
            bad = replace(bad, names=tuple(names))
            path = write_nan_batch(self._folder, bad, epoch=epoch, losses=losses, rates=_rates(self._state.optimiser))
            written = f" (more in {path})"
        except OutputError:
            written = ""
        raise CheckpointError(
            f"the {bad.what} became {bad.value} in epoch {epoch} on {', '.join(names)} (step {bad.step}){written}; "
            f"{intact}: lower the learning rate, or look at these files"
        )

    def _provenance(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Where the weights of a model file come from."""
        device, config, teacher = self._engine.device, self._config, self._data.phases[0].teacher
        threads = f"CPU, {torch.get_num_threads()} threads"
        processes = f", {ranks.size()} processes" if ranks.size() > 1 else ""
        return {
            **self._state.segmenter.spec.provenance,
            "recipe": config.recipe,
            "config": to_json(config),
            "data": self._data.description,
            "started_from": str(self._state.segmenter.spec.provenance.get("started_from", "scratch")),
            "protocol": self._state.segmenter.spec.provenance.get("protocol"),
            **({} if teacher is None else {"teacher": teacher_facts(teacher.spec, str(config.teacher))}),
            "epochs": self._state.epoch,
            "seed": config.seed,
            "hardware": (torch.cuda.get_device_name(device) if device.type == "cuda" else threads) + processes,
            "torch": str(torch.__version__),
            "training_seconds": round(sum(e["seconds"] for e in self._state.history) + entry["seconds"], 1),
            "metrics": {"split": config.val_split, **{k: v for k, v in entry.items() if k != "seconds"}},
        }


class _PhaseSteps:
    """What the epochs of a phase share: reading processes, the loss, the compiled step."""

    def __init__(
        self, engine: Engine, state: RunState, config: TrainingConfig, phase: Phase, learned: PhaseData, workers: int
    ) -> None:
        self._engine, self._state, self.phase = engine, state, phase
        self.feed = Feed(learned, phase, config, workers=workers, device=engine.device)
        self._objective = Objective(
            state.segmenter, config, learned.pixel_counts, teacher=learned.teacher, unions=learned.unions
        )
        self._mode, self._epochs_s = engine.mode(phase, rest_s=None), list[float]()
        self._stepper = engine.stepper(state, self._objective, self._mode, equal_crops=phase.crops.pad)

    def epoch_took(self, seconds: float) -> None:
        """Note how long learning took."""
        self._epochs_s.append(seconds)

    def stepper(self, epochs_left: int, seconds_left: float) -> Stepper:
        """What computes the steps of the next epoch; compiled from the moment it pays."""
        if self._mode == "off" and len(self._epochs_s) > 1:  # the first one starts the device and tries algorithms
            rest_s = min(epochs_left * min(self._epochs_s[1:]), seconds_left)
            self._mode = self._engine.mode(self.phase, rest_s=rest_s)
            if self._mode != "off":
                self._stepper = self._engine.stepper(self._state, self._objective, self._mode)
        return self._stepper


def _index(config: TrainingConfig, phase: Phase) -> int:
    return next(index for index, candidate in enumerate(config.phases) if candidate is phase)


def _rates(optimiser: torch.optim.Optimizer) -> dict[str, float]:
    """Learning rates of the last step."""
    return {
        f"{part}_lr": max((g["lr"] for g in optimiser.param_groups if g["part"] == part), default=0.0)
        for part in ("decoder", "encoder")
    }


def _numbers(matrix: ConfusionMatrix) -> dict[str, Any]:
    """What is kept of a measurement for each epoch."""
    classes = zip(matrix.class_info.names, matrix.per_class_iou.tolist(), strict=True)
    return ({"one_class": True} if int((matrix.counts.sum(axis=1) > 0).sum()) == 1 else {}) | {
        "mean_iou": matrix.mean_iou,
        "pixel_accuracy": matrix.pixel_accuracy,
        "class_iou": {name: None if iou != iou else iou for name, iou in classes},
    }
