"""Rasters: killed and resumed, refused where they do not fit, damaged inputs, every kind of result."""

import json
import os
import resource
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from PIL import Image
from test_raster import opened, pixels, run

import refineseg
from conftest import SHARED
from fakes.rasters import UTM, PointScorer, point_model, write
from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, ImageError, MissingExtraError, OutputError, RefinesegError
from refineseg.images.files import IMAGE_SUFFIXES, read_picture, read_rgb
from refineseg.images.reading import Reading
from refineseg.predict.raster import files as raster_files
from refineseg.predict.raster import headers as raster_headers
from refineseg.predict.raster import raster
from refineseg.predict.raster.raster import RasterOptions, is_raster
from refineseg.predict.raster.writing import copy_in_order

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
SPACENET = SHARED / "samples" / "extras" / "geotiff_spacenet"
MOSAIC = (
    '<VRTDataset rasterXSize="50" rasterYSize="40"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
    '<SourceFilename relativeToVRT="1">part.tif</SourceFilename><SourceBand>1</SourceBand>'
    '<SrcRect xOff="0" yOff="0" xSize="50" ySize="40"/><DstRect xOff="0" yOff="0" xSize="50" ySize="40"/>'
    "</SimpleSource></VRTRasterBand></VRTDataset>"
)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return point_model()


@pytest.fixture(autouse=True)
def point_scorer(monkeypatch):
    monkeypatch.setattr(raster, "_scorer", PointScorer)
    monkeypatch.setattr(PointScorer, "scored", [])


def forked(work):
    """Runs in a process of its own, which may be killed or limited: (its id, what it writes as text)."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # other threads of this process; the child uses none of them
        child = os.fork()
    if child == 0:
        os.close(reading)
        status = 1
        try:
            torch.set_num_threads(1)
            with os.fdopen(writing, "w", buffering=1) as said:
                try:
                    work(said)
                    status = 0
                except RefinesegError as error:
                    said.write(f"{type(error).__name__}: {error}\n")
        finally:
            os._exit(status)
    os.close(writing)
    return child, os.fdopen(reading)


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow
@needs_fork
def test_a_run_killed_at_any_moment_ends_like_one_that_was_not(tmp_path, model, monkeypatch):
    """Killed (SIGKILL) between tiles, in tiles, and while results are written; every byte is the same at the end."""
    src = write(tmp_path / "in.tif", pixels((400, 330), dtype="uint16"), nodata=0, **UTM)
    kinds = "mask,confidence,overlay,probabilities"
    whole, broken = tmp_path / "whole" / "in.tif", tmp_path / "broken" / "in.tif"
    run(src, whole, model, tile=64, kinds=kinds)
    monkeypatch.setattr(PointScorer, "delay_s", 0.02)

    def work(said, last=2.0):
        def progress(share):
            said.write(f"{share:.4f}\n")
            time.sleep(60 if share >= last else 0)  # to be killed there

        PointScorer.scored.clear()
        result = run(src, broken, model, tile=64, kinds=kinds, progress=progress)
        said.write(f"kept {result.tiles_kept} of {result.tiles}, scored {len(PointScorer.scored)}")

    kept = 0
    for share, wait_s in ((0.2, 0.0), (0.5, 0.013), (0.8, 0.031), (0.969, 0.0), (0.969, 0.01), (0.98, 0.0)):
        child, said = forked(lambda said: work(said, last=0.98))
        with said:
            assert float(next(said)) == pytest.approx(0.97 * kept / 42, abs=0.12)  # tiles differ in size
            while float(next(said)) < share:
                pass
            time.sleep(wait_s)
            os.kill(child, signal.SIGKILL)
        assert ended(child) == -signal.SIGKILL
        assert not [path for path in broken.parent.iterdir() if not path.name.startswith(".")]
        now = len(list((broken.parent / ".in.tif.parts").glob("tile_*.npz")))
        assert kept <= now
        kept = now
    assert kept == 42
    next(iter((broken.parent / ".in.tif.parts").glob("tile_*07.npz"))).unlink()
    child, said = forked(work)
    with said:
        assert said.read().splitlines()[-1] == "kept 41 of 42, scored 1"
    assert ended(child) == 0
    names = sorted(path.name for path in whole.parent.iterdir())
    assert names == sorted(path.name for path in broken.parent.iterdir())
    assert len(names) == 5
    for name in names:
        assert (whole.parent / name).read_bytes() == (broken.parent / name).read_bytes(), name


def broken_off(src, dst, model, monkeypatch, *, after=3, **options):
    """A run that fails in the middle."""

    PointScorer.scored.clear()

    class Failing(PointScorer):
        def strips(self, source, tile):
            if len(PointScorer.scored) == after:
                raise KeyboardInterrupt
            return super().strips(source, tile)

    with monkeypatch.context() as context:
        context.setattr(raster, "_scorer", Failing)
        with pytest.raises(KeyboardInterrupt):
            run(src, dst, model, **options)
    PointScorer.scored.clear()


def test_only_the_same_job_is_gone_on_with(tmp_path, model, monkeypatch):
    values = pixels()
    src, dst = write(tmp_path / "in.tif", values, **UTM), tmp_path / "out.tif"
    broken_off(src, dst, model, monkeypatch)
    for wrong, options in (
        ("bands", {"bands": (2,)}),
        ("scaling", {"percentiles": (1.0, 99.0)}),
        ("nodata", {"nodata": 5.0}),
        ("layers", {"unknown_below": 0.4}),
        ("tiling", {"tile": 128}),
    ):
        with pytest.raises(ImageError, match=f"unfinished job in .*out.tif.parts, but .* another {wrong};"):
            run(src, dst, model, **options)
    torch.manual_seed(5)
    with pytest.raises(ImageError, match="another model;.*--no-resume"):
        run(src, dst, point_model())
    assert run(src, dst, model).tiles_kept == 3
    np.testing.assert_array_equal(opened(dst), values[0] // 64)
    dst.unlink()
    broken_off(src, dst, model, monkeypatch, resume=False)
    os.utime(src, (1, 1))
    with pytest.raises(ImageError, match="another input;"):
        run(src, dst, model)
    assert run(src, dst, model, resume=False).tiles_kept == 0
    np.testing.assert_array_equal(opened(dst), values[0] // 64)


@needs_fork
def test_two_processes_do_not_work_on_one_job(tmp_path, model, monkeypatch):
    src, dst = write(tmp_path / "in.tif", pixels(), **UTM), tmp_path / "out.tif"
    monkeypatch.setattr(PointScorer, "delay_s", 0.1)
    child, said = forked(lambda said: run(src, dst, model, progress=lambda share: said.write(f"{share}\n")))
    with said:
        next(said), next(said)
        for resume in (True, False):
            with pytest.raises(ImageError, match=r"expected to be alone with .*out.tif.parts, but another process"):
                run(src, dst, model, resume=resume)
        said.read()
    assert ended(child) == 0
    np.testing.assert_array_equal(opened(dst), pixels()[0] // 64)


def test_only_the_kinds_asked_for_are_written(tmp_path, model):
    src = write(tmp_path / "in.tif", pixels(), **UTM)
    result = run(src, tmp_path / "out" / "in.tif", model, kinds="overlay")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["in_areas.json", "in_overlay.jpg"]
    assert set(result.paths) == {"overlay", "areas"}


def test_large_compressed_strips_are_copied_into_blocks_first(tmp_path, model, monkeypatch):
    values = pixels((300, 400)) | 1
    values[:, 40:90, 200:] = 0
    src = write(tmp_path / "in.tif", values, nodata=0, compress="lzw", **UTM)
    monkeypatch.setattr(raster_files, "_SEQUENTIAL_PIXELS", 1000)
    copied = []
    monkeypatch.setattr(
        raster,
        "copy_in_order",
        lambda path, *rest, **options: copied.append(path) or copy_in_order(path, *rest, **options),
    )
    run(src, tmp_path / "out.tif", model)
    assert len(copied) == 1
    truth = np.where((values == 0).all(axis=0), 255, values[0] // 64)
    np.testing.assert_array_equal(opened(tmp_path / "out.tif"), truth)
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.transform == UTM["transform"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tif", "out.tif", "out_areas.json"]


def test_a_finished_raster_is_not_computed_again_and_anothers_not_replaced(tmp_path, model):
    src, dst = write(tmp_path / "in.tif", pixels(), **UTM), tmp_path / "out.tif"
    first = run(src, dst, model)
    content = dst.read_bytes()
    PointScorer.scored.clear()
    second = run(src, dst, model)
    assert not PointScorer.scored
    assert second.tiles_kept == second.tiles == first.tiles
    np.testing.assert_array_equal(second.areas.of_classes, first.areas.of_classes)
    for options in ({"bands": (2,)}, {"compress": "lzw"}):
        with pytest.raises(
            ImageError, match=r"expected no results of another job, but there is .*out.tif.*--no-resume"
        ):
            run(src, dst, model, **options)
    assert dst.read_bytes() == content
    run(src, dst, model, bands=(2,), resume=False)
    np.testing.assert_array_equal(opened(dst), pixels()[1] // 64)
    foreign = tmp_path / "foreign.tif"
    foreign.write_bytes(b"someone's")
    with pytest.raises(ImageError, match="expected no results of another job"):
        run(src, foreign, model)
    assert foreign.read_bytes() == b"someone's"


def test_a_journal_that_cannot_be_read_costs_no_finished_tile(tmp_path, model, monkeypatch):
    src, dst = write(tmp_path / "in.tif", pixels(), **UTM), tmp_path / "out.tif"
    broken_off(src, dst, model, monkeypatch)
    journal = tmp_path / ".out.tif.parts" / "job.json"
    content = journal.read_bytes()
    journal.unlink()
    journal.mkdir()  # as a disk says that does not answer: an error that is not "not found"
    with pytest.raises(
        ImageError, match=r"expected to go on with .* but .*job\.json cannot be read \(Is a directory\)"
    ):
        run(src, dst, model)
    journal.rmdir()
    journal.write_bytes(content)
    assert run(src, dst, model).tiles_kept == 3


def test_a_damaged_tile_is_named_or_computed_again(tmp_path, model, monkeypatch):
    src, dst = write(tmp_path / "in.tif", pixels(), **UTM), tmp_path / "out.tif"
    broken_off(src, dst, model, monkeypatch)
    tiles = sorted((tmp_path / ".out.tif.parts").glob("tile_*.npz"))
    tiles[0].write_bytes(tiles[0].read_bytes()[:100])  # no zip file any more
    assert run(src, dst, model).tiles_kept == 2
    dst.unlink()
    broken_off(src, dst, model, monkeypatch, resume=False)
    content = bytearray(tiles[1].read_bytes())
    content[120] ^= 255  # a zip file whose checksum is wrong
    tiles[1].write_bytes(content)
    with pytest.raises(ImageError, match="tile_000001.npz, but it is damaged.*remove that file and run"):
        run(src, dst, model)
    tiles[1].unlink()
    run(src, dst, model)
    np.testing.assert_array_equal(opened(dst), pixels()[0] // 64)


@pytest.mark.slow
@needs_fork
def test_a_full_disk_is_said_and_room_lets_it_go_on(tmp_path, model):
    """A limit on the size of files stands for a full disk: at the journal, a tile, the result and its overviews."""
    noise = np.random.default_rng(0).integers(0, 256, (3, 512, 512), dtype=np.uint8)
    src, dst = write(tmp_path / "in.tif", noise, **UTM), tmp_path / "out" / "in.tif"
    run(src, tmp_path / "whole.tif", model, tile=128)
    size = (tmp_path / "whole.tif").stat().st_size

    def limited(limit):
        def work(said):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            said.write(str(run(src, dst, model, tile=128).tiles_kept))

        return work

    for limit in (200, 1500, 40_000, int(size * 0.5), int(size * 0.8), int(size * 0.99), size - 1):
        child, said = forked(limited(limit))
        with said:
            text = said.read()
        assert ended(child) == 1, (limit, size, text)
        assert text.startswith(("ImageError: expected to write", "OutputError: expected to write")), (limit, size, text)
        assert "make room" in text
        assert not [path for path in dst.parent.iterdir() if not path.name.startswith(".")]
    assert run(src, dst, model, tile=128).tiles_kept == 16
    assert dst.read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_a_folder_that_cannot_be_written_is_said(tmp_path, model):
    src = write(tmp_path / "in.tif", pixels(), **UTM)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="expected to write .*choose a folder that can be written to"):
        run(src, tmp_path / "file" / "out.tif", model)
    (tmp_path / ".out.tif.parts" / "lock").mkdir(parents=True)
    with pytest.raises(OutputError, match="expected to write .*parts, but .*run the same command again"):
        run(src, tmp_path / "out.tif", model)


def test_results_stand_apart_from_the_input(tmp_path, model):
    src = write(tmp_path / "in.tif", pixels(), **UTM)
    content = src.read_bytes()
    with pytest.raises(ConfigError, match="expected results apart from the input"):
        run(src, src, model, resume=False)
    with pytest.raises(ConfigError, match=r"expected the class raster to end in \.tif, got .*out.png"):
        run(src, tmp_path / "out.png", model)
    for given in ((tmp_path / "a\udcff.tif", tmp_path / "out.tif"), (src, tmp_path / "\udcff" / "out.tif")):
        with pytest.raises(ConfigError, match=r"expected names in UTF-8 for a raster, .* rename it"):
            run(*given, model)
    assert src.read_bytes() == content
    write(tmp_path / "part.tif", pixels((40, 50)), **UTM)
    content = (tmp_path / "part.tif").read_bytes()
    (tmp_path / "part.vrt").write_text(MOSAIC)
    with pytest.raises(ConfigError, match=r"expected results apart from the input, got .*part\.tif for .*part\.vrt"):
        run(tmp_path / "part.vrt", tmp_path / "part.tif", model, bands=(1, 1, 1), resume=False)
    assert (tmp_path / "part.tif").read_bytes() == content


def test_inputs_that_cannot_be_read_are_named(tmp_path, model):
    whole = write(tmp_path / "in.tif", pixels((600, 600)), compress="deflate", **UTM).read_bytes()
    (tmp_path / "empty.tif").write_bytes(b"")
    (tmp_path / "text.tif").write_text("no raster")
    (tmp_path / "short.tif").write_bytes(whole[:-2000])
    (tmp_path / "header.tif").write_bytes(whole[:60])
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 400] = bytes(400)
    (tmp_path / "damaged.tif").write_bytes(damaged)
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    for name in ("short.png", "short.jpg"):
        Image.fromarray(noise).save(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:50_000])
    write(tmp_path / "complex.tif", pixels().astype(np.complex64))
    for name, message in (
        ("none.tif", "expected a raster, but there is no file .*none.tif"),
        ("empty.tif", r"empty.tif, which is empty \(0 bytes\)"),
        ("text.tif", "expected a raster in .*text.tif, got: .*not recognized"),
        ("short.tif", "short.tif"),
        ("header.tif", "header.tif"),
        ("damaged.tif", "expected readable pixels in rows .* of .*damaged.tif, got: .*replace it"),
        ("short.png", "expected readable pixels in rows .* of .*short.png, got: .*replace it"),
        ("short.jpg", "expected readable pixels in rows .* of .*short.jpg, got: .*replace it"),
        ("complex.tif", "expected pixels of integers or real numbers, got complex64 in .*complex.tif"),
    ):
        with pytest.raises(ImageError, match=message):
            run(tmp_path / name, tmp_path / "out" / f"{name}.tif", model)
    assert not list((tmp_path / "out").glob("[!.]*"))


def test_a_truncated_raster_is_refused_before_any_work(tmp_path, model):
    blocks = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}
    content = write(tmp_path / "in.tif", pixels((600, 600)), **blocks, **UTM).read_bytes()
    (tmp_path / "short.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match="short.tif, got [0-9]+: the file is truncated; copy or download it again"):
        run(tmp_path / "short.tif", tmp_path / "out.tif", model)
    assert not PointScorer.scored


def test_rasterio_is_asked_for_where_it_is_missing(tmp_path, model, monkeypatch):
    src = write(tmp_path / "in.tif", pixels(), **UTM)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(MissingExtraError, match=r"rasterio.*pip install 'refineseg\[geo\]'"):
        run(src, tmp_path / "out.tif", model)


def test_images_that_can_only_be_read_in_order_are_predicted_too(tmp_path, model):
    values = pixels((333, 517), top=4) * 64 + 32
    Image.fromarray(values.transpose(1, 2, 0)).save(tmp_path / "in.png")
    Image.fromarray(values.transpose(1, 2, 0)).save(tmp_path / "in.jpg", quality=100, subsampling=0)
    strips = write(tmp_path / "in16.png", values.astype(np.uint16) * 257)
    read = np.asarray(Image.open(tmp_path / "in.jpg"))
    for src, truth in ((tmp_path / "in.png", values[0]), (tmp_path / "in.jpg", read[..., 0]), (strips, values[0])):
        dst = tmp_path / "out" / f"{src.name}.tif"
        run(src, dst, model, percentiles=None)
        assert (opened(dst) == truth // 64).mean() > (0.98 if src.suffix == ".jpg" else 1 - 1e-9)  # decoders differ


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_turned_by_exif_are_predicted_upright(tmp_path, model, orientation):
    values = pixels((150, 333), top=4) * 64 + 32
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values.transpose(1, 2, 0)).save(tmp_path / "in.jpg", quality=100, subsampling=0, exif=exif)
    upright = refineseg.images.files.read_rgb(tmp_path / "in.jpg")
    run(tmp_path / "in.jpg", tmp_path / "out.tif", model)
    assert (opened(tmp_path / "out.tif") == upright[..., 0] // 64).mean() > 0.995  # two decoders differ at edges


@pytest.mark.parametrize("size", [(1, 1), (60_000, 1), (1, 60_000), (31, 700)])
def test_rasters_of_odd_sizes_are_predicted(tmp_path, model, size):
    values = pixels(size)
    src = write(tmp_path / "in.tif", values, **UTM)
    run(src, tmp_path / "out.tif", model, tile=20_000, kinds="mask,overlay")
    np.testing.assert_array_equal(opened(tmp_path / "out.tif"), values[0] // 64)


def test_a_class_whose_name_is_no_text_does_not_stop_the_bands_of_probabilities(tmp_path):
    """The tiles were finished, and the results could never be written."""
    names = ("a\ud800", "ä", "c", "d")
    odd = refineseg.build("refinenet_lw_mobilenetv2", class_info=ClassInfo(names))
    result = run(write(tmp_path / "in.tif", pixels((40, 50)), **UTM), tmp_path / "out.tif", odd, kinds="probabilities")
    with rasterio.open(result.paths["probabilities"]) as dataset:
        assert dataset.descriptions == ("a\\ud800", *names[1:])


def test_confidence_probabilities_unknown_pixels_and_overlay_follow_from_the_scores(tmp_path, model):
    values = pixels((300, 260)) | 1
    values[:, :30] = 0
    src = write(tmp_path / "in.tif", values, nodata=0, **UTM)
    result = run(src, tmp_path / "out.tif", model, kinds="mask,confidence,probabilities,overlay", unknown_below=0.6)
    scores = -np.abs(values[0].astype(float) - np.array([31.5, 95.5, 159.5, 223.5])[:, None, None]) / 20
    powers = np.exp(scores)
    truth = powers / powers.sum(axis=0)
    sure = truth.max(axis=0)
    expected = np.where(sure < 0.6, 255, scores.argmax(axis=0))
    expected[:30] = 255
    np.testing.assert_array_equal(opened(tmp_path / "out.tif"), expected)
    assert 0 < (sure[30:] < 0.6).mean() < 1
    with rasterio.open(result.paths["confidence"]) as dataset:
        found = dataset.read(1)
        assert (found[:30] == 0).all()
        np.testing.assert_allclose(found[30:] * dataset.scales[0], sure[30:], atol=1 / 255)
        assert dataset.nodata == 0
        assert dataset.transform == UTM["transform"]
    with rasterio.open(result.paths["probabilities"]) as dataset:
        assert dataset.descriptions == model.class_info.names
        assert set(dataset.dtypes) == {"uint16"}
        np.testing.assert_allclose(dataset.read()[:, 30:] * dataset.scales[0], truth[:, 30:], atol=1e-5)
        assert (dataset.read()[:, :30] == 0).all()
    with Image.open(result.paths["overlay"]) as image:
        assert image.size[0] == 260
        assert image.size[1] > 300


def test_polygons_lie_in_the_rasters_coordinates(tmp_path, model):
    values = np.full((3, 700, 300), 10, np.uint8)
    values[:, 100:600, 50:250] = 200
    result = run(write(tmp_path / "in.tif", values, **UTM), tmp_path / "out.tif", model, kinds="mask,polygons")
    features = json.loads(result.paths["polygons"].read_text())["features"]
    inner = next(f for f in features if len(f["geometry"]["coordinates"]) == 1)
    ring = np.array(inner["geometry"]["coordinates"][0])
    left, top = 733601 + 50 * 0.5, 3725139 - 100 * 0.5
    np.testing.assert_allclose(ring.min(axis=0), (left, top - 250))
    np.testing.assert_allclose(ring.max(axis=0), (left + 100, top))
    assert len(features) == 2


def test_the_overlay_of_a_large_raster_is_small(tmp_path, model, monkeypatch):
    monkeypatch.setattr("refineseg.predict.raster.results.OVERLAY_SIDE", 128)
    values = np.full((3, 800, 1000), 200, np.uint8)
    values[:, 400:] = 10
    result = run(write(tmp_path / "in.tif", values, **UTM), tmp_path / "out.tif", model, kinds="mask,overlay")
    with Image.open(result.paths["overlay"]) as image:
        assert image.size[0] == 128
        shown = np.asarray(image)
    palette = np.array(model.class_info.palette)
    np.testing.assert_allclose(shown[20, 64], (200 + palette[3]) / 2, atol=6)
    np.testing.assert_allclose(shown[80, 64], (10 + palette[0]) / 2, atol=6)


def test_what_is_a_raster_is_seen_from_its_header(tmp_path, monkeypatch):
    plain = pixels()
    assert not is_raster(write(tmp_path / "plain.tif", plain))
    assert not is_raster(write(tmp_path / "plain.png", plain))
    assert not is_raster(write(tmp_path / "grey16.tif", plain[:1].astype(np.uint16)))
    assert is_raster(write(tmp_path / "placed.tif", plain, **UTM))
    assert is_raster(write(tmp_path / "empty_value.tif", plain, nodata=0))
    assert is_raster(write(tmp_path / "real.tif", plain.astype(np.float32)))
    assert is_raster(write(tmp_path / "signed.tif", plain.astype(np.int16)))
    assert is_raster(write(tmp_path / "bands.tif", pixels(bands=7)))
    assert is_raster(write(tmp_path / "negative.tif", pixels(bands=2), photometric="MINISWHITE", ALPHA="YES"))
    assert is_raster(write(tmp_path / "big.tif", plain, BIGTIFF="YES"))
    assert is_raster(write(tmp_path / "big_endian.tif", plain, ENDIANNESS="BIG", **UTM))
    assert not is_raster(tmp_path / "none.tif")
    (tmp_path / "text.tif").write_text("II*")
    assert not is_raster(tmp_path / "text.tif")
    whole = write(tmp_path / "plain.jp2", plain).read_bytes()
    for end in range(8, whole.index(b"ihdr") + 20):
        (tmp_path / "short.jp2").write_bytes(whole[:end])
        assert is_raster(tmp_path / "short.jp2") in (True, False)
    Image.fromarray(plain.transpose(1, 2, 0)).save(tmp_path / "plain.jpg")
    assert not is_raster(tmp_path / "plain.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", (plain[0].size - 1) // 2)  # what is not read at once is a raster
    for name in ("plain.tif", "plain.png", "plain.jpg"):
        assert is_raster(tmp_path / name)


@pytest.mark.parametrize("bands", [1, 2, 3])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 7, 8, 10, 12, 14, 16])
def test_a_tiff_is_a_raster_where_pillow_does_not_read_it(tmp_path, bands, bits):
    """Of these the message of images says that predict reads them."""
    values = np.arange(bands * 60).reshape(bands, 6, 10) % (1 << bits)
    few = {} if bits in (8, 16) else {"nbits": bits}
    for interleave in ("pixel", "band"):
        path = write(tmp_path / "a.tif", values.astype("uint16" if bits > 8 else "uint8"), interleave=interleave, **few)
        try:
            read_rgb(path)
        except ImageError:
            assert is_raster(path)
        if bands == 1:
            for order in ("LITTLE", "BIG"):
                for colours in ("MINISBLACK", "MINISWHITE"):
                    options = {**few, "ENDIANNESS": order, "photometric": colours}
                    path = write(tmp_path / "a.tif", values.astype("uint16" if bits > 8 else "uint8"), **options)
                    try:
                        read_rgb(path)
                    except ImageError:
                        assert is_raster(path), (order, colours)
    assert is_raster(write(tmp_path / "b.tif", pixels(), compress="LERC"))


def test_images_of_12_bits_are_seen_up_to_their_largest_value(tmp_path):
    values = np.arange(0, 4096, 91, dtype=np.uint16)[None, None]
    path = write(tmp_path / "a.tif", values, nbits=12)
    shown = read_picture(path, reading=Reading(percentiles=None)).image[..., 0]
    np.testing.assert_array_equal(shown, np.rint(values[0] / 4095 * 255))


def test_options_are_said_in_words():
    reading = Reading.parse(bands="4,3,2", percentiles="1,99.5", nodata="-9999")
    assert reading == Reading(bands=(4, 3, 2), percentiles=(1.0, 99.5), nodata=-9999.0)
    assert Reading.parse(percentiles="none", value_range="0,10000").value_range == (0.0, 10000.0)
    for words, message in (
        ({"bands": "red"}, "expected --bands as whole numbers with commas, got 'red'"),
        ({"bands": "9" * 400}, "expected --bands as whole numbers"),
        ({"bands": "0,1"}, "expected bands counted from 1"),
        ({"percentiles": "98,2"}, "expected two rising percentiles within 0..100"),
        ({"percentiles": "2"}, "expected --percentiles as 2 numbers, got '2'"),
        ({"nodata": "black"}, "expected --nodata as a number, got 'black'"),
        ({"value_range": "9,3"}, "expected two rising values"),
    ):
        with pytest.raises(ConfigError, match=message):
            Reading.parse(**words)
    with pytest.raises(ConfigError, match="expected a compression of deflate, lzw, zstd, none, got 'jpeg'"):
        RasterOptions(compress="jpeg")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sample_geotiff.tif", "sample_geotiff_custom_proj.tif"])
def test_a_real_raster_gives_what_the_whole_image_gives(tmp_path, model, monkeypatch, name):
    """Exact tiles of 96 pixels and the Predictor on the whole scaled crop; nodata apart."""
    if not SPACENET.is_dir():
        pytest.skip(f"the sample rasters are absent: {SPACENET}")
    monkeypatch.undo()
    with rasterio.open(SPACENET / name) as dataset:
        window = rasterio.windows.Window(100, 60, 170, 140)
        values, nodata, crs, place = dataset.read(window=window), dataset.nodata, dataset.crs, dataset.transform
    place = Affine(place.a, 0, place.c + 100 * place.a, 0, place.e, place.f + 60 * place.e)
    values[:, :20, :30] = nodata
    src = write(tmp_path / "in.tif", values, nodata=nodata, crs=crs, transform=place)
    held = (values != nodata).any(axis=0)
    low, high = (np.percentile(values[:, held].astype(np.float64), share, axis=1)[:, None, None] for share in (2, 98))
    image = np.clip(np.rint((values - low) / (high - low) * 255), 0, 255) * held
    image = np.ascontiguousarray(np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)).astype(np.uint8)
    whole = refineseg.Predictor(model)(image, probabilities=True)
    result = run(src, tmp_path / "out.tif", model, tile=96, kinds="mask,confidence")
    found = opened(tmp_path / "out.tif")
    assert (found[~held] == model.class_info.ignore_index).all()
    two = np.sort(whole.probabilities, axis=0)[-2:]
    clear = held & (two[1] - two[0] > 1e-4)
    assert clear.sum() > 0.9 * held.sum()
    np.testing.assert_array_equal(found[clear], whole.mask[clear])
    with rasterio.open(result.paths["confidence"]) as dataset:
        np.testing.assert_allclose(dataset.read(1)[held] / 255, whole.confidence[held], atol=1 / 255)
        assert dataset.crs == crs


def test_endings_of_rasters_are_listed_once():
    """A folder finds every raster that may be a photograph by its ending, and leaves out, with a note, all others."""
    maybe = set(raster_headers.RASTER_SUFFIXES) - set(raster_headers.RASTER_ONLY_SUFFIXES)
    assert maybe <= set(IMAGE_SUFFIXES)
    assert not set(raster_headers.RASTER_ONLY_SUFFIXES) & set(IMAGE_SUFFIXES)
    source = Path(raster_headers.__file__).parents[2]
    listing = [path.name for path in source.rglob("*.py") if '".vrt"' in path.read_text(encoding="utf-8")]
    assert listing == ["headers.py"]


def test_results_of_a_mosaic_are_made_anew_when_its_files_change(tmp_path, model):
    """The named file is a list of others, and stays as it is."""
    write(tmp_path / "part.tif", pixels((40, 50)), **UTM)
    (tmp_path / "mosaic.vrt").write_text(MOSAIC)
    run(tmp_path / "mosaic.vrt", tmp_path / "out.tif", model, bands=(1, 1, 1))
    before = (tmp_path / "out.tif").read_bytes()
    write(tmp_path / "part.tif", 255 - pixels((40, 50)), **UTM)
    with pytest.raises(ImageError, match="other"):
        run(tmp_path / "mosaic.vrt", tmp_path / "out.tif", model, bands=(1, 1, 1))
    assert (tmp_path / "out.tif").read_bytes() == before
