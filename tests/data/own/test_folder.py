"""The user's own folders: layouts, partners, masks with and without a class list, and errors that say what to do."""

import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import SHARED
from refineseg.class_info import voc_palette
from refineseg.data.own import folder
from refineseg.data.own.folder import folder_splits, open_folder
from refineseg.data.samples.sample import Concatenation
from refineseg.errors import ConfigError, DatasetError, LabelError
from refineseg.images.files import mask_values

TWO = {"classes": [{"id": 0, "name": "field", "color": [10, 20, 30]}, {"id": 1, "name": "tree", "color": [40, 50, 60]}]}
MASK = np.array([[0, 1, 1], [255, 0, 1]], np.uint8)


def _put(path: Path, pixels=None) -> Path:
    """An image (by default grey noise) or a mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((2, 3, 3), 7, np.uint8) if pixels is None else pixels).save(path)
    return path


def _root(root: Path, images: dict[str, str], *, mask=MASK, classes=TWO) -> Path:
    """A tree of images and masks: image path -> mask path."""
    for image, label in images.items():
        _put(root / image)
        _put(root / label, mask)
    if classes is not None:
        (root / "classes.json").write_text(json.dumps(classes))
    return root


# ------------------------------------------------------------------------------------------------------------ layouts


def test_masks_that_tell_the_classes_are_read_once_for_each_state(tmp_path, monkeypatch):
    names = {f"images/{split}/{i}.png": f"masks/{split}/{i}.png" for split in ("train", "val") for i in range(3)}
    root, read = _root(tmp_path, names, classes=None), []
    monkeypatch.setattr(folder, "mask_values", lambda path: read.append(path) or mask_values(path))
    for split in ("train", "val", "train"):
        assert open_folder(root, split).class_info.num_classes == 2
    assert len(read) == 3
    _put(root / "masks/train/1.png", np.full((2, 3), 7, np.uint8))
    with pytest.raises(LabelError, match="expected the values 0..K-1"):
        open_folder(root, "val")
    assert len(read) == 4


@pytest.mark.parametrize("masks", ["masks", "labels", "annotations"])
@pytest.mark.parametrize("image", ["images/{split}", "{split}/images"])
def test_both_layouts_are_read(tmp_path, image, masks):
    label = image.replace("images", masks)
    names = {f"{image}/a.jpg".format(split=s): f"{label}/a.png".format(split=s) for s in ("val", "train")}
    root = _root(tmp_path, names)
    assert folder_splits(root) == ("train", "val")
    dataset = open_folder(root, "val")
    assert (len(dataset), dataset.name(0), dataset.notes) == (1, "a", ())
    assert dataset.class_info.names == ("field", "tree")
    sample = dataset[0]
    assert sample.image.shape == (2, 3, 3)
    np.testing.assert_array_equal(sample.mask, MASK)
    np.testing.assert_array_equal(dataset.read_mask(0), MASK)


def test_splits_are_listed_in_their_usual_order(tmp_path):
    names = {f"{s}/images/a.png": f"{s}/masks/a.png" for s in ("winter", "test", "train", "autumn")}
    root = _root(tmp_path, names)
    (root / ".cache" / "images").mkdir(parents=True)
    assert folder_splits(root) == ("train", "test", "autumn", "winter")
    assert "val" not in folder_splits(root)


def test_a_split_with_images_only_counts_and_is_an_error_when_opened(tmp_path):
    """So that a misspelt folder of masks does not quietly mean training without validation."""
    root = _root(tmp_path, {"images/train/a.jpg": "masks/train/a.png"})
    _put(root / "images" / "val" / "b.jpg")
    assert folder_splits(root) == ("train", "val")
    with pytest.raises(DatasetError, match=r"expected the masks of .*images.val in .*masks.val, but there is no such"):
        open_folder(root, "val")
    _put(root / "masks" / "test" / "c.png", MASK)
    with pytest.raises(
        DatasetError, match=r"expected the images of .*masks.test in .*images.test, but there is no such"
    ):
        open_folder(root, "test")


def test_samples_are_sorted_named_by_their_path_and_may_lie_in_subfolders(tmp_path):
    names = ["b", "a/2", "a/1", "c/d/e.f"]
    root = _root(tmp_path, {f"images/train/{n}.JPG": f"masks/train/{n}.png" for n in names})
    dataset = open_folder(root, "train")
    assert [dataset.name(i) for i in range(len(dataset))] == ["a/1", "a/2", "b", "c/d/e.f"]
    assert [pair.mask.relative_to(root).as_posix() for pair in dataset.pairs][3] == "masks/train/c/d/e.f.png"


@pytest.mark.parametrize("name", ["a_mask.png", "a_label.png", "a_labels.tif", "a.bmp", "a.tif"])
def test_a_mask_may_have_other_endings(tmp_path, name):
    root = _root(tmp_path, {"images/train/a.jpg": f"masks/train/{name}"})
    np.testing.assert_array_equal(open_folder(root, "train")[0].mask, MASK)


def test_png_goes_before_other_kinds_of_one_name(tmp_path):
    root = _root(tmp_path, {"images/train/a.jpg": "masks/train/a.png"})
    _put(root / "masks" / "train" / "a.jpg", MASK)
    _put(root / "masks" / "train" / "a.bmp", MASK)
    assert open_folder(root, "train").pairs[0].mask.name == "a.png"


def test_an_image_whose_own_name_ends_like_a_mask_keeps_its_mask(tmp_path):
    names = {"images/train/a.jpg": "masks/train/a.png", "images/train/a_mask.jpg": "masks/train/a_mask.png"}
    assert [pair.mask.stem for pair in open_folder(_root(tmp_path, names), "train").pairs] == ["a", "a_mask"]


def test_names_agree_in_whatever_unicode_form_they_were_packed(tmp_path):
    decomposed, composed = (unicodedata.normalize(form, "Bäume") for form in ("NFD", "NFC"))
    root = _root(tmp_path, {f"images/train/{decomposed}.jpg": f"masks/train/{composed}.png"})
    assert open_folder(root, "train").name(0) == composed


def test_splits_can_be_joined(tmp_path):
    names = {f"images/{s}/a.png": f"masks/{s}/a.png" for s in ("train", "val")}
    root = _root(tmp_path, names, classes=None)
    joined = Concatenation([open_folder(root, "train"), open_folder(root, "val")])
    assert len(joined) == 2
    assert len(joined.notes) == 1


# ------------------------------------------------------------------------------------------------- masks with classes


@pytest.mark.parametrize("kind", ["grey", "palette", "16-bit", "RGB"])
def test_masks_of_every_kind_are_read_by_the_class_list(tmp_path, kind):
    classes = {
        "classes": [
            {"id": 7, "name": "field", "color": [10, 20, 30]},
            {"id": 3, "name": "tree", "color": [40, 50, 60]},
            {"id": 200, "name": "unknown", "color": [0, 0, 0], "ignore": True},
        ]
    }
    stored = np.array([7, 3], np.uint8)[np.minimum(MASK, 1)]
    stored[MASK == 255] = 200
    colours = {7: (10, 20, 30), 3: (40, 50, 60), 200: (0, 0, 0)}
    root = _root(tmp_path, {"images/train/a.jpg": "masks/train/a.png"}, mask=stored, classes=classes)
    path = root / "masks" / "train" / "a.png"
    if kind == "palette":
        image = Image.fromarray(stored)
        image.putpalette([v for colour in voc_palette(256) for v in colour])
        image.save(path)
    elif kind == "16-bit":
        _put(path, stored.astype(np.uint16))
    elif kind == "RGB":
        _put(path, np.array([[colours[v] for v in row] for row in stored.tolist()], np.uint8))
    dataset = open_folder(root, "train")
    assert dataset.class_info.names == ("field", "tree")
    np.testing.assert_array_equal(dataset[0].mask, MASK)


def test_a_wrong_class_list_is_an_error(tmp_path):
    root = _root(tmp_path, {"images/train/a.jpg": "masks/train/a.png"}, classes={"classes": []})
    with pytest.raises(ConfigError, match="expected at least one class"):
        open_folder(root, "train")


@pytest.mark.skipif(not (SHARED / "camvid").is_dir(), reason="CamVid is not beside the checkout")
def test_camvid_is_a_folder_too():
    root = SHARED / "camvid"
    assert folder_splits(root) == ("train", "val", "test")
    dataset = open_folder(root, "val")
    assert (len(dataset), dataset.class_info.num_classes, dataset.name(0)) == (101, 11, "0016E5_07959")


# ---------------------------------------------------------------------------------------------- masks without classes


def test_without_a_class_list_the_training_masks_tell_the_classes_of_every_split(tmp_path):
    names = {f"images/train/{i}.png": f"masks/train/{i}.png" for i in range(5)}
    root = _root(tmp_path, names | {"images/val/v.png": "masks/val/v.png"}, classes=None)
    _put(root / "masks" / "train" / "3.png", np.array([[2, 3, 2], [3, 3, 3]], np.uint8))
    for split in ("train", "val"):
        dataset = open_folder(root, split)
        assert dataset.class_info.names == ("class_0", "class_1", "class_2", "class_3")
        assert dataset.class_info.ignore_index == 255
        assert dataset.notes[0].startswith("4 classes, counted in 5 training masks; write ")
        np.testing.assert_array_equal(dataset[len(dataset) - 1].mask, MASK)
    _put(root / "masks" / "val" / "v.png", np.array([[0, 1, 4], [0, 0, 0]], np.uint8))
    with pytest.raises(LabelError, match=r"v\.png: expected 0\.\.3 or 255, got 4 in 1 pixel; .*classes\.json"):
        open_folder(root, "val").read_mask(0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            [0, 255, 255],
            r"expected the values 0\.\.K-1 \(and 255 for void\) in the 2 training masks, because .* has no "
            r"classes\.json, got 0 \(2 pixels\) and 255 \(4 pixels\): 255 is void, so only one class would be left; "
            r"write 1 instead of 255, or keep the masks and write classes\.json: "
            r'\{"classes": \[\{"id": 0, "name": "background"\}, \{"id": 255, "name": "object"\}\]\}',
        ),
        (
            [1, 2, 3],
            r'got 1\.\.3; write classes\.json .*\{"id": 1, "name": "\.\.\."\}, .*\]\}, or subtract 1 from every',
        ),
        ([0, 4, 9], r'got 0, 4, 9; write classes\.json that lists them: .*\{"id": 9, "name": "\.\.\."\}\]\}$'),
        ([0, 128, 255], r'got 0, 128, 255; write classes\.json .*\(255 is void unless it is listed, too: \{"id": 255,'),
        ([0, 0, 0], r"got 0: fewer than two classes, there is nothing to learn; label more"),
        ([255], r"got 255: fewer than two classes"),
        (
            range(250),
            r"got 0\.\.249; export the masks as PNG of class indices if they are grey pictures or were resized",
        ),
    ],
)
def test_without_a_class_list_other_values_are_an_error_that_tells_what_to_write(tmp_path, values, message):
    names = {f"images/train/{i}.png": f"masks/train/{i}.png" for i in range(2)}
    root = _root(tmp_path, names, mask=np.array([list(values)], np.uint8), classes=None)
    with pytest.raises(LabelError, match=message):
        open_folder(root, "train")


def test_the_class_list_proposed_for_masks_of_0_and_255_works(tmp_path):
    proposed = {"classes": [{"id": 0, "name": "background"}, {"id": 255, "name": "object"}]}
    mask = np.array([[0, 255, 255]], np.uint8)
    root = _root(tmp_path, {"images/train/a.png": "masks/train/a.png"}, mask=mask, classes=proposed)
    assert open_folder(root, "train").table.values == {0: 0, 255: 1}


def test_without_a_class_list_colours_are_an_error_that_names_every_file(tmp_path):
    names = {f"images/train/{i}.png": f"masks/train/{i}.png" for i in range(3)}
    root = _root(tmp_path, names, mask=np.array([[[9, 8, 7], [1, 2, 3]]], np.uint8), classes=None)
    with pytest.raises(
        LabelError, match=r"(?s)3 of 3 masks cannot be used:.*0\.png: expected class indices, got RGB"
    ) as e:
        open_folder(root, "train")
    assert 'in classes.json: {"classes": [{"id": 0, "name": "road", "color": [128, 64, 128]}, ...]}' in str(e.value)
    assert str(e.value).index("0.png") < str(e.value).index("1.png") < str(e.value).index("2.png")


def test_without_a_class_list_and_a_training_split_there_are_no_classes(tmp_path):
    root = _root(tmp_path, {"images/test/a.png": "masks/test/a.png"}, classes=None)
    with pytest.raises(DatasetError, match=r"expected classes\.json in .*, or a split 'train' .*: write classes\.json"):
        open_folder(root, "test")


# ------------------------------------------------------------------------------------------------------- wrong folders


def test_a_root_that_is_no_folder_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    for name, what in (("absent", "not there"), ("file", "a file")):
        for call in (folder_splits, lambda root: open_folder(root, "train")):
            with pytest.raises(
                DatasetError, match=rf"expected the folder of a data set, got .*{name}, which is {what}"
            ):
                call(tmp_path / name)


def test_an_unknown_split_is_an_error_that_lists_the_splits(tmp_path):
    names = {f"images/{s}/a.png": f"masks/{s}/a.png" for s in ("valid", "train")}
    with pytest.raises(DatasetError, match=r"expected a split of train, valid \(those in .*\), got 'val'"):
        open_folder(_root(tmp_path, names), "val")


def test_a_folder_in_no_layout_is_an_error_that_guesses_what_was_meant(tmp_path):
    layouts = r"expected images/SPLIT and masks/SPLIT, or SPLIT/images and SPLIT/masks \(.*\) in .*, "
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=layouts + "got no folders"):
        open_folder(tmp_path / "empty", "train")
    (tmp_path / "other" / "pictures").mkdir(parents=True)
    with pytest.raises(DatasetError, match=layouts + "got the folders pictures"):
        open_folder(tmp_path / "other", "train")
    flat = _root(tmp_path / "flat", {"images/a.png": "masks/a.png"})
    shutil.rmtree(flat / "masks")
    with pytest.raises(DatasetError, match=layouts + "got images directly in images and no folder of masks; add"):
        open_folder(flat, "train")
    inner = _root(tmp_path / "outer" / "inner", {"train/images/a.png": "train/masks/a.png"})
    with pytest.raises(DatasetError, match=layouts + f"got one in inner: give {inner}"):
        open_folder(inner.parent, "train")
    inner = _root(tmp_path / "above" / "inner", {"images/train/a.png": "masks/train/a.png"})
    with pytest.raises(DatasetError, match=rf"a split of inner .*, got 'train'; it is one level down: give {inner}"):
        open_folder(inner.parent, "train")
    deep = _root(tmp_path / "deep", {"train/images/a.png": "train/masks/a.png"})
    with pytest.raises(DatasetError, match=layouts + f"got one split of such a data set; give {deep}"):
        open_folder(deep / "train", "train")


def test_a_split_in_both_layouts_is_an_error(tmp_path):
    root = _root(tmp_path, {"images/train/a.png": "masks/train/a.png", "train/images/a.png": "train/masks/a.png"})
    with pytest.raises(
        DatasetError, match=r"expected one layout in .*, got images/train and train/images .*; remove one"
    ):
        open_folder(root, "train")


def test_a_split_without_images_is_an_error(tmp_path):
    root = _root(tmp_path, {"images/train/a.png": "masks/train/a.png"})
    (root / "images" / "train" / "a.png").unlink()
    with pytest.raises(DatasetError, match=r"expected images in .*images.train, got none; endings read: \.jpg, "):
        open_folder(root, "train")


def test_images_and_masks_without_a_partner_are_named_and_counted(tmp_path):
    root = _root(tmp_path, {"images/train/a.png": "masks/train/a.png"})
    for index in range(7):
        _put(root / "images" / "train" / f"image_{index}.png")
    _put(root / "masks" / "train" / "sub" / "mask.png", MASK)
    with pytest.raises(
        DatasetError,
        match=r"expected each image in .*images.train to have a mask of the same name in .*masks.train .*, got 7 "
        r"images without a mask \(image_0\.png, .*, image_4\.png and 2 more\) and 1 masks without an image "
        r"\(sub.mask\.png\); add, rename or remove them",
    ):
        open_folder(root, "train")


def test_two_images_of_one_name_are_an_error(tmp_path):
    root = _root(tmp_path, {"images/train/a.png": "masks/train/a.png"})
    _put(root / "images" / "train" / "a.jpg")
    with pytest.raises(
        DatasetError, match=r"expected one image of each name in .*, got 1 names twice: a\.jpg and a\.png;"
    ):
        open_folder(root, "train")


def test_two_masks_for_one_image_are_an_error(tmp_path):
    root = _root(tmp_path, {"images/train/a.png": "masks/train/a.png"})
    _put(root / "masks" / "train" / "a_mask.png", MASK)
    with pytest.raises(
        DatasetError, match=r"one mask for each image .* got several for 1: a\.png and a_mask\.png; keep"
    ):
        open_folder(root, "train")


def test_a_rotated_photograph_with_an_unrotated_mask_is_an_error(tmp_path):
    root = _root(tmp_path, {"images/train/a.png": "masks/train/a.png"})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (3, 2)).save(root / "images" / "train" / "a.png", exif=exif)
    with pytest.raises(
        DatasetError, match=r"a\.png: expected a mask of the image's size 3x2 .*, got 2x3; the image is rot"
    ):
        open_folder(root, "train").read_mask(0)


def test_without_a_class_list_the_files_with_stray_values_are_named(tmp_path):
    for index in range(4):
        for kind in ("images", "masks"):
            (tmp_path / kind / "train").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((6, 6, 3), np.uint8)).save(tmp_path / "images" / "train" / f"{index}.png")
        mask = np.arange(36, dtype=np.uint8).reshape(6, 6) % 3
        if index == 2:
            mask[0, :2] = 77
        Image.fromarray(mask).save(tmp_path / "masks" / "train" / f"{index}.png")
    with pytest.raises(LabelError) as caught:
        open_folder(tmp_path, "train")
    message = str(caught.value)
    assert "or correct the mask that holds values beyond 0..2:" in message
    assert "2.png: 77 in 2 pixels" in message
    assert "1.png" not in message
