"""A small network in every format that can be exported, for tests of runtimes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

import refineseg
from refineseg.data.samples.catalog import catalog_classes
from refineseg.networks.families import LIGHT_WEIGHT_MOBILE
from refineseg.networks.refinenet import Cascade, RefineNet, Resizing
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


class OneConvolution(nn.Module):
    """An encoder of one level at a quarter of the size, four channels."""

    takes_any_size, size_multiple, channels, strides = False, 4, (4,), (4,)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=4, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> the one level."""
        return [self.conv(x)]


def least() -> Segmenter:
    """A segmenter of a handful of operations: tracing and compilers take seconds."""
    segmenter = tiny()
    options = replace(LIGHT_WEIGHT_MOBILE, width=8, num_links=1)
    torch.manual_seed(0)
    cascade = Cascade((4,), 11, groups=((0,),), options=options, resizing=Resizing())
    segmenter.network = RefineNet(OneConvolution(), cascade)
    segmenter._is_fused = True  # there is nothing to rewrite
    return segmenter.eval()


def exported_files(folder: Path) -> Path:
    """Write the network in every format, and its model file, as ``net`` into the folder; gives the folder."""
    segmenter = tiny()
    program = export_program(segmenter, outputs=OUTPUTS)
    description = Description(segmenter.spec, OUTPUTS)
    write_torch_program(program, description, folder / "net.pt2")
    model = onnx_model(program, description)
    write_onnx_model(model, folder / "net.onnx")
    write_openvino_model(openvino_from_onnx(model, description), folder / "net.xml")
    segmenter.save(folder / "net.safetensors")
    return folder
