"""Gradients by faster kernels: against PyTorch's in float64, and left alone where they do not apply."""

import pytest
import torch
import torch.nn.functional as F

from refineseg.segmenter import build
from refineseg.training.gradients import faster_gradients

CPU = torch.device("cpu")


def gradients(x, weight, *, stride, padding, dtype, faster):
    x, weight = (tensor.detach().to(dtype).requires_grad_() for tensor in (x, weight))
    y = F.conv2d(x, weight, None, stride, padding, 1, x.shape[1])
    loss = (y * torch.linspace(-1, 1, y.shape[2] * y.shape[3], dtype=dtype).view_as(y[0, 0])).sum()
    with faster_gradients(CPU, compiled=not faster):
        loss.backward()
    return x.grad, weight.grad


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("size", [(9, 12), (8, 13)])
def test_gradients_are_those_of_float64_as_closely_as_pytorchs(kernel, stride, padding, size):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 16, *size, generator=generator).bfloat16().contiguous(memory_format=torch.channels_last)
    weight = torch.randn(16, 1, kernel, kernel, generator=generator).bfloat16()
    same = {"stride": stride, "padding": padding}
    truth = gradients(x, weight, **same, dtype=torch.float64, faster=False)
    plain = gradients(x, weight, **same, dtype=torch.bfloat16, faster=False)
    ours = gradients(x, weight, **same, dtype=torch.bfloat16, faster=True)
    for exact, usual, own in zip(truth, plain, ours, strict=True):
        assert own.dtype == torch.bfloat16
        assert own.shape == exact.shape
        scale = exact.abs().max()
        error = (own - exact).abs().max() / scale
        assert error <= max(1.5 * (usual - exact).abs().max() / scale, 2**-8)


def test_gradients_of_a_network_differ_from_pytorchs_by_rounding_only():
    torch.manual_seed(0)
    segmenter = build("refineseg_lite0", num_classes=5).eval()  # without dropout
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    masks = torch.randint(0, 5, (2, 64, 96))

    def of(bf16, faster):
        segmenter.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = segmenter(images)
        loss = F.cross_entropy(F.interpolate(logits.float(), (64, 96), mode="bilinear"), masks)
        with faster_gradients(CPU, compiled=not faster):
            loss.backward()
        return torch.cat(
            [parameter.grad.flatten() for parameter in segmenter.parameters() if parameter.grad is not None]
        )

    exact, plain, ours = of(False, False), of(True, False), of(True, True)
    assert torch.equal(of(False, True), exact)  # float32 is left alone
    assert (ours - exact).norm() <= 1.1 * (plain - exact).norm()
    assert (ours - plain).norm() < 0.2 * (plain - exact).norm() + 0.05 * exact.norm()
