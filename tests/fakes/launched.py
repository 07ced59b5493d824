"""Runs of several processes: torchrun as users call it, and a small net of processes that share their memory."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
TRAIN = ("-m", "refineseg", "train")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
TIMEOUT_S = 300


def start(*arguments, options=("--standalone", "--nproc-per-node", "2"), before=(), **environment):
    """torchrun with a program and its arguments, in a session of its own."""
    return subprocess.Popen(
        [*before, *TORCHRUN, *options, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT, **environment},
        start_new_session=True,
    )


def ended(process):
    """Exit status, stdout and stderr; a run that hangs is killed with all of its workers."""
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        for worker in workers(process).values():
            os.kill(worker, signal.SIGKILL)
        process.kill()
        raise
    return process.returncode, out, err


def launched(*arguments, **options):
    """torchrun until it ends."""
    return ended(start(*arguments, **options))


def workers(process):
    """Rank -> process id of the workers that a torchrun has now."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            words = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        rank = next((word[5:] for word in words if word.startswith(b"RANK=")), None)
        if int(status[1]) == process.pid and rank is not None:
            found[int(rank)] = int(folder.name)
    return found


def wait_for(condition, process, seconds=TIMEOUT_S):
    """Wait until something holds while a process runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it never held"
        time.sleep(0.02)


def in_processes(function, size, folder):
    """What a function of the rank gives in each of so many processes that are brought together; errors as texts."""
    context = multiprocessing.get_context("fork")  # which have imported everything already
    results = context.Queue()

    def body(rank):
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
        try:
            result = function(rank)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            result = f"{type(error).__name__}: {error}"
        results.put((rank, result))
        dist.barrier()
        dist.destroy_process_group()

    children = [context.Process(target=body, args=(rank,)) for rank in range(size)]
    for child in children:
        child.start()
    found = dict(results.get(timeout=60) for _ in children)
    for child in children:
        child.join(60)
    return [found[rank] for rank in range(size)]
