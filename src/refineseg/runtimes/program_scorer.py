"""An exported file as a scorer: tensors in and out, arrays between.

In: a program of :mod:`refineseg.runtimes.programs`. Out: a :class:`~refineseg.scoring.Scorer`.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from refineseg.class_info import ClassInfo
from refineseg.runtimes.description import Description
from refineseg.runtimes.programs import ArrayProgram
from refineseg.scoring import Scorer


class ProgramScorer(Scorer):
    """Scores with a program that takes arrays.

    Args:
        program: The program.
    """

    def __init__(self, program: ArrayProgram) -> None:
        self._program = program

    @property
    def description(self) -> Description:
        """What the file says of itself."""
        return self._program.description

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the logits."""
        return self.description.spec.class_info

    def logits(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """Logits at image size.

        Raises:
            ConfigError: The file does not give them, or takes another size.
        """
        return torch.from_numpy(self._program.run("logits", images.cpu().numpy()).astype(np.float32, copy=False))

    def class_map(self, images: UInt8[Tensor, "n c h w"]) -> Integer[Tensor, "n h w"]:
        """The likeliest class of every pixel.

        Raises:
            ConfigError: The file takes another size, or gives logits only.
        """
        return torch.from_numpy(self._program.run("class_map", images.cpu().numpy()))
