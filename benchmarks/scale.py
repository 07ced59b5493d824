"""Batch prediction timed with one and two workers, and from that: what a billion images need on a cluster.

    ./dev python benchmarks/scale.py FOLDER [--workers 1,2] [--model NAME] [--node-price 1.5 --node-cores 16 ...]

Measured here: images per second of one process and of Ray with so many workers, and of one image the seconds of
reading, decoding, network, encoding and writing, its bytes, and the seconds of a manifest's row. The rest is arithmetic
with options: machines, network, requests that a bucket answers, prices. A rate is the least of the rates of the parts,
and that part is the bottleneck.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refineseg.batch.manifest import Manifest, ManifestRow
from refineseg.batch.stores import LocalStore


@dataclass(frozen=True)
class Image:
    """Means of one image.

    Args:
        cpu_s: Seconds of decoding and encoding, on a core.
        model_s: Seconds of the network, of a worker.
        bytes_in: Bytes that are read.
        bytes_out: Bytes that are written.
        outputs: Number of files that are written.
        row_s: Seconds of its row in the manifest, of the one process that writes it.
    """

    cpu_s: float
    model_s: float
    bytes_in: float
    bytes_out: float
    outputs: float
    row_s: float


def run(folder: Path, out: Path, *words: str) -> dict[str, Any]:
    """One call of ``predict``; its report."""
    report = out.with_suffix(".json")
    call = [sys.executable, "-m", "refineseg", "predict", str(folder), "--out", str(out), "--json", str(report), *words]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def seconds_of_a_row(folder: Path, count: int = 20_000) -> float:
    """Of the manifest, written and put together."""
    manifest = Manifest(LocalStore(str(folder)))
    rows = [ManifestRow(f"{i:09d}.jpg", 1, "e" * 32, i, "m" * 33, 1, areas=(1,) * 11) for i in range(count)]
    start = time.perf_counter()
    for first in range(0, count, 2000):
        manifest.write(rows[first : first + 2000])
    manifest.put_together()
    return (time.perf_counter() - start) / count


def rates(image: Image, nodes: int, options: argparse.Namespace) -> dict[str, float]:
    """Images per second that each part of a cluster could do alone."""
    free = options.node_cores - options.node_workers * options.worker_cores
    bits = 8 * max(image.bytes_in, image.bytes_out)
    return {
        "model": nodes * options.node_workers / (options.model_ms / 1000 or image.model_s),
        "decoding and encoding": nodes * max(1, free) / image.cpu_s,
        "lines": nodes * options.node_gbit * 1e9 / bits,
        "GET requests": options.gets_per_s * options.prefixes,
        "PUT requests": options.puts_per_s * options.prefixes / image.outputs,
        "listing": 1000 / (options.page_ms / 1000),
        "manifest": 1 / image.row_s,
    }


def show(image: Image, options: argparse.Namespace) -> None:
    """The table of cluster sizes."""
    print(f"\n{options.images:.3g} images on nodes of {options.node_cores} cores with {options.node_workers} workers:")
    print("| nodes | images per s | hours | machines, per 10^6 | requests, per 10^6 | bottleneck | next |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    requests = (1 + image.outputs) * options.get_price + image.outputs * options.put_price  # GET, and PUT and HEAD
    for nodes in options.nodes:
        parts = sorted(rates(image, nodes, options).items(), key=lambda part: part[1])
        rate = parts[0][1]
        hours = options.images / rate / 3600
        machines = nodes * options.node_price / 3600 / rate * 1e6
        print(
            f"| {nodes} | {rate:.0f} | {hours:.1f} | {machines:.2f} | {1000 * requests:.2f} | {parts[0][0]} | "
            f"{parts[1][0]} ({parts[1][1]:.0f}) |"
        )


def arguments() -> argparse.Namespace:
    """The options; prices and limits are assumptions that a user replaces."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="images of the kind that is to be predicted")
    parser.add_argument("--model", default="camvid")
    parser.add_argument("--save", default="mask")
    parser.add_argument("--workers", default="1,2", help="numbers of Ray workers that are timed; empty: none")
    parser.add_argument("--images", type=float, default=1e9)
    parser.add_argument("--nodes", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 64, 512])
    parser.add_argument("--node-cores", type=int, default=16)
    parser.add_argument("--node-workers", type=int, default=12, help="on a machine with GPUs: as many as GPUs")
    parser.add_argument("--worker-cores", type=int, default=1)
    parser.add_argument("--node-gbit", type=float, default=10.0)
    parser.add_argument("--node-price", type=float, default=0.70, help="of a node for an hour")
    parser.add_argument("--model-ms", type=float, default=0.0, help="of an image on your GPU; 0: as measured here")
    parser.add_argument("--gets-per-s", type=float, default=5500.0, help="of a prefix of the bucket")
    parser.add_argument("--puts-per-s", type=float, default=3500.0, help="of a prefix of the bucket")
    parser.add_argument("--prefixes", type=int, default=1)
    parser.add_argument("--page-ms", type=float, default=150.0, help="of 1000 names of a listing")
    parser.add_argument("--get-price", type=float, default=0.0004, help="of 1000 requests")
    parser.add_argument("--put-price", type=float, default=0.005, help="of 1000 requests")
    return parser.parse_args()


def main() -> None:
    """Measure, and print tables."""
    options = arguments()
    words = ("--model", options.model, "--save", options.save, "--threads", "1", "--device", "cpu")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        one = run(options.folder, place / "one", *words, "--part", "1/1")
        print("| engine | workers | images | images per s |")
        print("| --- | --- | --- | --- |")
        print(f"| none | 1 | {one['done']} | {one['images_per_second']:.2f} |")
        for workers in filter(None, options.workers.split(",")):
            ray = run(options.folder, place / f"ray{workers}", *words, "--engine", "ray", "--workers", workers)
            print(f"| ray | {workers} | {ray['done']} | {ray['images_per_second']:.2f} |")
        inside = [path for path in options.folder.rglob("*") if path.is_file()]
        made = [path for path in (place / "one").rglob("*") if path.is_file() and ".refineseg" not in path.parts]
        means = one["mean_seconds"]
        print("\nmean milliseconds of an image: " + ", ".join(f"{k} {1000 * v:.2f}" for k, v in means.items()))
        image = Image(
            means["decode_s"] + means["encode_s"],
            means["model_s"],
            sum(path.stat().st_size for path in inside) / len(inside),
            sum(path.stat().st_size for path in made) / max(1, one["done"]),
            one["outputs"] / max(1, one["done"]),
            seconds_of_a_row(place / "rows"),
        )
    print(
        f"a row of the manifest: {1e6 * image.row_s:.0f} us; bytes in {image.bytes_in:.0f}, out {image.bytes_out:.0f}"
    )
    show(image, options)


if __name__ == "__main__":
    main()
