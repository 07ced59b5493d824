"""Model files that would run code, eat memory or compute nothing, made by code: one function for each kind of file.

Every payload writes a marker file when it is run, so that a test can see whether anything was.
"""

import io
import json
import pickle
import warnings
import zipfile
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from refineseg.runtimes.description import Description
from refineseg.runtimes.program_files import program_bytes
from refineseg.segmenter import build

VARIANT = "refineseg_nano"


class Touch:
    """Unpickles by writing the marker file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (Path(self.marker),))


def code(marker):
    """An expression that writes the marker file."""
    return f"__import__('pathlib').Path({str(marker)!r}).touch()"


def pickled(marker):
    """What ``torch.save`` makes of the payload."""
    content = io.BytesIO()
    torch.save({"state_dict": Touch(marker), "weight": torch.zeros(2)}, content)
    return content.getvalue()


class Least(nn.Module):
    """One convolution: three classes, for images of any height."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, images):
        logits = self.conv(images.to(torch.float32))
        return logits.argmax(1).to(torch.uint8), logits


def honest_program():
    """The content of an honest ``.pt2`` file."""
    torch.manual_seed(0)
    example = (torch.zeros(1, 3, 40, 48, dtype=torch.uint8),)
    program = torch.export.export(Least().eval(), example, dynamic_shapes=({2: torch.export.Dim.DYNAMIC},))
    return program_bytes(program, {"refineseg": Description(small().spec).to_text()})


def changed(content, *, add=None, replace=None, fields=None, packed=()):
    """An archive with members added (by their name in it) or replaced, or with the program's JSON changed in place."""
    written = io.BytesIO()
    with (
        warnings.catch_warnings(action="ignore"),  # of names that are there twice
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(written, "w") as new,
    ):
        for info in old.infolist():
            inner = info.filename.removeprefix("archive/")
            member = (replace or {}).get(inner, old.read(info))
            if inner == "models/model.json" and fields is not None:
                program = json.loads(member)
                fields(program)
                member = json.dumps(program).encode()
            new.writestr(info.filename, member, zipfile.ZIP_DEFLATED if inner in packed else zipfile.ZIP_STORED)
        for name, member in (add or {}).items():
            new.writestr(f"archive/{name}", member)
    return written.getvalue()


def hostile_programs(content, marker):
    """Contents of ``.pt2`` files by what is wrong with them; none may run or be taken."""
    config = json.dumps({"config": {"conv.weight": {"path_name": "weight_0", "is_param": True, "use_pickle": True}}})
    custom = {"x": {"path_name": "custom_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}}
    zeros = bytes(50_000_000)

    def target(name, *words):
        def change(program):
            node = program["graph_module"]["graph"]["nodes"][0]
            node["target"] = name
            node["inputs"] = [{"name": "x", "arg": {"as_string": word}, "kind": 1} for word in words]

        return change

    def nested(program):
        program["graph_module"]["graph"]["nodes"] = "deep"

    deep = json.dumps({"a": "deep"}).replace('"deep"', "[" * 100_000 + "]" * 100_000)
    found = {
        "sample inputs": changed(content, replace={"data/sample_inputs/model.pt": pickled(marker)}),
        "sample inputs, bare": changed(content, replace={"data/sample_inputs/model.pt": pickle.dumps(Touch(marker))}),
        "a pickled weight": changed(
            content,
            replace={"data/weights/model_weights_config.json": config, "data/weights/weight_0": pickled(marker)},
        ),
        "weights of old": changed(content, add={"data/weights/model.pt": pickled(marker)}),
        "constants of old": changed(content, add={"data/constants/model.pt": pickled(marker)}),
        "a custom object": changed(
            content,
            replace={"data/constants/model_constants_config.json": json.dumps({"config": custom})},
            add={"data/constants/custom_obj_0": pickle.dumps(Touch(marker))},
        ),
        "an opaque object": changed(content, add={"data/constants/opaque_obj_0": pickle.dumps(Touch(marker))}),
        "a second model": changed(content, add={"models/other.json": "{}", "data/sample_inputs/other.pt": b"x"}),
        "a library": changed(content, add={"data/aotinductor/model/x.wrapper.so": b"\x7fELF"}),
        "a name outside": changed(content, add={"../../evil.py": code(marker)}),
        "reading a file": changed(content, fields=target("torch.ops.aten.from_file.default", str(marker))),
        "loading a pickle": changed(content, fields=target("torch.load", str(marker))),
        "a word as function": changed(content, fields=target(code(marker))),
        "another operator": changed(content, fields=target("_operator.attrgetter", "__class__")),
        "no list of calls": changed(content, fields=nested),
        "deep JSON": changed(content, replace={"models/model.json": deep}),
        "a packed bomb": changed(content, replace={"data/weights/weight_0": zeros}, packed=["data/weights/weight_0"]),
        "a weight of NaN": changed(content, replace={"data/weights/weight_0": b"\xff" * 36}),
        "too few bytes": changed(content, replace={"data/weights/weight_0": b"\0" * 4}),
        "twice the same name": changed(content, add={"models/model.json": "{}"}),
        "a bare pickle": pickled(marker),
        "garbage": b"no program at all" * 20,
        "nothing": b"",
        "cut off": content[: len(content) // 2],
    }
    with zipfile.ZipFile(io.BytesIO(), "w") as archive:
        archive.writestr("version", "8.20")
        for part in ("exported_program.json", "state_dict.json", "constants.json", "example_inputs.pt"):
            archive.writestr(f"serialized_{part}", pickled(marker))
        found["the format of before"] = archive.fp.getvalue()
    return found


def unevaluated_programs(content, marker):
    """Contents whose hostile parts are only ever text here: they compute as before, and nothing of the text is run."""

    def guards(program):
        program["guards_code"] = [code(marker)]

    def sizes(program):
        for entry in program["graph_module"]["graph"]["tensor_values"].values():
            for size in entry["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = code(marker)

    def verifier(program):
        program["verifiers"] = [code(marker)]

    return {name: changed(content, fields=f) for name, f in (("guards", guards), ("sizes", sizes), ("v", verifier))}


@lru_cache(maxsize=1)
def small():
    """A small model, built once."""
    torch.manual_seed(0)
    return build(VARIANT, num_classes=3)


def model_file(path, *, header=None, tensors=None, raw=None):
    """A small model file with fields of its header, or tensors, changed."""
    segmenter = small()
    own = {**segmenter.network.state_dict(), **(tensors or {})}
    own = {name: tensor.contiguous() for name, tensor in own.items() if tensor is not None}
    fields = {**segmenter.spec.to_json(), **(header or {})}
    save_file(own, path, metadata={"refineseg": json.dumps(fields) if raw is None else raw})
    return path
