"""Reading photographs of every kind, and refusing what is none."""

import random
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin, WebPImagePlugin

from conftest import SHARED
from fakes.rasters import UTM, write
from fakes.raw_png import GREY, RGB, write_raw_png
from refineseg.data.checks.facts import glance_at_image
from refineseg.errors import ImageError
from refineseg.images.encoding import write_image
from refineseg.images.files import IMAGE_SUFFIXES, find_images, read_image_size, read_picture, read_rgb


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


# ---------------------------------------------------------------------------------------------------- kinds of pixels


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "a.jp2", "a.webp"])
def test_lossless_rgb_is_read_exactly(tmp_path, name):
    rgb = _random(5, 7, 3)
    options = {"lossless": True} if name.endswith("webp") else {}
    path = _saved(Image.fromarray(rgb), tmp_path / name, **options)
    np.testing.assert_array_equal(read_rgb(path), rgb)
    assert read_image_size(path) == (5, 7)


def test_the_result_may_be_written_to(tmp_path):
    for image in (Image.fromarray(_random(2, 2, 3)), Image.fromarray(_random(2, 2).astype(np.uint16))):
        pixels = read_rgb(_saved(image, tmp_path / "a.png"))
        pixels[0, 0] = 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B"])
def test_one_pixel_of_any_kind_is_an_image(tmp_path, mode):
    path = _saved(Image.new(mode, (1, 1)), tmp_path / "a.tif")
    assert read_rgb(path).shape == (1, 1, 3)
    assert read_image_size(path) == (1, 1)


def test_grey_becomes_three_equal_channels(tmp_path):
    grey = _random(4, 6)
    expected = np.stack([grey] * 3, axis=2)
    np.testing.assert_array_equal(read_rgb(_saved(Image.fromarray(grey), tmp_path / "a.png")), expected)
    with_alpha = np.stack([grey, _random(4, 6, seed=1)], axis=2)
    np.testing.assert_array_equal(read_rgb(_saved(Image.fromarray(with_alpha, "LA"), tmp_path / "b.png")), expected)


def test_alpha_is_dropped_and_leaves_the_colour_beneath(tmp_path):
    rgba = _random(4, 6, 4)
    rgba[..., 3] = [0, 1, 127, 128, 254, 255]
    np.testing.assert_array_equal(read_rgb(_saved(Image.fromarray(rgba), tmp_path / "a.png")), rgba[..., :3])


def test_a_palette_with_transparency_is_looked_up(tmp_path):
    palette, indices = _random(256, 3), _random(8, 9, seed=1)
    image = Image.fromarray(indices)
    image.putpalette(palette.ravel().tolist())
    for number, transparency in enumerate((3, bytes(range(256)))):
        path = _saved(image, tmp_path / f"{number}.png", transparency=transparency)
        np.testing.assert_array_equal(read_rgb(path), palette[indices])


def test_the_transparent_colour_of_one_bit_is_void(tmp_path):
    bits = _random(5, 11) > 127
    for colour in (0, 1):
        path = tmp_path / f"{colour}.png"
        write_raw_png(path, 11, 5, bits=1, kind=0, rows=np.packbits(bits, axis=1).tobytes(), transparent=colour)
        valid = read_picture(path).valid
        assert valid is not None
        np.testing.assert_array_equal(valid, bits != bool(colour))


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "gif"])
def test_the_size_of_an_image_is_found_without_decoding_it(tmp_path, monkeypatch, ending):
    """Pillow decodes all pixels of a PNG when it is asked for EXIF that is not in front of them."""
    path = _saved(Image.fromarray(_random(20, 30, 3)), tmp_path / f"a.{ending}")

    def load(self):
        raise AssertionError("decoded")

    for kind in (ImageFile.ImageFile, PngImagePlugin.PngImageFile, WebPImagePlugin.WebPImageFile):
        monkeypatch.setattr(kind, "load", load)
    assert read_image_size(path) == read_image_size(path, content=path.read_bytes()) == (20, 30)


def test_one_bit_is_black_and_white(tmp_path):
    bits = _random(5, 11) > 127
    path = _saved(Image.fromarray(bits), tmp_path / "a.png")
    np.testing.assert_array_equal(read_rgb(path), np.stack([bits * np.uint8(255)] * 3, axis=2))


def test_cmyk_is_ink_on_white(tmp_path):
    """Each ink takes its share of the light that black leaves: R = 255 (1 - C) (1 - K)."""
    inks = _random(16, 16, 4)
    cyan_magenta_yellow, black = inks[..., :3] / 255, inks[..., 3:] / 255
    expected = 255 * (1 - cyan_magenta_yellow) * (1 - black)
    read = read_rgb(_saved(Image.fromarray(inks, "CMYK"), tmp_path / "a.tif"))
    assert np.abs(read - expected).max() <= 1
    flat = np.repeat(np.repeat(inks[:3, :3], 16, axis=0), 16, axis=1)  # whole JPEG blocks, so that little is lost
    read = read_rgb(_saved(Image.fromarray(flat, "CMYK"), tmp_path / "a.jpg", quality=100, subsampling=0))
    assert np.abs(read - np.repeat(np.repeat(expected[:3, :3], 16, axis=0), 16, axis=1)).max() <= 3


@pytest.mark.parametrize("name", ["a.png", "little.tif", "big.tif"])
def test_16_bit_grey_is_scaled_from_its_full_range(tmp_path, name):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = Image.fromarray(values)
    if name == "big.tif":
        image = Image.frombytes("I;16B", (256, 256), values.astype(">u2").tobytes())
    read = read_rgb(_saved(image, tmp_path / name))
    np.testing.assert_array_equal(read, np.stack([np.rint(values / 257).astype(np.uint8)] * 3, axis=2))


def test_16_bit_colour_is_scaled_from_its_full_range(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (3, 4, 3), dtype=np.uint16)
    write_raw_png(tmp_path / "a.png", 4, 3, bits=16, kind=RGB, rows=values.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), np.rint(values / 257).astype(np.uint8))


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("RGB", (4, 3), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        path = _saved(frames[0], tmp_path / name, save_all=True, append_images=frames[1:])
        assert np.abs(read_rgb(path).astype(int) - [255, 0, 0]).max() <= 2  # WebP is lossy


# ----------------------------------------------------------------------------------------------------------- rotation

_VISUAL_SIDES = {  # Source: EXIF 2.3, tag Orientation: where the stored first row and first column are seen
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def _stored(scene: np.ndarray, orientation: int) -> np.ndarray:
    """How a camera held that way stores a scene."""
    first_row, first_column = _VISUAL_SIDES[orientation]
    stored = scene if first_row in ("top", "bottom") else scene.transpose(1, 0, 2)
    stored = stored[::-1] if first_row in ("bottom", "right") else stored
    return stored[:, ::-1] if first_column in ("bottom", "right") else stored


@pytest.mark.parametrize("orientation", _VISUAL_SIDES)
@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "lzw.tif"])
def test_images_are_turned_upright(tmp_path, name, orientation):
    scene = _random(4, 7, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if name == "a.webp" else {"compression": "tiff_lzw"} if name == "lzw.tif" else {}
    image = Image.fromarray(np.ascontiguousarray(_stored(scene, orientation)))
    path = _saved(image, tmp_path / name, exif=exif, **options)
    np.testing.assert_array_equal(read_rgb(path), scene)
    assert read_image_size(path) == (4, 7)


def test_exif_that_cannot_be_read_says_nothing(tmp_path):
    image = Image.fromarray(_random(8, 16, 3))
    whole = Image.Exif()
    whole[0x0112], whole[0x010E] = 6, "a description that is cut off"
    for number, exif in enumerate((b"Exif\0\0no TIFF header", b"Exif\0\0II*\0\xff\xff\xff\xff", whole.tobytes()[:20])):
        path = _saved(image, tmp_path / f"{number}.jpg", exif=exif)
        assert read_rgb(path).shape == (8, 16, 3)
        assert read_image_size(path) == (8, 16)


# ------------------------------------------------------------------------------------------------------- broken files


def test_files_that_are_no_image_are_refused_by_name(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "folder.jpg").mkdir()
    for name, reason in {
        "empty.jpg": r"expected an image, got .*empty\.jpg, which is empty \(0 bytes\)",
        "text.png": r"expected an image, got .*text\.png, which is none, damaged, or of an unknown kind; JPEG, PNG, .*",
        "folder.jpg": r"expected a readable image, got .*folder\.jpg: it is a folder; replace or remove it",
        "absent.jpg": r"expected an image file, but there is no .*absent\.jpg",
    }.items():
        for read in (read_rgb, read_image_size):
            with pytest.raises(ImageError, match=reason):
                read(tmp_path / name)


def _grown_jpeg(path: Path, **options: object) -> None:
    """64 x 64 pixels that declare to be 512 x 512."""
    Image.fromarray(_random(64, 64, 3)).save(path, **options)
    data = bytearray(path.read_bytes())
    place = data.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0")
    data[place + 5 : place + 9] = (512).to_bytes(2, "big") * 2
    path.write_bytes(data)


def test_a_file_whose_pixels_end_early_is_refused(tmp_path):
    """Decoders would show grey or black; every one of these ends as whole files of its kind do."""
    _grown_jpeg(tmp_path / "grown.jpg")
    _grown_jpeg(tmp_path / "progressive.jpg", progressive=True)
    Image.fromarray(_random(64, 64, 3)).save(tmp_path / "whole.jpg", quality=95)
    for name, mode in (("cut.jpg", "RGB"), ("cut_grey.jpg", "L")):
        whole = _saved(Image.fromarray(_random(64, 64, 3)).convert(mode), tmp_path / name, quality=95).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) * 9 // 10] + b"\xff\xd9")
    write_raw_png(tmp_path / "rows.png", 64, 64, bits=8, kind=RGB, rows=_random(64, 64, 3).tobytes())
    data = (tmp_path / "rows.png").read_bytes()
    (tmp_path / "rows.png").write_bytes(data[:20] + (80).to_bytes(4, "big") + data[24:29] + _crc(data, 80) + data[33:])
    Image.fromarray(_random(64, 64, 3)).save(tmp_path / "tiles.jp2")
    data = bytearray((tmp_path / "tiles.jp2").read_bytes())
    for place in (data.index(b"ihdr") + 4, data.index(b"\xff\x4f\xff\x51") + 8):
        data[place : place + 8] = (128).to_bytes(4, "big") * 2
    (tmp_path / "tiles.jp2").write_bytes(data)
    for name in ("grown.jpg", "progressive.jpg", "cut.jpg", "cut_grey.jpg", "rows.png", "tiles.jp2"):
        with pytest.raises(ImageError, match=f"expected a whole image, got .*{name}, whose pixels end before"):
            read_rgb(tmp_path / name)


def _crc(data: bytes, height: int) -> bytes:
    header = data[12:20] + height.to_bytes(4, "big") + data[24:29]
    return zlib.crc32(header).to_bytes(4, "big")


@pytest.mark.parametrize("value", [0, 127, 128, 129, 255])
def test_whole_files_of_one_colour_are_read(tmp_path, value):
    """What a decoder shows in place of missing pixels may be what is there."""
    for mode in ("L", "RGB", "1"):
        image = Image.new(mode, (200, 150), value if mode != "RGB" else (value,) * 3)
        for name, options in (
            ("a.png", {}),
            ("a.jpg", {}),
            ("optimised.jpg", {"optimize": True, "progressive": True}),
            ("restarts.jpg", {"restart_marker_blocks": 3}),
            ("a.jp2", {"tile_size": (64, 64)}),
        ):
            stored = image.convert("L") if mode == "1" and name != "a.png" else image
            assert read_rgb(_saved(stored, tmp_path / name, **options)).shape == (150, 200, 3)


def test_a_file_that_cannot_hold_what_it_declares_is_refused_before_memory_is_taken(tmp_path):
    _grown_jpeg(tmp_path / "a.jpg")
    data = bytearray((tmp_path / "a.jpg").read_bytes())
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = (13000).to_bytes(2, "big") * 2
    (tmp_path / "a.jpg").write_bytes(data)
    write_raw_png(tmp_path / "a.png", 13000, 13000, bits=8, kind=RGB, rows=b"")
    for name in ("a.jpg", "a.png"):
        for read in (read_rgb, read_image_size):
            with pytest.raises(
                ImageError, match=rf"expected an image, got .*{name}, whose \d+ bytes declare 13000x13000"
            ):
                read(tmp_path / name)


@pytest.mark.slow
def test_flat_pictures_of_169_megapixels_are_read(tmp_path):
    """The smallest honest files of their kinds."""
    for mode, name, options in (
        ("L", "a.jpg", {"progressive": True, "optimize": True}),
        ("RGB", "b.jpg", {"progressive": True, "optimize": True}),
        ("1", "c.png", {"optimize": True}),
        ("RGB", "d.png", {"compress_level": 9}),
        ("RGB", "e.webp", {"lossless": True}),
    ):
        path = _saved(Image.new(mode, (13000, 13000), "white"), tmp_path / name, **options)
        assert read_image_size(path) == (13000, 13000)
        assert read_rgb(path)[-1, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_a_truncated_file_is_refused(tmp_path, name):
    path = _saved(Image.fromarray(_random(64, 64, 3)), tmp_path / name)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ImageError, match=r"expected .* got .*" + name):
        read_rgb(path)


@pytest.mark.parametrize("end", [5, 60, -30])
def test_a_tiff_that_ends_before_its_directory_is_not_called_a_raster(tmp_path, end):
    path = _saved(Image.fromarray(_random(64, 64, 3)), tmp_path / "a.tif", compression="tiff_lzw")
    path.write_bytes(path.read_bytes()[:end])
    for read in (read_rgb, read_image_size):
        with pytest.raises(ImageError, match=r"got .*a\.tif, which is a TIFF that ends too early"):
            read(path)


def test_a_damaged_avif_file_does_not_ask_for_what_is_installed(tmp_path):
    path = tmp_path / "a.avif"
    path.write_bytes(b"\0\0\0\x20ftypavif" + bytes(200))
    said = "none, damaged, or of an unknown kind" if ".avif" in IMAGE_SUFFIXES else "AVIF; install Pillow 11.3 or later"
    with pytest.raises(ImageError, match=rf"got .*a\.avif, which is {said}"):
        read_rgb(path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_grey_whose_zero_is_white_is_read_as_it_is_seen(tmp_path, dtype):
    seen = np.arange(0, 256, 5).reshape(4, 13)
    largest = np.iinfo(dtype).max
    write(tmp_path / "a.tif", (largest - seen * (largest // 255)).astype(dtype)[None], photometric="MINISWHITE", **UTM)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.tif")[..., 0], seen)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_progressive_jpeg_without_its_last_scans_is_refused_also_where_its_end_was_mended(tmp_path, mode):
    """Independent truth: the places of all scans in the file."""
    ramp = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
    picture = Image.fromarray(ramp + _random(48, 64) // 8).convert(mode)
    path = _saved(picture, tmp_path / "a.jpg", progressive=True, quality=95)
    data = path.read_bytes()
    scans = [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"]
    assert len(scans) > 4
    assert read_rgb(path).shape == (48, 64, 3)
    assert not glance_at_image(path).problem
    for place in scans[1:]:
        for end in (b"", b"\xff\xd9"):
            path.write_bytes(data[:place] + end)
            with pytest.raises(ImageError, match=r"expected a (whole|readable) image, got .*a\.jpg"):
                read_rgb(path)
            assert glance_at_image(path).problem


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_usual_range_are_scaled_by_percentiles(tmp_path, dtype):
    """Independent truth: numpy's percentiles and a straight line."""
    values = np.random.default_rng(0).normal(-3000, 70000, (40, 50)).astype(dtype)
    low, high = np.percentile(values, (2, 98))
    expected = np.rint((values.astype(np.float64) - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)
    read = read_rgb(_saved(Image.fromarray(values), tmp_path / "height.tif"))
    np.testing.assert_array_equal(read, np.stack([expected] * 3, axis=2))


def test_an_image_without_pixels_is_refused(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 0 3 255 ")
    write_raw_png(tmp_path / "a.png", 0, 3, bits=8, kind=GREY, rows=b"")
    for name in ("a.pgm", "a.png"):
        with pytest.raises(ImageError, match="expected"):
            read_rgb(tmp_path / name)


def test_a_small_file_that_declares_a_huge_image_is_refused_before_memory_is_taken(tmp_path):
    resource = pytest.importorskip("resource")
    write_raw_png(tmp_path / "bomb.png", 60000, 60000, bits=8, kind=RGB, rows=b"")
    (tmp_path / "bomb.pgm").write_bytes(b"P5 60000 60000 255 ")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("bomb.png", "bomb.pgm"):
        for read in (read_rgb, read_image_size):
            with pytest.raises(ImageError, match=r"at most \d+ pixels, got more in .*bomb.*; cut or shrink it first"):
                read(tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; the image would be 10 GB


def test_large_images_below_the_limit_are_read_without_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns above and refuses above twice this number
    path = _saved(Image.new("L", (50, 40)), tmp_path / "large.png")
    assert read_rgb(path).shape == (40, 50, 3)
    with pytest.raises(ImageError, match="at most 2000 pixels"):
        read_rgb(_saved(Image.new("L", (50, 41)), tmp_path / "larger.png"))


@pytest.mark.parametrize("size", [(65000, 1), (1, 65000)])
def test_very_long_images_are_read(tmp_path, size):
    for name in ("a.png", "a.jpg"):
        path = _saved(Image.new("L", size, 7), tmp_path / name)
        assert read_rgb(path).shape == (size[1], size[0], 3)


@pytest.mark.slow
def test_a_hundred_megapixels_are_read(tmp_path):
    path = _saved(Image.new("1", (12000, 9000), 1), tmp_path / "a.png")
    assert read_rgb(path).shape == (9000, 12000, 3)


def test_names_may_hold_any_letters(tmp_path):
    rgb = _random(3, 4, 3)
    folder = tmp_path / "Größe 北京 🚗"
    write_image(folder / "снимок №1.png", rgb)
    assert [path.name for path in find_images(folder)] == ["снимок №1.png"]
    np.testing.assert_array_equal(read_rgb(folder / "снимок №1.png"), rgb)


def test_damaged_files_are_read_or_refused_but_never_crash(tmp_path):
    """600 files with random bytes changed, inserted or cut off."""
    image, wholes = Image.fromarray(_random(23, 37, 3)), []
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF", "JPEG2000"):
        buffer = BytesIO()
        image.save(buffer, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}))
        wholes.append(buffer.getvalue())
    rng, path, outcomes = random.Random(0), tmp_path / "damaged", {"read": 0, "refused": 0}
    for _ in range(600):
        damaged = bytearray(rng.choice(wholes))
        for _ in range(rng.choice([1, 2, 5, 20])):
            damaged[rng.randrange(min(len(damaged), rng.choice([40, 300, len(damaged)])))] = rng.randrange(256)
        if rng.random() < 0.2:
            del damaged[rng.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        try:
            assert read_rgb(path).shape[2] == 3
            outcomes["read"] += 1
        except ImageError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 50


@pytest.mark.skipif(not (SHARED / "samples").is_dir(), reason="the collection of real files is not here")
def test_real_files_are_read_or_refused(recwarn):
    """Photographs, masks and rasters as published, some odd; 4 bands, floats and 16 bits among them."""
    paths = find_images(SHARED / "samples")
    assert len(paths) > 50
    refused = []
    for path in paths:
        try:
            image = read_rgb(path)
            assert image.dtype == np.uint8
            assert image.shape == (*read_image_size(path), 3)
        except ImageError:
            refused.append(path.relative_to(SHARED))
    assert not recwarn.list
    assert len(refused) < 5, refused


def test_pillows_warnings_are_held_back_and_only_while_files_are_read(tmp_path):
    """Also with many threads, where ``warnings.catch_warnings`` alone would leave its filter behind."""
    odd = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0f\x01\x02\0\xff\0\0\0\xff\xff\0\0"  # its text lies behind its end
    path = _saved(Image.fromarray(_random(8, 8, 3)), tmp_path / "a.jpg", exif=odd)
    with pytest.warns(UserWarning, match="EXIF|Tag|Truncated"), Image.open(path) as image:
        image.getexif().get(0x010F)
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        shapes = set(pool.map(lambda _: read_rgb(path).shape, range(200)))
    assert shapes == {(8, 8, 3)}
    assert warnings.filters == before
