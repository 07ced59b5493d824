"""Whole training runs: what they leave behind, how they survive a kill, how they refuse."""

import json
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from PIL import Image

from conftest import write_folder
from fakes.runs import VARIANT, Silent, run, same, tensors, tiny
from refineseg.data.crops.options import CropOptions
from refineseg.errors import CheckpointError, ConfigError, LabelError, ModelFileError, WeightsUnavailableError
from refineseg.networks.encoder_table import ENCODERS
from refineseg.segmenter import build, load, load_spec
from refineseg.training import run as training_run
from refineseg.training.config import LossOptions
from refineseg.training.run import RunRequest, resume_run, start_run


@pytest.mark.slow
def test_images_held_on_the_device_give_the_same_run_twice(folder_root, tmp_path):
    config = tiny(3, augment_on="device")
    progress = run(folder_root, tmp_path / "whole", config)
    assert "training images are held and cut on cpu" in progress.said
    run(folder_root, tmp_path / "parts", config)
    whole, parts = (tensors(tmp_path / name / "last.safetensors") for name in ("whole", "parts"))
    assert same(whole, parts)
    assert not same(whole, tensors(_host_run(folder_root, tmp_path / "host") / "last.safetensors"))


@pytest.mark.parametrize(
    ("variant", "changes", "images"),
    [
        (VARIANT, {"batch_size": 1}, 2),
        (VARIANT, {"batch_size": 8}, 1),  # a data set of one image
        (VARIANT, {"batch_size": 3, "micro": 2}, 3),  # two crops, and one
        ("refinenet_lw_mobilenetv2", {"batch_size": 1}, 2),
        ("refineseg_lite0", {"batch_size": 1}, 2),
    ],
)
def test_one_crop_whose_coarsest_map_is_one_pixel_is_refused_before_any_work(tmp_path, variant, changes, images):
    root = write_folder(tmp_path / "data", splits={"train": images, "val": 1})
    config = tiny(1, variant=variant, micro_batch=changes.get("micro"))
    config = replace(config, phases=(replace(config.phases[0], batch_size=changes["batch_size"]),))
    with pytest.raises(ConfigError, match="at least two crops at a time, or larger ones, got one of 32x32 pixels"):
        run(root, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes", [{"crop_hw": (64, 64)}, {"freeze": True}])
def test_one_crop_is_enough_where_it_is_larger_or_statistics_are_kept(tmp_path, changes):
    root = write_folder(tmp_path / "data", splits={"train": 1, "val": 1})
    config = tiny(1, freeze_norm="freeze" in changes)
    crops = CropOptions(changes.get("crop_hw", (32, 32)), (0.8, 1.2))
    config = replace(config, phases=(replace(config.phases[0], crops=crops),))
    assert len(run(root, tmp_path / "run", config).entries) == 1


def _host_run(root, out):
    run(root, out, tiny(3))
    return out


def test_a_run_leaves_models_metrics_curves_and_a_checkpoint(folder_root, tmp_path):
    progress = run(folder_root, tmp_path / "run")
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == {
        "run.json", "checkpoint.pt", "metrics.jsonl", "metrics.json", "curves.png", "best.safetensors",
        "last.safetensors", "data.json", "validation",
    }  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all({"loss", "mean_iou", "class_iou", "images_per_s", "decoder_lr"} <= line.keys() for line in lines)
    assert len(progress.entries) == 2
    with Image.open(tmp_path / "run" / "curves.png") as curves:
        assert curves.size[0] > 300
    spec = load_spec(tmp_path / "run" / "last.safetensors")
    assert spec.class_info.num_classes == 3
    assert spec.provenance["epochs"] == 2
    assert spec.provenance["started_from"] == "scratch"
    assert spec.provenance["data"] == "folder:train, 6 images"
    assert load(tmp_path / "run" / "best.safetensors").class_info == spec.class_info


@pytest.mark.slow
def test_training_learns_an_easy_data_set(tmp_path):
    root = write_folder(tmp_path / "data", splits={"train": 8, "val": 3}, size=(32, 48))
    config = tiny(30, ema_decay=0.8, val_every=30)
    progress = run(
        root, tmp_path / "run", replace(config, phases=(replace(config.phases[0], decoder_lr=2e-3, encoder_lr=2e-3),))
    )
    assert progress.entries[-1]["loss"] < 0.6 * progress.entries[0]["loss"]
    assert progress.entries[-1]["mean_iou"] > 0.45


@pytest.mark.slow
def test_equal_seeds_give_equal_weights_and_other_seeds_do_not(folder_root, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(folder_root, tmp_path / name, tiny(1, seed=seed))
    a, b, c = (tensors(tmp_path / name / "last.safetensors") for name in "abc")
    assert same(a, b)
    assert not same(a, c)


def test_a_run_stopped_between_epochs_resumes_to_the_same_weights(folder_root, tmp_path):
    config = tiny(3, loss=LossOptions(class_weight_power=0.5, label_smoothing=0.1, ohem_threshold=0.9))
    run(folder_root, tmp_path / "whole", config)

    class Interrupted(Silent):
        def epoch_done(self, entry):
            if entry["epoch"] == 1:
                raise KeyboardInterrupt

    request = RunRequest(config, f"folder:{folder_root}", device="cpu")
    with pytest.raises(KeyboardInterrupt):
        start_run(request, tmp_path / "halves", progress=Interrupted())
    progress = Silent()
    resume_run(tmp_path / "halves", data=None, device="cpu", num_workers=None, progress=progress)
    assert [e["epoch"] for e in progress.entries] == [2, 3]
    whole, halves = (tensors(tmp_path / n / "last.safetensors") for n in ("whole", "halves"))
    assert same(whole, halves)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in ("whole", "halves")
    ]
    assert losses[0] == losses[1]


def test_a_folder_with_a_run_is_not_overwritten(folder_root, tmp_path):
    run(folder_root, tmp_path / "run", tiny(1))
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"expected a folder without a run.*--resume"):
        run(folder_root, tmp_path / "run")
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before


def test_there_must_be_a_run_to_resume(tmp_path):
    with pytest.raises(CheckpointError, match="there is no run.json"):
        resume_run(tmp_path, data=None, device="cpu", num_workers=None, progress=Silent())
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        resume_run(tmp_path, data=None, device="cpu", num_workers=None, progress=Silent())


def test_wrong_labels_stop_a_run_before_anything_is_written(folder_root, tmp_path):
    path = folder_root / "masks" / "train" / "002.png"
    with Image.open(path) as opened:
        mask = opened.copy()
    mask.putpixel((5, 6), 77)
    mask.save(path)
    (folder_root / "classes.txt").write_text("ground\nsky\nsquare\n")
    with pytest.raises(LabelError, match=r"002\.png.*77 in 1 pixel"):
        run(folder_root, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_a_val_split_the_last_model_is_the_result(tmp_path):
    root = write_folder(tmp_path / "data", splits={"train": 4})
    progress = run(root, tmp_path / "run", tiny(1))
    assert any("no val split" in line for line in progress.said)
    assert not (tmp_path / "run" / "best.safetensors").exists()
    assert load_spec(tmp_path / "run" / "last.safetensors").provenance["metrics"]["split"] is None


def test_a_model_is_fine_tuned_to_other_classes_and_says_what_was_not_loaded(folder_root, tmp_path):
    source = build(VARIANT, num_classes=7)
    source.save(tmp_path / "seven.safetensors")
    progress = run(folder_root, tmp_path / "run", tiny(1), init=str(tmp_path / "seven.safetensors"))
    listed = next(line for line in progress.said if "fine-tuning" in line)
    assert "not loaded, made anew: decoder.classifier.weight, decoder.classifier.bias" in listed
    spec = load_spec(tmp_path / "run" / "last.safetensors")
    assert spec.class_info.num_classes == 3
    assert "seven.safetensors" in spec.provenance["started_from"]


def test_another_decoder_on_the_same_encoder_takes_over_what_fits(folder_root, tmp_path):
    build("refineseg_lite0", num_classes=3).save(tmp_path / "four.safetensors")
    still = tiny(1, weight_decay=0.0, ema_decay=None)
    still = replace(still, phases=(replace(still.phases[0], encoder_lr=0.0, decoder_lr=0.0),))
    start = {"init": str(tmp_path / "four.safetensors")}
    progress = run(folder_root, tmp_path / "run", still, init_variant="refineseg_lite0_5cascade", **start)
    listed = next(line for line in progress.said if "fine-tuning" in line).partition("made anew: ")[2].split(", ")
    assert {name.rpartition(".")[0] for name in listed} == {
        *(f"decoder.blocks.4.{part}" for part in ("adaptations.1.0", "fusion.convs.0", "fusion.convs.1")),
        *(f"decoder.blocks.4.output.0.{part}" for part in ("conv1", "conv2")),
        "decoder.classifier",
    }
    assert load_spec(tmp_path / "run" / "last.safetensors").variant == "refineseg_lite0_5cascade"
    four, five = tensors(tmp_path / "four.safetensors"), tensors(tmp_path / "run" / "last.safetensors")
    learned = [k for k in four if k not in listed and "running" not in k and "tracked" not in k]
    assert learned
    assert all(torch.equal(four[k], five[k]) for k in learned)
    request = RunRequest(still, f"folder:{folder_root}", device="cpu", init_variant="refineseg_lite0_5cascade", **start)

    class Killed(Silent):
        def epoch_done(self, entry):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start_run(request, tmp_path / "killed", progress=Killed())
    (tmp_path / "killed" / "checkpoint.pt").unlink()  # as before its first one
    resume_run(tmp_path / "killed", data=None, device="cpu", num_workers=None, progress=Silent())
    assert same(five, tensors(tmp_path / "killed" / "last.safetensors"))
    with pytest.raises(
        ConfigError, match=r"encoder of --init .* \(lite0, as refineseg_lite0 has it\), got refineseg_nano, whose"
    ):
        run(folder_root, tmp_path / "other", still, init_variant="refineseg_nano", **start)
    assert not (tmp_path / "other").exists()
    said = run(folder_root, tmp_path / "own", replace(still, variant="refineseg_lite0_5cascade"), **start).said
    assert any(
        "the network is refineseg_lite0, as" in line and "; --variant refineseg_lite0_5" in line for line in said
    )


@pytest.mark.slow
def test_fine_tuning_at_rate_zero_keeps_every_weight_of_equal_classes(folder_root, tmp_path):
    run(folder_root, tmp_path / "first", tiny(1))
    still = tiny(1, weight_decay=0.0, ema_decay=None)
    still = replace(still, phases=(replace(still.phases[0], encoder_lr=0.0, decoder_lr=0.0),))
    progress = run(folder_root, tmp_path / "second", still, init=str(tmp_path / "first" / "last.safetensors"))
    assert any("the classes are the same" in line for line in progress.said)
    first, second = (tensors(tmp_path / n / "last.safetensors") for n in ("first", "second"))
    learned = [k for k in first if "running" not in k and "tracked" not in k]
    assert all(torch.equal(first[k], second[k]) for k in learned)


def test_missing_imagenet_weights_are_said_in_one_line_and_training_goes_on(folder_root, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # as without a network, only faster
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    progress = run(folder_root, tmp_path / "run", tiny(1, pretrained="auto"))
    said = [line for line in progress.said if "training from scratch" in line]
    assert len(said) == 1
    assert "\n" not in said[0]


def test_the_reason_for_missing_weights_is_said_whatever_the_message_looks_like(folder_root, tmp_path, monkeypatch):
    real = training_run._new_model

    def without(*args, pretrained=False):
        if pretrained:
            raise WeightsUnavailableError("expected (this), got (that)", reason="the shop is closed (today)")
        return real(*args)

    monkeypatch.setattr(training_run, "_new_model", without)
    said = run(folder_root, tmp_path / "run", tiny(1, pretrained="auto")).said
    assert f"training from scratch: no ImageNet weights for {VARIANT} (the shop is closed (today))" in said


def test_a_damaged_package_of_weights_does_not_begin_a_run_from_scratch(folder_root, tmp_path, monkeypatch):
    (tmp_path / "emptied_weights").mkdir()
    (tmp_path / "emptied_weights" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    entry = ENCODERS["lite0"]
    emptied = replace(entry, weights=replace(entry.weights, package="emptied_weights"))
    monkeypatch.setitem(ENCODERS, "lite0", emptied)
    with pytest.raises(ModelFileError, match="which does not have it; install emptied-weights anew"):
        run(folder_root, tmp_path / "run", tiny(1, variant="refineseg_lite0", pretrained="auto"))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_with_the_file_names(folder_root, tmp_path):
    config = tiny(1, clip_norm=None)
    config = replace(config, phases=(replace(config.phases[0], encoder_lr=1e30, decoder_lr=1e30, warmup_epochs=0.0),))
    with pytest.raises(CheckpointError, match=r"the loss became (nan|inf) in epoch \d on .*00\d"):
        run(folder_root, tmp_path / "run", replace(config, phases=(replace(config.phases[0], epochs=8),)))


def test_sgd_bf16_and_worker_processes_train_too(folder_root, tmp_path):
    config = tiny(1, optimiser="sgd", precision="bf16", decay_vectors=True, ema_decay=None, clip_norm=None)
    progress = run(folder_root, tmp_path / "run", config, num_workers=1)
    assert progress.steps == 2
    assert Path(tmp_path / "run" / "last.safetensors").exists()
