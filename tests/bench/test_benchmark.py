"""Counting and timing: counts equal independent ones, reports say what was run. Speed is never asserted."""

import copy
import io
import json
import re
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from conftest import REPOSITORY
from fakes.oracles import needs_oracles, read_json
from refineseg.bench.benchmark import PAPER_STEPS, bench_model, bench_papers, model_or_variant
from refineseg.bench.contenders import torch_contenders
from refineseg.bench.counting import (
    count,
    count_network,
    counts_markdown,
    counts_table,
    known_counts,
    scores_table,
    shipped_models,
    variants_table,
    write_counts,
)
from refineseg.bench.timing import (
    PLAIN_EXPORT,
    Contender,
    example_images,
    measure,
    memory_explained,
    time_in_turns,
)
from refineseg.class_info import ClassInfo
from refineseg.data.datasets import DATASETS
from refineseg.errors import ConfigError, ModelFileError
from refineseg.evaluate.published import MEASURED_SCORES, PUBLISHED_COUNTS, PUBLISHED_SCORES
from refineseg.images.encoding import write_image
from refineseg.images.files import read_rgb
from refineseg.networks.building import build_network
from refineseg.networks.families import LIGHT_WEIGHT, LIGHT_WEIGHT_MOBILE, REFINENET
from refineseg.networks.model_names import model_file
from refineseg.networks.refinenet import Cascade, RefineNet, Resizing
from refineseg.networks.variants import VARIANTS
from refineseg.scoring import Scorer
from refineseg.segmenter import build
from refineseg.terminal.arguments import parse_size
from refineseg.terminal.printing import Terminal

ROOT = REPOSITORY
ORACLE_VARIANTS = {
    "rf_lwmbv2_21": "refinenet_lw_mobilenetv2",
    "rf_lw50_21": "refinenet_lw_resnet50",
    "rf_lw50_40": "refinenet_lw_resnet50",
    "rf50_21": "refinenet_resnet50",
    "dt_lw18_21": "refinenet_lw_resnet18_densetorch",
    "rf101_21": "refinenet_resnet101",
    "rf152_21": "refinenet_resnet152",
    "rf_lw101_21": "refinenet_lw_resnet101",
    "rf_lw101_40": "refinenet_lw_resnet101",
    "rf_lw152_21": "refinenet_lw_resnet152",
    "rf_lw50_7": "refinenet_lw_resnet50",
    "dt_lwmbv2_21": "refinenet_lw_mobilenetv2",
    "dt_lw50_21": "refinenet_lw_resnet50_densetorch",
}


def slow_after(names, quick):
    return [name if index < quick else pytest.param(name, marks=pytest.mark.slow) for index, name in enumerate(names)]


def shown(table):
    file = io.StringIO()
    Terminal(width=100, file=file).print(table)
    return file.getvalue()


# Counting


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        ("refinenet_lw_resnet50", 27_357_525),
        ("refinenet_lw_resnet101", 46_349_653),
        ("refinenet_lw_resnet152", 61_993_301),
        ("refinenet_lw_mobilenetv2", 3_284_565),
        ("refinenet_resnet101", 118_052_437),
    ],
)
def test_parameters_are_those_of_the_original_networks(variant, parameters):
    assert known_counts()[variant][21].parameters == parameters


@pytest.mark.slow_except("dt_lw18_21")
@needs_oracles
@pytest.mark.parametrize("model", slow_after(ORACLE_VARIANTS, 5))
def test_counts_equal_an_independent_count_of_the_original_networks(model):
    truth = read_json("flops.json")[model]
    with torch.device("meta"):
        network = build_network(ORACLE_VARIANTS[model], int(model.rsplit("_", 1)[1])).eval()
    sizes = [name for name in truth if "x" in name]
    assert {"512x512", "480x640", "500x500", "468x625"} <= set(sizes)
    for size in sizes:
        counts = count_network(network, parse_size(size))
        assert counts.parameters == truth["params"]
        assert counts.multiply_adds == truth[size]["conv"]
        encoder = {key: cost for key, cost in truth[size]["by"].items() if re.match(r"(conv1|layer\d)$", key)}
        if model.startswith("rf") and "mbv2" not in model:
            assert counts.encoder_multiply_adds == sum(encoder.values())
            assert counts.multiply_adds - counts.encoder_multiply_adds == truth[size]["conv"] - sum(encoder.values())


class Halving(nn.Module):
    """An encoder of one level at half the size, four channels."""

    takes_any_size, size_multiple = True, 32

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=True)

    def forward(self, x):
        return [self.conv(x)]


def test_merged_laterals_save_what_the_papers_sizes_say():
    counts = count("refinenet_lw_resnet50", 21)
    # three laterals lose a 1x1 convolution of 256 to 256 channels, at strides 16, 8 and 4 of 512x512
    assert counts.multiply_adds - counts.fused_multiply_adds == 256 * 256 * (32**2 + 64**2 + 128**2)


def test_counts_of_a_small_network_equal_those_by_hand():
    options = replace(LIGHT_WEIGHT_MOBILE, width=8, num_links=1)
    network = RefineNet(Halving(), Cascade((4,), 2, groups=((0,),), options=options, resizing=Resizing())).eval()
    counts = count_network(network, (7, 10))
    pixels, fusion, link, classifier = 4 * 5, 4 * 8, 8 * 8, 8 * 2 * 9
    assert counts.encoder_multiply_adds == pixels * 27 * 4
    assert counts.multiply_adds - counts.encoder_multiply_adds == pixels * (fusion + link + classifier)
    assert (counts.encoder_parameters, counts.parameters) == (27 * 4 + 4, 27 * 4 + 4 + fusion + link + classifier + 2)
    network.encoder.takes_any_size = False
    assert count_network(network, (7, 33)) == count_network(network, (32, 64))


@pytest.mark.parametrize("variant", PUBLISHED_COUNTS)
def test_published_sizes_and_costs_are_reproduced_by_the_named_convention_alone(variant):
    published = PUBLISHED_COUNTS[variant]
    truth = published.shown(published.parameters, published.multiply_adds)
    known = known_counts()[variant]
    found = {k: published.shown(counts.parameters, counts.multiply_adds) for k, counts in known.items()}
    assert found[published.num_classes] == truth
    other = found[61 - published.num_classes]
    if variant != "refinenet_lw_resnet152":  # 71 with 21 classes as well
        assert other != truth


def test_one_class_more_costs_one_filter_of_the_classifier():
    known = known_counts()["refinenet_resnet101"]
    assert known[40].multiply_adds - known[21].multiply_adds == 19 * 256 * 9 * 128 * 128


def test_counting_refuses_sizes_and_names_that_are_none():
    with pytest.raises(ConfigError, match="expected a height and width of at least 1 pixel, got 0x5"):
        count("refinenet_lw_mobilenetv2", 21, (0, 5))
    with pytest.raises(ConfigError, match="expected a variant, got 'refinenet_lw_mobile'"):
        count("refinenet_lw_mobile")


def test_the_page_of_counts_is_made_from_the_stored_counts():
    text = counts_markdown(known_counts())
    page = ROOT / "docs" / "counts.md"
    assert page.read_text(encoding="utf-8") == text, "run: refineseg bench --counts --write"
    for variant in VARIANTS:
        assert f"| `{variant}`" in text
    row = next(line for line in text.splitlines() if line.startswith("| `refinenet_lw_mobilenetv2` "))
    assert "| 3,284,565 |" in row
    assert "| 8.584 G |" in row
    assert row.endswith("| 3.3 M, 9.3 G | 40 classes |")
    assert "614x614 and 307x307" in " ".join(text.split())


@pytest.mark.slow
def test_the_page_says_what_the_light_weight_networks_cost_at_the_other_size():
    encoders = ("resnet50", "resnet101", "resnet152", "mobilenetv2")
    costs = [f"{count(f'refinenet_lw_{e}', 40, (468, 625)).multiply_adds / 1e9:.1f} G" for e in encoders]
    assert f"take {', '.join(costs[:3])} and {costs[3]}; published are 33 G" in counts_markdown(known_counts())


def test_counts_are_written_to_the_package_and_its_page(tmp_path, monkeypatch):
    package = tmp_path / "src" / "refineseg" / "bench"
    package.mkdir(parents=True)
    monkeypatch.setattr("refineseg.bench.counting.__file__", str(package / "counting.py"))
    with pytest.raises(ConfigError, match="expected a clone of the repository for --write"):
        write_counts(known_counts())
    (tmp_path / "docs").mkdir()
    files = write_counts(known_counts())
    assert files == [package / "counts.json", tmp_path / "docs" / "counts.md"]
    assert files[0].read_text() == (ROOT / "src" / "refineseg" / "bench" / "counts.json").read_text()


# Scores


def test_scores_are_filed_under_their_recipe_and_are_possible():
    for recipe, scores in (*PUBLISHED_SCORES.items(), *MEASURED_SCORES.items()):
        for score in scores:
            assert recipe == f"{score.dataset}_{score.variant}"
            assert score.variant in VARIANTS
            assert score.dataset in DATASETS
            assert score.split in ("val", "test")
            assert 0.3 < score.mean_iou < 0.9


def test_published_scores_are_those_of_the_papers():
    def percents(dataset, *variants):
        return [round(100 * s.mean_iou, 1) for v in variants for s in PUBLISHED_SCORES[f"{dataset}_{v}"]]

    light = [f"refinenet_lw_resnet{depth}" for depth in (50, 101, 152)]
    full = [f"refinenet_resnet{depth}" for depth in (50, 101, 152)]
    assert percents("nyud", *light) == [41.7, 43.6, 44.4]
    assert percents("nyud", *full) == [42.5, 43.8, 43.6, 44.7, 46.5]
    assert percents("person_part", *light) == [64.9, 66.7, 67.6]
    assert percents("pascal_context", *light[1:], *full[1:]) == [45.1, 45.8, 47.1, 47.3]
    assert percents("voc", *light[1:], *full[1:]) == [80.3, 82.0, 82.1, 82.7, 82.4, 83.4]
    assert percents("ade20k", *full[1:]) + percents("sunrgbd", *full[1:]) == [40.2, 40.7, 45.7, 45.9]
    suffixes = ("_single", "_2cascade", "_2scale", "_0links")
    assert percents("nyud", *(f"refinenet_resnet50{suffix}" for suffix in suffixes)) == [40.3, 40.9, 43.1, 40.4]


def test_our_scores_stand_in_the_cards_of_the_models():
    for scores in MEASURED_SCORES.values():
        for score in scores:
            card = model_file(score.model).with_suffix(".md").read_text(encoding="utf-8")
            assert f"| {100 * score.mean_iou:.1f} % |" in card
            assert score.command in card
            assert shipped_models()[score.model]["variant"] == score.variant


def test_our_scores_are_the_recorded_ones():
    compared = set()
    for score in (score for scores in MEASURED_SCORES.values() for score in scores):
        path = ROOT / "benchmarks" / "results" / f"{score.model}_{score.split}.json"
        if path.is_file():
            result = json.loads(path.read_text(encoding="utf-8"))["result"]
            found = tuple(result[key] for key in ("model", "variant", "split", "precision", "scales", "flip"))
            assert found == (score.model, score.variant, score.split, "float32", [1.0], False)
            assert result["measurement_protocol"]["dataset"] == score.dataset
            assert round(result["mean_iou"], 3) == score.mean_iou, path.name
            compared.add(score.model)
    assert compared >= {"camvid", "camvid_nano", "nyud", "nyud_lite2"}


def test_tables_are_complete_within_a_hundred_columns():
    variants, scores, counts = (shown(t) for t in (variants_table(), scores_table(), counts_table(known_counts())))
    for name, numbers in known_counts().items():
        for text in (variants, counts):
            assert re.search(rf"\b{name}( \*)? .* {numbers[21].parameters:,}\b", text), "a name or number is cut off"
    for published in (score for of_recipe in PUBLISHED_SCORES.values() for score in of_recipe):
        assert re.search(rf"{published.dataset} {published.split} .*\b{100 * published.mean_iou:.1f}\b", scores)
    assert "not yet measured" in scores
    assert re.search(r"camvid test +single scale +- +55\.2", scores)
    assert "40 classes" in counts


# Timing


def test_calls_are_timed_in_turns_that_begin_with_another_each_time():
    ran = []
    calls = [lambda name=name: ran.append(name) for name in "abc"]
    times = time_in_turns(calls, repeats=4, warm_up=1)
    # each is called once untimed before it is timed
    assert "".join(ran) == "abc" + "aabbcc" + "bbccaa" + "ccaabb" + "aabbcc"
    assert times.shape == (3, 4)
    assert (times > 0).all()


def test_the_number_of_rounds_is_bounded_where_it_is_not_given():
    assert time_in_turns([lambda: None]).shape == (1, 50)


def test_timing_refuses_to_time_nothing():
    with pytest.raises(ConfigError, match="expected at least one call, warm-up round and repeat, got 1, 2, 0"):
        time_in_turns([lambda: None], repeats=0)


class Constant(Scorer):
    """A scorer that says one class everywhere, but another in the left part."""

    def __init__(self, left=0):
        self.left = left

    @property
    def class_info(self):
        return ClassInfo(("a", "b"))

    def logits(self, images):
        raise AssertionError("class maps are asked for, not logits")

    def class_map(self, images):
        found = torch.zeros(images.shape[0], *images.shape[2:], dtype=torch.int64)
        found[:, :, : self.left] = 1
        return found


def contender(*, plain=False, left=0):
    return Contender("constant", "torch", "float32", False, plain, "nchw", Constant(left))


def test_agreement_is_the_share_of_pixels_of_the_plain_class():
    images = example_images(2, 3, (6, 10))
    rows = measure([contender(left=3), contender(plain=True), contender(left=10)], images, repeats=3)
    assert [row.agreement for row in rows] == pytest.approx([0.7, 1.0, 0.0])
    assert [row.plain for row in rows] == [False, True, False]
    assert all((row.size, row.batch, row.repeats) == ("6x10", 2, 3) for row in rows)
    assert all(0 < row.min_ms <= row.p50_ms <= row.p95_ms for row in rows)
    assert rows[1].speedup == 1


class Slow(Constant):
    """A scorer that takes a known time."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def class_map(self, images):
        time.sleep(self.seconds)
        return super().class_map(images)


@pytest.mark.slow
def test_the_best_other_way_is_the_fastest_plain_export_at_the_same_precision():
    def slow(backend, precision, seconds, *, fused=False, note=""):
        return Contender("m", backend, precision, fused, False, "nchw", Slow(seconds), 1.5, note)

    contenders = [
        contender(plain=True),
        slow("onnxruntime", "float32", 0.04, note=PLAIN_EXPORT),
        slow("openvino", "float32", 0.02, note=PLAIN_EXPORT),
        slow("openvino", "bfloat16", 0.001, note=PLAIN_EXPORT),
        slow("onnxruntime", "float32", 0.01, fused=True),
        slow("torch", "float32", 0.01, fused=True),
        slow("openvino", "int8", 0.01, fused=True),
    ]
    rows = measure(contenders, example_images(1, 3, (4, 4)), repeats=5)
    assert [row.best_other is None for row in rows] == [True] * 4 + [False] + [True] * 2
    assert rows[4].best_other == pytest.approx(2, rel=0.4)
    assert [row.agreement for row in rows] == [1.0] * 7
    assert all(row.cold_start_s > 1.5 for row in rows[1:])
    assert all(row.p95_ms <= row.p99_ms and row.threads == torch.get_num_threads() for row in rows)
    if sys.platform == "linux":
        assert all(row.peak_memory_mb is not None and row.peak_memory_mb >= 0 for row in rows)


@pytest.mark.slow
def test_every_installed_runtime_is_measured_beside_the_plain_export(tmp_path):
    torch.manual_seed(0)
    options = {"channels": (8, 16, 32, 64), "layers": (1, 1, 1, 1)}
    build("refinenet_lw:resnet18", num_classes=5, encoder_options=options).save(tmp_path / "net.safetensors")
    for batch in (1, 2):
        report = bench_model(
            str(tmp_path / "net.safetensors"), size="48x64", device="cpu", repeats=2, batch=batch
        ).to_json()
        rows = json.loads(json.dumps(report))["rows"]
        found = {(row["backend"], row["precision"], row["note"] == PLAIN_EXPORT) for row in rows if row["fused"]}
        assert {("openvino", precision, False) for precision in ("float32", "bfloat16", "int8")} <= found
        assert {("onnxruntime", "float32", False), ("torch_export", "float32", False)} <= found
        assert sum(row["note"] == PLAIN_EXPORT for row in rows) == 4
        assert [row["plain"] for row in rows].count(True) == 1
        for row in rows:
            assert row["agreement"] > (0.9999 if row["precision"] == "float32" else 0.6)
            assert (row["best_other"] is not None) == (row["fused"] and row["backend"] != "torch")


def test_stages_of_a_real_image_give_the_segmenters_mask(tmp_path):
    """Each stage has its time; what is written is what the model predicts."""
    segmenter = model_or_variant("camvid")
    picture = example_images(1, 3, (50, 70))[0].permute(1, 2, 0).numpy()
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / "a.jpg", picture)
    image = read_rgb(tmp_path / "in" / "a.jpg")
    from refineseg.bench import stages as module

    fused = copy.deepcopy(segmenter).fuse()
    seconds = module._one(fused, tmp_path / "in" / "a.jpg", tmp_path / "mask.png", torch.device("cpu"))
    assert len(seconds) == len(module.STAGES)
    with torch.no_grad():
        expected = segmenter(torch.from_numpy(image).permute(2, 0, 1)[None]).argmax(1)[0].numpy()
    assert np.mean(np.asarray(Image.open(tmp_path / "mask.png")) == expected) > 0.999
    found = module.measure_stages(segmenter, tmp_path / "in", device=torch.device("cpu"), repeats=2)
    assert [stage["stage"] for stage in found] == list(module.STAGES)
    assert sum(stage["share"] for stage in found) == pytest.approx(1)
    assert all(0 < stage["p50_ms"] <= stage["p95_ms"] for stage in found)
    with pytest.raises(ConfigError, match="expected at least one image in"):
        module.measure_stages(segmenter, tmp_path, device=torch.device("cpu"), repeats=0)


def test_stages_leave_images_of_original_networks_as_they_are(tmp_path, monkeypatch):
    """Networks whose enlargements align corners are not padded by the segmenter, and so not by the stages."""
    from refineseg.bench import stages as module

    torch.manual_seed(0)
    segmenter = build("refinenet_lw_mobilenetv2", num_classes=300, align_corners=True)
    write_image(tmp_path / "a.png", example_images(1, 3, (33, 45))[0].permute(1, 2, 0).numpy())
    seen, network = [], segmenter.network
    monkeypatch.setattr(network, "forward", lambda x, inner=network.forward: seen.append(x.shape) or inner(x))
    module._one(segmenter, tmp_path / "a.png", tmp_path / "mask.png", torch.device("cpu"))
    assert seen == [(1, 3, 33, 45)]
    written = np.asarray(Image.open(tmp_path / "mask.png"))
    expected = segmenter.class_map(torch.from_numpy(read_rgb(tmp_path / "a.png")).permute(2, 0, 1)[None])[0].numpy()
    assert expected.max() > 255  # else it would not show that classes above 255 are kept
    assert np.array_equal(written, expected)


def test_the_share_of_the_limit_is_arithmetic_per_second_beside_a_matrix_product(monkeypatch):
    """Three images of 2048^3 multiply-adds in the time of six products are half of what the machine can."""
    kinds = [("float32", 600.0), ("bfloat16", 300.0), ("int8", 100.0)]
    products = {"float32": 100.0, "bfloat16": 25.0}
    asked = []

    def times(calls, **_):
        asked.append([call().dtype for call in calls[len(kinds) :]])
        return np.array([[ms] * 4 for ms in (*(ms for _, ms in kinds), *products.values())])

    monkeypatch.setattr("refineseg.bench.timing.time_in_turns", times)
    contenders = [
        Contender("m", "torch", precision, False, not index, "nchw", Constant(0))
        for index, (precision, _) in enumerate(kinds)
    ]
    rows = measure(contenders, example_images(3, 3, (4, 4)), repeats=4, multiply_adds=2048**3)
    assert asked == [[torch.float32, torch.bfloat16]]
    assert [row.of_limit for row in rows] == [pytest.approx(0.5), pytest.approx(0.25), None]
    times_alone = np.array([[1.0] * 4] * 3)
    monkeypatch.setattr("refineseg.bench.timing.time_in_turns", lambda *_, **__: times_alone)
    assert [row.of_limit for row in measure(contenders, example_images(3, 3, (4, 4)))] == [None] * 3


def test_a_run_without_exactly_one_plain_contender_is_refused():
    images = example_images(1, 3, (4, 4))
    for contenders in ([contender()], [contender(plain=True)] * 2):
        with pytest.raises(ConfigError, match="expected exactly one plain contender, got"):
            measure(contenders, images)


def test_want_of_memory_is_told_and_other_failures_are_not_hidden():
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")):
        with (
            pytest.raises(ConfigError, match="expected a size and batch that fit into memory, got 1 of 4x5"),
            memory_explained(1, (4, 5)),
        ):
            raise error
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "zeros", lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(ConfigError, match="expected a size and batch that fit into memory, got 2 of 6x7 pixels"):
            example_images(2, 3, (6, 7))
    with pytest.raises(RuntimeError, match="something else"), memory_explained(1, (4, 5)):
        raise RuntimeError("something else")


def test_the_plain_contender_computes_in_default_order_and_says_what_the_segmenter_says():
    """Both are one function, so nearly all pixels agree; every map inside lies in the order the row names."""
    segmenter = model_or_variant("refinenet_lw_mobilenetv2")
    plain, own, fused = torch_contenders("m", segmenter, device=torch.device("cpu"), precisions=["float32"])
    assert [one.fused for one in (plain, own, fused)] == [False, False, True]
    images = example_images(1, 3, (50, 70))
    assert torch.allclose(plain.scorer.logits(images), own.scorer.logits(images), atol=1e-4)
    assert torch.equal(own.scorer.logits(images), segmenter(images))
    assert torch.allclose(plain.scorer.logits(images), fused.scorer.logits(images), atol=1e-4)
    for one, order in ((plain, torch.contiguous_format), (own, torch.channels_last)):
        orders = []
        network = one.scorer._segmenter.network
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.groups == 1:
                module.register_forward_hook(
                    lambda _, inputs, __, order=order, orders=orders: orders.append(
                        inputs[0].is_contiguous(memory_format=order)
                    )
                )
        one.scorer.logits(images)
        assert all(orders)
        assert len(orders) > 20


@pytest.mark.slow
def test_a_bench_of_an_untrained_variant_has_one_plain_row_and_describes_the_machine(tmp_path):
    report = bench_model(
        "refinenet_lw_mobilenetv2", size="33x50", device="cpu", repeats=2, batch=2, backend="torch"
    ).to_json()
    rows, machine = json.loads(json.dumps(report)).values()
    assert [row["plain"] for row in rows].count(True) == 1
    assert rows[0]["plain"]
    assert rows[0]["agreement"] == 1
    keys = {"model", "backend", "precision", "fused", "plain", "agreement", "batch", "size", "p50_ms", "p95_ms"}
    for row in rows:
        assert keys <= row.keys()
        assert (row["model"], row["size"], row["batch"]) == ("refinenet_lw_mobilenetv2", "33x50", 2)
        assert 0.9 < row["agreement"] <= 1
    assert {row["precision"] for row in rows} == {"float32", "bfloat16"}
    assert machine["threads"] == torch.get_num_threads()
    assert machine["torch"] == torch.__version__
    assert machine["cpu"]
    only = bench_model(
        "refinenet_lw_mobilenetv2", size="32x32", device="cpu", repeats=1, precision="bfloat16", backend="torch"
    )
    assert [(row["precision"], row["fused"]) for row in only.rows] == [
        ("float32", False),
        ("bfloat16", False),
        ("bfloat16", True),
    ]


def test_an_untrained_variant_has_the_same_weights_every_time_and_draws_nothing():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = model_or_variant("refinenet_lw_mobilenetv2")
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    two = model_or_variant("refinenet_lw_mobilenetv2")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model": "camvd"},
            r"expected a shipped model \(camvid, .*nyud_lite2\), a .safetensors file or a variant, got 'camvd'",
        ),
        ({"model": "unet"}, r"got 'unet'; `refineseg models` lists them"),
        ({"size": "512"}, "expected a size HEIGHTxWIDTH in pixels, for instance 480x640, got '512'"),
        ({"size": "0x8"}, "expected a size HEIGHTxWIDTH"),
        ({"device": "cuda:99"}, "expected a device of this machine"),
        ({"precision": "int4"}, "expected a precision of float32, bfloat16, int8, got 'int4'"),
        ({"backend": "onnx"}, "expected a backend of openvino, .*torch.*, got 'onnx'"),
        ({"backend": "onnxruntime", "precision": "int8"}, "expected a precision of onnxruntime, got int8"),
        ({"backend": "tensorrt", "device": "cpu"}, r"expected a device of tensorrt \(cuda\), got cpu"),
        ({"batch": 0}, "expected a batch of at least 1 image, got 0"),
    ],
)
def test_wrong_options_are_told(options, message):
    with pytest.raises(ConfigError, match=message):
        bench_model(**{"model": "refinenet_lw_mobilenetv2", **options})


def test_a_missing_model_file_is_told():
    with pytest.raises(ModelFileError, match=r"got 'absent\.safetensors', but there is no such file"):
        model_or_variant("absent.safetensors")


# The papers side by side


def test_the_steps_between_the_papers_end_at_the_light_weight_network():
    first, pointwise, last = (options for _, _, options in PAPER_STEPS)
    assert first is REFINENET
    assert pointwise == replace(REFINENET, kernel_size=1)
    no_units = replace(pointwise, num_adaptation_units=0, num_output_units=0)
    assert replace(no_units, classifier_dropout=0.0) == last == LIGHT_WEIGHT  # dropout does nothing once trained


@pytest.mark.slow
def test_the_papers_are_measured_side_by_side():
    report = bench_papers(encoders=["resnet50"], size="32x32", device="cpu", repeats=1)
    full, pointwise, light = report.rows
    assert [row["model"] for row in report.rows] == [
        "refinenet_resnet50",
        "refinenet_resnet50, 1x1",
        "refinenet_lw_resnet50",
    ]
    known = known_counts()
    for row in (full, light):
        counts = known[row["model"]][21]
        assert (row["parameters"], row["multiply_adds_512x512"]) == (counts.parameters, counts.multiply_adds)
    units = [(512, 2 + 3), (256, 3 * (2 + 3))]  # two where a level is adapted, three at the end, of every block
    extra = sum(number * (2 * width * width + width) for width, number in units)
    assert pointwise["parameters"] == light["parameters"] + extra
    assert full["speedup"] == 1
    assert all(
        0 < row["min_ms"] <= row["p50_ms"] and row["size"] == "32x32" and row["repeats"] == 1 for row in report.rows
    )
    assert "refinenet_lw_resnet50" in shown(report.table)


# The command line


def test_bench_prints_a_table_and_writes_its_json(refineseg, tmp_path):
    out = tmp_path / "speed.json"
    status, text, _ = refineseg(
        "bench", "--model", "camvid", "--size", "32x48", "--repeats", 1, "--backend", "torch", "--json", out
    )
    assert status == 0
    assert "plain" in text
    content = json.loads(out.read_text())
    assert set(content) == {"rows", "machine"}
    assert sum(row["plain"] for row in content["rows"]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--write",), "expected --write with --counts, whose numbers it stores, got it alone; add --counts"),
        (("--repeats", 0), "expected --repeats of at least 1, got 0"),
        (("--counts", "--papers"), "got another combination"),
        (("--device", "gpu"), "use auto, which takes what is there"),
        (("--model", "M.ONNX"), "expected --folder with an exported file, which is measured on images, got M.ONNX"),
    ],
)
def test_wrong_calls_of_bench_are_refused_before_anything_is_exported(refineseg, monkeypatch, options, message):
    monkeypatch.setattr("refineseg.bench.benchmark.runtime_contenders", lambda *_, **__: pytest.fail("exported"))
    status, _, err = refineseg("bench", *options)
    assert status == 2
    assert message in " ".join(err.split())


def test_bench_counts_without_timing(refineseg, tmp_path):
    out = tmp_path / "counts.json"
    status, text, _ = refineseg("bench", "--counts", "--json", out)
    assert status == 0
    assert "118,052,437" in text
    assert json.loads(out.read_text()) == json.loads((ROOT / "src" / "refineseg" / "bench" / "counts.json").read_text())
    status, _, err = refineseg("bench", "--counts", "--papers")
    assert status == 2
    assert "expected --papers, --counts, --counts --write, --training or none of them" in err


def test_models_lists_everything_without_building_a_network(refineseg, tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise AssertionError("a network was built")

    monkeypatch.setattr("refineseg.networks.building.build_network", refuse)
    monkeypatch.setattr("refineseg.bench.counting.build_network", refuse)
    monkeypatch.setattr("refineseg.segmenter.build_network", refuse)
    out = tmp_path / "models.json"
    status, text, _ = refineseg("models", "--json", out)
    assert status == 0
    assert "68.6 % on camvid" in " ".join(text.split())
    content = json.loads(out.read_text())
    assert set(content["variants"]) == set(VARIANTS)
    light = content["variants"]["refinenet_lw_resnet50"]
    assert light["counts"]["21"]["parameters"] == 27_357_525
    assert {score["dataset"] for score in light["published"]} == {"voc", "person_part", "nyud"}
    assert content["models"]["camvid"]["ours"][0]["mean_iou"] == 0.686
