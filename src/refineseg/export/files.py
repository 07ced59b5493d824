"""``refineseg export``: a model as a file for another runtime, accepted on real images before it gets its name.

In: a model's name, a format, a file name. Out: the file, and with ``--accept`` a report ``FILE.acceptance.json`` beside
it, which holds the digest of the file that was compared. A file that is refused does not get its name; only the report
is written.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from refineseg.data.datasets import open_sources
from refineseg.data.samples.sample import Dataset
from refineseg.errors import ConfigError, DatasetError
from refineseg.export.acceptance import Acceptance, Tolerance, compare
from refineseg.export.options import ExportOptions, report_path
from refineseg.files.writing import folder_beside, storing, written_beside
from refineseg.runtimes.description import Description
from refineseg.runtimes.eager import TorchScorer
from refineseg.runtimes.graph import export_program
from refineseg.runtimes.onnx_runtime import onnx_model, write_onnx_model
from refineseg.runtimes.open import open_exported
from refineseg.runtimes.opened_file import file_digest
from refineseg.runtimes.openvino_runtime import openvino_model, write_openvino_model
from refineseg.runtimes.quantisation import quantised
from refineseg.runtimes.torch_programs import write_torch_program
from refineseg.segmenter import Segmenter
from refineseg.terminal.printing import Terminal, counting

_LARGEST_SIDE = 640  # of a calibration image in pixels: ranges are the same, and time and memory stay small

_GOLDEN = (5**0.5 - 1) / 2


def calibration_images(
    data: str, *, split: str, num_images: int, size_hw: tuple[int, int] | None = None
) -> tuple[NDArray[np.uint8], ...]:
    """Images of a data set, evenly spaced over it; of large ones the piece in the middle.

    Args:
        data: ``NAME:ROOT``.
        split: Split; not the one that is measured on.
        num_images: How many; fewer if there are not so many.
        size_hw: Only those of this size, of which as many are looked for; None: all.

    Raises:
        ConfigError: Less than one image.
        DatasetError: The images cannot be read, or none has the size.
    """
    if num_images < 1:
        raise ConfigError(f"expected at least one image to calibrate with (--images), got {num_images}")
    dataset = open_sources(data, split=split)
    places = np.unique(np.linspace(0, len(dataset) - 1, min(num_images, len(dataset))).round().astype(int))
    if size_hw is None:
        return tuple(_middle(dataset[int(index)].image) for index in places)
    others = np.setdiff1d(np.arange(len(dataset)), places)
    spread = others[np.argsort(others * _GOLDEN % 1)]  # evenly over the data set, wherever it ends
    images = (dataset[int(index)].image for index in (*places, *spread))
    found = tuple(islice((image for image in images if image.shape[:2] == size_hw), num_images))
    if not found:
        raise DatasetError(f"expected images of {size_hw} pixels in {data} {split} to calibrate with, got none")
    return found


def _middle(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The piece in the middle, of the largest size to calibrate with."""
    top, left = (max(0, side - _LARGEST_SIDE) // 2 for side in image.shape[:2])
    return image[top : top + _LARGEST_SIDE, left : left + _LARGEST_SIDE]


def export_file(segmenter: Segmenter, path: Path, options: ExportOptions, *, console: Terminal | None = None) -> None:
    """Write a model in another format, beside and then renamed.

    Args:
        segmenter: On the CPU; it stays as it is.
        path: Path of the file; the ending must be the format's.
        options: What to write.
        console: Shows progress; None: nothing does.

    Raises:
        ConfigError: Another ending, a network that cannot be exported so, or calibration images of other channels.
        MissingExtraError: The format's packages are not installed.
    """
    options.check_path(path)
    channels = segmenter.spec.preprocessing.in_channels
    if any(image.shape[2] != channels for image in options.calibration):
        raise ConfigError(
            f"expected a model of {options.calibration[0].shape[2]} channels, as the calibration images have, got one "
            f"of {channels}; leave out --precision int8"
        )
    precision = "int8" if options.calibration else "float32"
    description = Description(segmenter.spec, options.outputs, precision, options.size_hw)
    two_passes = options.file_format != "torch"
    tell = (lambda _: None) if console is None else console.tell
    sizes = "any size, which takes half a minute" if options.size_hw is None else f"{options.size_hw} pixels"
    tell(f"tracing {segmenter.spec.variant} for {sizes}")
    program = export_program(segmenter, outputs=options.outputs, size_hw=options.size_hw, two_passes=two_passes)
    tell(f"writing it for {options.file_format}")
    if options.file_format == "onnx":
        write_onnx_model(onnx_model(program, description), path)
    elif options.file_format == "openvino":
        model = openvino_model(program, description)
        if options.calibration:
            count = len(options.calibration)
            tell(f"calibrating 8 bits on {count} images (--images)")
            with counting(console, "calibrating", "images") as report:
                model = quantised(
                    model, description, options.calibration, agreement=options.agreement, report=report, tell=tell
                )
        write_openvino_model(model, path)
    else:
        write_torch_program(program, description, path)


def accept_file(
    segmenter: Segmenter, path: Path, *, dataset: Dataset, data: str, tolerance: Tolerance, console: Terminal | None
) -> Acceptance:
    """Compare an exported file with its model on real images.

    Args:
        segmenter: The original; it stays as it is.
        path: The exported file; its ending says the runtime.
        dataset: The images.
        data: How they are called in the report.
        tolerance: What is asked.
        console: Shows progress; None: nothing does.

    Raises:
        ModelFileError: The file cannot be read.
        DatasetError: The images cannot.
    """
    place = torch.device("cpu")
    exported = open_exported(path, backend=None, device=place, precision="float32")
    original = TorchScorer(copy.deepcopy(segmenter), device=place)
    with counting(console, "accepting", "images") as report:
        found = compare(
            original,
            exported,
            dataset,
            data=data,
            tolerance=tolerance,
            size_hw=exported.description.size_hw,
            report=report,
        )
    return replace(found, sha256=file_digest(path))


def export_accepted(
    segmenter: Segmenter,
    path: Path,
    options: ExportOptions,
    *,
    dataset: Dataset,
    data: str,
    tolerance: Tolerance,
    console: Terminal | None,
) -> Acceptance:
    """Export, accept, and only then give the file its name; the report is written in both cases."""
    with folder_beside(path) as folder:
        candidate = folder / path.name
        export_file(segmenter, candidate, options, console=console)
        found = accept_file(segmenter, candidate, dataset=dataset, data=data, tolerance=tolerance, console=console)
        write_acceptance(path, found)
        if not found.complaints:
            others = [file for file in candidate.parent.iterdir() if file != candidate]
            for file in (*others, candidate):  # the file itself last: it names the others
                file.replace(path.parent / file.name)
    return found


def write_acceptance(path: Path, found: Acceptance) -> Path:
    """Write the report of an exported file beside it."""
    report = report_path(path)
    with written_beside(report) as temporary:
        temporary.write_text(json.dumps(found.to_json(), indent=1), encoding="utf-8")
    return report


def remove_acceptance(path: Path) -> None:
    """Remove the report of an earlier file of the name.

    Raises:
        OutputError: It cannot be removed.
    """
    with storing(report_path(path)):
        report_path(path).unlink(missing_ok=True)
