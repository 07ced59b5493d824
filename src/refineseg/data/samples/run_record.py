"""What a run learned from, beside its models: their record.

In: records of data. Out: ``data.json`` in the run's folder, and what differs between two of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refineseg.class_info import ClassInfo
from refineseg.data.samples.record import DataRecord
from refineseg.errors import CheckpointError
from refineseg.files.writing import written_beside

RECORD_NAME = "data.json"
HELD_OUT = "held out of train"
"""As ``val_split``: a share of the training images, drawn by the seed, which are not trained on."""
_FORMAT = 1
_DIGEST = 64  # characters
_VALIDATION = "validation on "
_MODELS = {"teacher": "teacher", "init": "model of --init", "encoder_weights": "encoder of --encoder-weights"}


def validation_name(part: str) -> str:
    """Name of the record of what a run is measured on.

    Example:
        >>> validation_name("folder:val")
        'validation on folder:val'
    """
    return _VALIDATION + part


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
    def training_images(self) -> frozenset[str]:
        """Marks of the images that were learned from."""
        learned = (record for name, record in self.data.items() if not name.startswith(_VALIDATION))
        return frozenset(image for record in learned for _, image, _ in record.samples if image)

    def held_out(self, name: str) -> tuple[str, dict[str, str]] | None:
        """The split of a data set that images were held out of, and their names with their marks; None: none were.

        Args:
            name: Name of the data set.
        """
        record = self.data.get(validation_name(f"{name}:{HELD_OUT}"))
        parts = {part for key in self.data if not key.startswith(_VALIDATION) for part in key.split(" + ")}
        splits = [part.removeprefix(f"{name}:") for part in parts if part.startswith(f"{name}:")]
        return (splits[0], {one: mark for one, mark, _ in record.samples}) if record and len(splits) == 1 else None

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
        return [*found, *self.model_differences(now, "teacher")]

    def model_differences(self, now: RunRecord, *roles: str) -> list[str]:
        """Which files of models are different now, in words; empty: none.

        Args:
            now: Record of what there is now.
            roles: Keys of ``models``.
        """
        found = []
        for role in roles:
            mark = now.models.get(role)
            if self.models.get(role) == mark:
                continue
            if mark is not None and len(mark) != _DIGEST:
                where = "(a relative path counts from the folder of the command)"
                found.append(f"there is no {_MODELS[role]} {mark} {where}")
            else:
                found.append(f"the file of the {_MODELS[role]} has changed")
        return found
