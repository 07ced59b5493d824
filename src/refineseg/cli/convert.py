"""``refineseg convert``: wiring only, heavy imports inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refineseg.cli.app import verb
from refineseg.cli.completion import variants
from refineseg.errors import ConfigError
from refineseg.terminal.arguments import (
    check_input_file,
    check_not_input,
    check_number,
    check_outputs,
)
from refineseg.terminal.printing import print_lines


@verb(
    "refineseg convert rf_lw50.pth.tar --variant refinenet_lw_resnet50 \\\n  --classes nyud --out rf_lw50.safetensors"
)
def convert(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="Original weights: .pth, .pth.tar, .ckpt, or the authors' .mat.", metavar="CHECKPOINT"),
    ],
    variant: Annotated[
        str,
        typer.Option(
            help="Variant that the weights belong to; `refineseg models` lists them.", autocompletion=variants
        ),
    ],
    out: Annotated[Path, typer.Option(help="Model file to write (.safetensors).")],
    classes: Annotated[
        str | None,
        typer.Option(
            help="Data set whose classes the weights have: voc, nyud, ...; by default the classes are numbered."
        ),
    ] = None,
    void: Annotated[
        str, typer.Option(help="Treatment of the void output of a .mat file: drop, or keep it as a class.")
    ] = "drop",
    void_index: Annotated[
        int | None, typer.Option(help="Index of the void output, from 0; by default the known one.")
    ] = None,
) -> None:
    """Turn original weights into a model file.

    Every tensor is used exactly once; a tensor that is left over or missing is named.
    """
    from refineseg.data.samples.catalog import catalog_classes
    from refineseg.networks.variants import find_variant

    if out.suffix != ".safetensors":
        raise ConfigError(f"expected --out FILE.safetensors, got {out}")
    if void not in ("drop", "keep"):
        raise ConfigError(f"expected --void drop or keep, got {void!r}")
    is_mat = checkpoint.suffix.lower() == ".mat"
    if not is_mat and (void != "drop" or void_index is not None):
        raise ConfigError("expected --void and --void-index with a .mat file only: the ports have no output for void")
    check_number("--void-index", void_index, least=0)
    find_variant(variant)
    class_info = None if classes is None else catalog_classes(classes)
    check_input_file("CHECKPOINT", checkpoint, what="a file of original weights")
    check_outputs({"--out": out})
    check_not_input("--out", out, [checkpoint])

    # from here on PyTorch is there
    from refineseg.original.conversion import VOID_FIRST, MatConvNetOptions, load_original

    options: MatConvNetOptions | None = None
    if is_mat:
        index = 0 if void_index is None and classes in VOID_FIRST else void_index
        options = MatConvNetOptions("keep" if void == "keep" else "drop", index)
    segmenter = load_original(checkpoint, variant=variant, class_info=class_info, matconvnet=options)
    segmenter.with_provenance({"converted_from": checkpoint.name}).save(out)
    print_lines(f"model: {out}", f"classes: {segmenter.class_info.num_classes}", f"licence: {segmenter.spec.licence}")
