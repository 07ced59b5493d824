"""OpenVINO: writing files, and scoring with them or with ONNX models on Intel and AMD processors.

In: a traced segmenter, or a file. Out: files, or a :class:`~refineseg.scoring.Scorer`. The only door to ``openvino``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from refineseg.errors import ConfigError
from refineseg.files.writing import folder_beside, write_error
from refineseg.runtimes.description import KEY, Description
from refineseg.runtimes.onnx_runtime import onnx_model
from refineseg.runtimes.program_scorer import ProgramScorer
from refineseg.runtimes.programs import OpenVinoProgram, load_openvino


def openvino_model(program: Any, description: Description) -> Any:  # noqa: ANN401 - ExportedProgram -> openvino.Model
    """A traced segmenter as an OpenVINO model in memory, described in its metadata.

    It goes through ONNX: OpenVINO's own reader of traced programs does not know arithmetic on sizes.

    Args:
        program: Program from :func:`~refineseg.runtimes.graph.export_program`; it stays as it is.
        description: What it is.

    Raises:
        MissingExtraError: openvino or onnx is not installed.
    """
    return openvino_from_onnx(onnx_model(program, description), description)


def openvino_from_onnx(model: Any, description: Description) -> Any:  # noqa: ANN401 - onnx.ModelProto -> openvino.Model
    """An ONNX model as an OpenVINO model in memory, with a description of its own."""
    model = load_openvino().Core().read_model(model.SerializeToString())
    model.set_rt_info(description.to_text(), [KEY])
    return model


def write_openvino_model(model: Any, path: Path) -> None:  # noqa: ANN401 - openvino.Model
    """Write ``path`` (.xml) and its weights beside it (.bin); the .xml, which names them, comes last.

    Raises:
        ConfigError: Another ending than .xml.
        OutputError: The files cannot be written.
    """
    if path.suffix != ".xml":
        raise ConfigError(f"expected a name ending in .xml for an OpenVINO file, got {path}")
    with folder_beside(path) as folder:
        written = folder / path.name
        try:
            load_openvino().save_model(model, str(written), compress_to_fp16=False)
        except RuntimeError as error:
            raise write_error(path, error) from error
        written.with_suffix(".bin").replace(path.with_suffix(".bin"))
        written.replace(path)


class OpenVinoScorer(ProgramScorer):
    """A model in OpenVINO; the arguments are those of :class:`~refineseg.runtimes.programs.OpenVinoProgram`."""

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - Path, or openvino.Model
        *,
        precision: Literal["float32", "bfloat16"] = "float32",
        num_threads: int | None = None,
    ) -> None:
        super().__init__(OpenVinoProgram(model, precision=precision, num_threads=num_threads))
