"""Segmenters from original weights: the PyTorch ports' checkpoints and the authors' MatConvNet ``.mat`` models.

In: a state dict or a file. Out: a :class:`~refineseg.segmenter.Segmenter` with the preprocessing, the resizing and the
strides those weights were trained with. Every tensor is used exactly once, or the rest is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, ModelFileError
from refineseg.networks.families import Resize
from refineseg.networks.model_spec import ModelSpec
from refineseg.networks.variants import NetworkOptions, Variant, find_variant
from refineseg.networks.weight_files import check_weights, read_checkpoint
from refineseg.original.checkpoints import (
    aligns_corners,
    num_pooling_links,
    original_num_classes,
    path_groups_of,
    translate,
)
from refineseg.original.matconvnet import MatConvNetModel, encoder_state, read_matconvnet
from refineseg.preprocessing import Preprocessing
from refineseg.segmenter import Segmenter
from refineseg.terminal.printing import warn

_LICENCE = "non-commercial, as the original weights"
VOID = "void"
"""Name of the class that void is where an authors' model keeps it as an output."""

VOID_FIRST = ("sunrgbd", "ade20k")
"""Data sets whose label 0 is void, which the authors' models have as their first output; the others have it last."""

Void = Literal["drop", "keep"]


@dataclass(frozen=True)
class MatConvNetOptions:
    """How an authors' ``.mat`` model becomes a segmenter.

    Args:
        void: Whether the output of the void class, which never had a positive target but takes part in softmax and
            argmax, is dropped or kept as a class named ``void``.
        void_index: Its place among the outputs, from 0; None: what the file says, else the last (the authors' SUN RGB-D
            and ADE20K models have it first).
        resize: Way of enlarging feature maps: ``matlab_gpu`` as the authors ran it, ``matlab_cpu``, or ``bilinear``.
        input_scale: Enlargement of images in front of the network.

    Source: the RefineNet authors' code.
    """

    void: Void = "drop"
    void_index: int | None = None
    resize: Resize = "matlab_gpu"
    input_scale: float = 1.2


def load_original(
    weights: Mapping[str, Any] | str | Path,
    *,
    variant: str,
    num_classes: int | None = None,
    class_info: ClassInfo | None = None,
    matconvnet: MatConvNetOptions | None = None,
) -> Segmenter:
    """A segmenter from original weights, which computes what the original network did.

    Args:
        weights: A state dict with the ports' tensor names; a ``.pth`` / ``.pth.tar`` / ``.ckpt`` file; or an authors'
            ``.mat`` file (version 5 to 7.3).
        variant: Variant that they are of, for instance ``refinenet_lw_resnet50``. Of a ``.mat`` file the order and
            number of pooling links are what its tensors say.
        num_classes: Expected number of classes without void; by default what the classifier has.
        class_info: Names and colours of the classes, instead of ``num_classes``.
        matconvnet: Options of a ``.mat`` file: its void class, resizing and enlargement.

    Raises:
        ModelFileError: A tensor is left over, missing, of another shape or not finite, or the file is no plain
            checkpoint.
        ConfigError: No such variant, options that contradict each other, or weights of another type.
        MissingExtraError: A ``.mat`` file of version 7.3 without the package h5py.
    """
    entry = find_variant(variant)
    if class_info is not None and num_classes not in (None, class_info.num_classes):
        raise ConfigError(f"expected num_classes to fit class_info ({class_info.num_classes}), got {num_classes}")
    if class_info is None and num_classes is not None:
        class_info = ClassInfo.generic(num_classes)
    if isinstance(weights, str | Path) and Path(weights).suffix.lower() == ".mat":
        model = read_matconvnet(Path(weights))
        return _from_matconvnet(model, variant, entry, class_info, matconvnet or MatConvNetOptions())
    if matconvnet is not None:
        raise ConfigError("expected MatConvNet options with a .mat file only, got them with a PyTorch checkpoint")
    if not isinstance(weights, str | Path | Mapping):
        raise ConfigError(
            f"expected a state dict or the path of a file of original weights, got {type(weights).__name__}; of a "
            "network give network.state_dict()"
        )
    content = read_checkpoint(Path(weights)) if isinstance(weights, str | Path) else weights
    found = original_num_classes(content)
    if class_info is not None and class_info.num_classes != found:
        raise ModelFileError(f"expected {class_info.num_classes} classes, got original weights with {found}")
    spec = ModelSpec(
        variant,
        class_info or ClassInfo.generic(found),
        Preprocessing.imagenet(),
        NetworkOptions(align_corners=aligns_corners(content, entry), padded=False),
        {"origin": "original PyTorch port"},
        _LICENCE,
    )
    return _filled(spec, content, "the original weights" if isinstance(weights, Mapping) else weights)


def _from_matconvnet(
    model: MatConvNetModel, variant: str, entry: Variant, class_info: ClassInfo | None, options: MatConvNetOptions
) -> Segmenter:
    state = _under_port_names(model, variant, entry)
    class_info = _classes(model, class_info, options, state)
    spec = ModelSpec(
        variant,
        class_info,
        # a two-scale network enlarges the images itself
        Preprocessing.matconvnet(input_scale=1.0 if entry.two_scale else options.input_scale),
        NetworkOptions(
            align_corners=True,
            resize=options.resize,
            padded=False,
            num_links=num_pooling_links(state),
            pooling_order="conv_pool" if model.improved_pooling else "pool_conv",
            caffe_strides=model.stride_on != "conv2",  # not told: as the authors' encoders
        ),
        {"origin": "original MatConvNet model"},
        _LICENCE,
    )
    return _filled(spec, state, "the .mat file")


def _filled(spec: ModelSpec, content: Mapping[str, Any], source: object) -> Segmenter:
    segmenter = Segmenter(spec)
    state = translate(content, variant=spec.variant, own=segmenter.network.state_dict())
    check_weights(state, source)
    segmenter.network.load_state_dict(state)
    return segmenter


def _under_port_names(model: MatConvNetModel, variant: str, entry: Variant) -> dict[str, Tensor]:
    """All tensors: encoders under torchvision's names, the decoder under MatConvNet's."""
    if model.classifier is None or model.num_classes is None:
        raise ModelFileError("expected a RefineNet in the .mat file, got a network without a decoder and classifier")
    wanted = entry.encoder.removeprefix("resnet").partition(".")[0]
    depths = [str(depth) for depth in model.encoder_depths.values()]
    if depths != [wanted] * (2 if entry.two_scale else 1):
        raise ModelFileError(
            f"expected {'two encoders' if entry.two_scale else 'one encoder'} ResNet-{wanted} for {variant}, got "
            f"{', '.join(f'ResNet-{depth}' for depth in depths) or 'none'}; name the variant of the file"
        )
    paths = path_groups_of(entry)
    if model.groups is not None and tuple(tuple(sorted(group)) for group in model.groups) != paths:
        raise ModelFileError(
            f"expected encoder paths {paths} in the blocks of {variant}, got {model.groups}; name the file's variant"
        )
    state: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = dict(model.tensors)
    names = ("small.", "large.") if entry.two_scale else ("",)  # the authors list the small scale first
    for (prefix, depth), name in zip(model.encoder_depths.items(), names, strict=True):
        encoder, rest = encoder_state(rest, depth, prefix=prefix)
        state |= {name + key: tensor for key, tensor in encoder.items()}
    classifier = model.classifier
    for key, tensor in rest.items():
        layer, _, leaf = key.rpartition(".")
        state[f"final_loss_conv.{leaf}" if layer == classifier else key] = tensor
    return state


def _classes(
    model: MatConvNetModel, class_info: ClassInfo | None, options: MatConvNetOptions, state: dict[str, Tensor]
) -> ClassInfo:
    """The classes of the result; drops the void output from the classifier in ``state`` where that was asked for."""
    outputs = state["final_loss_conv.weight"].shape[0]
    stored = [name.lower() for name in model.class_names]
    index = options.void_index
    if index is None and len(stored) == outputs and VOID in stored:
        index = stored.index(VOID)
    if class_info is None and index is None:
        return _named(model, outputs)
    num_classes = outputs - 1 if class_info is None else class_info.num_classes
    if num_classes == outputs and options.void_index is None:
        assert class_info is not None
        return class_info
    if num_classes + 1 != outputs:
        raise ModelFileError(
            f"expected {num_classes} classes, or one more for void, got a classifier of {outputs} outputs; "
            "name the classes of the model"
        )
    index = outputs - 1 if index is None else index
    if not 0 <= index < outputs:
        raise ConfigError(f"expected void_index within the {outputs} outputs, got {index}")
    rest = [i for i in range(outputs) if i != index]
    if class_info is None:
        named = _named(model, outputs)
        class_info = ClassInfo(tuple(named.names[i] for i in rest), ignore_index=named.ignore_index)
    if options.void == "keep":
        names, palette = list(class_info.names), list(class_info.palette)
        names.insert(index, VOID)
        palette.insert(index, (0, 0, 0))
        return ClassInfo(tuple(names), tuple(palette), class_info.ignore_index)
    warn(f"the output of void (number {index + 1} of {outputs}) is dropped")
    for leaf in ("weight", "bias"):
        state[f"final_loss_conv.{leaf}"] = state[f"final_loss_conv.{leaf}"][torch.tensor(rest)]
    return class_info


def _named(model: MatConvNetModel, outputs: int) -> ClassInfo:
    names = model.class_names
    if len(names) == outputs and len(set(names)) == outputs:
        return replace(ClassInfo.generic(outputs), names=tuple(names))
    return ClassInfo.generic(outputs)
