"""Filling in hidden squares: what is hidden, that it is learned, and that a run can start from it."""

from dataclasses import replace

import pytest
import torch

from conftest import write_folder
from fakes.runs import Silent, run, tensors, tiny
from refineseg.class_info import ClassInfo
from refineseg.data.checks.label_check import check_labels
from refineseg.data.datasets import open_dataset
from refineseg.errors import ConfigError
from refineseg.segmenter import build, load_spec
from refineseg.training.feeding import PhaseData, TrainingData
from refineseg.training.pretraining import Hiding, pretrain, reconstruction_loss


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("size_hw", "side", "share"), [((64, 96), 32, 0.5), ((40, 50), 16, 0.25)])
def test_whole_squares_are_hidden_as_many_in_every_image(size_hw, side, share):
    hidden = Hiding(share, side).squares(4, size_hw, generator=generator())
    rows, columns = (-(-length // side) for length in size_hw)
    for image in hidden:
        squares = [
            image[y * side : (y + 1) * side, x * side : (x + 1) * side] for y in range(rows) for x in range(columns)
        ]
        assert all(square.all() or not square.any() for square in squares)
        assert sum(bool(square.all()) for square in squares) == round(share * rows * columns)
    assert not torch.equal(hidden[0], hidden[1])
    assert torch.equal(hidden, Hiding(share, side).squares(4, size_hw, generator=generator()))


def test_the_loss_counts_hidden_pixels_alone_and_hides_them_from_the_model():
    class Seeing(torch.nn.Module):
        """Says that every pixel is 0 and keeps what it was shown."""

        def __init__(self, segmenter):
            super().__init__()
            self.spec, self.scale = segmenter.spec, torch.nn.Parameter(torch.ones(()))
            self.seen = None

        def forward(self, images):
            self.seen = images
            return torch.zeros(images.shape, dtype=torch.float32)

    segmenter = build("refinenet_lw_mobilenetv2", class_info=ClassInfo(("red", "green", "blue")))
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=generator())
    hidden = Hiding(0.5, 32).squares(2, (64, 64), generator=generator(1))
    seeing = Seeing(segmenter)
    segmenter.forward = seeing.forward
    value = reconstruction_loss(segmenter, images, hidden)
    mean, std = (list(values) for values in (segmenter.spec.preprocessing.mean, segmenter.spec.preprocessing.std))
    normalised = (images - torch.tensor(mean)[None, :, None, None]) / torch.tensor(std)[None, :, None, None]
    assert float(value) == pytest.approx(float(normalised.abs().permute(0, 2, 3, 1)[hidden].mean()), rel=1e-5)
    shown = seeing.seen.permute(0, 2, 3, 1)
    assert shown[hidden].unique(dim=0).tolist() == [[124, 116, 104]]
    assert torch.equal(shown[~hidden], images.permute(0, 2, 3, 1)[~hidden])


def training_data(root):
    dataset = open_dataset("folder", root, split="train")
    return TrainingData((PhaseData(dataset, check_labels(dataset)),), None, "folder:train, 8 images")


def longer(epochs):
    config = tiny(epochs, clip_norm=1.0)
    return replace(config, phases=(replace(config.phases[0], encoder_lr=2e-3, decoder_lr=2e-3),))


@pytest.mark.slow
def test_hidden_squares_are_learned_and_a_run_starts_from_the_model(tmp_path):
    root = write_folder(tmp_path / "data", splits={"train": 8}, size=(32, 48))
    progress = Silent()
    model = pretrain(longer(12), training_data(root), device="cpu", hiding=Hiding(0.5, 8), progress=progress)
    differences = [float(line.split()[-1]) for line in progress.said]
    assert len(differences) == 12
    assert differences[-1] < 0.85 * differences[0]
    told = model.spec.provenance
    assert told["pretraining"]["task"] == "hidden squares of 8 pixels, 50% of each image"
    assert (told["data"], told["started_from"]) == ("folder:train, 8 images", "scratch")
    model.save(tmp_path / "pretrained.safetensors")
    config = tiny(1, ema_decay=None, weight_decay=0.0)
    still = replace(config, phases=(replace(config.phases[0], encoder_lr=0.0, decoder_lr=0.0),))
    begun = run(root, tmp_path / "run", still, init=str(tmp_path / "pretrained.safetensors"))
    assert any("made anew: decoder.classifier.weight, decoder.classifier.bias" in line for line in begun.said)
    before, after = (tensors(tmp_path / name) for name in ("pretrained.safetensors", "run/last.safetensors"))
    kept = [k for k in before if "running" not in k and "tracked" not in k and "classifier" not in k]
    assert all(torch.equal(before[k], after[k]) for k in kept)
    assert "pretrained.safetensors" in load_spec(tmp_path / "run" / "last.safetensors").provenance["started_from"]


@pytest.mark.slow
def test_equal_seeds_give_equal_models_and_the_time_limit_ends_after_an_epoch(tmp_path):
    root = write_folder(tmp_path / "data", splits={"train": 4}, size=(32, 48))
    models = []
    for options in ({}, {"stop_after_s": 0.0}):
        progress = Silent()
        epochs = 3 if options else 1
        models.append(pretrain(tiny(epochs), training_data(root), device="cpu", progress=progress, **options))
        assert len(progress.said) == 1
    first, second = (model.network.state_dict() for model in models)
    stems = next(iter(first))
    assert first.keys() == second.keys()
    assert not torch.equal(first[stems], build(models[0].spec.variant, num_classes=3).network.state_dict()[stems])


@pytest.mark.parametrize(("share", "side"), [(0.0, 32), (1.0, 32), (0.5, 0)])
def test_hiding_all_or_nothing_is_refused(share, side):
    with pytest.raises(ConfigError, match="expected a share between 0 and 1 and a side of at least 1 pixel"):
        Hiding(share, side)
