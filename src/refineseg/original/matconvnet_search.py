"""Finding MatConvNet networks in a MATLAB file: their parameters, still unread, and what their layers tell.

Three forms are found, at any depth: a saved DagNN (``layers``, ``params``) as the file's variables or inside a struct;
the authors' ``net_config``, an object whose groups hold one DagNN each; and, in it, the classifier as a plain list of
layers (``type``, ``filters``, ``biases``) without names, which is called after its list: ``final_loss_conv``.

Sources: MatConvNet (DagNN ``saveobj``, SimpleNN) and the authors' code (``cnn_save_model``, ``gen_network_*``), read
for the names and shapes they write.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from refineseg.errors import ModelFileError
from refineseg.files.mat_nodes import MatCell, MatFile, MatNode, MatNumbers, MatOther, MatStruct, MatText

_SUFFIXES = {"_filter": "filter", "_bias": "bias", "_mult": "mult", "_moments": "moments"}
_ROLES = {"dagnn.Conv": ("filter", "bias"), "dagnn.BatchNorm": ("mult", "bias", "moments")}
_PLAIN_IDLE = {"my_custom", "custom", "dropout", "relu", "pool", "softmax", "softmaxloss"}


@dataclass(frozen=True)
class MatConvNetLayer:
    """What is written about a layer, sizes as (height, width); None where nothing is.

    Args:
        kind: MatConvNet's type, ``dagnn.Conv`` for instance.
        inputs: Names of the variables it reads.
        outputs: Names of the variables it writes.
        stride_hw: Its stride.
        padding: Top, bottom, left, right.
        window_hw: Height and width of the pooling window.
    """

    kind: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    stride_hw: tuple[int, int] | None = None
    padding: tuple[int, int, int, int] | None = None
    window_hw: tuple[int, int] | None = None


@dataclass
class Network:
    """One network; ``params`` are (layer, role, what the file calls it, value).

    Roles are filter, bias, mult and moments, after the endings of MatConvNet's names.
    """

    name: str
    params: list[tuple[str, str, str, MatNumbers]] = field(default_factory=list)
    layers: dict[str, MatConvNetLayer] = field(default_factory=dict)
    classifier: str | None = None


def listed(names: Iterable[str]) -> str:
    """The first names of a list, for messages."""
    every = list(names)
    return ", ".join(every[:8]) + (f" and {len(every) - 8} more" if len(every) > 8 else "")


def _text(node: MatNode | None) -> str:
    return node.value if isinstance(node, MatText) else ""


def _texts(node: MatNode | None) -> tuple[str, ...]:
    """The names in a cell of texts, or in a single text."""
    if isinstance(node, MatText):
        return (node.value,)
    return tuple(_text(node.element(i)) for i in range(node.size)) if isinstance(node, MatCell) else ()


def _integers(node: MatNode | None, count: int) -> tuple[int, ...] | None:
    """``count`` whole numbers; a single one stands for all."""
    if not isinstance(node, MatNumbers) or math.prod(node.shape) not in (1, count):
        return None
    values = np.asarray(node.read(), np.float64).reshape(-1, order="F")
    whole = tuple(int(v) for v in values if math.isfinite(v) and v == int(v))
    return (whole * count)[:count] if len(whole) == len(values) else None


def find_networks(opened: MatFile, path: Path) -> tuple[list[Network], tuple[str, ...]]:
    """All networks of a file in its order, and the names of the classes where it has them; without recursion.

    Raises:
        ModelFileError: There is none, or it holds a parameter or layer that is not understood.
    """
    networks: list[Network] = []
    class_names, others, seen = tuple[str, ...](), set[str](), set[int]()
    start = [("", node) for node in (opened.variables, opened.objects) if node is not None]
    stack: list[Iterator[tuple[str, MatNode]]] = [iter(start)]
    while stack:
        owner, node = next(stack[-1], ("", None))
        if node is None:
            stack.pop()
            continue
        if isinstance(node, MatOther):
            others.add(node.kind)
        if not isinstance(node, MatCell | MatStruct) or node.key in seen:  # a key seen before is a cycle, or shared
            continue
        seen.add(node.key)
        if isinstance(node, MatCell):
            stack.append(_elements(node, owner))
            continue
        found = [network for i in range(node.size) if (network := _network(node, i, owner, path))]
        networks += found
        class_names = _class_names(node, owner) or class_names
        stack.append(_fields(node, owner, skipped={"layers", "params", "vars"} if found else set()))
    if not any(network.params for network in networks):
        named = listed(opened.variables.names) or "nothing"
        beside = f", and objects that are not read ({listed(sorted(others))})" if others else ""
        raise ModelFileError(
            f"expected a MatConvNet network (layers and params, or net_config), got {path} with {named}{beside}; "
            "save the network's struct with save(..., '-v7.3')"
        )
    return networks, class_names


def _class_names(struct: MatStruct, owner: str) -> tuple[str, ...]:
    """Those of the authors' ``class_info``, or of the ``classes`` in the ``meta`` of an ImageNet network."""
    name = "class_names" if "class_names" in struct.names else "name" if owner == "classes" else ""
    return _texts(struct.get(name))


def _elements(cell: MatCell, owner: str) -> Iterator[tuple[str, MatNode]]:
    return ((owner, cell.element(i)) for i in range(cell.size))


def _fields(struct: MatStruct, owner: str, *, skipped: set[str]) -> Iterator[tuple[str, MatNode]]:
    """The fields of all elements, each with the element's name (or, for class lists, the field's) as its owner."""
    for i in range(struct.size):
        name = _text(struct.get("name", i)) or owner
        for key in (key for key in struct.names if key not in skipped):
            yield "classes" if key == "classes" else name, struct.field(i, key)


def _network(struct: MatStruct, i: int, owner: str, path: Path) -> Network | None:
    """The network that element ``i`` of a struct is, None where it is none."""
    params, layers = struct.get("params", i), struct.get("layers", i)
    if isinstance(params, MatStruct) and (isinstance(layers, MatStruct) or {"name", "value"} <= set(params.names)):
        return _dag_network(params, layers if isinstance(layers, MatStruct) else None, owner, path)
    if isinstance(layers, MatCell) and layers.size:
        first = layers.element(0)
        if isinstance(first, MatStruct) and "type" in first.names:
            return _plain_network(layers, _text(struct.get("name", i)) or owner, path)
    return None


def _dag_network(params: MatStruct, layers: MatStruct | None, name: str, path: Path) -> Network:
    """A saved DagNN."""
    network = Network(name)
    readers: dict[str, tuple[str, str]] = {}
    labels = set()
    for i in range(layers.size if layers else 0):
        assert layers is not None
        layer_name, kind = _text(layers.get("name", i)), _text(layers.get("type", i))
        read = _texts(layers.get("params", i))
        if layer_name in network.layers:
            raise ModelFileError(f"expected every layer once, got {layer_name!r} twice in {path}; save it again")
        if read and kind not in _ROLES:
            raise ModelFileError(
                f"expected parameters of {' and '.join(_ROLES)} only, got {listed(read)} of {layer_name!r}, "
                f"a {kind or 'layer without a type'}, in {path}; refineseg has no such layer"
            )
        for position, param in enumerate(read):
            if param in readers or position >= len(_ROLES[kind]):
                raise ModelFileError(f"expected one reader of {param}, got {layer_name!r} as well in {path}")
            readers[param] = layer_name, _ROLES[kind][position]
        variables = _texts(layers.get("inputs", i)), _texts(layers.get("outputs", i))
        network.layers[layer_name] = _layer(kind, *variables, layers.get("block", i))
    for i in range(params.size):
        label, value = _text(params.get("name", i)), params.get("value", i)
        if label in labels:
            raise ModelFileError(f"expected every parameter once, got {label!r} twice in {path}; save it again")
        labels.add(label)
        layer_name, role = _role(label, readers.pop(label, None), path)
        node = _value(value, label, path)
        if math.prod(node.shape):
            network.params.append((layer_name, role, label, node))
        elif layer_name in network.layers:
            raise ModelFileError(f"expected values of {label}, got none in {path}; save a trained network")
    if readers:
        raise ModelFileError(f"expected every parameter the layers read, missing in {path}: {listed(readers)}")
    return network


def _role(label: str, reader: tuple[str, str] | None, path: Path) -> tuple[str, str]:
    """Layer and role of a parameter: from its name, or from the layer that reads it; both must agree."""
    for suffix, role in _SUFFIXES.items():
        if label.endswith(suffix) and label != suffix:
            if reader and reader[1] != role:
                raise ModelFileError(f"expected {label} to be a {role}, got the {reader[1]} of {reader[0]} in {path}")
            return reader[0] if reader else label.removesuffix(suffix), role
    if reader:
        return reader
    raise ModelFileError(
        f"expected parameters that end in {', '.join(_SUFFIXES)}, got {label!r} in {path}, which no layer reads"
    )


def _value(node: MatNode | None, label: str, path: Path) -> MatNumbers:
    if isinstance(node, MatNumbers) and (node.dtype.kind == "f" or 0 in node.shape):
        return node
    if isinstance(node, MatNumbers | MatOther):
        found = node.dtype.name if isinstance(node, MatNumbers) else node.kind
    else:
        found = "none"
    raise ModelFileError(
        f"expected numbers of class single or double for {label}, got {found} in {path}; gather() and save again"
    )


def _layer(kind: str, inputs: tuple[str, ...], outputs: tuple[str, ...], block: MatNode | None) -> MatConvNetLayer:
    stride = padding = window = None
    if isinstance(block, MatStruct):
        stride, window = _integers(block.get("stride"), 2), _integers(block.get("poolSize"), 2)
        padding = _integers(block.get("pad"), 4)
    return MatConvNetLayer(
        kind,
        inputs,
        outputs,
        None if stride is None else (stride[0], stride[1]),
        None if padding is None else (padding[0], padding[1], padding[2], padding[3]),
        None if window is None else (window[0], window[1]),
    )


def _plain_network(layers: MatCell, name: str, path: Path) -> Network:
    """A list of layers (MatConvNet's SimpleNN); convolutions without a name are called after the list."""
    network = Network(name)
    for i in range(layers.size):
        layer = layers.element(i)
        kind = _text(layer.get("type")) if isinstance(layer, MatStruct) else ""
        if not isinstance(layer, MatStruct) or kind not in {"conv", *_PLAIN_IDLE}:
            raise ModelFileError(f"expected layers of a known type, got {kind!r} in {name!r} of {path}")
        weights = layer.get("weights")
        values = [weights.element(k) for k in range(weights.size)] if isinstance(weights, MatCell) else []
        values = values or [v for key in ("filters", "biases") if (v := layer.get(key)) is not None]
        if kind in _PLAIN_IDLE:
            if any(isinstance(v, MatNumbers) and math.prod(v.shape) for v in values):
                raise ModelFileError(f"expected no weights in a layer {kind!r}, got some in {name!r} of {path}")
            continue
        layer_name = _text(layer.get("name")) or f"{name}_conv"
        if layer_name in network.layers or not 1 <= len(values) <= 2:
            raise ModelFileError(f"expected {layer_name} once, with filters and biases, in {path}; name the layers")
        for role, value in zip(("filter", "bias"), values, strict=False):
            node = _value(value, f"{layer_name} ({role})", path)
            if math.prod(node.shape) or role == "filter":
                network.params.append((layer_name, role, f"{layer_name} ({role})", node))
        network.layers[layer_name] = _layer(kind, (), (), layer)
        network.classifier = layer_name
    return network
