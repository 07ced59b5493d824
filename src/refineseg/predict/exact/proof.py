"""The proof that tiles give the result of the whole image: a random crop of both, compared.

In: a segmenter and a :class:`~refineseg.predict.views.tiling.PixelSource`. Out: a :class:`Proof`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from refineseg.errors import ConfigError
from refineseg.predict.exact.tiled_scorer import PROOF_SIDE, TiledScorer
from refineseg.predict.views.tiling import PixelSource, Region, TilingOptions
from refineseg.scoring import class_map_of
from refineseg.segmenter import Segmenter


@dataclass(frozen=True)
class Proof:
    """How tiles compare with the whole image.

    Args:
        region: Region that was compared.
        largest_difference: Largest difference of any logit there.
        equal_share: Share of its pixels that have the same class.
        window: What was given to the segmenter at once.
        whole: The window holds all that the region depends on, so that its logits are those of the whole image. If
            not (it does not fit into the memory), the window was taken as an image of its own, for the tiles too.
    """

    region: Region
    largest_difference: float
    equal_share: float
    window: Region
    whole: bool


def prove(
    segmenter: Segmenter,
    source: PixelSource,
    *,
    options: TilingOptions,
    device: torch.device,
    generator: np.random.Generator,
) -> Proof:
    """Compare a random crop of the tiles' logits with those of whole-image inference.

    Args:
        segmenter: The model.
        source: The image.
        options: As for the tiles; only ``exact`` can be proven.
        device: Device of the network.
        generator: Draws the crop, at most :data:`~refineseg.predict.exact.tiled_scorer.PROOF_SIDE` pixels a side.

    Raises:
        ConfigError: Blended tiles, or a network that sees the whole image at once.
    """
    if options.mode != "exact":
        raise ConfigError("expected exact tiles to prove, got blended ones, which differ from the whole image")
    scorer = TiledScorer(segmenter, source.size_hw, options=options, device=device)
    sides = [min(PROOF_SIDE, size) for size in source.size_hw]
    top, left = (int(generator.integers(0, size - side + 1)) for size, side in zip(source.size_hw, sides, strict=True))
    crop = Region(top, left, top + sides[0], left + sides[1])
    window, whole = scorer.proof_window(crop)
    with torch.inference_mode():
        expected = segmenter(scorer.pixels(source, window))[0][(slice(None), *crop.slices_in(window))].clone()
    if whole:
        found = scorer.logits(source, crop)
    else:
        inner = TiledScorer(segmenter, window.size_hw, options=replace(options, tile="auto"), device=device)
        top, left = crop.top - window.top, crop.left - window.left
        found = inner.logits(_Part(source, window), Region(top, left, top + sides[0], left + sides[1]))
    equal = class_map_of(found[None]) == class_map_of(expected[None])
    return Proof(crop, float((found - expected).abs().max()), float(equal.double().mean()), window, whole)


@dataclass(frozen=True)
class _Part:
    """A region of an image as an image of its own."""

    source: PixelSource
    window: Region

    @property
    def size_hw(self) -> tuple[int, int]:
        """Of the region."""
        return self.window.size_hw

    @property
    def num_channels(self) -> int:
        """Of the image."""
        return self.source.num_channels

    def read(self, region: Region) -> NDArray[np.uint8]:
        """Pixels of a region of the region."""
        top, left = self.window.top, self.window.left
        return self.source.read(Region(region.top + top, region.left + left, region.bottom + top, region.right + left))
