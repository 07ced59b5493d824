"""From a batch to a loss: the objective against the loss of the model's logits, and pieces against the whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from refineseg.losses import SegmentationLoss, class_weights
from refineseg.segmenter import build
from refineseg.training.objective import Objective
from refineseg.training.recipes import find_recipe

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
    wanted = config(loss_resolution=where, ohem_threshold=threshold, label_smoothing=0.1, class_weight_power=0.5)
    loss = SegmentationLoss(
        255, class_weights(COUNTS, power=0.5), 0.1, threshold, at_output_resolution=where == "output"
    )
    with torch.no_grad():
        logits = segmenter(images) if where == "image" else segmenter.output_logits(images)
        assert torch.equal(Objective(segmenter, wanted, COUNTS)(images, masks).mean, loss(logits, masks))
