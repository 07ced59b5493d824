"""One image in, one Prediction out.

In: ``(H, W, 3)`` uint8 arrays and any Scorer (or a segmenter, which is put on a device). Out:
:class:`~refineseg.scoring.Prediction`. Training, evaluation and the command line predict through here.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError
from refineseg.scoring import Prediction, Scorer, class_map_of, probabilities_of
from refineseg.segmenter import Segmenter

Precision = Literal["float32", "bfloat16"]


def find_device(name: str) -> torch.device:
    """``auto`` (CUDA if there, else CPU), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        ConfigError: No such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"expected a device of this machine (cpu{', cuda' if torch.cuda.is_available() else ''}), got {name!r}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return device


class TorchScorer:
    """A segmenter on a device, in a precision.

    Args:
        segmenter: The model; it is moved to the device and set to evaluation mode.
        device: Where.
        precision: ``float32``, or ``bfloat16`` autocast (faster where the hardware has it, slightly other masks).
    """

    def __init__(self, segmenter: Segmenter, *, device: torch.device, precision: Precision = "float32") -> None:
        self._segmenter = segmenter.to(device).eval()
        self._device = device
        self._autocast = precision == "bfloat16"

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the logits."""
        return self._segmenter.class_info

    @torch.inference_mode()
    def logits(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """Logits at image size, on the device."""
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._autocast):
            scores: Tensor = self._segmenter(images.to(self._device))
            return scores

    def class_map(self, images: UInt8[Tensor, "n c h w"]) -> Int64[Tensor, "n h w"]:
        """The likeliest class of every pixel, on the device."""
        return class_map_of(self.logits(images))


class Predictor:
    """Predicts images one by one.

    Args:
        model: A segmenter, or any Scorer (an exported file in a runtime).
        device: For a segmenter: ``auto`` (CUDA if there, else CPU), ``cpu``, ``cuda``, ...
        precision: For a segmenter: ``float32`` or ``bfloat16``.

    Raises:
        ConfigError: No such device.

    Example:
        >>> import numpy as np, refineseg
        >>> predictor = refineseg.Predictor(refineseg.build("refinenet_lw_mobilenetv2", num_classes=4))
        >>> predictor(np.zeros((20, 30, 3), np.uint8)).mask.shape
        (20, 30)
    """

    def __init__(self, model: Segmenter | Scorer, *, device: str = "auto", precision: Precision = "float32") -> None:
        if isinstance(model, Segmenter):
            self._scorer: Scorer = TorchScorer(model, device=find_device(device), precision=precision)
        else:
            self._scorer = model

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the masks."""
        return self._scorer.class_info

    def __call__(self, image: NDArray[np.uint8], *, probabilities: bool = False) -> Prediction:
        """Predict one image.

        Args:
            image: ``(H, W, 3)`` uint8 RGB (other channels if the model was built so), any size from 1x1 up.
            probabilities: Also return the probabilities of all classes.

        Raises:
            ConfigError: Not such an array.
        """
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
            got = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ConfigError(f"expected an image (H, W, channels) of uint8 pixels 0..255, got {got}")
        batch = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]  # (1, C, H, W)
        scores: NDArray[np.float32] | None = None
        if probabilities:
            logits = self._scorer.logits(batch)
            scores = probabilities_of(logits)[0].cpu().numpy()
            classes = class_map_of(logits)
        else:
            classes = self._scorer.class_map(batch)
        dtype: type[Any] = np.uint8 if self.class_info.num_classes <= 256 else np.uint16
        return Prediction(image, classes[0].cpu().numpy().astype(dtype), self.class_info, scores)
