"""A small network in every format that can be exported, for tests of runtimes."""

from __future__ import annotations

from pathlib import Path

import torch

import refineseg
from refineseg.data.samples.catalog import catalog_classes
from refineseg.runtimes.description import Description
from refineseg.runtimes.graph import export_program
from refineseg.runtimes.onnx_runtime import onnx_model, write_onnx_model
from refineseg.runtimes.openvino_runtime import openvino_from_onnx, write_openvino_model
from refineseg.runtimes.table import OUTPUTS
from refineseg.runtimes.torch_programs import write_torch_program
from refineseg.segmenter import Segmenter


def tiny() -> Segmenter:
    """A small network of real structure: a ResNet of four blocks, of an eighth of its width."""
    torch.manual_seed(0)
    segmenter = refineseg.build(
        "refinenet_lw:resnet18",
        class_info=catalog_classes("camvid"),
        encoder_options={"channels": (8, 16, 32, 64), "layers": (1, 1, 1, 1)},
    )
    for module in segmenter.modules():  # statistics as after training, so that folding them is seen
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return segmenter.eval()


def exported_files(folder: Path) -> tuple[Segmenter, dict[str, Path]]:
    """The network and its files by format, with the model file beside them; tracing takes many seconds."""
    segmenter = tiny()
    program = export_program(segmenter, outputs=OUTPUTS)
    description = Description(segmenter.spec, OUTPUTS)
    files = {"onnx": folder / "net.onnx", "openvino": folder / "net.xml", "torch": folder / "net.pt2"}
    write_torch_program(program, description, files["torch"])
    model = onnx_model(program, description)
    write_onnx_model(model, files["onnx"])
    write_openvino_model(openvino_from_onnx(model, description), files["openvino"])
    segmenter.save(folder / "net.safetensors")
    return segmenter, files
