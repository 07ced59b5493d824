"""Original weights: the stored reference logits, and every way in which a checkpoint can be wrong."""

import argparse
import hashlib
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import _weights_only_unpickler, nn

import refineseg
from fakes import oracles
from fakes.oracles import needs_oracles
from refineseg.errors import ConfigError, ModelFileError
from refineseg.networks.building import build_network
from refineseg.networks.refinenet import MultiResolutionFusion, Resizing, count_parameters
from refineseg.networks.weight_files import check_weights, plain_values, read_checkpoint
from refineseg.original.checkpoints import _path_groups, translate

LW_MOBILE = "refinenet_lw_mobilenetv2"


def on_meta(variant, num_classes=21):
    with torch.device("meta"):
        return build_network(variant, num_classes)


def furthest(a, b):
    return (a.double() - b.double()).abs().max().item()


@pytest.fixture(scope="module", params=list(oracles.VARIANT_OF))
def oracle(request):
    """(name, stored weights, the segmenter loaded from them); one of the large networks at a time."""
    state = oracles.weights(request.param)
    return request.param, state, refineseg.load_original(state, variant=oracles.VARIANT_OF[request.param])


@pytest.fixture(scope="module")
def mobile_state():
    return oracles.weights("rf_lwmbv2_21")


@pytest.fixture(scope="module")
def own():
    """Names and shapes of our MobileNet-v2 variant."""
    return on_meta(LW_MOBILE).state_dict()


@needs_oracles
class TestReference:
    @pytest.mark.slow_except("rf_lwmbv2_21", "rf_lw50_40")
    def test_the_weights_are_those_of_the_reference(self, oracle):
        name, state, _ = oracle
        truth = oracles.read_json("expected.json")[name]
        assert len(state) == truth["n_tensors"]
        assert oracles.checksum(state) == pytest.approx(truth["weights_checksum_sum_of_float32"], rel=1e-12)

    @pytest.mark.slow_except("rf_lwmbv2_21", "rf_lw50_40", "rf50_21")
    @torch.inference_mode()
    def test_logits_agree_with_the_reference(self, oracle):
        name, _, segmenter = oracle
        logits = segmenter.network(oracles.normalised_image(128, 128))
        assert furthest(logits, oracles.stored(f"{name}_128x128", "logits")) < 1e-4
        truth = oracles.read_json("expected.json")[name]["sizes"]["128x128"]["logits"]["argmax"]
        winners = logits.argmax(1).to(torch.uint8).numpy()
        assert hashlib.sha256(winners.tobytes()).hexdigest() == truth["sha256"]

    @pytest.mark.slow_except("rf_lwmbv2_21", "rf_lw50_40", "rf50_21")
    def test_classes_are_counted_and_the_licence_is_noted(self, oracle):
        name, _, segmenter = oracle
        assert segmenter.class_info.num_classes == int(name.rpartition("_")[2])
        assert "non-commercial" in segmenter.spec.licence
        assert segmenter.spec.options.align_corners


@needs_oracles
@torch.inference_mode()
def test_in_double_precision_logits_equal_the_reference_up_to_its_rounding(mobile_state):
    network = refineseg.load_original(mobile_state, variant=LW_MOBILE).network.double()
    logits = network(oracles.normalised_image(128, 128).double())
    assert furthest(logits, oracles.stored("rf_lwmbv2_21_128x128", "logits")) < 1e-6


def _half_pixels(network):
    for module in network.modules():
        if isinstance(module, MultiResolutionFusion):
            module.resizing = Resizing()


def _relu_not_relu6(network):
    for block in network.decoder.blocks:
        block.pooling.activation = "relu"


def _three_links(network):
    for block in network.decoder.blocks:
        del block.pooling.convs[-1]


def _small_windows(network):
    for block in network.decoder.blocks:
        block.pooling.pool = nn.MaxPool2d(3, stride=1, padding=1)


def _no_classifier_bias(network):
    nn.init.zeros_(network.decoder.classifier.bias)


def _other_epsilon(network):
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3


@needs_oracles
@pytest.mark.parametrize(
    "mistake", [_half_pixels, _relu_not_relu6, _three_links, _small_windows, _no_classifier_bias, _other_epsilon]
)
@torch.inference_mode()
def test_the_reference_notices_a_mistake_in_the_network(mobile_state, mistake):
    network = refineseg.load_original(mobile_state, variant=LW_MOBILE).network
    mistake(network)
    logits = network(oracles.normalised_image(128, 128))
    assert furthest(logits, oracles.stored("rf_lwmbv2_21_128x128", "logits")) > 1e-2


@pytest.mark.slow_except("refinenet_lw_mobilenetv2-3284565", "refinenet_lw_resnet50-27357525")
@pytest.mark.parametrize(
    ("variant", "num_parameters"),
    [
        ("refinenet_lw_resnet50", 27_357_525),
        ("refinenet_lw_resnet101", 46_349_653),
        ("refinenet_lw_resnet152", 61_993_301),
        ("refinenet_lw_mobilenetv2", 3_284_565),
        ("refinenet_resnet50", 99_060_309),
        ("refinenet_resnet101", 118_052_437),
    ],
)
def test_parameters_are_as_many_as_published(variant, num_parameters):
    assert count_parameters(on_meta(variant)) == num_parameters


@pytest.mark.slow_except("rf_lw101_21-refinenet_lw_resnet101")
@needs_oracles
@pytest.mark.parametrize(
    ("keys", "variant"),
    [
        ("rf_lw101_21", "refinenet_lw_resnet101"),
        ("rf_lw152_21", "refinenet_lw_resnet152"),
        ("rf152_21", "refinenet_resnet152"),
    ],
)
def test_every_original_tensor_is_used_exactly_once(keys, variant):
    original = {name: torch.empty(shape, device="meta") for name, shape in oracles.shapes(keys)}
    own = on_meta(variant).state_dict()
    translated = translate(original, variant=variant, own=own)
    assert {name: t.shape for name, t in translated.items()} == {name: t.shape for name, t in own.items()}
    assert sorted(id(t) for t in translated.values()) == sorted(id(t) for t in original.values())


@needs_oracles
class TestContent:
    """What may surround the tensors, and what may not be wrong with them; the shapes are enough to see it."""

    @pytest.fixture
    def state(self):
        return {name: torch.empty(shape, device="meta") for name, shape in oracles.shapes("rf_lwmbv2_21")}

    @pytest.mark.parametrize(
        "wrapped",
        [
            lambda state: {f"module.{name}": t for name, t in state.items()},
            lambda state: {"state_dict": state, "epoch": 7},
            lambda state: {
                "segmenter": {f"module.{name}": t for name, t in state.items()},
                "best_val": np.float64(0.4),
            },
            lambda state: {"epoch": 3, "model": {"state_dict": state}},
            lambda state: {**state, "epoch": 3},
            lambda state: {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")},
        ],
        ids=["module prefix", "state_dict", "segmenter", "model", "numbers beside tensors", "no num_batches_tracked"],
    )
    def test_the_usual_wrappings_are_taken_off(self, state, own, wrapped):
        translated = translate(wrapped(state), variant=LW_MOBILE, own=own)
        assert translated["decoder.classifier.bias"] is state["segm.bias"]
        assert translated.keys() == own.keys()

    def test_a_missing_counter_of_batches_becomes_zero(self, mobile_state):
        short = {name: t for name, t in mobile_state.items() if not name.endswith("num_batches_tracked")}
        segmenter = refineseg.load_original(short, variant=LW_MOBILE)
        counters = [t for name, t in segmenter.network.state_dict().items() if name.endswith("num_batches_tracked")]
        assert len(counters) == 1 + 17 * 3  # the stem, and three in each of 17 blocks
        assert not any(counters)

    def test_a_left_over_tensor_is_named(self, state, own):
        state["aux_head.weight"] = torch.empty(3, device="meta")
        with pytest.raises(ModelFileError, match=r"left over: aux_head\.weight; missing: none"):
            translate(state, variant=LW_MOBILE, own=own)

    def test_a_missing_tensor_is_named(self, state, own):
        del state["crp3.0.2_outvar_dimred.weight"]
        with pytest.raises(ModelFileError, match=r"missing: decoder\.blocks\.1\.pooling\.convs\.1\.weight"):
            translate(state, variant=LW_MOBILE, own=own)

    def test_a_tensor_of_another_shape_is_named_with_both_shapes(self, state, own):
        state["conv7.weight"] = torch.empty(256, 161, 1, 1, device="meta")
        with pytest.raises(ModelFileError, match=r"conv7\.weight of shape \(256, 160, 1, 1\).*got \(256, 161, 1, 1\)"):
            translate(state, variant=LW_MOBILE, own=own)

    def test_a_tensor_with_and_without_prefix_is_ambiguous(self, state, own):
        state["module.segm.bias"] = state["segm.bias"]
        with pytest.raises(ModelFileError, match=r"segm\.bias with and without module\. in front"):
            translate(state, variant=LW_MOBILE, own=own)

    def test_many_left_over_tensors_are_counted(self, state, own):
        with pytest.raises(ModelFileError, match=r"left over: a0, .*, a7 and 12 more"):
            translate({**state, **{f"a{i}": torch.zeros(1) for i in range(20)}}, variant=LW_MOBILE, own=own)

    def test_weights_of_another_variant_do_not_fit(self, state):
        with pytest.raises(
            ModelFileError, match=r"every tensor of refinenet_lw_resnet50 exactly once; left over: layer1"
        ):
            translate(state, variant="refinenet_lw_resnet50", own=on_meta("refinenet_lw_resnet50").state_dict())

    def test_a_variant_without_original_weights_is_refused(self, state, own):
        with pytest.raises(ModelFileError, match=r"expected one of refinenet_resnet50.*got 'refinenet_lw:resnet18'"):
            translate(state, variant="refinenet_lw:resnet18", own=own)

    def test_an_unknown_variant_is_refused(self, state):
        with pytest.raises(ConfigError, match="expected a variant, got 'refinenet_lw_mobilenetv3'"):
            refineseg.load_original(state, variant="refinenet_lw_mobilenetv3")

    def test_another_number_of_classes_is_refused(self, state):
        with pytest.raises(ModelFileError, match="expected 40 classes, got original weights with 21"):
            refineseg.load_original(state, variant=LW_MOBILE, num_classes=40)

    def test_weights_without_a_classifier_are_refused(self, state):
        state = {name: t for name, t in state.items() if not name.startswith("segm.")}
        with pytest.raises(ModelFileError, match=r"original classifier \(clf_conv, .*, got tensors such as conv3"):
            refineseg.load_original(state, variant=LW_MOBILE)

    @pytest.mark.parametrize("content", [{}, {"epoch": 3, "optimiser": [1, 2]}, {"state_dict": {"state_dict": {}}}])
    def test_a_checkpoint_without_tensors_is_refused(self, content):
        with pytest.raises(ModelFileError, match="expected a state dict of tensors, got the keys"):
            refineseg.load_original(content, variant=LW_MOBILE)

    def test_a_checkpoint_that_contains_itself_is_refused(self):
        content = {}
        content["model"] = content
        with pytest.raises(ModelFileError, match="expected a state dict of tensors"):
            refineseg.load_original(content, variant=LW_MOBILE)


@needs_oracles
@pytest.mark.parametrize("name", ["weights.pth", "checkpoint.pth.tar", "best.ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_file_gives_the_same_network_as_its_state_dict(tmp_path, mobile_state, name, zipped):
    path = tmp_path / name
    content = {"segmenter": mobile_state, "epoch_start": 3, "best_val": np.mean([0.3, 0.5])}  # as the authors' script
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    content = read_checkpoint(path)
    assert content["segmenter"].keys() == mobile_state.keys()
    assert all(torch.equal(content["segmenter"][key], tensor) for key, tensor in mobile_state.items())


@needs_oracles
@torch.inference_mode()
def test_a_checkpoint_file_is_loaded_by_its_path(tmp_path, mobile_state):
    torch.save(mobile_state, tmp_path / "weights.pth")
    network = refineseg.load_original(str(tmp_path / "weights.pth"), variant=LW_MOBILE, num_classes=21).network
    logits = network(oracles.normalised_image(128, 128))
    assert furthest(logits, oracles.stored("rf_lwmbv2_21_128x128", "logits")) < 1e-4


class Payload:
    """Runs a command when it is unpickled without care."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class TestFiles:
    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(ModelFileError, match=r"expected a readable checkpoint, got .*nowhere\.pth"):
            refineseg.load_original(tmp_path / "nowhere.pth", variant=LW_MOBILE)

    def test_a_folder_is_no_checkpoint(self, tmp_path):
        with pytest.raises(ModelFileError, match="expected a readable checkpoint"):
            refineseg.load_original(tmp_path, variant=LW_MOBILE)

    @pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, 2))])
    def test_code_in_a_checkpoint_is_refused_and_does_not_run(self, tmp_path, save):
        trace = tmp_path / "trace"
        save(
            {"state_dict": {"segm.bias": torch.zeros(21)}, "extra": Payload(f"touch {trace}")}, tmp_path / "hostile.pth"
        )
        with pytest.raises(ModelFileError, match=r"hostile\.pth, which is damaged or holds code .*never runs code"):
            refineseg.load_original(tmp_path / "hostile.pth", variant=LW_MOBILE)
        assert not trace.exists()

    def test_the_payload_would_run_if_it_were_unpickled_without_care(self, tmp_path):
        pickle.loads(pickle.dumps(Payload(f"touch {tmp_path / 'trace'}")))  # so that the test above can fail
        assert (tmp_path / "trace").exists()

    @pytest.mark.parametrize("zipped", [True, False])
    def test_numbers_of_numpy_are_plain_values_and_its_arrays_are_not(self, tmp_path, zipped):
        numbers = [np.float64(0.4), np.float32(1.5), np.int64(-7), np.bool_(True)]
        torch.save({"a": torch.ones(2), "b": numbers}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        assert read_checkpoint(tmp_path / "a.pth")["b"] == numbers
        torch.save({"a": np.ones(2)}, tmp_path / "b.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(ModelFileError, match="holds code"):
            read_checkpoint(tmp_path / "b.pth")

    def test_numbers_are_read_under_the_name_that_numpy_1_gave_them(self, tmp_path):
        torch.save({"b": np.float64(0.4)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
        content = (tmp_path / "a.pth").read_bytes()
        assert b"numpy._core.multiarray\n" in content
        (tmp_path / "a.pth").write_bytes(content.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"))
        assert read_checkpoint(tmp_path / "a.pth") == {"b": 0.4}

    @pytest.mark.filterwarnings("ignore:Validating sparse tensor")
    @pytest.mark.parametrize("hollow", [lambda t: t.to("meta"), torch.Tensor.to_sparse], ids=["meta", "sparse"])
    def test_tensors_without_values_or_sparse_ones_are_refused(self, tmp_path, hollow):
        torch.save({"state_dict": {"segm.weight": hollow(torch.ones(3, 3))}}, tmp_path / "a.pth")
        with pytest.raises(
            ModelFileError, match=r"expected dense tensors in .*a\.pth, got .* in state_dict\.segm\.weight"
        ):
            read_checkpoint(tmp_path / "a.pth")
        with pytest.raises(ModelFileError, match=r"expected dense tensors in memory, got"):
            check_weights({"w": hollow(torch.ones(3, 3))}, "memory")

    @pytest.mark.parametrize("value", [1e300, -1e39])
    def test_doubles_that_become_infinite_in_single_precision_are_refused(self, value):
        check_weights({"w": torch.full((2,), 1e38, dtype=torch.float64)}, "memory")
        with pytest.raises(
            ModelFileError, match=r"expected finite weights in memory, got NaN or infinity in w; .*float32"
        ):
            check_weights({"w": torch.tensor([0, value], dtype=torch.float64)}, "memory")

    @pytest.mark.parametrize("weights", [nn.Conv2d(1, 1, 1), [1], None])
    def test_what_is_neither_a_state_dict_nor_a_path_is_refused(self, weights):
        with pytest.raises(
            ConfigError, match=r"expected a state dict or the path .*, got \w+; .*network\.state_dict\(\)"
        ):
            refineseg.load_original(weights, variant=LW_MOBILE)

    def test_a_whole_pickled_model_is_refused(self, tmp_path):
        torch.save(nn.Conv2d(1, 1, 1), tmp_path / "model.pth")
        with pytest.raises(ModelFileError, match="damaged or holds code"):
            refineseg.load_original(tmp_path / "model.pth", variant=LW_MOBILE)

    def test_a_list_of_tensors_is_no_state_dict(self, tmp_path):
        torch.save([torch.zeros(1)], tmp_path / "list.pth")
        with pytest.raises(ModelFileError, match=r"expected a state dict in .*list\.pth, got list"):
            refineseg.load_original(tmp_path / "list.pth", variant=LW_MOBILE)

    def test_a_zip_of_something_else_is_refused(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
            archive.writestr("readme.txt", "no weights")
        with pytest.raises(ModelFileError, match=r"expected a PyTorch checkpoint .*other\.pth"):
            refineseg.load_original(tmp_path / "other.pth", variant=LW_MOBILE)

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    @settings(max_examples=150, deadline=None)
    @given(data=st.data(), zipped=st.booleans())
    def test_a_truncated_file_is_refused(self, tmp_path_factory, data, zipped):
        path = tmp_path_factory.getbasetemp() / "truncated.pth"
        torch.save({"a.weight": torch.ones(3, 3), "b": [1, 2.5, "x"]}, path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(ModelFileError, match=r"expected a PyTorch checkpoint .*truncated\.pth"):
            read_checkpoint(path)

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    @settings(max_examples=150, deadline=None)
    @given(content=st.one_of(st.binary(max_size=300), st.binary(max_size=60).map(lambda tail: b"\x80\x02" + tail)))
    def test_a_file_of_random_bytes_is_refused(self, tmp_path_factory, content):
        path = tmp_path_factory.getbasetemp() / "random.pth"
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=r"random\.pth"):
            read_checkpoint(path)


def test_what_the_program_allows_itself_stays_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(_weights_only_unpickler, "_marked_safe_globals_set", {argparse.Namespace})
    torch.save({"args": argparse.Namespace(lr=1), "state_dict": {"a": torch.zeros(1)}}, tmp_path / "a.pth")
    with plain_values():
        read_checkpoint(tmp_path / "a.pth")  # another reader ends first
        assert torch.serialization.get_safe_globals().count(argparse.Namespace) == 1
        assert len(torch.serialization.get_safe_globals()) > 1
    assert torch.serialization.get_safe_globals() == [argparse.Namespace]


def test_groups_may_be_numbers_of_numpy():
    assert _path_groups(list(np.array([1, 1, 2, 2])), 4) == [[1, 2], [3, 4]]
