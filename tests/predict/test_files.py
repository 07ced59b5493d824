"""The public predictor: a model by name, file or object; an image in whatever it is held."""

import numpy as np
import pytest
import torch
from PIL import Image

import refineseg
from refineseg.errors import ConfigError, ModelFileError
from refineseg.images.reading import Reading
from refineseg.predict import files
from refineseg.predict.views.tiling import TilingOptions

RGBA = np.random.default_rng(2).integers(0, 256, (30, 40, 4), dtype=np.uint8)
RGBA[:7, :, 3] = 0


def test_names_files_segmenters_and_scorers_give_one_mask(model, tmp_path):
    image = RGBA[..., :3]
    segmenter = refineseg.load(model)
    expected = segmenter(torch.from_numpy(image.copy()).permute(2, 0, 1)[None])[0].argmax(0).numpy()
    for named in (model, segmenter, refineseg.Predictor(model, device="cpu")._scorer):
        np.testing.assert_array_equal(refineseg.Predictor(named, device="cpu")(image).mask, expected)
    assert refineseg.Predictor("camvid_nano", device="cpu").class_info.names[0] == "sky"
    with pytest.raises(ModelFileError, match="expected a shipped model"):
        refineseg.Predictor("camvidd")
    with pytest.raises(ConfigError, match="with the backend openvino, got Segmenter"):
        refineseg.Predictor(segmenter, backend="openvino")


def test_an_image_gives_one_mask_however_it_is_held(model, tmp_path):
    """Void where it is transparent, as the command line has it."""
    path = tmp_path / "a.png"
    Image.fromarray(RGBA).save(path)
    predictor = refineseg.Predictor(model, device="cpu")
    [(_, streamed)] = predictor.stream([path])
    assert (streamed.mask[:7] == 255).all()
    for held in (RGBA, path, str(path), Image.open(path), torch.from_numpy(RGBA.copy()).permute(2, 0, 1)):
        found = predictor(held, confidence=True)
        np.testing.assert_array_equal(found.mask, streamed.mask)
        assert (found.confidence[:7] == 0).all()
    grey = predictor(RGBA[..., 0]).mask
    np.testing.assert_array_equal(grey, predictor(RGBA[..., :1].repeat(3, axis=2)).mask)
    deep = RGBA[..., :3].astype(np.uint16) * 16
    scaled = predictor(deep, reading=Reading(value_range=(0, 4080)))
    np.testing.assert_array_equal(scaled.mask, predictor(RGBA[..., :3]).mask)


def test_a_raster_is_cut_as_the_predictor_was_told(monkeypatch):
    seen = []
    monkeypatch.setattr(files, "predict_raster", lambda *paths, **options: seen.append(options["tiling"]))
    bounded, other = TilingOptions(memory_bytes=10**9), TilingOptions(64)
    predictor = refineseg.Predictor(refineseg.build("refineseg_nano", num_classes=2), device="cpu", tiling=bounded)
    predictor.raster("a.tif", "b.tif")
    predictor.raster("a.tif", "b.tif", tiling=other)
    assert seen == [bounded, other]
