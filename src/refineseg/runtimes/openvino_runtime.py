"""OpenVINO: writing files, and scoring with them or with ONNX models on Intel and AMD processors.

In: a traced segmenter, or a file. Out: files, or a :class:`~refineseg.scoring.Scorer`. The only door to ``openvino``.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refineseg.devices import is_out_of_memory
from refineseg.errors import ConfigError, MissingExtraError, ModelFileError, told
from refineseg.files.writing import folder_beside, write_error
from refineseg.runtimes.description import KEY, DescribedScorer, Description
from refineseg.runtimes.onnx_runtime import onnx_model, read_description
from refineseg.runtimes.table import Output

_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}
_COMPILED_SIZES = 4
"""So many sizes get a program of their own, which computes up to a tenth faster; all others share one for any size."""


def _openvino() -> Any:  # noqa: ANN401 - a module
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", extra="openvino", purpose="score with OpenVINO") from error
    return openvino


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
    model = _openvino().Core().read_model(model.SerializeToString())
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
            _openvino().save_model(model, str(written), compress_to_fp16=False)
        except RuntimeError as error:
            raise write_error(path, error) from error
        written.with_suffix(".bin").replace(path.with_suffix(".bin"))
        written.replace(path)


class OpenVinoScorer(DescribedScorer):
    """A model in OpenVINO on the CPU.

    Args:
        model: An OpenVINO (.xml) or ONNX file, or a model in memory.
        precision: ``float32``, or ``bfloat16``. Without being told, OpenVINO computes in bfloat16 where the processor
            can; here it is always told. A quantised model computes its other layers in bfloat16 where it can.
        num_threads: None: as many as PyTorch uses.

    Raises:
        MissingExtraError: openvino is not installed.
        ModelFileError: Not such a file.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - Path, or openvino.Model
        *,
        precision: Literal["float32", "bfloat16"] = "float32",
        num_threads: int | None = None,
    ) -> None:
        openvino = _openvino()
        self._core = openvino.Core()
        self._make = openvino.Model
        self._name = model if isinstance(model, Path) else "the exported model"
        if isinstance(model, Path):
            try:
                _check_kind(model)
                model = self._core.read_model(str(model))
            except (RuntimeError, OSError, ElementTree.ParseError, ValueError) as error:
                raise ModelFileError(
                    f"expected an OpenVINO file with its .bin beside it, or an ONNX file, got {self._name}, which is "
                    f"damaged or not complete ({told(error)}); export the model again with `refineseg export`"
                ) from error
        self.description = Description.from_text(_metadata(model), Path(str(self._name)))
        given = {name for node in model.outputs for name in node.get_names()}
        self.description.check_file(given, Path(str(self._name)))
        self._config = {
            "INFERENCE_PRECISION_HINT": _HINTS["int8" if self.description.precision == "int8" else precision],
            "INFERENCE_NUM_THREADS": num_threads or torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._model = model
        self._compiled: dict[tuple[Output, tuple[int, ...]], Any] = {}
        self._lock = threading.Lock()

    def _program(self, output: Output, shape: tuple[int, ...]) -> Any:  # noqa: ANN401 - CompiledModel
        """The program for one output and one shape, or for any.

        Knowing the size, OpenVINO lays out memory once and for all; but compiling takes as long as some images do, and
        each program has its own working memory. What they compute is equal to the last bit.
        """
        key: tuple[Output, tuple[int, ...]] = (output, shape)
        if key not in self._compiled and len(self._compiled) >= _COMPILED_SIZES:
            key = (output, ())
        if key not in self._compiled:
            copy = self._model.clone()
            alone = self._make([copy.output(output)], copy.get_parameters(), output)
            if self.description.size_hw is None and key[1]:
                alone.reshape(list(shape))
            self._compiled[key] = self._core.compile_model(alone, "CPU", self._config)
        return self._compiled[key]

    def _run(self, output: Output, images: Tensor) -> Tensor:
        self.description.check(output, images, str(self._name))
        pixels = np.ascontiguousarray(images.cpu().numpy())
        try:
            with self._lock:  # a program computes one thing at a time
                result: NDArray[Any] = self._program(output, tuple(images.shape))(pixels)[0]
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise ModelFileError(f"expected a model that computes, got {self._name} ({told(error)})") from error
        if output == "logits":
            result = result.astype(np.float32, copy=False)
        return self.description.checked(torch.from_numpy(result), output, images, str(self._name))


def _check_kind(path: Path) -> None:
    """Refuse what is no file of the kind its ending says: OpenVINO would try it as files of other makers, aloud.

    Raises:
        ModelFileError: No ONNX file.
        ValueError: XML of something else, or with definitions that may grow without end.
        ElementTree.ParseError: No XML.
    """
    if path.suffix == ".onnx":
        read_description(path)
        return
    content = path.read_bytes()
    if b"<!" in content.replace(b"<!--", b""):
        raise ValueError("definitions in the XML")
    root = ElementTree.fromstring(content)
    if root.tag != "net":
        raise ValueError(f"XML of {root.tag:.40}")
    if not path.with_suffix(".bin").is_file():
        raise ValueError(f"there is no {path.with_suffix('.bin').name}")


def _metadata(model: Any) -> str | None:  # noqa: ANN401 - openvino.Model
    """The description in an OpenVINO model, or in an ONNX file that OpenVINO has read."""
    for path in ([KEY], ["framework", KEY]):
        if model.has_rt_info(path):
            return str(model.get_rt_info(path).value)
    return None
