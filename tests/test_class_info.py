"""Classes: names, colours and the void value agree, and survive JSON."""

import json

import numpy as np
import pytest
from skimage.color import rgb2lab

from refineseg.class_info import ClassInfo, LabelTable, default_palette, voc_palette
from refineseg.data.samples.catalog import catalog_classes
from refineseg.errors import ConfigError


def test_the_voc_palette_is_that_of_the_development_kit():
    """Colours as listed for the 21 classes of PASCAL VOC, and the one of its border, 255."""
    palette = voc_palette(256)
    assert palette[:8] == (
        *((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)),
        *((0, 0, 128), (128, 0, 128), (0, 128, 128), (128, 128, 128)),
    )
    assert palette[15] == (192, 128, 128)
    assert palette[20] == (0, 64, 128)
    assert palette[255] == (224, 224, 192)
    assert len(set(palette)) == 256


def seen_by(colours, kind):
    """CIELAB of colours as a dichromat sees them: Vienot, Brettel and Mollon 1999, in linear RGB."""
    rows = {"protan": (0.11238, 0.88762, 0.00401), "deutan": (0.29275, 0.70725, -0.02234)}
    rgb = np.array(colours) / 255
    if kind != "all cones":
        a, b, c = rows[kind]
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        linear = (linear @ np.array([[a, b, 0], [a, b, 0], [c, -c, 1]]).T).clip(0, 1)
        rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb2lab(rgb[None])[0]


@pytest.mark.parametrize("kind", ["all cones", "protan", "deutan"])
def test_default_colours_of_neighbours_differ_for_colour_blind_readers_too(kind):
    """2.3 is just noticeable; voc_palette has 9.7 between some of its first 20 neighbours for deutans."""
    lab = seen_by(default_palette(256), kind)
    neighbours = np.linalg.norm(np.diff(lab, axis=0), axis=1)
    assert neighbours[:19].min() > 20
    assert neighbours.min() > 15
    assert lab[0, 0] > 30, "the first class is not black"
    near = [np.linalg.norm(lab[i] - lab[:i], axis=1).min() for i in range(1, 8)]
    assert min(near) > 15, "the first eight differ from each other"


def test_default_colours_are_distinct_and_none_of_voc():
    colours = default_palette(256)
    assert len(set(colours)) == 256
    assert not set(colours) & set(voc_palette(256))


def test_classes_of_known_data_sets_keep_their_colours():
    assert catalog_classes("voc").palette == voc_palette(21)
    assert catalog_classes("cityscapes").palette[0] == (128, 64, 128)
    assert catalog_classes("camvid").palette[0] == (128, 128, 128)


def test_classes_without_colours_get_the_default_ones():
    assert ClassInfo(("a", "b", "c")).palette == default_palette(3) == ((0, 114, 178), (230, 159, 0), (0, 158, 115))
    many = ClassInfo.generic(300)
    assert (many.num_classes, len(many.palette), many.ignore_index) == (300, 300, 65535)
    assert ClassInfo.generic(255).ignore_index == 255


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ()}, "expected at least one class, got none; give the class names"),
        ({"names": ("a", "b", "a")}, r"expected different class names, got \['a'\] more than once; rename"),
        ({"names": ("a", "b"), "palette": ((0, 0, 0),)}, "expected one colour per class, got 1 colours for 2 classes"),
        ({"names": ("a",), "palette": ((0, 0, 256),)}, r"expected three numbers 0\.\.255 as the colour of 'a', got"),
        ({"names": ("a", "b"), "ignore_index": -1}, r"expected a void value of 0 to 65535, .* got -1; use 255"),
        ({"names": ("a", "b"), "ignore_index": 70000}, r"expected a void value of 0 to 65535, .* got 70000"),
        ({"names": "road"}, r"expected a tuple of class names, got 'road'; \('sky', 'road'\) for instance"),
        ({"names": 5}, "expected a tuple of class names, got 5"),
        ({"names": (1, 2)}, r"expected a tuple of class names, got \(1, 2\)"),
        (
            {"names": ("a",), "palette": ((0.5, 1, 2),)},
            r"expected whole numbers as colours .*, got \(\(0\.5, 1, 2\),\)",
        ),
        ({"names": ("a",), "ignore_index": "255"}, r"expected whole numbers as colours .* and '255'"),
        ({"names": ("a", "b"), "ignore_index": 1}, r"expected a void value outside the classes 0\.\.1, got 1; use 255"),
    ],
)
def test_classes_that_contradict_themselves_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ClassInfo(**arguments)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int64])
def test_a_mask_is_painted_and_everything_that_is_no_class_is_black(dtype):
    classes = ClassInfo(("a", "b"), ((1, 2, 3), (4, 5, 6)))
    mask = np.array([[0, 1, 2], [255, 1, 0]], dtype)
    black = [0, 0, 0]
    expected = [[[1, 2, 3], [4, 5, 6], black], [black, [4, 5, 6], [1, 2, 3]]]
    painted = classes.colours(mask)
    assert painted.dtype == np.uint8
    assert painted.tolist() == expected


def test_values_that_fit_no_byte_are_painted_too():
    many = ClassInfo.generic(300)
    painted = many.colours(np.array([[299, 300, 65535, -1]]))
    assert painted.tolist() == [[list(many.palette[299]), [0, 0, 0], [0, 0, 0], [0, 0, 0]]]
    assert many.colours(np.array([[255]], np.uint8)).tolist() == [[list(many.palette[255])]]


def test_lists_arrays_and_numbers_of_numpy_become_plain_values():
    plain = ClassInfo(("a", "b"), ((1, 2, 3), (4, 5, 6)), 255)
    same = ClassInfo(np.array(["a", "b"]), np.array([[1, 2, 3], [4, 5, 6]], np.uint8), np.int64(255))
    assert same == plain == ClassInfo(["a", "b"], [[1, 2, 3], [4, 5, 6]])
    assert json.dumps(same.to_json()) == json.dumps(plain.to_json())


def test_classes_survive_json():
    for classes in (catalog_classes("camvid"), ClassInfo.generic(300)):
        assert ClassInfo.from_json(json.loads(json.dumps(classes.to_json()))) == classes


@pytest.mark.parametrize(
    "value", [{}, {"names": ["a"]}, {"names": ["a"], "palette": [[1, 2]], "ignore_index": 255}, {"names": 5}]
)
def test_json_that_is_no_class_table_is_refused(value):
    with pytest.raises(ConfigError, match="expected a class table with names, palette and ignore_index, got"):
        ClassInfo.from_json(value)


def test_a_plain_table_maps_classes_to_themselves_and_void_to_the_ignore_index():
    classes = ClassInfo(("a", "b"), ((1, 2, 3), (4, 5, 6)))
    table = LabelTable.identity(classes, void_values=(11,))
    assert table.values == {0: 0, 1: 1, 11: 255, 255: 255}
    assert table.colours == {(1, 2, 3): 0, (4, 5, 6): 1}
    assert LabelTable.identity(classes).values == {0: 0, 1: 1, 255: 255}


@pytest.mark.parametrize("count", [65536, 65537, 100_000, 10**15])  # the last: no names may be made for it
def test_more_classes_than_sixteen_bits_hold_beside_void_are_refused(count):
    with pytest.raises(ConfigError, match=f"expected at most 65535 classes, as many as masks can hold, got {count}"):
        ClassInfo.generic(count)
