"""DenseTorch's multi-task networks: the segmentation head computes what a module written from the description does."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import refineseg
from refineseg.bench.timing import example_images
from refineseg.errors import ModelFileError

VARIANT = "refinenet_lw_mobilenetv2_multitask"
BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def unit(before, after, kernel=1, stride=1, groups=1, *, active=True):
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), *([nn.ReLU6()] if active else []))


class Residual(nn.Module):
    def __init__(self, before, after, stride, expansion):
        super().__init__()
        inner = before * expansion
        self.output = nn.Sequential(
            unit(before, inner), unit(inner, inner, 3, stride, inner), unit(inner, after, active=False)
        )
        self.adds = stride == 1 and before == after

    def forward(self, x):
        return x + self.output(x) if self.adds else self.output(x)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = unit(3, 32, 3, 2)
        before = 32
        for index, (expansion, width, count, stride) in enumerate(BLOCKS, 2):
            steps = [
                Residual(before if i == 0 else width, width, stride if i == 0 else 1, expansion) for i in range(count)
            ]
            setattr(self, f"layer{index}", nn.Sequential(*steps))
            before = width

    def forward(self, x):
        x = self.layer2(self.layer1(x))
        levels = []
        for index in range(3, 9):
            x = getattr(self, f"layer{index}")(x)
            levels.append(x)
        return levels


class Decoder(nn.Module):
    def __init__(self, num_classes, width=256):
        super().__init__()
        self.stem_convs = nn.ModuleList(nn.Conv2d(n, width, 1, bias=False) for n in (320, 160, 96, 64, 32, 24))
        self.crp_blocks = nn.ModuleList(
            nn.Sequential(
                nn.ModuleDict(
                    {
                        f"{link}_outvar_dimred": nn.Conv2d(width, width, 1, bias=False, groups=width if b == 3 else 1)
                        for link in (1, 2, 3, 4)
                    }
                )
            )
            for b in range(4)
        )
        self.adapt_convs = nn.ModuleList(nn.Conv2d(width, width, 1, bias=False) for _ in range(3))
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 1, groups=width, bias=False), nn.ReLU6(), nn.Conv2d(width, n, 3, padding=1)
            )
            for n in num_classes
        )

    def forward(self, levels):
        stems = [conv(level) for conv, level in zip(self.stem_convs, levels[::-1], strict=True)]
        x = None
        for b, total in enumerate((stems[0] + stems[1], stems[2] + stems[3], stems[4], stems[5])):
            if x is not None:
                x = self.adapt_convs[b - 1](x)
                total = total + F.interpolate(x, total.shape[2:], mode="bilinear", align_corners=True)
            x = link = F.relu6(total)
            for conv in self.crp_blocks[b][0].values():
                link = conv(F.max_pool2d(link, 5, 1, 2))
                x = x + link
        return [head(x) for head in self.heads]


@pytest.fixture(scope="module")
def original():
    torch.manual_seed(0)
    network = nn.Sequential(Encoder(), Decoder((7, 1, 3))).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.8, 1.5)
    return network


def test_the_segmentation_head_is_loaded_and_the_others_are_named(original, caplog):
    segmenter = refineseg.load_original(original.state_dict(), variant=VARIANT, num_classes=7)
    assert "tensors of other tasks are left out: 1.heads.1.0.weight, " in caplog.text
    assert segmenter.spec.options.align_corners
    for size in ((64, 96), (97, 65)):
        x = segmenter.spec.preprocessing(example_images(1, 3, size), dtype=torch.float32)
        with torch.inference_mode():
            expected = original(x)[0]
            torch.testing.assert_close(segmenter.network(x), expected, atol=1e-5 * float(expected.std()), rtol=1e-4)


def test_a_head_of_another_number_of_classes_or_a_missing_one_is_told(original):
    with pytest.raises(ModelFileError, match="expected 8 classes, got original weights with 7"):
        refineseg.load_original(original.state_dict(), variant=VARIANT, num_classes=8)
    state = {name: tensor for name, tensor in original.state_dict().items() if name != "1.heads.0.0.weight"}
    with pytest.raises(ModelFileError, match=r"missing: decoder\.head\.0\.weight"):
        refineseg.load_original(state, variant=VARIANT)
