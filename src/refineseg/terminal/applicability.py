"""Which option of which verb has an effect when: one table, so that none is silently ignored.

In: the options that a call names, and all values. Out: nothing, or the error that says where an option belongs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refineseg.errors import ConfigError

Call = Mapping[str, Any]
"""Every parameter of a verb by its Python name, and its value."""


@dataclass(frozen=True)
class Rule:
    """Options that only some calls have a use for.

    Args:
        options: Python names of the parameters.
        where: Completes "expected --option only ...".
        applies: Whether a call has a use for them.
    """

    options: tuple[str, ...]
    where: str
    applies: Callable[[Call], bool]


def _saves(*kinds: str) -> Callable[[Call], bool]:
    return lambda call: bool(set(kinds) & {word.strip() for word in str(call["save"]).split(",")})


def _is_plain(call: Call) -> bool:
    return call["scales"] == "1" and not call["flip"] and not call["crf"] and call["protocol"] == "light_weight"


def _may_cut(call: Call) -> bool:
    exported = str(call["model"]).lower().endswith((".onnx", ".xml", ".pt2"))
    return call["tile"] == "off" or (call["backend"] in (None, "torch", "auto") and not exported)


def is_batch(call: Call) -> bool:
    """Whether a call of ``predict`` keeps a manifest: it names an engine, an audit, a bucket, or a part of a folder."""
    inputs = call["inputs"] if isinstance(call["inputs"], list | tuple) else [call["inputs"]]
    places = ",".join(map(str, (*inputs, call["out"])))
    part = call["part"] and not (len(inputs) == 1 and Path(str(inputs[0])).is_file())  # a raster has parts, too
    return bool(call["engine"] or part or call["audit"]) or bool(re.search(r"(^|,)(s3a?|gs|gcs)://", places))


def _bench(*modes: str) -> Callable[[Call], bool]:
    def measured(call: Call) -> str:
        named = (name for name in ("folder", "training", "counts", "papers") if call[name])
        return next(named, "model")

    return lambda call: measured(call) in modes


RULES: dict[str, tuple[Rule, ...]] = {
    "predict": (
        Rule(("probability_format",), "with --save probabilities", _saves("probabilities")),
        Rule(("legend",), "with --save overlay", _saves("overlay")),
        Rule(("confidence_format",), "with --save confidence", _saves("confidence")),
        Rule(("polygon_format", "simplify", "smallest_area"), "with --save polygons", _saves("polygons")),
        Rule(("classes",), "with --save probabilities or polygons", _saves("probabilities", "polygons")),
        Rule(("overlap",), "with --tile-mode blend: exact tiles have none", lambda call: call["tile_mode"] == "blend"),
        Rule(("memory", "tile_mode", "overlap"), "without --tile off", lambda call: call["tile"] != "off"),
        Rule(
            ("memory", "tile_mode", "overlap"),
            "without --scales, --flip, --crf and --protocol, which need the whole image",
            _is_plain,
        ),
        Rule(
            ("tile",),
            "as auto or off with --scales, --flip, --crf or --protocol, which need the whole image",
            lambda call: call["tile"] in ("auto", "off") or _is_plain(call),
        ),
        Rule(
            ("tile", "memory", "tile_mode", "overlap"),
            "with --backend torch or auto and a model file: other runtimes see the whole image",
            _may_cut,
        ),
        Rule(
            ("prove",),
            "with --tile-mode exact, because blended tiles differ from the whole image",
            lambda call: call["tile_mode"] == "exact",
        ),
        Rule(("address",), "with --engine ray", lambda call: call["engine"] == "ray"),
        Rule(("threads", "retry_failed"), "with --engine, --part or a bucket", is_batch),
        Rule(
            ("areas", "resume", "prove", "overviews", "smooth", "frame_rate", "seconds", "live"),
            "without --engine, --part, --audit and buckets, where images alone are predicted, always go on, and areas "
            "are in the manifest",
            lambda call: not is_batch(call),
        ),
        Rule(("percentiles",), "without --value-range, which says the same", lambda call: call["value_range"] is None),
    ),
    "export": (
        Rule(
            ("calibrate_split", "images", "calibrate_agreement"),
            "with --calibrate",
            lambda call: call["calibrate"] is not None,
        ),
        Rule(("split", "agreement", "drift"), "with --accept", lambda call: call["accept"] is not None),
        Rule(
            ("file_format", "outputs", "size", "precision", "calibrate"),
            "without --check, which exports nothing",
            lambda call: not call["check"],
        ),
    ),
    "bench": (
        Rule(("model",), "without --papers, --counts and --training", _bench("model", "folder")),
        Rule(("size", "stages"), "without --counts and --training", _bench("model", "papers", "folder")),
        Rule(("device", "repeats"), "without --counts, which times nothing", lambda call: not call["counts"]),
        Rule(("precision", "backend"), "without --papers, --counts and --training", _bench("model", "folder")),
        Rule(("batch_size",), "without --papers, --counts and --training", _bench("model", "folder")),
        Rule(("data", "workers", "settings"), "with --training", _bench("training")),
    ),
}
"""Verb -> its rules. Options without a rule always have an effect, or are refused where they are used, with a reason of
their own: an enlargement by its protocol, options of ``bench --folder`` and ``--write`` by the verb."""

FOR_INPUTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("bands", "percentiles", "value_range", "nodata", "overviews"), ("images",)),
    **dict.fromkeys(("unknown_below", "batch_size", "workers", "prove", "resume"), ("images",)),
    **dict.fromkeys(("smooth", "seconds", "live"), ("videos", "image sequences")),
    "frame_rate": ("image sequences",),
}
"""Option of ``predict`` -> kinds of inputs that it is for; ``images`` are rasters too."""


def check_options(verb: str, given: Mapping[str, str], call: Call) -> None:
    """Refuse options that a call names and has no use for.

    Args:
        verb: Name of the verb.
        given: Options that the call names: Python name -> as it is written on the command line.
        call: All values.

    Raises:
        ConfigError: There are some.

    Example:
        >>> check_options("export", {"drift": "--drift"}, {"accept": None})
        Traceback (most recent call last):
        ...
        refineseg.errors.ConfigError: expected --drift only with --accept, got it in another call; leave it out
    """
    for rule in RULES.get(verb, ()):
        useless = [given[name] for name in rule.options if name in given]
        if useless and not rule.applies(call):
            what = "it" if len(useless) == 1 else "them"
            raise ConfigError(
                f"expected {', '.join(useless)} only {rule.where}, got {what} in another call; leave {what} out"
            )


def check_inputs(given: Collection[str], kinds: Collection[str]) -> None:
    """Refuse options of ``predict`` that none of its inputs has a use for.

    Args:
        given: Python names of the options that the call names.
        kinds: Kinds of the inputs: images, videos, image sequences.

    Raises:
        ConfigError: There are some.
    """
    for name, wanted in FOR_INPUTS.items():
        if name in given and kinds and not set(wanted) & set(kinds):
            raise ConfigError(
                f"expected --{name.replace('_', '-')} with {' or '.join(wanted)} among the inputs, got "
                f"{', '.join(sorted(kinds))} only; leave it out"
            )
