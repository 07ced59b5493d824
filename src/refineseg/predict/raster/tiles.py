"""One tile of a raster: from its pixels to the layers that are stored.

In: something that scores a tile, and the raster's pixels. Out: ``mask`` (classes, void where there are no data or the
class is unknown), and where asked for ``confidence`` and ``probability_<class>`` (65535 is 1, 0 where there are no
data), each in pieces of 512 rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from refineseg.class_info import ClassInfo
from refineseg.predict.outputs.kinds import as_integers
from refineseg.predict.raster.job import pieces
from refineseg.predict.raster.pixels import RasterSource
from refineseg.predict.views.tiling import PixelSource, Region
from refineseg.scoring import class_map_of, confidence_of, probabilities_of

_CHUNK_VALUES = 1 << 23  # probabilities held at once


@runtime_checkable
class TileScorer(Protocol):
    """Something that scores one region of an image, at the image's size."""

    @property
    def tiles(self) -> tuple[Region, ...]:
        """Disjoint regions that cover the image."""

    def strips(self, source: PixelSource, tile: Region) -> Iterator[tuple[Region, Float[Tensor, "k h w"]]]:
        """Scores of the classes of regions that together are the tile, from top to bottom, on the device."""


@dataclass(frozen=True)
class Layers:
    """What is stored of a tile beside its classes.

    Args:
        confidence: The probability of the likeliest class.
        probabilities: Classes whose probabilities are stored, by index.
        unknown_below: Pixels of a lower confidence become void; None: none.
    """

    confidence: bool = False
    probabilities: tuple[int, ...] = ()
    unknown_below: float | None = None

    @property
    def scored(self) -> bool:
        """Whether probabilities are needed at all."""
        return self.confidence or bool(self.probabilities) or self.unknown_below is not None

    @property
    def names(self) -> tuple[str, ...]:
        """Those stored beside the mask."""
        return (*(("confidence",) if self.confidence else ()), *(f"probability_{c}" for c in self.probabilities))


StoredLayer = tuple[str, int, NDArray[Any]]
"""Layer, number of the piece, (h, w) values."""


def tile_layers(
    scorer: TileScorer, source: RasterSource, tile: Region, *, class_info: ClassInfo, layers: Layers
) -> Iterator[StoredLayer]:
    """Score a tile; one without any data is not scored.

    Args:
        scorer: The model.
        source: The raster.
        tile: Tile of the raster.
        class_info: Classes and void.
        layers: What to store.
    """
    waiting = {number: _Piece(number, piece, class_info, layers) for number, piece in pieces(tile)}
    if not _has_data(source, tile):
        yield from (layer for piece in waiting.values() for layer in piece.finished(None))
        return
    for region, logits in scorer.strips(source, tile):
        for number, part in pieces(region):
            piece = waiting[number]
            piece.fill(part, logits[:, slice(part.top - region.top, part.bottom - region.top)])
            if piece.is_full:
                yield from waiting.pop(number).finished(source.valid(piece.region))


def _has_data(source: RasterSource, tile: Region) -> bool:
    for _, piece in pieces(tile):
        valid = source.valid(piece)
        if valid is None or valid.any():
            return True
    return False


class _Piece:
    """Up to 512 rows of a tile, filled by and by; its arrays are there from the first pixel to the last."""

    def __init__(self, number: int, region: Region, class_info: ClassInfo, layers: Layers) -> None:
        self._number, self.region, self._class_info, self._layers = number, region, class_info, layers
        self._stored: dict[str, NDArray[Any]] = {}
        self._missing = region.height * region.width

    @property
    def is_full(self) -> bool:
        return self._missing == 0

    def _arrays(self) -> dict[str, NDArray[Any]]:
        if not self._stored:
            void = self._class_info.ignore_index
            self._stored = {"mask": np.full(self.region.size_hw, void, self._class_info.mask_dtype)}
            self._stored |= {name: np.zeros(self.region.size_hw, np.uint16) for name in self._layers.names}
        return self._stored

    def fill(self, part: Region, logits: Tensor) -> None:
        """Take the (K, h, w) scores of a part of the piece."""
        stored, layers = self._arrays(), self._layers
        rows, columns = part.slices_in(self.region)
        step = max(1, _CHUNK_VALUES // (logits.shape[0] * part.width))
        for top in range(0, part.height, step):
            scores = logits[None, :, top : top + step]
            place = (slice(rows.start + top, rows.start + min(top + step, part.height)), columns)
            mask = class_map_of(scores)[0].to(torch.int32).cpu().numpy().astype(stored["mask"].dtype)
            if layers.scored:
                probabilities = probabilities_of(scores)
                confidence = confidence_of(probabilities)[0].cpu().numpy()
                if layers.unknown_below is not None:
                    mask[confidence < layers.unknown_below] = self._class_info.ignore_index
                if layers.confidence:
                    stored["confidence"][place] = as_integers(confidence, bits=16)
                for index in layers.probabilities:
                    values = probabilities[0, index].cpu().numpy()
                    stored[f"probability_{index}"][place] = as_integers(values, bits=16)
            stored["mask"][place] = mask
        self._missing -= part.height * part.width

    def finished(self, valid: NDArray[np.bool_] | None) -> Iterator[StoredLayer]:
        """All layers, without results where there are no data."""
        stored = self._arrays()
        if valid is not None:
            for name, values in stored.items():
                values[~valid] = self._class_info.ignore_index if name == "mask" else 0
        yield from ((name, self._number, values) for name, values in stored.items())
