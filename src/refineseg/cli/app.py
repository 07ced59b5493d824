"""The typer application, the options that several verbs share, and where output goes.

Results go to stdout, progress and warnings to stderr.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from refineseg._version import __version__
from refineseg.errors import ConfigError
from refineseg.printing import messages, print_lines, tables

__all__ = ["app", "messages", "prepare_training", "tables", "write_json"]

app = typer.Typer(
    name="refineseg",
    help="RefineNet and Light-Weight RefineNet: train, evaluate and predict semantic segmentation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[
    str,
    typer.Option(
        help="A shipped model (camvid, camvid_small), a .safetensors file, or an exported file: .onnx, .xml, .pt2."
    ),
]
ModelFile = Annotated[str, typer.Option(help="A shipped model (camvid, camvid_small), or a .safetensors file.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Precision = Annotated[str, typer.Option(help="float32, or bfloat16 (faster where the hardware has it).")]
Scales = Annotated[str, typer.Option(help="Score at these scales and average, for instance 0.5,1,1.5.")]
Flip = Annotated[bool, typer.Option("--flip", help="Score mirrored, too, and average.")]
Protocol = Annotated[str, typer.Option(help="light_weight, light_weight_v1, authors, authors_cityscapes.")]
Enlargement = Annotated[float | None, typer.Option(help="In front of the network, with the authors' protocols: 1.2.")]
BackendName = Annotated[
    str,
    typer.Option(
        "--backend",
        help="torch, openvino, onnxruntime, tensorrt, torch_export, torch_compile, torch_cuda_graphs, torch_inductor; "
        "auto: the fastest that need not compile.",
    ),
]
Crf = Annotated[bool, typer.Option("--crf", help="Refine by a dense CRF.")]


def prepare_training(device: str) -> None:
    """Refuse a device that is not there, and let the process keep the memory that it frees.

    Raises:
        ConfigError: No such device.
    """
    from refineseg.allocation import keep_freed_memory
    from refineseg.predict.predictor import find_device

    find_device(device)
    keep_freed_memory()


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - JSON
    """Write plain values, beside and then renamed.

    Raises:
        ConfigError: The file cannot be written.
    """
    from refineseg.images import written_beside

    try:
        with written_beside(path) as temporary:
            temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"expected to write {path}, but {error}; choose a folder that can be written to") from error


def _version(asked: bool | None) -> None:
    if asked:
        print_lines(f"refineseg {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = None,
) -> None:
    """RefineNet and Light-Weight RefineNet: train, evaluate and predict semantic segmentation."""
