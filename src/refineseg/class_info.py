"""Classes of a model or data set: names, colours, and which value means "not labelled".

In: names and colours. Out: :class:`ClassInfo`, the one object that says what a class index means, carried by data sets,
model files and predictions; and :class:`LabelTable`, how one data set writes classes into its mask files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.errors import ConfigError

Colour = tuple[int, int, int]
MOST_CLASSES = 65535
"""Of 16-bit masks, one value being void."""

_PAINTED_AT_A_TIME = 2**18  # pixels


def voc_palette(num_colours: int) -> tuple[Colour, ...]:
    """The colours of PASCAL VOC: the bits of the index, interleaved into red, green and blue.

    Args:
        num_colours: How many, 1 to 256.

    Returns:
        ``num_colours`` RGB triples, each 0..255; the first is black.

    Source: the VOC development kit's colour map, used by RefineNet for most data sets.
    """
    palette = []
    for index in range(num_colours):
        red = green = blue = 0
        for bit in range(8):
            shift = 7 - bit
            red |= ((index >> (3 * bit)) & 1) << shift
            green |= ((index >> (3 * bit + 1)) & 1) << shift
            blue |= ((index >> (3 * bit + 2)) & 1) << shift
        palette.append((red, green, blue))
    return tuple(palette)


def fits_byte(largest: int) -> bool:
    """Whether masks of values up to this one have 8 bits: the one rule that all arrays, tensors and files follow."""
    return largest <= 255


def index_dtype(largest: int) -> np.dtype[Any]:
    """The dtype of masks of values from 0 to this one: uint8 where they fit, else uint16, as files have it.

    Example:
        >>> index_dtype(255), index_dtype(256)
        (dtype('uint8'), dtype('uint16'))
    """
    return np.dtype(np.uint8 if fits_byte(largest) else np.uint16)


def usual_void(num_classes: int) -> int:
    """The value of void pixels where none is given: 255, which 256 classes need themselves, and then 65535."""
    return 255 if num_classes <= 255 else 65535


def _check_count(num_classes: int) -> None:
    if num_classes > MOST_CLASSES:
        raise ConfigError(f"expected at most {MOST_CLASSES} classes, as many as masks can hold, got {num_classes}")


@dataclass(frozen=True)
class ClassInfo:
    """What the class indices ``0 .. K-1`` of masks and logits mean.

    Args:
        names: One name per class, in the order of the model's outputs.
        palette: One RGB colour (0..255) per class; by default the VOC colours.
        ignore_index: Mask value of void (unlabelled) pixels; it takes no part in loss or metrics.

    Raises:
        ConfigError: No classes, equal names, a palette that does not fit, or a void value that is a class.

    Example:
        >>> ClassInfo(names=("sky", "road")).num_classes
        2
    """

    names: tuple[str, ...]
    palette: tuple[Colour, ...] = ()
    ignore_index: int = 255

    def __post_init__(self) -> None:
        if not self.names:
            raise ConfigError("expected at least one class, got none; give the class names")
        _check_count(len(self.names))
        doubled = sorted(name for name, count in Counter(self.names).items() if count > 1)
        if doubled:
            raise ConfigError(f"expected different class names, got {doubled} more than once; rename them")
        if not self.palette:
            colours = voc_palette(256)
            object.__setattr__(self, "palette", tuple(colours[i % 256] for i in range(len(self.names))))
        if len(self.palette) != len(self.names):
            raise ConfigError(
                f"expected one colour per class, got {len(self.palette)} colours for {len(self.names)} classes"
            )
        for name, colour in zip(self.names, self.palette, strict=True):
            if len(colour) != 3 or not all(0 <= c <= 255 for c in colour):
                raise ConfigError(f"expected three numbers 0..255 as the colour of {name!r}, got {colour}")
        if 0 <= self.ignore_index < len(self.names):
            raise ConfigError(
                f"expected a void value outside the classes 0..{len(self.names) - 1}, got {self.ignore_index}; "
                "use 255 (or 65535 with more than 255 classes)"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.names)

    @property
    def mask_dtype(self) -> np.dtype[Any]:
        """The dtype of masks: the smallest that holds all classes and void, see :func:`index_dtype`."""
        return index_dtype(max(self.num_classes - 1, self.ignore_index))

    @classmethod
    def generic(cls, num_classes: int) -> ClassInfo:
        """Classes without a meaning yet: ``class_0 ..`` in the VOC colours."""
        names = tuple(f"class_{i}" for i in range(num_classes))
        return cls(names, ignore_index=usual_void(num_classes))

    def colours(self, mask: NDArray[Any]) -> NDArray[np.uint8]:
        """Paint a mask.

        Args:
            mask: ``(H, W)`` integers, classes or ``ignore_index``.

        Returns:
            ``(H, W, 3)`` uint8 RGB; everything that is no class is black.

        Example:
            >>> ClassInfo(("sky", "road"), ((0, 0, 255), (9, 9, 9))).colours(np.array([[0, 255]])).tolist()
            [[[0, 0, 255], [0, 0, 0]]]
        """
        table = np.zeros((max(self.num_classes + 1, 256), 3), np.uint8)
        table[: self.num_classes] = self.palette
        painted = np.empty((*mask.shape, 3), np.uint8)
        step = max(1, _PAINTED_AT_A_TIME // max(1, mask[:1].size))
        for top in range(0, len(mask), step):  # looking up makes eight bytes of every index
            part = mask[top : top + step]
            if part.dtype != np.uint8:  # every uint8 has its row; of the rest, what is no class shares the last, black
                part = np.where((part >= 0) & (part < self.num_classes), part, len(table) - 1)
            painted[top : top + step] = table.take(part, axis=0)
        return painted

    def to_json(self) -> dict[str, Any]:
        """As plain values for JSON; :meth:`from_json` is the way back."""
        return {
            "names": list(self.names),
            "palette": [list(c) for c in self.palette],
            "ignore_index": self.ignore_index,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ClassInfo:
        """From the values of :meth:`to_json`.

        Raises:
            ConfigError: A field is missing or of the wrong kind.
        """
        try:
            _check_count(len(value["names"]))  # before anything is made of them
            palette = tuple((int(r), int(g), int(b)) for r, g, b in value["palette"])
            return cls(tuple(str(n) for n in value["names"]), palette, int(value["ignore_index"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"expected a class table with names, palette and ignore_index, got {value!r:.200} ({error!r:.200})"
            ) from error


@dataclass(frozen=True)
class LabelTable:
    """How mask files write classes: pixel values, or RGB colours, each with the class it stands for.

    Args:
        values: Value in an index mask -> class index or the class table's ``ignore_index``.
        colours: RGB colour in a colour mask -> class index or ``ignore_index``; empty where colours are not expected.
        declared_in: The user's file that lists the classes, named in messages; empty where they are fixed.
    """

    values: Mapping[int, int]
    colours: Mapping[Colour, int] = field(default_factory=dict)
    declared_in: str = ""

    @classmethod
    def identity(cls, class_info: ClassInfo, *, void_values: Sequence[int] = (255,)) -> LabelTable:
        """Values are the class indices; ``void_values`` mean void; colours are the palette's."""
        values = {i: i for i in range(class_info.num_classes)}
        values |= {v: class_info.ignore_index for v in (*void_values, class_info.ignore_index) if v not in values}
        return cls(values, {colour: i for i, colour in reversed(list(enumerate(class_info.palette)))})
