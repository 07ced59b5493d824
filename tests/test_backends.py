"""Exported files and runtimes: the same masks as the model, at any size, and nothing damaged is accepted."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

import refineseg
from refineseg.acceptance import Acceptance, Tolerance, compare
from refineseg.backends.description import Description
from refineseg.backends.graph import OUTPUTS, export_program
from refineseg.backends.opening import BACKENDS, check_backend, open_exported, open_model, scorer_of
from refineseg.catalog import catalog_classes
from refineseg.data.fake_scenes import fake_camvid
from refineseg.errors import ConfigError, ModelFileError
from refineseg.exporting import ExportOptions, accept_file, export_accepted, export_file
from refineseg.networks.fused import enlarged_class_map
from refineseg.predict.predictor import Predictor
from refineseg.timing import example_images

CPU = torch.device("cpu")
SIZES = [(1, 1), (32, 32), (33, 50), (64, 97)]


def tiny(**options):
    """A small network of real structure: a ResNet-18 of an eighth of its width."""
    torch.manual_seed(0)
    segmenter = refineseg.build(
        "refinenet_lw:resnet18", num_classes=5, encoder_options={"channels": (8, 16, 32, 64)}, **options
    )
    for module in segmenter.modules():  # statistics as after training, so that folding them is seen
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return segmenter.eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The tiny network in every format, with both outputs."""
    folder = tmp_path_factory.mktemp("exported")
    segmenter = tiny()
    files = {}
    for file_format, name in (("onnx", "net.onnx"), ("openvino", "net.xml"), ("torch", "net.pt2")):
        files[file_format] = folder / name
        export_file(segmenter, files[file_format], ExportOptions(file_format, OUTPUTS))
    return segmenter, files


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


@pytest.mark.parametrize("file_format", ["onnx", "openvino", "torch"])
def test_files_give_the_models_logits_and_classes_at_any_size_and_batch(exported, file_format):
    segmenter, files = exported
    scorer = open_exported(files[file_format], backend="auto", device=CPU, precision="float32")
    assert scorer.class_info == segmenter.class_info
    for size in SIZES if file_format != "torch" else [(33, 50), (64, 97)]:
        for batch in (1, 3):
            images = example_images(batch, 3, size)
            with torch.no_grad():
                logits = segmenter(images)
            torch.testing.assert_close(scorer.logits(images), logits, atol=1e-4, rtol=1e-4)
            clear = logits.topk(2, dim=1).values.diff(dim=1)[:, 0].abs() > 1e-3
            assert torch.equal(scorer.class_map(images)[clear], logits.argmax(1)[clear])


def test_an_exported_file_predicts_like_the_model_file(exported):
    segmenter, files = exported
    image = example_images(1, 3, (60, 90))[0].permute(1, 2, 0).numpy()
    expected = Predictor(segmenter)(image, probabilities=True)
    for path in files.values():
        scorer = open_model(str(path), device=CPU)
        found = Predictor(scorer)(image, probabilities=True)
        assert np.mean(found.mask == expected.mask) > 0.999
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)


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
    assert "class" in run.stdout
    with torch.no_grad():
        expected = segmenter(images).argmax(1).numpy()
    classes = np.load(tmp_path / "classes.npy")
    assert classes.dtype == np.uint8
    assert np.mean(classes == expected) > 0.999


def test_a_file_of_one_size_refuses_others(tmp_path):
    path = tmp_path / "fixed.onnx"
    export_file(tiny(), path, ExportOptions("onnx", ("class_map",), (32, 48)))
    scorer = open_exported(path, backend="auto", device=CPU, precision="float32")
    assert scorer.class_map(example_images(1, 3, (32, 48))).shape == (1, 32, 48)
    with pytest.raises(ConfigError, match="expected images of 32x48 pixels .* got 32x50"):
        scorer.class_map(example_images(1, 3, (32, 50)))
    with pytest.raises(ConfigError, match="gives class_map; export it with --outputs"):
        scorer.logits(example_images(1, 3, (32, 48)))


def test_precision_is_lowered_only_where_it_is_said():
    segmenter = tiny()
    images = example_images(1, 3, (64, 64))
    single = scorer_of(segmenter, backend="openvino", device=CPU, precision="float32").logits(images)
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
        ("cut.xml", b"<net", "expected an OpenVINO or ONNX file"),
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


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return fake_camvid(tmp_path_factory.mktemp("camvid"))


@pytest.fixture(scope="module")
def camvid_like():
    torch.manual_seed(0)
    segmenter = refineseg.build(
        "refinenet_lw:resnet18",
        class_info=catalog_classes("camvid"),
        encoder_options={"channels": (8, 16, 32, 64)},
    )
    return segmenter.eval()


def test_a_faithful_file_is_accepted_and_a_damaged_one_refused(scenes, camvid_like, tmp_path):
    path, options = tmp_path / "net.onnx", ExportOptions("onnx")
    good = export_accepted(
        camvid_like,
        path,
        options,
        data=f"camvid:{scenes}",
        split="val",
        tolerance=Tolerance.of("float32"),
        console=Console(stderr=True),
    )
    assert not good.complaints
    assert path.is_file()
    report = json.loads((tmp_path / "net.onnx.acceptance.json").read_text())
    assert report["accepted"]
    assert report["agreement"] > 0.9999
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    bad_path = tmp_path / "bad.onnx"
    damaged(path, bad_path)
    bad = accept_file(
        camvid_like,
        bad_path,
        data=f"camvid:{scenes}",
        split="val",
        tolerance=Tolerance.of("float32"),
        console=Console(stderr=True),
    )
    assert bad.complaints
    assert bad.worst_image in " ".join(bad.complaints)


def test_the_report_counts_what_an_independent_comparison_counts(camvid_like):
    """Two scorers whose masks are known."""

    class Fixed:
        class_info = camvid_like.class_info

        def __init__(self, wrong):
            self.wrong = wrong

        def logits(self, images):
            raise NotImplementedError

        def class_map(self, images):
            classes = torch.zeros(1, *images.shape[2:], dtype=torch.int64)
            classes[:, : self.wrong] = 1
            return classes

    class Images:
        class_info = camvid_like.class_info
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


def test_the_description_survives_its_file():
    spec = tiny().spec
    description = Description(spec, ("class_map",), "float32", (32, 64))
    assert Description.from_text(description.to_text(), Path("x")) == description
    with pytest.raises(ModelFileError, match="which is damaged"):
        Description.from_text('{"format": 1}', Path("x"))
