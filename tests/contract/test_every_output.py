"""What every kind of output must do."""

import io
import json

import numpy as np
import pytest

from conftest import REPOSITORY
from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError
from refineseg.predict.outputs.kinds import KINDS, Outputs, encode, write_prediction
from refineseg.prediction import Prediction

FORMATS = {"probabilities": "probability_format", "confidence": "confidence_format", "polygons": "polygon_format"}
CASES = [(kind, form) for kind in KINDS for form in KINDS[kind].endings]


def prediction(**without):
    """Three classes over 11x17 pixels, with the probabilities that they have."""
    rng = np.random.default_rng(3)
    scores = rng.random((3, 11, 17), np.float32)
    scores /= scores.sum(axis=0)
    image = rng.integers(0, 256, (11, 17, 3), np.uint8)
    given = {"probabilities": scores, "confidence": scores.max(axis=0), **without}
    return Prediction(image, scores.argmax(axis=0).astype(np.uint8), ClassInfo(("sky", "straße", "tree")), **given)


@pytest.mark.parametrize(("kind", "form"), CASES)
def test_a_kind_gives_the_bytes_of_its_file(kind, form, tmp_path):
    """Without a path, the same bytes each time."""
    outputs = Outputs((kind,), **({FORMATS[kind]: form} if form else {}))
    (path,) = write_prediction(prediction(), tmp_path / "a", outputs)
    assert path == tmp_path / f"a{KINDS[kind].endings[form]}"
    for _ in range(2):
        content = bytes(encode(prediction(), kind, outputs, name="a"))
        if path.suffix == ".npz":  # whose members carry the time
            with np.load(io.BytesIO(content)) as made, np.load(path) as written:
                np.testing.assert_array_equal(made["probabilities"], written["probabilities"])
        else:
            assert content == path.read_bytes()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].needs and kind != "polygons"])
def test_a_kind_says_what_it_needs(kind):
    needed = KINDS[kind].needs
    with pytest.raises(ConfigError, match=rf"expected a prediction with {needed} for {kind}, .* {needed}=True"):
        encode(prediction(probabilities=None, confidence=None), kind)


def test_polygons_without_a_confidence_state_none():
    plain, sure = (
        json.loads(bytes(encode(one, "polygons")))
        for one in (prediction(probabilities=None, confidence=None), prediction())
    )
    shapes = [[feature["geometry"] for feature in found["features"]] for found in (plain, sure)]
    assert shapes[0] == shapes[1]
    assert ["mean_confidence" in json.dumps(one) for one in (plain, sure)] == [False, True]


def test_a_word_that_is_no_kind_is_refused():
    with pytest.raises(ConfigError, match="expected a kind of mask, overlay, .* got 'masks'"):
        encode(prediction(), "masks")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_on_its_page(kind):
    page = (REPOSITORY / "docs" / "predict.md").read_text(encoding="utf-8")
    for ending in KINDS[kind].endings.values():
        assert ending in page or kind in page


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_named_in_the_help(kind, refineseg):
    assert kind in refineseg("predict", "--help").out
