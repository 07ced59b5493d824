"""PyTorch's compiler, inductor: whether it can work here, its errors in a sentence, and what its code runs on.

In: a device. Out: a refusal before any minute is spent, silence while it works, and the facts of a machine that
compiled code depends on.

Sources: PyTorch's documentation of ``torch.compile`` (a C++ compiler on a CPU; Triton, which builds its launcher with a
C compiler, on CUDA).
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import platform
import re
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from refineseg.backends.graph import takes_any_size, traceable
from refineseg.errors import ConfigError
from refineseg.segmenter import Segmenter

_TALKING = ("torch.utils.cpp_extension", "torch._inductor", "torch._dynamo", "torch._functorch", "torch.export")
_INSTRUCTIONS = re.compile(
    r"(avx|sse|ssse|fma|f16c|bmi|amx|vaes|vpclmul|gfni|sha|abm|lzcnt|movbe|popcnt|adx|asimd|sve|sme|bf16|i8mm)"
)


def _compiler_name() -> str:
    return os.environ.get("CXX") or {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")


def why_not(device: torch.device, *, ahead_of_time: bool = False) -> str:
    """What compiling for a device lacks on this machine, and what to do; empty: nothing.

    Args:
        device: For what.
        ahead_of_time: Into a library, which on CUDA is linked with the CUDA toolkit.
    """
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "Triton, got none; install it: pip install triton (or the PyTorch that brings it)"
    if device.type == "cuda" and ahead_of_time:
        from torch.utils.cpp_extension import CUDA_HOME  # imported late: it looks for compilers

        if CUDA_HOME is None:
            return "the CUDA toolkit, got none (no nvcc on PATH, no CUDA_HOME); install it, or set CUDA_HOME"
    name = _compiler_name()
    if not name.split() or shutil.which(name.split()[0]) is None:
        return (
            f"a C++ compiler, got none (no {name} on PATH, or CXX names none); install one, on Debian: apt-get install "
            "g++"
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        return f"the headers of Python, got none ({header}); install them, on Debian: apt-get install python3-dev"
    return ""


def check_compiler(backend: str, device: torch.device) -> None:
    """Refuse at once what could not be compiled.

    Args:
        backend: Who asks.
        device: For what.

    Raises:
        ConfigError: No C++ compiler, no headers of Python, or on CUDA no Triton or, ahead of time, no CUDA toolkit.
    """
    missing = why_not(device, ahead_of_time=backend == "torch_inductor")
    if missing:
        raise ConfigError(f"expected, for --backend {backend} on {device.type}, {missing}; or use --backend torch")


def check_sizes(backend: str, segmenter: Segmenter) -> None:
    """Refuse a model whose resizing is done with matrices made on the host for every size.

    Raises:
        ConfigError: It resizes images or features as the RefineNet authors' code does.
    """
    if not takes_any_size(segmenter):
        raise ConfigError(
            f"expected a model without MATLAB's resizing for {backend}, got {segmenter.spec.variant} that resizes "
            "images or features as the RefineNet authors' code does; use --backend torch"
        )


def _reason(error: Exception) -> str:
    """The telling line of a compiler's report."""
    lines = [line.strip() for line in f"{type(error).__name__}: {error}".splitlines() if line.strip()]
    return next((line for line in lines if re.search(r"\b(fatal )?error: ", line)), lines[0])[:240]


@contextlib.contextmanager
def compiling(backend: str, variant: str) -> Iterator[None]:
    """Compile inside: quietly, with shapes unchecked, and with one sentence where it fails.

    Raises:
        ConfigError: Compilation failed. Want of memory on a GPU is raised as it is.
    """
    loggers = {name: logging.getLogger(name) for name in _TALKING}
    levels = {name: logger.level for name, logger in loggers.items()}
    for logger in loggers.values():
        logger.setLevel(logging.CRITICAL)
    try:
        with traceable(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own parts
            yield
    except (torch.OutOfMemoryError, MemoryError, ConfigError):
        raise
    except Exception as error:  # the compiler fails with any kind of exception
        raise ConfigError(
            f"expected a network that {backend} can compile here, got {variant} ({_reason(error)}); use --backend "
            "torch, or set TORCH_LOGS=+dynamo to see more"
        ) from error
    finally:
        for name, logger in loggers.items():
            logger.setLevel(levels[name])


def _instructions() -> str:
    """The instruction sets of this processor that a compiler may use, sorted; what PyTorch uses where none are told."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info.read_text(errors="replace"), re.MULTILINE)
        if found:
            return " ".join(sorted({word for word in found[1].split() if _INSTRUCTIONS.match(word)}))
    return str(torch.backends.cpu.get_cpu_capability())


def machine_facts(device: torch.device) -> dict[str, str]:
    """What compiled code for a device depends on, of this machine."""
    facts = {
        "device": device.type,
        "platform": sys.platform,
        "processor": platform.machine(),
        "torch": ".".join(torch.__version__.split(".")[:2]),
    }
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return facts | {"compute_capability": f"{major}.{minor}"}
    return facts | {"instructions": _instructions()}


def differences(needed: Mapping[str, str], own: Mapping[str, str]) -> str:
    """In what a machine is not the one that code was compiled for, in words; empty: it runs here.

    Args:
        needed: :func:`machine_facts` of where it was compiled.
        own: Of where it is to run; it may know more instructions.

    Example:
        >>> differences({"torch": "2.14", "instructions": "avx2 fma"}, {"torch": "2.15", "instructions": "avx2"})
        'torch 2.14, here 2.15; instructions fma, here none of them'
    """
    found = []
    for name, value in needed.items():
        if name == "instructions":
            lacking = set(value.split()) - set(own.get(name, "").split())
            if lacking:
                found.append(f"instructions {' '.join(sorted(lacking))}, here none of them")
        elif own.get(name) != value:
            found.append(f"{name} {value}, here {own.get(name, 'none')}")
    return "; ".join(found)
