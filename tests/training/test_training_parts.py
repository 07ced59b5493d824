"""Configuration, schedule, weight average and checkpoints."""

import json
from dataclasses import fields

import pytest
import torch

from refineseg.data.crops.options import CropOptions
from refineseg.errors import CheckpointError, ConfigError
from refineseg.networks.variants import NetworkOptions
from refineseg.segmenter import build
from refineseg.training.checkpoint import load_checkpoint, save_checkpoint
from refineseg.training.config import LossOptions, Phase, TrainingConfig, from_json, override, to_json
from refineseg.training.optim import (
    WeightAverage,
    draw_decoder,
    freeze_statistics,
    let_statistics_follow,
    make_optimiser,
    rate_factor,
    set_rates,
)
from refineseg.training.recipes.table import RECIPES, find_recipe
from refineseg.training.request import recipe_options

PHASE = Phase(
    epochs=10,
    crops=CropOptions((64, 64), (1.0, 1.0)),
    batch_size=2,
    encoder_lr=1e-3,
    decoder_lr=1e-2,
    warmup_epochs=2.0,
)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name):
    config = find_recipe(name)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    assert config.recipe == name


def test_dotted_settings_reach_every_level():
    config = override(
        find_recipe("folder_refinenet_lw_mobilenetv2"),
        ["phases.0.epochs=3", "phases.0.crop_hw=[64,96]", "optimiser=sgd", "ema_decay=null", "seed=7", "flip=false"],
    )
    assert config.phases[0].epochs == 3
    assert config.phases[0].crops.crop_hw == (64, 96)
    assert (config.optimiser, config.ema_decay, config.seed, config.flip) == ("sgd", None, 7, False)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs=3", "expected --set KEY=VALUE with a key of the config, got 'epochs=3'"),
        ("phases.5.epochs=3", "key of the config"),
        ("dise=1", "near: dice"),
        ("los.dice=1", "near: loss.dice"),
        ("seed", "key of the config"),
        ("seed=often", "expected config.seed to be int, got 'often'"),
        ("flip=1", "expected config.flip to be bool, got 1"),
        ("optimiser=adam", "expected config.optimiser to be one of adamw, sgd, got 'adam'"),
        ("phases.0.epochs=0", "expected phase.epochs of at least 1, got 0"),
        ("phases.0.crop_hw=[64]", "crop_hw"),
        ("phases.0.scale=[2,1]", "expected crops.scale"),
        ("label_smoothing=1.5", "expected label_smoothing in 0..1"),
        ("phases.0.rotation=200", "expected crops.rotation in 0..180 degrees, got 200.0"),
        ("phases.0.copy_paste=2", "expected crops.copy_paste in 0..1, got 2.0"),
        ("phases.0.class_balance=-1", "expected crops.class_balance in 0..1, got -1.0"),
        ("ohem_share=2", "expected ohem_share in 0..1, got 2.0"),
        ("lovasz=-1", "expected border_weight, lovasz and dice of at least 0"),
        ("lovasz_stride=0", "expected lovasz_stride of at least 1, got 0"),
        ("boundary_radius=0", "expected border_radius of at least 1, got 0"),
        ("teacher_temperature=0", "expected teacher_temperature above 0, got 0.0"),
    ],
)
def test_wrong_settings_are_named(setting, message):
    with pytest.raises(ConfigError) as caught:
        override(find_recipe("folder_refinenet_lw_mobilenetv2"), [setting])
    assert message in str(caught.value)


def test_settings_and_records_of_earlier_versions_are_read():
    base = find_recipe("folder_refinenet_lw_mobilenetv2")
    old = ["boundary=0.5", "boundary_radius=7", "lovasz=1", "loss_resolution=output", "phases.0.crop_hw=[64,96]"]
    new = ["border_weight=0.5", "border_radius=7", "lovasz=1", "loss_resolution=output"]
    now = override(base, [f"loss.{setting}" for setting in new] + ["phases.0.crops.crop_hw=[64,96]"])
    assert now.loss.lovasz == 1.0
    assert now.phases[0].crops.crop_hw == (64, 96)
    assert override(base, old) == now
    plain = to_json(now)  # as version 0.1 wrote it
    plain |= plain.pop("loss")
    plain["boundary"], plain["boundary_radius"] = plain.pop("border_weight"), plain.pop("border_radius")
    plain["phases"] = [{**phase, **phase.pop("crops")} for phase in plain["phases"]]
    assert from_json(plain) == now
    assert override(base, [*old[:4], f"phases={json.dumps(plain['phases'])}"]) == now


def test_no_two_groups_of_a_configuration_have_a_key_in_common():
    for groups, own in (((LossOptions, NetworkOptions), TrainingConfig), ((CropOptions,), Phase)):
        names = [f.name for cls in (*groups, own) for f in fields(cls)]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("plain", [{"loss": 5, "lovasz": 1}, {"phases": [{"crops": [], "scale": [1, 1]}]}])
def test_a_group_that_is_none_is_named(plain):
    with pytest.raises(ConfigError, match="LossOptions|CropOptions"):
        from_json({"recipe": "x", "variant": "y", **plain})


def test_incomplete_and_unknown_fields_are_named():
    with pytest.raises(ConfigError, match="expected a complete config"):
        from_json({"recipe": "x"})
    with pytest.raises(ConfigError, match="expected only known keys in config, got epoch"):
        from_json({"epoch": 3})


def test_an_unknown_recipe_names_near_ones():
    with pytest.raises(ConfigError, match="near: camvid_refinenet_lw_mobilenetv2"):
        find_recipe("camvid_mobilenetv2")


def test_plain_options_keep_the_ratio_of_the_rates():
    before = override(
        find_recipe("folder_refinenet_lw_mobilenetv2"), ["phases.0.encoder_lr=0.1", "phases.0.decoder_lr=0.4"]
    )
    phase = recipe_options(before, epochs=4, lr=1e-4, batch_size=3).phases[0]
    assert (phase.epochs, phase.batch_size, phase.decoder_lr) == (4, 3, 1e-4)
    assert phase.encoder_lr == pytest.approx(2.5e-5)


def test_epochs_are_refused_for_several_phases():
    with pytest.raises(ConfigError, match="has 2; use --set phases.0.epochs=N"):
        recipe_options(find_recipe("camvid_refinenet_lw_mobilenetv2"), epochs=4, lr=None, batch_size=None)


def test_rates_rise_linearly_then_fall_to_zero():
    assert rate_factor(PHASE, 1.0) == 0.5
    assert rate_factor(PHASE, 2.0) == 1.0
    assert rate_factor(PHASE, 6.0) == pytest.approx(0.5)
    assert rate_factor(PHASE, 10.0) == pytest.approx(0.0)
    falling = [rate_factor(PHASE, 2 + i / 10) for i in range(81)]
    assert falling == sorted(falling, reverse=True)


def test_encoder_and_decoder_get_their_own_rates_and_vectors_no_decay():
    segmenter = build("refinenet_lw_mobilenetv2", num_classes=2)
    config = find_recipe("folder_refinenet_lw_mobilenetv2")
    optimiser = make_optimiser(segmenter, config)
    set_rates(optimiser, PHASE, 2.0)
    encoder = {id(p) for p in segmenter.network.encoder.parameters()}
    seen = 0
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            seen += 1
            assert group["lr"] == (1e-3 if id(parameter) in encoder else 1e-2)
            assert group["weight_decay"] == (config.weight_decay if parameter.ndim > 1 else 0.0)
    assert seen == sum(1 for _ in segmenter.parameters())


def test_the_weight_average_follows_its_definition_and_copies_counters():
    segmenter = build("refinenet_lw_mobilenetv2", num_classes=2)
    weight = segmenter.network.decoder.classifier.bias
    average = WeightAverage(segmenter, 0.5)
    expected = None
    for step in range(6):
        with torch.no_grad():
            weight.fill_(float(step))
        segmenter.network.encoder.bn1.num_batches_tracked.fill_(step)
        average.update()
        if expected is None:
            expected = 0.0
        else:
            decay = min(0.5, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * step
    assert float(average.module.network.decoder.classifier.bias[0].detach()) == pytest.approx(expected, rel=1e-6)
    assert int(average.module.network.encoder.bn1.num_batches_tracked) == 5


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    state = {"config": {}, "epoch": 1, "history": [], "network": {"weight": torch.zeros(2)}, "optimiser": {}}
    save_checkpoint(tmp_path, state)

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"No space left.*epoch before is intact"):
        save_checkpoint(tmp_path, {"epoch": 2})
    monkeypatch.undo()
    assert load_checkpoint(tmp_path)["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_damaged_checkpoint_is_named(tmp_path):
    save_checkpoint(tmp_path, {"weights": torch.zeros(1000)})
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"checkpoint.pt, which cannot be read"):
        load_checkpoint(tmp_path)
    assert load_checkpoint(tmp_path / "nowhere") is None


def test_frozen_statistics_stay_while_scale_and_shift_learn():
    segmenter = build("refinenet_lw_mobilenetv2", num_classes=2).train()
    freeze_statistics(segmenter.network.encoder)
    norms = [m for m in segmenter.network.encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    segmenter(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)).square().mean().backward()
    assert norms
    assert all(torch.equal(a, norm.running_mean) for a, norm in zip(before, norms, strict=True))
    assert all(norm.weight.grad is not None for norm in norms)
    assert segmenter.network.decoder.training


def test_decoders_are_drawn_with_the_papers_deviation_and_no_bias():
    segmenter = build("refinenet_lw_mobilenetv2", num_classes=20)
    encoder = segmenter.network.encoder.conv_stem.weight.clone()
    draw_decoder(segmenter, 0.01)
    filters = torch.cat([p.flatten() for p in segmenter.network.decoder.parameters() if p.ndim > 1])
    assert filters.std().item() == pytest.approx(0.01, rel=0.02)
    assert abs(filters.mean().item()) < 1e-4
    assert not segmenter.network.decoder.classifier.bias.any()
    assert torch.equal(segmenter.network.encoder.conv_stem.weight, encoder)


@pytest.mark.parametrize(("num_steps", "momentum"), [(50, 0.1), (400, 0.025), (5000, 0.01)])
def test_statistics_of_a_short_run_move_faster(num_steps, momentum):
    """EfficientNet's hundredth of a step would keep 61 % of ImageNet's statistics in 50 steps; others have a tenth."""
    segmenter = build("refineseg_lite0", num_classes=2)
    let_statistics_follow(segmenter, num_steps)
    assert {part.momentum for part in segmenter.modules() if isinstance(part, torch.nn.BatchNorm2d)} == {momentum}
    usual = build("refineseg_nano", num_classes=2)
    let_statistics_follow(usual, num_steps)
    assert {part.momentum for part in usual.modules() if isinstance(part, torch.nn.BatchNorm2d)} == {0.1}
