"""Pixels to network input. The only file that knows normalisation constants.

In: ``uint8`` images, 0..255. Out: float images, ``(pixel - mean) / std`` per channel. The numbers belong to the
weights: networks that start from the ImageNet weights of torchvision or timm use :meth:`Preprocessing.imagenet`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from refineseg.errors import ConfigError


@dataclass(frozen=True)
class Preprocessing:
    """Normalisation of pixels, one mean and one standard deviation per channel, both in units of 0..255.

    Example:
        >>> Preprocessing.imagenet().mean[0]
        123.675
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std) or not all(s > 0 for s in self.std):
            raise ConfigError(
                f"expected as many means as positive standard deviations, got mean {self.mean} and std {self.std}"
            )

    @property
    def in_channels(self) -> int:
        """Number of image channels C."""
        return len(self.mean)

    @classmethod
    def imagenet(cls, in_channels: int = 3) -> Preprocessing:
        """The statistics the published ImageNet weights expect; their average for images that are not RGB.

        Source: torchvision and the Light-Weight RefineNet code (0.485 .. 0.225 in units of 0..1).
        """
        mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
        if in_channels == 3:
            return cls(mean, std)
        return cls((sum(mean) / 3,) * in_channels, (sum(std) / 3,) * in_channels)

    def __call__(self, images: UInt8[Tensor, "n c h w"], *, dtype: torch.dtype) -> Float[Tensor, "n c h w"]:
        """Normalise a batch into ``dtype`` on the images' device."""
        mean = torch.tensor(self.mean, dtype=dtype, device=images.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, dtype=dtype, device=images.device).view(1, -1, 1, 1)
        return (images.to(dtype) - mean) / std

    def to_json(self) -> dict[str, Any]:
        """As plain values for JSON; :meth:`from_json` is the way back."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Preprocessing:
        """From the values of :meth:`to_json`.

        Raises:
            ConfigError: A field is missing or of the wrong kind.
        """
        try:
            return cls(tuple(float(v) for v in value["mean"]), tuple(float(v) for v in value["std"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"expected mean and std per channel, got {value!r} ({error!r})") from error
