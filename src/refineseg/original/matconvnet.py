"""MatConvNet networks in ``.mat`` files: RefineNet as its authors published it, and plain DagNN files (ImageNet).

In: a file. Out: its tensors in PyTorch's axis order under MatConvNet's layer names, and what its layers tell; the
tensors of a ResNet under the names of torchvision and timm.

Sources: MatConvNet (``vl_nnconv``, ``vl_nnbnorm``, its import of Caffe models) and the authors' code, read for the
names and shapes they write.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from refineseg.errors import ModelFileError
from refineseg.files.mat_nodes import MatNumbers
from refineseg.original.mat_files import open_mat
from refineseg.original.matconvnet_search import MatConvNetLayer, Network, find_networks, listed

NORM_EPSILON = 1e-5
"""Of the batch normalisations here. MatConvNet divides by the sigma it stores, whatever its own epsilon was."""
STAGES = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Residual blocks of the four stages (He et al. 2016, table 1)."""
_NORM_LEAVES = ("weight", "bias", "running_mean", "running_var")
_MAX_TOTAL = 2**29
"""Values of a file: the 2-scale network with ResNet-152 has 2e8."""


@dataclass(frozen=True)
class MatConvNetModel:
    """A file's networks as one.

    Where several networks have layers of the same names (two encoders), those networks' names stand in front:
    ``inputpath_1.conv1``.

    Args:
        tensors: float32, by ``<layer>.weight``, ``.bias``, ``.running_mean``, ``.running_var``; filters are
            (out, in, height, width).
        layers: What the layers tell, by name.
        encoder_depths: 50, 101 or 152 for each ResNet, by the prefix of its tensors ("" or ``inputpath_1.``).
        stride_on: Where the stages of the encoders stride: ``conv1`` (the first 1x1, as the authors' do), ``conv2``
            (the 3x3), None where the layers do not tell.
        improved_pooling: Whether chained residual pooling convolves before it pools; None without a decoder.
        groups: Numbers (from 1) of the encoder paths that enter each RefineNet block, coarsest block first; None where
            the layers do not tell.
        classifier: The layer of the classes, None where the file has none (a plain ImageNet network).
        num_classes: Its outputs; a void class is among them where the authors' class list has one.
        class_names: As stored, empty where they are not (the authors' published files keep them elsewhere).
    """

    tensors: dict[str, Tensor]
    layers: dict[str, MatConvNetLayer]
    encoder_depths: dict[str, int]
    stride_on: str | None
    improved_pooling: bool | None
    groups: tuple[tuple[int, ...], ...] | None
    classifier: str | None
    num_classes: int | None
    class_names: tuple[str, ...]


def read_matconvnet(path: Path) -> MatConvNetModel:
    """Every parameter of the networks in a file, each exactly once.

    Tensors are read one by one into float32. Batch normalisation is converted for an epsilon of :data:`NORM_EPSILON`.

    Raises:
        ModelFileError: Not a MATLAB file, damaged, without a network, or with a parameter or layer that is not
            understood; each is named.
        MissingExtraError: A 7.3 file without the package h5py.
    """
    with open_mat(path) as opened:
        networks, class_names = find_networks(opened, path)
        prefixes = _prefixes(networks, path)
        tensors: dict[str, Tensor] = {}
        layers: dict[str, MatConvNetLayer] = {}
        total, classifier = 0, None
        for network, prefix in zip(networks, prefixes, strict=True):
            layers.update({prefix + name: layer for name, layer in network.layers.items()})
            for layer_name, role, label, node in network.params:
                total += math.prod(node.shape)
                if total > _MAX_TOTAL:
                    raise ModelFileError(f"expected at most {_MAX_TOTAL:,} values, got more in {path}; split the file")
                for leaf, tensor in _tensors(role, node, f"{label} in {path}"):
                    key = f"{prefix}{layer_name}.{leaf}"
                    if key in tensors:
                        raise ModelFileError(f"expected every parameter once, got {label} as a second {key} in {path}")
                    tensors[key] = tensor
            classifier = prefix + network.classifier if network.classifier else classifier
    _check_shapes(tensors, path)
    depths = _encoder_depths(tensors, path)
    return MatConvNetModel(
        tensors,
        layers,
        depths,
        _stride_on(layers, depths, path),
        _improved_pooling(tensors, layers, path),
        _groups(layers),
        classifier,
        len(tensors[f"{classifier}.weight"]) if classifier else None,
        class_names,
    )


def _prefixes(networks: list[Network], path: Path) -> list[str]:
    """What to put in front of each network's names so that no name comes twice."""
    owned = [{(layer, role) for layer, role, _, _ in network.params} for network in networks]
    shared = [any(own & other for j, other in enumerate(owned) if j != i) for i, own in enumerate(owned)]
    named = collections.Counter(network.name for network, own in zip(networks, shared, strict=True) if own)
    if any(count > 1 or not name for name, count in named.items()):
        raise ModelFileError(
            f"expected every parameter once, got several networks with the same ones in {path}, "
            f"named {', '.join(map(repr, named))}; save one network"
        )
    return [f"{network.name}." if own else "" for network, own in zip(networks, shared, strict=True)]


def _tensors(role: str, node: MatNumbers, label: str) -> Iterator[tuple[str, Tensor]]:
    """A parameter's tensors by their last name."""
    values = node.read()
    if role == "filter":
        axes = values.shape + (1,) * (4 - values.ndim)  # MATLAB drops trailing axes of size 1
        if math.prod(axes[4:]) != 1:
            raise ModelFileError(f"expected a filter of four axes, got {label} of shape {values.shape}")
        yield "weight", _float32(values.reshape(axes[:4], order="F").transpose(3, 2, 0, 1), label)
    elif role == "moments":
        if values.ndim != 2 or values.shape[1] != 2:
            raise ModelFileError(f"expected means and sigmas in two columns, got {label} of shape {values.shape}")
        yield "running_mean", _float32(values[:, 0], label)
        yield "running_var", _float32(_variance(values[:, 1].astype(np.float64), label), label)
    else:
        if max(values.shape, default=1) != values.size:
            raise ModelFileError(f"expected a vector, got {label} of shape {values.shape}")
        yield ("weight" if role == "mult" else "bias"), _float32(values.reshape(-1, order="F"), label)


def _variance(sigma: np.ndarray, label: str) -> np.ndarray:
    """The variances v with sqrt(v + NORM_EPSILON) = sigma."""
    variance = sigma**2 - NORM_EPSILON
    rounding = 1e-5 * NORM_EPSILON  # of a float32 sigma of a channel that is constant
    if not np.all(np.isfinite(sigma)) or sigma.min() <= 0 or variance.min() < -rounding:
        raise ModelFileError(
            f"expected sigmas of at least the root of {NORM_EPSILON}, got {sigma.min():.6g} for {label}; "
            "fetch or save the file again"
        )
    return np.maximum(variance, 0)


def _float32(values: np.ndarray, label: str) -> Tensor:
    with np.errstate(over="ignore"):  # what is too large for float32 is refused below
        copied = np.array(values, np.float32, order="C")  # a copy: the file's own bytes are read-only
    if not np.isfinite(copied).all():
        raise ModelFileError(f"expected finite values, got NaN or infinity in {label}; fetch or save the file again")
    return torch.from_numpy(copied)


def _check_shapes(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Every layer is complete and of one width."""
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, leaf = key.rpartition(".")
        layers.setdefault(name, {})[leaf] = tensor
    for name, parts in layers.items():
        norm = "running_mean" in parts or ("weight" in parts and parts["weight"].ndim == 1)
        wanted = set(_NORM_LEAVES) if norm else {"weight"}
        if not wanted <= parts.keys():
            raise ModelFileError(f"expected {listed(sorted(wanted))} of {name}, got {listed(parts)} in {path}")
        if norm and parts["weight"].ndim != 1:
            raise ModelFileError(f"expected {name} to be one layer, got a filter and moments in {path}")
        if len({len(tensor) for tensor in parts.values()}) > 1:
            sizes = ", ".join(f"{leaf} {tuple(tensor.shape)}" for leaf, tensor in parts.items())
            raise ModelFileError(f"expected one width in {name}, got {sizes} in {path}")


def _encoder_depths(tensors: Mapping[str, Tensor], path: Path) -> dict[str, int]:
    blocks: dict[str, collections.Counter[int]] = {}
    for key in tensors:
        match = re.fullmatch(r"(.*?)res([2-5])[a-z]\d*_branch2a\.weight", key)
        if match:
            blocks.setdefault(match[1], collections.Counter())[int(match[2])] += 1
    depths = {}
    for prefix, counted in blocks.items():
        counts = tuple(counted[stage] for stage in (2, 3, 4, 5))
        depth = next((depth for depth, stages in STAGES.items() if stages == counts), None)
        if depth is None:
            raise ModelFileError(
                f"expected a ResNet of depth {', '.join(map(str, STAGES))}, got {counts} residual blocks in {path}"
            )
        depths[prefix] = depth
    return depths


def _stride_on(layers: Mapping[str, MatConvNetLayer], depths: Mapping[str, int], path: Path) -> str | None:
    """The convolution of a block that strides, the same one in all stages 3 to 5 of all encoders."""
    found = set()
    for prefix in depths:
        for stage in (3, 4, 5):
            block = [layers.get(f"{prefix}res{stage}a_{branch}") for branch in ("branch2a", "branch2b", "branch1")]
            strides = tuple(layer.stride_hw if layer else None for layer in block)
            if strides == ((2, 2), (1, 1), (2, 2)):
                found.add("conv1")
            elif strides == ((1, 1), (2, 2), (2, 2)):
                found.add("conv2")
            elif any(strides):
                found.add(f"{strides} in stage {stage}")
    if found - {"conv1", "conv2"} or len(found) > 1:
        raise ModelFileError(
            "expected stages 3 to 5 of the ResNet to stride by 2 in the first or in the second convolution of their "
            f"first block, got {listed(sorted(found))} in {path}; refineseg has no such encoder"
        )
    return found.pop() if found else None


def _improved_pooling(tensors: Mapping[str, Tensor], layers: Mapping[str, MatConvNetLayer], path: Path) -> bool | None:
    """Told from the names of the convolutions, which are made of the name of what they read."""
    original = any(re.search(r"mflow_conv_g\d+_pool\d+_outvar_dimred\.weight$", key) for key in tensors)
    improved = any(re.search(r"mflow_conv_g\d+_pool\w+_pb\d+\.weight$", key) for key in tensors)
    if original and improved:
        raise ModelFileError(f"expected one order of pooling and convolution, got both in {path}; save it again")
    for name, layer in layers.items():
        size = (layer.window_hw, layer.stride_hw, layer.padding)
        if re.search(r"mflow_conv_g\d+_pool\d+$", name) and size != ((5, 5), (1, 1), (2, 2, 2, 2)) and any(size):
            raise ModelFileError(
                f"expected pooling over 5x5 with stride 1 and padding 2, got {name} with {size} in {path}; "
                "refineseg has no such decoder"
            )
    return improved if original or improved else None


def _groups(layers: Mapping[str, MatConvNetLayer]) -> tuple[tuple[int, ...], ...] | None:
    """Encoder paths by block: those a block's sum reads, or its first rectifier where there is nothing to sum."""
    blocks: dict[int, tuple[int, ...]] = {}
    for name, layer in layers.items():
        match = re.search(r"mflow_(?:joint_g(\d+)|conv_g(\d+)_poolprev_relu)$", name)
        if match:
            sources = (re.match(r"adapt_(?:stage|input_path)(\d+)_", variable) for variable in layer.inputs)
            paths = tuple(int(source[1]) for source in sources if source)
            number = int(match[1] or match[2])
            blocks[number] = blocks.get(number) or paths
    ordered = tuple(blocks[number] for number in sorted(blocks))
    return ordered if ordered and all(ordered) else None


def _block_label(depth: int, stage: int, block: int) -> str:
    """Caffe's names of blocks 0, 1, .. of stage 2 to 5: a, b, c, ..; in the long stages of 101 and 152 a, b1, b2, .."""
    numbered = depth > 50 and stage in (3, 4)
    return "a" if block == 0 else f"b{block}" if numbered else chr(ord("a") + block)


def _encoder_layers(depth: int) -> Iterator[tuple[str, str, str, str]]:
    """(convolution, normalisation) as MatConvNet calls them, and the same here."""
    yield "conv1", "bn_conv1", "conv1", "bn1"
    for stage, count in zip((2, 3, 4, 5), STAGES[depth], strict=True):
        for block in range(count):
            theirs, ours = f"{stage}{_block_label(depth, stage, block)}", f"layer{stage - 1}.{block}"
            for i, letter in enumerate("abc", start=1):
                branch = f"{theirs}_branch2{letter}"
                yield f"res{branch}", f"bn{branch}", f"{ours}.conv{i}", f"{ours}.bn{i}"
            if block == 0:
                yield f"res{theirs}_branch1", f"bn{theirs}_branch1", f"{ours}.downsample.0", f"{ours}.downsample.1"


def encoder_state(
    tensors: Mapping[str, Tensor], depth: int, *, prefix: str = ""
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A ResNet's tensors under the names of torchvision and timm, and everything that is not of it.

    A convolution with a bias (conv1 of Caffe's ResNet-50) hands it to the normalisation behind it, which subtracts it
    from its mean: the function stays the same.

    Args:
        tensors: Tensors from :func:`read_matconvnet`.
        depth: 50, 101 or 152.
        prefix: What stands in front of the encoder's names, a key of ``MatConvNetModel.encoder_depths``.

    Returns:
        The encoder (``conv1.weight``, ``bn1.weight``, .. ``layer4.2.bn3.running_var``; no ``num_batches_tracked``), and
        the remaining tensors under their own names.

    Raises:
        ModelFileError: Another depth, or tensors that are missing or left over.
    """
    if depth not in STAGES:
        raise ModelFileError(f"expected a ResNet of depth {', '.join(map(str, STAGES))}, got {depth}; name one of them")
    rest = dict(tensors)
    encoder: dict[str, Tensor] = {}
    missing = []
    for conv, norm, our_conv, our_norm in _encoder_layers(depth):
        weight, bias = rest.pop(f"{prefix}{conv}.weight", None), rest.pop(f"{prefix}{conv}.bias", None)
        parts = {leaf: rest.pop(f"{prefix}{norm}.{leaf}", None) for leaf in _NORM_LEAVES}
        missing += [f"{prefix}{conv}.weight"] if weight is None else []
        missing += [f"{prefix}{norm}.{leaf}" for leaf, part in parts.items() if part is None]
        if weight is None or missing:
            continue
        encoder[f"{our_conv}.weight"] = weight
        for leaf, part in parts.items():
            assert part is not None
            encoder[f"{our_norm}.{leaf}"] = part - bias if bias is not None and leaf == "running_mean" else part
    left = [key for key in rest if key.startswith(prefix) and re.match(r"(res|bn)\d|bn_conv1", key[len(prefix) :])]
    if missing or left:
        raise ModelFileError(
            f"expected every tensor of {prefix}ResNet-{depth} exactly once; missing: {listed(missing) or 'none'}; "
            f"left over: {listed(left) or 'none'}; is it another depth?"
        )
    return encoder, rest
