"""What cells in cells in a small MATLAB file do to scipy and to our reader: each reads them in a process of its own.

    ./dev python benchmarks/mat_nesting.py

Prints bytes of the file, how each process ended (negative: killed by that signal), and the rise of its memory.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

PROGRAMS = {
    "scipy": "import scipy.io\nread = lambda p: scipy.io.loadmat(p)",
    "ours": "from pathlib import Path\nfrom refineseg.original.matconvnet import read_matconvnet\n"
    "read = lambda p: read_matconvnet(Path(p))",
}
RUN = """
import resource, sys
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read(sys.argv[1]); said = "read"
except Exception as error:
    said = type(error).__name__
print(said, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, "MB")
"""


def nested(depth: int) -> bytes:
    """A compressed file of one variable: cells in cells."""
    head = struct.pack("<4I", 6, 8, 1, 0) + struct.pack("<2I2i", 5, 8, 1, 1) + struct.pack("<2I", 1, 0)
    parts, size = [struct.pack("<2I", 14, 0)], 8
    for _ in range(depth):
        size += len(head)
        parts.append(struct.pack("<2I", 14, size) + head)
        size += 8
    deflated = zlib.compress(b"".join(reversed(parts)))
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + struct.pack("<2I", 15, len(deflated)) + deflated


def main() -> None:
    """Each depth by each reader."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.mat"
        for depth in (2_000, 20_000, 100_000):
            path.write_bytes(nested(depth))
            for name, begin in PROGRAMS.items():
                done = subprocess.run(
                    [sys.executable, "-c", begin + RUN, str(path)], capture_output=True, text=True, timeout=300
                )
                print(f"{depth} cells, {path.stat().st_size} bytes, {name}: {done.returncode} {done.stdout.strip()}")


if __name__ == "__main__":
    main()
