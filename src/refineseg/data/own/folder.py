"""Your own data: folders of images and masks, with or without a list of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from refineseg.class_info import ClassInfo, LabelTable
from refineseg.data.own.folder_layout import folder_splits, partners, split_folders, split_like, stray_images
from refineseg.data.samples.class_files import MOST_UNNAMED, read_class_file
from refineseg.data.samples.own_classes import alike
from refineseg.data.samples.sample import FilePair, PairDataset
from refineseg.data.samples.threads import read_all
from refineseg.errors import DatasetError, LabelError
from refineseg.images.files import IMAGE_SUFFIXES, first_names, mask_values
from refineseg.images.label_messages import value_ranges

_SHOWN = 10


def open_folder(root: Path, split: str) -> PairDataset:
    """One split of your own data.

    The layouts are those of :mod:`refineseg.data.own.folder_layout`: ``ROOT/images/SPLIT`` with ``ROOT/masks/SPLIT``,
    ``ROOT/SPLIT/images`` with ``ROOT/SPLIT/masks``, or both without splits. Subfolders are allowed. The mask of
    ``images/train/a/b.jpg`` is ``masks/train/a/b.png`` (``.png`` before other lossless kinds), or ``b_mask.png``,
    ``b_label.png``, ``b_labels.png``; an image may be called ``b_image.jpg``.

    Masks are grey or palette images of values (8 or 16 bits), or RGB images of colours. What these mean stands in
    ``ROOT/classes.json``, ``labelmap.txt`` or ``classes.txt``
    (:func:`~refineseg.data.samples.class_files.read_class_file`). Without such a file all masks of the split ``train``
    are read: their values must be 0..K-1 and 255 for void, and the classes are called ``class_0`` and so on, for every
    split.

    Args:
        root: The folder.
        split: Name of a split, for instance ``train``; :func:`folder_splits` lists them.

    Raises:
        DatasetError: No such folder or split, no images, or an image or mask that lacks its partner or has two.
        LabelError: There is no class file, and the values of the training masks are not 0..K-1 and 255.
        ConfigError: The class file is wrong.
    """
    pairs = _pairs(root, split)
    listed = read_class_file(root)
    if listed is not None:
        return PairDataset(pairs, *listed, (*alike(listed[0].names), *stray_images(root)), root=str(root))
    learned = split_like("train", folder_splits(root))
    if learned is None:
        raise DatasetError(
            f"expected classes.json in {root}, or a split 'train' whose masks tell the number of classes, got neither: "
            "write classes.json"
        )
    training = pairs if split == learned else _pairs(root, learned)
    class_info, table = count_classes(training, root)
    note = (
        f"{class_info.num_classes} classes, counted in {len(training)} training masks; "
        f"write {root / 'classes.json'} to name them and to start faster"
    )
    return PairDataset(pairs, class_info, table, (note, *stray_images(root)), root=str(root))


def _pairs(root: Path, split: str) -> tuple[FilePair, ...]:
    """Every image with its mask, sorted by path."""
    image_folder, mask_folder = split_folders(root, split)
    found = partners(image_folder, mask_folder)
    if not found.images:
        raise DatasetError(f"expected images in {image_folder}, got none; endings read: {', '.join(IMAGE_SUFFIXES)}")
    doubled = [" and ".join(path.name for path in paths) for paths in found.images.values() if len(paths) > 1]
    if doubled:
        raise DatasetError(
            f"expected one image of each name in {image_folder}, got {len(doubled)} names twice: "
            f"{first_names(doubled)}; rename or remove one of each"
        )
    if found.by_case:
        named = [f"{mask.name} for {found.images[key][0].name}" for key, mask in found.by_case.items()]
        raise DatasetError(
            f"expected the name of each mask in {mask_folder} as that of its image, got {len(named)} that differ by "
            f"capitals: {first_names(named)}; rename one of both, or let `refineseg doctor folder:{root} --fix` write "
            "a repaired copy"
        )
    lonely = [paths[0] for key, paths in found.images.items() if key not in found.masks]
    _check_partners(lonely, found.orphans, image_folder, mask_folder)
    ambiguous = [" and ".join(path.name for path in paths) for paths in found.masks.values() if len(paths) > 1]
    if ambiguous:
        raise DatasetError(
            f"expected one mask for each image in {mask_folder}, got several for {len(ambiguous)}: "
            f"{first_names(ambiguous)}; keep one of each"
        )
    return tuple(FilePair(paths[0], found.masks[key][0], key) for key, paths in found.images.items())


def _check_partners(lonely: Sequence[Path], orphans: Sequence[Path], image_folder: Path, mask_folder: Path) -> None:
    if not lonely and not orphans:
        return
    parts = []
    if lonely:
        names = first_names([path.relative_to(image_folder) for path in lonely])
        parts.append(f"{len(lonely)} images without a mask ({names})")
    if orphans:
        names = first_names([path.relative_to(mask_folder) for path in orphans])
        parts.append(f"{len(orphans)} masks without an image ({names})")
    raise DatasetError(
        f"expected each image in {image_folder} to have a mask of the same name in {mask_folder} (a.jpg: a.png or "
        f"a_mask.png), got {' and '.join(parts)}; add, rename or remove them"
    )


def _values(path: Path) -> dict[int, int]:
    """:func:`mask_values`, read once for each state of a local file, because each split that is opened asks for all."""
    if type(path) is not type(Path()):  # in a zip file, or remote
        return mask_values(path)
    try:
        state = path.stat()
    except OSError:
        return mask_values(path)  # which says what is wrong
    return _values_of(path, (state.st_ino, state.st_mtime_ns, state.st_ctime_ns, state.st_size))


@cache
def _values_of(path: Path, state: tuple[int, ...]) -> dict[int, int]:
    return mask_values(path)


def count_classes(pairs: Sequence[FilePair], root: Path) -> tuple[ClassInfo, LabelTable]:
    """Classes 0..K-1 from the values of all masks, where nothing lists them.

    Args:
        pairs: The training images and masks.
        root: The folder without a class file, for messages.

    Returns:
        The classes ``class_0`` and so on, and how masks write them.

    Raises:
        LabelError: The values are not 0..K-1 and 255.
    """
    paths = [pair.mask for pair in pairs if pair.mask is not None]
    found = read_all(lambda index: _values(paths[index]), len(paths))
    counts: Counter[int] = Counter()
    for values in found:
        counts.update(values)
    classes = sorted(set(counts) - {255})
    if classes != list(range(len(classes))) or not 2 <= len(classes) <= MOST_UNNAMED:
        correct, *where = _where_beyond(paths, found)
        raise LabelError(
            f"expected the values 0..K-1 (and 255 for void) in the {len(paths)} training masks, because {root} has no "
            f"classes.json, {_other_values(counts, root)}{correct}",
            *where,
        )
    class_info = ClassInfo.generic(len(classes))
    table = {value: value for value in classes} | {255: class_info.ignore_index}
    return class_info, LabelTable(table, declared_in="classes.json")


def _where_beyond(paths: Sequence[Path], found: Sequence[dict[int, int]]) -> list[str]:
    """The files with values after the first hole in 0..K-1, where these are the exception: end of a line, and lines."""
    present = {value for values in found for value in values} - {255}
    first_hole = next(value for value in range(len(present) + 1) if value not in present)
    beyond = [
        f"{path}: "
        + ", ".join(f"{v} in {n} pixel{'s' * (n != 1)}" for v, n in sorted(values.items()) if v > first_hole)
        for path, values in zip(paths, found, strict=True)
        if any(first_hole < value != 255 for value in values)
    ]
    if first_hole < 2 or not beyond:
        return [""]
    shown = [f"  {line}" for line in beyond[:_SHOWN]]
    shown += [f"  and {len(beyond) - _SHOWN} more"] * (len(beyond) > _SHOWN)
    masks = "mask that holds" if len(beyond) == 1 else f"{len(beyond)} masks that hold"
    return [f"; or correct the {masks} values beyond 0..{first_hole - 1}:", *shown]


def _other_values(counts: Counter[int], root: Path) -> str:
    """What the values of the training masks are instead of 0..K-1, and what to write."""
    values = sorted(set(counts) - {255})
    got = f"got {value_ranges(counts)}"
    if set(counts) == {0, 255}:
        return (
            f"got 0 ({counts[0]} pixels) and 255 ({counts[255]} pixels): 255 is void, so only one class would be left; "
            "write 1 instead of 255, or keep the masks and write classes.json: "
            '{"classes": [{"id": 0, "name": "background"}, {"id": 255, "name": "object"}]}, or let `refineseg doctor '
            f"folder:{root} --fix` write a repaired copy"
        )
    if len(values) < 2:
        return f"{got}: fewer than two classes, there is nothing to learn; label more"
    listed = ", ".join(f'{{"id": {value}, "name": "..."}}' for value in values[:3])
    advice = f'write classes.json that lists them: {{"classes": [{listed}{", ..." if len(values) > 3 else ""}]}}'
    if 255 in counts and values[0] == 0:
        advice += ' (255 is void unless it is listed, too: {"id": 255, "name": "..."})'
    if len(values) > MOST_UNNAMED:
        return f"{got}; export the masks as PNG of class indices if they are grey pictures or were resized, or {advice}"
    if values == list(range(1, len(values) + 1)):
        return f"{got}; {advice}, or subtract 1 from every value"
    return f"{got}; {advice}"
