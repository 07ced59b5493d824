"""The service under load, beside ``refineseg predict FOLDER --save mask`` on the same files, in turns in one run.

Out: one JSON object: images per second of both, their ratio, times of requests, memory of the service. Rates of a
machine that does other things mean little; the ratio of turns means more, and the ratio of computing time per image
(that of the service includes that of its clients) is hardly disturbed. Traffic goes to 127.0.0.1 alone, and every
loop has an end.

    python benchmarks/serve_load.py --model camvid --backend openvino --turns 3
    python benchmarks/serve_load.py --model camvid_nano --requests 10000 --size 64 --turns 0
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import deque
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from refineseg.serve.samples import STREETS, draw_street

_PREDICT = """
import sys, time
from pathlib import Path
from refineseg.devices import keep_freed_memory
from refineseg.predict.folder.file_options import FileOptions
from refineseg.predict.folder.files import predict_plan
from refineseg.terminal.following import TerminalFollower
from refineseg.terminal.printing import messages
from refineseg.predict.folder.plan import plan_files
from refineseg.predict.options import PredictorOptions
from refineseg.predict.outputs.kinds import Outputs
from refineseg.predict.views.tiling import TilingOptions
folder, out, model, backend = sys.argv[1:]
keep_freed_memory()
how = PredictorOptions.parse(device="cpu", backend=backend, tiling=TilingOptions() if backend == "torch" else None)
files = FileOptions(Outputs(("mask",)), resume=False)
opened = how.opened(model)
for turn, line in enumerate(sys.stdin):  # the first turn warms up
    plan = plan_files([folder], Path(out), endings=files.outputs.endings.values())
    begin = time.monotonic()
    predict_plan(plan, Path(out), opened, options=how, files=files, follower=TerminalFollower(messages()))
    print("seconds", time.monotonic() - begin, flush=True)
"""


def write_images(folder: Path, count: int, side: int) -> list[bytes]:
    """JPEG files, cut from the drawn streets; gives their contents."""
    streets = [np.asarray(draw_street(street).resize((1024, 768))) for street in STREETS.values()]
    rng, contents = np.random.default_rng(0), []
    for i in range(count):
        top, left = int(rng.integers(0, 768 - side + 1)), int(rng.integers(0, 1024 - side + 1))
        path = folder / f"{i:04d}.jpg"
        Image.fromarray(streets[i % len(streets)][top : top + side, left : left + side]).save(path, quality=90)
        contents.append(path.read_bytes())
    return contents


async def load(
    port: int, contents: deque[bytes], clients: int, kind: str = "image/jpeg"
) -> tuple[float, list[float], dict[int, int]]:
    """Send every content once over so many connections that stay open; gives seconds, seconds per request, statuses."""
    times: list[float] = []
    statuses: dict[int, int] = {}

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while contents:
            body = contents.popleft()
            begin = time.monotonic()
            head = f"POST /v1/segment HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {kind}\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            status = int(answer.split(b" ", 2)[1])
            length = int(answer.split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            statuses[status] = statuses.get(status, 0) + 1
            times.append(time.monotonic() - begin)
        writer.close()

    begin = time.monotonic()
    await asyncio.wait_for(asyncio.gather(*(client() for _ in range(clients))), 1800)
    return time.monotonic() - begin, times, statuses


def cpu_s(process: psutil.Process) -> float:
    """Seconds of all cores that a process has computed."""
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="camvid")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--requests", type=int, default=0, help="requests at the end, for the memory")
    parser.add_argument("serve", nargs="*", help="options of refineseg serve")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "in"
        folder.mkdir()
        contents = write_images(folder, options.images, options.size)
        command = [sys.executable, "-m", "refineseg", "serve", "--port", "0", "--device", "cpu"]
        command += ["--model", options.model, "--backend", options.backend, *options.serve]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as service,
            subprocess.Popen(
                [sys.executable, "-c", _PREDICT, str(folder), f"{temporary}/out", options.model, options.backend],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            ) as predict,
            ExitStack() as stack,
        ):  # fmt: skip
            stack.callback(service.kill)  # whatever happens below
            stack.callback(predict.kill)
            assert service.stdout
            assert predict.stdout
            assert predict.stdin
            port = int(service.stdout.readline().rsplit(":", 1)[1])

            def predicted() -> float:
                assert predict.stdout
                assert predict.stdin
                predict.stdin.write("\n")
                predict.stdin.flush()
                return next(float(line.split()[1]) for line in predict.stdout if line.startswith("seconds"))

            for _ in range(600):
                with suppress(urllib.error.HTTPError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=60).close()
                    break
                time.sleep(0.2)
            rows, times = [], list[float]()
            asyncio.run(load(port, deque(contents[:64]), 8))
            if options.turns:
                predicted()
            memory, process, other = list[int](), psutil.Process(service.pid), psutil.Process(predict.pid)
            for _ in range(options.turns):
                before = cpu_s(other)
                alone = predicted()
                cpu_predict, before = cpu_s(other) - before, cpu_s(process) + time.process_time()
                seconds, some, statuses = asyncio.run(load(port, deque(contents), options.clients))
                cpu_serve = cpu_s(process) + time.process_time() - before
                times += some
                row = {"predict": len(contents) / alone, "serve": len(contents) / seconds, "statuses": statuses}
                rows.append({**row, "predict_cpu": cpu_predict / len(contents), "serve_cpu": cpu_serve / len(contents)})
            for _ in range(10 if options.requests else 0):
                memory.append(process.memory_info().rss // 2**20)
                many = deque(contents[i % len(contents)] for i in range(options.requests // 10))
                _, some, statuses = asyncio.run(load(port, many, options.clients))
                times += [] if options.turns else some
                assert set(statuses) == {200}, statuses
            memory += [process.memory_info().rss // 2**20] if options.requests else []
            service.terminate()
            predict.stdin.close()
    ratios = [row["serve"] / row["predict"] for row in rows]
    costs = [row["predict_cpu"] / row["serve_cpu"] for row in rows]
    ordered = sorted(times)
    found = {
        "ratio": statistics.median(ratios) if ratios else None,
        "ratio_of_cpu": statistics.median(costs) if costs else None,
        "turns": rows,
        "p50_s": ordered[len(ordered) // 2],
        "p99_s": ordered[int(0.99 * len(ordered))],
        "memory_mib": memory,
        "options": vars(options),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
