"""How an image's probabilities are obtained: at which sizes the network sees it, and how its output is enlarged.

In: a name, the value of ``--protocol``. Out: a frozen :class:`ScoringView`. The two papers' codes differ here; a
measured number is comparable only with numbers of the same view, so it is a part of every measurement's protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from refineseg.errors import ConfigError
from refineseg.networks.model_names import model_file
from refineseg.runtimes.table import (
    PRECISIONS,
    check_fits,
    check_installed,
    check_name,
    check_reads,
    check_takes_models,
    is_exported,
)
from refineseg.terminal.arguments import check_device_name, check_word
from refineseg.terminal.value_types import Arrayed

Enlarged = Literal["logits_bilinear", "logits_cubic", "log_probabilities_cubic"]

_MOST_SCALES = 16
_LARGEST_SCALE = 8.0


@dataclass(frozen=True)
class ScoringView:
    """One way from an image to the probabilities of its pixels.

    Args:
        name: As in :data:`SCORING_VIEWS`.
        enlarged: What is brought to image size, and how: ``logits_bilinear`` and ``logits_cubic`` enlarge logits;
            ``log_probabilities_cubic`` is all of the authors' procedure, see :mod:`refineseg.predict.views.authors`.
        short_side: Images are resized until their shorter side, in pixels, lies in this range; None: own size.
        enlargement: Enlargement of the image in front of the network, on top of everything else; None: as the model
            says.

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

    @property
    def looks_inside(self) -> bool:
        """Whether it needs the network's output before its enlargement, which PyTorch alone gives."""
        return self.enlarged != "logits_bilinear"

    def check_flip(self, flip: bool) -> None:
        """Whether mirror images can be averaged.

        Raises:
            ConfigError: The view has none.
        """
        if flip and self.is_authors:
            raise ConfigError(
                f"expected no mirror images with the protocol {self.name}, which has none; leave --flip out"
            )

    def factor(self, size_hw: tuple[int, int]) -> float:
        """What an image's sides are multiplied by, so that the shorter one lies where it must."""
        if self.short_side is None:
            return 1.0
        (low, high), short = self.short_side, min(size_hw)
        return low / short if short < low else high / short if short > high else 1.0

    @property
    def stated(self) -> str:
        """Its name, and the enlargement where that is another than the name's."""
        if self.enlargement == SCORING_VIEWS[self.name].enlargement:
            return self.name
        return f"{self.name} with an enlargement of {self.enlargement:g}"

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "name": self.name,
            "enlarged": self.enlarged,
            "short_side": None if self.short_side is None else list(self.short_side),
            "enlargement": self.enlargement,
        }


SCORING_VIEWS: dict[str, ScoringView] = {
    view.name: view
    for view in (
        ScoringView("light_weight", "logits_bilinear"),
        ScoringView("light_weight_v1", "logits_cubic"),
        ScoringView("authors", "log_probabilities_cubic", short_side=(450, 800), enlargement=1.2),
        ScoringView("authors_cityscapes", "log_probabilities_cubic", short_side=(600, 1100), enlargement=1.2),
    )
}
"""Every view by name.

* ``light_weight``: the whole image at its own size, logits enlarged bilinearly. Source: Light-Weight RefineNet, second
  version of the code.
* ``light_weight_v1``: the same with logits enlarged bicubically (a = -0.75, as OpenCV). Source: its first version.
* ``authors``: short side 450 to 800, enlargement 1.2, log-probabilities enlarged bicubically. Source: the multi-scale
  demonstrations of the RefineNet authors' code.
* ``authors_cityscapes``: the same with a short side of 600 to 1100.
"""

DEFAULT_VIEW = "light_weight"


def check_scoring(
    model: str,
    *,
    device: str = "auto",
    precision: str = "float32",
    scales: str = "1",
    flip: bool = False,
    protocol: str = DEFAULT_VIEW,
    enlargement: float | None = None,
    backend: str | None = None,
) -> None:
    """Everything that can be said of how to predict before PyTorch is there; see ``PredictorOptions.parse``.

    Raises:
        ConfigError: An unknown word, wrong scales, or options that do not fit each other or the model.
        MissingExtraError: The runtime is not installed.
        ModelFileError: No such model.
    """
    check_word("precision", precision, PRECISIONS)
    found = find_view(protocol, enlargement=enlargement)
    found.check_flip(flip)
    parse_scales(scales)
    if backend is not None:
        check_name(backend)
    check_device_name(device)
    if is_exported(model):
        name = check_reads(Path(model), backend)
    else:
        name = backend or "torch"
        check_takes_models(name, model)
        model_file(model)
    if name == "auto":
        return
    check_fits(name, precision=precision, device=device)
    check_installed(name, for_file=is_exported(model))
    if name != "torch" and found.looks_inside:
        raise ConfigError(
            f"expected --backend torch and a model file with the protocol {protocol}, which needs the network's output "
            f"before its enlargement, got {name}; leave one of the two out"
        )


def find_view(name: str, *, enlargement: float | None = None) -> ScoringView:
    """A view by name, with another enlargement where one is given.

    Raises:
        ConfigError: No such view, or an enlargement it does not take.
    """
    check_word("protocol", name, tuple(SCORING_VIEWS))
    return SCORING_VIEWS[name] if enlargement is None else replace(SCORING_VIEWS[name], enlargement=enlargement)


def _check_sequence(scales: object) -> None:
    if isinstance(scales, str) or not isinstance(scales, Sequence | Arrayed):
        raise ConfigError(f"expected scales as numbers in a sequence, for instance (0.5, 1), got {scales!r:.80}")


def check_scales(scales: Sequence[float]) -> tuple[float, ...]:
    """The scales, if images can be resized by them.

    Raises:
        ConfigError: None or more than 16 of them, or one that is not above 0 and at most 8.
    """
    _check_sequence(scales)
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
