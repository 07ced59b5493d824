"""CamVid in its two layouts: tiny trees made here, and the real copy where it lies beside the checkout."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import SHARED
from refineseg.data.checks.label_check import check_data
from refineseg.data.readers.camvid import open_camvid
from refineseg.data.samples.catalog import catalog_classes
from refineseg.errors import DatasetError, LabelError

REAL = SHARED / "camvid"
real_camvid = pytest.mark.skipif(not REAL.is_dir(), reason="CamVid is not beside the checkout")


def _scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A tiny image, and a mask in which 11 is void."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), rng.integers(0, 12, (6, 8), dtype=np.uint8)


def _segnet_tree(root: Path) -> Path:
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        (root / split).mkdir(parents=True)
        (root / f"{split}annot").mkdir()
        lines = []
        for index in range(count):
            image, mask = _scene(index)
            Image.fromarray(image).save(root / split / f"{split}_{index}.png")
            Image.fromarray(mask).save(root / f"{split}annot" / f"{split}_{index}.png")
            name = f"{split}_{index}.png"
            lines.append(f"/SegNet/CamVid/{split}/{name} /SegNet/CamVid/{split}annot/{name}")
        (root / f"{split}.txt").write_text("\n".join(reversed(lines)) + "\n")
    return root


def _compact_tree(root: Path, *, lossless: bool) -> Path:
    for split in ("train", "val", "test"):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        image, mask = _scene(0)
        Image.fromarray(image).save(root / "images" / split / "a.webp", quality=50)
        Image.fromarray(np.where(mask == 11, 255, mask).astype(np.uint8)).save(root / "labels" / split / "a.png")
        (root / f"{split}.txt").write_text(f"images/{split}/a.webp\tlabels/{split}/a.png\n")
    if lossless:
        (root / "test-lossless").mkdir()
        Image.fromarray(_scene(0)[0]).save(root / "test-lossless" / "a.webp", lossless=True)
    return root


def test_segnets_copy_is_read_in_the_order_of_its_lists_with_11_as_void(tmp_path):
    train = open_camvid(_segnet_tree(tmp_path), "train")
    assert [train.name(i) for i in range(len(train))] == ["train_2", "train_1", "train_0"]
    assert train.class_info == catalog_classes("camvid")
    assert train.notes == ()
    for index, seed in enumerate((2, 1, 0)):
        image, mask = _scene(seed)
        sample = train[index]
        np.testing.assert_array_equal(sample.image, image)
        np.testing.assert_array_equal(sample.mask, np.where(mask == 11, 255, mask))
        np.testing.assert_array_equal(train.read_mask(index), sample.mask)
    assert [len(open_camvid(tmp_path, split)) for split in ("train", "val", "test")] == [3, 1, 2]
    assert open_camvid(tmp_path, "test").notes == ()


def test_the_compact_copy_reads_the_lossless_test_images_where_they_are(tmp_path):
    image, mask = _scene(0)
    whole = open_camvid(_compact_tree(tmp_path / "whole", lossless=True), "test")
    np.testing.assert_array_equal(whole[0].image, image)
    np.testing.assert_array_equal(whole[0].mask, np.where(mask == 11, 255, mask))
    assert whole.notes == ("test images: the lossless copy (test-lossless)",)
    part = open_camvid(_compact_tree(tmp_path / "part", lossless=False), "test")
    assert (part[0].image != image).any()
    assert "the compressed copy, because test-lossless is not there" in part.notes[0]
    assert open_camvid(tmp_path / "whole", "train").notes == ()


def test_in_the_compact_copy_11_is_no_label(tmp_path):
    root = _compact_tree(tmp_path, lossless=False)
    Image.fromarray(_scene(0)[1]).save(root / "labels" / "train" / "a.png")
    with pytest.raises(LabelError, match=r"a\.png: expected 0\.\.10 or 255, got 11 in \d+ pixels?; correct the mask$"):
        open_camvid(root, "train").read_mask(0)


def test_a_mask_of_another_size_than_its_image_is_an_error(tmp_path):
    root = _segnet_tree(tmp_path)
    Image.fromarray(np.zeros((8, 6), np.uint8)).save(root / "valannot" / "val_0.png")
    val = open_camvid(root, "val")
    for read in (val.read_mask, val.__getitem__):
        with pytest.raises(DatasetError, match=r"val_0\.png: expected a mask of the image's size 6x8 .* got 8x6"):
            read(0)


def test_wrong_folders_splits_and_lists_are_named(tmp_path):
    with pytest.raises(
        DatasetError, match=r"expected a CamVid split of train, val, test, fit, held_out, got 'trainval'; join .* '\+'"
    ):
        open_camvid(tmp_path, "trainval")
    with pytest.raises(DatasetError, match=r"expected CamVid in .*, but there is no train\.txt; give the folder that"):
        open_camvid(tmp_path, "train")
    root = _segnet_tree(tmp_path / "camvid")
    (root / "trainannot" / "train_1.png").unlink()
    with pytest.raises(DatasetError, match=r"the files named in .*, but 1 are absent: trainannot.train_1\.png; unpack"):
        open_camvid(root, "train")
    (root / "val.txt").write_text("only_one_path.png\n")
    with pytest.raises(DatasetError, match=r"expected 'image label' on each line of .*, got only_one_path\.png;"):
        open_camvid(root, "val")
    (root / "test.txt").write_text("\n")
    with pytest.raises(DatasetError, match="got no line"):
        open_camvid(root, "test")


@real_camvid
@pytest.mark.parametrize(("split", "size"), [("train", 367), ("val", 101), ("test", 233)])
def test_the_real_masks_hold_the_counted_pixels(split, size):
    dataset = open_camvid(REAL, split)
    assert len(dataset) == size
    counts = json.loads((REAL / "stats.json").read_text())["splits"][split]["counts"]
    assert check_data(dataset).pixel_counts.tolist() == counts


@real_camvid
def test_the_real_samples_are_pairs_and_the_test_images_lossless():
    test = open_camvid(REAL, "test")
    assert test.notes == ("test images: the lossless copy (test-lossless)",)
    assert all(pair.image.parent.name == "test-lossless" for pair in test.pairs)
    for dataset in (test, open_camvid(REAL, "val")):
        sample = dataset[0]
        assert sample.image.shape == (360, 480, 3)
        assert sample.mask.shape == (360, 480)


@real_camvid
def test_without_the_lossless_folder_the_real_copy_says_so(tmp_path):
    for name in ("images", "labels", "test.txt"):
        (tmp_path / name).symlink_to(REAL / name)
    assert "the compressed copy" in open_camvid(tmp_path, "test").notes[0]


@real_camvid
def test_the_held_out_split_is_one_whole_drive():
    names = {part: _names(REAL, part) for part in ("train", "val", "fit", "held_out")}
    assert names["held_out"] == {name for name in names["train"] if name.startswith("0006R0")}
    assert names["fit"] == (names["train"] | names["val"]) - names["held_out"]
    assert (len(names["fit"]), len(names["held_out"])) == (367, 101)


def _names(root, split):
    dataset = open_camvid(root, split)
    return {dataset.name(i) for i in range(len(dataset))}
