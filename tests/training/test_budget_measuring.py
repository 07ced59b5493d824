"""What a budget measures: a step with and without reading, validation images of all sizes, and how many of them."""

import time
from dataclasses import replace

import numpy as np
import pytest

import refineseg
from conftest import write_folder
from fakes.runs import Silent
from refineseg.data.crops.options import CropOptions
from refineseg.data.datasets import parse_sources
from refineseg.data.samples.views import View, evenly_spread
from refineseg.segmenter import build, load
from refineseg.training import budget, feeding
from refineseg.training.budget import _step_cost, _StepCost, _validation_cost, fit_to_budget
from refineseg.training.config import Phase, TrainingConfig
from refineseg.training.engine import Engine
from refineseg.training.opening import open_data
from refineseg.training.request import Budget

PHASE = Phase(epochs=3, crops=CropOptions((32, 32), (1.0, 1.0)), batch_size=4, encoder_lr=1e-3, decoder_lr=1e-3)
CONFIG = TrainingConfig("t", "refineseg_nano", (PHASE,), pretrained="no", precision="fp32")


class Slow(View):
    """Samples that take a tenth of a second to be read."""

    def __getitem__(self, index):
        time.sleep(0.1)
        return self._dataset[index]

    def read_mask(self, index):
        return self._dataset.read_mask(index)


def opened(tmp_path, splits):
    return open_data(parse_sources(f"folder:{write_folder(tmp_path / 'd', splits=splits)}"), CONFIG, Silent())[0]


@pytest.mark.parametrize(
    ("kept", "samples", "expected"),
    [
        (1.0, 8, 100 / 96),  # one pass of 4 s of reading, then steps of a second
        (1.0, 10**6, 5.0),  # not even one pass: every step reads
        (0.0, 8, 5.0),  # no room: every step reads
        (0.5, 8, 100 / 98 * 3),  # half of the samples stay
    ],
)
def test_what_stays_in_memory_is_read_in_the_first_pass_only(kept, samples, expected):
    """A second for a step and four for reading its eight samples; 100 seconds."""
    cost = _StepCost(each_s=1.0 + 4.0 * (1 - kept), first_s=5.0, pass_steps=samples / 8)
    assert cost.mean_s(100.0) == pytest.approx(expected, rel=1e-6)


def test_a_step_is_measured_as_training_reads(tmp_path):
    data = opened(tmp_path, {"train": 4, "val": 1})
    slow = replace(data.phases[0], dataset=Slow(data.phases[0].dataset))
    data = replace(data, phases=(slow,))
    model = build("refineseg_nano", class_info=slow.dataset.class_info)

    def cost(**changes):
        config = replace(CONFIG, **changes)
        engine = Engine(config, device="cpu", say=print)
        return _step_cost(model, config, data, 0, engine, 0, 1.0)

    assert cost(cache_mib=0).each_s > 0.4  # four samples each time
    assert cost().each_s < 0.3
    assert cost().first_s > 0.4
    assert cost().pass_steps == 1


def test_validation_images_of_all_sizes_count(tmp_path, monkeypatch):
    """Small ones come first; the time must not be that of small ones alone."""
    root = write_folder(tmp_path / "d", splits={"train": 4, "val": 3})
    write_folder(tmp_path / "large", splits={"val": 3}, size=(480, 640))
    for kind in ("images", "masks"):
        for path in (tmp_path / "large" / kind / "val").iterdir():
            path.rename(root / kind / "val" / f"z{path.name}")
    data = open_data(parse_sources(f"folder:{root}"), CONFIG, Silent())[0]
    measured = []

    class Counting:
        is_held = False

        def __init__(self, dataset, device, *, max_bytes):
            self._pixels = sum(dataset[i].mask.size for i in range(len(dataset)))

        def __call__(self, segmenter):
            measured.append(self._pixels)
            time.sleep(self._pixels * 1e-6)

    monkeypatch.setattr(budget, "Measure", Counting)
    model = build("refineseg_nano", class_info=data.val.class_info)
    found, _ = _validation_cost(model, CONFIG, data, Engine(CONFIG, device="cpu", say=print), 1.0)
    assert found == pytest.approx(3e-6 * (48 * 64 + 480 * 640), rel=0.2)


def test_as_many_images_are_measured_as_a_tenth_of_the_time_allows(tmp_path, monkeypatch):
    data = opened(tmp_path, {"train": 4, "val": 20})
    monkeypatch.setattr(budget, "_step_cost", lambda *_: _StepCost(0.5, 0.5, 1.0))
    monkeypatch.setattr(budget, "_validation_cost", lambda *_: (200.0, 0.0))
    model, progress = build("refineseg_nano", class_info=data.val.class_info), Silent()
    given = Budget(220.0, time.monotonic())
    found = fit_to_budget(model, CONFIG, data, given, device="cpu", num_workers=0, progress=progress)
    assert found.val_images == 2
    assert found.num_epochs == 1
    assert 340 < found.phases[0].epochs * found.phases[0].epoch_steps < 420
    told = next(line for line in progress.said if "validation images" in line)
    assert told.startswith("measuring all 20 validation images would take 200 s, more than a tenth of the time")


def test_a_long_run_with_a_long_validation_is_saved_all_the_same(tmp_path, monkeypatch):
    data = opened(tmp_path, {"train": 4, "val": 20})
    monkeypatch.setattr(budget, "_step_cost", lambda *_: _StepCost(0.5, 0.5, 1.0))
    monkeypatch.setattr(budget, "_validation_cost", lambda *_: (4000.0, 0.0))
    model, given = build("refineseg_nano", class_info=data.val.class_info), Budget(8 * 3600.0, time.monotonic())
    found = fit_to_budget(model, CONFIG, data, given, device="cpu", num_workers=0, progress=Silent())
    assert 0.5 * found.phases[0].epoch_steps <= 1200
    assert found.val_every >= found.num_epochs  # one measurement, of fewer images, takes the tenth
    assert found.val_images == 14


def test_measured_images_are_spread_and_the_model_says_how_many(tmp_path):
    root = write_folder(tmp_path / "d", splits={"train": 4, "val": 5})
    run = refineseg.train(
        f"folder:{root}",
        tmp_path / "run",
        variant="refineseg_nano",
        pretrained=False,
        epochs=1,
        settings=["phases.0.crop_hw=[32,32]", "val_images=2"],
    )
    assert load(run.best).spec.provenance["protocol"]["num_images"] == 2
    data = open_data(parse_sources(f"folder:{root}"), CONFIG, Silent())[0].measured_on(2)
    assert [data.val.name(index) for index in range(len(data.val))] == ["000", "002"]
    assert np.array_equal(data.val[1].mask, data.val.read_mask(1))
    assert evenly_spread(3, 8) == [0, 1, 2]


def test_decoded_images_take_a_third_of_the_free_memory_at_most(monkeypatch):
    monkeypatch.setattr(feeding, "free_memory", lambda: 300)
    assert feeding.host_cache(CONFIG) == 100
    assert feeding.host_cache(replace(CONFIG, cache_mib=0)) == 0
