"""``refineseg bench``: a model against the plain one, and the networks of both papers side by side.

In: a model or variant, a size, a device. Out: a :class:`Report`, measured by :mod:`refineseg.timing`.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from refineseg.counting import Counts, count_network
from refineseg.errors import ConfigError
from refineseg.networks.refinenet import LIGHT_WEIGHT, REFINENET, Cascade, DecoderOptions, RefineNet
from refineseg.networks.variants import FOUR_CASCADED, VARIANTS, build_network, find_variant
from refineseg.predict.predictor import Precision, TorchScorer, find_device
from refineseg.resize import Resizing
from refineseg.segmenter import SHIPPED, Segmenter, build, load
from refineseg.timing import (
    Contender,
    class_map,
    describe_machine,
    example_images,
    measure,
    memory_explained,
    time_in_turns,
)

BACKENDS = ("torch",)
"""Runtimes that can be measured here."""

NUM_CLASSES = 21
"""Of untrained networks."""

PAPER_STEPS: tuple[tuple[str, str, DecoderOptions], ...] = (
    ("refinenet_{}", "as released", REFINENET),
    ("refinenet_{}, 1x1", "1x1 filters", replace(REFINENET, kernel_size=1)),
    ("refinenet_lw_{}", "and no RCUs", LIGHT_WEIGHT),
)
"""From RefineNet to Light-Weight RefineNet, one modification after the other: name, what it is (RCU: residual conv
unit), the decoder."""


def parse_size(text: str) -> tuple[int, int]:
    """``HEIGHTxWIDTH`` -> (height, width).

    Raises:
        ConfigError: Not two numbers of at least 1 with an x between them.

    Example:
        >>> parse_size("480x640")
        (480, 640)
    """
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise ConfigError(f"expected a size HEIGHTxWIDTH in pixels, for instance 480x640, got {text!r}")
    return int(match[1]), int(match[2])


def open_model(name: str) -> Segmenter:
    """A shipped model, a model file, or an untrained variant of 21 classes (always the same weights).

    Raises:
        ConfigError: None of these.
        ModelFileError: A file that is no model.
    """
    if name in SHIPPED or Path(name).suffix == ".safetensors" or Path(name).is_file():
        return load(name)
    try:
        find_variant(name)
    except ConfigError as error:
        near = difflib.get_close_matches(name, [*SHIPPED, *VARIANTS], n=3, cutoff=0.5)
        raise ConfigError(
            f"expected a shipped model ({', '.join(SHIPPED)}), a .safetensors file or a variant, got {name!r}; "
            f"{'near: ' + ', '.join(near) if near else '`refineseg models` lists them'}"
        ) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(name, num_classes=NUM_CLASSES)


def _default_order(segmenter: Segmenter) -> Segmenter:
    """Let a segmenter compute in PyTorch's default memory order, which its ``forward`` does not use; changes it."""
    for parameter in segmenter.parameters():
        parameter.data = parameter.data.contiguous()
    # One more copy of the normalised image, well below a hundredth of the time; what is computed stays one definition.
    segmenter.network.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    return segmenter


def torch_contenders(
    model: str, segmenter: Segmenter, *, device: torch.device, precisions: Sequence[Precision]
) -> list[Contender]:
    """The plain contender, and the segmenter in each precision as it is, and rewritten for inference.

    Args:
        model: Its name.
        segmenter: It is moved to the device.
        device: Where.
        precisions: ``float32``, ``bfloat16``.
    """
    plain = _default_order(copy.deepcopy(segmenter))
    contenders = [Contender(model, "torch", "float32", False, True, "nchw", TorchScorer(plain, device=device))]
    fused = copy.deepcopy(segmenter).fuse()
    for precision in precisions:
        for candidate, is_fused in ((segmenter, False), (fused, True)):
            scorer = TorchScorer(candidate, device=device, precision=precision)
            contenders.append(Contender(model, "torch", precision, is_fused, False, "nhwc", scorer))
    return contenders


@dataclass(frozen=True)
class Report:
    """A finished benchmark.

    Args:
        rows: One JSON object per contender.
        machine: See :func:`describe_machine`.
        table: The rows for the terminal.
    """

    rows: list[dict[str, Any]]
    machine: dict[str, Any]
    table: Table

    def to_json(self) -> dict[str, Any]:
        """Rows and machine."""
        return {"rows": self.rows, "machine": self.machine}

    @property
    def conditions(self) -> str:
        """The machine in one line."""
        m = self.machine
        place = m["gpu"] or f"{m['cpu']} ({m['cpu_instructions']}), {m['threads']} threads of {m['cores']} cores"
        return f"on {place}; torch {m['torch']}; load of the machine {m['load_1_minute']}"


def bench_model(
    model: str,
    *,
    size: str = "512x512",
    device: str = "auto",
    precision: str | None = None,
    batch: int = 1,
    repeats: int | None = None,
    backend: str | None = None,
    console: Console | None = None,
) -> Report:
    """Measure a model in every precision against the plain one.

    Args:
        model: A shipped model, a model file or a variant.
        size: ``HEIGHTxWIDTH``.
        device: ``auto``, ``cpu``, ``cuda``, ...
        precision: Only this one beside the plain contender, which is ``float32``.
        batch: Images at a time.
        repeats: Rounds; None: as many as fit into half a minute.
        backend: One of :data:`BACKENDS`; None: all.
        console: Shows progress.

    Raises:
        ConfigError: A wrong option.
        ModelFileError: A file that is no model.
    """
    size_hw, known = parse_size(size), get_args(Precision)
    if precision not in (None, *known):
        raise ConfigError(f"expected a precision of {', '.join(known)}, got {precision!r}")
    if backend not in (None, *BACKENDS):
        raise ConfigError(f"expected a backend of {', '.join(BACKENDS)}, got {backend!r}")
    if batch < 1:
        raise ConfigError(f"expected a batch of at least 1 image, got {batch}")
    place = find_device(device)
    segmenter = open_model(model)
    precisions = [p for p in known if precision in (None, p)]
    contenders = torch_contenders(model, segmenter, device=place, precisions=precisions)
    images = example_images(batch, segmenter.spec.preprocessing.in_channels, size_hw)
    rows = measure(contenders, images, repeats=repeats, console=console)
    title = f"{model}, {batch} image{'s' if batch > 1 else ''} of {size}, {rows[0].repeats} rounds"
    table = Table("backend", "precision", "order", "fused", title=title, title_justify="left", box=box.SIMPLE)
    for name in ("p50 ms", "p95 ms", "fastest", "times as fast", "same pixels"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            f"{row.backend}{', plain' if row.plain else ''}{', fused' if row.fused else ''}",
            row.precision,
            row.memory_order,
            "yes" if row.fused else "",
            f"{row.p50_ms:.1f}",
            f"{row.p95_ms:.1f}",
            f"{row.min_ms:.1f}",
            f"{row.speedup:.2f}",
            f"{100 * row.agreement:.2f} %",
        )
    return Report([asdict(row) for row in rows], describe_machine(place), table)


def _paper_network(encoder: nn.Module, options: DecoderOptions) -> RefineNet:
    """A 4-cascaded decoder on an encoder."""
    channels: Sequence[int] = encoder.channels  # type: ignore[assignment]
    cascade = Cascade(channels, NUM_CLASSES, groups=FOUR_CASCADED, options=options, resizing=Resizing())
    return RefineNet(encoder, cascade).eval()


def _paper_counts(variant: str) -> list[Counts]:
    """Of each step, at 512x512."""
    with torch.device("meta"):
        encoder = build_network(variant, NUM_CLASSES).encoder
        return [count_network(_paper_network(encoder, options)) for _, _, options in PAPER_STEPS]


def bench_papers(
    *,
    encoders: Sequence[str] = ("resnet50", "resnet101", "resnet152"),
    size: str | None = None,
    device: str = "auto",
    repeats: int | None = None,
    console: Console | None = None,
) -> Report:
    """RefineNet and Light-Weight RefineNet, with the modifications between them one after the other, in one run.

    All in PyTorch's defaults, 21 classes, random weights, one image.

    Args:
        encoders: Of the variants ``refinenet_<encoder>`` and ``refinenet_lw_<encoder>``.
        size: ``HEIGHTxWIDTH``; None: 512x512, on a CPU 256x256.
        device: ``auto``, ``cpu``, ``cuda``, ...
        repeats: Rounds; None: as many as fit into half a minute, at least five.
        console: Shows progress.

    Raises:
        ConfigError: A wrong option.
    """
    place = find_device(device)
    size = size or ("256x256" if place.type == "cpu" else "512x512")
    images = example_images(1, 3, parse_size(size))
    names, scorers, counts = [], [], []
    for encoder in encoders:
        variant = f"refinenet_lw_{encoder}"
        if console is not None:
            console.print(f"building the networks on {encoder}", highlight=False)
        counts += _paper_counts(variant)
        template = open_model(variant)
        shared = template.network.encoder  # the steps differ in the decoder alone
        for name, _, options in PAPER_STEPS:
            segmenter = copy.deepcopy(template)
            segmenter.network = _paper_network(shared, options)
            names.append(name.format(encoder))
            scorers.append(TorchScorer(_default_order(segmenter), device=place))
    calls = [partial(class_map, scorer, images) for scorer in scorers]
    with memory_explained(images):
        times = time_in_turns(calls, repeats=repeats, console=console)
    rows: list[dict[str, Any]] = []
    for index, (name, numbers, own) in enumerate(zip(names, counts, times, strict=True)):
        full = times[index - index % len(PAPER_STEPS)]
        row = {"model": name, "change": PAPER_STEPS[index % len(PAPER_STEPS)][1], "parameters": numbers.parameters}
        row |= {"multiply_adds_512x512": numbers.multiply_adds, "batch": 1, "size": size, "repeats": times.shape[1]}
        row |= {"min_ms": float(own.min())}
        row |= {"p50_ms": float(np.percentile(own, 50)), "p95_ms": float(np.percentile(own, 95))}
        rows.append(row | {"speedup": float(np.median(full / own))})
    return Report(rows, describe_machine(place), _paper_table(rows))


def _paper_table(rows: Sequence[dict[str, Any]]) -> Table:
    title = f"both papers, from uint8 pixels of {rows[0]['size']} to the class map, {rows[0]['repeats']} rounds"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("network", no_wrap=True)
    table.add_column("decoder", no_wrap=True)
    for name in ("parameters", "multiply-adds\n512x512", "p50 ms", "fastest", "times\nas fast"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["model"],
            row["change"],
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['multiply_adds_512x512'] / 1e9:.1f} G",
            f"{row['p50_ms']:.1f}",
            f"{row['min_ms']:.1f}",
            f"{row['speedup']:.2f}",
            end_section=row["change"] == PAPER_STEPS[-1][1],
        )
    return table
