"""SUN RGB-D: extracted labels in several layouts, and the toolbox read one mask at a time."""

import pickle
import shutil

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

from conftest import SHARED
from fakes.scenes import fake_sunrgbd, fake_sunrgbd_toolbox
from refineseg.data.readers.sunrgbd import open_sunrgbd
from refineseg.errors import DatasetError, LabelError

REAL = SHARED / "samples" / "sunrgbd"
real_samples = pytest.mark.skipif(not REAL.is_dir(), reason="the real samples are not beside the checkout")


def classes_of(labels):
    return np.where(labels == 0, 255, labels.astype(int) - 1)


def test_labels_1_to_37_are_the_classes_and_0_is_void(tmp_path):
    for split in ("train", "test"):
        dataset = open_sunrgbd(fake_sunrgbd(tmp_path, seed=0), split)
        assert [dataset.name(i) for i in range(3)] == ["img-000001", "img-000002", "img-000003"]
        for i in range(3):
            stored = np.asarray(Image.open(tmp_path / "labels" / split / f"{dataset.name(i)}.png"))
            np.testing.assert_array_equal(dataset[i].mask, classes_of(stored))
    assert dataset.class_info.num_classes == 37
    assert dataset.notes == ("test: 3 images here, 5050 in the complete data set",)


@pytest.mark.parametrize("offset", [0, 5050])
def test_of_labels_in_one_folder_the_first_5050_are_those_of_the_test_images(tmp_path, offset):
    source = fake_sunrgbd(tmp_path / "source", seed=0)
    root, labels = tmp_path / "root", tmp_path / "root" / "labels"
    labels.mkdir(parents=True)
    for split, added in (("train", 5050), ("test", 0)):
        shutil.copytree(source / "images" / split, root / f"SUNRGBD-{split}_images")
        for path in (source / "labels" / split).iterdir():
            shutil.copy(path, labels / f"img-{int(path.stem[-6:]) + added:06d}.png")
    if offset:  # training images may also carry the numbers of their labels
        for path in sorted((root / "SUNRGBD-train_images").iterdir()):
            path.rename(path.with_name(f"img-{int(path.stem[-6:]) + offset:06d}.jpg"))
    for split in ("train", "test"):
        dataset = open_sunrgbd(root, split)
        for i in range(3):
            np.testing.assert_array_equal(dataset[i].mask, open_sunrgbd(source, split)[i].mask)


def test_the_toolbox_pairs_masks_with_scenes_by_its_table_and_reads_them_upright(tmp_path):
    root = fake_sunrgbd_toolbox(tmp_path, seed=0)
    train, test = open_sunrgbd(root, "train"), open_sunrgbd(root, "test")
    assert train.names == ("kv1/set0/scene4", "kv2/set1/scene1", "kv2/set1/scene5")
    assert test.names == ("kv1/set0/scene0", "kv1/set0/scene2", "kv2/set1/scene3")
    with h5py.File(root / "SUNRGBDtoolbox/Metadata/SUNRGBD2Dseg.mat") as file:
        for dataset, numbers in ((train, (4, 1, 5)), (test, (0, 2, 3))):
            for i, number in enumerate(numbers):
                labels = file[file["SUNRGBD2Dseg"]["seglabel"][number, 0]][()]
                np.testing.assert_array_equal(dataset[i].mask, classes_of(labels.T))
                image = np.asarray(Image.open(root / "SUNRGBD" / dataset.name(i) / "image" / f"scene{number}.jpg"))
                np.testing.assert_array_equal(dataset[i].image, image)
    copy = pickle.loads(pickle.dumps(train))
    np.testing.assert_array_equal(copy.read_mask(2), train[2].mask)


def test_without_the_table_the_scenes_own_labels_prove_the_order(tmp_path):
    root = fake_sunrgbd_toolbox(tmp_path, seed=0)
    test, train = open_sunrgbd(root, "test"), open_sunrgbd(root, "train")
    expected = [*(test[i] for i in range(3)), *(train[i] for i in range(3))]
    masks = [np.where(s.mask == 255, 0, s.mask + 1).astype(np.uint8) for s in expected]
    (root / "SUNRGBDtoolbox/Metadata/SUNRGBDMeta.mat").unlink()
    with pytest.raises(DatasetError, match=r"expected .*SUNRGBDMeta\.mat, which says which scene each mask"):
        open_sunrgbd(root, "test")
    names = np.array(["other thing", *(n.replace("_", " ").title() for n in test.class_info.names)], object)
    for sample, labels in zip(expected, masks, strict=True):
        own = np.where(labels == 0, 1, labels + 1).astype(np.uint16)  # numbers of this scene's own names
        scipy.io.savemat(root / "SUNRGBD" / sample.name / "seg.mat", {"names": names, "seglabel": own})
    with pytest.raises(DatasetError, match=r"SUNRGBDMeta\.mat"):  # its masks are in neither order of the split list
        open_sunrgbd(root, "test")
    with h5py.File(root / "SUNRGBDtoolbox/Metadata/SUNRGBD2Dseg.mat", "a") as file:
        for number, labels in enumerate(masks):
            file[file["SUNRGBD2Dseg"]["seglabel"][number, 0]][...] = labels.T
    again = open_sunrgbd(root, "train")
    assert "masks paired by comparison with the scenes' own labels" in again.notes[1]
    for i in range(3):
        np.testing.assert_array_equal(again[i].mask, expected[3 + i].mask)
        np.testing.assert_array_equal(again[i].image, expected[3 + i].image)


def test_what_is_wrong_with_the_toolbox_is_said(tmp_path):
    root = fake_sunrgbd_toolbox(tmp_path, seed=0)
    toolbox = root / "SUNRGBDtoolbox"
    with h5py.File(toolbox / "Metadata/SUNRGBD2Dseg.mat", "a") as file:
        file[file["SUNRGBD2Dseg"]["seglabel"][4, 0]][0, :3] = 38
    with pytest.raises(LabelError, match=r"mask 5: expected labels 0\.\.37, got 38 in 3 pixels"):
        open_sunrgbd(root, "train").read_mask(0)
    image = root / "SUNRGBD/kv2/set1/scene1/image/scene1.jpg"
    image.rename(tmp_path / "away.jpg")
    with pytest.raises(DatasetError, match=r"but 1 are absent: SUNRGBD/kv2/set1/scene1/image/scene1\.jpg; unpack SUN"):
        open_sunrgbd(root, "train")
    (tmp_path / "away.jpg").rename(image)
    rows = np.array([[("a", "b")]], [("rgb", object), ("depth", object)])
    scipy.io.savemat(toolbox / "Metadata/SUNRGBDMeta.mat", {"SUNRGBDMeta": rows})
    with pytest.raises(DatasetError, match=r"expected a struct array with rgbpath and rgbname in .*, got rgb, depth;"):
        open_sunrgbd(root, "train")
    rows = np.array([[("/x/SUNRGBD/kv1/a/image/a.jpg", "a.jpg")]], [("rgbpath", object), ("rgbname", object)])
    scipy.io.savemat(toolbox / "Metadata/SUNRGBDMeta.mat", {"SUNRGBDMeta": rows})
    with pytest.raises(DatasetError, match=r"got 6 for 1 scenes in .*without 3 of .*kv1/set0/scene4"):
        open_sunrgbd(root, "train")
    scipy.io.savemat(toolbox / "traintestSUNRGBD/allsplit.mat", {"alltrain": [[1, 2]]})
    with pytest.raises(DatasetError, match=r"expected paths in alltrain of .*allsplit\.mat, got 1, 2"):
        open_sunrgbd(root, "train")
    with pytest.raises(DatasetError, match=r"expected the variables alltest in .*allsplit\.mat, got alltrain"):
        open_sunrgbd(root, "test")
    with h5py.File(toolbox / "Metadata/SUNRGBD2Dseg.mat", "w") as file:
        file["SUNRGBD2Dseg/labels"] = [1]
    scipy.io.savemat(toolbox / "traintestSUNRGBD/allsplit.mat", {"alltrain": np.array([["a"]], object)})
    with pytest.raises(DatasetError, match="expected SUNRGBD2Dseg with the field seglabel in .*, got labels"):
        open_sunrgbd(root, "train")


def test_wrong_roots_splits_and_half_unpacked_archives_are_named(tmp_path):
    with pytest.raises(DatasetError, match="expected a SUN RGB-D split of train, test, got 'val'"):
        open_sunrgbd(tmp_path, "val")
    with pytest.raises(DatasetError, match="expected SUN RGB-D in .* got no folders; unpack SUNRGBD.zip"):
        open_sunrgbd(tmp_path, "train")
    root = fake_sunrgbd(tmp_path, seed=0)
    (root / "labels/train/img-000002.png").unlink()
    with pytest.raises(DatasetError, match=r"got 1 images without mask \(img-000002\.jpg\); unpack sunrgbd_test_train"):
        open_sunrgbd(root, "train")
    (root / "images/test/img-000003.jpg").unlink()
    with pytest.raises(DatasetError, match=r"got 1 masks without image \(img-000003\.png\)"):
        open_sunrgbd(root, "test")
    shutil.copy(root / "images/test/img-000001.jpg", root / "images/test/picture-000001.jpg")
    with pytest.raises(DatasetError, match=r"expected one file of number 1 in .*, got img-000001\.jpg and picture"):
        open_sunrgbd(root, "test")


@real_samples
@pytest.mark.parametrize("split", ["train", "test"])
def test_real_labels_are_the_same_extracted_and_in_the_toolbox(split, tmp_path):
    for name in ("SUNRGBD", "SUNRGBDtoolbox"):
        (tmp_path / name).symlink_to(REAL / name)
    extracted, toolbox = open_sunrgbd(REAL, split), open_sunrgbd(tmp_path, split)
    assert len(extracted) == len(toolbox) == len(list((REAL / "labels" / split).iterdir()))
    for i in range(len(extracted)):
        stored = np.asarray(Image.open(REAL / "labels" / split / f"{extracted.name(i)}.png"))
        np.testing.assert_array_equal(extracted[i].mask, classes_of(stored))
        np.testing.assert_array_equal(toolbox[i].mask, classes_of(stored))
        np.testing.assert_array_equal(toolbox[i].image, extracted[i].image)
