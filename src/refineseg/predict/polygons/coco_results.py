"""Regions as COCO JSON: categories, images and annotations with a score.

In: regions of one image. Out: what ``pycocotools`` and annotation programs read. Segmentations are compressed run
lengths, because COCO's polygons cannot have holes.

Source: the data format page of https://cocodataset.org.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import ClassInfo
from refineseg.files.run_lengths import compressed
from refineseg.predict.polygons.borders import spread
from refineseg.predict.polygons.class_regions import ClassRegion, corners


def coco_annotations(
    regions: Sequence[ClassRegion], class_info: ClassInfo, *, size_hw: tuple[int, int], file_name: str
) -> dict[str, Any]:
    """COCO's tables for the regions of one image.

    A pixel is inside where its centre is, so every pixel is in at most one region, with simpler borders too. The area
    is that of the segmentation written; the score is the mean confidence, absent where unknown.

    Args:
        regions: Regions of the image.
        class_info: The classes; category ids are class indices plus 1, since 0 means background to many programs.
        size_hw: Height and width of the image.
        file_name: Name of the file of the image.

    Returns:
        Plain values for JSON.

    Example:
        >>> from refineseg.predict.polygons.class_regions import regions_of
        >>> classes = ClassInfo(("sky", "road"))
        >>> regions = regions_of(np.array([[0, 0], [1, 1]]), class_info=classes)
        >>> coco_annotations(regions, classes, size_hw=(2, 2), file_name="a.png")["annotations"][1]["segmentation"]
        {'size': [2, 2], 'counts': '1110'}
    """
    colours = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in class_info.palette]
    tables: dict[str, Any] = {
        "images": [{"id": 1, "file_name": file_name, "height": size_hw[0], "width": size_hw[1]}],
        "categories": [
            {"id": i + 1, "name": name, "supercategory": "", "color": colour}
            for i, (name, colour) in enumerate(zip(class_info.names, colours, strict=True))
        ],
        "annotations": [],
    }
    if not regions:
        return tables
    for region, (text, pixels, box) in zip(regions, _run_lengths(regions, size_hw), strict=True):
        if box is None:  # simplified away
            continue
        annotation = {
            "id": len(tables["annotations"]) + 1,
            "image_id": 1,
            "category_id": region.class_index + 1,
            "segmentation": {"size": list(size_hw), "counts": text},
            "bbox": box,
            "area": pixels,
            "iscrowd": 0,
        }
        if region.mean_confidence is not None:
            annotation["score"] = round(region.mean_confidence, 6)
        tables["annotations"].append(annotation)
    return tables


def _run_lengths(
    regions: Sequence[ClassRegion], size_hw: tuple[int, int]
) -> Iterator[tuple[str, int, list[int] | None]]:
    """Of each region its compressed run lengths, how many pixels they cover, and the box around these."""
    region, changes = _changes(regions, size_hw)
    bounds = np.searchsorted(region, np.arange(len(regions) + 1)).tolist()
    ends = {"prepend": 0, "append": size_hw[0] * size_hw[1]}
    runs = [np.diff(changes[first:last], **ends).tolist() for first, last in pairwise(bounds)]
    for counts, text in zip(runs, compressed(runs, size_hw), strict=True):
        yield text, sum(counts[1::2]), _box(counts, size_hw[0])


def _box(counts: Sequence[int], height: int) -> list[int] | None:
    """Left, top, width and height of the pixels of run lengths; None: there are none."""
    ends = np.cumsum(counts)
    first, last = ends[:-1:2], ends[1::2] - 1
    first, last = first[first <= last], last[first <= last]
    if not len(first):
        return None
    left, right = int(first.min()) // height, int(last.max()) // height
    whole = (first // height != last // height).any()  # a run over several columns touches both borders
    top, bottom = (0, height - 1) if whole else (int((first % height).min()), int((last % height).max()))
    return [left, top, right - left + 1, bottom - top + 1]


def _changes(regions: Sequence[ClassRegion], size_hw: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels, counted down the columns, at which each region begins or ends; sorted by region, then pixel."""
    height = size_hw[0]
    points, rings, owners = corners(regions)
    edge = np.ones(len(points), np.bool_)
    edge[rings[1:] - 1] = False
    index = np.flatnonzero(edge)
    owner = np.repeat(owners, np.diff(rings) - 1)
    start, stop = points[index], points[index + 1]
    back = start[:, 0] > stop[:, 0]
    start[back], stop[back] = stop[back], start[back]  # both neighbours then compute the same numbers
    first, last = np.ceil(start[:, 0] - 0.5).astype(np.int64), np.ceil(stop[:, 0] - 0.5).astype(np.int64)
    count = last - first
    column = spread(first, count)
    x, y = np.repeat(start, count, axis=0).T
    slope = (stop[:, 1] - start[:, 1]) / np.maximum(stop[:, 0] - start[:, 0], 1)
    row = np.ceil(y + (column + 0.5 - x) * np.repeat(slope, count) - 0.5).astype(np.int64)
    region, place = np.repeat(owner, count), column * height + row
    order = np.lexsort((place, region))
    region, place = region[order], place[order]
    fresh = np.append(True, (np.diff(region) != 0) | (np.diff(place) != 0))
    groups = np.flatnonzero(fresh)
    odd = np.diff(np.append(groups, len(place))) % 2 == 1  # two changes at one pixel are none
    groups = groups[odd & (place[groups] < height * size_hw[1])]
    return region[groups], place[groups]
