"""The named networks: which encoder, which cascade, from where in the papers; and ``build``.

In: a variant's name. Out: an untrained :class:`~refineseg.networks.refinenet.RefineNet`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from refineseg.errors import ConfigError
from refineseg.networks.encoders import Encoder, MobileNetV2Encoder, TimmEncoder
from refineseg.networks.refinenet import (
    LIGHT_WEIGHT,
    LIGHT_WEIGHT_MOBILE,
    REFINENET,
    Cascade,
    DecoderOptions,
    RefineNet,
)


@dataclass(frozen=True)
class Variant:
    """A network of the papers by name.

    Args:
        encoder: ``mobilenetv2``, or a timm name.
        options: The decoder family.
        groups: Levels of each block, coarsest block first, as indices of the encoder's maps (finest first).
        source: Where it is described.
    """

    encoder: str
    options: DecoderOptions
    groups: tuple[tuple[int, ...], ...]
    source: str


FOUR_CASCADED = ((3,), (2,), (1,), (0,))
"""One level per block: RefineNet-4 .. RefineNet-1 of the paper's figure 2c."""

SIX_LEVELS = ((5, 4), (3, 2), (1,), (0,))
"""MobileNet-v2: the two maps of stride 32, and of stride 16, enter one block."""

_RF, _LW = "Lin et al. 2017, figure 2c", "Nekrasov et al. 2018, section 3"

VARIANTS: dict[str, Variant] = {
    "refinenet_resnet50": Variant("resnet50.tv_in1k", REFINENET, FOUR_CASCADED, _RF),
    "refinenet_resnet101": Variant("resnet101.tv_in1k", REFINENET, FOUR_CASCADED, _RF),
    "refinenet_resnet152": Variant("resnet152.tv_in1k", REFINENET, FOUR_CASCADED, _RF),
    "refinenet_lw_resnet50": Variant("resnet50.tv_in1k", LIGHT_WEIGHT, FOUR_CASCADED, _LW),
    "refinenet_lw_resnet101": Variant("resnet101.tv_in1k", LIGHT_WEIGHT, FOUR_CASCADED, _LW),
    "refinenet_lw_resnet152": Variant("resnet152.tv_in1k", LIGHT_WEIGHT, FOUR_CASCADED, _LW),
    "refinenet_lw_mobilenetv2": Variant("mobilenetv2", LIGHT_WEIGHT_MOBILE, SIX_LEVELS, _LW),
}
"""Every named variant; ``refinenet:<timm name>`` and ``refinenet_lw:<timm name>`` take any timm backbone besides."""


def find_variant(name: str) -> Variant:
    """The variant of a name, ``refinenet:<timm name>`` and ``refinenet_lw:<timm name>`` included.

    Raises:
        ConfigError: No such variant; the message names the near ones.
    """
    if name in VARIANTS:
        return VARIANTS[name]
    family, colon, backbone = name.partition(":")
    if colon and backbone and family in ("refinenet", "refinenet_lw"):
        options = REFINENET if family == "refinenet" else LIGHT_WEIGHT
        return Variant(backbone, options, FOUR_CASCADED, f"{_RF if family == 'refinenet' else _LW}, encoder by timm")
    near = difflib.get_close_matches(name, VARIANTS, n=3, cutoff=0.5) or list(VARIANTS)
    raise ConfigError(
        f"expected a variant, got {name!r}; near: {', '.join(near)}; or refinenet:<timm name>, refinenet_lw:<timm name>"
    )


def build_network(
    variant: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    align_corners: bool = False,
    pretrained: bool = False,
    encoder_options: Mapping[str, Any] | None = None,
) -> RefineNet:
    """A network, untrained but for an encoder with ImageNet weights where ``pretrained`` asks for it.

    Args:
        variant: A name :func:`find_variant` knows.
        num_classes: Channels of the logits.
        in_channels: Image channels.
        align_corners: Of every bilinear enlargement inside the network; the original weights need True.
        pretrained: Start the encoder from timm's ImageNet weights.
        encoder_options: Further options of ``timm.create_model``; not for ``mobilenetv2``.

    Raises:
        ConfigError: A wrong name or option, or weights that cannot be had.
    """
    if num_classes < 1 or in_channels < 1:
        raise ConfigError(f"expected num_classes and in_channels of at least 1, got {num_classes} and {in_channels}")
    spec = find_variant(variant)
    encoder: Encoder
    if spec.encoder == "mobilenetv2":
        if encoder_options:
            raise ConfigError(f"{variant} takes no encoder_options, got {dict(encoder_options)}; leave them out")
        encoder = MobileNetV2Encoder(in_channels=in_channels, pretrained=pretrained)
    else:
        encoder = TimmEncoder(
            spec.encoder, in_channels=in_channels, pretrained=pretrained, encoder_options=encoder_options or {}
        )
    decoder = Cascade(
        encoder.channels, num_classes, groups=spec.groups, options=spec.options, align_corners=align_corners
    )
    return RefineNet(encoder, decoder)
