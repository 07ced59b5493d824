"""The service beside the same model in litserve, which was considered in its place: images per second of both.

Both take the same JPEG files as forms from the same clients in turns in one run, and answer with the same mask files.
litserve has a process of its own for the model, which batches what waits. It has no limits and no checks here.

    pip install litserve
    python benchmarks/serve_litserve.py --model camvid_nano --backend openvino --turns 3
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import deque
from contextlib import ExitStack
from pathlib import Path

from serve_load import load, write_images

_LITSERVE = """
import sys
import litserve
import numpy as np
from fastapi import Request, Response
from PIL import Image

MODEL, BACKEND, port, batch = sys.argv[1:]  # in the process of the model, too

class Api(litserve.LitAPI):
    def setup(self, device):
        import refineseg
        self.predictor = refineseg.Predictor(MODEL, backend=BACKEND, device="cpu")

    def decode_request(self, request: Request):
        return np.asarray(Image.open(request["image"].file))

    def batch(self, inputs):
        return inputs

    def unbatch(self, outputs):
        return outputs

    def predict(self, images):
        return self.predictor.batch(images)

    def encode_response(self, prediction):
        from refineseg.images.encoding import encode_mask
        return Response(bytes(encode_mask(prediction.mask, prediction.class_info)), media_type="image/png")

if __name__ == "__main__":
    api = Api(max_batch_size=int(batch), batch_timeout=0.005, api_path="/v1/segment")
    server = litserve.LitServer(api, accelerator="cpu", timeout=120)
    server.run(host="127.0.0.1", port=int(port), log_level="error", generate_client_file=False)
"""

KIND = "multipart/form-data; boundary=cut"
"""litserve reads forms and JSON, and no raw bytes."""


def as_form(content: bytes) -> bytes:
    """A JPEG file as a form with one field."""
    head = (
        b'--cut\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    )
    return head + content + b"\r\n--cut--\r\n"


def wait_until_ready(port: int, path: str) -> None:
    """Two minutes at most.

    Raises:
        TimeoutError: It does not answer.
    """
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60).close()
            return
        except OSError:  # not there yet, or not ready
            time.sleep(0.2)
    raise TimeoutError(f"expected an answer on port {port}, got none")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="camvid_nano")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4, help="the most images of a batch in litserve")
    parser.add_argument("--port", type=int, default=18941, help="of litserve; that of the service is free to choose")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        contents = [as_form(content) for content in write_images(folder, options.images, options.size)]
        script = folder / "served.py"
        script.write_text(_LITSERVE)
        serve = ["-m", "refineseg", "serve", "--port", "0", "--device", "cpu"]
        serve += ["--model", options.model, "--backend", options.backend]
        other = [str(script), options.model, options.backend, str(options.port), str(options.batch)]
        ours, theirs = (
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, *arguments],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    start_new_session=True,
                )
            )
            for arguments in (serve, other)
        )
        stack.callback(os.killpg, ours.pid, signal.SIGTERM)
        stack.callback(os.killpg, theirs.pid, signal.SIGTERM)  # its model process, too
        assert ours.stdout
        ports = {"refineseg": int(ours.stdout.readline().rsplit(":", 1)[1]), "litserve": options.port}
        wait_until_ready(ports["refineseg"], "/readyz")
        wait_until_ready(ports["litserve"], "/health")
        rows = []
        for turn in range(options.turns + 1):  # the first warms up
            row = {}
            for name, port in ports.items():
                seconds, times, statuses = asyncio.run(load(port, deque(contents), options.clients, KIND))
                row[name] = {"images_per_s": len(contents) / seconds, "p99_s": sorted(times)[int(0.99 * len(times))]}
                assert set(statuses) == {200}, statuses
            rows += [row] if turn else []
        ratios = [row["refineseg"]["images_per_s"] / row["litserve"]["images_per_s"] for row in rows]
    print(json.dumps({"ratio": statistics.median(ratios), "turns": rows, "options": vars(options)}, indent=1))


if __name__ == "__main__":
    main()
