"""How people lay out images and masks in folders: which folders are a split's, and which files belong together.

In: the root. Out: the splits, their folders, and :class:`Partners`.

Three layouts are read: ``images/SPLIT`` with ``masks/SPLIT``, ``SPLIT/images`` with ``SPLIT/masks``, and ``images``
with ``masks`` without splits, which is ``train``. The folders may have other names (``Training_Images``,
``leftImg8bit``; ``Ground_Truth``, ``gtFine``), where exactly one says that it holds images and exactly one that it
holds masks.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from refineseg.data.own.accents import composed
from refineseg.data.samples.class_files import CLASS_FILES
from refineseg.errors import DatasetError
from refineseg.files.archives import is_file, is_folder, list_files, subfolders
from refineseg.images.files import IMAGE_SUFFIXES, find_images, first_names

MASK_FOLDERS = ("masks", "labels", "annotations")
"""Names of the folder beside ``images``; of several, the first that has the split is read."""

USUAL_SPLITS = ("train", "val", "test")


def in_usual_order(splits: Iterable[str]) -> tuple[str, ...]:
    """Train, val and test first, then others by name.

    Example:
        >>> in_usual_order({"night", "val", "train"})
        ('train', 'val', 'night')
    """
    found = set(splits)
    return (*(split for split in USUAL_SPLITS if split in found), *sorted(found.difference(USUAL_SPLITS)))


def split_like(usual: str, splits: Sequence[str]) -> str | None:
    """A split by its usual name, or the only one whose name begins so: ``valid``, ``Validation``, ``val2017``.

    Args:
        usual: Usual name, for instance ``val``.
        splits: Splits that are there.

    Example:
        >>> split_like("val", ("train", "Validation")), split_like("train", ("city", "trainstation"))
        ('Validation', None)
    """
    alike = [split for split in splits if re.fullmatch(rf"{usual}(ing|id|idation|val)?([^a-z].*)?", split.lower())]
    return usual if usual in splits else alike[0] if len(alike) == 1 else None


def splits_alike(splits: Iterable[str]) -> tuple[str, ...]:
    """A note for each group of splits whose names differ by capitals only, of which one alone may be meant.

    Args:
        splits: Splits that are there.

    Example:
        >>> print(*splits_alike(("train", "val", "Train")))
        the splits 'train' and 'Train' differ by capitals only and are not one; give them one name if one is meant
    """
    groups: dict[str, list[str]] = {}
    for split in splits:
        groups.setdefault(split.casefold(), []).append(split)
    return tuple(
        f"the splits {' and '.join(map(repr, group))} differ by capitals only and are not one; give them one name "
        "if one is meant"
        for group in groups.values()
        if len(group) > 1
    )


def splits_to_train_on(splits: Sequence[str]) -> str:
    """The options of ``train`` where no split is called like ``train``; empty where none is left to learn from.

    Args:
        splits: Splits that are there.

    Example:
        >>> splits_to_train_on(("plate0", "plate1", "plate 2"))
        "--set train_split=plate0+plate1 --set 'val_split=plate 2'"
        >>> splits_to_train_on(("Test", "a", "testing_2", "b"))
        '--set train_split=a --set val_split=b'
    """
    named = [split for split in splits if not re.match(r"test(ing)?([^a-z]|$)", split.lower()) and "+" not in split]
    val = split_like("val", named) or (named[-1] if len(named) > 1 else None)
    learn = [split for split in named if split != val]
    chosen = [("train_split", "+".join(learn))] * bool(learn) + [("val_split", val)] * bool(val)
    return " ".join(f"--set {shlex.quote(f'{key}={_as_text(value)}')}" for key, value in chosen if value and learn)


def _as_text(value: str) -> str:
    """A value of ``--set`` that is a text, also where it looks like a number."""
    try:
        json.loads(value)
    except ValueError:
        return value
    return json.dumps(value)


_MASK_ENDINGS = ("_mask", "_label", "_labels")
_IMAGE_ENDINGS = ("_image", "_img")
_SUFFIX_ORDER = (".png", *(suffix for suffix in IMAGE_SUFFIXES if suffix != ".png"))
_LAYOUTS = "images/SPLIT and masks/SPLIT, or SPLIT/images and SPLIT/masks (SPLIT: train, val, ...)"
_MASK_WORDS = re.compile(r"mask|label|annot|truth|segm|(?<![a-z])(gt|seg)", re.IGNORECASE)
_IMAGE_WORDS = re.compile(r"image|img|photo|picture|(?<![a-z])rgb", re.IGNORECASE)


@dataclass(frozen=True)
class _Layout:
    """How folders are named.

    Args:
        images: Name of the folder of images.
        masks: Names of the folder of masks; of several, the first that has the split is read.
        flat: Both lie in the root and have no splits.
    """

    images: str = "images"
    masks: tuple[str, ...] = MASK_FOLDERS
    flat: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.images, *self.masks)


def _layout(root: Path) -> _Layout:
    """The usual names where they are used, else those that can only be meant."""
    usual, inside = _Layout(), subfolders(root)
    if not any(name in usual.names or any(is_folder(root / name / n) for n in usual.names) for name in inside):
        for tree in (inside, sorted({name for split in inside for name in subfolders(root / split)})):
            masks = [name for name in tree if _MASK_WORDS.search(name)]
            images = [name for name in tree if _IMAGE_WORDS.search(name) and name not in masks]
            if len(images) == len(masks) == 1:
                usual = _Layout(images[0], (masks[0],))
                break
    masks = [name for name in usual.masks if _holds_images(root / name)]
    if masks and split_of(root) is None and _holds_images(root / usual.images):
        return _Layout(usual.images, (masks[0],), flat=True)
    return usual


def split_of(root: Path) -> Path | None:
    """The data set of which a folder is one split, because its class file or other splits lie beside it; else None."""
    here = root.resolve()
    if here.name not in USUAL_SPLITS:
        return None
    others = [here.parent / name for name in subfolders(here.parent) if name != here.name]
    splits = any(other.name in USUAL_SPLITS and is_folder(other / "images") for other in others)
    return here.parent if splits or any(is_file(here.parent / name) for name in CLASS_FILES) else None


def _holds_images(folder: Path) -> bool:
    """Whether images lie directly in a folder, and none in folders in it that are called like a split."""
    if not is_folder(folder) or set(subfolders(folder)) & set(USUAL_SPLITS):
        return False
    return any("/" not in name and name.lower().endswith(IMAGE_SUFFIXES) for name in list_files(folder))


def has_layout(root: Path, *, usual: bool) -> bool:
    """Whether a folder holds images and masks of a split.

    Args:
        root: The folder.
        usual: Only under the usual names, and with splits.
    """
    layout = _layout(root)
    if usual and (layout.flat or layout.images != _Layout.images):
        return False
    return any(
        _any_image(images) and any(map(_any_image, masks))
        for images, masks in (_folders(root, split, layout) for split in folder_splits(root))
    )


def folders_to_rename(root: Path) -> str:
    """Which folders to rename, where one says that it holds images and one that it holds masks; else empty."""
    inside = [name for name in subfolders(root) if _any_image(root / name)]
    masks = [name for name in inside if _MASK_WORDS.search(name)]
    images = [name for name in inside if _IMAGE_WORDS.search(name) and name not in masks]
    if len(images) != 1 or len(masks) != 1:
        return ""
    wanted = {images[0]: "images", masks[0]: masks[0] if masks[0] in MASK_FOLDERS else "masks"}
    return " and ".join(f"{name} to {new}" for name, new in wanted.items() if name != new)


def _any_image(folder: Path) -> bool:
    return is_folder(folder) and any(name.lower().endswith(IMAGE_SUFFIXES) for name in list_files(folder))


def folder_splits(root: Path) -> tuple[str, ...]:
    """The splits of a folder data set: train, val and test first, then others by name.

    A split counts as soon as it has images or masks, so that one whose masks are missing is an error when it is opened,
    and not a split less.

    Raises:
        DatasetError: The root is no folder.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as root:
        ...     for name in ("images/val", "masks/val", "images/train", "masks/train"):
        ...         Path(root, name).mkdir(parents=True)
        ...     folder_splits(Path(root))
        ('train', 'val')
    """
    if not is_folder(root):
        raise DatasetError(f"expected the folder of a data set, got {root}, which is {_what(root)}")
    layout = _layout(root)
    if layout.flat:
        return ("train",)
    images_first = {split for name in layout.names for split in subfolders(root / name)}
    split_first = {
        split for split in subfolders(root) for name in layout.names if is_folder(root / split / name)
    } - set(layout.names)
    both = sorted(images_first & split_first)
    if both:
        raise DatasetError(
            f"expected one layout in {root}, got images/{both[0]} and {both[0]}/images (or their masks); remove one"
        )
    return in_usual_order(images_first | split_first)


def _what(path: Path) -> str:
    return "a file" if path.is_file() else "not there"


def _folders(root: Path, split: str, layout: _Layout) -> tuple[Path, list[Path]]:
    """Where the images of a split should lie, and where its masks may."""
    if layout.flat:
        return root / layout.images, [root / name for name in layout.masks]
    split_first = any(is_folder(root / split / name) for name in layout.names)
    images, *masks = (root / split / name if split_first else root / name / split for name in layout.names)
    return images, masks


def split_folders(root: Path, split: str) -> tuple[Path, Path]:
    """The folders of images and masks of a split, both of them there.

    Raises:
        DatasetError: There is no such split, or one of the folders is missing.
    """
    splits = folder_splits(root)
    if not splits:
        raise DatasetError(f"expected {_LAYOUTS} in {root}, {_found_instead(root)}")
    if split not in splits:
        inner = [root / name for name in subfolders(root) if split in folder_splits(root / name)]
        meant = f"; it is one level down: give {inner[0]}" if inner else ""
        only = "; images and masks have no splits" if _layout(root).flat else ""
        options = splits_to_train_on(splits) if split == "train" else ""
        how = f"; to train on these: {options}" if options else ""
        raise DatasetError(
            f"expected a split of {', '.join(splits)} (those in {root}), got {split!r}{meant or only or how}"
        )
    images, places = _folders(root, split, _layout(root))
    masks = [folder for folder in places if is_folder(folder)]
    by_case = "".join(f"; {note}" for note in splits_alike(name for name in splits if name.lower() == split.lower()))
    if not is_folder(images):
        raise DatasetError(f"expected the images of {masks[0]} in {images}, but there is no such folder{by_case}")
    if not masks:
        raise DatasetError(
            f"expected the masks of {images} in {places[0]}, but there is no such folder; add the masks "
            f"(unlabelled images need no data set: use predict){by_case}"
        )
    return images, masks[0]


def _found_instead(root: Path) -> str:
    inside, above = subfolders(root), root.resolve().parent
    siblings = folder_splits(above)
    if root.resolve().name in siblings and set(siblings) & set(USUAL_SPLITS):
        return f"got one split of such a data set; give {above}"
    if "images" in inside and find_images(root / "images"):
        return "got images directly in images and no folder of masks; add masks with the same names"
    inner = [name for name in inside if folder_splits(root / name)]
    if inner:
        return f"got one in {inner[0]}: give {root / inner[0]}"
    return f"got the folders {first_names(inside)}" if inside else "got no folders; give the folder above them"


@dataclass(frozen=True)
class Partners:
    """Which files of a split belong together.

    Args:
        images: Name of each sample -> its image files, which should be one.
        masks: Name of each sample that has one -> its mask files, which should be one.
        orphans: Masks without an image.
        by_case: Name of each sample without a mask -> the mask whose name differs only by capitals.
    """

    images: dict[str, list[Path]]
    masks: dict[str, list[Path]]
    orphans: tuple[Path, ...]
    by_case: dict[str, Path] = field(default_factory=dict)


def partners(image_folder: Path, mask_folder: Path | None) -> Partners:
    """Pair the files of two folders by their names.

    Args:
        image_folder: Folder of the images.
        mask_folder: Folder of the masks; None: there is none.
    """
    images = _by_key(_listed(image_folder), image_folder)
    bare = {base: key for key in images for base in _without(key, _IMAGE_ENDINGS)}
    owners = bare | {key: key for key in images}
    masks: dict[str, list[Path]] = {}
    orphans: dict[str, list[Path]] = {}
    for key, paths in _by_key(_listed(mask_folder), mask_folder).items() if mask_folder is not None else ():
        names = (key, *_without(key, _MASK_ENDINGS))
        owner = next((owners[name] for name in names if name in owners), None)
        if owner is None:
            orphans[key] = paths
        else:  # of one name, .png goes first; another name for the same image is a second mask
            masks.setdefault(owner, []).append(min(paths, key=lambda path: _SUFFIX_ORDER.index(path.suffix.lower())))
    lonely = {name.casefold(): owner for name, owner in owners.items() if owner not in masks}
    claims: dict[str, list[Path]] = {}
    for key, paths in orphans.items():
        names = (key.casefold(), *_without(key.casefold(), _MASK_ENDINGS))
        owner = next((lonely[name] for name in names if name in lonely), None)
        if owner is not None:
            claims.setdefault(owner, []).extend(paths)
    by_case = {owner: paths[0] for owner, paths in claims.items() if len(paths) == 1}
    left = [path for paths in orphans.values() for path in paths if path not in set(by_case.values())]
    return Partners(images, masks, tuple(left), by_case)


def _without(key: str, endings: Iterable[str]) -> list[str]:
    return [key.removesuffix(ending) for ending in endings if key.endswith(ending)]


def _listed(folder: Path) -> Sequence[Path]:
    return find_images(folder) if is_folder(folder) else ()


def _by_key(paths: Sequence[Path], folder: Path) -> dict[str, list[Path]]:
    """Files by their path in the folder without the ending, in one Unicode form: archives from a Mac have another."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        key = composed(path.relative_to(folder).with_suffix("").as_posix())
        found.setdefault(key, []).append(path)
    return found


def existing_folders(root: Path, split: str) -> tuple[Path, Path | None]:
    """The folders of images and masks of a split, whether they are there or not; None: no masks."""
    images, places = _folders(root, split, _layout(root))
    return images, next((folder for folder in places if is_folder(folder)), None)


def stray_images(root: Path) -> tuple[str, ...]:
    """One note where images lie in no folder of a split, which nothing else would tell; else none.

    Args:
        root: Root of images and masks.

    Raises:
        DatasetError: As :func:`folder_splits`.
    """
    used = [folder for split in folder_splits(root) for folder in existing_folders(root, split) if folder is not None]
    strays = [path for path in _listed(root) if not any(path.is_relative_to(folder) for folder in used)]
    if not strays:
        return ()
    shown = first_names([path.relative_to(root).as_posix() for path in strays], most=3)
    return (f"{len(strays)} images lie in no folder of a split and are left out: {shown}; move them into one, or away",)
