"""What a run learned from, written down so that going on with something else is noticed.

In: a checked data set. Out: :class:`DataRecord`: the classes, how masks write them, and of every sample its name and
the marks of its two files, which do not depend on where they lie or when they were copied.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refineseg.class_info import ClassInfo, LabelTable
from refineseg.data.samples.remap import Remapped
from refineseg.data.samples.sample import Concatenation, Dataset, PairDataset, Without
from refineseg.errors import CheckpointError, ConfigError
from refineseg.images.files import first_names


@dataclass(frozen=True)
class DataRecord:
    """A data set as it was.

    Args:
        class_info: The classes.
        rules: How mask files write them, as plain values.
        samples: Name, mark of the image (empty: not known), mark of the mask; in order.
    """

    class_info: ClassInfo
    rules: Any
    samples: tuple[tuple[str, str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values for JSON; :meth:`from_json` is the way back."""
        samples = [list(sample) for sample in self.samples]
        return {"classes": self.class_info.to_json(), "rules": self.rules, "samples": samples}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DataRecord:
        """From the values of :meth:`to_json`.

        Raises:
            CheckpointError: A field is missing or of the wrong kind.
        """
        try:
            samples = tuple((str(name), str(image), str(mask)) for name, image, mask in value["samples"])
            return cls(ClassInfo.from_json(value["classes"]), value["rules"], samples)
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise CheckpointError(f"expected classes, rules and samples in a record of data, got {error!r}") from error

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()

    def differences(self, now: DataRecord) -> list[str]:
        """What is different now, in words; empty: nothing."""
        found = class_differences(self.class_info, now.class_info)
        if not found and self.rules != now.rules:
            found.append("the values or colours that masks write for the classes are others (the class list, or remap)")
        before, after = ({name: marks for name, *marks in one.samples} for one in (self, now))
        found += _named("samples are gone", [name for name in before if name not in after])
        found += _named("samples are new", [name for name in after if name not in before])
        both = [name for name in before if name in after]
        for place, what in ((0, "images"), (1, "masks")):
            marks = [(name, before[name][place], after[name][place]) for name in both]
            changed = [name for name, old, new in marks if old != new and (place or (old and new))]
            found += _named(f"{what} have changed", changed)
        if not found and list(before) != list(after):
            found.append("the samples stand in another order")
        return found


def class_differences(before: ClassInfo, now: ClassInfo) -> list[str]:
    """How two class tables differ, in words; empty: they do not."""
    if before == now:
        return []
    gone = [name for name in before.names if name not in now.names]
    new = [name for name in now.names if name not in before.names]
    found = _named("classes are gone", gone) + _named("classes are new", new)
    if not found and before.names != now.names:
        both = enumerate(zip(before.names, now.names, strict=True))
        moved = [f"{i} was {old} and is {name}" for i, (old, name) in both if old != name]
        found = _named("classes stand in another order", moved)
    if not found and before.palette != now.palette:
        pairs = zip(before.names, before.palette, now.palette, strict=True)
        found = _named("classes have another colour", [name for name, old, new_colour in pairs if old != new_colour])
    return found or [f"void was {before.ignore_index} and is {now.ignore_index}"]


def _named(what: str, names: Sequence[str]) -> list[str]:
    return [f"{len(names)} {what} ({first_names(names, most=3)})"] if names else []


def data_record(dataset: Dataset, marks: Iterable[tuple[str, str]]) -> DataRecord:
    """The record of a data set.

    Args:
        dataset: The data set.
        marks: Marks of the image and of the mask of each sample.
    """
    samples = tuple((dataset.name(index), image, mask) for index, (image, mask) in enumerate(marks))
    return DataRecord(dataset.class_info, _rules(dataset), samples)


def _rules(dataset: Dataset) -> Any:  # noqa: ANN401 - plain values
    """How masks write classes, as JSON gives it back; None where a reader gives class indices, which have a mark."""
    if isinstance(dataset, PairDataset):
        return None if dataset.read_indices is not None else _written(dataset.table)
    if isinstance(dataset, Remapped):
        return {"of": _rules(dataset.dataset), "to": dataset.table.tolist()}
    if isinstance(dataset, Without):
        return _rules(dataset.dataset)
    if isinstance(dataset, Concatenation):
        return [_rules(part) for part in dataset.parts]
    return None


def _written(table: LabelTable) -> dict[str, list[list[int]]]:
    return {
        "values": sorted([value, index] for value, index in table.values.items()),
        "colours": sorted([*colour, index] for colour, index in table.colours.items()),
    }


def shared_marks(training: DataRecord, other: DataRecord) -> list[tuple[str, str]]:
    """Samples of another split whose image is also a training image under another name or in another file.

    Returns:
        Name in the other split, and name of the first training sample of the same image.
    """
    known: dict[str, str] = {}
    for name, image, _ in training.samples:
        if image:
            known.setdefault(image, name)
    return [(name, known[image]) for name, image, _ in other.samples if image in known]
