"""RefineNet and Light-Weight RefineNet: both networks in the papers' words, leaves first.

In: feature maps of an encoder, finest first. Out: logits at the size of the finest map, in the papers 1/4 of the image.

Light-Weight RefineNet is the same blocks with other arguments (1x1 convolutions, no residual conv units), see
:mod:`refineseg.networks.families`.

Sources:
    Lin, Milan, Shen, Reid: "RefineNet: Multi-Path Refinement Networks for High-Resolution Semantic Segmentation",
    CVPR 2017. Nekrasov, Shen, Reid: "Light-Weight RefineNet for Real-Time Semantic Segmentation", BMVC 2018.
    Where the papers are silent the released networks decide (docs/architecture.md, "Paper and released networks").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from refineseg.errors import ConfigError
from refineseg.networks.families import Activation, DecoderOptions, PoolingOrder, Resize, check_resize
from refineseg.resize import matlab_resize


def same_conv(
    in_channels: int, out_channels: int, kernel_size: int, *, bias: bool = False, depthwise: bool = False
) -> nn.Conv2d:
    """A stride 1 convolution that keeps height and width; depthwise: one filter per channel."""
    groups = in_channels if depthwise else 1
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias, groups=groups)


def rectify(x: Tensor, activation: Activation) -> Tensor:
    """ReLU, or ReLU6 (``min(max(x, 0), 6)``) as the MobileNet-v2 variants use throughout."""
    return F.relu6(x) if activation == "relu6" else F.relu(x)


@dataclass(frozen=True)
class Resizing:
    """How feature maps are brought to the size of the finest one.

    Args:
        mode: ``bilinear``; or bicubic as the authors' MATLAB code does it: ``matlab_cpu`` (``imresize`` to the exact
            size), ``matlab_gpu`` (one common scale for both axes, then cut at the bottom and the right).
        align_corners: Whether ``bilinear`` aligns corners: True as the PyTorch ports' weights need it.

    Raises:
        ConfigError: An unknown mode.
    """

    mode: Resize = "bilinear"
    align_corners: bool = False

    def __post_init__(self) -> None:
        check_resize(self.mode)

    def __call__(self, x: Float[Tensor, "n c h w"], size_hw: tuple[int, int]) -> Float[Tensor, "n c h2 w2"]:
        """``x`` at another height and width."""
        if tuple(x.shape[2:]) == size_hw:
            return x
        if self.mode == "bilinear":
            return F.interpolate(x, size=size_hw, mode="bilinear", align_corners=self.align_corners)
        return matlab_resize(x, size_hw, style="cpu" if self.mode == "matlab_cpu" else "gpu")


class ResidualConvUnit(nn.Module):
    """Adapt features to the task without losing them (Lin et al. 2017, section 3.2, figure 3b).

    ``x + conv2(relu(conv1(relu(x))))``: a ResNet unit without batch normalisation. The skip carries ``x`` as it came.
    As released, the first convolution has a bias and the second has none.

    Args:
        channels: Channels in and out; the shape (N, channels, H, W) never changes.
        kernel_size: Kernel size of both convolutions.
    """

    def __init__(self, channels: int, *, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv1 = same_conv(channels, channels, kernel_size, bias=True)
        self.conv2 = same_conv(channels, channels, kernel_size)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Shape in = shape out."""
        correction: Tensor = self.conv2(F.relu(self.conv1(F.relu(x))))
        return x + correction


class MultiResolutionFusion(nn.Module):
    """Bring all inputs to one width and the finest resolution, and add them (section 3.2, figure 3c).

    Each input is convolved where it is small, then enlarged, then added.

    Args:
        in_channels: Channels of each input.
        out_channels: Channels of the sum. None: the smallest input width, and a single input passes unchanged (paper).
        kernel_size: Kernel size of the convolutions.
        resizing: How the smaller inputs are enlarged.
    """

    def __init__(
        self, in_channels: Sequence[int], *, out_channels: int | None, kernel_size: int, resizing: Resizing
    ) -> None:
        super().__init__()
        self.resizing = resizing
        self.out_channels = min(in_channels) if out_channels is None else out_channels
        passes = out_channels is None and len(in_channels) == 1
        self.convs = nn.ModuleList(
            nn.Identity() if passes else same_conv(channels, self.out_channels, kernel_size) for channels in in_channels
        )

    def forward(self, inputs: Sequence[Tensor]) -> Float[Tensor, "n c h w"]:
        """Inputs (N, C_i, H_i, W_i) in the order of ``in_channels``; out (N, out_channels, max H_i, max W_i)."""
        height, width = max(x.shape[2] for x in inputs), max(x.shape[3] for x in inputs)
        total: Tensor | None = None
        for conv, x in zip(self.convs, inputs, strict=True):
            y = self.resizing(conv(x), (height, width))
            total = y if total is None else total + y
        assert total is not None
        return total


class ChainedResidualPooling(nn.Module):
    """Gather background context from ever larger windows (section 3.2, figure 3d).

    Each link pools the link before it, weighs the result by a convolution and adds it to the sum, so that
    ``num_links`` cheap 5x5 windows see as far as one large window would.

    Args:
        channels: Channels in and out; the shape (N, channels, H, W) never changes.
        num_links: Pool-and-convolve links. The paper uses 2, and 4 for PASCAL VOC and Person-Part; as released: 4. With
            0 only the rectifier is left (the ablation of the paper's table 2).
        kernel_size: Kernel size of the weighing convolution: 3 in RefineNet, 1 in Light-Weight RefineNet.
        activation: The rectifier in front of the chain.
        order: ``pool_conv`` as in the paper, or ``conv_pool``, the authors' later "improved" pooling.
        depthwise: Weigh each channel by itself (multi-task follow-up of Light-Weight RefineNet).
    """

    def __init__(
        self,
        channels: int,
        *,
        num_links: int = 4,
        kernel_size: int = 3,
        activation: Activation = "relu",
        order: PoolingOrder = "pool_conv",
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.activation: Activation = activation
        self.order: PoolingOrder = order
        self.pool: nn.Module = nn.MaxPool2d(kernel_size=5, stride=1, padding=2)
        self.convs = nn.ModuleList(
            same_conv(channels, channels, kernel_size, depthwise=depthwise) for _ in range(num_links)
        )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Shape in = shape out."""
        total = link = rectify(x, self.activation)  # the only non-linearity on the identity path (section 3.3)
        for conv in self.convs:
            link = conv(self.pool(link)) if self.order == "pool_conv" else self.pool(conv(link))
            total = total + link
        return total


class RefineNetBlock(nn.Module):
    """One RefineNet block: adapt each input, fuse them, pool context, refine (section 3.2, figure 3a).

    Args:
        in_channels: Channels of each input; any number of inputs of any sizes.
        adapted_channels: Per input: channels after the adapting convolution and residual conv units, or None for an
            input that goes into the fusion as it is (the output of the block before).
        options: The family's options.
        resizing: How the smaller inputs are enlarged in the fusion.
        last: The block in front of the classifier.

    Raises:
        ConfigError: No inputs.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        adapted_channels: Sequence[int | None],
        options: DecoderOptions,
        resizing: Resizing,
        last: bool = False,
    ) -> None:
        super().__init__()
        if not in_channels:
            raise ConfigError("expected at least one input of a RefineNet block, got none; give every block a level")
        kernel_size = options.kernel_size
        self.adaptations = nn.ModuleList()
        for channels, adapted in zip(in_channels, adapted_channels, strict=True):
            units: list[nn.Module] = []
            if adapted is not None:
                units.append(same_conv(channels, adapted, kernel_size))
                units += (
                    ResidualConvUnit(adapted, kernel_size=kernel_size) for _ in range(options.num_adaptation_units)
                )
            self.adaptations.append(nn.Sequential(*units))
        self.fusion = MultiResolutionFusion(
            [adapted or channels for channels, adapted in zip(in_channels, adapted_channels, strict=True)],
            out_channels=None if options.level_widths else options.width,
            kernel_size=kernel_size,
            resizing=resizing,
        )
        width, links = self.fusion.out_channels, options.num_last_links if last else None
        self.out_channels = width
        self.pooling = ChainedResidualPooling(
            width,
            num_links=options.num_links if links is None else links,
            kernel_size=kernel_size,
            activation=options.activation,
            order=options.pooling_order,
            depthwise=last and options.depthwise_end,
        )
        self.output = nn.Sequential(
            *(ResidualConvUnit(width, kernel_size=kernel_size) for _ in range(options.num_output_units)),
            *(ResidualConvUnit(width) for _ in range(options.num_last_units if last else 0)),
        )

    def forward(self, inputs: Sequence[Tensor]) -> Float[Tensor, "n c h w"]:
        """Inputs (N, C_i, H_i, W_i); out (N, out_channels, max H_i, max W_i)."""
        adapted = [adaptation(x) for adaptation, x in zip(self.adaptations, inputs, strict=True)]
        refined: Tensor = self.output(self.pooling(self.fusion(adapted)))
        return refined


class Cascade(nn.Module):
    """RefineNet blocks from coarse to fine, then the classifier (section 3.1, figure 2c; other cascades: table 9).

    Args:
        in_channels: Channels of each level, finest level first (of each encoder, where there are two).
        num_classes: Channels of the logits.
        groups: Levels (indices into ``in_channels``) that enter each block, coarsest block first, beside the
            output of the block before. ``((3,), (2,), (1,), (0,))`` is the 4-cascaded RefineNet, ``((3, 2, 1, 0),)`` a
            single block.
        options: The family's options.
        resizing: How feature maps are enlarged.
        ranks: Place of each level counted from its encoder's coarsest (0), which decides its width and dropout; None:
            one encoder.

    Raises:
        ConfigError: A group is empty or names a level that is not there.

    Example:
        >>> import torch
        >>> from refineseg.networks.families import LIGHT_WEIGHT
        >>> cascade = Cascade((8, 16), 3, groups=((1, 0),), options=LIGHT_WEIGHT, resizing=Resizing())
        >>> cascade([torch.zeros(1, 8, 6, 6), torch.zeros(1, 16, 3, 3)]).shape
        torch.Size([1, 3, 6, 6])
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        groups: Sequence[Sequence[int]],
        options: DecoderOptions,
        resizing: Resizing,
        ranks: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.groups = tuple(tuple(group) for group in groups)
        self.ranks = tuple(reversed(range(len(in_channels)))) if ranks is None else tuple(ranks)
        if not self.groups or not all(0 <= level < len(in_channels) for group in self.groups for level in group):
            raise ConfigError(
                f"expected groups of levels 0..{len(in_channels) - 1} (finest first), got {self.groups}; name for each "
                "block the levels that enter it, coarsest block first"
            )
        self.resizing = resizing
        self.level_dropout = nn.Dropout(options.level_dropout)
        self.blocks = nn.ModuleList()
        previous: list[int] = []
        for index, group in enumerate(self.groups):
            block = RefineNetBlock(
                [*previous, *(in_channels[level] for level in group)],
                adapted_channels=[
                    *(None for _ in previous),
                    *(options.adapted_channels(self.ranks[level]) for level in group),
                ],
                options=options,
                resizing=resizing,
                last=index == len(self.groups) - 1,
            )
            self.blocks.append(block)
            previous = [block.out_channels]
        width = previous[0]
        self.head = nn.Sequential()
        if options.depthwise_end:
            self.head.extend([same_conv(width, width, 1, depthwise=True), nn.ReLU6()])
        self.classifier_dropout = nn.Dropout(options.classifier_dropout)
        self.classifier = same_conv(width, num_classes, 3, bias=True)

    def forward(self, levels: Sequence[Tensor]) -> Float[Tensor, "n k h w"]:
        """Levels (N, C_i, H_i, W_i), finest first; logits (N, K, H_0, W_0)."""
        levels = [self.level_dropout(x) if rank < 2 else x for x, rank in zip(levels, self.ranks, strict=True)]
        x: list[Tensor] = []
        for group, block in zip(self.groups, self.blocks, strict=True):
            x = [block([*x, *(levels[level] for level in group)])]
        logits: Tensor = self.classifier(self.classifier_dropout(self.head(x[0])))
        return logits


class RefineNet(nn.Module):
    """Encoder and cascade: normalised images to logits at the finest level's size.

    Args:
        encoder: (N, C, H, W) -> list of levels, finest first.
        decoder: The cascade over those levels.

    Example:
        >>> import refineseg, torch
        >>> network = refineseg.build("refinenet_lw_mobilenetv2", num_classes=21).network.eval()
        >>> network(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 21, 16, 24])
    """

    def __init__(self, encoder: nn.Module, decoder: Cascade) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h4 w4"]:
        """Normalised images (N, C, H, W), any size; logits as large as the finest map: ceil(H / 4), or ceil(H / 2)."""
        logits: Tensor = self.decoder(self.encoder(x))
        return logits


def count_parameters(module: nn.Module) -> int:
    """Number of trainable values."""
    return sum(p.numel() for p in module.parameters())
