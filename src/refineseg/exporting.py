"""``refineseg export``: a model as a file for another runtime, accepted on real images before it gets its name.

In: a model's name, a format, a file name. Out: the file, and with ``--accept`` a report ``FILE.acceptance.json`` beside
it. A file that is refused does not get its name; only the report is written.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from refineseg.acceptance import Acceptance, Tolerance, compare
from refineseg.backends.description import Description
from refineseg.backends.graph import OUTPUTS, Output
from refineseg.backends.onnx_runtime import onnx_model, write_onnx_model
from refineseg.backends.opening import open_exported
from refineseg.backends.openvino_runtime import openvino_model, write_openvino_model
from refineseg.backends.torch_programs import write_torch_program
from refineseg.data.datasets import open_sources
from refineseg.errors import ConfigError
from refineseg.images import written_beside
from refineseg.predict.torch_scorer import TorchScorer
from refineseg.segmenter import Segmenter

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
"""Formats, and the ending of their files."""


@dataclass(frozen=True)
class ExportOptions:
    """What to write.

    Args:
        file_format: A key of :data:`FORMATS`.
        outputs: What the file gives.
        size_hw: The one size it is for; None: any.

    Raises:
        ConfigError: An unknown format or output.
    """

    file_format: str
    outputs: tuple[Output, ...] = ("class_map",)
    size_hw: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.file_format not in FORMATS:
            raise ConfigError(f"expected --format {', '.join(FORMATS)}, got {self.file_format!r}")
        if not self.outputs or len(set(self.outputs)) != len(self.outputs):
            raise ConfigError(f"expected different --outputs of {', '.join(OUTPUTS)}, got {self.outputs}")

    @classmethod
    def parse(cls, file_format: str, outputs: str, size_hw: tuple[int, int] | None) -> ExportOptions:
        """From the words of the command line.

        Raises:
            ConfigError: An unknown format or output.
        """
        names = [name.strip() for name in outputs.split(",")]
        unknown = [name for name in names if name not in OUTPUTS]
        if unknown:
            raise ConfigError(f"expected --outputs of {', '.join(OUTPUTS)}, got {', '.join(unknown)}")
        return cls(file_format, tuple(known for name in names for known in OUTPUTS if known == name), size_hw)


def export_file(segmenter: Segmenter, path: Path, options: ExportOptions) -> None:
    """Write a model in another format, beside and then renamed.

    Args:
        segmenter: On the CPU; it stays as it is.
        path: Where; the ending must be the format's.
        options: What to write.

    Raises:
        ConfigError: Another ending, or a network that cannot be exported so.
        MissingExtraError: The format's packages are not installed.
    """
    if path.suffix != FORMATS[options.file_format]:
        raise ConfigError(
            f"expected a file name ending in {FORMATS[options.file_format]} for {options.file_format}, got {path}"
        )
    description = Description(segmenter.spec, options.outputs, "float32", options.size_hw)
    if options.file_format == "onnx":
        write_onnx_model(onnx_model(segmenter, description), path)
    elif options.file_format == "openvino":
        write_openvino_model(openvino_model(segmenter, description), path)
    else:
        write_torch_program(segmenter, description, path)


def accept_file(
    segmenter: Segmenter, path: Path, *, data: str, split: str, tolerance: Tolerance, console: Console
) -> Acceptance:
    """Compare an exported file with its model on real images.

    Args:
        segmenter: The original.
        path: The exported file; its ending says the runtime.
        data: ``NAME:ROOT``.
        split: Which split.
        tolerance: What is asked.
        console: Shows progress.

    Raises:
        ModelFileError: The file cannot be read.
        DatasetError: The images cannot.
    """
    cpu = torch.device("cpu")
    exported = open_exported(path, backend="auto", device=cpu, precision="float32")
    dataset = open_sources(data, split=split)
    return compare(
        TorchScorer(segmenter, device=cpu),
        exported,
        dataset,
        data=f"{data} {split}",
        tolerance=tolerance,
        size_hw=exported.description.size_hw,
        track=lambda indices: track(
            list(indices), "accepting", console=console, transient=True, disable=not console.is_terminal
        ),
    )


def export_accepted(
    segmenter: Segmenter,
    path: Path,
    options: ExportOptions,
    *,
    data: str,
    split: str,
    tolerance: Tolerance,
    console: Console,
) -> Acceptance:
    """Export, accept, and only then give the file its name; the report is written in both cases."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        candidate = Path(folder) / path.name
        export_file(segmenter, candidate, options)
        found = accept_file(segmenter, candidate, data=data, split=split, tolerance=tolerance, console=console)
        write_acceptance(path, found)
        if not found.complaints:
            others = [file for file in candidate.parent.iterdir() if file != candidate]
            for file in (*others, candidate):  # the file itself last: it names the others
                file.replace(path.parent / file.name)
    return found


def write_acceptance(path: Path, found: Acceptance) -> Path:
    """Write the report of an exported file beside it."""
    report = path.with_name(path.name + ".acceptance.json")
    with written_beside(report) as temporary:
        temporary.write_text(json.dumps(found.to_json(), indent=1), encoding="utf-8")
    return report
