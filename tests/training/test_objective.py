"""From a batch to a loss: the objective against the loss of the model's logits, and pieces against the whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fakes.runs import Asking
from refineseg.segmenter import build
from refineseg.training.config import LossOptions
from refineseg.training.losses import SegmentationLoss, class_weights
from refineseg.training.objective import Objective
from refineseg.training.recipes.table import find_recipe

COUNTS = np.array([400, 100, 25])


def batch(count=3, size=(64, 96), seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=generator)
    masks = torch.randint(0, 3, (count, *size), generator=generator)
    masks[0, :20] = 255
    return images, masks


def config(**changes):
    return replace(find_recipe("folder_refinenet_lw_mobilenetv2"), **changes)


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    return build("refinenet_lw_mobilenetv2", num_classes=3)


@pytest.mark.parametrize("where", ["image", "output"])
@pytest.mark.parametrize("threshold", [None, 0.4])
def test_the_objective_is_the_loss_of_the_models_logits_to_the_bit(segmenter, where, threshold):
    images, masks = batch()
    options = LossOptions(where, 0.5, label_smoothing=0.1, ohem_threshold=threshold)
    wanted = config(loss=options)
    loss = SegmentationLoss(255, class_weights(COUNTS, power=0.5), options)
    with torch.no_grad():
        logits = segmenter(images) if where == "image" else segmenter.output_logits(images)
        assert torch.equal(Objective(segmenter, wanted, COUNTS)(images, masks).mean, loss(logits, masks))


CHANGES = [
    {"class_weight_power": 1.0},
    {"class_weight_power": 1.0, "class_weight_style": "logarithm"},
    {"ohem_threshold": 0.3, "ohem_share": 0.5},
    {"border_weight": 2.0, "border_radius": 2},
    {"lovasz": 0.5},
    {"lovasz": 0.5, "lovasz_over": "batch"},
    {"lovasz": 0.5, "lovasz_stride": 4},
    {"dice": 2.0},
]


@pytest.mark.parametrize("fields", CHANGES, ids="-".join)
def test_every_loss_of_the_configuration_reaches_the_objective(segmenter, fields):
    images, masks = batch(2, (64, 64))
    options = LossOptions(**fields)
    weights = class_weights(COUNTS, power=options.class_weight_power, style=options.class_weight_style)
    with torch.no_grad():
        value = Objective(segmenter, config(loss=options), COUNTS)(images, masks).mean
        assert torch.equal(value, SegmentationLoss(255, weights, options)(segmenter(images), masks))
        plain = Objective(segmenter, config(loss=LossOptions()), COUNTS)(images, masks).mean
    assert not torch.equal(value, plain)


def test_the_loss_is_computed_in_single_precision_under_autocast(segmenter):
    images, masks = batch(1, (64, 64))
    options = LossOptions(class_weight_power=0.5, lovasz=1.0, ohem_threshold=0.7)
    objective = Objective(segmenter, config(loss=options), COUNTS)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        value = objective(images, masks)
        logits = segmenter(images)
    assert value.total.dtype == value.weight.dtype == torch.float32
    loss = SegmentationLoss(255, class_weights(COUNTS, power=0.5), options)
    assert torch.equal(value.mean, loss(logits.float(), masks))


def test_the_objective_asks_the_device_for_nothing(segmenter, monkeypatch):
    monkeypatch.setattr("refineseg.training.losses._is_cpu", lambda _: False)  # there it may ask
    images, masks = batch(2, (64, 64))
    options = LossOptions("image", 0.5, "median", 0.1, 0.7, border_weight=1.0, lovasz=1.0, dice=1.0)
    objective = Objective(segmenter, config(loss=options), COUNTS, teacher=segmenter)
    with torch.no_grad():
        objective(images, masks)  # constants are made once
    with Asking() as mode, torch.no_grad():
        float(objective(images, masks).mean)
    assert mode.asked == ["_local_scalar_dense"]  # the one of this test
