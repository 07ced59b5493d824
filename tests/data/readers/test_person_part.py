"""Person-Part: palette masks, and the merge of PASCAL-Part's annotations."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from conftest import SHARED
from fakes.pascal import PERSON_TRAIN, PERSON_VAL, fake_person_part
from refineseg.data.datasets import open_dataset
from refineseg.data.readers.person_part import PART_GROUPS, open_person_part, read_person_parts
from refineseg.data.samples.catalog import catalog_classes
from refineseg.errors import DatasetError, LabelError

SAMPLES = SHARED / "samples" / "person_part"
real_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the real samples are not beside the checkout")
VOC_2010 = Path("VOCdevkit") / "VOC2010"


def _annotation(path, objects):
    """An Annotations_Part file; objects are (class, mask, [(part name, mask), ...])."""
    struct = np.empty(
        (1, len(objects)), [("class", object), ("class_ind", object), ("mask", object), ("parts", object)]
    )
    for index, (kind, mask, parts) in enumerate(objects):
        inner = np.empty((1, len(parts)), [("part_name", object), ("mask", object)])
        for place, part in enumerate(parts):
            inner[0, place] = part
        struct[0, index] = (kind, 15.0, mask, inner if parts else np.empty((0, 0)))
    savemat(path, {"anno": {"imname": path.stem, "objects": struct}})
    return path


def _row(text):
    return np.array([[int(c) for c in text]] * 2, np.uint8)


def test_parts_of_all_people_are_merged_in_the_order_of_the_file(tmp_path):
    path = _annotation(
        tmp_path / "a.mat",
        [
            ("dog", _row("111111"), [("head", _row("111111"))]),
            (
                "person",
                _row("111100"),
                [("torso", _row("111000")), ("rhand", _row("001100")), ("neck", _row("000100"))],
            ),
            ("person", _row("000001"), [("lebrow", _row("000001"))]),
            ("person", _row("000010"), []),
        ],
    )
    np.testing.assert_array_equal(read_person_parts(path), _row("224201"))


@pytest.mark.parametrize(
    ("parts", "index"),
    [
        ("head hair leye reye lear rear lebrow rebrow nose mouth", 1),
        ("torso neck", 2),
        ("luarm ruarm", 3),
        ("llarm rlarm lhand rhand", 4),
        ("luleg ruleg", 5),
        ("llleg rlleg lfoot rfoot", 6),
    ],
)
def test_every_part_belongs_to_its_class(tmp_path, parts, index):
    for part in parts.split():
        path = _annotation(tmp_path / f"{part}.mat", [("person", _row("11"), [(part, _row("01"))])])
        np.testing.assert_array_equal(read_person_parts(path), _row("01") * index)


def test_annotations_that_are_no_person_parts_are_errors(tmp_path):
    path = _annotation(tmp_path / "a.mat", [("person", _row("11"), [("tail", _row("01"))])])
    with pytest.raises(LabelError, match=r"a\.mat: expected the 24 parts of people \(head, hair, .*got 'tail'; unpack"):
        read_person_parts(path)
    _annotation(path, [("person", _row("11"), [("head", _row("011"))])])
    with pytest.raises(DatasetError, match=r"expected anno\.objects .*a\.mat, all masks of one size, got another"):
        read_person_parts(path)
    _annotation(path, [])
    with pytest.raises(DatasetError, match=r"expected anno\.objects with class, mask and parts"):
        read_person_parts(path)
    savemat(path, {"anno": {"imname": "a"}})
    with pytest.raises(DatasetError, match=r"expected anno\.objects with class, mask and parts"):
        read_person_parts(path)
    savemat(path, {"anno": 3})
    with pytest.raises(DatasetError, match=r"expected anno\.objects with class, mask and parts"):
        read_person_parts(path)
    savemat(path, {"other": 3})
    with pytest.raises(DatasetError, match=r"expected the variables anno in .*a\.mat, got other"):
        read_person_parts(path)


def test_palette_and_mat_masks_of_the_same_people_are_equal(tmp_path):
    png, mat = (
        open_person_part(fake_person_part(tmp_path / "png"), "val"),
        open_person_part(fake_person_part(tmp_path / "mat", masks="mat"), "val"),
    )
    assert [png.name(i) for i in range(len(png))] == [mat.name(i) for i in range(len(mat))] == list(PERSON_VAL)
    for index in range(len(png)):
        np.testing.assert_array_equal(png[index].mask, mat[index].mask)
        np.testing.assert_array_equal(png.read_mask(index), mat.read_mask(index))
        assert np.unique(mat[index].mask).tolist() == list(range(7))
    assert len(open_dataset("person_part", tmp_path / "mat", split="train")) == len(PERSON_TRAIN)
    assert png.class_info == catalog_classes("person_part")
    assert png.class_info.names == (
        *("background", "head", "torso", "upper arms", "lower arms", "upper legs", "lower legs"),
    )


@pytest.mark.parametrize(
    ("masks", "lists"),
    [
        ("pascal_person_part_gt", "train_id.txt"),
        ("pascal_person_part/pascal_person_part_gt", "pascal_person_part/pascal_person_part_trainval_list/train.txt"),
        ("VOCdevkit/VOC2010/pascal_person_part_gt", "VOCdevkit/VOC2010/train_id.txt"),
    ],
)
def test_other_copies_are_read_as_they_lie(tmp_path, masks, lists):
    root = fake_person_part(tmp_path)
    expected = open_person_part(root, "train")[1].mask
    (root / masks).parent.mkdir(parents=True, exist_ok=True)
    (root / lists).parent.mkdir(parents=True, exist_ok=True)
    (root / VOC_2010 / "SegmentationPart").rename(root / masks)
    (root / VOC_2010 / "ImageSets" / "PersonPart" / "train.txt").rename(root / lists)
    np.testing.assert_array_equal(open_person_part(root, "train")[1].mask, expected)


def test_void_in_palette_masks_stays_void(tmp_path):
    root = fake_person_part(tmp_path)
    mask = np.full((40, 56), 255, np.uint8)
    mask[0] = 6
    Image.fromarray(mask).save(root / VOC_2010 / "SegmentationPart" / f"{PERSON_VAL[0]}.png")
    np.testing.assert_array_equal(open_person_part(root, "val").read_mask(0), mask)
    mask[0] = 7
    Image.fromarray(mask).save(root / VOC_2010 / "SegmentationPart" / f"{PERSON_VAL[0]}.png")
    with pytest.raises(LabelError, match=r"expected 0\.\.6 or 255, got 7 in 56 pixels"):
        open_person_part(root, "val").read_mask(0)


def test_wrong_person_part_folders_splits_and_files_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"expected a Person-Part split of train, val, trainval, test, got 'dev'"):
        open_person_part(tmp_path, "dev")
    with pytest.raises(DatasetError, match=r"expected PASCAL Person-Part in .*: VOCdevkit/VOC2010/JPEGImages with its"):
        open_person_part(tmp_path, "val")
    root = fake_person_part(tmp_path / "parts", masks="mat")
    with pytest.raises(DatasetError, match=r"list of Person-Part's test images: .*test\.txt.*, but there is no such"):
        open_person_part(root, "test")
    (root / "Annotations_Part" / f"{PERSON_VAL[1]}.mat").unlink()
    with pytest.raises(DatasetError, match=rf"but 1 are absent: {PERSON_VAL[1]}\.mat; unpack VOCtrainval_03-May-2010"):
        open_person_part(root, "val")
    shutil.rmtree(root / "Annotations_Part")
    with pytest.raises(
        DatasetError,
        match=r"masks of Person-Part in .* one of SegmentationPart, pascal_person_part_gt, Annotations_Part, got none",
    ):
        open_person_part(root, "val")


@real_samples
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_palette_masks_and_annotations_are_equal(split, tmp_path):
    dataset = open_person_part(SAMPLES, split)
    path = SAMPLES / VOC_2010 / "SegmentationPart" / f"{dataset.name(0)}.png"
    np.testing.assert_array_equal(dataset[0].mask, np.array(Image.open(path)))
    shutil.copytree(SAMPLES, tmp_path / "copy", ignore=shutil.ignore_patterns("SegmentationPart"))
    mat = open_person_part(tmp_path / "copy", split)
    assert mat.pairs[0].mask.suffix == ".mat"
    np.testing.assert_array_equal(mat[0].mask, dataset[0].mask)
    assert open_person_part(SAMPLES, "test")[0].mask is None


@real_samples
def test_the_groups_are_those_of_the_source():
    source = json.loads((SHARED / "meta" / "person_part" / "part_groups.json").read_text())
    assert {int(k): set(v) for k, v in source["groups"].items()} == {k: set(v) for k, v in PART_GROUPS.items()}
    assert tuple(source["classes"]) == catalog_classes("person_part").names
