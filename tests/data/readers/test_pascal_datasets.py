"""VOC and SBD as unpacked, from tiny trees in their true layouts and from real files; views that join and leave out."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from conftest import SHARED
from fakes import pascal as fake_pascal
from fakes.pascal import SBD_TRAIN, VOC_TEST, VOC_TRAIN, VOC_VAL, fake_sbd, fake_voc
from refineseg.data.checks.label_check import check_data
from refineseg.data.datasets import open_dataset
from refineseg.data.readers.pascal_layout import read_ids
from refineseg.data.readers.sbd import open_sbd, read_sbd_mask
from refineseg.data.readers.voc import open_voc
from refineseg.data.samples.catalog import catalog_classes
from refineseg.data.samples.sample import Concatenation, Dataset, Without
from refineseg.errors import DatasetError, ImageError, LabelError, MissingExtraError

SAMPLES = SHARED / "samples"
real_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the real samples are not beside the checkout")
VOC_2012 = Path("VOCdevkit") / "VOC2012"
SBD = Path("benchmark_RELEASE") / "dataset"


@pytest.fixture
def voc(tmp_path):
    return fake_voc(tmp_path / "voc")


@pytest.fixture
def sbd(tmp_path):
    return fake_sbd(tmp_path / "sbd")


def _names(dataset):
    return tuple(dataset.name(i) for i in range(len(dataset)))


def _stored(path):
    """The palette indices of a PNG, read without the package."""
    return np.array(Image.open(path))


# ---------------------------------------------------------------------------------------------------------------- VOC


def test_voc_splits_hold_the_images_of_their_lists_with_indices_and_void(voc):
    assert [_names(open_voc(voc, split)) for split in ("train", "val", "test")] == [VOC_TRAIN, VOC_VAL, VOC_TEST]
    assert set(_names(open_voc(voc, "trainval"))) == {*VOC_TRAIN, *VOC_VAL}
    dataset = open_voc(voc, "val")
    assert isinstance(dataset, Dataset)
    assert (dataset.class_info.num_classes, dataset.class_info.names[15], dataset.notes) == (21, "person", ())
    for index in range(len(dataset)):
        sample = dataset[index]
        stored = _stored(voc / VOC_2012 / "SegmentationClass" / f"{sample.name}.png")
        np.testing.assert_array_equal(sample.mask, stored)
        np.testing.assert_array_equal(dataset.read_mask(index), stored)
        assert len(np.unique(stored)) >= 4
        assert 255 in stored
        jpeg = Image.open(voc / VOC_2012 / "JPEGImages" / f"{sample.name}.jpg").convert("RGB")
        np.testing.assert_array_equal(sample.image, np.array(jpeg))
    assert check_data(dataset).pixel_counts.sum() > 0


@pytest.mark.parametrize("root", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_may_be_given_by_any_of_its_folders(voc, root):
    assert _names(open_voc(voc / root, "train")) == VOC_TRAIN


def test_voc_test_images_have_no_masks(voc):
    dataset = open_voc(voc, "test")
    assert all(dataset[i].mask is None and dataset.read_mask(i) is None for i in range(len(dataset)))


def test_train_aug_reads_the_grey_masks_of_sbd_and_none_of_vals_images(voc):
    dataset = open_voc(voc, "train_aug")
    assert len(dataset) == 9
    assert not set(_names(dataset)) & set(VOC_VAL)
    assert dataset.notes == ()
    folder = voc / VOC_2012 / "SegmentationClassAug"
    np.testing.assert_array_equal(dataset[8].mask, _stored(folder / f"{dataset.name(8)}.png"))
    assert 255 not in dataset[0].mask


def test_train_aug_is_found_under_its_other_names(voc):
    lists = voc / VOC_2012 / "ImageSets" / "Segmentation"
    expected = _names(open_voc(voc, "train_aug"))
    (lists / "train_aug.txt").rename(lists / "trainaug.txt")
    assert _names(open_voc(voc, "train_aug")) == expected
    (lists / "trainaug.txt").unlink()
    (lists / "aug.txt").write_text("\n".join(i for i in expected if i not in VOC_TRAIN))
    for identifier in VOC_TRAIN:  # this layout keeps the masks of train in SegmentationClass alone
        (voc / VOC_2012 / "SegmentationClassAug" / f"{identifier}.png").unlink()
    dataset = open_voc(voc, "train_aug")
    assert _names(dataset) == expected
    assert 255 in dataset[0].mask
    assert 255 not in dataset[8].mask


def test_a_train_aug_list_that_holds_images_of_val_is_told(voc):
    lists = voc / VOC_2012 / "ImageSets" / "Segmentation"
    lists.joinpath("train_aug.txt").write_text("\n".join(VOC_TRAIN[:2]))
    lists.joinpath("val.txt").write_text(VOC_TRAIN[1])
    assert open_voc(voc, "train_aug").notes == (
        "train_aug: 1 of its images are also in val, so that scores on val are too good",
    )


def test_list_lines_may_hold_paths_flags_and_windows_line_ends(tmp_path):
    listing = tmp_path / "list.txt"
    listing.write_bytes(
        "\ufeff2007_000039 -1\r\n/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png\r\n\r\n"
        "JPEGImages\\2007_000063.JPG\r\n".encode()
    )
    assert read_ids(listing) == ("2007_000039", "2007_000032", "2007_000063")


def test_wrong_voc_folders_splits_and_lists_are_named(voc, tmp_path):
    with pytest.raises(DatasetError, match=r"expected a VOC split of train, val, .*, got 'dev'; join splits with '\+'"):
        open_voc(voc, "dev")
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "kittens").mkdir()
    with pytest.raises(
        DatasetError, match=r"expected PASCAL VOC 2012 in .*else: VOCdevkit/VOC2012 with .*; got a folder with kittens;"
    ):
        open_voc(tmp_path / "else", "train")
    lists = voc / VOC_2012 / "ImageSets" / "Segmentation"
    lists.joinpath("train.txt").write_text("\n\n")
    with pytest.raises(DatasetError, match=r"train\.txt without any line; unpack its archive again"):
        open_voc(voc, "train")
    lists.joinpath("train.txt").write_text(f"{VOC_TRAIN[0]}\n{VOC_TRAIN[1]}\n{VOC_TRAIN[0]}\n")
    with pytest.raises(DatasetError, match=rf"got 1 more than once: {VOC_TRAIN[0]}; remove the repeated lines"):
        open_voc(voc, "train")
    lists.joinpath("train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match=r"expected a list of image ids, got .*train\.txt, which cannot be read"):
        open_voc(voc, "train")
    lists.joinpath("test.txt").unlink()
    with pytest.raises(DatasetError, match=r"the list of VOC's test images: .*no such file; .*VOC2012test\.tar"):
        open_voc(voc, "test")
    lists.joinpath("train_aug.txt").unlink()
    with pytest.raises(
        DatasetError, match=r"augmented training images: .*train_aug\.txt or .*trainaug\.txt, but there"
    ):
        open_voc(voc, "train_aug")


def test_a_half_unpacked_voc_names_the_first_absent_files(voc):
    folder = voc / VOC_2012
    (folder / "SegmentationClass" / f"{VOC_VAL[1]}.png").unlink()
    with pytest.raises(
        DatasetError,
        match=rf"expected the 3 masks of .*val\.txt in .*SegmentationClass, but 1 are absent: {VOC_VAL[1]}\.png; "
        r"unpack VOCtrainval_11-May-2012\.tar",
    ):
        open_voc(voc, "val")
    shutil.rmtree(folder / "SegmentationClass")
    with pytest.raises(DatasetError, match=r"SegmentationClass \(there is no such folder\), but 3 are absent"):
        open_voc(voc, "train")
    shutil.rmtree(folder / "JPEGImages")
    with pytest.raises(DatasetError, match=r"expected the 3 images of .*JPEGImages \(there is no such folder\), but 3"):
        open_voc(voc, "test")


def test_a_voc_mask_of_another_size_or_with_other_values_is_an_error(voc):
    path = voc / VOC_2012 / "SegmentationClass" / f"{VOC_VAL[0]}.png"
    Image.fromarray(np.zeros((56, 40), np.uint8)).save(path)
    dataset = open_voc(voc, "val")
    for read in (dataset.read_mask, dataset.__getitem__):
        with pytest.raises(
            DatasetError, match=rf"{VOC_VAL[0]}\.png: expected a mask of the image's size 40x56 .* 56x40"
        ):
            read(0)
    Image.fromarray(np.full((40, 56), 21, np.uint8)).save(path)
    with pytest.raises(LabelError, match=r"expected 0\.\.20 or 255, got 21 in 2240 pixels"):
        dataset.read_mask(0)


def test_opening_decodes_nothing_and_lists_folders_instead_of_asking_for_each_file(tmp_path, monkeypatch):
    folder = tmp_path / VOC_2012
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    ids = [f"2008_{i:06d}" for i in range(1000)]
    (folder / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(ids))
    for identifier in ids:
        (folder / "JPEGImages" / f"{identifier}.jpg").touch()
        (folder / "SegmentationClass" / f"{identifier}.png").touch()
    asked = []
    genuine = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **options: asked.append(self) or genuine(self, **options))
    dataset = open_voc(tmp_path, "train")
    assert len(dataset) == 1000
    assert len(asked) < 20
    with pytest.raises(ImageError, match="empty"):
        dataset[0]


# ---------------------------------------------------------------------------------------------------------------- SBD


def test_sbd_masks_are_those_of_the_mat_files_and_have_vocs_classes(sbd):
    dataset = open_sbd(sbd, "train")
    assert _names(dataset) == SBD_TRAIN
    assert dataset.class_info == catalog_classes("voc")
    for index, identifier in enumerate(SBD_TRAIN):
        stored = loadmat(sbd / SBD / "cls" / f"{identifier}.mat")["GTcls"][0]["Segmentation"][0]
        np.testing.assert_array_equal(dataset[index].mask, stored)
        np.testing.assert_array_equal(dataset.read_mask(index), stored)
        assert dataset[index].mask.dtype == np.uint8
        assert len(np.unique(stored)) == 4
        assert 255 not in stored


@pytest.mark.parametrize("root", [".", "benchmark_RELEASE", "benchmark_RELEASE/dataset"])
def test_sbd_may_be_given_by_any_of_its_folders_and_all_is_both_splits(sbd, root):
    assert len(open_sbd(sbd / root, "all")) == 7
    assert len(open_sbd(sbd / root, "train_noval")) == 3
    assert open_sbd(sbd, "train_noval").notes == ()
    assert open_sbd(sbd, "all").notes == ("sbd all: some of its images are in VOC's val",)


def test_sbds_own_splits_and_voc_join_without_the_images_of_vocs_val(voc, sbd):
    validation = open_voc(voc, "val")
    training = Without(Concatenation([open_voc(voc, "train"), open_sbd(sbd, "all")]), set(_names(validation)))
    assert (len(training), training.dropped) == (9, 1)
    assert set(_names(training)) == set(_names(open_voc(voc, "train_aug")))
    assert training.notes == ("sbd all: some of its images are in VOC's val", "1 of 10 samples left out by name")
    assert training.class_info == validation.class_info
    assert isinstance(training, Dataset)
    for index in range(len(training)):
        assert training[index].name == training.name(index)
        np.testing.assert_array_equal(training.read_mask(index), training[index].mask)
    for index in (-1, len(training)):
        with pytest.raises(IndexError):
            training[index]


def test_the_shared_image_is_the_same_in_voc_and_sbd(voc, sbd):
    """As in the real data: equal ids are equal photographs, and masks that agree outside VOC's void."""
    ours, theirs = open_voc(voc, "val")[0], open_sbd(sbd, "train")[0]
    assert ours.name == theirs.name
    np.testing.assert_array_equal(ours.image, theirs.image)
    np.testing.assert_array_equal(ours.mask[ours.mask != 255], theirs.mask[ours.mask != 255])


@pytest.mark.parametrize("stored", [np.zeros((1, 1), np.uint8), "text", np.zeros((1, 5), np.uint8)])
def test_sbd_masks_that_are_no_pictures_are_refused(tmp_path, stored):
    savemat(tmp_path / "a.mat", {"GTcls": {"Segmentation": stored}})
    with pytest.raises(DatasetError, match=r"expected GTcls\.Segmentation of integers by row and column in .*a\.mat"):
        read_sbd_mask(tmp_path / "a.mat")


def test_wrong_sbd_folders_splits_and_lists_are_named(sbd, tmp_path):
    with pytest.raises(DatasetError, match=r"expected an SBD split of train, val, train_noval, all, got 'test'"):
        open_sbd(sbd, "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"expected SBD in .*: benchmark_RELEASE/dataset with img, cls, .*nothing;"):
        open_sbd(tmp_path / "empty", "train")
    (sbd / SBD / "train_noval.txt").unlink()
    with pytest.raises(DatasetError, match=r"list of SBD's train_noval images: .*is a file of its own there"):
        open_sbd(sbd, "train_noval")
    (sbd / SBD / "cls" / f"{SBD_TRAIN[2]}.mat").unlink()
    with pytest.raises(DatasetError, match=rf"but 1 are absent: {SBD_TRAIN[2]}\.mat; unpack benchmark\.tgz"):
        open_sbd(sbd, "train")


def test_other_mat_files_are_no_sbd_masks(tmp_path):
    path = tmp_path / "a.mat"
    savemat(path, {"GTcls": {"Boundaries": np.zeros((2, 2))}})
    with pytest.raises(DatasetError, match=r"expected GTcls of one entry with a field Segmentation in .*a\.mat, got"):
        read_sbd_mask(path)
    savemat(path, {"GTcls": 3})
    with pytest.raises(DatasetError, match="field Segmentation"):
        read_sbd_mask(path)
    savemat(path, {"GTcls": {"Segmentation": np.full((2, 3), 0.5)}})
    with pytest.raises(DatasetError, match=r"expected GTcls\.Segmentation of integers by row and column .* float64"):
        read_sbd_mask(path)
    savemat(path, {"GTcls": {"Segmentation": np.array([[0, 255, 20]], np.uint8).repeat(2, axis=0)}})
    with pytest.raises(LabelError, match=r"a\.mat: expected labels 0\.\.20, got 255 in 2 pixels"):
        read_sbd_mask(path)
    path.write_bytes(b"no mat file at all" * 20)
    with pytest.raises(DatasetError, match=r"a\.mat"):
        read_sbd_mask(path)


def test_an_sbd_mask_of_another_size_is_an_error(sbd):
    path = sbd / SBD / "cls" / f"{SBD_TRAIN[0]}.mat"
    savemat(path, {"GTcls": {"Segmentation": np.zeros((56, 40), np.uint8)}})
    with pytest.raises(DatasetError, match=rf"{SBD_TRAIN[0]}\.mat: expected a mask of the image's size 40x56"):
        open_sbd(sbd, "train").read_mask(0)


def test_masks_are_read_without_scipy(sbd, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    assert open_sbd(sbd, "train")[0].mask is not None
    with pytest.raises(MissingExtraError, match=r"the package scipy to write .*\.mat"):
        fake_sbd(tmp_path / "new")


# --------------------------------------------------------------------------------------------------- names, real files


def test_data_sets_are_opened_by_name_and_travel_to_other_processes(voc, sbd):
    for name, root in (("voc", voc), ("sbd", sbd)):
        dataset = open_dataset(name, root, split="train+val")
        copy = pickle.loads(pickle.dumps(dataset))
        np.testing.assert_array_equal(copy[4].mask, dataset[4].mask)
        assert len(copy) == len(dataset) >= 6


def test_fake_trees_depend_on_the_seed_alone(tmp_path):
    def contents(root):
        return {p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*")) if p.suffix in (".jpg", ".png")}

    first, again, other = (contents(fake_voc(tmp_path / str(i), seed=seed)) for i, seed in enumerate((3, 3, 4)))
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[path] != other[path] for path in first)
    assert fake_pascal.SIZE_HW == (40, 56)


@real_samples
def test_real_voc_masks_are_read_as_indices():
    for split in ("train", "val"):
        dataset = open_voc(SAMPLES / "voc2012", split)
        stored = _stored(SAMPLES / "voc2012" / VOC_2012 / "SegmentationClass" / f"{dataset.name(0)}.png")
        np.testing.assert_array_equal(dataset[0].mask, stored)
        assert set(np.unique(stored)) <= {0, 12, 17, 255}
    assert len(open_voc(SAMPLES / "voc2012", "test")) == 7


@real_samples
def test_sbd_masks_made_from_real_voc_masks_agree_with_them():
    ours, theirs = (open_dataset(n, SAMPLES / f, split="train") for n, f in (("voc", "voc2012"), ("sbd", "sbd")))
    assert ours.name(0) == theirs.name(0)
    labelled = ours[0].mask != 255
    np.testing.assert_array_equal(theirs[0].mask[labelled], ours[0].mask[labelled])


@real_samples
def test_the_published_train_aug_list_is_read(tmp_path):
    shutil.copy(SHARED / "meta" / "voc" / "train_aug.txt", tmp_path)
    assert len(read_ids(tmp_path / "train_aug.txt")) == 10582
