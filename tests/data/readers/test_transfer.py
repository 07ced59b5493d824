"""Cityscapes in CamVid's classes: every label id, what is void, what is said and what is refused."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from conftest import SHARED
from fakes.scenes import fake_camvid, fake_cityscapes, fake_idd_lite
from refineseg.class_info import ClassInfo
from refineseg.data.datasets import open_dataset
from refineseg.data.readers.camvid import open_camvid
from refineseg.data.readers.cityscapes import open_cityscapes
from refineseg.data.readers.idd_lite import open_idd_lite
from refineseg.data.readers.transfer import find_transfer, grouped, joined_for_training, transferred
from refineseg.data.samples.catalog import catalog_classes
from refineseg.data.samples.sample import Without
from refineseg.data.storage.file_lists import packaged_table
from refineseg.errors import DatasetError
from refineseg.evaluate.predicting import class_table, predictions

CAMVID = catalog_classes("camvid")
REAL = SHARED / "samples" / "cityscapes"
TABLE = SHARED / "meta" / "cityscapes" / "labels.csv"
# by hand: label id -> CamVid class
EXPECTED = {
    **{7: "road", 8: "pavement", 11: "building", 12: "building", 13: "fence", 14: "fence", 15: "building"},
    **{16: "building", 17: "pole", 18: "pole", 19: "sign_symbol", 20: "sign_symbol", 21: "tree", 23: "sky"},
    **{24: "pedestrian", 25: "bicyclist", 26: "car", 27: "car", 28: "car", 29: "car", 30: "car", 31: "car"},
    **{32: "bicyclist", 33: "bicyclist"},
}


def test_every_label_id_becomes_its_camvid_class_or_void(tmp_path):
    fake_cityscapes(tmp_path, seed=0)
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(every).save(tmp_path / "gtFine/train/bochum/bochum_000002_000019_gtFine_labelIds.png")
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(
        tmp_path / "leftImg8bit/train/bochum/bochum_000002_000019_leftImg8bit.png"
    )
    dataset, note = transferred(open_cityscapes(tmp_path, "train"), CAMVID)
    mask = dataset[2].mask
    for label_id in range(256):
        name = EXPECTED.get(label_id)
        wanted = 255 if name is None else CAMVID.names.index(name)
        assert mask[label_id // 16, label_id % 16] == wanted, label_id
    assert dataset.class_info == CAMVID
    assert note in dataset.notes
    assert note.startswith("cityscapes in the classes of camvid (")
    assert "sign_symbol: traffic light, traffic sign" in note
    assert "void: unlabeled" in note
    assert "terrain" in note.partition("void:")[2]


def test_a_view_of_a_data_set_is_mapped_by_its_classes(tmp_path):
    train = open_cityscapes(fake_cityscapes(tmp_path, seed=1), "train")
    part = Without(train, {train.name(0)})
    mapped, note = transferred(part, CAMVID)
    assert len(mapped) == 2
    for index in range(2):
        own, new = part[index].mask, mapped[index].mask
        names = catalog_classes("cityscapes").names
        ids = packaged_table("class_tables", "cityscapes_label_ids")["label_ids"]
        for value in np.unique(own):
            name = EXPECTED.get(ids[value]) if value != 255 else None
            assert set(np.unique(new[own == value])) == {255 if name is None else CAMVID.names.index(name)}
            assert value == 255 or names[value] in note
        np.testing.assert_array_equal(mapped.read_mask(index), new)


@pytest.mark.skipif(not TABLE.is_file(), reason="the label table of Cityscapes is not beside the checkout")
def test_ids_and_names_are_those_of_the_benchmark_and_all_are_decided():
    with TABLE.open(newline="") as file:
        ids = {row["name"]: int(row["id"]) for row in csv.DictReader(file) if int(row["id"]) >= 0}
    table = packaged_table("class_tables", "cityscapes_to_camvid")
    stated = {name: entry[0] for name, entry in table["labels"].items()} | table["void"]
    assert stated == ids
    assert set(table["why_void"]) <= set(table["void"])


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real samples are not beside the checkout")
def test_real_frames_keep_every_pixel_that_has_a_counterpart():
    dataset, _ = transferred(open_cityscapes(REAL, "train"), CAMVID)
    for index in range(len(dataset)):
        stored = np.asarray(Image.open(dataset.pairs[index].mask))
        wanted = np.vectorize(lambda i: CAMVID.names.index(EXPECTED[i]) if i in EXPECTED else 255)(stored)
        np.testing.assert_array_equal(dataset.read_mask(index), wanted)


def test_a_camvid_model_is_measured_on_cityscapes_and_says_how(refineseg, tmp_path):
    fake_cityscapes(tmp_path / "data", seed=0)
    status, out, _ = refineseg(
        *("evaluate", "--model", "camvid", "--data", f"cityscapes:{tmp_path / 'data'}", "--split", "val"),
        *("--json", tmp_path / "r.json", "--out", tmp_path / "o", "--device", "cpu"),
    )
    assert status == 0
    assert "cityscapes in the classes of camvid" in out
    result = json.loads((tmp_path / "r.json").read_text())
    assert list(result["per_class"]) == list(CAMVID.names)
    assert "sidewalk" in result["measurement_protocol"]["mapping"]
    assert result["measurement_protocol"]["dataset"] == "cityscapes"


def test_classes_that_fit_no_table_are_refused_as_before(refineseg, tmp_path):
    assert find_transfer(ClassInfo(("a", "b")), CAMVID) is None
    assert find_transfer(CAMVID, catalog_classes("cityscapes")) is None
    assert transferred(open_cityscapes(fake_cityscapes(tmp_path, seed=0), "val"), ClassInfo(("a", "b"))) is None
    from refineseg.predict.predictor import Predictor
    from refineseg.segmenter import build

    model = build("refinenet_lw_mobilenetv2", class_info=catalog_classes("cityscapes")).save(tmp_path / "c.safetensors")
    assert model is None
    fake_camvid(tmp_path / "camvid", seed=0)
    status, _, err = refineseg(
        *("evaluate", "--model", tmp_path / "c.safetensors", "--data", f"camvid:{tmp_path / 'camvid'}"),
        *("--split", "test", "--out", tmp_path / "o", "--device", "cpu"),
    )
    assert status == 2
    assert "expected the model's classes 19 (road, sidewalk" in err
    with pytest.raises(Exception, match="expected the model's classes 2"):
        next(
            predictions(
                Predictor(build("refinenet_lw_mobilenetv2", class_info=ClassInfo(("a", "b"))), device="cpu"),
                open_cityscapes(tmp_path, "val"),
            )
        )


def test_wider_classes_become_classes_and_unions_for_training(tmp_path):
    wide = open_idd_lite(fake_idd_lite(tmp_path / "idd"), "train")
    camvid = open_camvid(fake_camvid(tmp_path / "camvid"), "train")
    city = open_cityscapes(fake_cityscapes(tmp_path / "city"), "train")
    assert joined_for_training([camvid]) == (camvid, ())
    joined, unions = joined_for_training([camvid, wide, city, wide])
    assert joined.class_info == CAMVID
    assert [{CAMVID.names[i] for i in union} for union in unions] == [
        {"pedestrian", "bicyclist"},
        {"car", "bicyclist"},
        {"pole", "sign_symbol", "fence"},
        {"building", "tree"},
    ]
    # by hand: drivable, non-drivable, living things, vehicles, road side, far objects, sky
    wanted = np.array([3, 4, 11, 12, 13, 14, 0, *[255] * 249], np.uint8)
    for first in (len(camvid), len(camvid) + len(wide) + len(city)):
        for i in range(len(wide)):
            expected = wanted[wide[i].mask]
            np.testing.assert_array_equal(joined[first + i].mask, expected)
            np.testing.assert_array_equal(joined.read_mask(first + i), np.where(expected < 11, expected, 255))
    assert any("far objects: building or tree" in note for note in joined.notes)
    for first in (wide, city):
        with pytest.raises(DatasetError, match="expected the data set of the finest classes first.*name it first"):
            joined_for_training([first, camvid])
    with pytest.raises(DatasetError, match="expected data sets of the same classes"):
        joined_for_training([wide, city])


def test_a_models_classes_are_grouped_where_the_data_have_wider_ones(tmp_path):
    wide = open_idd_lite(fake_idd_lite(tmp_path), "val")
    table = class_table(CAMVID, wide.class_info)
    by_hand = {
        **{"road": "drivable", "pavement": "non-drivable", "pedestrian": "living things", "bicyclist": "living things"},
        **{"car": "vehicles", "pole": "road side objects", "sign_symbol": "road side objects"},
        **{"fence": "road side objects", "building": "far objects", "tree": "far objects", "sky": "sky"},
    }
    assert {own: wide.class_info.names[table[i]] for i, own in enumerate(CAMVID.names)} == by_hand
    assert grouped(CAMVID, wide.class_info)[1].startswith("classes of camvid in those of idd_lite (drivable: road; ")
    with pytest.raises(DatasetError, match="expected the model's classes"):
        class_table(wide.class_info, CAMVID)


def test_joined_splits_are_mapped_as_each_of_them_alone(tmp_path):
    """Label ids that are void among the nineteen classes are classes of CamVid in both."""
    root = fake_cityscapes(tmp_path, seed=0)
    joined, note = transferred(open_dataset("cityscapes", root, split="train+val"), CAMVID)
    alone = [transferred(open_cityscapes(root, split), CAMVID) for split in ("train", "val")]
    masks = [part.read_mask(i) for part, _ in alone for i in range(len(part))]
    assert note == alone[0][1]
    for index, mask in enumerate(masks):
        np.testing.assert_array_equal(joined.read_mask(index), mask)
