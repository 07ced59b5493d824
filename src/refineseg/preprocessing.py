"""Pixels to network input. The only file that knows normalisation constants.

In: ``uint8`` images, 0..255. Out: float images, ``(pixel - mean) / std`` per channel, enlarged where the weights were
trained so. The numbers belong to the weights: most ImageNet weights of torchvision and timm ask for
:meth:`Preprocessing.imagenet`, EfficientNet-Lite's for :meth:`Preprocessing.tensorflow`, those of RefineNet's authors
for :meth:`Preprocessing.matconvnet`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from refineseg.errors import ConfigError

if TYPE_CHECKING:  # what an exported file says of its pixels is read without PyTorch
    import torch
    from jaxtyping import Float, UInt8
    from torch import Tensor

_LEAST, _MOST = 1e-6, 1e6


@dataclass(frozen=True)
class Preprocessing:
    """Normalisation of pixels, one mean and one standard deviation per channel, both in units of 0..255.

    Args:
        mean: Subtracted from each channel.
        std: What each channel is divided by.
        input_scale: Images are resized by this factor first (bicubic, rounded to whole pixel values).

    Raises:
        ConfigError: Lengths that differ, deviations that are not positive, or numbers far from those of pixels.

    Example:
        >>> Preprocessing.imagenet().mean[0]
        123.675
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_scale: float = 1.0

    def __post_init__(self) -> None:
        try:  # lists, arrays and NumPy's numbers, too; files hold those of Python
            mean, std = (tuple(float(value) for value in values) for values in (self.mean, self.std))
            scale = float(self.input_scale)
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"expected numbers as mean, std and input_scale, got {self.mean!r:.80}, {self.std!r:.80} and "
                f"{self.input_scale!r:.80}"
            ) from error
        for name, value in (("mean", mean), ("std", std), ("input_scale", scale)):
            object.__setattr__(self, name, value)
        if not self.mean or len(self.mean) != len(self.std) or not all(s > 0 for s in self.std):
            raise ConfigError(
                f"expected as many means as positive standard deviations, got mean {self.mean} and std {self.std}"
            )
        if not all(abs(m) <= _MOST for m in self.mean) or not all(_LEAST <= s <= _MOST for s in self.std):
            raise ConfigError(
                f"expected finite means up to {_MOST:g} and standard deviations of {_LEAST:g} to {_MOST:g}, for which "
                f"single precision is enough, got mean {self.mean} and std {self.std}"
            )
        if not 0 < self.input_scale <= 8:
            raise ConfigError(f"expected an input scale above 0 and up to 8, got {self.input_scale}")

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

    @classmethod
    def tensorflow(cls, in_channels: int = 3) -> Preprocessing:
        """What weights trained in TensorFlow expect: pixels in -1..1.

        Source: the EfficientNet-Lite code; timm has the same numbers.
        """
        return cls((127.5,) * in_channels, (127.5,) * in_channels)

    @classmethod
    def unit_range(cls, mean: Sequence[float], std: Sequence[float], in_channels: int = 3) -> Preprocessing:
        """From statistics of pixels in 0..1, as timm states them; their average for images of other channels.

        Example:
            >>> Preprocessing.unit_range((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) == Preprocessing.imagenet()
            True
        """
        mean, std = (tuple(round(255 * value, 6) for value in values) for values in (mean, std))
        if in_channels == len(mean):
            return cls(mean, std)
        return cls((sum(mean) / len(mean),) * in_channels, (sum(std) / len(std),) * in_channels)

    @classmethod
    def matconvnet(cls, *, input_scale: float = 1.2) -> Preprocessing:
        """What the RefineNet authors' models expect: minus 128, and images enlarged by 1.2.

        Source: the RefineNet authors' code.
        """
        return cls((128.0, 128.0, 128.0), (1.0, 1.0, 1.0), input_scale)

    def __call__(self, images: UInt8[Tensor, "n c h w"], *, dtype: torch.dtype) -> Float[Tensor, "n c h2 w2"]:
        """Normalise a batch into ``dtype`` on the images' device; (N, C, H * input_scale, W * input_scale)."""
        from refineseg.resize import normalise

        return normalise(images, self.mean, self.std, input_scale=self.input_scale, dtype=dtype)

    def to_json(self) -> dict[str, Any]:
        """As plain values for JSON; :meth:`from_json` is the way back."""
        return {"mean": list(self.mean), "std": list(self.std), "input_scale": self.input_scale}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Preprocessing:
        """From the values of :meth:`to_json`.

        Raises:
            ConfigError: A field is missing or of the wrong kind.
        """
        try:
            mean, std = (tuple(float(v) for v in value[key]) for key in ("mean", "std"))
            return cls(mean, std, float(value.get("input_scale", 1.0)))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ConfigError(f"expected mean and std per channel, got {value!r:.200} ({error!r:.200})") from error
