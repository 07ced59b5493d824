"""Freed memory stays with the process: the system's own count of cleared pages says so."""

import platform
import subprocess
import sys

import pytest

from refineseg.devices import keep_freed_memory

PROGRAM = """
import resource, sys
import numpy as np
from refineseg.devices import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory() is True

def cleared_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        np.ones(8_000_000)  # 64 MB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

cleared_pages()
print(cleared_pages() * resource.getpagesize())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_blocks_that_were_freed_are_used_again_without_being_cleared():
    """Without the setting every page of every block is cleared anew: at least half, where pages are large."""
    cleared = {}
    for name in ("given_back", "kept"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, name], capture_output=True, text=True, check=True)
        cleared[name] = int(done.stdout)
    assert cleared["kept"] < 8_000_000
    assert cleared["given_back"] > 4 * cleared["kept"]


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr("refineseg.devices.ctypes.CDLL", lambda _: object())
    assert keep_freed_memory() is False
