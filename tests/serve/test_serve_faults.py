"""A service that is ended while an upload arrives: the request is answered or refused, and nothing is left behind."""

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from fakes.services import photograph, png

pytestmark = pytest.mark.slow
LIMIT_S = 240


def until(holds):
    end = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextlib.contextmanager
def served(model, place, port=0):
    """The process and its port, when it is ready; it works in an empty folder and has another for temporary files."""
    for name in ("work", "temporary"):
        (place / name).mkdir(exist_ok=True)
    words = ["serve", "--model", model, "--device", "cpu", "--threads", "1", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "refineseg", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=place / "work", env={**os.environ, "TMPDIR": str(place / "temporary")},
    )  # fmt: skip
    try:
        found = re.search(r":(\d+)\n", process.stdout.readline())
        assert found, process.communicate()
        port = int(found[1])
        until(lambda: asked(port, "/readyz")[0] == 200)
        yield process, port
    finally:
        process.kill()
        process.communicate(timeout=LIMIT_S)


def asked(port, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    with contextlib.closing(connection):
        connection.request("GET" if body is None else "POST", path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()


def half_sent(port, content):
    """A connection on which the first half of an image has arrived."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    connection.putrequest("POST", "/v1/segment")
    connection.putheader("Content-Length", str(len(content)))
    connection.endheaders(content[: len(content) // 2])
    reserved = re.compile(rb"^refineseg_reserved_bytes [1-9]", re.MULTILINE)
    until(lambda: reserved.search(asked(port, "/metrics")[1]))
    return connection


def listens(port):
    with contextlib.closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def files(place):
    return [path for path in place.rglob("*") if path.is_file()]


def test_sigterm_lets_an_upload_arrive_and_answers_it(model, tmp_path):
    content = png(photograph())
    with served(model, tmp_path) as (process, port):
        status, mask = asked(port, "/v1/segment", content)
        assert (status, mask[:4]) == (200, b"\x89PNG")
        connection = half_sent(port, content)
        process.send_signal(signal.SIGTERM)
        until(lambda: not listens(port))  # it has begun to end
        connection.send(content[len(content) // 2 :])
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, mask)
        connection.close()
        _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert said.splitlines()[-1] == "stopped; everything that was accepted is done"
    assert "Traceback" not in said
    assert files(tmp_path) == []


def test_after_sigkill_the_same_call_serves_at_the_same_port(model, tmp_path):
    content = png(photograph())
    with served(model, tmp_path) as (process, port):
        status, mask = asked(port, "/v1/segment", content)
        assert status == 200
        connection = half_sent(port, content)
        process.kill()
        assert process.wait(LIMIT_S) == -signal.SIGKILL
        with pytest.raises((ConnectionError, http.client.HTTPException)):  # no half answer
            connection.getresponse()
        connection.close()
    with served(model, tmp_path, port) as (_, again):
        assert (again, asked(again, "/v1/segment", content)) == (port, (200, mask))
    assert files(tmp_path) == []
