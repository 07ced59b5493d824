"""What each form means in its corners, and its errors; the truth is counted by hand or by brute force."""

import base64
import io
import json
import math
import time
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as rle

from fakes.own import FAKES, LABELS, brush_rle, coco_json, fake_labelme, fake_yolo, scenes
from refineseg.data.datasets import open_dataset
from refineseg.data.own.label_studio_rle import brush_pixels, decode_values
from refineseg.data.own.outlines import inside_polygon, painted
from refineseg.errors import ConfigError, DatasetError, LabelError

SIZE = (36, 48)


def _image(path, size_hw=(4, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size_hw, 3), 9, np.uint8)).save(path)


def _mask(dataset, index=0):
    return dataset.read_mask(index).tolist()


# ------------------------------------------------------------------------------------------------------------- polygons


def _winding_parity(x, y, points):
    """Even-odd rule for one point, edge by edge."""
    odd = False
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            odd = not odd
    return odd


coordinates = st.floats(-8, 16, allow_nan=False).map(lambda v: round(v, 2) + 0.003)  # no corner as high as a centre


@given(st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=7))
def test_a_pixel_is_in_a_polygon_if_its_centre_is(points):
    found = inside_polygon(np.array(points, np.float64), (8, 9))
    left, right = (
        np.array([[_winding_parity(x + 0.5 + shift, y + 0.5, points) for x in range(9)] for y in range(8)])
        for shift in (-1e-7, 1e-7)
    )
    clear = left == right  # an edge through a centre may be rounded to either side
    np.testing.assert_array_equal(found[clear], left[clear])


def test_a_polygon_of_many_points_costs_little():
    turns = np.linspace(0, 2 * np.pi, 200_000, endpoint=False)
    circle = np.stack([300 + 200 * np.cos(turns), 250 + 200 * np.sin(turns)], axis=1)
    begun = time.process_time()
    area = inside_polygon(circle, (500, 600)).sum()
    assert area == pytest.approx(math.pi * 200**2, rel=1e-3)
    assert time.process_time() - begun < 2  # edge by edge it takes several


def test_polygons_that_share_an_edge_share_no_pixel():
    left = inside_polygon(np.array([[0.0, 0.0], [7.3, 0.0], [2.1, 9.0], [0.0, 9.0]]), (9, 12))
    right = inside_polygon(np.array([[7.3, 0.0], [12.0, 0.0], [12.0, 9.0], [2.1, 9.0]]), (9, 12))
    assert not (left & right).any()
    assert (left | right).all()


def test_cocos_polygons_differ_from_the_centre_rule_at_their_edge_only():
    points = np.array([[3.2, 2.1], [40.7, 8.3], [30.4, 33.9], [6.6, 25.2]])
    ours = inside_polygon(points, SIZE)
    theirs = painted([points.ravel().tolist()], SIZE)
    runs = rle.frPyObjects([points.ravel().tolist()], *SIZE)
    assert theirs.sum() == rle.area(runs)[0]
    assert (ours != theirs).sum() < 0.03 * ours.sum()


@pytest.mark.parametrize("far", [1e12, math.inf, math.nan])
def test_points_far_outside_are_refused_before_they_cost_memory(far):
    with pytest.raises(ValueError, match="far outside the image"):
        painted([[0.0, 0.0, far, 1.0, 3.0, 3.0]], (4, 4))
    with pytest.raises(ValueError, match="far outside the image"):
        inside_polygon(np.array([[0.0, 0.0], [far, 1.0], [3.0, 3.0]]), (4, 4))


# ----------------------------------------------------------------------------------------------------------------- COCO


def _coco(root, annotations, *, categories=((7, "b"), (3, "a")), images=1, name="annotations.json", size_hw=(4, 6)):
    content = {
        "images": [{"id": f"i{i}", "file_name": f"p{i}.png", "height": 4, "width": 6} for i in range(images)],
        "annotations": [{"id": n, "image_id": "i0", "iscrowd": 0} | a for n, a in enumerate(annotations)],
        "categories": [{"id": i, "name": name} for i, name in categories],
    }
    for i in range(images):
        _image(root / f"p{i}.png", size_hw)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(content))
    return root


def _box(category, left, top, right, bottom, **more):
    points = [left, top, right, top, right, bottom, left, bottom]
    return {"category_id": category, "segmentation": [list(map(float, points))], **more}


def test_coco_classes_are_in_order_of_their_ids_and_images_without_annotations_are_background(tmp_path):
    dataset = open_dataset("coco", _coco(tmp_path, [_box(7, 0, 0, 2, 1)], images=2), split="train")
    assert dataset.class_info.names == ("background", "a", "b")
    assert _mask(dataset)[0] == [2, 2, 0, 0, 0, 0]
    assert not np.any(_mask(dataset, 1))


def test_coco_small_objects_are_on_top_equal_ones_in_order_and_crowds_are_objects(tmp_path):
    boxes = [_box(3, 0, 0, 1, 1), _box(7, 0, 0, 3, 2), _box(3, 4, 0, 6, 1), _box(7, 5, 0, 6, 2)]
    dataset = open_dataset("coco", _coco(tmp_path, [*boxes, _box(3, 2, 1, 6, 3, iscrowd=1)]), split="train")
    assert _mask(dataset) == [[1, 2, 2, 0, 1, 2], [2, 2, 2, 1, 1, 2], [0, 0, 1, 1, 1, 1], [0] * 6]
    assert dataset.notes == ("train: 1 annotations with iscrowd are painted as their class, like all others",)


def test_coco_a_category_called_background_is_the_background(tmp_path):
    root = _coco(tmp_path, [_box(1, 0, 0, 2, 1), _box(2, 0, 0, 1, 1)], categories=((1, "a"), (2, "_background_")))
    dataset = open_dataset("coco", root, split="train")
    assert dataset.class_info.names == ("background", "a")
    assert _mask(dataset)[0] == [0, 1, 0, 0, 0, 0]


def test_coco_many_categories_make_a_wider_mask(tmp_path):
    root = _coco(tmp_path, [_box(299, 0, 0, 1, 1)], categories=[(i, f"c{i}") for i in range(300)])
    dataset = open_dataset("coco", root, split="train")
    assert dataset.class_info.ignore_index == 65535
    assert dataset.read_mask(0)[0, 0] == 300


def test_coco_a_group_with_annotations_stays_a_class(tmp_path):
    root = FAKES["roboflow"](tmp_path)
    assert open_dataset("coco", root, split="valid").class_info.names == ("background", *LABELS)
    path = root / "train" / "_annotations.coco.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = 0
    path.write_text(json.dumps(content))
    assert open_dataset("coco", root, split="val").class_info.names == ("background", "garden", *LABELS)


def test_coco_paths_of_another_machine_are_found_by_their_last_part(tmp_path):
    content = coco_json(scenes(1), ending=".png")
    content["images"][0]["file_name"] = "C:\\data\\scene_0.png"
    (tmp_path / "images").mkdir()
    Image.fromarray(scenes(1)[0].image).save(tmp_path / "images" / "scene_0.png")
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    np.testing.assert_array_equal(open_dataset("coco", tmp_path, split="train")[0].mask, scenes(1)[0].mask())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["categories"].clear(), r"expected categories in .*, got none"),
        *(
            (lambda c, key=key: c.pop(key), rf"expected COCO JSON with .*no lists '{key}' in place of one")
            for key in ("images", "annotations", "categories")
        ),
        (
            lambda c: c.update(annotations={str(a["id"]): a for a in c["annotations"]}),
            r"no lists 'annotations' in place of one",
        ),
        *(
            (lambda c, key=key, name=name, value=value: c[key][0].update({name: value}), r"an id that is no number or")
            for key, name in (
                ("images", "id"),
                ("categories", "id"),
                ("annotations", "image_id"),
                ("annotations", "category_id"),
            )
            for value in ([1], {"a": 1}, None, True, 1.5)
        ),
        (lambda c: c["images"][0].update(file_name=["scene_0.png"]), r"a file_name that is no text, but \['scene_0"),
        (lambda c: c["categories"][0].update(name=None), r"a name of a category that is no text, but None"),
        (lambda c: c["images"][0].update(height=[36]), r"expected COCO JSON with .*TypeError"),
        (lambda c: c["annotations"].insert(0, 5), r"expected COCO JSON with .*TypeError"),
        (lambda c: c["annotations"][0].update(category_id=99), r"category_id .* under categories, got 1 others: 99;"),
        (lambda c: c["annotations"][0].update(image_id=77), r"image_id .* listed under images, got 1 others: 77;"),
        (
            lambda c: c["images"].append(c["images"][0]),
            r"expected image ids and category names once in .*, got again: 1",
        ),
        (lambda c: c["categories"][0].update(name="car"), r"category names once in .*, got again: car"),
        (lambda c: c["images"][0].pop("width"), r"expected COCO JSON with images, .*, got KeyError\('width'\)"),
        (lambda c: c["images"].clear() or c["annotations"].clear(), r"expected images in .*json, got none"),
        (
            lambda c: c["images"][0].update(file_name="x.png"),
            r"expected the 3 images of .*, but 1 are absent .*: x\.png",
        ),
    ],
)
def test_coco_wrong_files_are_named(tmp_path, change, message):
    root = FAKES["coco"](tmp_path)
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=message):
        open_dataset("coco", root, split="train")


def test_coco_ids_written_with_a_point_are_whole_numbers_and_two_files_in_one_are_refused(tmp_path):
    root = FAKES["coco"](tmp_path)
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation |= {"category_id": float(annotation["category_id"])}
    path.write_text(json.dumps(content))
    np.testing.assert_array_equal(open_dataset("coco", root, split="train").read_mask(0), scenes()[0].mask())
    path.write_text(json.dumps(content) * 2)
    with pytest.raises(DatasetError, match=r"expected COCO JSON with .*more text after the end"):
        open_dataset("coco", root, split="train")


def test_coco_a_split_with_other_categories_than_train_is_refused(tmp_path):
    root = FAKES["coco"](tmp_path)
    path = root / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace('"house"', '"tower"'))
    with pytest.raises(
        DatasetError, match=r"the categories of .*train\.json in .*val\.json, got 1 others: tower; export"
    ):
        open_dataset("coco", root, split="val")
    path.write_text("{")
    with pytest.raises(
        DatasetError, match=r"expected COCO JSON with images, annotations and categories in .*val\.json"
    ):
        open_dataset("coco", root, split="val")
    with pytest.raises(DatasetError, match=r"expected a split of train, val \(those in .*\), got 'test'$"):
        open_dataset("coco", root, split="test")


def test_coco_outlines_of_another_kind_and_several_files_are_errors(tmp_path):
    dataset = open_dataset("coco", _coco(tmp_path, [{"category_id": 3, "segmentation": "x"}]), split="train")
    with pytest.raises(
        DatasetError, match=r"annotations\.json: expected polygons or run lengths for 4x6 pixels .* annotation 0 on p0"
    ):
        dataset.read_mask(0)
    (tmp_path / "result.json").write_text((tmp_path / "annotations.json").read_text())
    with pytest.raises(DatasetError, match=r"expected one COCO JSON in .*, got annotations\.json, result\.json; name"):
        open_dataset("coco", tmp_path, split="train")


# -------------------------------------------------------------------------------------------------------------- labelme


def _labelme(path, shapes, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [{"label": label, "points": points, "shape_type": kind} | extra for label, kind, points, extra in shapes]
    path.write_text(json.dumps({"version": "5.0", "shapes": entries, "imagePath": "p.png", "imageData": None} | more))


def _png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_labelme_ignore_is_void_background_is_class_0_and_later_shapes_are_on_top(tmp_path):
    _image(tmp_path / "p.png")
    shapes = [
        ("tree", "rectangle", [[0, 0], [4, 2]], {}),
        ("__ignore__", "rectangle", [[3, 1], [2, 0]], {}),
        ("_background_", "rectangle", [[0, 2], [0, 2]], {}),
    ]
    _labelme(tmp_path / "p.json", shapes)
    dataset = open_dataset("labelme", tmp_path, split="train")
    assert dataset.class_info.names == ("background", "tree")
    assert _mask(dataset) == [[1, 1, 255, 255, 1, 0], [1, 1, 255, 255, 1, 0], [0, 1, 1, 1, 1, 0], [0] * 6]
    assert "the labels of 1 JSON files; write" in dataset.notes[0]


def test_labelme_circles_cover_the_pixels_within_their_radius(tmp_path):
    _image(tmp_path / "p.png", (41, 41))
    _labelme(tmp_path / "p.json", [("a", "circle", [[20, 20], [20, 32]], {})])
    mask = open_dataset("labelme", tmp_path, split="train").read_mask(0)
    rows, columns = np.indices(mask.shape)
    distance = np.hypot(rows - 20, columns - 20)
    assert (mask[distance < 11.5] == 1).all()
    assert not mask[distance > 12.8].any()


def test_labelme_masks_lines_and_points_are_painted(tmp_path):
    _image(tmp_path / "p.png", (30, 40))
    small = np.array([[255, 0, 255]], np.uint8)
    shapes = [
        ("a", "mask", [[2, 3], [4, 3]], {"mask": _png(small)}),
        ("b", "line", [[10, 15], [30, 15]], {}),
        ("c", "point", [[35, 25]], {}),
    ]
    _labelme(tmp_path / "p.json", shapes)
    mask = open_dataset("labelme", tmp_path, split="train").read_mask(0)
    assert mask[3, 1:6].tolist() == [0, 1, 0, 1, 0]
    assert 8 <= (mask[:, 20] == 2).sum() <= 12
    assert (mask == 3).sum() == pytest.approx(math.pi * 5.25**2, rel=0.15)


def test_labelme_the_image_may_lie_in_the_json_or_elsewhere(tmp_path):
    pixels = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    box = [("a", "rectangle", [[0, 0], [1, 1]], {})]
    _labelme(tmp_path / "one.json", box, imagePath="gone.png", imageData=_png(pixels))
    _labelme(tmp_path / "sub" / "two.json", box, imagePath="..\\photos\\q.png")
    _image(tmp_path / "photos" / "q.png")
    dataset = open_dataset("labelme", tmp_path, split="train")
    assert dataset.names == ("one", "sub/two")
    np.testing.assert_array_equal(dataset[0].image, pixels)
    assert dataset[1].mask.sum() == 4
    (tmp_path / "photos" / "q.png").unlink()
    with pytest.raises(
        DatasetError, match=r"expected the image of .*two\.json beside it, as its imagePath '\.\./photos"
    ):
        open_dataset("labelme", tmp_path, split="train")


def test_labelme_a_list_of_labels_fixes_their_order_and_refuses_others(tmp_path):
    root = FAKES["labelme"](tmp_path)
    (root / "labels.txt").write_text("__ignore__\n_background_\nhouse\ncar\ntree\n")
    dataset = open_dataset("folder", root, split="train")
    assert dataset.class_info.names == ("background", "house", "car", "tree")
    assert dataset.notes == ()
    np.testing.assert_array_equal(dataset[1].mask, scenes()[1].mask(dataset.class_info.names))
    listed = [
        {"name": "hous", "color": [1, 2, 3]},
        {"name": "car", "color": [4, 5, 6]},
        {"name": "tree", "ignore": True},
    ]
    (root / "classes.json").write_text(json.dumps({"classes": listed}))
    dataset = open_dataset("folder", root, split="train")
    assert dataset.class_info.palette[1:] == ((1, 2, 3), (4, 5, 6))
    with pytest.raises(
        LabelError,
        match=r"scene_0\.json, shape 2: expected one of 3 classes, got 'house' \(near: hous\); list it in classes",
    ):
        dataset.read_mask(0)


def test_labelme_folders_may_be_splits_and_images_without_json_are_left_out(tmp_path):
    for split, label in (("train", "a"), ("valid", "b")):
        _image(tmp_path / split / "p.png")
        _labelme(tmp_path / split / "p.json", [(label, "rectangle", [[0, 0], [1, 1]], {})])
    _image(tmp_path / "valid" / "unlabelled.png")
    dataset = open_dataset("folder", tmp_path, split="val")
    assert dataset.class_info.names == ("background", "a", "b")
    assert dataset.read_mask(0).max() == 2
    assert dataset.notes[-1] == "val: 1 of 2 images have no JSON file: not labelled, left out"


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (("a", "cuboid", [[0, 0]], {}), "a shape of type 'cuboid'"),
        (("a", "polygon", [[0, 0], [1, 1]], {}), "a polygon of 2 points"),
        (("a", "polygon", [[0, 0], [1, "x"], [2, 2]], {}), "could not convert"),
        (("a", "polygon", [[0, 0], [1, 1e9], [2, 2]], {}), "far outside the image"),
        (("a", "mask", [[0, 0], [9, 9]], {"mask": _png(np.zeros((2, 2), np.uint8))}), "a mask of .* for a box of"),
        (("a", "mask", [[0, 0], [1, 1]], {"mask": "AAAA"}), "a mask that is no whole PNG"),
        (("a", "polygon", {"x": 1}, {}), "TypeError"),
    ],
)
def test_labelme_shapes_that_cannot_be_painted_are_named(tmp_path, shape, reason):
    _image(tmp_path / "p.png")
    _labelme(tmp_path / "p.json", [shape])
    with pytest.raises(DatasetError, match=rf"p\.json: expected a shape of labelme as number 0 on p\.png, .*{reason}"):
        open_dataset("labelme", tmp_path, split="train").read_mask(0)


@pytest.mark.parametrize(
    ("label", "message"),
    [("x" * 1001, "of at most 1000 characters, got 1001"), ("half \ud83d", "of whole characters, got 'half")],
)
def test_names_of_classes_that_no_legend_or_file_can_hold_are_refused(tmp_path, label, message):
    _image(tmp_path / "p.png")
    _labelme(tmp_path / "p.json", [(label, "point", [[1, 1]], {})])
    with pytest.raises(DatasetError, match=f"expected class names {message}"):
        open_dataset("labelme", tmp_path, split="train")


@pytest.mark.parametrize("label", [["car"], {"name": "car"}, 1.5])
def test_labelme_a_label_that_is_no_name_is_refused(tmp_path, label):
    _image(tmp_path / "p.png")
    _labelme(tmp_path / "p.json", [(label, "point", [[1, 1]], {})])
    with pytest.raises(DatasetError, match=r"expected shapes with a label, .*a label that is no name"):
        open_dataset("labelme", tmp_path, split="train")


def test_labelme_a_size_is_compared_however_it_is_written(tmp_path):
    root = FAKES["labelme"](tmp_path)
    path = root / "scene_1.json"
    content = json.loads(path.read_text())
    for height, message in ((99.0, r"for its size 36x48 .*, got 99x48"), ("high", r"numbers as imageHeight and")):
        path.write_text(json.dumps(content | {"imageHeight": height}))
        with pytest.raises(DatasetError, match=message):
            open_dataset("labelme", root, split="train").read_mask(1)


def test_labelme_other_json_files_are_named(tmp_path):
    root = FAKES["labelme"](tmp_path)
    (root / "scene_1.json").write_text('{"a": 1}')
    with pytest.raises(DatasetError, match=r"expected labelme's JSON with shapes in .*scene_1\.json, got another"):
        open_dataset("labelme", root, split="train")


# ----------------------------------------------------------------------------------------------------------------- CVAT


def test_cvat_named_lists_are_splits_and_images_without_a_mask_are_left_out(tmp_path):
    root = FAKES["cvat"](tmp_path)
    lists = root / "ImageSets" / "Segmentation"
    (lists / "default.txt").unlink()
    (lists / "train.txt").write_text("scene_0\nscene_9\n")
    (lists / "val.txt").write_text('"scene_1"\n')
    dataset = open_dataset("folder", root, split="train")
    assert dataset.notes[0] == "train: 1 of 2 images have no mask: not labelled, left out"
    assert dataset.notes[1].startswith("1 masks cover no pixel, because no list in ")
    assert dataset.notes[1].endswith(" names them (the first: scene_2)")
    assert open_dataset("cvat", root, split="val").name(0) == "scene_1"


def test_cvat_an_image_listed_twice_is_refused(tmp_path):
    root = FAKES["cvat"](tmp_path)
    (root / "ImageSets" / "Segmentation" / "default.txt").write_text("scene_0\nscene_1\nscene_0\n")
    with pytest.raises(DatasetError, match=r"expected every image once in .*default\.txt, got again: scene_0; remove"):
        open_dataset("cvat", root, split="train")


def test_cvat_without_a_label_map_has_vocs_colours(tmp_path):
    root = FAKES["cvat"](tmp_path)
    (root / "labelmap.txt").unlink()
    colours = np.zeros((36, 48, 3), np.uint8)
    colours[:4] = (128, 0, 0)
    colours[4:6] = (224, 224, 192)
    Image.fromarray(colours).save(root / "SegmentationClass" / "scene_0.png")
    mask = open_dataset("cvat", root, split="train").read_mask(0)
    assert mask[:, 0].tolist() == [1] * 4 + [255] * 2 + [0] * 30


def test_cvat_errors_say_what_to_export(tmp_path):
    root = FAKES["cvat"](tmp_path)
    (root / "JPEGImages" / "scene_1.png").unlink()
    with pytest.raises(
        DatasetError, match=r"images of 3 masks in .*JPEGImages, but 1 are absent: scene_1; export .*save"
    ):
        open_dataset("cvat", root, split="train")
    (root / "ImageSets" / "Segmentation" / "default.txt").write_text("other\n")
    with pytest.raises(DatasetError, match=r"expected masks in .* of the images in .*default\.txt, got none"):
        open_dataset("cvat", root, split="train")
    with pytest.raises(DatasetError, match=r"expected CVAT's masks in .*SegmentationClass, got none; export as 'segm"):
        open_dataset("cvat", root / "JPEGImages", split="train")


# --------------------------------------------------------------------------------------------------------- Label Studio


@given(st.lists(st.lists(st.integers(0, 1), min_size=5, max_size=5), min_size=1, max_size=30))
def test_brushes_are_read_as_they_were_written(rows):
    inside = np.array(rows, np.uint8)
    size_hw = (inside.shape[0], inside.shape[1])
    np.testing.assert_array_equal(brush_pixels(bytes(brush_rle(inside)), size_hw), inside == 1)


def test_long_runs_and_lists_of_narrow_values_are_read():
    inside = np.zeros((300, 300), np.uint8)
    inside[100:200] = 1
    np.testing.assert_array_equal(brush_pixels(bytes(brush_rle(inside)), (300, 300)), inside == 1)
    bits = f"{3:032b}" + f"{1:05b}" + "0001" * 4 + "0" + "10" + "10" + "11" + "01" + "10"  # three values of two bits
    data = int(bits.ljust(72, "0"), 2).to_bytes(9, "big")
    assert decode_values(data, expected=3).tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "end too early"),
        (bytes(brush_rle(np.ones((3, 3), np.uint8)))[:-1], "end too early"),
        (bytes([255] * 40), "4294967295 values instead of 36"),
        ((36).to_bytes(4, "big") + bytes([0b11111000] + [0] * 20), "values of 32 bits"),
        ((36).to_bytes(4, "big") + bytes([0b00111111] + [255] * 20), "a run beyond the last value"),
    ],
)
def test_damaged_brushes_are_errors_that_allocate_nothing(data, reason):
    with pytest.raises(ValueError, match=reason):
        brush_pixels(data, (3, 3))


def _change_tasks(root, change):
    path = next(root.glob("*.json"))
    tasks = json.loads(path.read_text())
    path.write_text(json.dumps(change(tasks) or tasks))


def test_label_studio_the_ground_truth_or_the_last_annotation_counts(tmp_path):
    root = FAKES["label_studio"](tmp_path)

    def change(tasks):
        other = {"id": 99, "result": [], "was_cancelled": False}
        tasks[0]["annotations"].insert(0, other)
        tasks[1]["annotations"][0]["ground_truth"] = True
        tasks[1]["annotations"].append(other)
        tasks[2]["annotations"] = [tasks[2]["annotations"][0] | {"was_cancelled": True}]

    _change_tasks(root, change)
    dataset = open_dataset("folder", root, split="train")
    assert len(dataset) == 2
    for index in (0, 1):
        np.testing.assert_array_equal(dataset[index].mask, scenes()[index].mask(dataset.class_info.names))
    assert dataset.notes == (
        "1 tasks have no annotation: not labelled, left out",
        "2 tasks have several annotations: the ground truth or the last of each is read",
    )


def test_label_studio_the_short_json_is_read(tmp_path):
    root = FAKES["label_studio"](tmp_path)

    def change(tasks):
        short = []
        for task in tasks:
            items = [
                r["value"] | {"original_width": r["original_width"], "original_height": r["original_height"]}
                for r in task["annotations"][0]["result"]
            ]
            short.append({"id": task["id"], "image": task["data"]["image"], "tag": items, "annotator": 1})
        return short

    _change_tasks(root, change)
    dataset = open_dataset("folder", root, split="train")
    np.testing.assert_array_equal(dataset[2].mask, scenes()[2].mask(dataset.class_info.names))


@pytest.mark.parametrize(
    "image", ["/data/local-files/?d=my%20photos/scene_0.png", "s3://b/scene_0.png", "http://h/scene_0.png?sig=1"]
)
def test_label_studio_images_are_found_by_any_address(tmp_path, image):
    root = FAKES["label_studio"](tmp_path)
    _change_tasks(root, lambda tasks: tasks[0].update(data={"image": image}, file_upload=None))
    assert open_dataset("label_studio", root, split="train").name(0) == "images/scene_0"
    (root / "images" / "scene_0.png").unlink()
    with pytest.raises(
        DatasetError, match=r"expected the images of 3 labelled tasks of .*, but 1 are absent: .*scene_0"
    ):
        open_dataset("label_studio", root, split="train")


def test_label_studio_ellipses_are_painted_and_turned_images_are_refused(tmp_path):
    root = FAKES["label_studio"](tmp_path)
    ellipse = {"x": 50.0, "y": 50.0, "radiusX": 25.0, "radiusY": 25.0, "rotation": 0, "ellipselabels": ["car"]}

    def put(value, **more):
        def change(tasks):
            result = tasks[0]["annotations"][0]["result"][0]
            tasks[0]["annotations"][0]["result"] = [result | {"value": value} | more]

        _change_tasks(root, change)
        return open_dataset("label_studio", root, split="train")

    dataset = put(ellipse)
    assert (dataset.read_mask(0) > 0).sum() == pytest.approx(math.pi * 12 * 9, rel=0.02)
    with pytest.raises(DatasetError, match=r"an image turned by 90 degrees; turn its pixels"):
        put(ellipse, image_rotation=90).read_mask(0)


def test_label_studio_the_newest_png_of_a_task_counts_and_images_need_its_number(tmp_path):
    root = FAKES["label_studio_png"](tmp_path)
    Image.fromarray(np.full(SIZE, 255, np.uint8)).save(root / "task-1-annotation-99-by-someone-tag-red car-0.png")
    dataset = open_dataset("folder", root, split="train")
    assert dataset.class_info.names == ("background", "car", "house", "red car", "tree")
    assert (dataset.read_mask(0) == 3).all()
    assert dataset.notes == ("1 tasks have several annotations: the newest of each is read",)
    (root / "task-2.png").unlink()
    with pytest.raises(DatasetError, match=r"images of 3 tasks in .*, but 1 are absent: 2\.jpg; copy .* JSON export"):
        open_dataset("folder", root, split="train")


# ----------------------------------------------------------------------------------------------------------------- YOLO


@pytest.mark.parametrize(
    "text",
    [
        "names: [tree, car, house]\ntrain: images/train\n",
        "names: {0: tree, 1: car, 2: house}\npath: /no/such/machine\ntrain: [images/train]\n",
        "names: [tree, car, house]\nnc: 3\ntrain: ../images/train\nroboflow: {version: 1}\n",
        "names: [tree, car, house]\ntrain: train.txt\n",
    ],
)
def test_yolo_images_are_found_however_they_are_named(tmp_path, text):
    root = FAKES["yolo"](tmp_path / "data")
    (root / "data.yaml").write_text(text)
    (root / "train.txt").write_text("".join(f"./images/train/scene_{i}.png\n" for i in range(3)))
    dataset = open_dataset("yolo", root, split="train")
    np.testing.assert_array_equal(dataset[1].mask, scenes()[1].mask())


def test_yolo_names_are_the_words_that_stand_there(tmp_path):
    root = FAKES["yolo"](tmp_path)
    (root / "data.yaml").write_text("names: [no, 1.10, 2024-01-01]\ntrain: images/train\n")
    names = open_dataset("yolo", root, split="train").class_info.names
    assert names == ("background", "no", "1.10", "2024-01-01")


def test_yolo_images_without_labels_are_background_and_counted(tmp_path):
    root = FAKES["yolo"](tmp_path)
    (root / "labels" / "train" / "scene_0.txt").unlink()
    dataset = open_dataset("folder", root, split="train")
    assert dataset.notes == ("train: 1 of 3 images have no label file: all background",)
    assert not dataset.read_mask(0).any()
    for path in (root / "labels" / "train").glob("*.txt"):
        path.unlink()
    with pytest.raises(
        DatasetError, match=r"expected label files such as .*scene_0\.txt for the 3 images of train, got"
    ):
        open_dataset("yolo", root, split="train")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1 0.1", r"scene_0\.txt, line 2: expected a polygon of at least 3 points, got a box; export as"),
        ("0 0.5 0.5", r"line 2: expected a polygon of at least 3 points, got 1; remove the line"),
        ("0 0.1 0.1 0.2 0.2 0.3", r"line 2: expected CLASS x1 y1 x2 y2 \.\.\., got cannot reshape"),
        ("0 0.1 a 0.2 0.2 0.3 0.3", r"line 2: expected CLASS x1 y1 x2 y2 \.\.\., got could not convert"),
        ("0 0.1 0.1 20 0.2 0.3 0.3", r"line 2: expected fractions 0\.\.1 of the image's size, got 20; export"),
        ("0 0.1 nan 0.2 0.2 0.3 0.3", r"line 2: expected fractions 0\.\.1 of the image's size, got nan"),
        ("3 0.1 0.1 0.2 0.2 0.3 0.3", r"line 2: expected a class 0\.\.2 of data\.yaml, got '3'; correct it"),
    ],
)
def test_yolo_wrong_lines_are_named(tmp_path, line, message):
    root = FAKES["yolo"](tmp_path)
    (root / "labels" / "train" / "scene_0.txt").write_text(f"1 0 0 1 0 1 1\n{line}\n")
    with pytest.raises(DatasetError, match=message):
        open_dataset("yolo", root, split="train").read_mask(0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [", r"expected YAML in .*data\.yaml, got while parsing"),
        ("train: images/train", r"expected names, and train or val, in .*, got no names; for instance names: \[car"),
        ("names: !!python/object/apply:os.system [ls]", r"expected YAML in .*, got a tag"),
        ("names: {1: a, 2: b}\ntrain: images/train", r"expected names numbered 0\.\.1 in .*, got \[1, 2\]"),
        ("names: []\ntrain: images/train", r"expected names of classes in .*, got none; for instance names: \[car"),
        ("names: {0: a, 0: b}\ntrain: images/train", r"expected YAML in .*, got a key twice: 0; export it again"),
        ("names: [a, ~]\ntrain: images/train", r"expected a name for each class in .*, got None for class 1; quote"),
        ("names: [[a], b]\ntrain: images/train", r"expected a name for each class in .*, got \['a'\] for class 0"),
        ("names: [a, b]\ntrain: {a: images}", r"expected a folder as train in .*, got \{'a': 'images'\}; for inst"),
        ("names: [a, b]\npath: [.]\ntrain: images", r"expected a folder as path in .*, got \['\.'\]; for inst"),
        ("names: [a, a]\ntrain: images/train", r"expected every name once in .*, got again a; rename one"),
        (
            "names: [a]\ntrain: pictures",
            r"images of train in pictures \(named in .*\), but there is no .*pictures; corr",
        ),
        ("names: [a]\nval: images/val", r"expected a split of val \(those in .*\), got 'train'"),
    ],
)
def test_yolo_wrong_yaml_is_an_error(tmp_path, text, message):
    root = FAKES["yolo"](tmp_path)
    (root / "data.yaml").write_text(text)
    with pytest.raises(DatasetError, match=message):
        open_dataset("yolo", root, split="train")


# ---------------------------------------------------------------------------------------------------------------- pairs


def _pairs(root, lists, *, classes=True):
    for name in "abc":
        _image(root / f"{name}.jpg")
        Image.fromarray(np.array([[0, 1, 255, 0, 0, 0]] * 4, np.uint8)).save(root / f"{name}_mask.png")
    for name, text in lists.items():
        (root / name).write_text(text)
    if classes:
        (root / "classes.txt").write_text("x\ny")
    return root


def test_pairs_one_list_per_split_or_one_without_splits(tmp_path):
    root = _pairs(tmp_path, {"train.txt": "a.jpg a_mask.png\nb.jpg b_mask.png\n", "val.txt": "c.jpg c_mask.png"})
    assert [len(open_dataset("folder", root, split=split)) for split in ("train", "val")] == [2, 1]
    assert _mask(open_dataset("folder", root, split="val"))[0] == [0, 1, 255, 0, 0, 0]
    with pytest.raises(
        DatasetError, match=r"expected a split of train \(.*\), got 'val'; it is one set without splits"
    ):
        open_dataset("pairs", root / "train.txt", split="val")


def test_pairs_without_a_class_file_count_the_values(tmp_path):
    root = _pairs(tmp_path, {"list.txt": "a.jpg a_mask.png train\nb.jpg b_mask.png val"}, classes=False)
    dataset = open_dataset("folder", root, split="val")
    assert dataset.class_info.names == ("class_0", "class_1")
    assert dataset.notes[0].startswith("2 classes, counted in 1 masks; write ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg a_mask.png\nb.jpg\n", r"list\.txt, line 2: expected 'image mask' .*, got 1 words: 'b\.jpg'; separate"),
        ("a.jpg a_mask.png train\nb.jpg b_mask.png\n", r"a split on every line of .* or on none, got 1 on 2 lines"),
        (
            "a.jpg a_mask.png\nx.jpg y.png\n",
            r"files listed for train .*, but 2 are absent: .*x\.jpg, .*y\.png; correct",
        ),
        ("a.jpg a_mask.png\na.jpg b_mask.png\n", r"expected every image once in the lists of train, got again: a"),
        ("# nothing\n", r"expected 'image mask' on each line of .*list\.txt, got no line"),
    ],
)
def test_pairs_wrong_lists_are_named(tmp_path, text, message):
    root = _pairs(tmp_path, {"list.txt": text})
    with pytest.raises(DatasetError, match=message):
        open_dataset("pairs", root / "list.txt", split="train")


def test_a_wrong_class_file_beside_any_form_is_an_error(tmp_path):
    root = FAKES["labelme"](tmp_path)
    (root / "classes.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"expected a list of objects under .classes."):
        open_dataset("folder", root, split="train")


def test_label_files_of_yolo_without_names_are_one_message_with_the_file_that_is_missing(tmp_path):
    fake_yolo(tmp_path)
    wanted = open_dataset("folder", tmp_path, split="train")
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(DatasetError, match="look like YOLO") as error:
        open_dataset("folder", tmp_path, split="train")
    text = str(error.value).partition("write it: ")[2].replace("NAME_OF_0, NAME_OF_1, ...", "a, b, c")
    (tmp_path / "data.yaml").write_text(text)
    found = open_dataset("folder", tmp_path, split="train")
    assert np.array_equal(found[0].mask, wanted[0].mask)


def test_a_rare_spelling_is_renamed_to_the_usual_one(tmp_path):
    fake_labelme(tmp_path)
    for path in sorted(tmp_path.rglob("*.json")):
        content = json.loads(path.read_text())
        for shape in content["shapes"]:
            shape["label"] = "red cell"
        path.write_text(json.dumps(content))
    content["shapes"][0]["label"] = "Red cell"  # sorts first
    path.write_text(json.dumps(content))
    notes = open_dataset("folder", tmp_path, split="train").notes
    assert sum('one: {"Red cell": "red cell"}' in note for note in notes) == 1
    (tmp_path / "remap.json").write_text('{"Red cell": "red cell"}')
    assert not any("differ by capitals" in note for note in open_dataset("folder", tmp_path, split="train").notes)


def test_numbers_before_yolos_names_follow_the_rule_of_class_files(tmp_path):
    _image(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("1 0 0 1 0 1 1 0 1\n")
    (tmp_path / "classes.txt").write_text("0: car\n\n1: tree\n")
    dataset = open_dataset("yolo", tmp_path, split="train")
    assert dataset.class_info.names == ("background", "car", "tree")
    assert np.unique(dataset.read_mask(0)).tolist() == [2]
    (tmp_path / "classes.txt").write_text("1: car\n2: tree\n")
    with pytest.raises(ConfigError, match=r"got '1: car' on the first line"):
        open_dataset("yolo", tmp_path, split="train")


def test_a_background_that_is_to_be_ignored_is_not_learned_as_a_class(tmp_path):
    _image(tmp_path / "p.png")
    _labelme(tmp_path / "p.json", [("tree", "rectangle", [[0, 0], [1, 1]], {})])
    entries = [{"name": "background", "ignore": True}, {"name": "tree"}]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": entries}))
    with pytest.raises(ConfigError, match=r'write remap\.json: \{"background": null\}'):
        open_dataset("labelme", tmp_path, split="train")
    (tmp_path / "classes.json").write_text(json.dumps({"classes": entries[1:]}))
    (tmp_path / "remap.json").write_text('{"background": null}')
    assert _mask(open_dataset("labelme", tmp_path, split="train"))[0] == [0, 0, 255, 255, 255, 255]


def test_labelme_folders_of_splits_may_begin_with_a_capital(tmp_path):
    for split in ("Train", "Valid", "Test"):
        _image(tmp_path / split / "p.png")
        _labelme(tmp_path / split / "p.json", [("a", "rectangle", [[0, 0], [1, 1]], {})])
    assert [len(open_dataset("labelme", tmp_path, split=split)) for split in ("train", "val", "test")] == [1, 1, 1]


def test_pairs_two_lists_of_one_split_are_refused(tmp_path):
    root = _pairs(tmp_path, {"train.csv": "a.jpg,a_mask.png\n", "train.txt": "b.jpg b_mask.png\n"})
    with pytest.raises(DatasetError, match=r"one list of each split in .*, got train\.csv and train\.txt"):
        open_dataset("pairs", root, split="train")


def test_label_studio_an_image_in_a_folder_is_found_beside_one_of_its_name_in_the_root(tmp_path):
    for name in ("1.png", "frames/1.png"):
        _image(tmp_path / name)
    value = {"x": 0, "y": 0, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["a"]}
    result = {"original_width": 6, "original_height": 4, "id": "r", "type": "rectanglelabels", "value": value}
    tasks = [
        {
            "id": number,
            "annotations": [{"id": number, "result": [result]}],
            "data": {"image": f"/data/local-files/?d=project/{name}"},
        }
        for number, name in enumerate(("1.png", "frames/1.png"))
    ]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    dataset = open_dataset("label_studio", tmp_path, split="train")
    assert [dataset.name(i) for i in range(2)] == ["1", "frames/1"]


def test_yolo_without_yaml_has_splits_that_may_begin_with_a_capital(tmp_path):
    for split in ("Train", "valid", "Test"):
        _image(tmp_path / "images" / split / "p.png")
        (tmp_path / "labels" / split).mkdir(parents=True)
        (tmp_path / "labels" / split / "p.txt").write_text("0 0 0 1 0 1 1\n")
    (tmp_path / "classes.txt").write_text("a\n")
    for split in ("train", "val", "test"):
        dataset = open_dataset("yolo", tmp_path, split=split)
        assert (len(dataset), dataset.notes) == (1, ())
        assert dataset.read_mask(0).max() == 1


def test_every_split_of_coco_has_the_classes_of_the_training_file_whatever_its_name(tmp_path):
    for split in ("train2017", "val2017"):
        content = coco_json(scenes(), ending=".png")
        if split == "val2017":
            gone = content["categories"].pop(0)["id"]
            content["annotations"] = [a for a in content["annotations"] if a["category_id"] != gone]
        for scene in scenes():
            (tmp_path / split).mkdir(exist_ok=True)
            Image.fromarray(scene.image).save(tmp_path / split / f"{scene.name}.png")
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    train, val = (open_dataset("coco", tmp_path, split=split) for split in ("train2017", "val2017"))
    assert val.class_info == train.class_info


def test_coco_names_agree_in_whatever_unicode_form_they_were_packed(tmp_path):
    root = _coco(tmp_path, [_box(7, 0, 0, 2, 1)])
    (root / "p0.png").rename(root / unicodedata.normalize("NFD", "größe.png"))
    path = root / "annotations.json"
    path.write_text(path.read_text().replace("p0.png", unicodedata.normalize("NFC", "größe.png")), encoding="utf-8")
    assert _mask(open_dataset("coco", root, split="train"))[0] == [2, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("listed", ["NFC", "NFD"])
@pytest.mark.parametrize("kind", ["pairs", "yolo"])
def test_lists_name_files_in_whatever_unicode_form_they_were_packed(tmp_path, kind, listed):
    there = unicodedata.normalize("NFD" if listed == "NFC" else "NFC", "größe")
    name = unicodedata.normalize(listed, "größe")
    _image(tmp_path / "images" / f"{there}.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.ones((4, 6), np.uint8)).save(tmp_path / "masks" / f"{there}.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / f"{name}.txt").write_text("0 0 0 1 0 1 1 0 1\n")
    if kind == "pairs":
        (tmp_path / "train.txt").write_text(f"images/{name}.png masks/{name}.png\n", encoding="utf-8")
        (tmp_path / "classes.txt").write_text("background\nthing\n")
    else:
        (tmp_path / "list.txt").write_text(f"images/{name}.png\n", encoding="utf-8")
        (tmp_path / "data.yaml").write_text("train: list.txt\nnames: [thing]\n")
    assert np.unique(open_dataset(kind, tmp_path, split="train")[0].mask).tolist() == [1]


def test_yolo_images_of_several_folders_may_be_called_alike(tmp_path):
    for site in "AB":
        _image(tmp_path / site / "images" / "train" / "0001.png")
        labels = tmp_path / site / "labels" / "train" / "0001.txt"
        labels.parent.mkdir(parents=True)
        labels.write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    (tmp_path / "data.yaml").write_text("train: [A/images/train, B/images/train]\nnames: [thing]\n")
    dataset = open_dataset("yolo", tmp_path, split="train")
    assert [dataset.name(i) for i in range(2)] == ["A/images/train/0001", "B/images/train/0001"]
