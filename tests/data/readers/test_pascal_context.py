"""PASCAL-Context: three ways its masks are written, two orders of its classes, one result."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from conftest import SHARED
from fakes.pascal import CONTEXT_TRAIN, CONTEXT_VAL, fake_pascal_context
from refineseg.class_info import voc_palette
from refineseg.data.datasets import open_dataset
from refineseg.data.readers.pascal_context import ALPHABETICAL_IDS, IDS_459, open_pascal_context
from refineseg.data.samples.catalog import catalog_classes
from refineseg.errors import DatasetError, LabelError

SAMPLES = SHARED / "samples" / "pascal_context"
real_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the real samples are not beside the checkout")
VOC_2010 = Path("VOCdevkit") / "VOC2010"
PNGS = VOC_2010 / "SegmentationClassContext"
# name: (RefineNet's id, alphabetical id, number among the 459 labels), some of each kind
KNOWN = {
    "background": (0, 0, 0),
    "aeroplane": (1, 1, 2),
    "bird": (3, 7, 25),
    "table": (11, 50, 397),
    "tvmonitor": (20, 55, 427),
    "bag": (21, 2, 9),
    "curtain": (42, 22, 105),
    "bedclothes": (52, 4, 19),
    "water": (57, 57, 445),
    "wood": (59, 59, 458),
}


def _masks(dataset):
    return {dataset.name(i): dataset.read_mask(i) for i in range(len(dataset))}


def _assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, mask in first.items():
        np.testing.assert_array_equal(mask, second[name])


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """The masks of val from the .mat files, translated here by names that are known."""
    root = fake_pascal_context(tmp_path_factory.mktemp("truth"), masks="png", order="refinenet")
    return {name: np.array(Image.open(root / PNGS / f"{name}.png")) for name in CONTEXT_VAL}


def test_the_classes_have_their_numbers_in_all_three_lists():
    names = catalog_classes("pascal_context").names
    assert len(names) == len(IDS_459) == 60
    assert {
        name: (names.index(name), ALPHABETICAL_IDS[i], IDS_459[i]) for name in KNOWN for i in [names.index(name)]
    } == (KNOWN)


def test_mat_files_become_60_classes_and_all_other_labels_background(tmp_path, truth):
    root = fake_pascal_context(tmp_path)
    dataset = open_pascal_context(root, "val")
    assert dataset.class_info == catalog_classes("pascal_context")
    assert [dataset.name(i) for i in range(len(dataset))] == list(CONTEXT_VAL)
    assert len(open_pascal_context(root, "train")) == len(CONTEXT_TRAIN)
    _assert_equal(_masks(dataset), truth)
    np.testing.assert_array_equal(dataset[0].mask, truth[CONTEXT_VAL[0]])
    assert dataset[0].image.shape == (40, 56, 3)
    values = np.array([[25, 187, 459], [1, 458, 0]], np.uint16)
    savemat(root / "trainval" / f"{CONTEXT_VAL[0]}.mat", {"LabelMap": values})
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(root / VOC_2010 / "JPEGImages" / f"{CONTEXT_VAL[0]}.jpg")
    assert dataset[0].mask.tolist() == [[3, 36, 0], [0, 59, 0]]


def test_numbers_above_459_are_an_error(tmp_path):
    root = fake_pascal_context(tmp_path)
    path = root / "trainval" / f"{CONTEXT_VAL[0]}.mat"
    savemat(path, {"LabelMap": np.full((40, 56), 460, np.uint16)})
    with pytest.raises(LabelError, match=r"\.mat: expected labels 0\.\.459, got 460 in 2240 pixels"):
        open_pascal_context(root, "val").read_mask(0)
    savemat(path, {"LabelMap": np.zeros((4, 5, 6), np.uint16)})
    with pytest.raises(DatasetError, match=r"expected LabelMap of integers by row and column in .*\.mat"):
        open_pascal_context(root, "val").read_mask(0)


@pytest.mark.parametrize("order", ["refinenet", "alphabetical"])
def test_vocs_own_masks_show_the_order_of_png_masks(tmp_path, truth, order):
    root = fake_pascal_context(tmp_path, masks="png", order=order, voc_masks=True)
    dataset = open_pascal_context(root, "val")
    _assert_equal(_masks(dataset), truth)
    assert dataset.notes == (
        f"masks: SegmentationClassContext/*.png, classes in {order} order "
        "(100% of the object pixels as in SegmentationClass)",
    )


def test_a_palette_does_not_hide_the_alphabetical_order_from_vocs_masks(tmp_path, truth):
    """Grey masks are often given VOC's colours to look at them; that makes them no RefineNet masks."""
    root = fake_pascal_context(tmp_path, masks="png", order="alphabetical", voc_masks=True)
    for path in (root / PNGS).iterdir():
        image = Image.open(path).copy()
        image.putpalette([value for colour in voc_palette(256) for value in colour])
        image.save(path)
    _assert_equal(_masks(open_pascal_context(root, "val")), truth)


def test_without_vocs_masks_vocs_colours_mean_refinenets_order(tmp_path, truth):
    root = fake_pascal_context(tmp_path / "palette", masks="png")
    dataset = open_pascal_context(root, "val")
    _assert_equal(_masks(dataset), truth)
    assert dataset.notes[0].endswith("classes in refinenet order (the files have VOC's colours)")
    for path in (root / PNGS).iterdir():
        Image.open(path).convert("RGB").save(path)
    _assert_equal(_masks(open_pascal_context(root, "val")), truth)


def test_grey_masks_alone_have_no_known_order_until_it_is_said(tmp_path, truth):
    root = fake_pascal_context(tmp_path, masks="png", order="alphabetical")
    with pytest.raises(
        DatasetError,
        match=r"in which order its classes 0\.\.59 are, but the files do not tell: .* pascal_context_alphabetical or "
        r"pascal_context_refinenet, or add the folder SegmentationClass",
    ):
        open_pascal_context(root, "val")
    dataset = open_dataset("pascal_context_alphabetical", root, split="val")
    _assert_equal(_masks(dataset), truth)
    assert dataset.notes[0].endswith("classes in alphabetical order (as asked for)")
    believed = open_dataset("pascal_context_refinenet", root, split="val")
    assert any((believed.read_mask(i) != truth[name]).any() for i, name in enumerate(CONTEXT_VAL))


def test_an_order_that_vocs_masks_contradict_is_an_error(tmp_path):
    root = fake_pascal_context(tmp_path, masks="png", order="alphabetical", voc_masks=True)
    with pytest.raises(
        DatasetError,
        match=r"expected masks in refinenet class order in .*, but on 6 images they agree with .*SegmentationClass in "
        r"alphabetical order \(100% .*open them as pascal_context$",
    ):
        open_dataset("pascal_context_refinenet", root, split="val")
    assert len(open_dataset("pascal_context_alphabetical", root, split="val")) == 3


@pytest.mark.parametrize(("masks", "order"), [("mat", "refinenet"), ("png", "alphabetical")])
def test_with_59_classes_background_is_void(tmp_path, truth, masks, order):
    root = fake_pascal_context(tmp_path, masks=masks, order=order, voc_masks=True)
    dataset = open_dataset("pascal_context_59", root, split="val")
    assert dataset.class_info.names == catalog_classes("pascal_context").names[1:]
    assert dataset.class_info.palette == voc_palette(60)[1:]
    expected = {name: np.where(mask == 0, 255, mask.astype(int) - 1) for name, mask in truth.items()}
    assert all((mask == 255).any() for mask in expected.values())
    _assert_equal(_masks(dataset), expected)


def test_the_layout_of_paddleseg_is_read_and_the_voc_folder_may_be_given(tmp_path, truth):
    root = fake_pascal_context(tmp_path, masks="png", order="alphabetical", voc_masks=True) / VOC_2010
    (root / "SegmentationClassContext").rename(root / "Context")
    (root / "ImageSets" / "Segmentation").mkdir()
    for split in ("train", "val"):
        (root / "ImageSets" / "SegmentationContext" / f"{split}.txt").rename(
            root / "ImageSets" / "Segmentation" / f"{split}_context.txt"
        )
    dataset = open_pascal_context(root, "val")
    _assert_equal(_masks(dataset), truth)
    assert dataset.notes[0].startswith("masks: Context/*.png, classes in alphabetical order")


def test_wrong_context_folders_splits_and_files_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"expected a PASCAL-Context split of train, val, trainval, test, got 'dev'"):
        open_pascal_context(tmp_path, "dev")
    with pytest.raises(
        DatasetError, match=r"expected PASCAL-Context in .*VOC2010/JPEGImages with .*got a folder with no"
    ):
        open_pascal_context(tmp_path, "val")
    root = fake_pascal_context(tmp_path / "context")
    (root / "trainval" / f"{CONTEXT_VAL[2]}.mat").unlink()
    with pytest.raises(DatasetError, match=rf"but 1 are absent: {CONTEXT_VAL[2]}\.mat; unpack VOCtrainval_03-May-2010"):
        open_pascal_context(root, "val")
    with pytest.raises(DatasetError, match=r"list of PASCAL-Context's trainval images: .*SegmentationContext.trainval"):
        open_pascal_context(root, "trainval")
    shutil.rmtree(root / "trainval")
    with pytest.raises(
        DatasetError, match=r"one of trainval \(\.mat files\), SegmentationClassContext, Context, got no"
    ):
        open_pascal_context(root, "val")
    (root / "trainval_merged.json").touch()
    with pytest.raises(DatasetError, match=r"trainval_merged\.json is not read: convert it to PNG with the Detail API"):
        open_pascal_context(root, "val")


@real_samples
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_masks_are_the_same_from_mat_palette_and_rgb_files(split, tmp_path):
    """The RGB and palette files are RefineNet's; the .mat files hold the same pixels by their 459 numbers."""
    dataset = open_pascal_context(SAMPLES, split)
    name, mask = dataset.name(0), dataset[0].mask
    np.testing.assert_array_equal(mask, np.array(Image.open(SAMPLES / PNGS / f"{name}.png")))
    shutil.copytree(SAMPLES / "VOCdevkit", tmp_path / "VOCdevkit")
    np.testing.assert_array_equal(open_pascal_context(tmp_path, split)[0].mask, mask)
    (tmp_path / VOC_2010 / "SegmentationClassContext").rename(tmp_path / "palette")
    shutil.copytree(SAMPLES / "rgb_masks", tmp_path / PNGS)
    np.testing.assert_array_equal(open_pascal_context(tmp_path, split)[0].mask, mask)
    assert len(open_pascal_context(SAMPLES, "test")) == 5
    assert open_pascal_context(SAMPLES, "test")[0].mask is None


@real_samples
def test_real_mat_files_show_what_their_labels_are_called():
    lines = (SHARED / "meta" / "pascal_context" / "labels_459.txt").read_text().splitlines()
    labels = {int(number): name.strip() for number, name in (line.split(":") for line in lines)}
    names = catalog_classes("pascal_context").names
    for index, number in enumerate(IDS_459[1:], start=1):
        assert labels[number].replace(" ", "") == names[index]
    values = loadmat(SAMPLES / "trainval" / "2008_008376.mat")["LabelMap"]
    mask = open_pascal_context(SAMPLES, "val")[0].mask
    assert {labels[number] for number in np.unique(values)} == {names[index] for index in np.unique(mask)}


@real_samples
def test_the_three_lists_are_those_of_the_sources():
    classes = json.loads((SHARED / "meta" / "pascal_context" / "classes60.json").read_text())
    ours = zip(catalog_classes("pascal_context").names, range(60), ALPHABETICAL_IDS, IDS_459, strict=True)
    listed = {(c["name"], c["refinenet_id"], c["alphabetical_id"], c["id459"]) for c in classes}
    assert set(ours) == listed
