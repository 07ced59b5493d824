"""Exported files as models of the service: what a file does not give, one request is refused, and no other."""

import io

import numpy as np
import pytest
from PIL import Image

import refineseg as package
from fakes.services import photograph, png, running
from refineseg.serve.limits import RequestLimits

HW = (48, 64)


@pytest.fixture(scope="module")
def class_map_file(model, tmp_path_factory):
    """A file for one size that gives nothing but the class map."""
    path = tmp_path_factory.mktemp("exported") / "m.onnx"
    package.export(path, model=model, size=HW)
    return str(path)


@pytest.fixture(scope="module")
def service(model, class_map_file):
    with running({"file": class_map_file, "tiny": model}, RequestLimits(memory_bytes=300_000_000)) as found:
        yield found


def test_a_file_for_one_size_that_gives_classes_only_is_served(service, model):
    assert service.call("GET", "/readyz").status == 200
    image = photograph(HW)
    reply = service.segment(png(image), "model=file")
    assert reply.status == 200, reply.body
    expected = package.Predictor(model, device="cpu")(image).mask
    assert (np.asarray(Image.open(io.BytesIO(reply.body))) == expected).mean() > 0.999


@pytest.mark.parametrize(
    ("size_hw", "query", "words"),
    [(HW, "output=confidence", "gives logits"), ((40, 40), "output=mask", "expected images of 48x64 pixels")],
)
def test_what_the_file_does_not_give_is_refused_and_other_models_answer(service, size_hw, query, words):
    reply = service.segment(png(photograph(size_hw)), f"model=file&{query}")
    assert (reply.status, words in reply.json["error"]) == (422, True), reply.body
    assert service.segment(png(photograph(size_hw)), f"model=tiny&{query}").status == 200


def test_an_image_that_is_seen_whole_must_fit_into_the_memory(service):
    """Scales and mirror images are not cut into tiles: maps of 600 bytes and scores of 3 classes for each pixel."""
    content = png(np.zeros((800, 801, 3), np.uint8))
    assert service.segment(content, "model=tiny").status == 200
    for query in ("flip=true", "scales=0.9"):
        reply = service.segment(content, f"model=tiny&{query}")
        assert (reply.status, "at most 454545 pixels where it is not cut" in reply.json["error"]) == (413, True)
        assert service.segment(png(photograph()), f"model=tiny&{query}").status == 200
