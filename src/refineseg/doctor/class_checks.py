"""How many pixels each class has, which classes are absent and which are rare.

In: pixels of each class for every split. Out: findings, and shares to draw.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import ClassInfo
from refineseg.data.checks.kinds import KINDS
from refineseg.doctor.findings import Finding

RARE = 1 / 20
"""A class of less than this share of the median class's pixels is rare. The median's pixels over the class's are its
weight in median-frequency balancing (Eigen and Fergus 2015); CamVid's rarest class, with 16, is just not rare."""


@dataclass(frozen=True)
class ClassCounts:
    """Pixels of each class.

    Args:
        class_info: The classes.
        pixels: Split -> (K,) int64.
        void: Split -> pixels of void.
        uncounted: Masks whose classes are not known, or known in part.
    """

    class_info: ClassInfo
    pixels: Mapping[str, NDArray[np.int64]]
    void: Mapping[str, int]
    uncounted: int = 0

    @property
    def total(self) -> NDArray[np.int64]:
        """Of all splits, (K,)."""
        return np.sum([*self.pixels.values()], axis=0, dtype=np.int64) if self.pixels else self._none()

    @property
    def training(self) -> NDArray[np.int64]:
        """Of the split ``train``, or of all where there is none or it is empty."""
        train = self.pixels.get("train", self._none())
        return train if train.any() else self.total

    def _none(self) -> NDArray[np.int64]:
        return np.zeros(self.class_info.num_classes, np.int64)

    def to_json(self) -> list[dict[str, object]]:
        """Name and pixels of each class."""
        return [
            {"name": name, "pixels": {split: int(counts[i]) for split, counts in self.pixels.items()}}
            for i, name in enumerate(self.class_info.names)
        ]


def class_findings(
    counts: ClassCounts, *, declared: bool, own_classes: bool, made_void: Collection[str] = ()
) -> list[Finding]:
    """A class alone, absent and rare classes; nothing while the classes of a mask are not known.

    Args:
        counts: Counts of all splits.
        declared: The classes stand in a list; those that only masks tell cannot be absent.
        own_classes: The user's own classes, which ``remap.json`` can leave out.
        made_void: Classes that it leaves out already.
    """
    names, total, training = counts.class_info.names, counts.total, counts.training
    if counts.uncounted or not total.any():
        return []
    findings = []
    if np.count_nonzero(training) == 1:
        only = {names[i]: f"all {training[i]} labelled pixels" for i in np.flatnonzero(training)}
        findings.append(Finding("one_class", (), 1, KINDS["one_class"].action, only))
    absent = [names[i] for i in np.flatnonzero(total == 0) if names[i] not in made_void] if declared else []
    empty = dict.fromkeys(absent, "no pixel in any split")
    if empty:
        without = json.dumps(dict.fromkeys(empty), ensure_ascii=False)
        action = f"label some, or leave them out by a file remap.json in the root: {without}"
        action = action if own_classes else KINDS["empty_class"].action
        findings.append(Finding("empty_class", (), len(empty), action, empty))
    present = training[training > 0]
    median = float(np.median(present))
    rare = {
        names[i]: f"{100 * training[i] / training.sum():.3g} % of the labelled pixels, "
        f"{median / training[i]:.0f} times less than the median class"
        for i in np.flatnonzero((training > 0) & (training < RARE * median))
    }
    if rare:
        findings.append(Finding("class_imbalance", (), len(rare), KINDS["class_imbalance"].action, rare))
    return findings
