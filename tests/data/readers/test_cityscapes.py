"""Cityscapes: label ids become the 19 classes while reading, and go back for the server."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from conftest import SHARED
from fakes.scenes import fake_cityscapes
from refineseg.data.checks.label_check import check_data
from refineseg.data.readers.cityscapes import open_cityscapes, to_label_ids
from refineseg.data.samples.catalog import catalog_classes
from refineseg.errors import DatasetError, LabelError

REAL = SHARED / "samples" / "cityscapes"
TABLE = SHARED / "meta" / "cityscapes" / "labels.csv"
real_samples = pytest.mark.skipif(not REAL.is_dir(), reason="the real samples are not beside the checkout")

# The benchmark's table: training id of each of the label ids 7..33 that has one.
TRAINING_IDS = dict(zip((7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33), range(19), strict=True))


def classes_of(label_ids):
    return np.vectorize(lambda value: TRAINING_IDS.get(value, 255))(label_ids)


def test_label_ids_become_classes_and_all_others_void(tmp_path):
    fake_cityscapes(tmp_path, seed=0)
    for split, kind in (("train", "gtFine"), ("val", "gtFine"), ("train_extra", "gtCoarse")):
        dataset = open_cityscapes(tmp_path, split)
        assert len(dataset) == 3
        for i in range(3):
            city = dataset.name(i).split("_")[0]
            stored = Image.open(tmp_path / kind / split / city / f"{dataset.name(i)}_{kind}_labelIds.png")
            np.testing.assert_array_equal(dataset[i].mask, classes_of(np.asarray(stored)))
        assert check_data(dataset).pixel_counts.sum() > 0
    assert [open_cityscapes(tmp_path, "train").name(i) for i in range(3)] == [
        *("aachen_000000_000019", "aachen_000001_000019", "bochum_000002_000019")
    ]


def test_every_possible_value_of_a_file_has_a_meaning(tmp_path):
    fake_cityscapes(tmp_path, seed=0)
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    stem = tmp_path / "gtFine/train/bochum/bochum_000002_000019_gtFine_labelIds.png"
    Image.fromarray(every).save(stem)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(
        tmp_path / "leftImg8bit/train/bochum/bochum_000002_000019_leftImg8bit.png"
    )
    np.testing.assert_array_equal(open_cityscapes(tmp_path, "train")[2].mask, classes_of(every))


def test_test_images_have_no_mask_although_dummies_lie_there(tmp_path):
    test = open_cityscapes(fake_cityscapes(tmp_path, seed=0), "test")
    assert [test[i].mask for i in range(3)] == [None, None, None]
    assert test.read_mask(0) is None
    assert any("to_label_ids" in note and "2048x1024" in note for note in test.notes)
    shutil.rmtree(tmp_path / "gtFine")
    assert len(open_cityscapes(tmp_path, "test")) == 3


def test_the_way_back_to_label_ids_is_the_inverse(tmp_path):
    mask = np.array([[*range(19), 255]], np.uint8)
    ids = to_label_ids(mask)
    assert ids.dtype == np.uint8
    assert ids[0, -1] == 0
    np.testing.assert_array_equal(classes_of(ids), mask)
    with pytest.raises(LabelError, match=r"expected class indices 0\.\.18 or 255, got 19\.\.20"):
        to_label_ids(np.array([[19, 20, 0]]))


def test_names_are_parsed_from_the_right(tmp_path):
    for part, ending in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
        folder = tmp_path / part / "val" / "new_town_gtFine"
        folder.mkdir(parents=True)
        shape = (4, 6, 3) if part == "leftImg8bit" else (4, 6)
        Image.fromarray(np.zeros(shape, np.uint8)).save(folder / f"new_town_gtFine_000001_000019_{ending}.png")
    val = open_cityscapes(tmp_path, "val")
    assert val.name(0) == "new_town_gtFine_000001_000019"
    assert (val[0].mask == 255).all()


@pytest.mark.parametrize("given", [".", "leftImg8bit", "gtFine"])
def test_the_root_may_be_one_of_the_two_folders(tmp_path, given):
    fake_cityscapes(tmp_path, seed=0)
    assert len(open_cityscapes(tmp_path / given, "train")) == 3


def test_archives_unpacked_into_folders_of_their_own_are_found(tmp_path):
    fake_cityscapes(tmp_path / "there", seed=0)
    for part in ("leftImg8bit", "gtFine"):
        (tmp_path / f"{part}_trainvaltest").mkdir()
        (tmp_path / "there" / part).rename(tmp_path / f"{part}_trainvaltest" / part)
    assert len(open_cityscapes(tmp_path, "val")) == 3


def test_wrong_roots_splits_and_half_unpacked_archives_are_named(tmp_path):
    with pytest.raises(
        DatasetError, match="expected a Cityscapes split of train, val, test, train_extra, got 'trainval"
    ):
        open_cityscapes(tmp_path, "trainval")
    with pytest.raises(
        DatasetError, match=r"there is no leftImg8bit/train, got no folders; .* leftImg8bit_trainvaltest"
    ):
        open_cityscapes(tmp_path, "train")
    fake_cityscapes(tmp_path, seed=0)
    shutil.rmtree(tmp_path / "leftImg8bit/train_extra")
    with pytest.raises(DatasetError, match=r"no leftImg8bit/train_extra.*leftImg8bit_trainextra\.zip"):
        open_cityscapes(tmp_path, "train_extra")
    (tmp_path / "gtFine/train/bochum/bochum_000002_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(DatasetError, match=r"1 images without mask \(bochum_000002_000019_leftImg8bit\.png\); unpack"):
        open_cityscapes(tmp_path, "train")
    shutil.rmtree(tmp_path / "gtFine/val")
    with pytest.raises(
        DatasetError, match=r"there is no gtFine/val, got gtCoarse, gtFine, leftImg8bit; .*gtFine_train"
    ):
        open_cityscapes(tmp_path, "val")
    shutil.rmtree(tmp_path / "leftImg8bit/val/frankfurt")
    shutil.rmtree(tmp_path / "leftImg8bit/val/munster")
    with pytest.raises(DatasetError, match=r"expected CITY/\*_leftImg8bit\.png in .*, got none; unpack the archive"):
        open_cityscapes(tmp_path, "val")


def test_a_mask_of_another_size_than_its_image_is_an_error(tmp_path):
    fake_cityscapes(tmp_path, seed=0)
    path = tmp_path / "gtFine/train/bochum/bochum_000002_000019_gtFine_labelIds.png"
    Image.fromarray(np.zeros((20, 28), np.uint8)).save(path)
    with pytest.raises(DatasetError, match="expected a mask of the image's size 40x56 .* got 20x28"):
        open_cityscapes(tmp_path, "train").read_mask(2)


@real_samples
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_masks_hold_the_pixels_of_the_instance_files(split):
    """Instance files are made from the same labels by another program: value // 1000, or the value below 1000."""
    dataset = open_cityscapes(REAL, split)
    for i in range(len(dataset)):
        name = dataset.name(i)
        stored = np.asarray(Image.open(REAL / "gtFine" / split / name.split("_")[0] / f"{name}_gtFine_instanceIds.png"))
        label_ids = np.where(stored >= 1000, stored // 1000, stored)
        counts = {value: int((label_ids == value).sum()) for value in np.unique(label_ids).tolist()}
        mask = dataset.read_mask(i)
        for value, index in TRAINING_IDS.items():
            assert int((mask == index).sum()) == counts.get(value, 0)
        assert int((mask == 255).sum()) == sum(n for value, n in counts.items() if value not in TRAINING_IDS)
    sample = dataset[0]
    assert sample.image.shape[:2] == sample.mask.shape


@pytest.mark.skipif(not TABLE.is_file(), reason="the official table is not beside the checkout")
def test_names_and_colours_are_those_of_the_official_table():
    rows = {
        int(row["trainId"]): row
        for row in csv.DictReader(TABLE.read_text().splitlines())
        if 0 <= int(row["trainId"]) < 19
    }
    class_info = catalog_classes("cityscapes")
    for index in range(19):
        assert class_info.names[index] == rows[index]["name"]
        assert class_info.palette[index] == tuple(int(rows[index][c]) for c in "rgb")
        assert TRAINING_IDS[int(rows[index]["id"])] == index
