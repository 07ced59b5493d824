"""What a run is made of while it runs, and the files it leaves: models, checkpoint, ``metrics.jsonl``.

In: a model, a configuration. Out: :class:`RunState`, which knows how to be saved and restored. A kill at any moment
leaves files from which a run goes on: models are written before the checkpoint that knows of them, and lines of
``metrics.jsonl`` that are newer than the checkpoint are cut off when the run is resumed. Of several processes the first
one writes.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from refineseg.errors import CheckpointError, OutputError
from refineseg.files.writing import storing, written_beside
from refineseg.segmenter import Segmenter
from refineseg.training import ranks
from refineseg.training.checkpoint import save_checkpoint
from refineseg.training.config import TrainingConfig, from_json, to_json
from refineseg.training.optim import WeightAverage, make_optimiser
from refineseg.training.stopping import scores_of

METRICS_FILE = "metrics.jsonl"
_SAVINGS = 50
"""The time between two checkpoints that need not be longer, in times that saving takes: 2 % at most."""


@dataclass
class RunState:
    """Everything an epoch changes.

    Args:
        segmenter: The model that learns, on its device.
        optimiser: Optimiser of its parameters.
        average: Average of its weights; None: none.
        micro_batch: Most crops computed at a time; None: whole batches.
        epoch: Epochs completed.
        history: One entry for each of them.
        saved_epoch: The epoch of the last checkpoint.
        saving_s: Seconds that the last checkpoint took, with its models and pictures; 0 before the first.
    """

    segmenter: Segmenter
    optimiser: torch.optim.Optimizer
    average: WeightAverage | None
    micro_batch: int | None
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    saved_epoch: int = 0
    saving_s: float = 0.0
    _best: Segmenter | None = None  # a copy of the best model, where it is not yet in its file
    _saved_at: float = field(default_factory=time.monotonic)

    @classmethod
    def new(cls, segmenter: Segmenter, config: TrainingConfig) -> RunState:
        """At the beginning of a run; the model must be on its device."""
        average = None if config.ema_decay is None else WeightAverage(segmenter, config.ema_decay)
        return cls(segmenter, make_optimiser(segmenter, config), average, config.micro_batch)

    @property
    def measured(self) -> Segmenter:
        """The model that is measured and saved: the average of the weights, if there is one."""
        return self.segmenter if self.average is None else self.average.module

    def restore(self, checkpoint: dict[str, Any], config: TrainingConfig, folder: Path) -> None:
        """Go back to a checkpoint, and ``metrics.jsonl`` with it.

        Raises:
            CheckpointError: It is of another configuration, or the folder cannot be written.
        """
        if from_json(checkpoint["config"]) != config:
            raise CheckpointError(
                f"expected the checkpoint in {folder} to be of this configuration, but they differ; "
                "resume without other options, or train into another folder"
            )
        try:
            self.segmenter.network.load_state_dict(checkpoint["network"])
            self.optimiser.load_state_dict(checkpoint["optimiser"])
            if self.average is not None:
                self.average.load_state_dict(checkpoint["average"])
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"expected the state of this network in the checkpoint of {folder}, which holds another ({reason:.200})"
            ) from error
        self.epoch = self.saved_epoch = checkpoint["epoch"]
        self.history = checkpoint["history"]
        self.micro_batch = checkpoint.get("micro_batch", config.micro_batch)
        rewrite_metrics(folder, self.history)

    def complete(self, entry: dict[str, Any], provenance: Mapping[str, Any]) -> None:
        """Take note of a complete epoch; keeps a copy of the model if it is the best so far."""
        best = max(scores_of(self.history), default=-1.0)
        self.history.append(entry)
        measured = self.measured
        measured.spec = replace(measured.spec, provenance=provenance)
        if ranks.is_first() and max(scores_of([entry]), default=-1.0) > best:
            self._best = copy.deepcopy(measured)

    def is_due(self, every_s: float) -> bool:
        """Whether so many seconds have passed since the last checkpoint, or enough for saving to cost next to nothing.

        So the first epoch is saved, and where epochs take a second, few are lost. Several processes save after every
        epoch: the more there are, the sooner one is killed.
        """
        since = time.monotonic() - self._saved_at
        return ranks.size() > 1 or since >= min(every_s, _SAVINGS * self.saving_s)

    def save(self, config: TrainingConfig, folder: Path) -> None:
        """Write models and checkpoint of the last complete epoch.

        Raises:
            CheckpointError: There is no room; the checkpoint before is intact.
        """
        if ranks.is_first():
            self._write(config, folder)
        self.saved_epoch, self._saved_at = self.epoch, time.monotonic()

    def _write(self, config: TrainingConfig, folder: Path) -> None:
        try:
            if self._best is not None:
                self._best.save(folder / "best.safetensors")
                self._best = None
            self.measured.save(folder / "last.safetensors")
        except OutputError as error:
            raise CheckpointError(no_room(folder, self.saved_epoch, error)) from error
        content = {
            "config": to_json(config),
            "epoch": self.epoch,
            "history": self.history,
            "micro_batch": self.micro_batch,
            "network": self.segmenter.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }
        save_checkpoint(folder, content)


def no_room(folder: Path, saved_epoch: int, error: Exception) -> str:
    """What to say when a file cannot be written."""
    told = f"could not write into {folder} ({error})"
    if not saved_epoch:  # a run that began with this call is undone
        return f"{told}; no epoch had been saved yet: make room, then give the same command again"
    return f"{told}; the checkpoint of epoch {saved_epoch} is intact: make room, then {how_to_resume(folder)}"


def how_to_resume(folder: Path) -> str:
    """The command that goes on with a run."""
    return f"refineseg train --resume --out {folder}"


def rewrite_metrics(folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """``metrics.jsonl`` with one line for each of these epochs and no other.

    Raises:
        CheckpointError: It cannot be written.
    """
    if not ranks.is_first():
        return
    try:
        with written_beside(folder / METRICS_FILE) as temporary:
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in history), encoding="utf-8")
    except OutputError as error:
        raise CheckpointError(no_room(folder, len(history), error)) from error


def append_metrics(folder: Path, entry: Mapping[str, Any], *, saved_epoch: int) -> None:
    """One more line for ``metrics.jsonl``.

    Raises:
        CheckpointError: There is no room; the checkpoint of ``saved_epoch`` is intact.
    """
    if not ranks.is_first():
        return
    path = folder / METRICS_FILE
    try:
        with storing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    except OutputError as error:
        raise CheckpointError(no_room(folder, saved_epoch, error)) from error
