"""CamVid as published: 32 colours grouped into SegNet's 11 classes, split by the package's list of names."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import refineseg
from conftest import SHARED
from fakes.scenes import fake_camvid_published
from refineseg.data.readers.camvid import open_camvid
from refineseg.data.samples.catalog import catalog_classes
from refineseg.errors import DatasetError, LabelError

TABLE = json.loads((Path(refineseg.__file__).parent / "class_tables" / "camvid_32.json").read_text())
BLURRED = "Seq05VD_f02610"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return fake_camvid_published(tmp_path_factory.mktemp("camvid"), seed=0)


@pytest.fixture
def own_labels(published, tmp_path):
    """The same tree with labels of its own, which a test may change."""
    (tmp_path / "701_StillsRaw_full").symlink_to(published / "701_StillsRaw_full")
    shutil.copytree(published / "LabeledApproved_full", tmp_path / "LabeledApproved_full")
    return tmp_path


def paint(root, name, colours):
    """A mask of the given colours in stripes, black elsewhere."""
    mask = np.zeros((40, 56, 3), np.uint8)
    for column, colour in enumerate(colours):
        mask[:, column] = colour
    Image.fromarray(mask).save(root / "LabeledApproved_full" / f"{name}_L.png")


def test_every_colour_becomes_the_class_of_its_group(own_labels):
    names = list(TABLE["colours"])
    paint(own_labels, "0001TP_006690", [TABLE["colours"][name] for name in names])
    train = open_camvid(own_labels, "train")
    row = train[0].mask[7]
    classes = catalog_classes("camvid").names
    for column, name in enumerate(names):
        group = TABLE["groups"][name]
        assert row[column] == (255 if group == "void" else classes.index(group)), name
    assert (row[32:] == 255).all()
    assert train.class_info == catalog_classes("camvid")
    assert "960x720" in train.notes[0]


def test_the_split_is_segnets(published):
    splits = {split: open_camvid(published, split) for split in ("train", "val", "test")}
    assert [len(d) for d in splits.values()] == [367, 101, 233]
    assert len({name for d in splits.values() for name in d.names}) == 701
    sample = splits["val"][5]
    np.testing.assert_array_equal(splits["val"].read_mask(5), sample.mask)
    assert sample.image.shape == (40, 56, 3)


@pytest.mark.skipif(not (SHARED / "camvid").is_dir(), reason="CamVid is not beside the checkout")
def test_the_names_are_those_of_the_copy_in_its_order(published):
    for split in ("train", "val", "test"):
        lines = (SHARED / "camvid" / f"{split}.txt").read_text().split("\n")
        assert [Path(line.split()[0]).stem for line in lines if line] == list(open_camvid(published, split).names)


def test_colours_may_come_from_either_file_beside_the_images(own_labels):
    """A file that gives two classes each other's colours shows that it is read."""
    colours = {name: tuple(colour) for name, colour in TABLE["colours"].items()}
    colours["Sky"], colours["Road"] = colours["Road"], colours["Sky"]
    paint(own_labels, "0001TP_006690", [TABLE["colours"]["Sky"]])
    sky, road = (catalog_classes("camvid").names.index(name) for name in ("sky", "road"))
    assert open_camvid(own_labels, "train").read_mask(0)[0, 0] == sky
    with (own_labels / "class_dict.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("name", "r", "g", "b"), *((name, *colour) for name, colour in colours.items())])
    assert open_camvid(own_labels, "train").read_mask(0)[0, 0] == road
    lines = [f"{r} {g} {b}\t\t{name}" for name, (r, g, b) in TABLE["colours"].items()]
    (own_labels / "label_colors.txt").write_text("\n".join(lines))
    assert open_camvid(own_labels, "train").read_mask(0)[0, 0] == sky
    (own_labels / "label_colors.txt").write_text("\n".join(lines[1:]) + "\n1 2 3\tTram")
    with pytest.raises(
        DatasetError, match=r"expected the 32 classes .* got 32 \(only in one of the two: Animal, Tram\)"
    ):
        open_camvid(own_labels, "train")


def test_stray_colours_are_void_in_the_one_file_known_for_them_and_an_error_elsewhere(own_labels):
    test = open_camvid(own_labels, "test")
    stray = [(26, 26, 26), (128, 128, 102), TABLE["colours"]["Tree"]]
    paint(own_labels, BLURRED, stray)
    row = test.read_mask(test.names.index(BLURRED))[0]
    assert row[:3].tolist() == [255, 255, catalog_classes("camvid").names.index("tree")]
    paint(own_labels, test.names[0], stray)
    with pytest.raises(LabelError, match=r"expected the 32 colours .*\(26, 26, 26\) in 40 pixels"):
        test.read_mask(0)


def test_half_unpacked_archives_and_other_sizes_are_named(own_labels):
    Image.fromarray(np.zeros((20, 28, 3), np.uint8)).save(own_labels / "LabeledApproved_full/0001TP_006690_L.png")
    with pytest.raises(DatasetError, match="0001TP_006690: expected a mask of the image's size 40x56 .* got 20x28"):
        open_camvid(own_labels, "train")[0]
    (own_labels / "LabeledApproved_full/0001TP_006690_L.png").unlink()
    with pytest.raises(
        DatasetError, match=r"but 1 are absent: LabeledApproved_full.0001TP_006690_L\.png; unpack 701_Stills"
    ):
        open_camvid(own_labels, "train")
    shutil.rmtree(own_labels / "LabeledApproved_full")
    with pytest.raises(DatasetError, match=r"but 101 are absent: .* and 96 more"):
        open_camvid(own_labels, "val")
