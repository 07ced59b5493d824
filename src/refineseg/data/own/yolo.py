"""YOLO's outlines (Ultralytics): ``data.yaml`` and a text file of polygons per image.

In: ``data.yaml`` with ``names``, ``path``, ``train``, ``val``, ``test``; for each image a file of lines
``CLASS x1 y1 x2 y2 ...`` in fractions of its size. Out: samples whose masks are painted when they are read.

Source: https://docs.ultralytics.com/datasets/segment/
"""

from __future__ import annotations

import os
import re
from collections import Counter
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.data.own.accents import in_either_form
from refineseg.data.own.folder_layout import USUAL_SPLITS, split_like
from refineseg.data.own.outlines import Canvas, inside_polygon
from refineseg.data.own.painting import Drawing, painted_dataset, unknown_split
from refineseg.data.samples.class_files import without_numbers
from refineseg.data.samples.left_out import NO_IMAGE, NO_SPLIT, LeftOut
from refineseg.data.samples.own_classes import NamedClasses, named_classes, tidy
from refineseg.data.samples.sources import SourceDataset
from refineseg.errors import DatasetError, LabelError
from refineseg.files.archives import is_file, is_folder, list_files, locate, read_text, subfolders
from refineseg.files.foreign_text import parse_yaml
from refineseg.images.files import IMAGE_SUFFIXES, find_images, first_names

_CLASSES = "classes.txt"
_SLACK = 0.01  # rounding of programs beside the image's edge
_BOX = 5
_SNIFFED = 8  # label files looked into
_LINE = re.compile(r"\d+(\s+[\d.eE+-]+){4,}")


def yolo_file(root: Path) -> Path | None:
    """The YAML file: the file given, ``data.yaml``, or the only one in the folder."""
    if not is_folder(root):
        return root if root.suffix.lower() in (".yaml", ".yml") else None
    found = [name for name in list_files(root) if name.lower().endswith((".yaml", ".yml")) and "/" not in name]
    usual = [name for name in found if PurePosixPath(name).stem == "data"]
    chosen = usual or found
    return root / chosen[0] if len(chosen) == 1 else None


def is_bare_yolo(root: Path) -> bool:
    """Whether a folder is YOLO without its YAML file: ``images``, ``labels``, ``classes.txt`` (Label Studio)."""
    if not all(is_folder(root / name) for name in ("images", "labels")) or not is_file(root / _CLASSES):
        return False
    return any(name.endswith(".txt") for name in list_files(root / "labels"))


def check_yaml(root: Path) -> None:
    """Refuse a folder of YOLO's label files, of which nothing says what their classes are.

    Args:
        root: A folder of no other form.

    Raises:
        DatasetError: It is one.
    """
    labels = [name for name in list_files(root) if "labels" in name.split("/")[:-1] and name.endswith(".txt")]
    lines = [line for name in labels[:_SNIFFED] for line in read_text(root / name).splitlines() if line.strip()]
    if not lines or not all(_LINE.fullmatch(line.strip()) for line in lines):
        return
    places = [(split, place) for split in ("train", "val", "valid", "test") for place in _places(split)]
    found = {split.replace("valid", "val"): place for split, place in places if is_folder(root / place)}
    listed = ", ".join(f"{split}: {place}" for split, place in (found or {"train": "images"}).items())
    raise DatasetError(
        f"expected {root / 'data.yaml'} with the names of the classes, because {labels[0]} and {len(labels) - 1} more "
        f"look like YOLO, got none; write it: {{{listed}, names: [NAME_OF_0, NAME_OF_1, ...]}}"
    )


def _places(split: str) -> tuple[str, str]:
    return f"images/{split}", f"{split}/images"


def yolo_splits(root: Path) -> tuple[str, ...]:
    """The splits that the YAML file names.

    Raises:
        DatasetError: There is no such file, or it is another.
    """
    path, content = _content(root)
    named = [split for split in USUAL_SPLITS if content.get(split)]
    return tuple(split for split in named if split != "test" or _has_images(path, content, split))


def _has_images(path: Path, content: dict[str, Any], split: str) -> bool:
    """Whether the images of a split are there; programs write a line for a test set that was never made."""
    try:
        return bool(_images(path, content, split))
    except DatasetError:
        return False


def open_yolo(root: Path, split: str) -> SourceDataset:
    """One split of YOLO's outlines.

    * Images: the folder, list of folders, or ``.txt`` of images that ``data.yaml`` names for the split, relative to its
      ``path``, else to the file itself. Labels: the same path with the last ``images`` replaced by ``labels``, and
      ``.txt``. An image without a label file is all background, as in training with Ultralytics.
    * Without a YAML file, ``images``, ``labels`` and the names in ``classes.txt`` (Label Studio's export); the splits
      are the folders ``train``, ``val``, ``test`` in ``images`` (or ``Train``, ``valid``, ...), else everything is
      ``train``.
    * Classes: ``background``, then ``names`` in order.
    * A pixel belongs to a polygon if its centre does; small objects are painted over large ones.

    Args:
        root: The folder, a zip file, or the YAML file.
        split: ``train``, ``val`` or ``test``.

    Raises:
        DatasetError: No such split or files, or another YAML file.
        ConfigError: Numbers before the names in ``classes.txt`` that do not count from 0.
    """
    path, content = _content(root)
    splits = tuple(name for name in USUAL_SPLITS if content.get(name))
    if split not in splits:
        raise unknown_split(split, splits, path)
    classes = _classes(path, content)
    images = _images(path, content, split)
    drawings = []
    without = 0
    for image, name in images:
        labels = _label_file(image)
        there = is_file(labels)
        without += not there
        drawings.append(Drawing(image, labels, name, read_text(labels) if there else ""))
    if without == len(images):
        raise DatasetError(
            f"expected label files such as {_label_file(images[0][0])} for the {len(images)} images of {split}, got "
            "none; put the folder labels beside images"
        )
    note = f"{split}: {without} of {len(images)} images have no label file: all background"
    strays = _strays({drawing.labels for drawing in drawings})
    if path.name == _CLASSES:
        strays += _outside(path.parent, content)
    return painted_dataset(tuple(drawings), classes, paint_yolo, notes=(note,) if without else (), strays=strays)


def _strays(labels: set[Path]) -> tuple[LeftOut, ...]:
    """The polygons in label files without an image, or with another ending, in and below the folders of those read."""
    lost: dict[Path, int] = {}
    for folder in sorted({path.parent for path in labels if is_folder(path.parent)}):
        beside = _counterpart(folder, "labels", "images")
        images = {path.relative_to(beside).with_suffix("") for path in find_images(beside)} if is_folder(beside) else {}
        for name in list_files(folder):
            path, has_image = folder / name, Path(name).with_suffix("") in images
            if path.suffix.lower() != ".txt" or path in labels or (has_image and path.suffix == ".txt"):
                continue
            if path.name != _CLASSES and not path.name.lower().startswith("readme"):
                lost[path] = sum(bool(line.strip()) for line in read_text(path).splitlines())
    return (LeftOut("polygons", NO_IMAGE, str(next(iter(lost))), sum(lost.values())),) if any(lost.values()) else ()


def _outside(root: Path, content: dict[str, Any]) -> tuple[LeftOut, ...]:
    """The label files and images of no split, where no YAML file says what is meant to be read."""
    if content.get("train") == "images":
        return ()
    splits = [content[name].removeprefix("images/") for name in USUAL_SPLITS if name in content]
    lost = []
    for folder, kind, endings in (("labels", "label files", (".txt",)), ("images", "images", IMAGE_SUFFIXES)):
        names = [name for name in list_files(root / folder) if name.lower().endswith(endings)]
        names = [name for name in names if name.split("/")[0] not in splits and name != _CLASSES]
        lost += [LeftOut(kind, NO_SPLIT, str(root / folder / names[0]), len(names))] if names else []
    return tuple(lost)


def _content(root: Path) -> tuple[Path, dict[str, Any]]:
    path = yolo_file(root)
    if path is None and is_folder(root) and is_bare_yolo(root):
        lines = [line.strip() for line in read_text(root / _CLASSES).splitlines() if line.strip()]
        names = without_numbers(lines, root / _CLASSES)
        folders = subfolders(root / "images")
        found = {usual: split_like(usual, folders) for usual in USUAL_SPLITS}
        places = {usual: f"images/{name}" for usual, name in found.items() if name} or {"train": "images"}
        return root / _CLASSES, {"names": names, **places}
    if path is None:
        raise DatasetError(f"expected one data.yaml in {root}, got none or several; name the file: yolo:FILE.yaml")
    text = read_text(path)
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise DatasetError(f"expected YAML in {path}, got {error}; export it again") from error
    if not isinstance(content, dict) or not isinstance(content.get("names"), (list, dict)):
        raise DatasetError(
            f"expected names, and train or val, in {path}, got no names; for instance names: [car, tree]"
        )
    wrong = [split for split in (*USUAL_SPLITS, "path") if not _are_paths(content.get(split), several=split != "path")]
    if wrong:
        raise DatasetError(
            f"expected a folder as {wrong[0]} in {path}, got {content[wrong[0]]!r:.60}; for instance "
            f"{wrong[0]}: images/train"
        )
    if content.get("kpt_shape"):
        raise DatasetError(f"expected polygons, got key points (kpt_shape in {path}); export as segmentation")
    return path, content


def _are_paths(value: object, *, several: bool) -> bool:
    """Whether a value of the YAML file names a folder, or several, or nothing."""
    values = value if isinstance(value, list) and several else [value]
    return value is None or all(isinstance(one, str | int) for one in values)


def _classes(path: Path, content: dict[str, Any]) -> NamedClasses:
    names = content["names"]
    numbered = dict(enumerate(names)) if isinstance(names, list) else names
    if set(numbered) != set(range(len(numbered))):
        raise DatasetError(f"expected names numbered 0..{len(numbered) - 1} in {path}, got {list(numbered)[:10]}")
    if not numbered:
        raise DatasetError(f"expected names of classes in {path}, got none; for instance names: [car, tree]")
    listed = [str(numbered[i]) for i in range(len(numbered))]
    wrong = [i for i, name in numbered.items() if not isinstance(name, str | int) or not str(name).strip()]
    if wrong:
        raise DatasetError(
            f"expected a name for each class in {path}, got {numbered[wrong[0]]!r:.40} for class {wrong[0]}; quote it"
        )
    counts = Counter(map(tidy, listed))
    if len(counts) < len(listed):
        twice = list(dict.fromkeys(name for name in listed if counts[tidy(name)] > 1))
        raise DatasetError(f"expected every name once in {path}, got again {first_names(twice)}; rename one")
    classes = named_classes(listed)
    return NamedClasses(
        classes.class_info, {str(i): classes.index_of[tidy(name)] for i, name in enumerate(listed)}, path.name
    )


def _images(path: Path, content: dict[str, Any], split: str) -> list[tuple[Path, str]]:
    """Every image of a split and its name."""
    base = path.parent
    if content.get("path"):
        stated = Path(str(content["path"]))
        tried = [p for p in (base / stated, base.parent / stated) if locate(path) is None or p.is_relative_to(base)]
        base = next((p for p in tried if is_folder(p)), base)  # a path on another machine does not count
    entries = content[split] if isinstance(content[split], list) else [content[split]]
    found: list[tuple[Path, str]] = []
    for entry in (str(entry).replace("\\", "/") for entry in entries):
        # Roboflow writes ../train/images for a folder beside data.yaml
        beside = [path.parent / entry[3:], base / entry[3:]] if entry.startswith("../") else []
        tried = [*beside, base / entry, path.parent / entry]
        inside = [p for p in tried if locate(path) is None or p.is_relative_to(path.parent)]  # never leave a zip file
        place = next((p for p in inside if is_folder(p) or is_file(p)), None)
        if place is None:
            raise DatasetError(
                f"expected the images of {split} in {entry} (named in {path}), but there is no {tried[0]}; correct "
                f"path or {split} in that file"
            )
        if is_folder(place):
            found += [(p, p.relative_to(place).with_suffix("").as_posix()) for p in find_images(place)]
        else:
            lines = [line.strip() for line in read_text(place).splitlines() if line.strip()]
            found += [(_listed(line, place, base), PurePosixPath(line).with_suffix("").as_posix()) for line in lines]
    if not found:
        raise DatasetError(f"expected images of {split} in {content[split]} (named in {path}), got none")
    absent = [image for image, _ in found if not is_file(image)] if any(".txt" in e for e in map(str, entries)) else []
    if absent:
        raise DatasetError(
            f"expected the images listed for {split}, but {len(absent)} are absent: {first_names(absent)}"
        )
    names = [name for _, name in found]
    if len(set(names)) < len(names):  # several folders: what their paths do not share tells them apart
        paths = [PurePosixPath(image.as_posix()) for image, _ in found]
        above = os.path.commonpath([path.parent for path in paths])
        return [
            (i, path.relative_to(above).with_suffix("").as_posix()) for (i, _), path in zip(found, paths, strict=True)
        ]
    return found


def _listed(line: str, listing: Path, base: Path) -> Path:
    return in_either_form((listing.parent if line.startswith("./") else base) / line)


def _label_file(image: Path) -> Path:
    return in_either_form(_counterpart(image.parent, "images", "labels") / f"{image.stem}.txt")


def _counterpart(folder: Path, old: str, new: str) -> Path:
    """The folder whose last part of one name has another."""
    parts = list(folder.parts)
    places = [i for i, part in enumerate(parts) if part == old]
    if places:
        parts[places[-1]] = new
    return type(folder)(*parts)  # a remote path stays one: else the empty stand-in of a file is read


def paint_yolo(drawing: Drawing, size_hw: tuple[int, int], classes: NamedClasses) -> Canvas:
    """The polygons of one label file.

    Raises:
        DatasetError: A line that is no class with a polygon.
        LabelError: A class number that ``names`` does not have.
    """
    canvas = Canvas(size_hw, void=classes.class_info.ignore_index, kind="polygons")
    for number, line in enumerate(drawing.text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        where = f"{drawing.labels}, line {number}"
        points = _points(words[1:], where) * np.array(size_hw[::-1])
        label = words[0].removesuffix(".0")
        if label not in classes.index_of:
            raise LabelError(
                f"{where}: expected a class 0..{len(classes.index_of) - 1} of {classes.listed_in}, got {words[0]!r}; "
                "correct it, or add its name"
            )
        canvas.add(partial(inside_polygon, points, size_hw), classes.index_of[label], where, points=points)
    return canvas


def _points(words: list[str], where: str) -> NDArray[np.float64]:
    if len(words) == _BOX - 1:
        raise DatasetError(f"{where}: expected a polygon of at least 3 points, got a box; export as segmentation")
    try:
        points = np.array([float(word) for word in words]).reshape(-1, 2)
    except ValueError as error:
        raise DatasetError(f"{where}: expected CLASS x1 y1 x2 y2 ..., got {error}; export it again") from error
    if len(points) < 3:
        raise DatasetError(f"{where}: expected a polygon of at least 3 points, got {len(points)}; remove the line")
    if not ((points >= -_SLACK) & (points <= 1 + _SLACK)).all():
        wrong = points[~((points >= -_SLACK) & (points <= 1 + _SLACK))][0]
        raise DatasetError(f"{where}: expected fractions 0..1 of the image's size, got {wrong:g}; export it again")
    return points
