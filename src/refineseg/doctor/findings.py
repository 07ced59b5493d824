"""What can be wrong with a data set: the fixed vocabulary of findings, and how single faults become findings.

In: faults of single files. Out: :class:`Finding`, one for each kind and remedy, with all its files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
"""error: training refuses the data, or learns something wrong; warning: results mislead; note: worth a look."""


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Args:
        severity: How bad it is.
        meaning: What is wrong, to go on after "files:".
        action: The one thing to do, where the fault itself does not say it more exactly.
    """

    severity: Severity
    meaning: str
    action: str


KINDS: dict[str, Kind] = {
    "refused": Kind("error", "the reader refuses the data set or a sample", "do what the message says"),
    "bad_class_file": Kind("error", "the list of classes cannot be read", "correct the class file"),
    "missing_class_file": Kind(
        "error", "the masks hold values that need a list of classes", "write classes.json with the id of every class"
    ),
    "unreadable_image": Kind("error", "images that cannot be read", "replace or remove the image"),
    "unreadable_mask": Kind("error", "masks that cannot be read", "export the mask again as PNG, or remove the pair"),
    "missing_mask": Kind("error", "images without a mask", "add a mask of the same name, or remove the image"),
    "missing_image": Kind("error", "masks without an image", "add an image of the same name, or remove the mask"),
    "ambiguous_name": Kind("error", "several files for one sample", "keep one of each name"),
    "size_mismatch": Kind(
        "error", "masks that differ from their image in size", "export the mask at the size of the image"
    ),
    "rotated_image": Kind(
        "error",
        "images turned by EXIF whose masks are not",
        "turn the mask as the image is shown, and write both without EXIF (--fix does)",
    ),
    "jpeg_mask": Kind("error", "masks saved as JPEG, which blurs the values", "export the mask as PNG"),
    "rgb_mask": Kind(
        "error", "masks of colours where indices are expected", "save the class indices as grey PNG (--fix does)"
    ),
    "palette_mask": Kind(
        "error",
        "palette masks whose colours say other classes than their indices",
        "number the palette as the classes (--fix does)",
    ),
    "binary_mask": Kind(
        "error",
        "masks of 0 and 255, where 255 is void",
        'write the index of the class instead of 255, or list the class with "id": 255',
    ),
    "off_by_one": Kind("error", "masks whose values are one too high or too low", "subtract or add 1 (--fix does)"),
    "unknown_values": Kind(
        "error", "masks with values that stand for no class", "list the values in classes.json or correct the mask"
    ),
    "unknown_colours": Kind(
        "error", "masks with colours that stand for no class", "list the colours in classes.json or repaint the mask"
    ),
    "smoothed_mask": Kind(
        "error",
        "masks of so many values that they are photographs, or were resized smoothly",
        "export the mask again, resized with nearest neighbour, as PNG",
    ),
    "void_mask": Kind("warning", "masks without any labelled pixel", "label the image or remove the pair"),
    "empty_mask": Kind("note", "masks of the first class alone", "make sure that nothing else is in the image"),
    "sixteen_bit_image": Kind(
        "warning",
        "images of 16 bits, which are read from their full range",
        "convert them to 8 bits with the range you want (--fix does)",
    ),
    "empty_class": Kind(
        "warning", "classes that no mask contains", "label some, or take the class out of the list of classes"
    ),
    "class_imbalance": Kind(
        "warning",
        "classes of less than a twentieth of the median class's pixels",
        "add images of these classes, or train with class weights or hard example mining",
    ),
    "duplicate_across_splits": Kind(
        "error", "equal images in different splits: the measurement is too good", "keep each image in one split"
    ),
    "duplicate_within_split": Kind("warning", "equal images in one split", "keep one of each"),
    "near_duplicate_across_splits": Kind(
        "warning", "almost equal images in different splits", "keep images of one scene in one split"
    ),
    "near_duplicate_within_split": Kind(
        "warning", "almost equal images in one split", "keep one of each, or count on fewer independent images"
    ),
    "sequence_across_splits": Kind(
        "warning",
        "frames of one sequence in different splits, close to each other in time",
        "give each sequence to one split, or leave frames between the splits out",
    ),
}
"""Every kind of finding, the most fatal first."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with one file.

    Args:
        kind: A key of :data:`KINDS`.
        file: The file, relative to the root of the data set.
        detail: What was found in it.
        action: What to do; by default that of the kind.
        values: How to repair an index mask: value stored -> value to write.
        whole: It concerns a split or the whole data set, which ``file`` then names.
    """

    kind: str
    file: str
    detail: str
    action: str = ""
    values: Mapping[int, int] | None = None
    whole: bool = False


@dataclass(frozen=True)
class Finding:
    """What is wrong, with which files, and what to do.

    Args:
        kind: A key of :data:`KINDS`.
        files: All files concerned, relative to the root; none where it concerns classes or the whole data set.
        count: How many files; where there are none, how many classes or messages.
        action: The one thing to do.
        details: What was found, for each file, class or sequence.
        groups: Files that belong together: duplicates, and frames on both sides of a border.
    """

    kind: str
    files: tuple[str, ...]
    count: int
    action: str
    details: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[tuple[str, ...], ...] = ()

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return KINDS[self.kind].severity

    @property
    def meaning(self) -> str:
        """What is wrong, in words."""
        return KINDS[self.kind].meaning

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        value: dict[str, Any] = {
            "kind": self.kind,
            "severity": self.severity,
            "files": list(self.files),
            "count": self.count,
            "action": self.action,
            "meaning": self.meaning,
            "details": dict(self.details),
        }
        return value | ({"groups": [list(group) for group in self.groups]} if self.groups else {})


def grouped(faults: Iterable[Fault]) -> list[Finding]:
    """One finding for each kind and action, files in the order of their names.

    Example:
        >>> [found] = grouped([Fault("void_mask", "b.png", "4 pixels"), Fault("void_mask", "a.png", "9 pixels")])
        >>> found.files, found.count, found.severity
        (('a.png', 'b.png'), 2, 'warning')
    """
    groups: dict[tuple[str, str], dict[str, Fault]] = {}
    for fault in faults:
        action = fault.action or KINDS[fault.kind].action
        groups.setdefault((fault.kind, action), {})[fault.file] = fault
    findings = []
    for (kind, action), members in groups.items():
        names = sorted(members)
        files = tuple(name for name in names if not members[name].whole)
        findings.append(Finding(kind, files, len(names), action, {name: members[name].detail for name in names}))
    return findings


def in_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Errors first, then warnings, then notes; within them as in :data:`KINDS`."""
    kinds, severities = list(KINDS), ("error", "warning", "note")
    return tuple(sorted(findings, key=lambda found: (severities.index(found.severity), kinds.index(found.kind))))
