"""What the masks of a data set should hold: by its list of classes, or, without one, by what most of its masks hold.

In: the class list, or the facts of the training masks. Out: :class:`Expected`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from refineseg.class_info import ClassInfo, LabelTable
from refineseg.data.checks.facts import MaskFacts, brightness
from refineseg.data.checks.kinds import Fault
from refineseg.data.samples.class_files import MOST_UNNAMED
from refineseg.images.label_messages import value_ranges

_VOID = 255


@dataclass(frozen=True)
class Expected:
    """What masks should hold.

    Args:
        class_info: The classes; None where they are not known.
        table: How mask files write them.
        declared: A file or the reader tells, and not the masks.
        fault: The masks need a list of classes and there is none.
    """

    class_info: ClassInfo | None
    table: LabelTable
    declared: bool
    fault: Fault | None = None

    @property
    def ignore_index(self) -> int:
        """Void."""
        return _VOID if self.class_info is None else self.class_info.ignore_index

    @property
    def class_values(self) -> frozenset[int]:
        """Values that stand for classes."""
        return frozenset(value for value, index in self.table.values.items() if index != self.ignore_index)

    def value_of(self, index: int) -> int:
        """The value that stands for a class, or for void."""
        return next((value for value, found in self.table.values.items() if found == index), index)


def inferred(masks: Sequence[MaskFacts]) -> Expected:
    """The classes that the values of training masks tell, as the reader counts them: 0..K-1 and 255 for void.

    Values that are the exception stay outside: those after the first hole, and a highest value that occurs only in
    masks without 0, because these are one too high.

    Args:
        masks: Readable masks.

    Example:
        >>> values = ({0: 5, 1: 3, 2: 1}, {0: 5, 2: 3}, {0: 9, 7: 1})
        >>> inferred([MaskFacts(counts=counts) for counts in values]).class_values == {0, 1, 2}
        True
    """
    counts = [mask.index_counts for mask in masks]
    found = [set(values) for values in counts if values is not None]
    sets = [values - {_VOID} for values in found]
    sets = [values for values in sets if 0 < len(values) <= MOST_UNNAMED]
    union = set().union(*sets)
    if not union:
        return Expected(None, LabelTable({}), declared=False)
    if union == {0} and any(_VOID in values for values in found):
        return _numbered(2)  # masks of 0 and 255
    if 0 not in union and union == set(range(1, len(union) + 1)):
        return _numbered(max(len(union), 2))
    first_hole = next(value for value in range(len(union) + 1) if value not in union)
    beyond = sum(max(values) > first_hole for values in sets)
    if first_hole >= 2 and 2 * beyond <= len(sets):
        return _numbered(first_hole - _all_raised([values for values in sets if max(values) < first_hole], first_hole))
    fault = Fault(
        "missing_class_file",
        "masks",
        f"values {value_ranges(union)}; without classes.json they must be 0..K-1 and 255 for void",
        whole=True,
    )
    class_info = ClassInfo.generic(len(union))
    values = {value: index for index, value in enumerate(sorted(union))}
    return Expected(class_info, LabelTable(values | {_VOID: class_info.ignore_index}), declared=False, fault=fault)


def _all_raised(sets: Sequence[set[int]], num_values: int) -> bool:
    """Whether the highest value comes from a few masks of 1..K among masks that all hold 0."""
    top = num_values - 1
    raised = [values for values in sets if top in values]
    others = [values for values in sets if top not in values]
    if top < 2 or len(raised) >= len(others) or not all(0 in values for values in others):
        return False
    return all(values == set(range(1, num_values)) for values in raised) and set().union(*others) == set(range(top))


def _numbered(num_classes: int) -> Expected:
    class_info = ClassInfo.generic(num_classes)
    values = {index: index for index in range(num_classes)}
    return Expected(class_info, LabelTable(values | {_VOID: class_info.ignore_index}), declared=False)


def class_counts(mask: MaskFacts, expected: Expected, values: Mapping[int, int] | None = None) -> dict[int, int]:
    """Pixels of each class and of void in a mask; values that stand for nothing are left out.

    Args:
        mask: The mask.
        expected: What its values stand for.
        values: Repair: value stored -> value meant.
    """
    if mask.form == "classes":
        return dict(mask.counts)
    table: Mapping[int, int] = expected.table.values
    if mask.form == "colour":
        table = {(r << 16) | (g << 8) | b: index for (r, g, b), index in expected.table.colours.items()}
    counts = mask.counts
    if mask.form == "jpeg":
        dark, bright = 0, 0
        for code, count in counts.items() if values else ():
            dark, bright = (dark, bright + count) if brightness(code) >= 128 else (dark + count, bright)
        counts = {value: count for value, count in ((0, dark), (255, bright)) if count}
    if values is not None and mask.form == "colour" and mask.index_counts is not None:  # values saved as grey colours
        counts, table = mask.index_counts, expected.table.values
    found: dict[int, int] = {}
    for value, count in counts.items():
        index = table.get(values.get(value, value) if values else value)
        if index is not None:
            found[index] = found.get(index, 0) + count
    return found
