"""SUN RGB-D: rooms seen by four depth cameras, 37 classes (Song, Lichtenberg and Xiao, CVPR 2015)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import LabelTable
from refineseg.data.readers.matlab import load_mat, open_hdf5
from refineseg.data.samples.catalog import catalog_classes
from refineseg.data.samples.sample import Dataset, FilePair, PairDataset
from refineseg.data.samples.sources import SourceDataset, mapped_labels
from refineseg.data.storage.file_lists import (
    check_pairs,
    check_present,
    file_names,
    files_by_stem,
    incomplete_note,
    subfolders,
)
from refineseg.errors import DatasetError
from refineseg.images.files import first_names, read_image_size, read_rgb

SPLITS = ("train", "test")
_SIZES = {"train": 5285, "test": 5050}
_NUM_TEST = 5050  # the extracted labels 1..5050 are those of the test images
_WHERE = "SUNRGBD.zip and SUNRGBDtoolbox.zip from rgbd.cs.princeton.edu"
_SEGMENTATION = "SUNRGBDtoolbox/Metadata/SUNRGBD2Dseg.mat"
_META = "SUNRGBDtoolbox/Metadata/SUNRGBDMeta.mat"
_SPLIT_LIST = "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"
_PROBED = 8  # scenes compared where the table of the masks' order is absent
_AGREEMENT = 0.9
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def open_sunrgbd(root: Path, split: str) -> Dataset:
    """One split of SUN RGB-D; labels 1..37 are the classes, 0 is void.

    * Extracted labels: images in ``ROOT/images/SPLIT``, ``ROOT/image/SPLIT`` or ``ROOT/SUNRGBD-SPLIT_images``, masks in
      ``ROOT/labels/SPLIT`` or ``ROOT/label37/SPLIT``, or of both splits in one folder, where 1..5050 are those of the
      test images and 5051..10335 those of the training images. The number at the end of a name pairs them.
    * As published: ``ROOT/SUNRGBD`` with the images, and ``ROOT/SUNRGBDtoolbox``, whose ``SUNRGBD2Dseg.mat`` is read
      one mask at a time. Needs the extra ``mat``. ``allsplit.mat`` tells the split and ``SUNRGBDMeta.mat`` the order of
      the masks; reading the latter takes a while.

    Args:
        root: The folder.
        split: ``train`` (5285 images) or ``test`` (5050); there is no other.

    Raises:
        DatasetError: No such split or files, or images and masks that do not pair.
        MissingExtraError: h5py is needed and not installed.

    Source: ankurhanda/sunrgbd-meta-data for the extracted labels; for the fields of the MATLAB files, public programs
    that read them.
    """
    if split not in SPLITS:
        raise DatasetError(f"expected a SUN RGB-D split of {', '.join(SPLITS)}, got {split!r}; join splits with '+'")
    images = _numbered(_first_with_files(_image_folders(root, split)))
    if images:
        return _open_extracted(root, split, images)
    if (root / _SEGMENTATION).is_file():
        return _open_toolbox(root, split)
    here = first_names([path.name for path in subfolders(root)]) or "no folders"
    raise DatasetError(
        f"expected SUN RGB-D in {root}: images/{split} with labels/{split}, or SUNRGBD with {_SEGMENTATION}, "
        f"got {here}; unpack {_WHERE} there"
    )


def _image_folders(root: Path, split: str) -> Sequence[Path]:
    archive = f"SUNRGBD-{split}_images"
    return root / "images" / split, root / "image" / split, root / archive, root / archive / archive


def _first_with_files(folders: Sequence[Path]) -> Path:
    return next((folder for folder in folders if file_names(folder)), folders[0])


def _numbered(folder: Path) -> dict[int, Path]:
    """Images or masks of a folder by the number at the end of their names."""
    found: dict[int, Path] = {}
    for stem, path in files_by_stem(folder, suffixes=_IMAGE_SUFFIXES).items():
        digits = re.search(r"\d+$", stem)
        if digits:
            number = int(digits.group())
            if number in found:
                raise DatasetError(
                    f"expected one file of number {number} in {folder}, got {found[number].name} and {path.name}; "
                    "remove one"
                )
            found[number] = path
    return found


def _open_extracted(root: Path, split: str, images: dict[int, Path]) -> PairDataset:
    own = _first_with_files([root / name / split for name in ("labels", "label37")])
    masks = _numbered(own)
    if not masks:
        shared = ("labels", "label37", "sunrgbd_test_train_labels", "sunrgbd_train_test_labels", "train_test_labels")
        own = _first_with_files([root / name for name in shared])
        masks = _of_split(_numbered(own), split, images)
    advice = "unpack sunrgbd_test_train_labels.tar.gz and the images of both splits again, completely"
    check_pairs(
        {str(number): path for number, path in images.items()},
        {str(number): path for number, path in masks.items()},
        where=f"{next(iter(images.values())).parent} and {own}",
        advice=advice,
    )
    pairs = tuple(FilePair(path, masks[number], path.stem) for number, path in sorted(images.items()))
    class_info = catalog_classes("sunrgbd")
    values = {0: class_info.ignore_index} | {i + 1: i for i in range(class_info.num_classes)}
    return PairDataset(pairs, class_info, LabelTable(values), incomplete_note(split, len(pairs), _SIZES[split]))


def _of_split(masks: dict[int, Path], split: str, images: dict[int, Path]) -> dict[int, Path]:
    """The masks of a split among those of both, by the numbers of its images, which may start anew at 1."""
    if split == "test":
        return {number: path for number, path in masks.items() if number <= _NUM_TEST}
    offset = 0 if min(images) > _NUM_TEST else _NUM_TEST
    return {number - offset: path for number, path in masks.items() if number > _NUM_TEST}


def _open_toolbox(root: Path, split: str) -> SourceDataset:
    scenes = _split_scenes(root, split)
    with open_hdf5(root / _SEGMENTATION) as file:
        num_masks = _num_masks(file, root / _SEGMENTATION)
    notes = incomplete_note(split, len(scenes), _SIZES[split])
    if (root / _META).is_file():
        order = _order_of_meta(root)
    else:
        order = _order_of_evidence(root, num_masks)
        notes += (f"masks paired by comparison with the scenes' own labels, because {_META} is not there",)
    absent = [scene for scene in scenes if scene not in order]
    if num_masks != len(order) or absent:
        raise DatasetError(
            f"expected one mask in {root / _SEGMENTATION} for each scene, got {num_masks} for {len(order)} scenes in "
            f"{_META}, without {len(absent)} of {_SPLIT_LIST} ({first_names(absent)}); unpack SUNRGBDtoolbox.zip "
            f"again, completely ({_WHERE})"
        )
    indices, images = zip(*(order[scene] for scene in scenes), strict=True)
    check_present(
        images, root=root, listed_in=str(root / _SPLIT_LIST), advice=f"unpack SUNRGBD.zip again, completely ({_WHERE})"
    )
    class_info = catalog_classes("sunrgbd")
    classes = np.arange(-1, class_info.num_classes).astype(np.uint8)  # 0 becomes 255, void
    source = ToolboxSource(root / _SEGMENTATION, tuple(images), tuple(indices), classes)
    return SourceDataset(tuple(scenes), source, class_info, notes)


def _scene(path: str) -> str:
    """A path of the authors' machine as one inside ``SUNRGBD``: what precedes that folder does not matter.

    Example:
        >>> _scene("/n/fs/sun3d/data/SUNRGBD/kv1//NYUdata/NYU0464/")
        'kv1/NYUdata/NYU0464'
    """
    parts = [part for part in path.replace("\\", "/").split("/") if part]
    return "/".join(parts[parts.index("SUNRGBD") + 1 :] if "SUNRGBD" in parts else parts)


def _split_scenes(root: Path, split: str) -> list[str]:
    variable = f"all{split}"
    entries = np.atleast_1d(load_mat(root / _SPLIT_LIST, [variable])[variable])
    wrong = [entry for entry in entries if not isinstance(entry, str)]
    if wrong or not len(entries):
        raise DatasetError(
            f"expected paths in {variable} of {root / _SPLIT_LIST}, got {first_names(wrong) or 'none'}; unpack "
            f"SUNRGBDtoolbox.zip again ({_WHERE})"
        )
    return [_scene(str(entry)) for entry in entries]


def _order_of_meta(root: Path) -> dict[str, tuple[int, Path]]:
    """Scene -> number of its mask and path of its image, from the table whose rows are those of the masks."""
    path = root / _META
    rows = np.atleast_1d(load_mat(path, ["SUNRGBDMeta"], fields=("rgbpath", "rgbname"))["SUNRGBDMeta"])
    fields = rows.dtype.names or ()
    if "rgbpath" not in fields or "rgbname" not in fields:
        raise DatasetError(
            f"expected a struct array with rgbpath and rgbname in {path}, got {first_names(fields) or 'no fields'}; "
            f"unpack the original SUNRGBDtoolbox.zip ({_WHERE})"
        )
    order = {}
    for index, (rgb_path, rgb_name) in enumerate(zip(rows["rgbpath"], rows["rgbname"], strict=True)):
        scene = _scene(str(rgb_path)).rpartition("/image/")[0]
        order[scene] = (index, root / "SUNRGBD" / scene / "image" / str(rgb_name))
    return order


def _order_of_evidence(root: Path, num_masks: int) -> dict[str, tuple[int, Path]]:
    """The same without that table: the order of the split list whose masks agree with the scenes' own labels."""
    fitting = []
    for splits in (("test", "train"), ("train", "test")):
        scenes = [scene for split in splits for scene in _split_scenes(root, split)]
        probes = range(0, num_masks, max(1, num_masks // _PROBED))
        if len(scenes) == num_masks and all(_agrees(root, scenes[index], index) for index in probes):
            fitting.append(scenes)
    if len(fitting) != 1:
        raise DatasetError(
            f"expected {root / _META}, which says which scene each mask of SUNRGBD2Dseg.mat belongs to (the scenes' "
            f"own seg.mat do not tell it); unpack SUNRGBDtoolbox.zip again, completely ({_WHERE})"
        )
    order = {}
    for index, scene in enumerate(fitting[0]):
        folder = root / "SUNRGBD" / scene / "image"
        order[scene] = (index, folder / next(iter(file_names(folder)), f"{Path(scene).name}.jpg"))
    return order


def _agrees(root: Path, scene: str, index: int) -> bool:
    """Whether a mask is that of a scene: classes named in the scene's own labels are where the mask has them."""
    own = root / "SUNRGBD" / scene / "seg.mat"
    if not own.is_file():
        return False
    found = load_mat(own, ["names", "seglabel"])
    classes = {name: label for label, name in enumerate(catalog_classes("sunrgbd").names, start=1)}
    names = (str(name).strip().lower().replace(" ", "_") for name in np.atleast_1d(found["names"]))
    labels = np.array([0, *(classes.get(name, 0) for name in names)])
    with open_hdf5(root / _SEGMENTATION) as file:
        mask = _mask(file, index)
    if found["seglabel"].shape != mask.shape or int(found["seglabel"].max()) >= len(labels):
        return False
    expected = labels[found["seglabel"]]
    named = expected > 0
    return bool(named.any()) and float((mask[named] == expected[named]).mean()) > _AGREEMENT


def _num_masks(file: Mapping[str, Any], path: Path) -> int:
    """How many masks an open ``SUNRGBD2Dseg.mat`` has."""
    if "SUNRGBD2Dseg" not in file or "seglabel" not in file["SUNRGBD2Dseg"]:
        found = sorted(file.get("SUNRGBD2Dseg", file))
        raise DatasetError(
            f"expected SUNRGBD2Dseg with the field seglabel in {path}, got {first_names(found)}; unpack the original "
            f"SUNRGBDtoolbox.zip ({_WHERE})"
        )
    return int(file["SUNRGBD2Dseg"]["seglabel"].size)


def _mask(file: Mapping[str, Any], index: int) -> NDArray[Any]:
    """One mask, ``(H, W)`` labels 0..37: the file holds references to them, and MATLAB's axes reversed."""
    references = file["SUNRGBD2Dseg"]["seglabel"]  # (N, 1), or (1, N)
    row = (index, 0) if references.shape[0] > 1 else (0, index)
    labels: NDArray[Any] = file[references[row]][()].T
    return labels


@dataclass(frozen=True)
class ToolboxSource:
    """Images of ``SUNRGBD`` and masks of the toolbox, read one at a time.

    Args:
        segmentation: The HDF5 file of the masks, 64 GB when loaded whole.
        images: JPEG files.
        indices: Indices of the masks, from 0.
        classes: Label 0..37 -> class index or void.
    """

    segmentation: Path
    images: tuple[Path, ...]
    indices: tuple[int, ...]
    classes: NDArray[np.uint8] = field(repr=False, compare=False)

    def image(self, index: int) -> NDArray[np.uint8]:
        """The image."""
        return read_rgb(self.images[index])

    def image_file(self, index: int) -> Path | None:
        """The file of the image."""
        return self.images[index]

    def image_hw(self, index: int) -> tuple[int, int]:
        """Its height and width, from the file's header."""
        return read_image_size(self.images[index])

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The mask.

        Raises:
            LabelError: A label above 37.
        """
        number = self.indices[index]
        with open_hdf5(self.segmentation) as file:
            labels = _mask(file, number)
        return mapped_labels(labels, self.classes, name=f"{self.segmentation}, mask {number + 1}")
