"""Files for the evaluation servers of benchmarks whose test masks are not public.

In: predicted masks. Out: files in the layout a server takes. One literal dict, data set -> :class:`Benchmark`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refineseg.class_info import ClassInfo
from refineseg.data.readers.cityscapes import to_label_ids
from refineseg.errors import ConfigError, DatasetError
from refineseg.images.encoding import save_image, write_mask

_VOC_FOLDER = Path("results") / "VOC2012" / "Segmentation" / "comp6_test_cls"
_CITYSCAPES_HW = (1024, 2048)
_CITYSCAPES_NAME = re.compile(r"(.+_\d{6}_\d{6})(_leftImg8bit)?")


@dataclass(frozen=True)
class Benchmark:
    """A server's format.

    Args:
        write: Writes one mask: root folder, sample name, ``(H, W)`` class indices and ``ignore_index``, classes.
        summary: What is written and what to do with it, in one line.
    """

    write: Callable[[Path, str, NDArray[Any], ClassInfo], None]
    summary: str


def write_voc(root: Path, name: str, mask: NDArray[Any], class_info: ClassInfo) -> None:
    """One mask of the VOC 2012 segmentation competition comp6 (training data of any kind).

    ``ROOT/results/VOC2012/Segmentation/comp6_test_cls/ID.png``: a palette PNG of the image's size with the values
    0..20. A pixel predicted as void, which the server refuses, becomes background, the devkit's word for "none of the
    classes".

    Source: the VOC 2012 development kit, sections 5.3 and 5.4.
    """
    known = np.where(mask == class_info.ignore_index, 0, mask)
    write_mask(root / _VOC_FOLDER / f"{name.rpartition('/')[2]}.png", known, class_info)


def write_cityscapes(root: Path, name: str, mask: NDArray[Any], class_info: ClassInfo) -> None:
    """One mask of the Cityscapes pixel-level task.

    ``ROOT/CITY_SEQUENCE_FRAME_pred_labelIds.png``: an 8-bit grey PNG of 2048x1024 with label ids, not training ids;
    a pixel predicted as void becomes 0, "unlabeled". The server finds ``CITY_SEQUENCE_FRAME*.png`` in any folder.

    Raises:
        DatasetError: A mask of another size, or a name that is no Cityscapes name.
        OutputError: The file cannot be written.

    Source: the benchmark's evaluation script.
    """
    found = _CITYSCAPES_NAME.fullmatch(name.rpartition("/")[2])
    if found is None:
        raise DatasetError(f"expected a Cityscapes name CITY_SEQUENCE_FRAME (six digits each), got {name!r}")
    if mask.shape != _CITYSCAPES_HW:
        raise DatasetError(
            f"{name}: expected a mask of 1024x2048 (height x width), which the Cityscapes server wants, got "
            f"{mask.shape[0]}x{mask.shape[1]}; predict the original images"
        )
    label_ids = to_label_ids(np.where(mask == class_info.ignore_index, 255, mask))
    path = root / f"{found[1]}_pred_labelIds.png"
    save_image(path, Image.fromarray(label_ids), {"format": "PNG"})


SUBMISSIONS: dict[str, Benchmark] = {
    "voc": Benchmark(write_voc, "palette PNGs of VOC 2012 comp6; pack the folder results into a .tgz for the server"),
    "cityscapes": Benchmark(write_cityscapes, "8-bit PNGs of label ids; pack the folder into a .zip for the server"),
}
"""Data set -> format of its server."""


def find_benchmark(data_set: str) -> Benchmark:
    """The format for a data set.

    Raises:
        ConfigError: It has none here.
    """
    if data_set not in SUBMISSIONS:
        raise ConfigError(
            f"expected --submission with a data set of {', '.join(SUBMISSIONS)}, got {data_set!r}; "
            "`refineseg predict` writes masks of any images"
        )
    return SUBMISSIONS[data_set]
