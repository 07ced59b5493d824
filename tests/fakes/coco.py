"""A tiny COCO in its true layout: polygons, run lengths, compressed run lengths, crowds, overlaps, a grey photograph.

In: an empty folder. Out: JPEG files and ``instances_*.json``, for tests and demonstrations without a download.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refineseg.data.readers.coco_voc import CATEGORIES

SIZE_HW = (40, 56)
IMAGES_PER_SPLIT = 4
"""In each split; the last has too few pixels of VOC's classes."""
_BANANA = 52  # a category that VOC does not have

Box = tuple[int, int, int, int]
"""Top, bottom, left, right."""


def _inside(box: Box) -> NDArray[np.uint8]:
    mask = np.zeros(SIZE_HW, np.uint8)
    mask[box[0] : box[1], box[2] : box[3]] = 1
    return mask


def _polygon(box: Box) -> list[list[float]]:
    top, bottom, left, right = map(float, box)
    return [[left, top, right, top, right, bottom, left, bottom]]


def run_lengths(mask: NDArray[np.uint8]) -> list[int]:
    """Lengths of the runs of 0 and 1 in turn, down the columns, beginning with those of 0.

    Example:
        >>> run_lengths(np.array([[0, 1], [0, 1]], np.uint8))
        [2, 2]
        >>> run_lengths(np.array([[1, 0], [1, 1]], np.uint8))
        [0, 2, 1, 1]
    """
    column_wise = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(column_wise)) + 1
    bounds = [0, *changes.tolist(), column_wise.size]
    lengths = [end - start for start, end in pairwise(bounds)]
    return [0, *lengths] if column_wise[0] else lengths


def compressed(counts: Sequence[int]) -> str:
    """Run lengths as COCO's string: from the fourth on as the difference to the one two before, five bits a character.

    Example:
        >>> compressed([5, 3, 40])
        '53X1'

    Source: the format of COCO's API: low bits first, 32 = more follow, 16 = sign of the last, from character 48 on.
    """
    characters = []
    for index, count in enumerate(counts):
        number = count - counts[index - 2] if index > 2 else count
        while True:
            bits = number & 31
            number >>= 5
            last = number == (-1 if bits & 16 else 0)
            characters.append(chr(48 + (bits if last else bits | 32)))
            if last:
                break
    return "".join(characters)


def _segmentation(box: Box, kind: str) -> dict[str, Any] | list[list[float]]:
    if kind == "polygon":
        return _polygon(box)
    counts = run_lengths(_inside(box))
    return {"size": list(SIZE_HW), "counts": counts if kind == "runs" else compressed(counts)}


def fake_coco_voc(root: Path, *, year: int = 2017, seed: int = 0) -> Path:
    """COCO: ``annotations/instances_{train,val}YEAR.json`` with ``trainYEAR`` and ``valYEAR``.

    Args:
        root: The folder to fill.
        year: 2014 names the images ``COCO_train2014_000000000001.jpg``, 2017 ``000000000001.jpg``.
        seed: Of the positions.

    Returns:
        ``root``.
    """
    rng = np.random.default_rng(seed)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    ids = list(CATEGORIES)
    for number, split in enumerate(("train", "val")):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        folder = root / f"{split}{year}"
        folder.mkdir(exist_ok=True)
        for index in range(IMAGES_PER_SPLIT):
            identifier = 100 * (number + 1) + index
            prefix = f"COCO_{split}{year}_" if year == 2014 else ""
            name = f"{prefix}{identifier:012d}.jpg"
            first, second = (ids[(3 * index + 7 * number + k) % len(ids)] for k in (0, 1))
            things = _things(int(rng.integers(0, 4)), first, second, small=index == IMAGES_PER_SPLIT - 1)
            pixels = rng.normal(110, 12, (*SIZE_HW, 3))
            for category, box, kind, crowd in things:
                pixels[_inside(box) == 1] += np.array([category % 7 * 12, category % 5 * 20, category % 3 * 30]) - 40
                height, width = box[1] - box[0], box[3] - box[2]
                annotations.append(
                    {
                        "segmentation": _segmentation(box, kind),
                        "area": float(height * width),
                        "iscrowd": int(crowd),
                        "image_id": identifier,
                        "bbox": [box[2], box[0], width, height],
                        "category_id": category,
                        "id": 1000 + len(annotations),
                    }
                )
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            (image.convert("L") if index == 1 else image).save(folder / name, "JPEG", quality=95)
            images.append({"file_name": name, "height": SIZE_HW[0], "width": SIZE_HW[1], "id": identifier})
        categories = (*CATEGORIES.items(), (_BANANA, "banana"))
        instances = {
            "info": {"description": "drawn", "year": year},
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": [{"supercategory": "", "id": i, "name": name} for i, name in categories],
        }
        (root / "annotations" / f"instances_{split}{year}.json").write_text(json.dumps(instances), encoding="utf-8")
    return root


def _things(shift: int, first: int, second: int, *, small: bool) -> list[tuple[int, Box, str, bool]]:
    """Category, box, kind of segmentation and whether it is a crowd; two of the boxes overlap."""
    if small:
        return [(first, (2, 12, 2, 22 + shift), "polygon", False)]
    return [
        (first, (2, 26 + shift, 2, 30), "polygon", False),
        (second, (20, 38, 20, 44 + shift), "compressed", False),
        (_BANANA, (2, 16, 34, 44), "polygon", False),
        (first, (2, 14, 46, 54), "runs", True),
        (second, (30, 38, 50, 55), "runs", False),
    ]
