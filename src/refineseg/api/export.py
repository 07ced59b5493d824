"""``refineseg.export``: a model as a file for another runtime.

In: a model and the options of the command line. Out: the file, and an :class:`ExportedModel`. Checks come first;
PyTorch is loaded after them.
"""

from __future__ import annotations

import operator
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refineseg.api.words import Words, as_words, check_call
from refineseg.errors import ConfigError
from refineseg.terminal.arguments import (
    LONGEST_NAME,
    check_input_file,
    check_number,
    check_outputs,
    check_word,
    parse_size,
)
from refineseg.terminal.value_types import check_types

if TYPE_CHECKING:
    from refineseg.data.samples.sample import Dataset
    from refineseg.export.acceptance import Acceptance
    from refineseg.segmenter import Segmenter
    from refineseg.terminal.printing import Terminal


@dataclass(frozen=True)
class ExportedModel:
    """What was exported or checked.

    Args:
        path: The file; where the acceptance has complaints it was not written, and an earlier one stays as it is.
        acceptance: Comparison with the model on real images, with the digest of the file; None: not asked for.
    """

    path: Path
    acceptance: Acceptance | None = None

    @property
    def is_accepted(self) -> bool:
        """Whether the file was compared with the model, and does what it does."""
        return self.acceptance is not None and not self.acceptance.complaints


def export(
    out: str | Path,
    *,
    model: str | Path | Segmenter = "camvid",
    file_format: str | None = None,
    outputs: Words = "class_map",
    size: str | tuple[int, int] | None = None,
    precision: str = "float32",
    calibrate: str | None = None,
    calibrate_split: str = "train",
    images: int = 128,
    calibrate_agreement: float = 0.98,
    accept: str | None = None,
    split: str = "val",
    check: bool = False,
    agreement: float | None = None,
    drift: float | None = None,
    console: Terminal | None = None,
) -> ExportedModel:
    """Write a model for another runtime; ``refineseg export --help`` describes each option, with the same name here.

    ``model`` may also be a segmenter, which stays as it is, and ``size`` (height, width). ``console`` shows progress.

    Returns:
        The file, and with ``accept`` how it compares: a file that differs from its model does not get its name, and
        ``.is_accepted`` is False.

    Raises:
        ConfigError: Options that are wrong, or do not fit each other.
        DatasetError: Images that cannot be read.
        MissingExtraError: The format's packages are not installed.
    """
    given = check_types(export, dict(locals()))
    size_hw, images, check = _whole_size(size), given["images"], given["check"]
    agreement, drift = given["agreement"], given["drift"]
    check_call("export", export, {**given, "model": "", "size": size_hw}, without=("out", "console"))
    if check and accept is None:
        raise ConfigError("expected --accept NAME:ROOT with --check, got none: a file is checked on images")
    check_word("precision", precision, ("float32", "int8"))
    if (precision == "int8") != (calibrate is not None) and not check:
        raise ConfigError("expected --precision int8 and --calibrate NAME:ROOT together, got one of them")
    check_number("--images", images, least=1)
    check_number("--calibrate-agreement", given["calibrate_agreement"], least=0, most=1)
    check_number("--agreement", agreement, least=0, most=1)
    check_number("--drift", drift, least=0, most=1)
    out = Path(out)
    options = _options(file_format, as_words(outputs), size_hw, out)
    _check_files(options, out, model, precision, check=check, accept=accept)
    compared = _opened((calibrate, calibrate_split), (accept, split), model)

    # from here on PyTorch is there
    from refineseg.export.files import (
        accept_file,
        calibration_images,
        export_accepted,
        export_file,
        remove_acceptance,
        write_acceptance,
    )
    from refineseg.segmenter import Segmenter, load

    if calibrate is not None and not check:
        if console is not None:
            console.tell(f"reading at most {images} images of {calibrate} {calibrate_split} to calibrate with")
        calibration = calibration_images(calibrate, split=calibrate_split, num_images=images, size_hw=size_hw)
        options = replace(options, calibration=calibration, agreement=given["calibrate_agreement"])
    segmenter = model if isinstance(model, Segmenter) else load(model)
    if compared is None:
        export_file(segmenter, out, options, console=console)
        remove_acceptance(out)  # which is of an earlier file
        return ExportedModel(out)
    tolerance = _tolerance(out, precision, check, agreement, drift)
    asked = {"dataset": compared, "data": f"{accept} {split}", "tolerance": tolerance}
    if check:
        found = accept_file(segmenter, out, console=console, **asked)
        write_acceptance(out, found)
    else:
        found = export_accepted(segmenter, out, options, console=console, **asked)
    return ExportedModel(out, found)


def _tolerance(out: Path, precision: str, check: bool, agreement: float | None, drift: float | None) -> Any:  # noqa: ANN401
    from refineseg.export.acceptance import Tolerance
    from refineseg.runtimes.open import read_description

    tolerance = Tolerance.of(read_description(out).precision if check else precision)
    if agreement is not None:
        tolerance = replace(tolerance, agreement=agreement, worst_agreement=min(agreement, tolerance.worst_agreement))
    return tolerance if drift is None else replace(tolerance, mean_iou_drift=drift)


def _options(file_format: str | None, outputs: str, size_hw: tuple[int, int] | None, out: Path) -> Any:  # noqa: ANN401
    from refineseg.export.options import ExportOptions

    return ExportOptions.parse(file_format, outputs, size_hw, path=out)


def _whole_size(size: Any) -> tuple[int, int] | None:  # noqa: ANN401 - whatever a program gives
    """Height and width, from words, a tuple, a list or an array.

    Raises:
        ConfigError: Not two whole numbers of at least 1.
    """
    if size is None or isinstance(size, str):
        return None if size is None else parse_size(size)
    try:
        height, width = map(operator.index, size)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1:
        raise ConfigError(f"expected a size (height, width) of two whole numbers of at least 1, got {size!r:.80}")
    return height, width


def _check_files(
    options: Any,  # noqa: ANN401 - ExportOptions
    out: Path,
    model: str | Path | Segmenter,
    precision: str,
    *,
    check: bool,
    accept: str | None,
) -> None:
    """The model, and the file that is written, or with ``check`` read."""
    from refineseg.export.options import REPORT_ENDING, report_path
    from refineseg.networks.model_names import model_file

    if check:
        check_input_file("--out", out, what="the exported file that is checked")
    else:
        options.check_path(out)
        options.check_precision(precision)
        options.check_installed(precision)
    if isinstance(model, str | Path):
        model_file(model)
    report = None if accept is None else report_path(out)
    if report is not None and len(os.fsencode(report.name)) > LONGEST_NAME >= len(os.fsencode(out.name)):
        raise ConfigError(
            f"expected a name of at most {LONGEST_NAME - len(REPORT_ENDING)} bytes as --out with --accept, whose "
            f"report is written beside it as NAME{REPORT_ENDING}, got {len(os.fsencode(out.name))}; choose a shorter "
            "one"
        )
    weights = out.with_suffix(".bin") if options.file_format == "openvino" and not check else None
    check_outputs({"--out": out, "--out (the weights beside it)": weights, "--accept": report})


def _opened(
    calibrate: tuple[str | None, str], accept: tuple[str | None, str], model: str | Path | Segmenter
) -> Dataset | None:
    """Data and their splits, looked at where they are given; the images to accept by."""
    from refineseg.data.datasets import open_sources
    from refineseg.evaluate.measured_split import open_split

    if calibrate[0] is not None:
        open_sources(calibrate[0], split=calibrate[1])
    return None if accept[0] is None else open_split(model, accept[0], accept[1])
