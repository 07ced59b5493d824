"""The doctor: each planted fault is found under its kind with its file, and nothing healthy is named."""

import itertools
import json
import os
import re
import shlex
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from conftest import SHARED, write_folder
from fakes import own as fake_own
from fakes.doctor_faults import CLASSES, MAKERS, pair, plant, put, save
from fakes.runs import tiny
from refineseg.data.checks.facts import as_stored, upright
from refineseg.data.checks.kinds import KINDS
from refineseg.data.checks.label_check import check_data
from refineseg.data.datasets import open_dataset
from refineseg.data.own.folder_layout import splits_to_train_on
from refineseg.data.shard_writer import ShardOptions, write_shards
from refineseg.doctor.duplicates import correlation, near_pairs
from refineseg.doctor.examination import examine
from refineseg.doctor.repair import repair
from refineseg.doctor.sequences import NumberedFrame, sequence_findings
from refineseg.errors import DatasetError, LabelError
from refineseg.terminal import arguments
from refineseg.training.config import override

FATAL = (  # what the check in front of training refuses, too
    *("unreadable_mask", "missing_mask", "missing_image", "ambiguous_name", "size_mismatch", "rotated_image"),
    *("jpeg_mask", "off_by_one", "unknown_values", "unknown_colours", "smoothed_mask"),
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return plant(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def examination(planted):
    return examine(f"folder:{planted.root}")


def files_of(examination):
    """Kind -> all files named under it."""
    found = {}
    for finding in examination.findings:
        found.setdefault(finding.kind, set()).update(finding.files)
    return found


def listed(root, *values, ignore=255):
    """A class list of some mask values."""
    classes = [{"id": value, "name": f"c{value}"} for value in values]
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.json").write_text(json.dumps({"ignore_index": ignore, "classes": classes}))


# ------------------------------------------------------------------------------------------------- the planted folder


@pytest.mark.parametrize("kind", MAKERS)
def test_a_planted_fault_is_found_with_its_file_and_under_no_other_kind(kind, planted, examination):
    file = planted.kinds[kind]
    assert [name for name, files in files_of(examination).items() if file in files] == [kind]


def test_healthy_files_are_never_named(planted, examination):
    told = json.dumps(examination.to_json())
    assert planted.healthy
    for name in planted.healthy:
        assert f"images/{name}." not in told
        assert f"masks/{name}." not in told


def test_every_kind_but_those_of_classes_and_readers_is_planted():
    assert set(KINDS) - set(MAKERS) == {
        *("refused", "bad_class_file", "missing_class_file", "empty_class", "class_imbalance", "left_out"),
        *("one_class", "lost_objects", "unlabelled_split", "mixed_palettes"),
        *("name_case", "no_train_split"),
    }


def test_without_a_class_list_the_masks_themselves_tell_what_is_expected(tmp_path):
    planted = plant(tmp_path, classes=False)
    found = files_of(examine(f"folder:{tmp_path}"))
    for kind, file in planted.kinds.items():
        if kind not in ("palette_mask", "unknown_colours"):  # need colours to compare with
            assert file in found[kind], kind
    named = set().union(*found.values())
    assert not [name for name in planted.healthy if {f"images/{name}.png", f"masks/{name}.png"} & named]


def test_the_command_writes_all_findings_and_ends_with_status_1(refineseg, planted, tmp_path):
    status, out, err = refineseg("doctor", f"folder:{planted.root}", "--json", tmp_path / "found.json")
    assert (status, err) == (1, f"numbers: {tmp_path / 'found.json'}\n")
    findings = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert {"kind", "severity", "files", "count", "action"} <= set(findings[0])
    for finding in findings:
        assert finding["kind"] in KINDS
        assert finding["severity"] in ("error", "warning", "note")
        assert finding["count"] == len(finding["files"]) > 0
        assert finding["action"]
        assert f"{finding['severity']}: {finding['kind']}" in out
    assert "16 errors, 6 warnings, 2 notes in 40 samples (train 34, val 6)" in out


def test_the_originals_are_only_read(planted):
    def state():
        return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(planted.root.rglob("*"))}

    before = state()
    examine(f"folder:{planted.root}")
    assert state() == before


@pytest.mark.parametrize("kind", FATAL)
def test_what_training_refuses_is_an_error_of_the_doctor(kind, tmp_path):
    root = tmp_path / "root"
    for i in range(4):
        put(root, f"train/good{i}", *pair(i))
    classes = [{"id": i, "name": name, "color": list(colour)} for i, (name, colour) in enumerate(CLASSES)]
    (root / "classes.json").write_text(json.dumps({"ignore_index": 255, "classes": classes}))
    assert not examine(f"folder:{root}").findings
    MAKERS[kind](root, "train/bad", *pair(9))
    with pytest.raises(DatasetError):
        check_data(open_dataset("folder", root, split="train"))
    assert kind in {finding.kind for finding in examine(f"folder:{root}").findings if finding.severity == "error"}


COLOURS = ((0, 0, 0), (220, 20, 60), (0, 0, 142))


def painted(root, number, order, mask=None):
    """A pair whose palette mask numbers the colours in this order."""
    image, usual = pair(number)
    classes = np.minimum(usual, 2) if mask is None else mask
    file = Image.fromarray(np.argsort(order).astype(np.uint8)[classes], mode="P")
    file.putpalette([part for i in order for part in COLOURS[i]])
    save(root / "images" / f"{number}.png", image)
    path = root / "masks" / f"{number}.png"
    path.parent.mkdir(exist_ok=True)
    file.save(path)
    return path


@pytest.mark.parametrize("listed", [True, False])
def test_palettes_that_number_the_colours_otherwise_are_found_by_doctor_and_training(tmp_path, listed):
    for number, order in enumerate(((0, 1, 2), (0, 1, 2), (2, 0, 1), (0, 1, 2), (0, 2, 1))):
        painted(tmp_path, number, order)
    if listed:
        (tmp_path / "classes.txt").write_text("ground\nsky\nthing\n")
    [finding] = examine(f"folder:{tmp_path}").findings
    assert (finding.kind, finding.severity) == ("mixed_palettes", "error")
    assert finding.files == ("masks/2.png", "masks/4.png")
    assert (
        finding.details["masks/4.png"]
        == "1 is (0, 0, 142) and not (220, 20, 60), 2 is (220, 20, 60) and not (0, 0, 142)"
    )
    with pytest.raises(LabelError, match="mixed_palettes"):
        check_data(open_dataset("folder", tmp_path, split="train"))
    # the list of classes in the message, as it stands there, lets --fix number all masks by their colours
    (tmp_path / "classes.json").write_text(finding.action[finding.action.index("{") : finding.action.index("]}]}") + 4])
    repair(examine(f"folder:{tmp_path}"), tmp_path.parent / f"{tmp_path.name}_out")
    out = open_dataset("folder", tmp_path.parent / f"{tmp_path.name}_out", split="train")
    true = [np.minimum(pair(number)[1], 2) for number in range(5)]
    order = np.array([out.class_info.palette.index(colour) for colour in COLOURS])
    assert all(np.array_equal(out.read_mask(i), order[true[i]]) for i in range(5))


def test_palettes_that_tell_nothing_of_the_classes_are_no_finding(tmp_path):
    """Grey levels beside colours, one colour for all, and void in any colour."""
    for number in range(3):
        path = painted(tmp_path, number, (0, 1, 2))
    file = Image.open(path)
    for number, colours in ((3, np.arange(256).repeat(3)), (4, np.zeros(768, int))):
        painted(tmp_path, number, (0, 1, 2))
        file.putpalette(colours.tolist())
        file.save(tmp_path / "masks" / f"{number}.png")
    for number, void in ((5, 255), (6, 90)):
        painted(tmp_path, number, (0, 1, 2))
        file = Image.fromarray(pair(number)[1], mode="P")
        file.putpalette([part for colour in COLOURS for part in colour] + [0] * 756 + [void] * 3)
        file.save(tmp_path / "masks" / f"{number}.png")
    assert not examine(f"folder:{tmp_path}").findings


def test_splits_of_other_names_are_told_with_the_options_that_train_on_them(tmp_path):
    for number, plate in enumerate(("plate 1", "plate0", "plate2")):
        put(tmp_path, f"{plate}/a", *pair(number))
    (tmp_path / "classes.txt").write_text("ground\nsky\nthing\n")
    [finding] = examine(f"folder:{tmp_path}").findings
    options = "--set 'train_split=plate 1+plate0' --set val_split=plate2"
    assert (finding.kind, finding.severity) == ("no_train_split", "warning")
    assert options in finding.action
    with pytest.raises(DatasetError, match=re.escape(options)):
        open_dataset("folder", tmp_path, split="train")
    settings = [word for word in shlex.split(options) if word != "--set"]
    config = override(tiny(1), settings)
    assert len(open_dataset("folder", tmp_path, split=config.train_split)) == 2
    assert config.val_split == "plate2"
    assert splits_to_train_on(("1", "2", "test")) == """--set 'train_split="1"' --set 'val_split="2"'"""
    assert override(tiny(1), ['train_split="1"']).train_split == "1"
    assert splits_to_train_on(("val", "test")) == ""


def valued(root, masks, names):
    """Pairs whose masks hold these values, and a list of names."""
    for number, values in enumerate(masks):
        put(
            root, f"train/{number}", pair(number)[0], np.array(values, np.uint8)[np.arange(72 * 96).reshape(72, 96) % 4]
        )
    (root / "classes.txt").write_text("\n".join(names) + "\n")
    return examine(f"folder:{root}")


@pytest.mark.parametrize(
    ("masks", "names", "advice"),
    [
        ([(0, 1, 2, 0), (0, 1, 1, 1)], ("red", "blue"), "is the background missing as the first line of classes.txt"),
        ([(0, 1, 1, 0), (0, 0, 0, 1)], ("cell",), "is the background missing as the first line of classes.txt"),
        ([(0, 1, 2, 3), (0, 1, 1, 1)], ("a", "b"), "add the names of the values up to 3 to classes.txt"),
        (
            [(0, 128, 255, 0), (0, 128, 0, 0)],
            ("ground", "sky", "thing"),
            'classes.txt cannot list values: write classes.json in its place, {"classes": [{"id": 0, "name": "ground"}'
            ', {"id": 128, "name": "sky"}, {"id": 255, "name": "thing"}]}',
        ),
    ],
)
def test_values_without_a_name_are_told_with_what_the_list_needs(tmp_path, masks, names, advice):
    examination = valued(tmp_path, masks, names)
    [finding] = [found for found in examination.findings if found.severity != "note"]  # and none of the classes
    assert finding.kind == "unknown_values"
    assert finding.action.startswith(advice)
    with pytest.raises(LabelError, match=re.escape(advice[:30])):
        check_data(open_dataset("folder", tmp_path, split="train"))


def test_the_colours_that_were_found_are_a_list_of_classes(tmp_path):
    for number in range(2):
        image, mask = pair(number)
        put(tmp_path, f"train/{number}", image, np.array(COLOURS, np.uint8)[np.minimum(mask, 2)])
    [finding] = examine(f"folder:{tmp_path}").findings
    assert finding.kind == "rgb_mask"
    (tmp_path / "classes.json").write_text(finding.action[finding.action.index("{") :])
    assert not examine(f"folder:{tmp_path}").findings
    assert set(open_dataset("folder", tmp_path, split="train").class_info.palette) == set(COLOURS)


def test_a_refusal_of_several_lines_stays_a_list_in_the_terminal(tmp_path, refineseg):
    for name in ("imgs", "labels"):
        save(tmp_path / name / "a\nb.png", pair(1)[0])
    _, out, _ = refineseg("doctor", f"folder:{tmp_path}")
    lines = out.splitlines()
    assert "in imgs (1 files), labels (1 files); rename imgs to images" in out
    assert "     " + "  labelme: a JSON file for each image" in lines
    [finding] = examine(f"folder:{tmp_path / 'imgs'}").findings
    assert "directly in it; put the images into a folder images" in finding.action


def test_a_class_of_annotations_that_is_absent_is_left_out_by_remap_json(tmp_path):
    fake_own.fake_coco(tmp_path)
    path = next(tmp_path.rglob("*.json"))
    content = json.loads(path.read_text())
    content["categories"].append({"id": 99, "name": "unused"})
    path.write_text(json.dumps(content))
    [finding] = [found for found in examine(f"folder:{tmp_path}").findings if found.kind == "empty_class"]
    (tmp_path / "remap.json").write_text(finding.action[finding.action.index("{") :])
    assert "empty_class" not in {found.kind for found in examine(f"folder:{tmp_path}").findings}


# --------------------------------------------------------------------------------------------------------- exit status


def test_a_healthy_folder_has_no_findings_and_status_0(refineseg, folder_root, tmp_path):
    status, out, _ = refineseg("doctor", f"folder:{folder_root}", "--json", tmp_path / "a.json")
    assert (status, out) == (0, "no findings in 8 samples (train 6, val 2)\n")
    assert json.loads((tmp_path / "a.json").read_text())["findings"] == []


def test_notes_alone_leave_status_0(refineseg, folder_root):
    save(folder_root / "masks" / "train" / "000.png", np.zeros((48, 64), np.uint8))
    status, out, _ = refineseg("doctor", f"folder:{folder_root}")
    assert status == 0
    assert "note: empty_mask" in out
    assert "1 note in" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere:/tmp"], "expected NAME:ROOT, for instance folder:my_pictures, got 'nowhere:/tmp'"),
        (["folder:/no/such"], "got '/no/such', which is not there"),
        (
            ["camvid:{root}", "--fix", "--out", "{out}"],
            "expected --fix with folder:ROOT of images and masks, got camvid",
        ),
        (["folder:{root}", "--fix", "--out", "{root}"], "expected a new or empty folder"),
        (["folder:{root}", "--out", "{out}"], "expected --out with --fix"),
        (["folder:{root}", "--fix", "--out", "{root}/fixed"], "expected a folder outside of"),
    ],
)
def test_a_wrong_call_is_one_message_and_status_2(refineseg, folder_root, tmp_path, arguments, message):
    names = {"root": folder_root, "out": tmp_path / "out"}
    status, out, err = refineseg("doctor", *(argument.format(**names) for argument in arguments))
    assert (status, out) == (2, "")
    assert message in err
    assert not (tmp_path / "out").exists()
    assert not (folder_root / "fixed").exists()


# --------------------------------------------------------------------------------------------------------- single kinds


def test_absent_and_rare_classes_are_found(tmp_path):
    listed(tmp_path, 0, 1, 2, 3)
    for i in range(3):
        image, _ = pair(i)
        mask = np.zeros((72, 96), np.uint8)
        mask[:36] = 1
        mask[0, :40] = 3
        put(tmp_path, f"train/a{'xyz'[i]}", image, mask)
    found = {finding.kind: finding for finding in examine(f"folder:{tmp_path}").findings}
    assert {kind: tuple(finding.details) for kind, finding in found.items()} == {
        "empty_class": ("c2",),
        "class_imbalance": ("c3",),
    }
    assert found["empty_class"].files == ()
    assert found["class_imbalance"].count == 1
    assert "85 times less than the median class" in found["class_imbalance"].details["c3"]


@pytest.mark.parametrize("shift", [1, -1])
def test_a_data_set_that_is_wholly_off_by_one_is_found_in_every_mask(tmp_path, shift):
    """Also in masks whose shifted values are legal by chance."""
    first = 0 if shift == 1 else 1
    listed(tmp_path, *range(first, first + 3))
    for i, present in enumerate(([0, 1, 2], [0, 1], [1, 2], [0, 1, 2])):
        mask = np.array(present, np.uint8)[np.arange(96) * len(present) // 96][None].repeat(72, axis=0)
        put(tmp_path, f"train/{'abcd'[i]}", pair(i)[0], (mask.astype(int) + first + shift).astype(np.uint8))
    [finding] = [f for f in examine(f"folder:{tmp_path}").findings if f.kind == "off_by_one"]
    assert finding.count == 4
    assert finding.action.startswith("subtract 1" if shift == 1 else "add 1")


@pytest.mark.parametrize("kind", ["image", "mask"])
def test_a_file_that_may_not_be_read_is_named_and_the_rest_examined(folder_root, kind):
    path = folder_root / f"{kind}s" / "train" / "001.png"
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("the superuser reads every file")
    found = files_of(examine(f"folder:{folder_root}"))
    assert found == {f"unreadable_{kind}": {f"{kind}s/train/001.png"}}


def test_a_read_only_folder_is_examined_and_copied(folder_root, tmp_path, refineseg):
    save(folder_root / "images" / "train" / "000.png", np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 20)
    for path in (folder_root, *folder_root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    status, out, _ = refineseg("doctor", f"folder:{folder_root}", "--fix", "--out", tmp_path / "out")
    for path in (folder_root, *folder_root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert status == 1
    assert "repaired sixteen_bit_image: images/train/000.png" in out
    assert len(open_dataset("folder", tmp_path / "out", split="train")) == 6


def test_the_copy_lies_beside_the_data_where_nothing_is_said(folder_root, refineseg):
    save(folder_root / "images" / "train" / "000.png", np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 20)
    status, out, _ = refineseg("doctor", f"folder:{folder_root}", "--fix")
    assert status == 1
    beside = folder_root.parent / f"{folder_root.name}_repaired"
    assert "repaired sixteen_bit_image" in out
    assert len(open_dataset("folder", beside, split="train")) == 6


@pytest.mark.parametrize(
    ("prepare", "kind", "message"),
    [
        (lambda root: (root / "classes.json").write_text("{"), "bad_class_file", "expected JSON in"),
        (lambda root: (root / "val" / "images").mkdir(parents=True), "refused", "expected one layout in"),
        (lambda root: shutil.rmtree(root / "masks"), "missing_mask", "no mask 000 in train"),
        (lambda root: shutil.rmtree(root / "images"), "missing_image", "no image 000 in train"),
    ],
)
def test_a_tree_that_the_reader_refuses_is_a_finding(folder_root, prepare, kind, message):
    prepare(folder_root)
    details = {f.kind: " ".join(f.details.values()) for f in examine(f"folder:{folder_root}").findings}
    assert message in details[kind]


def test_an_empty_folder_is_a_finding_that_says_what_is_expected(tmp_path):
    [finding] = examine(f"folder:{tmp_path}").findings
    assert (finding.kind, finding.files, finding.count) == ("refused", (), 1)
    assert "images/SPLIT + masks/SPLIT" in finding.action


def test_values_that_need_a_list_of_classes_are_a_finding(tmp_path):
    for i in range(3):
        image, mask = pair(i)
        put(tmp_path, f"train/{'abc'[i]}", image, np.where(mask == 255, 255, mask * 10).astype(np.uint8))
    [finding] = examine(f"folder:{tmp_path}").findings
    assert finding.kind == "missing_class_file"
    assert "values 0, 10, 20" in finding.details["masks"]


def test_the_refusal_of_an_official_reader_is_a_finding_and_the_other_splits_are_examined(camvid_root, tmp_path):
    for name in ("train.txt", "test.txt"):
        (tmp_path / name).write_text("\n".join((camvid_root / name).read_text().splitlines()[:3]) + "\n")
    for folder in ("images", "labels", "test-lossless"):
        (tmp_path / folder).symlink_to(camvid_root / folder)
    examination = examine(f"camvid:{tmp_path}")
    found = {finding.kind: finding for finding in examination.findings}
    assert "val.txt" in found["refused"].details["val"]
    assert examination.samples() == {"train": 3, "test": 3}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_turned_as_pillow_turns_them(orientation, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", pixels, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(upright(pixels, orientation), expected)
    np.testing.assert_array_equal(as_stored(expected, orientation), pixels)


@pytest.mark.parametrize("drawn_on", ["stored", "shown"])
def test_a_half_turn_keeps_the_size_and_is_found_by_what_the_mask_shows(tmp_path, drawn_on):
    for i in range(3):
        put(tmp_path, f"train/{'abc'[i]}", *pair(i))
    image, mask = pair(5)
    exif = Image.Exif()
    exif[0x0112] = 3
    save(tmp_path / "images" / "train" / "turned.png", image[::-1, ::-1], exif=exif)
    save(tmp_path / "masks" / "train" / "turned.png", mask[::-1, ::-1] if drawn_on == "stored" else mask)
    found = files_of(examine(f"folder:{tmp_path}"))
    assert found == ({"rotated_image": {"images/train/turned.png"}} if drawn_on == "stored" else {})


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("drawn_on", ["stored", "shown"])
def test_a_square_image_on_its_side_is_found_by_what_the_mask_shows(tmp_path, orientation, drawn_on):
    for i in range(3):
        put(tmp_path, f"train/{'abc'[i]}", *pair(i))
    stored, mask = (pixels[:, :72] for pixels in pair(5))
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / "images" / "train" / "turned.png", stored, exif=exif)
    save(tmp_path / "masks" / "train" / "turned.png", mask if drawn_on == "stored" else upright(mask, orientation))
    found = files_of(examine(f"folder:{tmp_path}"))
    assert found == ({"rotated_image": {"images/train/turned.png"}} if drawn_on == "stored" else {})


def test_void_around_the_first_class_alone_is_no_mask_of_0_and_255(tmp_path):
    for i in range(4):
        image, mask = pair(i)
        mask[:8] = 255
        put(tmp_path, f"train/{'abcd'[i]}", image, mask if i else np.where(mask == 255, 255, 0).astype(np.uint8))
    assert files_of(examine(f"folder:{tmp_path}")) == {"empty_mask": {"masks/train/a.png"}}


_OF_CVAT = ("SegmentationClass", "SegmentationObject")


@pytest.mark.parametrize(
    "make",
    [fake_own.fake_coco, fake_own.fake_labelme, fake_own.fake_cvat, fake_own.fake_label_studio, fake_own.fake_pairs],
)
def test_other_forms_of_own_data_are_examined_through_their_readers(make, tmp_path):
    root = make(tmp_path / "data")
    examination = examine(f"folder:{root}")
    assert sum(examination.samples().values()) >= 3
    assert not [finding for finding in examination.findings if finding.severity == "error"]
    image = next(path for path in sorted(root.rglob("*scene_0.png")) if path.parent.name not in ("drawn", *_OF_CVAT))
    image.write_bytes(b"")
    wrong = [f for f in examine(f"folder:{root}").findings if f.severity == "error"]
    assert any(image.stem in name for finding in wrong for name in (*finding.files, *finding.details.values()))


# ------------------------------------------------------------------------------------------ duplicates and sequences


def test_the_same_scene_with_another_thing_in_it_is_no_duplicate(tmp_path):
    for i in range(3):
        image, mask = pair(6)
        image[10 + 20 * i : 20 + 20 * i, 20:30] = (250, 20, 20)
        put(tmp_path, f"train/{'abc'[i]}", image, mask)
    assert not examine(f"folder:{tmp_path}").findings


def test_near_pairs_are_those_of_a_search_one_by_one():
    rng = np.random.default_rng(3)
    signatures = [rng.integers(0, 255, (16, 16, 3), dtype=np.uint8) for _ in range(540)]
    for i, noise in ((10, 2), (400, 4), (530, 200)):
        changed = signatures[i - 7].astype(int) + rng.integers(-noise, noise + 1, (16, 16, 3))
        signatures[i] = changed.clip(0, 255).astype(np.uint8)
    signatures[20] = signatures[21] = np.full((16, 16, 3), 9, np.uint8)  # flat: nothing to compare
    centred = [signature.ravel().astype(float) - signature.mean() for signature in signatures]
    expected = set()
    for i, j in itertools.combinations(sorted(set(range(540)) - {20, 21}), 2):
        a, b = centred[i], centred[j]
        if (a @ b) ** 2 > 0.995**2 * (a @ a) * (b @ b) and np.abs(a - (a @ b) / (b @ b) * b).max() <= 24:
            expected.add((i, j))
    assert set(near_pairs(signatures)) == expected == {(3, 10), (393, 400)}


def test_one_cell_of_another_colour_keeps_images_apart():
    """Their correlation alone would not: the cell is one of 256."""
    one = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    other, noisy = one.copy(), np.clip(one.astype(int) + 3, 0, 255).astype(np.uint8)
    other[4, 4] = (other[4, 4].astype(int) + 60) % 256
    assert correlation(one, other) > 0.995
    assert list(near_pairs([one, other, noisy])) == [(0, 2)]


@pytest.mark.slow
def test_camvid_is_divided_within_two_drives(camvid_root):
    """The stored report of the splits says which sequences continue across them, and at which frames."""
    runs = json.loads((SHARED / "camvid" / "leak_report.json").read_text())["sequences"]
    assert runs["0001TP/test"]["first"] - runs["0001TP/train"]["last"] == 30
    examination = examine(f"camvid:{camvid_root}")
    [finding] = [f for f in examination.findings if f.kind == "sequence_across_splits"]
    stems = [tuple(Path(file).stem for file in group) for group in finding.groups]
    assert stems == [
        (f"0001TP_{runs['0001TP/train']['last']:06d}", f"0001TP_{runs['0001TP/test']['first']:06d}"),
        ("0016E5_07920", f"0016E5_{runs['0016E5/val']['first']:05d}"),
        (f"0016E5_{runs['0016E5/val']['last']:05d}", "0016E5_08190"),
    ]
    assert set(finding.details) == {"0001TP_*", "0016E5_*"}  # not the drives that lie in one split
    assert "train to val 39, val to train 31" in finding.details["0016E5_*"]
    assert not [f for f in examination.findings if f.severity == "error" or ("across" in f.kind and f is not finding)]


@pytest.mark.parametrize(
    ("train", "val", "divided"),
    [
        (["a_000", "a_030", "a_060"], ["a_090", "a_120"], True),  # regular steps above one
        (["seq1/1", "seq1/2", "seq1/3"], ["seq1/4"], True),  # the name says so
        (["a_000", "a_030", "a_060"], ["a_900", "a_930"], False),  # far apart
        (["a_000", "a_030", "a_060"], ["b_090", "b_120"], False),  # two sequences
        (["photo1", "photo2", "photo3"], ["photo4", "photo5"], False),  # numbered, no more
        (["000", "001", "002"], ["000", "001"], False),  # each split counts for itself
        (["2007_32", "2007_129", "2007_170"], ["2007_33", "2007_42"], False),  # irregular: numbers of photographs
        (["x", "y"], ["z"], False),
    ],
)
def test_a_sequence_is_divided_where_names_say_so(train, val, divided):
    frames = [
        NumberedFrame(f"{split}/{name}", split, name) for split, names in (("t", train), ("v", val)) for name in names
    ]
    assert bool(sequence_findings(frames)) == divided


def test_plain_numbers_are_a_sequence_where_neighbours_look_alike():
    rng = np.random.default_rng(0)
    drift = np.cumsum(rng.normal(0, 30, (60, 16, 16, 3)), axis=0)
    alike = ((drift - drift.min()) / np.ptp(drift) * 255).astype(np.uint8)
    frames = [NumberedFrame(f"{i}.png", "train" if i < 40 else "val", f"{i:03d}", alike[i]) for i in range(60)]
    [finding] = sequence_findings(frames)
    assert finding.files == ("39.png", "40.png")
    shuffled = [
        NumberedFrame(f.file, f.split, f.name, alike[j]) for f, j in zip(frames, rng.permutation(60), strict=True)
    ]
    assert not sequence_findings(shuffled)


# ------------------------------------------------------------------------------------------------------ names and time


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes any bytes as a name")
def test_hostile_names_are_reported_as_they_are(tmp_path, refineseg):
    root = tmp_path / "data"
    names = ["<img src=x onerror=alert(1)>", "[red]\x1b[2J", "Bäume 木", "a\nb", os.fsdecode(b"\xff\xfe")]
    write_folder(root, splits={"train": 6})
    for name in names:
        image, _ = put(root, f"train/{name}", *pair(3))
        image.write_bytes(b"no image")
    status, out, _ = refineseg("doctor", f"folder:{root}", "--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    assert status == 1
    assert not {"\x1b", "\udcff"} & set(out)
    found = {f["kind"]: f["files"] for f in json.loads((tmp_path / "a.json").read_text())["findings"]}
    assert found["unreadable_image"] == sorted(f"images/train/{name}.png" for name in names)
    assert "<img src=x" not in (tmp_path / "a.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_thousand_pairs_take_seconds_and_little_memory(tmp_path):
    import resource

    rng = np.random.default_rng(0)
    for i in range(1000):
        coarse = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((160, 120), Image.Resampling.BILINEAR))
        put(tmp_path, f"train/{i:05d}", image, np.kron(coarse[..., 0] // 64, np.ones((15, 20), np.uint8)))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    assert not examine(f"folder:{tmp_path}").findings
    assert time.monotonic() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_shards_are_examined_as_what_they_were_made_of(folder_root, tmp_path):
    for split in ("train", "val"):
        data = open_dataset("folder", folder_root, split=split)
        write_shards(data, str(tmp_path / "out"), ShardOptions("folder", split))
    found = examine(f"folder:{tmp_path / 'out'}")
    assert "refused" not in {finding.kind for finding in found.findings}
    assert found.samples() == examine(f"folder:{folder_root}").samples()


def test_a_copy_that_cannot_be_written_is_refused_before_anything_is_examined(folder_root, refineseg, monkeypatch):
    monkeypatch.setattr(arguments, "_write_error", lambda _folder: PermissionError(13, "Permission denied"))
    monkeypatch.setattr("refineseg.doctor.examination.examine", lambda *_, **__: pytest.fail("it was examined"))
    status, _, err = refineseg("doctor", f"folder:{folder_root}", "--fix")
    assert (status, "cannot be written to" in err) == (2, True)
