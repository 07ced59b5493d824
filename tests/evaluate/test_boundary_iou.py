"""Boundary IoU against a brute-force reference, and against the authors' erosion on binary masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.morphology import erosion

from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, LabelError
from refineseg.evaluate.boundary import BoundaryIoU, boundary_band, boundary_distance

INFO = ClassInfo(("a", "b", "c"))
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


def pixel_by_pixel(mask, truth, class_index, distance):
    """Pixels of a class, labelled, with a labelled pixel of another class or the outside in the window."""
    found = set()
    height, width = mask.shape
    for y in range(height):
        for x in range(width):
            if truth[y, x] == 255 or mask[y, x] != class_index:
                continue
            window = [
                (v, u) for v in range(y - distance, y + distance + 1) for u in range(x - distance, x + distance + 1)
            ]
            if any(
                not (0 <= v < height and 0 <= u < width) or (truth[v, u] != 255 and mask[v, u] != class_index)
                for v, u in window
            ):
                found.add((y, x))
    return found


@settings(max_examples=80, deadline=None)
@given(data=st.data(), size=sizes, distance=st.integers(1, 4))
def test_the_bands_and_their_iou_are_those_of_brute_force(data, size, distance):
    mask = data.draw(arrays(np.uint8, size, elements=st.sampled_from([0, 1, 2, 255])))
    truth = data.draw(arrays(np.uint8, size, elements=st.sampled_from([0, 1, 2, 255])))
    ratio = (distance + 0.01) / np.hypot(*size)
    if ratio > 1:
        return
    assert boundary_distance(size, ratio=ratio) == distance
    boundary = BoundaryIoU(INFO, ratio=float(ratio))
    boundary.update(mask, truth)
    values = []
    for index in range(3):
        true = pixel_by_pixel(truth, truth, index, distance)
        predicted = pixel_by_pixel(mask, truth, index, distance)
        assert boundary.counts[:, index].tolist() == [len(true & predicted), len(true), len(predicted)]
        union = len(true | predicted)
        assert boundary.per_class_iou[index] == pytest.approx(
            len(true & predicted) / union if union else np.nan, nan_ok=True
        )
        if true:
            values.append(len(true & predicted) / union)
    assert boundary.mean_iou == pytest.approx(np.mean(values) if values else np.nan, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(mask=arrays(np.uint8, (17, 13), elements=st.sampled_from([0, 1])), distance=st.integers(1, 5))
def test_on_binary_masks_the_band_is_the_mask_without_its_erosion_as_the_authors_define_it(mask, distance):
    eroded = np.pad(mask, distance)  # zeros outside
    for _ in range(distance):
        eroded = erosion(eroded, np.ones((3, 3), np.uint8))
    expected = mask - eroded[distance:-distance, distance:-distance]
    band = boundary_band(mask, np.ones(mask.shape, bool), distance=distance)
    np.testing.assert_array_equal(band & (mask == 1), expected == 1)


def test_the_distance_is_two_percent_of_the_diagonal_and_at_least_one():
    assert boundary_distance((360, 480)) == 12
    assert boundary_distance((1024, 2048)) == 46
    assert boundary_distance((5, 5)) == 1


def test_a_thin_void_strip_does_not_hide_a_contour_and_a_lone_void_pixel_makes_none():
    truth = np.zeros((20, 21), np.uint8)
    truth[:, 11:] = 1
    truth[:, 10] = 255
    band = boundary_band(truth, truth != 255, distance=3)
    assert band[10].nonzero()[0].tolist() == [0, 1, 2, 8, 9, 11, 12, 18, 19, 20]
    lone = np.zeros((9, 9), np.uint8)
    lone[4, 4] = 255
    assert not boundary_band(lone, lone != 255, distance=2)[2:7, 2:7].any()


def test_a_shifted_thin_object_costs_more_at_its_boundary_than_inside_a_large_one():
    truth = np.zeros((100, 100), np.uint8)
    truth[20:80, 20:80] = 1
    shifted = np.roll(truth, 2, axis=1)
    boundary = BoundaryIoU(INFO)
    boundary.update(shifted, truth)
    inter, union = (truth & shifted).sum(), (truth | shifted).sum()
    assert boundary.per_class_iou[1] < inter / union


def test_images_add_up_and_json_gives_the_counts_back():
    rng = np.random.default_rng(0)
    masks, truths = rng.integers(0, 3, (2, 3, 12, 15))
    whole, parts = BoundaryIoU(INFO), [BoundaryIoU(INFO), BoundaryIoU(INFO)]
    for i in range(3):
        whole.update(masks[i], truths[i])
        parts[i % 2].update(masks[i], truths[i])
    np.testing.assert_array_equal((parts[0] + parts[1]).counts, whole.counts)
    again = BoundaryIoU.from_json(whole.to_json(), INFO)
    np.testing.assert_array_equal(again.counts, whole.counts)
    assert whole.to_json()["mean_iou"] == pytest.approx(whole.mean_iou)
    assert BoundaryIoU(INFO).to_json()["mean_iou"] is None


def test_wrong_sizes_ratios_and_sums_are_refused():
    with pytest.raises(LabelError, match=r"one size, got \(1, 2\) and \(2, 1\)"):
        BoundaryIoU(INFO).update(np.zeros((1, 2), int), np.zeros((2, 1), int))
    with pytest.raises(ConfigError, match="boundary ratio above 0 and at most 1, got 0; the usual one is 0.02"):
        BoundaryIoU(INFO, ratio=0.0)
    with pytest.raises(LabelError, match="of the same classes and ratio"):
        BoundaryIoU(INFO) + BoundaryIoU(INFO, ratio=0.1)
