"""Traced programs in files (``.pt2``), written by ``torch.export`` and read without it.

In: a traced segmenter, or a file. Out: bytes, or a :class:`Program`: tensors and a list of calls of known functions.

PyTorch's own reader unpickles parts of such a file, evaluates the expressions of sizes and runs the text of guards, so
that a file of strangers could run anything. Here nothing of a file is run but the functions of :data:`ATEN` and
:data:`ARITHMETIC`, on numbers and tensors; an archive that holds anything but tensors, the program and its description
is refused. What is written is still read by ``torch.export.load``.

Sources: PyTorch's ``torch/_export/serde/schema.py``, version 8, and ``torch/export/pt2_archive``.
"""

from __future__ import annotations

import copy
import io
import json
import math
import operator
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from refineseg.errors import ConfigError, ModelFileError, told
from refineseg.networks.weight_files import check_stored, check_weights

MOST_PROGRAM_BYTES = 64 << 20
_SCHEMA = 8
_LARGEST = 1 << 48  # of whole numbers: no product of sizes is larger, and products of products need no end
_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/version|\.data/serialization_id|models/model\.json"
    r"|data/weights/(?:model_weights_config\.json|weight_\d+)|data/constants/(?:model_constants_config\.json|tensor_\d+)"
    r"|data/sample_inputs/model\.pt|extra/\w+"
)
_SAMPLES = "data/sample_inputs/model.pt"  # a pickle, empty in what is written here
_AGAIN = "export the model again with `refineseg export --format torch`"

_DTYPES = {1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16}
_DTYPES |= {7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16}
_MEMORY_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
_STRIDED = 7

ATEN = frozenset(
    """
    _unsafe_view.default _upsample_bilinear2d_aa.vec abs.default adaptive_avg_pool2d.default add.Scalar add.Tensor
    add_.Tensor addcmul.default addmm.default alias.default amax.default arange.default arange.start argmax.default
    avg_pool2d.default batch_norm.default bitwise_not.default bmm.default cat.default chunk.default clamp.default
    clamp_.default clamp_min.default clone.default constant_pad_nd.default contiguous.default conv1d.default
    conv2d.default conv2d.padding cos.default cumsum.default detach_.default div.Scalar div.Tensor div.Tensor_mode
    div_.Tensor dropout.default dropout_.default elu.default eq.Scalar exp.default expand.default expand_as.default
    fill_.Scalar flatten.using_ints floor.default full.default gelu.default gelu_.default group_norm.default
    hardsigmoid.default hardsigmoid_.default hardswish.default hardswish_.default hardtanh.default hardtanh_.default
    index.Tensor index_select.default layer_norm.default leaky_relu.default leaky_relu_.default
    lift_fresh_copy.default linalg_vector_norm.default linear.default log_softmax.int masked_fill.Scalar
    matmul.default max_pool2d.default maximum.default mean.default mean.dim minimum.default mish.default movedim.int
    mul.Scalar mul.Tensor mul_.Tensor narrow.default ne.Scalar neg.default ones.default pad.default permute.default
    pixel_shuffle.default pow.Scalar pow.Tensor_Scalar reciprocal.default relu.default relu6.default relu_.default
    repeat.default reshape.default reshape_as.default roll.default round.default rsqrt.default rsub.Scalar
    scaled_dot_product_attention.default select.int sigmoid.default sigmoid_.default silu.default silu_.default
    sin.default slice.Tensor softmax.int softplus.default split.Tensor split_with_sizes.default sqrt.default
    squeeze.dim stack.default sub.Scalar sub.Tensor sum.dim_IntList sym_size.int tanh.default to.device to.dtype
    to.dtype_layout transpose.int unbind.int unflatten.int unsqueeze.default upsample_bicubic2d.vec
    upsample_bilinear2d.vec upsample_nearest2d.vec var.correction view.default where.self zeros.default
    """.split()  # noqa: SIM905 - a table of words
)
"""Functions of tensors that a program may call, all without access to files, memory or processes."""

ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "_operator.add": operator.add,
    "_operator.sub": operator.sub,
    "_operator.mul": operator.mul,
    "_operator.neg": operator.neg,
    "_operator.floordiv": operator.floordiv,
    "_operator.truediv": operator.truediv,
    "_operator.mod": operator.mod,
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    "math.trunc": math.trunc,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_float": float,
    "torch.sym_int": int,
}
"""Functions of sizes that a program may call."""

_CHECKS = ("torch.ops.aten._assert_tensor_metadata.default", "torch.ops.aten._assert_scalar.default")
"""Calls that only ask whether what they are given is what was traced; they are left out."""


@dataclass(frozen=True)
class Name:
    """A value that a program's call takes: an input, a weight, or the result of a call before it."""

    text: str


@dataclass(frozen=True)
class Call:
    """One call of a program.

    Args:
        function: Name of a function, a key of :data:`ATEN` or :data:`ARITHMETIC`.
        arguments: Arguments by place: numbers, words, :class:`Name`, lists of these.
        options: Arguments by keyword.
        results: Names of what it gives; the empty one is not used.
        gives_several: It gives a list or tuple of them.
        done: Names that no later call takes.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    results: tuple[str, ...]
    gives_several: bool
    done: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """A list of calls.

    Args:
        weights: Tensors by name, on the device of the program.
        image: Name of its one input.
        calls: Calls in order.
        outputs: Names of its results.
    """

    weights: Mapping[str, Tensor]
    image: str
    calls: tuple[Call, ...]
    outputs: tuple[str, ...]

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """The results for uint8 images (N, C, H, W)."""
        values: dict[str, Any] = {**self.weights, self.image: images}
        for call in self.calls:
            arguments = [_filled(argument, values) for argument in call.arguments]
            result = call.function(*arguments, **{n: _filled(value, values) for n, value in call.options.items()})
            if isinstance(result, int | float) and not abs(result) < _LARGEST:
                raise ValueError(f"a size of {result:.3g}")
            values |= zip(call.results, result if call.gives_several else [result], strict=True)
            for name in call.done:
                del values[name]
        return tuple(values[name] for name in self.outputs)


def _filled(argument: Any, values: Mapping[str, Any]) -> Any:  # noqa: ANN401 - numbers, tensors, lists
    if isinstance(argument, Name):
        return values[argument.text]
    return [_filled(item, values) for item in argument] if isinstance(argument, list) else argument


def program_bytes(program: Any, description: Mapping[str, str]) -> bytes:  # noqa: ANN401 - torch.export.ExportedProgram
    """A traced segmenter as a file's content, without a pickle in it.

    Args:
        program: Program from :func:`~refineseg.runtimes.graph.export_program`; it stays as it is.
        description: Texts by name.

    Raises:
        ConfigError: It calls a function that is not in the lists above.
    """
    program = copy.copy(program)
    program._example_inputs = None
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about how it stores weights that share memory
        torch.export.save(program, content, extra_files=dict(description))
    try:
        read_program(content.getvalue(), Path("the program"), device=torch.device("cpu"))
    except ModelFileError as error:
        raise ConfigError(f"expected a network that a .pt2 file can hold, but {error}; use --format onnx") from error
    return content.getvalue()


def read_program(source: Path | bytes, name: Path, *, device: torch.device) -> tuple[Program, dict[str, str]]:
    """A program, and the texts beside it; nothing of the file is run.

    Args:
        source: A file, or its content.
        name: Named in messages.
        device: Device that will compute it.

    Raises:
        ModelFileError: It is no such file, damaged, or holds anything but tensors, a program and texts.
    """
    try:
        with zipfile.ZipFile(source if isinstance(source, Path) else io.BytesIO(source)) as archive:
            size = source.stat().st_size if isinstance(source, Path) else len(source)
            check_stored(name, archive, size=size)
            members = _members(archive, name)
        texts = {
            key.removeprefix("extra/"): content.decode() for key, content in members.items() if key[:6] == "extra/"
        }
        if members["byteorder"].decode() != sys.byteorder:
            raise ModelFileError(f"expected a file of a {sys.byteorder}-endian machine, got {name}; {_AGAIN}")
        fields = json.loads(members["models/model.json"])
        if fields["schema_version"]["major"] != _SCHEMA:
            raise ModelFileError(f"expected a program of version {_SCHEMA}, got {name} of another PyTorch; {_AGAIN}")
        stored = {**_tensors(members, "weights", "weight"), **_tensors(members, "constants", "tensor")}
        check_weights({key: tensor for key, tensor in stored.items() if tensor.is_floating_point()}, name)
        return _Reader(fields["graph_module"], stored, device).program(), texts
    except ModelFileError:
        raise
    except (OSError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ModelFileError(f"expected a program of torch.export, got {name} ({told(error)}); {_AGAIN}") from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, RuntimeError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"expected a program that refineseg exported, got {name}, which is damaged or of others ({told(error)}); "
            f"{_AGAIN}"
        ) from error


def _members(archive: zipfile.ZipFile, name: Path) -> dict[str, bytes]:
    """The content of an archive in which every name is one of an honest export."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        _, _, inner = info.filename.partition("/")
        if not _MEMBERS.fullmatch(inner) or (inner == _SAMPLES and info.file_size):
            kind = "a pickle" if inner == _SAMPLES or inner.endswith((".pkl", ".pt")) else "what no program needs"
            raise ModelFileError(
                f"expected nothing but tensors and a program in {name}, got {kind} ({info.filename:.80}), which is not "
                f"opened since it could run code; {_AGAIN}"
            )
        found[inner] = info
    if len({info.filename.partition("/")[0] for info in found.values()}) > 1:
        raise ModelFileError(f"expected one folder in {name}, got several; {_AGAIN}")
    if sum(info.file_size for inner, info in found.items() if "_" not in inner) > MOST_PROGRAM_BYTES:
        raise ModelFileError(f"expected a program of at most {MOST_PROGRAM_BYTES} bytes in {name}; {_AGAIN}")
    return {inner: archive.read(info) for inner, info in found.items()}


def _tensors(members: Mapping[str, bytes], folder: str, prefix: str) -> dict[str, Tensor]:
    """Tensors by their name in the traced network."""
    found = {}
    for name, entry in json.loads(members[f"data/{folder}/model_{folder}_config.json"])["config"].items():
        if entry["use_pickle"]:
            raise ValueError(f"{name} is stored as a pickle")
        if not re.fullmatch(rf"{prefix}_\d+", entry["path_name"]):
            raise ValueError(f"{name} is no tensor")
        meta, raw = entry["tensor_meta"], members[f"data/{folder}/{entry['path_name']}"]
        dtype = _DTYPES[meta["dtype"]]
        flat = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        size, stride = ([int(item["as_int"]) for item in meta[key]] for key in ("sizes", "strides"))
        tensor = torch.as_strided(flat, size, stride, int(meta["storage_offset"]["as_int"]))
        if tensor.numel() > flat.numel():
            raise ValueError(f"{name} is larger than its bytes")
        found[name] = tensor
    return found


class _Reader:
    """The fields of a traced network -> calls."""

    def __init__(self, fields: Mapping[str, Any], stored: Mapping[str, Tensor], device: torch.device) -> None:
        self._graph, self._signature = fields["graph"], fields["signature"]
        self._stored, self._device = stored, device
        self._weights: dict[str, Tensor] = {}

    def program(self) -> Program:
        """Everything checked."""
        images = []
        for spec in self._signature["input_specs"]:
            ((kind, entry),) = spec.items()
            if kind == "user_input":
                images.append(str(entry["arg"]["as_tensor"]["name"]))
            else:
                key = {
                    "parameter": "parameter_name",
                    "buffer": "buffer_name",
                    "tensor_constant": "tensor_constant_name",
                }
                self._weights[str(entry["arg"]["name"])] = self._stored[entry[key[kind]]].to(self._device)
        (image,) = images
        outputs = tuple(str(s["user_output"]["arg"]["as_tensor"]["name"]) for s in self._signature["output_specs"])
        nodes = [node for node in self._graph["nodes"] if node["target"] not in _CHECKS]
        return Program(self._weights, image, self._calls(nodes, image, outputs), outputs)

    def _calls(self, nodes: list[Any], image: str, outputs: tuple[str, ...]) -> tuple[Call, ...]:
        known, calls, last = {image, *self._weights}, [], dict[str, int]()
        for index, node in enumerate(nodes):
            arguments = [(item["kind"], str(item["name"]), self._value(item["arg"])) for item in node["inputs"]]
            taken = {name for *_, value in arguments for name in _names(value)}
            if not taken <= known:
                raise ValueError(f"{sorted(taken - known)[0]} is used before it is made")
            results, several = _results(node["outputs"])
            known |= set(results)
            last |= dict.fromkeys((*taken, *results), index)
            by_place = tuple(value for kind, _, value in arguments if kind == 1)
            options = {name: value for kind, name, value in arguments if kind != 1}
            calls.append(Call(_function(node["target"]), by_place, options, results, several, ()))
        if not set(outputs) <= known:
            raise ValueError("its outputs are not made")
        kept = {*outputs, *self._weights, image}
        done = [[name for name, at in last.items() if at == i and name not in kept] for i in range(len(calls))]
        return tuple(
            Call(c.function, c.arguments, c.options, c.results, c.gives_several, tuple(names))
            for c, names in zip(calls, done, strict=True)
        )

    def _value(self, argument: Mapping[str, Any]) -> Any:  # noqa: ANN401 - numbers, words, names, lists
        ((kind, value),) = argument.items()
        simple: Mapping[str, Callable[[Any], Any]] = {
            "as_none": lambda _: None,
            "as_int": int,
            "as_float": float,
            "as_bool": bool,
            "as_string": str,
            "as_ints": lambda items: [int(item) for item in items],
            "as_floats": lambda items: [float(item) for item in items],
            "as_bools": lambda items: [bool(item) for item in items],
            "as_scalar_type": lambda item: _DTYPES[item],
            "as_memory_format": lambda item: _MEMORY_FORMATS[item],
            "as_layout": lambda item: {_STRIDED: torch.strided}[item],
            "as_device": lambda _: self._device,
            "as_tensor": lambda item: Name(str(item["name"])),
            "as_tensors": lambda items: [Name(str(item["name"])) for item in items],
            "as_sym_int": _size,
            "as_sym_ints": lambda items: [_size(item) for item in items],
            "as_sym_float": _size,
            "as_optional_tensors": lambda items: [None if "as_none" in i else self._value(i) for i in items],
        }
        if kind not in simple:
            raise ValueError(f"an argument of the kind {kind:.40}")
        return simple[kind](value)


def _size(item: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a number, or a name
    ((kind, value),) = item.items()
    read: dict[str, Callable[[Any], Any]] = {"as_int": int, "as_float": float, "as_name": lambda text: Name(str(text))}
    return read[kind](value)


def _names(value: Any) -> list[str]:  # noqa: ANN401 - as above
    if isinstance(value, list):
        return [name for item in value for name in _names(item)]
    return [value.text] if isinstance(value, Name) else []


def _results(outputs: list[Any]) -> tuple[tuple[str, ...], bool]:
    """Names of what a call gives, and whether it gives several."""
    found: list[str] = []
    for output in outputs:
        ((kind, value),) = output.items()
        entries = value if kind == "as_tensors" else [value]
        key = {"as_tensor": "name", "as_tensors": "name", "as_sym_int": "as_name", "as_sym_float": "as_name"}[kind]
        found += [str(entry[key]) for entry in entries]
    return tuple(found), len(outputs) != 1 or "as_tensors" in outputs[0]


def _function(target: str) -> Callable[..., Any]:
    known = ARITHMETIC.get(target)
    if known is not None:
        return known
    name = target.removeprefix("torch.ops.aten.")
    if name == target or name not in ATEN:
        raise ValueError(f"it calls {target:.80}, which no known network does")
    packet, overload = name.split(".")
    function: Callable[..., Any] = getattr(getattr(torch.ops.aten, packet), overload)
    return function
