"""The training loop, readable from top to bottom.

In: a configuration, data sets, a folder. Out, in that folder: ``run.json``, ``checkpoint.pt`` after every epoch,
``metrics.jsonl``, ``best.safetensors`` and ``last.safetensors``, ``curves.png`` and ``metrics.json``.

Killed at any moment, a run goes on from its last complete epoch: the order of samples, every random draw and the
dropout of an epoch depend on nothing but seed and epoch number.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch.utils.data import DataLoader

from refineseg.data.augment import Augmentation
from refineseg.data.loading import Batch, DecodedCache, mix_seeds, training_batches
from refineseg.data.resident import ResidentBatches, ResidentData, hold
from refineseg.data.sample import Dataset
from refineseg.errors import CheckpointError, ConfigError
from refineseg.evaluation import evaluate
from refineseg.metrics import ConfusionMatrix
from refineseg.predict.predictor import Predictor, find_device
from refineseg.reports import write_metrics, write_report
from refineseg.segmenter import Segmenter
from refineseg.training.checkpoint import load_checkpoint, save_checkpoint
from refineseg.training.config import Phase, TrainingConfig, from_json, to_json
from refineseg.training.objective import Objective
from refineseg.training.optim import (
    WeightAverage,
    clip_gradients,
    freeze_statistics,
    hardware_has_bf16,
    make_optimiser,
    set_rates,
)
from refineseg.training.progress import Progress


@dataclass
class _State:
    """Everything an epoch changes."""

    segmenter: Segmenter
    optimiser: torch.optim.Optimizer
    average: WeightAverage | None
    epoch: int = 0  # epochs completed
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def measured(self) -> Segmenter:
        """The model that is measured and saved: the average of the weights, if there is one."""
        model = self.segmenter if self.average is None else self.average.module
        return model

    def to_checkpoint(self, config: TrainingConfig) -> dict[str, Any]:
        return {
            "config": to_json(config),
            "epoch": self.epoch,
            "history": self.history,
            "network": self.segmenter.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def restore(self, checkpoint: dict[str, Any], config: TrainingConfig, folder: Path) -> None:
        if from_json(checkpoint["config"]) != config:
            raise CheckpointError(
                f"expected the checkpoint in {folder} to be of this configuration, but they differ; "
                "resume without other options, or train into another folder"
            )
        self.segmenter.network.load_state_dict(checkpoint["network"])
        self.optimiser.load_state_dict(checkpoint["optimiser"])
        if self.average is not None:
            self.average.load_state_dict(checkpoint["average"])
        self.epoch, self.history = checkpoint["epoch"], checkpoint["history"]


@dataclass(frozen=True)
class PhaseData:
    """What a phase learns from.

    Args:
        dataset: The training samples.
        pixel_counts: (K,) labelled training pixels of each class, from the label check.
        resident: The same samples in the device's memory; None: they are read and cut by the host.
    """

    dataset: Dataset
    pixel_counts: Any
    resident: ResidentData | None = None


@dataclass(frozen=True)
class TrainingData:
    """What a run learns from and is measured on.

    Args:
        phases: For each phase of the configuration, what it learns from.
        val: The validation samples; None: no validation.
        description: ``NAME:SPLIT`` of all of it, for the model file.
    """

    phases: tuple[PhaseData, ...]
    val: Dataset | None
    description: str

    def cached(self, max_bytes: int) -> TrainingData:
        """With decoded samples kept in memory, up to a number of bytes; phases of the same data share them."""
        different = {id(phase.dataset): phase.dataset for phase in self.phases}
        caches = {
            key: DecodedCache(dataset, max_bytes=max_bytes // len(different)) for key, dataset in different.items()
        }
        phases = (replace(phase, dataset=caches[id(phase.dataset)]) for phase in self.phases)
        return replace(self, phases=tuple(phases))


def train(
    segmenter: Segmenter,
    config: TrainingConfig,
    data: TrainingData,
    folder: Path,
    *,
    device: str = "auto",
    num_workers: int | None = None,
    progress: Progress,
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

    Returns:
        The last measured model.

    Raises:
        CheckpointError: The folder's checkpoint is of another configuration or damaged, or the loss is no number.
    """
    place = find_device(device)
    devices: Any = 1 if place.index is None else [place.index]
    fabric = Fabric(accelerator=place.type, devices=devices, precision=_precision(config, place))
    workers = _default_workers(fabric.device) if num_workers is None else num_workers
    fabric.to_device(segmenter)
    state = _State(
        segmenter,
        make_optimiser(segmenter, config),
        None if config.ema_decay is None else WeightAverage(segmenter, config.ema_decay),
    )
    checkpoint = load_checkpoint(folder)
    if checkpoint is not None:
        state.restore(checkpoint, config, folder)
        progress.say(f"resuming after epoch {state.epoch} of {config.num_epochs}")
    data = _held(data, config, fabric.device, progress)
    if workers == 0:  # worker processes would each fill a cache of their own, anew in every epoch
        data = data.cached(config.cache_mib << 20)
    progress.start(config, [len(phase.dataset) for phase in data.phases], done=state.epoch)
    matrix: ConfusionMatrix | None = None
    while state.epoch < config.num_epochs:
        matrix = _epoch(fabric, state, config, data, folder, workers, progress)
    if matrix is None and data.val is not None:  # resumed after the last epoch: only the report may be missing
        matrix = evaluate(Predictor(state.measured, device=str(fabric.device)), data.val)
    progress.stop()
    write_report(folder, state.history, matrix)
    return state.measured


def _precision(config: TrainingConfig, device: torch.device) -> Any:  # noqa: ANN401 - Fabric's literals
    """Fabric's name of the precision; ``auto`` is bf16 where the hardware computes in it."""
    bf16 = config.precision == "bf16" or (config.precision == "auto" and hardware_has_bf16(device))
    return "bf16-mixed" if bf16 else "32-true"


def _held(data: TrainingData, config: TrainingConfig, device: torch.device, progress: Progress) -> TrainingData:
    """With data held on the device, where the configuration wants it and they fit into half of its free memory."""
    if config.augment_on == "host" or (config.augment_on == "auto" and device.type != "cuda"):
        return data
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 2 * config.cache_mib << 20
    held: dict[int, ResidentData | None] = {}
    for phase in data.phases:
        if id(phase.dataset) not in held:
            held[id(phase.dataset)] = hold(phase.dataset, device=device, max_bytes=free // (2 * len(data.phases)))
    if config.augment_on == "device" and None in held.values():
        raise ConfigError(
            f"expected training data that fit into half of the {free >> 20} MiB free on {device} (augment_on device), "
            "got more, or images that are not RGB; say --set augment_on=host"
        )
    if None not in held.values():
        progress.say(f"training images are held and cut on {device}")
    return replace(data, phases=tuple(replace(phase, resident=held[id(phase.dataset)]) for phase in data.phases))


def _default_workers(device: torch.device) -> int:
    return 0 if device.type == "cpu" else min(8, torch.multiprocessing.cpu_count())


def _epoch(
    fabric: Fabric,
    state: _State,
    config: TrainingConfig,
    data: TrainingData,
    folder: Path,
    workers: int,
    progress: Progress,
) -> ConfusionMatrix | None:
    """One epoch with its measurement, files and checkpoint, in the order that makes a kill harmless."""
    begun = time.monotonic()
    mean_loss, images_per_s = _learn(fabric, state, config, data, workers, progress)
    state.epoch += 1
    entry: dict[str, Any] = {
        "epoch": state.epoch,
        "loss": mean_loss,
        "images_per_s": images_per_s,
        "decoder_lr": max(g["lr"] for g in state.optimiser.param_groups if g["part"] == "decoder"),
    }
    matrix: ConfusionMatrix | None = None
    measured = state.measured.eval()
    last = state.epoch == config.num_epochs
    if data.val is not None and (last or state.epoch % config.val_every == 0):
        with fabric.autocast():
            matrix = evaluate(Predictor(measured, device=str(fabric.device)), data.val)
        entry |= {"mean_iou": matrix.mean_iou, "pixel_accuracy": matrix.pixel_accuracy}
    best = max((e["mean_iou"] for e in state.history if "mean_iou" in e), default=-1.0)
    entry["seconds"] = time.monotonic() - begun
    state.history.append(entry)
    measured.spec = replace(
        measured.spec, provenance=_provenance(config, data, state, fabric.device, started=_origin(state))
    )
    if matrix is not None and matrix.mean_iou > best:
        measured.save(folder / "best.safetensors")
    measured.save(folder / "last.safetensors")
    write_metrics(folder, state.history)
    save_checkpoint(folder, state.to_checkpoint(config))
    progress.epoch_done(entry)
    return matrix


def _origin(state: _State) -> str:
    """What the weights started from, noted before training."""
    return str(state.segmenter.spec.provenance.get("started_from", "scratch"))


def _provenance(
    config: TrainingConfig, data: TrainingData, state: _State, device: torch.device, *, started: str
) -> dict[str, Any]:
    """Where the weights of a model file come from."""
    hardware = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    )
    return {
        "recipe": config.recipe,
        "config": to_json(config),
        "data": data.description,
        "started_from": started,
        "epochs": state.epoch,
        "seed": config.seed,
        "hardware": hardware,
        "torch": str(torch.__version__),
        "training_seconds": round(sum(e["seconds"] for e in state.history), 1),
        "metrics": {"split": config.val_split, **{k: v for k, v in state.history[-1].items() if k != "seconds"}},
    }


def _learn(
    fabric: Fabric,
    state: _State,
    config: TrainingConfig,
    data: TrainingData,
    workers: int,
    progress: Progress,
) -> tuple[float, float]:
    """One pass over the training data; returns mean loss and images per second."""
    phase, epoch_in_phase = config.phase_of(state.epoch)
    learned = data.phases[config.phases.index(phase)]
    objective = Objective(state.segmenter, config, learned.pixel_counts)
    torch.manual_seed(mix_seeds(config.seed, state.epoch, 1))  # dropout
    augmentation, place = _augmentation(phase, config), {"seed": config.seed, "epoch": state.epoch}
    batches: ResidentBatches | DataLoader[Batch]
    if learned.resident is not None:
        batches = learned.resident.batches(augmentation, batch_size=phase.batch_size, **place)
    else:
        batches = training_batches(
            learned.dataset, augmentation, batch_size=phase.batch_size, num_workers=workers, **place
        )
    state.segmenter.train()
    if config.freeze_norm:
        freeze_statistics(state.segmenter.network.encoder)
    step = _stepper(fabric, state, config, objective)
    total, images, begun = torch.zeros((), device=fabric.device), 0, time.monotonic()
    for index, batch in enumerate(batches):
        set_rates(state.optimiser, phase, epoch_in_phase + (index + 1) / len(batches))
        total += step(batch, phase)
        images += len(batch.names)
        progress.step(float(total) / (index + 1), images / (time.monotonic() - begun), (index + 1) / len(batches))
    return float(total) / len(batches), images / (time.monotonic() - begun)


def _augmentation(phase: Phase, config: TrainingConfig) -> Augmentation:
    return Augmentation(
        phase.crop_hw,
        phase.scale,
        flip=config.flip,
        colour=config.colour,
        scale_step=phase.scale_step,
        short_side=phase.short_side,
        smallest_side=phase.smallest_side,
        crop_centre=phase.crop_centre,
        pad=phase.pad,
    )


def _stepper(
    fabric: Fabric, state: _State, config: TrainingConfig, objective: Objective
) -> Callable[[Batch, Phase], torch.Tensor]:
    """One optimiser step on one batch; returns its loss."""

    def step(batch: Batch, phase: Phase) -> torch.Tensor:
        images, masks = fabric.to_device((batch.images, batch.masks))
        with fabric.autocast():
            value = objective(images, masks).mean
        if not torch.isfinite(value.detach()):
            raise CheckpointError(
                f"the loss became {float(value.detach())} in epoch {state.epoch + 1} on {', '.join(batch.names)}; "
                "the last checkpoint is intact: lower the learning rate, or look at these files"
            )
        state.optimiser.zero_grad(set_to_none=True)
        fabric.backward(value)
        clip_gradients(state.segmenter, config.clip_norm)
        state.optimiser.step()
        if state.average is not None:
            state.average.update()
        return value.detach()

    return step
