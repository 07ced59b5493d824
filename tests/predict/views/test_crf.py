"""The dense CRF against brute force over all pairs of pixels, against the published code, and by its properties."""

import numpy as np
import pytest
import torch

from refineseg.errors import ConfigError
from refineseg.predict.views import crf
from refineseg.predict.views.crf import PermutohedralLattice, dense_crf
from refineseg.predict.views.crf_options import CrfOptions


def exact_kernel(features):
    """All pairs: exp(-d^2 / 2), with rows and columns divided by the roots of their sums."""
    squared = ((features[:, None] - features[None]) ** 2).sum(axis=-1)
    kernel = np.exp(-squared / 2)
    root = np.sqrt(kernel.sum(axis=1))
    return kernel / root[:, None] / root[None]


class ExactKernel(crf._Kernel):
    """Stands in for the lattice."""

    def __init__(self, features):
        self.matrix = torch.from_numpy(exact_kernel(features)).float()

    def apply(self, values):
        return self.matrix @ values


def exact_crf(probabilities, image, options):
    """Mean field pixel by pixel in float64, written from the paper's formula."""
    k, h, w = probabilities.shape
    y, x = np.indices((h, w)).reshape(2, -1).astype(float)
    colour = image.reshape(-1, 3).T.astype(float)
    near = exact_kernel(np.stack([y, x], axis=1) / options.smoothness_sigma)
    place = np.stack([y, x], axis=1) / options.appearance_position_sigma
    alike = exact_kernel(np.concatenate([place, colour.T / options.appearance_colour_sigma], axis=1))
    prior = np.maximum(probabilities.reshape(k, -1).astype(float), options.smallest_probability)
    marginals = prior / prior.sum(axis=0)
    for _ in range(options.num_iterations):
        message = options.smoothness_weight * marginals @ near + options.appearance_weight * marginals @ alike
        marginals = prior * np.exp(message)
        marginals /= marginals.sum(axis=0)
    return marginals.reshape(k, h, w)


def example(kind, size=(12, 14), num_classes=3, seed=0):
    """Noisy probabilities, and an image that is a photograph's kind of smooth, two colours with an edge, or noise."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(size)
    if kind == "smooth":
        image = np.stack([128 + 80 * np.sin(y / 5), 128 + 60 * np.cos(x / 4), 100.0 + 2 * x], axis=-1)
    elif kind == "edge":
        image = np.where(x < size[1] // 2, 60, 160)[..., None] + rng.normal(0, 6, (*size, 3))
    else:
        image = rng.integers(0, 256, (*size, 3))
    odds = np.exp(rng.normal(size=(num_classes, *size)))
    return (odds / odds.sum(axis=0)).astype(np.float32), image.clip(0, 255).astype(np.uint8)


def features_of(image):
    position = np.indices(image.shape[:2]).reshape(2, -1).T
    return np.concatenate([position / 80, image.reshape(-1, 3) / 13], axis=1)


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_every_point_is_the_mean_of_its_lattice_points(d):
    rng = np.random.default_rng(d)
    elevated = rng.normal(0, 20, (500, d)) @ crf._elevation(d).T
    vertices, weights = crf._enclosing_simplices(elevated)
    assert weights.min() > -1e-6
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose((vertices * weights[..., None]).sum(axis=1), elevated[:, :d], atol=1e-3)
    last = -vertices.sum(axis=2, keepdims=True)
    remainders = np.concatenate([vertices, last], axis=2) % (d + 1)
    assert (remainders == np.arange(d + 1)[None, :, None]).all()  # each is a lattice point, one of each kind


@pytest.mark.parametrize(("kind", "tolerance"), [("smooth", 0.035), ("edge", 0.035), ("noise", 0.09)])
@pytest.mark.parametrize("size", [(12, 14), (30, 37)])
def test_the_filter_is_near_the_exact_gaussian(kind, tolerance, size):
    """Root mean square error relative to the root mean square; the lattice is an approximation."""
    _, image = example(kind, size)
    values = np.random.default_rng(1).random((image[..., 0].size, 2), dtype=np.float32)
    position = np.indices(size).reshape(2, -1).T / 3
    for features, limit in ((position, 0.025), (features_of(image), tolerance)):
        truth = exact_kernel(features) @ values
        error = crf._Kernel(features).apply(torch.from_numpy(values)).numpy() - truth
        assert np.sqrt((error**2).mean() / (truth**2).mean()) < limit


@pytest.mark.parametrize("sigma", [1.5, 3.0, 6.0])
def test_one_unit_of_the_features_is_one_standard_deviation(sigma):
    """An impulse far from the ends becomes a bump of the wanted width, up to the lattice's 5 %."""
    x = np.arange(121.0)[:, None]
    impulse = torch.zeros(121, 1)
    impulse[60] = 1
    bump = PermutohedralLattice(x / sigma).filter(impulse)[:, 0].double().numpy()
    bump /= bump.sum()
    assert (bump * (x[:, 0] - 60)).sum() == pytest.approx(0, abs=0.15 * sigma)
    assert np.sqrt((bump * (x[:, 0] - 60) ** 2).sum()) == pytest.approx(sigma, rel=0.05)


@pytest.mark.parametrize("kind", ["smooth", "edge", "noise"])
def test_with_exact_kernels_the_marginals_are_those_of_brute_force(kind, monkeypatch):
    monkeypatch.setattr(crf, "_Kernel", ExactKernel)
    probabilities, image = example(kind)
    options = CrfOptions(num_iterations=7, appearance_weight=4.0)
    np.testing.assert_allclose(
        dense_crf(probabilities, image, options=options), exact_crf(probabilities, image, options), atol=2e-4
    )


@pytest.mark.parametrize(("kind", "agreement"), [("edge", 1.0), ("smooth", 0.85), ("noise", 0.85)])
def test_with_the_lattice_the_likeliest_classes_are_mostly_those_of_brute_force(kind, agreement):
    """These probabilities are pure noise, so that many pixels are near a tie; with a clear edge all agree."""
    for seed in range(3):
        probabilities, image = example(kind, seed=seed)
        ours, exact = dense_crf(probabilities, image), exact_crf(probabilities, image, CrfOptions())
        assert (ours.argmax(axis=0) == exact.argmax(axis=0)).mean() >= agreement


def test_one_weak_step_is_near_brute_force_pixel_by_pixel():
    options = CrfOptions(num_iterations=1, smoothness_weight=1.0, appearance_weight=1.0)
    probabilities, image = example("smooth")
    error = dense_crf(probabilities, image, options=options) - exact_crf(probabilities, image, options)
    assert np.abs(error).max() < 0.01


PUBLISHED = np.array(
    [
        [0.356572, 0.084523, 0.576516, 0.770284, 0.618062, 0.502859, 0.252541, 0.426058, 0.370976, 0.595944, 0.243941],
        [0.443444, 0.541406, 0.383004, 0.146766, 0.123569, 0.309487, 0.381550, 0.227820, 0.450932, 0.166873, 0.094608],
        [0.199984, 0.374071, 0.040480, 0.082950, 0.258369, 0.187654, 0.365907, 0.346123, 0.178092, 0.237183, 0.661452],
    ]
)
"""What the published C++ code, through its Python wrapper, gives for the example below in the row y = 4."""


def test_the_result_is_that_of_the_published_code():
    y, x = np.indices((9, 11))
    image = np.stack([20 * y + 90 * (x > 5), 8 * x + 60, 200 - 9 * x - 7 * y], axis=-1).astype(np.uint8)
    k = np.arange(3)[:, None, None]
    odds = 1.0 + (7 * y + 5 * x + 3 * k * k + y * x * k) % 11
    options = CrfOptions(
        num_iterations=5,
        smoothness_weight=1.0,
        smoothness_sigma=2.0,
        appearance_weight=2.0,
        appearance_position_sigma=30.0,
        appearance_colour_sigma=20.0,
    )
    refined = dense_crf((odds / odds.sum(axis=0)).astype(np.float32), image, options=options)
    np.testing.assert_allclose(refined[:, 4], PUBLISHED, atol=2e-6)


def test_noise_is_cleaned_up_to_the_colour_edge_and_not_beyond():
    rng = np.random.default_rng(0)
    y, x = np.indices((60, 70))
    right = (x > 30 + y // 6).astype(int)
    image = (np.where(right[..., None], (180, 60, 50), (70, 140, 60)) + rng.normal(0, 4, (60, 70, 3))).astype(np.uint8)
    seen = np.where(rng.random(right.shape) < 0.25, 1 - right, right)  # a quarter of the pixels is wrong
    probabilities = np.where(np.arange(2)[:, None, None] == seen, 0.7, 0.3).astype(np.float32)
    assert (dense_crf(probabilities, image).argmax(axis=0) == right).all()
    blind = dense_crf(probabilities, image, options=CrfOptions(appearance_weight=0.0)).argmax(axis=0)
    assert 0.9 < (blind == right).mean() < 1


def test_without_weights_the_probabilities_come_back():
    probabilities, image = example("noise")
    probabilities[:, 0, 0] = 0, 0, 1
    options = CrfOptions(smoothness_weight=0.0, appearance_weight=0.0)
    np.testing.assert_allclose(dense_crf(probabilities, image, options=options), probabilities, atol=3e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (20, 33)])
def test_marginals_sum_to_one_and_repeat_themselves_at_any_size(size):
    probabilities, image = example("noise", size, num_classes=4)
    before = probabilities.copy()
    refined = dense_crf(probabilities, image)
    assert refined.shape == (4, *size)
    assert refined.dtype == np.float32
    np.testing.assert_allclose(refined.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(refined, dense_crf(probabilities, image))
    np.testing.assert_array_equal(probabilities, before)


def test_the_order_of_the_classes_does_not_matter():
    probabilities, image = example("edge", num_classes=4)
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(
        dense_crf(probabilities[order], image), dense_crf(probabilities, image)[order], atol=1e-5
    )


def test_points_in_several_chunks_are_filtered_as_in_one(monkeypatch):
    _, image = example("smooth")
    values = torch.rand(image[..., 0].size, 3)
    whole = PermutohedralLattice(features_of(image)).filter(values)
    monkeypatch.setattr(PermutohedralLattice, "_CHUNK", 50)
    assert torch.equal(PermutohedralLattice(features_of(image)).filter(values), whole)


@pytest.mark.parametrize("size", [(12, 15), (14, 12)])
def test_an_image_of_another_size_is_refused(size):
    probabilities, _ = example("edge")
    with pytest.raises(ConfigError, match=r"expected float32 probabilities .* of the same size, got .*pass the image"):
        dense_crf(probabilities, np.zeros((*size, 3), np.uint8))


def test_other_types_are_refused():
    probabilities, image = example("edge")
    with pytest.raises(ConfigError, match=r"got float64 \(3, 12, 14\) and uint8"):
        dense_crf(probabilities.astype(np.float64), image)
    with pytest.raises(ConfigError, match=r"and float32 \(12, 14, 3\)"):
        dense_crf(probabilities, image.astype(np.float32) / 255)


def test_sigmas_that_make_the_image_astronomically_large_are_refused():
    probabilities, image = example("noise")
    with pytest.raises(ConfigError, match="raise the sigmas in CrfOptions"):
        dense_crf(probabilities, image, options=CrfOptions(appearance_colour_sigma=1e-6))


@pytest.mark.parametrize("field", ["smoothness_weight", "appearance_weight"])
def test_negative_weights_are_refused_and_zero_is_not(field):
    CrfOptions(**{field: 0.0})
    with pytest.raises(ConfigError, match=f"expected {field} of the CRF to be 0 or more, got -1.0"):
        CrfOptions(**{field: -1.0})


@pytest.mark.parametrize(
    "field",
    ["smoothness_sigma", "appearance_position_sigma", "appearance_colour_sigma", "smallest_probability"],
)
def test_sigmas_and_the_smallest_probability_must_be_positive(field):
    for value in (0.0, -2.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=f"expected {field} of the CRF to be more than 0, got {value}"):
            CrfOptions(**{field: value})


def test_there_is_at_least_one_iteration():
    with pytest.raises(ConfigError, match="expected num_iterations of the CRF to be more than 0, got 0"):
        CrfOptions(num_iterations=0)
