"""Small pictures of one's own get small crops; nobody's choice is changed."""

from dataclasses import replace

import pytest

from conftest import write_folder
from fakes.runs import Silent
from refineseg.data.datasets import open_dataset
from refineseg.training.crop_size import fit_crops
from refineseg.training.recipes.table import find_recipe


@pytest.fixture
def dataset(tmp_path):
    def write(size_hw):
        return open_dataset("folder", write_folder(tmp_path / "data", splits={"train": 3}, size=size_hw), split="train")

    return write


def crops(config, dataset):
    progress = Silent()
    return [phase.crops.crop_hw for phase in fit_crops(config, dataset, progress).phases], progress.said


@pytest.mark.parametrize(
    ("size_hw", "expected"), [((60, 90), (64, 96)), ((200, 400), (224, 320)), ((320, 500), (320, 320))]
)
def test_crops_are_no_larger_than_the_images_rounded_up(dataset, size_hw, expected):
    found, said = crops(find_recipe("folder_refineseg_lite0"), dataset(size_hw))
    assert found == [expected]
    assert bool(said) == (expected != (320, 320))
    assert all(f"{size_hw[0]}x{size_hw[1]} (height x width): crops of {expected[0]}x" in line for line in said)


def test_phases_that_do_not_ask_for_it_stay(dataset):
    small = dataset((60, 90))
    config = find_recipe("folder_refineseg_lite0")
    kept = replace(config.phases[0].crops, at_most_images=False)
    config = replace(config, phases=(replace(config.phases[0], crops=kept),))
    assert crops(config, small) == ([(320, 320)], [])
    papers = find_recipe("voc_refinenet_lw_resnet50")
    assert crops(papers, small) == ([phase.crops.crop_hw for phase in papers.phases], [])
