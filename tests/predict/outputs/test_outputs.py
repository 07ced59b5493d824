"""What a prediction is written as: files that other programs read, with the values they state."""

import csv
import json
import pickle

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, OutputError
from refineseg.predict.outputs.areas import Areas, area_table
from refineseg.predict.outputs.kinds import Outputs, as_integers, write_prediction
from refineseg.predict.predictor import Predictor
from refineseg.predict.views.tiling import TilingOptions
from refineseg.prediction import Prediction
from refineseg.scoring import Scorer
from refineseg.segmenter import load

CLASSES = ClassInfo(("sky", "straße", "tree"), ((1, 2, 3), (40, 50, 60), (7, 8, 9)))


class Lightness(Scorer):
    """Scores a pixel by its three channels: the class is the largest of them."""

    class_info = CLASSES

    def logits(self, images):
        return images.float() / 32

    def class_map(self, images):
        return self.logits(images).argmax(dim=1)


@pytest.fixture
def image():
    return np.random.default_rng(3).integers(0, 256, (11, 17, 3), dtype=np.uint8)


@pytest.fixture
def prediction(image):
    return Predictor(Lightness())(image, probabilities=True)


def softmax(image):
    powers = np.exp(image.astype(np.float64) / 32)
    return (powers / powers.sum(axis=2, keepdims=True)).transpose(2, 0, 1)


def test_confidence_is_the_largest_probability_with_and_without_all_of_them(image, prediction):
    expected = softmax(image).max(axis=0)
    assert np.abs(prediction.confidence - expected).max() < 1e-6
    alone = Predictor(Lightness())(image, confidence=True)
    assert alone.probabilities is None
    np.testing.assert_array_equal(alone.confidence, prediction.confidence)
    assert Predictor(Lightness())(image).confidence is None


def test_pixels_below_a_confidence_become_void_in_mask_overlay_and_areas(image, prediction):
    expected = softmax(image)
    unsure = prediction.unknown_below(0.8)
    void = expected.max(axis=0) < 0.8
    assert void.any()
    assert not void.all()
    np.testing.assert_array_equal(unsure.mask, np.where(void, 255, expected.argmax(axis=0)))
    np.testing.assert_array_equal(unsure.overlay(legend=False)[void], image[void])
    assert unsure.areas.tolist() == [int(((expected.argmax(axis=0) == k) & ~void).sum()) for k in range(3)]
    assert sum(unsure.shares.values()) == pytest.approx(1 - void.mean())
    np.testing.assert_array_equal(prediction.unknown_below(0.0).mask, prediction.mask)


def test_void_that_does_not_fit_into_8_bits_makes_the_mask_wider():
    classes = ClassInfo(tuple(map(str, range(256))), ignore_index=65535)
    sure = np.array([[0.2, 0.9]], np.float32)
    mask = np.array([[255, 254]], np.uint8)
    wide = Prediction(np.zeros((1, 2, 3), np.uint8), mask, classes, confidence=sure).unknown_below(0.5)
    assert wide.mask.tolist() == [[65535, 254]]


def test_unknown_pixels_need_a_confidence_and_a_probability(image):
    plain = Predictor(Lightness())(image)
    with pytest.raises(ConfigError, match=r"expected a prediction with confidence, got one without; ask for it"):
        plain.unknown_below(0.5)
    with pytest.raises(ConfigError, match=r"expected a confidence 0\.\.1 below which pixels are unknown, got 60"):
        plain.unknown_below(60.0)


def test_images_in_a_batch_are_predicted_as_by_themselves(image):
    predictor = Predictor(Lightness())
    images = [image, image[::-1].copy(), 255 - image]
    for alone, together in zip(map(predictor, images), predictor.batch(images, confidence=True), strict=True):
        np.testing.assert_array_equal(alone.mask, together.mask)
        np.testing.assert_array_equal(alone.image, together.image)
    with pytest.raises(
        ConfigError, match=r"expected images of one shape in a batch, got \[\(3, 3, 3\), \(11, 17, 3\)\]"
    ):
        predictor.batch([image, image[:3, :3]])


@pytest.mark.parametrize(("kind", "mode", "largest"), [("png8", "L", 255), ("png16", "I;16", 65535)])
def test_a_confidence_map_states_its_scale_and_keeps_it(tmp_path, image, prediction, kind, mode, largest):
    [path] = write_prediction(prediction, tmp_path / "a.b", Outputs.parse("confidence", confidence_format=kind))
    assert path.name == "a.b_confidence.png"
    with Image.open(path) as stored:
        assert stored.mode == mode
        assert stored.text["Description"] == f"probability of the likeliest class; {largest} = 1"
        values = np.asarray(stored).astype(np.float64) / largest
    assert np.abs(values - softmax(image).max(axis=0)).max() <= 0.5 / largest + 1e-6


@pytest.mark.parametrize(("kind", "largest"), [("tiff8", 255), ("tiff16", 65535)])
def test_a_confidence_map_can_be_a_tiff(tmp_path, image, prediction, kind, largest):
    [path] = write_prediction(prediction, tmp_path / "a", Outputs.parse("confidence", confidence_format=kind))
    with tifffile.TiffFile(path) as stored:
        assert stored.pages[0].description.endswith(f"{largest} = 1")
        values = stored.pages[0].asarray() / largest
    assert np.abs(values - softmax(image).max(axis=0)).max() <= 0.5 / largest + 1e-6


def test_probabilities_as_a_tiff_have_a_16_bit_page_per_chosen_class(tmp_path, image, prediction):
    outputs = Outputs.parse("probabilities", probability_format="tiff", classes="tree, straße")
    [path] = write_prediction(prediction, tmp_path / "a", outputs)
    expected = softmax(image)
    with tifffile.TiffFile(path) as stored:
        pages = [(json.loads(page.description), page.asarray()) for page in stored.pages]
    assert [facts for facts, _ in pages] == [
        {"class": "tree", "index": 2, "probability_1": 65535},
        {"class": "straße", "index": 1, "probability_1": 65535},
    ]
    for facts, values in pages:
        assert values.dtype == np.uint16
        assert np.abs(values / 65535 - expected[facts["index"]]).max() <= 0.5 / 65535 + 1e-6


def test_probabilities_as_arrays_hold_the_chosen_classes(tmp_path, image, prediction):
    [path] = write_prediction(prediction, tmp_path / "a", Outputs.parse("probabilities", classes="straße"))
    with np.load(path) as stored:
        assert stored["classes"].tolist() == ["straße"]
        assert np.abs(stored["probabilities"].astype(np.float64) - softmax(image)[1:2]).max() < 1e-3


def test_polygons_of_an_image_cover_as_many_pixels_as_their_class(tmp_path, prediction):
    [path] = write_prediction(prediction, tmp_path / "a", Outputs.parse("polygons", simplify=0.0))
    collection = json.loads(path.read_text())
    areas = dict.fromkeys(CLASSES.names, 0.0)
    for feature in collection["features"]:
        outer, *holes = feature["geometry"]["coordinates"]
        areas[feature["properties"]["class"]] += abs(shoelace(outer)) - sum(abs(shoelace(hole)) for hole in holes)
    assert [areas[name] for name in CLASSES.names] == prediction.areas.tolist()


def shoelace(ring):
    x, y = np.array(ring).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def test_integers_are_rounded_to_the_nearest_and_stay_in_range():
    values = np.array([0.0, 0.4 / 255, 0.6 / 255, 1.0, 1.0000001], np.float32)
    assert as_integers(values, bits=8).tolist() == [0, 0, 1, 255, 255]
    assert as_integers(values, bits=16).tolist()[-2:] == [65535, 65535]


def test_what_cannot_be_written_is_an_error_that_names_the_file(tmp_path, prediction):
    (tmp_path / "file").write_text("")
    for save in ("probabilities", "confidence"):
        with pytest.raises(OutputError, match=rf"expected to write .*file.a_{save}.*; choose a folder"):
            write_prediction(prediction, tmp_path / "file" / "a", Outputs.parse(save))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_wrong_words_are_refused():
    wrong = {
        r"with some of mask, overlay, probabilities, confidence, polygons, got depth": {"save": "mask,depth"},
        r"with some of mask, .*, got none": {"save": ","},
        r"expected a probability format of npz, tiff, got 'png'": {"probability_format": "png"},
        r"expected a confidence format of png8, png16, tiff8, tiff16, got 'jpg'": {"confidence_format": "jpg"},
        r"expected a probability 0\.\.1 below which pixels are unknown, got 60": {"unknown_below": 60.0},
    }
    for message, words in wrong.items():
        with pytest.raises(ConfigError, match=message):
            Outputs.parse(**words)
    with pytest.raises(ConfigError, match=r"expected classes of sky, straße, tree, got road"):
        Outputs.parse("probabilities", classes="sky,road").chosen_classes(CLASSES)


# ---------------------------------------------------------------------------------------------------------------- areas

ROWS = {"a, b.jpg": Areas(10, np.array([3, 2, 1])), "c.jpg": Areas(4, np.array([0, 4, 0]))}


def test_areas_as_csv_have_a_row_per_image_and_a_total(tmp_path):
    path = tmp_path / "areas.csv"
    with area_table(path, CLASSES) as table:
        for name, areas in ROWS.items():
            table.add(name, areas)
        assert not path.exists(), "a table has its name when it is complete"
    with path.open(encoding="utf-8", newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["a, b.jpg", "c.jpg", "total"]
    assert [rows["total"][f"{name} pixels"] for name in CLASSES.names] == ["3", "6", "1"]
    assert rows["a, b.jpg"]["unknown"] == "4"
    assert float(rows["total"]["straße share"]) == pytest.approx(6 / 14, abs=1e-6)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_areas_as_json_are_json_whatever_their_number(tmp_path, count):
    path = tmp_path / "areas.json"
    with area_table(path, CLASSES) as table:
        for name, areas in list(ROWS.items())[:count]:
            table.add(name, areas)
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["classes"] == list(CLASSES.names)
    assert [row["image"] for row in stored["images"]] == list(ROWS)[:count]
    assert stored["total"]["pixels"] == [0, 10, 14][count]
    assert stored["total"]["areas"] == [[0, 0, 0], [3, 2, 1], [3, 6, 1]][count]


def test_an_interrupted_table_leaves_nothing_and_another_ending_is_refused(tmp_path):
    def interrupted() -> None:
        with area_table(tmp_path / "areas.csv", CLASSES):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(ConfigError, match=r"expected --areas FILE ending in \.csv or \.json, got .*areas\.txt"):
        area_table(tmp_path / "areas.txt", CLASSES).__enter__()
    assert not list(tmp_path.iterdir())


def test_probabilities_of_a_batch_belong_to_their_images():
    torch.manual_seed(0)
    images = [np.random.default_rng(i).integers(0, 256, (5, 6, 3), dtype=np.uint8) for i in range(3)]
    for image, found in zip(images, Predictor(Lightness()).batch(images, probabilities=True), strict=True):
        assert np.abs(found.probabilities - softmax(image)).max() < 1e-6


def test_a_predictor_is_pickled_and_predicts_the_same(model, image):
    """As processes and engines hand it on; its tiles, too."""
    predictor = Predictor(load(model), tiling=TilingOptions(tile=32))
    again = pickle.loads(pickle.dumps(predictor))
    large = np.tile(image, (5, 4, 1))
    assert predictor.cuts(large.shape[:2])
    np.testing.assert_array_equal(again(large).mask, predictor(large).mask)
    np.testing.assert_array_equal(again(image).mask, predictor(image).mask)
