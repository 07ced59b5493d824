"""NASNet-A Mobile ("4 @ 1056"), the searched encoder of Light-Weight RefineNet's smallest variants, leaves first.

In: normalised images (N, C, H, W). Out: four feature maps at strides 4, 8, 16, 32, finest first.

Sources:
    Zoph, Vasudevan, Shlens, Le: "Learning Transferable Architectures for Scalable Image Recognition", CVPR 2018,
    figure 4 (the cells) and appendix A (separable convolutions are applied twice, rectifier first, each followed by
    batch normalisation). What the paper leaves open is as in its published code and the ports of that: the 1x1
    convolutions that bring both inputs of a cell to its width, the factorised reduction, 32 filters in the first
    convolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from refineseg.networks.encoders import Encoder

_STEM_FILTERS = 32
_FILTERS = 1056 // 24  # the last cell gives six branches at four times the filters of the first one
_STAGES = (
    (_FILTERS // 4, 0, 0),
    (_FILTERS // 2, _FILTERS, 4),
    (_FILTERS * 2, _FILTERS * 2, 4),
    (_FILTERS * 4, _FILTERS * 4, 4),
)
"""For each level: filters of its reduction cell, filters of its normal cells, how many of those."""


def _normalise(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with NASNet's epsilon; the average is PyTorch's 0.1, since 0.0003 asks for very long runs."""
    return nn.BatchNorm2d(channels, eps=1e-3)


def _project(in_channels: int, out_channels: int) -> nn.Sequential:
    """Rectify, bring to another width by a 1x1 convolution, normalise."""
    return nn.Sequential(nn.ReLU(), nn.Conv2d(in_channels, out_channels, 1, bias=False), _normalise(out_channels))


def _separable(in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1) -> nn.Sequential:
    """A separable convolution applied twice (appendix A.4); only the first one strides and changes the width."""
    layers: list[nn.Module] = []
    for channels, step in ((in_channels, stride), (out_channels, 1)):
        layers += [
            nn.ReLU(),
            nn.Conv2d(
                channels, channels, kernel_size, stride=step, padding=kernel_size // 2, groups=channels, bias=False
            ),
            nn.Conv2d(channels, out_channels, 1, bias=False),
            _normalise(out_channels),
        ]
    return nn.Sequential(*layers)


def _average(x: Tensor, *, stride: int = 1) -> Tensor:
    """The mean of the pixels of the image in each 3x3 window; (H, W) become ceil(H / stride), ceil(W / stride)."""
    return F.avg_pool2d(x, 3, stride=stride, padding=1, count_include_pad=False)


class FactorisedReduction(nn.Module):
    """Halve height and width without dropping pixels that lie between the strides.

    One half of the output channels sees the pixels with even coordinates, the other those with odd ones (zero where
    they lie outside).

    Args:
        in_channels: Channels in.
        out_channels: Channels out, even.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(in_channels, out_channels // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(in_channels, out_channels // 2, 1, stride=2, bias=False)
        self.norm = _normalise(out_channels)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / 2), ceil(W / 2))."""
        x = F.relu(x)
        shifted = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        y: Tensor = self.norm(torch.cat([self.even(x), self.odd(shifted)], dim=1))
        return y


def _adjust(in_channels: int, out_channels: int, *, halve: bool) -> nn.Module:
    """What brings the output of the cell before last to the width, and where needed the size, of the current one."""
    return FactorisedReduction(in_channels, out_channels) if halve else _project(in_channels, out_channels)


class NormalCell(nn.Module):
    """The searched cell that keeps height and width (figure 4, left).

    Args:
        channels: Channels of the output of the cell before.
        previous_channels: Channels of the output of the cell before that one.
        filters: Width of every branch; the cell has ``6 * filters`` output channels.
        halve_previous: The previous output is twice as large as the current one.
    """

    def __init__(self, channels: int, previous_channels: int, filters: int, *, halve_previous: bool) -> None:
        super().__init__()
        self.out_channels = 6 * filters
        self.adjust = _project(channels, filters)
        self.adjust_previous = _adjust(previous_channels, filters, halve=halve_previous)
        self.left1 = _separable(filters, filters, 5)
        self.right1 = _separable(filters, filters, 3)
        self.left2 = _separable(filters, filters, 5)
        self.right2 = _separable(filters, filters, 3)
        self.left5 = _separable(filters, filters, 3)

    def forward(self, current: Float[Tensor, "n c h w"], previous: Tensor) -> Float[Tensor, "n d h w"]:
        """Current (N, channels, H, W), previous (N, previous_channels, H or 2H, W or 2W) -> (N, 6 * filters, H, W)."""
        h, p = self.adjust(current), self.adjust_previous(previous)
        x1 = self.left1(h) + self.right1(p)
        x2 = self.left2(p) + self.right2(p)
        x3 = _average(h) + p
        x4 = 2 * _average(p)  # the search added the same average to itself
        x5 = self.left5(h) + h
        return torch.cat([p, x1, x2, x3, x4, x5], dim=1)


class ReductionCell(nn.Module):
    """The searched cell that halves height and width (figure 4, right).

    Args:
        channels: Channels of the output of the cell before.
        previous_channels: Channels of the output of the cell before that one.
        filters: Width of every branch; the cell has ``4 * filters`` output channels.
        halve_previous: The previous output is twice as large as the current one. None: there is no previous output,
            both inputs are the image's first convolution and the second of them is used as it is.
    """

    def __init__(self, channels: int, previous_channels: int, filters: int, *, halve_previous: bool | None) -> None:
        super().__init__()
        self.out_channels = 4 * filters
        self.adjust = _project(channels, filters)
        if halve_previous is None:
            self.adjust_previous: nn.Module = nn.Identity()
            width = previous_channels
        else:
            self.adjust_previous = _adjust(previous_channels, filters, halve=halve_previous)
            width = filters
        self.left1 = _separable(filters, filters, 5, stride=2)
        self.right1 = _separable(width, filters, 7, stride=2)
        self.right2 = _separable(width, filters, 7, stride=2)
        self.right3 = _separable(width, filters, 5, stride=2)
        self.left5 = _separable(filters, filters, 3)

    def forward(self, current: Float[Tensor, "n c h w"], previous: Tensor) -> Float[Tensor, "n d h2 w2"]:
        """Current (N, channels, H, W), previous as large or twice -> (N, 4 * filters, ceil(H / 2), ceil(W / 2))."""
        h, p = self.adjust(current), self.adjust_previous(previous)
        largest = F.max_pool2d(h, 3, stride=2, padding=1)
        x1 = self.left1(h) + self.right1(p)
        x2 = largest + self.right2(p)
        x3 = _average(h, stride=2) + self.right3(p)
        x4 = _average(x1) + x2
        x5 = self.left5(x1) + largest
        return torch.cat([x2, x3, x4, x5], dim=1)


class NASNetMobileEncoder(Encoder):
    """NASNet-A Mobile without its classifier: 4,232,978 parameters, four levels, trained from scratch.

    The levels are the last outputs at each stride, as the cells hand them on, without a rectifier: the first reduction
    cell (stride 4), then the last normal cell of each group of four. Which tensors Light-Weight RefineNet takes is not
    published; these are the natural ones, and with them no parameter is left unused.

    Padding is symmetric throughout, so that a level is ceil(H / stride) x ceil(W / stride) at any image size. (The
    published network leaves the first convolution unpadded and pads even sizes on one side only; weights trained that
    way would see a grid that is shifted by up to a pixel in each reduction.)

    Args:
        in_channels: Image channels.

    Example:
        >>> levels = NASNetMobileEncoder().eval()(torch.zeros(1, 3, 64, 96))
        >>> [tuple(level.shape[1:]) for level in levels]
        [(44, 16, 24), (264, 8, 12), (528, 4, 6), (1056, 2, 3)]

    Source: Zoph et al., CVPR 2018; parameter count as in the public ports.
    """

    strides = (4, 8, 16, 32)
    channels = (44, 264, 528, 1056)
    size_multiple = 32
    takes_any_size = True

    def __init__(self, *, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, _STEM_FILTERS, 3, stride=2, padding=1, bias=False), _normalise(_STEM_FILTERS)
        )
        channels = previous_channels = _STEM_FILTERS
        halve_previous: bool | None = None
        self.stages = nn.ModuleList()
        for reduction_filters, filters, num_normal in _STAGES:
            cell: ReductionCell | NormalCell
            cell = ReductionCell(channels, previous_channels, reduction_filters, halve_previous=halve_previous)
            stage: list[nn.Module] = [cell]
            halve_previous = True
            for _ in range(num_normal):
                channels, previous_channels = cell.out_channels, channels
                cell = NormalCell(channels, previous_channels, filters, halve_previous=halve_previous)
                stage.append(cell)
                halve_previous = False
            channels, previous_channels = cell.out_channels, channels
            self.stages.append(nn.ModuleList(stage))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Float[Tensor, "n c h w"]) -> list[Tensor]:
        """Images (N, C, H, W) -> four levels (N, C_i, ceil(H / stride_i), ceil(W / stride_i)), finest first."""
        previous = current = self.stem(x)
        levels = []
        for stage in self.stages:
            for cell in stage:  # type: ignore[attr-defined]  # a ModuleList of cells
                previous, current = current, cell(current, previous)
            levels.append(current)
        return levels
