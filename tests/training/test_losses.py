"""The loss against sums written out in numpy."""

import numpy as np
import pytest
import torch

from fakes.oracles import needs_oracles, read_json, stored
from refineseg.training.config import LossOptions
from refineseg.training.losses import SegmentationLoss, class_weights, masks_at


def _pixels(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 5, 6, generator=generator) * 2
    masks = torch.randint(0, 4, (2, 5, 6), generator=generator)
    masks[0, 0, :3] = 255
    return logits, masks


def _nll(logits, masks):
    """(negative log-likelihood, true class) of each labelled pixel, by hand."""
    z = logits.numpy().astype(np.float64)
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    pairs = [
        (-log_p[n, masks[n, y, x], y, x], int(masks[n, y, x]))
        for n, y, x in np.ndindex(*masks.shape)
        if masks[n, y, x] != 255
    ]
    return np.array([p for p, _ in pairs]), np.array([c for _, c in pairs])


def test_plain_loss_is_the_mean_over_labelled_pixels():
    logits, masks = _pixels()
    assert float(SegmentationLoss(255)(logits, masks)) == pytest.approx(_nll(logits, masks)[0].mean(), rel=1e-5)


def test_class_weights_weigh_the_true_classes():
    logits, masks = _pixels()
    weights = torch.tensor([1.0, 2.0, 0.5, 4.0])
    nll, true = _nll(logits, masks)
    expected = (nll * weights.numpy()[true]).sum() / weights.numpy()[true].sum()
    assert float(SegmentationLoss(255, weights)(logits, masks)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 0.5, 4.0])])
def test_pixels_of_a_union_lose_the_logarithm_of_their_classes_probabilities(weights):
    logits, masks = _pixels()
    unions = ((0, 2), (1, 2, 3))
    masks[0, 1:3], masks[1, 4] = 4, 5
    p = np.exp(logits.numpy().astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    by_class = np.ones(4) if weights is None else weights.numpy()
    total = weight = 0.0
    for n, y, x in np.ndindex(*masks.shape):
        value = int(masks[n, y, x])
        if value != 255:
            members = list(unions[value - 4]) if value >= 4 else [value]
            total -= by_class[members].mean() * np.log(p[n, members, y, x].sum())
            weight += by_class[members].mean()
    loss = SegmentationLoss(255, weights, unions=unions)
    assert float(loss(logits, masks)) == pytest.approx(total / weight, rel=1e-5)


def test_regions_and_hard_pixels_are_those_of_classes_alone():
    logits, masks = _pixels()
    options = LossOptions(lovasz=0.5, dice=0.5, ohem_threshold=0.7)
    as_void = SegmentationLoss(255, options=options).sums(logits, masks.masked_fill(masks == 3, 255))
    in_union = SegmentationLoss(255, options=options, unions=((1, 3),)).sums(logits, masks.masked_fill(masks == 3, 4))
    alone = SegmentationLoss(255, unions=((1, 3),)).sums(logits, torch.where(masks == 3, 4, 255))
    assert float(in_union.total) == pytest.approx(float(as_void.total + alone.total), rel=1e-5)
    assert float(in_union.weight) == pytest.approx(float(as_void.weight + alone.weight), rel=1e-6)


def test_void_pixels_get_no_gradient():
    logits, masks = _pixels()
    logits.requires_grad_()
    SegmentationLoss(255)(logits, masks).backward()
    assert logits.grad[0, :, 0, :3].abs().max() == 0
    assert logits.grad[0, :, 0, 3:].abs().min() > 0


def test_a_batch_without_labels_costs_nothing():
    logits, masks = _pixels()
    logits.requires_grad_()
    for loss in (SegmentationLoss(255), SegmentationLoss(255, options=LossOptions(ohem_threshold=0.7))):
        value = loss(logits, torch.full_like(masks, 255))
        assert float(value.detach()) == 0
        value.backward()
        assert logits.grad.abs().max() == 0


@pytest.mark.parametrize(("threshold", "share"), [(0.3, 0.0), (1e-6, 0.25), (1.0, 0.1)])
def test_hard_mining_keeps_exactly_the_hard_pixels(threshold, share):
    logits, masks = _pixels()
    nll, _ = _nll(logits, masks)
    by_threshold = nll >= -np.log(threshold)
    least = max(1, int(share * len(nll)))
    hardest = nll >= np.sort(nll)[-least]
    expected = nll[by_threshold | hardest].mean()
    loss = SegmentationLoss(255, options=LossOptions(ohem_threshold=threshold, ohem_share=share))
    assert float(loss(logits, masks)) == pytest.approx(expected, rel=1e-5)


def test_weights_follow_the_median_frequency():
    counts = np.array([400, 100, 25, 0])
    assert class_weights(counts, power=1.0).tolist() == [0.25, 1.0, 4.0, 1.0]
    assert class_weights(counts, power=0.5).tolist() == [0.5, 1.0, 2.0, 1.0]
    assert class_weights(counts, power=0.0) is None


def _stored_logits():
    """Names of the logits with known losses; the files of a few come with the oracles."""
    return [f"{model}_128x128" for model in ("rf_lw50_40", "rf_lw50_21", "rf101_21")]


@needs_oracles
@pytest.mark.parametrize("name", _stored_logits())
def test_both_papers_losses_have_the_stored_values(name):
    expected = read_json("expected_misc.json")["loss"]["values"][name]
    logits = stored(name, "logits").double()
    height, width = map(int, name.rpartition("_")[2].split("x"))
    generators = [np.random.Generator(np.random.PCG64(seed)) for seed in (51, 52)]
    masks = torch.from_numpy(generators[0].integers(0, logits.shape[1], (1, height, width)))
    masks[torch.from_numpy(generators[1].random((1, height, width)) < 0.05)] = 255
    size_hw = (logits.shape[2], logits.shape[3])
    assert int((masks != 255).sum()) == expected["valid_pixels"]
    assert int((masks_at(masks, size_hw) != 255).sum()) == expected["valid_pixels_low"]
    at_masks, at_output = SegmentationLoss(255), SegmentationLoss(255, options=LossOptions(loss_resolution="output"))
    assert float(at_masks(logits, masks)) == pytest.approx(expected["lw_full_resolution"], rel=1e-9)
    assert float(at_output(logits, masks)) == pytest.approx(expected["matlab_output_resolution"], rel=1e-9)


@pytest.mark.parametrize(("size_hw", "new_hw"), [((128, 128), (32, 32)), ((97, 161), (25, 41)), ((7, 5), (7, 9))])
def test_masks_are_picked_at_the_centres_of_the_new_pixels(size_hw, new_hw):
    masks = torch.from_numpy(np.random.default_rng(0).integers(0, 9, (2, *size_hw)))
    picked = masks_at(masks, new_hw)
    assert picked.shape == (2, *new_hw)
    for y, x in np.ndindex(*new_hw):
        old = [int((i + 0.5) * n / m) for i, n, m in zip((y, x), size_hw, new_hw, strict=True)]
        assert torch.equal(picked[:, y, x], masks[:, old[0], old[1]])


def test_where_the_loss_is_taken_changes_nothing_when_the_sizes_agree():
    logits, masks = _pixels()
    at_output = SegmentationLoss(255, options=LossOptions(loss_resolution="output"))
    assert torch.equal(SegmentationLoss(255)(logits, masks), at_output(logits, masks))


def test_the_loss_at_output_resolution_sends_a_gradient_to_every_labelled_pixel():
    logits, masks = _pixels()
    small = logits[:, :, :2, :3].clone().requires_grad_()
    SegmentationLoss(255, options=LossOptions(loss_resolution="output"))(small, masks).backward()
    labelled = masks_at(masks, (2, 3)) != 255
    assert torch.equal(small.grad.abs().amax(dim=1) > 0, labelled)
