"""Border weights, region losses and the teacher's divergence against their definitions, written out pixel by pixel."""

import itertools

import numpy as np
import pytest
import torch

from refineseg.training.config import LossOptions
from refineseg.training.losses import (
    LossSum,
    SegmentationLoss,
    border_closeness,
    class_weights,
    dice_loss,
    divergence,
    lovasz_loss,
)

VOID = 255


def loss_of(class_weights=None, **options):
    return SegmentationLoss(VOID, class_weights, LossOptions(**options))


def pixels(shape=(2, 6, 7), classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape[0], classes, *shape[1:], generator=generator)
    masks = torch.randint(0, classes, shape, generator=generator)
    masks[0, 0, :3] = VOID
    return logits, masks


def probabilities(logits):
    z = np.exp(logits.double().numpy())
    return torch.from_numpy(z / z.sum(axis=1, keepdims=True))


def jaccard_loss(truth, wrong):
    """1 - IoU of a class whose pixels are ``truth`` when the pixels ``wrong`` (index sets) are mistaken."""
    predicted = truth ^ wrong
    return 1 - len(truth & predicted) / len(truth | predicted)


def extension(errors, truth):
    """Lovasz extension of a submodular set function: the largest sum over all orders of the pixels."""
    totals = []
    for order in itertools.permutations(range(len(errors))):
        growths = [
            jaccard_loss(truth, set(order[: i + 1])) - jaccard_loss(truth, set(order[:i])) for i in range(len(order))
        ]
        totals.append(sum(errors[i] * growth for i, growth in zip(order, growths, strict=True)))
    return max(totals)


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_lovasz_is_the_largest_sum_over_all_orders_of_the_pixels(seed, on_cpu, monkeypatch):
    monkeypatch.setattr("refineseg.training.losses._is_cpu", lambda _: on_cpu)
    logits, masks = pixels((1, 2, 3), classes=3, seed=seed)
    masks = masks % 2 if seed == 0 else masks
    masks[0, 0, :3] = torch.tensor([0, VOID, 1])
    p, truth = probabilities(logits).flatten(2)[0].numpy(), masks.flatten().tolist()
    labelled = [i for i, c in enumerate(truth) if c != VOID]
    expected = []
    for c in range(3):
        members = {j for j, i in enumerate(labelled) if truth[i] == c}
        if members:
            expected.append(extension([abs((truth[i] == c) - p[c, i]) for i in labelled], members))
    value = lovasz_loss(probabilities(logits).flatten(2), masks.flatten(1), ignore_index=VOID)
    assert float(value[0]) == pytest.approx(np.mean(expected), rel=1e-6)


def test_lovasz_orders_errors_to_a_step_and_is_hardly_less_than_the_sorted_one():
    logits, masks = pixels((2, 40, 50), classes=3, seed=5)
    p, truth = probabilities(logits).flatten(2).requires_grad_(), masks.flatten(1)
    value = lovasz_loss(p, truth, ignore_index=VOID)
    value.sum().backward()
    expected, gradient = [], np.zeros((2, 3, 2000))
    for image in range(2):
        losses = []
        for c in range(3):
            labelled = np.flatnonzero(truth[image] != VOID)
            is_class = truth[image].numpy()[labelled] == c
            errors = np.abs(is_class - p[image, c].detach().numpy()[labelled])
            order = np.argsort(-errors)
            wrong_own, wrong_others = np.cumsum(is_class[order]), np.cumsum(~is_class[order])
            jaccard = 1 - (is_class.sum() - wrong_own) / (is_class.sum() + wrong_others)
            growth = np.diff(jaccard, prepend=0.0)
            losses.append(errors[order] @ growth)
            gradient[image, c, labelled[order]] = np.where(is_class[order], -growth, growth) / 3
        expected.append(np.mean(losses))
    short = np.array(expected) - value.detach().numpy()
    assert (short > -1e-6).all()
    assert (short < 1e-5).all()
    difference = p.grad.numpy() - gradient
    assert np.linalg.norm(difference) < 2e-3 * np.linalg.norm(gradient)


def test_lovasz_of_hard_predictions_is_one_minus_the_iou():
    truth = torch.tensor([[0, 0, 0, 1, 1, 2, VOID]])
    predicted = torch.tensor([[0, 0, 1, 1, 2, 2, 0]])
    hard = torch.nn.functional.one_hot(predicted, 4).transpose(1, 2).double()  # class 3 does not occur
    expected = np.mean([1 - 2 / 3, 1 - 1 / 3, 1 - 1 / 2])
    assert float(lovasz_loss(hard, truth, ignore_index=VOID)[0]) == pytest.approx(expected)


def test_void_pixels_change_no_region_loss_and_get_no_gradient():
    logits, masks = pixels((1, 5, 5))
    p = probabilities(logits).flatten(2).requires_grad_()
    kept = (masks.flatten() != VOID).nonzero().flatten()
    for loss in (lovasz_loss, dice_loss):
        p.grad = None
        value = loss(p, masks.flatten(1), ignore_index=VOID)
        alone = loss(p.detach()[:, :, kept], masks.flatten(1)[:, kept], ignore_index=VOID)
        assert value.detach() == pytest.approx(alone)
        value.sum().backward()
        assert p.grad[:, :, masks.flatten() == VOID].abs().max() == 0
        assert p.grad[:, :, kept].abs().max() > 0


def test_dice_is_written_out_for_each_class_that_is_present():
    logits, masks = pixels((2, 4, 5), classes=3)
    masks[1] = masks[1] % 2  # class 2 is absent from the second image
    p = probabilities(logits).numpy()
    for n in range(2):
        expected = []
        for c in range(3):
            spots = [(y, x) for y, x in np.ndindex(4, 5) if masks[n, y, x] != VOID]
            truth = [float(masks[n, y, x] == c) for y, x in spots]
            if sum(truth):
                own = [p[n, c, y, x] for y, x in spots]
                overlap = sum(a * b for a, b in zip(own, truth, strict=True))
                expected.append(1 - 2 * overlap / (sum(own) + sum(truth)))
        value = dice_loss(torch.from_numpy(p).flatten(2), masks.flatten(1), ignore_index=VOID)[n]
        assert float(value) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("radius", [1, 2, 4])
def test_closeness_falls_with_the_distance_to_the_nearest_other_class(radius):
    rng = np.random.default_rng(radius)
    mask = np.kron(rng.integers(0, 3, (4, 3)), np.ones((4, 5), np.int64))
    mask[rng.random(mask.shape) < 0.1] = VOID
    got = border_closeness(torch.from_numpy(mask)[None], radius=radius, ignore_index=VOID)[0]
    for y, x in np.ndindex(*mask.shape):
        other = (mask != mask[y, x]) & (mask != VOID)
        rows, columns = np.nonzero(other)
        distance = np.maximum(abs(rows - y), abs(columns - x)).min()
        expected = 0 if mask[y, x] == VOID else max(0, radius + 1 - distance) / radius
        assert float(got[y, x]) == pytest.approx(expected)


def test_void_is_no_border_and_one_class_has_none():
    masks = torch.full((1, 6, 6), 2)
    masks[:, :, 3:] = VOID
    assert border_closeness(masks, radius=3, ignore_index=VOID).max() == 0


def test_pixels_near_borders_count_more():
    logits, _ = pixels((1, 6, 8))
    masks = torch.zeros(1, 6, 8, dtype=torch.int64)
    masks[:, :, 4:] = 1
    masks[0, 0, 0] = VOID
    per_pixel = torch.nn.functional.cross_entropy(logits, masks.clamp(max=3), reduction="none")
    weights = torch.tensor([1.0, 1.0, 2.0, 3.0, 3.0, 2.0, 1.0, 1.0]).expand(6, 8).clone()[None]
    weights[0, 0, 0] = 0
    loss = loss_of(border_weight=2.0, border_radius=2)
    assert float(loss(logits, masks)) == pytest.approx(float((per_pixel * weights).sum() / weights.sum()), rel=1e-5)
    assert float(loss.sums(logits, masks).weight) == float(weights.sum())


EVERYTHING = {"lovasz": 0.5, "dice": 0.25, "border_weight": 1.0, "class_weights": torch.tensor([1.0, 2.0, 0.5, 4.0])}


@pytest.mark.parametrize(
    "options", [{"lovasz": 1.0}, {"dice": 1.0}, {"border_weight": 2.0}, {"label_smoothing": 0.1}, EVERYTHING]
)
def test_parts_of_a_batch_add_up_to_the_whole(options):
    logits, masks = pixels((5, 6, 7))
    loss = loss_of(**options)
    whole = loss.sums(logits, masks)
    parts = [loss.sums(logits[part], masks[part]) for part in (slice(0, 2), slice(2, 3), slice(3, 5))]
    joined = LossSum(sum(p.total for p in parts), sum(p.weight for p in parts))
    assert float(joined.mean) == pytest.approx(float(whole.mean), rel=1e-5)


def test_region_losses_come_beside_cross_entropy_weighted_by_labelled_pixels():
    logits, masks = pixels((3, 6, 7))
    masks[2, 2:] = VOID
    p = probabilities(logits)
    each = lovasz_loss(p.flatten(2), masks.flatten(1), ignore_index=VOID)
    labelled = (masks != VOID).sum((1, 2))
    expected = float(SegmentationLoss(VOID)(logits, masks)) + 0.7 * float((each * labelled).sum() / labelled.sum())
    assert float(loss_of(lovasz=0.7)(logits, masks)) == pytest.approx(expected, rel=1e-5)


def test_lovasz_over_a_batch_sorts_the_pixels_of_all_images_together():
    logits, masks = pixels((3, 6, 7))
    row = logits.permute(1, 0, 2, 3).reshape(1, 4, 3, 42)
    together = loss_of(lovasz=1.0)(row, masks.reshape(1, 3, 42))
    assert float(loss_of(lovasz=1.0, lovasz_over="batch")(logits, masks)) == pytest.approx(float(together), rel=1e-5)


def test_lovasz_with_a_stride_sees_every_so_many_th_pixel():
    logits, masks = pixels((2, 9, 8))
    masks[:, 0] = VOID
    picked = lovasz_loss(
        probabilities(logits)[:, :, ::3, ::3].flatten(2), masks[:, ::3, ::3].flatten(1), ignore_index=VOID
    )
    labelled = (masks != VOID).sum((1, 2))
    expected = float(SegmentationLoss(VOID)(logits, masks)) + float((picked * labelled).sum() / labelled.sum())
    assert float(loss_of(lovasz=1.0, lovasz_stride=3)(logits, masks)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "options", [EVERYTHING, {"lovasz": 1.0, "lovasz_over": "batch"}, {"ohem_threshold": 0.5, **EVERYTHING}]
)
def test_a_batch_without_labels_costs_nothing_and_moves_nothing(options):
    logits, masks = pixels()
    logits.requires_grad_()
    value = loss_of(**options)(logits, torch.full_like(masks, VOID))
    value.backward()
    assert float(value.detach()) == 0
    assert logits.grad.abs().max() == 0


def test_half_precision_logits_are_computed_with_in_single_precision():
    logits, masks = pixels()
    rounded = logits.bfloat16()
    loss = loss_of(ohem_threshold=0.6, **EVERYTHING)
    assert torch.equal(loss(rounded, masks), loss(rounded.float(), masks))
    assert loss(rounded, masks).dtype == torch.float32


def test_no_value_is_read_back_from_the_device():
    """Tensors on the meta device have no values, so whatever reads one fails on them."""
    logits, masks = (x.to("meta") for x in pixels())
    for options in (EVERYTHING, {"ohem_threshold": 0.5}, {"lovasz": 1.0, "lovasz_over": "batch"}):
        on_meta = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        assert loss_of(**on_meta)(logits, masks).device.type == "meta"


def test_divergence_is_the_sum_over_classes_of_p_log_p_over_q():
    (student, _), (teacher, _) = pixels(seed=1), pixels(seed=2)
    for temperature in (1.0, 3.0):
        p, q = (probabilities(x / temperature).numpy() for x in (teacher, student))
        expected = temperature**2 * (p * np.log(p / q)).sum(axis=1).mean(axis=(1, 2))
        assert divergence(student, teacher, temperature=temperature).tolist() == pytest.approx(expected, rel=1e-4)
        assert divergence(teacher, teacher, temperature=temperature).abs().max() < 1e-6


def test_logarithmic_weights_are_those_of_enet():
    counts = np.array([700, 200, 100, 0])
    expected = [1 / np.log(1.02 + share) for share in (0.7, 0.2, 0.1)]
    assert class_weights(counts, power=1.0, style="logarithm").tolist() == pytest.approx([*expected, 1.0])
