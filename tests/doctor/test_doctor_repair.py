"""The repaired copy equals the healthy originals where it says so, and the page is safe to open."""

import json
import os
import re
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from fakes.doctor_faults import CLASSES, PALETTE, pair, plant, put, save
from refineseg.data.checks.label_check import check_data
from refineseg.data.datasets import open_dataset
from refineseg.doctor.examination import examine
from refineseg.doctor.repair import default_target, repair
from refineseg.doctor.report import html_page
from refineseg.errors import ConfigError, DatasetError
from refineseg.files.writing import folder_beside

REPAIRED = ("rotated_image", "rgb_mask", "palette_mask", "off_by_one", "sixteen_bit_image")
LEFT_OUT = (
    *("unreadable_image", "unreadable_mask", "missing_mask", "missing_image", "ambiguous_name"),
    *("jpeg_mask", "binary_mask", "unknown_values", "unknown_colours", "smoothed_mask"),
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return plant(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def repaired(planted, tmp_path_factory):
    return repair(examine(f"folder:{planted.root}"), tmp_path_factory.mktemp("copy") / "out")


def sample(root, split, name):
    dataset = open_dataset("folder", root, split=split)
    return dataset[[dataset.name(i) for i in range(len(dataset))].index(name)]


def classes(root, ids):
    root.mkdir(parents=True, exist_ok=True)
    entries = [{"id": value, "name": f"c{value}"} for value in ids]
    (root / "classes.json").write_text(json.dumps({"ignore_index": 255, "classes": entries}))


@pytest.mark.parametrize("kind", REPAIRED)
def test_what_is_repaired_equals_the_healthy_original(kind, planted, repaired):
    name = f"bad-{kind.replace('_', '-')}"
    image, mask = planted.originals[f"train/{name}"]
    found = sample(repaired.out, "train", name)
    np.testing.assert_array_equal(found.mask, mask)
    np.testing.assert_array_equal(
        found.image, image[..., :1].repeat(3, axis=2) if kind == "sixteen_bit_image" else image
    )
    assert kind in {change.kind for change in repaired.changed if name in change.file}


def test_what_cannot_be_repaired_is_left_out_and_named(planted, repaired):
    for kind in LEFT_OUT:
        assert planted.kinds[kind] in repaired.left_out, kind
        assert not list(repaired.out.rglob(f"bad-{kind.replace('_', '-')}*")), kind
    assert len(repaired.left_out) == len(LEFT_OUT) + 1, "both files of one name"


def test_healthy_pairs_are_copied_byte_by_byte_and_originals_stay(planted, repaired):
    for name in planted.healthy:
        for kind in ("images", "masks"):
            path = Path(kind, f"{name}.png")
            assert (repaired.out / path).read_bytes() == (planted.root / path).read_bytes()
    changed = {change.file for change in repaired.changed}
    assert len(list(planted.root.rglob("*.*"))) > len(changed)
    assert {finding.kind for finding in examine(f"folder:{planted.root}").findings} >= set(REPAIRED)


def test_the_copy_opens_and_passes_the_check_before_training(repaired):
    for split in ("train", "val"):
        assert check_data(open_dataset("folder", repaired.out, split=split)).pixel_counts.all()
    kinds = {finding.kind for finding in examine(f"folder:{repaired.out}").findings}
    assert not kinds & {*REPAIRED, *LEFT_OUT}
    told = json.loads((repaired.out / "repairs.json").read_text())
    assert len(told["changed"]) == len(repaired.changed) == 7  # of the rotated pair, image and mask
    assert any(text.startswith("duplicate_across_splits") for text in told["remaining"])


@pytest.mark.parametrize("listed", [True, False])
def test_masks_of_0_and_255_become_0_and_1_where_there_are_two_classes(tmp_path, listed):
    truth = []
    for i in range(3):
        image, mask = pair(i)
        truth.append((mask == 1).astype(np.uint8))
        put(tmp_path / "in", f"train/{'abc'[i]}", image, truth[-1] * 255)
    if listed:
        classes(tmp_path / "in", [0, 1])
    report = repair(examine(f"folder:{tmp_path / 'in'}"), tmp_path / "out")
    assert {change.what for change in report.changed} == {"255 became 1"}
    dataset = open_dataset("folder", tmp_path / "out", split="train")
    assert dataset.class_info.num_classes == 2
    for i in range(3):
        np.testing.assert_array_equal(dataset[i].mask, truth[i])


@pytest.mark.parametrize("shift", [1, -1])
def test_a_whole_data_set_is_shifted_together(tmp_path, shift):
    first = 0 if shift == 1 else 1
    classes(tmp_path / "in", range(first, first + 3))
    truth = []
    for i in range(4):
        image, mask = pair(i)
        mask = np.where(mask == 255, 0, mask)
        mask = np.minimum(mask, 1) if i == 1 else np.maximum(mask, 1) if i == 2 else mask
        truth.append(mask)
        put(tmp_path / "in", f"train/{'abcd'[i]}", image, (mask.astype(int) + first + shift).astype(np.uint8))
    repair(examine(f"folder:{tmp_path / 'in'}"), tmp_path / "out")
    dataset = open_dataset("folder", tmp_path / "out", split="train")
    for i in range(4):
        np.testing.assert_array_equal(dataset[i].mask, truth[i])


@pytest.mark.parametrize(("quality", "certain"), [(95, True), (1, False)])
def test_a_jpeg_mask_is_repaired_only_where_every_pixel_is_certain(tmp_path, quality, certain):
    classes(tmp_path / "in", [0, 100, 200])
    mask = np.kron(np.array([[0, 100], [200, 100]], np.uint8), np.ones((32, 48), np.uint8))
    for name in "abc":
        put(tmp_path / "in", f"train/{name}", pair(ord(name))[0][:64, :96], mask)
    if not certain:
        mask = np.random.default_rng(0).permutation(mask.ravel()).reshape(mask.shape)  # fine detail blurs
    (tmp_path / "in" / "masks" / "train" / "a.png").unlink()
    save(tmp_path / "in" / "masks" / "train" / "a.jpg", mask, quality=quality)
    report = repair(examine(f"folder:{tmp_path / 'in'}"), tmp_path / "out")
    if certain:
        np.testing.assert_array_equal(sample(tmp_path / "out", "train", "a").mask, mask // 100)
    else:
        assert "blurred between classes" in report.left_out["masks/train/a.jpg"]


def test_sixteen_bit_images_of_a_12_bit_camera_share_one_range(tmp_path):
    for i in range(2):
        image, mask = pair(i)
        wide = (image[..., 0].astype(int) * 4095 // 255 // (i + 1)).astype(np.uint16)
        put(tmp_path / "in", f"train/{'ab'[i]}", wide, mask)
    report = repair(examine(f"folder:{tmp_path / 'in'}"), tmp_path / "out")
    assert {change.what for change in report.changed} == {
        "0..4095 became 0..255; predict such images with --value-range 0,4095"
    }
    for i in range(2):
        found = sample(tmp_path / "out", "train", "ab"[i]).image[..., 0].astype(int)
        assert np.abs(found - pair(i)[0][..., 0].astype(int) // (i + 1)).max() <= 1


def test_masks_of_colours_with_equal_channels_are_repaired_through_their_other_fault(tmp_path):
    """Grey saved as RGB, and one too high besides."""
    for i in range(4):
        put(tmp_path / "in", f"train/good{'abcd'[i]}", *pair(i))
    image, mask = pair(7)
    raised = np.where(mask == 255, 255, mask + 1).astype(np.uint8)
    put(tmp_path / "in", "train/bad", image, np.repeat(raised[..., None], 3, axis=2))
    classes(tmp_path / "in", [0, 1, 2])
    repair(examine(f"folder:{tmp_path / 'in'}"), tmp_path / "out")
    np.testing.assert_array_equal(sample(tmp_path / "out", "train", "bad").mask, mask)


def test_a_data_set_of_colour_masks_is_healthy_and_copied(tmp_path):
    for i in range(3):
        image, mask = pair(i)
        put(tmp_path / "in", f"train/{'abc'[i]}", image, PALETTE[np.where(mask == 255, 0, mask)])
    entries = [{"id": i, "name": name, "color": list(colour)} for i, (name, colour) in enumerate(CLASSES)]
    (tmp_path / "in" / "classes.json").write_text(json.dumps({"classes": entries}))
    examination = examine(f"folder:{tmp_path / 'in'}")
    assert examination.findings == ()
    assert repair(examination, tmp_path / "out").copied == 7


def test_a_zip_file_is_examined_and_repaired_in_place(tmp_path):
    plant(tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for path in sorted((tmp_path / "in").rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(tmp_path / "in").as_posix())
    unpacked, packed = examine(f"folder:{tmp_path / 'in'}"), examine(f"folder:{tmp_path / 'data.zip'}")
    assert [(f.kind, f.files) for f in packed.findings] == [(f.kind, f.files) for f in unpacked.findings]
    report = repair(packed, tmp_path / "out")
    assert len(report.changed) == 7
    check_data(open_dataset("folder", tmp_path / "out", split="train"))


def test_nothing_is_written_while_the_class_list_is_unreadable(tmp_path):
    put(tmp_path / "in", "train/a", *pair(0))
    (tmp_path / "in" / "classes.json").write_text("{")
    report = repair(examine(f"folder:{tmp_path / 'in'}"), tmp_path / "out")
    assert "expected JSON" in report.left_out["classes.json"]
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------------- the page


class Page(HTMLParser):
    """Collects what a browser would load and show, and checks that tags close."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.addresses, self.text, self.tags = [], [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "data")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_loads_nothing_and_shows_every_finding(planted):
    examination = examine(f"folder:{planted.root}")
    text = html_page(examination)
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert page.addresses
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert not re.search(r"https?:|@import|url\(", text)
    assert "script" not in page.tags
    shown = " ".join(page.text)
    for finding in examination.findings:
        assert finding.kind in shown
        assert all(name in shown for name in finding.files)
    assert all(name in shown for name, _ in CLASSES)
    assert "good" in shown.split("Samples", 1)[1]


def test_names_on_the_page_are_text_and_no_tags(tmp_path):
    name = "<script>alert(1)</script>\"&'><b>".replace("/", "∕")
    for i in range(3):
        put(tmp_path, f"train/good{'abc'[i]}", *pair(i))
    image, mask = pair(4)
    put(tmp_path, f"train/{name}", image, mask[::2])
    entries = [{"id": i, "name": f"<i>{i}"} for i in range(3)]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": entries}))
    page = Page()
    page.feed(html_page(examine(f"folder:{tmp_path}")))
    assert not page.tags & {"script", "b>", "i"}
    assert f"masks/train/{name}.png" in " ".join(page.text)
    assert "<i>1" in " ".join(page.text)


def test_a_page_of_nothing_is_still_a_page(tmp_path):
    page = Page()
    page.feed(html_page(examine(f"folder:{tmp_path}")))
    assert page.open == []


def test_pictures_are_small_however_large_the_image(tmp_path):
    for i in range(3):
        image, mask = pair(i)
        put(
            tmp_path,
            f"train/{'abc'[i]}",
            np.kron(image, np.ones((8, 8, 1), np.uint8)),
            np.kron(mask, np.ones((8, 8), np.uint8)),
        )
    text = html_page(examine(f"folder:{tmp_path}"))
    assert len(text) < 300_000
    with Image.open(tmp_path / "images" / "train" / "a.png") as image:
        assert image.size == (768, 576)


# ---------------------------------------------------------------------------------------------------------- interrupted


def _two_pairs(root):
    for name in "ab":
        put(root, f"train/{name}", *pair(1))
    classes(root, range(len(CLASSES)))
    return examine(f"folder:{root}")


@pytest.mark.parametrize("there", [False, True])
def test_an_interrupted_copy_leaves_nothing_and_no_file_has_its_name_before_all_are_there(tmp_path, there):
    examination, out = _two_pairs(tmp_path / "data"), tmp_path / "out"
    if there:
        out.mkdir()

    def stop(done, _):
        assert not any(path.name[0] != "." for path in out.iterdir())
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repair(examination, out, report=stop)
    assert [*tmp_path.rglob(".refineseg*")] == []
    assert out.exists() == there
    assert repair(examination, out).copied == 5
    assert sorted(path.name for path in out.iterdir()) == ["classes.json", "images", "masks", "repairs.json"]


def test_what_a_killed_process_left_of_a_copy_is_removed_and_a_running_one_keeps_its_place(tmp_path):
    examination, out = _two_pairs(tmp_path / "data"), tmp_path / "out"
    with folder_beside(out / "x") as folder:
        (folder / "images").mkdir()
        with pytest.raises(ConfigError, match=r"expected a new or empty folder .*; remove it, or name another with"):
            repair(examination, out)
        (folder / "images").rename(out / folder.name.replace(f"-{os.getpid()}-", "-999999999-"))
    assert len([*out.iterdir()]) == 1
    assert repair(examination, out).copied == 5
    assert not any(path.name[0] == "." for path in out.iterdir())


def written(root, masks, *, names=None, image=None):
    """A data set of these masks, each beside an image."""
    for number, mask in enumerate(masks):
        put(
            root,
            f"train/{number:03d}",
            np.full((*mask.shape[:2], 3), number, np.uint8) if image is None else image,
            mask,
        )
    if names:
        (root / "classes.txt").write_text("\n".join(names) + "\n")
    return examine(f"folder:{root}")


def rows(*values):
    return np.repeat(np.array(values, np.uint8)[:, None], 8, axis=1)


def copied(out):
    return {path.stem: sorted(set(np.array(Image.open(path)).ravel().tolist())) for path in out.glob("masks/train/*")}


def test_masks_of_1_to_k_are_all_shifted_however_seldom_the_last_class_is(tmp_path):
    masks = [rows(1, 2)] * 3 + [rows(1, 1)] * 12
    repair(written(tmp_path / "in", masks), tmp_path / "out")
    found = copied(tmp_path / "out")
    assert [found[f"{i:03d}"] for i in range(15)] == [[0, 1]] * 3 + [[0]] * 12
    # with a list of classes, the few may as well be wrong: none of them is repaired, and nothing else is changed
    report = repair(written(tmp_path / "listed", masks, names=("ground", "sky")), tmp_path / "second")
    found = copied(tmp_path / "second")
    assert set(map(tuple, found.values())) == {(1,)}
    assert len(report.left_out) == 3


def test_a_class_that_the_list_forgets_is_no_shift(tmp_path):
    masks = [rows(0, 1, 2, 3), rows(1, 2, 3), rows(0, 1, 2), rows(1, 2)]
    report = repair(written(tmp_path / "in", masks, names=("a", "b", "c")), tmp_path / "out")
    assert copied(tmp_path / "out") == {"002": [0, 1, 2], "003": [1, 2]}
    assert not report.changed


def test_a_mask_of_255_alone_is_full_of_the_second_class_where_others_are_0_and_255(tmp_path):
    masks = [rows(0, 255), rows(255, 255), rows(0, 0), rows(255, 0)]
    repair(written(tmp_path / "in", masks, names=("ground", "thing")), tmp_path / "out")
    assert copied(tmp_path / "out") == {"000": [0, 1], "001": [1], "002": [0], "003": [0, 1]}


def test_values_below_zero_do_not_wrap_round(tmp_path):
    image = np.linspace(-1000, 3000, 64).reshape(8, 8).astype(np.int16)
    mask = save(tmp_path / "in" / "masks" / "train" / "a.png", rows(0, 0, 0, 0, 1, 1, 1, 1))
    (tmp_path / "in" / "images" / "train").mkdir(parents=True)
    tifffile.imwrite(tmp_path / "in" / "images" / "train" / "a.tif", image)
    repair(examine(f"folder:{tmp_path / 'in'}"), tmp_path / "out")
    found = np.array(Image.open(next((tmp_path / "out" / "images" / "train").iterdir())))[..., 0].ravel()
    assert mask.is_file()
    assert (np.diff(found.astype(int)) >= 0).all(), "the order of the values is another"


def test_transparent_pixels_stay_transparent(tmp_path):
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[..., :3], rgba[2:, :, 3] = 90, 255
    path = save(tmp_path / "in" / "images" / "train" / "a.png", rgba)
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 3
        image.save(path, exif=exif)
    save(tmp_path / "in" / "masks" / "train" / "a.png", rows(0, 0, 0, 0, 1, 1, 1, 1))
    before = sample(tmp_path / "in", "train", "a").mask
    repair(examine(f"folder:{tmp_path / 'in'}"), tmp_path / "out")
    after = sample(tmp_path / "out", "train", "a").mask
    assert (before == 255).sum() == (after == 255).sum() == 16


def test_images_of_a_split_without_masks_are_said_to_be_absent(tmp_path):
    put(tmp_path / "in", "train/a", *pair(1))
    save(tmp_path / "in" / "images" / "test" / "x.png", pair(2)[0])
    report = repair(examine(f"folder:{tmp_path / 'in'}"), tmp_path / "out")
    assert "test" in report.left_out
    assert not (tmp_path / "out" / "images" / "test").exists()


def test_masks_whose_palettes_differ_are_read_by_colour_also_where_they_hold_one(tmp_path):
    classes(tmp_path / "in", ())
    listed = [{"id": i, "name": name, "color": list(colour)} for i, (name, colour) in enumerate(CLASSES)]
    (tmp_path / "in" / "classes.json").write_text(json.dumps({"classes": listed}))
    for name, colours in {"two": (2, 1), "one": (2,)}.items():
        mask = Image.fromarray(rows(*range(len(colours))), mode="P")
        mask.putpalette(PALETTE[list(colours)].ravel().tolist())
        path = tmp_path / "in" / "masks" / "train" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask.save(path)
        save(tmp_path / "in" / "images" / "train" / f"{name}.png", np.zeros((len(colours), 8, 3), np.uint8))
    repair(examine(f"folder:{tmp_path / 'in'}"), tmp_path / "out")
    assert copied(tmp_path / "out") == {"two": [1, 2], "one": [2]}


@pytest.mark.parametrize("names", [("ground", "thing"), None])
def test_black_and_white_jpeg_masks_of_two_classes_become_0_and_1(tmp_path, names):
    true = {}
    for number in range(4):
        image, mask = pair(number)
        true[f"{number}"] = np.zeros(mask.shape, np.uint8)
        true[f"{number}"][10 : 30 + 5 * number, 20:70] = number > 0
        save(tmp_path / "in" / "images" / "train" / f"{number}.png", image)
        save(tmp_path / "in" / "masks" / "train" / f"{number}.jpg", 255 * true[f"{number}"], quality=80)
    if names:
        (tmp_path / "in" / "classes.txt").write_text("\n".join(names) + "\n")
    examination = examine(f"folder:{tmp_path / 'in'}")
    assert {finding.kind for finding in examination.findings} == {"jpeg_mask"}
    report = repair(examination, tmp_path / "out")
    assert "0 for (0, 0, 0), 1 for (255, 255, 255)" in report.changed[0].what
    for name, mask in true.items():
        assert np.array_equal(sample(tmp_path / "out", "train", name).mask, mask)


@pytest.mark.parametrize(("levels", "names"), [((0, 1, 255), "ab"), ((0, 1, 2), "abc"), ((0, 90, 255), "ab")])
def test_other_jpeg_masks_are_left_alone_and_tell_nothing_of_the_classes(tmp_path, levels, names):
    """With void of 255 beside two classes, of indices, and of three levels."""
    for number in range(3):
        mask = np.array(levels, np.uint8)[np.arange(96) * 3 // 96][None].repeat(72, axis=0)
        save(tmp_path / "in" / "images" / "train" / f"{number}.png", pair(number)[0])
        save(tmp_path / "in" / "masks" / "train" / f"{number}.jpg", np.ascontiguousarray(mask), quality=95)
    (tmp_path / "in" / "classes.txt").write_text("\n".join(names) + "\n")
    examination = examine(f"folder:{tmp_path / 'in'}")
    assert {finding.kind for finding in examination.findings} == {"jpeg_mask"}
    report = repair(examination, tmp_path / "out")
    assert (report.changed, report.copied, len(report.left_out)) == ((), 0, 3)
    assert not (tmp_path / "out").exists()


def test_no_copy_is_written_of_a_few_samples_and_a_smaller_copy_says_so(tmp_path):
    masks = [rows(0, 1), rows(0, 5), rows(0, 5), rows(1, 0)]
    report = repair(written(tmp_path / "half", masks, names=("a", "b")), tmp_path / "out")
    assert report.lines()[0] == f"copy: {tmp_path / 'out'}: 2 of 4 samples, 5 files as they are, 0 repairs"
    report = repair(written(tmp_path / "few", [*masks, rows(0, 5)], names=("a", "b")), tmp_path / "none")
    assert report.lines()[0] == "no copy"
    assert "only 2 of 5 samples could be copied" in report.lines()[-1]
    assert not (tmp_path / "none").exists()


def test_names_that_differ_by_capitals_are_told_and_made_equal_in_the_copy(tmp_path):
    root = tmp_path / "in"
    for number in range(3):
        image, mask = pair(number)
        save(root / "images" / "train" / f"IMG_{number}.PNG", image)
        save(root / "masks" / "train" / f"img_{number}_mask.png", mask)
    with pytest.raises(DatasetError, match=r"3 that differ by capitals: img_0_mask.png for IMG_0.PNG"):
        open_dataset("folder", root, split="train")
    [finding] = examine(f"folder:{root}").findings
    assert (finding.kind, finding.count) == ("name_case", 3)
    repair(examine(f"folder:{root}"), tmp_path / "out")
    for number in range(3):
        assert np.array_equal(sample(tmp_path / "out", "train", f"IMG_{number}").mask, pair(number)[1])


def test_images_whose_smallest_value_is_white_stay_positives(tmp_path):
    """The pixels of the copy are those that training sees, not their negative."""
    put(tmp_path / "in", "train/b", *pair(2))
    image, mask = pair(1)
    save(tmp_path / "in" / "masks" / "train" / "a.png", mask)
    stored = (4095 - image[..., 0].astype(int) * 16).astype(np.uint16)
    tifffile.imwrite(tmp_path / "in" / "images" / "train" / "a.tif", stored, photometric="miniswhite")
    before = sample(tmp_path / "in", "train", "a").image
    repair(examine(f"folder:{tmp_path / 'in'}"), tmp_path / "out")
    after = sample(tmp_path / "out", "train", "a").image
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9


def test_a_class_that_no_mask_holds_is_left_out_by_the_remap_json_that_is_advised(tmp_path):
    for i in range(2):
        put(tmp_path, f"train/{'ab'[i]}", *pair(i))
    classes(tmp_path, [0, 1, 2, 3])
    [finding] = [found for found in examine(f"folder:{tmp_path}").findings if found.kind == "empty_class"]
    (tmp_path / "remap.json").write_text(finding.action[finding.action.index("{") :])
    assert "empty_class" not in {found.kind for found in examine(f"folder:{tmp_path}").findings}


def test_the_copy_of_the_current_folder_has_its_name(tmp_path, monkeypatch):
    (tmp_path / "mine" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine")
    assert default_target(Path()) == tmp_path.resolve() / "mine_repaired"
    monkeypatch.chdir(tmp_path / "mine" / "images")
    assert default_target(Path("..")) == tmp_path.resolve() / "mine_repaired"
