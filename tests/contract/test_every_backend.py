"""What every backend must do: the masks of the model, for one call and for several at once."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from refineseg.bench.timing import example_images
from refineseg.errors import ConfigError
from refineseg.predict.predictor import Predictor
from refineseg.predict.views.tiling import TilingOptions
from refineseg.runtimes.compiler import why_not
from refineseg.runtimes.open import open_model
from refineseg.runtimes.table import BACKENDS, SUFFIXES, check_fits

CPU = torch.device("cpu")
SIZES = [(1, 1), (32, 32), (33, 50), (64, 97)]
SLOW = ("torch_export", "torch_compile")


@pytest.fixture(scope="module", params=[pytest.param(b, marks=[pytest.mark.slow] * (b in SLOW)) for b in BACKENDS])
def opened(request, exported):
    """The network in a backend, from a file of its own where it reads one."""
    segmenter, files = exported
    name = request.param
    if not BACKENDS[name].is_installed:
        pytest.skip(f"{name} is not installed")
    if "cpu" not in BACKENDS[name].devices:
        pytest.skip("no CUDA device here")
    if name == "torch_compile" and (reason := why_not(CPU)):
        pytest.skip(f"no compiler here: {reason}")
    paths = {SUFFIXES[path.suffix]: path for path in files.values()}
    model = open_model(str(paths.get(name, files["onnx"].with_suffix(".safetensors"))), backend=name, device="cpu")
    assert (model.backend, model.precision) == (name, "float32")
    return model, segmenter


def test_a_backend_gives_the_models_logits_and_classes_at_any_size_and_batch(opened):
    model, segmenter = opened
    assert model.class_info == segmenter.class_info
    for size in SIZES if model.backend not in SLOW else [(33, 50), (64, 97)]:
        for batch in (1, 3):
            images = example_images(batch, 3, size)
            with torch.no_grad():
                logits = segmenter(images)
            torch.testing.assert_close(model.logits(images), logits, atol=1e-4, rtol=1e-4)
            clear = logits.topk(2, dim=1).values.diff(dim=1)[:, 0].abs() > 1e-3
            assert torch.equal(model.class_map(images)[clear].long(), logits.argmax(1)[clear])


def test_a_backend_predicts_like_the_model_file(opened):
    model, segmenter = opened
    image = example_images(1, 3, (60, 90))[0].permute(1, 2, 0).numpy()
    expected = Predictor(segmenter, device="cpu")(image, probabilities=True)
    found = Predictor(model.scorer)(image, probabilities=True)
    assert np.mean(found.mask == expected.mask) > 0.999
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)


def in_four_threads(predictor, sizes):
    """Several images at once and one after the other: equal to the bit."""
    images = [example_images(1, 3, size)[0].permute(1, 2, 0).numpy() for size in sizes]
    alone = [predictor(image, confidence=True) for image in images]
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda image: predictor(image, confidence=True), images * 4))
    for found, expected in zip(at_once, alone * 4, strict=True):
        assert found.mask.tobytes() == expected.mask.tobytes()
        assert found.confidence.tobytes() == expected.confidence.tobytes()


def test_four_threads_share_a_predictor(opened):
    in_four_threads(Predictor(opened[0].scorer), [(40, 57), (33, 50), (64, 97), (70, 64)])


def test_four_threads_share_a_predictor_that_cuts_tiles(exported):
    """Each image is traced, beside others that are computed with the same network."""
    in_four_threads(
        Predictor(exported[0], device="cpu", tiling=TilingOptions(tile=64)), [(90, 64), (50, 50), (64, 150)]
    )


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_refuses_other_precisions_and_devices(name):
    for precision in BACKENDS[name].precisions:
        check_fits(name, precision=precision, device="auto")
    with pytest.raises(ConfigError, match=f"expected a precision of {name} "):
        check_fits(name, precision="float16", device="auto")
    with pytest.raises(ConfigError, match=f"expected a device of {name} "):
        check_fits(name, precision="float32", device="tpu")


@pytest.mark.parametrize("verb", ["predict", "evaluate", "serve"])
def test_every_backend_is_named_in_the_help(verb, refineseg):
    found = refineseg(verb, "--help").out
    assert [name for name in BACKENDS if name not in found] == []


def test_every_backend_says_how_it_is_installed():
    """All but PyTorch, which is always there."""
    assert [name for name, backend in BACKENDS.items() if not backend.extra and backend.packages != ("torch",)] == []
