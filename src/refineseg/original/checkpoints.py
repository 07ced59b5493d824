"""Original weights: the tensor names of the authors' networks and their ports, each translated to ours, once.

In: a state dict, or a checkpoint file of the ports (tensors of the authors' ``.mat`` files come from ``matconvnet``).
Out: tensors under this package's names. The legacy names live here only. Files are read by ``weight_files``.

Names of six families are known: the authors' MatConvNet names (``adapt_input_path1_b1_conv``), those of the PyTorch
ports of RefineNet and Light-Weight RefineNet (``adapt_stage1_b.0.1_conv``), its MobileNet-v2 (``conv8``, ``crp4``),
DenseTorch (``1.stem_convs.0``) and the multi-task follow-up (``pre_segm``), also in DenseTorch (``1.heads.0.0``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from refineseg.errors import ConfigError, ModelFileError
from refineseg.networks.families import REFINENET, Resize
from refineseg.networks.refinenet import Cascade, Resizing
from refineseg.networks.variants import VARIANTS, Variant
from refineseg.networks.weight_files import check_weights
from refineseg.original.matconvnet_search import listed
from refineseg.terminal.printing import warn

_NESTED = ("state_dict", "segmenter", "model")
_CLASSIFIERS = ("clf_conv", "final_loss_conv", "segm", "1.segm", "1.heads.0.2")
_HEAD = re.compile(r"p_ims(\dd\d)_outl(\d)_dimred\.weight")
_OTHER_TASKS = re.compile(r"(?:(?:pre_)?(?:depth|normals?)|1\.heads\.[1-9]\d*)\..*")
_MOBILE_BLOCK_PARTS = {
    "0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2.0": "conv_pwl", "2.1": "bn3",
}  # fmt: skip

_Rule = tuple[str, Callable[[re.Match[str]], str]]
_Place = Mapping[int, tuple[int, int]]


def _places(groups: Sequence[Sequence[int]]) -> dict[int, tuple[int, int]]:
    """Where each member of the groups enters: block, and place among its inputs (after the block before)."""
    return {m: (b, i + (b > 0)) for b, group in enumerate(groups) for i, m in enumerate(group)}


def _cascade_rules(place: _Place, heads: Sequence[str]) -> tuple[_Rule, ...]:
    """Names of the authors' networks and their ports; ``place`` is by path, ``heads`` are the dimension reductions."""

    def at(path: str, part: str) -> str:
        block, index = place.get(int(path), (-1, -1))
        return f"blocks.{block}.{part}.{index}"

    return (
        (r"(p_ims\dd\d_outl\d_dimred)\.(.*)", lambda m: f"{at(_path_of(m[1], heads), 'adaptations')}.0.{m[2]}"),
        (
            r"adapt_(?:stage|input_path)(\d)_b(?:\.0\.)?(\d)_conv(_relu_varout_dimred|)\.(.*)",
            lambda m: f"{at(m[1], 'adaptations')}.{m[2]}.{'conv2' if m[3] else 'conv1'}.{m[4]}",
        ),
        (
            r"adapt_(?:stage|input_path)(\d)_b\d_joint_varout_dimred\.(.*)",
            lambda m: f"{at(m[1], 'fusion.convs')}.{m[2]}",
        ),
        (
            r"mflow_conv_g(\d)_pool(?:\.0\.)?(\d)_outvar_dimred\.(.*)",
            lambda m: f"blocks.{int(m[1]) - 1}.pooling.convs.{int(m[2]) - 1}.{m[3]}",
        ),
        (
            r"mflow_conv_g(\d)_pool(?:prev_relu_var|\d_)out(?:var)?_pb(\d)\.(.*)",
            lambda m: f"blocks.{int(m[1]) - 1}.pooling.convs.{int(m[2]) - 1}.{m[3]}",
        ),
        (
            r"mflow_conv_g(\d)_b(?:\.0\.)?(\d)_conv(_relu_varout_dimred|)\.(.*)",
            lambda m: f"blocks.{int(m[1]) - 1}.output.{int(m[2]) - 1}.{'conv2' if m[3] else 'conv1'}.{m[4]}",
        ),
        (r"mflow_conv_g(\d)_b\d_joint_varout_dimred\.(.*)", lambda m: f"blocks.{m[1]}.fusion.convs.0.{m[2]}"),
        (r"(?:clf_conv|final_loss_conv)\.(.*)", lambda m: f"classifier.{m[1]}"),
    )


def _light_rules(place: _Place, num_levels: int) -> tuple[_Rule, ...]:
    """Decoder names of DenseTorch, of the MobileNet-v2 and of its multi-task follow-up; ``place`` is by level."""
    last = max(block for block, _ in place.values())

    def at(level: int) -> str:
        return "blocks.{}.fusion.convs.{}".format(*place.get(level, (-1, -1)))

    return (
        (r"1\.stem_convs\.(\d)\.(.*)", lambda m: f"{at(num_levels - 1 - int(m[1]))}.{m[2]}"),
        (
            r"1\.crp_blocks\.(\d)\.0\.(\d)_outvar_dimred\.(.*)",
            lambda m: f"blocks.{m[1]}.pooling.convs.{int(m[2]) - 1}.{m[3]}",
        ),
        (r"1\.adapt_convs\.(\d)\.(.*)", lambda m: f"blocks.{int(m[1]) + 1}.fusion.convs.0.{m[2]}"),
        (r"conv([3-8])\.(.*)", lambda m: f"{at(int(m[1]) - 3)}.{m[2]}"),
        (r"conv_adapt([2-4])\.(.*)", lambda m: f"blocks.{last + 2 - int(m[1])}.fusion.convs.0.{m[2]}"),
        (
            r"crp([1-4])\.0\.(\d)_outvar_dimred\.(.*)",
            lambda m: f"blocks.{last + 1 - int(m[1])}.pooling.convs.{int(m[2]) - 1}.{m[3]}",
        ),
        (r"(?:pre_segm|1\.heads\.0\.0)\.(.*)", lambda m: f"head.0.{m[1]}"),
        (r"(?:(?:1\.)?segm|1\.heads\.0\.2)\.(.*)", lambda m: f"classifier.{m[1]}"),
    )


_RESNET_RULES: tuple[_Rule, ...] = (
    (r"(?:0\.)?((?:conv1|bn1|layer\d)\..*)", lambda m: f"encoder.body.{m[1]}"),
    (r"((?:large|small)\.)((?:conv1|bn1|layer\d)\..*)", lambda m: f"encoder.{m[1]}body.{m[2]}"),
)
_MOBILE_RULES: tuple[_Rule, ...] = (
    (r"(?:0\.)?layer1\.0\.(.*)", lambda m: f"encoder.conv_stem.{m[1]}"),
    (r"(?:0\.)?layer1\.1\.(.*)", lambda m: f"encoder.bn1.{m[1]}"),
    (
        r"(?:0\.)?layer([2-8])\.(\d)\.output\.([0-2]\.[01])\.(.*)",
        lambda m: f"encoder.blocks.{int(m[1]) - 2}.{m[2]}.{_MOBILE_BLOCK_PARTS[m[3]]}.{m[4]}",
    ),
)


def _path_of(head: str, heads: Sequence[str]) -> str:
    return str(heads.index(head) + 1) if head in heads else "0"


def _heads_of(names: Iterable[str]) -> list[str]:
    """The dimension reductions in path order: the small scale first, coarsest level first."""
    return sorted(name.removesuffix(".weight") for name in names if _HEAD.fullmatch(name))


def path_groups_of(variant: Variant) -> tuple[tuple[int, ...], ...]:
    """Encoder paths (from 1, small scale and coarsest level first, as the authors count) of each block."""
    # levels: large scale first, finest first; paths: the other way round, without levels that enter no block
    levels = sorted((level for group in variant.groups for level in group), reverse=True)
    return tuple(tuple(sorted(levels.index(level) + 1 for level in group)) for group in variant.groups)


def num_pooling_links(state: Mapping[str, Tensor]) -> int:
    """Links of each pooling chain, from the tensors' names."""
    original = _largest(state, r"mflow_conv_g\d_pool(?:\.0\.)?(\d)_outvar_dimred\..*")
    return original or _largest(state, r"mflow_conv_g\d_pool.*_pb(\d)\..*")


def _rules_of(variant: Variant, names: Iterable[str]) -> tuple[_Rule, ...]:
    of_level = _places(variant.groups)
    if variant.options.level_widths:
        levels = sorted(of_level, reverse=True)
        place = {path: of_level[level] for path, level in enumerate(levels, 1)}
        return (*_RESNET_RULES, *_in_decoder(_cascade_rules(place, _heads_of(names))))
    encoder = _MOBILE_RULES if variant.encoder == "mobilenetv2" else _RESNET_RULES
    return (*encoder, *_in_decoder(_light_rules(of_level, max(of_level) + 1)))


def _in_decoder(rules: Sequence[_Rule]) -> tuple[_Rule, ...]:
    return tuple((pattern, lambda m, name=name: f"decoder.{name(m)}") for pattern, name in rules)


def _unwrap(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The innermost dict of tensors, without ``module.`` prefixes."""
    for _ in _NESTED:
        content = next((content[key] for key in _NESTED if isinstance(content.get(key), Mapping)), content)
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    state = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if len(state) < len(tensors):
        doubled = sorted(name for name in state if name in tensors and f"module.{name}" in tensors)
        raise ModelFileError(f"expected every tensor once, got {listed(doubled)} with and without module. in front")
    if not state:
        raise ModelFileError(
            f"expected a state dict of tensors, got the keys {sorted(map(str, content))[:8]}; "
            f"tensors may also lie under {', '.join(_NESTED)}"
        )
    return state


def _rename(key: str, rules: Sequence[_Rule]) -> str | None:
    for pattern, name in rules:
        match = re.fullmatch(pattern, key)
        if match:
            return name(match)
    return None


def translate(content: Mapping[str, Any], *, variant: str, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Original tensors under our names.

    Args:
        content: A state dict of a port, possibly nested (``state_dict``, ``segmenter``, ``model``) or prefixed.
        variant: The network it belongs to. Of a multi-task network the heads of other tasks are left out.
        own: State dict of that network as built here; gives the names and shapes to fill.

    Returns:
        A complete state dict. Only ``num_batches_tracked`` may be missing from the original; it becomes 0.

    Raises:
        ModelFileError: A tensor is left over, missing, or of another shape; each is named.
    """
    if variant not in VARIANTS or VARIANTS[variant].encoder == "nasnetmobile":
        known = ", ".join(name for name, entry in VARIANTS.items() if entry.encoder != "nasnetmobile")
        raise ModelFileError(f"expected one of {known} for original weights, got {variant!r}")
    state = _unwrap(content)
    if VARIANTS[variant].options.depthwise_end:
        left_out = [name for name in state if _OTHER_TASKS.fullmatch(name)]
        if left_out:
            warn(f"{len(left_out)} tensors of other tasks are left out: {listed(left_out)}")
        state = {name: tensor for name, tensor in state.items() if name not in left_out}
    return _fill(state, _rules_of(VARIANTS[variant], state), own, variant)


def _fill(
    state: Mapping[str, Tensor], rules: Sequence[_Rule], own: Mapping[str, Tensor], what: str
) -> dict[str, Tensor]:
    """Every tensor of ``own`` from exactly one of ``state``, by the rules."""
    result: dict[str, Tensor] = {}
    unused = []
    for key, tensor in state.items():
        name = _rename(key, rules)
        if name is None or name not in own or name in result:
            unused.append(key)
        elif tensor.shape != own[name].shape:
            raise ModelFileError(
                f"expected {key} of shape {tuple(own[name].shape)} for {what}, got {tuple(tensor.shape)}; "
                "is it another variant or number of classes?"
            )
        else:
            result[name] = tensor
    missing = [name for name in own if name not in result and not name.endswith("num_batches_tracked")]
    if unused or missing:
        raise ModelFileError(
            f"expected every tensor of {what} exactly once; "
            f"left over: {listed(unused) if unused else 'none'}; missing: {listed(missing) if missing else 'none'}"
        )
    return {name: result.get(name, torch.zeros_like(tensor)) for name, tensor in own.items()}


def aligns_corners(content: Mapping[str, Any], variant: Variant) -> bool:
    """Whether the original enlarges with aligned corners; of multi-task networks those of DenseTorch do."""
    return variant.original_align_corners or any(name.startswith("1.stem_convs.") for name in _unwrap(content))


def original_num_classes(content: Mapping[str, Any]) -> int:
    """Number of classes of the original classifier.

    Raises:
        ModelFileError: There is none.
    """
    return _classifier(_unwrap(content)).numel()


def _classifier(state: Mapping[str, Tensor]) -> Tensor:
    for name in _CLASSIFIERS:
        if f"{name}.bias" in state:
            return state[f"{name}.bias"]
    raise ModelFileError(
        f"expected an original classifier ({', '.join(_CLASSIFIERS)}), got tensors such as {listed(sorted(state))}"
    )


def load_original_decoder(
    state_dict: Mapping[str, Any],
    groups: Sequence[int] | Sequence[Sequence[int]] = (1, 2, 3, 4),
    improved: bool = False,
    resize: str = "bilinear",
) -> Cascade:
    """The decoder of the authors' code alone, with the weights of a state dict under MatConvNet names.

    Numbers of pooling links and residual units, widths and classes are those of the tensors.

    Args:
        state_dict: Decoder tensors, ``p_ims1d2_outl1_dimred.weight`` to ``final_loss_conv.bias`` (or the port's).
        groups: The group of each encoder path, coarsest block 1, as in the authors' configuration; or for each group
            its paths: ``((1, 2, 4), (3, 5), (6,), (7,))`` is the 2-scale network of the paper.
        improved: Convolve then pool.
        resize: ``bilinear`` (aligned corners, as the port), ``matlab_gpu`` or ``matlab_cpu``.

    Returns:
        A module that maps the list of feature maps (N, C_p, H_p, W_p), in path order, to logits; in evaluation mode.

    Raises:
        ConfigError: Groups that do not fit the paths, or an unknown way to resize.
        ModelFileError: A tensor is left over, missing or of another shape; each is named.

    Source: the RefineNet authors' code; table 9 of the paper.
    """
    state = _unwrap(state_dict)
    heads = _heads_of(state)
    if not heads:
        raise ModelFileError(f"expected decoder tensors such as p_ims1d2_outl1_dimred, got {listed(sorted(state))}")
    paths = _path_groups(groups, len(heads))
    ranks = [int(head.split("outl")[1][0]) - 1 for head in heads]
    widths = dict(zip(ranks, (state[f"{head}.weight"].shape[0] for head in heads), strict=True))
    options = replace(
        REFINENET,
        level_widths=tuple(widths[rank] for rank in sorted(widths)),
        num_links=num_pooling_links(state),
        num_adaptation_units=_largest(state, r"adapt_(?:stage|input_path)\d_b(?:\.0\.)?(\d)_conv\..*"),
        num_output_units=_largest(state, r"mflow_conv_g\d_b(?:\.0\.)?(\d)_conv\..*"),
        pooling_order="conv_pool" if improved else "pool_conv",
    )
    modes: dict[str, Resize] = {"bilinear": "bilinear", "bilinear_ac": "bilinear"}
    modes |= {"matlab_gpu": "matlab_gpu", "matlab_cpu": "matlab_cpu"}
    if resize not in modes:
        raise ConfigError(f"expected resize of {', '.join(modes)}, got {resize!r}")
    cascade = Cascade(
        [state[f"{head}.weight"].shape[1] for head in heads],
        _classifier(state).numel(),
        groups=[[path - 1 for path in group] for group in paths],
        options=options,
        resizing=Resizing(modes[resize], align_corners=True),
        ranks=ranks,
    )
    rules = _cascade_rules(_places(paths), heads)
    has_improved = any("_pb" in name for name in state)
    if has_improved != improved:
        raise ModelFileError(
            f"expected the tensors of {'improved' if improved else 'original'} pooling, got those of the other kind; "
            f"say improved={has_improved}"
        )
    filled = _fill(state, rules, cascade.state_dict(), "the decoder")
    check_weights(filled, "the decoder's state dict")
    cascade.load_state_dict(filled)
    return cascade.eval()


def _largest(names: Iterable[str], pattern: str) -> int:
    """The largest number in the names that fit; 0 without any."""
    found = (re.fullmatch(pattern, name) for name in names)
    return max((int(match[1]) for match in found if match and match[1]), default=0)


def _path_groups(groups: Sequence[Any], num_paths: int) -> list[list[int]]:
    """Paths (from 1) of each group, from either way to write them."""
    if all(isinstance(group, Integral) for group in groups):
        paths = [[p for p, g in enumerate(groups, 1) if g == group] for group in sorted(set(groups))]
    else:
        paths = [[int(path) for path in group] for group in groups]
    if sorted(path for group in paths for path in group) != list(range(1, num_paths + 1)):
        raise ConfigError(f"expected every one of the {num_paths} encoder paths in one group, got {groups}")
    return paths
