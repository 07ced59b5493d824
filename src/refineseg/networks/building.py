"""A network by its variant's name: encoder and cascade put together.

In: a variant's name and the number of classes. Out: an untrained :class:`~refineseg.networks.refinenet.RefineNet`.
"""

from __future__ import annotations

from pathlib import Path

from refineseg.errors import ConfigError
from refineseg.networks.encoders import Encoder, MobileNetV2Encoder, SingleEncoder, TimmEncoder, TwoScaleEncoder
from refineseg.networks.nasnet_mobile import NASNetMobileEncoder
from refineseg.networks.refinenet import Cascade, RefineNet, Resizing
from refineseg.networks.variants import NetworkOptions, find_variant


def _no_weights(name: str) -> ConfigError:
    return ConfigError(
        f"expected ImageNet weights of {name!r}, but they cannot be had (no maintained library has them); "
        "train from scratch with --no-pretrained"
    )


def _make_encoder(variant: str, in_channels: int, pretrained: bool | Path, options: NetworkOptions) -> SingleEncoder:
    spec = find_variant(variant)
    name = spec.encoder
    if spec.encoder_options and pretrained is True:
        raise _no_weights(variant)
    if name not in ("mobilenetv2", "nasnetmobile"):
        return TimmEncoder(
            name,
            in_channels=in_channels,
            pretrained=pretrained,
            encoder_options={**spec.encoder_options, **options.encoder_options},
            caffe_strides=options.caffe_strides,
        )
    if options.encoder_options:
        raise ConfigError(f"{variant} takes no encoder_options, got {dict(options.encoder_options)}; leave them out")
    if name == "mobilenetv2":
        return MobileNetV2Encoder(in_channels=in_channels, pretrained=pretrained)
    if pretrained:
        raise _no_weights(name)
    return NASNetMobileEncoder(in_channels=in_channels)


def build_network(
    variant: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool | Path = False,
    options: NetworkOptions | None = None,
) -> RefineNet:
    """A network, untrained but for an encoder with ImageNet weights where ``pretrained`` asks for it.

    Args:
        variant: A name :func:`~refineseg.networks.variants.find_variant` knows.
        num_classes: Channels of the logits.
        in_channels: Image channels.
        pretrained: Start the encoder from timm's ImageNet weights, or from those in a local file.
        options: What the weights ask for.

    Raises:
        ConfigError: A wrong name or option, or weights that cannot be had.
    """
    if num_classes < 1 or in_channels < 1:
        raise ConfigError(f"expected num_classes and in_channels of at least 1, got {num_classes} and {in_channels}")
    spec, options = find_variant(variant), options or NetworkOptions()
    single = _make_encoder(variant, in_channels, pretrained, options)
    encoder: Encoder = single
    ranks = [*reversed(range(len(single.channels)))]
    if spec.two_scale:
        encoder = TwoScaleEncoder(single, _make_encoder(variant, in_channels, pretrained, options))
        ranks *= 2
    decoder = Cascade(
        encoder.channels,
        num_classes,
        groups=spec.groups,
        options=options.decoder(spec.options),
        resizing=Resizing(options.resize, options.align_corners),
        ranks=ranks,
    )
    return RefineNet(encoder, decoder)
