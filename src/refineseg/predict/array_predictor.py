"""Masks from an exported file without PyTorch, whose import alone takes longer than all the rest.

In: arrays. Out: predictions, as :class:`~refineseg.predict.predictor.Predictor` gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import ClassInfo
from refineseg.predict.batches import IN_OPENVINO, IN_OTHERS, check_images
from refineseg.prediction import Prediction
from refineseg.runtimes.opened_file import OpenedFile

if TYPE_CHECKING:
    from refineseg.predict.predictor import Predictor


class ArrayPredictor:
    """Predicts whole images at their own size, with one view.

    Args:
        opened: The exported file.
    """

    prefers_batches = False

    def __init__(self, opened: OpenedFile) -> None:
        self._opened = opened
        self.class_info: ClassInfo = opened.class_info
        self.num_channels = opened.spec.preprocessing.in_channels

    def cuts(self, size_hw: tuple[int, int]) -> bool:
        """Whether images of this size are predicted in tiles: never, which would look inside the network."""
        return False

    def whole_bytes(self, size_hw: tuple[int, int], *, scored: bool = False) -> int:
        """About the memory that an image of this size needs; see :meth:`Predictor.whole_bytes`."""
        if scored or "class_map" not in self._opened.description.outputs:
            return self._scoring.whole_bytes(size_hw, scored=True)
        each = IN_OPENVINO if self._opened.backend == "openvino" else IN_OTHERS
        return size_hw[0] * size_hw[1] * (each.network + each.alone * self.class_info.num_classes)

    @cached_property
    def _scoring(self) -> Predictor:
        """For probabilities, which PyTorch computes."""
        from refineseg.predict.predictor import Predictor
        from refineseg.runtimes.program_scorer import ProgramScorer

        return Predictor(ProgramScorer(self._opened.program))

    def __call__(
        self, image: NDArray[np.uint8], *, probabilities: bool = False, confidence: bool = False
    ) -> Prediction:
        """Predict one image; see :meth:`~refineseg.predict.predictor.Predictor.__call__`."""
        return self.batch([image], probabilities=probabilities, confidence=confidence)[0]

    def batch(
        self, images: Sequence[NDArray[np.uint8]], *, probabilities: bool = False, confidence: bool = False
    ) -> list[Prediction]:
        """Predict images of one size; see :meth:`~refineseg.predict.predictor.Predictor.batch`.

        Raises:
            ConfigError: No such arrays, of different shapes, or not of the size of the file.
        """
        if probabilities or confidence or "class_map" not in self._opened.description.outputs:
            return self._scoring.batch(images, probabilities=probabilities, confidence=confidence)
        check_images(images)
        masks = self._opened.program.run("class_map", np.stack([image.transpose(2, 0, 1) for image in images]))
        dtype = self.class_info.mask_dtype
        return [
            Prediction(image, mask.astype(dtype, copy=False), self.class_info, None, None)
            for image, mask in zip(images, masks, strict=True)
        ]


AnyPredictor: TypeAlias = "Predictor | ArrayPredictor"
"""What predicts images."""
