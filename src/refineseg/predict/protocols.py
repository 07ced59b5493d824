"""How an image's probabilities are obtained: at which sizes the network sees it, and how its output is enlarged.

In: a name. Out: a frozen :class:`ScoringProtocol`. The two papers' codes differ here; a measured number is comparable
only with numbers of the same protocol, so evaluation writes it beside every number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from refineseg.errors import ConfigError

Enlarged = Literal["logits_bilinear", "logits_cubic", "log_probabilities_cubic"]

AUTHORS_SCALES = (0.4, 0.6, 0.8, 1.0, 1.2)
"""Scales of the RefineNet authors' multi-scale demonstrations, the same for all their data sets; single scale: 0.8."""

_MOST_SCALES = 16
_LARGEST_SCALE = 8.0


@dataclass(frozen=True)
class ScoringProtocol:
    """One way from an image to the probabilities of its pixels.

    Args:
        name: As in :data:`PROTOCOLS`.
        enlarged: What is brought to image size, and how: ``logits_bilinear`` and ``logits_cubic`` enlarge logits;
            ``log_probabilities_cubic`` is all of the authors' procedure, see :mod:`refineseg.predict.authors`.
        short_side: Images are resized until their shorter side, in pixels, lies in this range; None: own size.
        enlargement: Of the image in front of the network, on top of everything else; None: as the model says.

    Raises:
        ConfigError: An enlargement that is not above 0 and at most 8, or one where the model's holds.
    """

    name: str
    enlarged: Enlarged
    short_side: tuple[int, int] | None = None
    enlargement: float | None = None

    def __post_init__(self) -> None:
        if self.enlargement is None:
            return
        if not self.is_authors:
            raise ConfigError(
                f"expected an enlargement only with the authors' protocols, got {self.enlargement} with {self.name}, "
                "where the model's own holds"
            )
        if not 0 < self.enlargement <= _LARGEST_SCALE:
            raise ConfigError(
                f"expected an enlargement above 0 and at most {_LARGEST_SCALE:g}, got {self.enlargement}; "
                "the authors' is 1.2, and 1 does nothing"
            )

    @property
    def is_authors(self) -> bool:
        """Whether it is the RefineNet authors' procedure, which fuses scales in its own way and never flips."""
        return self.enlarged == "log_probabilities_cubic"

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "name": self.name,
            "enlarged": self.enlarged,
            "short_side": None if self.short_side is None else list(self.short_side),
            "enlargement": self.enlargement,
        }


PROTOCOLS: dict[str, ScoringProtocol] = {
    protocol.name: protocol
    for protocol in (
        ScoringProtocol("light_weight", "logits_bilinear"),
        ScoringProtocol("light_weight_v1", "logits_cubic"),
        ScoringProtocol("authors", "log_probabilities_cubic", short_side=(450, 800), enlargement=1.2),
        ScoringProtocol("authors_cityscapes", "log_probabilities_cubic", short_side=(600, 1100), enlargement=1.2),
    )
}
"""Every protocol by name.

* ``light_weight``: the whole image at its own size, logits enlarged bilinearly. Source: Light-Weight RefineNet, second
  version of the code.
* ``light_weight_v1``: the same with logits enlarged bicubically (a = -0.75, as OpenCV). Source: its first version.
* ``authors``: short side 450 to 800, enlargement 1.2, log-probabilities enlarged bicubically. Source: the multi-scale
  demonstrations of the RefineNet authors' code.
* ``authors_cityscapes``: the same with a short side of 600 to 1100.
"""

DEFAULT_PROTOCOL = "light_weight"


def find_protocol(name: str, *, enlargement: float | None = None) -> ScoringProtocol:
    """A protocol by name, with another enlargement where one is given.

    Raises:
        ConfigError: No such protocol, or an enlargement it does not take.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"expected a protocol of {', '.join(PROTOCOLS)}, got {name!r}")
    return PROTOCOLS[name] if enlargement is None else replace(PROTOCOLS[name], enlargement=enlargement)


def check_scales(scales: Sequence[float]) -> tuple[float, ...]:
    """The scales, if images can be resized by them.

    Raises:
        ConfigError: None or more than 16 of them, or one that is not above 0 and at most 8.
    """
    if not 1 <= len(scales) <= _MOST_SCALES or not all(0 < scale <= _LARGEST_SCALE for scale in scales):
        raise ConfigError(
            f"expected 1 to {_MOST_SCALES} scales, each above 0 and at most {_LARGEST_SCALE:g}, got "
            f"{', '.join(f'{scale:g}' for scale in scales) or 'none'}; 1 is the image's own size"
        )
    return tuple(float(scale) for scale in scales)


def parse_scales(text: str) -> tuple[float, ...]:
    """``0.5,1,1.5`` as scales.

    Raises:
        ConfigError: Something that is no number, or a scale that cannot be.
    """
    try:
        scales = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ConfigError(f"expected --scales as numbers with commas, for instance 0.5,1,1.5, got {text!r}") from error
    return check_scales(scales)
