"""The networks of table 9 and the follow-ups: counts by hand, stored decoder logits, names of their own ports."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import refineseg
from fakes import oracles
from fakes.oracles import needs_oracles
from refineseg.errors import ConfigError, ModelFileError
from refineseg.networks.building import build_network
from refineseg.networks.families import LIGHT_WEIGHT, REFINENET
from refineseg.networks.refinenet import Cascade, Resizing, count_parameters
from refineseg.networks.variants import VARIANTS, NetworkOptions

DECODERS = ("cascade4_orig", "cascade4_improved", "cascade2_orig", "single_orig", "twoscale7_orig")
MODES = {"bilinear": "bilinear_ac", "matlab_gpu": "matlab_gpu", "matlab_cpu": "matlab_cpu"}


def conv(a, b, k=3, *, bias=False):
    return a * b * k * k + b * bias


def rcu(c):
    return conv(c, c, bias=True) + conv(c, c)


def full_decoder(groups, ranks, num_classes, links=4):
    """Parameters of a full decoder, counted from the text of the papers and not from the modules."""
    levels, widths = {0: 2048, 1: 1024, 2: 512, 3: 256}, {0: 512, 1: 256, 2: 256, 3: 256}
    total, previous = 0, None
    for group in groups:
        inputs = [widths[ranks[level]] for level in group]
        total += sum(
            conv(levels[ranks[level]], widths[ranks[level]]) + 2 * rcu(widths[ranks[level]]) for level in group
        )
        inputs += [] if previous is None else [previous]
        width = min(inputs)
        total += sum(conv(c, width) for c in inputs) if len(inputs) > 1 else 0
        total += links * conv(width, width) + 3 * rcu(width)
        previous = width
    return total + conv(previous, num_classes, bias=True)


def on_meta(variant, num_classes=21):
    with torch.device("meta"):
        return build_network(variant, num_classes)


def decoder_oracle(name):
    truth = oracles.read_json("expected_decoders.json")[name]
    channels = [int(channels) for _, channels, _ in truth["paths"]]
    features = oracles.features(truth["sizes"]["128x128"]["feature_sizes"], channels)
    return truth, oracles.weights(f"decoder_{name}"), features


@pytest.mark.slow_except("single_orig")
@needs_oracles
@pytest.mark.parametrize("name", DECODERS)
def test_decoders_of_the_authors_code_give_the_stored_logits(name):
    truth, state, features = decoder_oracle(name)
    for resize, mode in MODES.items():
        decoder = refineseg.load_original_decoder(
            state, groups=truth["groups"], improved=truth["improved_pooling"], resize=resize
        )
        assert count_parameters(decoder) == truth["params"]
        with torch.inference_mode():
            difference = decoder(features) - oracles.stored(f"decoder_{name}_128x128", mode)
        assert difference.abs().max() < 1e-4, mode


@pytest.fixture(scope="module")
def state():
    return oracles.weights("decoder_single_orig")


@needs_oracles
class TestDecoderErrors:
    def test_paths_without_a_group_are_refused(self, state):
        with pytest.raises(ConfigError, match="every one of the 4 encoder paths in one group"):
            refineseg.load_original_decoder(state, groups=[1, 2, 3])

    def test_the_other_pooling_is_refused_with_the_remedy(self, state):
        with pytest.raises(ModelFileError, match="say improved=False"):
            refineseg.load_original_decoder(state, groups=[1, 1, 1, 1], improved=True)

    def test_another_cascade_is_refused_by_the_tensors_names(self, state):
        with pytest.raises(ModelFileError, match=r"(left over|missing): .*(mflow_conv|blocks)"):
            refineseg.load_original_decoder(state, groups=[1, 1, 2, 2])

    def test_an_unknown_resize_is_refused(self, state):
        with pytest.raises(ConfigError, match="expected resize of bilinear"):
            refineseg.load_original_decoder(state, groups=[1, 1, 1, 1], resize="nearest")

    def test_an_encoder_alone_is_refused(self):
        with pytest.raises(ModelFileError, match="decoder tensors such as p_ims1d2"):
            refineseg.load_original_decoder({"conv1.weight": torch.zeros(3)})


@pytest.mark.slow_except("_single")
@pytest.mark.parametrize(
    "suffix", ["", "_single", "_2cascade", "_2scale", "_2scale8", "_2links", "_0links", "_improved"]
)
def test_full_decoders_have_the_parameters_the_paper_describes(suffix):
    variant = VARIANTS[f"refinenet_resnet101{suffix}"]
    ranks = [3, 2, 1, 0] * 2
    links = {"_2links": 2, "_0links": 0}.get(suffix, 4)
    network = on_meta(f"refinenet_resnet101{suffix}")
    assert count_parameters(network.decoder) == full_decoder(variant.groups, ranks, 21, links)
    assert count_parameters(network.encoder) == 42_500_160 * (2 if "2scale" in suffix else 1)


@pytest.mark.slow_except("refinenet_lw_mobilenetv2-3.285", "refinenet_lw_resnet18_densetorch-12.716")
@pytest.mark.parametrize(
    ("variant", "millions"),
    [
        ("refinenet_lw_resnet50_densetorch", 25.785),
        ("refinenet_lw_resnet18_densetorch", 12.716),
        ("refinenet_lw_mobilenetv2", 3.285),
        ("refinenet_resnet101", 118.052),
    ],
)
def test_published_counts_are_met(variant, millions):
    assert round(count_parameters(on_meta(variant)) / 1e6, 3) == millions


def test_the_nano_network_has_the_decoder_that_is_told_of_it():
    """Four light-weight blocks of 64 and then 32 channels with two links; counted from the text, not the modules."""

    def block(level, adapted, previous, width):
        fusion = 0 if previous is None else adapted * width + previous * width
        return level * adapted + fusion + 2 * width * width

    blocks = block(128, 64, None, 64) + block(64, 32, 64, 32) + block(32, 32, 32, 32) + block(16, 32, 32, 32)
    network = on_meta("refineseg_nano")
    assert count_parameters(network.decoder) == blocks + conv(32, 21, bias=True)
    small = on_meta("refineseg_small")
    assert tuple(2 * channels for channels in network.encoder.channels) == small.encoder.channels
    assert 4 * count_parameters(network) < count_parameters(small)
    first = next(module for module in network.encoder.modules() if isinstance(module, torch.nn.Conv2d))
    assert first.kernel_size == (3, 3)
    with pytest.raises(ConfigError, match="expected ImageNet weights of 'refineseg_nano'"):
        build_network("refineseg_nano", 21, pretrained=True)


def test_the_segmentation_part_of_the_multi_task_network_has_its_parameters():
    depth_head = 256 + 256 * 9 + 1
    assert count_parameters(on_meta("refinenet_lw_mobilenetv2_multitask", 40)) == 3_070_057 - depth_head


def test_nasnet_mobile_has_the_encoder_of_its_paper():
    assert count_parameters(on_meta("refinenet_lw_nasnetmobile").encoder) == 4_232_978


@needs_oracles
@pytest.mark.parametrize(
    ("keys", "variant"),
    [
        ("dt_lw50_21", "refinenet_lw_resnet50_densetorch"),
        ("dt_lwmbv2_21", "refinenet_lw_mobilenetv2"),
        ("mt_mbv2_40_2tasks", "refinenet_lw_mobilenetv2_multitask"),
    ],
)
def test_follow_up_networks_load_from_their_own_names(keys, variant, caplog):
    state = oracles.weights(keys)
    segmenter = refineseg.load_original({"state_dict": state}, variant=variant)
    left_out = {name for name in state if "depth" in name}
    loaded = sum(t.double().sum().item() for name, t in segmenter.network.state_dict().items())
    truth = sum(t.double().sum().item() for name, t in state.items() if name not in left_out)
    assert loaded == pytest.approx(truth)
    assert ("tensors of other tasks are left out" in caplog.text) == bool(left_out)
    assert segmenter.spec.options.align_corners == ("multitask" not in variant)
    assert not segmenter.spec.options.padded


@needs_oracles
def test_densetorchs_mobilenet_is_the_light_weight_codes_under_other_names():
    """Both order their tensors alike and compute the same function, so the stored logits hold for both."""
    names = [name for name, _ in oracles.shapes("dt_lwmbv2_21")]
    state = dict(zip(names, oracles.weights("rf_lwmbv2_21").values(), strict=True))
    network = refineseg.load_original(state, variant="refinenet_lw_mobilenetv2").network
    with torch.inference_mode():
        difference = network(oracles.normalised_image(128, 128)) - oracles.stored("rf_lwmbv2_21_128x128", "logits")
    assert difference.abs().max() < 1e-4


def light_weight_by_hand(weight, levels, collapse, *, align_corners, depthwise_end):
    """The light-weight decoder of the follow-ups, from the description alone; ``weight(kind, *numbers)``."""
    x = None
    for block, members in enumerate(collapse):  # levels coarsest first
        total = sum(F.conv2d(levels[m], weight("stem", m)) for m in members)
        if x is not None:
            x = F.conv2d(x, weight("adapt", block - 1))
            total = total + F.interpolate(x, size=total.shape[2:], mode="bilinear", align_corners=align_corners)
        x = link = F.relu6(total)
        groups = 256 if depthwise_end and block == len(collapse) - 1 else 1
        for k in range(4):
            link = F.conv2d(F.max_pool2d(link, 5, 1, 2), weight("crp", block, k + 1), groups=groups)
            x = x + link
    if depthwise_end:
        x = F.relu6(F.conv2d(x, weight("pre"), groups=256))
    return F.conv2d(x, weight("segm"), weight("bias"), padding=1)


@pytest.mark.slow_except("size_hw1")
@needs_oracles
@pytest.mark.parametrize("size_hw", [(64, 96), (97, 65)])
def test_follow_up_decoders_compute_what_their_code_describes(size_hw):
    image = oracles.normalised_image(*size_hw)
    state = oracles.weights("dt_lw50_21")
    network = refineseg.load_original(state, variant="refinenet_lw_resnet50_densetorch").network
    names = {"stem": "1.stem_convs.{}.weight", "adapt": "1.adapt_convs.{}.weight", "bias": "1.segm.bias"}
    names |= {"crp": "1.crp_blocks.{}.0.{}_outvar_dimred.weight", "segm": "1.segm.weight"}
    with torch.inference_mode():
        levels = network.encoder(image)[::-1]
        by_hand = light_weight_by_hand(
            lambda kind, *n: state[names[kind].format(*n)],
            levels,
            [[0], [1], [2], [3]],
            align_corners=True,
            depthwise_end=False,
        )
        assert (network(image) - by_hand).abs().max() < 1e-4

    state = oracles.weights("mt_mbv2_40_2tasks")
    network = refineseg.load_original(state, variant="refinenet_lw_mobilenetv2_multitask").network

    def multi_task(kind, *n):
        if kind == "stem":
            return state[f"conv{8 - n[0]}.weight"]
        if kind == "adapt":
            return state[f"conv_adapt{4 - n[0]}.weight"]
        if kind == "crp":
            return state[f"crp{4 - n[0]}.0.{n[1]}_outvar_dimred.weight"]
        return state[{"pre": "pre_segm.weight", "segm": "segm.weight", "bias": "segm.bias"}[kind]]

    with torch.inference_mode():
        levels = network.encoder(image)[::-1]
        by_hand = light_weight_by_hand(
            multi_task, levels, [[0, 1], [2, 3], [4], [5]], align_corners=False, depthwise_end=True
        )
        assert (network(image) - by_hand).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["_single", "_2cascade", "_2scale", "_2scale8", "_2links", "_0links", "_improved"])
def test_gradients_reach_every_parameter_of_a_cascade(name):
    variant = VARIANTS[f"refinenet_resnet50{name}"]
    options = replace(variant.options, level_widths=(8, 4), level_dropout=0.0)
    channels = (6, 7, 8, 9) * (1 + variant.two_scale)
    cascade = Cascade(
        channels,
        3,
        groups=variant.groups,
        options=options,
        resizing=Resizing(),
        ranks=[3, 2, 1, 0, 3, 2, 1, 0][: len(channels)],
    )
    sizes = [32, 16, 8, 4, 16, 8, 4, 2]
    levels = [torch.rand(2, c, s, s + 1) for c, s in zip(channels, sizes, strict=False)]
    logits = cascade(levels)
    assert logits.shape == (2, 3, 32, 33)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in cascade.parameters())


@pytest.mark.slow
def test_the_two_scale_network_sees_the_image_at_both_scales():
    network = refineseg.build("refinenet_resnet50_2scale", num_classes=2).network
    seen = []
    for encoder in (network.encoder.large, network.encoder.small):
        encoder.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    with torch.inference_mode():
        logits = network(torch.zeros(1, 3, 80, 160))
    assert seen == [(96, 192), (48, 96)]
    assert logits.shape == (1, 2, 24, 48)  # a quarter of the enlarged image
    assert len({id(p) for p in network.encoder.parameters()}) == len([*network.encoder.parameters()])
    segmenter = refineseg.build("refinenet_resnet50_2scale", num_classes=2)
    with torch.inference_mode():
        assert segmenter(torch.zeros(1, 3, 33, 50, dtype=torch.uint8)).shape == (1, 2, 33, 50)


@settings(max_examples=25, deadline=None)
@given(
    channels=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    data=st.data(),
    options=st.sampled_from([REFINENET, LIGHT_WEIGHT]),
)
def test_any_groups_of_levels_make_a_cascade(channels, data, options):
    """Every level in some block, in any order: the logits have the size of the finest level that enters."""
    order = data.draw(st.permutations(range(len(channels))))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(channels) - 1)), max_size=len(channels) - 1)))
    groups = [order[a:b] for a, b in itertools.pairwise([0, *cuts, len(order)]) if order[a:b]]
    options = replace(options, level_widths=(4, 3))
    cascade = Cascade(channels, 2, groups=groups, options=options, resizing=Resizing()).eval()
    levels = [torch.rand(1, c, 17 >> i or 1, 13 >> i or 1) for i, c in enumerate(channels)]
    assert cascade(levels).shape == (1, 2, 17, 13)


def test_groups_that_name_no_level_are_refused():
    with pytest.raises(ConfigError, match=r"expected groups of levels 0\.\.1"):
        Cascade((4, 4), 2, groups=((2,),), options=REFINENET, resizing=Resizing())
    with pytest.raises(ConfigError, match="at least one input of a RefineNet block"):
        Cascade((4, 4), 2, groups=((), (0, 1)), options=REFINENET, resizing=Resizing())


def test_caffe_strides_shrink_in_the_first_convolution_and_change_the_function():
    plain = build_network("refinenet_lw_resnet50", 2).eval()
    for block in plain.encoder.body.layer2:
        torch.nn.init.ones_(block.bn3.weight)  # new residual blocks are the identity
    caffe = build_network("refinenet_lw_resnet50", 2, options=NetworkOptions(caffe_strides=True)).eval()
    caffe.load_state_dict(plain.state_dict())
    first = caffe.encoder.body.layer2[0]
    assert (first.conv1.stride, first.conv2.stride) == ((2, 2), (1, 1))
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32))
    with torch.inference_mode():
        a, b = plain.encoder(x)[1], caffe.encoder(x)[1]
    assert a.shape == b.shape
    assert (a - b).abs().max() > 0.01 * a.std()
    with pytest.raises(ConfigError, match="ResNet of bottleneck blocks"):
        build_network("refinenet_lw:resnet18", 2, options=NetworkOptions(caffe_strides=True))
