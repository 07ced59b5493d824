"""What an encoder is: normalised images (N, C, H, W) to feature maps, finest first; and two of them on two scales."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Encoder(nn.Module):
    """What every encoder says of itself; its ``forward`` maps images (N, C, H, W) to a list of maps, finest first."""

    strides: tuple[int, ...]
    """Of each map."""
    channels: tuple[int, ...]
    """Of each map."""
    size_multiple: int
    """Height and width that are multiples of it give maps at exactly the strides."""
    takes_any_size: bool
    """Other sizes work too, each map's size being rounded up."""


class TwoScaleEncoder(Encoder):
    """Two encoders of one kind, with weights of their own, on an enlarged and a shrunk copy of the image.

    The scales are the paper's 1.2 and 0.6 (table 9, "2-scale"). Its levels are those of the first encoder, finest
    first, then those of the second. Sizes that are multiples of 160 give maps whose scales are exactly 2.

    Args:
        large: Encoder of the image enlarged by 1.2.
        small: Encoder of the image shrunk to 0.6.
    """

    SCALES = (1.2, 0.6)

    def __init__(self, large: Encoder, small: Encoder) -> None:
        super().__init__()
        self.large, self.small = large, small
        self.channels = (*large.channels, *small.channels)
        self.strides = large.strides
        self.size_multiple = 5 * large.size_multiple  # 1.2 = 6 / 5, 0.6 = 3 / 5
        self.takes_any_size = large.takes_any_size and small.takes_any_size

    def forward(self, x: Float[Tensor, "n c h w"]) -> list[Tensor]:
        """Images (N, C, H, W) -> levels of the large, then of the small encoder."""
        levels: list[Tensor] = []
        for encoder, scale in zip((self.large, self.small), self.SCALES, strict=True):
            size_hw = [max(1, round(side * scale)) for side in x.shape[2:]]
            levels += encoder(F.interpolate(x, size=size_hw, mode="bilinear", align_corners=False, antialias=scale < 1))
        return levels
