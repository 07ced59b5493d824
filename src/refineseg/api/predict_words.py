"""The options of ``predict`` that a call with a manifest and one without share.

In: the options of a call. Out: words, and what to write of every file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refineseg.api.words import as_model, as_words

SCORING = ("precision", "scales", "protocol", "backend", "device", "flip", "enlargement")
"""Options of scoring."""


def words_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that may be words or values, as words."""
    names = ("model", "save", "classes", "scales", "tile", "memory", "bands", "percentiles", "value_range", "nodata")
    return {name: as_words(as_model(given[name]) if name == "model" else given[name]) for name in names}


def file_options(given: Mapping[str, Any], words: Mapping[str, Any], areas: Path | None) -> Any:  # noqa: ANN401
    """What to write of every file, as far as it can be checked before PyTorch is there."""
    from refineseg.batch.keys import Part
    from refineseg.images.reading import Reading
    from refineseg.networks.model_names import classes_in, model_file
    from refineseg.predict.folder.file_options import FileOptions
    from refineseg.predict.outputs.kinds import Outputs
    from refineseg.predict.raster.options import RasterOptions
    from refineseg.predict.video.options import VideoOptions
    from refineseg.runtimes.table import is_exported

    named = ("probability_format", "confidence_format", "polygon_format", "unknown_below", "simplify", "smallest_area")
    of_files = {name: given[name] for name in (*named, "legend")}
    outputs = Outputs.parse(words["save"], classes=words["classes"], **of_files)
    class_info = None if is_exported(words["model"]) else classes_in(model_file(words["model"]))
    if class_info is not None:
        outputs.check(class_info)
    pixels = {name: words[name] for name in ("bands", "percentiles", "value_range", "nodata")}
    part = Part.parse(given["part"]) if given["part"] else Part()
    rasters = RasterOptions(
        Reading.parse(**pixels),
        overviews=given["overviews"],
        resume=given["resume"] is not False,
        part=(part.index, part.count),
    )
    frames = {name: given[name] for name in ("smooth", "frame_rate", "seconds", "live", "legend")}
    many = {name: given[name] for name in ("resume", "batch_size", "workers", "prove", "asked")}
    return FileOptions(outputs, areas, rasters=rasters, videos=VideoOptions.parse(**frames), **many)
