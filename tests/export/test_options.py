"""What an export lacks is said before a model is read or traced."""

import importlib.util

import pytest

import refineseg
from refineseg.errors import MissingExtraError, ModelFileError


def without(package, patch):
    find = importlib.util.find_spec
    patch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))


@pytest.mark.parametrize(
    ("package", "out", "words", "extra"),
    [
        ("onnx", "net.onnx", {}, "onnx"),
        ("onnxscript", "net.xml", {"file_format": "openvino"}, "openvino"),
        ("openvino", "net.xml", {"file_format": "openvino"}, "openvino"),
        ("nncf", "net.xml", {"file_format": "openvino", "precision": "int8", "calibrate": "camvid:."}, "openvino"),
    ],
)
def test_a_missing_package_is_named_before_the_model_is_read(package, out, words, extra, tmp_path, monkeypatch):
    model = tmp_path / "net.safetensors"
    model.write_bytes(b"no model")
    with monkeypatch.context() as patch:
        without(package, patch)
        with pytest.raises(MissingExtraError, match=rf"expected the package {package} to write .*refineseg\[{extra}\]"):
            refineseg.export(tmp_path / out, model=model, **words)


@pytest.mark.parametrize(
    ("package", "out", "file_format"), [("onnxruntime", "a.onnx", "onnx"), ("onnx", "a.pt2", "torch")]
)
def test_a_package_that_only_others_need_is_not_asked_for(package, out, file_format, tmp_path, monkeypatch):
    model = tmp_path / "net.safetensors"
    model.write_bytes(b"no model")
    without(package, monkeypatch)
    with pytest.raises(ModelFileError):
        refineseg.export(tmp_path / out, model=model, file_format=file_format)
