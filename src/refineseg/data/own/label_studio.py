"""Label Studio: brushes, bitmasks and outlines from its JSON, or brushes from its folder of PNG.

In: the JSON export (also the short one, "JSON-MIN") or ``task-1-annotation-2-by-3-tag-NAME-0.png``, with the images.
Out: samples whose masks are painted when they are read.

Source: Label Studio's documented export formats and label-studio-converter; for the run lengths the bit format of
``@thi.ng/rle-pack``, which the program stores.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from refineseg.data.own.label_studio_rle import brush_pixels
from refineseg.data.own.outlines import Canvas, inside_polygon
from refineseg.data.own.painting import UNPAINTABLE, Drawing, check_size, damaged, painted_dataset, unknown_split
from refineseg.data.samples.class_files import NO_ANNOTATIONS
from refineseg.data.samples.json_files import list_elements
from refineseg.data.samples.left_out import NO_AREA, NO_LABEL
from refineseg.data.samples.own_classes import NamedClasses, classes_beside, named_classes, tidy
from refineseg.data.samples.sources import SourceDataset
from refineseg.errors import DatasetError, ImageError
from refineseg.files.archives import is_folder, list_files, read_text
from refineseg.images.decoding import opened
from refineseg.images.files import IMAGE_SUFFIXES, first_names, read_rgb

_SHAPES = {  # a part of the value that tells the kind of a region -> the kind; the first that is there
    "rle": "brush",
    "imageDataURL": "bitmask",
    "vertices": "vector",
    "points": "polygon",
    "radiusX": "ellipse",
    "height": "rectangle",
    "x": "key point",
}
_GEOMETRY = (*_SHAPES, *("y", "width", "radiusY", "rotation", "closed"))
_PNG = re.compile(r"task-(\d+)-annotation-(\d+)-(?:by-.*?-)?(?:tag-(.+)|[^-]+-(.+?))-\d+\.png$")
_CORNERS = 72  # of the polygon that stands for an ellipse


def open_label_studio(root: Path, split: str) -> SourceDataset:
    """Label Studio's export, which has no splits: everything is ``train``.

    * One ``*.json`` in ROOT (or ROOT is that file): the JSON or JSON-MIN export. Of several annotations of a task the
      one marked as ground truth counts, else the last that was not cancelled; tasks without any are left out.
    * Otherwise ``task-T-annotation-A-...-NAME-0.png`` anywhere in ROOT: the PNG export of brushes, of the newest
      annotation. It does not say which image a task is: those must be called ``T.jpg`` or ``task-T.jpg``.
    * Images lie anywhere in ROOT, under their name in the task, with or without the eight characters that an upload
      adds in front.
    * Classes: those of a class file in ROOT, else the sorted labels; ``background`` is class 0. Small areas are painted
      over large ones. Labels may stand in a tag of their own (``Labels``).
    * Brushes, bitmasks, polygons, rectangles and ellipses (turned ones too) and closed vectors are painted. Key points,
      open or curved vectors and regions without a label are counted (:mod:`refineseg.data.samples.left_out`).

    Args:
        root: The folder, a zip file, or the JSON file.
        split: ``train``.

    Raises:
        DatasetError: Another split, no export, or images that are absent.
    """
    if split != "train":
        raise unknown_split(split, ("train",), root)
    base = root if is_folder(root) else root.parent
    there = [name for name in list_files(base) if name.lower().endswith(IMAGE_SUFFIXES)]
    listing = label_studio_json(root)
    drawings, notes = _from_json(listing, base, there) if listing else _from_pngs(base, there)
    classes = classes_beside(base)
    if classes is None:
        regions = (region for drawing in drawings for region in json.loads(drawing.text))
        uses = Counter(tidy(str(label)) for region in regions for label in region["labels"])
        classes = replace(named_classes(sorted(uses)), uses=uses)
    return painted_dataset(drawings, classes, paint_label_studio, notes=notes)


def label_studio_json(root: Path) -> Path | None:
    """The JSON export: the file given, or the only JSON file in the folder.

    Raises:
        DatasetError: There are several.
    """
    if not is_folder(root):
        return root
    found = [n for n in list_files(root) if n.lower().endswith(".json") and "/" not in n and n not in NO_ANNOTATIONS]
    if len(found) > 1:
        raise DatasetError(
            f"expected one JSON export in {root}, got {first_names(found)}; name the file: NAME:FILE.json"
        )
    return root / found[0] if found else None


def is_brush_png(name: str) -> bool:
    """True for a file name of the PNG export.

    Example:
        >>> is_brush_png("task-1-annotation-2-by-1-tag-red car-0.png")
        True
    """
    return _PNG.fullmatch(PurePosixPath(name).name) is not None


def _from_json(listing: Path, base: Path, there: list[str]) -> tuple[tuple[Drawing, ...], tuple[str, ...]]:
    drawings, without, several, names = [], 0, 0, _Images(base, there)
    try:
        for task in list_elements(read_text(listing)):
            chosen, count = _annotation(task)
            several += count > 1
            if chosen is None:
                without += 1
                continue
            name, image = names.find(task)
            drawings.append(Drawing(image or base, listing, name, _slim(chosen)))
    except (*UNPAINTABLE, RecursionError) as error:
        raise DatasetError(
            f"expected Label Studio's JSON export in {listing}, got {error!r}; export it again"
        ) from error
    if names.absent or not drawings:
        raise DatasetError(
            f"expected the images of {len(drawings)} labelled tasks of {listing} in {base}, but {len(names.absent)} "
            f"are absent: {first_names(names.absent)}; copy them there"
            if drawings
            else f"expected labelled tasks in {listing}, got none ({without} without annotations)"
        )
    notes = [f"{without} tasks have no annotation: not labelled, left out"] if without else []
    notes += (
        [f"{several} tasks have several annotations: the ground truth or the last of each is read"] if several else []
    )
    return tuple(drawings), tuple(notes)


class _Images:
    """Finds the image of a task among the files that are there."""

    def __init__(self, base: Path, there: list[str]) -> None:
        self._base = base
        self._by_name: dict[str, list[str]] = {}
        for name in there:
            self._by_name.setdefault(PurePosixPath(name).name, []).append(name)
        self.absent: list[str] = []

    def find(self, task: dict[str, Any]) -> tuple[str, Path | None]:
        """Name and path of a task's image; None, and its name in ``absent``, where it is not there."""
        data = task.get("data", task)
        texts = [data.get("image"), *data.values(), task.get("file_upload")]
        stated = [_plain(text) for text in texts if isinstance(text, str)]
        for path in stated:
            last = path.rsplit("/", 1)[-1]
            for wanted in (last, re.sub(r"^[0-9a-f]{8}-", "", last)):
                found = self._by_name.get(wanted, [])
                if len(found) > 1:  # of files with one name, the one whose folders are those of the task
                    found = sorted((name for name in found if f"/{path}".endswith(f"/{name}")), key=len)[-1:]
                if len(found) == 1:
                    return PurePosixPath(found[0]).with_suffix("").as_posix(), self._base / found[0]
        named = next((path for path in stated if path.lower().endswith(IMAGE_SUFFIXES)), f"task {task.get('id')}")
        self.absent.append(named)
        return named, None


def _plain(text: str) -> str:
    """The path in a task's image: an upload, a local file (``?d=``), or an address."""
    path = text.split("?d=", 1)[1] if "?d=" in text else text.split("?", 1)[0]
    return unquote(path).replace("\\", "/")


def _annotation(task: dict[str, Any]) -> tuple[list[dict[str, Any]] | None, int]:
    """The results that count, and how many annotations there are; None where the task is not labelled."""
    if "annotations" not in task and "completions" not in task:  # JSON-MIN: the results of one annotation, by tag
        items = [item for value in task.values() if isinstance(value, list) for item in value]
        results = [{"value": item} | item for item in items if isinstance(item, dict)]
        return (results, 1) if results else (None, 0)
    everything = task["annotations"] if "annotations" in task else task["completions"]
    listed = [annotation for annotation in everything if not annotation.get("was_cancelled")]
    if not listed:
        return None, 0
    chosen = next((annotation for annotation in listed if annotation.get("ground_truth")), listed[-1])
    return chosen["result"], len(listed)


def _slim(results: list[dict[str, Any]]) -> str:
    """The regions, as JSON; run lengths as base64, a third of the list of numbers.

    A region is one result, or several of one ``id``: its shape may stand in one and its labels in another. Of the short
    export, which has no ids, results of one shape are one region. Results without a shape (choices, text, relations)
    are no regions.
    """
    regions: dict[str, dict[str, Any]] = {}
    for number, result in enumerate(results):
        value = result.get("value")
        if not isinstance(value, dict):
            continue
        shape = {key: value[key] for key in _GEOMETRY if key in value}
        listed = [_labels(v) for key, v in value.items() if key.endswith("labels") and isinstance(v, list)]
        if not shape and not listed:
            continue
        name = str(result.get("id") or (json.dumps(shape, sort_keys=True) if shape else number))
        region = regions.setdefault(name, {"kind": "label", "labels": [], "id": result.get("id", number)})
        region["labels"] += [label for labels in listed for label in labels if label not in region["labels"]]
        if shape and region["kind"] == "label":
            region |= {"kind": next(kind for part, kind in _SHAPES.items() if part in shape), "value": shape}
            region |= {"rotation": result.get("image_rotation", 0)}
            region["size_hw"] = [result["original_height"], result["original_width"]]
            if "rle" in shape:
                if not isinstance(shape["rle"], list):  # of a number, bytes() would make so many zeros
                    raise ValueError(f"run lengths that are no list of numbers, but {shape['rle']!r:.40}")
                shape["rle"] = base64.b64encode(bytes(shape["rle"])).decode("ascii")
    return json.dumps(list(regions.values()))


def _labels(listed: list[Any]) -> list[str]:
    """The labels of a region, without empty ones.

    Raises:
        ValueError: One is no name.
    """
    wrong = [label for label in listed if not isinstance(label, str | int | None)]
    if wrong:
        raise ValueError(f"a label that is no name, but {wrong[0]!r:.40}")
    return [str(label) for label in listed if label is not None and str(label).strip()]


def _from_pngs(base: Path, there: list[str]) -> tuple[tuple[Drawing, ...], tuple[str, ...]]:
    masks: dict[int, dict[int, list[tuple[str, str]]]] = {}
    for name in there:
        match = _PNG.fullmatch(PurePosixPath(name).name)
        if match:
            label = match[3] or match[4]
            place = str(Path(*(base / name).parts))  # of its parts: a remote path prints as its address
            masks.setdefault(int(match[1]), {}).setdefault(int(match[2]), []).append((label, place))
    if not masks:
        raise DatasetError(
            f"expected Label Studio's JSON export or task-1-annotation-2-...-NAME-0.png in {base}, got neither"
        )
    stems = {PurePosixPath(name).stem: name for name in there if not is_brush_png(name)}
    drawings, absent, several = [], [], 0
    for task, found in sorted(masks.items()):
        several += len(found) > 1
        image = stems.get(str(task), stems.get(f"task-{task}"))
        if image is None:
            absent.append(f"{task}.jpg")
            continue
        newest = found[max(found)]
        text = json.dumps([{"kind": "png", "labels": [label], "path": path} for label, path in newest])
        drawings.append(
            Drawing(base / image, type(base)(newest[0][1]), PurePosixPath(image).with_suffix("").as_posix(), text)
        )
    if absent:
        raise DatasetError(
            f"expected the images of {len(masks)} tasks in {base} as T.jpg or task-T.jpg (T: the task's number), but "
            f"{len(absent)} are absent: {first_names(absent)}; copy them there, or add the JSON export, which has names"
        )
    note = f"{several} tasks have several annotations: the newest of each is read"
    return tuple(drawings), (note,) if several else ()


def paint_label_studio(drawing: Drawing, size_hw: tuple[int, int], classes: NamedClasses) -> Canvas:
    """The regions of one task.

    Raises:
        DatasetError: A result that cannot be painted, for another size, or turned.
        LabelError: A label is no class.
    """
    canvas = Canvas(size_hw, void=classes.class_info.ignore_index, kind="regions")
    for result in json.loads(drawing.text):
        where = f"{drawing.labels}, task of {drawing.image.name}"
        named = f"{where}, region {result.get('id', '')}".rstrip()
        kind = result["kind"]
        try:
            reason = _why_not(result)
            if reason:
                canvas.leave_out(reason, named, kind=f"{kind} regions")
                continue
            if result.get("rotation"):
                raise ValueError(f"an image turned by {result['rotation']} degrees; turn its pixels instead")
            stated = result.get("size_hw")
            if stated is not None:
                check_size(drawing, (int(stated[0]), int(stated[1])), size_hw)
            points = None
            if kind in ("polygon", "vector", "ellipse", "rectangle"):
                points = _outline(kind, result["value"], size_hw)
            for label in result["labels"]:
                value = classes.index(str(label), where=where)
                canvas.add(partial(_inside, result, points, size_hw, drawing.labels), value, named, points=points)
        except UNPAINTABLE as error:
            raise damaged(drawing, f"{kind} of Label Studio", error) from error
    return canvas


def _why_not(result: dict[str, Any]) -> str:
    """Why a region cannot be painted; empty where it can."""
    kind, value = result["kind"], result.get("value", {})
    if not result["labels"]:
        return NO_LABEL
    if kind in ("key point", "label") or (kind == "polygon" and len(value["points"]) < 3):
        return NO_AREA
    if kind == "vector":
        curved = any(vertex.get("isBezier") for vertex in value["vertices"])
        return "they are curves; draw polygons or brushes" if curved else "" if value.get("closed") else NO_AREA
    return ""


def _inside(
    result: dict[str, Any], points: NDArray[np.float64] | None, size_hw: tuple[int, int], path: Path
) -> NDArray[np.bool_]:
    """The pixels of one result; the path is that of the annotations, for messages."""
    if points is not None:
        return inside_polygon(points, size_hw)
    if result["kind"] == "png":
        brush = type(path)(result["path"])
        inside: NDArray[np.bool_] = read_rgb(brush).max(axis=2) > 0
        if inside.shape != size_hw:
            raise ValueError(f"{brush.name} of {inside.shape[0]}x{inside.shape[1]} pixels")
        return inside
    if result["kind"] == "bitmask":
        return _bitmask(result["value"]["imageDataURL"], size_hw, path)
    return brush_pixels(base64.b64decode(result["value"]["rle"]), size_hw)


def _bitmask(url: str, size_hw: tuple[int, int], path: Path) -> NDArray[np.bool_]:
    """What is painted in a PNG of a data URL: the program paints black on nothing."""
    head, _, text = url.partition(",")
    if not head.startswith("data:image/png"):
        raise ValueError(f"a bitmask that begins with {url[:20]!r} in place of data:image/png;base64")
    try:
        with opened(path, base64.b64decode(text)) as image:
            size, alpha = image.size, None
            if size == size_hw[::-1]:  # else a small text could become many pixels
                alpha = image.convert("RGBA").getchannel("A")
                opaque = alpha.getextrema() == (255, 255)
                painted: NDArray[np.bool_] = np.asarray(image.convert("L") if opaque else alpha) > 0
    except ImageError as error:
        raise ValueError("a bitmask that is no whole PNG") from error
    if alpha is None:
        raise ValueError(f"a bitmask of {size[1]}x{size[0]} pixels")
    return painted


def _outline(kind: str, value: dict[str, Any], size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """The corners in pixels, ``(N, 2)``; the file has them in percent of the image, and turns in degrees.

    A turn is one of pixels and not of percents: of an image that is no square, the sides of a turned rectangle would
    meet at other angles than right ones. A rectangle turns clockwise about its top left corner, an ellipse about its
    centre.
    """
    pixels = np.array(size_hw[::-1], np.float64) / 100
    if kind == "polygon":
        return np.array([(float(x), float(y)) for x, y in value["points"]]).reshape(-1, 2) * pixels
    if kind == "vector":
        return np.array([(float(v["x"]), float(v["y"])) for v in value["vertices"]]).reshape(-1, 2) * pixels
    if kind == "rectangle":
        unit = np.array([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
        sides = np.array([float(value["width"]), float(value["height"])])
    else:
        angles = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
        unit = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        sides = np.array([float(value["radiusX"]), float(value["radiusY"])])
    turn = np.deg2rad(float(value.get("rotation") or 0))
    clockwise = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])  # of rows, where y points down
    corner = np.array([float(value["x"]), float(value["y"])])
    turned: NDArray[np.float64] = corner * pixels + (unit * (sides * pixels)) @ clockwise
    return turned
