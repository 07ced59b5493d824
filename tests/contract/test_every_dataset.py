"""What every data set must do; a new one adds its tiny tree to ``TREES``."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from conftest import write_folder
from fakes import own, pascal, scenes
from fakes.coco import fake_coco_voc
from refineseg.data.datasets import DATASETS, open_dataset
from refineseg.data.own.formats import FORMATS
from refineseg.data.samples.sample import Dataset
from refineseg.data.shard_writer import ShardOptions, write_shards
from refineseg.errors import RefinesegError
from refineseg.training.recipes.table import DEFAULT_RECIPE, RECIPES


def folder(root):
    return write_folder(root, splits={"train": 3})


def shards(root):
    dataset = open_dataset("camvid", scenes.fake_camvid(root / "camvid"), split="train")
    write_shards(dataset, str(root / "shards"), ShardOptions("camvid", "train"))
    return root / "shards"


TREES = {  # data set -> what writes a tree with the split train
    "voc": pascal.fake_voc,
    "sbd": pascal.fake_sbd,
    "coco_voc": fake_coco_voc,
    "person_part": pascal.fake_person_part,
    "pascal_context": pascal.fake_pascal_context,
    "pascal_context_59": pascal.fake_pascal_context,
    "pascal_context_alphabetical": partial(pascal.fake_pascal_context, masks="png", order="alphabetical"),
    "pascal_context_refinenet": partial(pascal.fake_pascal_context, masks="png"),
    "nyud": scenes.fake_nyud,
    "sunrgbd": scenes.fake_sunrgbd,
    "ade20k": scenes.fake_ade20k,
    "cityscapes": scenes.fake_cityscapes,
    "camvid": scenes.fake_camvid,
    "idd_lite": scenes.fake_idd_lite,
    "folder": folder,
    **{name: own.FAKES[name] for name in FORMATS if name != "masks"},
    "shards": shards,
}


def test_every_data_set_has_a_tree():
    assert set(TREES) == set(DATASETS)


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_gives_images_with_masks_of_its_classes(name, tmp_path):
    dataset = open_dataset(name, TREES[name](tmp_path / "data"), split="train")
    assert isinstance(dataset, Dataset)
    classes = dataset.class_info
    values = {*range(classes.num_classes), classes.ignore_index}
    assert len({dataset.name(i) for i in range(len(dataset))}) == len(dataset) >= 1
    samples = [dataset[i] for i in range(len(dataset))]
    for i, sample in enumerate(samples):
        assert sample.name == dataset.name(i)
        assert sample.image.dtype == np.uint8
        assert sample.image.shape == (*sample.mask.shape, 3)
        assert set(np.unique(sample.mask).tolist()) <= values
        np.testing.assert_array_equal(dataset.read_mask(i), sample.mask)
    assert any((sample.mask != classes.ignore_index).any() for sample in samples)
    with ThreadPoolExecutor(4) as pool:  # threads read at once, and workers get a copy
        for copy in (dataset, pickle.loads(pickle.dumps(dataset))):
            for sample, again in zip(samples, pool.map(copy.__getitem__, range(len(samples))), strict=True):
                np.testing.assert_array_equal(again.image, sample.image)
                np.testing.assert_array_equal(again.mask, sample.mask)


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_refuses_what_is_not_there(name, tmp_path):
    root = TREES[name](tmp_path / "data")
    with pytest.raises(RefinesegError, match="nosuchsplit"):
        open_dataset(name, root, split="nosuchsplit")
    (tmp_path / "empty").mkdir()
    for absent in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(RefinesegError, match="expected"):
            open_dataset(name, absent, split="train")


def test_every_data_set_of_the_papers_is_described_and_has_a_recipe():
    for name, entry in DATASETS.items():
        assert entry.summary
        variant_of_another = name.startswith(("pascal_context_", "coco_voc", "sbd"))
        assert variant_of_another or name == "shards" or DEFAULT_RECIPE[name] in RECIPES, name
