"""Own data without a val split: some training images are held out, always the same ones, and none is trained on."""

from pathlib import Path

import pytest

from conftest import write_folder
from fakes.runs import Silent, tiny
from fakes.scenes import fake_camvid, fake_idd_lite
from refineseg.data.datasets import parse_sources
from refineseg.errors import ConfigError
from refineseg.training.config import HELD_OUT
from refineseg.training.opening import open_data
from refineseg.training.request import fitted
from refineseg.training.run import RunRequest, start_run


def names(dataset):
    return {dataset.name(i) for i in range(len(dataset))}


def opened(root, **changes):
    progress = Silent()
    sources = parse_sources(f"folder:{root}")
    config = fitted(tiny(**changes), sources, skip_missing=False, say=progress.say)
    return config, open_data(sources, config, progress)[0], progress.said


@pytest.fixture
def root(tmp_path) -> Path:
    return write_folder(tmp_path / "data", splits={"train": 12})


def test_a_tenth_of_own_training_images_is_held_out_by_the_seed(root):
    config, data, said = opened(root, val_share=0.25)
    assert config.val_split == HELD_OUT
    held, learned = names(data.val), names(data.phases[0].dataset)
    assert (len(held), len(learned)) == (3, 9)
    assert not held & learned
    assert any("25 % of the training images are held out for validation (drawn with seed 0)" in line for line in said)
    assert names(opened(root, val_share=0.25)[1].val) == held, "the same images in every call"
    assert any(names(opened(root, val_share=0.25, seed=seed)[1].val) != held for seed in (1, 2, 3))


def test_nothing_is_held_out_where_that_is_not_wanted_or_leaves_nothing(root, tmp_path):
    assert opened(root, val_share=0.0)[1].val is None
    few = write_folder(tmp_path / "few", splits={"train": 4})
    _, data, said = opened(few)
    assert data.val is None
    assert any("4 images are too few" in line for line in said)
    assert opened(root, val_split=None)[1].val is None, "a recipe that trains on everything on purpose"
    with pytest.raises(ConfigError, match="expected validation images for --patience 3, got none"):
        opened(root, val_split=None, patience=3)


def test_a_second_data_set_of_wider_classes_is_learned_from_in_unions(tmp_path):
    data = f"camvid:{fake_camvid(tmp_path / 'camvid')}+idd_lite:{fake_idd_lite(tmp_path / 'idd')}"
    progress = Silent()
    sources = parse_sources(data)
    config = fitted(tiny(train_split="train", val_split=None), sources, skip_missing=False, say=progress.say)
    phase = open_data(sources, config, progress)[0].phases[0]
    assert len(phase.unions) == 4
    assert len(phase.pixel_counts) == 11
    assert any("idd_lite in the classes of camvid" in line for line in progress.said)
    run = start_run(RunRequest(config, data, device="cpu"), tmp_path / "run", progress=progress)
    trained_on = run.spec.provenance["protocol"]["trained_on"]
    assert trained_on == ["camvid:train", "idd_lite:train"]
