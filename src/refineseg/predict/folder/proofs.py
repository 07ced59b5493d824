"""``--prove``: a random piece of each image that is cut, against the prediction of the whole.

In: images and rasters. Out: a line for each, and the numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.images.reading import choose_bands
from refineseg.predict.array_predictor import AnyPredictor
from refineseg.predict.exact.proof import prove
from refineseg.predict.raster.files import open_raster
from refineseg.predict.raster.options import RasterOptions
from refineseg.predict.raster.pixels import RasterSource
from refineseg.predict.views.tiling import ArraySource, PixelSource, TilingOptions
from refineseg.runtimes.eager import TorchScorer


class Prover:
    """Proves images and rasters of one call.

    Args:
        scorer: The model, on its device.
        predictor: Which images it cuts.
        tiling: How they are cut.
        generator: Draws the pieces.
        tell: Takes a line for each.
    """

    def __init__(
        self,
        scorer: TorchScorer,
        predictor: AnyPredictor,
        *,
        tiling: TilingOptions,
        generator: np.random.Generator,
        tell: Callable[[str], None],
    ) -> None:
        self._tell = tell
        self._segmenter, self._device = scorer.segmenter, scorer.device
        self._predictor, self._tiling, self._generator = predictor, tiling, generator
        self.results: list[dict[str, Any]] = []

    def image(self, name: str, image: NDArray[np.uint8]) -> None:
        """Prove an image, if it is cut.

        Raises:
            ConfigError: Tiles that cannot be proven.
        """
        if self._predictor.cuts((image.shape[0], image.shape[1])):
            self._prove(name, ArraySource(image))
        else:
            self._tell(f"{name}: proof: it is predicted whole")

    def raster(self, path: Path, options: RasterOptions) -> None:
        """Prove a raster whose regions can be read in any order; of others nothing is said.

        Raises:
            ConfigError: Tiles that cannot be proven.
        """
        with open_raster(path) as reader:
            channels, reading = self._segmenter.spec.preprocessing.in_channels, options.reading
            bands = choose_bands(reader.colours, reading.bands, num_channels=channels, path=path)
            palette = reader.palette(bands[0]) if len(bands) == 1 else None
            if reader.is_sequential or reader.orientation != 1:
                return
            source = RasterSource(reader, bands, num_channels=channels, nodata=reading.nodata, palette=palette)
            self._prove(str(path), source.scaled(source.find_scaling(reading, num_bits=reader.num_bits)))

    def _prove(self, name: str, source: PixelSource) -> None:
        proof = prove(self._segmenter, source, options=self._tiling, device=self._device, generator=self._generator)
        region, window = proof.region, proof.window
        seen = "the whole image" if proof.whole else f"{window.height}x{window.width} pixels around it"
        self._tell(
            f"{name}: proof: largest difference {proof.largest_difference:.2g} of the logits of rows {region.top} to "
            f"{region.bottom - 1}, columns {region.left} to {region.right - 1}, to those of {seen}; "
            f"{100 * proof.equal_share:.4g} % of the classes are equal"
        )
        self.results.append(
            {
                "source": name,
                "largest_difference": proof.largest_difference,
                "equal_share": proof.equal_share,
                "region": [region.top, region.left, region.bottom, region.right],
                "whole": proof.whole,
            }
        )
