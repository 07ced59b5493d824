"""Every recipe of the papers on tiny data in the true layouts: it builds, learns and is measured."""

from dataclasses import replace

import pytest
import torch

from fakes.coco import fake_coco_voc
from fakes.pascal import fake_pascal_context, fake_person_part, fake_sbd, fake_voc
from fakes.scenes import fake_ade20k, fake_camvid, fake_cityscapes, fake_nyud, fake_sunrgbd
from refineseg.data.datasets import open_dataset
from refineseg.data.samples.sample import Without
from refineseg.errors import ConfigError
from refineseg.evaluate.predicting import evaluate
from refineseg.networks.variants import VARIANTS
from refineseg.predict.predictor import Predictor
from refineseg.training import loop, run
from refineseg.training.config import from_json, to_json
from refineseg.training.engine import Engine
from refineseg.training.feeding import TrainingData
from refineseg.training.opening import open_data
from refineseg.training.optim import set_rates
from refineseg.training.recipes.papers import PAPER_RECIPES
from refineseg.training.recipes.table import RECIPES, default_recipe, find_recipe, recipe_summary
from refineseg.training.request import fitted, recipe_options
from refineseg.training.run import RunRequest
from refineseg.training.state import RunState

FAKES = {
    "voc": fake_voc,
    "sbd": fake_sbd,
    "coco_voc": fake_coco_voc,
    "person_part": fake_person_part,
    "pascal_context": fake_pascal_context,
    "nyud": fake_nyud,
    "sunrgbd": fake_sunrgbd,
    "ade20k": fake_ade20k,
    "cityscapes": fake_cityscapes,
    "camvid": fake_camvid,
}
EVERY = sorted(PAPER_RECIPES)
QUICK = [
    name
    for name in EVERY
    if name.endswith(("lw_resnet50", "mobilenetv2", "nasnetmobile"))
    or name in ("nyud_refinenet_resnet50", "pascal_context_refinenet_lw_resnet101", "cityscapes_refinenet_resnet101")
]


class Messages:
    def __init__(self):
        self.said = []

    def say(self, message):
        self.said.append(message)

    def start(self, config, num_samples, *, done): ...

    def step(self, loss, images_per_s, share): ...

    def epoch_done(self, entry): ...

    def stop(self): ...

    def ended(self, message): ...


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return {name: fake(folder / name) for name, fake in FAKES.items()}


def sources_of(config, roots):
    """The roots a recipe asks for, its own data set first."""
    own = next(name for name in sorted(FAKES, key=len, reverse=True) if config.recipe.startswith(name))
    others = [part.partition(":")[0] for phase in config.phases for part in phase.data]
    return {name: roots[name] for name in dict.fromkeys([own, *others])}


def learn_and_measure(name, roots, *, released):
    config = recipe_options(find_recipe(name, released=released), epochs=None, lr=None, batch_size=1)
    progress = Messages()
    data, _ = open_data(sources_of(config, roots), config, progress)
    assert len(data.phases) == len(config.phases)
    phase = replace(
        config.phases[0],
        epochs=1,
        crops=replace(config.phases[0].crops, crop_hw=(64, 64), smallest_side=0, short_side=None),
    )
    config = replace(config, phases=(phase,), pretrained="no", precision="fp32")
    first = data.phases[0].dataset
    two = Without(first, {first.name(i) for i in range(2, len(first))})
    class_info = first.class_info
    segmenter = run._new_model(config, class_info, "")
    before = {key: value.clone() for key, value in segmenter.network.decoder.classifier.state_dict().items()}
    engine, state = Engine(config, device="cpu", say=progress.say), RunState.new(segmenter, config)
    learned = TrainingData((replace(data.phases[0], dataset=two),), None, "")
    steps = loop._PhaseSteps(engine, state, config, phase, learned.phases[0], 0)
    segmenter.train()
    for batch in steps.feed.epoch(0):
        set_rates(state.optimiser, phase, max(phase.warmup_epochs, 0.5))
        loss, _ = steps.stepper(1, 1e9).step(batch)
        assert torch.isfinite(loss)
    after = segmenter.network.decoder.classifier.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    one = Without(data.val, {data.val.name(i) for i in range(1, len(data.val))})
    matrix = evaluate(Predictor(segmenter, device="cpu"), one)
    assert 0 <= matrix.pixel_accuracy <= 1
    return progress.said


@pytest.mark.slow_except("voc_refinenet_lw_mobilenetv2", "nyud_refinenet_lw_resnet50")
@pytest.mark.parametrize("name", QUICK)
def test_a_recipe_builds_takes_two_steps_and_is_measured(name, roots):
    learn_and_measure(name, roots, released=False)


@pytest.mark.slow
@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_every_recipe_builds_takes_two_steps_and_is_measured(name, roots, released):
    learn_and_measure(name, roots, released=released)


@pytest.mark.slow
def test_the_released_form_learns_from_enlarged_images(roots):
    learn_and_measure("nyud_refinenet_resnet50", roots, released=True)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_are_complete_and_named_after_what_they_train(name):
    for released in (False, True) if name in PAPER_RECIPES else (False,):
        config = find_recipe(name, released=released)
        assert config.recipe == name
        assert name.removesuffix("_long").removesuffix("_distilled").endswith(config.variant)
        assert config.variant in VARIANTS
        assert from_json(to_json(config)) == config
    assert recipe_summary(name)


def test_pooling_links_are_the_tables_and_the_released_codes_on_demand():
    def links(name, released=False):
        config = find_recipe(name, released=released)
        options = config.network.decoder(VARIANTS[config.variant].options)
        return options.num_links, options.pooling_order

    assert links("nyud_refinenet_resnet50") == (2, "pool_conv")
    assert links("nyud_refinenet_resnet50_single") == (2, "pool_conv")
    assert links("nyud_refinenet_resnet50_0links") == (0, "pool_conv")
    assert links("nyud_refinenet_resnet50_0links", True) == (0, "conv_pool")
    assert links("person_part_refinenet_resnet101") == (4, "pool_conv")
    assert links("voc_refinenet_resnet101") == (4, "pool_conv")
    assert links("nyud_refinenet_resnet50", True) == (4, "conv_pool")
    assert links("voc_refinenet_resnet101", True) == (4, "pool_conv")
    assert find_recipe("nyud_refinenet_resnet50", released=True).input_scale == 1.2


class TestData:
    def test_images_of_the_validation_split_are_left_out_of_other_data_and_counted(self, roots):
        config = find_recipe("voc_refinenet_resnet101")
        progress = Messages()
        data, _ = open_data(sources_of(config, roots), config, progress)
        val = {data.val.name(i) for i in range(len(data.val))}
        sbd = open_dataset("sbd", roots["sbd"], split="all")
        shared = [sbd.name(i) for i in range(len(sbd)) if sbd.name(i) in val]
        assert shared
        left_out = f"{len(shared)} of {len(sbd)} images of sbd:all are left out of training"
        assert f"{left_out}, because they are measured" in progress.said
        for phase in data.phases:
            assert not val & {phase.dataset.name(i) for i in range(len(phase.dataset))}
        assert len(data.phases[1].dataset) == len(open_dataset("voc", roots["voc"], split="train")) + len(sbd) - len(
            shared
        )

    def test_names_that_hold_for_a_split_alone_are_not_compared(self, roots):
        """SUN RGB-D's extracted images are numbered anew in each split."""
        progress = Messages()
        data, _ = open_data({"sunrgbd": roots["sunrgbd"]}, find_recipe("sunrgbd_refinenet_resnet101"), progress)
        train = open_dataset("sunrgbd", roots["sunrgbd"], split="train")
        assert len(data.phases[0].dataset) == len(train)
        assert not [line for line in progress.said if "left out" in line]

    def test_missing_data_are_named_with_the_command(self, roots, tmp_path):
        request = RunRequest(find_recipe("voc_refinenet_lw_resnet50"), f"voc:{roots['voc']}")
        with pytest.raises(
            ConfigError,
            match=r"coco_voc:train \(phase 1\), sbd:train_noval \(phase 2\) .*voc:ROOT\+coco_voc:ROOT\+sbd:ROOT",
        ):
            run.start_run(request, tmp_path / "run", progress=Messages())
        assert not (tmp_path / "run").exists()

    def test_phases_without_data_can_be_left_out(self, roots):
        progress = Messages()
        chosen = find_recipe("voc_refinenet_lw_resnet50")
        config = fitted(chosen, {"voc": roots["voc"]}, skip_missing=True, say=progress.say)
        assert [phase.data for phase in config.phases] == [("voc:train",)]
        assert progress.said[0] == "phase 1 is left out: no --data for coco_voc:train"

    def test_a_data_set_without_a_recipe_says_so(self):
        with pytest.raises(ConfigError, match="expected a recipe for sbd"):
            default_recipe("sbd")

    def test_released_is_for_the_papers_only(self):
        with pytest.raises(ConfigError, match="recipe of the papers with --released"):
            find_recipe("camvid_refinenet_lw_mobilenetv2", released=True)
