"""A real service on a loopback port, in a thread of this process, and the plainest client."""

import asyncio
import http.client
import io
import json
import re
import threading
import time
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import uvicorn
from PIL import Image

from refineseg.predict.options import PredictorOptions
from refineseg.serve.app import create_app
from refineseg.serve.connections import LimitedProtocol
from refineseg.serve.gate import Admission
from refineseg.serve.limits import RequestLimits
from refineseg.serve.running import bound_socket
from refineseg.serve.service import SegmentService, ServedModel


def photograph(size_hw=(71, 93), seed=5):
    """Pixels with structure."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8))
    return np.asarray(coarse.resize(size_hw[::-1], Image.Resampling.BICUBIC))


def png(image):
    """An array as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class Running(NamedTuple):
    """A service that runs."""

    port: int
    service: SegmentService
    lines: list[str]
    server: uvicorn.Server

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    def call(self, method, path, body=None, timeout=60, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, found, answer.read())
        finally:
            connection.close()

    def segment(self, content, query="", **headers):
        return self.call("POST", f"/v1/segment?{query}", content, **headers)

    def logged(self, pattern, seconds=10):
        """Whether a line of the log has the pattern: the line is written after the answer is sent."""
        deadline = time.monotonic() + seconds
        while not any(re.search(pattern, line) for line in self.lines):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True


def opened(model, backend=None):
    return PredictorOptions.parse(device="cpu", backend=backend).opened(model)


@contextmanager
def running(models, limits=None, *, token=None, ready=True, batch_size=None, backend=None):
    """A service with models by name.

    Args:
        models: Name -> model file.
        ready: Wait until the models are warmed up.
    """
    served = [ServedModel(name, opened(model, backend)) for name, model in models.items()]
    service = SegmentService(served, limits or RequestLimits(), batch_size=batch_size)
    lines = []
    app = create_app(service, admission=Admission.at("127.0.0.1", token=token), log=lines.append)
    listening = bound_socket("127.0.0.1", 0)
    config = uvicorn.Config(
        app, http=LimitedProtocol, ws="none", lifespan="on", log_config=None, access_log=False, limit_concurrency=256,
        server_header=False, timeout_keep_alive=30, timeout_graceful_shutdown=60,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
    thread.start()
    found = Running(listening.getsockname()[1], service, lines, server)
    waiting = threading.Event()
    for _ in range(600):
        if server.started and (service.is_ready or not ready):
            break
        waiting.wait(0.05)
    try:
        yield found
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the service did not end"
