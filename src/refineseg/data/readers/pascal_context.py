"""PASCAL-Context: 59 classes and background on the images of VOC 2010 (Mottaghi et al., CVPR 2014).

Two orders of its classes are in use, with the same ids 0..59: RefineNet's (VOC's classes first) and the alphabetical
one of the usual converters (mmsegmentation, PaddleSeg). Whatever the files hold, samples have RefineNet's order; how a
folder of PNG masks is written is found out from the files or said by the data set's name, never assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refineseg.class_info import ClassInfo, LabelTable, voc_palette
from refineseg.data.readers.matlab import load_mat
from refineseg.data.readers.pascal_layout import Archive, find_folder, first_file, names_in, pair_by_id, read_ids
from refineseg.data.samples.catalog import catalog_classes
from refineseg.data.samples.sample import PairDataset
from refineseg.data.samples.sources import mapped_labels
from refineseg.errors import DatasetError
from refineseg.images.files import read_image_size, read_mask

SPLITS = ("train", "val", "trainval", "test")
IDS_459 = (
    *(0, 2, 23, 25, 31, 34, 45, 59, 65, 72, 98, 397, 113, 207, 258, 284, 308, 347, 368, 416, 427),
    *(9, 18, 22, 33, 44, 46, 68, 80, 85, 104, 115, 144, 158, 159, 162, 187, 189, 220, 232, 259, 260, 105, 296, 355),
    *(295, 324, 326, 349, 354, 360, 366, 19, 415, 420, 424, 440, 445, 454, 458),
)
"""Of each class, in RefineNet's order: its number among the 459 labels of the ``.mat`` files.

Source: RefineNet's pascalcontext_class_names.mat, looked up by name in the label list of the FCN repository.
"""

ALPHABETICAL_IDS = tuple(sorted(IDS_459).index(number) for number in IDS_459)
"""Of each class, in RefineNet's order: its id in alphabetical masks, which count the 459 labels upwards."""

_NUM_LABELS = 459
_PNG_FOLDERS = ("SegmentationClassContext", "Context")
_NUM_VOC_CLASSES = 21
_COMPARED = 16  # masks that are compared with VOC's own to find the order of the classes
_FEWEST_PIXELS = 500
_CONTEXT = Archive(
    "PASCAL-Context",
    "VOCdevkit/VOC2010/JPEGImages with its masks in trainval/*.mat, VOC2010/SegmentationClassContext or "
    "VOC2010/Context",
    "VOCtrainval_03-May-2010.tar of http://host.robots.ox.ac.uk/pascal/VOC/voc2010/ (images and lists) and "
    "trainval.tar.gz of https://cs.stanford.edu/~roozbeh/pascal-context/ (masks)",
)


def read_label_map(path: Path, *, background: int) -> NDArray[np.uint8]:
    """The classes of a ``trainval/ID.mat``: ``LabelMap``, numbers up to 459, of which 59 are classes.

    Args:
        path: The file.
        background: What all other numbers become: 0; or 255 to leave them out, when the classes are 0..58.

    Raises:
        DatasetError: The file cannot be read.
        LabelError: It holds numbers above 459.
    """
    values = load_mat(path, ["LabelMap"])["LabelMap"]
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "ui":
        raise DatasetError(f"expected LabelMap of integers by row and column in {path}; unpack trainval.tar.gz again")
    first = 1 if background == 0 else 0
    classes = np.full(_NUM_LABELS + 1, background, np.uint8)
    classes[list(IDS_459[1:])] = np.arange(first, first + len(IDS_459) - 1)
    return mapped_labels(values, classes, name=str(path))


def _png_table(order: str, *, background: int) -> LabelTable:
    """What the values of PNG masks in an order stand for; colours are VOC's colour of the value."""
    ids = range(len(IDS_459)) if order == "refinenet" else ALPHABETICAL_IDS
    shift = 0 if background == 0 else 1
    values = {value: index - shift if index else background for index, value in enumerate(ids)}
    colours = voc_palette(len(IDS_459))
    return LabelTable(values | {255: 255}, {colours[value]: index for value, index in values.items()})


def _agreement(masks: Sequence[Path], voc_masks: Path) -> dict[str, int]:
    """In how many pixels of VOC's objects each order of the classes says the same as VOC; ``"pixels"``: of how many.

    Aeroplane is left out, it is 1 in both orders.
    """
    found = {"refinenet": 0, "alphabetical": 0, "pixels": 0}
    voc_info = catalog_classes("voc")
    voc_table = LabelTable.identity(voc_info)
    for path in masks:
        truth = read_mask(voc_masks / path.name, table=voc_table, ignore_index=255)
        objects = (truth > 1) & (truth < _NUM_VOC_CLASSES)
        found["pixels"] += int(objects.sum())
        for order in ("refinenet", "alphabetical"):
            mask = read_mask(path, table=_png_table(order, background=0), ignore_index=255)
            if mask.shape == truth.shape:
                found[order] += int((mask[objects] == truth[objects]).sum())
    return found


def _has_voc_colours(path: Path) -> bool:
    """True for RGB masks and for palette masks that carry the VOC colours, as RefineNet's code writes them."""
    read_image_size(path)  # an unreadable file is an error that names it
    with Image.open(path) as image:
        if image.mode in ("RGB", "RGBA"):
            return True
        palette = image.getpalette() if image.mode == "P" else None
    expected = [value for colour in voc_palette(len(IDS_459)) for value in colour]
    return palette is not None and palette[: len(expected)] == expected


def _evenly(names: Sequence[str], count: int) -> list[str]:
    return [names[i * len(names) // count] for i in range(count)] if len(names) > count else list(names)


def _order_of(folder: Path, voc_masks: Path, *, said: str) -> tuple[str, str]:
    """The order of the classes in a folder of PNG masks, and a note that says how it is known.

    Raises:
        DatasetError: The files do not tell and the user did not say; or they contradict the user.
    """
    names = sorted(name for name in names_in(folder) if name.endswith(".png"))
    compared = _evenly(sorted(set(names) & names_in(voc_masks)), _COMPARED)
    agreement = _agreement([folder / name for name in compared], voc_masks)
    total = agreement.pop("pixels")
    best, other = sorted(agreement, key=lambda order: -agreement[order])
    if total >= _FEWEST_PIXELS and agreement[best] > 0.5 * total and agreement[other] < 0.25 * agreement[best]:
        if said not in ("", best):
            raise DatasetError(
                f"expected masks in {said} class order in {folder}, but on {len(compared)} images they agree with "
                f"{voc_masks} in {best} order ({agreement[best] / total:.0%} of the object pixels, against "
                f"{agreement[other] / total:.0%}); open them as pascal_context"
            )
        share = f"{agreement[best] / total:.0%} of the object pixels as in {voc_masks.name}"
        return best, f"masks: {folder.name}/*.png, classes in {best} order ({share})"
    if said:
        return said, f"masks: {folder.name}/*.png, classes in {said} order (as asked for)"
    if all(_has_voc_colours(folder / name) for name in _evenly(names, _COMPARED)):
        return "refinenet", f"masks: {folder.name}/*.png, classes in refinenet order (the files have VOC's colours)"
    raise DatasetError(
        f"expected to learn from {folder} in which order its classes 0..59 are, but the files do not tell: the usual "
        "converters (mmsegmentation, PaddleSeg) write them alphabetically, RefineNet's code begins with VOC's classes; "
        "open them as pascal_context_alphabetical or pascal_context_refinenet, or add the folder SegmentationClass of "
        "VOC 2010 beside them, or trainval/*.mat"
    )


def _classes(background: int) -> ClassInfo:
    whole = catalog_classes("pascal_context")
    return whole if background == 0 else ClassInfo(whole.names[1:], whole.palette[1:], background)


def _no_masks(bases: Sequence[Path], order: str) -> str:
    kinds = _PNG_FOLDERS if order else ("trainval (.mat files)", *_PNG_FOLDERS)
    merged = any((base / "trainval_merged.json").is_file() for base in bases)
    advice = (
        "trainval_merged.json is not read: convert it to PNG with the Detail API, or unpack trainval.tar.gz of "
        "https://cs.stanford.edu/~roozbeh/pascal-context/"
        if merged
        else f"unpack {_CONTEXT.download}"
    )
    return (
        f"expected the masks of PASCAL-Context in {' or '.join(map(str, bases))}: one of {', '.join(kinds)}, "
        f"got none of them; {advice}"
    )


def _lists(bases: Sequence[Path], split: str) -> list[Path]:
    names = (
        f"ImageSets/SegmentationContext/{split}.txt",
        f"ImageSets/Segmentation/{split}_context.txt",
        f"{split}.txt",
        f"ImageSets/Main/{split}.txt",
    )
    return [base / name for name in names for base in bases]


def open_pascal_context(root: Path, split: str, *, order: str = "", background: int = 0) -> PairDataset:
    """One split of PASCAL-Context, 60 classes with background in RefineNet's order.

    Images are VOC 2010's ``JPEGImages/ID.jpg``. Masks are, whichever is there first, in ROOT or in the VOC folder:

    * ``trainval/ID.mat``: the official ones (:func:`read_label_map`);
    * ``SegmentationClassContext/ID.png`` (mmsegmentation's name) or ``Context/ID.png`` (PaddleSeg's): ids 0..59, or
      RGB in the VOC colours of the ids. The order of the ids is found by comparing a few masks with VOC's own in
      ``SegmentationClass`` (VOC 2010 has them for a fifth of the images); failing that, VOC's colours in the files mean
      RefineNet's order; failing that, it is an error, and ``order`` says it. ``notes`` tell which it was.

    Lists are ``ImageSets/SegmentationContext/SPLIT.txt``, ``ImageSets/Segmentation/SPLIT_context.txt``,
    ``SPLIT.txt``, or VOC 2010's own ``ImageSets/Main/SPLIT.txt``, whose images are exactly those of PASCAL-Context.

    Args:
        root: The folder that holds ``VOCdevkit`` and ``trainval``, or the VOC folder with the masks in it.
        split: ``train`` (4998 images), ``val`` (5105) or ``trainval``; images of a list ``test`` may lack masks.
        order: Order of the ids in PNG masks, ``refinenet`` or ``alphabetical``; empty: it is found out. Samples have
            RefineNet's order in any case.
        background: Value of background: 0, or 255 for void; the classes are 0..58 then.

    Raises:
        DatasetError: No such split, list or files; an order that cannot be known, or that VOC's masks contradict.
    """
    if split not in SPLITS:
        raise DatasetError(
            f"expected a PASCAL-Context split of {', '.join(SPLITS)}, got {split!r}; join splits with '+'"
        )
    places = ("VOCdevkit/VOC2010", "VOC2010", ".", "VOCdevkit/VOC2012", "VOC2012")
    folder = find_folder(root, places, holding=("JPEGImages",), archive=_CONTEXT)
    bases = list(dict.fromkeys((folder, root)))
    mats = [base / "trainval" for base in bases if names_in(base / "trainval")] if not order else []
    pngs = [base / name for base in bases for name in _PNG_FOLDERS if names_in(base / name)]
    if not mats and not pngs:
        raise DatasetError(_no_masks(bases, order))
    listing = first_file(_lists(bases, split), what=f"the list of PASCAL-Context's {split} images", archive=_CONTEXT)
    masks = mats or pngs[:1]
    found, notes = "refinenet", tuple[str, ...]()
    if not mats:
        found, note = _order_of(masks[0], folder / "SegmentationClass", said=order)
        notes = (note,)
    pairs = pair_by_id(
        read_ids(listing),
        listing=listing,
        images=folder / "JPEGImages",
        masks=masks,
        suffix=".mat" if mats else ".png",
        labelled=split != "test",
        archive=_CONTEXT,
    )
    reader = partial(read_label_map, background=background) if mats else None
    return PairDataset(pairs, _classes(background), _png_table(found, background=background), notes, reader)
