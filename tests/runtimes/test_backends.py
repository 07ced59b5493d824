"""Exported files and runtimes: the same masks as the model, at any size, and nothing damaged is accepted."""

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import refineseg
from conftest import call, imported_by_a_prediction
from fakes.exports import least, tiny
from fakes.scenes import fake_camvid
from refineseg.bench.end_to_end import bench_folder
from refineseg.bench.timing import example_images
from refineseg.data.datasets import open_dataset
from refineseg.errors import ConfigError, ImageSizeError, ModelFileError
from refineseg.export.acceptance import Acceptance, Tolerance, compare
from refineseg.export.files import accept_file, calibration_images, export_file
from refineseg.export.options import ExportOptions
from refineseg.networks.fused import enlarged_class_map
from refineseg.predict.files import FilePredictor as Predictor
from refineseg.predict.options import PredictorOptions
from refineseg.predict.views.crf_options import CrfOptions
from refineseg.runtimes import quantisation
from refineseg.runtimes.description import Description
from refineseg.runtimes.graph import export_program
from refineseg.runtimes.onnx_runtime import OnnxScorer
from refineseg.runtimes.open import check_backend, open_exported
from refineseg.runtimes.openvino_runtime import write_openvino_model
from refineseg.runtimes.quantisation import quantised
from refineseg.runtimes.table import BACKENDS, OUTPUTS
from refineseg.scoring import Scorer
from refineseg.terminal.printing import Terminal

CPU = torch.device("cpu")
SIZES = [(1, 1), (32, 32), (33, 50), (64, 97)]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return fake_camvid(tmp_path_factory.mktemp("camvid"))


@pytest.mark.parametrize("num_classes", [2, 11, 300])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (16, 24)])
def test_classes_found_at_the_logits_size_are_those_of_the_enlarged_logits(size, num_classes):
    logits = torch.randn(2, num_classes, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    large = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
    top = large.topk(2, dim=1).values
    clear = top[:, 0] - top[:, 1] > 1e-9
    found = enlarged_class_map(logits, 4)
    assert torch.equal(found.long()[clear], large.argmax(1)[clear])
    assert found.shape == large[:, 0].shape


def test_what_a_file_cannot_take_is_said_before_its_runtime_fails(exported, monkeypatch):
    """ONNX Runtime and traced programs raise errors of their own, compiled code would read other memory."""
    _, files = exported
    for path in files.values():
        scorer = open_exported(path, backend="auto", device=CPU, precision="float32")
        with pytest.raises(ConfigError, match=r"expected uint8 pixels of shape \(N, 3, H, W\) for .*, got .*1, 4, 40"):
            scorer.class_map(example_images(1, 4, (40, 50)))
        monkeypatch.setattr(
            getattr(scorer, "_program", scorer), "description", replace(scorer.description, size_hw=(40, 50))
        )
        with pytest.raises(ConfigError, match="expected one image at a time .* got 2; leave out --batch-size"):
            scorer.class_map(example_images(2, 3, (40, 50)))
        with pytest.raises(ConfigError, match="expected images of 40x50 pixels .* got 50x40"):
            scorer.class_map(example_images(1, 3, (50, 40)))
    with pytest.raises(ConfigError, match=r"expected images of at least 33x33 pixels for .*net.pt2, got 32x90"):
        open_exported(files["torch"], backend="auto", device=CPU, precision="float32").logits(
            example_images(1, 3, (32, 90))
        )


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_gpu_that_does_not_start_is_no_cpu(exported, monkeypatch):
    """ONNX Runtime goes on without a word; here the same, by saying that it was built for CUDA."""
    places = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: places)
    for device in ("cuda:1", "tensorrt"):
        with pytest.raises(ConfigError, match=rf"expected ONNX Runtime to compute on {device}, but .*did not start"):
            OnnxScorer(exported[1]["onnx"], device=device)


def test_a_file_runs_where_this_package_is_not(exported, tmp_path):
    """A script with nothing but onnxruntime and numpy gets the same class map."""
    segmenter, files = exported
    images = example_images(2, 3, (40, 56))
    np.save(tmp_path / "images.npy", images.numpy())
    script = (
        "import sys, numpy as np, onnxruntime as ort\n"
        f"s = ort.InferenceSession({str(files['onnx'])!r})\n"
        f"y = s.run(['class_map'], {{'images': np.load({str(tmp_path / 'images.npy')!r})}})[0]\n"
        f"np.save({str(tmp_path / 'classes.npy')!r}, y)\n"
        "assert 'refineseg' not in sys.modules and 'torch' not in sys.modules\n"
        "import json; print(json.loads(s.get_modelmeta().custom_metadata_map['refineseg'])['class_info']['names'])\n"
    )
    run = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert "pedestrian" in run.stdout
    with torch.no_grad():
        expected = segmenter(images).argmax(1).numpy()
    classes = np.load(tmp_path / "classes.npy")
    assert classes.dtype == np.uint8
    assert np.mean(classes == expected) > 0.999


@pytest.mark.slow
def test_the_first_mask_of_an_exported_file_needs_no_pytorch(exported, tmp_path):
    """Importing it takes longer than all the rest."""
    found = imported_by_a_prediction(tmp_path, exported[1]["onnx"])
    assert "onnxruntime" in found
    assert not found & {"torch", "timm", "torchvision", "onnx", "scipy", "matplotlib", "jaxtyping"}


@pytest.mark.slow
def test_a_file_of_one_size_refuses_others(scenes, tmp_path, monkeypatch, capsys):
    """Exported by the command line, accepted by it, and then damaged."""
    segmenter, data = tiny(), f"camvid:{scenes}"
    segmenter.save(tmp_path / "net.safetensors")
    path = tmp_path / "files" / "fixed.onnx"
    arguments = ("export", "--model", tmp_path / "net.safetensors", "--out", path, "--size", "40x56", "--accept", data)
    status, out, err = call(monkeypatch, capsys, *arguments)
    assert status == 0, err
    assert f"accepted: {path}" in out
    assert sorted(file.name for file in path.parent.iterdir()) == ["fixed.onnx", "fixed.onnx.acceptance.json"]
    report = json.loads((path.parent / "fixed.onnx.acceptance.json").read_text())
    assert report["accepted"]
    assert report["agreement"] > 0.9999
    scorer = open_exported(path, backend="auto", device=CPU, precision="float32")
    assert scorer.class_map(example_images(1, 3, (40, 56))).shape == (1, 40, 56)
    with pytest.raises(ConfigError, match="expected images of 40x56 pixels .* got 32x50"):
        scorer.class_map(example_images(1, 3, (32, 50)))
    with pytest.raises(ConfigError, match="gives class_map; export it with --outputs"):
        scorer.logits(example_images(1, 3, (40, 56)))
    check = ("export", "--model", tmp_path / "net.safetensors", "--out", path, "--accept", data, "--check")
    assert call(monkeypatch, capsys, *check)[0] == 0
    damaged(path, path)
    status, out, err = call(monkeypatch, capsys, *check)
    assert status == 1
    assert "refused: " in err
    assert "accepted:" not in out
    assert not json.loads((path.parent / "fixed.onnx.acceptance.json").read_text())["accepted"]


def test_an_export_that_differs_does_not_get_its_name(scenes, exported, tmp_path, monkeypatch, capsys):
    _, files = exported
    monkeypatch.setattr("refineseg.export.files.export_file", lambda _, path, __, **___: damaged(files["onnx"], path))
    model, path = files["onnx"].with_name("net.safetensors"), tmp_path / "bad.onnx"
    status, _, err = call(
        monkeypatch, capsys, "export", "--model", model, "--out", path, "--accept", f"camvid:{scenes}"
    )
    assert status == 1
    assert "refused: " in err
    assert [file.name for file in tmp_path.iterdir()] == ["bad.onnx.acceptance.json"]
    status, _, err = call(monkeypatch, capsys, "export", "--out", path, "--check")
    assert status == 2
    assert "expected --accept NAME:ROOT with --check" in err


def test_a_report_is_that_of_the_file_beside_it(scenes, exported, tmp_path, monkeypatch):
    segmenter, files = exported
    good, out, data = files["onnx"].read_bytes(), tmp_path / "net.onnx", f"camvid:{scenes}"

    def report():
        return json.loads((tmp_path / "net.onnx.acceptance.json").read_text())

    monkeypatch.setattr("refineseg.export.files.export_file", lambda _, path, __, **___: path.write_bytes(good))
    segmenter.train()
    try:
        assert refineseg.export(out, model=segmenter, accept=data).is_accepted
        assert segmenter.training, "the caller's model stays as it is"
    finally:
        segmenter.eval()
    assert report()["sha256"] == hashlib.sha256(good).hexdigest()
    monkeypatch.setattr("refineseg.export.files.export_file", lambda _, path, __, **___: damaged(files["onnx"], path))
    assert not refineseg.export(out, model=segmenter, accept=data).is_accepted
    assert out.read_bytes() == good
    assert report()["sha256"] != hashlib.sha256(good).hexdigest()
    refineseg.export(out, model=segmenter)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


def test_a_file_keeps_its_kind_whatever_its_name_is(exported, tmp_path):
    names = (tmp_path / "NET.ONNX", Path(os.fsdecode(os.fsencode(tmp_path) + b"/n\xff.onnx")))
    for path in names:
        shutil.copy(exported[1]["onnx"], path)
        for backend in (None, "openvino"):
            scorer = open_exported(path, backend=backend, device=CPU, precision="float32")
            assert scorer.class_map(example_images(1, 3, (40, 56))).shape == (1, 40, 56)


def test_words_of_precision_are_checked_everywhere(exported, scenes):
    _, files = exported
    for word in ("float16", "int8", "nonsense"):
        for backend in ("auto", "openvino", None):
            with pytest.raises(ConfigError, match=rf"expected a precision of .*float32, bfloat16.*, got '?{word}"):
                check_backend(backend, precision=word, device=CPU)
    with pytest.raises(ConfigError, match=r"expected the precision of .*net.onnx, which is float32, got int8"):
        bench_folder(str(files["onnx"]), scenes / "val", device="cpu", precision="int8", rounds=1)


def test_precision_is_lowered_only_where_it_is_said(exported):
    segmenter, files = exported
    images = example_images(1, 3, (64, 64))
    single = open_exported(files["onnx"], backend="openvino", device=CPU, precision="float32").logits(images)
    with torch.no_grad():
        assert float((single - segmenter(images)).abs().max()) < 1e-4
    assert check_backend("auto", precision="bfloat16", device=CPU) in ("openvino", "torch")
    with pytest.raises(ConfigError, match="expected a precision of onnxruntime"):
        check_backend("onnxruntime", precision="bfloat16", device=CPU)
    with pytest.raises(ConfigError, match="expected a backend of auto, openvino"):
        check_backend("opnvino", precision="float32", device=CPU)
    with pytest.raises(ConfigError, match="expected a device of openvino"):
        check_backend("openvino", precision="float32", device=torch.device("cuda"))
    assert set(BACKENDS) >= {"torch", "onnxruntime", "openvino"}


def test_files_of_others_and_damaged_files_are_refused(exported, tmp_path):
    import onnx

    plain = onnx.load(exported[1]["onnx"])
    del plain.metadata_props[:]
    onnx.save(plain, tmp_path / "plain.onnx")
    for name, content, message in (
        ("plain.onnx", None, "expected a file that refineseg exported"),
        ("cut.onnx", exported[1]["onnx"].read_bytes()[:1000], "expected an ONNX file"),
        ("cut.pt2", exported[1]["torch"].read_bytes()[:1000], "expected a program of torch.export"),
        ("cut.xml", b"<net", "expected an OpenVINO file"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ModelFileError, match=message):
            open_exported(path, backend="auto", device=CPU, precision="float32")
    with pytest.raises(ConfigError, match="there is no"):
        open_exported(tmp_path / "none.onnx", backend="auto", device=CPU, precision="float32")
    with pytest.raises(ConfigError, match=r"expected a file of openvino \(.xml\)"):
        open_exported(exported[1]["torch"], backend="openvino", device=CPU, precision="float32")


def test_models_that_resize_as_matlab_does_are_exported_for_one_size():
    segmenter = tiny()
    segmenter.spec = replace(segmenter.spec, preprocessing=replace(segmenter.spec.preprocessing, input_scale=1.2))
    with pytest.raises(ConfigError, match="expected a fixed size"):
        export_program(segmenter)
    program = export_program(segmenter, size_hw=(40, 40)).module()
    images = example_images(1, 3, (40, 40))
    with torch.no_grad():
        torch.testing.assert_close(program(images)[1], segmenter(images), atol=1e-4, rtol=1e-4)


def damaged(path, target):
    """A copy of an ONNX file with one convolution's filters changed a little."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    values = numpy_helper.to_array(weight).copy()
    values[: len(values) // 8] *= -1
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, target)


def accepted(segmenter, path, scenes):
    options = {"dataset": open_dataset("camvid", scenes, split="val"), "tolerance": Tolerance.of("float32")}
    return accept_file(segmenter, path, **options, data="scenes", console=Terminal(stderr=True))


@pytest.mark.parametrize("file_format", ["onnx", "openvino", pytest.param("torch", marks=pytest.mark.slow)])
def test_a_faithful_file_is_accepted(scenes, exported, file_format):
    segmenter, files = exported
    assert not accepted(segmenter, files[file_format], scenes).complaints


def test_a_damaged_file_is_refused(scenes, exported, tmp_path):
    segmenter, files = exported
    damaged(files["onnx"], tmp_path / "bad.onnx")
    bad = accepted(segmenter, tmp_path / "bad.onnx", scenes)
    assert bad.complaints
    assert bad.worst_image in " ".join(bad.complaints)


def test_predict_and_evaluate_take_exported_files_and_name_the_backend(scenes, exported, tmp_path, monkeypatch, capsys):
    _, files = exported
    model = files["onnx"].with_name("net.safetensors")
    masks, numbers = {}, {}
    for name, path in (("torch", model), ("onnxruntime", files["onnx"]), ("openvino", files["openvino"])):
        out = tmp_path / name
        status, _, err = call(
            monkeypatch, capsys, "predict", scenes / "val", "--model", path, "--out", out, "--save", "mask",
            "--json", out / "predict.json",
        )  # fmt: skip
        assert status == 0, err
        assert json.loads((out / "predict.json").read_text())["options"]["backend"] == name
        masks[name] = [np.asarray(Image.open(file)) for file in sorted(out.glob("*.png"))]
        status, text, _ = call(
            monkeypatch, capsys, "evaluate", "--data", f"camvid:{scenes}", "--model", path, "--out", out,
            "--json", out / "scores.json",
        )  # fmt: skip
        assert status == 0, text
        numbers[name] = json.loads((out / "scores.json").read_text())
        assert numbers[name]["backend"] == name
        assert numbers[name]["precision"] == "float32"
    for name in ("onnxruntime", "openvino"):
        same = np.mean([np.mean(a == b) for a, b in zip(masks[name], masks["torch"], strict=True)])
        assert same > 0.9999
        assert numbers[name]["mean_iou"] == pytest.approx(numbers["torch"]["mean_iou"], abs=1e-3)


def test_what_needs_the_network_itself_says_so(scenes, exported, tmp_path, monkeypatch, capsys):
    _, files = exported
    for arguments, message in (
        (
            (scenes / "val", "--model", files["onnx"], "--prove"),
            "expected --backend torch and a model file for --prove",
        ),
        ((scenes / "val", "--model", files["onnx"], "--tile", "64"), "expected --tile only with --backend torch"),
        (
            (scenes / "val", "--model", files["onnx"], "--protocol", "authors"),
            "a model file with the protocol authors",
        ),
        ((scenes / "val", "--backend", "opnvino"), "expected a backend of auto, openvino"),
        ((scenes / "val", "--backend", "torch_export"), "expected an exported file (.pt2) for torch_export"),
        ((scenes / "val", "--model", files["torch"], "--backend", "openvino"), "expected a file of openvino (.xml)"),
        ((scenes / "val", "--model", files["onnx"], "--precision", "bfloat16"), "expected a precision of onnxruntime"),
        ((scenes / "val", "--backend", "tensorrt", "--device", "cpu"), "expected a device of tensorrt (cuda), got cpu"),
    ):
        status, _, err = call(monkeypatch, capsys, "predict", *arguments, "--out", tmp_path / "out")
        assert status == 2, err
        assert message in " ".join(err.split())
    raster = next(iter((scenes / "val").iterdir()))
    opened = PredictorOptions.parse().opened(str(files["onnx"]))
    with pytest.raises(
        ConfigError, match=r"expected --backend torch and a model file for a raster, .* got onnxruntime"
    ):
        opened.needs_inner("a raster")
    with pytest.raises(ConfigError, match="expected a predictor of a segmenter"):
        Predictor(opened.scorer).raster(raster, tmp_path / "classes.tif")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["auto", "onnxruntime"])
def test_a_model_file_is_exported_in_memory_for_another_backend(exported, backend):
    segmenter, files = exported
    opened = PredictorOptions.parse(backend=backend).opened(str(files["onnx"].with_name("net.safetensors")))
    assert opened.backend == ("openvino" if backend == "auto" else backend)
    assert opened.precision == "float32"
    images = example_images(1, 3, (40, 57))
    with torch.no_grad():
        torch.testing.assert_close(opened.scorer.logits(images), segmenter(images), atol=1e-4, rtol=1e-4)


def test_export_refuses_wrong_words(exported, tmp_path):
    segmenter, _ = exported
    with pytest.raises(ConfigError, match="expected --format onnx, openvino, torch, got 'trt'"):
        ExportOptions.parse("trt", "class_map", None)
    with pytest.raises(ConfigError, match="expected --outputs of class_map, logits, got mask"):
        ExportOptions.parse("onnx", "mask", None)
    with pytest.raises(ConfigError, match="expected a file name ending in .onnx for --format onnx"):
        export_file(segmenter, tmp_path / "net.xml", ExportOptions("onnx"))


def test_the_report_counts_what_an_independent_comparison_counts(exported):
    """Two scorers whose masks are known."""

    class Fixed(Scorer):
        class_info = exported[0].class_info

        def __init__(self, wrong):
            self.wrong = wrong

        def logits(self, images):
            raise NotImplementedError

        def class_map(self, images):
            classes = torch.zeros(1, *images.shape[2:], dtype=torch.int64)
            classes[:, : self.wrong] = 1
            return classes

    class Images:
        class_info = exported[0].class_info
        notes = ()

        def __len__(self):
            return 2

        def name(self, index):
            return f"image {index}"

        def read_mask(self, index):
            return None

        def __getitem__(self, index):
            height = 10 * (index + 1)
            image = np.zeros((height, 4, 3), np.uint8)
            return refineseg.Sample(image, np.zeros((height, 4), np.uint8), f"image {index}")

    found = compare(Fixed(0), Fixed(3), Images(), data="two", tolerance=Tolerance())
    assert found.agreement == pytest.approx(1 - 6 / 30)
    assert (found.worst_image, found.worst_agreement) == ("image 0", pytest.approx(0.7))
    assert found.model_mean_iou == 1
    assert found.file_mean_iou == pytest.approx(0.8)
    assert len(found.complaints) == 3
    assert isinstance(found, Acceptance)

    class Joined(Images):  # of two splits, which have names of their own
        def __getitem__(self, index):
            return replace(super().__getitem__(index), name="0001")

    found = compare(Fixed(0), Fixed(3), Joined(), data="two", tolerance=Tolerance())
    assert (found.num_images, found.worst_agreement) == (2, pytest.approx(0.7))

    class Void(Images):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return replace(sample, mask=np.full_like(sample.mask, self.class_info.ignore_index))

    found = compare(Fixed(0), Fixed(0), Void(), data="two", tolerance=Tolerance())
    assert (found.model_mean_iou, found.complaints) == (None, ())


def test_the_description_survives_its_file():
    spec = tiny().spec
    description = Description(spec, ("class_map",), "float32", (32, 64))
    found = Description.from_text(description.to_text(), Path("x"))
    assert found.to_text() == description.to_text()  # also the version that wrote it, which a spec in memory lacks
    assert (found.outputs, found.precision, found.size_hw) == (("class_map",), "float32", (32, 64))
    assert found.spec.class_info == spec.class_info
    with pytest.raises(ModelFileError, match="which is damaged"):
        Description.from_text('{"format": 1}', Path("x"))
    for size in ("[1e999, 3]", "[-1, -1]", "[0, 0]", "[2.5, 3]", "[true, 3]", "[3]", "[3, 3, 3]", '"33"', "7"):
        text = description.to_text().replace("[32, 64]", size)
        with pytest.raises(ModelFileError, match="which is damaged"):
            Description.from_text(text, Path("x"))


def largest_whole_numbers(model):
    """Of each 8-bit filter its largest value, without the sign."""
    constants = [operation for operation in model.get_ordered_ops() if operation.get_type_name() == "Constant"]
    eight_bit = [constant.get_data() for constant in constants if constant.get_element_type() == openvino.Type.i8]
    return [int(np.abs(values.astype(int)).max()) for values in eight_bit if values.ndim == 4]


def exported_model(segmenter, folder):
    path = folder / "net.safetensors"
    segmenter.save(path)
    return path


@pytest.mark.slow
def test_quantised_files_keep_their_masks_and_say_what_they_are(exported, scenes, tmp_path, monkeypatch, capsys):
    """Also through the command line: acceptance of the file by its own tolerance, evaluation that names 8 bits."""
    segmenter, files = exported
    description = Description(segmenter.spec, OUTPUTS, "int8")
    model = openvino.Core().read_model(str(files["openvino"]))
    images = calibration_images(f"camvid:{scenes}", split="train", num_images=2)
    assert [image.shape for image in images] == [(40, 56, 3)] * 2
    smaller = quantised(model, description, images)
    assert capsys.readouterr() == ("", "")
    operations = [operation.get_type_name() for operation in smaller.get_ordered_ops()]
    assert operations.count("FakeQuantize") > 20
    assert "FakeQuantize" not in operations[-10:]
    largest = largest_whole_numbers(smaller)
    assert len(largest) > 10
    # two products of an input of 8 bits, 0..255, and a filter's value have to fit into 16 bits on older processors
    assert 2 * 255 * max(largest) < 2**15
    path = tmp_path / "net8.xml"
    write_openvino_model(smaller, path)
    assert path.with_suffix(".bin").stat().st_size < 0.6 * files["openvino"].with_suffix(".bin").stat().st_size
    opened = PredictorOptions.parse().opened(str(path))
    assert (opened.backend, opened.precision) == ("openvino", "int8")
    batch = example_images(1, 3, (64, 96))
    with torch.no_grad():
        logits = segmenter(batch)
    error = (opened.scorer.logits(batch) - logits).abs().mean() / logits.std()
    assert 0 < float(error) < 0.2
    status, _, err = call(
        monkeypatch, capsys, "export", "--model", exported_model(segmenter, tmp_path), "--out", tmp_path / "strict.xml",
        "--precision", "int8", "--calibrate", f"camvid:{scenes}", "--calibrate-agreement", "0", "--accept",
        f"camvid:{scenes}", "--agreement", "1",
    )  # fmt: skip
    assert (status, "--calibrate-agreement nearer to 1 keeps more layers" in " ".join(err.split())) == (1, True)
    status, _, _ = call(
        monkeypatch, capsys, "evaluate", "--data", f"camvid:{scenes}", "--model", path, "--out", tmp_path,
        "--json", tmp_path / "scores.json",
    )  # fmt: skip
    assert status == 0
    numbers = json.loads((tmp_path / "scores.json").read_text())
    assert (numbers["backend"], numbers["precision"], numbers["measurement_protocol"]["precision"]) == (
        "openvino",
        "int8",
        "int8",
    )


@pytest.mark.slow
def test_layers_that_change_too_many_classes_stay_in_floating_point(exported, scenes):
    """Compared with PyTorch, which the search does not know; a file of all layers in 8 bits misses the limit."""
    segmenter, files = exported
    model = openvino.Core().read_model(str(files["openvino"]))
    images = calibration_images(f"camvid:{scenes}", split="train", num_images=2)
    told, shares, filters = [], [], []
    for agreement in (0.0, 0.988):
        made = quantised(
            model, Description(segmenter.spec, OUTPUTS, "int8"), images, agreement=agreement, tell=told.append
        )
        compiled = openvino.compile_model(made, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        same = []
        for image in images:
            pixels = np.ascontiguousarray(image.transpose(2, 0, 1))[None]
            with torch.no_grad():
                classes = segmenter(torch.from_numpy(pixels)).argmax(1).numpy()
            same.append(np.mean(compiled(pixels)[OUTPUTS.index("class_map")] == classes))
        shares.append(np.mean(same))
        filters.append(len(largest_whole_numbers(made)))
    assert shares[0] < 0.988 <= shares[1]
    assert 0 < filters[1] < filters[0]
    assert [text for text in told if "8 bits keep the class of" in text]
    eight_bits, convolutions = map(int, re.match(r"(\d+) of (\d+) convolutions have 8 bits", told[-1]).groups())
    assert filters[1] <= eight_bits < convolutions - 2


@pytest.mark.slow
def test_a_search_that_is_given_up_says_so(exported, scenes, monkeypatch, caplog):
    segmenter, files = exported
    monkeypatch.setattr(quantisation, "_LONGEST_S", -1.0)
    model = openvino.Core().read_model(str(files["openvino"]))
    images = calibration_images(f"camvid:{scenes}", split="train", num_images=2)
    with caplog.at_level(logging.WARNING, logger="refineseg"):
        quantised(model, Description(segmenter.spec, OUTPUTS, "int8"), images, agreement=1.0)
    assert "expected 100 % (calibrate_agreement)" in caplog.text


def test_layers_that_were_not_tried_in_time_rank_behind_those_that_were(exported):
    segmenter, files = exported
    model = openvino.Core().read_model(str(files["openvino"]))
    images = [np.full((40, 56, 3), value, np.uint8) for value in range(20)]
    comparison = quantisation._Comparison(model, Description(segmenter.spec, OUTPUTS, "int8"), images, 0.98, print)
    assert np.shares_memory(comparison.samples[0][0], images[0])  # large images are not held twice
    comparison._begun_s = time.monotonic() - 2 * quantisation._LONGEST_S

    def computed(_):
        raise AssertionError("computed after the time was up")

    assert comparison(computed, comparison.samples[:8]) == (0.0, [0.0] * 8)
    assert comparison(computed, comparison.samples) == (1.0, [1.0] * 20)


def test_quantisation_refuses_what_it_cannot_do(scenes, monkeypatch, capsys, tmp_path):
    data = f"camvid:{scenes}"
    int8 = ("--precision", "int8", "--calibrate", data, "--format", "openvino", "--out", tmp_path / "net.xml")
    for arguments, message in (
        (("--precision", "int8"), "expected --precision int8 and --calibrate NAME:ROOT together"),
        (("--calibrate", data), "expected --precision int8 and --calibrate NAME:ROOT together"),
        (("--precision", "int4"), "expected a precision of float32, int8"),
        (("--precision", "int8", "--calibrate", data, "--images", "0"), "expected --images of at least 1, got 0"),
        (("--precision", "int8", "--calibrate", data), "expected --format openvino with --precision int8, got onnx"),
        ((*int8, "--calibrate-agreement", "98"), "expected --calibrate-agreement of at most 1, got 98"),
        ((*int8, "--size", "8x8"), "expected images of (8, 8) pixels"),
    ):
        status, _, err = call(monkeypatch, capsys, "export", "--out", tmp_path / "net.onnx", *arguments)
        assert status != 0
        assert message in " ".join(err.split())
    assert not list(tmp_path.iterdir())


def test_calibration_looks_for_images_that_fit(monkeypatch):
    """Of 40 images every third has the size."""
    shapes = [(8, 8, 3) if index % 3 == 1 else (6, 9, 3) for index in range(40)]
    samples = [refineseg.Sample(np.full(shape, i, np.uint8), None, str(i)) for i, shape in enumerate(shapes)]
    monkeypatch.setattr("refineseg.export.files.open_sources", lambda *_, **__: samples)
    for asked, expected in ((5, 5), (13, 13), (40, 13)):
        found = calibration_images("any", split="train", num_images=asked, size_hw=(8, 8))
        assert [image.shape for image in found] == [(8, 8, 3)] * expected
        assert len({int(image[0, 0, 0]) for image in found}) == expected
    assert len(calibration_images("any", split="train", num_images=5)) == 5


def test_what_cannot_be_exported_is_refused_before_it_is_traced(monkeypatch, tmp_path):
    grey = refineseg.build("refineseg_nano", num_classes=3, in_channels=1)
    calibration = (np.zeros((8, 8, 3), np.uint8),)
    with pytest.raises(ConfigError, match="expected a model of 3 channels, as the calibration images have, got one of"):
        export_file(grey, tmp_path / "m.xml", ExportOptions("openvino", calibration=calibration))
    for dtype in (torch.float16, torch.float64):
        with pytest.raises(ConfigError, match=f"expected a segmenter in single precision, torch.float32, got {dtype}"):
            refineseg.export(tmp_path / "m.onnx", model=tiny().to(dtype))
    zeros = torch.zeros

    def full(*shape, **options):
        if options.get("dtype") is torch.uint8:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return zeros(*shape, **options)

    monkeypatch.setattr(torch, "zeros", full)
    with pytest.raises(ConfigError, match="expected a size that fits into memory, got 7x9 pixels; choose less"):
        export_program(tiny(), size_hw=(7, 9))


def resizing(scale=0.5):
    segmenter = tiny()
    preprocessing = replace(segmenter.spec.preprocessing, input_scale=scale)
    segmenter.spec = replace(segmenter.spec, preprocessing=preprocessing)
    return segmenter


def test_auto_takes_pytorch_where_no_other_runtime_can_run_the_model():
    """Models of large photographs reduce them in front of the network: no file of theirs takes every size."""
    opened = PredictorOptions.parse(device="cpu", backend="auto").opened(resizing())
    assert opened.backend == "torch"
    authors = PredictorOptions.parse(device="cpu", backend="auto", protocol="authors")
    assert authors.open(tiny()).class_info == tiny().class_info
    assert PredictorOptions.parse(device="cpu", backend="auto").opened(least()).backend == "openvino"
    with pytest.raises(
        ConfigError, match="expected --backend torch or auto for a model that resizes images .* openvino"
    ):
        PredictorOptions.parse(device="cpu", backend="openvino").opened(resizing())


def test_images_that_do_not_fit_a_file_cost_a_line_each(tmp_path):
    refineseg.export(tmp_path / "m.onnx", model=tiny(), size=(40, 56))
    for name, size_hw in {"a": (40, 56), "b": (32, 50), "c": (40, 56)}.items():
        Image.fromarray(np.zeros((*size_hw, 3), np.uint8)).save(tmp_path / f"{name}.png")
    result = refineseg.predict(tmp_path, tmp_path / "out", model=tmp_path / "m.onnx", save="mask")
    assert result.done == 2
    assert len(result.failures) == 1
    assert "b.png: expected images of 40x56 pixels" in result.failures[0]
    record = (tmp_path / "out" / ".refineseg.json").read_bytes()
    for wrong, message in (
        ({"save": "mask,confidence"}, "gives logits"),
        ({"save": "probabilities"}, "gives logits"),
        ({"save": "polygons"}, "gives logits"),
        ({"save": "mask", "unknown_below": 0.5}, "gives logits"),
        ({"save": "mask", "flip": True}, "gives logits"),
        ({"save": "mask", "crf": True}, "gives logits"),
        ({"save": "mask", "batch_size": 2}, "one image at a time"),
    ):
        with pytest.raises(ConfigError, match=message):
            refineseg.predict(tmp_path, tmp_path / "out", model=tmp_path / "m.onnx", **wrong)
        assert (tmp_path / "out" / ".refineseg.json").read_bytes() == record, wrong
    assert refineseg.predict(tmp_path, tmp_path / "out", model=tmp_path / "m.onnx", save="mask", resume=True).done == 0


def test_what_a_file_does_with_no_image_is_refused_before_one_is_read():
    fixed = Description(tiny().spec, OUTPUTS, "float32", (40, 56))
    usual = {"scored": False, "resized": False, "batch_size": 1}
    fixed.check_use("m.onnx", **usual | {"scored": True})
    with pytest.raises(ConfigError, match="expected images at their own size for m.onnx"):
        fixed.check_use("m.onnx", **usual | {"resized": True})
    with pytest.raises(ConfigError, match="expected one image at a time for m.onnx"):
        fixed.check_use("m.onnx", **usual | {"batch_size": 2})
    replace(fixed, size_hw=None).check_use("m.onnx", scored=True, resized=True, batch_size=4)
    with pytest.raises(ImageSizeError, match="export without --size"):
        fixed.check("logits", "uint8", (1, 3, 40, 57), "m.onnx")
    reduces = replace(fixed.spec, preprocessing=replace(fixed.spec.preprocessing, input_scale=0.5))
    reducing = replace(fixed, spec=reduces)  # which cannot be exported without --size
    for wrong in ({"resized": True}, {"batch_size": 2}):
        with pytest.raises(ConfigError, match=r"or use the model file \(\.safetensors\), which takes every size"):
            reducing.check_use("m.onnx", **usual | wrong)
    with pytest.raises(ImageSizeError, match="resize the images, or use the model file"):
        reducing.check("logits", "uint8", (1, 3, 40, 57), "m.onnx")
    grey = refineseg.build("refineseg_nano", num_classes=3, in_channels=1)
    with pytest.raises(ConfigError, match="expected a model of RGB images for a CRF"):
        Predictor(grey, device="cpu", crf=CrfOptions())


def test_a_file_of_logits_alone_gives_classes_too(tmp_path):
    refineseg.export(tmp_path / "m.onnx", model=tiny(), outputs="logits", size=(40, 56))
    images = example_images(1, 3, (40, 56))
    scorer = open_exported(tmp_path / "m.onnx", backend=None, device=CPU, precision="float32")
    assert torch.equal(scorer.class_map(images), scorer.logits(images).argmax(1))


def test_models_of_four_channels_run_in_every_runtime(tmp_path):
    segmenter = refineseg.build("refineseg_nano", num_classes=3, in_channels=4).eval()
    image = np.random.default_rng(0).integers(0, 256, (33, 50, 4), np.uint8)
    refineseg.export(tmp_path / "m.onnx", model=segmenter, size=(33, 50))
    predictors = [refineseg.Predictor(segmenter, device="cpu")]
    predictors += [
        refineseg.Predictor(tmp_path / "m.onnx", device="cpu", backend=backend)
        for backend in ("openvino", "onnxruntime")
    ]
    masks = [predictor(image).mask for predictor in predictors]
    assert all((mask == masks[0]).mean() > 0.999 for mask in masks)
    assert predictors[1](image).overlay(legend=False).shape == (33, 50, 3)
