"""Original weights: the tensor names of the published PyTorch ports, each translated to ours and used exactly once.

In: a state dict, or a checkpoint file of the ports. Out: tensors under this package's names. The legacy names live here
only. Ports: RefineNet-50/101/152, Light-Weight RefineNet-50/101/152 and -MobileNet-v2.

Files are read without running code in them (``weights_only``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from refineseg.errors import ModelFileError

_NESTED = ("state_dict", "segmenter", "model")
_MOBILE_CONVS = {8: (0, 0), 7: (0, 1), 6: (1, 1), 5: (1, 2), 4: (2, 1), 3: (3, 1)}  # convN -> (block, input)
_MOBILE_BLOCK_PARTS = {
    "0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2.0": "conv_pwl", "2.1": "bn3",
}  # fmt: skip


def _lateral(path: int) -> str:
    """Where encoder path 1 (coarsest) .. 4 enters its block: beside the previous block's output, if there is one."""
    return f"{path - 1}.{{}}.{0 if path == 1 else 1}"


_Rule = tuple[str, Callable[[re.Match[str]], str]]

_RESNET_RULES: tuple[_Rule, ...] = (
    (r"((?:conv1|bn1|layer\d)\..*)", lambda m: f"encoder.body.{m[1]}"),
    (
        r"p_ims1d2_outl(\d)_dimred\.(.*)",
        lambda m: f"decoder.blocks.{_lateral(int(m[1])).format('adaptations')}.0.{m[2]}",
    ),
    (
        r"adapt_stage(\d)_b\.0\.(\d)_conv\.(.*)",
        lambda m: f"decoder.blocks.{_lateral(int(m[1])).format('adaptations')}.{m[2]}.conv1.{m[3]}",
    ),
    (
        r"adapt_stage(\d)_b\.0\.(\d)_conv_relu_varout_dimred\.(.*)",
        lambda m: f"decoder.blocks.{_lateral(int(m[1])).format('adaptations')}.{m[2]}.conv2.{m[3]}",
    ),
    (
        r"adapt_stage(\d)_b2_joint_varout_dimred\.(.*)",
        lambda m: f"decoder.blocks.{_lateral(int(m[1])).format('fusion.convs')}.{m[2]}",
    ),
    (
        r"mflow_conv_g(\d)_pool\.0\.(\d)_outvar_dimred\.(.*)",
        lambda m: f"decoder.blocks.{int(m[1]) - 1}.pooling.convs.{int(m[2]) - 1}.{m[3]}",
    ),
    (
        r"mflow_conv_g(\d)_b\.0\.(\d)_conv\.(.*)",
        lambda m: f"decoder.blocks.{int(m[1]) - 1}.output.{int(m[2]) - 1}.conv1.{m[3]}",
    ),
    (
        r"mflow_conv_g(\d)_b\.0\.(\d)_conv_relu_varout_dimred\.(.*)",
        lambda m: f"decoder.blocks.{int(m[1]) - 1}.output.{int(m[2]) - 1}.conv2.{m[3]}",
    ),
    (r"mflow_conv_g(\d)_b3_joint_varout_dimred\.(.*)", lambda m: f"decoder.blocks.{m[1]}.fusion.convs.0.{m[2]}"),
    (r"clf_conv\.(.*)", lambda m: f"decoder.classifier.{m[1]}"),
)

_MOBILE_RULES: tuple[_Rule, ...] = (
    (r"layer1\.0\.(.*)", lambda m: f"encoder.conv_stem.{m[1]}"),
    (r"layer1\.1\.(.*)", lambda m: f"encoder.bn1.{m[1]}"),
    (
        r"layer([2-8])\.(\d)\.output\.([0-2]\.[01])\.(.*)",
        lambda m: f"encoder.blocks.{int(m[1]) - 2}.{m[2]}.{_MOBILE_BLOCK_PARTS[m[3]]}.{m[4]}",
    ),
    (
        r"conv([3-8])\.(.*)",
        lambda m: "decoder.blocks.{}.fusion.convs.{}.".format(*_MOBILE_CONVS[int(m[1])]) + m[2],
    ),
    (r"conv_adapt([2-4])\.(.*)", lambda m: f"decoder.blocks.{5 - int(m[1])}.fusion.convs.0.{m[2]}"),
    (
        r"crp([1-4])\.0\.(\d)_outvar_dimred\.(.*)",
        lambda m: f"decoder.blocks.{4 - int(m[1])}.pooling.convs.{int(m[2]) - 1}.{m[3]}",
    ),
    (r"segm\.(.*)", lambda m: f"decoder.classifier.{m[1]}"),
)

_RULES: dict[str, tuple[_Rule, ...]] = {
    "refinenet_resnet50": _RESNET_RULES,
    "refinenet_resnet101": _RESNET_RULES,
    "refinenet_resnet152": _RESNET_RULES,
    "refinenet_lw_resnet50": _RESNET_RULES,
    "refinenet_lw_resnet101": _RESNET_RULES,
    "refinenet_lw_resnet152": _RESNET_RULES,
    "refinenet_lw_mobilenetv2": _MOBILE_RULES,
}


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """The content of a ``.pth`` / ``.pth.tar`` / ``.ckpt`` file, without running code in it.

    Raises:
        ModelFileError: No such file, damaged, or holding more than tensors and plain values.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelFileError(f"expected a readable checkpoint, got {path}: {error}") from error
    except Exception as error:  # a damaged file makes the unpickler raise anything
        raise ModelFileError(
            f"expected a PyTorch checkpoint of tensors and plain values, got {path}, which is damaged or holds code "
            f"({type(error).__name__}); refineseg never runs code from a checkpoint"
        ) from error
    if not isinstance(content, Mapping):
        raise ModelFileError(f"expected a state dict in {path}, got {type(content).__name__}; save model.state_dict()")
    return content


def _names(keys: list[str]) -> str:
    return ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")


def _unwrap(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The innermost dict of tensors, without ``module.`` prefixes."""
    for _ in _NESTED:
        content = next((content[key] for key in _NESTED if isinstance(content.get(key), Mapping)), content)
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    state = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if len(state) < len(tensors):
        doubled = sorted(name for name in state if name in tensors and f"module.{name}" in tensors)
        raise ModelFileError(f"expected every tensor once, got {_names(doubled)} with and without module. in front")
    if not state:
        raise ModelFileError(
            f"expected a state dict of tensors, got the keys {sorted(map(str, content))[:8]}; "
            f"tensors may also lie under {', '.join(_NESTED)}"
        )
    return state


def _rename(key: str, rules: tuple[_Rule, ...]) -> str | None:
    for pattern, name in rules:
        match = re.fullmatch(pattern, key)
        if match:
            return name(match)
    return None


def translate(content: Mapping[str, Any], *, variant: str, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Original tensors under our names.

    Args:
        content: A state dict of a port, possibly nested (``state_dict``, ``segmenter``, ``model``) or prefixed.
        variant: The network it belongs to.
        own: State dict of that network as built here; gives the names and shapes to fill.

    Returns:
        A complete state dict. Only ``num_batches_tracked`` may be missing from the original; it becomes 0.

    Raises:
        ModelFileError: A tensor is left over, missing, or of another shape; each is named.
    """
    if variant not in _RULES:
        raise ModelFileError(f"expected one of {', '.join(_RULES)} for original weights, got {variant!r}")
    result: dict[str, Tensor] = {}
    unused = []
    for key, tensor in _unwrap(content).items():
        name = _rename(key, _RULES[variant])
        if name is None or name not in own or name in result:
            unused.append(key)
        elif tensor.shape != own[name].shape:
            raise ModelFileError(
                f"expected {key} of shape {tuple(own[name].shape)} for {variant}, got {tuple(tensor.shape)}; "
                "is it another variant or number of classes?"
            )
        else:
            result[name] = tensor
    missing = [name for name in own if name not in result and not name.endswith("num_batches_tracked")]
    if unused or missing:
        raise ModelFileError(
            f"expected every tensor of {variant} exactly once; "
            f"left over: {_names(unused) if unused else 'none'}; missing: {_names(missing) if missing else 'none'}"
        )
    return {name: result.get(name, torch.zeros_like(tensor)) for name, tensor in own.items()}


def original_num_classes(content: Mapping[str, Any]) -> int:
    """Number of classes of the original classifier.

    Raises:
        ModelFileError: There is none.
    """
    state = _unwrap(content)
    for key in ("clf_conv.bias", "segm.bias"):
        if key in state:
            return state[key].numel()
    raise ModelFileError(
        f"expected an original classifier (clf_conv or segm), got tensors such as {_names(sorted(state))}"
    )
