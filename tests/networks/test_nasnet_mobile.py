"""NASNet-A Mobile: the published counts, the wiring of figure 4, and levels at any image size."""

import math

import pytest
import torch
from torch import nn

from refineseg.networks.nasnet_mobile import FactorisedReduction, NASNetMobileEncoder, NormalCell, ReductionCell
from refineseg.networks.refinenet import count_parameters


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return NASNetMobileEncoder().eval()


def test_it_has_the_published_numbers_of_values(encoder):
    """4,269,716 values without the classifier, of which 36,738 are running statistics."""
    assert count_parameters(encoder) == 4_232_978
    statistics = [b for name, b in encoder.named_buffers() if "running" in name]
    assert sum(b.numel() for b in statistics) == 36_738
    assert all(m.eps == 1e-3 for m in encoder.modules() if isinstance(m, nn.BatchNorm2d))


@torch.inference_mode()
def test_it_has_the_published_multiply_adds(encoder):
    """564 million at 224x224 (table 3), the classifier's 1.056 million included."""
    total = 0

    def count(module, _, output):
        nonlocal total
        total += output.numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    encoder(torch.zeros(1, 3, 224, 224))
    for hook in hooks:
        hook.remove()
    assert (total + 1056 * 1000) / 1e6 == pytest.approx(564, abs=0.5)


@pytest.mark.parametrize("size", [(64, 96), (97, 161), (1, 1), (33, 2), (32, 31)])
@torch.inference_mode()
def test_levels_are_rounded_up_at_any_size(encoder, size):
    levels = encoder(torch.rand(2, 3, *size))
    assert [level.shape for level in levels] == [
        (2, channels, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
    ]
    assert all(level.isfinite().all() for level in levels)


@torch.inference_mode()
def test_every_step_of_the_grid_is_one_stride(encoder):
    """Moving the picture by 32 pixels moves every level by 32 / stride: padding is symmetric, nothing is global.

    Compared at stride 4, where the border reaches 23 pixels inward; at stride 32 it reaches everything in this picture.
    """
    picture = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    here, moved = encoder(picture[..., :128, :128])[0], encoder(picture[..., 32:, 32:])[0]
    torch.testing.assert_close(here[..., 16:24, 16:24], moved[..., 8:16, 8:16], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_gradients_reach_every_parameter_from_the_coarsest_level_alone():
    torch.manual_seed(0)
    encoder = NASNetMobileEncoder()
    coarsest = encoder(torch.rand(2, 3, 64, 64))[-1]
    (coarsest * torch.rand_like(coarsest)).sum().backward()
    unreached = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


def test_other_numbers_of_image_channels_change_the_first_convolution_only():
    four = NASNetMobileEncoder(in_channels=4)
    assert count_parameters(four) == 4_232_978 + 32 * 9
    assert four.eval()(torch.zeros(1, 4, 32, 32))[0].shape == (1, 44, 8, 8)


def assert_alike(levels, expected):
    """Equal up to float32's rounding, measured against the largest value (an untrained network's values are large)."""
    for level, wanted in zip(levels, expected, strict=True):
        torch.testing.assert_close(level, wanted, rtol=0.0, atol=1e-5 * float(wanted.abs().max()))


@torch.inference_mode()
def test_evaluation_repeats_itself_and_memory_order_changes_nothing(encoder):
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    levels = encoder(images)
    for level, again in zip(levels, encoder(images), strict=True):
        torch.testing.assert_close(again, level, rtol=0.0, atol=0.0)
    reordered = encoder(images.contiguous(memory_format=torch.channels_last))
    assert_alike(reordered, levels)
    assert all(level.is_contiguous(memory_format=torch.channels_last) for level in reordered)


def dependencies(cell, current, previous):
    """For each branch of the output, which of the adjusted inputs it depends on."""
    h = torch.rand_like(cell.adjust(current)).requires_grad_()
    p = torch.rand_like(cell.adjust_previous(previous)).requires_grad_()
    cell.adjust.forward = lambda _: h
    cell.adjust_previous.forward = lambda _: p
    out = cell(current, previous)
    found = []
    for branch in out.split(p.shape[1], dim=1):
        weights = torch.rand_like(branch)
        grads = torch.autograd.grad((branch * weights).sum(), (h, p), allow_unused=True, retain_graph=True)
        found.append("".join(name for name, g in zip("hp", grads, strict=True) if g is not None and g.any()))
    return h, p, out, found


def silence(*branches):
    """Make separable convolutions give exactly zero."""
    for branch in branches:
        nn.init.zeros_(branch[-1].weight)
        nn.init.zeros_(branch[-1].bias)


def mean_of_window(x, stride):
    """3x3 mean of the pixels inside the image, by explicit loops."""
    height, width = x.shape[2:]
    out = torch.zeros(*x.shape[:2], math.ceil(height / stride), math.ceil(width / stride))
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            rows = slice(max(i * stride - 1, 0), i * stride + 2)
            out[:, :, i, j] = x[:, :, rows, max(j * stride - 1, 0) : j * stride + 2].mean(dim=(2, 3))
    return out


def test_the_normal_cell_is_wired_as_in_figure_4():
    cell = NormalCell(5, 7, 4, halve_previous=True).eval()
    h, p, out, found = dependencies(cell, torch.rand(1, 5, 6, 5), torch.rand(1, 7, 12, 10))
    assert found == ["p", "hp", "p", "hp", "p", "h"]
    kernels = [cell.left1, cell.right1, cell.left2, cell.right2, cell.left5]
    assert [branch[1].kernel_size[0] for branch in kernels] == [5, 3, 5, 3, 3]
    torch.testing.assert_close(out[:, 4:8], cell.left1(h) + cell.right1(p))
    silence(*kernels)
    zero = torch.zeros_like(p)
    expected = [p, zero, zero, mean_of_window(h, 1) + p, 2 * mean_of_window(p, 1), h]
    torch.testing.assert_close(cell(torch.rand(1, 5, 6, 5), torch.rand(1, 7, 12, 10)), torch.cat(expected, dim=1))


def test_the_reduction_cell_is_wired_as_in_figure_4():
    cell = ReductionCell(5, 7, 4, halve_previous=False).eval()
    current, previous = torch.rand(1, 5, 7, 6), torch.rand(1, 7, 7, 6)
    h, p, out, found = dependencies(cell, current, previous)
    assert found == ["hp"] * 4
    kernels = [cell.left1, cell.right1, cell.right2, cell.right3, cell.left5]
    assert [branch[1].kernel_size[0] for branch in kernels] == [5, 7, 7, 5, 3]
    first = cell.left1(h) + cell.right1(p)
    torch.testing.assert_close(out[:, 8:12], mean_of_window(first, 1) + out[:, :4])
    silence(*kernels)
    rows, columns = range(0, 7, 2), range(0, 6, 2)
    largest = torch.stack(
        [
            torch.stack([h[:, :, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].amax((2, 3)) for j in columns], -1)
            for i in rows
        ],
        -2,
    )
    expected = [largest, mean_of_window(h, 2), largest, largest]
    torch.testing.assert_close(cell(current, previous), torch.cat(expected, dim=1))


def test_the_factorised_reduction_sees_even_and_odd_pixels():
    reduction = FactorisedReduction(1, 2).eval()
    nn.init.ones_(reduction.even.weight)
    nn.init.ones_(reduction.odd.weight)
    x = torch.arange(15.0).reshape(1, 1, 3, 5)
    scale = math.sqrt(1 + 1e-3)
    even, odd = reduction(x)[0] * scale
    torch.testing.assert_close(even, torch.tensor([[0.0, 2, 4], [10, 12, 14]]))
    torch.testing.assert_close(odd, torch.tensor([[6.0, 8, 0], [0, 0, 0]]))


@pytest.mark.slow
def test_one_export_serves_all_sizes(encoder):
    side = torch.export.Dim.AUTO
    program = torch.export.export(encoder, (torch.zeros(1, 3, 64, 96),), dynamic_shapes=({2: side, 3: side},))
    images = torch.rand(1, 3, 97, 161, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        assert_alike(program.module()(images), encoder(images))
