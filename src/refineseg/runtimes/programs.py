"""Exported files in ONNX Runtime and OpenVINO: pixels in, classes or logits out, in arrays and without PyTorch.

In: an ``.onnx`` or ``.xml`` file, or a model in memory. Out: NumPy arrays. The only door to ``onnxruntime``, and to
``openvino`` where it computes.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from refineseg.devices import is_out_of_memory, usual_threads
from refineseg.errors import ConfigError, MissingExtraError, ModelFileError, told
from refineseg.runtimes.description import INPUT, KEY, Description
from refineseg.runtimes.table import Output

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}
_COMPILED_SIZES = 4
"""So many sizes get a program of their own, which computes up to a tenth faster; all others share one for any size."""


@runtime_checkable
class ArrayProgram(Protocol):
    """An exported file in a runtime that takes arrays."""

    description: Description

    def run(self, output: Output, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Pixels (N, C, H, W) -> ``class_map`` (N, H, W), or float32 ``logits`` (N, K, H, W).

        Raises:
            ConfigError: The file does not give them, or takes another size.
        """
        ...


def _onnxruntime() -> Any:  # noqa: ANN401 - a module
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", extra="onnx", purpose="score with ONNX files") from error
    return onnxruntime


def load_openvino() -> Any:  # noqa: ANN401 - a module
    """The module.

    Raises:
        MissingExtraError: openvino is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", extra="openvino", purpose="score with OpenVINO") from error
    return openvino


def load_onnx() -> Any:  # noqa: ANN401 - a module
    """The module, and the exporter's with it.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise MissingExtraError("onnx", extra="onnx", purpose="write ONNX files") from error
    return onnx


def read_description(path: Path) -> Description:
    """What an ONNX file says of itself.

    Raises:
        ModelFileError: It is no such file.
    """
    try:
        metadata = load_onnx().load(str(path), load_external_data=False).metadata_props
        text = next((entry.value for entry in metadata if entry.key == KEY), None)
        text = text.decode() if isinstance(text, bytes) else text  # of protobuf, where it is no text
    except MissingExtraError:
        raise
    except Exception as error:  # protobuf fails with several kinds
        raise ModelFileError(f"expected an ONNX file, got {path}, which cannot be read ({told(error)})") from error
    return Description.from_text(text, path)


def computes_on(kind: str) -> bool:
    """Whether the installed ONNX Runtime was built for a kind of device: ``cpu``, ``cuda``, ``tensorrt``."""
    return _PROVIDERS.get(kind) in _onnxruntime().get_available_providers()


def _named(path: Path) -> str | bytes:
    """What a runtime takes for a file: its name, or where that is no text its content."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.read_bytes()
    return str(path)


def _places(kind: str, index: int) -> list[Any]:
    """Providers in order; what TensorRT cannot do stays on the GPU."""
    if kind == "cpu":
        return [_PROVIDERS[kind]]
    names = (_PROVIDERS["tensorrt"], _PROVIDERS["cuda"]) if kind == "tensorrt" else (_PROVIDERS["cuda"],)
    return [(name, {"device_id": index}) for name in names]


class OnnxProgram(ArrayProgram):
    """An ONNX model in ONNX Runtime.

    Args:
        model: A file, or a model's bytes.
        device: ``cpu``, ``cuda`` or ``cuda:1``; ``tensorrt:1`` for NVIDIA's compiler inside ONNX Runtime.
        num_threads: Number of threads on a CPU; None: as many as PyTorch uses.

    Raises:
        ConfigError: The installed runtime does not know the device.
        MissingExtraError: onnxruntime is not installed.
        ModelFileError: Not such a file.
    """

    def __init__(self, model: Path | bytes, *, device: str = "cpu", num_threads: int | None = None) -> None:
        runtime = _onnxruntime()
        kind, _, index = device.partition(":")
        provider = _PROVIDERS.get(kind)
        if provider is None or not computes_on(kind):
            installed = ", ".join(runtime.get_available_providers())
            raise ConfigError(
                f"expected a device of the installed ONNX Runtime ({installed}), got {device!r}; use --device cpu, or "
                "install onnxruntime-gpu"
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = num_threads or usual_threads()
        options.log_severity_level = 3
        self._name = model if isinstance(model, Path) else Path("the exported model")
        try:
            content = _named(model) if isinstance(model, Path) else model
            places = _places(kind, int(index or 0))
            self._session = runtime.InferenceSession(content, options, providers=places, enable_fallback=0)
            metadata = self._session.get_modelmeta().custom_metadata_map  # texts that may be damaged
            given = [node.name for node in self._session.get_outputs()]
        except Exception as error:  # ONNX Runtime has exceptions of its own for every status
            raise ModelFileError(f"expected an ONNX file that runs here, got {self._name} ({told(error)})") from error
        if provider not in self._session.get_providers():  # it goes on without a word on the CPU
            raise ConfigError(
                f"expected ONNX Runtime to compute on {device}, but its {provider} did not start; install the CUDA and "
                "cuDNN that this version of onnxruntime-gpu asks for, or use --device cpu"
            )
        self.description = Description.from_text(metadata.get(KEY), self._name)
        self.description.check_file(given, self._name)
        self._run_options = runtime.RunOptions()
        self._run_options.only_execute_path_to_fetches = True  # the class map alone needs no logits at image size

    def run(self, output: Output, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """See :class:`ArrayProgram`; threads may call it together."""
        self.description.check(output, str(pixels.dtype), pixels.shape, self._name)
        try:
            result: NDArray[Any] = self._session.run(
                [output], {INPUT: np.ascontiguousarray(pixels)}, self._run_options
            )[0]
        except Exception as error:  # as above
            if is_out_of_memory(error):
                raise
            raise ModelFileError(f"expected an ONNX file that runs here, got {self._name} ({told(error)})") from error
        self.description.check_result(result, output, pixels.shape, self._name)
        return result


class OpenVinoProgram(ArrayProgram):
    """A model in OpenVINO on the CPU.

    Args:
        model: An OpenVINO (.xml) or ONNX file, or a model in memory.
        precision: ``float32``, or ``bfloat16``. Without being told, OpenVINO computes in bfloat16 where the processor
            can; here it is always told. A quantised model computes its other layers in bfloat16 where it can.
        num_threads: Number of threads; None: as many as PyTorch uses.

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
        openvino = load_openvino()
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
            "INFERENCE_NUM_THREADS": num_threads or usual_threads(),
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

    def run(self, output: Output, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """See :class:`ArrayProgram`; threads that call it together wait for each other."""
        self.description.check(output, str(pixels.dtype), pixels.shape, str(self._name))
        try:
            with self._lock:  # a program computes one thing at a time
                result: NDArray[Any] = self._program(output, pixels.shape)(np.ascontiguousarray(pixels))[0]
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise ModelFileError(f"expected a model that computes, got {self._name} ({told(error)})") from error
        self.description.check_result(result, output, pixels.shape, str(self._name))
        return result


def _check_kind(path: Path) -> None:
    """Refuse what is no file of the kind its ending says: OpenVINO would try it as files of other makers, aloud.

    Raises:
        ModelFileError: No ONNX file.
        ValueError: XML of something else, or with definitions that may grow without end.
        ElementTree.ParseError: No XML.
    """
    if path.suffix.lower() == ".onnx":
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
