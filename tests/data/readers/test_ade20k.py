"""ADE20K: the challenge's files, and the full release converted as the challenge was."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import SHARED
from fakes.scenes import fake_ade20k, fake_ade20k_full
from refineseg.data.readers.ade20k import challenge_size, open_ade20k
from refineseg.data.samples.catalog import catalog_classes
from refineseg.errors import DatasetError, LabelError

REAL = SHARED / "samples" / "ade20k"
META = SHARED / "meta" / "ade20k"
real_samples = pytest.mark.skipif(not REAL.is_dir(), reason="the real samples are not beside the checkout")


def classes_of(labels):
    return np.where(labels == 0, 255, labels.astype(int) - 1)


@pytest.mark.parametrize("above", [True, False])
def test_the_challenges_labels_are_one_too_high_and_0_is_void(tmp_path, above):
    fake_ade20k(tmp_path, seed=0)
    top = tmp_path / "ADEChallengeData2016"
    for split, name in (("train", "training"), ("training", "training"), ("val", "validation")):
        dataset = open_ade20k(tmp_path if above else top, split)
        assert len(dataset) == 3
        for i in range(3):
            stored = np.asarray(Image.open(top / "annotations" / name / f"{dataset.name(i)}.png"))
            np.testing.assert_array_equal(dataset[i].mask, classes_of(stored))
    test = open_ade20k(tmp_path if above else top, "test")
    assert [test[i].mask for i in range(3)] == [None, None, None]
    assert test.name(0) == "ADE_test_00000001"
    assert test.notes == ("test: 3 images here, 3352 in the complete data set", "test: its masks are not public")


def test_150_classes_in_the_challenges_order():
    class_info = catalog_classes("ade20k")
    assert class_info.num_classes == 150
    assert class_info.names[:3] == ("wall", "building", "sky")
    assert class_info.names[-1] == "flag"


def test_the_full_release_gives_the_same_classes_as_the_challenge(tmp_path):
    """The two fakes draw the same scenes from the same seed, one as labels, one as coded colours."""
    fake_ade20k(tmp_path / "challenge", seed=3)
    fake_ade20k_full(tmp_path / "full", seed=3)
    for root in (tmp_path / "full", tmp_path / "full" / "ADE20K_2021_17_01"):
        for split in ("train", "val"):
            challenge, full = open_ade20k(tmp_path / "challenge", split), open_ade20k(root, split)
            assert [full.name(i) for i in range(3)] == [challenge.name(i) for i in range(3)]
            for i in range(3):
                np.testing.assert_array_equal(full[i].mask, challenge[i].mask)
                np.testing.assert_array_equal(full[i].image, challenge[i].image)
    assert "converted to the 150 classes" in full.notes[1]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(full)).read_mask(1), full[1].mask)


def test_the_full_release_of_2016_is_found(tmp_path):
    fake_ade20k_full(tmp_path, seed=0)
    (tmp_path / "ADE20K_2016_07_26").mkdir()
    (tmp_path / "ADE20K_2021_17_01/images/ADE").rename(tmp_path / "ADE20K_2016_07_26/images")
    shutil.rmtree(tmp_path / "ADE20K_2021_17_01")
    assert len(open_ade20k(tmp_path, "val")) == 3


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((768, 1024), (512, 683)),
        ((1024, 768), (683, 512)),
        ((512, 900), (512, 900)),
        ((900, 900), (900, 900)),
        ((300, 2000), (300, 2000)),
        ((1000, 1001), (512, 513)),
    ],
)
def test_the_shorter_side_becomes_512_where_it_is_longer(size, expected):
    assert challenge_size(size) == expected


def test_large_images_of_the_full_release_are_shrunk_with_their_masks(tmp_path):
    fake_ade20k_full(tmp_path, seed=0)
    folder = tmp_path / "ADE20K_2021_17_01/images/ADE/validation/urban/street"
    coded = np.zeros((600, 800, 3), np.uint8)
    coded[..., 0], coded[..., 1] = 110, 162  # object 2978: wall
    coded[:, 400:, 0], coded[:, 400:, 1] = 90, 116  # object 2420: sky
    Image.fromarray(coded).save(folder / "ADE_val_00000001_seg.png")
    Image.fromarray(coded).save(folder / "ADE_val_00000001.jpg")
    val = open_ade20k(tmp_path, "val")
    sample = val[0]
    assert sample.image.shape == (512, 683, 3)
    assert sample.mask.shape == val.read_mask(0).shape == (512, 683)
    assert set(sample.mask[:, :341].ravel()) == {0}
    assert set(sample.mask[:, 342:].ravel()) == {2}
    Image.fromarray(coded[:500]).save(folder / "ADE_val_00000001.jpg")
    with pytest.raises(DatasetError, match="ADE_val_00000001: expected a mask of the image's size 500x800"):
        val.read_mask(0)


def test_wrong_roots_splits_and_half_unpacked_archives_are_named(tmp_path):
    with pytest.raises(DatasetError, match="expected an ADE20K split of train, .*, got 'minival'"):
        open_ade20k(tmp_path, "minival")
    with pytest.raises(DatasetError, match=r"expected ADE20K in .*, got no folders; .*ADEChallengeData2016\.zip"):
        open_ade20k(tmp_path, "val")
    with pytest.raises(DatasetError, match=r"expected the test images .* got none; unpack release_test\.zip"):
        open_ade20k(tmp_path, "test")
    fake_ade20k(tmp_path, seed=0)
    top = tmp_path / "ADEChallengeData2016"
    (top / "annotations/training/ADE_train_00000002.png").unlink()
    (top / "images/training/ADE_train_00000003.jpg").unlink()
    with pytest.raises(
        DatasetError,
        match=r"1 images without mask \(ADE_train_00000002\.jpg\) and 1 masks without image \(ADE_train_0+3\.png",
    ):
        open_ade20k(tmp_path, "train")
    shutil.rmtree(top / "images/validation")
    shutil.rmtree(top / "annotations/validation")
    with pytest.raises(DatasetError, match="expected images and masks in .*validation, got none; unpack the archive"):
        open_ade20k(tmp_path, "val")
    Image.fromarray(np.full((40, 56), 151, np.uint8)).save(top / "annotations/training/ADE_train_00000001.png")
    shutil.rmtree(tmp_path / "release_test")
    for path in (top / "annotations/training/ADE_train_00000003.png", top / "images/training/ADE_train_00000002.jpg"):
        path.unlink()
    with pytest.raises(LabelError, match=r"expected 1\.\.150 or 0, got 151 in 2240 pixels"):
        open_ade20k(tmp_path, "train").read_mask(0)


@real_samples
def test_real_masks_are_the_files_less_one():
    val = open_ade20k(REAL, "val")
    assert len(val) == len(list((REAL / "ADEChallengeData2016/annotations/validation").iterdir()))
    for i in range(len(val)):
        stored = np.asarray(Image.open(REAL / "ADEChallengeData2016/annotations/validation" / f"{val.name(i)}.png"))
        mask = val[i].mask
        np.testing.assert_array_equal(
            np.bincount(mask.ravel(), minlength=256)[:150], np.bincount(stored.ravel(), minlength=151)[1:]
        )
        np.testing.assert_array_equal(mask, classes_of(stored))


@real_samples
def test_the_authors_example_of_the_conversion_is_reproduced_in_every_pixel(tmp_path):
    source = REAL / "convertFromADE"
    folder = tmp_path / "images/training/a"
    folder.mkdir(parents=True)
    shutil.copy(source / "ADE_train_00000970_raw.png", folder / "ADE_train_00000970_seg.png")
    raw = Image.open(source / "ADE_train_00000970_raw.png")
    raw.save(folder / "ADE_train_00000970.jpg")
    sample = open_ade20k(tmp_path, "train")[0]
    np.testing.assert_array_equal(
        sample.mask, classes_of(np.asarray(Image.open(source / "ADE_train_00000970_challenge.png")))
    )
    assert sample.image.shape == (512, 683, 3)


@pytest.mark.skipif(not META.is_dir(), reason="the official tables are not beside the checkout")
def test_the_tables_of_the_package_are_the_official_ones():
    import refineseg

    rows = [line.split() for line in (META / "mapFromADE.txt").read_text().splitlines() if line.strip()]
    own = json.loads((Path(refineseg.__file__).parent / "class_tables/ade20k_full_ids.json").read_text())["labels"]
    assert {number: int(label) for label, number in rows} == own
    official = json.loads((META / "classes.json").read_text())
    class_info = catalog_classes("ade20k")
    assert [c["name"].split(",")[0] for c in official] == list(class_info.names)
    assert [tuple(c["color"]) for c in official] == list(class_info.palette)
