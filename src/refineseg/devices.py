"""Memory that a process has freed: kept for what it allocates next, instead of given back to the system.

glibc, the C library of most Linux systems, gives large blocks back as soon as they are freed, and the system clears
every page of the next one. A network on a CPU frees and allocates feature maps of many megabytes all the time: on
2048x2048 pixels, half of the time of PyTorch's eager class map went into cleared pages (``docs/speed.md``). It
changes no result, but more memory stays with the process: up to 40 % at its peak was seen.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell the C library to keep what this process frees; once is enough, and nothing undoes it.

    The commands ``train``, ``reproduce``, ``evaluate`` and, without ``--memory``, ``predict`` do so. Importing
    ``refineseg`` does not: it is a setting of the whole process.

    Returns:
        Whether the C library has this setting (glibc); elsewhere nothing happens.

    Source: mallopt(3): without blocks of their own (M_MMAP_MAX = 0), and the heap's end is kept (M_TRIM_THRESHOLD).
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; TypeError: Windows has no default one
        return False
    return all([set_option(_MMAP_MAX, 0), set_option(_TRIM_THRESHOLD, _LARGEST)])
