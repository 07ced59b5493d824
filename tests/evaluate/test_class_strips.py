"""Class maps of eager PyTorch: a strip of rows at a time, bit for bit the argmax of the logits at image size."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from refineseg import scoring
from refineseg.bench.timing import example_images
from refineseg.errors import ConfigError
from refineseg.runtimes.eager import TorchScorer
from refineseg.scoring import class_map_of, class_map_of_enlarged
from refineseg.segmenter import build


class Largest(TorchDispatchMode):
    """Remembers the largest tensor of floating-point values that any operation gave."""

    def __init__(self):
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            self.values = max(self.values, result.numel())
        return result


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("factor", [1, 3, 4])
def test_strips_give_the_argmax_of_the_enlarged_logits(monkeypatch, order, factor):
    monkeypatch.setitem(scoring._STRIP_VALUES, "cpu", 9 * 5 * factor * 13 * factor)
    logits = torch.randn(2, 5, 11, 13, generator=torch.Generator().manual_seed(factor)).contiguous(memory_format=order)
    enlarged_hw = 11 * factor, 13 * factor
    large = F.interpolate(logits, size=enlarged_hw, mode="bilinear", align_corners=False)
    for rows, columns in ((11 * factor, 13 * factor), (10 * factor + 1, 12 * factor), (2, 1)):
        found = class_map_of_enlarged(logits, enlarged_hw, (rows, columns))
        assert found.dtype == torch.uint8
        assert torch.equal(found, class_map_of(large)[:, :rows, :columns].to(torch.uint8))


def test_other_enlargements_and_many_classes_are_argmaxes_too():
    logits = torch.randn(1, 300, 5, 6, generator=torch.Generator().manual_seed(0))
    for size in ((20, 24), (13, 17), (4, 5)):
        large = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        found = class_map_of_enlarged(logits, size, (size[0] - 1, size[1]))
        assert found.dtype == torch.int32
        assert torch.equal(found.long(), class_map_of(large)[:, :-1])


@pytest.mark.parametrize(
    ("variant", "options", "precision"),
    [
        ("refinenet_lw_mobilenetv2", {}, "float32"),
        ("refinenet_lw_mobilenetv2", {}, "bfloat16"),
        ("refinenet_lw_mobilenetv2", {"align_corners": True}, "float32"),
    ],
)
def test_a_segmenters_class_map_is_the_argmax_of_its_logits(monkeypatch, variant, options, precision):
    monkeypatch.setitem(scoring._STRIP_VALUES, "cpu", 5000)
    torch.manual_seed(0)
    scorer = TorchScorer(build(variant, num_classes=5, **options), device=torch.device("cpu"), precision=precision)
    for size in ((1, 1), (33, 50), (97, 64)):
        images = example_images(2, 3, size)
        assert torch.equal(scorer.class_map(images).long(), class_map_of(scorer.logits(images)))


def test_logits_at_image_size_never_exist(monkeypatch):
    """Of many classes, so that they would be by far the largest of all tensors."""
    monkeypatch.setitem(scoring._STRIP_VALUES, "cpu", 2**18)
    torch.manual_seed(0)
    scorer = TorchScorer(build("refinenet_lw_mobilenetv2", num_classes=200), device=torch.device("cpu"))
    images = example_images(1, 3, (256, 256))
    with Largest() as seen:
        scorer.class_map(images)
    assert seen.values < 200 * 256 * 256 / 4
    with Largest() as seen:
        scorer.logits(images)
    assert seen.values >= 200 * 256 * 256


def test_class_maps_of_anything_but_pixels_are_refused():
    segmenter = build("refinenet_lw_mobilenetv2", num_classes=2)
    with pytest.raises(ConfigError, match=r"expected uint8 pixels 0..255 of shape \(N, 3, H, W\), got torch.uint8 of"):
        segmenter.class_map(torch.zeros(1, 4, 8, 8, dtype=torch.uint8))
