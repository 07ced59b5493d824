"""Programs of ``torch.export``: writing files, and scoring with them without this package's networks.

In: a traced segmenter, or a file (``.pt2``). Out: a file, or a :class:`~refineseg.scoring.Scorer`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from refineseg.devices import is_out_of_memory
from refineseg.errors import ImageSizeError, ModelFileError, told
from refineseg.files.writing import written_beside
from refineseg.runtimes.description import KEY, Description
from refineseg.runtimes.program_files import program_bytes, read_program
from refineseg.runtimes.program_scorer import DescribedScorer
from refineseg.runtimes.table import Output

SMALLEST_SIDE = 33
"""Height and width that a program for any size takes at least: torch.export treats smaller ones as another case."""


def write_torch_program(program: Any, description: Description, path: Path) -> None:  # noqa: ANN401 - ExportedProgram
    """Write a traced segmenter, beside and then renamed.

    Raises:
        ConfigError: It calls functions that such a file may not.
    """
    content = program_bytes(program, {KEY: description.to_text()})
    with written_beside(path) as temporary:
        temporary.write_bytes(content)


class TorchProgramScorer(DescribedScorer):
    """A traced segmenter.

    Args:
        source: A file of :func:`write_torch_program`, or the content of one.
        device: Device that computes.

    Raises:
        ModelFileError: Not such a file.
    """

    def __init__(self, source: Path | bytes, *, device: torch.device) -> None:
        self._path = source if isinstance(source, Path) else Path("the traced program")
        self._call, texts = read_program(source, self._path, device=device)
        self.description = Description.from_text(texts.get(KEY), self._path)
        if len(self._call.outputs) != len(self.description.outputs):
            outputs = " and ".join(self.description.outputs)
            raise ModelFileError(f"expected {outputs} from {self._path}, got other outputs; export the model again")
        self._device = device

    @torch.inference_mode()
    def _run(self, output: Output, images: Tensor) -> Tensor:
        self.description.check(output, str(images.dtype).removeprefix("torch."), tuple(images.shape), self._path)
        if self.description.size_hw is None and min(images.shape[2:]) < SMALLEST_SIDE:
            raise ImageSizeError(
                f"expected images of at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels for {self._path}, got "
                f"{images.shape[2]}x{images.shape[3]}; use the model file, or an .onnx file"
            )
        try:
            results = self._call(images.to(self._device))
        except (RuntimeError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            if is_out_of_memory(error):
                raise
            raise ModelFileError(f"expected a program that computes, got {self._path} ({told(error)})") from error
        found: Tensor = results[self.description.outputs.index(output)]
        self.description.check_result(found, output, tuple(images.shape), self._path)
        return found
