"""Networks that ``camvid_peers.py`` compares: ours, and small ones of torchvision and segmentation-models-pytorch.

In: a name. Out: an untrained :class:`~refineseg.segmenter.Segmenter`, in which a peer sits as our networks do, so that
training, measurement and export are the same for all.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from refineseg.class_info import ClassInfo
from refineseg.networks.encoder_table import ENCODERS, EncoderRequest, make_encoder
from refineseg.segmenter import Segmenter, build

OURS = ("refineseg_nano", "refineseg_small", "refinenet_lw_mobilenetv2")
TORCHVISION = {"lraspp_mobilenet_v3_large": "", "deeplabv3_mobilenet_v3_large": "out"}
"""Name -> which of the backbone's maps the classifier takes; empty: all."""
_LITE = "tu-tf_efficientnet_lite0"
SMP = {
    "FPN-mobilenet_v2": ("FPN", "mobilenet_v2"),
    "DeepLabV3+-mobilenet_v2": ("DeepLabV3Plus", "mobilenet_v2"),
    "Unet-lite0": ("Unet", _LITE),
    "FPN-lite0": ("FPN", _LITE),
    "DeepLabV3+-lite0": ("DeepLabV3Plus", _LITE),
}
"""Name -> class and encoder in segmentation-models-pytorch."""
LRASPP = "LR-ASPP-lite0"
"""Torchvision's head of MobileNet-v3 on EfficientNet-Lite0."""
ON_LITE = ("refineseg_lite0", "Unet-lite0", "FPN-lite0", "DeepLabV3+-lite0", LRASPP)
"""The networks that can start from ImageNet weights, all from the same file."""
NETWORKS = (*OURS, *TORCHVISION, *(name for name in SMP if name not in ON_LITE))


class Levels(nn.Module):
    """A peer's backbone, and what a segmenter must know of it.

    Args:
        body: Normalised images -> maps.
    """

    size_multiple, takes_any_size = 32, False

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Any:  # noqa: ANN401 - a list or a mapping, as the library has it
        """Images (N, 3, H, W) -> maps."""
        return self.body(x)


class Head(nn.Module):
    """What a peer computes from its maps.

    Args:
        parts: One after the other.
        picked: Which map goes in; empty: all.
    """

    def __init__(self, parts: Sequence[nn.Module], picked: str) -> None:
        super().__init__()
        self.parts, self.picked = nn.ModuleList(parts), picked

    def forward(self, levels: Any) -> Tensor:  # noqa: ANN401 - as above
        """Maps -> logits, at the network's own resolution or at that of the image."""
        x = levels[self.picked] if self.picked else levels
        for part in self.parts:
            x = part(x)
        assert isinstance(x, Tensor)
        return x


class LiteHead(nn.Module):
    """Torchvision's LR-ASPP head on the maps of our Lite0.

    Args:
        head: Takes the maps of strides 8 and 32.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Maps of strides 4, 8, 16 and 32 -> logits at stride 8."""
        logits: Tensor = self.head({"low": levels[1], "high": levels[3]})
        return logits


class Peer(nn.Module):
    """A network of another library in the two parts that training knows: they may have rates of their own.

    Args:
        encoder: Its backbone.
        decoder: The rest.
    """

    def __init__(self, encoder: Levels, decoder: Head) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images -> logits; a segmenter enlarges them where they are smaller."""
        logits: Tensor = self.decoder(self.encoder(x))
        return logits


def is_installed(name: str) -> bool:
    """Whether the library of a network is there."""
    return name not in SMP or importlib.util.find_spec("segmentation_models_pytorch") is not None


def load_lite_weights(encoder: nn.Module) -> None:
    """Put the packaged ImageNet weights into timm's Lite0, whose tensors have the same order.

    timm's feature extractor has neither the last convolution nor the classifier, so the file holds more.
    """
    weights = ENCODERS["lite0"].weights
    assert weights is not None
    values = (value for key, value in weights.read().items() if not key.endswith("num_batches_tracked"))
    own = {key: value for key, value in encoder.state_dict().items() if not key.endswith("num_batches_tracked")}
    encoder.load_state_dict(dict(zip(own, values, strict=False)), strict=False)


def build_peer(name: str, num_classes: int, *, imagenet: bool = False) -> Peer:
    """A network of another library, from random weights or with ImageNet weights in its encoder."""
    if name in TORCHVISION:
        library = importlib.import_module("torchvision.models.segmentation")
        network = getattr(library, name)(weights=None, weights_backbone=None, num_classes=num_classes)
        return Peer(Levels(network.backbone), Head([network.classifier], TORCHVISION[name]))
    if name == LRASPP:
        levels = make_encoder(EncoderRequest("lite0", pretrained=imagenet))
        library = importlib.import_module("torchvision.models.segmentation.lraspp")
        return Peer(Levels(levels), Head([LiteHead(library.LRASPPHead(40, 320, num_classes, 128))], ""))
    library, (kind, encoder) = importlib.import_module("segmentation_models_pytorch"), SMP[name]
    network = getattr(library, kind)(encoder, encoder_weights=None, classes=num_classes)
    if imagenet:
        load_lite_weights(network.encoder.model)
    return Peer(Levels(network.encoder), Head([network.decoder, network.segmentation_head], ""))


def build_model(name: str, class_info: ClassInfo, *, seed: int = 0, imagenet: bool = False) -> Segmenter:
    """A new model by a name of :data:`NETWORKS` or :data:`ON_LITE`, or of a variant.

    A peer sits in the segmenter of one of our variants, which gives it the pixels that its encoder's weights ask for;
    its model file does not load, no tensor fits.
    """
    torch.manual_seed(seed)
    ours = name not in (*TORCHVISION, *SMP, LRASPP)
    vessel = name if ours else "refineseg_lite0" if name in ON_LITE else "refineseg_nano"
    segmenter = build(vessel, class_info=class_info, pretrained=ours and imagenet)
    if not ours:
        torch.manual_seed(seed)
        peer = build_peer(name, class_info.num_classes, imagenet=imagenet).to(memory_format=torch.channels_last)
        # what training and export ask of a network, a peer has
        segmenter.network = peer.eval()  # type: ignore[assignment]
    return segmenter
