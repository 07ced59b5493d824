"""Pieces of an image: rectangles, images that need not be in memory, and how prediction is to cut them.

In: what ``--tile``, ``--memory``, ``--overlap`` and ``--tile-mode`` say. Out: values that
:mod:`refineseg.predict.exact.tiled_scorer` and everything that walks over an image in tiles share.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from refineseg.errors import ConfigError

TileMode = Literal["exact", "blend"]

SMALLEST_TILE = 32
"""Pixels: the coarsest stride of every encoder."""

_LEAST_MEMORY = 10**6  # less is an amount whose unit was forgotten
_MOST_MEMORY = 2.0**62
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@dataclass(frozen=True, order=True)
class Region:
    """A half-open rectangle in pixels of a whole image: rows ``top <= y < bottom``, columns ``left <= x < right``.

    Args:
        top: First row.
        left: First column.
        bottom: Row after the last.
        right: Column after the last.

    Raises:
        ConfigError: A rectangle without pixels, or one that begins before the image.

    Example:
        >>> Region(10, 20, 40, 70).size_hw
        (30, 50)
    """

    top: int
    left: int
    bottom: int
    right: int

    def __post_init__(self) -> None:
        if self.top < 0 or self.left < 0 or self.bottom <= self.top or self.right <= self.left:
            raise ConfigError(f"expected a region with pixels, from (0, 0) on, got {self}")

    @classmethod
    def whole(cls, size_hw: tuple[int, int]) -> Region:
        """All of an image."""
        return cls(0, 0, *size_hw)

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """For ``array[region.slices]`` with an array of the whole image, (H, W) or (H, W, C)."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def slices_in(self, outer: Region) -> tuple[slice, slice]:
        """For an array that holds ``outer`` only."""
        return (
            slice(self.top - outer.top, self.bottom - outer.top),
            slice(self.left - outer.left, self.right - outer.left),
        )

    def contains(self, other: Region) -> bool:
        """Whether every pixel of the other is in here."""
        return (
            self.top <= other.top
            and self.left <= other.left
            and other.bottom <= self.bottom
            and other.right <= self.right
        )

    def intersection(self, other: Region) -> Region | None:
        """The pixels in both; None where there are none."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Region(top, left, bottom, right) if top < bottom and left < right else None

    def grown(self, pixels: int, *, size_hw: tuple[int, int]) -> Region:
        """With so many more pixels on every side, as far as an image of that size has them."""
        return Region(
            max(0, self.top - pixels),
            max(0, self.left - pixels),
            min(size_hw[0], self.bottom + pixels),
            min(size_hw[1], self.right + pixels),
        )


def grid(size_hw: tuple[int, int], tile_hw: tuple[int, int]) -> tuple[Region, ...]:
    """Disjoint regions that cover an image, row by row; those at the bottom and the right may be smaller.

    Example:
        >>> [region.size_hw for region in grid((5, 3), (4, 2))]
        [(4, 2), (4, 1), (1, 2), (1, 1)]
    """
    return tuple(_grid(size_hw, tile_hw))


def _grid(size_hw: tuple[int, int], tile_hw: tuple[int, int]) -> Iterator[Region]:
    for top in range(0, size_hw[0], tile_hw[0]):
        for left in range(0, size_hw[1], tile_hw[1]):
            yield Region(top, left, min(top + tile_hw[0], size_hw[0]), min(left + tile_hw[1], size_hw[1]))


@runtime_checkable
class PixelSource(Protocol):
    """An image that need not be in memory."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width."""

    @property
    def num_channels(self) -> int:
        """C."""

    def read(self, region: Region) -> NDArray[np.uint8]:
        """The pixels of a region inside the image, (h, w, C) uint8."""


class ArraySource:
    """An image in memory (or in a memory-mapped file) as a source.

    Args:
        image: (H, W, C) uint8; it is not copied.

    Raises:
        ConfigError: Not such an array.

    Example:
        >>> ArraySource(np.zeros((20, 30, 3), np.uint8)).read(Region(0, 0, 4, 5)).shape
        (4, 5, 3)
    """

    def __init__(self, image: NDArray[Any]) -> None:
        if image.dtype != np.uint8 or image.ndim != 3 or not image.size:
            raise ConfigError(
                f"expected an image (H, W, channels) of uint8 pixels 0..255, got {image.dtype} of shape {image.shape}"
            )
        self._image: NDArray[np.uint8] = image

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width."""
        return self._image.shape[0], self._image.shape[1]

    @property
    def num_channels(self) -> int:
        """C."""
        return int(self._image.shape[2])

    def read(self, region: Region) -> NDArray[np.uint8]:
        """The pixels of a region."""
        return self._image[region.slices]


def parse_bytes(text: str) -> int:
    """``4GB``, ``512 MB``, ``1.5GiB`` or a plain number of bytes.

    Raises:
        ConfigError: Something else, or nothing at all.

    Example:
        >>> parse_bytes("4GB"), parse_bytes("1.5GiB")
        (4000000000, 1610612736)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(|[kmgt]i?)b?\s*", text.lower())
    number = int(min(float(match[1]) * _UNITS[match[2]], _MOST_MEMORY)) if match else 0
    if number < 1:
        raise ConfigError(f"expected an amount of memory such as 4GB, 512MB or 4GiB, got {text!r}")
    return number


@dataclass(frozen=True)
class TilingOptions:
    """How an image is cut for prediction.

    Args:
        tile: ``auto``: images that do not fit into the memory are cut into the largest tiles that do; ``off``: never;
            a number: tiles of so many pixels a side, whatever the image.
        memory_bytes: What prediction may take in all, the program and the network included; None: half of what is free.
        mode: ``exact``: the very result of the whole image; ``blend``: overlapping tiles, averaged where they overlap.
        overlap: Overlap of the tiles of ``blend``, in pixels.

    Raises:
        ConfigError: A tile below 32 pixels, no memory, an unknown word, or an overlap that is not below the tile.
    """

    tile: Literal["auto", "off"] | int = "auto"
    memory_bytes: int | None = None
    mode: TileMode = "exact"
    overlap: int = 128

    def __post_init__(self) -> None:
        if isinstance(self.tile, str) and self.tile not in ("auto", "off"):
            raise ConfigError(f"expected a tile of auto, off or a number of pixels, got {self.tile!r}")
        if isinstance(self.tile, int) and self.tile < SMALLEST_TILE:
            raise ConfigError(
                f"expected tiles of at least {SMALLEST_TILE} pixels, got {self.tile}; 1024 is a usual size"
            )
        if self.memory_bytes is not None and self.memory_bytes < 1:
            raise ConfigError(f"expected memory_bytes of at least 1, got {self.memory_bytes}; give for instance 4GB")
        if self.mode not in get_args(TileMode):
            raise ConfigError(f"expected a tile mode of {', '.join(get_args(TileMode))}, got {self.mode!r}")
        if self.overlap < 0 or (isinstance(self.tile, int) and self.mode == "blend" and 2 * self.overlap > self.tile):
            raise ConfigError(
                f"expected an overlap from 0 to half of the tile ({self.tile}), got {self.overlap}; choose larger "
                "tiles or a smaller overlap"
            )

    @classmethod
    def parse(
        cls, *, tile: str = "auto", memory: str | None = None, mode: str = "exact", overlap: int = 128
    ) -> TilingOptions:
        """From the words of the command line.

        Args:
            tile: ``auto``, ``off`` or a number of pixels.
            memory: As :func:`parse_bytes` takes it.
            mode: ``exact`` or ``blend``.
            overlap: Pixels.

        Raises:
            ConfigError: Words that mean nothing here.

        Example:
            >>> TilingOptions.parse(tile="1024", memory="4GB").tile
            1024
        """
        words: Literal["auto", "off"] | int = "off" if tile == "off" else "auto"
        if tile not in ("auto", "off"):
            if not (tile.isascii() and tile.isdigit() and len(tile) < 10):
                raise ConfigError(f"expected --tile auto, off or a number of pixels, got {tile!r}")
            words = int(tile)
        if mode not in get_args(TileMode):
            raise ConfigError(f"expected --tile-mode of {', '.join(get_args(TileMode))}, got {mode!r}")
        chosen: TileMode = "blend" if mode == "blend" else "exact"
        memory_bytes = None if memory is None else parse_bytes(memory)
        if memory_bytes is not None and memory_bytes < _LEAST_MEMORY:
            raise ConfigError(f"expected --memory of 1MB at least, got {memory!r}; write the unit, for instance 4GB")
        return cls(words, memory_bytes, chosen, overlap)
