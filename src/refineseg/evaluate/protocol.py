"""The conditions of a measured number, and what differs between two of them.

In: facts about data, model and prediction. Out: :class:`MeasurementProtocol`, which stands in model files and in every
result; :meth:`~MeasurementProtocol.differences`, without which two numbers are not compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from refineseg.errors import ConfigError

VOID_LEFT_OUT = "left out"
NO_OTHER_DATA = "none"
EVERY_CLASS = "over all classes"
"""Mean over the classes where each occurs in the truth: then every definition of the mean gives the same number."""

_WORDS = {
    "dataset": "data set",
    "split": "split",
    "num_classes": "classes",
    "num_images": "images",
    "image_size": "image size",
    "compression": "image files",
    "void": "void",
    "mean": "mean IoU",
    "trained_on": "trained on",
    "other_data": "other data",
    "scales": "scales",
    "flip": "flip",
    "crf": "CRF",
    "scoring": "scoring",
    "precision": "precision",
    "mapping": "classes mapped",
}
_OF_THIS_PACKAGE = ("scoring", "precision")  # what others have no word for: compared where both say it


@dataclass(frozen=True)
class Differences:
    """What stands between two numbers.

    Args:
        unlike: One phrase for each condition that is another.
        unstated: The conditions that one of the two does not state.
    """

    unlike: tuple[str, ...]
    unstated: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether the two were measured under the same conditions."""
        return not self.unlike and not self.unstated

    def __str__(self) -> str:
        if self.equal:
            return "equal protocol"
        parts = [*self.unlike, *([f"not stated: {', '.join(self.unstated)}"] if self.unstated else [])]
        return "unlike protocols: " + "; ".join(parts)


@dataclass(frozen=True)
class MeasurementProtocol:
    """Everything a mean IoU depends on beside the model's weights; None: not stated.

    Args:
        dataset: Data set, by our name.
        split: Split that was measured.
        num_classes: Number of classes that the mean is taken over.
        num_images: Number of images of the split.
        image_size: ``HEIGHTxWIDTH`` in pixels, or ``various``.
        compression: Compression of the image files: ``lossless``, ``lossy`` or ``mixed``.
        void: What happens to unlabelled pixels.
        mean: Classes that the mean is over.
        trained_on: Every ``NAME:SPLIT`` the weights learned from, sorted.
        other_data: Pretraining, or ``none``.
        scales: Views that were averaged.
        flip: Whether mirrored, too.
        crf: Whether a dense CRF came after.
        scoring: Name of the scoring view, and its enlargement where the name says another.
        precision: Precision of the network.
        mapping: How the classes of other data became the model's; empty: they are the model's.
    """

    dataset: str
    split: str
    num_classes: int | None = None
    num_images: int | None = None
    image_size: str | None = None
    compression: str | None = None
    void: str | None = None
    mean: str | None = None
    trained_on: tuple[str, ...] | None = None
    other_data: str | None = None
    scales: tuple[float, ...] | None = None
    flip: bool | None = None
    crf: bool | None = None
    scoring: str | None = None
    precision: str | None = None
    mapping: str = ""

    def differences(self, other: MeasurementProtocol) -> Differences:
        """What is otherwise in another protocol.

        Example:
            >>> ours = MeasurementProtocol("camvid", "test", num_images=233, flip=False)
            >>> ours.differences(MeasurementProtocol("camvid", "val", flip=False)).unlike
            ('split: test here, val there',)
        """
        unlike, unstated = [], []
        for name, word in _WORDS.items():
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine == theirs and mine is not None:
                continue
            if mine is None or theirs is None:
                unstated += [word] * (name not in _OF_THIS_PACKAGE)
            else:
                unlike.append(f"{word}: {_shown(mine)} here, {_shown(theirs)} there")
        return Differences(tuple(unlike), tuple(unstated))

    def describe(self) -> str:
        """All conditions in one line, to print beside a number."""
        stated = ((word, getattr(self, name)) for name, word in _WORDS.items())
        return "; ".join(
            f"{word} {'not stated' if value is None else _shown(value)}" for word, value in stated if value != ""
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values; :meth:`from_json` is the way back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MeasurementProtocol:
        """From the values of :meth:`to_json`.

        Raises:
            ConfigError: A field is unknown or missing.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(value.keys() - known)
        if unknown or not {"dataset", "split"} <= value.keys():
            raise ConfigError(
                f"expected a protocol with data set and split, got {', '.join(value) or 'nothing'}; it was written by "
                "another version of refineseg: measure again with this one"
            )
        given: dict[str, Any] = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}
        return cls(**given)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
    return str(value) or "no"


@dataclass(frozen=True)
class Learned:
    """What weights learned from.

    Args:
        trained_on: Every ``NAME:SPLIT``, sorted; None: not known.
        other_data: Pretraining, or ``none``; None: not known.
    """

    trained_on: tuple[str, ...] | None
    other_data: str | None

    def __add__(self, later: Learned) -> Learned:
        """Of weights that went on from others, or learned from a teacher."""
        splits: tuple[str, ...] | None = None
        if self.trained_on is not None and later.trained_on is not None:
            splits = tuple(sorted({*self.trained_on, *later.trained_on}))
        if self.other_data is None or later.other_data is None:
            return Learned(splits, None)
        others = dict.fromkeys(part for part in (self.other_data, later.other_data) if part != NO_OTHER_DATA)
        return Learned(splits, "; ".join(others) or NO_OTHER_DATA)

    @classmethod
    def from_run(cls, parts: Sequence[str], started_from: str) -> Learned:
        """From the data of a run, each ``NAME:SPLIT``, and what its weights started from.

        Example:
            >>> Learned.from_run(["camvid:train+val"], "scratch")
            Learned(trained_on=('camvid:train', 'camvid:val'), other_data='none')
        """
        splits = {f"{part.partition(':')[0]}:{split}" for part in parts for split in part.partition(":")[2].split("+")}
        other = {"scratch": NO_OTHER_DATA}.get(started_from, started_from)
        return cls(tuple(sorted(splits)), None if started_from.startswith("model ") else other)

    @classmethod
    def from_provenance(cls, provenance: Mapping[str, Any]) -> Learned:
        """From what a model file says of itself; files without a protocol are read as far as they go."""
        protocol = provenance.get("protocol")
        if isinstance(protocol, Mapping):
            splits, other = protocol.get("trained_on"), protocol.get("other_data")
            known = None
            if isinstance(splits, list | tuple) and all(isinstance(split, str) for split in splits):
                known = tuple(splits)
            return cls(known, other if isinstance(other, str) else None)
        described, started_from = provenance.get("data"), provenance.get("started_from")
        if not isinstance(described, str) or not isinstance(started_from, str):
            return cls(None, None)
        parts = [part.strip() for part in re.split("[,;]", described)]
        found = cls.from_run([part for part in parts if re.fullmatch(r"\w+:[\w+]+", part)], started_from)
        if "pretraining" not in provenance:
            return found
        return cls(found.trained_on, f"pretrained without labels on {', '.join(found.trained_on or ())}")

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"trained_on": None if self.trained_on is None else list(self.trained_on), "other_data": self.other_data}
