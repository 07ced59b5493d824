"""What every variant must do, on a device that knows shapes only: a new one has its counts, too."""

import pytest
import torch

from refineseg.bench.counting import CLASS_COUNTS, count, known_counts
from refineseg.networks.building import build_network
from refineseg.networks.variants import VARIANTS, find_variant

QUICK = (
    "refinenet_lw_mobilenetv2",
    "refinenet_lw_nasnetmobile",
    "refinenet_lw_resnet18_densetorch",
    "refinenet_lw_mobilenetv2_multitask",
    "refineseg_lite0",
    "refineseg_lite0_5cascade",
    "refineseg_nano",
)


@pytest.mark.slow_except(*QUICK)
@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_gives_logits_at_the_size_of_its_finest_map(name):
    assert find_variant(name) is VARIANTS[name]
    with torch.device("meta"), torch.no_grad():
        network = build_network(name, 5).eval()
        encoder = network.encoder
        side = 2 * encoder.size_multiple
        image = torch.empty(1, 3, side, 2 * side)
        levels = encoder(image)
        scores = network(image)
    assert [level.shape[1] for level in levels] == list(encoder.channels)
    if VARIANTS[name].two_scale:  # the levels of the image enlarged by 1.2 come before those of the image shrunk by 0.6
        assert scores.shape == (1, 5, side * 6 // 5 // 4, side * 6 // 5 // 2)
        assert [side * 6 / 5 / level.shape[2] for level in levels[:4]] == list(encoder.strides)
        assert [side * 3 / 5 / level.shape[2] for level in levels[4:]] == list(encoder.strides)
    else:
        finest = 2 if name.endswith("_5cascade") else 4
        assert scores.shape == (1, 5, side // finest, 2 * side // finest)
        assert [side // level.shape[2] for level in levels] == list(encoder.strides)
    assert list(encoder.strides) == sorted(encoder.strides), "levels come finest first"


def test_every_variant_has_its_stored_counts():
    known = known_counts()
    assert list(known) == list(VARIANTS), "run: refineseg bench --counts --write"
    assert all(tuple(by_classes) == CLASS_COUNTS for by_classes in known.values())


@pytest.mark.slow_except("refinenet_lw_resnet18_densetorch", "refinenet_lw_mobilenetv2")
@pytest.mark.parametrize("variant", VARIANTS)
def test_stored_counts_are_what_the_code_counts_now(variant):
    known = known_counts()[variant]
    assert count(variant, 21) == known[21], "run: refineseg bench --counts --write"
    assert known[40].multiply_adds > known[21].multiply_adds
    assert count(variant, 40) == known[40]


def test_every_variant_is_in_a_group_of_the_list_of_models():
    from refineseg.bench.counting import _GROUPS

    assert [name for name in VARIANTS if not name.startswith(tuple(_GROUPS))] == []
