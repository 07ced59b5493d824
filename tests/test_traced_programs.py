"""Traced programs on other devices than that on which they were traced."""

import torch

from refineseg.backends.graph import export_program
from refineseg.backends.torch_programs import on_device
from refineseg.segmenter import build


def test_a_traced_program_moves_with_every_tensor_it_makes():
    program = export_program(build("refinenet_lw_mobilenetv2", num_classes=3), outputs=("class_map",), size_hw=(64, 64))
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    meta = torch.device("meta")  # refuses tensors of another device as a GPU does
    assert on_device(program, meta).module()(images.to(meta))[0].device == meta
    assert program.module()(images)[0].device.type == "cpu"  # it stays where it was
