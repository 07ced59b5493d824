"""What the prediction of an image can be written as: mask, overlay, probabilities, confidence, polygons.

In: a :class:`~refineseg.prediction.Prediction` and a path without an ending. Out: files beside each other:

========================  ===============================================================================
``NAME.png``              class indices, palette PNG; void where the class is unknown
``NAME_overlay.jpg``      the image with the classes painted over it and a legend
``NAME_probabilities.npz``  ``probabilities`` (K, H, W) float16 and ``classes``; or
``NAME_probabilities.tif``  one 16-bit page per class, its name in the page's description; 65535 is probability 1
``NAME_confidence.png``   probability of the likeliest class, 255 (8 bits) or 65535 (16 bits) is probability 1
``NAME.geojson``          polygons in pixels, x to the right and y down; or
``NAME_coco.json``        the same for programs that read COCO
========================  ===============================================================================

Every file is written beside and then renamed: one that is there is complete.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo

from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, ImageError
from refineseg.files.made_by import MADE_BY
from refineseg.files.run_lengths import WRITING, rle_tools
from refineseg.files.writing import written_beside
from refineseg.images.encoding import encode_image, encode_mask, encoded
from refineseg.images.render import overlay_picture
from refineseg.predict.polygons.class_regions import VectorOptions, geometry_tools
from refineseg.prediction import Prediction
from refineseg.terminal.arguments import check_word

ProbabilityFormat = Literal["npz", "tiff"]
ConfidenceFormat = Literal["png8", "png16", "tiff8", "tiff16"]
PolygonFormat = Literal["geojson", "coco"]

_TIFF_DESCRIPTION = 270
_TIFF_PAGE_NAME = 285  # Source: TIFF 6.0, section 12
_LARGEST_JPEG = 65500  # pixels of a side
_LARGEST_TIFF = 4 * 10**9  # offsets have 32 bits


@dataclass(frozen=True)
class Outputs:
    """What to write of a prediction, and how.

    Args:
        kinds: Names of kinds, keys of :data:`KINDS`.
        probability_format: ``npz`` (float16) or ``tiff`` (a 16-bit page per class; 65535 is probability 1).
        probability_classes: Names of the classes whose probabilities are written; None: all.
        confidence_format: File format and bits; the largest value is probability 1.
        unknown_below: Pixels whose likeliest class has a lower probability become void; None: none.
        vectors: Options of which regions become polygons.
        polygon_format: Format of the polygons of images; those of rasters are always GeoJSON.
        legend: Name the classes below overlays.

    Raises:
        ConfigError: An unknown kind or format, no kind at all, or a probability outside 0..1.

    Example:
        >>> Outputs.parse("mask,confidence", unknown_below=0.6).endings
        {'mask': '.png', 'confidence': '_confidence.png'}
    """

    kinds: tuple[str, ...] = ("mask", "overlay")
    probability_format: ProbabilityFormat = "npz"
    probability_classes: tuple[str, ...] | None = None
    confidence_format: ConfidenceFormat = "png8"
    unknown_below: float | None = None
    vectors: VectorOptions = field(default_factory=VectorOptions)
    polygon_format: PolygonFormat = "geojson"
    legend: bool = True

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise ConfigError(f"expected --save with some of {', '.join(KINDS)}, got {', '.join(unknown) or 'none'}")
        check_word("probability format", self.probability_format, get_args(ProbabilityFormat))
        check_word("confidence format", self.confidence_format, get_args(ConfidenceFormat))
        check_word("polygon format", self.polygon_format, get_args(PolygonFormat))
        if self.unknown_below is not None and not 0 <= self.unknown_below <= 1:
            raise ConfigError(
                f"expected a probability 0..1 below which pixels are unknown, got {self.unknown_below}; "
                "0.6 for instance"
            )

    @classmethod
    def parse(
        cls,
        save: str = "mask,overlay",
        *,
        probability_format: str = "npz",
        classes: str | None = None,
        confidence_format: str = "png8",
        unknown_below: float | None = None,
        simplify: float = 1.0,
        smallest_area: float = 0.0,
        polygon_format: str = "geojson",
        legend: bool = True,
    ) -> Outputs:
        """From the words of the command line; names stand between commas, and classes hold for polygons too.

        Raises:
            ConfigError: Words that mean nothing here.
        """
        check_word("probability format", probability_format, get_args(ProbabilityFormat))
        check_word("confidence format", confidence_format, get_args(ConfidenceFormat))
        check_word("polygon format", polygon_format, get_args(PolygonFormat))
        kinds = tuple(dict.fromkeys(kind.strip() for kind in save.split(",") if kind.strip()))
        chosen = None if classes is None else tuple(name.strip() for name in classes.split(",") if name.strip())
        return cls(
            kinds,
            probability_format,  # type: ignore[arg-type]  # checked above
            chosen,
            confidence_format,  # type: ignore[arg-type]
            unknown_below,
            VectorOptions(simplify, smallest_area, chosen),
            polygon_format,  # type: ignore[arg-type]
            legend,
        )

    @property
    def endings(self) -> dict[str, str]:
        """What follows an image's name in the name of each file that is written, by kind."""
        return {kind: self.ending(kind) for kind in self.kinds}

    def ending(self, kind: str) -> str:
        """What follows an image's name in the name of the file of a kind."""
        formats = (self.probability_format, self.confidence_format, self.polygon_format, "")
        return next(KINDS[kind].endings[name] for name in formats if name in KINDS[kind].endings)

    @property
    def needs_probabilities(self) -> bool:
        """Whether the probabilities of all classes are written."""
        return any(KINDS[kind].needs == "probabilities" for kind in self.kinds)

    @property
    def needs_confidence(self) -> bool:
        """Whether the probability of the likeliest class is needed."""
        return self.unknown_below is not None or any(KINDS[kind].needs == "confidence" for kind in self.kinds)

    def chosen_classes(self, class_info: ClassInfo) -> tuple[int, ...]:
        """Indices of the classes whose probabilities are written, in the order they were named.

        Raises:
            ConfigError: A name that is no class.
        """
        if self.probability_classes is None:
            return tuple(range(class_info.num_classes))
        missing = [name for name in self.probability_classes if name not in class_info.names]
        if missing or not self.probability_classes:
            raise ConfigError(f"expected classes of {', '.join(class_info.names)}, got {', '.join(missing) or 'none'}")
        return tuple(class_info.names.index(name) for name in self.probability_classes)

    def check(self, class_info: ClassInfo) -> None:
        """Whether all of it can be written for a model.

        Raises:
            ConfigError: A name that is no class.
            MissingExtraError: shapely, or pycocotools for COCO, is needed for polygons and not installed.
        """
        self.chosen_classes(class_info)
        if "polygons" in self.kinds:
            geometry_tools()
            if self.polygon_format == "coco":
                rle_tools(WRITING)

    def finished(self, prediction: Prediction) -> Prediction:
        """The prediction with unknown pixels, where they are asked for."""
        return prediction if self.unknown_below is None else prediction.unknown_below(self.unknown_below)


def as_integers(values: NDArray[np.float32], *, bits: int) -> NDArray[Any]:
    """Probabilities as the values of a file: 1 becomes 255 (8 bits) or 65535 (16 bits), rounded to the nearest.

    Example:
        >>> as_integers(np.array([0.0, 0.5, 1.0], np.float32), bits=16).tolist()
        [0, 32768, 65535]
    """
    largest = 2**bits - 1
    scaled = np.rint(values.astype(np.float32) * np.float32(largest)).clip(0, largest)
    integers: NDArray[Any] = scaled.astype(np.uint8 if bits == 8 else np.uint16)
    return integers


def encode(prediction: Prediction, kind: str, outputs: Outputs | None = None, *, name: str = "") -> bytes | memoryview:
    """One kind of result as the bytes of its file, for a service for instance.

    Args:
        prediction: Prediction, with probabilities or confidence where the kind needs them (polygons without one state
            none); unknown pixels are already void, see :meth:`Outputs.finished`.
        kind: Name of a kind, a key of :data:`KINDS`.
        outputs: Options; None: the usual ones.
        name: Name of the image, for COCO.

    Raises:
        ConfigError: An unknown kind, a prediction without what it needs, or classes that the model does not have.
    """
    if kind not in KINDS:
        raise ConfigError(f"expected a kind of {', '.join(KINDS)}, got {kind!r}")
    needed = KINDS[kind].needs
    if needed is not None and kind != "polygons" and getattr(prediction, needed) is None:
        raise ConfigError(
            f"expected a prediction with {needed} for {kind}, got one without; call predictor(image, {needed}=True)"
        )
    return KINDS[kind].encode(prediction, outputs or Outputs((kind,)), name)


def write_kind(prediction: Prediction, kind: str, path: Path) -> None:
    """Write one kind of result in its usual form, under any name.

    Args:
        prediction: Prediction.
        kind: Name of a kind, a key of :data:`KINDS`.
        path: Path of the file.

    Raises:
        OutputError: The file cannot be written.
        ConfigError: A prediction without the probabilities that are to be written.
    """
    content = encode(prediction, kind)
    with written_beside(path) as temporary:
        temporary.write_bytes(content)


def write_prediction(prediction: Prediction, target: Path, outputs: Outputs, *, name: str = "") -> list[Path]:
    """Write all that is asked for.

    Args:
        prediction: Prediction, as :func:`encode` takes it.
        target: Folder and name without an ending.
        outputs: What to write.
        name: Name of the image's file, which COCO's JSON tells; empty: that of the target.

    Returns:
        The files.

    Raises:
        OutputError: A file cannot be written; none is left unfinished, but others may have been written already.
        ConfigError: As :func:`encode`.
    """
    written = []
    for kind, ending in outputs.endings.items():
        path = target.with_name(target.name + ending)
        try:
            content = encode(prediction, kind, outputs, name=name or target.name)
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from error
        with written_beside(path) as temporary:
            temporary.write_bytes(content)
        written.append(path)
    return written


def encode_confidence(confidence: NDArray[np.float32], *, bits: int = 8, ending: str = ".png") -> memoryview:
    """Probabilities 0..1 as a grey image that says its scale (PNG text ``Description``, TIFF description).

    Args:
        confidence: Probability of each pixel's class, (H, W).
        bits: Number of bits of a pixel: 8 (255 is probability 1) or 16 (65535 is).
        ending: Ending of the file's name: ``.png`` or ``.tif``.
    """
    image = Image.fromarray(as_integers(confidence, bits=bits))
    scale = f"probability of the likeliest class; {2**bits - 1} = 1"
    if ending == ".png":
        text = PngInfo()
        text.add_text("Description", scale)
        return encoded(image, {"format": "PNG", "pnginfo": text})
    tags = {_TIFF_DESCRIPTION: scale}
    return encoded(image, {"format": "TIFF", "compression": "tiff_adobe_deflate", "tiffinfo": tags})


def _mask(prediction: Prediction, _outputs: Outputs, _name: str) -> memoryview:
    return encode_mask(prediction.mask, prediction.class_info, software=MADE_BY)


def _overlay(prediction: Prediction, outputs: Outputs, _name: str) -> memoryview:
    picture = overlay_picture(prediction.image, prediction.mask, prediction.class_info, legend=outputs.legend)
    picture.thumbnail((_LARGEST_JPEG, _LARGEST_JPEG))  # which leaves smaller ones as they are
    return encode_image(picture)


def _confidence(prediction: Prediction, outputs: Outputs, _name: str) -> memoryview:
    assert prediction.confidence is not None
    bits, ending = (16 if outputs.confidence_format.endswith("16") else 8), outputs.ending("confidence")[-4:]
    return encode_confidence(prediction.confidence, bits=bits, ending=ending)


def _polygons(prediction: Prediction, outputs: Outputs, name: str) -> bytes:
    from refineseg.predict.polygons.vectors import encode_vectors

    return encode_vectors(
        prediction.mask,
        prediction.class_info,
        polygon_format=outputs.polygon_format,
        confidence=prediction.confidence,
        options=outputs.vectors,
        file_name=name,
    )


def _probabilities(prediction: Prediction, outputs: Outputs, _name: str) -> memoryview:
    assert prediction.probabilities is not None
    chosen = outputs.chosen_classes(prediction.class_info)
    probabilities, names = prediction.probabilities[list(chosen)], [prediction.class_info.names[i] for i in chosen]
    buffer = io.BytesIO()
    if outputs.probability_format == "npz":
        np.savez_compressed(buffer, probabilities=probabilities.astype(np.float16), classes=np.array(names))
        return buffer.getbuffer()
    if 2 * probabilities.size > _LARGEST_TIFF:
        raise ImageError(
            f"expected at most {_LARGEST_TIFF} bytes of pixels in a TIFF, got {2 * probabilities.size}; choose fewer "
            "classes, or the format npz"
        )
    with TiffImagePlugin.AppendingTiffWriter(buffer, new=True) as tiff:
        for index, name, values in zip(chosen, names, probabilities, strict=True):
            description = json.dumps({"class": name, "index": index, "probability_1": 65535})
            tags = {_TIFF_DESCRIPTION: description, _TIFF_PAGE_NAME: name}
            page = Image.fromarray(as_integers(values, bits=16))
            page.save(tiff, format="TIFF", compression="tiff_adobe_deflate", tiffinfo=tags)
            tiff.newFrame()
    return buffer.getbuffer()


@dataclass(frozen=True)
class OutputKind:
    """A kind of result of an image; those of rasters and videos are written by their own folders.

    Args:
        endings: Ending of the file's name by format; one entry without a name where there is one format.
        needs: Field of a :class:`~refineseg.prediction.Prediction` that it is made of beside the mask; None: none.
        encode: Function that makes the bytes of the file.
    """

    endings: dict[str, str]
    needs: Literal["probabilities", "confidence"] | None
    encode: Callable[[Prediction, Outputs, str], bytes | memoryview]


KINDS: dict[str, OutputKind] = {
    "mask": OutputKind({"": ".png"}, None, _mask),
    "overlay": OutputKind({"": "_overlay.jpg"}, None, _overlay),
    "probabilities": OutputKind(
        {"npz": "_probabilities.npz", "tiff": "_probabilities.tif"}, "probabilities", _probabilities
    ),
    "confidence": OutputKind(
        {f"{name}{bits}": f"_confidence.{name[:3]}" for name in ("png", "tiff") for bits in (8, 16)},
        "confidence",
        _confidence,
    ),
    "polygons": OutputKind({"geojson": ".geojson", "coco": "_coco.json"}, "confidence", _polygons),
}
"""Everything ``--save`` takes."""
