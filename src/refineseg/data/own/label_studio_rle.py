"""The run lengths in which Label Studio stores brushes.

In: the bytes of ``value.rle``. Out: ``(H, W)`` booleans.

The bits, the highest of a byte first: 32 for the number of values, 5 for the bits of a value less one, four times 4 for
four widths less one. Then, until all values are there: 1 bit (run or list), 2 bits (which of the four widths), a number
of that width (values less one), and one value for a run or each value of a list. The values are the RGBA bytes of the
image, row by row; what is painted has an alpha above 0.

Source: the format of ``@thi.ng/rle-pack``, as label-studio-converter reads it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CHANNELS = 4


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read(self, count: int) -> int:
        """The next bits as a number.

        Raises:
            ValueError: There are fewer.
        """
        end = self._at + count
        if end > 8 * len(self._data):
            raise ValueError("run lengths that end too early")
        number = int.from_bytes(self._data[self._at // 8 : -(-end // 8)], "big") >> (-end % 8)
        self._at = end
        return number & ((1 << count) - 1)


def decode_values(data: bytes, *, expected: int) -> NDArray[np.uint8]:
    """The values, one after the other.

    Args:
        data: Bytes of ``value.rle``.
        expected: How many they must be; nothing is allocated for another number.

    Raises:
        ValueError: Another number of values, values of more than 8 bits, or data that end too early.
    """
    bits = _Bits(data)
    count, width = bits.read(32), bits.read(5) + 1
    widths = [bits.read(4) + 1 for _ in range(4)]
    if count != expected:
        raise ValueError(f"run lengths of {count} values instead of {expected}")
    if width > 8:
        raise ValueError(f"values of {width} bits")
    values = np.zeros(count, np.uint8)
    at = 0
    while at < count:
        run = bits.read(1)
        length = bits.read(widths[bits.read(2)]) + 1
        if at + length > count:
            raise ValueError("a run beyond the last value")
        if run:
            values[at : at + length] = bits.read(width)
        elif width == 8:
            values[at : at + length] = np.frombuffer(bits.read(8 * length).to_bytes(length, "big"), np.uint8)
        else:
            values[at : at + length] = [bits.read(width) for _ in range(length)]
        at += length
    return values


def brush_pixels(data: bytes, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels a brush has painted.

    Args:
        data: Bytes of ``value.rle``.
        size_hw: ``original_height`` and ``original_width``.

    Raises:
        ValueError: As :func:`decode_values`.

    Example:
        >>> data = bytes.fromhex("00000008380919c000003fee00")  # four values 0, 0, 0, 255, then a run of four 0
        >>> brush_pixels(data, (1, 2)).tolist()
        [[True, False]]
    """
    height, width = size_hw
    values = decode_values(data, expected=height * width * _CHANNELS)
    painted: NDArray[np.bool_] = values.reshape(height, width, _CHANNELS)[..., 3] > 0
    return painted
