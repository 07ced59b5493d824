"""A teacher: a trained model whose distribution over the classes a smaller one learns beside the masks.

In: a model file. Out: a frozen :class:`~refineseg.segmenter.Segmenter` of the same classes. The divergence is
:func:`refineseg.training.losses.divergence`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError
from refineseg.networks.model_spec import ModelSpec
from refineseg.segmenter import Segmenter, load, load_spec


def check_teacher(name: str, class_info: ClassInfo, *, input_scale: float | None = None) -> ModelSpec:
    """What a teacher's file says of itself, without building the model.

    Args:
        name: A shipped name or a model file.
        class_info: The classes of the masks.
        input_scale: Factor by which the student resizes images; below 1 it must be the teacher's, too, because both
            see images that are reduced already.

    Raises:
        ConfigError: The teacher's classes are others, or in another order, or it sees images at another scale.
        ModelFileError: There is no such model, or its file is damaged.
    """
    spec = load_spec(name)
    own, wanted = spec.class_info.names, class_info.names
    if own != wanted:
        missing, unknown = [c for c in wanted if c not in own], [c for c in own if c not in wanted]
        told = "the same in another order" if not missing and not unknown else f"not {missing}, but {unknown}"
        raise ConfigError(
            f"expected a teacher of the classes {', '.join(wanted)}, got {name} with {told}; "
            "train the teacher on the same data set, or leave teacher out"
        )
    own_scale = spec.preprocessing.input_scale
    if input_scale is not None and input_scale < 1 and own_scale != input_scale:
        raise ConfigError(
            f"expected a teacher that sees images at {input_scale:g} of their size, as the student does, got {name} "
            f"with {own_scale:g}; say --set input_scale={own_scale:g}, or leave teacher out"
        )
    return spec


def load_teacher(name: str, class_info: ClassInfo, *, device: torch.device) -> Segmenter:
    """A teacher on its device: frozen, in evaluation mode.

    Raises:
        ConfigError: Its classes are others, or in another order.
        ModelFileError: There is no such model, or its file is damaged.
    """
    check_teacher(name, class_info)
    return load(name).to(device).requires_grad_(requires_grad=False).eval()


def teacher_facts(spec: ModelSpec, name: str) -> Mapping[str, Any]:
    """What the model file of a student says of its teacher."""
    kept = ("recipe", "data", "epochs", "seed", "started_from", "metrics")
    return {"model": name, "variant": spec.variant, **{k: v for k, v in spec.provenance.items() if k in kept}}


def teacher_logits(
    teacher: Segmenter, images: UInt8[Tensor, "n c h w"], *, at_output_resolution: bool, resized_already: bool = False
) -> Float[Tensor, "n k h2 w2"]:
    """What a teacher says of the student's own pixels; nothing is kept for a gradient."""
    with torch.no_grad():
        score = teacher.output_logits if at_output_resolution else teacher
        logits: Tensor = score(images, resized_already=resized_already)
        return logits
