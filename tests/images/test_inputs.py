"""One picture gives one result, whether it is a path, a Pillow image, an array or a tensor."""

import io

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from fakes.raw_png import write_raw_png
from refineseg.errors import ConfigError, ImageError
from refineseg.images.files import read_picture
from refineseg.images.inputs import picture_of
from refineseg.images.reading import Reading

RNG = np.random.default_rng(5)
RGBA = RNG.integers(0, 256, (19, 23, 4), dtype=np.uint8)
RGBA[:5, :, 3] = 0
DEEP = (RNG.random((31, 29)) * 4000).astype(np.uint16)
PICTURES = {
    "grey": RGBA[..., 0],
    "grey with opacity": RGBA[..., 2:],
    "rgb": RGBA[..., :3],
    "rgba": RGBA,
}


def same(found, expected):
    np.testing.assert_array_equal(found.image, expected.image)
    assert (found.valid is None) == (expected.valid is None)
    if expected.valid is not None:
        np.testing.assert_array_equal(found.valid, expected.valid)


@pytest.mark.parametrize("name", PICTURES)
def test_arrays_pillow_images_and_tensors_are_read_as_their_files(name, tmp_path):
    array = PICTURES[name]
    path = tmp_path / "a.png"
    Image.fromarray(array).save(path)
    truth = read_picture(path)
    assert (truth.valid is not None) == (name in ("rgba", "grey with opacity"))
    tensor = torch.from_numpy(np.array(array if array.ndim == 3 else array[..., None])).permute(2, 0, 1)
    for held in (path, str(path), array, Image.fromarray(array), Image.open(path), tensor, tensor[None]):
        same(picture_of(held), truth)
    if array.ndim == 2:
        same(picture_of(array[..., None]), truth)
        same(picture_of(torch.from_numpy(array)), truth)


@pytest.mark.parametrize(
    "array", [DEEP, DEEP.astype(np.float32) - 7, DEEP.astype(np.int32)], ids=lambda a: a.dtype.name
)
@pytest.mark.parametrize("reading", [Reading(), Reading(value_range=(100, 3000)), Reading(percentiles=(5, 90))])
def test_other_pixels_than_bytes_are_scaled_as_those_of_files(array, reading, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", array)
    truth = read_picture(tmp_path / "a.tif", reading=reading)
    for held in (array, Image.open(tmp_path / "a.tif"), torch.from_numpy(array.astype(np.float32))):
        same(picture_of(held, reading=reading), truth)


def test_bits_and_unit_floats_fill_the_whole_range():
    stripes = np.array([[True, False]])
    assert picture_of(stripes).image[0, :, 0].tolist() == [255, 0]
    assert picture_of(Image.fromarray(stripes)).image[0, :, 0].tolist() == [255, 0]
    unit = np.array([[0.0, 0.2, 1.0]])
    assert picture_of(unit, reading=Reading(value_range=(0, 1))).image[0, :, 1].tolist() == [0, 51, 255]
    assert picture_of(torch.tensor(unit).bfloat16(), reading=Reading(value_range=(0, 1))).image.shape == (1, 3, 3)


def test_a_palette_and_a_turned_photograph_are_read_as_their_files(tmp_path):
    palette = Image.fromarray(RGBA[..., :3]).quantize(9)
    palette.save(tmp_path / "p.png", transparency=3)
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGBA[..., :3]).save(turned, "PNG", exif=exif)
    (tmp_path / "t.png").write_bytes(turned.getvalue())
    for name in ("p.png", "t.png"):
        with Image.open(tmp_path / name) as image:
            same(picture_of(image), read_picture(tmp_path / name))
    assert picture_of(Image.open(tmp_path / "t.png")).image.shape == (23, 19, 3)


def test_bands_of_many_are_chosen_and_models_of_other_channels_take_theirs():
    many = RNG.integers(0, 256, (7, 9, 12), dtype=np.uint8)
    np.testing.assert_array_equal(picture_of(many, reading=Reading(bands=(4, 3, 2))).image, many[..., [3, 2, 1]])
    same(picture_of(many, num_channels=12), picture_of(many, num_channels=12, reading=Reading(bands=range(1, 13))))
    assert picture_of(RGBA, num_channels=4).valid is None  # its fourth band is one of the model's
    np.testing.assert_array_equal(picture_of(RGBA, num_channels=1).image[..., 0], RGBA[..., 0])


@pytest.mark.parametrize("nodata", [None, 7.0])
def test_what_a_masked_array_masks_holds_no_data_and_has_no_part_in_the_scaling(nodata):
    """As in a raster file: where all channels are masked. The truth is the same array with NaN there."""
    values = DEEP.astype(np.float32)
    masked = np.ma.masked_array(values, mask=np.zeros(values.shape, bool))
    masked[:4] = np.ma.masked
    with_nan = np.where(masked.mask, np.nan, values)
    masked.data[:4] = 1e9
    reading = Reading(nodata=nodata)
    found = picture_of(masked, reading=reading)
    same(found, picture_of(with_nan, reading=reading))
    assert not found.valid[:4].any()
    colours = np.ma.masked_array(RGBA[..., :3], mask=np.zeros((19, 23, 3), bool))
    colours[0, 0] = np.ma.masked
    colours[0, 1, 2] = np.ma.masked  # one channel alone
    assert picture_of(colours).valid[0, :2].tolist() == [False, True]
    assert picture_of(np.ma.masked_array(RGBA[..., :3])).valid is None


@pytest.mark.parametrize("kind", ["u2", "i2", "u4", "f4", "f8"])
def test_the_order_of_bytes_of_an_array_changes_nothing(kind):
    values = np.linspace(1000, 60000 if kind != "i2" else 30000, 437).reshape(19, 23)
    same(picture_of(values.astype(f">{kind}")), picture_of(values.astype(f"<{kind}")))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 40, 50), np.uint8), r"got an array of shape \(3, 40, 50\).*transpose\(1, 2, 0\)"),
        (torch.zeros(40, 50, 3), r"tensor \(C, H, W\).*got one of shape \(40, 50, 3\).*permute\(2, 0, 1\)"),
        (torch.zeros(2, 3, 4, 5), r"got float32 of shape \(2, 3, 4, 5\)"),
        (np.zeros((0, 4), np.uint8), r"got uint8 of shape \(0, 4, 1\)"),
        (np.zeros((4, 4), np.complex64), r"got complex64"),
        (None, "path, Pillow image, tensor or array .*, got NoneType"),
        (["a"], "got <U1 of shape"),
        ([[1, 2], [3]], r"expected an array \(H, W, channels\), got list"),
        (torch.zeros(3, 4, 5, device="meta"), "expected a dense tensor .* on meta"),
        (torch.zeros(3, 4, 5).to_sparse(), r"expected a dense tensor .*sparse_coo .*to_dense\(\)"),
        (torch.zeros(3, 4, 5).to(torch.float8_e4m3fn), r"expected a dense tensor .*float8_e4m3fn.*tensor\.float\(\)"),
    ],
)
def test_what_is_no_image_is_refused_with_what_to_do(image, message):
    with pytest.raises(ConfigError, match=message):
        picture_of(image)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deep.png", "got 16 bits, of which Pillow keeps 8; give the file's path"),
        ("cut.jpg", r"expected a readable image, got .*cut\.jpg"),
    ],
)
def test_pillow_images_that_hold_less_than_their_file_are_refused(name, message, tmp_path):
    rows = np.dstack([DEEP] * 3).astype(">u2").tobytes()
    write_raw_png(tmp_path / "deep.png", 29, 31, bits=16, kind=2, rows=rows)
    Image.fromarray(RGBA[..., :3]).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:650])
    with Image.open(tmp_path / name) as image, pytest.raises(ImageError, match=message):
        picture_of(image)
