"""The tiny trees: the same bytes for the same seed, readable by their data sets; and the listing of many files."""

import time

import numpy as np
import pytest
from PIL import Image

from fakes import scenes as fake_scenes
from refineseg.data.checks.label_check import check_data
from refineseg.data.datasets import open_dataset
from refineseg.data.readers.matlab import load_mat
from refineseg.data.samples.sample import Dataset
from refineseg.data.storage.file_lists import check_present, file_names
from refineseg.errors import DatasetError, MissingExtraError

TREES = [
    ("nyud", "fake_nyud", ("train", "val", "test")),
    ("nyud", "fake_nyud_mat", ("train", "test")),
    ("sunrgbd", "fake_sunrgbd", ("train", "test")),
    ("sunrgbd", "fake_sunrgbd_toolbox", ("train", "test")),
    ("ade20k", "fake_ade20k", ("train", "val", "test")),
    ("ade20k", "fake_ade20k_full", ("train", "val")),
    ("cityscapes", "fake_cityscapes", ("train", "val", "test", "train_extra")),
    ("camvid", "fake_camvid", ("train", "val", "test")),
]


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("data", "maker", "splits"), TREES)
def test_a_tree_is_the_same_for_the_same_seed_and_opens_under_its_name(data, maker, splits, tmp_path):
    make = getattr(fake_scenes, maker)
    roots = [make(tmp_path / name, seed=seed) for name, seed in (("a", 5), ("b", 5), ("c", 6))]
    assert contents(roots[0]) == contents(roots[1]) != contents(roots[2])
    for split in splits:
        dataset = open_dataset(data, roots[0], split=split)
        assert isinstance(dataset, Dataset)
        assert len(dataset) == 3
        assert len({dataset.name(i) for i in range(3)}) == 3
        for i in range(3):
            sample = dataset[i]
            assert sample.name == dataset.name(i)
            if data in ("ade20k", "cityscapes") and split == "test":
                assert sample.mask is None
            else:
                assert sample.mask.shape == sample.image.shape[:2]
                assert set(np.unique(sample.mask).tolist()) <= {*range(dataset.class_info.num_classes), 255}
                assert 255 in sample.mask
        if sample.mask is not None:
            assert (check_data(dataset).pixel_counts > 0).sum() > 3
    joined = open_dataset(data, roots[0], split="+".join(splits[:2]))
    assert len(joined) == 6


@pytest.mark.slow
def test_a_data_set_of_full_size_opens_without_looking_at_each_file(tmp_path):
    """The names of Cityscapes' train_extra and ADE20K's training set, as empty files."""
    cities = [f"city{i}" for i in range(23)]
    for city in cities:
        for kind, ending in (("leftImg8bit", "leftImg8bit"), ("gtCoarse", "gtCoarse_labelIds")):
            folder = tmp_path / kind / "train_extra" / city
            folder.mkdir(parents=True)
            for frame in range(435):
                (folder / f"{city}_{frame:06d}_000019_{ending}.png").touch()
    start = time.perf_counter()
    assert len(open_dataset("cityscapes", tmp_path, split="train_extra")) == 23 * 435
    assert time.perf_counter() - start < 5, "20000 files, none of them opened"


def test_absent_files_are_found_by_listing_each_folder_once(tmp_path, monkeypatch):
    for name in ("a.png", "b.png", ".hidden"):
        (tmp_path / name).touch()
    assert file_names(tmp_path) == ["a.png", "b.png"]
    assert file_names(tmp_path / "nowhere") == []
    listed = []
    monkeypatch.setattr(
        "refineseg.data.storage.file_lists.file_names", lambda folder: listed.append(folder) or ["a.png"]
    )
    paths = [tmp_path / f"{letter}.png" for letter in "abcdefgh"]
    with pytest.raises(DatasetError, match=r"named in LIST, but 7 are absent: b\.png, .*, f\.png and 2 more; do this$"):
        check_present(paths, root=tmp_path, listed_in="LIST", advice="do this")
    assert listed == [tmp_path]


def test_matlab_files_of_other_kinds_are_named(tmp_path, monkeypatch):
    root = fake_scenes.fake_nyud_mat(tmp_path, seed=0)
    with pytest.raises(DatasetError, match="expected a MATLAB file, but there is no .*absent.mat"):
        load_mat(tmp_path / "absent.mat", ["x"])
    with pytest.raises(DatasetError, match=r"version 5 to 7, got version 7\.3: .*labeled\.mat"):
        load_mat(root / "nyu_depth_v2_labeled.mat", ["images"])
    with pytest.raises(DatasetError, match=r"expected the variables x in .*splits\.mat, got trainNdxs, testNdxs"):
        load_mat(root / "splits.mat", ["x"])
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    with pytest.raises(MissingExtraError, match=r"scipy to write splits\.mat"):
        fake_scenes.fake_nyud_mat(tmp_path, seed=0)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"h5py to write nyu_depth_v2_labeled\.mat"):
        fake_scenes.fake_nyud_mat(tmp_path, seed=0)


def test_the_white_border_of_official_frames_is_drawn(tmp_path):
    import h5py

    fake_scenes.fake_nyud_mat(tmp_path, seed=0)
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat") as file:
        assert file["images"].shape == (6, 3, 640, 480)
        assert (file["images"][0][:, :7] == 255).all()
        assert (file["labels"][0][:7] == 0).all()
    with Image.open(
        fake_scenes.fake_cityscapes(tmp_path, seed=0)
        / "gtFine/train/bochum/bochum_000002_000019_gtFine_instanceIds.png"
    ) as image:
        assert image.mode.startswith("I;16")
