"""Programs of ``torch.export``: writing files, and scoring with them without this package's networks.

In: a traced segmenter, or a file (``.pt2``). Out: a file, or a :class:`~refineseg.scoring.Scorer`.
"""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from refineseg.backends.description import KEY, Description
from refineseg.backends.table import Output
from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, ModelFileError
from refineseg.writing import written_beside

SMALLEST_SIDE = 33
"""Height and width that a program for any size takes at least: torch.export treats smaller ones as another case."""


def write_torch_program(program: Any, description: Description, path: Path) -> None:  # noqa: ANN401 - ExportedProgram
    """Write a traced segmenter, beside and then renamed."""
    content = io.BytesIO()  # given a file on a full disk, torch ends the process
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about how it stores weights that share memory
        torch.export.save(program, content, extra_files={KEY: description.to_text()})
    with written_beside(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def _read(path: Path) -> tuple[Any, Description]:
    metadata = {KEY: ""}
    try:
        traced = torch.export.load(path, extra_files=metadata)
    except Exception as error:  # zip, JSON and pickle readers each fail in their way
        raise ModelFileError(
            f"expected a program of torch.export, got {path} ({error}); packages of AOTInductor end in .aoti.pt2"
        ) from error
    return traced, Description.from_text(metadata[KEY], path)


def on_device(program: Any, device: torch.device) -> Any:  # noqa: ANN401 - ExportedProgram
    """A program that was traced on the CPU, for another device: a copy whose weights and new tensors are all there."""
    if device.type == "cpu":
        return program
    from torch.export.passes import move_to_device_pass  # imported late: what stays on the CPU does not need it

    return move_to_device_pass(copy.deepcopy(program), device)


class TorchProgramScorer:
    """A traced segmenter.

    Args:
        path: A file of :func:`write_torch_program`.
        device: Where to compute.
        program: What the file would hold, where it is in memory already; the path then is its name alone.

    Raises:
        ModelFileError: Not such a file.
    """

    def __init__(self, path: Path, *, device: torch.device, program: tuple[Any, Description] | None = None) -> None:
        if program is None:
            program = _read(path)
        traced, self.description = program
        self._path, self._device = path, device
        self._call = on_device(traced, device).module()

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the logits."""
        return self.description.spec.class_info

    @torch.inference_mode()
    def _run(self, output: Output, images: Tensor) -> Tensor:
        self.description.check(output, images, self._path)
        if self.description.size_hw is None and min(images.shape[2:]) < SMALLEST_SIDE:
            raise ConfigError(
                f"expected images of at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels for {self._path}, got "
                f"{images.shape[2]}x{images.shape[3]}; use the model file, or an .onnx file"
            )
        results: tuple[Tensor, ...] = self._call(images.to(self._device))
        return results[self.description.outputs.index(output)]

    def logits(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """Logits at image size.

        Raises:
            ConfigError: The file does not give them, or takes another size.
        """
        return self._run("logits", images)

    def class_map(self, images: UInt8[Tensor, "n c h w"]) -> Integer[Tensor, "n h w"]:
        """The likeliest class of every pixel.

        Raises:
            ConfigError: The file takes another size, or gives logits only.
        """
        return self._run("class_map", images)
