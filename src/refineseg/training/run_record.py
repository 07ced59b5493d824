"""What the result of a run depends on beside its configuration: its data, and the model files that it began with.

In: records of data. Out: ``data.json`` in the run's folder, and a refusal to go on with something else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refineseg.class_info import ClassInfo
from refineseg.data.samples.record import DataRecord, class_differences
from refineseg.errors import CheckpointError, ModelFileError
from refineseg.files.writing import written_beside
from refineseg.segmenter import load_spec
from refineseg.training import ranks
from refineseg.training.config import CHECKPOINT
from refineseg.training.progress import Progress

RECORD_NAME = "data.json"
_FORMAT = 1
_DIGEST = 64  # characters


@dataclass(frozen=True)
class RunRecord:
    """What a run learns from.

    Args:
        data: What it is (``folder:train``) -> how it is.
        models: ``teacher``, ``init``, ``encoder_weights`` -> a digest of the file, or a shipped model's name.
    """

    data: Mapping[str, DataRecord]
    models: Mapping[str, str]

    @property
    def class_info(self) -> ClassInfo:
        """The classes."""
        return next(iter(self.data.values())).class_info

    def write(self, folder: Path) -> None:
        """Write ``data.json``.

        Raises:
            OutputError: It cannot be written.
        """
        data = {name: record.to_json() for name, record in self.data.items()}
        content = {"format": _FORMAT, "data": data, "models": dict(self.models)}
        with written_beside(folder / RECORD_NAME) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> RunRecord | None:
        """From the folder of a run; None where it has none, as those of earlier versions.

        Raises:
            CheckpointError: It is damaged, or of a newer version.
        """
        path = folder / RECORD_NAME
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            found = content["format"]
            if found == _FORMAT:
                data = {str(name): DataRecord.from_json(record) for name, record in content["data"].items()}
                return cls(data, {str(role): str(mark) for role, mark in content["models"].items()})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError, CheckpointError) as error:
            raise CheckpointError(
                f"expected the record of a run's data in {path}, which is damaged ({error}); remove that file if you "
                "are sure that the data are the same"
            ) from error
        raise CheckpointError(f"expected a record of format {_FORMAT} in {path}, got {found!r}; update refineseg")

    def differences(self, now: RunRecord) -> list[str]:
        """What is different now, in words; empty: nothing."""
        if list(self.data) != list(now.data):
            return [f"the data were {', '.join(self.data)} and are {', '.join(now.data)}"]
        found = [f"{name}: {text}" for name, record in self.data.items() for text in record.differences(now.data[name])]
        teacher = now.models.get("teacher")
        if self.models.get("teacher") == teacher:
            return found
        if teacher is not None and len(teacher) != _DIGEST:
            return [*found, f"there is no teacher {teacher} (a relative path counts from the folder of the command)"]
        return [*found, "the file of the teacher has changed"]


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


def _other_classes(folder: Path, now: ClassInfo) -> list[str]:
    """Compare with the classes of the run's model, where there is no record."""
    try:
        return class_differences(load_spec(folder / "last.safetensors").class_info, now)
    except ModelFileError:
        return []
