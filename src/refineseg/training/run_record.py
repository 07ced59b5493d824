"""What the result of a run depends on beside its configuration: its data, and the model files that it began with.

In: the record of a run. Out: ``data.json`` in its folder, and a refusal to go on with something else.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from refineseg.class_info import ClassInfo
from refineseg.data.samples.record import class_differences
from refineseg.data.samples.run_record import RunRecord
from refineseg.errors import CheckpointError, ModelFileError
from refineseg.segmenter import load_spec
from refineseg.training import ranks
from refineseg.training.config import CHECKPOINT
from refineseg.training.progress import Progress


def model_marks(teacher: str | None, init: str | None, encoder_weights: Path | None) -> dict[str, str]:
    """Digests of the model files that a run begins with; the name of a shipped model stands for itself."""
    named = {"teacher": teacher, "init": init, "encoder_weights": encoder_weights}
    return {role: _mark(name) for role, name in named.items() if name is not None}


def _mark(name: str | Path) -> str:
    try:
        with Path(name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return str(name)


def check_record(folder: Path, now: RunRecord, progress: Progress) -> None:
    """Whether a run goes on with what it began with; writes the record where there is none, or nothing was learned.

    Raises:
        CheckpointError: It does not; says what differs and what to do.
    """
    known, learned = RunRecord.read(folder), (folder / CHECKPOINT).exists()
    if known is None:
        found = _other_classes(folder, now.class_info) if learned else []
        if not found:
            progress.say(
                "note: this run has no record of its data (an earlier version began it); they are taken as the same"
            )
    else:
        if not learned:
            _check_beginning(folder, known, now)
        found = known.differences(now)
        if not found:
            return
        if not learned:
            progress.say(f"note: since the run was begun, {'; '.join(found)}; it had learned nothing yet")
    if found and learned:
        last = folder / "last.safetensors"
        raise CheckpointError(
            f"expected to go on in {folder} with what the run learned from, but:",
            *(f"  {text}" for text in found),
            "put that back, or begin another run with what there is now, from the weights so far: "
            f"refineseg train --data NAME:ROOT --init {last} --out ANOTHER_FOLDER",
        )
    try:
        if ranks.is_first():
            now.write(folder)
    except OSError as error:
        raise CheckpointError(f"expected a folder for the run that can be written, got {folder} ({error})") from error


def _check_beginning(folder: Path, known: RunRecord, now: RunRecord) -> None:
    """Whether the first weights are the same: ``run.json`` says of them what they learned from.

    Raises:
        CheckpointError: They are not.
    """
    found = known.model_differences(now, "init", "encoder_weights")
    if found:
        raise CheckpointError(
            f"expected to begin in {folder} from the same weights, but {'; '.join(found)}; put them back, or begin "
            "another run in another folder"
        )


def _other_classes(folder: Path, now: ClassInfo) -> list[str]:
    """Compare with the classes of the run's model, where there is no record."""
    try:
        return class_differences(load_spec(folder / "last.safetensors").class_info, now)
    except ModelFileError:
        return []
