"""Reading masks: the values of the file, whatever its kind, become classes; anything else is an error that helps."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fakes.rasters import UTM, write
from fakes.raw_png import GREY, PALETTE, RGB, write_raw_png
from refineseg.class_info import ClassInfo, LabelTable
from refineseg.errors import ImageError, LabelError
from refineseg.images.encoding import write_mask
from refineseg.images.files import mask_values, read_mask
from refineseg.images.label_messages import legal_values, value_ranges

CLASSES = ClassInfo(("sky", "road", "car"), ((128, 128, 128), (128, 64, 128), (64, 0, 128)))
TABLE = LabelTable(
    {0: 0, 1: 1, 2: 2, 255: 255}, {**dict(zip(CLASSES.palette, range(3), strict=True)), (0, 0, 0): 255}, "classes.json"
)
MASK = np.array([[0, 1, 2, 255], [2, 2, 0, 1], [255, 0, 1, 0]], np.uint8)


def _read(path, table=TABLE, ignore_index=255):
    return read_mask(path, table=table, ignore_index=ignore_index)


def _written(kind: str, folder):
    """MASK in a file of one kind."""
    colours = np.array([*CLASSES.palette, *[(9, 9, 9)] * 252, (0, 0, 0)], np.uint8)
    path = folder / ("mask.tif" if kind == "big-endian TIFF" else "mask.png")
    if kind == "grey":
        write_raw_png(path, 4, 3, bits=8, kind=GREY, rows=MASK.tobytes())
    elif kind == "palette":  # in colours whose brightness says nothing about the index
        shuffled = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)
        write_raw_png(path, 4, 3, bits=8, kind=PALETTE, rows=MASK.tobytes(), palette=shuffled.tobytes())
    elif kind == "16-bit":
        write_raw_png(path, 4, 3, bits=16, kind=GREY, rows=MASK.astype(">u2").tobytes())
    elif kind == "RGB":
        write_raw_png(path, 4, 3, bits=8, kind=RGB, rows=colours[MASK].tobytes())
    elif kind == "RGBA":
        alpha = np.random.default_rng(0).integers(0, 256, (3, 4, 1), dtype=np.uint8)
        Image.fromarray(np.concatenate([colours[MASK], alpha], axis=2)).save(path)
    elif kind == "grey with alpha":
        Image.fromarray(np.stack([MASK, 255 - MASK], axis=2), "LA").save(path)
    elif kind == "big-endian TIFF":
        Image.frombytes("I;16B", (4, 3), MASK.astype(">u2").tobytes()).save(path)
    elif kind == "our own":
        write_mask(path, MASK, CLASSES)
    return path


KINDS = ("grey", "palette", "16-bit", "RGB", "RGBA", "grey with alpha", "big-endian TIFF", "our own")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_classes(tmp_path, kind):
    read = _read(_written(kind, tmp_path))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, MASK)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("kind", [GREY, PALETTE])
def test_files_of_few_bits_hold_their_values_as_stored(tmp_path, bits, kind):
    """Pillow spreads 4-bit grey over 0..255; a class index must not be."""
    rows = np.arange(8, dtype=np.uint8).reshape(2, 4) % (1 << bits)
    packed = np.packbits(np.unpackbits(rows[..., None], axis=2)[..., -bits:].reshape(2, -1), axis=1)
    write_raw_png(
        tmp_path / "m.png", 4, 2, bits=bits, kind=kind, rows=packed.tobytes(), palette=bytes(range(3 << bits))
    )
    table = LabelTable({value: value for value in range(8)})
    np.testing.assert_array_equal(_read(tmp_path / "m.png", table), rows)
    assert mask_values(tmp_path / "m.png") == {int(v): int((rows == v).sum()) for v in np.unique(rows)}


@pytest.mark.parametrize("bits", [2, 4])
def test_tiff_masks_of_few_bits_hold_their_values_as_stored(tmp_path, bits):
    rows = np.arange(8, dtype=np.uint8).reshape(2, 4) % (1 << bits)
    write(tmp_path / "m.tif", rows[None], nbits=bits, **UTM)
    np.testing.assert_array_equal(_read(tmp_path / "m.tif", LabelTable({value: value for value in range(8)})), rows)


@pytest.mark.parametrize("largest", [3, 11, 255, 1000, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_pgm_masks_of_any_maximum_hold_their_values_as_stored(tmp_path, largest, plain):
    """Pillow spreads the values 0..maximum over 0..255 or 0..65535."""
    rows = np.array([[0, 1, 2], [3, 1, largest]])
    digits = " ".join(map(str, rows.ravel())).encode()
    packed = rows.astype(np.uint8 if largest < 256 else ">u2").tobytes()
    head = f"P{2 if plain else 5}\n3 2\n{largest}\n".encode()
    (tmp_path / "m.pgm").write_bytes(head + (digits if plain else packed))
    assert mask_values(tmp_path / "m.pgm") == {int(v): int((rows == v).sum()) for v in np.unique(rows)}


@pytest.mark.parametrize(("kind", "channels"), [(RGB, 3), (4, 2), (6, 4)])
def test_masks_of_16_bit_colours_are_refused(tmp_path, kind, channels):
    """Pillow reads the upper bytes alone: all small values would be class 0 or black."""
    values = np.arange(12, dtype=">u2").repeat(channels)
    write_raw_png(tmp_path / "m.png", 4, 3, bits=16, kind=kind, rows=values.tobytes())
    for read in (_read, mask_values):
        with pytest.raises(
            ImageError, match=r"got colours of 16 bits in .*m\.png; save it as an 8- or 16-bit grey PNG"
        ):
            read(tmp_path / "m.png")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.lists(st.integers(0, 65535), min_size=1, max_size=40, unique=True),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_values_become_the_classes_of_the_table(tmp_path, ids, size, seed):
    classes = np.random.default_rng(seed).integers(0, len(ids), size)
    table = LabelTable({value: index for index, value in enumerate(ids)})
    stored = np.array(ids, np.uint16)[classes]
    Image.fromarray(stored.astype(np.uint8) if max(ids) < 256 else stored).save(tmp_path / "m.png")
    np.testing.assert_array_equal(_read(tmp_path / "m.png", table), classes)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    palette=st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=30, unique=True),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_colours_become_the_classes_of_the_table(tmp_path, palette, seed):
    classes = np.random.default_rng(seed).integers(0, len(palette), (5, 8))
    Image.fromarray(np.array(palette, np.uint8)[classes]).save(tmp_path / "m.png")
    table = LabelTable({0: 0}, {colour: index for index, colour in enumerate(palette)})
    np.testing.assert_array_equal(_read(tmp_path / "m.png", table), classes)


def test_several_values_may_be_void_and_another_value_may_stand_for_it(tmp_path):
    Image.fromarray(np.array([[7, 9, 11, 3]], np.uint8)).save(tmp_path / "m.png")
    table = LabelTable({7: 0, 9: 1, 11: 255, 3: 255})
    assert _read(tmp_path / "m.png", table).tolist() == [[0, 1, 255, 255]]


def test_more_than_255_classes_need_16_bits(tmp_path):
    Image.fromarray(np.array([[0, 299, 65535]], np.uint16)).save(tmp_path / "m.png")
    table = LabelTable({**{i: i for i in range(300)}, 65535: 65535})
    read = _read(tmp_path / "m.png", table, ignore_index=65535)
    assert read.dtype == np.uint16
    assert read.tolist() == [[0, 299, 65535]]


def test_a_mask_is_turned_upright_like_its_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored first column is the top, read from right to left
    Image.fromarray(np.array([[0, 1, 2]], np.uint8)).save(tmp_path / "m.png", exif=exif)
    assert _read(tmp_path / "m.png").tolist() == [[0], [1], [2]]


def test_stored_values_are_counted_without_a_table(tmp_path):
    Image.fromarray(np.array([[3, 3, 900], [3, 0, 900]], np.uint16)).save(tmp_path / "m.png")
    assert mask_values(tmp_path / "m.png") == {3: 3, 900: 2, 0: 1}
    Image.fromarray(np.array([[-4, 70000]], np.int32)).save(tmp_path / "m.tif")
    assert mask_values(tmp_path / "m.tif") == {-4: 1, 70000: 1}


# ------------------------------------------------------------------------------------------------------------- errors


def _grey(values, dtype=np.uint8):
    return np.array([values], dtype)


def _rgb(*colours):
    return np.array([colours], np.uint8)


FIXED = LabelTable({0: 0, 1: 1, 2: 2, 255: 255}, TABLE.colours)
VOID_IS_3 = LabelTable({0: 0, 1: 1, 2: 2, 3: 255}, declared_in="classes.json")
SPARSE = LabelTable({0: 0, 4: 1, 5: 2, 9: 3}, declared_in="labelmap.txt")
NO_COLOURS = LabelTable(TABLE.values, declared_in="classes.txt")

WRONG = {
    "unknown values": (
        _grey([0, 7, 7, 9]),
        TABLE,
        r"m\.png: expected 0\.\.2 or 255, got 7 in 2 pixels, 9 in 1 pixel; list the values in classes\.json or",
    ),
    "fixed classes": (_grey([0, 7]), FIXED, r"got 7 in 1 pixel; correct the mask$"),
    "holes": (
        _grey([3]),
        SPARSE,
        r"expected 0, 4\.\.5, 9, got 3 in 1 pixel; labelmap\.txt cannot list values: write classes\.json",
    ),
    "0 and 255": (
        _grey([0, 255, 255]),
        VOID_IS_3,
        r"expected 0\.\.2 or 3, got 255 in 2 pixels; a mask of 0 and 255 has two classes: write 1 instead of 255 or "
        r'give the second class "id": 255 in classes\.json',
    ),
    "void not declared": (_grey([0, 1, 255]), VOID_IS_3, r'if 255 is void, set "ignore_index": 255 in classes\.json'),
    "one too high": (
        _grey([1, 2, 3]),
        TABLE,
        r"got 3 in 1 pixel; if the values start at 1 they are one too high: subtract 1, or list the values as they are",
    ),
    "a photograph": (
        np.arange(100, dtype=np.uint8).reshape(10, 10),
        TABLE,
        r"got 3 in 1 pixel, .* and 92 more values; so many values are a photograph or a smoothly resized mask: resize "
        r"with nearest neighbour, save as PNG",
    ),
    "16 bits": (_grey([0, 1000], np.uint16), TABLE, r"expected 0\.\.2 or 255, got 1000 in 1 pixel;"),
    "unknown colours": (
        _rgb((128, 128, 128), (1, 2, 3), (1, 2, 3)),
        TABLE,
        r"expected the 4 colours of the class table \(\(128, 128, 128\), .*, \.\.\.\), got \(1, 2, 3\) in 2 pixels; "
        r"list them in classes\.json or repaint the mask",
    ),
    "unknown colours of fixed classes": (_rgb((1, 2, 3)), FIXED, r"got \(1, 2, 3\) in 1 pixel; repaint the mask$"),
    "grey saved as RGB": (
        _rgb((0, 0, 0), (1, 1, 1), (2, 2, 2)),
        TABLE,
        r"got \(1, 1, 1\) in 1 pixel, \(2, 2, 2\) in 1 pixel; its channels are equal: save one of them as a grey PNG",
    ),
    "blurred colours": (
        np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8),
        TABLE,
        r"more colours; so many colours are a photograph or a smoothly resized mask: resize with nearest",
    ),
    "colours without a table": (
        _rgb((128, 64, 128), (0, 0, 7)),
        NO_COLOURS,
        r"expected class indices, got RGB colours \(0, 0, 7\) in 1 pixel, \(128, 64, 128\) in 1 pixel; give every "
        r'class its colour in classes\.json: \{"classes": \[\{"id": 0, "name": "road", "color": \[128, 64, 128\]\}, ',
    ),
    "grey saved as RGB without a table": (_rgb((0, 0, 0), (1, 1, 1)), NO_COLOURS, r"its channels are equal: save one"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_stands_for_no_class_is_named_counted_and_comes_with_advice(tmp_path, case):
    pixels, table, message = WRONG[case]
    Image.fromarray(pixels).save(tmp_path / "m.png")
    with pytest.raises(LabelError, match=message):
        _read(tmp_path / "m.png", table)


def test_values_outside_16_bits_are_named(tmp_path):
    Image.fromarray(np.array([[0, -1, 70000]], np.int32)).save(tmp_path / "m.tif")
    with pytest.raises(LabelError, match=r"got -1 in 1 pixel, 70000 in 1 pixel;"):
        _read(tmp_path / "m.tif")


def test_jpeg_masks_are_refused_even_where_all_values_are_legal(tmp_path):
    """A blurred value may be that of another class, which nobody would notice."""
    Image.new("L", (8, 8), 0).save(tmp_path / "m.jpg")
    for read in (_read, mask_values):
        with pytest.raises(LabelError, match=r"m\.jpg: expected a lossless mask file, got JPEG, which blurs .* PNG"):
            read(tmp_path / "m.jpg")


def test_kinds_of_pixels_that_hold_no_classes_are_refused(tmp_path):
    for image in (Image.new("F", (2, 2)), Image.new("CMYK", (2, 2))):
        image.save(tmp_path / "m.tif")
        with pytest.raises(
            ImageError, match=rf"expected a mask of indices, .* got Pillow mode {image.mode} in .*m\.tif"
        ):
            _read(tmp_path / "m.tif")
    with pytest.raises(ImageError, match=r"there is no .*absent"):
        _read(tmp_path / "absent.png")


def test_colours_cannot_be_counted_as_values(tmp_path):
    Image.fromarray(_rgb((1, 2, 3))).save(tmp_path / "m.png")
    with pytest.raises(LabelError, match=r"expected class indices, got RGB colours \(1, 2, 3\) in 1 pixel"):
        mask_values(tmp_path / "m.png")


def test_values_are_written_as_runs():
    assert value_ranges([]) == ""
    assert value_ranges([5]) == "5"
    assert value_ranges([10, 0, 1, 2, 7]) == "0..2, 7, 10"
    assert value_ranges(range(0, 100, 2), most=3) == "0, 2, 4, ..."
    assert legal_values(LabelTable({3: 0, 4: 1, 0: 255, 255: 255}), 255) == "3..4 or 0, 255"
    assert legal_values(LabelTable({0: 0, 1: 1}), 255) == "0..1"
