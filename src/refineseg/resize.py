"""Resizing of feature maps: bilinear, and bicubic as MATLAB does it, and the normalisation of pixels; torch tensors.

In: maps ``(N, C, H, W)``. Out: the same maps at another size. Other libraries' bicubic differs in the kernel (most take
a = -0.75), in the border (they repeat it, MATLAB mirrors it) or does not filter when it shrinks. Nothing here knows
images or networks: the evaluation of the RefineNet authors and the enlargements inside their network both use it.

Sources: Keys, "Cubic Convolution Interpolation for Digital Image Processing", 1981; the documentation of ``imresize``.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from refineseg.errors import ConfigError

ResizeStyle = Literal["cpu", "gpu"]
"""``cpu``: each axis by its own scale; ``gpu``: both axes by the larger one, then cut at bottom and right."""


_BLOCK = 32  # new rows or columns at a time: 12 megapixels shrink to 0.8 in a seventh of the time of whole matrices

HALF = 0.5 + 1e-9
"""Added before whole values are cut off: a half is rounded upwards, in whatever order its sum was computed."""


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The kernel of Keys with a = -1/2; zero from distance 2 on."""
    x = np.abs(distance)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def cubic_taps(size: int, new_size: int, scale: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Which old pixels are in each new one, and how much of them.

    Args:
        size: Old length of an axis.
        new_size: New length.
        scale: New pixels per old one.

    Returns:
        Indices (new_size, T) and shares (new_size, T), which sum to 1; near the border an index may occur twice.
    """
    shrink = min(scale, 1.0)  # a kernel stretched by the scale averages over what is left out
    reach = 2 / shrink
    centres = (np.arange(new_size) + 0.5) / scale - 0.5
    taps = np.floor(centres - reach)[:, None] + np.arange(int(np.ceil(2 * reach)) + 2)  # (new_size, taps)
    shares = _cubic((centres[:, None] - taps) * shrink)
    shares /= shares.sum(axis=1, keepdims=True)
    mirrored = taps.astype(np.int64) % (2 * size)  # ... 1 0 | 0 1 .. size-1 | size-1 ... again and again
    return np.minimum(mirrored, 2 * size - 1 - mirrored), shares


@lru_cache(maxsize=128)
def _weights(size: int, new_size: int, scale: float) -> NDArray[np.float64]:
    """(new_size, size): how much of each old pixel is in each new one; rows sum to 1."""
    indices, shares = cubic_taps(size, new_size, scale)
    weights = np.zeros((new_size, size))
    np.add.at(weights, (np.arange(new_size)[:, None], indices), shares)
    return weights


@lru_cache(maxsize=256)
def _weights_of(size: int, new_size: int, scale: float, begin: int, end: int) -> tuple[int, NDArray[np.float64]]:
    """The same for some new pixels: the first old one that they need, and their shares of it and those behind it."""
    indices, shares = cubic_taps(size, new_size, scale)
    indices, shares = indices[begin:end], shares[begin:end]
    first = int(indices.min())
    weights = np.zeros((end - begin, int(indices.max()) + 1 - first))
    np.add.at(weights, (np.arange(end - begin)[:, None], indices - first), shares)
    return first, weights


def _check_sizes(old_hw: tuple[int, int], new_hw: tuple[int, int]) -> None:
    if min(*old_hw, *new_hw) < 1:
        (height, width), (new_height, new_width) = old_hw, new_hw
        raise ConfigError(f"expected sizes of at least 1x1, got {height}x{width} to resize to {new_height}x{new_width}")


def matlab_resize(
    x: Float[Tensor, "n c h w"], size_hw: tuple[int, int], *, style: ResizeStyle
) -> Float[Tensor, "n c h2 w2"]:
    """Resize maps with MATLAB's default ``imresize``: bicubic, pixel centres at half, filtered where it shrinks.

    The values of new pixels can leave the range of the old ones by a little (the kernel has negative parts). Gradients
    are exact. Half precision and autocast are computed in single precision and given back in the type of ``x``.

    Args:
        x: Maps of any floating-point type, on any device.
        size_hw: New height and width, at least 1.
        style: ``cpu``: each axis by its own scale, as ``imresize`` to a size does. ``gpu``: one scale for both axes,
            the larger of the two, and the top left ``size_hw`` of the result, as the RefineNet authors resize on a
            GPU, where ``imresize`` takes a scale only.

    Raises:
        ConfigError: A size below 1, or a map without pixels.

    Source: the RefineNet authors' ``my_resize``; checked against stored results.

    Example:
        >>> matlab_resize(torch.ones(1, 2, 3, 4), (5, 9), style="gpu").shape
        torch.Size([1, 2, 5, 9])
    """
    if has_torch_function_unary(x):  # whoever follows the operations of a network sees one, not its matrices
        resized: Tensor = handle_torch_function(matlab_resize, (x,), x, size_hw, style=style)
        return resized
    height, width = x.shape[2:]
    new_height, new_width = size_hw
    _check_sizes((height, width), size_hw)
    scales = new_height / height, new_width / width
    if style == "gpu":
        scales = max(scales), max(scales)
    if scales == (1.0, 1.0):
        return x[:, :, :new_height, :new_width]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    rows = torch.from_numpy(_weights(height, new_height, scales[0])).to(x.device, dtype)
    columns = torch.from_numpy(_weights(width, new_width, scales[1])).to(x.device, dtype)
    with torch.autocast(x.device.type, enabled=False):
        if new_height * width <= height * new_width:  # the axis first that leaves less to do for the other
            resized = rows @ x.to(dtype) @ columns.T
        else:
            resized = rows @ (x.to(dtype) @ columns.T)
    return resized.to(x.dtype)


def matlab_resize_images(
    images: UInt8[Tensor, "n c h w"], size_hw: tuple[int, int], *, scale: float | None = None
) -> UInt8[Tensor, "n c h2 w2"]:
    """Resize pixels with MATLAB's default ``imresize``, which rounds to whole values after each axis.

    Args:
        images: Pixels 0..255.
        size_hw: New height and width, at least 1.
        scale: Scale of both axes, as ``imresize`` to a scale; its own sizes are ``ceil(scale * size)``. None: each axis
            by new over old size, as ``imresize`` to a size.

    Raises:
        ConfigError: A size below 1, or images without pixels.

    Source: ``imresize`` filters the axis of the smaller scale first, rows at a tie, and keeps integer types in between.
    """
    if has_torch_function_unary(images):
        followed: Tensor = handle_torch_function(matlab_resize_images, (images,), images, size_hw, scale=scale)
        return followed
    sides = (images.shape[2], images.shape[3])
    _check_sizes(sides, size_hw)
    scales = tuple(new / old for new, old in zip(size_hw, sides, strict=True)) if scale is None else (scale, scale)
    with torch.autocast(images.device.type, enabled=False):
        for axis in sorted((0, 1), key=lambda axis: scales[axis]):
            if scales[axis] != 1:
                images = _resize_axis(images, axis, size_hw[axis], scales[axis])
    return images


def _resize_axis(images: Tensor, axis: int, new_size: int, scale: float) -> Tensor:
    """Rows (0) or columns (1), rounded. A new pixel depends on few old ones, so blocks of it need a part of them."""
    size = images.shape[2 + axis]
    double = torch.float32 if images.device.type == "mps" else torch.float64  # MATLAB rounds double results
    step = new_size if torch.compiler.is_compiling() else _BLOCK  # a program holds one matrix
    blocks = []
    for begin in range(0, new_size, step):
        first, weights = _weights_of(size, new_size, scale, begin, min(new_size, begin + step))
        old = images.narrow(2 + axis, first, weights.shape[1]).to(double)
        shares = torch.from_numpy(weights).to(old)
        new = shares @ old if axis == 0 else old @ shares.T
        blocks.append((new + HALF).floor_().clamp_(0, 255).to(torch.uint8))
    return torch.cat(blocks, 2 + axis)


def resize_twice(
    x: Float[Tensor, "n c h w"], padded_hw: tuple[int, int], inner_hw: tuple[int, int], size_hw: tuple[int, int]
) -> Float[Tensor, "n c h2 w2"]:
    """Bilinearly to the size of a network's input, cut to what of it was no padding, and to the size of the image.

    What changes nothing is left out, so a network without padding has its output resized once.

    Args:
        x: Logits at the network's resolution.
        padded_hw: Height and width of the network's input.
        inner_hw: Height and width of its input without padding.
        size_hw: Height and width of the image.
    """
    if padded_hw != inner_hw:
        x = F.interpolate(x, size=padded_hw, mode="bilinear", align_corners=False)[:, :, : inner_hw[0], : inner_hw[1]]
    if tuple(x.shape[2:]) != size_hw:
        x = F.interpolate(x, size=size_hw, mode="bilinear", align_corners=False)
    return x


def scaled_hw(size_hw: tuple[int, int], scale: float) -> tuple[int, int]:
    """Height and width in front of a network whose images are resized by a factor; at least 1.

    Example:
        >>> scaled_hw((3000, 4001), 0.25)
        (750, 1000)
    """
    height, width = (max(1, math.floor(side * scale + 0.5)) for side in size_hw)
    return height, width


def normalise(
    images: UInt8[Tensor, "n c h w"],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    input_scale: float,
    dtype: torch.dtype,
) -> Float[Tensor, "n c h2 w2"]:
    """Resize where it is asked for, subtract and divide, on the images' device.

    Args:
        images: Pixels 0..255.
        mean: Mean of each channel, 0..255.
        std: Standard deviation of each channel.
        input_scale: Factor of height and width; bicubic, rounded to whole pixel values.
        dtype: Type of the result.
    """
    if input_scale != 1:
        images = matlab_resize_images(images, scaled_hw((images.shape[2], images.shape[3]), input_scale))
    means, deviations = (_of_channels(values, dtype=dtype, device=images.device) for values in (mean, std))
    return (images.to(dtype) - means) / deviations


def _of_channels(values: tuple[float, ...], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(1, C, 1, 1), filled on the device: a copy from the host would make the host wait for a GPU in every step."""
    return torch.stack([torch.full((), value, dtype=dtype, device=device) for value in values]).view(1, -1, 1, 1)
