"""Checkpoints: the full state after an epoch, written so that a kill at any moment leaves the last complete one.

In and out: a dict of tensors and plain values; files are read back without running code in them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from refineseg.errors import CheckpointError, ModelFileError, OutputError
from refineseg.files.writing import written_beside
from refineseg.networks.weight_files import check_weights, read_checkpoint
from refineseg.training.config import CHECKPOINT

_FIELDS = {"config": dict, "epoch": int, "history": list, "network": dict, "optimiser": dict}


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write ``folder/checkpoint.pt``: beside, flushed to disk, then renamed over the one before.

    Raises:
        CheckpointError: The disk is full or read-only; the checkpoint before is untouched.
    """
    path = folder / CHECKPOINT
    try:
        with written_beside(path) as temporary, temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except (OutputError, RuntimeError) as error:
        told = "the checkpoint of the epoch before is intact: make room, then --resume"
        if not path.is_file():
            told = "no epoch had been saved yet: make room, then give the same command again"
        raise CheckpointError(f"could not write {path} ({error}); {told}") from error


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The last complete checkpoint in a run's folder; None if there is none yet.

    Raises:
        CheckpointError: The file is damaged, or its weights are not finite.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        state = dict(read_checkpoint(path))
        wrong = [name for name, kind in _FIELDS.items() if not isinstance(state.get(name), kind)]
        if not wrong:
            check_weights(state["network"], path)
    except ModelFileError as error:
        raise CheckpointError(f"expected a checkpoint in {path}, which cannot be read ({error})") from error
    if wrong:
        raise CheckpointError(f"expected a checkpoint in {path}, whose {', '.join(wrong)} is missing or wrong")
    return state
