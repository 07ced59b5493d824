"""Programs in ``.pt2`` files: what is read is what was traced, on any device, and PyTorch reads the same files."""

import io
import zipfile
from pathlib import Path

import pytest
import torch
from torch._export.serde import schema

from fakes.exports import least
from refineseg.bench.timing import example_images
from refineseg.errors import ConfigError
from refineseg.networks.variants import VARIANTS
from refineseg.runtimes import program_files
from refineseg.runtimes.graph import export_program
from refineseg.runtimes.program_files import program_bytes, read_program
from refineseg.segmenter import build

CPU, NET = torch.device("cpu"), Path("net.pt2")


@pytest.fixture(scope="module")
def traced():
    """A program of a handful of operations for any size, and its file's content."""
    program = export_program(least())
    return program, program_bytes(program, {"refineseg": "its description"})


@pytest.mark.slow
def test_what_is_read_computes_what_was_traced_and_needs_no_pickle(traced):
    program, content = traced
    read, texts = read_program(content, NET, device=CPU)
    assert texts == {"refineseg": "its description"}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert [info.filename for info in archive.infolist() if info.filename.endswith(".pt") and info.file_size] == []
        assert b"PK" not in b"".join(archive.read(name)[:2] for name in archive.namelist())
    again = torch.export.load(io.BytesIO(content)).module()
    for size, batch in (((33, 50), 1), ((64, 97), 2)):
        images = example_images(batch, 3, size)
        with torch.no_grad():
            expected = program.module()(images)
            for name, found, others in zip(("class_map", "logits"), read(images), again(images), strict=True):
                truth = dict(zip(("class_map", "logits"), expected, strict=True))[name]
                torch.testing.assert_close(found, truth)
                torch.testing.assert_close(others, truth)


def test_a_program_moves_with_every_tensor_it_makes(traced):
    meta = torch.device("meta")  # refuses tensors of another device as a GPU does
    read, _ = read_program(traced[1], NET, device=meta)
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8, device=meta)
    assert {result.device for result in read(images)} == {meta}


def test_the_numbers_of_types_are_those_of_pytorchs_schema():
    names = {"BYTE": "uint8", "CHAR": "int8", "SHORT": "int16", "INT": "int32", "LONG": "int64", "HALF": "float16"}
    names |= {"FLOAT": "float32", "DOUBLE": "float64", "BOOL": "bool", "BFLOAT16": "bfloat16"}
    expected = {int(schema.ScalarType[name]): getattr(torch, kind) for name, kind in names.items()}
    assert expected == program_files._DTYPES
    assert schema.Layout.Strided == program_files._STRIDED
    assert schema.SCHEMA_VERSION[0] == program_files._SCHEMA
    formats = {schema.MemoryFormat.ContiguousFormat: torch.contiguous_format}
    formats |= {schema.MemoryFormat.ChannelsLast: torch.channels_last}
    assert {int(key): value for key, value in formats.items()}.items() <= program_files._MEMORY_FORMATS.items()


def test_every_known_function_is_pytorchs():
    for name in program_files.ATEN:
        assert program_files._function(f"torch.ops.aten.{name}")


def test_a_network_with_unknown_functions_is_refused_when_it_is_written(traced, monkeypatch):
    monkeypatch.setattr(program_files, "ATEN", program_files.ATEN - {"conv2d.default"})
    with pytest.raises(ConfigError, match=r"a \.pt2 file can hold, but .*calls torch.ops.aten.conv2d.default"):
        program_bytes(traced[0], {})


@pytest.mark.slow_except("refineseg_lite0_5cascade-None")
@pytest.mark.parametrize("size_hw", [None, (70, 97)])
@pytest.mark.parametrize("variant", ["refineseg_lite0", "refineseg_lite0_5cascade"])
def test_programs_have_the_logits_and_classes_of_the_network(variant, size_hw):
    torch.manual_seed(0)
    segmenter = build(variant, num_classes=3).eval()
    program = export_program(segmenter, outputs=("class_map", "logits"), size_hw=size_hw).module()
    images = example_images(1 if size_hw else 2, 3, (70, 97))
    with torch.no_grad():
        classes, logits = program(images)
        expected = segmenter(images)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert (classes.long() == expected.argmax(1)).float().mean() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "refineseg_lite0_5cascade",
        "refinenet_lw_mobilenetv2", "refinenet_lw_nasnetmobile", "refinenet_resnet50_improved",
        "refinenet_lw_mobilenetv2_multitask", "refinenet_lw:convnext_atto", "refinenet_lw:efficientnet_b0",
        "refinenet_lw:mobilenetv3_large_100", "refinenet_lw:regnety_002", "refinenet_lw:swin_tiny_patch4_window7_224",
        "refinenet_lw:convnextv2_atto", "refinenet_lw:edgenext_xx_small", "refinenet_lw:pvt_v2_b0",
        "refinenet_lw:mobilevitv2_050", "refinenet_lw:nfnet_l0", "refinenet_lw:resnest14d",
    ],
)  # fmt: skip
def test_networks_of_many_kinds_can_be_written_and_read(name):
    assert name in VARIANTS or ":" in name
    segmenter = build(name, num_classes=3).eval()
    program = export_program(segmenter, outputs=("logits",), size_hw=(64, 96))
    read, _ = read_program(program_bytes(program, {}), NET, device=CPU)
    images = example_images(1, 3, (64, 96))
    with torch.no_grad():
        torch.testing.assert_close(read(images)[0], segmenter(images), atol=1e-4, rtol=1e-4)
