"""Timing in turns: milliseconds from ``uint8`` pixels to the class map, all contenders in one run.

In: contenders and images. Out: a :class:`Row` per contender, against the *plain* one (the released structure in
PyTorch's defaults), and what machine it was. Everything begins with images in main memory and ends with the class map
in main memory, so on a GPU both transfers are in the time. In each round every contender runs once, and rounds start
with another contender each time: what slows the machine down for a while slows all of them, and their ratios stay.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float64, Integer, UInt8
from torch import Tensor

from refineseg._version import __version__
from refineseg.devices import is_out_of_memory, resident_memory
from refineseg.errors import ConfigError
from refineseg.scoring import Scorer
from refineseg.terminal.printing import Terminal, counting

WARM_UP_ROUNDS = 2
REPEATS = (5, 50)
"""Fewest and most rounds where their number is not given."""

BUDGET_S = 30.0
"""How long the rounds may take together where their number is not given."""

REST_S = 0.02
"""Before each timed call: longer than the threads of ONNX Runtime and OpenMP wait actively for more work."""

PLAIN_EXPORT = "plain export"
"""Note of the best other way: the network as it is, in a runtime, its logits enlarged before the argmax."""


@dataclass(frozen=True)
class Contender:
    """One way to compute class maps.

    Args:
        model: Name or file of the model.
        backend: The runtime.
        precision: Precision of the network.
        fused: Whether the network was rewritten for inference.
        plain: The released structure in PyTorch's defaults, which the others are compared with.
        memory_order: Memory order of feature maps: ``nchw`` (PyTorch's default) or ``nhwc``.
        scorer: Computes.
        built_s: Seconds it took to make the scorer from the model, a share of the export included.
        note: What is compared, where it is another function or another way to run this one.
    """

    model: str
    backend: str
    precision: str
    fused: bool
    plain: bool
    memory_order: str
    scorer: Scorer
    built_s: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Row:
    """What was measured of one contender.

    Args:
        model: As in :class:`Contender`, like the five that follow.
        backend: The runtime.
        precision: Precision of the network.
        fused: Whether the network was rewritten for inference.
        plain: True for exactly one row of a run.
        memory_order: ``nchw`` or ``nhwc``.
        agreement: Share of the pixels with the plain contender's class, 0..1. Of an untrained model it says little.
        batch: Images at a time; the times are of a whole batch.
        size: ``HEIGHTxWIDTH`` of the images.
        min_ms: Shortest time in milliseconds, the one least disturbed by others.
        p50_ms: Median time.
        p95_ms: 95 of 100 runs were faster.
        p99_ms: 99 of 100 runs were faster; with fewer rounds near the slowest.
        speedup: Median over the rounds of plain time / own time.
        repeats: Rounds.
        best_other: Median over the rounds of the time of the best plain export (network as it is, enlarged logits,
            argmax) at this precision / own time, for a rewritten network in a runtime. None: there is none.
        cold_start_s: Seconds from the model in memory to its first class map, export and compilation included.
        peak_memory_mb: How far resident memory rose during the first class map (Linux; None elsewhere). What contenders
            before freed may be used again, so it is a lower bound.
        threads: Threads of the computation.
        note: As in :class:`Contender`.
        of_limit: Share of what the machine can: multiply-adds of the network as released per second, divided by those
            of a product of 2048x2048 matrices in this precision, measured in the same rounds. None: not measured.
    """

    model: str
    backend: str
    precision: str
    fused: bool
    plain: bool
    memory_order: str
    agreement: float
    batch: int
    size: str
    min_ms: float
    p50_ms: float
    p95_ms: float
    speedup: float
    repeats: int
    p99_ms: float = 0.0
    best_other: float | None = None
    cold_start_s: float = 0.0
    peak_memory_mb: float | None = None
    threads: int = 0
    note: str = ""
    of_limit: float | None = None


def example_images(batch: int, channels: int, size_hw: tuple[int, int]) -> UInt8[Tensor, "n c h w"]:
    """Coloured clouds with a little noise, always the same; smooth like photographs, unlike noise alone."""
    generator = torch.Generator().manual_seed(0)
    with memory_explained(batch, size_hw):
        clouds = torch.zeros(batch, channels, *size_hw)
        for cells, strength in ((3, 70.0), (9, 40.0), (40, 15.0)):
            coarse = torch.randn(batch, channels, cells, cells, generator=generator)
            clouds += strength * F.interpolate(coarse, size=size_hw, mode="bilinear", align_corners=False)
        clouds += 4 * torch.randn(clouds.shape, generator=generator)
        return (clouds + 128).clamp(0, 255).to(torch.uint8)


def time_in_turns(
    calls: Sequence[Callable[[], object]],
    *,
    repeats: int | None = None,
    warm_up: int = WARM_UP_ROUNDS,
    console: Terminal | None = None,
) -> Float64[np.ndarray, "calls repeats"]:
    """Milliseconds of every call in every round; each round runs all, in an order that turns by one.

    Before each timed call stands a rest, and the same call untimed: threads of the runtime before spin for a while, and
    who runs one network again and again finds its weights in the caches.

    Args:
        calls: What to time; each must have its result ready when it returns.
        repeats: Rounds; None: as many as fit into :data:`BUDGET_S`, within :data:`REPEATS`.
        warm_up: Rounds before those, not counted.
        console: Shows progress.

    Raises:
        ConfigError: Fewer than one round.
    """
    if not calls or warm_up < 1 or (repeats is not None and repeats < 1):
        raise ConfigError(
            f"expected at least one call, warm-up round and repeat, got {len(calls)}, {warm_up}, {repeats}"
        )
    for _ in range(warm_up):
        begin = time.perf_counter()
        for call in calls:
            call()
        round_s = time.perf_counter() - begin
    if repeats is None:
        repeats = int(min(max(BUDGET_S / (2 * round_s + len(calls) * REST_S), REPEATS[0]), REPEATS[1]))
    times = np.zeros((len(calls), repeats))
    with counting(console, f"{len(calls)} contenders in turns", "rounds") as report:
        for turn in range(repeats):
            report(turn, repeats)
            for step in range(len(calls)):
                index = (turn + step) % len(calls)
                time.sleep(REST_S)
                calls[index]()
                begin = time.perf_counter()
                calls[index]()
                times[index, turn] = 1e3 * (time.perf_counter() - begin)
    return times


def class_map(scorer: Scorer, images: UInt8[Tensor, "n c h w"]) -> Integer[Tensor, "n h w"]:
    """The likeliest class of every pixel, in main memory, so that a GPU has finished."""
    return scorer.class_map(images).cpu()


@contextlib.contextmanager
def memory_explained(batch: int, size_hw: tuple[int, int]) -> Iterator[None]:
    """Turn what PyTorch raises for want of memory into a message.

    Args:
        batch: Images at a time.
        size_hw: Their height and width.

    Raises:
        ConfigError: The images need more memory than there is.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(
            f"expected a size and batch that fit into memory, got {batch} of {size_hw[0]}x{size_hw[1]} pixels; "
            f"choose less ({str(error)[:120]})"
        ) from error


def measure(
    contenders: Sequence[Contender],
    images: UInt8[Tensor, "n c h w"],
    *,
    repeats: int | None = None,
    console: Terminal | None = None,
    multiply_adds: int | None = None,
) -> list[Row]:
    """Time contenders in turns on one batch, and compare their class maps with the plain one's.

    Args:
        contenders: Exactly one of them plain.
        images: Images in main memory.
        repeats: Rounds; None: as many as fit into :data:`BUDGET_S`.
        console: Shows progress.
        multiply_adds: Multiply-adds of the network for one image, with which the share of the machine's limit is
            measured on a CPU; None: it is not.

    Raises:
        ConfigError: Not exactly one plain contender, fewer than one round, or images that need more memory than there
            is.
    """
    plain = [index for index, contender in enumerate(contenders) if contender.plain]
    if len(plain) != 1:
        raise ConfigError(f"expected exactly one plain contender, got {len(plain)} of {len(contenders)}")
    batch, _, height, width = images.shape
    with memory_explained(batch, (height, width)):
        firsts = [_first(contender.scorer, images) for contender in contenders]
        calls = [partial(class_map, contender.scorer, images) for contender in contenders]
        products = {} if multiply_adds is None else {name: _product(dtype) for name, dtype in _PRODUCTS.items()}
        all_times = time_in_turns([*calls, *products.values()], repeats=repeats, console=console)
    times, beside = all_times[: len(calls)], dict(zip(products, all_times[len(calls) :], strict=True))
    done = (multiply_adds or 0) * batch / _SIDE**3  # in matrix products
    rows = []
    for index, (contender, first, own) in enumerate(zip(contenders, firsts, times, strict=True)):
        same = first.classes == firsts[plain[0]].classes
        rows.append(
            Row(
                model=contender.model,
                backend=contender.backend,
                precision=contender.precision,
                fused=contender.fused,
                plain=contender.plain,
                memory_order=contender.memory_order,
                agreement=float(same.double().mean()),
                batch=batch,
                size=f"{height}x{width}",
                min_ms=float(own.min()),
                p50_ms=float(np.percentile(own, 50)),
                p95_ms=float(np.percentile(own, 95)),
                speedup=float(np.median(times[plain[0]] / own)),
                repeats=times.shape[1],
                p99_ms=float(np.percentile(own, 99)),
                best_other=_best_other(contenders, times, index),
                cold_start_s=contender.built_s + first.seconds,
                peak_memory_mb=first.memory_mb,
                threads=torch.get_num_threads(),
                note=contender.note,
                of_limit=done * float(np.median(beside[kind] / own))
                if (kind := contender.precision) in beside
                else None,
            )
        )
    return rows


_SIDE = 2048
_PRODUCTS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def _product(dtype: torch.dtype) -> Callable[[], Tensor]:
    """A matrix product that keeps all arithmetic units of the processor busy."""
    left, right = torch.rand(2, _SIDE, _SIDE).to(dtype)
    return partial(torch.mm, left, right)


def _best_other(
    contenders: Sequence[Contender], times: Float64[np.ndarray, "calls repeats"], index: int
) -> float | None:
    """How much longer the best plain export at the same precision takes; see :class:`Row`."""
    own = contenders[index]
    others = [
        number for number, one in enumerate(contenders) if one.note == PLAIN_EXPORT and one.precision == own.precision
    ]
    if not others or not own.fused or own.backend == "torch":
        return None
    best = min(others, key=lambda number: float(np.median(times[number])))
    return float(np.median(times[best] / times[index]))


@dataclass(frozen=True)
class _First:
    """A first class map, how long it took, and what memory."""

    classes: Tensor
    seconds: float
    memory_mb: float | None


def _first(scorer: Scorer, images: UInt8[Tensor, "n c h w"]) -> _First:
    before = resident_memory(reset=True)
    begin = time.perf_counter()
    classes = class_map(scorer, images)
    seconds = time.perf_counter() - begin
    peak = resident_memory(most=True)
    return _First(classes, seconds, None if before is None or peak is None else max(0, peak - before) / 2**20)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What the times were measured on, as JSON values."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        named = re.search(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        cpu = named[1] if named else cpu
    on_cuda = device.type == "cuda"
    return {
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if on_cuda else None,
        "cpu": cpu,
        "cpu_instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_1_minute": round(os.getloadavg()[0], 2) if sys.platform != "win32" else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_cuda else None,
        "python": platform.python_version(),
        "system": platform.platform(),
        "refineseg": __version__,
    }
