"""Fused networks compute what the networks they are made of compute, and with fewer operations."""

import operator

import jaxtyping
import pytest
import torch
from torch import nn

import refineseg
from refineseg.errors import ModelFileError
from refineseg.networks.building import build_network
from refineseg.networks.fused import FoldedEncoder, fuse, separate_pooling
from refineseg.networks.variants import NetworkOptions
from refineseg.runtimes.graph import InferenceGraph

SMALL = ["refinenet_lw_mobilenetv2", "refinenet_lw_resnet50", "refinenet_lw_resnet18_densetorch",
         "refineseg_lite0_5cascade",
         "refinenet_lw_mobilenetv2_multitask", "refinenet_lw_nasnetmobile", "refinenet:resnet18",
         "refinenet_2scale:resnet18", "refinenet_single:resnet18", "refinenet_improved:resnet18",
         "refinenet_0links:resnet18", "refinenet_lw:convnext_atto", "refinenet_lw:efficientnet_b0",
         "refinenet_lw:mobilenetv4_conv_small", "refinenet_lw:swin_tiny_patch4_window7_224"]  # fmt: skip


@pytest.fixture(autouse=True)
def _tracing_sees_no_type_checks():
    """Shapes are not checked here: ``torch.fx`` calls functions with placeholders that have none."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def with_statistics(network):
    """Random weights of a trained kind: normalisation that is not the identity, filters that keep activations alive."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(std=0.2, generator=generator)
    return network.eval().double()


@pytest.mark.slow_except(
    "3-refineseg_lite0_5cascade", "3-refinenet_lw_mobilenetv2", "40-refinenet:resnet18", "3-refinenet_lw:convnext_atto"
)
@pytest.mark.parametrize("variant", SMALL)
@pytest.mark.parametrize("num_classes", [3, 40])
def test_a_fused_network_gives_the_same_logits(variant, num_classes):
    torch.manual_seed(1)
    width = 0.25 if variant.startswith("refinenet") and ":resnet" in variant else 1.0
    network = with_statistics(build_network(variant, num_classes, options=NetworkOptions(width=width)))
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fused = fuse(network)
    for batch, height, width in ((1, 64, 96), (2, 128, 64)):  # nothing may be frozen at the size of a first image
        image = torch.rand(batch, 3, height, width, dtype=torch.float64) * 4 - 2
        with torch.inference_mode():
            expected = network(image)
            torch.testing.assert_close(fused(image), expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.slow_except("refinenet_lw_mobilenetv2")
@pytest.mark.parametrize("variant", ["refinenet_lw_mobilenetv2", "refinenet_lw_resnet50", "refinenet_resnet50"])
def test_no_normalisation_is_left_in_the_papers_encoders(variant):
    with torch.device("meta"):
        network = build_network(variant, 3)
    before = sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert before > 50
    fused = fuse(build_network(variant, 3))
    assert isinstance(fused.encoder, FoldedEncoder)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())


def test_the_graph_of_padded_images_does_not_ask_whether_sizes_are_odd():
    """A fused encoder has that question written down, or not at all."""
    segmenter = refineseg.build("refineseg_lite0", num_classes=2)

    def asked(encoder):
        assert isinstance(encoder, FoldedEncoder)
        return sum(node.target is operator.mod for node in encoder.graph.graph.nodes)

    def graph():
        return InferenceGraph(segmenter, outputs=("class_map",)).segmenter.network.encoder

    assert asked(graph()) == 0
    assert asked(segmenter.fuse().network.encoder) > 0  # takes images of any size
    assert asked(graph()) > 0  # stays what it is, and is right for even sizes, too


@pytest.mark.slow
def test_an_encoder_that_works_by_hooks_stays_as_it_is():
    network = with_statistics(build_network("refinenet_lw:xception41", 3))
    fused = fuse(network)
    assert not isinstance(fused.encoder, FoldedEncoder)
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(fused(image), network(image))


def test_laterals_become_one_convolution():
    def convolutions(network):
        return sum(isinstance(m, nn.Conv2d) for m in network.decoder.modules())

    network = build_network("refinenet_lw_resnet50", 3)
    assert convolutions(network) - convolutions(fuse(network)) == 3  # three blocks have two inputs


def test_a_fused_network_still_says_what_its_encoder_needs():
    network = build_network("refinenet_lw_mobilenetv2", 3)
    assert fuse(network).encoder.size_multiple == network.encoder.size_multiple
    assert fuse(network).encoder.channels == network.encoder.channels


def test_a_fused_segmenter_predicts_the_same_and_is_not_saved(tmp_path):
    segmenter = refineseg.load("camvid")
    images = torch.randint(0, 256, (1, 3, 61, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = segmenter(images)
        after = segmenter.fuse()(images)
    assert (before - after).abs().max() < 1e-3
    assert (before.argmax(1) == after.argmax(1)).float().mean() > 0.9999
    with pytest.raises(ModelFileError, match=r"got one after fuse\(\)"):
        segmenter.save(tmp_path / "model.safetensors")


@pytest.mark.parametrize("variant", ["refinenet_lw_mobilenetv2", "refinenet_improved:resnet18"])
def test_pooling_rows_and_then_columns_gives_the_same_bits(variant):
    network = with_statistics(build_network(variant, 5)).eval()
    image = torch.randn(1, 3, 64, 96).double()
    with torch.no_grad():
        expected = network(image)
        separate_pooling(network.decoder)
        assert torch.equal(network(image), expected)
    pools = [module.kernel_size for module in network.decoder.modules() if isinstance(module, nn.MaxPool2d)]
    assert set(pools) == {(1, 5), (5, 1)}
