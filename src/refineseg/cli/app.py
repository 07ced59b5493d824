"""The typer application, the options that several verbs share, and where output goes.

Results go to stdout, progress and warnings to stderr.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from refineseg._version import __version__
from refineseg.cli.completion import data_sets, model_files, models_and_variants
from refineseg.errors import ConfigError
from refineseg.files import writing
from refineseg.terminal.applicability import check_options
from refineseg.terminal.printing import messages, print_lines, set_loudness, tables
from refineseg.training.launch import refuse_several

__all__ = ["app", "messages", "tables", "verb", "write_json"]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_GIVEN: ContextVar[Mapping[str, str]] = ContextVar("given", default=MappingProxyType({}))
_OLD_NAMES: dict[str, dict[str, str]] = {
    "bench": {"--batch": "--batch-size"},
    "card": {"--failures": "--pictures"},
}
"""Verb -> names of options before 0.2, which calls may still use -> names of today."""


def _write_examples(epilog: str | None, formatter: Any) -> None:  # noqa: ANN401 - click's, which newer typers bundle
    """Lines that can be copied, which no paragraph must break."""
    if epilog:
        with formatter.section("Examples"):
            for line in epilog.splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class VerbGroup(TyperGroup):
    """The program: its help ends with examples."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Write the examples."""
        _write_examples(self.epilog, formatter)


class Verb(TyperCommand):
    """A verb: options in groups, then examples; options which its call has no use for are refused."""

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Write arguments and options, each group under its name, without boxes and colours."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                group = "Arguments"
                if isinstance(parameter, TyperOption):
                    group = parameter.rich_help_panel or "Options"
                groups.setdefault(group, []).append(record)
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Write the examples."""
        _write_examples(self.epilog, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401
        """Read the call, old names of options, too."""
        old = _OLD_NAMES.get(str(self.name), {})
        split = ((*argument.partition("="),) for argument in args)
        return super().parse_args(ctx, ["".join((old.get(name, name), *value)) for name, *value in split])

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401
        """Run the verb."""
        quiet, verbose = (ctx.params[name] for name in ("quiet", "verbose"))
        if quiet and verbose:
            raise ConfigError("expected --quiet or --verbose, got both; leave one out")
        set_loudness("quiet" if quiet else "verbose" if verbose else "usual")
        if self.name != "train":
            refuse_several(str(self.name))
        given = _given(ctx)
        check_options(str(self.name), given, ctx.params)
        _GIVEN.set(given)
        return super().invoke(ctx)


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show results, warnings and errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show every line, also where there are many alike.")]


def verb(*examples: str) -> Callable[[_Function], _Function]:
    """Make a function a verb of the program, with ``--quiet`` and ``--verbose``.

    Args:
        examples: Calls for the end of its help.
    """

    def register(function: _Function) -> _Function:
        loudness = {"quiet": Quiet, "verbose": Verbose}
        hints = {**get_type_hints(function, include_extras=True), **loudness}
        signature = inspect.signature(function)
        parameters = [one.replace(annotation=hints[name]) for name, one in signature.parameters.items()]
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters += [inspect.Parameter(name, kind, default=False, annotation=hints[name]) for name in loudness]
        names = ("__module__", "__name__", "__doc__")
        # what typer calls with all options; Verb has read the two that the function does not have
        run: Any = functools.update_wrapper(lambda quiet, verbose, **options: function(**options), function, names, ())
        run.__signature__ = signature.replace(parameters=parameters)
        run.__annotations__ = hints
        app.command(cls=Verb, epilog="\n".join(examples))(run)
        return function

    return register


app = typer.Typer(
    name="refineseg",
    cls=VerbGroup,
    help="RefineNet and Light-Weight RefineNet: train, evaluate and predict semantic segmentation.",
    epilog="refineseg predict photo.jpg --out masks\n"
    "refineseg train --data folder:my_pictures --out runs/first\n"
    "refineseg VERB --help",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[
    str,
    typer.Option(
        help="Model: a shipped name (camvid, camvid_nano, nyud, nyud_lite2) or a .safetensors, .onnx, .xml, .pt2 file.",
        autocompletion=model_files,
    ),
]
ModelFile = Annotated[
    str,
    typer.Option(
        help="Model: a shipped name (camvid, camvid_nano, nyud, nyud_lite2), or a .safetensors file.",
        autocompletion=model_files,
    ),
]
ModelOrVariant = Annotated[
    str,
    typer.Option(
        help="Model: a shipped name, a .safetensors file, or an untrained variant.", autocompletion=models_and_variants
    ),
]
Data = Annotated[
    str,
    typer.Option(
        help="Data set as NAME:ROOT, for instance folder:my_pictures.", metavar="NAME:ROOT", autocompletion=data_sets
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        help="Data set as NAME:ROOT, for instance folder:my_pictures; ROOT may be an address.",
        metavar="NAME:ROOT",
        autocompletion=data_sets,
    ),
]
DataArgument = Annotated[
    str | None, typer.Argument(help="Data set, in place of --data.", metavar="NAME:ROOT", hidden=True)
]
Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda, cuda:1, ...")]
Precision = Annotated[str, typer.Option(help="Precision: float32, or bfloat16 (faster on hardware that has it).")]
Scales = Annotated[str, typer.Option(help="Scales of the image whose probabilities are averaged, such as 0.5,1,1.5.")]
Flip = Annotated[bool, typer.Option("--flip", help="Average with the probabilities of the mirrored image.")]
Protocol = Annotated[
    str, typer.Option(help="Way of scoring: light_weight, light_weight_v1, authors, authors_cityscapes.")
]
Enlargement = Annotated[
    float | None,
    typer.Option(help="Factor by which the authors' ways enlarge the image before the network, for instance 1.2."),
]
BackendName = Annotated[
    str | None,
    typer.Option(
        "--backend",
        help="Runtime: torch, openvino, onnxruntime, tensorrt, torch_export, torch_compile (none has run "
        "on a GPU yet; all but torch are experimental there); auto takes the fastest one that does not compile. By "
        "default torch; for an exported file, the runtime of its format.",
    ),
]
Crf = Annotated[bool, typer.Option("--crf", help="Refine the probabilities by a dense CRF.")]


def one_data_set(place: str | None, data: str | None) -> str:
    """The data set of a verb that takes it with ``--data`` or, as before 0.2, as its argument.

    Raises:
        ConfigError: Neither is given, or both are.
    """
    if (place is None) == (data is None):
        got = "none" if data is None else f"two ({place} and {data})"
        raise ConfigError(f"expected one data set as --data NAME:ROOT, got {got}; say --data folder:my_pictures")
    return str(data or place)


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


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - JSON
    """Write plain values, and say where.

    Raises:
        OutputError: The file cannot be written.
    """
    writing.write_json(path, value)
    messages().say(f"numbers: {path}")


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
