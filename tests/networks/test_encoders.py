"""Encoders: four levels from backbones of many kinds, and a clear word about those that cannot."""

import threading
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import timm
import torch
from torch import nn

import refineseg
from refineseg.errors import ConfigError, ModelFileError
from refineseg.networks import timm_encoders as encoders
from refineseg.networks.timm_encoders import MobileNetV2Encoder, TimmEncoder
from refineseg.networks.variants import find_variant

FAMILIES = {
    "resnet18": (64, 128, 256, 512),
    "convnext_atto": (40, 80, 160, 320),
    "efficientnet_b0": (24, 40, 112, 320),
    "mobilenetv4_conv_small": (32, 64, 96, 960),
    "regnety_002": (24, 56, 152, 368),
    "swin_tiny_patch4_window7_224": (96, 192, 384, 768),
    "mvitv2_tiny": (96, 192, 384, 768),
    "edgenext_x_small": (32, 64, 100, 192),
    "fastvit_t8": (48, 96, 192, 384),
    "mambaout_femto": (48, 96, 192, 288),
    "mobilevitv2_050": (64, 128, 192, 256),
    "test_maxvit": (32, 64, 96, 128),
    "lambda_resnet26t": (256, 512, 1024, 2048),
}
"""Backbone -> channels at strides 4, 8, 16 and 32, as their papers or timm's documentation give them."""


def build(backbone, **options):
    return refineseg.build(f"refinenet_lw:{backbone}", num_classes=3, **options)


@pytest.mark.slow_except("convnext_atto", "resnet18", "test_maxvit")
@pytest.mark.parametrize("backbone", FAMILIES)
@torch.inference_mode()
def test_backbones_of_many_kinds_give_four_levels_and_logits_at_odd_sizes(backbone):
    segmenter = build(backbone)
    encoder = segmenter.network.encoder
    assert encoder.strides == (4, 8, 16, 32)
    assert encoder.channels == FAMILIES[backbone]
    height, width = encoder.size_multiple, 2 * encoder.size_multiple
    levels = encoder(torch.randn(1, 3, height, width))
    assert [tuple(level.shape) for level in levels] == [
        (1, channels, height // stride, width // stride)
        for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
    ]
    images = torch.randint(0, 256, (1, 3, 45, 70), dtype=torch.uint8)
    logits = segmenter(images)
    assert logits.shape == (1, 3, 45, 70)
    assert logits.isfinite().all()


@pytest.mark.slow_except("size_hw0-convnext_atto")
@pytest.mark.parametrize("backbone", ["convnext_atto", "swin_tiny_patch4_window7_224", "mobilevitv2_050"])
@pytest.mark.parametrize("size_hw", [(1, 1), (3, 70)])
@torch.inference_mode()
def test_aligned_corners_do_not_change_which_sizes_work(backbone, size_hw):
    logits = build(backbone, align_corners=True)(torch.zeros(1, 3, *size_hw, dtype=torch.uint8))
    assert logits.shape == (1, 3, *size_hw)


@pytest.mark.slow
@torch.inference_mode()
def test_levels_follow_the_image_and_not_its_mirror():
    """Channels-last backbones must not come out with height and width, or pixels and channels, exchanged."""
    encoder = TimmEncoder("swin_tiny_patch4_window7_224", encoder_options={}).eval()
    images = torch.zeros(1, 3, 224, 224)
    before = encoder(images)
    images[:, :, 200:, :20] = 3  # bottom left
    for level, empty in zip(encoder(images)[:2], before[:2], strict=True):
        change = (level - empty).abs().sum(dim=(0, 1))
        middle = change.shape[0] // 2
        assert change[middle:, :middle].sum() > 10 * change[:middle].sum()


def test_one_and_four_channels_go_in():
    for in_channels in (1, 4):
        encoder = TimmEncoder("resnet18", in_channels=in_channels, encoder_options={})
        assert encoder.body.conv1.weight.shape[1] == in_channels


def test_encoder_options_reach_the_backbone():
    plain, changed = build("resnet18"), build("resnet18", encoder_options={"stem_type": "deep", "stem_width": 32})
    assert not isinstance(plain.network.encoder.body.conv1, nn.Sequential)
    assert isinstance(changed.network.encoder.body.conv1, nn.Sequential)
    assert changed.spec.options.encoder_options == {"stem_type": "deep", "stem_width": 32}


class TestRefused:
    @pytest.mark.parametrize(
        ("backbone", "message"),
        [
            ("rsenet18", r"expected the name of a timm model as encoder, got 'rsenet18'; near: resnet18"),
            ("zzzz", r"got 'zzzz'; timm\.list_models\(\) lists them"),
            ("resnet18.no_such_weights", r"expected weights that timm knows, got .*; there are: resnet18\.a1_in1k"),
            ("hf-hub:someone/something", r"expected the name of a timm model as encoder, got 'hf-hub:someone"),
            ("local-dir:/somewhere", r"expected the name of a timm model as encoder, got 'local-dir:"),
            (
                "vit_small_patch16_224",
                r"strides \(4, 8, 16, 32\), got 'vit_small_patch16_224' with strides \[16, 16, 16\]",
            ),
            ("levit_128", r"got 'levit_128' with strides \[16, 32, 64\]; choose a hierarchical backbone"),
            ("efficientformer_l1", r"'efficientformer_l1' works only at its own input size 224x224, but RefineNet"),
            ("hiera_tiny_224", r"'hiera_tiny_224' works only at its own input size 224x224"),
            ("test_coatnet", r"'test_coatnet' works only at its own input size 160x160"),
            (
                "legacy_xception",
                r"maps are 1/4, 1/8, 1/16 and 1/32 of the image, got 'legacy_xception': its feature maps",
            ),
        ],
    )
    def test_what_cannot_be_an_encoder_is_refused_with_the_reason(self, backbone, message):
        with pytest.raises(ConfigError, match=message):
            build(backbone)

    @pytest.mark.parametrize("variant", ["refinenet_lw", "refinenet_lw:", "refinenets:resnet18", ":resnet18", ""])
    def test_what_is_no_variant_is_refused(self, variant):
        with pytest.raises(ConfigError, match="expected a variant, got"):
            refineseg.build(variant, num_classes=3)

    @pytest.mark.parametrize("family", ["refinenet_lw", "refinenet", "refinenet_single", "refinenet_2scale"])
    def test_an_encoder_of_six_maps_has_networks_of_its_own(self, family):
        with pytest.raises(
            ConfigError, match=rf"which has six; name refinenet_lw_mobilenetv2 .*{family}:mobilenetv2_100"
        ):
            find_variant(f"{family}:mobilenetv2")

    def test_a_near_variant_is_offered(self):
        with pytest.raises(ConfigError, match="near: refinenet_lw_resnet50"):
            refineseg.build("refinenet_lw_resnet_50", num_classes=3)

    def test_a_backbone_names_the_option_it_does_not_know(self):
        with pytest.raises(ConfigError, match=r"no_such_option.*change encoder_options \{'no_such_option': 1\}"):
            build("resnet18", encoder_options={"no_such_option": 1})

    @pytest.mark.parametrize("option", ["features_only", "out_indices", "pretrained", "checkpoint_path"])
    def test_options_that_refineseg_sets_are_not_free(self, option):
        with pytest.raises(ConfigError, match=rf"encoder_options \['{option}'\] are not free"):
            build("resnet18", encoder_options={option: None})

    def test_an_option_that_changes_the_strides_is_refused(self):
        with pytest.raises(ConfigError, match=r"with strides \[2, 4, 8, 16, 16\]"):
            build("resnet18", encoder_options={"output_stride": 16})

    def test_mobilenetv2_takes_no_options(self):
        with pytest.raises(ConfigError, match=r"the encoder mobilenetv2 takes no encoder_options, got \{'drop_rate'"):
            refineseg.build("refinenet_lw_mobilenetv2", num_classes=3, encoder_options={"drop_rate": 0.1})

    @pytest.mark.parametrize(("num_classes", "in_channels"), [(0, 3), (-1, 3), (3, 0)])
    def test_no_classes_or_channels_are_refused(self, num_classes, in_channels):
        with pytest.raises(ConfigError, match="expected"):
            refineseg.build("refinenet_lw_mobilenetv2", num_classes=num_classes, in_channels=in_channels)


class TestPretrained:
    @pytest.fixture(autouse=True)
    def _offline(self, monkeypatch, tmp_path):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    @pytest.mark.parametrize("variant", ["refinenet_lw_mobilenetv2", "refinenet_lw:resnet18"])
    def test_without_network_the_message_names_the_way_out(self, variant):
        with pytest.raises(ConfigError, match=r"expected ImageNet weights of '\w+' .* with --no-pretrained"):
            refineseg.build(variant, num_classes=3, pretrained=True)

    def test_an_architecture_without_weights_is_told_so(self):
        with pytest.raises(ConfigError, match=r"'seresnet18'.*No pretrained weights exist"):
            build("seresnet18", pretrained=True)

    def test_imagenet_weights_become_the_encoders(self, monkeypatch):
        torch.manual_seed(0)
        source = timm.create_model("mobilenetv2_100", num_classes=0)
        monkeypatch.setattr(encoders.timm, "create_model", lambda name, **_: source)
        encoder = MobileNetV2Encoder(pretrained=True)
        assert torch.equal(encoder.conv_stem.weight, source.conv_stem.weight)
        assert torch.equal(encoder.blocks[5][2].conv_pwl.weight, source.blocks[5][2].conv_pwl.weight)


class TestMobileNetV2:
    def test_it_has_six_levels_and_the_released_number_of_parameters(self):
        encoder = MobileNetV2Encoder()
        assert sum(p.numel() for p in encoder.parameters()) == 1_812_800
        levels = encoder(torch.randn(2, 3, 64, 96))
        assert [tuple(level.shape[1:]) for level in levels] == [
            (channels, 64 // stride, 96 // stride)
            for channels, stride in zip((24, 32, 64, 96, 160, 320), (4, 8, 16, 16, 32, 32), strict=True)
        ]

    @torch.no_grad()
    def test_weights_without_the_first_expansion_give_the_same_features_as_the_network_they_are_of(self):
        torch.manual_seed(0)
        plain = timm.create_model("mobilenetv2_100", num_classes=0).double().eval()
        for module in plain.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1, 0.3)
                nn.init.normal_(module.bias, 0, 0.3)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
        seen = []
        for stage in plain.blocks[1:]:
            stage.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        images = torch.randn(2, 3, 97, 161, dtype=torch.float64)
        plain(images)
        encoder = MobileNetV2Encoder().double().eval()
        heads = ("conv_head.", "bn2.")
        encoder.load_plain_state({k: v for k, v in plain.state_dict().items() if not k.startswith(heads)})
        levels = encoder(images)
        assert len(levels) == len(seen) == 6
        for level, truth in zip(levels, seen, strict=True):
            assert truth.abs().max() > 0.1
            torch.testing.assert_close(level, truth, rtol=0, atol=1e-10)


class TestLocalFile:
    """ImageNet weights from a file, where there is no network."""

    def test_every_filter_comes_from_the_file(self, tmp_path):
        torch.manual_seed(3)
        source = timm.create_model("resnet18", pretrained=False)
        torch.save(source.state_dict(), tmp_path / "resnet18.pth")
        for path in (tmp_path / "resnet18.pth", str(tmp_path / "resnet18.pth")):
            body = refineseg.build("refinenet_lw:resnet18", num_classes=2, pretrained=path).network.encoder.body
            own = body.state_dict()
            assert own
            for name, tensor in own.items():
                assert torch.equal(tensor, source.state_dict()[name]), name
            assert not any(module._load_state_dict_post_hooks for module in body.modules())  # nothing stays on it

    def test_what_is_neither_a_truth_value_nor_a_path_is_refused(self, monkeypatch):
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        with pytest.raises(ConfigError, match="expected True, False or the path of a file as pretrained, got 5"):
            refineseg.build("refinenet_lw:resnet18", num_classes=2, pretrained=5)

    def test_mobilenet_keeps_its_function(self, tmp_path):
        source = timm.create_model("mobilenetv2_100", pretrained=False)
        torch.save(source.state_dict(), tmp_path / "mobile.pth")
        encoder = refineseg.build(
            "refinenet_lw_mobilenetv2", num_classes=2, pretrained=tmp_path / "mobile.pth"
        ).network.encoder
        x = torch.rand(1, 3, 64, 64)
        with torch.inference_mode():
            levels = source.eval().forward_intermediates(x, intermediates_only=True)
            torch.testing.assert_close(encoder.eval()(x)[0], levels[1], rtol=1e-4, atol=1e-4)

    def test_a_file_of_another_network_is_refused(self, tmp_path):
        torch.save(timm.create_model("resnet18", pretrained=False).state_dict(), tmp_path / "resnet18.pth")
        with pytest.raises(
            ConfigError, match=r"'resnet34' in .*resnet18\.pth, but 80 of its tensors are not .*layer1\.2"
        ):
            refineseg.build("refinenet_lw:resnet34", num_classes=2, pretrained=tmp_path / "resnet18.pth")
        with pytest.raises(ConfigError, match=r"'resnet50' in .*resnet18\.pth, but .* size mismatch for layer1"):
            refineseg.build("refinenet_lw:resnet50", num_classes=2, pretrained=tmp_path / "resnet18.pth")
        with pytest.raises(ConfigError, match=r"'mobilenetv2_100' in .*resnet18\.pth, but"):
            refineseg.build("refinenet_lw_mobilenetv2", num_classes=2, pretrained=tmp_path / "resnet18.pth")

    def test_a_file_with_more_or_less_than_the_network_is_refused(self, tmp_path):
        def load(state, backbone):
            torch.save({"state_dict": state, "best": np.float64(0.5)}, tmp_path / "a.pth")
            refineseg.build(f"refinenet_lw:{backbone}", num_classes=2, pretrained=tmp_path / "a.pth")

        state = timm.create_model("resnet34", pretrained=False).state_dict()
        load({name: tensor for name, tensor in state.items() if not name.startswith("fc.")}, "resnet34")
        with pytest.raises(
            ConfigError, match=r"but 96 tensors in it are of another network \(layer1\.2\.conv1\.weight"
        ):
            load(state, "resnet18")
        norms = {name for name in state if "bn" in name or "downsample.1" in name}
        with pytest.raises(ConfigError, match=r"but 144 of its tensors are not in it \(bn1\.weight"):
            load({name: tensor for name, tensor in state.items() if name not in norms}, "resnet34")
        state = timm.create_model("efficientnet_b0", pretrained=False).state_dict()  # its head is cut off, and no fault
        load(state, "efficientnet_b0")
        del state["bn1.running_mean"]
        with pytest.raises(ConfigError, match=r"but 1 of its tensors are not in it \(bn1\.running_mean\)"):
            load(state, "efficientnet_b0")

    def test_what_another_thread_loads_meanwhile_is_not_held_against_the_file(self):
        def load():
            nn.Sequential(nn.Linear(1, 1)).load_state_dict({"x": torch.zeros(1)}, strict=False)

        with encoders._compared() as loads:
            other = threading.Thread(target=load)
            other.start()
            other.join()
            assert loads == []
            load()
        assert len(loads) == 1

    def test_an_absent_or_damaged_file_is_named(self, tmp_path):
        with pytest.raises(ConfigError, match=r"file with weights of 'resnet18', but there is no .*absent\.pth"):
            refineseg.build("refinenet_lw:resnet18", num_classes=2, pretrained=tmp_path / "absent.pth")
        (tmp_path / "text.pth").write_text("no weights")
        with pytest.raises(ModelFileError, match="of tensors and plain values, got .*text.pth, which is damaged"):
            refineseg.build("refinenet_lw:resnet18", num_classes=2, pretrained=tmp_path / "text.pth")

    def test_code_in_a_file_is_not_run(self, tmp_path):
        torch.save({"state_dict": _Touches(tmp_path / "ran")}, tmp_path / "hostile.pth")
        with pytest.raises(ModelFileError, match="refineseg never runs code from a checkpoint"):
            refineseg.build("refinenet_lw:resnet18", num_classes=2, pretrained=tmp_path / "hostile.pth")
        assert not (tmp_path / "ran").exists()


class _Touches:
    """Unpickles by making a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))
