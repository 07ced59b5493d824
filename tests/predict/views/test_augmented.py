"""Scales and mirror images against means taken by hand, with other libraries' resizing."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.transform import resize

from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError
from refineseg.predict.predictor import Predictor
from refineseg.predict.views.augmented import mean_probabilities, scaled_images
from refineseg.predict.views.scoring_views import check_scales, parse_scales
from refineseg.scoring import Scorer
from refineseg.segmenter import build


def _image(height, width, *, seed=0):
    """Blocks of 4x4 pixels, so that resizing blurs and does not only average noise."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (-(-height // 4), -(-width // 4), 3), dtype=np.uint8)
    return blocks.repeat(4, 0).repeat(4, 1)[:height, :width].copy()


def _batch(image):
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]


def _resized(image, height, width):
    """Pillow's antialiased bicubic of each channel, rounded once."""
    channels = [
        np.asarray(Image.fromarray(c.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC))
        for c in image.transpose(2, 0, 1)
    ]
    return np.stack(channels, axis=2).round().clip(0, 255).astype(np.uint8)


class Slanted(Scorer):
    """A scorer without a network: logits from a pixel's colour and its column, so that mirroring matters."""

    class_info = ClassInfo(("a", "b", "c"))

    def __init__(self):
        self.seen = []

    def logits(self, images):
        assert images.dtype == torch.uint8
        self.seen.append(tuple(images.shape[2:]))
        return images.float() / 40 * torch.linspace(0.5, 1.5, images.shape[3])

    def class_map(self, images):
        return self.logits(images).argmax(dim=1)


def _by_hand(image, scales, flip):
    """Mean of the probabilities: Pillow resizes the image, scikit-image the logits, numpy does the rest."""
    height, width = image.shape[:2]
    maps = []
    for scale in scales:
        view = image if scale == 1 else _resized(image, round(height * scale), round(width * scale))
        for seen in (view, view[:, ::-1]) if flip else (view,):
            logits = seen.astype(np.float64) / 40 * np.linspace(0.5, 1.5, seen.shape[1])[None, :, None]
            logits = logits if seen is view else logits[:, ::-1]
            logits = resize(logits, (height, width), order=1, mode="edge", anti_aliasing=False)
            exponential = np.exp(logits - logits.max(axis=2, keepdims=True))
            maps.append(exponential / exponential.sum(axis=2, keepdims=True))
    return np.mean(maps, axis=0).transpose(2, 0, 1)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [(1.0,), (0.5,), (0.5, 1.0, 1.5), (0.4, 0.6, 0.8, 1.0, 1.2)])
def test_the_mean_is_that_of_all_views_taken_by_hand(scales, flip):
    image, scorer = _image(37, 53), Slanted()
    prediction = Predictor(scorer, scales=scales, flip=flip)(image, probabilities=True)
    expected = _by_hand(image, scales, flip)
    assert np.abs(prediction.probabilities - expected).max() < 1e-5
    assert np.abs(prediction.probabilities.sum(axis=0) - 1).max() < 1e-5
    assert np.array_equal(prediction.mask, prediction.probabilities.argmax(axis=0))
    sizes = [(round(37 * scale), round(53 * scale)) for scale in scales]
    assert scorer.seen == [size for size in sizes for _ in range(2 if flip else 1)]


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    return build("refinenet_lw_mobilenetv2", num_classes=4)


def test_one_view_of_own_size_gives_the_very_bits_of_the_segmenter(segmenter):
    image = _image(33, 50)
    with torch.inference_mode():
        logits = segmenter(_batch(image))
    for options in ({}, {"scales": (1.0,), "flip": False, "protocol": "light_weight"}):
        predictor = Predictor(segmenter, device="cpu", **options)
        assert np.array_equal(predictor(image).mask, logits.argmax(1)[0].numpy())
        probabilities = predictor(image, probabilities=True).probabilities
        assert np.array_equal(probabilities, logits.softmax(1)[0].numpy())


def test_a_mirrored_image_gives_the_mirrored_result_with_flip(segmenter):
    image = _image(64, 96)  # multiples of 32, so that nothing is padded on one side only
    predictor = Predictor(segmenter, device="cpu", scales=(0.5, 1.0), flip=True)
    straight = predictor(image, probabilities=True).probabilities
    mirrored = predictor(image[:, ::-1].copy(), probabilities=True).probabilities
    assert np.abs(straight - mirrored[:, :, ::-1]).max() < 1e-5
    assert np.array_equal(straight, predictor(image, probabilities=True).probabilities)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 9), (5, 3)])
def test_images_of_a_few_pixels_have_all_views(segmenter, size_hw):
    predictor = Predictor(segmenter, device="cpu", scales=(0.1, 1.0, 2.0), flip=True)
    assert predictor(_image(*size_hw)).mask.shape == size_hw


def test_resized_pixels_are_whole_and_close_to_pillows():
    image = _image(40, 60)
    for scale in (0.5, 0.75, 1.25, 2.0):
        ours = scaled_images(_batch(image), scale)
        assert ours.dtype == torch.uint8
        expected = _resized(image, round(40 * scale), round(60 * scale)).astype(int)
        difference = np.abs(ours[0].numpy().transpose(1, 2, 0) - expected)
        assert difference.max() <= 1
        assert difference.mean() < 1e-3  # only halves go up in one and down in the other
    same = _batch(image)
    assert scaled_images(same, 1.0) is same


@pytest.mark.parametrize(
    ("scales", "shown"),
    [((), "none"), ((0.0,), "0"), ((1.0, -0.5), "1, -0.5"), ((float("nan"),), "nan"), ((float("inf"),), "inf"),
     ((9.0,), "9"), ((1.0,) * 17, "1, 1")],
)  # fmt: skip
def test_scales_that_cannot_be_are_refused(scales, shown):
    with pytest.raises(ConfigError, match=f"expected 1 to 16 scales, each above 0 and at most 8, got {shown}"):
        check_scales(scales)
    with pytest.raises(ConfigError, match="expected 1 to 16 scales"):
        Predictor(Slanted(), scales=scales)
    with pytest.raises(ConfigError, match="expected 1 to 16 scales"):
        mean_probabilities(Slanted().logits, _batch(_image(4, 4)), scales=scales, flip=False)


def test_scales_are_read_from_numbers_with_commas():
    assert parse_scales("0.5,1, 1.5") == (0.5, 1.0, 1.5)
    with pytest.raises(
        ConfigError, match="expected --scales as numbers with commas, for instance 0.5,1,1.5, got '1;2'"
    ):
        parse_scales("1;2")
    with pytest.raises(ConfigError, match="got none"):
        parse_scales("")
