"""The training engine: what a step computes, in pieces or whole, and what it never waits for; measuring; saving."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_survival import tiny, train_here

from conftest import write_folder
from fakes.loading import training_batches
from fakes.runs import Silent
from refineseg.class_info import ClassInfo
from refineseg.data.crops.augment import Augmentation
from refineseg.data.crops.loading import Batch, HostBatches
from refineseg.data.datasets import open_dataset
from refineseg.data.samples.sample import Sample
from refineseg.errors import ConfigError, LabelError
from refineseg.evaluate.predicting import evaluate
from refineseg.predict.predictor import Predictor
from refineseg.segmenter import build
from refineseg.training import engine as engine_module
from refineseg.training.config import LossOptions, override
from refineseg.training.engine import Engine
from refineseg.training.measuring import Measure
from refineseg.training.objective import Objective
from refineseg.training.optim import freeze_statistics, hardware_has_bf16, sees_one_value
from refineseg.training.run import resume_run
from refineseg.training.state import RunState

COUNTS = np.array([900, 300, 40])


def stepper_of(config, *, said=None):
    torch.manual_seed(0)
    segmenter = build(config.variant, num_classes=3).train()
    for dropout in (m for m in segmenter.modules() if isinstance(m, torch.nn.Dropout | torch.nn.Dropout2d)):
        dropout.p = 0.0  # drawn for a piece, it would be another mask than for the whole batch
    freeze_statistics(segmenter)
    engine = Engine(config, device="cpu", say=(said if said is not None else []).append)
    state = RunState.new(segmenter, config)
    for group in state.optimiser.param_groups:
        group["lr"] = 1e-3
    return engine.stepper(
        state, Objective(segmenter, config, COUNTS), engine.mode(config.phases[0], rest_s=None)
    ), state


def batch_with_uneven_voids(count=5):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    masks = torch.randint(0, 3, (count, 32, 32), generator=generator)
    for index in range(count):
        masks[index, : 6 * index] = 255
    return Batch(images, masks, tuple(str(i) for i in range(count)))


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_a_batch_in_pieces_gives_the_gradient_of_the_whole_batch(micro_batch):
    """Voids are spread unevenly, so the mean of the pieces' means would be another gradient."""
    results = []
    for size in (None, micro_batch):
        config = tiny(1, micro_batch=size, clip_norm=None, ema_decay=None, loss=LossOptions(label_smoothing=0.1))
        stepper, state = stepper_of(config)
        loss, norm = stepper.step(batch_with_uneven_voids())
        assert norm is None
        results.append((loss, [p.grad.clone() for p in state.segmenter.parameters()]))
    (whole_loss, whole), (loss, pieces) = results
    torch.testing.assert_close(loss, whole_loss)
    largest = max(float(gradient.abs().max()) for gradient in whole)
    for a, b in zip(whole, pieces, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * largest)


def test_a_step_asks_for_no_value(monkeypatch):
    """On a GPU every one of these would wait for the device."""
    stepper, _ = stepper_of(tiny(1))
    stepper.step(batch_with_uneven_voids())  # the optimiser's state is made

    def asked(*_arguments):
        raise AssertionError("a value was asked for")

    for name in ("item", "tolist", "__float__", "__int__", "__bool__", "__index__", "numpy", "cpu", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, asked)
    loss, norm = stepper.step(batch_with_uneven_voids())
    monkeypatch.undo()
    assert float(loss) > 0
    assert float(norm) > 0


def test_memory_that_fails_once_halves_the_pieces_and_leaves_no_trace(monkeypatch):
    """Buffers and random state of the failed attempt are put back: the weights are those of a run with small pieces."""
    weights = []
    for fails in (True, False):
        config, said = tiny(1, micro_batch=None if fails else 2), []
        stepper, state = stepper_of(config, said=said)
        state.segmenter.train()
        compute = Objective.__call__

        def tight(self, images, masks, compute=compute):
            found = compute(self, images, masks)
            if len(images) > 2:  # after the statistics have changed
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.")
            return found

        if fails:
            monkeypatch.setattr(Objective, "__call__", tight)
        torch.manual_seed(3)
        stepper.step(batch_with_uneven_voids(4))
        monkeypatch.undo()
        assert state.micro_batch == 2
        assert len(said) == int(fails)
        weights.append({k: v.clone() for k, v in state.segmenter.state_dict().items()})
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_crop_that_does_not_fit_alone_is_an_error_with_advice(monkeypatch):
    stepper, _ = stepper_of(tiny(1, micro_batch=1))

    def full(*_arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    monkeypatch.setattr(Objective, "__call__", full)
    with pytest.raises(ConfigError, match=r"expected enough memory for one crop of 32x32 pixels.*smaller crops"):
        stepper.step(batch_with_uneven_voids())


def test_compiling_pays_on_a_gpu_for_long_phases_of_equal_crops_only():
    config = tiny(1)
    engine = Engine(config, device="cpu", say=print)
    long_s = engine_module.COMPILE_PAYS_S + 1
    phase = config.phases[0]
    assert engine.mode(phase, rest_s=long_s) == "off"
    engine.device = torch.device("cuda")
    assert engine.mode(phase, rest_s=long_s) == "reduce-overhead"
    assert engine.mode(phase, rest_s=long_s - 2) == "off"
    assert engine.mode(phase, rest_s=None) == "off"
    assert engine.mode(replace(phase, crops=replace(phase.crops, pad=False), batch_size=1), rest_s=long_s) == "off"
    asked = Engine(replace(config, compile="default"), device="cpu", say=print)
    assert asked.mode(phase, rest_s=None) == "default"
    assert asked.mode(replace(phase, crops=replace(phase.crops, pad=False), batch_size=1), rest_s=None) == "off"


COMPILED = """
import sys; sys.path[:0] = sys.argv[1:]
import torch
from test_engine import batch_with_uneven_voids, stepper_of
from test_survival import tiny
from torch._dynamo.utils import counters
losses = []
for mode in ("off", "default"):
    stepper, _ = stepper_of(tiny(1, compile=mode))
    losses.append([float(stepper.step(batch_with_uneven_voids(4))[0]) for _ in range(4)])
print(losses)
assert all(abs(a - b) < 1e-3 for a, b in zip(*losses)), losses
print("graphs", counters["stats"]["unique_graphs"], "recompiled", len(counters["recompiles"]))
assert counters["stats"]["unique_graphs"] <= 3, counters["stats"]
"""


@pytest.mark.slow
def test_a_compiled_step_learns_the_same_and_is_compiled_once(request):
    folders = [str(request.path.parent), str(request.path.parents[1])]
    done = subprocess.run([sys.executable, "-c", COMPILED, *folders], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("compile=fast", "compile"),
        ("micro_batch=0", "micro_batch of at least 1"),
        ("checkpoint_every_s=-1", "at least 0"),
    ],
)
def test_wrong_settings_of_the_engine_are_named(setting, message):
    with pytest.raises(ConfigError, match=message):
        override(tiny(1), [setting])


class Pictures:
    """Images of several sizes with void pixels."""

    notes = ()

    def __init__(self, sizes, *, broken=False):
        rng = np.random.default_rng(0)
        self.class_info = ClassInfo.generic(3)
        self._samples = []
        for index, size in enumerate(sizes):
            mask = rng.choice(np.array([0, 1, 2, 255], np.uint8), size)
            mask[0, 0] = 7 if broken else mask[0, 0]
            self._samples.append(Sample(rng.integers(0, 256, (*size, 3), dtype=np.uint8), mask, f"{index}"))

    def __len__(self):
        return len(self._samples)

    def __getitem__(self, index):
        return self._samples[index]

    def name(self, index):
        return self._samples[index].name

    def read_mask(self, index):
        return self._samples[index].mask


@pytest.mark.parametrize("held", [True, False])
def test_the_measurement_counts_what_evaluate_counts(held):
    dataset = Pictures([(40, 56), (33, 40), (40, 56), (40, 56), (33, 40)])
    torch.manual_seed(0)
    segmenter = build("refinenet_lw_mobilenetv2", num_classes=3)
    measure = Measure(dataset, torch.device("cpu"), max_bytes=1 << 30 if held else 100, batch_pixels=2 * 40 * 56)
    assert measure.is_held == held
    checks = []
    found = measure(segmenter, check=lambda: checks.append(1))
    expected = evaluate(Predictor(segmenter, device="cpu"), dataset)
    assert np.array_equal(found.matrix.counts, expected.counts)
    assert len(checks) == (3 if held else 5)  # two batches of the one size, one of the other
    for sample, mask in found.shown:
        assert np.array_equal(mask, Predictor(segmenter, device="cpu")(sample.image).mask)
    assert [sample.name for sample, _ in found.shown] == (["0", "2", "3"] if held else ["0", "1", "2"])


@pytest.mark.parametrize(("sizes", "tries"), [([(32, 32)] * 2, True), ([(32, 32 + i) for i in range(6)], False)])
def test_algorithms_are_tried_for_a_measurement_of_few_sizes_only(sizes, tries, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    measure, found = Measure(Pictures(sizes), torch.device("cpu"), max_bytes=1 << 30), []
    segmenter = build("refinenet_lw_mobilenetv2", num_classes=3)
    measure(segmenter, check=lambda: found.append(torch.backends.cudnn.benchmark))
    assert set(found) == {tries}
    assert torch.backends.cudnn.benchmark  # training goes on as before


@pytest.mark.parametrize("equal", [True, False])
def test_algorithms_are_tried_for_crops_of_one_size_only(equal, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", not equal)
    config = tiny(1)
    segmenter = build(config.variant, num_classes=3)
    engine = Engine(config, device="cpu", say=print)
    state = RunState.new(segmenter, config)
    engine.stepper(state, Objective(segmenter, config, COUNTS), "off", equal_crops=equal)
    assert torch.backends.cudnn.benchmark == equal


def test_a_pytorch_that_does_not_tell_what_a_cpu_can_means_single_precision(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not hardware_has_bf16(torch.device("cpu"))


def test_masks_with_values_that_are_no_class_are_refused_by_the_measurement_too():
    dataset = Pictures([(32, 32)], broken=True)
    measure = Measure(dataset, torch.device("cpu"), max_bytes=1 << 30)
    with pytest.raises(LabelError, match="expected true classes"):
        measure(build("refinenet_lw_mobilenetv2", num_classes=3))


def test_the_first_epoch_is_saved_and_then_as_often_as_costs_next_to_nothing(monkeypatch):
    config = tiny(1)
    state = RunState.new(build(config.variant, num_classes=3), config)
    assert state.is_due(60.0)
    begun = time.monotonic()
    for saving_s, since, due in ((1.0, 30, False), (1.0, 51, True), (10.0, 51, False), (10.0, 61, True)):
        state.saving_s = saving_s
        monkeypatch.setattr("time.monotonic", lambda now=begun + since: now)
        assert state.is_due(60.0) is due


@pytest.mark.slow
def test_models_saved_seldom_are_those_saved_after_every_epoch(tmp_path):
    root = write_folder(tmp_path / "data", splits={"train": 4, "val": 2})
    for name, every_s in (("often", 0.0), ("seldom", 1e6)):
        train_here(tiny(4, checkpoint_every_s=every_s), root, tmp_path / name)
    for file in ("best.safetensors", "last.safetensors"):
        often, seldom = (load_file(tmp_path / name / file) for name in ("often", "seldom"))
        assert all(torch.equal(often[key], seldom[key]) for key in often)


@pytest.mark.slow
def test_lines_newer_than_the_checkpoint_are_neither_doubled_nor_missing_after_a_resume(folder_root, tmp_path):
    config = tiny(3)
    train_here(config, folder_root, tmp_path / "run", stop_after_s=0.01)
    path = tmp_path / "run" / "metrics.jsonl"
    saved = path.read_text()
    path.write_text(saved + '{"epoch": 2, "loss": 77.0}\n{"epoch": 3, "lo')  # killed while it wrote
    resume_run(tmp_path / "run", data=None, device="cpu", num_workers=None, progress=Silent())
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["epoch"] for entry in entries] == [1, 2, 3]
    assert entries[0] == json.loads(saved)
    assert entries[1]["loss"] != 77.0


def test_reading_processes_that_live_on_give_the_batches_of_new_ones(folder_root):
    dataset, augmentation = open_dataset("folder", folder_root, split="train"), Augmentation((32, 32), (0.5, 1.5))
    lasting = HostBatches(dataset, augmentation, batch_size=2, seed=5, num_workers=1)
    for epoch in (0, 1, 4):
        fresh = training_batches(dataset, augmentation, batch_size=2, seed=5, epoch=epoch, num_workers=0)
        for a, b in zip(lasting.epoch(epoch), fresh, strict=True):
            assert a.names == b.names
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.masks, b.masks)


@pytest.mark.slow
def test_the_speed_of_training_is_measured_as_loader_network_and_both(refineseg, folder_root, tmp_path):
    status, out, err = refineseg(
        "bench", "--training", "folder_refinenet_lw_mobilenetv2", "--data", f"folder:{folder_root}", "--device", "cpu",
        "--repeats", 2, "--json", tmp_path / "speed.json", "--set", "phases.0.crop_hw=[32,32]",
        "--set", "phases.0.batch_size=2",
    )  # fmt: skip
    assert status == 0, err
    assert "network alone" in out
    report = json.loads((tmp_path / "speed.json").read_text())
    (row,) = report["rows"]
    assert (row["phase"], row["crop"], row["batch_size"]) == (1, "32x32", 2)
    assert 1 <= row["steps"] <= 3
    for way in ("loader", "network", "together"):
        rounds = row["rounds"][way]
        assert len(rounds) == 2
        assert row[f"{way}_images_per_s"] == pytest.approx(sum(rounds) / 2)
    assert row["together_images_per_s"] > 0
    assert "crops" in report["machine"]


def test_training_is_not_measured_without_data(refineseg):
    status, _, err = refineseg("bench", "--training", "folder_refinenet_lw_mobilenetv2")
    assert status == 2
    assert "expected --training RECIPE and --data NAME:ROOT together" in err


def test_large_validation_images_are_not_held_whole(monkeypatch):
    """They are predicted as the command line does, in tiles where memory is short; the numbers are the same."""
    dataset = Pictures([(40, 56), (41, 50)])
    segmenter = build("refineseg_nano", class_info=dataset.class_info)
    held = Measure(dataset, torch.device("cpu"), max_bytes=1 << 30)
    monkeypatch.setattr("refineseg.training.measuring.MOST_WHOLE_PIXELS", 2000)
    read = Measure(dataset, torch.device("cpu"), max_bytes=1 << 30)
    assert (held.is_held, read.is_held) == (True, False)
    assert held(segmenter).matrix.counts.tolist() == read(segmenter).matrix.counts.tolist()


def test_crops_of_reduced_images_are_not_reduced_again():
    segmenter = build("refineseg_nano", num_classes=2).train()
    segmenter.spec = replace(segmenter.spec, preprocessing=replace(segmenter.spec.preprocessing, input_scale=0.1))
    crop = torch.zeros(1, 3, 96, 96, dtype=torch.uint8)
    assert sees_one_value(segmenter, crop)
    assert not sees_one_value(segmenter, crop, resized_already=True)
