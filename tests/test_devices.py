"""Devices and memory: what an exception says of it, what is free, what stays with the process."""

import platform
import subprocess
import sys

import psutil
import pytest
import torch

from refineseg import devices
from refineseg.devices import free_memory, is_out_of_memory, keep_freed_memory, peak_memory, resident_memory
from refineseg.errors import ConfigError

PROGRAM = """
import os, resource
import numpy as np
from refineseg.devices import keep_freed_memory
from refineseg.training.engine import Engine
from refineseg.training.recipes.table import find_recipe

def cleared_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        np.ones(8_000_000)  # 64 MB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for name in ("given_back", "kept", "trained", "limited"):
    if child := os.fork():  # what is set stays with the process
        assert os.waitpid(child, 0)[1] == 0, name
        continue
    if name == "kept":
        assert keep_freed_memory() is True
    if name == "limited":
        resource.setrlimit(resource.RLIMIT_AS, (1 << 40, resource.RLIM_INFINITY))
        assert keep_freed_memory() is False
    if name == "trained":
        Engine(find_recipe("folder_refineseg_lite0"), device="cpu", say=lambda _: None)
    cleared_pages()
    print(name, cleared_pages() * resource.getpagesize(), flush=True)
    os._exit(0)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_blocks_that_were_freed_are_used_again_without_being_cleared():
    """Without the setting every page of every block is cleared anew: at least half, where pages are large."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    cleared = {name: int(number) for name, number in map(str.split, done.stdout.splitlines())}
    assert max(cleared["kept"], cleared["trained"]) < 8_000_000
    assert min(cleared["given_back"], cleared["limited"]) > 4 * cleared["kept"]


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr("refineseg.devices.ctypes.CDLL", lambda _: object())
    assert keep_freed_memory() is False


def test_want_of_memory_is_known_by_the_words_of_every_runtime():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    for text in (
        "std::bad_alloc",
        "could not create a primitive",  # oneDNN's
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory",
        "bad allocation",  # OpenVINO's
        "Failed to allocate memory for requested buffer of size 137438953472",  # ONNX Runtime's
        "CUDNN_STATUS_ALLOC_FAILED",
    ):
        assert is_out_of_memory(RuntimeError(text)), text
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for a convolution"))
    assert not is_out_of_memory(RuntimeError("size mismatch"))
    assert not is_out_of_memory(RuntimeError("expected a tensor in shared memory"))
    assert not is_out_of_memory(ValueError("out of memory"))
    assert not is_out_of_memory(ConfigError("not enough memory for a tile"))


def test_an_allocator_that_really_fails_is_understood():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_free_memory_is_the_least_of_what_system_and_container_leave(tmp_path, monkeypatch):
    system = psutil.virtual_memory().available
    monkeypatch.setattr(devices, "_LIMITS", ())
    assert free_memory() == pytest.approx(system, rel=0.2)
    files = [tmp_path / name for name in ("most", "taken")]
    monkeypatch.setattr(devices, "_LIMITS", (("/no/such", "/files"), files))
    for most, left in (("3000000\n", 2_000_000), ("max\n", system), (f"{2**63}\n", system), ("999\n", 0)):
        files[0].write_text(most)
        files[1].write_text("1000000\n")
        assert free_memory() == pytest.approx(left, rel=0.2)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says so")
def test_memory_of_this_process_is_what_the_system_counts():
    assert resident_memory() == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)
    before = resident_memory(reset=True)
    block = bytearray(b"x") * (200 << 20)
    assert resident_memory(most=True) - before > 150 << 20
    del block
    assert peak_memory() >= resident_memory(most=True) * 0.9


def test_pages_of_files_are_free_memory_of_a_container(tmp_path, monkeypatch):
    files = [tmp_path / name for name in ("most", "taken")]
    monkeypatch.setattr(devices, "_LIMITS", (files,))
    files[0].write_text("3000000\n")
    files[1].write_text("2900000\n")
    (tmp_path / "memory.stat").write_text("anon 2200000\ninactive_file 600000\nactive_file 100000\n")
    assert free_memory() == 800_000
