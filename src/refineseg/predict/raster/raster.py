"""Rasters of any size: a GeoTIFF of gigapixels in, a class raster on the same grid out, in bounded memory.

In: a file that rasterio opens. Out, beside each other:

==========================  ==========================================================================================
``NAME.tif``                classes: tiled, compressed, on the input's grid, with palette, nodata = void and overviews
``NAME_overlay.jpg``        the whole, shrunk, with the classes painted over it and a legend
``NAME_confidence.tif``     probability of the likeliest class, nodata = 0
``NAME_probabilities.tif``  a 16-bit band per chosen class
``NAME.geojson``            polygons in the raster's coordinate system
``NAME_areas.json``         pixels, share and (where the coordinate system is projected) square metres of each class
==========================  ==========================================================================================

The job may be killed at any moment: finished tiles lie in ``.NAME.tif.parts`` beside the result and are not computed
again; files get their names when all are complete. What can only be read from top to bottom (PNG, JPEG, large
compressed strips of TIFF) is copied into that folder first.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from refineseg.devices import free_memory, is_out_of_memory, peak_memory
from refineseg.errors import ConfigError, ImageError, TooLittleMemoryError
from refineseg.files.writing import NEW_FILE_MODE
from refineseg.images.reading import Scaling, choose_bands
from refineseg.predict.exact.tiled_scorer import TiledScorer, memory_of
from refineseg.predict.outputs.areas import Areas
from refineseg.predict.outputs.kinds import Outputs
from refineseg.predict.polygons.coordinates import Ground
from refineseg.predict.polygons.vectors import VectorOptions
from refineseg.predict.raster.files import RasterReader, open_raster
from refineseg.predict.raster.headers import is_raster
from refineseg.predict.raster.job import RasterJob, writing
from refineseg.predict.raster.options import RasterOptions
from refineseg.predict.raster.pixels import RasterSource
from refineseg.predict.raster.results import Finished, RasterResult
from refineseg.predict.raster.task import RasterTask, check_paths
from refineseg.predict.raster.tiles import TileScorer, tile_layers
from refineseg.predict.raster.writing import copy_in_order
from refineseg.predict.views.tiling import TilingOptions
from refineseg.runtimes.table import Precision
from refineseg.segmenter import Segmenter

__all__ = ["RasterOptions", "RasterResult", "is_raster", "predict_raster"]

USUAL_MEMORY = 4 * 10**9
"""Most memory in all that is taken where none is given, in bytes."""

_OWN_BYTES = 400 * 10**6  # GDAL's cache, a region in the raster's own type, pieces of layers
_PREDICTED, _WRITTEN = 0.97, 0.985  # of the work, when all tiles are finished, and the class raster is written


def predict_raster(
    src: Path,
    dst: Path,
    segmenter: Segmenter,
    *,
    tiling: TilingOptions | None = None,
    options: RasterOptions | None = None,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    vectors: VectorOptions | None = None,
    outputs: Outputs | None = None,
    progress: Callable[[float], None] | None = None,
) -> RasterResult:
    """Predict a raster of any size.

    The same call again goes on where one was killed, and returns at once where everything is there. Several processes
    with an ``options.part`` each share the tiles of one raster; the last one writes the results, whose bytes are those
    of one process.

    Args:
        src: GeoTIFF or another raster; also a large PNG or JPEG.
        dst: The class raster, ending in ``.tif``; other results stand beside it.
        segmenter: The model.
        tiling: How the raster is cut; where no memory is given, half of what is free and at most 4 GB are used.
        options: How it is read and written.
        device: Device of the network.
        precision: ``float32`` or ``bfloat16``.
        vectors: Options of polygons.
        outputs: Results that are written.
        progress: Told the share of the work that is done, 0..1; the first call says what was there already.

    Raises:
        ImageError: The raster cannot be read, or a result not be written; or there are results, or an unfinished job,
            of another model, input or option.
        ConfigError: Options that fit neither each other nor the model.
        MissingExtraError: rasterio, or shapely for polygons, is not installed.
    """
    begun = time.monotonic()
    task = RasterTask(
        src,
        dst,
        segmenter,
        tiling or TilingOptions(),
        options or RasterOptions(),
        torch.device(device),
        precision,
        vectors or VectorOptions(),
        outputs or Outputs(("mask",)),
    )
    check_paths(task, (str(src),))
    told = progress or (lambda _: None)
    with open_raster(src) as reader:
        check_paths(task, reader.files)
        reader.check_complete()
        if "polygons" in task.outputs.kinds and reader.transform and reader.crs and reader.orientation == 1:
            Ground(reader.transform, reader.crs).check_places(reader.size_hw)
        job = RasterJob(dst, task.options.part)
        identity = task.identity(reader)
        if (found := _finished_before(task, job, identity, reader)) is not None:
            told(1.0)
            return replace(found, seconds=time.monotonic() - begun)
        with _begun(job, identity, resume=task.options.resume), _opened_source(task, reader, job) as (source, facts):
            tiles_kept, finished = _predicted(task, reader, job, source, facts, told)
            notes, areas = tuple(job.facts.get("notes", ())), Areas(0, np.zeros(task.class_info.num_classes, np.int64))
            left = len(finished.tiles) - len(job.finished(finished.tiles)) if job.is_shared else 0
            if not left and job.take_over():
                areas = _write_results(task, finished, identity, told)
            elif not left and (found := _finished_before(task, job, identity, reader)) is not None:
                areas = found.areas  # another part has written them
        result = _result(task, reader, finished.size_hw, areas, len(finished.tiles))
    if left:
        result = replace(result, paths={}, tiles_left=left)
    else:
        told(1.0)
    seconds = time.monotonic() - begun
    return replace(result, notes=notes, tiles_kept=tiles_kept, seconds=seconds, peak_bytes=peak_memory())


@contextmanager
def _begun(job: RasterJob, identity: Mapping[str, Any], *, resume: bool) -> Iterator[None]:
    """The job, whose folder stays after a failure only where it saves work."""
    try:
        job.open(identity, resume=resume)
        yield
        if not job.is_shared:
            job.remove()
    except BaseException:
        if job.is_mine and job.is_empty and not job.is_shared:
            job.remove()
        raise
    finally:
        job.release()


def _finished_before(
    task: RasterTask, job: RasterJob, identity: Mapping[str, Any], reader: RasterReader
) -> RasterResult | None:
    """The result of the same call before, if all of it is there.

    Raises:
        ImageError: There are results of another.
    """
    there = [path for path in task.targets.values() if path.exists()]
    if not there or not task.options.resume or job.exists:
        return None
    summary = _summary(task.targets["areas"])
    same = json.loads(json.dumps({"identity": identity, "form": task.form()}))
    if summary.get("job") == same and len(there) == len(task.targets):
        areas = Areas(summary["pixels"], np.array([entry["pixels"] for entry in summary["classes"]], np.int64))
        tiles, (height, width) = int(summary["tiles"]), summary["size"]
        return replace(_result(task, reader, (height, width), areas, tiles), tiles_kept=tiles)
    raise ImageError(
        f"expected no results of another job, but there is {there[0]}, made from another input, model or option, or "
        "not by this program; choose another folder, remove it, or replace it with --no-resume"
    )


def _summary(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return summary if isinstance(summary, dict) else {}


@contextmanager
def _opened_source(
    task: RasterTask, reader: RasterReader, job: RasterJob
) -> Iterator[tuple[RasterSource, dict[str, Any]]]:
    """The raster's pixels, through a copy where they can only be read in order, and what is to be said of them."""
    num_channels, reading = task.segmenter.spec.preprocessing.in_channels, task.options.reading
    bands = choose_bands(reader.colours, reading.bands, num_channels=num_channels, path=reader.path)
    meaning = reader.meaning(bands)
    with _random_access(reader, job, bands, declared=reading.nodata is None) as (pixels, chosen, data_band):
        raw = RasterSource(
            pixels, chosen, num_channels=num_channels, nodata=reading.nodata, data_band=data_band, meaning=meaning
        )
        if "scaling" not in job.facts:
            found = raw.find_scaling(reading)
            job.keep("scaling", None if found is None else asdict(found))
            job.keep("notes", _notes(task, reader, raw))
        known = job.facts["scaling"]
        scaling = None if known is None else Scaling(tuple(known["low"]), tuple(known["high"]))
        facts = {
            "classes": list(task.class_info.names),
            "variant": task.segmenter.spec.variant,
            "input": task.src.name,
            "bands": list(bands),
            "scaling": None if scaling is None else asdict(scaling),
        }
        yield raw.scaled(scaling), facts


def exact(value: float) -> str:
    """A number in the fewest digits that give it back.

    Example:
        >>> exact(-9999.0), exact(-3.4028234663852886e38)
        ('-9999', '-3.4028234663852886e+38')
    """
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))


def _notes(task: RasterTask, reader: RasterReader, source: RasterSource) -> list[str]:
    """What a user should know of how a raster is read, and where its results lie."""
    found = []
    fill = None if task.options.reading.nodata is not None or source.meaning.num_bits < 8 else source.undeclared_fill()
    if fill is not None:
        found.append(
            f"{100 * fill[1]:.0f} % of its pixels are {exact(fill[0])} in all bands and no nodata value says why; if "
            f"they hold no data, add --nodata {exact(fill[0])}"
        )
    if reader.stretches_areas:
        found.append(
            "areas in square metres are left out, because its coordinates stretch them, as Mercator's do; for areas, "
            "warp it to UTM or to an equal-area system first (gdalwarp)"
        )
    if "polygons" in task.outputs.kinds and reader.is_placed_by_points:
        found.append(
            "its place is given by ground control points or a camera model, so polygons are in pixels; for coordinates "
            "on the ground, warp it first (gdalwarp)"
        )
    return found


@contextmanager
def _random_access(
    reader: RasterReader, job: RasterJob, bands: tuple[int, ...], *, declared: bool
) -> Iterator[tuple[RasterReader, tuple[int, ...], int | None]]:
    """A reader of regions, the bands in it, and the band that says where there are data."""
    if not reader.is_sequential and reader.orientation == 1:
        yield reader, bands, None
        return
    copy, temporary = job.folder / "pixels.tif", job.folder / "pixels.tmp.tif"
    if not copy.exists():
        copy_in_order(temporary, reader, bands, orientation=reader.orientation, declared=declared)
        with writing(copy):
            temporary.replace(copy)
    with open_raster(copy) as pixels:
        yield pixels, tuple(range(1, len(bands) + 1)), len(bands) + 1


def _predicted(
    task: RasterTask,
    reader: RasterReader,
    job: RasterJob,
    source: RasterSource,
    facts: dict[str, Any],
    told: Callable[[float], None],
) -> tuple[int, Finished]:
    """Score every tile that is not finished; how many were, and all that results are made of."""
    size_hw = source.size_hw
    if "memory" not in job.facts:
        job.keep("memory", _memory(task))
    memory = int(job.facts["memory"])
    try:
        scorer = _scorer(task, size_hw, replace(task.tiling, memory_bytes=memory))
    except TooLittleMemoryError as error:
        if task.tiling.memory_bytes is None:
            raise
        beside = f"{_OWN_BYTES / 1e6:.0f} MB beside that, which reading and writing take"
        raise ConfigError(f"{error}, and {beside}") from error
    tiles = scorer.tiles
    done = job.finished(tiles) if job.has_plan(tiles) else set()
    job.begun()
    first, parts = task.options.part[0] - 1, task.options.part[1]
    pixels = size_hw[0] * size_hw[1]
    covered = sum(tiles[index].height * tiles[index].width for index in done)
    told(_PREDICTED * covered / pixels)
    for index in range(first, len(tiles), parts):
        tile = tiles[index]
        if index in done:
            continue
        layers = tile_layers(scorer, source, tile, class_info=task.class_info, layers=task.layers)
        with _enough_memory(task.src):
            job.write_tile(index, layers)
        covered += tile.height * tile.width
        told(_PREDICTED * covered / pixels)
    finished = Finished(
        job,
        tiles,
        size_hw,
        reader,
        source,
        task.class_info,
        task.options.compress,
        task.options.overviews,
        reader.orientation != 1,
        facts,
    )
    return len(done), finished


def _memory(task: RasterTask) -> int:
    """What is left for tiles of the memory that may be taken."""
    if task.device.type == "cuda":  # whose memory holds nothing of ours
        return memory_of(task.tiling, task.device)
    total = task.tiling.memory_bytes or min(free_memory() // 2, USUAL_MEMORY)
    return max(total - _OWN_BYTES, total // 2)


def _scorer(task: RasterTask, size_hw: tuple[int, int], tiling: TilingOptions) -> TileScorer:
    return TiledScorer(
        task.segmenter,
        size_hw,
        options=tiling,
        device=task.device,
        precision=task.precision,
        keeps_logits=task.layers.scored,
    )


@contextmanager
def _enough_memory(path: Path) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ImageError(f"{path}: not enough memory for a tile; give less with --memory, or --tile 1024") from error


def _write_results(
    task: RasterTask, finished: Finished, identity: Mapping[str, Any], told: Callable[[float], None]
) -> Areas:
    """All files under temporary names, then under their own."""
    targets, folder = task.targets, finished.job.folder
    made = {kind: folder / f"{kind}.tmp{path.suffix}" for kind, path in targets.items()}
    classes = made.get("mask", folder / "mask.tmp.tif")
    counts = finished.write_classes(classes, told=lambda share: told(_PREDICTED + (_WRITTEN - _PREDICTED) * share))
    if "confidence" in made:
        finished.write_confidence(made["confidence"], bits=16 if task.outputs.confidence_format.endswith("16") else 8)
    if "probabilities" in made:
        finished.write_probabilities(made["probabilities"], chosen=task.layers.probabilities)
    if "overlay" in made:
        finished.write_overlay(made["overlay"], classes=classes, legend=task.outputs.legend)
    if "polygons" in made:
        finished.write_polygons(made["polygons"], options=task.vectors)
    areas = Areas(int(counts.sum()), counts[:-1])
    summary = _areas_json(task, finished, areas) | {"job": {"identity": dict(identity), "form": task.form()}}
    with writing(task.dst):
        made["areas"].write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        for kind, path in targets.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            made[kind].chmod(NEW_FILE_MODE)
            made[kind].replace(path)
    return areas


def _areas_json(task: RasterTask, finished: Finished, areas: Areas) -> dict[str, Any]:
    square_metres = None if finished.turned else finished.reader.pixel_area_m2
    classes = [
        {"name": name, "pixels": int(pixels), "share": share}
        | ({} if square_metres is None else {"square_metres": int(pixels) * square_metres})
        for name, pixels, share in zip(task.class_info.names, areas.of_classes, areas.shares, strict=True)
    ]
    return {
        "input": task.src.name,
        "size": list(finished.size_hw),
        "pixels": areas.pixels,
        "unknown": areas.unknown,
        "square_metres_of_a_pixel": square_metres,
        "classes": classes,
        "bands": finished.facts["bands"],
        "scaling": finished.facts["scaling"],
        "tiles": len(finished.tiles),
    }


def _result(task: RasterTask, reader: RasterReader, size_hw: tuple[int, int], areas: Areas, tiles: int) -> RasterResult:
    square_metres = reader.pixel_area_m2
    return RasterResult(task.targets, task.class_info, size_hw, areas, square_metres, tiles, 0, 0.0, peak_memory())
