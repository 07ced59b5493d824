"""Any image that a program has at hand, read by the contract of :mod:`refineseg.images.reading`; without torch.

In: an array, a Pillow image, a tensor or a path. Out: :class:`~refineseg.images.files.Picture`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refineseg.errors import ConfigError
from refineseg.images.decoding import Stored, held
from refineseg.images.files import Picture, as_picture, read_picture
from refineseg.images.reading import USUAL, Reading

AnyImage = Any
"""An array, a Pillow image, a tensor, or a path; :func:`picture_of` says which arrays."""

_BANDS = {
    1: ("gray",),
    2: ("gray", "alpha"),
    3: ("red", "green", "blue"),
    4: ("red", "green", "blue", "alpha"),
}
_ARRAY, _IMAGE = Path("array"), Path("image")  # names for messages


def picture_of(image: AnyImage, *, reading: Reading = USUAL, num_channels: int = 3) -> Picture:
    """An image as a network sees it, whatever it is held in; one picture gives one result in each of them.

    Args:
        image: A path; a Pillow image; an array ``(H, W)`` grey, ``(H, W, 1)``, ``(H, W, 2)`` grey with opacity,
            ``(H, W, 3)`` RGB, ``(H, W, 4)`` RGBA, or with as many channels as the model has; or a tensor with the
            channels first, ``(C, H, W)`` or ``(1, C, H, W)``. Pixels that are not uint8 are scaled as those of files.
            Pixels that a masked array masks in all channels hold no data.
        reading: Bands, scaling and nodata; ``Reading(value_range=(0, 1))`` for floating-point pixels from 0 to 1.
        num_channels: Number of channels of the model.

    Raises:
        ImageError: The file or Pillow image cannot be read, or has not the bands that are asked for.
        ConfigError: No such array, or a reading that does not fit it.

    Example:
        >>> grey = np.full((2, 3), 7, np.uint8)
        >>> picture_of(grey).image.shape
        (2, 3, 3)
    """
    if isinstance(image, str | Path):
        return read_picture(Path(image), reading=reading, num_channels=num_channels)
    if isinstance(image, Image.Image):
        name = getattr(image, "filename", "")
        return as_picture(held(image, Path(name) if name else _IMAGE), reading, num_channels=num_channels)
    values = _channels_last(image, num_channels)
    count = values.shape[2]
    if count == num_channels and count != 3:
        colours: tuple[str, ...] = ("undefined",) * count
    elif count in _BANDS:
        colours = _BANDS[count]
    elif reading.bands is not None:
        colours = ("undefined",) * count
    else:
        raise ConfigError(
            f"expected an image (H, W), (H, W, 1) to (H, W, 4) or (H, W, {num_channels}), got an array of shape "
            f"{values.shape}; where the channels stand first, say image.transpose(1, 2, 0)"
        )
    num_bits = 1 if values.dtype == np.bool_ else 8 * values.dtype.itemsize
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    unmasked: NDArray[np.bool_] | None = None
    if isinstance(image, np.ma.MaskedArray):
        unmasked = np.logical_or.reduce((~np.ma.getmaskarray(image)).reshape(values.shape), axis=2)
    stored = Stored(_ARRAY, values.transpose(2, 0, 1), colours, num_bits, unmasked=unmasked)
    return as_picture(stored, reading, num_channels=num_channels)


def seen_by(image: NDArray[np.uint8], num_channels: int) -> NDArray[np.uint8]:
    """RGB pixels, of a video's frame or a data set's image, as a model of 3 channels sees them, or of one (the first).

    Args:
        image: ``(H, W, 3)`` RGB.
        num_channels: Number of channels of the model.

    Returns:
        ``(H, W, 3)``, or ``(H, W, 1)``, as of image files.

    Raises:
        ConfigError: A model of other channels.
    """
    if num_channels == 3:
        return image
    if num_channels != 1:
        raise ConfigError(
            f"expected a model of 1 or 3 channels for RGB images (of videos and data sets), got one of {num_channels}; "
            "predict image files that have its bands"
        )
    return picture_of(image, num_channels=1).image


def _channels_last(image: AnyImage, num_channels: int) -> NDArray[Any]:
    """An array or tensor as ``(H, W, C)`` numbers."""
    torch = sys.modules.get("torch")  # where it is not loaded, nobody has a tensor
    if torch is not None and isinstance(image, torch.Tensor):
        try:
            tensor = image.detach().cpu()
            tensor = tensor[0] if tensor.ndim == 4 and len(tensor) == 1 else tensor
            values: NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        except (TypeError, RuntimeError) as error:  # without values (meta), sparse, of a type that NumPy has not
            raise ConfigError(
                f"expected a dense tensor of integers or usual floats, got {image.dtype}, {image.layout} on "
                f"{image.device} ({str(error).splitlines()[0]:.100}); tensor.to_dense() or tensor.float() may help"
            ) from error
        if values.ndim == 3:
            if len(values) not in (*_BANDS, num_channels):
                raise ConfigError(
                    f"expected a tensor (C, H, W) of an image, got one of shape {tuple(image.shape)}; where the "
                    "channels stand last, say tensor.permute(2, 0, 1)"
                )
            values = values.transpose(1, 2, 0)
    else:
        try:
            values = np.asarray(image)
        except ValueError as error:  # rows of different lengths
            raise ConfigError(f"expected an array (H, W, channels), got {type(image).__name__} ({error})") from error
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or not values.size or values.dtype.kind not in "buif":
        what = f"{values.dtype} of shape {values.shape}" if values.ndim else type(image).__name__
        raise ConfigError(f"expected an image as a path, Pillow image, tensor or array (H, W, channels), got {what}")
    return values.astype(values.dtype.newbyteorder("="), copy=False)  # tifffile gives the file's order of bytes
