"""One look at every sample before training or evaluation: its classes are counted, and what is fatal is found.

In: a data set. Out: a :class:`Look` for each sample, and the fatal faults of all of them. Masks are decoded once; of
images only headers and ends are read.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refineseg.data.checks.expected import Expected, class_counts
from refineseg.data.checks.facts import MaskFacts, glance_at_image, inspect_pair
from refineseg.data.checks.files import file_faults
from refineseg.data.checks.kinds import FATAL, KINDS, Fault
from refineseg.data.checks.marks import data_mark, image_mark
from refineseg.data.checks.masks import mask_faults, void_share
from refineseg.data.samples.sample import Dataset, PairDataset, image_file, pair_of
from refineseg.errors import DatasetError, ImageError, LabelError
from refineseg.images.files import read_opaque
from refineseg.images.label_messages import value_ranges

_SHOWN = 10


@dataclass(frozen=True)
class Look:
    """What one look at a sample found.

    Args:
        counts: (K + 1,) pixels of each class and of void; zeros where there is no mask.
        marks: Marks of the image and of the mask, by which they are known again; empty: none.
        faults: Fatal ones of the two files.
        mask: Name and facts of the mask file; None where the reader gives class indices.
        pairs: The data set of files that the mask belongs to.
        several: The image file, where it holds several pictures of which the first is read.
    """

    counts: NDArray[np.int64]
    marks: tuple[str, str]
    faults: tuple[Fault, ...] = ()
    mask: tuple[str, MaskFacts] | None = None
    pairs: PairDataset | None = None
    several: str = ""


def look(dataset: Dataset, index: int) -> Look:
    """Look at a sample.

    Raises:
        ImageError: A file cannot be read.
        DatasetError: Image and mask differ in size.
        LabelError: The mask holds values that stand for no class.
    """
    found = pair_of(dataset, index)
    if found is None:
        return _look_through(dataset, index)
    pairs, inner = found
    pair = pairs.pairs[inner]
    facts = inspect_pair(pair.image, pair.mask, decode=False)
    if facts.image is not None and facts.image.problem:
        raise ImageError(facts.image.problem)
    marks = (data_mark(pair.image), "" if pair.mask is None else data_mark(pair.mask))
    several = str(pair.image) if facts.image is not None and facts.image.one_of_many else ""
    if pair.mask is None or facts.mask is None:
        return Look(np.zeros(dataset.class_info.num_classes + 1, np.int64), marks, several=several)
    name = str(pair.mask)
    faults = file_faults(facts, image_name=str(pair.image), mask_name=name)
    counts = None
    if dataset.class_info.means_as(pairs.class_info) and not any(fault.kind == "size_mismatch" for fault in faults):
        counts = _class_pixels(facts.mask, Expected(pairs.class_info, pairs.table, declared=True))
    if counts is None or read_opaque(pair.image) is not None:  # whatever is wrong with it, the reader says it best
        counts = _counted(dataset, index, dataset.read_mask(index))
    fatal = tuple(fault for fault in faults if fault.kind in FATAL)
    return Look(counts, marks, fatal, (name, facts.mask), pairs, several)


def _look_through(dataset: Dataset, index: int) -> Look:
    """Through a reader that gives arrays; its images may still be files."""
    path = image_file(dataset, index)
    facts = None if path is None else glance_at_image(path)
    if facts is not None and facts.problem:
        raise ImageError(facts.problem)
    mask = dataset.read_mask(index)
    mark = "" if mask is None else f"{mask.shape}-{zlib.crc32(np.ascontiguousarray(mask).tobytes()):08x}"
    several = str(path) if facts is not None and facts.one_of_many else ""
    return Look(_counted(dataset, index, mask), (image_mark(dataset, index), mark), several=several)


def _class_pixels(mask: MaskFacts, expected: Expected) -> NDArray[np.int64] | None:
    """(K + 1,) pixels of each class and of void; None where a pixel is neither."""
    if mask.problem or mask.form == "jpeg" or mask.distinct != len(mask.counts) or expected.class_info is None:
        return None
    found = class_counts(mask, expected)
    if sum(found.values()) != mask.hw[0] * mask.hw[1]:
        return None
    counts = np.zeros(expected.class_info.num_classes + 1, np.int64)
    for index, pixels in found.items():
        if index != expected.ignore_index and not 0 <= index < len(counts) - 1:
            return None
        counts[-1 if index == expected.ignore_index else index] += pixels
    return counts


def _counted(dataset: Dataset, index: int, mask: NDArray[np.integer] | None) -> NDArray[np.int64]:
    num_classes, ignore_index = dataset.class_info.num_classes, dataset.class_info.ignore_index
    if mask is None:
        return np.zeros(num_classes + 1, np.int64)
    void = int(np.count_nonzero(mask == ignore_index))
    inside = mask[(mask >= 0) & (mask < num_classes)]
    if inside.size + void != mask.size:
        stray = np.setdiff1d(mask, [*range(num_classes), ignore_index]).tolist()
        raise LabelError(
            f"{dataset.name(index)}: expected 0..{num_classes - 1} or {ignore_index}, got {value_ranges(stray)} in "
            f"{mask.size - inside.size - void} pixels; the data set must map them to classes or void"
        )
    return np.append(np.bincount(inside, minlength=num_classes), void).astype(np.int64)


def void_share_of(looks: Sequence[Look]) -> float:
    """The largest share of void in a mask that is sure to use it."""
    return void_share([one.mask for one in looks if one.mask is not None])


Palettes = dict[str, dict[str, MaskFacts]]
"""Root of own data -> palette masks of the splits that were looked at, by file."""


def refuse_fatal(looks: Sequence[Look], *, usual_void: float = 0.0, palettes: Palettes | None = None) -> None:
    """Refuse what is fatal although every file could be read.

    Args:
        looks: What was found.
        usual_void: Share of void in other masks of the same data.
        palettes: Palette masks of splits that were looked at before, to compare with; those of these looks are added.

    Raises:
        LabelError: Masks that say other classes than are meant.
        DatasetError: Images and masks that do not fit each other.
    """
    faults = [fault for one in looks for fault in one.faults]
    sets: dict[str, tuple[PairDataset, dict[str, MaskFacts]]] = {}
    for one in looks:
        if one.pairs is not None and one.mask is not None:
            sets.setdefault(one.pairs.root or str(id(one.pairs)), (one.pairs, {}))[1].update([one.mask])
    for root, (pairs, masks) in sets.items():
        known = {} if palettes is None else palettes.setdefault(root, {})
        others = [(name, mask) for name, mask in known.items() if name not in masks]
        expected = Expected(pairs.class_info, pairs.table, declared=True)
        named = list(masks.items())
        faults += mask_faults(named, expected, own_classes=False, usual_void=usual_void, others=others)
        known.update((name, mask) for name, mask in named if mask.form == "palette")
    fatal = [fault for fault in faults if fault.kind in FATAL and FATAL[fault.kind].outcome == "refused"]
    if not fatal:
        return
    lines = [
        f"expected data without errors, got {len(fatal)} in {len(looks)} samples:",
        *(
            f"  {fault.file}: {fault.kind}: {KINDS[fault.kind].meaning}: {fault.detail}; "
            f"{fault.action or KINDS[fault.kind].action}"
            for fault in fatal[:_SHOWN]
        ),
        *[f"  and {len(fatal) - _SHOWN} more"] * (len(fatal) > _SHOWN),
        "`refineseg doctor NAME:ROOT` names all of them; with --fix it writes a repaired copy of your own data",
    ]
    kind = LabelError if any(FATAL[fault.kind].found_by == "mask" for fault in fatal) else DatasetError
    raise kind(*lines)
