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
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from refineseg.class_info import ClassInfo
from refineseg.predict.outputs import as_integers
from refineseg.predict.raster_job import pieces
from refineseg.predict.raster_pixels import RasterSource
from refineseg.predict.raster_results import mask_dtype
from refineseg.predict.tiling import PixelSource, Region
from refineseg.scoring import class_map_of, confidence_of, probabilities_of

_CHUNK_VALUES = 1 << 24  # probabilities held at once


@runtime_checkable
class TileScorer(Protocol):
    """Something that scores one region of an image, at the image's size."""

    @property
    def tiles(self) -> tuple[Region, ...]:
        """Disjoint regions that cover the image."""

    def logits(self, source: PixelSource, tile: Region) -> Float[Tensor, "k h w"]:
        """Scores of the classes, on the device."""

    def class_map(self, source: PixelSource, tile: Region) -> Int64[Tensor, "h w"]:
        """The likeliest class."""


@dataclass(frozen=True)
class Layers:
    """What is stored of a tile beside its classes.

    Args:
        confidence: The probability of the likeliest class.
        probabilities: Those of the classes with these indices.
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


Piece = tuple[str, int, NDArray[Any]]
"""Layer, number of the piece, (h, w) values."""


def tile_layers(
    scorer: TileScorer, source: RasterSource, tile: Region, *, class_info: ClassInfo, layers: Layers
) -> Iterator[Piece]:
    """Score a tile; one without any data is not scored.

    Args:
        scorer: The model.
        source: The raster.
        tile: Where.
        class_info: Classes and void.
        layers: What to store.
    """
    valid = source.valid(tile)
    if valid is not None and not valid.any():
        yield from _empty(tile, class_info, layers)
    elif layers.scored:
        yield from _scored(scorer.logits(source, tile), tile, valid, class_info, layers)
    else:
        classes = scorer.class_map(source, tile)
        for number, piece in pieces(tile):
            rows = piece.slices_in(tile)[0]
            mask = classes[rows].to(torch.int32).cpu().numpy().astype(mask_dtype(class_info))
            if valid is not None:
                mask[~valid[rows]] = class_info.ignore_index
            yield "mask", number, mask


def _empty(tile: Region, class_info: ClassInfo, layers: Layers) -> Iterator[Piece]:
    for number, piece in pieces(tile):
        yield "mask", number, np.full(piece.size_hw, class_info.ignore_index, mask_dtype(class_info))
        for name in layers.names:
            yield name, number, np.zeros(piece.size_hw, np.uint16)


def _scored(
    logits: Tensor, tile: Region, valid: NDArray[np.bool_] | None, class_info: ClassInfo, layers: Layers
) -> Iterator[Piece]:
    step = max(1, _CHUNK_VALUES // (class_info.num_classes * tile.width))
    for number, piece in pieces(tile):
        mask = np.empty(piece.size_hw, mask_dtype(class_info))
        stored = {name: np.empty(piece.size_hw, np.uint16) for name in layers.names}
        first = piece.top - tile.top
        for top in range(0, piece.height, step):
            rows = slice(top, min(top + step, piece.height))
            scores = logits[None, :, first + rows.start : first + rows.stop]
            probabilities = probabilities_of(scores)
            confidence = confidence_of(probabilities)[0].cpu().numpy()
            mask[rows] = class_map_of(scores)[0].to(torch.int32).cpu().numpy()
            if layers.unknown_below is not None:
                mask[rows][confidence < layers.unknown_below] = class_info.ignore_index
            if layers.confidence:
                stored["confidence"][rows] = as_integers(confidence, bits=16)
            for index in layers.probabilities:
                values = probabilities[0, index].cpu().numpy()
                stored[f"probability_{index}"][rows] = as_integers(values, bits=16)
        if valid is not None:
            empty = ~valid[piece.slices_in(tile)[0]]
            mask[empty] = class_info.ignore_index
            for values in stored.values():
                values[empty] = 0
        yield "mask", number, mask
        yield from ((name, number, values) for name, values in stored.items())
