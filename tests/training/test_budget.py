"""A schedule is fitted into a time, recorded in steps, and ends at rate zero; epochs of steps go on through passes."""

import json
import time
from dataclasses import replace

import pytest

from conftest import call, write_folder
from fakes.runs import Silent
from refineseg.data.crops.loading import epoch_order
from refineseg.data.crops.options import CropOptions
from refineseg.data.datasets import parse_sources
from refineseg.errors import ConfigError
from refineseg.segmenter import build
from refineseg.training import budget
from refineseg.training.budget import _fitted, _StepCost, fit_to_budget
from refineseg.training.config import Phase, TrainingConfig
from refineseg.training.opening import open_data
from refineseg.training.request import Budget, parse_duration, recipe_options

BUDGET = ["--budget", "90s"]
SMALL = ["--variant", "refineseg_nano", "--no-pretrained", "--set", "phases.0.crop_hw=[64,64]", "--workers", "0"]


def test_epochs_of_steps_are_one_row_of_passes():
    """Every pass holds every sample once, wherever epochs end; a sample of a second pass has a number of its own."""
    row = [batch for epoch in range(10) for batch in epoch_order(7, batch_size=2, seed=3, epoch=epoch, steps=4)]
    assert len(row) == 40
    for first in range(0, 39, 3):
        samples = [index % 7 for batch in row[first : first + 3] for index in batch]
        assert len(set(samples)) == len(samples)
    within = [index for batch in epoch_order(7, batch_size=2, seed=3, epoch=0, steps=9) for index in batch]
    assert len(set(within)) == len(within) == 18


def test_an_epoch_without_steps_is_one_pass_as_ever():
    passes = [epoch_order(5, batch_size=2, seed=1, epoch=epoch) for epoch in range(3)]
    assert passes == [epoch_order(5, batch_size=2, seed=1, epoch=epoch, steps=2) for epoch in range(3)]


ENDLESS = ["99999999h", pytest.param("9" * 400 + "h", id="400 digits")]


@pytest.mark.parametrize("text", ["5", "m", "0s", "-3m", "5 minutes", "infs", "1e3s", *ENDLESS])
def test_a_duration_needs_a_unit(text):
    with pytest.raises(ConfigError, match="expected a duration such as 90s, 5m or 1.5h, of a year at most, got"):
        parse_duration(text)


@pytest.mark.slow
def test_a_run_is_fitted_into_its_budget(tmp_path, monkeypatch, capsys):
    root = write_folder(tmp_path / "pictures", splits={"train": 9, "val": 2})
    out = tmp_path / "run"
    status, _, told = call(monkeypatch, capsys, "train", "--data", f"folder:{root}", "--out", out, *BUDGET, *SMALL)
    assert status == 0
    assert "budget of 90 s: " in told
    phase = json.loads((out / "run.json").read_text())["config"]["phases"][0]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert phase["epoch_steps"] >= 1
    assert len(lines) == phase["epochs"] <= 10
    assert lines[-1]["decoder_lr"] == pytest.approx(0.0, abs=1e-12)
    assert call(monkeypatch, capsys, "train", "--resume", "--out", out)[0] == 0  # complete; nothing is measured anew
    assert json.loads((out / "run.json").read_text())["config"]["phases"][0] == phase


def test_the_time_is_filled_and_shared_out_as_the_phases_were():
    """One second a step, then two: a third of the time for as many steps as in the other two thirds."""
    phase = Phase(4, CropOptions((64, 64), (1.0, 1.0)), 8, 1e-3, 1e-3, warmup_epochs=1.0)
    config = TrainingConfig("r", "refineseg_nano", (phase, phase), ema_decay=0.999)
    found = _fitted(config, [80, 80], [1.0, 2.0], 600.0, 10)
    steps = [phase.epochs * phase.epoch_steps for phase in found.phases]
    assert sum(step * seconds for step, seconds in zip(steps, (1.0, 2.0), strict=True)) == pytest.approx(600, abs=30)
    assert steps[0] == pytest.approx(steps[1], abs=10)
    assert found.num_epochs <= 10
    assert found.phases[0].warmup_epochs / found.phases[0].epochs == pytest.approx(0.25)
    assert 1 / (1 - found.ema_decay) == pytest.approx(0.1 * sum(steps), rel=0.05)


def test_no_step_is_lost_to_equal_epochs():
    """Ten epochs of 21 would leave out nine of 219 steps; seven of 31 leave out two."""
    config = TrainingConfig("r", "refineseg_nano", (Phase(4, CropOptions((64, 64), (1.0, 1.0)), 8, 1e-3, 1e-3),))
    for seconds, fewest in ((219.5, 217), (211.5, 210), (200.5, 200), (3.5, 3), (1.5, 1)):
        phase = _fitted(config, [80], [1.0], seconds, 10).phases[0]
        assert fewest <= phase.epochs * phase.epoch_steps <= int(seconds)
        assert phase.epochs <= 10


def test_a_budget_without_a_step_is_refused():
    config = TrainingConfig("r", "refineseg_nano", (Phase(4, CropOptions((64, 64), (1.0, 1.0)), 8, 1e-3, 1e-3),))
    assert _fitted(config, [80], [10.0], 9.0, 10) is None
    assert _fitted(config, [80], [10.0], -5.0, 10) is None


def test_a_budget_refuses_what_contradicts_it(tmp_path, monkeypatch, capsys):
    options = ["train", "--data", "folder:x", "--out", tmp_path, *BUDGET, "--epochs", "3"]
    status, _, told = call(monkeypatch, capsys, *options)
    assert status == 2
    assert "expected --budget alone" in told


def test_the_validations_of_every_phase_are_counted(tmp_path, monkeypatch):
    """A run has an epoch for each phase at least; a measurement is worth a tenth of the time."""
    root = write_folder(tmp_path / "d", splits={"train": 4, "val": 2})
    sources = parse_sources(f"folder:{root}")
    crops = CropOptions((32, 32), (1.0, 1.0))
    phase = Phase(epochs=3, crops=crops, batch_size=2, encoder_lr=1e-3, decoder_lr=1e-3)
    config = TrainingConfig("test", "refineseg_nano", (phase,) * 3, pretrained="no", precision="fp32")
    data = open_data(sources, config, Silent())[0]
    segmenter = build("refineseg_nano", class_info=data.val.class_info)
    for name, cost in {"_step_cost": _StepCost(0.5, 0.5, 2.0), "_validation_cost": (20.0, 0.0)}.items():
        monkeypatch.setattr(budget, name, lambda *_, cost=cost: cost)
    how = {"device": "cpu", "num_workers": 0, "progress": Silent()}
    found = fit_to_budget(segmenter, config, data, Budget(120.0, time.monotonic()), **how)
    needed = 10.0 + 0.5 * sum(one.epochs * one.epoch_steps for one in found.phases)
    assert found.num_epochs == 3
    assert 90 < needed < 120
    few = fit_to_budget(segmenter, config, data, Budget(40.0, time.monotonic()), **how)
    assert (found.val_images, few.val_images) == (1, 1)  # of the two, because both would take more than a tenth
    assert (found.val_every, few.val_every) == (3, 3)
    with pytest.raises(ConfigError, match=r"a validation 10\.0 s; give more time, .* val_split=null measures nothing"):
        fit_to_budget(segmenter, config, data, Budget(12.0, time.monotonic()), **how)


def test_plain_epochs_are_passes_although_the_configuration_had_steps():
    phase = Phase(
        epochs=10,
        crops=CropOptions((32, 32), (1.0, 1.0)),
        batch_size=2,
        encoder_lr=1e-3,
        decoder_lr=1e-3,
        epoch_steps=3,
    )
    config = TrainingConfig("test", "refineseg_nano", (phase,))
    options = {"lr": None, "batch_size": None}
    assert recipe_options(config, epochs=4, **options).phases[0].epoch_steps is None
    assert recipe_options(config, epochs=None, **options).phases[0].epoch_steps == 3
    assert recipe_options(replace(config, val_images=2), epochs=4, **options).val_images is None


def test_epochs_of_a_long_budget_are_short_enough_to_be_saved(tmp_path, monkeypatch):
    sources = parse_sources(f"folder:{write_folder(tmp_path / 'd', splits={'train': 4})}")
    phase = Phase(epochs=3, crops=CropOptions((32, 32), (1.0, 1.0)), batch_size=2, encoder_lr=1e-3, decoder_lr=1e-3)
    config = TrainingConfig("t", "refineseg_nano", (phase,), val_split=None, pretrained="no", precision="fp32")
    data = open_data(sources, config, Silent())[0]
    monkeypatch.setattr(budget, "_step_cost", lambda *_: _StepCost(0.5, 0.5, 2.0))
    segmenter = build("refineseg_nano", class_info=data.phases[0].dataset.class_info)
    for hours in (1, 8):
        given = Budget(hours * 3600.0, time.monotonic())
        found = fit_to_budget(segmenter, config, data, given, device="cpu", num_workers=0, progress=Silent())
        assert 0.5 * found.phases[0].epoch_steps <= 1200  # in half as many epochs at least, for the most steps
