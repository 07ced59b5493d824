"""An exported file, open and ready for arrays: what the first mask in a second needs, and no PyTorch.

In: an ``.onnx`` or ``.xml`` file. Out: :class:`OpenedFile`, which has the names of
:class:`~refineseg.runtimes.open.OpenedModel`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError
from refineseg.networks.model_spec import ModelSpec
from refineseg.runtimes.description import Description
from refineseg.runtimes.programs import ArrayProgram, OnnxProgram, OpenVinoProgram
from refineseg.runtimes.table import Precision, check_fits, check_reads, is_exported, own_backend


@dataclass(frozen=True)
class OpenedFile:
    """An exported file in a runtime that takes arrays, on a CPU.

    Args:
        program: Program of the file.
        backend: Name of the runtime, a key of :data:`~refineseg.runtimes.table.BACKENDS`.
        precision: Precision: ``float32``, ``bfloat16``; ``int8``: of a quantised file.
        source: File that it was made from.
    """

    program: ArrayProgram
    backend: str
    precision: str
    source: Path
    device: str = "cpu"
    inner: None = None

    @property
    def spec(self) -> ModelSpec:
        """The specification of the model."""
        return self.program.description.spec

    @property
    def description(self) -> Description:
        """What it gives, for images of which size."""
        return self.program.description

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the masks."""
        return self.spec.class_info

    def needs_inner(self, what: str) -> NoReturn:
        """Refuse what looks inside the network.

        Raises:
            ConfigError: Always.
        """
        raise looks_inside(what, self.backend)

    @property
    def digest(self) -> str:
        """SHA-256 of what the result depends on."""
        return file_digest(self.source)


def open_file(path: Path, *, backend: str | None, precision: Precision) -> OpenedFile:
    """Open an exported file for arrays.

    Args:
        path: An ``.onnx`` or ``.xml`` file.
        backend: Name of a backend; None and ``auto``: the file's own; an ``.onnx`` file is also read by openvino.
        precision: Precision in OpenVINO.

    Raises:
        ConfigError: The backend does not read such files, or not in this precision.
        ModelFileError: The file is damaged.
    """
    name = check_reads(path, backend)
    check_fits(name, precision=precision, device="cpu")
    program = OpenVinoProgram(path, precision=precision) if name == "openvino" else OnnxProgram(path)
    quantised = program.description.precision == "int8"
    return OpenedFile(program, name, "int8" if quantised else precision, path)


def takes_arrays(model: str, *, backend: str | None, device: str) -> bool:
    """Whether :func:`open_file` can open a model, computed where it is asked for."""
    return (
        is_exported(model)
        and own_backend(Path(model)) in ("onnxruntime", "openvino")
        and backend in (None, "auto", "onnxruntime", "openvino")
        and device in ("auto", "cpu")
    )


def file_digest(path: Path) -> str:
    """SHA-256 of an exported file, with its weights where they lie beside it."""
    digest, weights = hashlib.sha256(path.read_bytes()), path.with_suffix(".bin")
    if path.suffix.lower() == ".xml" and weights.is_file():
        digest.update(weights.read_bytes())
    return digest.hexdigest()


def looks_inside(what: str, backend: str) -> ConfigError:
    """The error for what needs more than a runtime gives, which is logits and classes at image size."""
    return ConfigError(
        f"expected --backend torch and a model file for {what}, which looks inside the network, got {backend}"
    )
