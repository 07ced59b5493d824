"""Your own COCO JSON: any categories, the usual layouts.

In: annotations as of COCO (Lin et al., ECCV 2014), CVAT, Label Studio or Roboflow, and images. Out: samples whose masks
are painted from polygons and run lengths when they are read.

Source: the data format page of https://cocodataset.org; Roboflow's export has ``_annotations.coco.json`` beside the
images of each split.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath

from refineseg.data.own.accents import composed
from refineseg.data.own.folder_layout import in_usual_order, split_like
from refineseg.data.own.outlines import Canvas, looks_like_fractions, outline_points, painted
from refineseg.data.own.painting import UNPAINTABLE, Drawing, damaged, painted_dataset, unknown_split
from refineseg.data.samples.json_files import json_elements
from refineseg.data.samples.left_out import FRACTIONS, NO_OUTLINE
from refineseg.data.samples.own_classes import NamedClasses, named_classes, tidy
from refineseg.data.samples.sources import SourceDataset
from refineseg.errors import DatasetError
from refineseg.files.archives import is_folder, list_files, locate, read_text
from refineseg.files.run_lengths import rle_tools
from refineseg.images.files import IMAGE_SUFFIXES, first_names

_ROBOFLOW = "_annotations.coco.json"
_SINGLE = ("annotations.json", "coco.json", "instances_default.json", "result.json")
_LAYOUT = (
    "annotations/instances_SPLIT.json with SPLIT/ or images/SPLIT/, SPLIT/_annotations.coco.json beside its images, or "
    "one annotations.json"
)

_LISTS = ("images", "annotations", "categories")

Id = int | str
"""Of an image or category; some programs write text."""


def coco_files(root: Path) -> dict[str, Path]:
    """The JSON file of each split; of a single file the split is ``train``.

    Args:
        root: A folder, a zip file, or the JSON file itself.

    Returns:
        Empty where there is none.
    """
    if not is_folder(root):
        return {"train": root} if root.suffix.lower() == ".json" else {}
    found: dict[str, Path] = {}
    single: dict[str, Path] = {}
    for name in list_files(root):
        path = PurePosixPath(name)
        depth = len(path.parts)
        if path.name == _ROBOFLOW and depth <= 2:
            found["train" if depth == 1 else path.parts[0]] = root / name
        elif path.suffix == ".json" and (depth == 1 or (depth == 2 and path.parts[0] == "annotations")):
            if path.name in _SINGLE:
                single[name] = root / name
            elif path.name.startswith("instances_"):
                found[path.stem.removeprefix("instances_")] = root / name
    if "valid" in found and "val" not in found:  # Roboflow's name
        found["val"] = found["valid"]
    if found or len(single) != 1:
        return found if found or not single else _several(root, single)
    return {"train": next(iter(single.values()))}


def _several(root: Path, single: dict[str, Path]) -> dict[str, Path]:
    raise DatasetError(
        f"expected one COCO JSON in {root}, got {', '.join(single)}; name the file instead of the folder, or "
        "rename them to annotations/instances_SPLIT.json"
    )


def open_coco(root: Path, split: str) -> SourceDataset:
    """One split of your own COCO JSON.

    * ``ROOT/annotations/instances_SPLIT.json`` with the images in ``ROOT/SPLIT`` or ``ROOT/images/SPLIT``; or
      ``ROOT/SPLIT/_annotations.coco.json`` beside its images (Roboflow; its ``valid`` is also called ``val``); or one
      ``annotations.json``, ``coco.json`` or ``result.json`` for everything, which is the split ``train``. ROOT may be
      a zip file, or the JSON file. Images may also lie in ``ROOT/images`` or ``ROOT`` under their ``file_name``.
    * Classes: ``background`` (pixels of no object), then the categories of the training file by ascending id. Those
      that only name a group (``supercategory`` of others, without annotations; Roboflow writes one) are left out.
    * Small objects are painted over large ones; of equal areas the later annotation is on top. Crowds (``iscrowd``)
      are objects like others, because annotation programs mark every brush stroke so; how many is noted. Images without
      annotations are all background.
    * Annotations without an outline (a box or key points alone, two points), with fractions for pixels, outside the
      image or wholly under others are counted (:mod:`refineseg.data.samples.left_out`).

    Coordinates refer to upright images (see :class:`~refineseg.data.own.painting.PaintedSource`).

    Raises:
        DatasetError: No such split or files, another JSON, or categories that the training file does not have.
        MissingExtraError: pycocotools is not installed.
    """
    files = coco_files(root)
    if not files:
        raise DatasetError(f"expected COCO JSON in {root}: {_LAYOUT}; got none; give the folder above, or the file")
    if split not in files:
        raise unknown_split(split, coco_splits(root), root)
    rle_tools()  # to miss it now and not at the first sample
    content = _read(files[split])
    training = files[split_like("train", tuple(files)) or split]
    classes = _classes(training)
    labels = content.categories
    unknown = sorted({labels[i] for i in content.used} - classes.index_of.keys())
    if unknown:
        raise DatasetError(
            f"expected the categories of {training} in {files[split]}, got {len(unknown)} others: "
            f"{first_names(unknown)}; export both from one project"
        )
    found = _image_paths(root, files[split], split, [name for _, name, _ in content.images])
    drawings = tuple(
        Drawing(path, files[split], _sample_name(name), content.text(image), size_hw)
        for (image, name, size_hw), path in zip(content.images, found, strict=True)
    )
    if not drawings:
        raise DatasetError(f"expected images in {files[split]}, got none; export it again")
    by_id = {str(i): classes.index_of[labels[i]] for i in content.used}
    note = f"{split}: {content.crowds} annotations with iscrowd are painted as their class, like all others"
    notes = (*((note,) if content.crowds else ()), *_unread(root, files))
    named = NamedClasses(classes.class_info, by_id, files[split].name)
    return painted_dataset(drawings, named, paint_coco, notes=notes)


def _unread(root: Path, files: dict[str, Path]) -> tuple[str, ...]:
    """A note of JSON files that lie where annotations are looked for and are not read; none where there are none."""
    if not is_folder(root):
        return ()
    places = {path.parent for path in files.values()}
    names = [name for name in list_files(root) if name.endswith(".json") and name != "remap.json"]
    names = [name for name in names if (root / name).parent in places and root / name not in files.values()]
    return (f"JSON files that are not read: {first_names(names)}",) if names else ()


def coco_splits(root: Path) -> tuple[str, ...]:
    """The splits of your own COCO JSON, train, val and test first."""
    files = coco_files(root)
    names = (name for name in files if name != "valid" or files.get("val") != files["valid"])  # one split, two names
    return in_usual_order(names)


def paint_coco(drawing: Drawing, size_hw: tuple[int, int], classes: NamedClasses) -> Canvas:
    """The objects of one image.

    Raises:
        DatasetError: An annotation that is no polygon or run-length code of the image's size.
    """
    canvas = Canvas(size_hw, void=classes.class_info.ignore_index, kind="annotations")
    for annotation in json.loads(drawing.text):
        where = f"annotation {annotation.get('id')} on {drawing.image.name} in {drawing.labels.name}"
        try:
            outline = annotation.get("segmentation")
            points = None if outline and isinstance(outline, dict) else outline_points(outline or ())
            if points is not None and not len(points):
                canvas.leave_out(NO_OUTLINE, where)
            elif points is not None and looks_like_fractions(points):
                canvas.leave_out(FRACTIONS, where)
            else:
                value = classes.index_of[str(_id(annotation["category_id"]))]
                canvas.add(partial(painted, outline, size_hw), value, where, points=points)
        except UNPAINTABLE as error:
            what = (
                f"polygons or run lengths for {size_hw[0]}x{size_hw[1]} pixels (height x width) in annotation "
                f"{annotation.get('id')}"
            )
            raise damaged(drawing, what, error) from error
    return canvas


def _id(value: object) -> Id:
    """An id as it stands in the file.

    Raises:
        ValueError: It is neither a whole number nor a text.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)  # which some programs write as 1.0
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise ValueError(f"an id that is no number or text, but {value!r:.40}")
    return value


def _name(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"a {what} that is no text, but {value!r:.40}")
    return value


@dataclass(frozen=True)
class _Content:
    """What a JSON file holds."""

    images: list[tuple[Id, str, tuple[int, int]]]
    annotations: dict[Id, list[str]]
    categories: dict[Id, str]
    used: frozenset[Id]
    crowds: int

    def text(self, image: Id) -> str:
        return f"[{','.join(self.annotations.get(image, ()))}]"


def _read(path: Path) -> _Content:
    images: list[tuple[Id, str, tuple[int, int]]] = []
    annotations: dict[Id, list[str]] = {}
    categories: dict[Id, str] = {}
    groups: dict[Id, str] = {}
    used: set[Id] = set()
    crowds = 0
    try:
        for key, value, text in json_elements(read_text(path), lists=_LISTS):
            if key == "images":
                size_hw = int(value["height"]), int(value["width"])
                images.append((_id(value["id"]), _name(value["file_name"], "file_name"), size_hw))
            elif key == "categories":
                number, name = _id(value["id"]), tidy(_name(value["name"], "name of a category"))
                if categories.setdefault(number, name) != name:
                    raise DatasetError(
                        f"expected every category id once in {path}, got {number} for {categories[number]!r} "
                        f"and {name!r}; export it again"
                    )
                groups[number] = tidy(str(value.get("supercategory")))
            elif key == "annotations":
                annotations.setdefault(_id(value["image_id"]), []).append(text)
                used.add(_id(value["category_id"]))
                crowds += bool(value.get("iscrowd"))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DatasetError(
            f"expected COCO JSON with images, annotations and categories in {path}, got {error!r:.200}; export it again"
        ) from error
    groups_named = Counter(groups.values())
    grouping = {  # supercategory of another
        i for i, name in categories.items() if i not in used and groups_named[name] > (groups[i] == name)
    }
    _check(path, images, annotations, categories, used, grouping)
    kept = {i: name for i, name in categories.items() if i not in grouping}
    return _Content(images, annotations, kept, frozenset(used), crowds)


def _check(
    path: Path,
    images: list[tuple[Id, str, tuple[int, int]]],
    annotations: dict[Id, list[str]],
    categories: dict[Id, str],
    used: set[Id],
    grouping: set[Id],
) -> None:
    """Ids must refer to something."""
    if not categories:
        raise DatasetError(f"expected categories in {path}, got none; export it again")
    unknown = sorted(map(str, used - categories.keys()))
    if unknown:
        raise DatasetError(
            f"expected the category_id of every annotation in {path} to be listed under categories, got "
            f"{len(unknown)} others: {first_names(unknown)}; export it again"
        )
    stray = [str(image) for image in annotations.keys() - {image for image, _, _ in images}]
    if stray:
        raise DatasetError(
            f"expected the image_id of every annotation in {path} to be listed under images, got {len(stray)} others: "
            f"{first_names(sorted(stray))}; export it again"
        )
    twice = [str(image) for image, count in Counter(image for image, _, _ in images).items() if count > 1]
    kept = [name for i, name in categories.items() if i not in grouping]
    twice += [name for name, count in Counter(kept).items() if count > 1]
    if twice:
        raise DatasetError(f"expected image ids and category names once in {path}, got again: {first_names(twice)}")


def _classes(path: Path) -> NamedClasses:
    located = locate(path)
    status = (path if located is None else located[0]).stat()
    return _read_classes(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _read_classes(path: Path, _changed_ns: int, _size: int) -> NamedClasses:
    """The classes of the training file: a split may lack some categories, but never has others."""
    content = _read(path)
    by_id = sorted(content.categories.items(), key=lambda item: (isinstance(item[0], str), item[0]))
    return named_classes([name for _, name in by_id])


def _sample_name(file_name: str) -> str:
    return PurePosixPath(file_name.replace("\\", "/")).with_suffix("").as_posix()


def _image_paths(root: Path, listing: Path, split: str, file_names: list[str]) -> list[Path]:
    """Where each image lies: the first of the usual folders that has all of them."""
    base = root if is_folder(root) else root.parent
    named = listing.stem.removeprefix("instances_")  # CVAT calls everything "default"
    folders = (split, f"images/{split}", named, f"images/{named}", "images", ".")
    candidates = [listing.parent, *(base / folder for folder in folders)]
    names = [PurePosixPath(name.replace("\\", "/")) for name in file_names]
    best: tuple[int, Path, list[str]] | None = None
    for folder in dict.fromkeys(candidates):
        if not is_folder(folder):
            continue
        files = [name for name in list_files(folder) if name.lower().endswith(IMAGE_SUFFIXES)]
        there = {composed(name): name for name in files}
        for short in (False, True):  # some programs write the path on their own machine
            wanted = [composed(name.name if short else name.as_posix()) for name in names]
            absent = [name for name in wanted if name not in there]
            shared = [name for name, count in Counter(wanted).items() if count > 1]
            if short and shared and len(set(names)) == len(names):
                continue  # images of one name in several folders: the file could be any of them
            if not absent:
                return [folder / there[name] for name in wanted]
            if best is None or len(absent) < best[0]:
                best = (len(absent), folder, absent)
    if best is None:
        raise DatasetError(f"expected images beside {listing}, but there is no folder of images")
    raise DatasetError(
        f"expected the {len(names)} images of {listing} in {', '.join(map(str, dict.fromkeys(candidates)))}, but "
        f"{best[0]} are absent even from {best[1]}: {first_names(best[2])}; copy them there"
    )
