"""``refineseg serve`` as a process: its address, its end, and what it refuses before it starts."""

import http.client
import re
import signal
import subprocess
import sys
import time

import pytest

from fakes.services import photograph, png


def test_it_tells_its_address_and_ends_in_order(model, tmp_path):
    """By SIGTERM, with status 0; the token stands in a file."""
    (tmp_path / "token").write_text("a-long-enough-secret\n")
    command = [sys.executable, "-m", "refineseg", "serve", "--port", "0", "--model", f"mine={model}", "--device", "cpu"]
    command += ["--token-file", str(tmp_path / "token")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = re.fullmatch(r"page: http://127\.0\.0\.1:(\d+)\n", process.stdout.readline())
        connection = http.client.HTTPConnection("127.0.0.1", int(address[1]), timeout=60)
        for _ in range(600):
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                break
            time.sleep(0.1)
        connection.request("POST", "/v1/segment", png(photograph()), {"Authorization": "Bearer a-long-enough-secret"})
        answer = connection.getresponse()
        assert (answer.status, answer.read()[:4]) == (200, b"\x89PNG")
        connection.close()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert err.splitlines()[-1] == "stopped; everything that was accepted is done"
    assert re.search(r"\w+ POST /v1/segment 200 \d+ ms", err)
    assert "secret" not in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "nowhere"), "expected a shipped model"),
        (("--model", "camvid", "--model", "x=camvid", "--model", "x=camvid_nano"), "of different names"),
        (("--port", "70000"), "--port of at most 65535"),
        (("--max-bytes", "much"), "expected an amount of memory"),
        (("--max-waiting", "0"), "max_waiting above 0"),
        (("--backend", "tensorflow"), "expected a backend"),
        (("--host", "203.0.113.7"), "expected an address"),
        (("--threads", "0"), "--threads of at least 1"),
    ],
)
def test_wrong_calls_are_refused_before_anything_is_loaded(refineseg, arguments, words):
    status, out, err = refineseg("serve", *arguments)
    assert (status, out) == (2, "")
    assert words in err


def test_a_short_token_is_refused(refineseg, monkeypatch, tmp_path):
    monkeypatch.setenv("REFINESEG_TOKEN", "short")
    status, _, err = refineseg("serve", "--port", "0")
    assert (status, "at least 16" in err, "short" in err) == (2, True, False)
    (tmp_path / "token").write_text("two words in a token")
    assert refineseg("serve", "--port", "0", "--token-file", tmp_path / "token")[0] == 2


def test_a_port_that_is_taken_is_named(refineseg):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, _, err = refineseg("serve", "--port", port)
    assert status == 2
    assert f"127.0.0.1:{port}" in err
    assert "choose another --port" in err


def test_help_groups_its_options(refineseg):
    status, out, _ = refineseg("serve", "--help")
    assert status == 0
    for words in ("Who may ask", "Limits of a request", "Cores", "--token-file", "--max-waiting", "--backend"):
        assert words in out
