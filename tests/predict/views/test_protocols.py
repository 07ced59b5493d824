"""The papers' test-time procedures: against stored results, against loops in numpy, and through the command line."""

import dataclasses
import hashlib
import json
import math

import numpy as np
import pytest
import torch

from conftest import untrained, write_folder
from fakes.oracles import needs_oracles, read_json, stored
from refineseg.class_info import ClassInfo
from refineseg.data.samples.sample import Sample
from refineseg.errors import ConfigError, DatasetError
from refineseg.evaluate.predicting import evaluate
from refineseg.predict.options import PredictorOptions
from refineseg.predict.predictor import Predictor
from refineseg.predict.views.authors import authors_scores, fuse, network_images, resize_probabilities
from refineseg.predict.views.crf import dense_crf
from refineseg.predict.views.crf_options import CrfOptions
from refineseg.predict.views.scoring_views import SCORING_VIEWS, ScoringView, find_view
from refineseg.preprocessing import Preprocessing
from refineseg.resize import matlab_resize, matlab_resize_images
from refineseg.scoring import Scorer
from refineseg.segmenter import Segmenter, build

SMALL = ScoringView("authors", "log_probabilities_cubic", short_side=(24, 40), enlargement=1.2)


def _pixels(height, width, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=generator)


def _image(height, width, *, seed=0):
    return _pixels(height, width, seed=seed)[0].permute(1, 2, 0).numpy().copy()


@pytest.fixture(scope="module")
def unpadded():
    """A network that takes images as they are, as the original ones."""
    torch.manual_seed(0)
    segmenter = build("refinenet_lw_mobilenetv2", num_classes=5, align_corners=True)
    with torch.no_grad():
        segmenter.network.decoder.classifier.weight.mul_(20)  # probabilities that differ
    return segmenter


# MATLAB's resize once more, pixel by pixel.


def _kernel(x):
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0


def _resize_axis(x, new, scale):
    """Along the first axis."""
    out = np.zeros((new, *x.shape[1:]))
    shrink = min(scale, 1)
    for i in range(new):
        centre = (i + 0.5) / scale - 0.5
        taps = range(math.floor(centre - 2 / shrink) - 1, math.ceil(centre + 2 / shrink) + 2)
        shares = np.array([_kernel((centre - t) * shrink) for t in taps])
        mirrored = np.concatenate([np.arange(len(x)), np.arange(len(x))[::-1]])
        out[i] = np.tensordot(shares / shares.sum(), x[[mirrored[t % len(mirrored)] for t in taps]], axes=1)
    return out


def _resize_pixels(x, size, scales):
    """(H, W, C) whole values: the axis of the smaller scale first, rounded after each."""
    for axis in sorted((0, 1), key=lambda a: scales[a]):
        if scales[axis] != 1:
            moved = _resize_axis(np.moveaxis(x, axis, 0), size[axis], scales[axis])
            x = np.moveaxis(np.clip(np.floor(moved + 0.5 + 1e-9), 0, 255), 0, axis)
    return x


def _log_resize(x, size):
    """(H, W, K) probabilities."""
    if x.shape[:2] == size:
        return x
    log = np.maximum(np.log(np.maximum(x, 1e-300)), -20)
    rows = _resize_axis(log, size[0], size[0] / x.shape[0])
    return np.exp(np.moveaxis(_resize_axis(np.moveaxis(rows, 1, 0), size[1], size[1] / x.shape[1]), 0, 1))


class TestAuthors:
    @needs_oracles
    def test_fusing_scales_gives_the_stored_scores_and_classes(self):
        expected = read_json("expected_misc.json")["fusion"]
        maps = [stored("misc_fusion", f"map{i}")[None] for i in range(3)]
        fused = fuse(maps, num_maps=3, style="gpu")
        torch.testing.assert_close(fused[0], stored("misc_fusion", "fused"), atol=1e-6, rtol=0)
        assert float(fused.mean()) == pytest.approx(expected["fused_mean"], abs=1e-9)
        final = resize_probabilities(fused, tuple(expected["full"]), style="gpu")[0]
        torch.testing.assert_close(final, stored("misc_fusion", "final"), atol=1e-6, rtol=0)
        classes = final.argmax(0).numpy().astype(np.uint8)
        assert hashlib.sha256(classes.tobytes()).hexdigest() == expected["argmax_sha256"]
        assert np.bincount(classes.ravel(), minlength=5).tolist() == expected["hist"]
        assert float(final.sum(0).min()) == pytest.approx(expected["final_sum_min"])

    @needs_oracles
    def test_a_single_scale_is_enlarged_from_unrounded_scores(self):
        scores = stored("misc_fusion", "map2")[None]
        final = resize_probabilities(scores, (50, 70), style="gpu")[0]
        torch.testing.assert_close(final, stored("misc_fusion", "single_scale_final"), atol=1e-6, rtol=0)

    @pytest.mark.parametrize(
        ("name", "size_hw", "scale", "expected"),
        [
            ("authors", (500, 375), 1.0, (720, 540)),  # 375 -> 450, then x1.2
            ("authors", (500, 375), 0.8, (576, 432)),  # in one resize to 480x360
            ("authors", (468, 625), 1.0, (562, 750)),  # inside the range: x1.2 alone, 561.6 and 750.0
            ("authors", (1200, 1600), 1.0, (960, 1280)),  # 800 / 1200 * 1600 = 1066.67 -> 1067; 1280.4 -> 1280
            ("authors_cityscapes", (1024, 2048), 0.4, (492, 984)),  # 409.6 -> 410, 819.2 -> 820
            ("authors_cityscapes", (1024, 2048), 1.0, (1229, 2458)),
        ],
    )
    def test_the_network_sees_the_sizes_of_the_authors_code(self, monkeypatch, name, size_hw, scale, expected):
        def only_sizes(images, size_hw, *, scale=None):
            return torch.zeros(1, 1, *size_hw, dtype=torch.uint8)

        monkeypatch.setattr("refineseg.predict.views.authors.matlab_resize_images", only_sizes)
        images = torch.zeros(1, 1, *size_hw, dtype=torch.uint8)
        got = tuple(network_images(images, scale, view=SCORING_VIEWS[name]).shape[2:])
        assert got == expected

    @pytest.mark.parametrize(("size_hw", "new_hw", "scale"), [((9, 7), (13, 10), 1.37), ((9, 7), (6, 5), 0.6)])
    def test_pixels_are_rounded_after_each_axis(self, size_hw, new_hw, scale):
        images = _pixels(*size_hw)
        ours = matlab_resize_images(images, new_hw, scale=scale)[0].permute(1, 2, 0).numpy()
        by_hand = _resize_pixels(images[0].permute(1, 2, 0).numpy().astype(float), new_hw, (scale, scale))
        assert np.array_equal(ours, by_hand)
        scales = tuple(new / old for new, old in zip(new_hw, size_hw, strict=True))
        ours = matlab_resize_images(images, new_hw)[0].permute(1, 2, 0).numpy()
        assert np.array_equal(ours, _resize_pixels(images[0].permute(1, 2, 0).numpy().astype(float), new_hw, scales))

    @pytest.mark.parametrize("scales", [(1.0,), (0.4, 1.0, 0.8)])
    def test_the_whole_procedure_is_the_one_written_out_by_hand(self, unpadded, scales):
        image = _image(18, 26)
        maps = []
        for scale in scales:
            factor = 24 / 18 * scale
            size = (math.ceil(18 * factor), math.ceil(26 * factor))
            view = _resize_pixels(image.astype(float), size, (factor, factor))
            larger = tuple(math.floor(1.2 * side + 0.5) for side in size)
            view = _resize_pixels(view, larger, tuple(new / old for new, old in zip(larger, size, strict=True)))
            x = torch.from_numpy(view.transpose(2, 0, 1)).float()[None]
            mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in dataclasses.astuple(unpadded.spec.preprocessing)[:2])
            with torch.inference_mode():
                maps.append(unpadded.network((x - mean) / std).softmax(1)[0].permute(1, 2, 0).numpy().astype(float))
        if len(maps) == 1:
            log = torch.from_numpy(np.maximum(np.log(maps[0]), -20).transpose(2, 0, 1))[None]
            expected = matlab_resize(log, (18, 26), style="gpu").exp()[0].permute(1, 2, 0).numpy()
        else:
            whole = [np.floor(m * 255 + 0.5) / 255 / len(maps) for m in maps]
            total = whole[0]  # 0.4, then the largest map, then one that is enlarged to it
            total = _log_resize(total, whole[1].shape[:2]) + whole[1]
            total = total + _log_resize(whole[2] * len(maps), total.shape[:2]) / len(maps)
            expected = _log_resize(total.clip(0, 1), (18, 26))
        prediction = Predictor(unpadded, device="cpu", scales=scales, protocol=SMALL)(image, probabilities=True)
        normalised = expected / expected.sum(axis=2, keepdims=True)
        assert np.abs(prediction.probabilities.transpose(1, 2, 0) - normalised).max() < 1e-4
        agree = prediction.mask == expected.argmax(axis=2)
        assert agree.mean() > 0.995

    def test_the_enlargement_is_an_option_and_never_taken_twice(self, unpadded):
        spec = dataclasses.replace(unpadded.spec, preprocessing=Preprocessing.matconvnet())
        enlarging = Segmenter(spec)
        images = _pixels(40, 60)
        with torch.inference_mode():
            assert enlarging.output_logits(images, resized_already=True).shape[2:] == (10, 15)
        plain = Segmenter(dataclasses.replace(spec, preprocessing=Preprocessing.matconvnet(input_scale=1.0)))
        plain.load_state_dict(enlarging.state_dict())
        image = _image(40, 60)
        both = [Predictor(s, device="cpu", protocol=SMALL)(image, probabilities=True) for s in (enlarging, plain)]
        assert np.array_equal(both[0].probabilities, both[1].probabilities)
        seen = []

        def score(images):
            seen.append(tuple(images.shape[2:]))
            return torch.zeros(1, 2, 3, 4)

        for enlargement in (1.2, 1.0):
            view = dataclasses.replace(SMALL, enlargement=enlargement)
            assert authors_scores(score, images, scales=(1.0,), view=view).shape == (1, 2, 40, 60)
        assert seen == [(48, 72), (40, 60)]

    def test_padding_that_a_network_needs_leaves_no_trace_in_the_size_of_its_output(self):
        padded = build("refinenet_lw_mobilenetv2", num_classes=2)
        with torch.inference_mode():
            assert padded.output_logits(_pixels(33, 50)).shape[2:] == (9, 13)


class TestLightWeight:
    def test_the_default_is_the_second_version_and_the_first_enlarges_logits_bicubically(self, unpadded):
        image, batch = _image(33, 50), _pixels(33, 50)
        with torch.inference_mode():
            logits = unpadded(batch)
            low = unpadded.output_logits(batch)[0].permute(1, 2, 0).double().numpy()
        assert np.array_equal(Predictor(unpadded, device="cpu")(image).mask, logits.argmax(1)[0].numpy())
        expected = _opencv_cubic(_opencv_cubic(low, 33).transpose(1, 0, 2), 50).transpose(1, 0, 2)
        exponential = np.exp(expected - expected.max(axis=2, keepdims=True))
        first = Predictor(unpadded, device="cpu", protocol="light_weight_v1")(image, probabilities=True)
        by_hand = (exponential / exponential.sum(axis=2, keepdims=True)).transpose(2, 0, 1)
        assert np.abs(first.probabilities - by_hand).max() < 1e-4


def _opencv_cubic(x, new):
    """Along the first axis: a = -0.75, border repeated, nothing filtered."""
    out = np.zeros((new, *x.shape[1:]))
    for i in range(new):
        centre = (i + 0.5) * len(x) / new - 0.5
        left = math.floor(centre)
        for tap in range(left - 1, left + 3):
            d, a = abs(centre - tap), -0.75
            share = (a + 2) * d**3 - (a + 3) * d**2 + 1 if d <= 1 else a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            out[i] += share * x[min(max(tap, 0), len(x) - 1)]
    return out


class Pointwise(Scorer):
    """A scorer that is no segmenter: the class of a pixel is its brightest channel."""

    class_info = None

    def __init__(self, *names):
        self.class_info = ClassInfo(names)

    def logits(self, images):
        return images.float()[:, : self.class_info.num_classes]


class Pictures:
    """Labelled images in memory."""

    notes = ()

    def __init__(self, class_info, samples):
        self.class_info, self._samples = class_info, samples

    def __len__(self):
        return len(self._samples)

    def __getitem__(self, index):
        return self._samples[index]

    def name(self, index):
        return self._samples[index].name

    def read_mask(self, index):
        return self._samples[index].mask


@pytest.mark.parametrize("names", [("a", "b", "void"), ("void", "a", "b"), ("a", "void", "b")])
def test_a_void_channel_takes_part_and_predicting_it_is_an_error_of_no_class(names):
    image = np.zeros((1, 6, 3), np.uint8)
    for column, name in enumerate(["a", "a", "b", "void", "void", "b"]):
        image[0, column, names.index(name)] = 9
    truth = np.array([[0, 1, 1, 0, 255, 255]], np.uint8)
    dataset = Pictures(ClassInfo(("a", "b")), [Sample(image, truth, "x")])
    seen = []
    matrix = evaluate(Predictor(Pointwise(*names)), dataset, seen=lambda i, s, p: seen.append(p))
    assert matrix.counts.tolist() == [[1, 0, 1], [1, 1, 0]]  # a: once right, once void; b: once a, once right
    assert matrix.pixel_accuracy == 0.5
    assert matrix.per_class_iou.tolist() == [1 / 3, 1 / 2]
    assert seen[0].mask.tolist() == [[0, 0, 1, 255, 255, 1]]
    assert seen[0].class_info == dataset.class_info


@pytest.mark.parametrize("names", [("b", "a", "void"), ("a", "b", "other"), ("a", "void")])
def test_other_classes_more_than_void_are_refused(names):
    dataset = Pictures(ClassInfo(("a", "b")), [])
    with pytest.raises(DatasetError, match=r"expected the model's classes \d \(.*\), got a data set of 2 \(a, b\)"):
        evaluate(Predictor(Pointwise(*names)), dataset)


class TestErrors:
    @pytest.mark.parametrize("protocol", ["authors", "authors_cityscapes", "light_weight_v1"])
    def test_protocols_of_the_networks_output_need_a_segmenter(self, protocol):
        with pytest.raises(ConfigError, match=f"expected a segmenter for the protocol {protocol}, .*, got Pointwise"):
            Predictor(Pointwise("a"), protocol=protocol)

    def test_the_authors_never_mirror(self, unpadded):
        with pytest.raises(ConfigError, match="expected no mirror images with the protocol authors"):
            Predictor(unpadded, device="cpu", protocol="authors", flip=True)

    def test_an_unknown_protocol_is_refused_with_the_known(self):
        with pytest.raises(ConfigError, match="expected a protocol of light_weight, light_weight_v1, .*, got 'mine'"):
            Predictor(Pointwise("a"), protocol="mine")

    def test_only_the_authors_protocols_take_an_enlargement(self):
        assert find_view("authors", enlargement=1.0).enlargement == 1.0
        with pytest.raises(ConfigError, match="an enlargement only with the authors' protocols, got 1.2 with light_w"):
            find_view("light_weight", enlargement=1.2)
        with pytest.raises(ConfigError, match="expected an enlargement above 0 and at most 8, got 0"):
            find_view("authors", enlargement=0.0)

    @pytest.mark.slow
    def test_a_two_scale_network_is_not_enlarged_again(self):
        segmenter = build("refinenet_resnet50_2scale", num_classes=2)
        with pytest.raises(ConfigError, match="expected the enlargement 1 with a two-scale network, .* got 1.2"):
            Predictor(segmenter, device="cpu", protocol="authors")
        Predictor(segmenter, device="cpu", protocol=find_view("authors", enlargement=1.0))

    def test_an_unknown_precision_is_refused(self):
        with pytest.raises(ConfigError, match="expected a precision of float32, bfloat16, got 'half'"):
            PredictorOptions.parse(precision="half")


def test_the_crf_refines_the_mean_of_the_probabilities(unpadded):
    image, options = _image(20, 24), CrfOptions(num_iterations=2)
    plain = Predictor(unpadded, device="cpu", scales=(0.5, 1.0), flip=True)(image, probabilities=True)
    refined = Predictor(unpadded, device="cpu", scales=(0.5, 1.0), flip=True, crf=options)(image, probabilities=True)
    expected = dense_crf(plain.probabilities, image, options=options)
    assert np.array_equal(refined.probabilities, expected)
    assert np.array_equal(refined.mask, expected.argmax(axis=0))
    authors = Predictor(unpadded, device="cpu", protocol=SMALL, crf=options)(image)
    assert authors.probabilities is None


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    return untrained(path, ClassInfo(("ground", "sky", "square", "void")), seed=0)


def test_evaluate_prints_and_writes_all_that_repeats_the_number(refineseg, monkeypatch, model, tmp_path):
    root = write_folder(tmp_path / "data", splits={"train": 1, "val": 2}, size=(20, 28))
    (root / "classes.txt").write_text("ground\nsky\nsquare\n")
    call = ("evaluate", "--model", model, "--data", f"folder:{root}", "--out", tmp_path / "o", "--json")
    options = ("--scales", "0.5,1", "--flip", "--crf", "--device", "cpu")
    status, out, err = refineseg(*call, tmp_path / "a.json", *options)
    assert status == 0, err
    assert "predicted with: protocol light_weight, scales 0.5, 1, flip, CRF, float32" in out
    written = json.loads((tmp_path / "a.json").read_text())
    assert (written["scales"], written["flip"], written["precision"]) == ([0.5, 1.0], True, "float32")
    assert written["scoring_protocol"]["name"] == "light_weight"
    assert written["crf"]["num_iterations"] == 10
    assert written["mean_iou_definition"] == "in_truth"
    assert set(written["mean_iou_by_definition"]) == {"in_truth", "in_truth_or_prediction", "absent_counts_one"}
    assert np.array(written["confusion_matrix"]).shape == (3, 4)
    monkeypatch.setitem(SCORING_VIEWS, "authors", SMALL)
    options = ("--protocol", "authors", "--enlargement", 1.5, "--scales", "0.8", "--device", "cpu")
    status, out, err = refineseg(*call, tmp_path / "b.json", *options)
    assert status == 0, err
    assert "protocol authors, scales 0.8, short side 24..40 pixels, enlargement 1.5, float32" in out
    written = json.loads((tmp_path / "b.json").read_text())
    expected = {"name": "authors", "enlarged": "log_probabilities_cubic", "short_side": [24, 40], "enlargement": 1.5}
    assert written["scoring_protocol"] == expected
    assert written["crf"] is None


def test_predict_takes_the_same_options(refineseg, model, tmp_path):
    from PIL import Image

    Image.fromarray(_image(20, 28)).save(tmp_path / "a.png")
    call = ("predict", tmp_path / "a.png", "--model", model, "--save", "mask,probabilities", "--device", "cpu")
    for index, options in enumerate([("--scales", "0.5,1.5", "--flip"), ("--protocol", "light_weight_v1", "--crf")]):
        out = tmp_path / f"out{index}"
        status, _, err = refineseg(*call, "--out", out, *options)
        assert status == 0, err
        with np.load(out / "a_probabilities.npz") as written:
            assert np.abs(written["probabilities"].astype(float).sum(axis=0) - 1).max() < 5e-3
    status, _, err = refineseg(*call, "--out", tmp_path, "--scales", "0")
    assert status == 2
    assert "expected 1 to 16 scales" in err
