"""The user's list of classes: three kinds of files, and every way to get them wrong."""

import json

import pytest

from conftest import SHARED
from refineseg.class_info import default_palette
from refineseg.data.samples.catalog import catalog_classes
from refineseg.data.samples.class_files import read_class_file
from refineseg.errors import ConfigError

BLUE = (0, 114, 178)  # the first of the default colours


def _json(root, content):
    (root / "classes.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def test_no_file_means_no_classes(tmp_path):
    assert read_class_file(tmp_path) is None


def test_json_lists_values_names_and_colours(tmp_path):
    classes, table = read_class_file(
        _json(
            tmp_path,
            {
                "num_classes": 3,
                "ignore_index": 255,
                "classes": [
                    {"id": 7, "name": "road", "color": [128, 64, 128], "segnet_id": 3},
                    {"id": 0, "name": "Größe"},
                    {"id": 26, "name": "car", "color": [0, 0, 142]},
                    {"id": 3, "name": "out of roi", "color": [0, 0, 0], "ignore": True},
                    {"id": 4, "name": "static", "color": [0, 0, 0], "ignore": True},
                ],
            },
        )
    )
    assert classes.names == ("road", "Größe", "car")
    assert classes.palette == ((128, 64, 128), BLUE, (0, 0, 142))
    assert classes.ignore_index == 255
    assert table.values == {7: 0, 0: 1, 26: 2, 3: 255, 4: 255, 255: 255}
    assert table.colours == {(128, 64, 128): 0, (0, 0, 142): 2, (0, 0, 0): 255}
    assert table.declared_in == "classes.json"


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ({"classes": [{"name": "a"}, {"name": "b"}]}, {0: 0, 1: 1, 255: 255}),
        ({"classes": [{"name": "a"}, {"name": "b"}], "ignore_index": 11}, {0: 0, 1: 1, 11: 255}),
        ({"classes": [{"id": 0, "name": "a"}, {"id": 255, "name": "b"}]}, {0: 0, 255: 1}),
        ({"classes": [{"id": 1, "name": "a"}, {"id": 0, "name": "-", "ignore": True}]}, {1: 0, 0: 255, 255: 255}),
        ({"classes": [{"name": "a"}, {"id": 9, "name": "-", "ignore": True}], "ignore_index": 9}, {0: 0, 9: 255}),
    ],
)
def test_void_is_255_unless_the_file_says_otherwise(tmp_path, content, values):
    classes, table = read_class_file(_json(tmp_path, content))
    assert table.values == values
    assert classes.ignore_index == 255


def test_more_than_255_classes_have_16_bit_void(tmp_path):
    classes, table = read_class_file(_json(tmp_path, {"classes": [{"name": f"c{i}"} for i in range(300)]}))
    assert (classes.num_classes, classes.ignore_index) == (300, 65535)
    assert table.values[255] == 255
    assert table.values[65535] == 65535


def test_british_spelling_and_a_byte_order_mark_are_read(tmp_path):
    text = json.dumps({"classes": [{"name": "a", "colour": [1, 2, 3]}]})
    (tmp_path / "classes.json").write_text(text, encoding="utf-8-sig")
    classes, table = read_class_file(tmp_path)
    assert (classes.palette, table.colours) == (((1, 2, 3),), {(1, 2, 3): 0})


def test_classes_without_colours_show_default_colours_but_accept_none(tmp_path):
    classes, table = read_class_file(_json(tmp_path, {"classes": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}))
    assert classes.palette == default_palette(3)
    assert classes.palette[0] == BLUE
    assert table.colours == {}


def test_cvats_labelmap_numbers_its_lines(tmp_path):
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ntraffic light:250,170,30:lamp,pole:on\n\nrider:::\n"
    )
    classes, table = read_class_file(tmp_path)
    assert classes.names == ("background", "traffic light", "rider")
    assert classes.palette == ((0, 0, 0), (250, 170, 30), BLUE)
    assert table.values == {0: 0, 1: 1, 2: 2, 255: 255}
    assert table.colours == {(0, 0, 0): 0, (250, 170, 30): 1}
    assert table.declared_in == "labelmap.txt"


def test_a_list_of_names_numbers_its_lines(tmp_path):
    (tmp_path / "classes.txt").write_text("sky\n road \n\n", encoding="utf-8")
    classes, table = read_class_file(tmp_path)
    assert classes.names == ("sky", "road")
    assert (table.values, table.colours) == ({0: 0, 1: 1, 255: 255}, {})


def test_json_goes_before_labelmap_before_names(tmp_path):
    (tmp_path / "classes.txt").write_text("from names")
    assert read_class_file(tmp_path)[0].names == ("from names",)
    (tmp_path / "labelmap.txt").write_text("from labelmap:1,2,3::")
    assert read_class_file(tmp_path)[0].names == ("from labelmap",)
    assert read_class_file(_json(tmp_path, {"classes": [{"name": "from json"}]}))[0].names == ("from json",)


@pytest.mark.skipif(not (SHARED / "camvid").is_dir(), reason="CamVid is not beside the checkout")
def test_the_real_table_of_camvid_equals_the_catalog():
    classes, table = read_class_file(SHARED / "camvid")
    assert classes == catalog_classes("camvid")
    assert table.values == {**{i: i for i in range(11)}, 255: 255}
    assert table.colours[(0, 0, 0)] == 255


def _classes(*entries, **other):
    return {"classes": list(entries), **other}


A, B = {"id": 0, "name": "a", "color": [1, 2, 3]}, {"id": 1, "name": "b", "color": [4, 5, 6]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_classes(A, {**B, "id": 0}), r"expected every id once in .*classes\.json, got 0 for 'a' and 'b'"),
        (_classes(A, {**B, "name": "a"}), r"expected every name once in .*, got 'a' for 'a' and 'a'"),
        (_classes(A, {**B, "color": [1, 2, 3]}), r"expected every colour once in .*, got \(1, 2, 3\) for 'a' and 'b'"),
        (_classes(A, {**B, "color": [1, 2, 3], "ignore": True}), r"expected every colour once"),
        (_classes(A, {**B, "ignore": "yes"}), r"expected \"ignore\" of 'b' in entry 1 of .* true or false, got 'yes'"),
        (_classes(A, B, num_classes=3), r'expected "num_classes": 2 in .* got 3; correct it or leave it out'),
        (_classes(A, B, ignore_index=1), r"to be no class, got 1, the id of 'b'; mark that entry \"ignore\": true"),
        (_classes(A, ignore_index=-1), r'expected "ignore_index" in .* to be one of 0\.\.65535, got -1'),
        (_classes(), r"expected at least one class in .*, got none; for instance"),
        (_classes({**A, "ignore": True}), r"expected at least one class in .*, got none"),
        (_classes({"id": 0}), r'expected a "name" in entry 0 of .*classes\.json, got None'),
        (_classes(A, {"id": "1", "name": "b"}), r"the \"id\" of 'b' in entry 1 of .* mask value 0\.\.65535, got '1'"),
        (_classes({"id": True, "name": "b"}), r"the \"id\" of 'b' .* got True"),
        (_classes({"id": 70000, "name": "b"}), r"got 70000"),
        (
            _classes({**A, "color": [0, 0, 256]}),
            r"the \"color\" of 'a' in entry 0 .* three numbers 0\.\.255, got \[0, 0,",
        ),
        (_classes({**A, "color": "#ff0000"}), r"three numbers 0\.\.255, got '#ff0000'"),
        (
            ["a", "b"],
            r'expected a list of objects under "classes" in .*; for instance \{"ignore_index": 255, "classes"',
        ),
        ({"classes": ["a"]}, r'expected a list of objects under "classes"'),
    ],
)
def test_wrong_json_is_refused_with_the_entry_named(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message):
        read_class_file(_json(tmp_path, content))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "classes.json",
            b"{'classes': []}",
            r"expected JSON in .*classes\.json, got Expecting property name.*; for inst",
        ),
        ("classes.txt", b"\xff\xfe\x00", r"expected a UTF-8 text file, got .*classes\.txt: "),
        ("classes.txt", b"a\n\nb\n", r"expected a class name on each line of .*, got an empty line 2; remove it, or"),
        ("classes.txt", b"a\na\n", r"expected every name once in .*classes\.txt, got 'a' for 'a' and 'a'"),
        ("classes.txt", b"\n", r"expected at least one class in .*classes\.txt, got none; for instance classes\.json"),
        ("labelmap.txt", b"a 0 0 0\n", r"expected 'name:r,g,b::' with colours 0\.\.255 in .*, got 'a 0 0 0'"),
        ("labelmap.txt", b"a:0,0,256::\n", r"expected 'name:r,g,b::' with colours 0\.\.255 in .*, got 'a:0,0,256::'"),
        ("labelmap.txt", b"a:1,1,1::\nb:1,1,1::\n", r"expected every colour once in .*labelmap\.txt, got \(1, 1, 1\)"),
        ("labelmap.txt", b"# only a comment\n", r"expected at least one class in .*labelmap\.txt"),
    ],
)
def test_wrong_text_is_refused_with_the_line_named(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ConfigError, match=message):
        read_class_file(tmp_path)


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ("0: sky\n1: road 2\n2: car", ("sky", "road 2", "car")),
        ("0 sky\n1\troad", ("sky", "road")),
        ("1 euro\n2 euro", ("1 euro", "2 euro")),
        ("5 cent\n2 doors", ("5 cent", "2 doors")),
        ("0: sky\nroad", ("0: sky", "road")),
        ("0\n1\n2", ("0", "1", "2")),
    ],
)
def test_numbers_before_names_are_left_out_where_they_are_the_values(tmp_path, lines, names):
    (tmp_path / "classes.txt").write_text(lines)
    assert read_class_file(tmp_path)[0].names == names


@pytest.mark.parametrize(
    ("lines", "number"), [("1: sky\n2: road", 1), ("1 sky\n2 road\n3 car", 1), ("7: sky\n26: road", 7)]
)
def test_other_numbers_before_names_are_refused_because_they_may_be_the_values(tmp_path, lines, number):
    (tmp_path / "classes.txt").write_text(lines)
    with pytest.raises(ConfigError, match=r"without numbers, or with 0, 1, 2, \.\.\., in .*classes\.txt") as error:
        read_class_file(tmp_path)
    advice = str(error.value).partition("write classes.json: ")[2].replace(", ...", "")
    _json(tmp_path, json.loads(advice))
    classes, table = read_class_file(tmp_path)
    assert (classes.names, table.values[number]) == (("sky",), 0)
