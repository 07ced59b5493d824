"""Own data as people have them: other names, no splits, lists of any kind, and zip files around them."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from conftest import SHARED
from fakes.own import FAKES
from refineseg.data.checks.label_check import check_data, check_learnable
from refineseg.data.datasets import open_dataset
from refineseg.data.own.folder import _pairs, open_folder
from refineseg.data.own.formats import own_splits, recognise
from refineseg.data.samples.own_classes import alike
from refineseg.doctor.examination import examine
from refineseg.doctor.repair import repair
from refineseg.errors import DatasetError, LabelError

HW = (12, 16)
MASK = np.tile(np.arange(2, dtype=np.uint8), (HW[0], HW[1] // 2))


def _pair(root, image, mask, *, values=MASK):
    for name, pixels in ((image, np.full((*HW, 3), 90, np.uint8)), (mask, values)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / name)
    return root


@pytest.mark.parametrize(
    ("image", "mask", "splits"),
    [
        ("images/a.png", "masks/a.png", ("train",)),
        ("images/sub/../a.png", "labels/a_label.png", ("train",)),
        ("Training_Images/a.png", "Ground_Truth/a.png", ("train",)),
        ("JPEGImages/a.png", "seg/a.png", ("train",)),
        ("leftImg8bit/train/7/a_image.png", "gtFine/train/7/a_label.png", ("train",)),
        ("leftImg8bit/val/7/a_image.png", "gtFine/val/7/a_label.png", ("val",)),
        ("train/img/a.png", "train/gt/a.png", ("train",)),
        ("images/autumn/a.png", "masks/autumn/a.png", ("autumn",)),
    ],
)
def test_folders_of_other_names_and_without_splits_are_read(tmp_path, image, mask, splits):
    (tmp_path / "images" / "sub").mkdir(parents=True) if ".." in image else None
    root = _pair(tmp_path, image, mask)
    (root / "classes.txt").write_text("road\ntree\n")
    (root / "preview").mkdir()
    assert recognise(root) == ("masks", root)
    assert own_splits(root) == splits
    np.testing.assert_array_equal(open_dataset("folder", root, split=splits[0]).read_mask(0), MASK)


def test_folders_of_two_possible_masks_are_not_guessed(tmp_path):
    root = _pair(tmp_path, "Pictures/a.png", "Mask_A/a.png")
    _pair(root, "Pictures/a.png", "Mask_B/a.png")
    with pytest.raises(DatasetError, match=r"expected data in one of the forms below .* Mask_A \(1 files\), Mask_B"):
        open_dataset("folder", root, split="train")


@pytest.mark.parametrize("inside", ["my_pictures", "a/b/c"])
@pytest.mark.parametrize("layout", ["images/train/x.png masks/train/x.png", "train/images/x.png train/masks/x.png"])
def test_folders_around_a_layout_in_a_zip_file_do_not_count(tmp_path, inside, layout):
    _pair(tmp_path / "d", *layout.split())
    path = tmp_path / "my.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__MACOSX/my_pictures/._x.png", b"")
        archive.writestr("README.txt", b"")
        archive.writestr(f"{inside}/classes.txt", "road\ntree\n")
        for name in layout.split():
            archive.write(tmp_path / "d" / name, f"{inside}/{name}")
    assert own_splits(path) == ("train",)
    dataset = open_dataset("folder", path, split="train")
    assert dataset.class_info.names == ("road", "tree")
    np.testing.assert_array_equal(dataset.read_mask(0), MASK)


def test_a_zip_file_of_one_split_keeps_its_split(tmp_path):
    _pair(tmp_path / "d", "x.png", "y.png")
    with zipfile.ZipFile(tmp_path / "my.zip", "w") as archive:
        for name, kind in (("x.png", "images"), ("y.png", "masks")):
            archive.write(tmp_path / "d" / name, f"val/{kind}/city/x.png")
    assert own_splits(tmp_path / "my.zip") == ("val",)


# ---------------------------------------------------------------------------------------------------------------- lists

LISTS = {
    "spaces in names": "my photo 1.png my mask 1.png\nmy photo 2.png my mask 2.png\n",
    "spaces and a split": "my photo 1.png my mask 1.png train\nmy photo 2.png my mask 2.png train\n",
    "quoted": '"my photo 1.png" "my mask 1.png"\n"my photo 2.png" "my mask 2.png"\n',
    "single quotes": "'my photo 1.png' 'my mask 1.png'\n'my photo 2.png' 'my mask 2.png'\n",
    "commas": "my photo 1.png,my mask 1.png\nmy photo 2.png, my mask 2.png\n",
    "semicolons": "my photo 1.png;my mask 1.png\nmy photo 2.png;my mask 2.png\n",
    "a header": "image,mask\nmy photo 1.png,my mask 1.png\nmy photo 2.png,my mask 2.png\n",
    "other columns": (
        'id,Mask,split,Image\n1,my mask 1.png,train,my photo 1.png\n2,"my mask 2.png",train,my photo 2.png\n'
    ),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("ending", ["txt", "csv"])
def test_lists_are_read_however_they_are_written(tmp_path, kind, encoding, ending):
    for number in (1, 2):
        _pair(tmp_path, f"my photo {number}.png", f"my mask {number}.png")
    (tmp_path / "classes.txt").write_text("road\ntree\n", encoding=encoding)
    (tmp_path / f"list.{ending}").write_text(LISTS[kind], encoding=encoding)
    for root in (tmp_path, tmp_path / f"list.{ending}"):
        dataset = open_dataset("folder", root, split="train")
        assert [pair.mask.name for pair in dataset.pairs] == ["my mask 1.png", "my mask 2.png"]


def test_a_line_that_can_be_read_in_two_ways_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("a.png b.png c.png d.png\n")
    with pytest.raises(DatasetError, match=r"line 1: expected 'image mask' .*; separate .* by a tab, or quote them"):
        open_dataset("pairs", tmp_path / "list.txt", split="train")


# ----------------------------------------------------------------------------------------------------- data of people


def test_masks_of_another_size_name_the_command_and_the_copy_is_right(tmp_path):
    small = np.kron([[0, 255], [255, 0]], np.ones((3, 4))).astype(np.uint8)  # half the size of the image
    root = _pair(tmp_path / "people", "Training_Images/a.png", "Ground_Truth/a.png", values=small)
    with pytest.raises(LabelError, match=rf"let `refineseg doctor folder:{root} --fix` write a repaired copy"):
        open_folder(root, "train")
    examination = examine(f"folder:{root}")
    assert {"binary_mask", "size_mismatch"} <= {finding.kind for finding in examination.findings}
    repair(examination, tmp_path / "repaired")
    copy = open_folder(tmp_path / "repaired", "train")
    np.testing.assert_array_equal(copy.read_mask(0), np.kron([[0, 1], [1, 0]], np.ones((6, 8))))
    (root / "classes.json").write_text(json.dumps({"classes": [{"name": "a"}, {"name": "b", "id": 255}]}))
    with pytest.raises(
        DatasetError, match=r"of the image's size 12x16 .*, got 6x8; `refineseg doctor --fix` scales it"
    ):
        check_data(open_folder(root, "train"))


def test_a_mask_of_another_shape_is_not_scaled(tmp_path):
    root = _pair(tmp_path / "d", "images/train/a.png", "masks/train/a.png", values=MASK[:6])
    _pair(root, "images/train/b.png", "masks/train/b.png")
    report = repair(examine(f"folder:{root}"), tmp_path / "repaired")
    assert list(report.left_out) == ["masks/train/a.png"]


def test_a_test_split_of_images_alone_is_a_note(tmp_path):
    root = _pair(tmp_path, "images/train/a.png", "masks/train/a.png")
    _pair(root, "images/test/b.png", "b.png")
    [finding] = [f for f in examine(f"folder:{root}").findings if f.kind in ("unlabelled_split", "missing_mask")]
    assert (finding.kind, dict(finding.details)) == ("unlabelled_split", {"test": "1 images and no folder of masks"})


@pytest.mark.skipif(not (SHARED / "idd_lite").is_dir(), reason="IDD-Lite is not here")
def test_idd_lite_is_read_as_it_lies():
    root = SHARED / "idd_lite"
    assert recognise(root) == ("masks", root)
    assert own_splits(root) == ("train", "val", "test")
    pairs = _pairs(root, "val")
    assert len(pairs) == 204
    assert all(
        pair.image.name.removesuffix("_image.jpg") == pair.mask.name.removesuffix("_label.png") for pair in pairs
    )


# ------------------------------------------------------------------------------------------- nothing is left out unsaid


@pytest.mark.parametrize(
    "layout",
    [("images/train/a.png", "masks/train/a.png"), ("train/images/a.png", "train/masks/a.png")],
    ids=["images first", "splits first"],
)
def test_images_beside_the_folders_of_splits_are_counted(tmp_path, layout):
    _pair(tmp_path, *layout, values=(np.indices(HW).sum(axis=0) % 2).astype(np.uint8))
    (tmp_path / "classes.txt").write_text("a\nb\n")
    assert open_dataset("folder", tmp_path, split="train").notes == ()
    for name in ("x.png", "images/y.png", "masks/y.png", "train/z.png", "more/v.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(MASK).save(tmp_path / name)
    [note] = open_dataset("folder", tmp_path, split="train").notes
    assert note.startswith("5 images lie in no folder of a split and are left out: ")
    assert examine(f"folder:{tmp_path}").inventory.notes == (note,)


def test_label_files_and_images_outside_of_yolos_splits_are_counted(tmp_path):
    for split in ("train", "val"):
        _pair(tmp_path, f"images/{split}/a.png", f"images/{split}/b.png")
        (tmp_path / "labels" / split).mkdir(parents=True)
        (tmp_path / "labels" / split / "a.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    (tmp_path / "classes.txt").write_text("car\n")
    assert all("split" not in note for note in open_dataset("yolo", tmp_path, split="train").notes)
    _pair(tmp_path, "images/c.png", "images/more/d.png")
    (tmp_path / "labels" / "c.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    notes = [note for note in open_dataset("yolo", tmp_path, split="train").notes if "split" in note]
    assert [note.split(" (the first")[0] for note in notes] == [
        "1 label files cover no pixel, because they lie in no folder of a split",
        "2 images cover no pixel, because they lie in no folder of a split",
    ]


def test_json_files_beside_cocos_that_are_not_read_are_named(tmp_path):
    root = FAKES["coco"](tmp_path)
    assert not any("JSON" in note for note in open_dataset("coco", root, split="train").notes)
    (root / "annotations" / "captions_train.json").write_text("{}")
    (root / "annotations" / "classes.json").write_text("{}")
    [note] = open_dataset("coco", root, split="train").notes
    assert note == "JSON files that are not read: annotations/captions_train.json, annotations/classes.json"


def test_annotation_files_beside_folders_of_masks_are_named_also_where_one_is_broken(tmp_path):
    _pair(tmp_path, "images/train/a.png", "masks/train/a.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    (tmp_path / "annotations.json").write_text('{"images": [], "annotations": [], "categories": []}')
    (tmp_path / "broken.json").write_bytes(b"\xff\xff")
    [note] = open_dataset("folder", tmp_path, split="train").notes
    assert note.startswith("not read, because folders of images and masks go first: COCO JSON: ")
    assert note in examine(f"folder:{tmp_path}").inventory.notes


def test_what_a_table_leaves_is_an_error_of_the_doctor_as_of_training(tmp_path):
    _pair(tmp_path, "images/train/a.png", "masks/train/a.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    (tmp_path / "remap.json").write_text('{"a": "b"}')
    with pytest.raises(LabelError, match=r"expected pixels of more than one class"):
        check_learnable(open_dataset("folder", tmp_path, split="train"))
    [finding] = [f for f in examine(f"folder:{tmp_path}").findings if f.severity == "error"]
    assert finding.kind == "one_class"


def test_a_data_set_without_any_split_is_an_error_of_the_doctor(tmp_path):
    root = FAKES["yolo"](tmp_path)
    (root / "data.yaml").write_text("names: [tree, car, house]\n")
    [finding] = examine(f"folder:{root}").findings
    assert finding.kind == "refused"
    assert "expected at least one split in" in str(finding.details)


# ------------------------------------------------------------------------------ classes that only look like one another


def _labelme_with(root, labels):
    Image.fromarray(np.full((*HW, 3), 90, np.uint8)).save(root / "a.png")
    shapes = [{"label": name, "shape_type": "point", "points": [[5 * i, 5]]} for i, name in enumerate(labels)]
    (root / "a.json").write_text(json.dumps({"shapes": shapes, "imagePath": "a.png"}))


def _coco_with(root, labels):
    Image.fromarray(np.full((*HW, 3), 90, np.uint8)).save(root / "a.png")
    boxes = [[5.0 * i, 1.0, 5.0 * i + 4, 1.0, 5.0 * i + 4, 9.0] for i in range(len(labels))]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": HW[0], "width": HW[1]}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": i, "segmentation": [box]} for i, box in enumerate(boxes)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(labels)],
    }
    (root / "annotations.json").write_text(json.dumps(content))


def _yolo_with(root, labels):
    (root / "images").mkdir()
    (root / "labels").mkdir()
    Image.fromarray(np.full((*HW, 3), 90, np.uint8)).save(root / "images" / "a.png")
    (root / "labels" / "a.txt").write_text("".join(f"{i} 0.1 0.1 0.9 0.1 0.9 0.{9 - i}\n" for i in range(len(labels))))
    (root / "data.yaml").write_text(f"names: {json.dumps(labels)}\ntrain: images\n")


def _studio_with(root, labels):
    Image.fromarray(np.full((*HW, 3), 90, np.uint8)).save(root / "a.png")
    size = {"original_width": HW[1], "original_height": HW[0]}
    results = [
        size | {"id": str(i), "value": {"x": 40 * i, "y": 10, "width": 30, "height": 60, "rectanglelabels": [name]}}
        for i, name in enumerate(labels)
    ]
    (root / "export.json").write_text(
        json.dumps([{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": results}]}])
    )


def _masks_with(root, labels):
    _pair(root, "images/train/a.png", "masks/train/a.png", values=(np.indices(HW).sum(axis=0) % 2).astype(np.uint8))
    (root / "classes.json").write_text(json.dumps({"classes": [{"name": name} for name in labels]}))


def _pairs_with(root, labels):
    _pair(root, "a.png", "b.png", values=(np.indices(HW).sum(axis=0) % 2).astype(np.uint8))
    (root / "train.txt").write_text("a.png b.png\n")
    (root / "classes.txt").write_text("\n".join(labels))


def _cvat_with(root, labels):
    _pair(root, "JPEGImages/a.png", "SegmentationClass/a.png", values=(np.indices(HW) % 2).astype(np.uint8)[0])
    (root / "labelmap.txt").write_text("".join(f"{name}:{i},0,0::\n" for i, name in enumerate(labels)))


@pytest.mark.parametrize(
    "write", [_labelme_with, _coco_with, _yolo_with, _studio_with, _masks_with, _pairs_with, _cvat_with]
)
@pytest.mark.parametrize("pair", [("car", "Car"), ("red car", "red-car")], ids=["capitals", "hyphen"])
def test_classes_that_look_alike_are_told_by_training_and_doctor_in_every_form(tmp_path, write, pair):
    write(tmp_path, list(pair))
    name = "folder"
    notes = open_dataset(name, tmp_path, split="train").notes
    [note] = [note for note in notes if "differ by capitals or blanks only; remap.json can make them one" in note]
    assert all(repr(word) in note for word in pair)
    assert note in examine(f"{name}:{tmp_path}").inventory.notes
    (tmp_path / "remap.json").write_text(json.dumps({pair[1]: pair[0]}))
    after = open_dataset(name, tmp_path, split="train")
    assert pair[1] not in after.class_info.names
    assert not any("differ by capitals" in note for note in after.notes)


def test_names_that_differ_by_unseen_characters_are_alike():
    [note] = alike(["car", "c\u200bar", "sky"])
    assert "the classes 'car' and 'c\\u200bar' differ" in note
    assert alike(["c", "c++", "-", "_"]) == ()


def test_a_data_set_may_be_called_like_a_split(tmp_path):
    root = _pair(tmp_path / "test", "images/a.png", "masks/a.png")
    (root / "classes.txt").write_text("road\ntree\n")
    assert own_splits(root) == ("train",)
    _pair(tmp_path / "val", "images/b.png", "masks/b.png")
    with pytest.raises(DatasetError, match=f"one split of a data set: give {tmp_path}"):
        recognise(root)


def test_a_training_split_of_another_name_tells_the_number_of_classes(tmp_path):
    root = _pair(tmp_path, "images/Train/a.png", "masks/Train/a.png")
    _pair(root, "images/Val/b.png", "masks/Val/b.png", values=np.zeros_like(MASK))
    train, val = (open_dataset("folder", root, split=split) for split in ("Train", "Val"))
    assert val.class_info == train.class_info
