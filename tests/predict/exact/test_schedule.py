"""The order of work for a rectangle ends, whatever the network, the size and the rows at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import refineseg
from refineseg.predict.exact.axis_rules import Taps, Window
from refineseg.predict.exact.exact_plan import STEPS, plan_tiles
from refineseg.predict.exact.streaming import Schedule
from refineseg.predict.exact.tiled_scorer import TiledScorer
from refineseg.predict.exact.tracing import trace
from refineseg.predict.views.tiling import ArraySource, TilingOptions


def model(variant, input_scale=1.0):
    torch.manual_seed(0)
    segmenter = refineseg.build(variant, num_classes=3)
    preprocessing = replace(segmenter.spec.preprocessing, input_scale=input_scale)
    segmenter.spec = replace(segmenter.spec, preprocessing=preprocessing)
    return segmenter.eval()


@pytest.mark.slow_except("refineseg_lite0-0.38", "refineseg_lite0_5cascade-1.0", "refinenet_lw_resnet50-1.0")
@pytest.mark.parametrize(
    ("variant", "input_scale"),
    [
        *(("refineseg_lite0", scale) for scale in (1.0, 0.38, 1.2)),
        *(("refineseg_lite0_5cascade", scale) for scale in (1.0, 0.38)),
        *(
            (variant, 1.0)
            for variant in ("refinenet:lite1", "refineseg_nano", "refinenet_lw_mobilenetv2", "refinenet_lw_resnet50")
        ),
    ],
)
def test_the_order_of_work_ends_and_makes_every_row_once(variant, input_scale):
    segmenter = model(variant, input_scale)
    for size_hw in ((400, 600), (1203, 97)):
        graph = trace(segmenter, size_hw)
        middle = size_hw[0] // 2
        for step in (*STEPS, 16):
            for rows in ((0, size_hw[0]), (0, 32), (middle, middle + 33)):
                made = dict.fromkeys(range(len(graph.nodes)), 0)
                schedule = Schedule(graph, rows, (0, min(64, size_hw[1])), step=step)
                for work in schedule.works():
                    if work.node >= 0:
                        made[work.node] += work.rows[1] - work.rows[0]
                for position, node in enumerate(graph.nodes):
                    span = schedule.rows[node.output]
                    assert made[position] == (0 if span is None else span[1] - span[0])


@pytest.mark.parametrize("variant", ["refineseg_lite0", "camvid"])
def test_large_images_are_planned_for_little_memory(variant):
    """Planning tries the smallest steps first, which once never ended with EfficientNet-Lite."""
    segmenter = refineseg.load(variant) if variant == "camvid" else model(variant)
    plan = plan_tiles(trace(segmenter, (3000, 3000)), options=TilingOptions(), budget=400_000_000)
    covered = sum((tile.bottom - tile.top) * (tile.right - tile.left) for tile in plan.tiles)
    assert covered == 3000 * 3000


@pytest.mark.parametrize("input_scale", [1.0, 0.4])
def test_small_steps_give_the_bits_of_the_whole(input_scale):
    segmenter = model("refineseg_lite0", input_scale)
    image = np.random.default_rng(0).integers(0, 256, (150, 110, 3), dtype=np.uint8)
    with torch.inference_mode():
        whole = segmenter(torch.from_numpy(image).permute(2, 0, 1)[None])[0]
    scorer = TiledScorer(segmenter, (150, 110), options=TilingOptions(64), device=torch.device("cpu"))
    for tile in scorer.tiles:
        part = whole[:, tile.top : tile.bottom, tile.left : tile.right]
        torch.testing.assert_close(scorer.logits(ArraySource(image), tile), part, atol=1e-4, rtol=0)


def test_extents_are_those_of_the_needed_inputs_written_out():
    window = Window(40, 20, kernel=5, stride=2, padding=1)
    taps = Taps(
        np.array([[0, 0], [0, 1], [2, 4], [3, 5], [7, 9]]), np.array([[1.0, 0], [1, 1], [1, 1], [1, 1], [1, 1]])
    )
    for rule, outputs, inside in ((window, 20, (2, 17)), (taps, 5, (0, 5))):
        for count in (1, 2, 3):
            spans = [
                rule.last(first + count - 1) - rule.first(first) + 1
                for first in range(*inside)
                if first + count <= min(outputs, inside[1])
            ]
            assert rule.extent(count) == max(spans)
