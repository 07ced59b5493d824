"""COCO as VOC: the category map, overlaps, crowds and the three kinds of outlines."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as rle

from fakes.coco import compressed, fake_coco_voc, run_lengths
from refineseg.data.checks.label_check import check_data
from refineseg.data.datasets import open_dataset
from refineseg.data.readers.coco_voc import CATEGORIES, CocoImage, CocoMasks, open_coco_voc
from refineseg.data.samples.catalog import catalog_classes
from refineseg.errors import DatasetError, MissingExtraError

COCO_NAMES_OF_VOC = {  # where the two differ
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


@pytest.fixture
def coco(tmp_path):
    return fake_coco_voc(tmp_path / "coco")


def _instances(root, split):
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def _rewrite(root, change, split="train2017"):
    instances = _instances(root, split)
    change(instances)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(instances))


def _expected(instances, image):
    """The mask of an image whose objects are all rectangles, from their boxes."""
    voc = catalog_classes("voc").names
    class_of = {COCO_NAMES_OF_VOC.get(name, name): index for index, name in enumerate(voc)}
    category = {c["id"]: c["name"] for c in instances["categories"]}
    mask, times = np.zeros((image["height"], image["width"]), int), np.zeros((image["height"], image["width"]), int)
    for annotation in instances["annotations"]:
        left, top, width, height = annotation["bbox"]
        name = category[annotation["category_id"]]
        if annotation["image_id"] == image["id"] and name in class_of:
            place = np.s_[top : top + height, left : left + width]
            mask[place] = class_of[name]
            times[place] += 2 if annotation["iscrowd"] else 1
    mask[times > 1] = 255
    return mask


def _masks(*annotations, size_hw=(4, 5)):
    """Painted masks of an image that is never opened."""
    text = json.dumps([{"category_id": 1, "id": 7, "segmentation": a} for a in annotations])
    return CocoMasks((CocoImage(Path("a.jpg"), size_hw, text),)).mask(0)


@pytest.mark.parametrize("split", ["train", "val2017"])
def test_masks_are_the_rectangles_of_the_annotations(coco, split):
    dataset = open_coco_voc(coco, split)
    instances = _instances(coco, "train2017" if split == "train" else split)
    kinds = {type(a["segmentation"]).__name__ for a in instances["annotations"]}
    kinds |= {
        type(a["segmentation"]["counts"]).__name__ for a in instances["annotations"] if "counts" in a["segmentation"]
    }
    assert kinds == {"list", "dict", "str"}
    assert dataset.class_info == catalog_classes("voc")
    for index in range(len(dataset)):
        sample = dataset[index]
        expected = _expected(instances, instances["images"][index])
        np.testing.assert_array_equal(sample.mask, expected)
        np.testing.assert_array_equal(dataset.read_mask(index), expected)
        assert len(np.unique(expected)) == 4
        assert sample.image.shape == (40, 56, 3)
        assert sample.name == f"{instances['images'][index]['id']:012d}"
    assert check_data(dataset).pixel_counts.sum() > 0


def test_the_twenty_categories_are_vocs_classes_in_order():
    voc = catalog_classes("voc").names[1:]
    assert list(CATEGORIES.values()) == [COCO_NAMES_OF_VOC.get(name, name) for name in voc]
    assert list(CATEGORIES) == [5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72]


def test_images_with_fewer_than_1000_pixels_of_the_classes_are_left_out_and_counted(coco):
    dataset = open_coco_voc(coco, "train2017")
    assert len(dataset) == 3
    assert dataset.notes == ("train2017: 1 of 4 images have fewer than 1000 pixels of VOC's classes",)

    def resize(instances):
        for annotation in instances["annotations"]:
            annotation["area"] = 500.0 if annotation["image_id"] != 102 else 499.0

    _rewrite(coco, resize)  # three objects of the 20 classes outside crowds in the first images, one in the last
    assert [open_coco_voc(coco, "train").name(i)[-3:] for i in range(3)] == ["100", "101", "102"]

    def only_crowds(instances):
        for annotation in instances["annotations"]:
            annotation["iscrowd"] = int(annotation["image_id"] == 100)

    _rewrite(coco, only_crowds)
    assert [open_coco_voc(coco, "train").name(i)[-3:] for i in range(2)] == ["101", "102"]
    _rewrite(coco, lambda instances: instances["annotations"].clear())
    with pytest.raises(DatasetError, match=r"expected images with 1000 pixels of VOC's classes in .*2017\.json, got"):
        open_coco_voc(coco, "train")


def test_both_years_are_read_and_their_image_folders_may_lie_in_images(tmp_path):
    old = open_coco_voc(fake_coco_voc(tmp_path, year=2014), "train")
    assert old.name(0) == "COCO_train2014_000000000100"
    fake_coco_voc(tmp_path, year=2017)
    (tmp_path / "images").mkdir()
    (tmp_path / "val2017").rename(tmp_path / "images" / "val2017")
    assert open_dataset("coco_voc", tmp_path, split="val2017").name(0) == "000000000200"
    with pytest.raises(DatasetError, match=r"expected one year of COCO in .*, got val2014 and val2017, which share"):
        open_coco_voc(tmp_path, "val")


def test_a_grey_photograph_becomes_rgb(coco):
    grey = open_coco_voc(coco, "train")[1].image
    assert grey.shape == (40, 56, 3)
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])


def test_coco_joins_voc_and_travels_to_other_processes(coco):
    dataset = open_dataset("coco_voc", coco, split="train+val")
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(copy) == 6
    np.testing.assert_array_equal(copy[5].mask, dataset[5].mask)


@given(st.lists(st.lists(st.integers(0, 1), min_size=70, max_size=70), min_size=1, max_size=9))
def test_run_lengths_are_written_and_read_as_by_cocos_api(rows):
    mask = np.array(rows, np.uint8)
    theirs = rle.encode(np.asfortranarray(mask))["counts"].decode()
    assert compressed(run_lengths(mask)) == theirs
    size_hw = (mask.shape[0], mask.shape[1])
    for counts in (theirs, run_lengths(mask)):
        painted = _masks({"size": list(size_hw), "counts": counts}, size_hw=size_hw)
        np.testing.assert_array_equal(painted, mask * 15)


def test_polygons_join_and_too_short_ones_are_left_out():
    two = [[0.0, 0.0, 2.0, 0.0, 2.0, 2.0, 0.0, 2.0], [3.0, 1.0, 5.0, 1.0, 5.0, 4.0, 3.0, 4.0]]
    expected = np.zeros((4, 5), int)
    expected[:2, :2] = expected[1:, 3:] = 15
    np.testing.assert_array_equal(_masks(two), expected)
    np.testing.assert_array_equal(_masks([*two, [0.0, 0.0, 4.0, 4.0]]), expected)  # two points, or a box by mistake
    assert not _masks([[0.0, 0.0, 4.0, 4.0]]).any()
    assert not _masks([]).any()


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[0.0, 0.0, 2.0, 0.0, 2.0, 2.0, 1.0]], "odd number"),
        ({"size": [5, 4], "counts": [20]}, r"run lengths of size \[5, 4\]"),
        ({"size": [4, 5], "counts": [19]}, "run lengths of 19 pixels"),
        ({"size": [4, 5], "counts": [25, -5]}, "run lengths of 20 pixels"),
        ({"size": [4, 5]}, "counts"),
        ({"size": [4, 5], "counts": "~"}, "the character '~'"),
        ({"size": [4, 5], "counts": "P"}, "end too early"),
        ({"size": [4, 5], "counts": "5"}, "run lengths of 5 pixels"),
        ({"size": [4, 5], "counts": ""}, "run lengths of 0 pixels"),
        (3, "int"),
        ([["a"] * 6], "could not convert"),
    ],
)
def test_outlines_of_another_kind_are_errors(segmentation, reason):
    with pytest.raises(DatasetError, match=rf"a\.jpg: expected polygons or run lengths for 4x5 .* 7, .*{reason}"):
        _masks(segmentation)


def test_wrong_coco_folders_and_files_are_named(coco, tmp_path):
    with pytest.raises(DatasetError, match=r"expected a COCO split of train, val, train2014, .*, got 'test'"):
        open_coco_voc(coco, "test")
    with pytest.raises(DatasetError, match=r"got no instances_val2014\.json or instances_val2017\.json in .*;"):
        open_coco_voc(tmp_path, "val")
    (coco / "train2017" / "000000000101.jpg").unlink()
    with pytest.raises(DatasetError, match=r"the 3 images of .*, but 1 are absent: 000000000101\.jpg; unpack"):
        open_coco_voc(coco, "train")
    (coco / "train2017").rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"expected COCO in .*/instances_SPLIT\.json and the images in SPLIT"):
        open_coco_voc(coco, "train")


def test_damaged_or_foreign_annotations_are_errors(coco):
    path = coco / "annotations" / "instances_train2017.json"
    text = path.read_text()
    for broken in (text[: len(text) // 2], text[:-1], "[]", "", "{", text.replace('"images": [', '"images": [,', 1)):
        path.write_text(broken)
        with pytest.raises(DatasetError, match=r"expected COCO's instances with images, annotations and categories in"):
            open_coco_voc(coco, "train")
    path.write_text(text.replace('"area"', '"surface"'))
    with pytest.raises(DatasetError, match=r"instances with images, .*got KeyError\('area'\); download"):
        open_coco_voc(coco, "train")
    path.write_text(text.replace('"bicycle"', '"pushchair"'))
    with pytest.raises(DatasetError, match=r"expected COCO's categories in .*, got 1 others: 2 pushchair; this data"):
        open_coco_voc(coco, "train")


def test_json_may_be_indented_and_its_parts_in_any_order(coco):
    expected = open_coco_voc(coco, "train")
    instances = _instances(coco, "train2017")
    turned = dict(reversed(instances.items())) | {"extra": {"a": [1, {"b": "]}"}]}, "none": []}
    (coco / "annotations" / "instances_train2017.json").write_text("\n " + json.dumps(turned, indent=3))
    found = open_coco_voc(coco, "train")
    assert found.names == expected.names
    np.testing.assert_array_equal(found[2].mask, expected[2].mask)


def test_an_image_of_another_size_than_the_json_says_is_an_error(coco):
    def shrink(instances):
        instances["images"][0]["width"] = 50
        for annotation in instances["annotations"]:
            annotation["segmentation"] = [[2.0, 2.0, 30.0, 2.0, 30.0, 30.0]]

    _rewrite(coco, shrink)
    dataset = open_coco_voc(coco, "train")
    for read in (dataset.read_mask, dataset.__getitem__):
        with pytest.raises(DatasetError, match=r"000000000100: expected a mask of the image's size 40x56 .* got 40x50"):
            read(0)


def test_without_pycocotools_the_error_names_the_extra(coco, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(MissingExtraError, match=r"pycocotools to paint COCO's outlines, .*'refineseg\[coco\]'"):
        open_coco_voc(coco, "train")


@pytest.mark.parametrize(("key", "value"), [("file_name", 7), ("height", -40), ("width", 0), ("height", 10**9)])
def test_images_without_a_name_or_of_no_possible_size_are_refused(coco, key, value):
    _rewrite(coco, lambda instances: instances["images"][0].update({key: value}))
    with pytest.raises(DatasetError, match=r"expected COCO's instances .* got ValueError\(.* pixels"):
        open_coco_voc(coco, "train")
