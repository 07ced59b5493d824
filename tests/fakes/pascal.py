"""Tiny trees in the true layouts of the PASCAL family, for tests and demonstrations without a download.

In: an empty folder. Out: drawn scenes of 40x56 pixels in real JPEG, palette PNG and ``.mat`` files. A scene depends on
the seed and its image id alone, so that an id is the same photograph in VOC and SBD, as it is in the real ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refineseg.class_info import voc_palette
from refineseg.data.readers.pascal_context import ALPHABETICAL_IDS, IDS_459
from refineseg.data.readers.person_part import PART_GROUPS
from refineseg.errors import MissingExtraError

SIZE_HW = (40, 56)
VOC_TRAIN = ("2007_000001", "2007_000002", "2008_000003")
VOC_VAL = ("2007_000011", "2009_000012", "2010_000013")
VOC_TEST = ("2008_000021", "2010_000022", "2011_000023")
SBD_TRAIN = ("2007_000011", "2008_000031", "2009_000032", "2010_000033")
"""The first is an image of VOC's val."""
SBD_VAL = ("2008_000041", "2009_000042", "2010_000043")

_VOID = 255
_OTHER_LABEL = 1  # among PASCAL-Context's 459 labels, one that is no class


def _random(identifier: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, int("".join(filter(str.isdigit, identifier)))])


def _scene(identifier: str, seed: int, classes: Sequence[int]) -> NDArray[np.uint8]:
    """Background 0 with two rectangles and an ellipse of different classes, one of them at a border."""
    rng = _random(identifier, seed)
    height, width = SIZE_HW
    mask = np.zeros(SIZE_HW, np.uint8)
    first, second, third = rng.choice(classes, size=3, replace=False)
    top = int(rng.integers(22, 28))
    mask[top:, int(rng.integers(2, 10)) : width - 2] = first
    left = int(rng.integers(3, 10))
    mask[4:20, left : left + 16] = second
    row, column = np.ogrid[:height, :width]
    centre = (int(rng.integers(15, 22)), int(rng.integers(34, 44)))
    mask[((row - centre[0]) / 10) ** 2 + ((column - centre[1]) / 9) ** 2 < 1] = third
    return mask


def _photograph(mask: NDArray[np.uint8], identifier: str, seed: int) -> NDArray[np.uint8]:
    """The classes in dull VOC colours, with noise."""
    colours = np.array(voc_palette(256), np.float64) * 0.7 + 40
    noise = _random(identifier, seed + 1).normal(0, 10, (*mask.shape, 3))
    return (colours[mask] + noise).clip(0, 255).astype(np.uint8)


def _with_void_edges(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Void where classes meet, one pixel to each side, as in VOC's masks."""
    edge = np.zeros(mask.shape, np.bool_)
    below = mask[1:] != mask[:-1]
    beside = mask[:, 1:] != mask[:, :-1]
    edge[1:] |= below
    edge[:-1] |= below
    edge[:, 1:] |= beside
    edge[:, :-1] |= beside
    return np.where(edge, np.uint8(_VOID), mask)


def _save_jpeg(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "JPEG", quality=95)


def _save_png(path: Path, mask: NDArray[np.uint8], *, palette: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette:
        image.putpalette([value for colour in voc_palette(256) for value in colour])
    image.save(path, "PNG")


def _save_mat(path: Path, variables: Mapping[str, Any]) -> None:
    try:
        from scipy.io import savemat  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("scipy", extra="mat", purpose=f"write {path.name}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, dict(variables), do_compression=True)


def _save_list(path: Path, ids: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{identifier}\n" for identifier in ids), encoding="utf-8")


def fake_voc(root: Path, *, seed: int = 0) -> Path:
    """VOC 2012: ``VOCdevkit/VOC2012`` with train, val, trainval, test and train_aug; returns ``root``."""
    folder = root / "VOCdevkit" / "VOC2012"
    lists = folder / "ImageSets" / "Segmentation"
    extra = (*SBD_TRAIN, *SBD_VAL)
    augmented = tuple(dict.fromkeys(i for i in (*VOC_TRAIN, *extra) if i not in VOC_VAL))
    _save_list(lists / "train.txt", VOC_TRAIN)
    _save_list(lists / "val.txt", VOC_VAL)
    _save_list(lists / "trainval.txt", sorted((*VOC_TRAIN, *VOC_VAL)))
    _save_list(lists / "test.txt", VOC_TEST)
    _save_list(lists / "train_aug.txt", augmented)
    for identifier in dict.fromkeys((*VOC_TRAIN, *VOC_VAL, *VOC_TEST, *augmented)):
        mask = _scene(identifier, seed, range(1, 21))
        _save_jpeg(folder / "JPEGImages" / f"{identifier}.jpg", _photograph(mask, identifier, seed))
        if identifier in (*VOC_TRAIN, *VOC_VAL):
            _save_png(folder / "SegmentationClass" / f"{identifier}.png", _with_void_edges(mask))
        if identifier in augmented:
            _save_png(folder / "SegmentationClassAug" / f"{identifier}.png", mask, palette=False)
    return root


def fake_sbd(root: Path, *, seed: int = 0) -> Path:
    """SBD: ``benchmark_RELEASE/dataset`` with train, val and train_noval; returns ``root``.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    folder = root / "benchmark_RELEASE" / "dataset"
    _save_list(folder / "train.txt", SBD_TRAIN)
    _save_list(folder / "val.txt", SBD_VAL)
    _save_list(folder / "train_noval.txt", [i for i in SBD_TRAIN if i not in VOC_VAL])
    for identifier in (*SBD_TRAIN, *SBD_VAL):
        mask = _scene(identifier, seed, range(1, 21))
        _save_jpeg(folder / "img" / f"{identifier}.jpg", _photograph(mask, identifier, seed))
        edges = _with_void_edges(mask) == _VOID
        boundaries = np.empty((20, 1), object)
        for index in range(20):
            boundaries[index, 0] = (edges & (mask == index + 1)).astype(np.uint8)
        present = np.setdiff1d(mask, [0])[:, None]
        struct = {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": present}
        _save_mat(folder / "cls" / f"{identifier}.mat", {"GTcls": struct})
    return root


PERSON_TRAIN = ("2008_000051", "2009_000052", "2010_000053")
PERSON_VAL = ("2008_000061", "2009_000062", "2010_000063")
_BODY = {  # part -> rows and columns, relative to the figure's left edge; later ones cover earlier ones
    **{"head": (2, 12, 4, 13), "hair": (1, 4, 4, 13), "leye": (6, 8, 6, 7), "mouth": (9, 11, 7, 10)},
    **{"neck": (11, 14, 7, 10), "torso": (13, 24, 3, 14), "luarm": (13, 19, 0, 3), "llarm": (19, 24, 0, 3)},
    **{"lhand": (24, 26, 0, 3), "ruarm": (13, 19, 14, 17), "rlarm": (18, 24, 14, 17), "luleg": (24, 31, 3, 8)},
    **{"llleg": (31, 37, 3, 8), "lfoot": (37, 39, 2, 8), "ruleg": (24, 31, 9, 14), "rlleg": (30, 38, 9, 14)},
}


def fake_person_part(root: Path, *, masks: Literal["png", "mat"] = "png", seed: int = 0) -> Path:
    """Person-Part: ``VOCdevkit/VOC2010`` with SegmentationPart, or ``Annotations_Part`` beside it; returns ``root``.

    Raises:
        MissingExtraError: ``.mat`` files are asked for and scipy is not installed.
    """
    folder = root / "VOCdevkit" / "VOC2010"
    class_of = {part: index for index, parts in PART_GROUPS.items() for part in parts}
    for split, ids in (("train", PERSON_TRAIN), ("val", PERSON_VAL)):
        _save_list(folder / "ImageSets" / "PersonPart" / f"{split}.txt", ids)
        for identifier in ids:
            left = int(_random(identifier, seed).integers(1, 36))
            mask = np.zeros(SIZE_HW, np.uint8)
            parts = []
            for name, (top, bottom, start, end) in _BODY.items():
                region = np.zeros(SIZE_HW, np.uint8)
                region[top:bottom, left + start : left + end] = 1
                mask[region == 1] = class_of[name]
                parts.append((name, region))
            _save_jpeg(folder / "JPEGImages" / f"{identifier}.jpg", _photograph(mask, identifier, seed))
            if masks == "png":
                _save_png(folder / "SegmentationPart" / f"{identifier}.png", mask)
            else:
                _save_mat(root / "Annotations_Part" / f"{identifier}.mat", {"anno": _annotation(identifier, parts)})
    return root


def _annotation(identifier: str, parts: Sequence[tuple[str, NDArray[np.uint8]]]) -> dict[str, Any]:
    """A person with parts, one without, and a dog whose head is background."""
    whole = np.clip(sum((region for _, region in parts), np.zeros(SIZE_HW, np.uint8)), 0, 1)
    rest = 1 - whole
    kind = [("class", object), ("class_ind", object), ("mask", object), ("parts", object)]
    objects = np.empty((1, 3), kind)
    objects[0, 0] = ("dog", 12.0, rest, _parts([("head", rest)]))
    objects[0, 1] = ("person", 15.0, whole, _parts(parts))
    objects[0, 2] = ("person", 15.0, rest, np.empty((0, 0)))
    return {"imname": identifier, "objects": objects}


def _parts(parts: Sequence[tuple[str, NDArray[np.uint8]]]) -> NDArray[Any]:
    struct = np.empty((1, len(parts)), [("part_name", object), ("mask", object)])
    for index, part in enumerate(parts):
        struct[0, index] = part
    return struct


CONTEXT_TRAIN = ("2008_000071", "2009_000072", "2010_000073")
CONTEXT_VAL = ("2008_000081", "2009_000082", "2010_000083")


def fake_pascal_context(
    root: Path,
    *,
    masks: Literal["mat", "png"] = "mat",
    order: Literal["refinenet", "alphabetical"] = "refinenet",
    voc_masks: bool = False,
    seed: int = 0,
) -> Path:
    """PASCAL-Context: ``VOCdevkit/VOC2010`` with masks in ``trainval/*.mat`` or ``SegmentationClassContext``.

    Args:
        root: The folder to fill.
        masks: Which of them. ``.mat`` come with VOC 2010's lists in ``ImageSets/Main``, PNG with
            ``ImageSets/SegmentationContext``.
        order: Of the ids in PNG masks; those in RefineNet's order carry VOC's palette, alphabetical ones are grey.
        voc_masks: Also VOC 2010's own ``SegmentationClass``, which shows the order.
        seed: Of the scenes.

    Returns:
        ``root``.

    Raises:
        MissingExtraError: ``.mat`` files are asked for and scipy is not installed.
    """
    folder = root / "VOCdevkit" / "VOC2010"
    lists = folder / "ImageSets" / ("Main" if masks == "mat" else "SegmentationContext")
    labels, alphabetical = np.array(IDS_459, np.uint16), np.array(ALPHABETICAL_IDS, np.uint8)
    for split, ids in (("train", CONTEXT_TRAIN), ("val", CONTEXT_VAL)):
        _save_list(lists / f"{split}.txt", ids)
        for identifier in ids:
            things = _scene(identifier, seed, range(2, 21))  # VOC's, but aeroplane: it is 1 in both orders
            mask = np.where(things == 0, _random(identifier, seed).choice([25, 36, 50, 56]), things).astype(np.uint8)
            mask[:2] = 0
            _save_jpeg(folder / "JPEGImages" / f"{identifier}.jpg", _photograph(mask, identifier, seed))
            if voc_masks:
                _save_png(folder / "SegmentationClass" / f"{identifier}.png", _with_void_edges(things))
            if masks == "mat":
                label_map = np.where(mask == 0, np.uint16(_OTHER_LABEL), labels[mask])
                _save_mat(root / "trainval" / f"{identifier}.mat", {"LabelMap": label_map})
            else:
                stored = mask if order == "refinenet" else alphabetical[mask]
                path = folder / "SegmentationClassContext" / f"{identifier}.png"
                _save_png(path, stored, palette=order == "refinenet")
    return root
