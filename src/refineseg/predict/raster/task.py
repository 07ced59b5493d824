"""What a prediction of a raster is: its input, model, options and files, as one value.

In: what :func:`~refineseg.predict.raster.raster.predict_raster` is called with. Out: names of the results, and the
JSON values by which a job that was broken off, or results that are there, are known again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from refineseg._version import __version__
from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError
from refineseg.files.special import has_file
from refineseg.predict.outputs.kinds import Outputs
from refineseg.predict.polygons.vectors import VectorOptions
from refineseg.predict.raster.files import RasterReader
from refineseg.predict.raster.job import file_facts
from refineseg.predict.raster.options import RasterOptions
from refineseg.predict.raster.tiles import Layers
from refineseg.predict.views.tiling import TilingOptions
from refineseg.runtimes.table import Precision
from refineseg.segmenter import Segmenter


@dataclass(frozen=True)
class RasterTask:
    """A raster and all that is asked of it."""

    src: Path
    dst: Path
    segmenter: Segmenter
    tiling: TilingOptions
    options: RasterOptions
    device: torch.device
    precision: Precision
    vectors: VectorOptions
    outputs: Outputs

    @property
    def class_info(self) -> ClassInfo:
        """The classes."""
        return self.segmenter.class_info

    @property
    def layers(self) -> Layers:
        """What tiles hold."""
        kinds, outputs = self.outputs.kinds, self.outputs
        chosen = outputs.chosen_classes(self.class_info) if outputs.needs_probabilities else ()
        return Layers("confidence" in kinds or "polygons" in kinds, chosen, outputs.unknown_below)

    @property
    def targets(self) -> dict[str, Path]:
        """Kind -> path, in the order in which they get their names; the areas, which say that all is there, last."""
        stem = self.dst.with_suffix("").name
        names = {
            "probabilities": f"{stem}_probabilities.tif",
            "confidence": f"{stem}_confidence.tif",
            "polygons": f"{stem}.geojson",
            "overlay": f"{stem}_overlay.jpg",
            "mask": self.dst.name,
        }
        wanted = {kind: self.dst.with_name(name) for kind, name in names.items() if kind in self.outputs.kinds}
        return wanted | {"areas": self.dst.with_name(f"{stem}_areas.json")}

    def identity(self, reader: RasterReader) -> dict[str, Any]:
        """All that decides what a tile holds, but for what is found out on the way.

        Args:
            reader: The input, open.
        """
        tiling, reading = self.tiling, self.options.reading
        memory = {} if tiling.memory_bytes is None else {"memory": tiling.memory_bytes}
        return {
            "input": file_facts(self.src),
            "files": self._others(reader.files),
            "model": self.segmenter.digest(),
            "bands": reading.bands,
            "scaling": [reading.percentiles, reading.value_range],
            "nodata": reading.nodata,
            "tiling": {"tile": tiling.tile, "mode": tiling.mode, "overlap": tiling.overlap} | memory,
            "device": self.device.type,
            "precision": self.precision,
            "layers": asdict(self.layers),
            "version": __version__,
        }

    def _others(self, names: tuple[str, ...]) -> list[list[Any]]:
        """Name, length and time of every other file that the raster is made of: of a mosaic, a world file, a mask."""
        facts = [(path, path.stat()) for path in map(Path, names) if path != self.src and has_file(path)]
        return [[path.name, fact.st_size, fact.st_mtime_ns] for path, fact in sorted(facts)]

    def form(self) -> dict[str, Any]:
        """What beside the tiles decides what the files hold."""
        return {
            "kinds": sorted(self.outputs.kinds),
            "compress": self.options.compress,
            "overviews": self.options.overviews,
            "confidence": self.outputs.confidence_format,
            "polygons": asdict(self.vectors) if "polygons" in self.outputs.kinds else None,
        } | ({} if self.outputs.legend else {"legend": False})


def check_paths(task: RasterTask, inputs: Iterable[str]) -> None:
    """Whether results can stand where they are to.

    Args:
        task: The task.
        inputs: Files that the input is made of.

    Raises:
        ConfigError: Another ending, names that are no UTF-8, or one of them would replace the input, or a file that it
            is made of.
    """
    if task.dst.suffix.lower() not in (".tif", ".tiff"):
        raise ConfigError(f"expected the class raster to end in .tif, got {task.dst}")
    for path in (task.src, task.dst):
        if os.fsencode(path).decode("utf-8", "ignore") != str(path):
            raise ConfigError(f"expected names in UTF-8 for a raster, as GDAL wants them, got {path}; rename it")
    results = {path.resolve() for path in task.targets.values()}
    if any(Path(name).resolve() in results for name in inputs):
        raise ConfigError(
            f"expected results apart from the input, got {task.dst} for {task.src}; choose another folder"
        )
