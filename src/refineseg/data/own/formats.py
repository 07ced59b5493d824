"""Your own data in any common form: looks at what is there, reads it, and applies ``remap.json``.

In: a folder, a zip file, a list or an annotation file. Out: a data set. The rules are in :func:`recognise`.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from refineseg.data.own.coco import coco_files, coco_splits, open_coco
from refineseg.data.own.cvat import cvat_splits, open_cvat
from refineseg.data.own.folder import open_folder
from refineseg.data.own.folder_layout import folder_splits, folders_to_rename, has_layout, split_of
from refineseg.data.own.label_studio import is_brush_png, open_label_studio
from refineseg.data.own.labelme import labelme_splits, open_labelme
from refineseg.data.own.pairs_list import LIST_SUFFIXES, is_pairs_list, open_pairs, pairs_splits
from refineseg.data.own.yolo import check_yaml, is_bare_yolo, open_yolo, yolo_file, yolo_splits
from refineseg.data.samples.class_files import NO_ANNOTATIONS
from refineseg.data.samples.remap import read_remap, remapped
from refineseg.data.samples.sample import Dataset, PairDataset
from refineseg.data.samples.sources import SourceDataset
from refineseg.errors import ConfigError, DatasetError
from refineseg.files.archives import is_file, is_folder, list_files, list_folder, locate, read_text, subfolders
from refineseg.images.files import IMAGE_SUFFIXES, first_names

_SNIFFED = 8  # JSON files looked into
_HEAD = 2048  # characters of a JSON file that tell its kind
_COCO_NAMES = ("instances_", "_annotations.coco")
_SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "test", "testing")
_CVAT_XML = "; CVAT's annotations.xml is not read: export as 'segmentation mask 1.1' or 'COCO 1.0'"


def _one_split(_root: Path) -> tuple[str, ...]:
    return ("train",)


@dataclass(frozen=True)
class OwnFormat:
    """A form in which people keep their own data.

    Args:
        open: Root and split -> samples.
        splits: Root -> the splits there.
        layout: What it looks like, for messages.
        files: Endings of files that may be the root, besides ``.zip``.
    """

    open: Callable[[Path, str], PairDataset | SourceDataset]
    splits: Callable[[Path], tuple[str, ...]]
    layout: str
    files: tuple[str, ...] = ()


FORMATS: dict[str, OwnFormat] = {
    "masks": OwnFormat(
        open_folder,
        folder_splits,
        "images/SPLIT + masks/SPLIT, or SPLIT/images + SPLIT/masks (also labels, annotations)",
    ),
    "coco": OwnFormat(
        open_coco,
        coco_splits,
        "COCO JSON: annotations/instances_SPLIT.json, SPLIT/_annotations.coco.json or annotations.json",
        (".json",),
    ),
    "labelme": OwnFormat(open_labelme, labelme_splits, "labelme: a JSON file for each image"),
    "cvat": OwnFormat(
        open_cvat, cvat_splits, "CVAT 'segmentation mask 1.1': SegmentationClass, JPEGImages, labelmap.txt"
    ),
    "label_studio": OwnFormat(
        open_label_studio,
        _one_split,
        "Label Studio: its JSON export, or task-1-annotation-2-...-NAME-0.png",
        (".json",),
    ),
    "yolo": OwnFormat(open_yolo, yolo_splits, "YOLO: data.yaml, images/ and labels/*.txt", (".yaml", ".yml")),
    "pairs": OwnFormat(open_pairs, pairs_splits, "a list of 'image mask' lines: LIST.txt or train.txt", LIST_SUFFIXES),
}
"""Every form by name; all but ``masks`` are also data sets of that name."""


def open_own(root: Path, split: str) -> Dataset:
    """One split of your own data, in whatever form :func:`recognise` finds, with ``remap.json`` applied.

    Raises:
        DatasetError: An unknown or ambiguous form, or what its reader says.
        ConfigError: A wrong class file or ``remap.json``.
    """
    name, inner = recognise(root)
    return _opened(name, inner, split)


def own_splits(root: Path) -> tuple[str, ...]:
    """The splits of your own data.

    Raises:
        DatasetError: An unknown or ambiguous form.
    """
    name, inner = recognise(root)
    return FORMATS[name].splits(inner)


def open_as(name: str) -> Callable[[Path, str], Dataset]:
    """A function that opens one form by its name, without guessing.

    Args:
        name: A key of :data:`FORMATS`.
    """

    def opened(root: Path, split: str) -> Dataset:
        return _opened(name, _unwrapped(root, name), split)

    return opened


def splits_as(name: str) -> Callable[[Path], tuple[str, ...]]:
    """A function that lists the splits of one form by its name.

    Args:
        name: A key of :data:`FORMATS`.
    """

    def splits(root: Path) -> tuple[str, ...]:
        return FORMATS[name].splits(_unwrapped(root, name))

    return splits


def recognise(root: Path) -> tuple[str, Path]:
    """Which form lies in a root.

    The first rule that fits decides:

    1. A file: ``.yaml`` is YOLO, a text list is pairs, JSON that begins with ``[`` is Label Studio, other JSON COCO.
    2. Masks: ``images/SPLIT`` and ``masks/SPLIT`` (or ``labels``, ``annotations``), or ``SPLIT/images`` and
       ``SPLIT/masks``, with image files in both. Annotation files of other forms beside them are not read.
    3. Exactly one of: CVAT (``SegmentationClass`` and ``labelmap.txt`` or ``ImageSets/Segmentation``), YOLO (one YAML
       file, or ``classes.txt``, and text files in ``labels``), COCO (by its file names, or JSON with ``images`` and
       ``annotations``), Label Studio (a JSON list of tasks, or ``task-...png``), labelme (JSON with ``shapes``).
    4. Pairs: a list whose first line names two image files.
    5. Masks under other names, or without splits (:mod:`refineseg.data.own.folder_layout`).
    6. ``images`` or ``masks`` (or the like) are there but not both: masks, whose reader says what is missing; with
       YOLO's text files in ``labels`` it is ``data.yaml``.

    In a zip file, a single folder that holds everything may surround all this.

    Returns:
        A key of :data:`FORMATS`, and the root without that folder.

    Raises:
        DatasetError: Nothing fits, or several of rule 3 do; the message lists what was found. YOLO without names.
    """
    if is_file(root) and not is_folder(root):
        return _of_file(root), root
    if not is_folder(root):
        raise DatasetError(f"expected a folder, zip file, list or annotation file, got {root}, which is not there")
    for candidate in _candidates(root):
        files = list_files(candidate)
        if has_layout(candidate, usual=True):
            return "masks", candidate
        found = [name for name, fits in _RULES.items() if fits(candidate, files)]
        if len(found) > 1:
            layouts = "; ".join(FORMATS[name].layout for name in found)
            names = ", ".join(f"{name}:{root}" for name in found)
            raise DatasetError(f"expected one form of data in {root}, got {len(found)}: {layouts}; say which: {names}")
        if found:
            return found[0], candidate
        if _pairs(candidate, files):
            return "pairs", candidate
        if has_layout(candidate, usual=False):
            return "masks", candidate
    for candidate in _candidates(root):
        check_yaml(candidate)
        if folder_splits(candidate):
            return "masks", candidate
    raise DatasetError(*_unknown(root))


def _opened(name: str, root: Path, split: str) -> Dataset:
    dataset = FORMATS[name].open(root, split)
    folder = root if is_folder(root) else root.parent
    left_out = list_folder(folder).left_out if is_folder(root) else {}
    if name == "masks" and isinstance(dataset, PairDataset):
        dataset = replace(dataset, notes=(*dataset.notes, *unread_annotations(root)))
    if left_out:
        shown = first_names([f"{entry} ({what})" for entry, what in left_out.items()])
        note = f"left out, because they are no files: {shown}"
        if isinstance(dataset, SourceDataset):
            dataset = replace(dataset, facts=(*dataset.facts, note))
        else:
            dataset = replace(dataset, notes=(*dataset.notes, note))
    table = read_remap(folder)
    return dataset if table is None else remapped(dataset, table[0], declared_in=str(folder / table[1]))


def unread_annotations(root: Path) -> tuple[str, ...]:
    """One note where annotation files of other forms lie beside folders of images and masks, which go first; else none.

    Args:
        root: Root of images and masks.
    """
    files, found = list_files(root), []
    for name, fits in _RULES.items():
        with contextlib.suppress(DatasetError):  # a file that cannot be read
            found += [FORMATS[name].layout] if fits(root, files) else []
    return (f"not read, because folders of images and masks go first: {'; '.join(found)}",) if found else ()


def _candidates(root: Path) -> list[Path]:
    """The root, and in a zip file what a single folder holds.

    A folder that holds everything is no part of the data, unless it is called like a split.
    """
    found = [root]
    while locate(root) is not None and len(inner := subfolders(root)) == 1:
        beside = [name for name in list_files(root) if "/" not in name and not _says_nothing(name)]
        root = root / inner[0]
        found = [root] if not beside and inner[0].lower() not in _SPLIT_NAMES else [*found, root]
    return found


def _says_nothing(name: str) -> bool:
    return name.lower().startswith(("readme", "license", "licence")) or name.lower().endswith((".md", ".pdf"))


def _unwrapped(root: Path, name: str) -> Path:
    """The root of a form that was named; a single folder in a zip file is left out where only that fits."""
    if not is_folder(root):
        return root
    fits: Callable[[Path, tuple[str, ...]], bool] = _RULES.get(name, _pairs)
    return next((inner for inner in _candidates(root) if fits(inner, list_files(inner))), root)


def _of_file(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return "label_studio" if read_text(path).lstrip()[:1] == "[" else "coco"
    for name, own in FORMATS.items():
        if suffix in own.files:
            return name
    raise DatasetError(f"expected a folder, .zip, .json, .yaml or a list .txt, got {path}")


def _cvat(root: Path, files: tuple[str, ...]) -> bool:
    masks = any(name.startswith("SegmentationClass/") for name in files)
    return masks and ("labelmap.txt" in files or is_folder(root / "ImageSets" / "Segmentation"))


def _yolo(root: Path, files: tuple[str, ...]) -> bool:
    labelled = any("labels" in n.split("/")[:-1] and n.endswith(".txt") for n in files)
    return labelled and (yolo_file(root) is not None or is_bare_yolo(root))


def _coco(root: Path, files: tuple[str, ...]) -> bool:
    if any(PurePosixPath(name).name.startswith(_COCO_NAMES) for name in files if name.endswith(".json")):
        return bool(coco_files(root))
    if any(name.endswith(".json") for name in files):
        try:
            return any(_json_kind(path) == "coco" for path in coco_files(root).values())
        except DatasetError:  # several single files
            return True
    return False


def _label_studio(root: Path, files: tuple[str, ...]) -> bool:
    return any(map(is_brush_png, files)) or "label_studio" in _kinds(root, files, deepest=1)


def _labelme(root: Path, files: tuple[str, ...]) -> bool:
    return "labelme" in _kinds(root, files, deepest=99)


_RULES: dict[str, Callable[[Path, tuple[str, ...]], bool]] = {
    "cvat": _cvat,
    "yolo": _yolo,
    "coco": _coco,
    "label_studio": _label_studio,
    "labelme": _labelme,
}


def _pairs(root: Path, files: tuple[str, ...]) -> bool:
    return any(
        "/" not in name and name.lower().endswith(LIST_SUFFIXES) and is_pairs_list(root / name) for name in files
    )


def _kinds(root: Path, files: tuple[str, ...], *, deepest: int) -> set[str]:
    """The kinds of the first few JSON files."""
    names = [n for n in files if n.lower().endswith(".json") and n not in NO_ANNOTATIONS and n.count("/") < deepest]
    names = [name for name in names if not PurePosixPath(name).name.startswith(_COCO_NAMES)]  # they may be large
    return {_json_kind(root / name) for name in names[:_SNIFFED]}


def _json_kind(path: Path) -> str:
    """What a JSON file is, by its beginning or the names of its parts."""
    text = read_text(path)
    if text.lstrip()[:1] == "[":
        head = text[:_HEAD]
        return "label_studio" if any(f'"{key}"' in head for key in ("annotations", "data", "id", "image")) else ""
    if '"shapes"' in text and '"categories"' not in text:
        return "labelme"
    return "coco" if all(f'"{key}"' in text for key in ("images", "categories")) else ""


def _unknown(root: Path) -> tuple[str, ...]:
    files = list_files(root)
    endings = Counter(PurePosixPath(name).suffix.lower() or "no ending" for name in files)
    most = sorted(endings.items(), key=lambda item: (-item[1], item[0]))[:6]
    listed = ", ".join(f"{count} {ending}" for ending, count in most) or "no files"
    folders = ", ".join(
        f"{name} ({sum(f.startswith(f'{name}/') for f in files)} files)" for name in subfolders(root)[:8]
    )
    where = f" in {folders}" if folders else " directly in it" if files else ""
    advice = "; several archives inside are not read: unpack them" if endings[".zip"] else ""
    inner, above = [name for name in subfolders(root) if _fits(root / name)], split_of(root)
    advice += f"; it is one split of a data set: give {above}" if above is not None else ""
    advice += _CVAT_XML if any(PurePosixPath(name).name == "annotations.xml" for name in files) else ""
    advice += f"; {inner[0]} has one of them: give {root / inner[0]}" if inner else ""
    coco = [name for name in files if "/" not in name and name.endswith(".json") and name not in NO_ANNOTATIONS]
    coco = [name for name in coco[:_SNIFFED] if _json_kind(root / name) == "coco"]
    advice += f"; {coco[0]} is COCO JSON: give folder:{root / coco[0]}" if coco else ""
    rename = folders_to_rename(root)
    advice += f"; rename {rename}" if rename else ""
    if not folders and any(name.lower().endswith(IMAGE_SUFFIXES) for name in files):
        advice += "; put the images into a folder images, and their masks, if there are any, into a folder masks"
    return (
        f"expected data in one of the forms below in {root}, got {listed}{where}{advice}",
        *(f"  {own.layout}" for own in FORMATS.values()),
    )


def _fits(root: Path) -> bool:
    files = list_files(root)
    return has_layout(root, usual=False) or any(fits(root, files) for fits in _RULES.values()) or _pairs(root, files)


def root_endings(name: str) -> tuple[str, ...]:
    """Endings of files that may stand for the folder of a data set.

    Args:
        name: ``folder``, or a key of :data:`FORMATS`.

    Raises:
        ConfigError: No form of that name.
    """
    if name == "folder":
        return (".zip", *dict.fromkeys(ending for own in FORMATS.values() for ending in own.files))
    if name not in FORMATS:
        raise ConfigError(f"expected one of {', '.join(FORMATS)}, got {name!r}")
    return (".zip", *FORMATS[name].files)
