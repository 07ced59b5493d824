"""The typer application, the options that several verbs share, and where output goes.

Results go to stdout, progress and warnings to stderr.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from types import MappingProxyType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from refineseg._version import __version__
from refineseg.errors import ConfigError
from refineseg.files.writing import write_json
from refineseg.terminal.applicability import check_options
from refineseg.terminal.printing import messages, print_lines, tables

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
    typer.Option(help="Model: a shipped name (camvid, camvid_nano), or a .safetensors, .onnx, .xml or .pt2 file."),
]
ModelFile = Annotated[str, typer.Option(help="Model: a shipped name (camvid, camvid_nano), or a .safetensors file.")]
Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda, cuda:1, ...")]
Precision = Annotated[str, typer.Option(help="Precision: float32, or bfloat16 (faster on hardware that has it).")]
Scales = Annotated[str, typer.Option(help="Scales of the image whose scores are averaged, for instance 0.5,1,1.5.")]
Flip = Annotated[bool, typer.Option("--flip", help="Average with the scores of the mirrored image.")]
Protocol = Annotated[
    str, typer.Option(help="Way of scoring: light_weight, light_weight_v1, authors, authors_cityscapes.")
]
Enlargement = Annotated[
    float | None,
    typer.Option(help="Factor by which the authors' protocols enlarge the image before the network, for instance 1.2."),
]
BackendName = Annotated[
    str | None,
    typer.Option(
        "--backend",
        help="Runtime: torch, openvino, onnxruntime, tensorrt, torch_export, torch_compile (on a GPU all but torch are "
        "experimental); auto takes the fastest one that does not compile. By default torch; for an exported file, the "
        "runtime of its format.",
    ),
]
Crf = Annotated[bool, typer.Option("--crf", help="Refine the scores by a dense CRF.")]


_GIVEN: ContextVar[Mapping[str, str]] = ContextVar("given", default=MappingProxyType({}))


class CheckedCommand(TyperCommand):
    """A command that refuses options which its call has no use for."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - click's, which newer typers bundle
        """Run the verb."""
        given = _given(ctx)
        check_options(str(self.name), given, ctx.params)
        _GIVEN.set(given)
        return super().invoke(ctx)


def given_options() -> frozenset[str]:
    """Python names of the options that this call names, even with their default values."""
    return frozenset(_GIVEN.get())


def _given(ctx: Any) -> dict[str, str]:  # noqa: ANN401 - click's
    """Python name -> as it is written, of every option that the call names."""
    found = {}
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name)
        if parameter.param_type_name == "option" and source is not None and source.name == "COMMANDLINE":
            negated = parameter.secondary_opts and ctx.params.get(parameter.name) is False
            found[parameter.name] = (parameter.secondary_opts if negated else parameter.opts)[0]
    return found


def prepare_training(device: str) -> None:
    """Refuse a device that is not there, and let the process keep the memory that it frees.

    Raises:
        ConfigError: No such device.
    """
    from refineseg.devices import find_device, keep_freed_memory

    find_device(device)
    keep_freed_memory()


def _version(asked: bool | None) -> None:
    if asked:
        print_lines(f"refineseg {__version__}")
        raise typer.Exit


def check_values(arguments: Sequence[str]) -> None:
    """Whether every option that is given an empty text may have one: none may, and a path would be the current folder.

    Raises:
        ConfigError: One is.
    """
    for option, value in zip(arguments, [*arguments[1:], "-"], strict=True):
        if option.startswith("--") and (not value or re.fullmatch(r"--[a-z-]+=", option)):
            raise ConfigError(
                f"expected something after {option.rstrip('=')}, got an empty text; leave the option out, or say . for "
                "the current folder"
            )


@app.callback()
def options(
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = None,
) -> None:
    """RefineNet and Light-Weight RefineNet: train, evaluate and predict semantic segmentation."""
    check_values(sys.argv[1:])
