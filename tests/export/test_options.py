"""What an export lacks is said before a model is read or traced."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import refineseg
from refineseg.errors import ConfigError, ImageSizeError, MissingExtraError, ModelFileError
from refineseg.export.options import ExportOptions
from refineseg.files.writing import folder_beside


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 64}, "expected a size"),
        ({"size": ("32", "32")}, "expected a size"),
        ({"size": (64,)}, "expected a size"),
        ({"size": (32, 32, 3)}, "expected a size"),
        ({"size": (0, 0)}, "expected a size"),
        ({"size": np.array([[3, 4], [5, 6]])}, "expected a size"),
        ({"size": (2.0, 3.0)}, "expected a size"),
        ({"images": 2.5}, "expected int as images"),
        ({"images": "8"}, "expected int as images"),
        ({"agreement": "0.5"}, "expected float | None as agreement"),
        (
            {"file_format": "onnx"},
            "expected a file name ending in .onnx for --format onnx, got .*net.xml; leave --form",
        ),
    ],
)
def test_values_of_another_kind_are_refused(options, message, tmp_path):
    with pytest.raises(ConfigError, match=message.replace("|", "[|]")):
        refineseg.export(tmp_path / "net.xml", model=tmp_path / "none.safetensors", **options)


@pytest.mark.parametrize("size", [(32, 48), [32, 48], np.array([32, 48]), "32x48", None])
def test_sizes_of_every_kind_are_taken(size, tmp_path):
    model = tmp_path / "net.safetensors"
    model.write_bytes(b"no model")
    with pytest.raises(ModelFileError, match="net.safetensors"):
        refineseg.export(tmp_path / "net.xml", model=model, size=size)


def test_the_ending_says_the_format():
    for path, file_format in (("a.onnx", "onnx"), ("a.xml", "openvino"), ("a.pt2", "torch")):
        assert ExportOptions.parse(None, "class_map", None, path=Path(path)).file_format == file_format
    with pytest.raises(ConfigError, match="expected a file name ending in .onnx, .xml, .pt2 as --out, got a.trt"):
        ExportOptions.parse(None, "class_map", None, path=Path("a.trt"))


def test_weights_beside_an_xml_file_need_their_name_too(tmp_path):
    (tmp_path / "b.bin").mkdir()
    model = tmp_path / "net.safetensors"
    model.write_bytes(b"no model")
    with pytest.raises(ConfigError, match=r"got .*b.bin, which is a folder"):
        refineseg.export(tmp_path / "b.xml", model=model)


def test_what_fails_in_a_temporary_folder_names_the_file_as_it_will_be_called(tmp_path):
    with (
        pytest.raises(ImageSizeError, match=rf"^expected more of {tmp_path}/net.pt2$"),
        folder_beside(tmp_path / "net.pt2") as folder,
    ):
        raise ImageSizeError(f"expected more of {folder / 'net.pt2'}")


def test_a_file_in_capitals_can_be_checked_but_not_written():
    assert ExportOptions.parse(None, "class_map", None, path=Path("NET.ONNX")).file_format == "onnx"
    with pytest.raises(ConfigError, match="expected a file name ending in .onnx"):
        ExportOptions("onnx").check_path(Path("NET.ONNX"))
