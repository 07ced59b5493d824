"""labelme: one JSON file per image, drawn as the program itself exports it.

In: ``NAME.json`` beside ``NAME.jpg``, or with the image inside. Out: samples whose masks are painted when read.

Source: labelme's JSON (``LabelFile``) and its export (``labelme.utils.shapes_to_label``), versions 3 to 5.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from refineseg.data.own.outlines import Canvas, check_near, looks_like_fractions
from refineseg.data.own.painting import UNPAINTABLE, Drawing, check_size, damaged, painted_dataset, unknown_split
from refineseg.data.samples.class_files import CLASS_FILES, NO_ANNOTATIONS
from refineseg.data.samples.json_files import read_json
from refineseg.data.samples.left_out import FRACTIONS
from refineseg.data.samples.own_classes import NamedClasses, classes_beside, named_classes, tidy
from refineseg.data.samples.sources import SourceDataset
from refineseg.data.samples.threads import read_all
from refineseg.errors import DatasetError, ImageError
from refineseg.files.archives import list_files
from refineseg.images.files import IMAGE_SUFFIXES, read_image_size, read_rgb

_CLASS_FILES = (*CLASS_FILES, "labels.txt")
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_ANY_PIXELS = 1 << 24  # of an embedded image, however small its file
_PIXELS_PER_BYTE = 200  # of a larger one; photographs have below 50
_LINE_WIDTH, _POINT_RADIUS = 10, 5  # Source: labelme.utils.shape_to_mask
_FEWEST = {
    **{"polygon": 3, "rectangle": 2, "circle": 2, "line": 2, "linestrip": 2, "point": 1, "points": 1, "mask": 2},
    **{"rotation": 4, "oriented_rectangle": 4},  # corners of a turned rectangle, of programs that save labelme's JSON
}
"""Points that a shape has at least."""


def labelme_files(root: Path) -> dict[str, tuple[str, ...]]:
    """The JSON files of each split, by their path in the root.

    Folders of training runs hold JSON of their own, which is left out.

    Splits are the folders ``train``, ``val`` (or ``valid``) and ``test`` where all files lie in such folders; otherwise
    everything is ``train``.
    """
    names = [name for name in list_files(root) if name.lower().endswith(".json") and name not in NO_ANNOTATIONS]
    runs = {name.removesuffix("run.json") for name in names if name.endswith("/run.json")}
    ours = tuple(runs & {name.removesuffix("data.json") for name in names if name.endswith("/data.json")})
    names = [name for name in names if not name.startswith(ours)]  # of trained models
    parts = [name.split("/")[0].lower() if "/" in name else "" for name in names]
    if not names or not all(part in _SPLITS for part in parts):
        return {"train": tuple(names)} if names else {}
    by_split = {
        split: tuple(n for n, part in zip(names, parts, strict=True) if _SPLITS[part] == split)
        for split in dict.fromkeys(_SPLITS.values())
    }
    return {split: found for split, found in by_split.items() if found}


def labelme_splits(root: Path) -> tuple[str, ...]:
    """The splits of a folder of labelme's files."""
    return tuple(labelme_files(root))


def open_labelme(root: Path, split: str) -> SourceDataset:
    """One split of a folder of labelme's JSON files.

    * Every JSON file is a sample; images without one are not labelled and left out. The image is the one of the same
      name beside the JSON, else ``imagePath``, else ``imageData`` in it.
    * Classes: those of ``classes.json``, ``labelmap.txt``, ``classes.txt`` or ``labels.txt`` in ROOT, else the sorted
      labels of all files of all splits (which must all be read for that). ``background`` is class 0: pixels of no shape
      and those labelled ``_background_``; ``__ignore__`` is void.
    * Polygons, rectangles (two corners or all, in any order), circles and masks are drawn as labelme's own export draws
      them: in the order of the file, later ones on top, edges included; lines are 10 pixels wide and points have a
      radius of 5. Shapes outside the image or wholly under later ones are counted.

    Raises:
        DatasetError: No such split or files, or other JSON than labelme's.
    """
    files = labelme_files(root)
    if not files:
        raise DatasetError(f"expected labelme's JSON files in {root}, got none; save one for each image")
    if split not in files:
        raise unknown_split(split, tuple(files), root)
    classes, notes = classes_beside(root, file_names=_CLASS_FILES), []
    if classes is None:
        everything = [root / name for names in files.values() for name in names]
        classes = _classes_of(everything)
        notes = [
            f"{classes.class_info.num_classes} classes, the labels of {len(everything)} JSON files; write "
            f"{root / 'classes.txt'} to fix their order and to start faster"
        ]
    there = frozenset(list_files(root))
    drawings = tuple(_drawing(root, name, there) for name in files[split])
    used = {drawing.image for drawing in drawings}
    folders = {PurePosixPath(name).parent for name in files[split]}
    images = [name for name in there if name.lower().endswith(IMAGE_SUFFIXES) and PurePosixPath(name).parent in folders]
    unlabelled = sum(root / name not in used for name in images)
    if unlabelled:
        notes.append(f"{split}: {unlabelled} of {len(images)} images have no JSON file: not labelled, left out")
    return painted_dataset(drawings, classes, paint_labelme, notes=tuple(notes), content=embedded_image)


def _drawing(root: Path, name: str, there: frozenset[str]) -> Drawing:
    """The image of a JSON file; the JSON file itself where the image is in it."""
    stem = PurePosixPath(name).with_suffix("")
    found = [n for s in IMAGE_SUFFIXES for n in (f"{stem}{s}", f"{stem}{s.upper()}") if n in there]
    labels = root / name
    if len(found) > 1:  # a picture of the labels may lie there, too
        stated = PurePosixPath(str(_content(labels).get("imagePath") or "").replace("\\", "/")).name
        found.sort(key=lambda n: PurePosixPath(n).name != stated)
    beside = next(iter(found), None)
    if beside is None:
        stated = str(_content(labels).get("imagePath") or "").replace("\\", "/")
        for candidate in (stem.parent / stated, stem.parent / PurePosixPath(stated).name):
            tidy = _tidy(candidate)
            if tidy in there and tidy.lower().endswith(IMAGE_SUFFIXES):
                beside = tidy
                break
        else:
            if not isinstance(_content(labels).get("imageData"), str):
                raise DatasetError(
                    f"expected the image of {labels} beside it, as its imagePath {stated!r}, or in its imageData, got "
                    "none; copy it there, or remove the JSON file"
                )
    return Drawing(labels if beside is None else root / beside, labels, stem.as_posix())


def _tidy(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _content(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise DatasetError(
            f"expected labelme's JSON with shapes in {path}, got another; move it, or give its format as NAME:ROOT"
        )
    return content


def _classes_of(paths: Sequence[Path]) -> NamedClasses:
    """The sorted labels of all files."""

    def labels(index: int) -> Counter[str]:
        try:
            return Counter(tidy(_label(shape)) for shape in _content(paths[index])["shapes"])
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{paths[index]}: expected shapes with a label, got others ({error!r})") from error

    uses: Counter[str] = Counter()
    for found in read_all(labels, len(paths)):
        uses.update(found)
    return replace(named_classes(sorted(uses)), uses=uses)


def embedded_image(drawing: Drawing) -> bytes | None:
    """The image inside a JSON file; None where it is a file of its own.

    Raises:
        DatasetError: It is no base64.
    """
    if drawing.image != drawing.labels:
        return None
    try:
        content = base64.b64decode(_content(drawing.labels)["imageData"], validate=False)
    except UNPAINTABLE as error:
        raise DatasetError(f"{drawing.labels}: expected an image as base64 in imageData, got {error}") from error
    height, width = read_image_size(drawing.labels, content=content)
    if height * width > max(_ANY_PIXELS, _PIXELS_PER_BYTE * len(content)):
        raise ImageError(
            f"expected a photograph in the imageData of {drawing.labels}, got {len(content)} bytes that declare "
            f"{height}x{width} pixels; put the image beside the file, or remove it"
        )
    return content


def paint_labelme(drawing: Drawing, size_hw: tuple[int, int], classes: NamedClasses) -> Canvas:
    """The shapes of one JSON file.

    Raises:
        DatasetError: The file states another size, or holds a shape that is none of labelme's.
        LabelError: A label is no class.
    """
    content = _content(drawing.labels)
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if height is not None and width is not None:
        try:
            check_size(drawing, (int(height), int(width)), size_hw)
        except UNPAINTABLE as error:
            raise damaged(drawing, "numbers as imageHeight and imageWidth", error) from error
    canvas = Canvas(size_hw, void=classes.class_info.ignore_index, kind="shapes", in_order=True)
    for number, shape in enumerate(content["shapes"]):
        where = f"{drawing.labels}, shape {number}"
        try:
            points = np.array(shape["points"], np.float64).reshape(-1, 2)
            value = classes.index(_label(shape), where=where)
            if looks_like_fractions(points):
                canvas.leave_out(FRACTIONS, where)
            else:
                canvas.add(partial(_inside, shape, points, size_hw, drawing.labels), value, where, points=points)
        except UNPAINTABLE as error:
            raise damaged(drawing, f"a shape of labelme as number {number}", error) from error
    return canvas


def _label(shape: dict[str, Any]) -> str:
    label = shape["label"]
    if label is None or not str(label).strip():
        raise ValueError("a shape without a label")
    if not isinstance(label, str | int):
        raise ValueError(f"a label that is no name, but {label!r:.40}")
    return str(label)


def _inside(
    shape: dict[str, Any], points: NDArray[np.float64], size_hw: tuple[int, int], path: Path
) -> NDArray[np.bool_]:
    """The pixels of one shape; ``(H, W)``."""
    kind = shape.get("shape_type") or "polygon"  # files of version 3 have none
    check_near(points, size_hw)
    if kind not in _FEWEST:
        raise ValueError(f"a shape of type {kind!r}")
    if len(points) < _FEWEST[kind]:
        raise ValueError(f"a {kind} of {len(points)} points")
    if kind == "mask":
        return _placed(shape["mask"], points, size_hw, path)
    image = Image.new("1", size_hw[::-1])
    draw = ImageDraw.Draw(image)
    xy = [(x, y) for x, y in points.tolist()]
    low, high = points.min(axis=0), points.max(axis=0)
    if kind == "rectangle" and ((points == low) | (points == high)).all():  # two corners, or all in any order
        draw.rectangle([*low.tolist(), *high.tolist()], outline=1, fill=1)
    elif kind == "circle":
        if len(points) > 2:
            raise ValueError(f"a circle of {len(points)} points in place of its centre and a point of its edge")
        (x0, y0), (x1, y1) = xy
        radius = math.hypot(x1 - x0, y1 - y0)
        draw.ellipse([x0 - radius, y0 - radius, x0 + radius, y0 + radius], outline=1, fill=1)
    elif kind in ("line", "linestrip"):
        draw.line(xy, fill=1, width=_LINE_WIDTH)
    elif kind in ("point", "points"):
        for x, y in xy:
            draw.ellipse([x - _POINT_RADIUS, y - _POINT_RADIUS, x + _POINT_RADIUS, y + _POINT_RADIUS], fill=1)
    else:
        draw.polygon(xy, outline=1, fill=1)
    return np.array(image, np.bool_)


def _placed(text: str, points: NDArray[np.float64], size_hw: tuple[int, int], path: Path) -> NDArray[np.bool_]:
    """A small mask, PNG as base64, in its box; both corners belong to it."""
    content = base64.b64decode(text)
    (left, top), (right, bottom) = np.rint(points[:2]).astype(int).tolist()
    inside = np.zeros(size_hw, np.bool_)
    place = inside[max(top, 0) : bottom + 1, max(left, 0) : right + 1]
    try:
        stated = read_image_size(path, content=content)  # before a small text becomes many pixels
    except ImageError as error:
        raise ValueError("a mask that is no whole PNG") from error
    if top < 0 or left < 0 or place.shape != stated:
        raise ValueError(f"a mask of {stated} pixels for a box of {place.shape}")
    place[:] = read_rgb(path, content=content)[..., 0] > 0
    return inside
