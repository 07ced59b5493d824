"""Real servers on loopback for tests: S3 (moto) and a web server whose speed can be set."""

import contextlib
import functools
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from importlib.util import find_spec

import pytest

SECRET = "s3cr3t-of-the-test"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def forget_file_systems():
    import fsspec

    fsspec.get_filesystem_class("s3").clear_instance_cache()


@contextlib.contextmanager
def s3_server():
    """An S3 server in a process of its own, and the environment that leads fsspec to it.

    fsspec keeps a file system for each kind of address, which keeps the server it was made for: those of an earlier
    server, and in the end those of this one, are forgotten.
    """
    for package in ("s3fs", "moto", "flask", "flask_cors"):
        if find_spec(package) is None:
            pytest.skip(f"the package {package} is absent, so there is no S3 server to test with")
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    changes = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.05)
        else:
            pytest.fail("the S3 server did not start within 30 s")
        forget_file_systems()
        yield server
    finally:
        forget_file_systems()
        server.terminate()
        server.wait(timeout=10)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files; after ``stop_after`` bytes of a file that ends in ``slow`` it waits until released."""

    def log_message(self, *_):
        pass

    def list_directory(self, path):  # as most servers of data do
        self.send_error(404)

    def copyfile(self, source, outputfile):
        state = self.server.state
        state["requests"] += 1
        if not self.path.endswith(state["slow"] or "\0"):
            super().copyfile(source, outputfile)
            return
        outputfile.write(source.read(state["stop_after"]))
        outputfile.flush()
        state["waiting"].set()
        state["go_on"].wait(20)
        with contextlib.suppress(OSError):
            outputfile.write(source.read())


@contextlib.contextmanager
def web_server(folder):
    """A web server of a folder; yields its address and its state."""
    handler = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.state = {
        "slow": "",
        "stop_after": 0,
        "waiting": threading.Event(),
        "go_on": threading.Event(),
        "requests": 0,
    }
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.state
    finally:
        server.state["go_on"].set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def listed(folder):
    """Write ``files.txt``, the list of a folder's files."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    (folder / "files.txt").write_text("\n".join(f"./{name}" for name in names), encoding="utf-8")
    return folder
