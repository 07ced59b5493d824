"""Writers of MatConvNet networks in MATLAB files, from PyTorch tensors: level 5 by SciPy, 7.3 as MATLAB lays it out.

MATLAB values are: arrays in MATLAB's axis order, texts, numbers, :class:`Cell`, a dict (a struct), :class:`Structs` (a
struct array), :class:`Object` (a class instance with one property) and :class:`Function`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import torch
from torch import Tensor

EMPTY = np.zeros((0, 0))


@dataclass
class Cell:
    values: list


@dataclass
class Structs:
    values: list  # dicts of the same keys


@dataclass
class Object:
    ref: Any
    class_name: str = "ref_obj"


@dataclass
class Function:
    name: str


# ---- HDF5, as MATLAB writes it ----

_CLASSES = {"f8": "double", "f4": "single", "u1": "uint8", "u4": "uint32", "i4": "int32", "u8": "uint64"}


class Mat73:
    """A 7.3 file being written: arrays with reversed axes, elements in #refs#, properties of objects in #subsystem#."""

    def __init__(self, path: Path, *, userblock: bool = True, compress: bool = False):
        self.path, self.compress = path, compress
        self.file = h5py.File(path, "w", userblock_size=512 if userblock else 0)
        self.refs = self.file.create_group("#refs#")
        self.count, self.properties = 0, []

    def close(self):
        if self.properties:
            parts = [np.zeros((1, 64), np.uint8), EMPTY, *self.properties, Cell([EMPTY]), Cell([EMPTY])]
            i = 2
            while i < len(parts) - 2:  # an object within an object adds to the list
                before = len(self.properties)
                parts[i] = self.reference(parts[i])
                parts[len(parts) - 2 : len(parts) - 2] = self.properties[before:]
                i += 1
            references = [p if isinstance(p, h5py.Reference) else self.reference(p) for p in parts]
            data = np.array(references, dtype=h5py.ref_dtype).reshape(1, -1)
            dataset = self.file.create_group("#subsystem#").create_dataset("MCOS", data=data, dtype=h5py.ref_dtype)
            dataset.attrs["MATLAB_class"] = np.bytes_("FileWrapper__")
            dataset.attrs["MATLAB_object_decode"] = np.int32(3)
        block = self.file.userblock_size
        self.file.close()
        if block:
            head = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan  2 03:04:05 2017 HDF5 schema 1.00 ."
            with self.path.open("r+b") as file:
                file.write(head.ljust(116) + b"\0" * 8 + b"\x00\x02IM")

    def reference(self, value):
        self.count += 1
        name = f"e{self.count}"
        self.put(self.refs, name, value)
        return self.refs[name].ref

    def put(self, group, name, value, *, top=False):
        if isinstance(value, dict):
            self._mark(self._fill(group.create_group(name), value), "struct")
        elif isinstance(value, Structs) and len(value.values) == 1:
            self.put(group, name, value.values[0])
        elif isinstance(value, Structs) and not value.values:
            self._mark(self._nothing(group, name), "struct")
        elif isinstance(value, Structs):
            made = group.create_group(name)
            for key in value.values[0]:
                references = [self.reference(element[key]) for element in value.values]
                made.create_dataset(key, data=np.array(references, h5py.ref_dtype).reshape(-1, 1), dtype=h5py.ref_dtype)
            self._mark(made, "struct")
        elif isinstance(value, Cell):
            data = np.array([self.reference(v) for v in value.values], h5py.ref_dtype).reshape(-1, 1)
            self._mark(
                group.create_dataset(name, data=data, dtype=h5py.ref_dtype)
                if value.values
                else self._nothing(group, name),
                "cell",
            )
        elif isinstance(value, Function):
            made = group.create_group(name)
            self.put(made, "function_handle", {"function": value.name, "type": "simple", "file": ""})
            self._mark(made, "function_handle")
            made.attrs["MATLAB_object_decode"] = np.int32(1)
        elif isinstance(value, Object):
            self.properties.append(value.ref)
            word = np.array([0xDD000000, 2, 1, 1, len(self.properties), 1], np.uint32).reshape(-1, 1)
            made = self._mark(group.create_dataset(name, data=word), value.class_name if top else "uint32")
            if top:
                made.attrs["MATLAB_object_decode"] = np.int32(3)
        elif isinstance(value, str):
            codes = np.frombuffer(value.encode("utf-16-le"), "<u2").reshape(-1, 1)
            made = group.create_dataset(name, data=codes) if value else self._nothing(group, name)
            self._mark(made, "char").attrs["MATLAB_int_decode"] = np.int32(2)
        else:
            self._array(group, name, np.atleast_2d(np.asarray(value, None if isinstance(value, np.ndarray) else float)))

    def _array(self, group, name, array):
        kind = _CLASSES[array.dtype.str[1:]]
        if array.size == 0:
            self._mark(self._nothing(group, name, array.shape), kind)
            return
        stored = np.ascontiguousarray(array.transpose())  # MATLAB's axes in reverse
        options = {"chunks": stored.shape, "compression": "gzip"} if self.compress and array.size > 16 else {}
        self._mark(group.create_dataset(name, data=stored, **options), kind)

    def _nothing(self, group, name, shape=(0, 0)):
        made = group.create_dataset(name, data=np.array(shape, np.uint64))
        made.attrs["MATLAB_empty"] = np.uint8(1)
        return made

    def _fill(self, group, fields):
        for key, value in fields.items():
            self.put(group, key, value)
        return group

    def _mark(self, item, kind):
        item.attrs["MATLAB_class"] = np.bytes_(kind)
        return item


def write_v73(path, variables, *, userblock=True, compress=False):
    file = Mat73(path, userblock=userblock, compress=compress)
    for name, value in variables.items():
        file.put(file.file, name, value, top=True)
    file.close()
    return path


# ---- level 5, by SciPy ----


def _for_scipy(value):
    if isinstance(value, dict):
        return {key: _for_scipy(v) for key, v in value.items()}
    if isinstance(value, Object):
        return _for_scipy(value.ref)
    if isinstance(value, Function):
        return value.name
    if isinstance(value, Cell):
        cell = np.empty((1, len(value.values)), object)
        for i, element in enumerate(value.values):
            cell[0, i] = _for_scipy(element)
        return cell
    if isinstance(value, Structs):
        keys = list(value.values[0]) if value.values else ["name", "value"]
        array = np.empty((1, len(value.values)), [(key, object) for key in keys])
        for i, element in enumerate(value.values):
            for key in keys:
                array[0, i][key] = _for_scipy(element[key])
        return array
    return value


def write_v5(path, variables, *, compress=False):
    scipy.io.savemat(
        path, {k: _for_scipy(v) for k, v in variables.items()}, do_compression=compress, long_field_names=True
    )
    return path


# ---- MatConvNet ----


def without_trailing_ones(array):
    """MATLAB has no trailing axes of size 1 beyond the second."""
    while array.ndim > 2 and array.shape[-1] == 1:
        array = array[..., 0]
    return array


def filters(weight: Tensor) -> np.ndarray:
    """(out, in, h, w) -> MATLAB's (h, w, in, out)."""
    array = np.zeros((weight.shape[2], weight.shape[3], weight.shape[1], weight.shape[0]), np.float32)
    for y in range(weight.shape[2]):
        for x in range(weight.shape[3]):
            array[y, x] = weight[:, :, y, x].numpy().T
    return without_trailing_ones(array)


def column(values: Tensor) -> np.ndarray:
    return values.numpy().astype(np.float32).reshape(-1, 1)


class Dag:
    """A DagNN being built; ``struct()`` is what its ``saveobj`` gives."""

    def __init__(self):
        self.layers, self.params = [], []

    def layer(self, name, kind, *, inputs=("data",), params=(), block=None):
        self.layers.append(
            {"name": name, "type": kind, "inputs": Cell(list(inputs)), "outputs": Cell([f"{name}_varout"]),
             "params": Cell(list(params)), "block": block or {"opts": Cell([])}}
        )  # fmt: skip

    def param(self, name, value):
        self.params.append({"name": name, "value": value, "learningRate": 1.0, "weightDecay": 1.0})

    def conv(self, name, weight, bias=None, *, stride=1, inputs=("data",)):
        size = np.array([[*weight.shape[2:], weight.shape[1], weight.shape[0]]], float)
        pad = float(weight.shape[2] // 2)
        block = {"size": size, "hasBias": np.array([[bias is not None]], np.uint8), "pad": pad,
                 "stride": np.array([[float(stride)] * 2])}  # fmt: skip
        names = [f"{name}_filter"] + ([f"{name}_bias"] if bias is not None else [])
        self.layer(name, "dagnn.Conv", inputs=inputs, params=names, block=block)
        self.param(names[0], filters(weight))
        if bias is not None:
            self.param(names[1], bias.numpy().reshape(1, -1))

    def norm(self, name, weight, bias, mean, variance):
        names = [f"{name}_{part}" for part in ("mult", "bias", "moments")]
        self.layer(name, "dagnn.BatchNorm", params=names, block={"epsilon": 1e-5, "numChannels": float(len(weight))})
        sigma = torch.sqrt(variance.double() + 1e-5)
        self.param(names[0], column(weight))
        self.param(names[1], column(bias))
        self.param(names[2], np.concatenate([column(mean), column(sigma)], axis=1))

    def pool(self, name, *, size, stride, pad):
        block = {"method": "max", "poolSize": np.array([[float(size)] * 2]), "stride": float(stride),
                 "pad": np.array([[float(p) for p in pad]])}  # fmt: skip
        self.layer(name, "dagnn.Pooling", block=block)

    def struct(self, *, meta=None):
        return {
            "vars": Structs([{"name": "data", "precious": 0.0}, {"name": "prob", "precious": 1.0}]),
            "params": Structs(self.params),
            "layers": Structs(self.layers),
            "meta": meta or {"normalization": {"averageImage": EMPTY}},
            "conserveMemory": 1.0,
        }


CAFFE_BLOCKS = {
    50: ["2a", "2b", "2c", "3a", "3b", "3c", "3d", "4a", "4b", "4c", "4d", "4e", "4f", "5a", "5b", "5c"],
    101: ["2a", "2b", "2c", "3a", "3b1", "3b2", "3b3", "4a", *(f"4b{i}" for i in range(1, 23)), "5a", "5b", "5c"],
    152: ["2a", "2b", "2c", "3a", *(f"3b{i}" for i in range(1, 8)), "4a", *(f"4b{i}" for i in range(1, 36)),
          "5a", "5b", "5c"],
}  # fmt: skip


def add_resnet(dag: Dag, resnet, depth: int, *, conv1_bias: Tensor | None = None, stride_on="branch2a"):
    """A torchvision ResNet under Caffe's names."""

    def norm(name, module):
        dag.norm(name, module.weight.data, module.bias.data, module.running_mean, module.running_var)

    dag.conv("conv1", resnet.conv1.weight.data, conv1_bias, stride=2)
    norm("bn_conv1", resnet.bn1)
    dag.pool("pool1", size=3, stride=2, pad=(0, 1, 0, 1))
    blocks = [block for stage in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4) for block in stage]
    for label, block in zip(CAFFE_BLOCKS[depth], blocks, strict=True):
        first = 2 if label in ("3a", "4a", "5a") else 1
        if block.downsample is not None:
            dag.conv(f"res{label}_branch1", block.downsample[0].weight.data, stride=first)
            norm(f"bn{label}_branch1", block.downsample[1])
        for branch, conv, bn in (
            ("branch2a", block.conv1, block.bn1),
            ("branch2b", block.conv2, block.bn2),
            ("branch2c", block.conv3, block.bn3),
        ):
            dag.conv(f"res{label}_{branch}", conv.weight.data, stride=first if branch == stride_on else 1)
            norm(f"bn{label}_{branch}", bn)
    return dag


def draw(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def add_decoder(dag: Dag, *, improved=False, stage="adapt_input_path", width=2, groups=((1,), (2,), (3,), (4,))):
    """The authors' decoder, two channels wide; returns its convolutions as (weight, bias) by name."""
    made = {}

    def conv(name, *, bias=False, inputs=("x",)):
        seed = len(made)
        made[name] = draw((width, width, 3, 3), seed), draw((width,), 500 + seed) if bias else None
        dag.conv(name, *made[name], inputs=inputs)

    def residual(prefix):
        conv(f"{prefix}_conv", bias=True)
        conv(f"{prefix}_conv_relu_varout_dimred")

    for p in range(1, 1 + sum(map(len, groups))):
        conv(f"p_ims1d2_outl{p}_dimred")
        for k in (1, 2):
            residual(f"{stage}{p}_b{k}")
    for g, paths in enumerate(groups, start=1):
        sources = [f"{stage}{p}_b2_joint_varout" for p in paths]
        if g > 1:
            sources.insert(0, f"mflow_conv_g{g - 1}_b3_joint_varout")
        if len(sources) > 1:
            for source in sources:
                conv(f"{source}_dimred", inputs=(source,))
            sources = [f"{source}_dimred_varout" for source in sources]
            dag.layer(f"mflow_joint_g{g}", "My_sum_layer", inputs=sources, block={"numInputs": 2.0})
            sources = [f"mflow_joint_g{g}_varout"]
        dag.layer(f"mflow_conv_g{g}_poolprev_relu", "dagnn.ReLU", inputs=sources)
        for k in (1, 2, 3, 4):
            before = f"mflow_conv_g{g}_poolprev_relu_varout" if k == 1 else f"mflow_conv_g{g}_pool{k - 1}_outvar"
            conv(f"{before}_pb{k}" if improved else f"mflow_conv_g{g}_pool{k}_outvar_dimred")
            dag.pool(f"mflow_conv_g{g}_pool{k}", size=5, stride=1, pad=(2, 2, 2, 2))
        for k in (1, 2, 3):
            residual(f"mflow_conv_g{g}_b{k}")
    return made


def classifier(weight: Tensor, bias: Tensor):
    """The authors' last layers: a plain list without names."""
    return Cell([
        {"type": "dropout", "rate": 0.5},
        {"type": "conv", "filters": filters(weight), "biases": bias.numpy().reshape(1, -1), "stride": 1.0, "pad": 1.0,
         "filtersMomentum": EMPTY, "biasesMomentum": EMPTY},
        {"type": "my_custom", "custom_type": "dense_softmaxloss",
         "forward_fn": Function("cnn_layer_dense_softmaxloss_forward"), "layer_update_fn": EMPTY},
    ])  # fmt: skip


def net_config(encoders, decoder, layers):
    """The authors' ``net_config``: an object whose groups hold a DagNN each, and objects with the plain layers."""
    wrapper = Cell([{"type": "my_custom", "custom_type": "dagnn_wrapper", "forward_fn": Function("wrapper_forward")}])

    def group(name, dag, plain):
        info = Object({"name": name, "layers": plain, "bp_start_layer": 1.0})
        return {"child_group_idxes": EMPTY, "net_info": info, "name": name, "use_dagnn": float(dag is not None),
                "dag_net": dag.struct() if dag else EMPTY}  # fmt: skip

    groups = [{"child_group_idxes": np.array([[2.0], [4.0]]), "net_info": EMPTY, "name": "root"}]
    groups += [group(f"inputpath_{i}", dag, wrapper) for i, dag in enumerate(encoders, start=1)]
    groups += [group("multipath_fusion", decoder, wrapper), group("final_loss", None, layers)]
    groups[-1]["name"] = "loss_group"
    return Object({"group_counter": 5.0, "group_infos": Cell(groups), "epoch_init_fn": EMPTY,
                   "global_init_fn": Function("cnn_global_init_fn"), "root_group_info": groups[0]})  # fmt: skip
