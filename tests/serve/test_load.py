"""The service under load, measured by ``benchmarks/serve_load.py``: all answers are right, memory stays, no slower."""

import json
import subprocess
import sys

import pytest

from conftest import REPOSITORY

SCRIPT = REPOSITORY / "benchmarks" / "serve_load.py"


def measured(*arguments):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_memory_is_flat_over_many_requests(model):
    """Ten parts of a thousand requests: what the first parts need, later parts use again."""
    found = measured(
        "--model", model, "--backend", "torch", "--images", 50, "--size", 64, "--turns", 0, "--requests", 10_000
    )
    memory = found["memory_mib"]
    assert max(memory[5:]) - memory[4] < 20, memory


@pytest.mark.slow
def test_many_clients_get_most_of_the_rate_of_a_folder(model):
    """64 clients against ``predict FOLDER --save mask`` on the same files, in turns; the median of the ratios."""
    found = measured("--model", model, "--backend", "torch", "--images", 100, "--size", 512, "--turns", 3)
    assert {status for turn in found["turns"] for status in turn["statuses"]} == {"200"}
    assert found["ratio"] > 0.8, found
