"""What a number was measured on: sizes of the images and how their files are compressed.

In: samples as they pass. Out: two words for a :class:`~refineseg.evaluate.protocol.MeasurementProtocol`.
"""

from __future__ import annotations

from pathlib import Path

from refineseg.data.samples.sample import Dataset, image_file
from refineseg.errors import ImageError
from refineseg.files.special import refuse_special
from refineseg.images.files import read_image_size

_LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
_LOSSY = (".jpg", ".jpeg")
_MOST_SAMPLES = 64


def stored_losslessly(path: Path) -> bool | None:
    """Whether an image file keeps every pixel as it was; None where that is not known.

    A WebP file may do either, which its first chunk says.
    """
    suffix = path.suffix.lower()
    if suffix in _LOSSLESS or suffix in _LOSSY:
        return suffix in _LOSSLESS
    if suffix != ".webp":
        return None
    try:
        refuse_special(path)
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return None
    found = [chunk for chunk in (b"VP8L", b"VP8 ") if chunk in head]
    return found == [b"VP8L"] if len(found) == 1 else None


class SampleFacts:
    """Collects sizes and compression of the images of a data set.

    Args:
        dataset: Where the images come from.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._sizes: set[tuple[int, int]] = set()
        self._lossless: set[bool | None] = set()

    def add(self, index: int, image_hw: tuple[int, int]) -> None:
        """Note one image: its number and size."""
        self._sizes.add(image_hw)
        path = image_file(self._dataset, index)
        self._lossless.add(None if path is None else stored_losslessly(path))

    @property
    def image_size(self) -> str | None:
        """``HEIGHTxWIDTH``, or ``various``; None before any image."""
        if len(self._sizes) != 1:
            return "various" if self._sizes else None
        height, width = next(iter(self._sizes))
        return f"{height}x{width}"

    @property
    def compression(self) -> str | None:
        """``lossless``, ``lossy`` or ``mixed``; None where it is not known."""
        if not self._lossless or None in self._lossless:
            return None
        return "mixed" if len(self._lossless) > 1 else "lossless" if True in self._lossless else "lossy"


def facts_of_files(dataset: Dataset) -> SampleFacts:
    """Facts of some of the images, evenly spread, from their files' headers; of none where they have no files."""
    facts = SampleFacts(dataset)
    step = max(1, -(-len(dataset) // _MOST_SAMPLES))
    for index in range(0, len(dataset), step):
        path = image_file(dataset, index)
        try:
            if path is not None:
                facts.add(index, read_image_size(path))
        except ImageError:  # said where the image is read to be used
            continue
    return facts
