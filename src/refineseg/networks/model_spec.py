"""Everything about a model that is not a tensor, and the JSON that carries it in every kind of model file.

In: a variant, classes, preprocessing, provenance, licence. Out: :class:`ModelSpec`, and the JSON of a file's header,
which may come from anyone: it is bounded and checked before anything is built from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from refineseg._version import __version__
from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, ModelFileError
from refineseg.networks.variants import NetworkOptions
from refineseg.preprocessing import Preprocessing

FORMAT = 1
MOST_HEADER = 8 << 20
"""Characters of the JSON in a file's header: tens of thousands of classes."""


@dataclass(frozen=True)
class ModelSpec:
    """Everything about a model that is not a tensor.

    Args:
        variant: Network name, see ``refineseg.VARIANTS``.
        class_info: The classes of the logits.
        preprocessing: Normalisation the weights were trained with.
        options: What the weights ask of the network.
        provenance: Where the weights come from: version, recipe, data, metrics, seed.
        licence: Licence of the weights.

    Raises:
        ConfigError: Encoder options or a provenance that JSON cannot hold, so that no model file could.
    """

    variant: str
    class_info: ClassInfo
    preprocessing: Preprocessing
    options: NetworkOptions = field(default_factory=NetworkOptions)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""

    def __post_init__(self) -> None:
        # through JSON, so that a model is the same before and after its file
        encoder_options = _plain("encoder_options", self.options.encoder_options)
        object.__setattr__(self, "options", replace(self.options, encoder_options=encoder_options))
        object.__setattr__(self, "provenance", _plain("provenance", self.provenance))

    @property
    def resizes(self) -> bool:
        """Whether images are resized in front of the network, or features as the RefineNet authors' code does."""
        return self.preprocessing.input_scale != 1 or self.options.resize != "bilinear"

    def to_json(self) -> dict[str, Any]:
        """The header of a model file."""
        return {
            "format": FORMAT,
            "variant": self.variant,
            "class_info": self.class_info.to_json(),
            "preprocessing": self.preprocessing.to_json(),
            "network": asdict(self.options),
            "provenance": {"version": __version__, **self.provenance},
            "licence": self.licence,
        }

    @classmethod
    def from_json(cls, header: Mapping[str, Any]) -> ModelSpec:
        """From the header of a model file.

        Raises:
            ModelFileError: Another format, or a field is missing or wrong.
        """
        if header.get("format") != FORMAT:
            raise ModelFileError(
                f"expected model file format {FORMAT}, got {header.get('format')!r}; "
                "it was written by another version of refineseg, use that one"
            )
        try:
            network, variant, licence = header["network"], header["variant"], header["licence"]
            if not isinstance(variant, str) or not isinstance(licence, str):
                raise TypeError(f"variant {variant!r} and licence {licence!r} must be strings")
            return cls(
                variant=variant,
                class_info=ClassInfo.from_json(header["class_info"]),
                preprocessing=Preprocessing.from_json(header["preprocessing"]),
                options=NetworkOptions(**network),
                provenance=header["provenance"],
                licence=licence,
            )
        except (KeyError, TypeError, ValueError, ArithmeticError, ConfigError) as error:
            raise ModelFileError(f"expected a complete header, but {error!r:.300} is missing or wrong in it") from error


def _plain(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(value)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"expected JSON values in {name}, got {value!r} ({error})") from error
    return plain


def read_json(text: str, source: object) -> dict[str, Any]:
    """The fields of a model from the JSON in a file's header.

    Raises:
        ModelFileError: It is longer than :data:`MOST_HEADER`, no JSON, nested without end, or no object.
    """
    if len(text) > MOST_HEADER:
        raise ModelFileError(f"expected at most {MOST_HEADER} characters in the header of {source}, got {len(text)}")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"expected JSON in the header of {source}, got {error}") from error
    if not isinstance(header, dict):
        raise ModelFileError(f"expected the fields of a model in the header of {source}, got {header!r:.80}")
    return header
