"""Original weights as segmenters and model files: the authors' .mat models and the ports' checkpoints."""

import re

import numpy as np
import pytest
import torch
from torchvision.models import resnet50

import refineseg
from conftest import call
from fakes import oracles
from fakes.matconvnet_files import Dag, add_decoder, add_resnet, classifier, net_config, write_v73
from fakes.oracles import needs_oracles
from fakes.ports import port_names
from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, ModelFileError
from refineseg.networks.refinenet import Cascade
from refineseg.original.conversion import VOID, MatConvNetOptions, load_original
from refineseg.preprocessing import Preprocessing

VOC_AND_VOID = 21  # outputs of the oracle's classifier; here 20 classes and void


def encoder():
    torch.manual_seed(0)
    network = resnet50().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def write_oracle(path, name, *, groups, encoders=None):
    """A file of the authors' form: a random ResNet-50 (or several) and the stored decoder."""
    state = oracles.weights(f"decoder_{name}")
    decoder = Dag()
    add_decoder(decoder, improved="improved" in name, groups=groups)  # its layers tell the wiring
    decoder.params = []
    decoder.layers = [layer for layer in decoder.layers if not layer["name"].startswith("p_ims")]
    for key, tensor in state.items():
        layer, _, leaf = key.rpartition(".")
        if leaf == "weight" and layer != "final_loss_conv":
            bias = state.get(f"{layer}.bias")
            numbers = Dag()
            numbers.conv(layer, tensor, bias)
            decoder.params += numbers.params
            decoder.layers += numbers.layers if layer.startswith("p_ims") else []
    layers = classifier(state["final_loss_conv.weight"], state["final_loss_conv.bias"])
    config = net_config([add_resnet(Dag(), network, 50) for network in encoders or [encoder()]], decoder, layers)
    write_v73(path, {"net_config": config})


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """One block of all levels; its file is the smallest."""
    path = tmp_path_factory.mktemp("single") / "single_orig.mat"
    write_oracle(path, path.stem, groups=((1, 2, 3, 4),))
    return path


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    path = tmp_path_factory.mktemp("cascade") / "cascade4_improved.mat"
    write_oracle(path, path.stem, groups=((1,), (2,), (3,), (4,)))
    return path


@needs_oracles
class TestMatConvNet:
    @pytest.mark.parametrize(
        ("name", "variant"),
        [
            pytest.param("cascade", "refinenet_resnet50", marks=pytest.mark.slow),
            ("single", "refinenet_resnet50_single"),
        ],
    )
    def test_a_file_of_the_authors_gives_the_stored_logits_and_their_preprocessing(self, request, name, variant):
        path = request.getfixturevalue(name)
        name = path.stem
        segmenter = load_original(path, variant=variant)
        truth = oracles.read_json("expected_decoders.json")[name]
        levels = oracles.features(truth["sizes"]["128x128"]["feature_sizes"], [2048, 1024, 512, 256])[::-1]
        with torch.inference_mode():
            difference = segmenter.network.decoder(levels) - oracles.stored(f"decoder_{name}_128x128", "matlab_gpu")
        assert difference.abs().max() < 1e-4
        assert segmenter.spec.preprocessing == Preprocessing((128.0,) * 3, (1.0,) * 3, 1.2)
        assert segmenter.spec.options.caffe_strides
        assert segmenter.network.encoder.body.layer2[0].conv1.stride == (2, 2)
        assert "non-commercial" in segmenter.spec.licence

    @pytest.mark.slow
    def test_the_encoder_computes_what_the_file_holds(self, single):
        segmenter = load_original(single, variant="refinenet_resnet50_single")
        network = encoder()
        for stage in (network.layer2, network.layer3, network.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
        x = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32))
        with torch.inference_mode():
            y = network.maxpool(network.relu(network.bn1(network.conv1(x))))
            for level, stage in zip(
                segmenter.network.encoder(x),
                (network.layer1, network.layer2, network.layer3, network.layer4),
                strict=True,
            ):
                y = stage(y)
                torch.testing.assert_close(level, y, rtol=1e-3, atol=1e-3)

    @pytest.mark.slow
    def test_void_is_dropped_or_kept_by_choice(self, single):
        path, names = single, tuple(f"thing {i}" for i in range(20))
        whole = load_original(path, variant="refinenet_resnet50_single").network.decoder.classifier
        all_outputs = ClassInfo((*names, "void, too"))  # as many as there are outputs: none is dropped
        named = load_original(path, variant="refinenet_resnet50_single", class_info=all_outputs)
        assert named.class_info == all_outputs
        assert torch.equal(named.network.decoder.classifier.weight, whole.weight)
        info = ClassInfo(names)
        dropped = load_original(path, variant="refinenet_resnet50_single", class_info=info)
        assert torch.equal(dropped.network.decoder.classifier.weight, whole.weight[:20])
        assert dropped.class_info.names == names
        kept = load_original(
            path,
            variant="refinenet_resnet50_single",
            class_info=info,
            matconvnet=MatConvNetOptions(void="keep", void_index=0),
        )
        assert torch.equal(kept.network.decoder.classifier.bias, whole.bias)
        assert kept.class_info.names == (VOID, *names)

    @pytest.mark.slow
    def test_the_segmenter_predicts_at_image_size_and_survives_its_file(self, cascade, tmp_path):
        segmenter = load_original(cascade, variant="refinenet_resnet50")
        segmenter.save(tmp_path / "model.safetensors")
        again = refineseg.load(tmp_path / "model.safetensors")
        images = torch.randint(0, 256, (1, 3, 33, 50), dtype=torch.uint8)
        with torch.inference_mode():
            logits = segmenter(images)
            assert logits.shape == (1, VOC_AND_VOID, 33, 50)
            assert torch.equal(again(images), logits)
        assert (again.spec.options, again.spec.preprocessing) == (segmenter.spec.options, segmenter.spec.preprocessing)

    @pytest.mark.parametrize(
        ("variant", "message"),
        [
            pytest.param(
                "refinenet_resnet101_single", r"one encoder ResNet-101 .* got ResNet-50", marks=pytest.mark.slow
            ),
            (
                "refinenet_resnet50",
                r"expected encoder paths \(\(1,\), .*got \(\(1, 2, 3, 4\),\); name the file's variant",
            ),
            pytest.param("refinenet_resnet50_2scale", "expected two encoders ResNet-50", marks=pytest.mark.slow),
        ],
    )
    def test_another_variant_is_refused_with_what_the_file_is(self, single, variant, message):
        with pytest.raises(ModelFileError, match=message):
            load_original(single, variant=variant)

    @pytest.mark.slow
    def test_classes_that_do_not_fit_are_refused(self, single):
        with pytest.raises(ModelFileError, match=r"expected 7 classes, or one more for void, got .* 21 outputs"):
            load_original(single, variant="refinenet_resnet50_single", num_classes=7)
        with pytest.raises(ConfigError, match="void_index within the 21 outputs"):
            load_original(
                single,
                variant="refinenet_resnet50_single",
                num_classes=20,
                matconvnet=MatConvNetOptions(void_index=21),
            )

    @pytest.mark.slow
    def test_the_command_writes_a_model_file(self, single, tmp_path, monkeypatch, capsys):
        out = tmp_path / "model.safetensors"
        arguments = ("convert", single, "--variant", "refinenet_resnet50_single", "--out", out)
        assert "licence: non-commercial" in call(monkeypatch, capsys, *arguments).out
        assert isinstance(refineseg.load(out).network.decoder, Cascade)


@needs_oracles
@pytest.mark.slow
def test_a_two_scale_file_gives_its_small_scale_to_the_small_encoder(tmp_path):
    """The authors list the network at 0.6 first; seven paths as in the paper."""
    small, large = encoder(), encoder()
    torch.nn.init.constant_(small.conv1.weight, 0.01)
    groups = ((1, 2, 4), (3, 5), (6,), (7,))
    write_oracle(tmp_path / "two.mat", "twoscale7_orig", groups=groups, encoders=[small, large])
    segmenter = load_original(tmp_path / "two.mat", variant="refinenet_resnet50_2scale")
    assert torch.equal(segmenter.network.encoder.small.body.conv1.weight, small.conv1.weight)
    assert torch.equal(segmenter.network.encoder.large.body.conv1.weight, large.conv1.weight)
    truth = oracles.read_json("expected_decoders.json")["twoscale7_orig"]
    channels = [int(channels) for _, channels, _ in truth["paths"]]
    paths = oracles.features(truth["sizes"]["128x128"]["feature_sizes"], channels)
    finest_of_small = torch.zeros(1, 256, 20, 20)  # enters no block
    levels = [*reversed(paths[3:]), finest_of_small, *reversed(paths[:3])]
    with torch.inference_mode():
        difference = segmenter.network.decoder(levels) - oracles.stored("decoder_twoscale7_orig_128x128", "matlab_gpu")
    assert difference.abs().max() < 1e-4


@pytest.mark.slow
def test_a_file_without_a_decoder_is_refused(tmp_path):
    write_v73(tmp_path / "resnet.mat", add_resnet(Dag(), encoder(), 50).struct())
    with pytest.raises(ModelFileError, match="expected a RefineNet in the .mat file"):
        load_original(tmp_path / "resnet.mat", variant="refinenet_resnet50")


class TestCommand:
    @pytest.fixture
    def run(self, monkeypatch, capsys):
        return lambda *arguments: call(monkeypatch, capsys, "convert", *arguments)

    def test_a_port_becomes_a_model_file_with_the_named_classes(self, run, tmp_path):
        segmenter = refineseg.build("refinenet_lw_mobilenetv2", num_classes=21)
        checkpoint = {"state_dict": {f"module.{n}": t for n, t in port_names(segmenter.network.state_dict()).items()}}
        torch.save(checkpoint, tmp_path / "lw.pth.tar")
        out = tmp_path / "lw.safetensors"
        said = run(tmp_path / "lw.pth.tar", "--variant", "refinenet_lw_mobilenetv2", "--classes", "voc", "--out", out)
        assert said.out.startswith(f"model: {out}\nclasses: 21\n")
        loaded = refineseg.load(out)
        assert loaded.class_info.names[15] == "person"
        assert loaded.spec.provenance["converted_from"] == "lw.pth.tar"
        for name, tensor in segmenter.network.state_dict().items():
            assert torch.equal(loaded.network.state_dict()[name], tensor), name

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--out", "model.pth"], r"expected --out FILE\.safetensors"),
            (["--out", "m.safetensors", "--void", "maybe"], "expected --void drop or keep"),
            (["--out", "m.safetensors", "--void", "keep"], r"with a \.mat file only"),
            (["--out", "m.safetensors", "--classes", "birds"], "expected a data set whose classes are known"),
            (["--out", "m.safetensors"], "but there is no absent.pth"),
        ],
    )
    def test_wrong_calls_say_what_is_expected(self, run, arguments, message, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        status, _, err = run("absent.pth", "--variant", "refinenet_lw_mobilenetv2", *arguments)
        assert status == 2
        assert re.search(message, err)
        assert not [*tmp_path.iterdir()]
