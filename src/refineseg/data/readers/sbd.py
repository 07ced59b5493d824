"""SBD, the Semantic Boundaries Dataset: VOC's classes on 11355 images of VOC 2011 (Hariharan et al., ICCV 2011)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import LabelTable
from refineseg.data.readers.matlab import load_mat
from refineseg.data.readers.pascal_layout import Archive, find_folder, first_file, pair_by_id, read_ids
from refineseg.data.samples.catalog import catalog_classes
from refineseg.data.samples.sample import PairDataset
from refineseg.data.samples.sources import mapped_labels
from refineseg.errors import DatasetError

SPLITS = ("train", "val", "train_noval", "all")
_SBD = Archive(
    "SBD",
    "benchmark_RELEASE/dataset with img, cls, train.txt and val.txt",
    "benchmark.tgz of http://home.bharathh.info/pubs/codes/SBD/download.html "
    "(train_noval.txt is a file of its own there)",
)


def read_sbd_mask(path: Path) -> NDArray[np.uint8]:
    """The class mask of a ``cls/ID.mat``: ``GTcls.Segmentation``, values 0..20; SBD has no void.

    Raises:
        DatasetError: The file cannot be read or has another structure.
        LabelError: It holds other values.
    """
    struct = load_mat(path, ["GTcls"])["GTcls"]
    if not isinstance(struct, np.ndarray) or struct.shape != () or "Segmentation" not in (struct.dtype.names or ()):
        raise DatasetError(
            f"expected GTcls of one entry with a field Segmentation in {path}, got {_shape_of(struct)}; "
            "give SBD's folder cls (the files of inst are another thing)"
        )
    values: NDArray[Any] = struct["Segmentation"].item()
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "ui":
        raise DatasetError(
            f"expected GTcls.Segmentation of integers by row and column in {path}, got {_shape_of(values)}"
        )
    classes = np.arange(catalog_classes("voc").num_classes, dtype=np.uint8)
    return mapped_labels(values, classes, name=str(path))


def _shape_of(value: object) -> str:
    return f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def open_sbd(root: Path, split: str) -> PairDataset:
    """One split of SBD, with the classes of VOC.

    ``benchmark_RELEASE/dataset/img/ID.jpg``, ``dataset/cls/ID.mat`` (:func:`read_sbd_mask`) and ``dataset/SPLIT.txt``.
    The ids are those of VOC, and both of SBD's own splits hold images of VOC's val: to measure on VOC val, train on
    ``train_noval`` or leave them out (:class:`~refineseg.data.samples.sample.Without`).

    Args:
        root: The folder that holds ``benchmark_RELEASE``, or ``benchmark_RELEASE``, or ``dataset`` itself.
        split: ``train`` (8498 images), ``val`` (2857), ``all`` (both), or ``train_noval`` (5623, none of them in VOC's
            val), whose list is a download of its own.

    Raises:
        DatasetError: No such split, list or files.
    """
    if split not in SPLITS:
        raise DatasetError(f"expected an SBD split of {', '.join(SPLITS)}, got {split!r}; join splits with '+'")
    folder = find_folder(root, ("benchmark_RELEASE/dataset", "dataset", "."), holding=("img", "cls"), archive=_SBD)
    lists = [folder / f"{part}.txt" for part in (("train", "val") if split == "all" else (split,))]
    ids: tuple[str, ...] = ()
    for path in lists:
        ids += read_ids(first_file([path], what=f"the list of SBD's {path.stem} images", archive=_SBD))
    pairs = pair_by_id(
        tuple(dict.fromkeys(ids)),
        listing=lists[-1],
        images=folder / "img",
        masks=[folder / "cls"],
        suffix=".mat",
        labelled=True,
        archive=_SBD,
    )
    class_info = catalog_classes("voc")
    notes = () if split == "train_noval" else (f"sbd {split}: some of its images are in VOC's val",)
    return PairDataset(pairs, class_info, LabelTable.identity(class_info), notes, read_sbd_mask)
