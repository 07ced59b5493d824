"""The network families as values: what the blocks of :mod:`refineseg.networks.refinenet` are built with; without torch.

In: nothing. Out: :class:`DecoderOptions` of RefineNet, of Light-Weight RefineNet and of its follow-ups.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from refineseg.errors import ConfigError

Activation = Literal["relu", "relu6"]
PoolingOrder = Literal["pool_conv", "conv_pool"]
Resize = Literal["bilinear", "matlab_cpu", "matlab_gpu"]


def check_resize(mode: str) -> None:
    """Whether feature maps can be enlarged so.

    Raises:
        ConfigError: They cannot.
    """
    if mode not in get_args(Resize):
        raise ConfigError(f"expected resizing by {', '.join(get_args(Resize))}, got {mode!r}")


@dataclass(frozen=True)
class DecoderOptions:
    """How the blocks of one network family are built.

    Args:
        kernel_size: Kernel size of every decoder convolution but the classifier's (always 3).
        level_widths: Channels to which each level is adapted by a convolution before fusion, coarsest level first; the
            last entry serves all further levels. Empty: levels go into the fusion as they are.
        width: Channels of every fusion where levels are not adapted.
        num_adaptation_units: Residual conv units on each adapted level.
        num_output_units: Residual conv units at the end of each block. The paper's one output unit plus the two
            adaptation units of the next block's coarse path (and "two additional before the softmax") are these three.
        num_links: Links of each chained residual pooling.
        activation: The rectifier in front of each pooling chain.
        level_dropout: Dropout on the two coarsest levels (the decoder's copy of them).
        classifier_dropout: Dropout in front of the classifier.
        pooling_order: Pool then convolve (paper), or the "improved" convolve then pool.
        depthwise_end: The last pooling chain weighs each channel by itself, and a depthwise 1x1 convolution with ReLU6
            stands before the classifier (multi-task follow-up).
        num_last_links: Links of the pooling chain in the last block, the finest; None: as in the others.
        num_last_units: Residual conv units of 3x3 filters that the last block ends with, beside ``num_output_units``.
    """

    kernel_size: int
    level_widths: tuple[int, ...]
    width: int
    num_adaptation_units: int
    num_output_units: int
    num_links: int
    activation: Activation
    level_dropout: float
    classifier_dropout: float
    pooling_order: PoolingOrder = "pool_conv"
    depthwise_end: bool = False
    num_last_links: int | None = None
    num_last_units: int = 0

    def adapted_channels(self, rank: int) -> int | None:
        """Width to which a level is adapted, counted from the coarsest (0); None: levels are not adapted."""
        return self.level_widths[min(rank, len(self.level_widths) - 1)] if self.level_widths else None


REFINENET = DecoderOptions(
    kernel_size=3,
    level_widths=(512, 256),
    width=256,
    num_adaptation_units=2,
    num_output_units=3,
    num_links=4,
    activation="relu",
    level_dropout=0.5,
    classifier_dropout=0.5,
)
"""RefineNet as released (figure 2c with the widths and dropout of the released networks)."""

LIGHT_WEIGHT = DecoderOptions(
    kernel_size=1,
    level_widths=(512, 256),
    width=256,
    num_adaptation_units=0,
    num_output_units=0,
    num_links=4,
    activation="relu",
    level_dropout=0.5,
    classifier_dropout=0.0,
)
"""Light-Weight RefineNet: 1x1 convolutions and no residual conv units (Nekrasov et al. 2018, section 3)."""

LIGHT_WEIGHT_MOBILE = DecoderOptions(
    kernel_size=1,
    level_widths=(),
    width=256,
    num_adaptation_units=0,
    num_output_units=0,
    num_links=4,
    activation="relu6",
    level_dropout=0.0,
    classifier_dropout=0.0,
)
"""Light-Weight RefineNet on MobileNet-v2: levels of one stride are added after reduction, ReLU6, no dropout.

DenseTorch's ResNets use these options too, unlike the ResNets of the paper's own code."""

MULTI_TASK = replace(LIGHT_WEIGHT_MOBILE, depthwise_end=True)
"""The follow-up "Real-Time Joint Semantic Segmentation and Depth Estimation" (Nekrasov et al., ICRA 2019)."""
