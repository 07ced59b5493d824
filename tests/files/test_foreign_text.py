"""JSON and YAML from strangers: hostile files of a kilobyte are refused in words, in every reader, at once."""

import base64
import io
import json
import time

import numpy as np
import pytest
from PIL import Image

from conftest import write_folder
from refineseg.data.datasets import open_dataset
from refineseg.data.samples.class_files import read_class_file
from refineseg.errors import ConfigError, DatasetError, ImageError, RefinesegError
from refineseg.files.foreign_text import parse_json, parse_yaml
from refineseg.files.run_lengths import decompressed

DEEP = (101, 900, 5000, 100_000)


@pytest.mark.parametrize("depth", DEEP)
@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}")])
def test_json_nested_too_deeply_is_refused(depth, start, end):
    with pytest.raises(ValueError, match="values nested in each other more than 100 times"):
        parse_json(start * depth + "1" + end * depth)


def test_json_as_deep_as_any_format_is_read_also_with_brackets_in_strings():
    assert parse_json("[" * 90 + "]" * 90)
    names = [{"name": 'a [ "quoted\\" [ {'} for _ in range(500)]
    assert parse_json(json.dumps(names)) == names


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_json_numbers_that_are_not_finite_are_refused(number):
    with pytest.raises(ValueError, match="which is no finite number"):
        parse_json(f'{{"height": {number}}}')


def test_json_numbers_of_thousands_of_digits_are_refused():
    with pytest.raises(ValueError, match="4300 digits"):
        parse_json("9" * 100_000)


def test_json_keys_that_occur_twice_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a key twice: car"):
        parse_json('[{"car": "vehicle", "tree": null, "car": "tree"}]')
    root = write_folder(tmp_path, splits={"train": 1})
    (root / "classes.txt").write_text("ground\nsky\nsquare\n")
    (root / "remap.json").write_text('{"sky": "above", "square": "below", "sky": null}')
    with pytest.raises(ConfigError, match=r"JSON in .*remap\.json, got a key twice: sky"):
        open_dataset("folder", root, split="train")


def test_a_yaml_alias_bomb_is_refused_at_once():
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n"
    begun = time.monotonic()
    with pytest.raises(ValueError, match="an alias"):
        parse_yaml(bomb + "names: *i")
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 1000, "nested in each other"),
        ("x" * (1 << 19), "characters, at most"),
        ("a: 1" + ":1" * 50_000, "a value of 100001 characters"),
        ("a: [", "while parsing"),
    ],
)
def test_other_hostile_yaml_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_yaml(text)


def _coco(root, **changes):
    image = {"id": 1, "file_name": "a.png", "height": 8, "width": 8} | changes
    content = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    return json.dumps(content)


def _hostile(root, kind):
    """Name of the data set, its root, and the hostile file that is written."""
    root.mkdir()
    Image.new("RGB", (8, 8)).save(root / "a.png")
    deep = "[" * 5000 + "]" * 5000
    if kind == "coco deep":
        (root / "annotations.json").write_text(_coco(root).replace("[]", f"[{deep}]"))
        return "coco"
    if kind.startswith("coco "):
        (root / "annotations.json").write_text(_coco(root, height=0).replace('"height": 0', f'"height": {kind[5:]}'))
        return "coco"
    if kind == "labelme deep":
        (root / "a.json").write_text(f'{{"shapes": {deep}}}')
        return "labelme"
    if kind == "label_studio deep":
        (root / "a.json").write_text(f'[{{"data": {{"image": "a.png"}}, "annotations": {deep}}}]')
        return "label_studio"
    (root / "data.yaml").write_text("train: images\nx: &a [1]\nnames: [*a, *a]\n")
    return "yolo"


@pytest.mark.parametrize(
    "kind",
    ["coco deep", "coco 1e999", "coco NaN", "coco -Infinity", "labelme deep", "label_studio deep", "yolo alias"],
)
def test_every_reader_refuses_hostile_files_by_name(tmp_path, kind):
    root = tmp_path / "d"
    name = _hostile(root, kind)
    with pytest.raises(RefinesegError, match=r"expected .*(a\.json|annotations\.json|data\.yaml)"):
        open_dataset(name, root, split="train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("classes.json", json.dumps({"classes": [{"name": f"c{i}"} for i in range(70_000)]}), "mask value 0..65535"),
        ("classes.txt", "".join(f"c{i}\n" for i in range(1_000_000)), "at most 65535 classes in .*, got 1000000"),
        ("labelmap.txt", "".join(f"c{i}:::\n" for i in range(70_000)), "at most 65535 classes"),
        ("classes.txt", "a" * 1_000_000, "at most 1000 characters"),
        ("classes.json", "[" * 100_000, "nested in each other"),
        ("classes.json", '{"classes": [{"name": "a", "id": 1e999}]}', "no finite number"),
        ("classes.json", '{"classes": [{"name": "a", "id": NaN}]}', "no finite number"),
    ],
)
def test_class_lists_beyond_what_masks_can_hold_are_refused_in_a_short_message(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message) as error:
        read_class_file(tmp_path)
    assert len(str(error.value)) < 1000


def test_a_small_embedded_picture_of_very_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    packed = io.BytesIO()
    Image.new("1", (9000, 9000)).save(packed, format="PNG", optimize=True)
    text = base64.b64encode(packed.getvalue()).decode()
    shape = {"label": "a", "points": [[0, 0], [3, 0], [3, 3]], "shape_type": "polygon"}
    (tmp_path / "b.json").write_text(json.dumps({"shapes": [shape], "imageData": text}))
    dataset = open_dataset("labelme", tmp_path, split="train")
    with pytest.raises(ImageError, match=r"a photograph in the imageData of .*b\.json, got \d+ bytes that declare"):
        dataset[0]


def test_a_small_embedded_mask_of_very_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    packed = io.BytesIO()
    Image.new("1", (9000, 9000)).save(packed, format="PNG", optimize=True)
    shape = {"label": "a", "points": [[0, 0], [3, 3]], "shape_type": "mask"}
    shape["mask"] = base64.b64encode(packed.getvalue()).decode()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "b.png")
    (tmp_path / "b.json").write_text(json.dumps({"shapes": [shape], "imagePath": "b.png"}))
    with pytest.raises(DatasetError, match=r"a mask of \(9000, 9000\) pixels for a box of \(4, 4\)"):
        open_dataset("labelme", tmp_path, split="train").read_mask(0)


def test_an_index_of_shards_nested_too_deeply_is_refused(tmp_path):
    root = write_folder(tmp_path / "d", splits={"train": 1})
    (root / "index.json").write_text('{"format": "refineseg shards", "a": ' + "[" * 5000 + "]" * 5000 + "}")
    with pytest.raises(DatasetError, match="expected the index of shards in"):
        open_dataset("folder", root, split="train")


@pytest.mark.parametrize(
    "text", ["a: !!timestamp b", "a: !!int ''", "a: !!bool b", "a: !!set {b}", "!!map {a: 1}", "!x a"]
)
def test_yaml_tags_are_refused(text):
    """The first three raised errors of the parser's own code."""
    with pytest.raises(ValueError, match=r"a tag \(.*\); write plain values"):
        parse_yaml(text)
    assert parse_yaml("a: !!str 3") == {"a": "3"}


def test_a_yaml_key_in_two_spellings_is_refused():
    with pytest.raises(ValueError, match="a key twice: in two spellings"):
        parse_yaml("{1: a, +1: b}")


def test_yaml_numbers_in_other_forms_are_the_names_that_stand_there():
    names = ["010", "0x1F", "12:30", "1_000", "0b1"]
    assert parse_yaml(f"[{', '.join(names)}, 7, -3, 0]") == [*names, 7, -3, 0]


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_json, "{" + "".join(f'"k{i}": 0,' for i in range(100_000)) + '"k99999": 0}'),
        (parse_json, "[" * 101 + '"' + '\\"' * 100_000),
        (parse_yaml, "".join(f"k{i}: 0\n" for i in range(6000)) + "k5999: 0"),
        (decompressed, "o" * 1_000_000),
    ],
    ids=["keys", "quotes", "yaml keys", "run lengths"],
)
def test_long_texts_are_refused_in_time_that_grows_with_their_length(parse, text):
    begun = time.process_time()
    with pytest.raises(ValueError, match="a key twice: k|nested in each other|a run length of more than 60 bits"):
        parse(text)
    assert time.process_time() - begun < 8  # a minute and more where each looked at all others
