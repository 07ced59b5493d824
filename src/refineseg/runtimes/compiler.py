"""PyTorch's compiler, inductor: whether it can work here, and its errors in a sentence.

In: a device. Out: a refusal before any minute is spent, and silence while it works.

Sources: PyTorch's documentation of ``torch.compile`` (a C++ compiler on a CPU; Triton, which builds its launcher with a
C compiler, on CUDA).
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from refineseg.errors import ConfigError
from refineseg.runtimes.graph import takes_any_size, traceable
from refineseg.segmenter import Segmenter

_TALKING = ("torch.utils.cpp_extension", "torch._inductor", "torch._dynamo", "torch._functorch", "torch.export")


def _compiler_name() -> str:
    return os.environ.get("CXX") or {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")


def why_not(device: torch.device) -> str:
    """What compiling for a device lacks on this machine, and what to do; empty: nothing."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "Triton, got none; install it: pip install triton (or the PyTorch that brings it)"
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
        backend: Runtime that asks.
        device: Device that is compiled for.

    Raises:
        ConfigError: No C++ compiler, no headers of Python, or on CUDA no Triton.
    """
    missing = why_not(device)
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
