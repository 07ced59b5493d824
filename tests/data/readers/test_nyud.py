"""NYU Depth V2: the official file and folders of images must give the same classes, cropped alike."""

import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

import refineseg
from conftest import SHARED
from fakes.scenes import fake_nyud, fake_nyud_mat
from refineseg.data.checks.label_check import check_data
from refineseg.data.datasets import open_dataset
from refineseg.data.readers.nyud import held_out_names, open_nyud
from refineseg.data.samples.catalog import catalog_classes
from refineseg.data.storage.file_lists import packaged_table
from refineseg.errors import DatasetError, LabelError, MissingExtraError

REAL = SHARED / "samples" / "nyudv2"
PACKAGE = Path(refineseg.__file__).parent
META = SHARED / "meta" / "nyuv2"
real_samples = pytest.mark.skipif(not REAL.is_dir(), reason="the real samples are not beside the checkout")


def relabel(folder: Path, change) -> None:
    for path in folder.glob("*_labels/*.png"):
        Image.fromarray(change(np.asarray(Image.open(path)))).save(path)


def from_one(mask):
    return np.where(mask == 255, 255, mask + 1).astype(np.uint8)


def test_both_ways_to_write_labels_are_told_apart_by_the_masks_themselves(tmp_path):
    zero = fake_nyud(tmp_path / "zero", seed=0)
    one, raw = fake_nyud(tmp_path / "one", seed=0), fake_nyud(tmp_path / "raw", seed=0)
    relabel(one, from_one)
    relabel(raw, lambda mask: mask + np.uint8(1))  # void is 0, as the table of raw labels leaves it
    for split in ("train", "val"):
        expected = open_nyud(zero, split)
        for root in (one, raw):
            for i in range(3):
                np.testing.assert_array_equal(open_nyud(root, split)[i].mask, expected[i].mask)
        stored = np.asarray(Image.open(sorted((zero / f"{split}_labels").iterdir())[0]))
        np.testing.assert_array_equal(expected[0].mask, stored)
    assert expected.notes == ("val: 3 images here, 654 in the complete data set",)


def test_masks_that_do_not_tell_are_refused_until_a_file_says_it(tmp_path):
    root = fake_nyud(tmp_path, seed=0)
    relabel(root, lambda mask: np.where(mask == 255, 255, mask.clip(3, 30)).astype(np.uint8))
    with pytest.raises(DatasetError, match=r"whether labels start at 0 .* or at 1 .* write first_label\.txt there"):
        open_nyud(root, "val")
    for first in (0, 1):
        (root / "first_label.txt").write_text(f"{first}\n")
        stored = np.asarray(Image.open(root / "val_labels" / "000001.png")).astype(int)
        mask = open_nyud(root, "val")[0].mask
        np.testing.assert_array_equal(mask[stored < 255], stored[stored < 255] - first)
    (root / "first_label.txt").write_text("wall")
    with pytest.raises(DatasetError, match="expected 0 or 1 in .*first_label.txt.*, got 'wall'"):
        open_nyud(root, "val")


def test_the_other_split_helps_to_tell_and_need_not_be_there(tmp_path):
    root = fake_nyud(tmp_path, seed=0)
    for path in (root / "val_labels").iterdir():
        Image.fromarray(np.asarray(Image.open(path)).clip(3, 30)).save(path)
    assert open_nyud(root, "val")[0].mask.max() == 30
    for path in (root / "train_labels").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"write first_label\.txt"):
        open_nyud(root, "val")
    with pytest.raises(DatasetError, match=r"3 are absent: train_labels.000003\.png"):
        open_nyud(root, "train")


def test_folders_are_read_without_lists_and_test_is_val(tmp_path):
    root = fake_nyud(tmp_path, seed=0)
    listed = open_nyud(root, "test")
    for name in ("train.nyu", "val.nyu"):
        (root / name).unlink()
    found = open_nyud(root, "val")
    assert found.names == listed.names == ("000001", "000002", "000009")
    np.testing.assert_array_equal(found[2].mask, listed[2].mask)
    (root / "val_labels" / "000002.png").unlink()
    with pytest.raises(DatasetError, match=r"1 images without mask \(000002\.png\); unpack"):
        open_nyud(root, "val")


def test_whole_frames_are_cropped_and_others_are_not(tmp_path):
    root = fake_nyud(tmp_path, seed=0)
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    labels = np.random.default_rng(1).integers(0, 40, (480, 640), dtype=np.uint8)
    Image.fromarray(frame).save(root / "val_images" / "000001.png")
    Image.fromarray(labels).save(root / "val_labels" / "000001.png")
    val = open_nyud(root, "val")
    np.testing.assert_array_equal(val[0].image, frame[6:474, 7:632])
    np.testing.assert_array_equal(val[0].mask, labels[6:474, 7:632])
    np.testing.assert_array_equal(val.read_mask(0), val[0].mask)
    assert val[1].image.shape == (40, 56, 3)
    Image.fromarray(labels[:, :600]).save(root / "val_labels" / "000001.png")
    for read in (val.read_mask, val.__getitem__):
        with pytest.raises(DatasetError, match="000001: expected a mask of the image's size 468x625 .* got 480x600"):
            read(0)


def test_the_official_file_is_read_upright_and_cropped_to_the_frame_without_white(tmp_path):
    fake_nyud_mat(tmp_path, seed=0)
    train, test = open_nyud(tmp_path, "train"), open_nyud(tmp_path, "val")
    assert train.names == ("000002", "000003", "000006")
    assert test.names == ("000001", "000004", "000005")
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat") as file:
        image, labels = file["images"][5], file["labels"][5]
    sample = train[2]
    assert sample.image.shape == (468, 625, 3)
    for row, column, channel in ((0, 0, 0), (467, 624, 2), (100, 300, 1)):
        assert sample.image[row, column, channel] == image[channel, column + 7, row + 6]
    table = json.loads((PACKAGE / "class_tables/nyud_raw_labels.json").read_text())
    for row, column in ((0, 0), (467, 624), (100, 300), (240, 10)):
        raw = int(labels[column + 7, row + 6])
        assert sample.mask[row, column] == (255 if raw == 0 else table["labels"][raw - 1] - 1)
    assert (sample.image.min(axis=(1, 2)) < 255).all(), "no white row is left"
    assert (sample.image.min(axis=(0, 2)) < 255).all(), "no white column is left"


def test_the_official_data_set_reads_the_same_in_another_process(tmp_path):
    train = open_nyud(fake_nyud_mat(tmp_path, seed=0), "train")
    copy = pickle.loads(pickle.dumps(train))
    np.testing.assert_array_equal(copy[1].mask, train[1].mask)
    assert check_data(train).pixel_counts.sum() > 0


def test_the_official_split_stands_in_the_package(tmp_path):
    path = tmp_path / "nyu_depth_v2_labeled.mat"
    with h5py.File(path, "w") as file:  # nothing is stored of a data set that is not written
        file.create_dataset("images", (1449, 3, 640, 480), np.uint8, chunks=(1, 3, 640, 480))
        file.create_dataset("labels", (1449, 640, 480), np.uint16, chunks=(1, 640, 480))
    train, test = open_nyud(tmp_path, "train"), open_nyud(tmp_path, "test")
    assert (len(train), len(test)) == (795, 654)
    assert not set(train.names) & set(test.names)
    assert test.names[:4] == ("000001", "000002", "000009", "000014")
    assert train.notes == test.notes == ()
    assert (train[0].mask == 255).all()


def test_what_is_wrong_with_an_official_file_is_said(tmp_path, monkeypatch):
    root = fake_nyud_mat(tmp_path, seed=0)
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "a") as file:
        file["labels"][1, 300:302, 200] = 895
    with pytest.raises(LabelError, match=r"frame 2: expected labels 0\.\.894, got 895 in 2 pixels"):
        open_nyud(root, "train").read_mask(0)
    scipy.io.savemat(root / "splits.mat", {"trainNdxs": [[7]], "testNdxs": [[1]]})
    with pytest.raises(DatasetError, match=r"expected frame numbers 1\.\.6 in trainNdxs of .*splits\.mat, got 7"):
        open_nyud(root, "train")
    (root / "splits.mat").write_bytes(b"no matlab file at all")
    with pytest.raises(DatasetError, match=r"expected a MATLAB file of version 5 to 7, .*splits\.mat; unpack it again"):
        open_nyud(root, "train")
    (root / "splits.mat").unlink()
    with pytest.raises(DatasetError, match=r"expected the 1449 frames .* got 6; put splits\.mat beside"):
        open_nyud(root, "train")
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "a") as file:
        del file["labels"]
    with pytest.raises(DatasetError, match="expected labels in .* got images"):
        open_nyud(root, "train")
    (root / "nyu_depth_v2_labeled.mat").write_bytes(b"half a download")
    with pytest.raises(DatasetError, match=r"expected a MATLAB file of version 7\.3 \(HDF5\).* download it again"):
        open_nyud(root, "train")
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(
        MissingExtraError, match=r"h5py to read the MATLAB 7.3 file .*nyu_depth_v2_labeled\.mat.*'refineseg\[mat\]'"
    ):
        open_nyud(root, "train")


def test_a_file_with_its_axes_the_other_way_round_is_refused(tmp_path):
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"], file["labels"] = np.zeros((2, 3, 480, 640), np.uint8), np.zeros((2, 480, 640), np.uint16)
    with pytest.raises(DatasetError, match=r"expected images \(N, 3, 640, 480\) .* got \(2, 3, 480, 640\)"):
        open_nyud(tmp_path, "train")


def test_wrong_roots_splits_and_lists_are_named(tmp_path):
    with pytest.raises(DatasetError, match="expected an NYUDv2 split of train, test, val, fit, held_out, got 'valid'"):
        open_nyud(tmp_path, "valid")
    with pytest.raises(DatasetError, match=r"expected NYUDv2 in .*: nyu_depth_v2_labeled\.mat, or train\.nyu, got no"):
        open_nyud(tmp_path, "train")
    fake_nyud_mat(tmp_path / "inner", seed=0)
    with pytest.raises(DatasetError, match=f"give {tmp_path / 'inner'}"):
        open_nyud(tmp_path, "train")
    (tmp_path / "val.nyu").write_text("val_images/1.png\n")
    with pytest.raises(DatasetError, match=r"expected 'image<TAB>mask' on each line of .*, got val_images/1\.png;"):
        open_nyud(tmp_path, "val")


@real_samples
def test_real_masks_are_the_files_and_the_official_file_agrees_with_them():
    """The masks of two programs' authors, and the official file made from the same frames by the inverse table."""
    frames = json.loads((REAL / "official_mat" / "frames.json").read_text())
    official = {split: open_dataset("nyud", REAL / "official_mat", split=split) for split in ("train", "test")}
    of_frame = {}
    for split, dataset in official.items():
        for i in range(len(dataset)):
            of_frame[frames[int(dataset.name(i)) - 1]["official_index_1based"]] = official[split][i]
    for split in ("train", "val"):
        dataset = open_dataset("nyud", REAL, split=split)
        for i in range(len(dataset)):
            name = dataset.name(i)
            stored = np.asarray(Image.open(REAL / f"{split}_labels" / f"{name}.png"))
            stored = stored[6:474, 7:632] if stored.shape == (480, 640) else stored
            np.testing.assert_array_equal(dataset[i].mask, stored)
            np.testing.assert_array_equal(of_frame[int(name)].mask, stored)
            np.testing.assert_array_equal(of_frame[int(name)].image, dataset[i].image)


@pytest.mark.skipif(not META.is_dir(), reason="the official tables are not beside the checkout")
def test_the_tables_of_the_package_are_the_official_ones(tmp_path):
    mapping = scipy.io.loadmat(META / "classMapping40.mat", squeeze_me=True)
    table = json.loads((PACKAGE / "class_tables/nyud_raw_labels.json").read_text())
    assert table["labels"] == mapping["mapClass"].tolist()
    assert list(catalog_classes("nyud").names) == mapping["className"].tolist()
    splits, own = scipy.io.loadmat(META / "splits.mat"), json.loads((PACKAGE / "split_lists/nyud.json").read_text())
    assert sorted(splits["trainNdxs"].ravel().tolist()) == own["train"]
    assert sorted(splits["testNdxs"].ravel().tolist()) == own["test"]


def test_rooms_are_held_out_whole():
    """On the official list: about a hundred frames, and no run of consecutive numbers on both sides."""
    numbers = packaged_table("split_lists", "nyud")["train"]
    names = [f"{number:06d}" for number in numbers]
    held_out = held_out_names(names)
    assert 90 <= len(held_out) <= 110
    for number in numbers:
        if number + 1 in numbers:
            assert (f"{number:06d}" in held_out) == (f"{number + 1:06d}" in held_out)
    with pytest.raises(DatasetError, match="expected frame numbers in the names"):
        held_out_names(["kitchen"])
