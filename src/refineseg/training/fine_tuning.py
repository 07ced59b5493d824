"""A run that starts from another model: which of its weights a new network takes over.

In: the model, the classes and the variant that are wanted. Out: a segmenter, and a line about what was made anew.
"""

from __future__ import annotations

from dataclasses import replace

from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError
from refineseg.networks.variants import find_variant
from refineseg.segmenter import Segmenter, load_spec
from refineseg.training.progress import Progress


def check_variant(init: str, variant: str | None) -> None:
    """Whether a variant can take over the weights of a model: both must have the same encoder.

    Args:
        init: The model: a shipped name or a file.
        variant: The variant that is asked for; None: that of the model.

    Raises:
        ConfigError: It has another encoder.
        ModelFileError: There is no such model, or it is damaged.
    """
    if variant is None:
        return
    own = load_spec(init).variant
    if not fit(own, variant):
        raise ConfigError(
            f"expected a --variant on the encoder of --init {init} ({find_variant(own).encoder}, as {own} has it), got "
            f"{variant}, whose encoder is another; leave --variant out, or leave --init out"
        )


def fit(own: str, wanted: str) -> bool:
    """Whether two variants have the same encoder."""
    one, other = (
        (variant.encoder.partition(".")[0], dict(variant.encoder_options), variant.two_scale)
        for variant in (find_variant(own), find_variant(wanted))
    )
    return one == other


def fine_tune(source: Segmenter, class_info: ClassInfo, progress: Progress, *, variant: str | None = None) -> Segmenter:
    """A model of other classes, or of another variant on the same encoder, that starts from another model's weights.

    Tensors of equal names and shapes are taken over. Another variant has its own links of pooling. The classifier is
    kept where the classes are the same and made anew where they are not; everything not taken over is listed.
    """
    spec = replace(source.spec, class_info=class_info, provenance={})
    if variant not in (None, spec.variant):
        options = replace(spec.options, num_links=None, pooling_order=None)
        spec = replace(spec, variant=variant, options=options)
    segmenter = Segmenter(spec)
    old, new = source.network.state_dict(), segmenter.network.state_dict()
    same_classes = source.class_info.names == class_info.names
    taken = {
        name: tensor
        for name, tensor in old.items()
        if name in new
        and new[name].shape == tensor.shape
        and (same_classes or not name.startswith("decoder.classifier."))
    }
    segmenter.network.load_state_dict({**new, **taken})
    left = [name for name in new if name not in taken]
    progress.say(
        f"fine-tuning: {len(taken)} of {len(new)} tensors taken over; "
        + (f"not loaded, made anew: {', '.join(left)}" if left else "nothing is made anew, the classes are the same")
    )
    return segmenter
