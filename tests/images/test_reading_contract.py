"""One picture gives one mask: in every container, by the image way and the raster way, at every tile."""

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image

from conftest import call, write_folder
from fakes.rasters import UTM
from fakes.rasters import write as write_geotiff
from fakes.raw_png import GREY, write_raw_png
from refineseg import load
from refineseg.class_info import ClassInfo, LabelTable
from refineseg.data.datasets import open_dataset
from refineseg.errors import ConfigError, ImageError
from refineseg.images.files import read_mask, read_picture, read_rgb
from refineseg.images.reading import Reading, choose_bands
from refineseg.predict.files import FilePredictor as Predictor
from refineseg.predict.raster.files import open_raster
from refineseg.predict.raster.options import RasterOptions
from refineseg.predict.raster.pixels import RasterSource
from refineseg.predict.views.tiling import Region, TilingOptions

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
HEIGHT, WIDTH = 40, 52
RNG = np.random.default_rng(0)
RGBA = RNG.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
RGBA[:10, :, 3], RGBA[10:12, :, 3] = 0, 1
RGB = np.ascontiguousarray(RGBA[..., :3])
TWELVE = RNG.integers(0, 4096, (HEIGHT, WIDTH, 4)).astype(np.uint16)
TWELVE[:10, :, 3], TWELVE[10:12, :, 3] = 0, 100
FLOAT = RNG.normal(3, 900, (HEIGHT, WIDTH)).astype(np.float32)


def _pillow(folder, name, array, mode=None, **options):
    image = array if isinstance(array, Image.Image) else Image.fromarray(array, mode)
    image.save(folder / name, **options)


def _rasterio(folder, name, array, **options):
    values = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    profile = {"height": HEIGHT, "width": WIDTH, "count": len(values), "dtype": values.dtype.name}
    driver = "PNG" if name.endswith(".png") else "GTiff"
    with rasterio.open(folder / name, "w", driver=driver, **profile, **options) as dataset:
        dataset.write(values)


@pytest.fixture(scope="module")
def containers(tmp_path_factory):
    """One file of every kind that both ways read, by name."""
    folder = tmp_path_factory.mktemp("containers")
    for ending in ("png", "bmp", "tif", "webp", "jp2"):
        lossless = {"lossless": True, "exact": True} if ending == "webp" else {}
        _pillow(folder, f"rgb.{ending}", RGB, **lossless)
        if ending != "bmp":
            _pillow(folder, f"rgba.{ending}", RGBA, **lossless)
    for ending in ("png", "tif"):
        _pillow(folder, f"grey.{ending}", RGB[..., 0])
        _pillow(folder, f"grey_alpha.{ending}", RGBA[..., 2:], "LA")
        _pillow(folder, f"grey16.{ending}", TWELVE[..., 0])
        _pillow(folder, f"bits.{ending}", Image.fromarray(RGB[..., 0]).convert("1"))
        colours = {} if ending == "png" else {"photometric": "RGB"}
        _rasterio(folder, f"rgb16.{ending}", TWELVE[..., :3], **colours)
        _rasterio(folder, f"rgba16.{ending}", TWELVE, **(colours and {**colours, "ALPHA": "YES"}))
    palette = Image.fromarray(RGB).quantize(40)
    _pillow(folder, "palette.png", palette)
    _pillow(folder, "palette.tif", palette)
    _pillow(folder, "palette_key.png", palette, transparency=3)
    _pillow(folder, "palette_alpha.png", palette, transparency=bytes([0, 0, 0, 9, *[255] * 36]))
    _pillow(folder, "grey_key.png", RGB[..., 0], transparency=int(RGB[0, 0, 0]))
    _pillow(folder, "rgb_key.png", RGB, transparency=tuple(RGB[3, 3].tolist()))
    _pillow(folder, "float.tif", FLOAT)
    _rasterio(folder, "grey_alpha16.png", TWELVE[..., 2:])
    _rasterio(folder, "packed16.tif", TWELVE[..., :3], photometric="RGB", compress="lzw")
    _rasterio(folder, "big_end16.tif", TWELVE[..., :3], photometric="RGB", ENDIANNESS="BIG")
    _rasterio(folder, "bands_apart.tif", RGB, photometric="RGB", interleave="band")
    _rasterio(folder, "negative_bits.tif", RGB[..., 0] // 128, photometric="MINISWHITE", nbits=1)
    for name, values in (("negative8", RGB[..., 0]), ("negative16", TWELVE[..., 0]), ("negative_float", FLOAT)):
        _rasterio(folder, f"{name}.tif", values, photometric="MINISWHITE")
    for bits in (2, 4):
        _rasterio(folder, f"negative_{bits}_bits.tif", RGB[..., 0] >> (8 - bits), photometric="MINISWHITE", nbits=bits)
        rows = RNG.integers(0, 256, (HEIGHT, WIDTH * bits // 8), dtype=np.uint8).tobytes()
        write_raw_png(folder / f"grey_{bits}_bits.png", WIDTH, HEIGHT, bits=bits, kind=GREY, rows=rows)
    return sorted(folder.iterdir())


def _by_the_raster_way(path, reading):
    with open_raster(path) as reader:
        bands = choose_bands(reader.colours, reading.bands, num_channels=3, path=path)
        source = RasterSource(reader, bands, num_channels=3, nodata=reading.nodata)
        source = source.scaled(source.find_scaling(reading))
        whole = Region.whole(reader.size_hw)
        valid = source.valid(whole)
        return source.read(whole), np.ones(reader.size_hw, bool) if valid is None else valid


@pytest.mark.parametrize(
    "reading",
    [
        Reading(),
        Reading(percentiles=(1.0, 90.0)),
        Reading(value_range=(10.0, 3000.0)),
        Reading(nodata=float(TWELVE[0, 0, 0])),
        Reading(nodata=3.0),
        Reading(bands=(3, 2, 1)),
        Reading(bands=(1,)),
    ],
    ids=["usual", "percentiles", "range", "nodata of 16 bits", "nodata of 8", "bgr", "one band"],
)
def test_both_ways_see_the_same_pixels_and_the_same_void_in_every_container(containers, reading):
    compared = 0
    for path in containers:
        if reading.value_range is not None and path.stem in ("bits", "negative_bits"):
            continue  # black and white have no values to choose from
        try:
            picture = read_picture(path, reading=reading)
        except ImageError:  # of bands that are not there, by both
            with pytest.raises(ImageError, match="expected bands from 1 to"):
                _by_the_raster_way(path, reading)
            continue
        image, valid = _by_the_raster_way(path, reading)
        np.testing.assert_array_equal(picture.image, image, err_msg=path.name)
        own = np.ones(valid.shape, bool) if picture.valid is None else picture.valid
        np.testing.assert_array_equal(own, valid, err_msg=path.name)
        compared += 1
    assert compared > 15


def test_the_same_pixels_are_the_same_image_whatever_file_they_lie_in(containers):
    """Independent truth: the arrays that were written."""
    found = {path.name: read_picture(path) for path in containers}
    for name in ("rgb.png", "rgb.bmp", "rgb.tif", "rgb.webp", "rgb.jp2", "rgba.png", "rgba.tif", "bands_apart.tif"):
        np.testing.assert_array_equal(found[name].image, RGB, err_msg=name)
    for name in ("rgba.png", "rgba.tif", "rgba.webp", "grey_alpha.png"):
        np.testing.assert_array_equal(found[name].valid, RGBA[..., 3] > 0, err_msg=name)
    for name in ("rgba16.png", "rgba16.tif", "grey_alpha16.png"):
        np.testing.assert_array_equal(found[name].valid, TWELVE[..., 3] > 0, err_msg=name)
    for name in ("rgb16.tif", "packed16.tif", "big_end16.tif"):
        np.testing.assert_array_equal(found["rgb16.png"].image, found[name].image, err_msg=name)
    grey = RGB[..., 0]
    for name, seen in (
        ("negative8", 255 - grey),
        ("negative_bits", np.where(grey < 128, 255, 0)),
        ("negative_4_bits", 255 - grey // 16 * 17),
        ("negative_2_bits", 255 - grey // 64 * 85),
    ):
        np.testing.assert_array_equal(found[f"{name}.tif"].image[..., 0], seen, err_msg=name)
    for name, plain in (("negative16", "grey16"), ("negative_float", "float")):
        np.testing.assert_array_equal(found[f"{name}.tif"].image, 255 - found[f"{plain}.tif"].image, err_msg=name)
    low, high = np.percentile(TWELVE[..., :3].reshape(-1, 3), (2, 98), axis=0)
    line = np.rint((TWELVE[..., :3] - low) / (high - low) * 255).clip(0, 255)
    np.testing.assert_array_equal(found["rgb16.png"].image, line)


def test_an_8_bit_picture_saved_with_16_bits_is_the_same_picture(tmp_path):
    _rasterio(tmp_path, "wide.png", RGB.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_rgb(tmp_path / "wide.png"), RGB)


@pytest.fixture(scope="module")
def model():
    return load("camvid")


@pytest.mark.slow
def test_one_picture_gives_one_mask_with_void_where_it_is_transparent(tmp_path, model, monkeypatch, capsys):
    """By the command line, ``stream`` and ``raster``, whole and in tiles."""
    alpha = np.tile(RGBA, (3, 3, 1))
    _pillow(tmp_path, "a.png", alpha)
    colours = ["red", "green", "blue", "alpha"]
    write_geotiff(tmp_path / "b.tif", alpha.transpose(2, 0, 1), colours=colours, **UTM)
    predictor = Predictor(model)
    [(_, streamed)] = predictor.stream([tmp_path / "a.png"], probabilities=True)
    assert (streamed.mask[alpha[..., 3] == 0] == 255).all()
    assert (streamed.mask[alpha[..., 3] > 0] != 255).all()
    assert (streamed.confidence[alpha[..., 3] == 0] == 0).all()
    assert (streamed.probabilities[:, alpha[..., 3] == 0] == 0).all()
    for name, tile in (("a.png", "auto"), ("a.png", 64), ("b.tif", 64)):
        made = tmp_path / f"{name}_{tile}.tif"
        predictor.raster(tmp_path / name, made, tiling=TilingOptions(tile=tile))
        with rasterio.open(made) as dataset:
            np.testing.assert_array_equal(dataset.read(1), streamed.mask)
    said = ["--save", "mask", "--tile", "64"]
    assert call(monkeypatch, capsys, "predict", tmp_path / "a.png", "--out", tmp_path / "out", *said)[0] == 0
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "a.png")), streamed.mask)


def test_options_hold_for_every_container(tmp_path, model, monkeypatch, capsys):
    """12-bit data in PNG, plain TIFF and GeoTIFF, with the range given, are the 8-bit picture."""
    twelve = RGB.astype(np.uint16) * 16
    _pillow(tmp_path, "eight.png", RGB)
    _rasterio(tmp_path, "a.png", twelve[..., ::-1])
    _rasterio(tmp_path, "b.tif", twelve[..., ::-1], photometric="RGB")
    write_geotiff(tmp_path / "c.tif", twelve[..., ::-1].transpose(2, 0, 1), **UTM)
    inputs = [tmp_path / name for name in ("a.png", "b.tif", "c.tif")]
    said = ["--value-range", "0,4080", "--bands", "3,2,1", "--save", "mask"]
    assert call(monkeypatch, capsys, "predict", *inputs, "--out", tmp_path / "out", *said)[0] == 0
    [(_, truth)] = Predictor(model).stream([tmp_path / "eight.png"])
    for name in ("a.png", "b.png", "c.tif"):
        with rasterio.open(tmp_path / "out" / name) as dataset:
            np.testing.assert_array_equal(dataset.read(1), truth.mask, err_msg=name)


def test_training_and_evaluation_leave_transparent_pixels_out(tmp_path):
    root = write_folder(tmp_path / "pictures", splits={"train": 2, "val": 1})
    path = root / "images" / "train" / "000.png"
    rgba = Image.open(path).convert("RGBA")
    rgba.putalpha(Image.fromarray(np.where(np.arange(64) < 20, 0, 255).astype(np.uint8)[None].repeat(48, 0)))
    before = open_dataset("folder", root, split="train")[0]
    rgba.save(path)
    dataset = open_dataset("folder", root, split="train")
    sample = dataset[0]
    np.testing.assert_array_equal(sample.image, before.image)
    assert (sample.mask[:, :20] == 255).all()
    np.testing.assert_array_equal(sample.mask[:, 20:], before.mask[:, 20:])
    np.testing.assert_array_equal(dataset.read_mask(0), sample.mask)


def test_words_that_say_no_reading_are_refused():
    for wrong, message in (
        ({"percentiles": "98,2"}, "two rising percentiles"),
        ({"percentiles": "usual"}, "expected --percentiles as 2 numbers"),
        ({"bands": "0"}, "counted from 1"),
        ({"value_range": "0,inf"}, "expected numbers"),
        ({"nodata": "none"}, "expected --nodata as a number"),
    ):
        with pytest.raises(ConfigError, match=message):
            Reading.parse(**wrong)
    assert RasterOptions().reading == Reading()


def test_the_nodata_value_of_a_geotiff_is_void_wherever_it_is_read(tmp_path, model):
    """In a stream and in a zip file, too, where it is read as an image."""
    pixels = np.random.default_rng(0).integers(1, 256, (20, 30, 3), np.uint8)
    pixels[:6], pixels[10, :, 0] = 0, 0  # in one band only: data
    path = tmp_path / "a.tif"
    tags = [(42113, 2, 2, "0", False)]
    tifffile.imwrite(path, pixels, photometric="rgb", extratags=tags)
    expected = np.zeros((20, 30), bool)
    expected[:6] = True
    np.testing.assert_array_equal(~read_picture(path).valid, expected)
    [(_, streamed)] = Predictor(model, device="cpu").stream([path])
    np.testing.assert_array_equal(streamed.mask == 255, expected)


def test_bytes_with_a_sign_are_not_read_as_bytes_without(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.arange(-60, 60, dtype=np.int8).reshape(10, 12))
    with pytest.raises(ImageError, match=r"expected pixels without a sign, .*Predictor\.raster read it"):
        read_picture(tmp_path / "a.tif")


def test_a_palette_is_grey_for_a_model_of_one_channel_and_refused_for_others(tmp_path):
    palette = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4), mode="P")
    palette.putpalette(np.random.default_rng(1).integers(0, 256, 768).tolist())
    palette.save(tmp_path / "p.png")
    grey = read_picture(tmp_path / "p.png", num_channels=1).image[..., 0]
    assert np.abs(grey.astype(int) - np.asarray(palette.convert("RGB").convert("L")).astype(int)).max() <= 1
    with pytest.raises(ImageError, match="expected an image of 4 bands, got one of palette colours"):
        read_picture(tmp_path / "p.png", num_channels=4, reading=Reading(bands=(1,)))


@pytest.mark.parametrize("said", ["-3.4e+38", "-3.40282346638529e+38", "-9999.9"])
def test_a_nodata_value_in_single_precision_is_void_wherever_it_is_read(tmp_path, said):
    heights = np.arange(600, dtype=np.float32).reshape(20, 30)
    heights[:6] = np.float32(said)
    tifffile.imwrite(tmp_path / "a.tif", heights, extratags=[(42113, 2, len(said) + 1, said, False)])
    picture = read_picture(tmp_path / "a.tif")
    image, valid = _by_the_raster_way(tmp_path / "a.tif", Reading())
    assert not picture.valid[:6].any()
    assert picture.valid[6:].all()
    np.testing.assert_array_equal(picture.valid, valid)
    np.testing.assert_array_equal(picture.image, image)


@pytest.mark.parametrize("bits", [2, 4, 7, 8, 10, 12, 15, 16])
def test_values_of_jpeg_2000_of_any_depth_are_those_of_the_file(tmp_path, bits):
    """Pillow shifts them up to 8 and 16 bits; what somebody says of values is said of the file's."""
    dtype = np.uint8 if bits <= 8 else np.uint16
    values = np.random.default_rng(0).integers(0, 2**bits, (1, 40, 60)).astype(dtype)
    profile = {"driver": "JP2OpenJPEG", "height": 40, "width": 60, "count": 1, "dtype": np.dtype(dtype).name}
    with rasterio.open(tmp_path / "a.jp2", "w", **profile, NBITS=bits, QUALITY=100, REVERSIBLE="YES") as dataset:
        dataset.write(values)
    high = 2**bits - 1
    reading = Reading(value_range=(0, high)) if bits > 8 else Reading()
    expected = np.round(values[0].astype(float) * 255 / high)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.jp2", reading=reading).image[..., 0], expected)
    assert not read_picture(tmp_path / "a.jp2", reading=Reading(nodata=float(values[0, 3, 4]))).valid[3, 4]
    few = np.minimum(values, 2)
    with rasterio.open(tmp_path / "m.jp2", "w", **profile, NBITS=bits, QUALITY=100, REVERSIBLE="YES") as dataset:
        dataset.write(few)
    classes = ClassInfo(("a", "b", "c"))
    mask = read_mask(tmp_path / "m.jp2", table=LabelTable.identity(classes), ignore_index=255)
    np.testing.assert_array_equal(mask, few[0])
