"""The images a model is worst at, with what went wrong.

In: samples with their predictions, one after the other. Out: the worst few, as pictures and in words.
"""

from __future__ import annotations

import heapq
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngInfo

from refineseg.data.samples.sample import Sample
from refineseg.errors import ConfigError
from refineseg.evaluate.metrics import ConfusionMatrix
from refineseg.files.made_by import MADE_BY_EVALUATE, is_made_by_evaluate
from refineseg.files.special import has_folder
from refineseg.files.writing import storing, written_beside
from refineseg.images.render import compared
from refineseg.prediction import Prediction
from refineseg.terminal.printable import short

CONFUSION, PICTURES = "confusion_matrix.png", "pictures"
"""Names in the folder of an evaluation."""

_NAME = re.compile(r"(\d{3,})_(.*)\.png", re.DOTALL)
_LONGEST_NAME = 200  # bytes of a sample's name in that of its picture: disks take 255, and the rank comes first


@dataclass(frozen=True, order=True)
class Failure:
    """One image and how it failed; a larger one failed more.

    Args:
        wrong: Share of the labelled pixels that are wrong.
        place: Minus its number in the data set: of two alike the earlier is the larger.
        name: Name of the sample.
        confusion: The commonest error: true class, predicted class, its share of the labelled pixels; None: no error.
        picture: Image, truth, prediction, errors; a PNG file's bytes, because many large ones may be kept.
    """

    wrong: float
    place: int
    name: str = field(compare=False)
    confusion: tuple[str, str, float] | None = field(compare=False)
    picture: bytes = field(compare=False, repr=False)

    def describe(self) -> str:
        """What went wrong, in a few words."""
        if self.confusion is None:
            return "no error"
        true, predicted, share = self.confusion
        commonest = f"{short(true)} taken for {short(predicted)} ({100 * share:.1f} %)"
        return f"{100 * self.wrong:.1f} % wrong, most of all {commonest}"

    def file_name(self, rank: int) -> str:
        """Of its picture."""
        return f"{rank:03d}_{_plain(self.name)}.png"


def _plain(name: str) -> str:
    """The name of a sample in that of its picture."""
    return name.replace("/", "_").encode("utf-8", "surrogateescape")[-_LONGEST_NAME:].decode("utf-8", "ignore")


def _earlier(folder: Path) -> list[Path]:
    """What is called like a picture."""
    return [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if has_folder(folder) else []


def check_pictures(folder: Path, names: Iterable[str], most: int) -> None:
    """Whether the pictures of an evaluation can be written without the loss of other files.

    Args:
        folder: Folder of the evaluation; it need not exist.
        names: Names of all samples.
        most: Number of pictures.

    Raises:
        ConfigError: A file that no evaluation wrote has the name of one.
        OutputError: The folder cannot be listed.
    """
    check_picture(folder / CONFUSION)
    plain, folder = set(map(_plain, names)) if most else set(), folder / PICTURES
    with storing(folder):
        found = [(path, _NAME.fullmatch(path.name)) for path in _earlier(folder)]
    for path, match in found:
        if match and match[2] in plain and 1 <= int(match[1]) <= most:
            check_picture(path)


def check_picture(path: Path) -> None:
    """Whether a picture can be written without the loss of another file.

    Raises:
        ConfigError: A file that no evaluation wrote has its name.
    """
    if path.exists() and not is_made_by_evaluate(path):
        raise ConfigError(
            f"expected no files of your own under the names of new pictures, got {path}, which bears no mark of "
            "`refineseg evaluate` (those of earlier versions bear none) and would be lost; move it away, or choose "
            "another --out"
        )


class WorstImages:
    """Keeps the N images with the lowest pixel accuracy, and no more, in memory.

    Args:
        most: N; 0 keeps none.
        legend: Name the colours below each picture.
    """

    def __init__(self, most: int, *, legend: bool = True) -> None:
        self._most, self._legend = most, legend
        self._heap: list[Failure] = []

    def add(self, index: int, sample: Sample, prediction: Prediction) -> None:
        """Look at one labelled sample."""
        truth, info = sample.mask, prediction.class_info
        assert truth is not None
        labelled = truth != info.ignore_index
        wrong = float((prediction.mask != truth)[labelled].mean()) if labelled.any() else 0.0
        if not self._most or (len(self._heap) == self._most and wrong <= self._heap[0].wrong):
            return
        title = f"errors: {100 * wrong:.1f} % of the labelled pixels"
        row = compared((sample.image, truth), prediction.mask, info, errors=title, legend=self._legend)
        packed, mark = io.BytesIO(), PngInfo()
        mark.add_text("Software", MADE_BY_EVALUATE)
        row.save(packed, format="PNG", pnginfo=mark)
        failure = Failure(wrong, -index, sample.name, _confusion(prediction, truth), packed.getvalue())
        heapq.heappush(self._heap, failure)
        if len(self._heap) > self._most:
            heapq.heappop(self._heap)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The worst first."""
        return tuple(sorted(self._heap, reverse=True))

    def write(self, folder: Path) -> None:
        """One PNG for each, numbered from the worst, in place of those of an earlier evaluation, if there are new ones.

        Raises:
            OutputError: A picture cannot be written, or an earlier one not be removed.
        """
        with storing(folder):
            for path in _earlier(folder) if self._heap else ():
                if is_made_by_evaluate(path):
                    path.unlink()
        for rank, failure in enumerate(self.failures, 1):
            with written_beside(folder / failure.file_name(rank)) as temporary:
                temporary.write_bytes(failure.picture)


def _confusion(prediction: Prediction, truth: NDArray[Any]) -> tuple[str, str, float] | None:
    matrix = ConfusionMatrix(prediction.class_info)
    matrix.update(prediction.mask, truth)
    errors = matrix.counts.copy()
    np.fill_diagonal(errors, 0)
    if not errors.any():
        return None
    true, predicted = np.unravel_index(np.flatnonzero(errors == errors.max())[0], errors.shape)
    names = [*prediction.class_info.names, "void"]
    return names[int(true)], names[int(predicted)], float(errors.max() / matrix.counts.sum())
