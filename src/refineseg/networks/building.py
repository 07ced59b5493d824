"""A network by its variant's name: encoder and cascade put together.

In: a variant's name and the number of classes. Out: an untrained :class:`~refineseg.networks.refinenet.RefineNet`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from refineseg.errors import ConfigError
from refineseg.networks.encoder_table import EncoderEntry, EncoderRequest, find_encoder, make_encoder, no_weights
from refineseg.networks.encoders import Encoder, TwoScaleEncoder
from refineseg.networks.refinenet import Cascade, RefineNet, Resizing
from refineseg.networks.variants import FIVE_CASCADED, NetworkOptions, find_variant
from refineseg.preprocessing import Preprocessing

_MADE_OFTEN, _MADE_ANYWAY = 10, 5000  # encoders are built several times, and some libraries build what they cut off


def encoder_of(variant: str) -> EncoderEntry:
    """The row of a variant's encoder in the table of encoders.

    Raises:
        ConfigError: No such variant.
    """
    return find_encoder(find_variant(variant).encoder)


def preprocessing_of(variant: str, in_channels: int = 3) -> Preprocessing:
    """What a variant's ImageNet weights ask of the pixels.

    Raises:
        ConfigError: No such variant.
    """
    return encoder_of(variant).preprocessing(in_channels)


def _start(pretrained: bool | str | Path) -> bool | Path:
    if isinstance(pretrained, bool | Path):
        return pretrained
    if isinstance(pretrained, str):
        return Path(pretrained)
    raise ConfigError(f"expected True, False or the path of a file as pretrained, got {pretrained!r:.100}")


def _make_encoder(variant: str, in_channels: int, pretrained: bool | Path, options: NetworkOptions) -> Encoder:
    spec = find_variant(variant)
    if spec.encoder_options and pretrained is True:
        raise no_weights(variant)
    encoder_options = {**spec.encoder_options, **options.encoder_options}
    num_levels = 5 if spec.groups == FIVE_CASCADED else 4
    return make_encoder(
        EncoderRequest(spec.encoder, in_channels, pretrained, encoder_options, options.caffe_strides, num_levels)
    )


def build_network(
    variant: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool | str | Path = False,
    options: NetworkOptions | None = None,
) -> RefineNet:
    """A network, untrained but for an encoder with ImageNet weights where ``pretrained`` asks for it.

    Args:
        variant: A name :func:`~refineseg.networks.variants.find_variant` knows.
        num_classes: Channels of the logits.
        in_channels: Image channels.
        pretrained: Start the encoder from ImageNet weights, or from those in a local file.
        options: What the weights ask for.

    Raises:
        ConfigError: A wrong name or option, or weights that cannot be had.
    """
    if num_classes < 1 or in_channels < 1:
        raise ConfigError(f"expected num_classes and in_channels of at least 1, got {num_classes} and {in_channels}")
    spec, options, start = find_variant(variant), options or NetworkOptions(), _start(pretrained)
    single = _make_encoder(variant, in_channels, start, options)
    encoder: Encoder = single
    ranks = [*reversed(range(len(single.channels)))]
    if spec.two_scale:
        encoder = TwoScaleEncoder(single, _make_encoder(variant, in_channels, start, options))
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


@contextmanager
def at_most(num_parameters: int) -> Iterator[None]:
    """A network that is built inside may not have more parameters; each may be made several times, to look at shapes.

    Raises:
        ConfigError: It has.
    """
    left, thread = _MADE_OFTEN * num_parameters + _MADE_ANYWAY, threading.get_ident()

    def count(_module: nn.Module, _name: str, _parameter: nn.Parameter | None) -> None:
        nonlocal left
        left -= threading.get_ident() == thread  # the hook sees those of all threads
        if left < 0 and threading.get_ident() == thread:
            raise ConfigError(f"expected a network of the file's {num_parameters} tensors, got one of many more")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
