"""The machine: devices by name, and its memory: free, used at most, used up, and kept once it was freed.

In: a device's name, an exception. Out: devices, bytes, yes or no. torch is imported where a function needs it, because
the command line asks for :func:`keep_freed_memory` before it knows whether anything will be computed.

glibc, the C library of most Linux systems, gives large blocks back as soon as they are freed, and the system clears
every page of the next one. A network on a CPU frees and allocates feature maps of many megabytes all the time: on
2048x2048 pixels, half of the time of PyTorch's eager class map went into cleared pages (``docs/speed.md``).
:func:`keep_freed_memory` changes no result, but more memory stays with the process: up to 40 % at its peak was seen.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from refineseg.errors import ConfigError, RefinesegError
from refineseg.terminal.arguments import check_device_name

if TYPE_CHECKING:
    import torch

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell the C library to keep what this process frees; once is enough, and nothing undoes it.

    Training on a CPU does so, from Python, too; of the commands also ``evaluate``, ``serve`` and, without ``--memory``,
    ``predict``. Importing ``refineseg`` does not: it is a setting of the whole process.

    Where the address space has a limit (``ulimit -v``), nothing happens: kept memory has holes, and what needs a block
    of its own, such as oneDNN's code, would fail although there is room.

    Returns:
        Whether freed memory is kept: the C library has this setting (glibc), and no limit stands against it.

    Source: mallopt(3): without blocks of their own (M_MMAP_MAX = 0), and the heap's end is kept (M_TRIM_THRESHOLD).
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; TypeError: Windows has no default one
        return False
    import resource  # which Windows does not have

    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return False
    return all([set_option(_MMAP_MAX, 0), set_option(_TRIM_THRESHOLD, _LARGEST)])


def find_device(name: str) -> torch.device:
    """``auto`` (CUDA if there, else CPU), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        ConfigError: No such device on this machine.
    """
    import torch

    check_device_name(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"expected a device of this machine (cpu{', cuda' if torch.cuda.is_available() else ''}), got {name!r} "
            f"({str(error).splitlines()[0][:80]}); use auto, which takes what is there"
        ) from error
    return device


def usual_threads() -> int:
    """Threads that runtimes compute with on a CPU: as many as PyTorch; where it is not loaded, OMP_NUM_THREADS.

    0 stands for the runtime's own choice, which is one a core, as PyTorch's is.
    """
    if "torch" in sys.modules:
        import torch

        return int(torch.get_num_threads())
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() else 0


_NO_MEMORY = (
    *("can't allocate memory", "not enough memory", "out of memory", "failed to allocate"),
    *("bad_alloc", "bad allocation", "alloc_failed"),
)
"""What allocators of PyTorch, ONNX Runtime and OpenVINO, and CUDA's libraries write when memory is short."""
_NO_MEMORY_ONEDNN = (
    "could not create a primitive",
    "could not execute a primitive",
    "could not create a memory object",
)
"""All that oneDNN, which computes convolutions on CPUs, says then."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of any runtime says that memory is short, on a GPU or on the host.

    Runtimes have no exception of their own for it (PyTorch has one for GPUs only), so their words decide.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, RefinesegError | ValueError | TypeError | LookupError):  # of code, not of an allocator
        return False
    text = str(error).lower()
    return text in _NO_MEMORY_ONEDNN or any(words in text for words in _NO_MEMORY)


_LIMITS = (  # of a container and what it has taken, versions 2 and 1 of control groups
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def free_memory(device: torch.device | None = None) -> int:
    """Bytes that can still be had on a device; of the host what the system and the limit of the container leave.

    Args:
        device: A GPU; others, and None: the host. 4 GB where the system says nothing.
    """
    if device is not None and device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    known = _number(Path("/proc/meminfo"), r"^MemAvailable:\s*(\d+) kB")
    free = 4 * 10**9 if known is None else 1024 * known
    for files in _LIMITS:
        limit, taken = (_number(Path(file), r"^(\d+)$") for file in files)
        if limit is not None and taken is not None:
            stat = Path(files[1]).with_name("memory.stat")  # pages of files are given back when memory is short
            cached = sum(_number(stat, rf"^{kind}_file (\d+)$") or 0 for kind in ("inactive", "active"))
            free = min(free, max(0, limit - max(0, taken - cached)))
    return free


def _number(path: Path, pattern: str) -> int | None:
    """A number in a file of the system; None where there is none."""
    try:
        found = re.search(pattern, path.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else int(found[1])


def peak_memory() -> int | None:
    """Most bytes this process ever had in memory; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def resident_memory(*, most: bool = False, reset: bool = False) -> int | None:
    """Bytes this process has in memory; None where the system (other than Linux) does not say.

    Args:
        most: The most since the last reset, in place of now.
        reset: Begin to count the most anew.
    """
    if reset:
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            return None
    kib = _number(Path("/proc/self/status"), rf"^{'VmHWM' if most else 'VmRSS'}:\s*(\d+) kB")
    return None if kib is None else 1024 * kib
