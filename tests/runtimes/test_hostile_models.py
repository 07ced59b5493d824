"""Files of strangers named as a model: nothing in them is run, none costs much, and each is refused in one message."""

import io
import json
import pickle
import resource
import time
import zipfile

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import refineseg
from conftest import call, write_folder
from fakes.hostile_models import (
    VARIANT,
    Touch,
    changed,
    honest_program,
    hostile_programs,
    model_file,
    pickled,
    small,
    unevaluated_programs,
)
from refineseg.bench.timing import example_images
from refineseg.errors import CheckpointError, ConfigError, ModelFileError, RefinesegError
from refineseg.runtimes.description import Description
from refineseg.runtimes.open import open_exported
from refineseg.training.checkpoint import load_checkpoint

CPU = torch.device("cpu")
LARGE = {"padded": True, "encoder_options": {}}
MANY = {"names": [str(i) for i in range(60_000)], "palette": [[0, 0, 0]] * 60_000, "ignore_index": 65535}


@pytest.fixture(scope="module")
def content():
    return honest_program()


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "it was run"


def opened(path):
    return open_exported(path, backend="auto", device=CPU, precision="float32")


def refused(run, *, error=ModelFileError, match="expected"):
    """One message of one line that is not long, and little time and memory."""
    begin, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(error, match=match) as caught:
        run()
    message = str(caught.value)
    assert "\n" not in message, message
    assert len(message) < 900, message
    assert time.process_time() - begin < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000  # kB
    return message


class TestPrograms:
    def test_the_honest_file_is_read(self, content, tmp_path):
        (tmp_path / "net.pt2").write_bytes(content)
        scorer = opened(tmp_path / "net.pt2")
        assert scorer.class_map(example_images(1, 3, (37, 48))).shape == (1, 37, 48)
        (tmp_path / "again.pt2").write_bytes(changed(content))  # so that the archives below differ by what is said
        opened(tmp_path / "again.pt2")

    def test_every_hostile_file_is_refused_and_nothing_is_run(self, content, marker, tmp_path):
        path = tmp_path / "net.pt2"
        for kind, hostile in hostile_programs(content, marker).items():
            path.write_bytes(hostile)
            message = refused(lambda: opened(path), match=r"net\.pt2")
            assert "expected" in message, kind
            assert not marker.exists(), kind

    def test_text_that_pytorch_would_evaluate_is_not(self, content, marker, tmp_path):
        path = tmp_path / "net.pt2"
        images = example_images(1, 3, (37, 48))
        path.write_bytes(content)
        expected = opened(path).logits(images)
        for kind, hostile in unevaluated_programs(content, marker).items():
            path.write_bytes(hostile)
            assert torch.equal(opened(path).logits(images), expected), kind
            assert not marker.exists(), kind

    @pytest.mark.filterwarnings("ignore")
    def test_the_payloads_would_run_in_pytorchs_own_reader(self, content, marker):
        """So that the tests above can fail."""
        hostile = hostile_programs(content, marker)["sample inputs"]
        torch.export.load(io.BytesIO(hostile))
        assert marker.exists()
        marker.unlink()
        with pytest.raises(AttributeError):
            torch.export.load(io.BytesIO(unevaluated_programs(content, marker)["sizes"]))
        assert marker.exists()

    def test_a_program_that_computes_something_else_is_told(self, content, tmp_path):
        text = Description(refineseg.build(VARIANT, num_classes=2).spec).to_text()
        (tmp_path / "net.pt2").write_bytes(changed(content, replace={"extra/refineseg": text.encode()}))
        scorer = opened(tmp_path / "net.pt2")
        with pytest.raises(ModelFileError, match=r"expected logits of \(1, 2, 40, 48\) for 2 classes from"):
            scorer.logits(example_images(1, 3, (40, 48)))

        def strides(program):
            calls = program["graph_module"]["graph"]["nodes"]
            conv = next(call for call in calls if "conv2d" in call["target"])
            conv["inputs"].append({"name": "stride", "arg": {"as_ints": [0, 0]}, "kind": 1})

        (tmp_path / "net.pt2").write_bytes(changed(content, fields=strides))
        with pytest.raises(ModelFileError, match=r"expected a program that computes, got .*net\.pt2 \(RuntimeError"):
            opened(tmp_path / "net.pt2").logits(example_images(1, 3, (40, 48)))

    def test_the_command_line_says_one_thing(self, content, marker, tmp_path, monkeypatch, capsys):
        hostile = hostile_programs(content, marker)
        Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(tmp_path / "a.png")
        for name, kind in (("net.pt2", "sample inputs"), ("net.aoti.pt2", "a library"), ("b.pt2", "garbage")):
            (tmp_path / name).write_bytes(hostile[kind])
            status, out, err = call(
                monkeypatch,
                capsys,
                "predict",
                tmp_path / "a.png",
                "--model",
                tmp_path / name,
                "--out",
                tmp_path / "out",
            )
            assert (status, out) == (2, "")
            assert err.startswith("refineseg: expected")
            assert err.count("\n") == 1, err
            assert not marker.exists()
            assert not (tmp_path / "out").exists()


class TestModelFiles:
    def test_a_pickle_named_as_a_model_is_not_opened(self, marker, tmp_path):
        for name in ("m.safetensors", "m.pth", "m.pt", "checkpoint.pt", "m"):
            for content in (pickled(marker), pickle.dumps(Touch(marker))):
                (tmp_path / name).write_bytes(content)
                refused(lambda name=name: refineseg.load(tmp_path / name), match=r"safetensors file, (got|which)")
        assert not marker.exists()

    @pytest.mark.slow_except("0", "1", "3", "4", "5")
    @pytest.mark.parametrize(
        ("header", "message"),
        [
            ({"network": {**LARGE, "width": 4000.0}}, "expected decoder.* of shape"),
            ({"network": {**LARGE, "num_links": 10_000_000}}, "one of many more"),
            ({"network": {**LARGE, "encoder_options": {"layers": [1_000_000] * 4}}}, "one of many more"),
            ({"class_info": {**MANY, "names": [0] * 70_000}}, "at most 65535 classes, .*, got 70000"),
            ({"class_info": {**MANY, "names": ["x" * 99] * 99_000}}, "at most 8388608 characters"),
            ({"class_info": MANY}, r"expected decoder\.classifier\.\w+ of shape \(60000"),
            pytest.param({"variant": "refinenet_lw:convnext_xxlarge"}, "file's|does not fit", marks=pytest.mark.slow),
            pytest.param({"network": {**LARGE, "width": 1e12}}, "cannot be built here", marks=pytest.mark.slow),
            pytest.param(
                {"network": {**LARGE, "encoder_options": {"channels": [10**9] * 4}}},
                "cannot be built|of shape",
                marks=pytest.mark.slow,
            ),
        ],
        ids=range(9),
    )
    def test_a_small_file_cannot_ask_for_a_large_network(self, tmp_path, header, message):
        path = model_file(tmp_path / "m.safetensors", header=header)
        refused(lambda: refineseg.load(path), match=message)

    def test_a_header_without_end_is_refused(self, tmp_path):
        deep = json.dumps({"format": 1, "variant": "x"})[:-1] + ', "provenance": ' + "[" * 90_000 + "]" * 90_000 + "}"
        for raw, message in ((deep, "expected JSON in the header"), (" " * 9_000_000, "at most 8388608 characters")):
            path = model_file(tmp_path / "m.safetensors", raw=raw)
            refused(lambda path=path: refineseg.load(path), match=message)
            with pytest.raises(ModelFileError, match="damaged"):
                Description.from_text(raw, path)

    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            ("decoder.classifier.weight", lambda t: t.fill_(float("nan")), r"expected finite weights in .*m\.safet"),
            ("decoder.classifier.bias", lambda t: t.fill_(float("inf")), r"infinity in decoder\.classifier\.bias"),
            ("decoder.classifier.bias", lambda t: t.half().fill_(-float("inf")), "expected finite weights"),
            ("decoder.classifier.weight", torch.Tensor.long, r"expected floating-point weights .*got I64"),
            ("decoder.classifier.weight", torch.Tensor.bool, "got BOOL"),
            ("encoder.body.bn1.running_var", lambda t: t.fill_(-1), "expected variances of at least 0"),
            ("encoder.body.bn1.num_batches_tracked", lambda t: t.float(), "got F32"),
        ],
    )
    def test_weights_that_compute_nothing_are_refused(self, tmp_path, name, change, message):
        tensor = small().network.state_dict()[name].clone()
        path = model_file(tmp_path / "m.safetensors", tensors={name: change(tensor)})
        refused(lambda: refineseg.load(path), match=message)

    def test_large_finite_numbers_are_finite(self, tmp_path):
        """Their sum is not, in the precision they are added in."""
        weight = torch.full((3, 32, 3, 3), 3e38)
        path = model_file(tmp_path / "m.safetensors", tensors={"decoder.classifier.weight": weight})
        assert torch.equal(refineseg.load(path).network.decoder.classifier.weight, weight)

    def test_normalisation_that_is_no_number_is_refused(self, tmp_path):
        for mean, std in (([float("nan")] * 3, [1.0] * 3), ([1.0] * 3, [float("inf")] * 3), ([1.0] * 3, [-1.0] * 3)):
            path = model_file(tmp_path / "m.safetensors", header={"preprocessing": {"mean": mean, "std": std}})
            refused(lambda path=path: refineseg.load(path), match="expected (finite|as many) means")

    @pytest.mark.slow
    def test_a_model_that_needs_more_than_its_file_is_still_complete(self, tmp_path):
        """A window attention holds tables that no file stores; built on the meta device alone they would be empty."""
        torch.manual_seed(0)
        segmenter = refineseg.build("refinenet_lw:swin_tiny_patch4_window7_224", num_classes=2)
        segmenter.save(tmp_path / "swin.safetensors")
        images = example_images(1, 3, (64, 64))
        with torch.inference_mode():
            assert torch.equal(refineseg.load(tmp_path / "swin.safetensors")(images), segmenter(images))


class TestCheckpoints:
    def files(self, marker):
        packed = io.BytesIO()
        plain = io.BytesIO()
        torch.save({"weight": torch.zeros(20_000_000)}, plain)
        with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
        wide = io.BytesIO()
        torch.save({"weight": torch.zeros(1).expand(1_000_000, 1_000_000)}, wide)
        return {
            "code": pickled(marker),
            "code, bare": pickle.dumps({"weight": Touch(marker)}),
            "packed": packed.getvalue(),
            "wide": wide.getvalue(),
            "garbage": b"garbage" * 9,
        }

    def test_original_and_encoder_weights_and_checkpoints_are_read_without_running_them(self, marker, tmp_path):
        for kind, content in self.files(marker).items():
            path = tmp_path / "weights.pth"
            path.write_bytes(content)
            refused(lambda path=path: refineseg.load_original(path, variant="refinenet_lw_mobilenetv2"))
            refused(lambda path=path: refineseg.build("refinenet_lw:resnet18", num_classes=2, pretrained=path))
            (tmp_path / "checkpoint.pt").write_bytes(content)
            refused(lambda: load_checkpoint(tmp_path), error=CheckpointError)
            (tmp_path / "weights.mat").write_bytes(content)
            refused(
                lambda: refineseg.load_original(tmp_path / "weights.mat", variant="refinenet_resnet50"),
                error=RefinesegError,
            )
            assert not marker.exists(), kind

    def test_weights_of_nan_are_refused_wherever_they_come_from(self, tmp_path):
        network = refineseg.build("refinenet_lw:resnet18", num_classes=2).network.encoder.body
        state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        state["conv1.weight"][0] = float("nan")
        torch.save(state, tmp_path / "nan.pth")
        refused(
            lambda: refineseg.build("refinenet_lw:resnet18", num_classes=2, pretrained=tmp_path / "nan.pth"),
            match=r"expected finite weights in .*nan\.pth, got NaN or infinity in conv1\.weight",
        )
        torch.save({**state, "conv1.weight": state["conv1.weight"].nan_to_num(0).long()}, tmp_path / "whole.pth")
        refused(
            lambda: refineseg.build("refinenet_lw:resnet18", num_classes=2, pretrained=tmp_path / "whole.pth"),
            match="expected floating-point weights",
        )
        saved = {"config": {}, "epoch": 1, "history": [], "network": state, "optimiser": {}}
        torch.save(saved, tmp_path / "checkpoint.pt")
        refused(lambda: load_checkpoint(tmp_path), error=CheckpointError, match="expected finite weights")

    @pytest.mark.slow
    def test_a_run_starts_from_no_hostile_file(self, marker, tmp_path, monkeypatch, capsys):
        root = write_folder(tmp_path / "data", splits={"train": 2, "val": 1})
        (tmp_path / "hostile.pth").write_bytes(pickled(marker))
        for options in (
            ("--encoder-weights", tmp_path / "hostile.pth"),
            ("--init", tmp_path / "hostile.pth"),
            ("--no-pretrained", "--set", f"teacher={tmp_path / 'hostile.pth'}"),
        ):
            status, _, err = call(
                monkeypatch, capsys, "train", "--variant", "refinenet_lw:resnet18", "--data", f"folder:{root}",
                "--out", tmp_path / "run", "--device", "cpu", *options,
            )  # fmt: skip
            assert status == 2, err
            assert "Traceback" not in err
            assert not marker.exists()


class TestRuntimesFiles:
    def test_garbage_is_one_message(self, tmp_path, capfd):
        xml = '<?xml version="1.0"?><net name="x" version="11"><layers></layers></net>'
        for name, content in (
            ("m.onnx", b"garbage" * 50),
            ("m.onnx", b""),
            ("m.onnx", pickle.dumps({"a": 1})),
            ("m.xml", b"<net"),
            ("m.xml", b"garbage" * 50),
            ("m.xml", xml.encode()),
            ("m.xml", b""),
        ):
            (tmp_path / name).write_bytes(content)
            refused(lambda name=name: opened(tmp_path / name))
        assert capfd.readouterr() == ("", "")

    def test_an_onnx_file_of_others_or_without_its_outputs_is_told(self, tmp_path):
        text = Description(small().spec).to_text()
        node = onnx.helper.make_node("Identity", ["images"], ["same"])
        info = [
            onnx.helper.make_tensor_value_info(n, onnx.TensorProto.UINT8, [1, 3, None, None])
            for n in ("images", "same")
        ]
        model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", info[:1], info[1:]), ir_version=10)
        model.opset_import[0].version = 18
        for value, message in (
            (text, r"expected a file that gives class_map and logits, got .*m\.onnx, which gives same"),
            ("[" * 90_000, r"expected the description of a model in .*m\.onnx"),
            (None, "expected a file that refineseg exported"),
        ):
            del model.metadata_props[:]
            if value is not None:
                onnx.helper.set_model_props(model, {"refineseg": value})
            onnx.save_model(model, tmp_path / "m.onnx")
            refused(lambda: opened(tmp_path / "m.onnx"), match=message)
            refused(
                lambda: open_exported(tmp_path / "m.onnx", backend="openvino", device=CPU, precision="float32"),
                match=message,
            )

    def test_texts_that_are_none_are_told(self, tmp_path, capfd):
        """Bytes that are no UTF-8 in the description."""
        info = [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, [1, 3, None, None])]
        node = onnx.helper.make_node("Identity", ["images"], ["same"])
        out = [onnx.helper.make_tensor_value_info("same", onnx.TensorProto.UINT8, [1, 3, None, None])]
        model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", info, out), ir_version=10)
        model.opset_import[0].version = 18
        onnx.helper.set_model_props(model, {"refineseg": "to be damaged"})
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString().replace(b"damaged", b"\xff\xfe\xffaged"))
        for backend in ("onnxruntime", "openvino"):
            refused(
                lambda name=backend: open_exported(tmp_path / "m.onnx", backend=name, device=CPU, precision="float32")
            )
        assert capfd.readouterr() == ("", "")

    def test_a_backend_that_runs_native_code_of_a_file_is_no_more(self, tmp_path):
        with pytest.raises(ConfigError, match="expected a backend of auto"):
            open_exported(tmp_path / "m.pt2", backend="torch_inductor", device=CPU, precision="float32")
