"""Programs that say what they give, as scorers; those of :mod:`refineseg.runtimes.programs` compute in arrays.

In: a program. Out: a :class:`~refineseg.scoring.Scorer`.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from refineseg.class_info import ClassInfo
from refineseg.runtimes.description import Description
from refineseg.runtimes.programs import ArrayProgram
from refineseg.runtimes.table import Output
from refineseg.scoring import Scorer


class DescribedScorer(Scorer):
    """A scorer whose program says what it gives: that of an exported file, or one that was compiled here."""

    description: Description

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the logits."""
        return self.description.spec.class_info

    @property
    def num_channels(self) -> int:
        """Channels of the images that it takes."""
        return self.description.spec.preprocessing.in_channels

    @abstractmethod
    def _run(self, output: Output, images: Tensor) -> Tensor:
        """Compute one of the outputs."""

    def logits(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """Logits at image size.

        Raises:
            ConfigError: The program does not give them, or takes other channels or another size.
        """
        return self._run("logits", images)

    def class_map(self, images: UInt8[Tensor, "n c h w"]) -> Integer[Tensor, "n h w"]:
        """The likeliest class of every pixel.

        Raises:
            ConfigError: The program takes other channels or another size.
        """
        if "class_map" not in self.description.outputs:
            return super().class_map(images)
        return self._run("class_map", images)


class ProgramScorer(DescribedScorer):
    """Scores with a program that takes arrays.

    Args:
        program: The program.
    """

    def __init__(self, program: ArrayProgram) -> None:
        self._program, self.description = program, program.description

    def _run(self, output: Output, images: Tensor) -> Tensor:
        result = self._program.run(output, images.cpu().numpy())
        return torch.from_numpy(result.astype(np.float32, copy=False) if output == "logits" else result)
