"""Rasters for tests: written by rasterio alone, and a model whose classes anyone can compute."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine

import refineseg
from refineseg.predict.views.tiling import Region, grid

UTM = {"crs": "EPSG:32616", "transform": Affine(0.5, 0, 733601, 0, -0.5, 3725139)}
CENTRES = torch.tensor([31.5, 95.5, 159.5, 223.5])


class PointScorer:
    """Four classes by the mean of the first channels' value: 0..63, 64..127, ...; a pixel sees no other."""

    scored: list[Region] = []  # noqa: RUF012 - counts over instances
    delay_s = 0.0

    def __init__(self, task, size_hw, tiling):
        side = tiling.tile if isinstance(tiling.tile, int) else 2048
        self.tiles = grid(size_hw, (side, side))
        self.memory_bytes = tiling.memory_bytes

    def strips(self, source, tile):
        type(self).scored.append(tile)
        time.sleep(self.delay_s)
        for top in range(tile.top, tile.bottom, 100):
            strip = Region(top, tile.left, min(top + 100, tile.bottom), tile.right)
            values = torch.from_numpy(source.read(strip)[..., 0].astype(np.float32))
            yield strip, -(values[None] - CENTRES[:, None, None]).abs() / 20


def point_model():
    return refineseg.build("refinenet_lw_mobilenetv2", num_classes=4)


def write(path, values, *, colours=None, mask=None, palette=None, **profile):
    """(B, H, W) as a GeoTIFF (or what the name's ending says)."""
    driver = {".png": "PNG", ".jpg": "JPEG", ".jp2": "JP2OpenJPEG"}.get(Path(path).suffix, "GTiff")
    count, height, width = values.shape
    options = {"driver": driver, "count": count, "height": height, "width": width, "dtype": str(values.dtype)}
    with rasterio.open(path, "w", **options, **profile) as dataset:
        dataset.write(values)
        if colours:
            dataset.colorinterp = [rasterio.enums.ColorInterp[name] for name in colours]
        if mask is not None:
            dataset.write_mask(mask)
        if palette is not None:
            dataset.write_colormap(1, palette)
    return Path(path)
