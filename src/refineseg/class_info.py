"""Classes of a model or data set: names, colours, and which value means "not labelled".

In: names and colours. Out: :class:`ClassInfo`, the one object that says what a class index means, carried by data sets,
model files and predictions; and :class:`LabelTable`, how one data set writes classes into its mask files.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.errors import ConfigError

Colour = tuple[int, int, int]
MOST_CLASSES = 65535
"""Of 16-bit masks, one value being void."""
MOST_VALUE = 65535
"""The largest value in a 16-bit mask."""

_PAINTED_AT_A_TIME = 2**18  # pixels

_DEFAULT_COLOURS = bytes.fromhex(
    "0072b2e69f00009e7356b4e9d55e00f0e442cc79a70a0afaaafaaa0a5ad7aa0a320afafaaaaa5aaa0a85aafa0ad70afa"
    "325a32fad7fafaaa850aaa32325a850a32d7aa85fa855a5a85fad7aad75a855a0a850aaafa5ad785325afaaaaa0afa32"
    "d70a0a3285850a85fa85fa855a32fa0ad7fa5a8532fa3285aa32aaaad70ad7d7aafaaafa85320aaa855a855afa0a5a5a"
    "0ad78585d7d785aafafad70afa85aaaa0a0ad785328532d785328585fa5a85aa85aaaad732850aaa5ad7fa325afad75a"
    "5a0afa0afad7d75aaafa855a853232aad7fa5a32aa85fa0a855a8585850a0afaaafa85faaa0afa5a855a0a85aafa850a"
    "fad78585fafa0a5afaaa3232aa85d75aaa0afa0aaa85faaa5a0ad75a5a32d75afad7aa320aaaaa325aaafad7aaaa0a5a"
    "aa5a325ad70ad7aad7aa0ad785d785d785fa0a5a0ad7d70ad70a850a32fafa85850aaafaaa85325afa0a5a5a855ad7aa"
    "0afa85fa32fa5a5a0afa85d785aa0ad785858532aa320afad7d78585d7fafa320ad70a5a5a85fa0ad75aaa85aaaa0aaa"
    "aa5a0a85855a850afad7d75a0ad7d75a5aaaaad7aa0a8532d75a8532fa5ad7d7fad732d7d7850a855a32d7aa850a8585"
    "5afafa8585fa85d70ad70a325a32d7aa3285faaad7d7aa5afa0ad70a5a32aaaa85aafa5afa5a0a3232fa0a85d7aa325a"
    "5afad7d7855afad732325a0ad75ad7aafa858532fa5aaa858585aafa0a320afa0afaaa5a5a5ad7aa5a5a5ad7faaa5aaa"
    "5a850a5afaaa850ad7aafa320a855aaaaafad75a320a5a855a5afafaaa0a85d7aad70aaa8585325afa85d7aafad75a5a"
    "aa32faaa5a85fa85325ad7d7aad7858585d7325afafa0a850ad70aaa320a0aaa5afa5afa5aaaaaaaaa32855aaa3232d7"
    "d7325a85fa32d785aad7320a5aaafa5ad785d7aa0afa32d7fa5aaa85aa5a32fafaaa32d732fa0afa0a0a5a85aa32faaa"
    "fa5a5a325ad7d7d732d785d7d73285aa850a5aaa5ad732fa5afa3285aad732fad7fa3232fa5a85855ad7faaa320a850a"
    "32d7fafa0afa32aa85d732aa32fa32d7323285d75aaa5afa0ad7aa5aaad70a5aaa328532aad732fa32aafa5a325ad75a"
)
"""256 colours: Okabe and Ito's seven, then each time the one that is farthest from those before in CIELAB, also for
eyes without red or green cones. None is black, white, or a colour of :func:`voc_palette`."""


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


def default_palette(num_colours: int) -> tuple[Colour, ...]:
    """Colours for classes that have none of their own: neighbours differ, for colour-blind readers, too.

    Args:
        num_colours: How many; after 256 they begin again.

    Returns:
        RGB triples, each 0..255; the first is blue.
    """
    known = len(_DEFAULT_COLOURS) // 3
    triples = [_DEFAULT_COLOURS[3 * i : 3 * i + 3] for i in range(known)]
    return tuple((red, green, blue) for red, green, blue in (triples[i % known] for i in range(num_colours)))


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
        palette: One RGB colour (0..255) per class; by default :func:`default_palette`.
        ignore_index: Mask value of void (unlabelled) pixels; it takes no part in loss or metrics.

    Raises:
        ConfigError: No classes, equal names, a palette that does not fit, or a void value that is a class; or values of
            another kind: one text in place of the names, a colour or void value that is no whole number.

    Example:
        >>> ClassInfo(names=("sky", "road")).num_classes
        2
    """

    names: tuple[str, ...]
    palette: tuple[Colour, ...] = ()
    ignore_index: int = 255

    def __post_init__(self) -> None:
        self._normalise()
        if not self.names:
            raise ConfigError("expected at least one class, got none; give the class names")
        _check_count(len(self.names))
        doubled = sorted(name for name, count in Counter(self.names).items() if count > 1)
        if doubled:
            raise ConfigError(f"expected different class names, got {doubled} more than once; rename them")
        if not self.palette:
            object.__setattr__(self, "palette", default_palette(len(self.names)))
        if len(self.palette) != len(self.names):
            raise ConfigError(
                f"expected one colour per class, got {len(self.palette)} colours for {len(self.names)} classes"
            )
        for name, colour in zip(self.names, self.palette, strict=True):
            if len(colour) != 3 or not all(0 <= c <= 255 for c in colour):
                raise ConfigError(f"expected three numbers 0..255 as the colour of {name!r}, got {colour}")
        if not 0 <= self.ignore_index <= MOST_VALUE:
            raise ConfigError(
                f"expected a void value of 0 to {MOST_VALUE}, which masks can hold, got {self.ignore_index}; "
                "use 255 (or 65535 with more than 255 classes)"
            )
        if self.ignore_index < len(self.names):
            raise ConfigError(
                f"expected a void value outside the classes 0..{len(self.names) - 1}, got {self.ignore_index}; "
                "use 255 (or 65535 with more than 255 classes)"
            )

    def _normalise(self) -> None:
        """Lists, arrays and NumPy's numbers become tuples and whole numbers, which compare and are written alike."""
        given: Any = self.names
        names = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (None,)
        if not all(isinstance(name, str) for name in names):
            raise ConfigError(f"expected a tuple of class names, got {given!r:.200}; ('sky', 'road') for instance")
        try:
            palette = tuple(tuple(map(operator.index, colour)) for colour in self.palette)
            void = operator.index(self.ignore_index)
        except TypeError as error:
            raise ConfigError(
                f"expected whole numbers as colours and as void value, got {self.palette!r:.200} and "
                f"{self.ignore_index!r:.80}"
            ) from error
        for field_name, value in (("names", tuple(map(str, names))), ("palette", palette), ("ignore_index", void)):
            object.__setattr__(self, field_name, value)

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.names)

    def means_as(self, other: ClassInfo) -> bool:
        """Whether masks of the two mean the same; colours may differ."""
        return (self.names, self.ignore_index) == (other.names, other.ignore_index)

    @property
    def mask_dtype(self) -> np.dtype[Any]:
        """The dtype of masks: the smallest that holds all classes and void, see :func:`index_dtype`."""
        return index_dtype(max(self.num_classes - 1, self.ignore_index))

    @classmethod
    def generic(cls, num_classes: int) -> ClassInfo:
        """Classes without a meaning yet: ``class_0 ..`` in the default colours."""
        _check_count(num_classes)  # before so many names are made
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
        names_void: Whether that file lists 255 as an entry that is void.
    """

    values: Mapping[int, int]
    colours: Mapping[Colour, int] = field(default_factory=dict)
    declared_in: str = ""
    names_void: bool = False

    @classmethod
    def identity(cls, class_info: ClassInfo, *, void_values: Sequence[int] = (255,)) -> LabelTable:
        """Values are the class indices; ``void_values`` mean void; colours are the palette's."""
        values = {i: i for i in range(class_info.num_classes)}
        values |= {v: class_info.ignore_index for v in (*void_values, class_info.ignore_index) if v not in values}
        return cls(values, {colour: i for i, colour in reversed(list(enumerate(class_info.palette)))})
