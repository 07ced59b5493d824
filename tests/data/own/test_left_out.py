"""Every object of an annotation file covers pixels of its class, or is counted and named, whoever asks."""

import base64
import io
import json
import math
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from refineseg.data.checks.label_check import check_learnable
from refineseg.data.datasets import open_dataset
from refineseg.data.samples.left_out import LeftOut, left_out
from refineseg.doctor.examination import examine
from refineseg.errors import DatasetError, LabelError

HW = (36, 48)
BOX = [[10, 10], [30, 10], [30, 25], [10, 25]]  # 20 x 15 pixels where edges do not count
GOOD = np.zeros(HW, bool)
GOOD[10:25, 10:30] = True


def _image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(len(path.name)).integers(0, 255, (*HW, 3), dtype=np.uint8)).save(path)


def _flat(points):
    return [float(number) for point in points for number in point]


def _coco(root, outlines, *, categories=((1, "car"), (2, "tree")), classes=None):
    """One image whose annotations have these outlines; ``None``: the key is absent."""
    _image(root / "a.png")
    annotations = []
    for number, outline in enumerate(outlines):
        entry = {"id": number, "image_id": 1, "category_id": (classes or {}).get(number, 1), "bbox": [1, 1, 5, 5]}
        annotations.append(entry | ({} if outline is None else {"segmentation": outline}))
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": HW[0], "width": HW[1]}],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in categories],
    }
    (root / "annotations.json").write_text(json.dumps(content))
    return root


def _labelme(root, *shapes):
    """Shapes as (label, kind, points)."""
    _image(root / "a.png")
    listed = [{"label": label, "shape_type": kind, "points": points} for label, kind, points in shapes]
    (root / "a.json").write_text(json.dumps({"shapes": listed, "imagePath": "a.png", "imageData": None}))
    return root


def _percent(points):
    return [[100 * x / HW[1], 100 * y / HW[0]] for x, y in points]


def _studio(root, results):
    """Label Studio's export of one task."""
    _image(root / "a.png")
    size = {"original_width": HW[1], "original_height": HW[0], "image_rotation": 0}
    task = {
        "id": 1,
        "data": {"image": "/data/upload/1/a.png"},
        "annotations": [{"result": [size | r for r in results]}],
    }
    (root / "export.json").write_text(json.dumps([task]))
    return root


def _yolo(root, labels, *, images=("a",)):
    """Label files by name; no YAML file, as Label Studio writes it."""
    for name in images:
        _image(root / "images" / f"{name}.png")
    (root / "labels").mkdir()
    for name, points in labels.items():
        (root / "labels" / f"{name}.txt").write_text(
            f"0 {' '.join(f'{v / 100:.6f}' for v in _flat(_percent(points)))}\n"
        )
    (root / "classes.txt").write_text("car\n")
    (root / "notes.json").write_text('{"categories": [{"id": 0, "name": "car"}]}')
    return root


def _reasons(root, name="folder"):
    return [(record.kind, record.count, record.reason) for record in left_out(open_dataset(name, root, split="train"))]


OUTSIDE = [[60, 5], [70, 5], [70, 9], [60, 9]]
SLIVER = [[10.6, 10.6], [10.9, 10.6], [10.9, 30.6]]


@pytest.mark.parametrize(
    ("outline", "reason"),
    [
        (None, "they have no outline"),
        ([], "they have no outline"),
        ({}, "they have no outline"),
        ([[1, 1, 9, 9]], "they have no outline"),
        ([[0.1, 0.1, 0.5, 0.1, 0.5, 0.6]], "their coordinates are fractions 0..1 and not pixels"),
        ([_flat(OUTSIDE)], "they lie outside the image"),
        ({"size": list(HW), "counts": [HW[0] * HW[1]]}, "they have no area"),
    ],
)
def test_coco_annotations_that_cover_nothing_are_counted(tmp_path, outline, reason):
    dataset = open_dataset("coco", _coco(tmp_path, [[_flat(BOX)], outline, outline]), split="train")
    assert _reasons(tmp_path) == [("annotations", 2, reason)]
    assert dataset.notes == (
        f"2 annotations cover no pixel, because {reason} (the first: annotation 1 on a.png in annotations.json)",
    )
    np.testing.assert_array_equal(dataset.read_mask(0) == 1, GOOD)


def test_objects_wholly_under_others_are_counted_unless_those_are_of_their_class(tmp_path):
    inner = _flat([[12, 12], [14, 12], [14, 14], [12, 14]])
    _coco(tmp_path, [[_flat(BOX)], [inner], [inner], [inner]], classes={1: 2, 3: 2})
    assert _reasons(tmp_path) == [("annotations", 1, "others are painted over them")]  # number 2, under number 3
    assert left_out(open_dataset("coco", tmp_path, split="train"))[0].first.startswith("annotation 2 on")
    below = ("tree", "rectangle", BOX[::2])
    assert _reasons(_labelme(tmp_path / "l", below, ("car", "rectangle", BOX[::2]))) == [
        ("shapes", 1, "others are painted over them")
    ]


@pytest.mark.parametrize("turn", [lambda p: p, lambda p: p[2:] + p[:2], lambda p: p[::-1], lambda p: [*p, p[0]]])
def test_labelme_rectangles_may_have_all_their_corners(tmp_path, turn):
    mask = open_dataset("labelme", _labelme(tmp_path, ("car", "rectangle", turn(BOX))), split="train").read_mask(0)
    assert mask.sum() == 21 * 16 == mask[10:26, 10:31].sum()  # edges included


def test_labelme_turned_rectangles_are_painted_and_circles_of_many_points_refused(tmp_path):
    diamond = [[20, 5], [30, 15], [20, 25], [10, 15]]
    for number, kind in enumerate(("rectangle", "rotation")):
        dataset = open_dataset("labelme", _labelme(tmp_path / str(number), ("car", kind, diamond)), split="train")
        assert dataset.read_mask(0).sum() == 221  # |x| + |y| <= 10
    dataset = open_dataset("labelme", _labelme(tmp_path / "c", ("car", "circle", diamond)), split="train")
    with pytest.raises(DatasetError, match="a circle of 4 points in place of its centre and a point of its edge"):
        dataset.read_mask(0)


@pytest.mark.parametrize(
    ("kind", "points", "reason"),
    [
        ("polygon", OUTSIDE, "they lie outside the image"),
        ("rectangle", OUTSIDE[::2], "they lie outside the image"),
        ("point", [[70, 70]], "they lie outside the image"),
        ("linestrip", [[90, 60], [95, 70]], "they lie outside the image"),
        ("polygon", [[0.1, 0.2], [0.8, 0.2], [0.5, 0.9]], "their coordinates are fractions 0..1 and not pixels"),
    ],
)
def test_labelme_shapes_that_cover_nothing_are_counted(tmp_path, kind, points, reason):
    _labelme(tmp_path, ("car", "polygon", BOX), ("car", kind, points))
    assert _reasons(tmp_path) == [("shapes", 1, reason)]


@pytest.mark.parametrize("label", [None, " "])
def test_a_labelme_shape_without_a_label_is_refused(tmp_path, label):
    with pytest.raises(DatasetError, match=r"expected shapes with a label, got others .*a shape without a label"):
        open_dataset("labelme", _labelme(tmp_path, (label, "polygon", BOX)), split="train")


def _bitmask(inside):
    pixels = np.zeros((*inside.shape, 4), np.uint8)
    pixels[inside, 3] = 255  # black on nothing
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _declaring(height, width):
    """A PNG of few bytes that declares many pixels, as base64."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return base64.b64encode(bytes(data)).decode()


def _vertices(**more):
    return {"vertices": [{"x": x, "y": y} | more for x, y in _percent(BOX)]}


SHAPES = {
    "polygon": {"points": _percent(BOX)},
    "rectangle": dict(zip(("x", "y", "width", "height"), (*_percent(BOX)[0], *_percent([[20, 15]])[0]), strict=True)),
    "vector": _vertices() | {"closed": True},
    "bitmask": {"imageDataURL": _bitmask(GOOD)},
}


@pytest.mark.parametrize("labels_in", ["the shape", "a tag of their own", "a tag of their own, without the shape"])
@pytest.mark.parametrize("kind", SHAPES)
def test_label_studio_shapes_are_painted_wherever_their_label_stands(tmp_path, kind, labels_in):
    value = SHAPES[kind]
    results = [{"id": "r", "type": f"{kind}labels", "value": value | {f"{kind}labels": ["car"]}}]
    if labels_in != "the shape":
        shape = value if "without" not in labels_in else {}
        results = [
            {"id": "r", "type": kind, "value": value},
            {"id": "r", "type": "labels", "value": shape | {"labels": ["car"]}},
        ]
    noise = [
        {"id": "x", "type": "choices", "value": {"choices": ["good"]}},
        {"type": "relation", "from_id": "r", "to_id": "r"},
    ]
    dataset = open_dataset("folder", _studio(tmp_path, [*results, *noise]), split="train")
    np.testing.assert_array_equal(dataset.read_mask(0) == 1, GOOD)
    assert dataset.class_info.names == ("background", "car")
    assert dataset.notes == ()


def test_label_studio_the_short_export_joins_shapes_and_labels_by_their_place(tmp_path):
    _image(tmp_path / "a.png")
    value = SHAPES["polygon"] | {"original_width": HW[1], "original_height": HW[0]}
    task = {"id": 1, "image": "a.png", "shape": [value], "label": [value | {"labels": ["car"]}], "tags": ["a", "b"]}
    (tmp_path / "export.json").write_text(json.dumps([task]))
    dataset = open_dataset("folder", tmp_path, split="train")
    np.testing.assert_array_equal(dataset.read_mask(0) == 1, GOOD)
    assert dataset.notes == ()


TURNED = {  # in percent of 36x48 pixels, and whether a point belongs to it by its distance along and across the turn
    "rectangle": (
        {"x": 50.0, "y": 25.0, "width": 25.0, "height": 25.0},
        lambda along, across: (along >= 0) & (along < 12) & (across >= 0) & (across < 9),
    ),
    "ellipse": (
        {"x": 50.0, "y": 50.0, "radiusX": 25.0, "radiusY": 12.5},
        lambda along, across: (along / 12) ** 2 + (across / 4.5) ** 2 < 1,
    ),
}


@pytest.mark.parametrize("degrees", [-90, 0, 30, 90, 135.5, 300])
@pytest.mark.parametrize("kind", TURNED)
def test_label_studio_turned_shapes_keep_their_right_angles_in_pixels(tmp_path, kind, degrees):
    value, belongs = TURNED[kind]
    turned = value | {"rotation": degrees, f"{kind}labels": ["car"]}
    dataset = open_dataset("folder", _studio(tmp_path, [{"id": "r", "value": turned}]), split="train")
    rows, columns = np.mgrid[: HW[0], : HW[1]] + 0.5
    right, down = columns - value["x"] * HW[1] / 100, rows - value["y"] * HW[0] / 100
    turn = math.radians(degrees)  # clockwise on the screen: the first axis turns towards the bottom
    along, across = right * math.cos(turn) + down * math.sin(turn), down * math.cos(turn) - right * math.sin(turn)
    wrong = (dataset.read_mask(0) == 1) != belongs(along, across)
    assert wrong.sum() <= (0 if kind == "rectangle" else 2)  # 72 corners stand for an ellipse


def test_label_studio_a_rectangle_turned_by_a_quarter_lies_left_of_its_corner(tmp_path):
    value = TURNED["rectangle"][0] | {"rotation": 90, "rectanglelabels": ["car"]}
    dataset = open_dataset("folder", _studio(tmp_path, [{"id": "r", "value": value}]), split="train")
    expected = np.zeros(HW, bool)
    expected[9:21, 15:24] = True  # the corner is (24, 9); 12 pixels of width go down, 9 of height to the left
    np.testing.assert_array_equal(dataset.read_mask(0) == 1, expected)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"imageDataURL": "data:image/png;base64,AAAA"}, "a bitmask that is no whole PNG"),
        ({"imageDataURL": _bitmask(np.ones((9, 9), bool))}, "a bitmask of 9x9 pixels"),
        ({"imageDataURL": "data:image/png;base64," + _declaring(30000, 30000)}, "a bitmask that is no whole PNG"),
        ({"imageDataURL": "AAAA"}, "a bitmask that begins with 'AAAA'"),
        ({"rle": "AAAA", "format": "rle"}, "run lengths that are no list of numbers"),
        ({"rle": 10**12}, "run lengths that are no list of numbers"),
        ({"rle": [1, 2, 300]}, "bytes must be in range"),
        ({"points": [[1, 2], [3], [4, 5]]}, "not enough values"),
        (SHAPES["rectangle"] | {"rotation": "ninety"}, "could not convert"),
        (SHAPES["polygon"] | {"polygonlabels": [["car"]]}, "a label that is no name"),
    ],
)
def test_label_studio_values_of_a_wrong_kind_are_refused_in_words(tmp_path, value, reason):
    root = _studio(tmp_path, [{"id": "r", "value": {"brushlabels": ["car"]} | value}])
    with pytest.raises(DatasetError, match=reason):
        open_dataset("folder", root, split="train").read_mask(0)


@pytest.mark.parametrize(
    ("value", "kind", "reason"),
    [
        ({"x": 5, "y": 5, "width": 1, "keypointlabels": ["car"]}, "key point", "they have no area"),
        (_vertices() | {"closed": False, "vectorlabels": ["car"]}, "vector", "they have no area"),
        (_vertices(isBezier=True) | {"closed": True, "vectorlabels": ["car"]}, "vector", "they are curves; draw"),
        ({"points": _percent(BOX[:2]), "polygonlabels": ["car"]}, "polygon", "they have no area"),
        ({"points": _percent(BOX)}, "polygon", "they have no label"),
        ({"labels": ["car"]}, "label", "they have no area"),
    ],
)
def test_label_studio_regions_that_cover_nothing_are_counted_by_kind(tmp_path, value, kind, reason):
    good = {"id": "g", "value": SHAPES["polygon"] | {"polygonlabels": ["car"]}}
    [(found, count, why)] = _reasons(_studio(tmp_path, [good, {"id": "r", "value": value}]))
    assert (found, count) == (f"{kind} regions", 1)
    assert why.startswith(reason)


def test_yolo_without_its_yaml_file_is_read_and_labels_without_an_image_are_counted(tmp_path):
    root = _yolo(tmp_path / "data", {"a": BOX, "b": BOX})
    dataset = open_dataset("folder", root, split="train")
    assert dataset.class_info.names == ("background", "car")
    np.testing.assert_array_equal(dataset.read_mask(0) == 1, GOOD)
    assert left_out(dataset) == (
        LeftOut("polygons", "there is no image of their name", str(root / "labels" / "b.txt"), 1),
    )
    assert open_dataset("yolo", root, split="train").names == ("a",)
    (root / "labels" / "a.txt").write_text("0 " + " ".join(f"{v / 48:.6f}" for v in _flat(SLIVER)) + "\n")
    assert ("polygons", 1, "they are too small or thin to hold the centre of a pixel") in _reasons(root)


def test_yolo_label_files_below_and_with_other_endings_are_counted(tmp_path):
    _yolo(tmp_path, {"a": BOX})
    assert _reasons(tmp_path, "yolo") == []
    (tmp_path / "labels" / "sub").mkdir()
    for name in ("sub/q.txt", "b.TXT", "a.TXT"):
        (tmp_path / "labels" / name).write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n" * 2)
    assert _reasons(tmp_path, "yolo") == [("polygons", 6, "there is no image of their name")]


def test_yolo_key_points_are_refused(tmp_path):
    root = _yolo(tmp_path, {"a": BOX})
    (root / "data.yaml").write_text("names: [car]\ntrain: images\nkpt_shape: [4, 2]\n")
    with pytest.raises(DatasetError, match=r"expected polygons, got key points \(kpt_shape in "):
        open_dataset("yolo", root, split="train")


# --------------------------------------------------------------------------------------------------- classes and images


def test_labels_that_differ_by_blanks_are_one_class_and_by_capitals_are_told(tmp_path):
    _labelme(tmp_path, ("red car", "polygon", BOX), (" red  car ", "point", [[2, 2]]), ("Red Car", "point", [[40, 30]]))
    dataset = open_dataset("folder", tmp_path, split="train")
    assert dataset.class_info.names == ("background", "Red Car", "red car")
    assert "the classes 'red car' and 'Red Car' differ by capitals or blanks only" in dataset.notes[-1]
    (tmp_path / "remap.json").write_text('{"Red Car": "red car"}')
    assert open_dataset("folder", tmp_path, split="train").class_info.names == ("background", "red car")


def test_coco_one_id_for_two_categories_is_refused(tmp_path):
    _coco(tmp_path, [[_flat(BOX)]], categories=((1, "car"), (1, "tree")))
    with pytest.raises(DatasetError, match=r"expected every category id once in .*, got 1 for 'car' and 'tree'"):
        open_dataset("coco", tmp_path, split="train")


def test_coco_a_group_called_like_its_only_class_is_left_out(tmp_path):
    _coco(tmp_path, [[_flat(BOX)]])
    content = json.loads((tmp_path / "annotations.json").read_text())
    content["categories"] = [
        {"id": 0, "name": "crack", "supercategory": "none"},
        {"id": 1, "name": "crack", "supercategory": "crack"},
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    assert open_dataset("coco", tmp_path, split="train").class_info.names == ("background", "crack")


def test_coco_two_images_are_never_one_file(tmp_path):
    _coco(tmp_path, [[_flat(BOX)]])
    content = json.loads((tmp_path / "annotations.json").read_text())
    content["images"] = [content["images"][0] | {"id": i, "file_name": f"{d}/a.png"} for i, d in ((1, "x"), (2, "y"))]
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"expected the 2 images of .*, but 2 are absent .*x/a\.png, y/a\.png"):
        open_dataset("coco", tmp_path, split="train")
    for folder in "xy":
        _image(tmp_path / folder / "a.png")
    assert len(open_dataset("coco", tmp_path, split="train")) == 2


# -------------------------------------------------------------------------------------------- who says it, and refusals


def test_the_doctor_names_lost_objects_as_a_finding(tmp_path):
    examination = examine(f"folder:{_coco(tmp_path, [[_flat(BOX)], [], [_flat(OUTSIDE)]])}")
    [finding] = [finding for finding in examination.findings if finding.kind == "lost_objects"]
    assert finding.count == 2
    assert list(finding.details) == [f"train, annotation {n} on a.png in annotations.json" for n in (1, 2)]
    assert not any("cover no pixel" in note for note in examination.inventory.notes)


def test_one_class_is_refused_with_the_objects_that_were_lost(tmp_path):
    dataset = open_dataset("coco", _coco(tmp_path, [[], []]), split="train")
    with pytest.raises(LabelError) as caught:
        check_learnable(dataset)
    assert str(caught.value) == (
        "expected pixels of more than one class in the 1 training masks, got only 'background' (1728 pixels): there is "
        "nothing to learn from one class; label the others, or correct the masks or the list of classes\n"
        "  2 annotations cover no pixel, because they have no outline (the first: annotation 0 on a.png in "
        "annotations.json)"
    )
    kinds = {finding.kind: finding.severity for finding in examine(f"coco:{tmp_path}").findings}
    assert kinds["one_class"] == "error"


@pytest.mark.parametrize("names", ["background\n", "a\nb\nc\n"])
def test_training_says_the_notes_and_refuses_one_class_before_it_writes(tmp_path, names):
    from refineseg.data.checks.looking import Palettes
    from refineseg.training.opening import _open_phase
    from refineseg.training.progress import Progress

    class Said(Progress):
        def __init__(self):
            self.lines = []

        def say(self, text):
            self.lines.append(text)

    said = Said()
    _open_phase(
        ("coco:train",), {"coco": _coco(tmp_path / "c", [[_flat(BOX)], []])}, frozenset(), "coco:val", Palettes(), said
    )
    assert any(
        line.startswith("note: 1 annotations cover no pixel, because they have no outline") for line in said.lines
    )
    root = tmp_path / "f"
    _image(root / "images" / "train" / "a.png")
    (root / "masks" / "train").mkdir(parents=True)
    Image.fromarray(np.zeros(HW, np.uint8)).save(root / "masks" / "train" / "a.png")
    (root / "classes.txt").write_text(names)
    with pytest.raises(LabelError, match=r"more than one class in the 1 training masks, got only '(a|background)'"):
        _open_phase(("folder:train",), {"folder": root}, frozenset(), "folder:val", Palettes(), Said())
