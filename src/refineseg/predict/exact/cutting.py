"""Images that are too large to be predicted whole: predicted in tiles, into one prediction.

In: an image in memory and a segmenter on a device. Out: the :class:`~refineseg.prediction.Prediction` of the
whole. What a tile needs is in memory, and of the results the mask, and probabilities only where they are asked for.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8

from refineseg.predict.exact.tiled_scorer import TiledScorer, fits_whole
from refineseg.predict.views.tiling import ArraySource, TilingOptions
from refineseg.prediction import Prediction
from refineseg.runtimes.eager import TorchScorer
from refineseg.scoring import class_map_of, confidence_of, probabilities_of


class Cutter:
    """Predicts images in tiles where they have to be.

    Args:
        scorer: The segmenter, with its device and precision.
        options: How images are cut.
    """

    def __init__(self, scorer: TorchScorer, options: TilingOptions) -> None:
        self._scorer, self._options = scorer, options
        self._fits: dict[tuple[int, int], bool] = {}  # by size; a predictor can be pickled with it

    def cuts(self, size_hw: tuple[int, int]) -> bool:
        """Whether an image of this size is predicted in tiles."""
        tile = self._options.tile
        if isinstance(tile, int):
            return max(size_hw) > tile
        if tile != "auto":
            return False
        if size_hw not in self._fits:
            scorer = self._scorer
            fits = fits_whole(scorer.segmenter, size_hw, options=self._options, device=scorer.device)
            self._fits = {**dict(list(self._fits.items())[-1000:]), size_hw: fits}
        return not self._fits[size_hw]

    def __call__(
        self, image: UInt8[np.ndarray, "h w c"], *, probabilities: bool = False, confidence: bool = False
    ) -> Prediction:
        """Predict an image, tile by tile.

        Args:
            image: Pixels.
            probabilities: Whether to return the probabilities of all classes, which takes as much memory as they do.
            confidence: Whether to return the probability of each pixel's likeliest class.

        Raises:
            ConfigError: The network sees the whole image at once and tiles are to be exact, or the memory is not enough
                for any tile.
        """
        classes, source = self._scorer.class_info, ArraySource(image)
        scorer = TiledScorer(
            self._scorer.segmenter,
            source.size_hw,
            options=self._options,
            device=self._scorer.device,
            precision=self._scorer.precision,
        )
        mask = np.empty(source.size_hw, classes.mask_dtype)
        scores = np.empty((classes.num_classes, *source.size_hw), np.float32) if probabilities else None
        sure = np.empty(source.size_hw, np.float32) if probabilities or confidence else None
        for tile in scorer.tiles:
            for region, logits in scorer.strips(source, tile):
                with torch.inference_mode():
                    mask[region.slices] = class_map_of(logits[None])[0].cpu().numpy()
                    if sure is None:
                        continue
                    soft = probabilities_of(logits[None])
                    sure[region.slices] = confidence_of(soft)[0].cpu().numpy()
                    if scores is not None:
                        scores[(slice(None), *region.slices)] = soft[0].cpu().numpy()
        return Prediction(image, mask, classes, scores, sure)
