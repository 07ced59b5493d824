"""The blocks of both papers against arithmetic by hand: loops, explicit formulas and a signal library, no torch."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate2d
from torch import nn

import refineseg
from fakes import oracles
from fakes.oracles import needs_oracles
from refineseg.networks.families import LIGHT_WEIGHT, LIGHT_WEIGHT_MOBILE, REFINENET
from refineseg.networks.refinenet import (
    Cascade,
    ChainedResidualPooling,
    MultiResolutionFusion,
    RefineNetBlock,
    ResidualConvUnit,
    Resizing,
)

FOUR_CASCADED = ((3,), (2,), (1,), (0,))
SMALL = replace(REFINENET, level_widths=(6, 4))
SMALL_LIGHT = replace(LIGHT_WEIGHT, level_widths=(6, 4))
SMALL_MOBILE = replace(LIGHT_WEIGHT_MOBILE, width=4)
CLOSE = {"rtol": 0, "atol": 1e-12}


def randomised(module, seed=0):
    """In double precision, with weights that no initialisation would give."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=0.4, generator=generator)
    return module.eval()


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_hand_conv(x, conv):
    """(C, H, W) through a convolution that keeps the size, one pair of channels at a time."""
    weight = conv.weight.detach().numpy()
    bias = np.zeros(len(weight)) if conv.bias is None else conv.bias.detach().numpy()
    return np.stack(
        [
            b + sum(correlate2d(plane, w, mode="same") for plane, w in zip(x, ws, strict=True))
            for b, ws in zip(bias, weight, strict=True)
        ]
    )


def by_hand_pool(x):
    """The largest value of every 5x5 window, what lies outside the image left out."""
    pooled = np.empty_like(x)
    for c, i, j in np.ndindex(*x.shape):
        pooled[c, i, j] = x[c, max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3].max()
    return pooled


def by_hand_enlarge(x, height, width, *, align_corners):
    """Bilinear: every output pixel asks where it lies in the input, and mixes the four pixels around that place."""

    def place(i, n_out, n_in):
        if align_corners:
            return i * (n_in - 1) / (n_out - 1) if n_out > 1 else 0.0
        return min(max((i + 0.5) * n_in / n_out - 0.5, 0.0), n_in - 1)

    result = np.empty((len(x), height, width))
    for i, j in np.ndindex(height, width):
        y, z = place(i, height, x.shape[1]), place(j, width, x.shape[2])
        top, left = int(y), int(z)
        bottom, right = min(top + 1, x.shape[1] - 1), min(left + 1, x.shape[2] - 1)
        upper = (1 - (z - left)) * x[:, top, left] + (z - left) * x[:, top, right]
        lower = (1 - (z - left)) * x[:, bottom, left] + (z - left) * x[:, bottom, right]
        result[:, i, j] = (1 - (y - top)) * upper + (y - top) * lower
    return result


class TestResidualConvUnit:
    @torch.no_grad()
    def test_it_adds_two_rectified_convolutions_to_its_input(self):
        unit, x = randomised(ResidualConvUnit(3)), noise(1, 3, 6, 7)
        by_hand = x[0].numpy()
        inner = by_hand_conv(np.maximum(by_hand, 0), unit.conv1)
        by_hand = by_hand + by_hand_conv(np.maximum(inner, 0), unit.conv2)
        np.testing.assert_allclose(unit(x)[0].numpy(), by_hand, **CLOSE)

    @torch.no_grad()
    def test_with_zero_weights_it_is_the_identity_also_below_zero(self):
        unit, x = ResidualConvUnit(3).double(), noise(2, 3, 5, 4)
        nn.init.zeros_(unit.conv1.weight)
        nn.init.zeros_(unit.conv2.weight)
        assert torch.equal(unit(x), x)
        assert (x < 0).any()

    @torch.no_grad()
    def test_its_input_is_left_as_it_was(self):
        x = noise(1, 3, 5, 4)
        before = x.clone()
        randomised(ResidualConvUnit(3))(x)
        assert torch.equal(x, before)

    def test_only_the_first_convolution_has_a_bias(self):
        assert [name for name, _ in ResidualConvUnit(3).named_parameters()] == [
            "conv1.weight",
            "conv1.bias",
            "conv2.weight",
        ]


class TestMultiResolutionFusion:
    @settings(max_examples=30, deadline=None)
    @given(
        shapes=st.lists(st.tuples(*3 * [st.integers(1, 6)]), min_size=2, max_size=4),
        kernel_size=st.sampled_from([1, 3]),
        out_channels=st.sampled_from([None, 3]),
        align_corners=st.booleans(),
    )
    @torch.no_grad()
    def test_inputs_are_convolved_then_enlarged_then_added(self, shapes, kernel_size, out_channels, align_corners):
        channels = [c for c, _, _ in shapes]
        height, width = max(h for _, h, _ in shapes), max(w for _, _, w in shapes)
        fusion = randomised(
            MultiResolutionFusion(
                channels,
                out_channels=out_channels,
                kernel_size=kernel_size,
                resizing=Resizing(align_corners=align_corners),
            )
        )
        inputs = [noise(1, *shape, seed=i) for i, shape in enumerate(shapes)]
        by_hand = sum(
            by_hand_enlarge(by_hand_conv(x[0].numpy(), conv), height, width, align_corners=align_corners)
            for x, conv in zip(inputs, fusion.convs, strict=True)
        )
        assert len(by_hand) == (out_channels or min(channels))
        np.testing.assert_allclose(fusion(inputs)[0].numpy(), by_hand, **CLOSE)

    @torch.no_grad()
    def test_a_single_input_passes_unchanged(self):
        fusion = MultiResolutionFusion([5], out_channels=None, kernel_size=3, resizing=Resizing())
        x = noise(2, 5, 3, 4)
        assert torch.equal(fusion([x]), x)
        assert not list(fusion.parameters())

    @torch.no_grad()
    def test_a_single_input_is_brought_to_a_given_width(self):
        fusion = MultiResolutionFusion([5], out_channels=2, kernel_size=1, resizing=Resizing())
        assert fusion([torch.zeros(2, 5, 3, 4)]).shape == (2, 2, 3, 4)

    def test_another_number_of_inputs_is_an_error(self):
        fusion = MultiResolutionFusion([5, 5], out_channels=None, kernel_size=1, resizing=Resizing())
        with pytest.raises(ValueError, match="zip"):
            fusion([torch.zeros(1, 5, 3, 3)])


class TestChainedResidualPooling:
    @pytest.mark.parametrize("kernel_size", [1, 3])
    @pytest.mark.parametrize("num_links", [0, 1, 2, 4])
    @pytest.mark.parametrize(("activation", "ceiling"), [("relu", np.inf), ("relu6", 6)])
    @torch.no_grad()
    def test_each_link_pools_and_weighs_the_link_before(self, kernel_size, num_links, activation, ceiling):
        pooling = randomised(
            ChainedResidualPooling(2, num_links=num_links, kernel_size=kernel_size, activation=activation)
        )
        x = 4 * noise(1, 2, 7, 6)
        total = link = np.clip(x[0].numpy(), 0, ceiling)
        assert (x > 6).any()
        for conv in pooling.convs:
            link = by_hand_conv(by_hand_pool(link), conv)
            total = total + link
        np.testing.assert_allclose(pooling(x)[0].numpy(), total, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize(("activation", "ceiling"), [("relu", np.inf), ("relu6", 6)])
    @torch.no_grad()
    def test_with_zero_weights_it_only_rectifies(self, activation, ceiling):
        pooling, x = ChainedResidualPooling(3, activation=activation), 10 * torch.randn(2, 3, 5, 4)
        for conv in pooling.convs:
            nn.init.zeros_(conv.weight)
        np.testing.assert_array_equal(pooling(x).numpy(), np.clip(x.numpy(), 0, ceiling))

    @pytest.mark.parametrize("num_links", [1, 2, 3, 4])
    @torch.no_grad()
    def test_every_link_sees_two_pixels_farther_in_each_direction(self, num_links):
        pooling = ChainedResidualPooling(1, num_links=num_links, kernel_size=1)
        for conv in pooling.convs:
            nn.init.ones_(conv.weight)
        spark = torch.zeros(1, 1, 31, 31)
        spark[..., 15, 15] = 1
        rows, columns = pooling(spark)[0, 0].nonzero().T
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == 2 * (15 - 2 * num_links, 15 + 2 * num_links)


class TestRefineNetBlock:
    @settings(max_examples=40, deadline=None)
    @given(
        shapes=st.lists(st.tuples(*3 * [st.integers(1, 9)]), min_size=1, max_size=5),
        adapted=st.lists(st.sampled_from([None, 1, 3]), min_size=5, max_size=5),
        options=st.sampled_from([SMALL, SMALL_LIGHT, SMALL_MOBILE]),
        batch=st.integers(1, 2),
        align_corners=st.booleans(),
    )
    @torch.no_grad()
    def test_it_takes_any_number_of_inputs_of_any_sizes(self, shapes, adapted, options, batch, align_corners):
        channels, widths = [c for c, _, _ in shapes], adapted[: len(shapes)]
        block = RefineNetBlock(
            channels, adapted_channels=widths, options=options, resizing=Resizing(align_corners=align_corners)
        )
        refined = block([torch.randn(batch, *shape) for shape in shapes])
        fused = 4 if options is SMALL_MOBILE else min(width or c for width, c in zip(widths, channels, strict=True))
        assert refined.shape == (batch, fused, max(h for _, h, _ in shapes), max(w for _, _, w in shapes))
        assert refined.isfinite().all()

    @torch.no_grad()
    def test_it_adapts_fuses_pools_and_refines_in_this_order(self):
        block = randomised(
            RefineNetBlock([2, 3], adapted_channels=[None, 2], options=SMALL, resizing=Resizing(align_corners=True)),
            seed=3,
        )
        coarse, fine = noise(1, 2, 2, 3), noise(1, 3, 4, 5, seed=1)
        adapted = by_hand_conv(fine[0].numpy(), block.adaptations[1][0])
        for unit in block.adaptations[1][1:]:
            adapted = adapted + by_hand_conv(
                np.maximum(by_hand_conv(np.maximum(adapted, 0), unit.conv1), 0), unit.conv2
            )
        enlarged = by_hand_enlarge(by_hand_conv(coarse[0].numpy(), block.fusion.convs[0]), 4, 5, align_corners=True)
        total = link = np.maximum(enlarged + by_hand_conv(adapted, block.fusion.convs[1]), 0)
        for conv in block.pooling.convs:
            link = by_hand_conv(by_hand_pool(link), conv)
            total = total + link
        for unit in block.output:
            total = total + by_hand_conv(np.maximum(by_hand_conv(np.maximum(total, 0), unit.conv1), 0), unit.conv2)
        np.testing.assert_allclose(block([coarse, fine])[0].numpy(), total, rtol=1e-10, atol=1e-10)


class TestCascade:
    CHANNELS = (4, 6, 8, 10)
    SIZES = ((17, 22), (9, 11), (5, 6), (3, 3))

    def levels(self, seed=0):
        return [
            noise(2, c, *size, seed=seed + i).float()
            for i, (c, size) in enumerate(zip(self.CHANNELS, self.SIZES, strict=True))
        ]

    def cascade(self, groups=FOUR_CASCADED, options=SMALL, *, num_classes=5, align_corners=False):
        cascade = Cascade(
            self.CHANNELS, num_classes, groups=groups, options=options, resizing=Resizing(align_corners=align_corners)
        )
        return randomised(cascade).float()

    @pytest.mark.parametrize("options", [SMALL, SMALL_LIGHT, SMALL_MOBILE])
    @pytest.mark.parametrize(
        "groups", [FOUR_CASCADED, ((3, 2), (1, 0)), ((3, 2, 1, 0),), ((3,), (2, 1), (0,)), ((2, 3), (1,), (0,))]
    )
    @torch.no_grad()
    def test_every_level_of_user_written_groups_matters_and_the_finest_gives_the_size(self, groups, options):
        cascade, levels = self.cascade(groups, options), self.levels()
        logits = cascade(levels)
        assert logits.shape == (2, 5, 17, 22)
        for i in range(4):
            changed = [x + 1 if i == j else x for j, x in enumerate(levels)]
            assert (cascade(changed) - logits).abs().max() > 1e-3

    @torch.no_grad()
    def test_without_the_finest_level_logits_have_the_size_of_the_next(self):
        assert self.cascade(((3,), (2,), (1,)))(self.levels()).shape == (2, 5, 9, 11)

    @pytest.mark.parametrize("options", [SMALL, SMALL_LIGHT, SMALL_MOBILE])
    def test_gradients_reach_every_parameter(self, options):
        cascade = self.cascade(options=options).train()
        torch.manual_seed(0)
        cascade(self.levels()).square().sum().backward()
        assert [name for name, p in cascade.named_parameters() if p.grad is None or not p.grad.any()] == []

    @pytest.mark.parametrize("options", [SMALL, SMALL_LIGHT])
    @torch.no_grad()
    def test_dropout_is_active_in_training_only(self, options):
        cascade, levels = self.cascade(options=options), self.levels()
        assert torch.equal(cascade(levels), cascade(levels))
        cascade.train()
        torch.manual_seed(0)
        assert not torch.equal(cascade(levels), cascade(levels))
        torch.manual_seed(1)
        first = cascade(levels)
        torch.manual_seed(1)
        assert torch.equal(cascade(levels), first)

    @torch.no_grad()
    def test_mobile_variants_have_no_dropout(self):
        cascade, levels = self.cascade(options=SMALL_MOBILE), self.levels()
        evaluated = cascade(levels)
        assert torch.equal(cascade.train()(levels), evaluated)

    @torch.no_grad()
    def test_dropout_halves_the_two_coarsest_levels_and_no_other(self):
        cascade = Cascade((400,) * 4, 2, groups=FOUR_CASCADED, options=SMALL_LIGHT, resizing=Resizing()).train()
        seen = []
        for block in cascade.blocks:  # the level is the last input of its block
            block.adaptations[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        torch.manual_seed(0)
        cascade([torch.ones(1, 400, 8, 8) for _ in range(4)])
        for dropped in seen[:2]:
            assert set(dropped.unique().tolist()) == {0.0, 2.0}
            assert dropped.mean() == pytest.approx(1, abs=0.05)
        for kept in seen[2:]:
            assert torch.equal(kept, torch.ones_like(kept))

    @pytest.mark.parametrize(("options", "drops"), [(SMALL, True), (SMALL_LIGHT, False)])
    @torch.no_grad()
    def test_only_full_refinenet_drops_features_in_front_of_the_classifier(self, options, drops):
        cascade, levels = self.cascade(options=options).train(), self.levels()
        levels[2:] = [torch.zeros_like(x) for x in levels[2:]]  # dropout of zeros leaves zeros
        torch.manual_seed(0)
        assert torch.equal(cascade(levels), cascade(levels)) != drops

    @torch.no_grad()
    def test_dropout_leaves_the_encoders_levels_as_they_are(self):
        levels = self.levels()
        before = [x.clone() for x in levels]
        self.cascade().train()(levels)
        assert all(torch.equal(x, y) for x, y in zip(levels, before, strict=True))


STORED_NAMES = {
    r"(?P<head>p_ims\w+)_dimred": "blocks.{block}.adaptations.{input}.0",
    r"adapt_input_path(?P<path>\d)_b(?P<k>\d)_conv": "blocks.{block}.adaptations.{input}.{k}.conv1",
    r"adapt_input_path(?P<path>\d)_b(?P<k>\d)_conv_relu_varout_dimred": "blocks.{block}.adaptations.{input}.{k}.conv2",
    r"adapt_input_path(?P<path>\d)_b2_joint_varout_dimred": "blocks.{block}.fusion.convs.{input}",
    r"mflow_conv_g(?P<group>\d)_pool(?P<k>\d)_outvar_dimred": "blocks.{before}.pooling.convs.{first}",
    r"mflow_conv_g(?P<group>\d)_b(?P<k>\d)_conv": "blocks.{before}.output.{first}.conv1",
    r"mflow_conv_g(?P<group>\d)_b(?P<k>\d)_conv_relu_varout_dimred": "blocks.{before}.output.{first}.conv2",
    r"mflow_conv_g(?P<group>\d)_b3_joint_varout_dimred": "blocks.{group}.fusion.convs.0",
    r"final_loss_conv": "classifier",
}
"""Layers of the stored decoders, which count paths, groups and units from 1 and from the coarsest path."""


def our_name(name, heads, place):
    layer, leaf = name.rpartition(".")[::2]
    match, template = next(
        (match, template) for pattern, template in STORED_NAMES.items() if (match := re.fullmatch(pattern, layer))
    )
    found = match.groupdict()
    path = heads.index(found["head"]) + 1 if "head" in found else int(found.get("path", 1))
    group, k = int(found.get("group", 1)), int(found.get("k", 1))
    block, position = place[path]
    ours = template.format(block=block, input=position, group=group, before=group - 1, k=k, first=k - 1)
    return f"{ours}.{leaf}"


@needs_oracles
@pytest.mark.parametrize(
    "decoder",
    [
        "cascade2_orig",
        "single_orig",
        pytest.param("cascade4_orig", marks=pytest.mark.slow),
        pytest.param("twoscale7_orig", marks=pytest.mark.slow),
    ],
)
@torch.inference_mode()
def test_cascades_of_other_groups_agree_with_the_reference(decoder):
    truth = oracles.read_json("expected_decoders.json")[decoder]
    heads, channels, widths = zip(*truth["paths"], strict=True)
    groups = truth["groups"]
    if isinstance(groups[0], int):  # the group of each path, not the paths of each group
        groups = [[path for path, g in enumerate(groups, 1) if g == group] for group in sorted(set(groups))]
    place = {path: (b, i + (b > 0)) for b, group in enumerate(groups) for i, path in enumerate(group)}
    cascade = Cascade(
        channels[::-1],
        21,
        groups=[[len(heads) - path for path in group] for group in groups],
        options=replace(REFINENET, level_widths=widths),
        resizing=Resizing(align_corners=True),
    ).eval()
    state = oracles.weights(f"decoder_{decoder}")
    cascade.load_state_dict({our_name(name, heads, place): tensor for name, tensor in state.items()})
    levels = oracles.features(truth["sizes"]["128x128"]["feature_sizes"], channels)[::-1]
    logits = cascade(levels)
    assert (logits - oracles.stored(f"decoder_{decoder}_128x128", "bilinear_ac")).abs().max() < 1e-4


@pytest.fixture(scope="module")
def network():
    return refineseg.build("refinenet_lw_mobilenetv2", num_classes=4).network


class TestRefineNet:
    @pytest.mark.parametrize("size_hw", [(97, 161), (1, 1), (64, 96), (31, 7)])
    @pytest.mark.parametrize("align_corners", [False, True])
    @torch.inference_mode()
    def test_any_size_goes_through_the_network_without_padding(self, network, size_hw, align_corners):
        for block in network.decoder.blocks:
            block.fusion.resizing = Resizing(align_corners=align_corners)
        logits = network(torch.randn(1, 3, *size_hw))
        assert logits.shape == (1, 4, -(-size_hw[0] // 4), -(-size_hw[1] // 4))
        assert logits.isfinite().all()

    def test_gradients_reach_every_parameter_of_encoder_and_decoder(self, network):
        network.train()
        torch.manual_seed(0)
        network(torch.randn(2, 3, 64, 64)).square().sum().backward()
        assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
