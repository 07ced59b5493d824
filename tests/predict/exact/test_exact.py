"""Tiles have the very logits of the whole image, for every network without global operations, in bounded memory."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import textwrap
import time

import jaxtyping
import numpy as np
import psutil
import pytest
import torch
from torch import nn

import refineseg
from fakes.rasters import UTM, write
from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError
from refineseg.networks.model_spec import ModelSpec
from refineseg.networks.variants import NetworkOptions
from refineseg.predict.exact.exact_plan import extra_arithmetic
from refineseg.predict.exact.proof import prove
from refineseg.predict.exact.streaming import Schedule, needed_spans
from refineseg.predict.exact.tiled_scorer import TiledScorer, needed_context
from refineseg.predict.exact.tracing import trace
from refineseg.predict.raster import raster
from refineseg.predict.raster.raster import predict_raster
from refineseg.predict.views.tiling import ArraySource, Region, TilingOptions
from refineseg.preprocessing import Preprocessing
from refineseg.segmenter import Segmenter

CPU = torch.device("cpu")
META = torch.device("meta")
GB = 10**9


@pytest.fixture
def unchecked():
    """Without type checks: planning takes a hundred thousand small steps."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def segmenter_of(variant, *, preprocessing=None, num_classes=3, **options):
    """Random weights of a trained kind: normalisation that is not the identity."""
    torch.manual_seed(0)
    spec = ModelSpec(
        variant, ClassInfo.generic(num_classes), preprocessing or Preprocessing.imagenet(3), NetworkOptions(**options)
    )
    segmenter = Segmenter(spec)
    generator = torch.Generator().manual_seed(0)
    for module in segmenter.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(std=0.2, generator=generator)
    return segmenter


def image_of(size_hw, seed=0, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, channels), dtype=np.uint8)


def whole_logits(segmenter, image):
    with torch.inference_mode():
        return segmenter(torch.from_numpy(image).permute(2, 0, 1)[None])[0]


VARIANTS = [
    ("refinenet_lw_mobilenetv2", {"width": 0.125}),
    ("refinenet_lw_mobilenetv2", {"width": 0.125, "align_corners": True, "padded": False}),
    ("refinenet_lw_resnet50", {"width": 0.125}),
    ("refinenet:resnet10t", {"width": 0.125}),
    ("refinenet_single:resnet10t", {"width": 0.125, "padded": False, "resize": "matlab_gpu"}),
    ("refinenet:resnet10t", {"width": 0.125, "resize": "matlab_cpu", "preprocessing": Preprocessing.matconvnet()}),
    ("refinenet_2scale:resnet10t", {"width": 0.125}),
    ("refinenet_2scale8:resnet10t", {"width": 0.125, "padded": False}),
    ("refinenet_lw_nasnetmobile", {"width": 0.125}),
    ("refinenet_lw:convnext_atto", {"width": 0.125}),
    ("refineseg_lite0", {"width": 0.125, "preprocessing": Preprocessing.tensorflow()}),
    ("refineseg_lite1", {"width": 0.125, "padded": False}),
    ("refineseg_lite0_5cascade", {"width": 0.125, "preprocessing": Preprocessing.tensorflow()}),
    ("refineseg_lite2_5cascade", {"width": 0.125, "padded": False}),
]


@pytest.mark.slow_except(
    "refineseg_lite0-", "refineseg_lite0_5cascade-", "refinenet_single:resnet10t-", "refinenet_lw_mobilenetv2-1"
)
@pytest.mark.parametrize(("variant", "options"), VARIANTS, ids=lambda value: value if isinstance(value, str) else "")
def test_tiles_have_the_logits_of_the_whole_image(variant, options):
    segmenter = segmenter_of(variant, **options).double()
    rng = np.random.default_rng(len(variant))
    size_hw, tile = (int(rng.integers(65, 100)), int(rng.integers(97, 130))), int(rng.integers(40, 64))
    image = image_of(size_hw)
    expected = whole_logits(segmenter, image)
    scorer = TiledScorer(segmenter, size_hw, options=TilingOptions(tile), device=CPU)
    assert len(scorer.tiles) >= 4
    covered = np.zeros(size_hw, np.int64)
    for region in scorer.tiles:
        covered[region.slices] += 1
    assert (covered == 1).all()
    for index in rng.permutation(len(scorer.tiles))[:2]:
        region = scorer.tiles[index]
        found = scorer.logits(ArraySource(image), region)
        torch.testing.assert_close(found, expected[(slice(None), *region.slices)], rtol=0, atol=1e-9)


@pytest.mark.slow_except("options0-size_hw0", "options1-size_hw3")
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 120), (103, 1), (33, 31)])
@pytest.mark.parametrize("options", [{}, {"align_corners": True, "padded": False}])
def test_images_of_any_size(size_hw, options):
    segmenter = segmenter_of("refinenet_lw:resnet10t", width=0.125, **options).double()
    image = image_of(size_hw)
    expected = whole_logits(segmenter, image)
    scorer = TiledScorer(segmenter, size_hw, options=TilingOptions(50), device=CPU)
    for region in scorer.tiles:
        found = scorer.logits(ArraySource(image), region)
        torch.testing.assert_close(found, expected[(slice(None), *region.slices)], rtol=0, atol=1e-9)


@pytest.mark.slow
def test_any_region_any_order_any_step_same_bits():
    segmenter = segmenter_of("refinenet:resnet10t", width=0.125)
    source = ArraySource(image_of((140, 120)))
    scorer = TiledScorer(segmenter, (140, 120), options=TilingOptions(64), device=CPU)
    first = {tile: scorer.logits(source, tile) for tile in scorer.tiles}
    again = {tile: scorer.logits(source, tile) for tile in reversed(scorer.tiles)}
    assert all(torch.equal(first[tile], again[tile]) for tile in scorer.tiles)
    expected = whole_logits(segmenter, source.read(Region.whole((140, 120))))
    odd = Region(37, 5, 38, 119)
    torch.testing.assert_close(scorer.logits(source, odd), expected[:, 37:38, 5:119], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_single_precision_masks_are_equal_where_classes_are_apart():
    segmenter = segmenter_of("refinenet_lw_mobilenetv2", num_classes=5)
    for size_hw in ((130, 111), (40, 200)):
        image = image_of(size_hw)
        expected = whole_logits(segmenter, image)
        scorer = TiledScorer(segmenter, size_hw, options=TilingOptions(96), device=CPU)
        best = expected.topk(2, dim=0).values
        apart = best[0] - best[1] > 2e-4
        assert apart.float().mean() > 0.9
        for region in scorer.tiles:
            wanted = expected[(slice(None), *region.slices)]
            torch.testing.assert_close(scorer.logits(ArraySource(image), region), wanted, rtol=0, atol=1e-4)
            classes = scorer.class_map(ArraySource(image), region)
            same = classes == expected.max(dim=0).indices[region.slices]
            assert same[apart[region.slices]].all()


@pytest.mark.slow
def test_single_precision_far_from_the_origin():
    """torch computes positions in single precision: at 20,000 pixels its own weights are off by a thousandth."""
    segmenter = segmenter_of("refinenet_lw:resnet10t", width=0.125, align_corners=True, padded=False)
    size_hw = (20011, 9)
    image = image_of(size_hw)
    scorer = TiledScorer(segmenter, size_hw, options=TilingOptions(4096), device=CPU)
    region = scorer.tiles[-1]
    wanted = whole_logits(segmenter, image)[(slice(None), *region.slices)]
    torch.testing.assert_close(scorer.logits(ArraySource(image), region), wanted, rtol=0, atol=1e-4)


def test_bfloat16_is_close():
    segmenter = segmenter_of("refinenet_lw:resnet10t", width=0.125)
    image = image_of((90, 70))
    scorer = TiledScorer(segmenter, (90, 70), options=TilingOptions(64), device=CPU, precision="bfloat16")
    wanted = whole_logits(segmenter, image)[:, :64, :64]
    found = scorer.logits(ArraySource(image), scorer.tiles[0]).float()
    assert 0 < (found - wanted).abs().max() < 0.1 * wanted.abs().max()


def test_a_fused_segmenter_and_other_channels():
    segmenter = segmenter_of("refinenet_lw:resnet10t", preprocessing=Preprocessing.imagenet(4), width=0.125).fuse()
    segmenter.double()
    image = image_of((70, 80), channels=4)
    scorer = TiledScorer(segmenter, (70, 80), options=TilingOptions(48), device=CPU)
    wanted = whole_logits(segmenter, image)[(slice(None), *scorer.tiles[-1].slices)]
    torch.testing.assert_close(scorer.logits(ArraySource(image), scorer.tiles[-1]), wanted, rtol=0, atol=1e-9)


def test_a_pixel_outside_the_context_changes_nothing_and_one_inside_can():
    segmenter = segmenter_of("refinenet_lw:resnet10t", width=0.125).double()
    for module in segmenter.modules():  # nothing but sums and maxima of positive values: every path counts
        if isinstance(module, nn.Conv2d):
            module.weight.data.abs_()
        elif isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
            module.bias.data.zero_()
    size_hw = (1, 2048)  # rows are alike; a single row makes it quick
    graph = trace(segmenter, size_hw)
    column = 1037
    low, high = needed_spans(graph, 1, (column, column + 1))[0]
    assert 0 < low < high < size_hw[1]
    dark = np.full((*size_hw, 3), 128, np.uint8)
    before = whole_logits(segmenter, dark)[:, 0, column]
    for place, changes in ((low - 1, False), (high, False), (low, True), (high - 1, True)):
        image = dark.copy()
        image[0, place] = 255
        after = whole_logits(segmenter, image)[:, 0, column]
        assert bool((before != after).any()) == changes, place


@pytest.mark.slow_except("refinenet_lw_mobilenetv2-790")
@pytest.mark.parametrize(
    ("variant", "pixels"),
    [("refinenet_lw_mobilenetv2", 790), ("refinenet_lw_resnet50", 758), ("refinenet_lw_resnet152", 1270)],
)
@pytest.mark.usefixtures("unchecked")
def test_needed_context(variant, pixels):
    with META:
        segmenter = refineseg.build(variant, num_classes=2)
    assert needed_context(segmenter) == pixels


@pytest.mark.parametrize(
    ("variant", "module"),
    [
        ("refinenet_lw:efficientnet_b0", r"blocks\.0\.0\.se \(SqueezeExcite\)"),
        ("refinenet_lw:convnextv2_atto", r"stages_0\.blocks\.0\.mlp\.grn \(GlobalResponseNorm\)"),
        ("refinenet_lw:swin_tiny_patch4_window7_224", r"SwinTransformer"),
    ],
)
def test_networks_that_see_the_whole_image_are_refused_by_name(variant, module):
    with META:
        segmenter = refineseg.build(variant, num_classes=2)
    with pytest.raises(ConfigError, match=module + r".*--tile-mode blend"):
        TiledScorer(segmenter, (200, 200), options=TilingOptions(64), device=META)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "most"), [("refinenet_lw_mobilenetv2", 1.6), ("refinenet_lw_resnet50", 2.3)])
@pytest.mark.usefixtures("unchecked")
def test_extra_arithmetic_with_four_gigabytes(variant, most):
    with META:
        segmenter = refineseg.build(variant, num_classes=21)
    options = TilingOptions(memory_bytes=4 * GB)
    scorer = TiledScorer(segmenter, (20_000, 20_000), options=options, device=META)
    assert 1 < scorer.extra_arithmetic <= most
    assert len(scorer.tiles) > 4


@pytest.mark.usefixtures("unchecked")
def test_tiles_depend_on_model_size_and_options_alone():
    segmenter = segmenter_of("refinenet_lw:resnet10t", width=0.125)
    options = TilingOptions(memory_bytes=1_150_000_000)
    plans = [TiledScorer(segmenter, (3000, 1000), options=options, device=CPU).plan for _ in range(2)]
    assert plans[0] == plans[1]
    high = TiledScorer(segmenter, (20_000, 64), options=TilingOptions(memory_bytes=1_037_000_000), device=CPU)
    assert [tile.size_hw for tile in high.tiles] == [(10_240, 64), (9760, 64)]  # halves, up to a multiple of 256


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_arithmetic_is_counted_as_torch_counts_it():
    from torch.utils.flop_counter import FlopCounterMode

    segmenter = segmenter_of("refinenet:resnet10t", width=0.125)
    graph = trace(segmenter, (96, 128))
    with FlopCounterMode(display=False) as counter:
        whole_logits(segmenter, image_of((96, 128)))
    assert graph.multiply_adds() == counter.get_total_flops() // 2
    assert extra_arithmetic(graph, (96, 128)) == 1
    scorer = TiledScorer(segmenter, (96, 128), options=TilingOptions(64), device=CPU)
    with FlopCounterMode(display=False) as counter:
        for tile in scorer.tiles:
            scorer.class_map(ArraySource(image_of((96, 128))), tile)
    assert scorer.extra_arithmetic == pytest.approx(counter.get_total_flops() / 2 / graph.multiply_adds())


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_memory_that_is_not_enough_is_said():
    with META:
        segmenter = refineseg.build("refinenet_lw_mobilenetv2", num_classes=21)
    for tile in ("auto", 4096):
        with pytest.raises(ConfigError, match=r"expected memory for .*--memory") as caught:
            TiledScorer(segmenter, (9000, 9000), options=TilingOptions(tile, 1_020_000_000), device=META)
        said = re.search(r"weights, (\d+) MB in all, got 1020 MB in all", str(caught.value))
        assert said is not None
    enough = TilingOptions(4096, int(said[1]) * 10**6)
    assert TiledScorer(segmenter, (9000, 9000), options=enough, device=META).tiles


def test_the_memory_that_a_raster_asks_for_is_enough(tmp_path, monkeypatch):
    """Reading and writing take a part of it, which tiles know nothing of."""
    write(tmp_path / "a.tif", np.zeros((3, 900, 900), np.uint8), **UTM)
    segmenter = segmenter_of("refinenet_lw:resnet10t", width=0.125)
    with pytest.raises(ConfigError, match=r"MB in all.*; give more with --memory, and 400 MB beside that") as caught:
        predict_raster(
            tmp_path / "a.tif", tmp_path / "b.tif", segmenter, tiling=TilingOptions(memory_bytes=700_000_000)
        )
    wanted = sum(int(number) for number in re.findall(r"(\d+) MB (?:in all, got|beside that)", str(caught.value)))

    class EnoughError(Exception):
        pass

    def planned(*arguments, make=raster._scorer):
        assert make(*arguments).tiles
        raise EnoughError  # tiles of a few rows would take minutes

    monkeypatch.setattr(raster, "_scorer", planned)
    with pytest.raises(EnoughError):
        predict_raster(
            tmp_path / "a.tif", tmp_path / "b.tif", segmenter, tiling=TilingOptions(memory_bytes=wanted * 10**6)
        )


def test_no_map_grows_by_more_than_its_share_of_a_step():
    with META:
        graph = trace(segmenter_of("refinenet_lw:resnet10t", width=0.125), (192, 64))
    schedule = Schedule(graph, (0, 192), (0, 64), step=16)
    for work in schedule.works():
        index = 0 if work.node < 0 else graph.nodes[work.node].output
        share = 16 * graph.maps[index].size_hw[0] / 192
        assert work.rows[1] - work.rows[0] <= share + 2, work


def test_wrong_sources_and_tiles():
    segmenter = segmenter_of("refinenet_lw:resnet10t", width=0.125)
    scorer = TiledScorer(segmenter, (60, 70), options=TilingOptions(64), device=CPU)
    with pytest.raises(ConfigError, match="expected an image of 60x70 pixels with 3 channels.*got 70x60 with 3"):
        scorer.class_map(ArraySource(image_of((70, 60))), scorer.tiles[0])
    with pytest.raises(ConfigError, match="expected a tile inside 60x70"):
        scorer.class_map(ArraySource(image_of((60, 70))), Region(0, 0, 61, 70))
    with pytest.raises(ConfigError, match="at least 1x1"):
        TiledScorer(segmenter, (0, 70), options=TilingOptions(64), device=CPU)


def test_a_random_crop_is_proven():
    segmenter = segmenter_of("refinenet_lw:resnet10t", width=0.125)
    source = ArraySource(image_of((300, 340)))
    options = TilingOptions(64)
    found = prove(segmenter, source, options=options, device=CPU, generator=np.random.default_rng(0))
    assert found.whole
    assert found.window == Region.whole((300, 340))
    assert found.largest_difference < 1e-4
    assert found.equal_share > 0.999
    assert found.region.size_hw == (256, 256)
    with pytest.raises(ConfigError, match="expected exact tiles to prove"):
        prove(segmenter, source, options=TilingOptions(mode="blend"), device=CPU, generator=np.random.default_rng(0))


@pytest.mark.slow_except("True-True")
@pytest.mark.parametrize(("padded", "whole"), [(True, True), (False, False)])
def test_a_crop_of_an_image_that_does_not_fit_is_proven(monkeypatch, padded, whole):
    """With scales of exactly 2 a part of the image gives the crop its true logits; else the part stands for itself."""
    for name in ("tiled_scorer", "proof"):
        monkeypatch.setattr(f"refineseg.predict.exact.{name}.PROOF_SIDE", 32)
    monkeypatch.setattr(
        "refineseg.predict.exact.tiled_scorer._whole_bytes", lambda graph: 1000 * np.prod(graph.maps[0].size_hw)
    )
    segmenter = segmenter_of("refinenet_lw:resnet10t", width=0.125, padded=padded)
    source = ArraySource(image_of((64, 3000)))
    options = TilingOptions(64, 1_120_000_000)
    found = prove(segmenter, source, options=options, device=CPU, generator=np.random.default_rng(1))
    assert found.whole == whole
    assert found.window.width < 3000
    assert found.largest_difference < 1e-4


PREDICT = """
import sys, numpy as np, torch, refineseg
from refineseg.predict.exact.tiled_scorer import TiledScorer
from refineseg.predict.views.tiling import TilingOptions
class Noise:  # nothing of the image is kept
    num_channels = 3
    size_hw = tuple(int(v) for v in sys.argv[2:4])
    def read(self, region):
        return np.random.default_rng(region.top).integers(0, 256, (*region.size_hw, 3), dtype=np.uint8)
torch.set_num_threads(2)
torch.manual_seed(0)
segmenter = refineseg.build(sys.argv[1], num_classes=21)
options = TilingOptions(memory_bytes=int(sys.argv[4]))
scorer = TiledScorer(segmenter, Noise.size_hw, options=options, device=torch.device("cpu"))
print(len(scorer.tiles), scorer.plan, flush=True)
for tile in scorer.tiles[: int(sys.argv[5])]:
    print(tile, scorer.class_map(Noise(), tile).float().mean().item(), flush=True)
"""


def peak_of(variant, size_hw, memory, tiles):
    """Peak resident memory of another process, seen from outside."""
    command = [sys.executable, "-c", textwrap.dedent(PREDICT), variant, *map(str, size_hw), str(memory), str(tiles)]
    process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak = 0
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            peak = max(peak, process.memory_info().rss)
        time.sleep(0.02)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    print(output, peak / 1e6, "MB")
    return peak


@pytest.mark.slow
def test_memory_is_bounded_whatever_the_height():
    limit = 1_500_000_000
    peak = peak_of("refinenet_lw_mobilenetv2", (900, 200), limit, 99)
    assert peak < limit


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["refinenet_lw_mobilenetv2", "refinenet_lw_resnet50"])
def test_memory_of_a_giant_image(variant):
    """Two tiles of 20,000 x 20,000 pixels; by hand: ``pytest -m slow tests/test_exact.py -k giant -s``."""
    limit = 4 * GB
    assert peak_of(variant, (20_000, 20_000), limit, 2) < limit
