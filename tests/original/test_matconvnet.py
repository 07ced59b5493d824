"""MatConvNet files: written in MATLAB's own layouts from known tensors, read back, and every way of being wrong."""

import json
import random
import struct
import sys
import time
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from torch import nn

from conftest import SHARED
from fakes.matconvnet_files import (
    CAFFE_BLOCKS,
    EMPTY,
    Cell,
    Dag,
    Function,
    Object,
    Structs,
    add_decoder,
    add_resnet,
    classifier,
    draw,
    net_config,
    write_v5,
    write_v73,
)
from refineseg.errors import MissingExtraError, ModelFileError
from refineseg.files.mat_nodes import MatCell, MatNumbers, MatStruct, MatText
from refineseg.original.mat_files import open_mat
from refineseg.original.matconvnet import NORM_EPSILON, encoder_state, read_matconvnet

WRITERS = {"v5": write_v5, "v7.3": write_v73}
MATLABS_OWN = Path(scipy.io.__file__).parent / "matlab" / "tests" / "data"


@pytest.fixture(params=list(WRITERS))
def write(request):
    return WRITERS[request.param]


def resnet(depth, seed=0):
    """torchvision's ResNet of a depth, thin inside, with statistics as after training."""
    torch.manual_seed(seed)
    layers = {50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}[depth]
    network = torchvision.models.resnet.ResNet(torchvision.models.resnet.Bottleneck, layers, width_per_group=1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return network.eval()


def small():
    """One convolution with a bias and one normalisation."""
    dag = Dag()
    dag.conv("conv1", draw((4, 3, 5, 2), 0), draw((4,), 1), stride=2)
    dag.norm("bn1", draw((4,), 2), draw((4,), 3), draw((4,), 4), draw((4,), 5).abs() + 0.1)
    return dag


def read(tmp_path, write, variables):
    return read_matconvnet(write(tmp_path / "net.mat", variables))


def refused(tmp_path, write, variables, message):
    with pytest.raises(ModelFileError, match=message):
        read(tmp_path, write, variables)


class TestTensors:
    def test_every_value_comes_to_its_place(self, tmp_path, write):
        weight = torch.zeros(4, 3, 5, 2)
        for o, i, y, x in np.ndindex(*weight.shape):
            weight[o, i, y, x] = 1000 * o + 100 * i + 10 * y + x
        dag = Dag()
        dag.conv("c", weight)
        tensor = read(tmp_path, write, dag.struct()).tensors["c.weight"]
        assert tensor.shape == (4, 3, 5, 2)
        assert tensor[3, 2, 4, 1] == 3241
        assert torch.equal(tensor, weight)
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()

    @pytest.mark.parametrize(
        "shape", [(4, 3, 1, 1), (1, 3, 3, 3), (1, 1, 3, 3), (1, 1, 1, 1), (1, 5, 1, 1), (5, 1, 1, 1), (2, 1, 3, 1)]
    )
    def test_axes_of_size_1_that_matlab_drops_come_back(self, tmp_path, write, shape):
        weight = draw(shape, 0)
        dag = Dag()
        dag.conv("c", weight, draw((shape[0],), 1))
        model = read(tmp_path, write, dag.struct())
        assert torch.equal(model.tensors["c.weight"], weight)
        assert torch.equal(model.tensors["c.bias"], draw((shape[0],), 1))

    def test_moments_become_mean_and_variance(self, tmp_path, write):
        tensors = read(tmp_path, write, small().struct()).tensors
        assert torch.equal(tensors["bn1.weight"], draw((4,), 2))
        assert torch.equal(tensors["bn1.bias"], draw((4,), 3))
        assert torch.equal(tensors["bn1.running_mean"], draw((4,), 4))
        torch.testing.assert_close(tensors["bn1.running_var"], draw((4,), 5).abs() + 0.1, rtol=5e-7, atol=0)

    def test_normalisation_divides_by_the_stored_sigma_whatever_the_files_epsilon(self, tmp_path, write):
        dag = small()
        dag.layers[-1]["block"]["epsilon"] = 1e-4
        sigma = np.array([0.01, 0.5, 3, 0.004])
        dag.params[-1]["value"] = np.stack([np.arange(4.0), sigma], axis=1).astype(np.float32)
        tensors = read(tmp_path, write, dag.struct()).tensors
        norm = nn.BatchNorm2d(4).eval()
        norm.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("bn1")}, strict=False)
        assert norm.eps == NORM_EPSILON
        x = draw((1, 4, 3, 3), 9)
        column = (1, 4, 1, 1)
        truth = draw((4,), 2).view(column) * (x - torch.arange(4.0).view(column)) / torch.tensor(sigma).view(column)
        torch.testing.assert_close(norm(x).detach().double(), truth + draw((4,), 3).view(column), rtol=1e-4, atol=1e-4)

    def test_the_variance_of_a_constant_channel_is_zero(self, tmp_path, write):
        dag = small()
        dag.params[-1]["value"][:, 1] = np.sqrt(np.float32(1e-5)) * np.float32(1 - 1e-7)
        assert torch.equal(read(tmp_path, write, dag.struct()).tensors["bn1.running_var"], torch.zeros(4))

    @pytest.mark.parametrize("sigma", [0.003, 0.0, -1.0])
    def test_a_sigma_below_the_epsilon_is_refused(self, tmp_path, write, sigma):
        dag = small()
        dag.params[-1]["value"][2, 1] = sigma
        refused(tmp_path, write, dag.struct(), "expected sigmas of at least .* for bn1_moments")

    def test_double_values_are_read(self, tmp_path, write):
        dag = small()
        for param in dag.params:
            param["value"] = param["value"].astype(np.float64)
        assert torch.equal(read(tmp_path, write, dag.struct()).tensors["conv1.weight"], draw((4, 3, 5, 2), 0))

    def test_compressed_files_are_read(self, tmp_path, write):
        write(tmp_path / "net.mat", small().struct(), compress=True)
        assert torch.equal(read_matconvnet(tmp_path / "net.mat").tensors["conv1.weight"], draw((4, 3, 5, 2), 0))

    def test_a_file_without_matlabs_header_block_is_read(self, tmp_path):
        write_v73(tmp_path / "net.mat", small().struct(), userblock=False)
        assert len(read_matconvnet(tmp_path / "net.mat").tensors) == 6

    def test_params_of_older_names_take_their_place_from_the_layer_that_reads_them(self, tmp_path, write):
        dag = small()
        for param, name in zip(dag.params, ("conv1f", "conv1b", "bn1w", "bn1b", "bn1m"), strict=True):
            param["name"] = name
        dag.layers[0]["params"] = Cell(["conv1f", "conv1b"])
        dag.layers[1]["params"] = Cell(["bn1w", "bn1b", "bn1m"])
        model = read(tmp_path, write, dag.struct())
        assert model.tensors.keys() == read(tmp_path, write, small().struct()).tensors.keys()

    def test_one_layer_with_one_parameter_is_enough(self, tmp_path, write):
        """MATLAB stores arrays of one struct as a plain struct."""
        dag = Dag()
        dag.conv("c", draw((2, 3, 3, 3), 0))
        assert list(read(tmp_path, write, dag.struct()).tensors) == ["c.weight"]

    def test_without_layers_the_names_are_enough(self, tmp_path, write):
        struct = small().struct()
        del struct["layers"]
        model = read(tmp_path, write, struct)
        assert len(model.tensors) == 6
        assert model.layers == {}
        assert (model.stride_on, model.improved_pooling, model.groups, model.classifier) == (None, None, None, None)


class TestStructure:
    @pytest.mark.parametrize(
        "nest",
        [
            lambda net: net,
            lambda net: {"net": net},
            lambda net: {"net_config": {"ref": {"group_infos": Cell([EMPTY, {"name": "g", "dag_net": net}])}}},
            lambda net: {"a": Structs([{"x": EMPTY}, {"x": {"y": Cell([Cell([net])])}}])},
            lambda net: {"net_config": Object({"group_infos": Cell([{"name": "g", "dag_net": net}])})},
            lambda net: {"x": Object({"inner": Object({"inner": Object({"dag_net": net})})})},
        ],
    )
    def test_a_network_is_found_at_any_depth(self, tmp_path, write, nest):
        model = read(tmp_path, write, nest(small().struct()))
        assert torch.equal(model.tensors["conv1.weight"], draw((4, 3, 5, 2), 0))

    @pytest.mark.slow_except("v5")
    @pytest.mark.parametrize(("write", "improved"), [(write_v73, False), (write_v5, True)], ids=["v7.3", "v5"])
    def test_the_authors_file_is_read_whole(self, tmp_path, write, improved):
        encoder = add_resnet(Dag(), resnet(50), 50)
        decoder = Dag()
        made = add_decoder(decoder, improved=improved)
        weight, bias = draw((22, 2, 3, 3), 98), draw((22,), 99)
        model = read(tmp_path, write, {"net_config": net_config([encoder], decoder, classifier(weight, bias))})
        assert torch.equal(model.tensors["final_loss_conv.weight"], weight)
        assert torch.equal(model.tensors["final_loss_conv.bias"], bias)
        for name, (filters, offsets) in made.items():
            assert torch.equal(model.tensors[f"{name}.weight"], filters)
            assert f"{name}.bias" in model.tensors if offsets is not None else f"{name}.bias" not in model.tensors
        assert sorted(model.networks) == ["final_loss", "inputpath_1", "multipath_fusion"]
        assert model.encoder_depths == {"": 50}
        assert model.stride_on == "conv1"
        assert model.improved_pooling is improved
        assert model.groups == ((1,), (2,), (3,), (4,))
        assert (model.classifier, model.num_classes, model.unused) == ("final_loss_conv", 22, ())
        assert model.layers["pool1"].padding == (0, 1, 0, 1)
        assert model.layers["conv1"].stride_hw == (2, 2)
        assert len(model.tensors) == 53 * 5 + 86 + 2

    @pytest.mark.parametrize("variant", ["cascade4_orig", "cascade4_improved"])
    def test_the_decoders_names_are_those_of_the_reference(self, tmp_path, variant):
        stored = SHARED / "reference" / "oracles" / f"keys_decoder_{variant}.json"
        if not stored.is_file():
            pytest.skip(f"shared oracles are absent: {stored}")
        decoder = Dag()
        add_decoder(decoder, improved=variant.endswith("improved"))
        layers = classifier(draw((21, 2, 3, 3), 0), draw((21,), 1))
        model = read(tmp_path, write_v5, {"net_config": net_config([], decoder, layers)})
        assert sorted(model.tensors) == sorted(name for name, _ in json.loads(stored.read_text()))

    def test_two_encoders_keep_apart_by_their_groups_names(self, tmp_path):
        coarse, fine = resnet(50, seed=1), resnet(50, seed=2)
        decoder = Dag()
        groups = ((1, 2, 3), (4, 5), (6,), (7,))
        add_decoder(decoder, groups=groups, stage="adapt_stage")
        encoders = [add_resnet(Dag(), network, 50) for network in (coarse, fine)]
        layers = classifier(draw((21, 2, 3, 3), 0), draw((21,), 1))
        model = read(tmp_path, write_v5, {"net_config": net_config(encoders, decoder, layers)})
        assert model.encoder_depths == {"inputpath_1.": 50, "inputpath_2.": 50}
        assert model.groups == groups
        assert "final_loss_conv.weight" in model.tensors
        for prefix, network in (("inputpath_1.", coarse), ("inputpath_2.", fine)):
            state, rest = encoder_state(model.tensors, 50, prefix=prefix)
            assert torch.equal(state["layer3.5.conv2.weight"], network.layer3[5].conv2.weight)
            assert not any(key.startswith(prefix) for key in rest)

    def test_strides_on_the_second_convolution_are_told(self, tmp_path):
        dag = add_resnet(Dag(), resnet(50), 50, stride_on="branch2b")
        assert read(tmp_path, write_v5, dag.struct()).stride_on == "conv2"

    def test_other_strides_are_refused_by_stage(self, tmp_path):
        dag = add_resnet(Dag(), resnet(50), 50)
        for layer in dag.layers:
            if layer["name"] in ("res5a_branch2a", "res5a_branch1"):
                layer["block"]["stride"] = 1.0
        refused(tmp_path, write_v5, dag.struct(), "stride by 2 .* in stage 5")

    def test_a_resnet_of_another_depth_is_refused(self, tmp_path):
        dag = add_resnet(Dag(), resnet(50), 50)
        dag.layers = [layer for layer in dag.layers if "4f" not in layer["name"]]
        dag.params = [param for param in dag.params if "4f" not in param["name"]]
        refused(tmp_path, write_v5, dag.struct(), r"depth 50, 101, 152, got \(3, 4, 5, 3\)")

    def test_other_pooling_is_refused(self, tmp_path):
        dag = Dag()
        add_decoder(dag)
        next(layer for layer in dag.layers if layer["name"] == "mflow_conv_g3_pool2")["block"]["poolSize"] = 3.0
        refused(tmp_path, write_v5, dag.struct(), r"pooling over 5x5 .* mflow_conv_g3_pool2 with \(\(3, 3\)")

    def test_both_orders_of_pooling_are_refused(self, tmp_path):
        dag = Dag()
        add_decoder(dag)
        dag.conv("mflow_conv_g1_pool3_outvar_pb4", draw((2, 2, 3, 3), 0))
        refused(tmp_path, write_v5, dag.struct(), "one order of pooling")

    def test_class_names_are_read_where_they_are_stored(self, tmp_path, write):
        names = ["tench", "goldfish", "great white shark"]
        struct = small().struct(meta={"classes": {"name": Cell(names), "description": Cell(["x"])}})
        assert read(tmp_path, write, struct).class_names == tuple(names)
        info = {"class_names": Cell(["wall", "void"]), "void_label_values": np.array([[255]], np.uint8)}
        model = read(tmp_path, write, {"net_config": {"class_info": info, "dag_net": small().struct()}})
        assert (model.class_names, model.void_values) == (("wall", "void"), (255,))


class TestRefusals:
    def changed(self, change):
        dag = small()
        change(dag)
        return dag.struct()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda d: d.params.append(d.params[0]), "once, got 'conv1_filter' twice"),
            (lambda d: d.layers.append(d.layers[0]), "every layer once, got 'conv1' twice"),
            (lambda d: d.params.pop(1), "missing in .*: conv1_bias"),
            (lambda d: d.param("gamma", np.ones((1, 4), np.float32)), "end in _filter, .*got 'gamma'"),
            (lambda d: d.layers[0].update(type="dagnn.ConvTranspose"), "conv1_filter.*'conv1', a dagnn.ConvTranspose"),
            (
                lambda d: d.layers[0].update(type="dagnn.BatchNorm"),
                "conv1_filter to be a filter, got the mult of conv1",
            ),
            (lambda d: d.params[0].update(value=np.full((5, 2, 3, 4), np.nan, np.float32)), "NaN .* conv1_filter"),
            (lambda d: d.params[0].update(value=np.full((5, 2, 3, 4), 1e300)), "infinity in conv1_filter"),
            (lambda d: d.params[0].update(value=np.ones((5, 2, 3, 4), np.int32)), "conv1_filter, got int32"),
            (lambda d: d.params[0].update(value=np.ones((5, 2, 3, 2, 2), np.float32)), "four axes, got conv1_filter"),
            (lambda d: d.params[0].update(value="text"), "conv1_filter, got none"),
            (lambda d: d.params[0].update(value=EMPTY), "expected values of conv1_filter, got none"),
            (lambda d: d.params[1].update(value=np.ones((2, 2), np.float32)), "a vector, got conv1_bias"),
            (lambda d: d.params[1].update(value=np.ones((1, 5), np.float32)), "one width in conv1"),
            (lambda d: d.params[4].update(value=np.ones((2, 4), np.float32)), "two columns, got bn1_moments"),
            (lambda d: (d.layers.pop(), d.params.pop()), "bias, running_mean, .* of bn1, got weight, bias"),
            (lambda d: (d.layers.clear(), d.params.clear()), "expected a MatConvNet network"),
        ],
    )
    def test_a_wrong_network_is_refused_by_name(self, tmp_path, write, change, message):
        refused(tmp_path, write, self.changed(change), f"(?s){message}")

    def test_an_empty_parameter_that_no_layer_reads_is_left_out_and_told(self, tmp_path, write):
        model = read(tmp_path, write, self.changed(lambda d: d.param("old_filter", EMPTY)))
        assert model.unused == ("old_filter",)
        assert len(model.tensors) == 6

    def test_two_networks_with_the_same_parameters_need_names(self, tmp_path, write):
        refused(tmp_path, write, {"a": small().struct(), "b": small().struct()}, "several networks with the same ones")

    def test_layers_without_names_are_refused_where_there_are_two(self, tmp_path, write):
        layers = Cell(classifier(draw((2, 2, 3, 3), 0), draw((2,), 1)).values * 2)
        refused(tmp_path, write, {"net": {"name": "final_loss", "layers": layers}}, "final_loss_conv once")

    def test_unknown_plain_layers_are_refused_by_type(self, tmp_path, write):
        layers = Cell([{"type": "bnorm", "weights": Cell([np.ones((2, 1)), np.ones((2, 1)), np.ones((2, 2))])}])
        refused(tmp_path, write, {"net": {"name": "n", "layers": layers}}, "known type, got 'bnorm' in 'n'")

    def test_functions_are_left_alone(self, tmp_path, write):
        refused(tmp_path, write, {"f": Function("system"), "n": 1.0}, "got .* with f, n")

    def test_an_object_as_a_value_is_refused_by_class(self, tmp_path):
        dag = small()
        dag.params[0]["value"] = Function("gpuArray")
        refused(tmp_path, write_v73, dag.struct(), "for conv1_filter, got function_handle")


class TestEncoder:
    @pytest.mark.parametrize("depth", [50, 101, 152])
    def test_a_resnet_gets_torchvisions_names(self, tmp_path, depth):
        network = resnet(depth)
        model = read(tmp_path, write_v5, add_resnet(Dag(), network, depth).struct())
        state, rest = encoder_state(model.tensors, depth)
        truth = {k: v for k, v in network.state_dict().items() if not k.startswith("fc") and "num_batches" not in k}
        assert state.keys() == truth.keys()
        assert rest == {}
        assert model.encoder_depths == {"": depth}
        for key, tensor in truth.items():
            if key.endswith("running_var"):
                torch.testing.assert_close(state[key], tensor, rtol=3e-7, atol=0)
            else:
                assert torch.equal(state[key], tensor), key

    @torch.inference_mode()
    def test_the_bias_of_the_first_convolution_is_not_lost(self, tmp_path):
        network, bias = resnet(50), draw((64,), 7)
        path = write_v5(tmp_path / "net.mat", add_resnet(Dag(), network, 50, conv1_bias=bias).struct())
        state, _ = encoder_state(read_matconvnet(path).tensors, 50)
        ours = resnet(50, seed=1)
        ours.fc = network.fc
        unfilled = ours.load_state_dict(state, strict=False)
        assert all(key.startswith("fc") or "num_batches" in key for key in unfilled.missing_keys)
        plain = network.conv1
        network.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        network.conv1.weight, network.conv1.bias = plain.weight, nn.Parameter(bias)
        x = draw((1, 3, 64, 64), 3)
        torch.testing.assert_close(ours(x), network(x), rtol=1e-4, atol=1e-5)

    def test_what_is_not_of_the_encoder_is_handed_back(self, tmp_path):
        dag = add_resnet(Dag(), resnet(50), 50)
        dag.conv("fc1000", draw((10, 2048, 1, 1), 0), draw((10,), 1))
        _, rest = encoder_state(read(tmp_path, write_v5, dag.struct()).tensors, 50)
        assert sorted(rest) == ["fc1000.bias", "fc1000.weight"]

    def test_another_depth_is_refused_with_the_tensors_named(self, tmp_path):
        tensors = read(tmp_path, write_v5, add_resnet(Dag(), resnet(50), 50).struct()).tensors
        with pytest.raises(
            ModelFileError, match=r"missing: res3b1_branch2a.weight.*left over: res3b_branch2a.*depth\?"
        ):
            encoder_state(tensors, 101)
        with pytest.raises(ModelFileError, match="expected a ResNet of depth 50, 101, 152, got 18"):
            encoder_state(tensors, 18)

    def test_the_block_labels_are_as_many_as_the_blocks(self):
        assert {depth: len(labels) for depth, labels in CAFFE_BLOCKS.items()} == {50: 16, 101: 33, 152: 50}


@pytest.mark.skipif(not MATLABS_OWN.is_dir(), reason="this SciPy comes without MATLAB's own files")
class TestMatlabsOwnFiles:
    """Files that MATLAB wrote, on Linux, Solaris and Windows, in versions 6 to 7.4, as SciPy reads them."""

    @staticmethod
    def plain(node):
        if isinstance(node, MatNumbers):
            return np.asarray(node.read())
        if isinstance(node, MatText):
            return node.value
        if isinstance(node, MatCell):
            return [TestMatlabsOwnFiles.plain(node.element(i)) for i in range(node.size)]
        assert isinstance(node, MatStruct), node
        return [{k: TestMatlabsOwnFiles.plain(node.field(i, k)) for k in node.names} for i in range(node.size)]

    @staticmethod
    def scipys(value):
        if value.dtype.names:
            return [
                {k: TestMatlabsOwnFiles.scipys(e[k]) for k in value.dtype.names} for e in value.reshape(-1, order="F")
            ]
        if value.dtype == object:
            return [TestMatlabsOwnFiles.scipys(e) for e in value.reshape(-1, order="F")]
        if value.dtype.kind == "U":
            return "".join(value.tolist())
        return value

    @pytest.mark.parametrize("name", [
        f"test{kind}_{version}.mat"
        for kind in ("3dmatrix", "cell", "cellnest", "double", "emptycell", "matrix", "minus", "multi", "onechar",
                     "string", "structarr", "structnest", "unicode")
        for version in ("6.1_SOL2", "6.5.1_GLNX86", "7.1_GLNX86", "7.4_GLNX86")
        if (MATLABS_OWN / f"test{kind}_{version}.mat").is_file()
    ] + ["big_endian.mat", "little_endian.mat", "testsimplecell.mat", "testbool_8_WIN64.mat", "one_by_zero_char.mat",
         "testscalarcell_7.4_GLNX86.mat"])  # fmt: skip
    def test_they_are_read_as_scipy_reads_them(self, name):
        truth = scipy.io.loadmat(MATLABS_OWN / name, chars_as_strings=True)
        truth = {k: self.scipys(v) for k, v in truth.items() if not k.startswith("__")}
        with open_mat(MATLABS_OWN / name) as opened:
            found = {k: self.plain(opened.variables.field(0, k)) for k in opened.variables.names}
        np.testing.assert_equal(found, truth)

    def test_a_file_of_version_7_3_is_read(self):
        with open_mat(MATLABS_OWN / "testhdf5_7.4_GLNX86.mat") as opened:
            (name,) = opened.variables.names
            node = opened.variables.field(0, name)
            assert node.shape == (1, 9)
            np.testing.assert_allclose(node.read(), np.linspace(0, 2 * np.pi, 9)[None], rtol=1e-12)

    @pytest.mark.parametrize("name", ["testobject_7.4_GLNX86", "testfunc_7.4_GLNX86", "testsparse_7.4_GLNX86", "sqr",
                                      "testcomplex_7.4_GLNX86", "some_functions", "corrupted_zlib_data",
                                      "corrupted_zlib_checksum", "malformed1", "bad_miuint32", "testvec_4_GLNX86",
                                      "bad_miutf8_array_name", "nasty_duplicate_fieldnames"])  # fmt: skip
    def test_what_is_no_network_is_refused(self, name):
        with pytest.raises(ModelFileError, match=r"expected a .*\.mat"):
            read_matconvnet(MATLABS_OWN / f"{name}.mat")


def element(kind, content):
    return struct.pack("<II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def matrix(kind, shape, *parts, name=b"params"):
    flags = element(6, struct.pack("<II", kind, 0))
    return element(14, b"".join([flags, element(5, struct.pack(f"<{len(shape)}i", *shape)), element(1, name), *parts]))


def level5(*elements):
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"".join(elements)


def compressed(content, claimed=None):
    """An element that says it has ``claimed`` bytes where it is inflated."""
    if claimed is not None:
        content = content[:4] + struct.pack("<I", claimed) + content[8:]
    deflated = zlib.compress(content)
    return struct.pack("<II", 15, len(deflated)) + deflated


def nested_cells(depth):
    inner = b""
    for _ in range(depth):
        inner = matrix(1, (1, 1), inner, name=b"") if inner else matrix(1, (1, 1), element(14, b""), name=b"")
    return matrix(1, (1, 1), inner)


HOSTILE_LEVEL5 = {
    "a cell of 10^18 elements": level5(matrix(1, (10**9, 10**9))),
    "a cell of 2^31 elements": level5(matrix(1, (2**31 - 1, 1), element(14, b""))),
    "a struct array of 10^18 elements": level5(
        matrix(2, (10**9, 10**9), element(5, struct.pack("<i", 8)), element(1, b"name\0\0\0\0"))
    ),
    "a struct array without fields": level5(
        matrix(2, (10**9, 10**9), element(5, struct.pack("<i", 8)), element(1, b""))
    ),
    "numbers that are not there": level5(matrix(7, (10**9, 10**9), element(7, b"\0" * 16))),
    "a negative shape": level5(matrix(7, (-1, -1), element(7, b"\0" * 4))),
    "an element beyond the end": level5(struct.pack("<II", 14, 2**32 - 16)),
    "half a tag": level5(b"\x0e\0\0"),
    "field names of width 0": level5(matrix(2, (1, 1), element(5, struct.pack("<i", 0)), element(1, b"name"))),
    "an unknown class": level5(matrix(99, (1, 1))),
    "an unknown type": level5(element(77, b"12345678")),
    "broken compression": level5(struct.pack("<II", 15, 8) + b"notzlib!"),
    "an empty compressed element": level5(compressed(b"")),
    "cells nested 2,000 deep": level5(nested_cells(2_000)),
    "an object": level5(
        element(14, element(6, struct.pack("<II", 17, 0)) + element(1, b"net") + element(1, b"MCOS") + element(1, b"X"))
    ),
    "nothing": level5(),
}


class TestHostileFiles:
    @pytest.fixture(autouse=True)
    def soon(self):
        start = time.process_time()
        yield
        assert time.process_time() - start < 60

    def refused(self, path, message="expected"):
        with pytest.raises(ModelFileError, match=message) as caught:
            read_matconvnet(path)
        assert str(path) in str(caught.value)

    @pytest.mark.parametrize("what", HOSTILE_LEVEL5)
    def test_level_5_files_that_claim_what_is_not_there_are_refused(self, tmp_path, what):
        path = tmp_path / "net.mat"
        path.write_bytes(HOSTILE_LEVEL5[what])
        self.refused(path)

    @pytest.mark.parametrize("content", [b"", b"x", b"epoch,loss\n1,2\n" * 50, b"\0" * 4096, b"PK\x03\x04" * 99])
    def test_other_files_are_refused(self, tmp_path, content):
        path = tmp_path / "net.mat"
        path.write_bytes(content)
        self.refused(path, "MATLAB file of version 5 to 7.3")

    def test_no_file_and_a_folder_are_refused(self, tmp_path):
        self.refused(tmp_path / "absent.mat", "readable MATLAB file")
        self.refused(tmp_path, "readable MATLAB file")

    def test_hdf5_without_matlab_is_refused_by_what_it_holds(self, tmp_path):
        with h5py.File(tmp_path / "net.mat", "w") as file:
            file["weights"] = np.zeros(4)
        self.refused(tmp_path / "net.mat", "got .* with weights")

    def test_truncated_files_are_refused(self, tmp_path, write):
        path = write(tmp_path / "net.mat", small().struct())
        whole = path.read_bytes()
        for cut in (130, 600, len(whole) // 2, len(whole) - 200):
            path.write_bytes(whole[:cut])
            self.refused(path)

    def test_damage_is_refused_or_read_as_numbers(self, tmp_path, write):
        path = write(tmp_path / "net.mat", small().struct())
        whole, generator = path.read_bytes(), random.Random(0)
        for _ in range(60):
            damaged = bytearray(whole)
            for _ in range(generator.choice((1, 4, 64))):
                damaged[generator.randrange(124, len(whole))] = generator.randrange(256)
            path.write_bytes(damaged)
            try:
                model = read_matconvnet(path)
            except ModelFileError:
                continue
            assert all(torch.isfinite(tensor).all() for tensor in model.tensors.values())

    def in_hdf5(self, tmp_path, change):
        path = write_v73(tmp_path / "net.mat", {"net": small().struct()})
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    def replaced(self, file, dataset):
        """Lets the first parameter's value be another dataset."""
        dataset.attrs["MATLAB_class"] = np.bytes_("single")
        file["net/params/value"][0, 0] = dataset.ref

    def test_a_huge_array_that_is_not_stored_is_refused(self, tmp_path):
        def change(file):
            self.replaced(file, file.create_dataset("#refs#/x", (1000, 1000, 10), "f4", chunks=(100, 100, 1)))

        self.refused(self.in_hdf5(tmp_path, change), "claims 40,000,000 bytes, 0 of which are stored")

    def test_an_array_larger_than_any_layer_is_refused(self, tmp_path):
        def change(file):
            self.replaced(file, file.create_dataset("#refs#/x", (2**14, 2**14), "f4", chunks=(1, 2**14)))

        self.refused(self.in_hdf5(tmp_path, change), "claims 268,435,456 values")

    def test_values_in_other_files_are_refused(self, tmp_path):
        secret = tmp_path / "secret"
        secret.write_bytes(b"\0" * 4096)

        def outside(file):
            self.replaced(file, file.create_dataset("#refs#/x", (4,), "f4", external=[(str(secret), 0, 16)]))

        def virtual(file):
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource(str(secret), "x", (4,), "f4")
            self.replaced(file, file["#refs#"].create_virtual_dataset("x", layout))

        self.refused(self.in_hdf5(tmp_path, outside), "lie in other files")
        self.refused(self.in_hdf5(tmp_path, virtual), "lie in other files")

    def test_links_are_refused(self, tmp_path):
        other = write_v73(tmp_path / "other.mat", small().struct())

        def change(file):
            file["outside"] = h5py.ExternalLink(str(other), "/params")

        self.refused(self.in_hdf5(tmp_path, change), "'outside' is a link")

    def test_cells_in_a_circle_end(self, tmp_path):
        with h5py.File(tmp_path / "net.mat", "w") as file:
            for name in ("a", "b"):
                file.create_dataset(name, (1, 1), h5py.ref_dtype).attrs["MATLAB_class"] = np.bytes_("cell")
            file["a"][0, 0], file["b"][0, 0] = file["b"].ref, file["a"].ref
        self.refused(tmp_path / "net.mat", "with a, b")

    def test_a_network_within_itself_is_read_once(self, tmp_path):
        def change(file):
            cell = file["net/meta"].create_dataset("self", (1, 1), h5py.ref_dtype)
            cell.attrs["MATLAB_class"] = np.bytes_("cell")
            cell[0, 0] = file["net"].ref

        assert len(read_matconvnet(self.in_hdf5(tmp_path, change)).tensors) == 6

    def test_fields_of_different_lengths_and_broken_references_are_refused(self, tmp_path):
        def shorter(file):
            names = file["net/params/name"][:2]
            del file["net/params/name"]
            file["net/params"].create_dataset("name", data=names, dtype=h5py.ref_dtype)

        def broken(file):
            file["net/params/value"][0, 0] = h5py.Reference()

        self.refused(self.in_hdf5(tmp_path, shorter), "fields of the struct array /net/params differ in length")
        self.refused(self.in_hdf5(tmp_path, broken), "for conv1_filter, got null reference")

    def test_a_file_of_endless_elements_is_given_up(self, tmp_path, monkeypatch):
        path = tmp_path / "net.mat"
        monkeypatch.setattr("refineseg.files.mat_level5.MAX_NODES", 1000)
        monkeypatch.setattr("refineseg.original.mat_hdf5.MAX_NODES", 1000)
        path.write_bytes(level5(*[matrix(1, (1, 400), element(14, b"") * 400, name=b"%d" % i) for i in range(3)]))
        self.refused(path, "more than 1,000 elements")
        with h5py.File(path, "w") as file:
            file["x"] = np.zeros(4)
            references = np.array([file["x"].ref] * 400, h5py.ref_dtype)
            for name in "abc":
                file.create_dataset(name, data=references, dtype=h5py.ref_dtype).attrs["MATLAB_class"] = np.bytes_(
                    "cell"
                )
        self.refused(path, "more than 1,000 elements")

    def test_compressed_data_are_not_inflated_beyond_what_they_can_be(self, tmp_path, monkeypatch):
        path = tmp_path / "net.mat"
        content = matrix(7, (1, 10_000), element(7, b"\0" * 40_000))
        path.write_bytes(level5(compressed(content, claimed=2**30 - 1)))
        self.refused(path, "compressed bytes claim to be 1,073,741,823")
        path.write_bytes(level5(compressed(content), compressed(content)))
        monkeypatch.setattr("refineseg.files.mat_level5.MAX_INFLATED_BYTES", 50_000)
        self.refused(path, "compressed bytes claim to be 40,")

    def test_without_h5py_the_message_says_what_to_install(self, tmp_path, monkeypatch):
        path = write_v73(tmp_path / "net.mat", small().struct())
        monkeypatch.setitem(sys.modules, "h5py", None)
        with pytest.raises(MissingExtraError, match=r"h5py to read the MATLAB 7.3 file .*refineseg\[mat\]"):
            read_matconvnet(path)
