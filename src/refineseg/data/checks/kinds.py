"""What can be wrong with a data set: the fixed vocabulary, and what is fatal to training and evaluation.

In: nothing but the definitions. Out: :data:`KINDS`, :data:`FATAL`, and :class:`Fault`, one thing wrong with one file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
"""error: training refuses the data, or learns something wrong; warning: results mislead; note: worth a look."""


@dataclass(frozen=True)
class FaultKind:
    """A kind of finding.

    Args:
        severity: How bad it is.
        meaning: What is wrong, to go on after "files:".
        action: The one thing to do, where the fault itself does not say it more exactly.
    """

    severity: Severity
    meaning: str
    action: str


KINDS: dict[str, FaultKind] = {
    "refused": FaultKind("error", "the reader refuses the data set or a sample", "do what the message says"),
    "bad_class_file": FaultKind("error", "the list of classes cannot be read", "correct the class file"),
    "missing_class_file": FaultKind(
        "error", "the masks hold values that need a list of classes", "write classes.json with the id of every class"
    ),
    "unreadable_image": FaultKind("error", "images that cannot be read", "replace or remove the image"),
    "unreadable_mask": FaultKind(
        "error", "masks that cannot be read", "export the mask again as PNG, or remove the pair"
    ),
    "missing_mask": FaultKind("error", "images without a mask", "add a mask of the same name, or remove the image"),
    "missing_image": FaultKind("error", "masks without an image", "add an image of the same name, or remove the mask"),
    "name_case": FaultKind(
        "error", "masks whose names differ from their image's only by capitals", "rename one of both (--fix does)"
    ),
    "ambiguous_name": FaultKind("error", "several files for one sample", "keep one of each name"),
    "no_train_split": FaultKind(
        "warning", "no split is called train, so that training must be told", "name the splits to learn from"
    ),
    "left_out": FaultKind(
        "warning",
        "entries that are no files, and folders that cannot be listed",
        "remove the entry, or put back what it stands for",
    ),
    "size_mismatch": FaultKind(
        "error", "masks that differ from their image in size", "export the mask at the size of the image"
    ),
    "rotated_image": FaultKind(
        "error",
        "images turned by EXIF whose masks are not",
        "turn the mask as the image is shown, and write both without EXIF (--fix does)",
    ),
    "jpeg_mask": FaultKind("error", "masks saved as JPEG, which blurs the values", "export the mask as PNG"),
    "rgb_mask": FaultKind(
        "error", "masks of colours where indices are expected", "save the class indices as grey PNG (--fix does)"
    ),
    "palette_mask": FaultKind(
        "error",
        "palette masks whose colours say other classes than their indices",
        "number the palette as the classes (--fix does)",
    ),
    "mixed_palettes": FaultKind(
        "error",
        "palette masks in which an index has another colour than in most of them: the classes are numbered differently",
        "give every class its colour in classes.json, then --fix numbers the masks by their colours",
    ),
    "binary_mask": FaultKind(
        "error",
        "masks of 0 and 255, where 255 is void",
        'write the index of the class instead of 255, or list the class with "id": 255',
    ),
    "off_by_one": FaultKind(
        "error", "masks whose values are one too high or too low", "subtract or add 1 (--fix does)"
    ),
    "unknown_values": FaultKind(
        "error", "masks with values that stand for no class", "list the values in classes.json or correct the mask"
    ),
    "unknown_colours": FaultKind(
        "error", "masks with colours that stand for no class", "list the colours in classes.json or repaint the mask"
    ),
    "smoothed_mask": FaultKind(
        "error",
        "masks of so many values that they are photographs, or were resized smoothly",
        "export the mask again, resized with nearest neighbour, as PNG",
    ),
    "one_class": FaultKind(
        "error",
        "training masks of one class alone, of which nothing can be learned",
        "label the other classes, or correct the masks or the list of classes",
    ),
    "lost_objects": FaultKind(
        "warning",
        "objects of the annotation files that cover no pixel of their class",
        "draw or export them as areas inside the image, or remove them",
    ),
    "void_mask": FaultKind("warning", "masks without any labelled pixel", "label the image or remove the pair"),
    "empty_mask": FaultKind("note", "masks of the first class alone", "make sure that nothing else is in the image"),
    "unlabelled_split": FaultKind(
        "note", "splits of images alone, which are not measured", "add masks, or give the images to predict"
    ),
    "sixteen_bit_image": FaultKind(
        "warning",
        "images of 16 bits, which are read by percentiles of each image",
        "convert them to 8 bits with the range you want (--fix does)",
    ),
    "several_pictures": FaultKind(
        "note", "files of several pictures, of which the first is read", "save the picture that is meant alone"
    ),
    "empty_class": FaultKind(
        "warning", "classes that no mask contains", "label some, or take the class out of the list of classes"
    ),
    "class_imbalance": FaultKind(
        "warning",
        "classes of less than a twentieth of the median class's pixels",
        "add images of these classes, or train with class weights or hard example mining",
    ),
    "duplicate_across_splits": FaultKind(
        "error", "equal images in different splits: the measurement is too good", "keep each image in one split"
    ),
    "duplicate_within_split": FaultKind("warning", "equal images in one split", "keep one of each"),
    "near_duplicate_across_splits": FaultKind(
        "warning", "almost equal images in different splits", "keep images of one scene in one split"
    ),
    "near_duplicate_within_split": FaultKind(
        "warning", "almost equal images in one split", "keep one of each, or count on fewer independent images"
    ),
    "sequence_across_splits": FaultKind(
        "warning",
        "frames of one sequence in different splits, close to each other in time",
        "give each sequence to one split, or leave frames between the splits out",
    ),
}
"""Every kind of finding, the most fatal first."""


@dataclass(frozen=True)
class Fatal:
    """What training and evaluation do about a kind of severity error, before anything is written.

    Args:
        found_by: Check that finds it. ``opening``: the reader refuses the data set; ``file``:
            :mod:`refineseg.data.checks.files`; ``mask``: :mod:`refineseg.data.checks.masks`; ``counts``: the classes
            that are counted before training; ``splits``: images are compared across splits.
        outcome: ``refused``; ``read``: the reader reads what is meant, or refuses; ``told``: a warning.
    """

    found_by: Literal["opening", "file", "mask", "counts", "splits"]
    outcome: Literal["refused", "read", "told"] = "refused"


FATAL: dict[str, Fatal] = {
    "refused": Fatal("opening"),
    "bad_class_file": Fatal("opening"),
    "missing_class_file": Fatal("opening"),
    "missing_mask": Fatal("opening"),
    "missing_image": Fatal("opening"),
    "name_case": Fatal("opening"),
    "ambiguous_name": Fatal("opening"),
    "unreadable_image": Fatal("file"),
    "unreadable_mask": Fatal("file"),
    "size_mismatch": Fatal("file"),
    "rotated_image": Fatal("file"),
    "jpeg_mask": Fatal("mask"),
    "rgb_mask": Fatal("mask", "read"),
    "palette_mask": Fatal("mask"),
    "mixed_palettes": Fatal("mask"),
    "binary_mask": Fatal("mask"),
    "off_by_one": Fatal("mask"),
    "unknown_values": Fatal("mask"),
    "unknown_colours": Fatal("mask"),
    "smoothed_mask": Fatal("mask"),
    "one_class": Fatal("counts"),
    "duplicate_across_splits": Fatal("splits", "told"),
}
"""Every kind of severity error: the doctor, training and evaluation share this list and its checks."""


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
