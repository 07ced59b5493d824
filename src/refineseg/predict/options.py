"""How to predict, as the command line says it.

In: words. Out: frozen :class:`PredictorOptions`, which open models and make predictors.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refineseg.predict.views.crf_options import CrfOptions
from refineseg.predict.views.scoring_views import (
    DEFAULT_VIEW,
    ScoringView,
    find_view,
    parse_scales,
)
from refineseg.predict.views.tiling import TilingOptions
from refineseg.runtimes.opened_file import OpenedFile, open_file, takes_arrays
from refineseg.runtimes.table import PRECISIONS, Precision, check_name
from refineseg.terminal.arguments import check_word

if TYPE_CHECKING:  # which load PyTorch
    from refineseg.predict.array_predictor import AnyPredictor
    from refineseg.predict.predictor import Predictor
    from refineseg.runtimes.open import OpenedModel
    from refineseg.scoring import Scorer
    from refineseg.segmenter import Segmenter


@dataclass(frozen=True)
class PredictorOptions:
    """How to predict, as the command line says it; all that must be known to repeat a number beside model and data.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ...
        precision: Precision of the network.
        scales: Scales of the views that are averaged.
        flip: Mirror each view too.
        view: Sizes and enlargements, by the option --protocol.
        crf: Options of a dense CRF at the end; None: without.
        tiling: How large images are cut; None: never.
        backend: Name of the runtime, a key of :data:`~refineseg.runtimes.table.BACKENDS`, or ``auto``; None: ``torch``,
            and of an exported file its own.
    """

    device: str
    precision: Precision
    scales: tuple[float, ...]
    flip: bool
    view: ScoringView
    crf: CrfOptions | None = None
    tiling: TilingOptions | None = None
    backend: str | None = None

    @classmethod
    def parse(
        cls,
        *,
        device: str = "auto",
        precision: str = "float32",
        scales: str = "1",
        flip: bool = False,
        protocol: str = DEFAULT_VIEW,
        enlargement: float | None = None,
        crf: bool = False,
        tiling: TilingOptions | None = None,
        backend: str | None = None,
    ) -> PredictorOptions:
        """From the words of the command line.

        Raises:
            ConfigError: An unknown word, wrong scales, or an enlargement that is not the view's.
        """
        check_word("precision", precision, PRECISIONS)
        kind: Precision = "bfloat16" if precision == "bfloat16" else "float32"
        chosen, refined = find_view(protocol, enlargement=enlargement), CrfOptions() if crf else None
        return cls(device, kind, parse_scales(scales), flip, chosen, refined, tiling, backend and check_name(backend))

    def open(self, model: str | Segmenter) -> Predictor:
        """A predictor of a shipped model, a model file, an exported file or a segmenter."""
        return self.predictor(self.opened(model))

    def opened(self, model: str | Segmenter) -> OpenedModel:
        """A model in the runtime and on the device that were asked for."""
        from refineseg.runtimes.open import open_model

        backend = "torch" if self.backend == "auto" and self.view.looks_inside else self.backend
        return open_model(model, backend=backend, device=self.device, precision=self.precision)

    def opened_for_images(self, model: str) -> OpenedModel | OpenedFile:
        """The same; an exported file is opened without PyTorch where whole images are predicted with one view."""
        plain = (self.scales, self.flip, self.crf, self.view.name) == ((1.0,), False, None, DEFAULT_VIEW)
        cuts = self.tiling is not None and isinstance(self.tiling.tile, int)
        if plain and not cuts and takes_arrays(model, backend=self.backend, device=self.device):
            return open_file(Path(model), backend=self.backend, precision=self.precision)
        return self.opened(model)

    def check_use(self, opened: OpenedModel | OpenedFile, *, scored: bool, batch_size: int | None) -> None:
        """Refuse what an exported file does with no image, before anything is written.

        Args:
            opened: What :meth:`opened_for_images` gave.
            scored: Whether probabilities or confidence are wanted.
            batch_size: Images at a time; None: chosen.

        Raises:
            ConfigError: The file gives no logits, or takes one size, or one image at a time.
        """
        resized = self.scales != (1.0,)
        opened.description.check_use(
            opened.source if isinstance(opened.source, Path) else opened.backend,
            scored=scored or resized or self.flip or self.crf is not None,
            resized=resized,
            batch_size=batch_size or 1,
        )

    def image_predictor(self, opened: OpenedModel | OpenedFile) -> AnyPredictor:
        """A predictor of what :meth:`opened_for_images` gave."""
        if isinstance(opened, OpenedFile):
            from refineseg.predict.array_predictor import ArrayPredictor

            return ArrayPredictor(opened)
        return self.predictor(opened)

    def predictor(self, model: Segmenter | Scorer) -> Predictor:
        """A predictor of what was opened."""
        from refineseg.predict.predictor import Predictor

        return Predictor(
            model,
            device=self.device,
            precision=self.precision,
            scales=self.scales,
            flip=self.flip,
            protocol=self.view,
            crf=self.crf,
            tiling=self.tiling,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "device": self.device,
            "backend": self.backend or "torch",
            "precision": self.precision,
            "scales": list(self.scales),
            "flip": self.flip,
            "scoring_protocol": self.view.to_json(),
            "crf": None if self.crf is None else asdict(self.crf),
            **({"tiling": asdict(self.tiling)} if self.tiling is not None and self.tiling.mode == "blend" else {}),
        }
