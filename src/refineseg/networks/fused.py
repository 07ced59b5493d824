"""The same function with fewer operations: a network rewritten for inference, equal up to rounding.

In: a trained :class:`~refineseg.networks.refinenet.RefineNet`. Out: another one, in evaluation mode, that

* holds batch normalisation inside the convolutions in front of it (encoders that ``torch.fx`` can trace);
* has one convolution where a light-weight lateral has two in a row with nothing between.

Pooling 5x5 windows in two passes is fewer operations too (:func:`separate_pooling`); OpenVINO gains by it, PyTorch on a
CPU loses, so it is done in exported graphs alone. The last pooling link inside a small classifier was slower
(docs/experiments.md).
"""

from __future__ import annotations

import copy
from collections import Counter

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int32, UInt8
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from refineseg.networks.encoders import Encoder, TwoScaleEncoder
from refineseg.networks.refinenet import Cascade, RefineNet, RefineNetBlock
from refineseg.scoring import class_dtype, class_map_of


def fuse(network: RefineNet) -> RefineNet:
    """A copy of a network with fewer operations; the network itself stays as it is.

    Args:
        network: Any variant; its weights are copied.

    Returns:
        A network in evaluation mode with other tensors: for inference, not for training or model files.

    Example:
        >>> from refineseg.networks.building import build_network
        >>> network = build_network("refinenet_lw_mobilenetv2", 21).eval()
        >>> image = torch.rand(1, 3, 64, 64)
        >>> bool((network(image) - fuse(network)(image)).abs().max() < 1e-4)
        True
    """
    fused = copy.deepcopy(network).eval().requires_grad_(False)
    fused.encoder = fold_norms(fused.encoder)
    merge_laterals(fused.decoder)
    return fused


class _NormsAreLeaves(fx.Tracer):
    """Traces through everything but convolutions and normalisations, timm's with an activation inside included."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


class FoldedEncoder(nn.Module):
    """An encoder whose batch normalisations are inside its convolutions.

    Args:
        encoder: Whose function it has, and whose word about its levels.
        graph: The folded computation.
    """

    def __init__(self, encoder: Encoder, graph: nn.Module) -> None:
        super().__init__()
        self.strides, self.channels = encoder.strides, encoder.channels
        self.size_multiple, self.takes_any_size = encoder.size_multiple, encoder.takes_any_size
        self.graph = graph

    def forward(self, x: Float[Tensor, "n c h w"]) -> list[Tensor]:
        """Images (N, C, H, W) -> levels, as the encoder it was made from."""
        levels: list[Tensor] = self.graph(x)
        return levels


def fold_norms(encoder: nn.Module) -> nn.Module:
    """An encoder with its normalisations inside the convolutions before them; one that cannot be traced, as it is."""
    if isinstance(encoder, TwoScaleEncoder):
        encoder.large, encoder.small = fold_norms(encoder.large), fold_norms(encoder.small)  # type: ignore[assignment]
        return encoder
    try:
        graph = _NormsAreLeaves().trace(encoder)
    except Exception:  # noqa: BLE001 - backbones fail to trace with any kind of exception
        return encoder
    traced = fx.GraphModule(encoder, graph)
    modules = dict(traced.named_modules())
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        source = node.args[0] if node.args else None
        if not isinstance(norm, nn.BatchNorm2d) or not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        conv = modules[str(source.target)]
        single = len(source.users) == 1 and calls[str(source.target)] == calls[str(node.target)] == 1
        if type(conv) is not nn.Conv2d or not single or norm.running_mean is None or norm.running_var is None:
            continue
        folded = copy.deepcopy(conv)
        folded.weight, folded.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        traced.set_submodule(str(source.target), folded)
        # timm's normalisations may hold an activation, which stays
        activations = (module for module in norm.children() if not isinstance(module, nn.Identity))
        traced.set_submodule(str(node.target), nn.Sequential(*activations))
    result = FoldedEncoder(encoder, traced)  # type: ignore[arg-type]
    try:
        return result if _agree(encoder, result) else encoder
    except Exception:  # noqa: BLE001 - the graph of a backbone that should not have been traced
        return encoder


@torch.inference_mode()
def _agree(encoder: nn.Module, folded: FoldedEncoder) -> bool:
    """Whether both give the same levels of one small image: encoders that work by hooks lose them in a trace."""
    filters = next(parameter for parameter in encoder.parameters() if parameter.ndim > 1)
    side, generator = int(folded.size_multiple), torch.Generator().manual_seed(0)
    image = torch.randn(1, filters.shape[1], side, 2 * side, generator=generator).to(filters)
    expected, levels = encoder(image), folded(image)
    return len(expected) == len(levels) and all(
        one.shape == other.shape and bool((one - other).abs().max() <= 0.01 * one.abs().max())
        for one, other in zip(expected, levels, strict=True)
    )


def merge_laterals(decoder: Cascade) -> None:
    """One 1x1 convolution in place of the adapting one and the fusion's, where both are 1x1 and nothing is between.

    Args:
        decoder: Decoder in evaluation mode; it is changed.
    """
    for block in decoder.blocks:
        assert isinstance(block, RefineNetBlock)
        _merge_laterals_of(block)


def _merge_laterals_of(block: RefineNetBlock) -> None:
    for index, adaptation in enumerate(block.adaptations):
        fusion = block.fusion.convs[index]
        if not isinstance(adaptation, nn.Sequential) or len(adaptation) != 1:
            continue
        first = adaptation[0]
        if not isinstance(first, nn.Conv2d) or not isinstance(fusion, nn.Conv2d):
            continue
        if first.kernel_size != (1, 1) or fusion.kernel_size != (1, 1):
            continue
        weight = fusion.weight.flatten(1) @ first.weight.flatten(1)  # both without bias
        merged = nn.Conv2d(first.in_channels, fusion.out_channels, 1, bias=False, device=weight.device)
        merged.weight = nn.Parameter(weight[:, :, None, None], requires_grad=False)
        block.fusion.convs[index] = merged
        block.adaptations[index] = nn.Sequential()


def separate_pooling(decoder: Cascade) -> None:
    """Square max pooling of stride 1 as rows and then columns: 10 values instead of 25 for each result of 5x5.

    Args:
        decoder: It is changed; its results stay the same to the last bit.
    """
    for module in list(decoder.modules()):
        for name, child in list(module.named_children()):
            if not isinstance(child, nn.MaxPool2d) or child.stride != 1:
                continue
            side, border = child.kernel_size, child.padding
            if isinstance(side, int) and isinstance(border, int):
                rows, columns = nn.MaxPool2d((1, side), 1, (0, border)), nn.MaxPool2d((side, 1), 1, (border, 0))
                setattr(module, name, nn.Sequential(rows, columns))


def enlarged_class_map(
    logits: Float[Tensor, "n k h w"], factor: int
) -> UInt8[Tensor, "n h2 w2"] | Int32[Tensor, "n h2 w2"]:
    """The class map of bilinearly enlarged logits, without the enlarged logits ever existing.

    Every ``factor``-th row and column of the enlarged logits is one fixed mixture of neighbours, so its classes are
    found at the logits' own size; ``factor ** 2`` such small maps, laid between each other, are the large one. A
    runtime that enlarges and then takes the argmax writes and reads K values for each pixel of the image instead.

    Args:
        logits: Logits at the network's resolution.
        factor: Whole number; ``align_corners=False``.

    Returns:
        (N, h * factor, w * factor) class indices, int32 with more than 256 classes; equal to the argmax of the
        enlarged logits but where two classes are equal up to rounding.

    Example:
        >>> logits = torch.tensor([[[[3.0, 0.0]], [[0.0, 1.0]]]])  # two classes, a row of two pixels
        >>> enlarged_class_map(logits, 4)[0, 0].tolist()
        [0, 0, 0, 0, 0, 1, 1, 1]
    """
    dtype = class_dtype(logits.shape[1] - 1)
    n, k, h, w = logits.shape
    # In three dimensions, so that runtimes keep each class in one piece: OpenVINO's argmax over classes that lie beside
    # each other, as its convolutions leave them, takes ten times as long.
    planes = F.pad(logits, (1, 1, 1, 1), mode="replicate").flatten(0, 1)  # (N * K, h + 2, w + 2)
    shifts = [(place + 0.5) / factor - 0.5 for place in range(factor)]
    maps = []
    for row in shifts:
        mixed = _between(planes, 1, row)  # (N * K, h, w + 2)
        for column in shifts:
            scores = _between(mixed, 2, column).reshape(n, k, h * w)
            maps.append(class_map_of(scores).to(dtype))
    cells = torch.stack(maps, dim=1).reshape(n, factor, factor, h, w)
    return cells.permute(0, 3, 1, 4, 2).reshape(n, h * factor, w * factor)


def _between(bordered: Tensor, axis: int, shift: float) -> Tensor:
    """Values at every place plus ``shift`` (-0.5..0.5) along an axis that has one more value at both ends."""
    length = bordered.shape[axis] - 2
    first, share = (1, shift) if shift >= 0 else (0, 1 + shift)
    return bordered.narrow(axis, first, length) * (1 - share) + bordered.narrow(axis, first + 1, length) * share
