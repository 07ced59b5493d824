"""What people see and keep of a prediction: its line, what a notebook shows, its files, its regions."""

import base64
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, MissingExtraError
from refineseg.prediction import Prediction

CLASSES = ClassInfo(("sky", "<b>road</b>", "car"), ((0, 0, 200), (90, 90, 90), (200, 0, 0)))


@pytest.fixture
def prediction():
    """Half road, a quarter sky, an eighth car, an eighth unknown."""
    mask = np.full((40, 80), 1, np.uint8)
    mask[:10], mask[30:, :40], mask[30:, 40:] = 0, 2, 255
    return Prediction(np.full((40, 80, 3), 100, np.uint8), mask, CLASSES)


def opened(content):
    return Image.open(io.BytesIO(content))


def test_shares_have_the_names_of_the_classes_and_the_largest_is_first(prediction):
    assert list(prediction.shares.items()) == [("<b>road</b>", 0.5), ("sky", 0.25), ("car", 0.125)]


def test_its_line_is_short_whatever_its_size(prediction):
    assert repr(prediction) == "<Prediction 40x80: <b>road</b> 50.0 %, sky 25.0 %, car 12.5 %>"
    many = ClassInfo(tuple(f"class {i}" for i in range(9)))
    large = Prediction(np.zeros((90, 90, 3), np.uint8), np.repeat(np.arange(9), 10)[:, None].repeat(90, 1), many)
    assert repr(large).endswith("class 2 11.1 %, 6 more>")
    void = Prediction(np.zeros((2, 2, 3), np.uint8), np.full((2, 2), 255, np.uint8), CLASSES)
    assert repr(void) == "<Prediction 2x2: nothing is known>"


def test_a_notebook_shows_the_overlay_and_the_shares_by_name(prediction):
    text = prediction._repr_html_()
    assert re.findall(r"<td>([\d.]+ %)</td>", text) == ["50.0 %", "25.0 %", "12.5 %", "12.5 %"]
    assert text.index("&lt;b&gt;road") < text.index("sky") < text.index("car") < text.index("unknown")
    assert "<b>" not in text
    assert "rgb(200, 0, 0)" in text
    shown = np.asarray(opened(base64.b64decode(re.search(r"base64,([^\"]+)", text)[1])).convert("RGB")).astype(int)
    height, width = shown.shape[:2]
    assert width == 3 * 80  # a tiny image is enlarged
    corner = shown[-height // 8, width // 8]
    assert abs(corner - (150, 50, 50)).max() < 12  # half the image, half the colour of a car
    assert abs(shown[-height // 8, -width // 8] - 100).max() < 12  # unknown pixels stay as they are


def test_pictures_have_a_legend_and_a_size_for_the_eye(prediction):
    assert opened(prediction._repr_png_()).format == "PNG"
    assert opened(prediction._repr_png_()).size[1] > 3 * 40
    large = Prediction(np.zeros((3000, 1500, 3), np.uint8), np.zeros((3000, 1500), np.uint8), CLASSES)
    width, height = opened(large._repr_png_()).size
    assert (width, height > 750) == (375, True)
    tall = Prediction(np.zeros((5, 6, 1), np.uint8), np.zeros((5, 6), np.uint8), CLASSES)
    assert opened(tall._repr_png_()).mode == "RGB"


def test_the_ending_of_a_name_says_what_is_saved(prediction, tmp_path):
    for name in ("mask.PNG", "overlay.jpg", "regions.geojson"):
        prediction.save(tmp_path / name)
    with Image.open(tmp_path / "mask.PNG") as mask:
        np.testing.assert_array_equal(np.asarray(mask), prediction.mask)
    with Image.open(tmp_path / "overlay.jpg") as overlay:
        assert overlay.size[1] > 40  # with its legend
    features = json.loads((tmp_path / "regions.geojson").read_text())["features"]
    assert sorted(f["properties"]["area"] for f in features) == [400, 800, 1600]
    with pytest.raises(ConfigError, match=r"ending in \.png, \.jpg, .*, got .*mask\.bmp"):
        prediction.save(tmp_path / "mask.bmp")
    with pytest.raises(ConfigError, match="probabilities=True"):
        prediction.save(str(tmp_path / "scores.npz"))
    assert len(list(tmp_path.iterdir())) == 3


def test_polygons_are_regions_with_their_class_and_area(prediction):
    regions = prediction.polygons(simplify=0)
    assert {(r.class_index, r.area, r.polygon.area) for r in regions} == {(0, 800, 800), (1, 1600, 1600), (2, 400, 400)}
    assert [r.area for r in prediction.polygons(smallest_area=500) if r.class_index == 2] == []


def test_supervision_gets_one_detection_per_class(prediction):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    found = prediction.to_supervision()
    assert isinstance(found, supervision.Detections)
    assert found.class_id.tolist() == [1, 0, 2]
    assert found["class_name"].tolist() == ["<b>road</b>", "sky", "car"]
    assert found.mask.sum(axis=(1, 2)).tolist() == [1600, 800, 400]
    np.testing.assert_array_equal(found.xyxy, [[0, 10, 79, 29], [0, 0, 79, 9], [0, 30, 39, 39]])
    assert found.confidence is None
    sure = Prediction(prediction.image, prediction.mask, CLASSES, confidence=np.full((40, 80), 0.75, np.float32))
    assert sure.to_supervision().confidence.tolist() == [0.75] * 3
    void = Prediction(prediction.image, np.full((40, 80), 255, np.uint8), CLASSES)
    assert len(void.to_supervision()) == 0


def test_without_supervision_its_extra_is_named(prediction, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtraError, match=r"refineseg\[supervision\]"):
        prediction.to_supervision()


def test_what_a_person_does_with_a_prediction_needs_no_torch(tmp_path):
    code = (
        "import sys, numpy, refineseg\n"
        "made = refineseg.Prediction(numpy.zeros((30, 40, 3), 'uint8'), numpy.zeros((30, 40), 'uint8'),\n"
        "                            refineseg.ClassInfo(('a', 'b')))\n"
        "repr(made), made._repr_html_(), made._repr_png_(), made.shares, made.polygons()\n"
        f"for ending in ('png', 'jpg', 'geojson'): made.save({str(tmp_path / 'a')!r} + '.' + ending)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert len(list(tmp_path.iterdir())) == 3
