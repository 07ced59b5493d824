"""ONNX: writing files, and scoring with them in ONNX Runtime.

In: a traced segmenter, or a file. Out: a file, or a :class:`~refineseg.scoring.Scorer`. The only door to ``onnx`` and
``onnxruntime``.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refineseg.devices import is_out_of_memory
from refineseg.errors import ConfigError, MissingExtraError, ModelFileError, told
from refineseg.files.writing import written_beside
from refineseg.runtimes.description import KEY, DescribedScorer, Description
from refineseg.runtimes.graph import INPUT
from refineseg.runtimes.table import Output

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


def _onnxruntime() -> Any:  # noqa: ANN401 - a module
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", extra="onnx", purpose="score with ONNX files") from error
    return onnxruntime


def _onnx() -> Any:  # noqa: ANN401 - a module
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise MissingExtraError("onnx", extra="onnx", purpose="write ONNX files") from error
    return onnx


def onnx_model(program: Any, description: Description) -> Any:  # noqa: ANN401 - ExportedProgram -> onnx.ModelProto
    """A traced segmenter as an ONNX model in memory, described in its metadata.

    Args:
        program: Program from :func:`~refineseg.runtimes.graph.export_program`; it stays as it is.
        description: What it is.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    _onnx()
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
        _onnx().save_model(model, str(temporary))


def read_description(path: Path) -> Description:
    """What an ONNX file says of itself.

    Raises:
        ModelFileError: It is no such file.
    """
    try:
        metadata = _onnx().load(str(path), load_external_data=False).metadata_props
    except MissingExtraError:
        raise
    except Exception as error:  # protobuf fails with several kinds
        raise ModelFileError(f"expected an ONNX file, got {path}, which cannot be read ({told(error)})") from error
    return Description.from_text(next((entry.value for entry in metadata if entry.key == KEY), None), path)


def computes_on(kind: str) -> bool:
    """Whether the installed ONNX Runtime was built for a kind of device: ``cpu``, ``cuda``, ``tensorrt``."""
    return _PROVIDERS.get(kind) in _onnxruntime().get_available_providers()


def _places(kind: str, index: int) -> list[Any]:
    """Providers in order; what TensorRT cannot do stays on the GPU."""
    if kind == "cpu":
        return [_PROVIDERS[kind]]
    names = (_PROVIDERS["tensorrt"], _PROVIDERS["cuda"]) if kind == "tensorrt" else (_PROVIDERS["cuda"],)
    return [(name, {"device_id": index}) for name in names]


class OnnxScorer(DescribedScorer):
    """An ONNX model in ONNX Runtime.

    Args:
        model: A file, or a model's bytes.
        device: ``cpu``, ``cuda`` or ``cuda:1``; ``tensorrt:1`` for NVIDIA's compiler inside ONNX Runtime.
        num_threads: On a CPU; None: as many as PyTorch uses.

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
        options.intra_op_num_threads = num_threads or torch.get_num_threads()
        options.log_severity_level = 3
        self._name = model if isinstance(model, Path) else Path("the exported model")
        try:
            content = str(model) if isinstance(model, Path) else model
            self._session = runtime.InferenceSession(content, options, providers=_places(kind, int(index or 0)))
        except Exception as error:  # ONNX Runtime has exceptions of its own for every status
            raise ModelFileError(f"expected an ONNX file that runs here, got {self._name} ({told(error)})") from error
        if provider not in self._session.get_providers():  # it goes on without a word on the CPU
            raise ConfigError(
                f"expected ONNX Runtime to compute on {device}, but its {provider} did not start; install the CUDA and "
                "cuDNN that this version of onnxruntime-gpu asks for, or use --device cpu"
            )
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.description = Description.from_text(metadata.get(KEY), self._name)
        self.description.check_file([node.name for node in self._session.get_outputs()], self._name)
        self._run_options = runtime.RunOptions()
        self._run_options.only_execute_path_to_fetches = True  # the class map alone needs no logits at image size

    def _run(self, output: Output, images: Tensor) -> Tensor:
        self.description.check(output, images, self._name)
        feed = {INPUT: np.ascontiguousarray(images.cpu().numpy())}
        try:
            result: NDArray[Any] = self._session.run([output], feed, self._run_options)[0]
        except Exception as error:  # as above
            if is_out_of_memory(error):
                raise
            raise ModelFileError(f"expected an ONNX file that runs here, got {self._name} ({told(error)})") from error
        return self.description.checked(torch.from_numpy(result), output, images, self._name)
