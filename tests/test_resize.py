"""MATLAB's resizing against stored results, Pillow, and finite differences."""

import numpy as np
import pytest
import torch
from PIL import Image

from fakes.oracles import needs_oracles, stored
from refineseg.errors import ConfigError
from refineseg.resize import matlab_resize, matlab_resize_images

CASES = ["cpu_13x21", "gpu_13x21", "cpu_14x22", "gpu_14x22", "cpu_7x12", "gpu_7x12", "cpu_4x6", "cpu_5x5"]


@needs_oracles
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_resizing_gives_the_stored_results(case, dtype):
    style, size = case.split("_")
    height, width = map(int, size.split("x"))
    x = stored("misc_resize", "x")[None].to(dtype)
    expected = stored("misc_resize", case)[None]
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    resized = matlab_resize(x, (height, width), style=style)
    assert resized.dtype == dtype
    torch.testing.assert_close(resized.double(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("size_hw", [(80, 120), (17, 90), (60, 31), (13, 11)])
def test_away_from_the_border_it_is_pillows_antialiased_bicubic(size_hw):
    x = np.random.default_rng(0).normal(size=(40, 60)).astype(np.float32)
    expected = np.asarray(Image.fromarray(x).resize(size_hw[::-1], Image.Resampling.BICUBIC))
    ours = matlab_resize(torch.from_numpy(x)[None, None], size_hw, style="cpu")[0, 0].numpy()
    rows, columns = (int(np.ceil(2 * max(new / old, 1))) + 1 for new, old in zip(size_hw, x.shape, strict=True))
    inside = np.s_[rows:-rows, columns:-columns]
    assert ours[inside].size
    assert np.abs(ours - expected)[inside].max() < 1e-5


@pytest.mark.parametrize("style", ["cpu", "gpu"])
def test_a_constant_stays_constant_and_the_size_it_has_changes_nothing(style):
    x = torch.full((2, 3, 5, 4), 7.0)
    for size_hw in ((1, 1), (9, 4), (2, 30)):
        torch.testing.assert_close(matlab_resize(x, size_hw, style=style), torch.full((2, 3, *size_hw), 7.0))
    noise = torch.randn(1, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(matlab_resize(noise, (5, 4), style=style), noise)


def test_one_common_scale_is_the_larger_one_with_the_surplus_cut_at_bottom_and_right():
    x = torch.randn(1, 1, 6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    square = matlab_resize(x, (18, 27), style="cpu")
    torch.testing.assert_close(matlab_resize(x, (18, 20), style="gpu"), square[:, :, :, :20])
    torch.testing.assert_close(matlab_resize(x, (11, 27), style="gpu"), square[:, :, :11])


@pytest.mark.parametrize(("size_hw", "style"), [((7, 5), "cpu"), ((7, 5), "gpu"), ((2, 3), "cpu")])
def test_gradients_are_those_of_finite_differences(size_hw, style):
    x = torch.randn(1, 2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: matlab_resize(x, size_hw, style=style), (x,))


def test_weights_made_during_inference_serve_training_too():
    x = torch.randn(1, 1, 5, 6)
    with torch.inference_mode():
        inferred = matlab_resize(x, (23, 19), style="cpu")
    trained = matlab_resize(x.requires_grad_(), (23, 19), style="cpu")
    trained.sum().backward()
    assert torch.equal(trained.detach(), inferred)


def test_autocast_and_half_precision_lose_only_the_last_rounding():
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = matlab_resize(x, (20, 24), style="cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(matlab_resize(x, (20, 24), style="cpu"), expected)
        half = matlab_resize(x.bfloat16(), (20, 24), style="cpu")
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, matlab_resize(x.bfloat16().float(), (20, 24), style="cpu").bfloat16())


def test_sizes_without_pixels_are_refused():
    with pytest.raises(ConfigError, match="expected sizes of at least 1x1, got 3x4 to resize to 0x5"):
        matlab_resize(torch.zeros(1, 1, 3, 4), (0, 5), style="cpu")


@pytest.mark.parametrize("size_hw", [(97, 131), (40, 300), (400, 515)])
def test_pixels_of_many_blocks_are_those_of_whole_matrices_rounded_after_each_axis(size_hw):
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, 3, 333, 410), dtype=np.uint8))
    by_axis = sorted((0, 1), key=lambda axis: size_hw[axis] / images.shape[2 + axis])
    expected = images.double()
    for axis in by_axis:
        between = [expected.shape[2], expected.shape[3]]
        between[axis] = size_hw[axis]
        expected = (matlab_resize(expected, tuple(between), style="cpu") + 0.5 + 1e-9).floor().clamp(0, 255)
    resized = matlab_resize_images(images, size_hw)
    assert resized.dtype == torch.uint8
    assert torch.equal(resized, expected.to(torch.uint8))
