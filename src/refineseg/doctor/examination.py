"""Examine a data set: read every file once on all cores, then ask every check.

In: ``NAME:ROOT``. Out: :class:`Examination`. Nothing is written.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refineseg.class_info import LabelTable
from refineseg.data.checks.expected import Expected, class_counts, inferred
from refineseg.data.checks.facts import CaseFacts, MaskFacts
from refineseg.data.checks.files import file_faults
from refineseg.data.checks.kinds import Fault
from refineseg.data.checks.masks import mask_faults
from refineseg.data.datasets import open_dataset, parse_data
from refineseg.data.samples.left_out import left_out
from refineseg.data.samples.remap import Remapped, read_remap
from refineseg.data.samples.threads import read_all
from refineseg.doctor.class_checks import ClassCounts, class_findings
from refineseg.doctor.duplicates import Compared, duplicate_findings
from refineseg.doctor.findings import Finding, grouped, in_order, refusal
from refineseg.doctor.inspection import inspect
from refineseg.doctor.inventory import Case, Inventory, take_inventory
from refineseg.doctor.sequences import NumberedFrame, sequence_findings
from refineseg.errors import ConfigError, DatasetError, ImageError

_UNCOUNTED = frozenset({"mixed_palettes", "binary_mask"})  # each pixel has a class, but not the one that is meant
_LEAST_CONTRAST = 8  # grey levels between the darkest and the brightest cell of a 16-bit image worth comparing


@dataclass(frozen=True)
class Examination:
    """What was found.

    Args:
        data: ``NAME:ROOT``.
        inventory: What was examined.
        expected: What the masks should hold.
        facts: Facts of each case of the inventory.
        faults: Faults of single files, with what would repair them.
        findings: Everything, errors first.
        counts: Pixels of each class; None where no classes are known.
    """

    data: str
    inventory: Inventory
    expected: Expected
    facts: tuple[CaseFacts, ...]
    faults: tuple[Fault, ...]
    findings: tuple[Finding, ...]
    counts: ClassCounts | None

    @property
    def healthy(self) -> bool:
        """Neither errors nor warnings; notes do not count."""
        return all(finding.severity == "note" for finding in self.findings)

    @property
    def faults_of(self) -> dict[str, list[Fault]]:
        """File -> its faults."""
        found: dict[str, list[Fault]] = {}
        for fault in self.faults:
            found.setdefault(fault.file, []).append(fault)
        return found

    def samples(self) -> dict[str, int]:
        """How many images and masks of each split were examined."""
        splits = [case.split for case in self.inventory.cases]
        return {split: splits.count(split) for split in self.inventory.splits}

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "data": self.data,
            "findings": [finding.to_json() for finding in self.findings],
            "samples": self.samples(),
            "classes": [] if self.counts is None else self.counts.to_json(),
            "notes": list(self.inventory.notes),
        }


def examine(data: str, *, report: Callable[[int, int], None] | None = None) -> Examination:
    """Examine a data set.

    Args:
        data: ``NAME:ROOT``, as everywhere.
        report: Called with (samples read, samples in all).

    Raises:
        ConfigError: Not of this form, or an unknown name.
        DatasetError: The root is no folder.
        MissingExtraError: The data set's reader needs a package that is not installed.
    """
    name, root = parse_data(data)
    inventory = take_inventory(name, root)
    cases = inventory.cases
    with warnings.catch_warnings():  # around all threads: the filters belong to the process
        warnings.filterwarnings("ignore", module=r"PIL\.")
        facts = read_all(lambda index: inspect(cases[index]), len(cases), report=report)
    inventory, lost = _told_by_readers(inventory)
    expected = _expected(inventory, facts)
    faults = [*inventory.faults, *lost]
    if expected.fault is not None:
        faults.append(expected.fault)
    for case, found in zip(cases, facts, strict=True):
        faults += file_faults(found, image_name=case.shown_image, mask_name=case.shown_mask)
    masks = [(case.shown_mask, found.mask) for case, found in zip(cases, facts, strict=True) if found.mask is not None]
    faults += mask_faults(masks, expected, own_classes=inventory.own_classes)
    counts = _counted(inventory, facts, expected, faults)
    findings = [*grouped(faults), *_image_findings(cases, facts)]
    if counts is not None:
        findings += class_findings(
            counts,
            declared=expected.declared,
            own_classes=inventory.own_classes,
            made_void=_made_void(inventory),
        )
    if inventory.own_masks and all(finding.severity != "error" for finding in findings):
        findings += grouped(_refusals(inventory, counts))
    return Examination(data, inventory, expected, tuple(facts), tuple(faults), in_order(findings), counts)


def _made_void(inventory: Inventory) -> frozenset[str]:
    """Classes that the remap file leaves out; of other forms than masks the reader has applied it already."""
    try:
        found = read_remap(inventory.root) if inventory.own_masks else None
    except ConfigError:  # which the reader says, too
        return frozenset()
    return frozenset() if found is None else frozenset(old for old, new in found[0].items() if new is None)


def _told_by_readers(inventory: Inventory) -> tuple[Inventory, list[Fault]]:
    """The notes of the readers, and the objects that cover no pixel, as faults and not as notes."""
    notes, faults = list(inventory.notes), []
    for split, dataset in inventory.readers.items():
        records = left_out(dataset)
        said = {str(record) for record in records}
        notes += [note for note in dataset.notes if note not in said]
        faults += [Fault("lost_objects", f"{split}, {record.first}", str(record), whole=True) for record in records]
    return replace(inventory, notes=tuple(dict.fromkeys(notes))), faults


def _expected(inventory: Inventory, facts: Sequence[CaseFacts]) -> Expected:
    if inventory.class_info is not None and inventory.table is not None:
        return Expected(inventory.class_info, inventory.table, declared=True)
    if inventory.class_info is not None:  # a reader that gives class indices
        return Expected(inventory.class_info, LabelTable.identity(inventory.class_info), declared=True)
    training: list[MaskFacts] = []
    others: list[MaskFacts] = []
    for case, found in zip(inventory.cases, facts, strict=True):
        if found.mask is not None and not found.mask.problem:
            (training if case.split == "train" else others).append(found.mask)
    return inferred(training or others)


def _counted(
    inventory: Inventory, facts: Sequence[CaseFacts], expected: Expected, faults: Sequence[Fault]
) -> ClassCounts | None:
    """Pixels of each class, those of masks that can be repaired as they are meant."""
    if expected.class_info is None:
        return None
    num_classes = expected.class_info.num_classes
    repairs = {fault.file: fault.values for fault in faults if fault.values is not None}
    pixels = {split: np.zeros(num_classes, np.int64) for split in inventory.splits}
    void = dict.fromkeys(inventory.splits, 0)
    unknown = {fault.file for fault in faults if fault.kind in _UNCOUNTED and fault.values is None}
    uncounted = 0
    for case, found in zip(inventory.cases, facts, strict=True):
        if found.mask is None:
            continue
        classes = {} if found.mask.problem else class_counts(found.mask, expected, repairs.get(case.shown_mask))
        uncounted += case.shown_mask in unknown or sum(classes.values()) != found.mask.hw[0] * found.mask.hw[1]
        for index, count in classes.items():
            if 0 <= index < num_classes:
                pixels[case.split][index] += count
            else:
                void[case.split] += count
    return ClassCounts(expected.class_info, pixels, void, uncounted)


def _image_findings(cases: Sequence[Case], facts: Sequence[CaseFacts]) -> list[Finding]:
    compared, frames = [], []
    for case, found in zip(cases, facts, strict=True):
        image = found.image
        signature = None if image is None else image.signature
        frames.append(NumberedFrame(case.shown_image, case.split, case.name, signature))
        if image is None or signature is None or (image.largest >= 0 and np.ptp(signature) < _LEAST_CONTRAST):
            continue
        classes = () if found.mask is None else tuple(sorted(found.mask.counts.items()))
        compared.append(Compared(case.shown_image, case.split, image.digest, signature, classes))
    return [*duplicate_findings(compared), *sequence_findings(frames)]


def _refusals(inventory: Inventory, counts: ClassCounts | None) -> list[Fault]:
    """What the reader still refuses where no check found an error, so that no error means: it opens."""
    faults = []
    unlabelled = {fault.file for fault in inventory.faults if fault.kind == "unlabelled_split"}
    for split in inventory.splits:
        if split in unlabelled:
            continue
        try:
            dataset = open_dataset("folder", inventory.root, split=split)
        except (DatasetError, ImageError, ConfigError) as error:
            faults.append(refusal(split, error))
            continue
        if split == "train" and counts is not None and isinstance(dataset, Remapped):
            left = set(dataset.table[np.flatnonzero(counts.pixels[split])]) - {dataset.class_info.ignore_index}
            if len(left) < 2:
                faults.append(Fault("one_class", split, dataset.note, whole=True))
    return faults
