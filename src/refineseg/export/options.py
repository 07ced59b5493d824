"""What ``refineseg export`` is asked to write; without torch.

In: words of the command line. Out: a frozen :class:`ExportOptions`.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refineseg.errors import ConfigError, MissingExtraError
from refineseg.runtimes.table import BACKENDS, OUTPUTS, SUFFIXES, Output

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
"""Formats, and the ending of their files."""
REPORT_ENDING = ".acceptance.json"
"""What follows a file's name in the name of the report of its acceptance."""


def report_path(path: Path) -> Path:
    """Where the report of the acceptance of an exported file is."""
    return path.with_name(path.name + REPORT_ENDING)


@dataclass(frozen=True)
class ExportOptions:
    """What to write.

    Args:
        file_format: A key of :data:`FORMATS`.
        outputs: What the file gives.
        size_hw: The one size it is for; None: any.
        calibration: With ``int8`` alone: images for the ranges of feature maps, (H, W, C) uint8.
        agreement: Share of their pixels, 0..1, that keep their class with ``int8``.

    Raises:
        ConfigError: An unknown format or output, or calibration images with a format that has no 8 bits.
    """

    file_format: str
    outputs: tuple[Output, ...] = ("class_map",)
    size_hw: tuple[int, int] | None = None
    calibration: tuple[NDArray[np.uint8], ...] = ()
    agreement: float = 0.98

    def __post_init__(self) -> None:
        self.check_precision("int8" if self.calibration else "float32")
        if self.file_format not in FORMATS:
            raise ConfigError(f"expected --format {', '.join(FORMATS)}, got {self.file_format!r}")
        if not self.outputs or len(set(self.outputs)) != len(self.outputs):
            raise ConfigError(f"expected different --outputs of {', '.join(OUTPUTS)}, got {self.outputs}")

    @classmethod
    def parse(
        cls,
        file_format: str | None,
        outputs: str,
        size_hw: tuple[int, int] | None,
        *,
        path: Path = Path(),
        calibration: tuple[NDArray[np.uint8], ...] = (),
    ) -> ExportOptions:
        """From the words of the command line.

        Args:
            file_format: A key of :data:`FORMATS`; None: that of the ending of ``path``.
            outputs: Names between commas.
            size_hw: The one size it is for; None: any.
            path: Path of the file.
            calibration: Calibration images for 8 bits.

        Raises:
            ConfigError: An unknown format, ending or output.
        """
        if file_format is None:
            file_format = next((name for name, ending in FORMATS.items() if ending == path.suffix.lower()), None)
        if file_format is None:
            raise ConfigError(f"expected a file name ending in {', '.join(FORMATS.values())} as --out, got {path}")
        names = [name.strip() for name in outputs.split(",")]
        unknown = [name for name in names if name not in OUTPUTS]
        if unknown:
            raise ConfigError(f"expected --outputs of {', '.join(OUTPUTS)}, got {', '.join(unknown)}")
        chosen = tuple(known for name in names for known in OUTPUTS if known == name)
        return cls(file_format, chosen, size_hw, calibration)

    def check_precision(self, precision: str) -> None:
        """Whether the format has a precision.

        Raises:
            ConfigError: It has no 8 bits.
        """
        if precision == "int8" and self.file_format != "openvino":
            raise ConfigError(f"expected --format openvino with --precision int8, got {self.file_format}")

    def check_installed(self, precision: str) -> None:
        """Whether the packages that write the file can be found; none is imported.

        Raises:
            MissingExtraError: They cannot.
        """
        backend = BACKENDS[SUFFIXES[FORMATS[self.file_format]]]
        needed = [*backend.packages, *(["nncf"] if precision == "int8" else [])]
        if self.file_format == "onnx":
            del needed[0]  # its runtime, which reads the file
        for package in needed:
            if importlib.util.find_spec(package) is None:
                purpose = f"write a file of the format {self.file_format}"
                raise MissingExtraError(package, extra=backend.extra, purpose=purpose)

    def check_path(self, path: Path) -> None:
        """Whether a file's name has the ending of the format.

        Raises:
            ConfigError: It has another.
        """
        if path.suffix != FORMATS[self.file_format]:
            raise ConfigError(
                f"expected a file name ending in {FORMATS[self.file_format]} for --format {self.file_format}, got "
                f"{path}; leave --format out, or name {path.with_suffix(FORMATS[self.file_format]).name}"
            )
