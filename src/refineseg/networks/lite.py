"""EfficientNet-Lite as an encoder: normalised images to feature maps at strides 4, 8, 16, 32, and 2 if asked for.

In: images (N, C, H, W), ``(pixel - 127.5) / 127.5``. Out: four or five maps, finest first. There are convolutions,
normalisation and ReLU6 and no global operation, so exact tiles hold and 8-bit files stay close.

The module is our own, because importing timm takes longer than predicting a photograph; timm's
``tf_efficientnet_lite0`` to ``2`` are its oracle (``tests/networks/test_lite.py``). What the ImageNet weights ask for
is part of it: normalisation with an epsilon of 1e-3, and TensorFlow's padding, which puts the odd pixel at the bottom
and the right where a map shrinks.

Source: EfficientNet-Lite in the TensorFlow TPU repository (Tan and Le, ICML 2019, scaled without the first and the last
stage).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from refineseg.errors import ModelFileError
from refineseg.networks.encoders import Encoder

_EPSILON, _MOMENTUM = 1e-3, 0.01  # of TensorFlow's batch normalisation, whose momentum is 1 - 0.01


class _Stage(NamedTuple):
    """Blocks of one resolution: number in Lite0, kernel, stride of the first block, expansion, channels in Lite0."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
_STEM_CHANNELS = 32
_LEVELS = (0, 1, 2, 4, 6)  # the last stages at strides 2, 4, 8, 16, 32
_STEM = ("_conv_stem", "_bn0", "conv_stem", "bn1")  # as EfficientNet-PyTorch names them, and as timm does
_BLOCK: tuple[str, ...] = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
_BLOCK += ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
_FIRST_BLOCK = ("conv_dw", "bn1", "conv_pw", "bn2")  # of timm; it expands nothing
_LEAVES = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class LiteSize:
    """How an EfficientNet-Lite is scaled.

    Args:
        width: Factor on channels, rounded to multiples of 8.
        depth: Factor on the blocks of the stages between the first and the last.
    """

    width: float
    depth: float

    def channels(self, channels: int) -> int:
        """Channels of a stage, from those of Lite0; rounding never takes more than a tenth away."""
        scaled = channels * self.width
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * scaled else rounded


LITE_SIZES = {"lite0": LiteSize(1.0, 1.0), "lite1": LiteSize(1.0, 1.1), "lite2": LiteSize(1.1, 1.2)}
"""Name -> size of the encoders of this module."""


class SamePadding(nn.Module):
    """TensorFlow's ``SAME`` in front of a convolution of stride 2: ceil(size / 2) outputs, an odd pixel comes last.

    Args:
        kernel_size: Side of the convolution's filters, odd.
    """

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.even_sizes = False
        """Height and width are even: then the padding is one number for all sizes, which exporters need."""

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        """Maps (N, C, H, W) with zeros around them."""
        both = self.kernel_size - 2  # for both sides of an even map
        rows, columns = (both if self.even_sizes else both + side % 2 for side in (x.shape[2], x.shape[3]))
        return F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


def assume_even_sizes(module: nn.Module) -> None:
    """Tell every :class:`SamePadding` that its maps have even sizes, as those of images in multiples of 32 have."""
    for part in module.modules():
        if isinstance(part, SamePadding):
            part.even_sizes = True


class ConvNorm(nn.Module):
    """A convolution and its normalisation.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Side of the filters, odd.
        stride: 1 or 2.
        groups: As in :class:`torch.nn.Conv2d`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding = kernel_size // 2 if stride == 1 else 0
        self.pad = nn.Identity() if stride == 1 else SamePadding(kernel_size)
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=_EPSILON, momentum=_MOMENTUM)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h2 w2"]:
        """Maps (N, C, H, W) -> (N, K, ceil(H / stride), ceil(W / stride))."""
        normalised: Tensor = self.norm(self.conv(self.pad(x)))
        return normalised


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel alone, project by 1x1 without activation; added to its input where it fits.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel: Side of the filters of single channels.
        stride: Stride of those filters.
        expansion: Factor between; 1: there is no first 1x1 convolution.

    Source: Sandler et al., CVPR 2018, figure 4d.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [ConvNorm(in_channels, inner, 1), nn.ReLU6()]
        layers += [ConvNorm(inner, inner, kernel, stride=stride, groups=inner), nn.ReLU6()]
        self.layers = nn.Sequential(*layers, ConvNorm(inner, out_channels, 1))
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h2 w2"]:
        """Maps (N, C, H, W) -> (N, K, ceil(H / stride), ceil(W / stride))."""
        filtered: Tensor = self.layers(x)
        return filtered + x if self.adds else filtered


class LiteEncoder(Encoder):
    """EfficientNet-Lite without its classifier: levels at strides 4, 8, 16, 32, of images of any size.

    Args:
        name: ``lite0``, ``lite1`` or ``lite2``; a key of :data:`LITE_SIZES`.
        in_channels: Image channels.
        num_levels: 4, or 5 with that at stride 2.

    Example:
        >>> import torch
        >>> [tuple(level.shape[1:]) for level in LiteEncoder("lite0")(torch.zeros(1, 3, 33, 64))]
        [(24, 9, 16), (40, 5, 8), (112, 3, 4), (320, 2, 2)]
    """

    size_multiple = 32
    takes_any_size = True

    def __init__(self, name: str, *, in_channels: int = 3, num_levels: int = 4) -> None:
        super().__init__()
        self._levels, self.strides = _LEVELS[-num_levels:], (2, 4, 8, 16, 32)[-num_levels:]
        size = LITE_SIZES[name]
        channels = _STEM_CHANNELS  # neither the stem nor the number of blocks of the outer stages is scaled
        self.stem = nn.Sequential(ConvNorm(in_channels, channels, 3, stride=2), nn.ReLU6())
        self.stages = nn.ModuleList()
        widths = []
        for index, stage in enumerate(_STAGES):
            outer = index in (0, len(_STAGES) - 1)
            blocks: list[nn.Module] = []
            for block in range(stage.blocks if outer else math.ceil(stage.blocks * size.depth)):
                out_channels, stride = size.channels(stage.channels), 1 if block else stage.stride
                blocks.append(
                    InvertedResidual(
                        channels, out_channels, kernel=stage.kernel, stride=stride, expansion=stage.expansion
                    )
                )
                channels = out_channels
            self.stages.append(nn.Sequential(*blocks))
            widths.append(channels)
        self.channels = tuple(widths[index] for index in self._levels)

    def forward(self, x: Float[Tensor, "n c h w"]) -> list[Tensor]:
        """Normalised images (N, C, H, W) -> levels (N, C_i, ceil(H / stride_i), ceil(W / stride_i)), finest first."""
        x = self.stem(x)
        levels = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self._levels:
                levels.append(x)
        return levels

    def load_in_order(self, state: Mapping[str, Tensor], path: Path) -> None:
        """Load a whole EfficientNet-Lite of other names by the order of its tensors, which is that of the layers.

        Args:
            state: Tensors of the whole network; its last 1x1 convolution and its classifier are left out. Under the
                names of EfficientNet-PyTorch or timm, they may be in any order.
            path: The file they come from, for messages.

        Raises:
            ModelFileError: Too few tensors, or one of another shape than its place has.
        """
        own = {name: tensor for name, tensor in self.state_dict().items() if not name.endswith("num_batches_tracked")}
        given = [(name, state[name]) for name in _in_order(state)]
        advice = "give the file of this encoder, for images of three channels"
        if path.suffix == ".safetensors":
            advice += "; unknown names are not in the order of the layers in .safetensors: give the .pth then"
        for (name, place), (source, tensor) in zip(own.items(), given, strict=False):
            if place.shape != tensor.shape:
                raise ModelFileError(
                    f"expected {source} in {path} of shape {tuple(place.shape)} for {name}, got {tuple(tensor.shape)}; "
                    f"{advice}"
                )
        if len(given) < len(own):
            raise ModelFileError(
                f"expected at least {len(own)} tensors in {path}, got {len(given)}; give the file of this encoder"
            )
        tensors = {name: tensor for name, (_, tensor) in zip(own, given, strict=False)}
        self.load_state_dict(tensors, strict=False)  # without the numbers of batches, which nothing uses


def _in_order(names: Iterable[str]) -> list[str]:
    """The tensors of a whole network in the order of its layers, by their names where these are known."""
    given = {name.removeprefix("module."): name for name in names if not name.endswith("num_batches_tracked")}
    if not {"_conv_stem.weight", "conv_stem.weight"} & given.keys():
        return list(given.values())

    def place(name: str) -> tuple[bool, list[int], int, int]:
        *block, layer, leaf = ("", *name.split("."))
        numbers = [int(part) for part in block if part.isdecimal() and len(part) < 5]
        layers = _FIRST_BLOCK if name.startswith("blocks.0.") else _BLOCK if numbers else _STEM
        if layer not in layers or leaf not in _LEAVES:
            return True, [], 0, 0  # the end of the network
        return False, numbers, layers.index(layer), _LEAVES.index(leaf)

    return [given[name] for name in sorted(given, key=place)]
