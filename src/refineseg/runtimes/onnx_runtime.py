"""ONNX: writing files, and scoring with them in ONNX Runtime.

In: a traced segmenter, or a file. Out: a file, or a :class:`~refineseg.scoring.Scorer`. The only door to ``onnx`` and
``onnxruntime``.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from refineseg.files.writing import written_beside
from refineseg.runtimes.description import INPUT, KEY, Description
from refineseg.runtimes.program_scorer import ProgramScorer
from refineseg.runtimes.programs import OnnxProgram, load_onnx


def onnx_model(program: Any, description: Description) -> Any:  # noqa: ANN401 - ExportedProgram -> onnx.ModelProto
    """A traced segmenter as an ONNX model in memory, described in its metadata.

    Args:
        program: Program from :func:`~refineseg.runtimes.graph.export_program`; it stays as it is.
        description: What it is.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    load_onnx()
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's exporter about itself
            exported = torch.onnx.export(
                program, dynamo=True, input_names=[INPUT], output_names=list(description.outputs), verbose=False
            )
    finally:
        log.setLevel(level)
    assert exported is not None
    model = exported.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, description.to_text()
    model.doc_string = (
        "uint8 pixels (N, C, H, W), RGB -> "
        + " and ".join(
            {"class_map": "class_map (N, H, W)", "logits": "logits (N, K, H, W)"}[o] for o in description.outputs
        )
        + "; normalisation is inside"
    )
    return model


def write_onnx_model(model: Any, path: Path) -> None:  # noqa: ANN401 - onnx.ModelProto
    """Write an ONNX model, beside and then renamed."""
    with written_beside(path) as temporary:
        load_onnx().save_model(model, str(temporary))


class OnnxScorer(ProgramScorer):
    """An ONNX model in ONNX Runtime; the arguments are those of :class:`~refineseg.runtimes.programs.OnnxProgram`."""

    def __init__(self, model: Path | bytes, *, device: str = "cpu", num_threads: int | None = None) -> None:
        super().__init__(OnnxProgram(model, device=device, num_threads=num_threads))
