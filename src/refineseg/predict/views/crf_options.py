"""Options of the dense CRF, which are known before PyTorch is loaded.

In: numbers. Out: :class:`CrfOptions`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from refineseg.errors import ConfigError


@dataclass(frozen=True)
class CrfOptions:
    """How strongly and how far pixels are drawn to the same class.

    The defaults are those of the examples around the published code, as used after DeepLab on PASCAL VOC. The RefineNet
    paper used a dense CRF on PASCAL VOC only, reports a gain of 0.1 points of mean IoU, and published no parameters.

    Args:
        num_iterations: Steps of mean field inference.
        smoothness_weight: Weight of the kernel in position alone; 0 leaves it out.
        smoothness_sigma: Its standard deviation in pixels.
        appearance_weight: Weight of the kernel in position and colour; 0 leaves it out.
        appearance_position_sigma: Its standard deviation in pixels.
        appearance_colour_sigma: Its standard deviation in values 0..255 of each colour channel.
        smallest_probability: Lower values are raised to this, so that no pixel is beyond correction by its neighbours.

    Raises:
        ConfigError: A value that is not positive (weights: negative).
    """

    num_iterations: int = 10
    smoothness_weight: float = 3.0
    smoothness_sigma: float = 3.0
    appearance_weight: float = 10.0
    appearance_position_sigma: float = 80.0
    appearance_colour_sigma: float = 13.0
    smallest_probability: float = 1e-5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = vars(self)[field.name]
            zero_allowed = field.name.endswith("weight")
            if not math.isfinite(value) or value < 0 or (value == 0 and not zero_allowed):
                expected = "0 or more" if zero_allowed else "more than 0"
                raise ConfigError(f"expected {field.name} of the CRF to be {expected}, got {value}; change CrfOptions")
