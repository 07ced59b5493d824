"""Rasters of gigapixels: memory measured from outside the process; minutes long."""

import json
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import rasterio

from fakes.rasters import UTM

PROGRAM = """
import sys
from pathlib import Path
import refineseg
from refineseg.predict.outputs.kinds import Outputs
from refineseg.predict.raster.raster import predict_raster
from refineseg.predict.views.tiling import TilingOptions

model = refineseg.load("camvid")
predict_raster(Path(sys.argv[1]), Path(sys.argv[2]), model, tiling=TilingOptions(memory_bytes=4 * 10**9),
               outputs=Outputs(("mask", "overlay")))
"""
BLOCKS = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "BIGTIFF": "YES"}


def sparse(path, side, spots):
    """Three bands of which only squares of 640 pixels hold data; the file has no other blocks."""
    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "nodata": 0}
    with rasterio.open(path, "w", **profile, **BLOCKS, **UTM, sparse_ok=True, interleave="pixel") as dataset:
        for top, left in spots:
            values = rng.integers(1, 256, (3, 40, 40), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
            dataset.write(values, window=rasterio.windows.Window(left, top, 640, 640))
    return path


def measured(command):
    """(peak of resident memory in bytes, seconds) of a process and its children."""
    begun, peak = time.monotonic(), 0
    with subprocess.Popen(command) as process:
        seen = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peak = max(peak, sum(p.memory_info().rss for p in (seen, *seen.children(recursive=True))))
            except psutil.NoSuchProcess:
                break
            time.sleep(0.05)
    assert process.returncode == 0
    return peak, time.monotonic() - begun


@pytest.mark.slow
@pytest.mark.parametrize("side", [20_000, 50_000])
def test_a_raster_of_gigapixels_takes_less_than_4_gb_in_all(tmp_path, side):
    spots = [(0, 0), (side // 2, side // 2), (side - 640, side - 640)]
    src, dst = sparse(tmp_path / "in.tif", side, spots), tmp_path / "out" / "in.tif"
    peak, seconds = measured([sys.executable, "-c", PROGRAM, str(src), str(dst)])
    print(f"{side} x {side}: {peak / 1e9:.2f} GB, {seconds:.0f} s")
    assert peak < 4 * 10**9
    with rasterio.open(dst) as dataset:
        assert dataset.shape == (side, side)
        assert dataset.transform == UTM["transform"]
        assert len(dataset.overviews(1)) >= 6
        for top, left in spots:
            assert (dataset.read(1, window=rasterio.windows.Window(left, top, 640, 640)) != 255).all()
        assert (dataset.read(1, window=rasterio.windows.Window(1000, 0, 3000, 640)) == 255).all()
    summary = json.loads((dst.parent / "in_areas.json").read_text())
    assert summary["unknown"] == side**2 - 3 * 640**2
