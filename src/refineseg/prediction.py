"""What is known of an image's pixels after prediction, without torch: the result ``Prediction``.

In: a mask and its classes, and where they were asked for probabilities. Out: areas, shares, overlays, files, what a
notebook shows.
"""

from __future__ import annotations

import base64
import html
import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError
from refineseg.images import render
from refineseg.images.encoding import encode_image

_KINDS = {".png": "mask", ".jpg": "overlay", ".jpeg": "overlay", ".geojson": "polygons", ".npz": "probabilities"}
_SMALLEST_SIDE, _LARGEST_SIDE = 256, 800  # of what a notebook shows, in pixels
_NAMED = 3  # classes in a line


@dataclass(frozen=True, repr=False)
class Prediction:
    """The mask of one image, with what its values mean.

    A notebook shows it as the overlay with a table of the shares.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, as predicted on.
        mask: ``(H, W)`` class indices, of ``class_info.mask_dtype``: uint8, or uint16 with more than 255 classes;
            ``class_info.ignore_index`` where pixels were made unknown.
        class_info: The classes.
        probabilities: ``(K, H, W)`` float32, where they were asked for.
        confidence: ``(H, W)`` float32, the probability of the likeliest class, 0..1, where it or the probabilities were
            asked for.

    Example:
        >>> shown = np.array([[0.9, 0.4]], np.float32)
        >>> prediction = Prediction(
        ...     np.zeros((1, 2, 3), np.uint8),
        ...     np.array([[0, 1]], np.uint8),
        ...     ClassInfo(("sky", "road")),
        ...     confidence=shown,
        ... )
        >>> prediction.unknown_below(0.5).mask.tolist()
        [[0, 255]]
    """

    image: NDArray[np.uint8]
    mask: NDArray[Any]
    class_info: ClassInfo
    probabilities: NDArray[np.float32] | None = None
    confidence: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.confidence is None and self.probabilities is not None:
            object.__setattr__(self, "confidence", self.probabilities.max(axis=0))

    @property
    def areas(self) -> NDArray[np.int64]:
        """(K,) pixels of each class; together they are all pixels but the unknown ones."""
        if self.mask.dtype == np.uint8:  # counted as they are, without a copy of eight bytes per pixel
            counts = np.array(Image.fromarray(self.mask).histogram())
        else:
            counts = np.bincount(self.mask.ravel(), minlength=self.class_info.num_classes)
        return counts[: self.class_info.num_classes].astype(np.int64)

    @property
    def shares(self) -> dict[str, float]:
        """Name of each class -> its share of the pixels, largest first; they sum to 1 where no pixel is unknown."""
        areas = self.areas
        order = np.argsort(-areas, kind="stable").tolist()
        return {self.class_info.names[i]: float(areas[i] / self.mask.size) for i in order}

    def unknown_below(self, confidence: float) -> Prediction:
        """The same with ``class_info.ignore_index`` in the mask wherever the confidence is lower.

        Args:
            confidence: 0..1; a pixel of exactly this confidence keeps its class.

        Raises:
            ConfigError: The prediction was made without confidence, or the limit is outside 0..1.
        """
        if not 0 <= confidence <= 1:
            raise ConfigError(f"expected a confidence 0..1 below which pixels are unknown, got {confidence}")
        if self.confidence is None:
            raise ConfigError(
                "expected a prediction with confidence, got one without; ask for it: predictor(image, confidence=True)"
            )
        void = self.class_info.ignore_index
        mask = self._with_room_for_void
        return replace(self, mask=np.where(self.confidence < confidence, mask.dtype.type(void), mask))

    def without(self, valid: NDArray[np.bool_] | None) -> Prediction:
        """The same with ``class_info.ignore_index``, and no probability of any class, where pixels hold no data.

        Args:
            valid: (H, W), which hold data; None: all.
        """
        if valid is None:
            return self
        void, sure, scores = self.class_info.ignore_index, self.confidence, self.probabilities
        mask = self._with_room_for_void
        return replace(
            self,
            mask=np.where(valid, mask, mask.dtype.type(void)),
            probabilities=None if scores is None else np.where(valid, scores, np.float32(0)),
            confidence=None if sure is None else np.where(valid, sure, np.float32(0)),
        )

    @property
    def _with_room_for_void(self) -> NDArray[Any]:
        return self.mask.astype(np.promote_types(self.mask.dtype, self.class_info.mask_dtype), copy=False)

    def overlay(self, *, opacity: float = 0.5, legend: bool = True) -> NDArray[np.uint8]:
        """The image with the classes painted over it, ``(H', W', 3)`` uint8; the legend stands below the image."""
        return render.overlay(self.image, self.mask, self.class_info, opacity=opacity, legend=legend)

    def save(self, path: str | Path) -> None:
        """Write one kind of result; the ending of the name says which.

        ``.png``: the mask (palette PNG, value = class). ``.jpg``: the overlay with a legend. ``.geojson``: polygons.
        ``.npz``: the probabilities.

        Raises:
            ConfigError: Another ending, or a prediction without the probabilities that are to be written.
            MissingExtraError: shapely is needed for polygons and not installed.
            OutputError: The file cannot be written.
        """
        kind = _KINDS.get(Path(path).suffix.lower())
        if kind is None:
            raise ConfigError(f"expected a file name ending in {', '.join(_KINDS)}, got {path}")
        _above("predict.outputs.kinds").write_kind(self, kind, Path(path))

    def polygons(self, *, simplify: float = 1.0, smallest_area: float = 0.0) -> list[Any]:
        """Regions of one class each, as :class:`~refineseg.predict.polygons.class_regions.ClassRegion`.

        Each has ``class_index``, ``polygon`` (a ``shapely.Polygon``), ``area`` and ``mean_confidence``. Neighbours
        share their borders exactly.

        Args:
            simplify: Most that a border may move, in pixels; 0 keeps every corner of every pixel.
            smallest_area: Pixels below which a region becomes part of a neighbour.

        Raises:
            ConfigError: A number below 0.
            MissingExtraError: shapely is not installed.
        """
        regions = _above("predict.polygons.class_regions")
        options = regions.VectorOptions(simplify, smallest_area)
        found = regions.regions_of(self.mask, class_info=self.class_info, confidence=self.confidence, options=options)
        return list(found)

    def to_supervision(self) -> Any:  # noqa: ANN401 - supervision.Detections, of an optional package
        """The classes that occur as ``supervision.Detections``, one per class with its mask; the largest first.

        ``data["class_name"]`` holds their names, ``confidence`` the mean over the pixels, where it is known.

        Raises:
            MissingExtraError: supervision is not installed.
        """
        return _above("predict.outputs.detections").detections_of(self)

    def __repr__(self) -> str:
        shares = [(name, share) for name, share in self.shares.items() if share]
        parts = [f"{name} {100 * share:.1f} %" for name, share in shares[:_NAMED]]
        parts += [f"{len(shares) - _NAMED} more"] * (len(shares) > _NAMED)
        return f"<Prediction {self.mask.shape[0]}x{self.mask.shape[1]}: {', '.join(parts) or 'nothing is known'}>"

    def _repr_png_(self) -> bytes:
        """The overlay with its legend, for notebooks; large images are shown smaller."""
        return bytes(encode_image(self._shown(legend=True), ".png"))

    def _repr_html_(self) -> str:
        """The overlay beside a table of the classes that occur: colour, name, share."""
        shares, unknown = self.shares, 1 - sum(self.shares.values())
        colours = dict(zip(self.class_info.names, self.class_info.palette, strict=True))
        rows = [(f"rgb{colours[name]}", name, share) for name, share in shares.items() if share]
        rows += [("transparent", "unknown", unknown)] if unknown > 1e-9 else []
        shown = base64.b64encode(encode_image(self._shown(legend=False), ".jpg")).decode()
        table = "".join(
            f'<tr><td style="background:{colour};width:1.2em;border:1px solid"></td>'
            f'<td style="text-align:left">{html.escape(name)}</td><td>{100 * share:.1f} %</td></tr>'
            for colour, name, share in rows
        )
        return (
            '<div style="display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start">'
            f'<img alt="overlay" src="data:image/jpeg;base64,{shown}"><table>{table}</table></div>'
        )

    def _shown(self, *, legend: bool) -> NDArray[np.uint8]:
        """The overlay at a size for the eye: every n-th pixel of a large image, each pixel of a tiny one n times."""
        longest = max(self.mask.shape)
        step, times = -(-longest // _LARGEST_SIDE), max(1, _SMALLEST_SIDE // longest)
        image, mask = self.image[::step, ::step], self.mask[::step, ::step]
        image, mask = (part.repeat(times, axis=0).repeat(times, axis=1) for part in (image, mask))
        image = image if image.shape[2] == 3 else image[..., :1].repeat(3, axis=2)
        return render.overlay(np.ascontiguousarray(image), mask, self.class_info, legend=legend)


def _above(module: str) -> ModuleType:
    """A module that lies above this one, for the methods that only begin something there.

    It is loaded when it is called for: a prediction must not need what writes files and draws polygons.
    """
    return importlib.import_module(f"refineseg.{module}")
