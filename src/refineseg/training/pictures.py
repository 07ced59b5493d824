"""Pictures of some validation images as they are predicted now: in the run's folder, and for trackers.

In: measured samples. Out: image, truth, prediction and errors side by side, with a legend.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from refineseg.files.writing import written_beside
from refineseg.images.render import compared
from refineseg.training.config import PICTURES_FOLDER
from refineseg.training.record import Measured

_SIDE = 320  # most pixels of a side of each part
_LONGEST_NAME = 200  # bytes of a sample's name in that of its picture


def validation_pictures(measured: Measured, epoch: int) -> Iterator[tuple[str, Image.Image]]:
    """Name of each shown sample, and its picture.

    Args:
        measured: Samples with their predictions.
        epoch: Number of the epoch, for the title.
    """
    for sample, mask in measured.shown:
        assert sample.mask is not None
        step = -(-max(sample.image.shape[:2]) // _SIDE)
        image, truth, small = (np.ascontiguousarray(part[::step, ::step]) for part in (sample.image, sample.mask, mask))
        info, title = measured.matrix.class_info, f"epoch {epoch}"
        yield sample.name, compared((image, truth), small, info, title=title, errors="errors")


def write_pictures(folder: Path, measured: Measured, epoch: int) -> None:
    """Write the pictures into the folder of a run, in place of those of an earlier epoch.

    Raises:
        OutputError: There is no room.
    """
    for name, picture in validation_pictures(measured, epoch):
        plain = name.replace("/", "_").encode("utf-8", "surrogateescape")[-_LONGEST_NAME:].decode("utf-8", "ignore")
        path = folder / PICTURES_FOLDER / f"{plain}.png"
        path.parent.mkdir(exist_ok=True)
        with written_beside(path) as temporary:
            picture.save(temporary, format="PNG")
