"""``refineseg bench``: a model against the plain one, and the networks of both papers side by side.

In: a model or variant, a size, a device. Out: a :class:`BenchReport`, measured by :mod:`refineseg.bench.timing`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from rich import box
from rich.table import Table
from rich.text import Text
from torch import nn

from refineseg.bench.contenders import (
    OF_SEGMENTERS,
    RuntimeChoice,
    compiled_contenders,
    in_default_order,
    measurable,
    plain_contender,
    runtime_contenders,
    torch_contenders,
)
from refineseg.bench.counting import NetworkCounts, count_network
from refineseg.bench.timing import (
    PLAIN_EXPORT,
    Contender,
    Row,
    class_map,
    describe_machine,
    example_images,
    measure,
    memory_explained,
    time_in_turns,
)
from refineseg.devices import find_device
from refineseg.errors import ConfigError, MissingExtraError, how_to_install
from refineseg.networks.building import build_network
from refineseg.networks.families import LIGHT_WEIGHT, REFINENET, DecoderOptions
from refineseg.networks.model_names import SHIPPED, check_model_or_variant
from refineseg.networks.refinenet import Cascade, RefineNet, Resizing
from refineseg.networks.variants import FOUR_CASCADED
from refineseg.resize import scaled_hw
from refineseg.runtimes import quantisation
from refineseg.runtimes.eager import TorchScorer
from refineseg.runtimes.table import BACKENDS, Precision
from refineseg.segmenter import Segmenter, build, load
from refineseg.terminal.arguments import parse_size
from refineseg.terminal.printing import Terminal

PRECISIONS = ("float32", "bfloat16", "int8")
"""That are measured; which runtime has which is in :data:`~refineseg.runtimes.table.BACKENDS`."""

NUM_CLASSES = 21
"""Of untrained networks."""

PAPER_STEPS: tuple[tuple[str, str, DecoderOptions], ...] = (
    ("refinenet_{}", "as released", REFINENET),
    ("refinenet_{}, 1x1", "1x1 filters", replace(REFINENET, kernel_size=1)),
    ("refinenet_lw_{}", "and no RCUs", LIGHT_WEIGHT),
)
"""From RefineNet to Light-Weight RefineNet, one modification after the other: name, what it is (RCU: residual conv
unit), the decoder."""


def model_or_variant(name: str) -> Segmenter:
    """A shipped model, a model file, or an untrained variant of 21 classes (always the same weights).

    Raises:
        ConfigError: None of these.
        ModelFileError: A file that is no model.
    """
    check_model_or_variant(name)
    if name in SHIPPED or Path(name).is_file():
        return load(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(name, num_classes=NUM_CLASSES)


@dataclass(frozen=True)
class BenchReport:
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
    console: Terminal | None = None,
) -> BenchReport:
    """Measure a model in every precision against the plain one.

    Args:
        model: A shipped model, a model file or a variant.
        size: ``HEIGHTxWIDTH``.
        device: ``auto``, ``cpu``, ``cuda``, ...
        precision: Only this one beside the plain contender, which is ``float32``; None: float32, bfloat16, int8.
        batch: Images at a time.
        repeats: Rounds; None: as many as fit into half a minute.
        backend: A key of :data:`~refineseg.runtimes.table.BACKENDS`; None: all that are installed.
        console: Shows progress.

    Raises:
        ConfigError: A wrong option.
        MissingExtraError: 8 bits without nncf.
        ModelFileError: A file that is no model.
    """
    size_hw = parse_size(size)
    if precision not in (None, *PRECISIONS):
        raise ConfigError(f"expected a precision of {', '.join(PRECISIONS)}, got {precision!r}")
    if backend not in (None, *BACKENDS):
        raise ConfigError(f"expected a backend of {', '.join(BACKENDS)}, got {backend!r}")
    if batch < 1:
        raise ConfigError(f"expected a batch of at least 1 image, got {batch}")
    place = find_device(device)
    segmenter = model_or_variant(model)
    backends = measurable(place) if backend is None else [backend]
    _check_measurable(backends, place, precision)
    precisions = [p for p in PRECISIONS if precision in (None, p)]
    contenders = _in_runtimes(
        model,
        segmenter,
        RuntimeChoice(backends, precisions, size_hw, batch, place),
        named=backend is not None,
        console=console,
    )
    own = [p for p in get_args(Precision) if p in precisions]
    if "torch" in backends:
        contenders = torch_contenders(model, segmenter, device=place, precisions=own) + contenders
    else:
        contenders.insert(0, plain_contender(model, segmenter, device=place))
    images = example_images(batch, segmenter.spec.preprocessing.in_channels, size_hw)
    counted = None
    if place.type == "cpu" and segmenter.spec.preprocessing.in_channels == 3:
        with torch.device("meta"):
            options = replace(segmenter.spec.options, resize="bilinear")  # resizing is not counted
            network = build_network(segmenter.spec.variant, segmenter.class_info.num_classes, options=options).eval()
        counted = count_network(network, scaled_hw(size_hw, segmenter.spec.preprocessing.input_scale)).multiply_adds
    rows = measure(contenders, images, repeats=repeats, console=console, multiply_adds=counted)
    title = f"{model}, {batch} image{'s' if batch > 1 else ''} of {size}, {rows[0].repeats} rounds"
    return BenchReport([asdict(row) for row in rows], describe_machine(place), _speed_table(rows, title))


def _in_runtimes(
    model: str, segmenter: Segmenter, choice: RuntimeChoice, *, named: bool, console: Terminal | None
) -> list[Contender]:
    """The model in every runtime but eager PyTorch; what was not named and cannot be is left out, and that is said."""

    def left_out(what: str, why: object) -> None:
        if console is not None:
            console.say(f"left out: {what}: {why}")

    if "openvino" in choice.backends and "int8" in choice.precisions and not quantisation.is_available():
        left_out("openvino int8", f"nncf is not installed; install it with: {how_to_install('refineseg[openvino]')}")
    fitting = [name for name in choice.backends if set(choice.precisions) & set(BACKENDS[name].measured_precisions)]
    traced = [name for name in fitting if name not in ("torch", *OF_SEGMENTERS)]
    contenders: list[Contender] = []
    if traced:
        try:
            contenders = runtime_contenders(
                model,
                segmenter,
                replace(choice, backends=traced),
                console=console,
                refused=None if named else left_out,
            )
        except ConfigError as error:
            if named:
                raise
            left_out(", ".join(traced), error)
    chosen = replace(choice, backends=[name for name in fitting if name in OF_SEGMENTERS])
    return contenders + compiled_contenders(
        model, segmenter, chosen, console=console, refused=None if named else left_out
    )


def _check_measurable(backends: Sequence[str], device: torch.device, precision: str | None) -> None:
    """Refuse a runtime that is not installed, not for the device, or without the precision."""
    for name in backends:
        known = BACKENDS[name]
        if not known.is_installed:
            raise ConfigError(f"expected an installed backend ({', '.join(measurable(device))}), got {name}")
        if device.type not in known.devices:
            raise ConfigError(f"expected a device of {name} ({', '.join(known.devices)}), got {device}")
    if precision == "int8" and "openvino" in backends and not quantisation.is_available():
        raise MissingExtraError("nncf", extra="openvino", purpose="quantise to 8 bits")
    fitting = [name for name in backends if precision in (None, *BACKENDS[name].measured_precisions)]
    if not fitting:
        raise ConfigError(f"expected a precision of {', '.join(backends)}, got {precision}")


def _speed_table(rows: Sequence[Row], title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, collapse_padding=True)
    for name in ("backend", "precision"):
        table.add_column(name, no_wrap=True)
    numbers = (
        "p50 ms",
        "p99 ms",
        "fastest",
        "times\nas fast",
        "over\nother",
        "of\nlimit",
        "same\npixels",
        "cold\ns",
    )
    for name in numbers:
        table.add_column(Text(name), justify="right", no_wrap=True)
    for row in rows:
        kind = ", plain" if row.plain else ", fused" if row.fused else ""
        table.add_row(
            f"{row.backend}{kind}{f', {PLAIN_EXPORT}' if row.note == PLAIN_EXPORT else ''}",
            row.precision,
            f"{row.p50_ms:.1f}",
            f"{row.p99_ms:.1f}",
            f"{row.min_ms:.1f}",
            f"{row.speedup:.2f}",
            "" if row.best_other is None else f"{row.best_other:.2f}",
            "" if row.of_limit is None else f"{row.of_limit:.2f}",
            f"{100 * row.agreement:.2f} %",
            f"{row.cold_start_s:.1f}",
        )
    return table


def _paper_network(encoder: nn.Module, options: DecoderOptions) -> RefineNet:
    """A 4-cascaded decoder on an encoder."""
    channels: Sequence[int] = encoder.channels  # type: ignore[assignment]
    cascade = Cascade(channels, NUM_CLASSES, groups=FOUR_CASCADED, options=options, resizing=Resizing())
    return RefineNet(encoder, cascade).eval()


def _paper_counts(variant: str) -> list[NetworkCounts]:
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
    console: Terminal | None = None,
) -> BenchReport:
    """RefineNet and Light-Weight RefineNet, with the modifications between them one after the other, in one run.

    All in PyTorch's defaults, 21 classes, random weights, one image.

    Args:
        encoders: Encoders of the variants ``refinenet_<encoder>`` and ``refinenet_lw_<encoder>``.
        size: ``HEIGHTxWIDTH``; None: 512x512, on a CPU 256x256.
        device: ``auto``, ``cpu``, ``cuda``, ...
        repeats: Rounds; None: as many as fit into half a minute, at least five.
        console: Shows progress.

    Raises:
        ConfigError: A wrong option.
    """
    place = find_device(device)
    size = size or ("256x256" if place.type == "cpu" else "512x512")
    size_hw = parse_size(size)
    images = example_images(1, 3, size_hw)
    names, scorers, counts = [], [], []
    for encoder in encoders:
        variant = f"refinenet_lw_{encoder}"
        if console is not None:
            console.say(f"building the networks on {encoder}")
        counts += _paper_counts(variant)
        template = model_or_variant(variant)
        shared = template.network.encoder  # the steps differ in the decoder alone
        for name, _, options in PAPER_STEPS:
            segmenter = copy.deepcopy(template)
            segmenter.network = _paper_network(shared, options)
            names.append(name.format(encoder))
            scorers.append(TorchScorer(in_default_order(segmenter), device=place))
    calls = [partial(class_map, scorer, images) for scorer in scorers]
    with memory_explained(1, size_hw):
        times = time_in_turns(calls, repeats=repeats, console=console)
    rows: list[dict[str, Any]] = []
    for index, (name, numbers, own) in enumerate(zip(names, counts, times, strict=True)):
        full = times[index - index % len(PAPER_STEPS)]
        row = {"model": name, "change": PAPER_STEPS[index % len(PAPER_STEPS)][1], "parameters": numbers.parameters}
        row |= {"multiply_adds_512x512": numbers.multiply_adds, "batch": 1, "size": size, "repeats": times.shape[1]}
        row |= {"min_ms": float(own.min())}
        row |= {"p50_ms": float(np.percentile(own, 50)), "p95_ms": float(np.percentile(own, 95))}
        rows.append(row | {"speedup": float(np.median(full / own))})
    return BenchReport(rows, describe_machine(place), _paper_table(rows))


def _paper_table(rows: Sequence[dict[str, Any]]) -> Table:
    title = f"both papers, from uint8 pixels of {rows[0]['size']} to the class map, {rows[0]['repeats']} rounds"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("network", no_wrap=True)
    table.add_column("decoder", no_wrap=True)
    for name in ("parameters", "multiply-adds\n512x512", "p50 ms", "fastest", "times\nas fast"):
        table.add_column(Text(name), justify="right", no_wrap=True)
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
