"""Encoders from any timm backbone: images to feature maps, finest first.

In: normalised images (N, C, H, W). Out: a list of feature maps; of every timm backbone four, at strides 4, 8, 16, 32.

Sources: timm's ``features_only`` interface; for MobileNet-v2 the Light-Weight RefineNet code, whose first block keeps a
1x1 expansion that timm and torchvision omit.
"""

from __future__ import annotations

import difflib
import itertools
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import _efficientnet_builder, efficientnet
from timm.models.resnet import Bottleneck
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils.hooks import RemovableHandle

from refineseg.errors import ConfigError, RefinesegError, WeightsUnavailableError
from refineseg.networks.encoders import Encoder
from refineseg.networks.weight_files import (
    check_weights,
    plain_values,
    read_checkpoint,
    read_header,
    read_tensors,
    tensors_in,
)

STRIDES = (4, 8, 16, 32)
_SIZE_MULTIPLES = (32, 64, 128)
_ODD_SIZES_HW = ((1, 1), (33, 50), (97, 161))
_FREE_SIZE = {"strict_img_size": False}
_RESERVED_OPTIONS = {"features_only", "out_indices", "in_chans", "num_classes", "pretrained", "pretrained_cfg"}
_RESERVED_OPTIONS |= {"pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}


def _cannot_pretrain(name: str, error: Exception) -> WeightsUnavailableError:
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return WeightsUnavailableError(
        f"expected ImageNet weights of {name!r} from the timm library, but they cannot be had here ({reason}); "
        "connect to the network once, or train from scratch with --no-pretrained",
        reason=reason,
    )


def _load_weights(name: str, in_channels: int, pretrained: bool | Path, options: Mapping[str, Any]) -> Any:  # noqa: ANN401 - timm's models have no type
    """A timm model with its weights, from the library's place or from a local file."""
    if isinstance(pretrained, Path):
        return _load_file(name, in_channels, pretrained, options)
    return timm.create_model(name, in_chans=in_channels, pretrained=pretrained, **options)


def _load_file(name: str, in_channels: int, path: Path, options: Mapping[str, Any]) -> Any:  # noqa: ANN401 - see above
    """A timm model with the weights in a file.

    timm itself takes a file of another network without a word, so that is checked here: every tensor of the encoder
    must come from the file, and every tensor in the file must be one of the whole network.
    """
    if not path.is_file():
        raise ConfigError(f"expected a file with weights of {name!r}, but there is no {path}")
    _check_file(path)
    whole = {key: value for key, value in options.items() if key not in ("features_only", "out_indices", "num_classes")}
    with torch.device("meta"):
        known = timm.create_model(name, in_chans=in_channels, **whole).state_dict()
    differences = []
    with plain_values(), _compared() as loads:
        try:
            model = timm.create_model(
                name, in_chans=in_channels, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **options
            )
            own = {_flat(key) for key in model.state_dict() if not key.endswith("num_batches_tracked")}
        except Exception as error:  # noqa: BLE001 - shapes that differ, and whatever timm's readers of names fall over
            told = " ".join(" ".join(str(error).splitlines()[:2]).split()).rstrip(".")
            differences, own = [told[:400] or type(error).__name__], set()
    absent = [key for missing, _ in loads for key in missing if _flat(key) in own]
    foreign = [key for _, unused in loads for key in unused if key not in known]
    for keys, what in ((absent, "of its tensors are not in it"), (foreign, "tensors in it are of another network")):
        if keys:
            differences.append(f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})")
    if differences:
        raise ConfigError(
            f"expected weights of {name!r} in {path}, but {'; '.join(differences)}; give the file of that network"
        )
    return model


def _flat(key: str) -> str:
    """A tensor's name, the same in a network and in its feature maps, where timm says ``stages_0`` for ``stages.0``."""
    return key.removeprefix("model.").replace(".", "_")


@contextmanager
def _compared() -> Iterator[list[tuple[list[str], list[str]]]]:
    """Of the modules that this thread makes inside: the names that loading misses, and those that it does not use.

    timm keeps these to itself. All parts of a network share the two lists, which are complete when it is loaded.
    """
    loads: list[tuple[list[str], list[str]]] = []
    hooks: list[RemovableHandle] = []
    thread = threading.get_ident()

    def note(_module: nn.Module, keys: Any) -> None:  # noqa: ANN401 - torch's type has no public name
        if not any(missing is keys.missing_keys for missing, _ in loads):
            loads.append((keys.missing_keys, keys.unexpected_keys))

    def watch(_module: nn.Module, _name: str, part: nn.Module | None) -> None:
        if part is not None and threading.get_ident() == thread:  # the hook sees those of all threads
            hooks.append(part.register_load_state_dict_post_hook(note))  # type: ignore[no-untyped-call]

    hooks.append(register_module_module_registration_hook(watch))
    try:
        yield loads
    finally:
        for hook in hooks:
            hook.remove()


def pixel_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, in units of 0..1, of the pixels that a backbone's ImageNet weights expect."""
    wrong_name = _name_error(name)
    if wrong_name:
        raise wrong_name
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD) if config is None else (config.mean, config.std)


def _check_file(path: Path) -> None:
    """Refuse a file that holds more than finite weights, before timm reads it."""
    if path.suffix == ".safetensors":
        read_header(path)
        read_tensors(path)
    elif path.suffix not in (".npz", ".npy"):  # which hold arrays alone; timm reads them without pickles
        found = tensors_in(read_checkpoint(path))
        check_weights({name: tensor for name, tensor in found.items() if tensor.ndim}, path)


class TimmEncoder(Encoder):
    """Four levels at strides 4, 8, 16, 32 of a timm backbone.

    ``size_multiple`` is what height and width must be multiples of for exactly these strides; ``takes_any_size`` says
    that other sizes work too (as with ResNets), each level being rounded up.

    Args:
        name: A timm model name, for instance ``resnet101.tv_in1k`` or ``convnext_tiny``.
        in_channels: Image channels.
        pretrained: Load timm's weights for that name (network or timm's local cache), or those of a local file.
        encoder_options: Further options of ``timm.create_model``.
        caffe_strides: Let the stages of a bottleneck ResNet shrink in their first 1x1 convolution, not in the 3x3, as
            the Caffe models do that RefineNet's authors started from.

    Raises:
        ConfigError: An unknown name or option, a backbone without the four strides, tied to one input size, or (with
            ``pretrained``) whose weights cannot be had.
    """

    def __init__(
        self,
        name: str,
        *,
        in_channels: int = 3,
        pretrained: bool | Path = False,
        encoder_options: Mapping[str, Any],
        caffe_strides: bool = False,
    ) -> None:
        super().__init__()
        levels = _probe(name, in_channels, encoder_options)
        self.strides = STRIDES
        self.channels, self.size_multiple, self.takes_any_size = levels.channels, levels.size_multiple, levels.any_size
        self._channels_last = levels.order == "nhwc"
        options = {**encoder_options, **levels.options, "out_indices": levels.indices}
        try:
            self.body = _load_weights(name, in_channels, pretrained, {"features_only": True, **options})
        except Exception as error:
            if not pretrained or isinstance(error, RefinesegError):
                raise
            raise _cannot_pretrain(name, error) from error  # timm lets through whatever hub or network library fails
        if caffe_strides:
            self._move_strides(name)

    def _move_strides(self, name: str) -> None:
        blocks = [module for module in self.body.modules() if isinstance(module, Bottleneck)]
        if not blocks:
            raise ConfigError(f"expected a ResNet of bottleneck blocks for caffe_strides, got {name!r}; leave it out")
        for block in blocks:
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride

    def forward(self, x: Float[Tensor, "n c h w"]) -> list[Tensor]:
        """Images (N, C, H, W) -> levels (N, C_i, H / stride_i, W / stride_i), finest first."""
        levels: Sequence[Tensor] = self.body(x)
        if self._channels_last:
            return [level.permute(0, 3, 1, 2).contiguous() for level in levels]  # (N, H, W, C) -> (N, C, H, W)
        return list(levels)


@dataclass(frozen=True)
class _Levels:
    """The four levels of a backbone: their channels, where they are, and what they ask of the image size."""

    channels: tuple[int, ...]
    indices: tuple[int, ...]
    order: str
    size_multiple: int
    any_size: bool
    options: Mapping[str, Any]


def _name_error(name: str) -> ConfigError | None:
    """What is wrong with a timm name, if anything is; names of hubs and folders are not taken."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=5, cutoff=0.5)
        return ConfigError(
            f"expected the name of a timm model as encoder, got {name!r}; "
            f"{'near: ' + ', '.join(near) if near else 'timm.list_models() lists them'}"
        )
    known = timm.list_models(f"{architecture}.*", include_tags=True)
    if tag and known and name not in known:
        return ConfigError(f"expected weights that timm knows, got {name!r}; there are: {', '.join(known)}")
    return None


def _create_on_meta(name: str, in_channels: int, options: Mapping[str, Any]) -> nn.Module:
    """The backbone without memory or arithmetic, only shapes."""
    reserved = sorted(_RESERVED_OPTIONS & options.keys())
    if reserved:
        raise ConfigError(f"encoder_options {reserved} are not free, refineseg sets them itself; leave them out")
    wrong_name = _name_error(name)  # first, because timm looks on the network for names it does not know
    if wrong_name:
        raise wrong_name
    try:
        with torch.device("meta"):
            body: nn.Module = timm.create_model(name, features_only=True, in_chans=in_channels, **options)
    except Exception as error:
        raise ConfigError(
            f"encoder {name!r} cannot give feature maps ({type(error).__name__}: {error}); choose a timm backbone that "
            f"supports features_only{f', or change encoder_options {dict(options)}' if options else ''}"
        ) from error
    return body.eval()


def _order_at(
    body: nn.Module, in_channels: int, size_hw: tuple[int, int], picked: Sequence[int], channels: Sequence[int]
) -> tuple[str, str]:
    """Send one image size through: (memory order "nchw" or "nhwc", ""), or ("", why these are not the four levels)."""
    try:
        with torch.no_grad():
            levels = list(body(torch.zeros(1, in_channels, *size_hw, device="meta")))
    except Exception as error:  # noqa: BLE001 - backbones refuse sizes with any kind of exception
        return "", f"{type(error).__name__}: {error}".splitlines()[0][:160]
    shapes = [tuple(levels[i].shape) for i in picked]
    sizes = [(math.ceil(size_hw[0] / s), math.ceil(size_hw[1] / s)) for s in STRIDES]
    if shapes == [(1, c, *size) for c, size in zip(channels, sizes, strict=True)]:
        return "nchw", ""
    if shapes == [(1, *size, c) for c, size in zip(channels, sizes, strict=True)]:
        return "nhwc", ""
    return "", f"its feature maps are {shapes} for an image of {size_hw[0]}x{size_hw[1]}"


def _probe(name: str, in_channels: int, options: Mapping[str, Any]) -> _Levels:
    """Find the four levels, and the sizes and the option with which they are exactly at the four strides."""
    body: Any = _create_on_meta(name, in_channels, options)
    info = body.feature_info
    reductions, channels = list(info.reduction()), list(info.channels())
    if not set(STRIDES) <= set(reductions):
        raise ConfigError(
            f"expected an encoder with feature maps at strides {STRIDES}, got {name!r} with strides {reductions}; "
            "choose a hierarchical backbone (ResNet, ConvNeXt, EfficientNet, Swin, ...)"
        )
    picked = [max(i for i, r in enumerate(reductions) if r == stride) for stride in STRIDES]
    indices = tuple(info.out_indices[i] for i in picked)
    wanted = tuple(channels[i] for i in picked)
    own_hw = tuple((body.pretrained_cfg or {}).get("input_size") or ())[1:]
    own_multiples = tuple(side for side in own_hw[:1] if side % STRIDES[-1] == 0)
    bodies: list[tuple[nn.Module, Mapping[str, Any]]] = [(body, {})]
    with suppress(ConfigError):  # a backbone that does not know the option cannot be freed by it
        bodies.append((_create_on_meta(name, in_channels, {**options, **_FREE_SIZE}), _FREE_SIZE))
    complaint = ""
    for multiples in (_SIZE_MULTIPLES, own_multiples):  # the own size last: some have windows that divide only that
        for (candidate, extra), m in itertools.product(bodies, multiples):
            for size_hw in ((m, 2 * m), (3 * m, m), (m, m)):
                order, reason = _order_at(candidate, in_channels, size_hw, picked, wanted)
                if not order:
                    complaint = reason
                    break
            if order:
                any_size = all(_order_at(candidate, in_channels, hw, picked, wanted)[0] for hw in _ODD_SIZES_HW)
                return _Levels(wanted, indices, order, m, any_size, extra)
    if len(own_hw) == 2 and _order_at(body, in_channels, own_hw, picked, wanted)[0]:
        raise ConfigError(
            f"encoder {name!r} works only at its own input size {own_hw[0]}x{own_hw[1]}, but RefineNet predicts at any "
            f"size; choose a backbone that is not tied to one ({complaint})"
        )
    raise ConfigError(
        f"expected an encoder whose feature maps are 1/4, 1/8, 1/16 and 1/32 of the image, got {name!r}: {complaint}; "
        "choose another backbone"
    )


class MobileNetV2Encoder(Encoder):
    """MobileNet-v2 as Light-Weight RefineNet uses it: six levels, strides 4, 8, 16, 16, 32, 32.

    The blocks are timm's; the first one keeps the 1x1 expansion (32 -> 32) of the released network, and there is no
    1280-channel convolution at the end: 1,812,800 parameters.

    Args:
        in_channels: Image channels.
        pretrained: Load timm's ``mobilenetv2_100`` weights (or those of a local file), exactly: the added expansion
            becomes the identity, which changes nothing because its input already lies in 0..6.

    Raises:
        ConfigError: With ``pretrained``, the weights cannot be had.

    Source: Sandler et al., CVPR 2018, table 2, and the Light-Weight RefineNet code.
    """

    strides = (4, 8, 16, 16, 32, 32)
    channels = (24, 32, 64, 96, 160, 320)
    size_multiple = 32
    takes_any_size = True
    _TIMM_NAME = "mobilenetv2_100"

    def __init__(self, *, in_channels: int = 3, pretrained: bool | Path = False) -> None:
        super().__init__()
        stages = [
            ["ir_r1_k3_s1_e1_c16"],
            ["ir_r2_k3_s2_e6_c24"],
            ["ir_r3_k3_s2_e6_c32"],
            ["ir_r4_k3_s2_e6_c64"],
            ["ir_r3_k3_s1_e6_c96"],
            ["ir_r3_k3_s2_e6_c160"],
            ["ir_r1_k3_s1_e6_c320"],
        ]
        body = efficientnet.EfficientNet(
            _efficientnet_builder.decode_arch_def(stages),  # type: ignore[no-untyped-call]
            num_classes=0,
            in_chans=in_channels,
            stem_size=32,
            act_layer=nn.ReLU6,
        )
        self.conv_stem, self.bn1, self.blocks = body.conv_stem, body.bn1, body.blocks
        if pretrained:
            self._load_timm(in_channels, pretrained)

    def _load_timm(self, in_channels: int, pretrained: bool | Path) -> None:
        try:
            source = _load_weights(self._TIMM_NAME, in_channels, pretrained, {"num_classes": 0})
        except RefinesegError:
            raise
        except Exception as error:
            raise _cannot_pretrain(self._TIMM_NAME, error) from error
        state = {k: v for k, v in source.state_dict().items() if not k.startswith(("conv_head.", "bn2."))}
        self.load_plain_state(state)

    def load_plain_state(self, state: Mapping[str, Tensor]) -> None:
        """Load a MobileNet-v2 without the first expansion (timm's names, no head); the function stays the same."""
        shifted = {}
        for key, value in state.items():
            for old, new in (("conv_dw", "conv_dw"), ("bn1", "bn2"), ("conv_pw", "conv_pwl"), ("bn2", "bn3")):
                if key.startswith(f"blocks.0.0.{old}."):
                    key = key.replace(f"blocks.0.0.{old}.", f"blocks.0.0.{new}.")
                    break
            shifted[key] = value
        blocks: Any = self.blocks
        first = blocks[0][0]
        nn.init.dirac_(first.conv_pw.weight)
        first.bn1.reset_parameters()
        with torch.no_grad():
            first.bn1.weight.fill_(math.sqrt(1 + first.bn1.eps))  # cancels the division by sqrt(running_var + eps)
        own = {k: v for k, v in self.state_dict().items() if k.startswith(("blocks.0.0.conv_pw.", "blocks.0.0.bn1."))}
        self.load_state_dict({**shifted, **own})

    def forward(self, x: Float[Tensor, "n c h w"]) -> list[Tensor]:
        """Images (N, C, H, W) -> six levels (N, C_i, H / stride_i, W / stride_i), finest first."""
        x = self.bn1(self.conv_stem(x))
        levels = []
        for index, stage in enumerate(self.blocks):
            x = stage(x)
            if index > 0:  # the first stage, at stride 2, is not used
                levels.append(x)
        return levels
