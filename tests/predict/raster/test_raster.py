"""Rasters: pixels, places and nodata in, class rasters out, after any kill, in bounded memory."""

import contextlib
import html
import json
import socket
import threading

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from PIL import Image

from conftest import SHARED
from fakes.rasters import UTM, PointScorer, point_model, write
from refineseg.errors import ConfigError, ImageError
from refineseg.images import reading
from refineseg.images.reading import Reading, Scaling
from refineseg.predict.outputs.kinds import Outputs
from refineseg.predict.raster import files as raster_files
from refineseg.predict.raster import raster
from refineseg.predict.raster.headers import is_raster
from refineseg.predict.raster.pixels import RasterSource
from refineseg.predict.raster.raster import RasterOptions, predict_raster
from refineseg.predict.views.tiling import Region, TilingOptions

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
SPACENET = SHARED / "samples" / "extras" / "geotiff_spacenet"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return point_model()


@pytest.fixture(autouse=True)
def point_scorer(monkeypatch):
    monkeypatch.setattr(raster, "_scorer", PointScorer)
    monkeypatch.setattr(PointScorer, "scored", [])


def pixels(size=(200, 300), bands=3, dtype="uint8", seed=0, top=256):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, top, (bands, -(-size[0] // 8), -(-size[1] // 8)))
    return coarse.repeat(8, 1).repeat(8, 2)[:, : size[0], : size[1]].astype(dtype)


def run(src, dst, model, *, tile=96, kinds="mask", unknown_below=None, progress=None, **options):
    """With the four classes that everyone can compute; options of reading and writing alike."""
    read = {name: options.pop(name) for name in ("bands", "percentiles", "value_range", "nodata") if name in options}
    return predict_raster(
        src,
        dst,
        model,
        tiling=TilingOptions(tile=tile),
        options=RasterOptions(Reading(**read), **options),
        outputs=Outputs(tuple(kinds.split(",")), unknown_below=unknown_below),
        progress=progress,
    )


def opened(path):
    with rasterio.open(path) as dataset:
        return dataset.read(1)


@pytest.mark.slow_except("150", "1000")
@pytest.mark.parametrize("tile", [64, 96, 150, 1000])
def test_a_class_raster_has_its_inputs_grid_a_palette_void_and_overviews(tmp_path, model, tile):
    values = pixels((700, 900))
    src = write(tmp_path / "in.tif", values, **UTM)
    result = run(src, tmp_path / "out" / "in.tif", model, tile=tile)
    with rasterio.open(tmp_path / "out" / "in.tif") as dataset:
        assert dataset.crs == rasterio.CRS.from_epsg(32616)
        assert dataset.transform == UTM["transform"]
        assert dataset.nodata == 255
        assert dataset.dtypes == ("uint8",)
        assert dataset.profile["tiled"]
        assert dataset.profile["compress"] == "deflate"
        assert dataset.overviews(1) == [2, 4]
        for index, colour in enumerate(model.class_info.palette):
            assert dataset.colormap(1)[index][:3] == colour
        np.testing.assert_array_equal(dataset.read(1), values[0] // 64)
        assert json.loads(dataset.tags()["REFINESEG_CLASSES"]) == list(model.class_info.names)
        np.testing.assert_array_equal(result.areas.of_classes, np.bincount((values[0] // 64).ravel(), minlength=4))
    with rasterio.open(tmp_path / "out" / "in.tif", overview_level=0) as dataset:
        half = dataset.read(1)  # squares of 8 x 8 pixels: the most frequent of each 2 x 2 is any of them
        np.testing.assert_array_equal(half, values[0, ::2, ::2] // 64)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["in.tif", "in_areas.json"]


def test_areas_are_in_square_metres_where_the_coordinate_system_is_projected(tmp_path, model):
    values = pixels()
    feet = {"crs": "EPSG:2240", "transform": Affine(2, 0, 0, 0, -2, 0)}  # US survey feet
    for name, place, expected in (("utm", UTM, 0.25), ("feet", feet, (2 * 1200 / 3937) ** 2), ("none", {}, None)):
        result = run(write(tmp_path / f"{name}.tif", values, **place), tmp_path / "out" / f"{name}.tif", model)
        assert result.pixel_area_m2 == (None if expected is None else pytest.approx(expected))
        summary = json.loads(result.paths["areas"].read_text())
        counted = [entry["pixels"] for entry in summary["classes"]]
        assert counted == np.bincount((values[0] // 64).ravel(), minlength=4).tolist()
        assert sum(entry["share"] for entry in summary["classes"]) == pytest.approx(1)
        if expected is not None:
            metres = [entry["square_metres"] for entry in summary["classes"]]
            assert metres == pytest.approx([expected * pixels for pixels in counted])
    degrees = {"crs": "EPSG:4326", "transform": Affine(1e-5, 0, 7, 0, -1e-5, 50)}
    result = run(write(tmp_path / "degrees.tif", values, **degrees), tmp_path / "out" / "degrees.tif", model)
    assert result.areas_m2 is None


def test_rotated_rasters_ground_control_points_and_camera_models_are_kept(tmp_path, model):
    values = pixels()
    cos, sin = np.cos(np.radians(30)) / 2, np.sin(np.radians(30)) / 2
    turned = Affine(cos, sin, 500000, sin, -cos, 4000000)
    out = tmp_path / "out"
    run(write(tmp_path / "turned.tif", values, crs="EPSG:32616", transform=turned), out / "turned.tif", model)
    with rasterio.open(out / "turned.tif") as dataset:
        assert dataset.transform.almost_equals(turned, 1e-9)
    corners = [(0, 0), (0, 300), (200, 0), (200, 300)]
    points = [rasterio.control.GroundControlPoint(r, c, 7 + c / 1e4, 50 - r / 1e4 + c / 1e6) for r, c in corners]
    src = write(tmp_path / "points.tif", values, gcps=points, crs="EPSG:4326")
    run(src, out / "points.tif", model)
    with rasterio.open(out / "points.tif") as dataset:
        kept, crs = dataset.gcps
        assert crs == rasterio.CRS.from_epsg(4326)
        assert [(p.row, p.col, p.x, p.y) for p in kept] == [(p.row, p.col, p.x, p.y) for p in points]
    camera = rasterio.rpc.RPC(
        height_off=10.0,
        height_scale=500.0,
        lat_off=50.0,
        lat_scale=0.1,
        line_den_coeff=[1.0] + [0.0] * 19,
        line_num_coeff=[0.0, 0.0, 1.0] + [0.0] * 17,
        line_off=100.0,
        line_scale=100.0,
        long_off=7.0,
        long_scale=0.1,
        samp_den_coeff=[1.0] + [0.0] * 19,
        samp_num_coeff=[0.0, 1.0] + [0.0] * 18,
        samp_off=150.0,
        samp_scale=150.0,
        err_bias=None,
        err_rand=None,
    )
    src = write(tmp_path / "camera.tif", values, rpcs=camera)
    run(src, out / "camera.tif", model)
    with rasterio.open(src) as before, rasterio.open(out / "camera.tif") as after:
        assert after.rpcs.to_gdal() == before.rpcs.to_gdal()
        assert after.rpcs.samp_num_coeff == camera.samp_num_coeff


def test_coordinates_of_pixel_centres_stay_where_they_are(tmp_path, model):
    src = write(tmp_path / "centres.tif", pixels(), **UTM)
    with rasterio.open(src, "r+") as dataset:
        dataset.update_tags(AREA_OR_POINT="Point")
    run(src, tmp_path / "out.tif", model)
    with rasterio.open(src) as before, rasterio.open(tmp_path / "out.tif") as after:
        assert after.tags()["AREA_OR_POINT"] == "Point"
        assert after.transform == before.transform


def test_nodata_masks_alpha_and_what_is_no_number_become_void(tmp_path, model):
    values = pixels()
    hole = np.zeros(values.shape[1:], bool)
    hole[10:150, 20:130] = True
    emptied = np.where(hole, 0, np.maximum(values, 1)).astype(np.uint8)
    alpha = np.concatenate([values, np.where(hole, 0, 200).astype(np.uint8)[None]])
    floating = np.where(hole, np.nan, values).astype(np.float32)
    one_band = values.astype(np.float32)
    one_band[1, hole] = np.inf
    rgba = ["red", "green", "blue", "alpha"]
    sources = {
        "declared": (write(tmp_path / "declared.tif", emptied, nodata=0, **UTM), {}),
        "said": (write(tmp_path / "said.tif", emptied, **UTM), {"nodata": 0.0}),
        "masked": (write(tmp_path / "masked.tif", values, mask=~hole, **UTM), {}),
        "alpha": (write(tmp_path / "alpha.tif", alpha, colours=rgba, **UTM), {}),
        "png": (write(tmp_path / "alpha.png", alpha), {}),
        "nan": (write(tmp_path / "nan.tif", floating, **UTM), {"value_range": (0.0, 255.0)}),
        "infinite": (write(tmp_path / "infinite.tif", one_band, **UTM), {"value_range": (0.0, 255.0)}),
    }
    truth = np.where(hole, 255, values[0] // 64)
    for name, (src, options) in sources.items():
        result = run(src, tmp_path / "out" / f"{name}.tif", model, **options)
        found = opened(tmp_path / "out" / f"{name}.tif")
        expected = np.where(hole, 255, np.maximum(values[0], 1) // 64) if name in ("declared", "said") else truth
        np.testing.assert_array_equal(found, expected, err_msg=name)
        assert result.areas.unknown == hole.sum(), name


def test_a_pixel_with_nodata_in_one_band_only_holds_data(tmp_path, model):
    values = np.full((3, 40, 40), 100, np.uint8)
    values[1] = 0
    src = write(tmp_path / "in.tif", values, nodata=0, **UTM)
    assert run(src, tmp_path / "out.tif", model).areas.unknown == 0


def test_tiles_without_data_are_not_scored(tmp_path, model):
    values = pixels((256, 256)) | 1
    values[:, :, 64:] = 0
    src = write(tmp_path / "in.tif", values, nodata=0, **UTM)
    run(src, tmp_path / "out.tif", model, tile=64)
    assert {tile.left for tile in PointScorer.scored} == {0}
    assert (opened(tmp_path / "out.tif")[:, 64:] == 255).all()


def test_bands_are_those_named_or_red_green_blue_or_one_for_all(tmp_path, model):
    values = pixels(bands=4)
    blue_first = write(tmp_path / "bgr.tif", values, colours=["blue", "green", "red", "undefined"], **UTM)
    unnamed = write(tmp_path / "unnamed.tif", values[:4], colours=["undefined"] * 4, **UTM)
    grey = write(tmp_path / "grey.tif", values[3:], **UTM)
    for src, options, band in (
        (blue_first, {}, 2),
        (blue_first, {"bands": (4, 1, 1)}, 3),
        (blue_first, {"bands": (2,)}, 1),
        (unnamed, {}, 0),
        (grey, {}, 3),
    ):
        run(src, tmp_path / "out.tif", model, resume=False, **options)
        np.testing.assert_array_equal(opened(tmp_path / "out.tif"), values[band] // 64)
    with raster_files.open_raster(grey) as reader:
        image = RasterSource(reader, (1,), num_channels=3).read(Region(3, 5, 40, 90))
    assert image.shape == (37, 85, 3)
    assert (image == values[3, 3:40, 5:90, None]).all()


def test_a_palettes_colours_are_seen_not_its_indices(tmp_path, model):
    indices = pixels(bands=1, top=4)
    palette = {0: (200, 1, 2, 255), 1: (100, 3, 4, 255), 2: (10, 5, 6, 255), 3: (70, 7, 8, 255)}
    src = write(tmp_path / "in.tif", indices, palette=palette, **UTM)
    run(src, tmp_path / "out.tif", model)
    red = np.array([palette[i][0] for i in range(4)])[indices[0]]
    np.testing.assert_array_equal(opened(tmp_path / "out.tif"), red // 64)


def test_bands_that_are_not_there_are_named(tmp_path, model):
    src = write(tmp_path / "in.tif", pixels(bands=4), **UTM)
    with pytest.raises(ImageError, match=r"expected bands from 1 to 4 of .*in.tif, got 5, 9"):
        run(src, tmp_path / "out.tif", model, bands=(5, 9, 1))
    with pytest.raises(ConfigError, match=r"expected 3 bands for a model of 3 channels.*got 1, 2"):
        run(src, tmp_path / "out.tif", model, bands=(1, 2))
    assert not (tmp_path / "out.tif").exists()


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "uint32", "float64"])
def test_pixels_of_more_bits_are_scaled_by_percentiles_of_the_whole_raster(tmp_path, model, dtype):
    """Independent truth: numpy's percentiles of all pixels with data, and a straight line."""
    rng = np.random.default_rng(1)
    values = (rng.gamma(2.0, 700.0, (3, 150, 210)) + np.array([0, 300, 50])[:, None, None]).astype(dtype)
    values[:, :20] = 9999
    src = write(tmp_path / "in.tif", values, nodata=9999, **UTM)
    held = values[:, 20:].reshape(3, -1).astype(np.float64)
    low, high = np.percentile(held, 2, axis=1), np.percentile(held, 98, axis=1)
    line = (values[:, 20:] - low[:, None, None]) / (high - low)[:, None, None] * 255
    expected = np.clip(np.rint(line), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    run(src, tmp_path / "out.tif", model, tile=64)
    with rasterio.open(tmp_path / "out.tif") as dataset:
        scaling = json.loads(dataset.tags()["REFINESEG_SCALING"])
        np.testing.assert_allclose(scaling["low"], low)
        np.testing.assert_allclose(scaling["high"], high)
        np.testing.assert_array_equal(dataset.read(1)[20:], expected[..., 0] // 64)
        assert (dataset.read(1)[:20] == 255).all()
    with raster_files.open_raster(src) as reader:
        source = RasterSource(reader, (1, 2, 3), num_channels=3).scaled(
            Scaling(tuple(scaling["low"]), tuple(scaling["high"]))
        )
        np.testing.assert_array_equal(source.read(Region(20, 0, 150, 210)), expected)
        assert (source.read(Region(0, 0, 20, 210)) == 0).all()


def test_large_rasters_are_scaled_by_samples_close_to_all_pixels_whatever_their_overviews(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "ALL_PIXELS", 1000)
    rng = np.random.default_rng(2)
    ramp = np.add.outer(np.arange(1500), np.arange(2000))[None] + rng.integers(0, 200, (1, 1500, 2000))
    src = write(tmp_path / "in.tif", ramp.astype(np.uint16), tiled=True, blockxsize=256, blockysize=256)
    truth, found = np.percentile(ramp, (2, 98)), []
    for overviews in (False, True):
        if overviews:
            with rasterio.open(src, "r+") as dataset:
                dataset.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
        with raster_files.open_raster(src) as reader:
            source = RasterSource(reader, (1,), num_channels=3)
            found.append(source.find_scaling(Reading(percentiles=(2.0, 98.0))))
        np.testing.assert_allclose((found[-1].low[0], found[-1].high[0]), truth, rtol=0.02)
    assert found[0] == found[1]


def test_few_data_in_a_large_raster_are_found_for_its_percentiles(tmp_path, monkeypatch):
    """The windows of a regular grid may miss them."""
    monkeypatch.setattr(reading, "ALL_PIXELS", 10_000)
    values = np.zeros((1, 3000, 2000), np.uint16)
    values[:, 100:200, 70:170] = 500 + np.arange(100)
    src = write(tmp_path / "in.tif", values, nodata=0)
    with raster_files.open_raster(src) as reader:
        found = RasterSource(reader, (1,), num_channels=3).find_scaling(Reading())
    assert 500 <= found.low[0] < 530
    assert 570 < found.high[0] <= 600


def test_pixels_without_a_usual_range_can_be_given_one(tmp_path, model):
    values = pixels(dtype="float32") * 10
    src = write(tmp_path / "in.tif", values, **UTM)
    run(src, tmp_path / "out.tif", model, value_range=(0.0, 2550.0))
    np.testing.assert_array_equal(opened(tmp_path / "out.tif"), values[0] // 640)
    with pytest.raises(ConfigError, match="expected percentiles or a value range for pixels of float32"):
        run(src, tmp_path / "other.tif", model, percentiles=None)
    wide = write(tmp_path / "wide.tif", pixels(dtype="uint16") * 257, **UTM)
    run(wide, tmp_path / "wide_out.tif", model, percentiles=None)
    np.testing.assert_array_equal(opened(tmp_path / "wide_out.tif"), pixels()[0] // 64)


def test_a_raster_that_is_everywhere_the_same_is_predicted(tmp_path, model):
    for value, dtype in ((7, "uint16"), (np.nan, "float32")):
        src = write(tmp_path / f"{dtype}.tif", np.full((3, 30, 40), value, dtype), **UTM)
        result = run(src, tmp_path / f"{dtype}_out.tif", model)
        assert result.areas.unknown == (1200 if dtype == "float32" else 0)


# ------------------------------------------------------------------------------------------- rasters that name others

VRT = """<VRTDataset rasterXSize="{width}" rasterYSize="{height}"><VRTRasterBand dataType="Byte" band="1"{more}>
<SimpleSource><SourceFilename>{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>
</VRTRasterBand></VRTDataset>"""
WINDOW = "".join(
    f"<{name}>{value}</{name}>"
    for name, value in (("UpperLeftX", 0), ("UpperLeftY", 9), ("LowerRightX", 9), ("LowerRightY", 0))
)
TILES = (
    '<GDAL_WMS><Service name="TMS"><ServerUrl>ADDRESS/${z}/${x}/${y}.png</ServerUrl></Service>'
    f"<DataWindow>{WINDOW}<SizeX>9</SizeX><SizeY>9</SizeY></DataWindow><BandsCount>1</BandsCount></GDAL_WMS>"
)
SOURCES = {
    "file": "/vsicurl/ADDRESS/x.tif",
    "stream": "/vsicurl_streaming/ADDRESS/x.tif",
    "options": "/vsicurl?url=ADDRESS/x.tif",
    "archive": "/vsizip/vsicurl/ADDRESS/x.zip/a.tif",
    "address": "ADDRESS/x.tif",
    "tiles": TILES,
}


@pytest.fixture
def listener():
    """An address, and the connections that were made to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        met = []

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].close()
                    met.append(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = server.getsockname()[1]
        yield f"http://127.0.0.1:{port}", met
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_the_listener_notices_who_fetches(listener):
    """So that the test below can fail."""
    address, met = listener
    with rasterio.Env(), pytest.raises(rasterio.errors.RasterioIOError):
        rasterio.open(f"/vsicurl/{address}/x.tif")
    assert met


@pytest.mark.parametrize("kind", SOURCES)
def test_nothing_is_fetched_for_a_raster_that_names_an_address(tmp_path, model, listener, kind):
    address, met = listener
    source = html.escape(SOURCES[kind].replace("ADDRESS", address))
    (tmp_path / "a.vrt").write_text(VRT.format(width=9, height=9, more="", source=source))
    with pytest.raises(ImageError, match=r"expected .* a\.vrt|expected readable pixels .*a\.vrt|expected a raster"):
        run(tmp_path / "a.vrt", tmp_path / "out.tif", model)
    assert not met


def test_code_in_a_raster_is_not_run_even_where_the_environment_allows_it(tmp_path, model, monkeypatch):
    monkeypatch.setenv("GDAL_VRT_ENABLE_PYTHON", "YES")
    code = f"open({str(tmp_path / 'ran')!r}, 'w')"
    function = (
        ' subClass="VRTDerivedRasterBand"><PixelFunctionLanguage>Python</PixelFunctionLanguage><PixelFunctionType>f'
        f"</PixelFunctionType><PixelFunctionCode>{code}</PixelFunctionCode"
    )
    (tmp_path / "a.vrt").write_text(VRT.format(width=9, height=9, more=function, source="b.tif"))
    with pytest.raises(ImageError):
        run(tmp_path / "a.vrt", tmp_path / "out.tif", model)
    assert not (tmp_path / "ran").exists()


def test_a_raster_that_declares_more_than_a_million_megapixels_is_refused(tmp_path, model):
    (tmp_path / "a.vrt").write_text(VRT.format(width=2_000_000_000, height=2_000_000_000, more="", source="b.tif"))
    with pytest.raises(ImageError, match=r"at most 1099511627776 pixels, got 2000000000x2000000000 in .*; cut it"):
        run(tmp_path / "a.vrt", tmp_path / "out.tif", model)


@pytest.mark.parametrize("system", ["EPSG:3857", "EPSG:4087"])
def test_mercator_stretches_areas_so_that_none_are_told(tmp_path, model, system):
    """So does the plate carrée, in which 60 degrees north is twice as wide as it is."""
    there = {"crs": system, "transform": Affine(10, 0, 800_000, 0, -10, 6_800_000)}
    result = run(write(tmp_path / "a.tif", pixels((40, 50)), **there), tmp_path / "out.tif", model)
    assert any("its coordinates stretch them" in note for note in result.notes)
    rows = json.loads((tmp_path / "out_areas.json").read_text())["classes"]
    assert all(row.get("square_metres") is None for row in rows)


def test_the_fill_value_that_is_advised_is_that_of_the_file():
    fill = -3.4028234663852886e38
    assert float(raster.exact(fill)) == fill
    assert (raster.exact(-9999.0), raster.exact(0.0)) == ("-9999", "0")


@pytest.mark.parametrize("ending", [".tfw", ".TFW", ".tifw", ".wld"])
def test_a_world_file_makes_an_image_a_raster(tmp_path, ending):
    path = tmp_path / "a.tif"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(path)
    assert not is_raster(path)
    path.with_suffix(ending).write_text("1\n0\n0\n-1\n100\n200\n")
    assert is_raster(path)


def mosaic(folder, *bands, extra=""):
    """A VRT whose bands are (type, file, colour) each, of 40x50 pixels."""
    band = (
        '<VRTRasterBand dataType="{}" band="{}"><ColorInterp>{}</ColorInterp>{}<SimpleSource><SourceFilename '
        'relativeToVRT="1">{}.tif</SourceFilename><SourceBand>1</SourceBand><SrcRect xOff="0" yOff="0" xSize="50" '
        'ySize="40"/><DstRect xOff="0" yOff="0" xSize="50" ySize="40"/></SimpleSource></VRTRasterBand>'
    )
    texts = [
        band.format(kind, i, col, extra if col == "Palette" else "", name)
        for i, (kind, name, col) in enumerate(bands, 1)
    ]
    path = folder / "m.vrt"
    path.write_text(f'<VRTDataset rasterXSize="50" rasterYSize="40">{"".join(texts)}</VRTDataset>')
    return path


def test_bands_of_different_types_are_scaled_by_those_that_are_seen_or_refused(tmp_path, model):
    """Independent truth: the class of a pixel is its first value, divided by 64."""
    eight, wide = pixels((40, 50), bands=1), pixels((40, 50), bands=1, dtype="uint16", seed=1) * 200
    write(tmp_path / "a.tif", eight, **UTM)
    write(tmp_path / "b.tif", wide, **UTM)
    src = mosaic(tmp_path, ("Byte", "a", "Gray"), ("UInt16", "b", "Undefined"), ("Byte", "a", "Undefined"))
    with raster_files.open_raster(src) as reader:
        np.testing.assert_array_equal(reader.read((1, 2), Region.whole((40, 50))), [eight[0], wide[0]])
    with pytest.raises(ImageError, match=r"expected bands of one type, got uint8, uint16, uint8 .*--value-range"):
        run(src, tmp_path / "out.tif", model)
    run(src, tmp_path / "out.tif", model, bands=(1,))
    np.testing.assert_array_equal(opened(tmp_path / "out.tif"), eight[0] // 64)
    run(src, tmp_path / "out2.tif", model, value_range=(0.0, 255.0))
    np.testing.assert_array_equal(opened(tmp_path / "out2.tif"), eight[0] // 64)


def test_palettes_of_some_bands_are_seen_or_refused(tmp_path, model):
    write(tmp_path / "a.tif", pixels((40, 50), bands=1, top=4), **UTM)
    write(tmp_path / "b.tif", pixels((40, 50), bands=1, dtype="uint16"), **UTM)
    reds = (200, 100, 10, 70)
    entries = "".join(f'<Entry c1="{red}" c2="1" c3="2" c4="255"/>' for red in reds)
    colours = f"<ColorTable>{entries}</ColorTable>"
    indexed, grey = ("Byte", "a", "Palette"), ("UInt16", "b", "Gray")
    run(mosaic(tmp_path, indexed, grey, extra=colours), tmp_path / "out.tif", model)
    np.testing.assert_array_equal(opened(tmp_path / "out.tif"), np.array(reds)[opened(tmp_path / "a.tif")] // 64)
    with pytest.raises(ImageError, match=r"got bands 1, 2, 3 of .*where 2, 3 have palettes; choose one"):
        run(mosaic(tmp_path, ("Byte", "a", "Gray"), indexed, indexed, extra=colours), tmp_path / "no.tif", model)
    with pytest.raises(ImageError, match="expected a palette of band 1 .*save it as grey or RGB"):
        run(mosaic(tmp_path, indexed), tmp_path / "no.tif", model)
    wide = ("UInt16", "a", "Palette")
    run(mosaic(tmp_path, wide, extra=colours), tmp_path / "wide.tif", model)
    np.testing.assert_array_equal(opened(tmp_path / "wide.tif"), opened(tmp_path / "out.tif"))
    with pytest.raises(ImageError, match="expected palette indices of 8 or 16 bits without a sign, got float32"):
        run(mosaic(tmp_path, ("Float32", "a", "Palette"), extra=colours), tmp_path / "no.tif", model)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_raster_whose_zero_is_white_is_seen_as_its_positive(tmp_path, model, dtype):
    positive = pixels((40, 50), bands=1, dtype=dtype) * np.array(np.iinfo(dtype).max // 255, dtype)
    negative = np.iinfo(dtype).max - positive
    run(write(tmp_path / "a.tif", positive, **UTM), tmp_path / "out_a.tif", model)
    run(write(tmp_path / "b.tif", negative, photometric="MINISWHITE", **UTM), tmp_path / "out_b.tif", model)
    assert len(np.unique(opened(tmp_path / "out_a.tif"))) == 4
    np.testing.assert_array_equal(opened(tmp_path / "out_b.tif"), opened(tmp_path / "out_a.tif"))
