"""Files of a bucket on loopback, read twice: our mirror, fsspec's caches, universal_pathlib, cloudpathlib and wids.

    pip install universal_pathlib cloudpathlib boto3 wids webdataset; ./dev python benchmarks/remote_reading.py

60 files of 60 kB in random order, through a proxy that counts bytes and can cut a connection. Prints for each way
seconds and bytes of two epochs, files right after a cut, and the most bytes on the disk where half of the files fit.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import socket
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import fsspec

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fakes.remote_servers import forget_file_systems, s3_server, web_server
from refineseg.data.storage.mirror import CacheOptions
from refineseg.data.storage.remote import forget_remotes, open_root

COUNT, SIZE = 60, 60_000
BUDGET = COUNT * SIZE // 2 + 100_000
Reader = Callable[[str], bytes]


class Proxy:
    """Passes bytes on to a port, counts what comes back, and cuts one connection after ``cut_at`` bytes."""

    def __init__(self, port: int) -> None:
        self._to, self.bytes, self.cut_at = port, 0, float("inf")
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            threading.Thread(target=self._pass_on, args=(self._socket.accept()[0],), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._to))

        def ask() -> None:
            with contextlib.suppress(OSError):
                while data := client.recv(65536):
                    server.sendall(data)
                server.shutdown(socket.SHUT_WR)

        threading.Thread(target=ask, daemon=True).start()
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                self.bytes += len(data)
                if self.bytes >= self.cut_at:
                    self.cut_at = float("inf")
                    client.sendall(data[: len(data) // 2])
                    break
                client.sendall(data)
        for end in (client, server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def ours(cache: Path) -> Reader:
    """Our mirror, with a budget."""
    forget_remotes()
    root = open_root(
        "s3://bucket/d", options=CacheOptions(cache, BUDGET if "budget" in cache.name else 10**12, grace_s=0)
    )
    return lambda name: (root / name).read_bytes()


def cached(kind: str) -> Callable[[Path], Reader]:
    """One of fsspec's caches; none of them has a budget."""

    def make(cache: Path) -> Reader:
        fs = fsspec.filesystem(kind, target_protocol="s3", cache_storage=str(cache), skip_instance_cache=True)
        return lambda name: bytes(fs.open(f"bucket/d/{name}").read())

    return make


def universal(cache: Path) -> Reader:
    """universal_pathlib over fsspec's simplecache."""
    from upath import UPath

    root = UPath("simplecache::s3://bucket/d", cache_storage=str(cache))
    return lambda name: bytes((root / name).read_bytes())


def cloud(cache: Path) -> Reader:
    """The package cloudpathlib."""
    from cloudpathlib import S3Client

    client = S3Client(local_cache_dir=str(cache), endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    root = client.CloudPath("s3://bucket/d")
    return lambda name: bytes((root / name).read_bytes())


WAYS: dict[str, Callable[[Path], Reader]] = {
    "ours": ours,
    **{f"fsspec {kind}": cached(kind) for kind in ("simplecache", "filecache", "blockcache")},
    "universal_pathlib": universal,
    "cloudpathlib": cloud,
}


def disk(folder: Path) -> int:
    """Bytes below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(name: str, make: Callable[[Path], Reader], files: dict[str, bytes], proxy: Proxy, folder: Path) -> None:
    """One line."""
    line, names = [f"{name:18}"], list(files)
    for epoch in (0, 1):
        read, proxy.bytes, begun = make(folder / name), 0, time.perf_counter()
        right = sum(read(key) == files[key] for key in random.Random(epoch).sample(names, COUNT))
        line.append(f"{time.perf_counter() - begun:5.2f} s {proxy.bytes / 1e6:.2f} MB {right} right")
    read, proxy.bytes, proxy.cut_at = make(folder / f"{name} cut"), 0, 1e6
    right = sum(read(key) == files[key] for key in names[:30])
    line.append(f"{'after a' if proxy.cut_at > COUNT * SIZE else 'without a'} cut {right} of 30 right")
    read, most = make(folder / f"{name} budget"), 0
    for key in names:
        read(key)
        most = max(most, disk(folder / f"{name} budget"))
    print(" | ".join([*line, f"{most / 1e6:.1f} MB on the disk of {BUDGET / 1e6:.1f}"]), flush=True)


def measure_wids(files: dict[str, bytes], folder: Path) -> None:
    """Bytes for the first sample of one shard, from a web server, and what a broken download leaves."""
    import wids

    (folder / "web").mkdir()
    with tarfile.open(folder / "web" / "0.tar", "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with web_server(folder / "web") as (url, _):
        proxy = Proxy(int(url.rpartition(":")[2]))
        for name in ("0.tar", "absent.tar"):
            shards = [{"url": f"http://127.0.0.1:{proxy.port}/{name}", "nsamples": COUNT}]
            shard = wids.ShardListDataset(shards, cache_dir=str(folder / "wids"), keep=True)
            shard.transformations, proxy.bytes = [], 0
            try:
                said = str(shard[7][".jpg"].read() == files[list(files)[7]])
            except Exception as error:  # noqa: BLE001 - it is what is measured
                said = f"{type(error).__name__}: {error}"
            kept = disk(folder / "wids")
            print(f"wids, one sample of {name}: {proxy.bytes / 1e6:.2f} MB, {kept} bytes kept, {said}")


def main() -> None:
    """All ways in turn."""
    logging.disable(logging.CRITICAL)
    files = {f"images/{i:03d}.jpg": random.Random(i).randbytes(SIZE) for i in range(COUNT)}
    with tempfile.TemporaryDirectory() as folder, s3_server():
        fs = fsspec.filesystem("s3", skip_instance_cache=True)
        fs.mkdir("bucket")
        for name, content in files.items():
            fs.pipe_file(f"bucket/d/{name}", content)
        proxy = Proxy(int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2]))
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{proxy.port}"
        forget_file_systems()
        for name, make in WAYS.items():
            measure(name, make, files, proxy, Path(folder))
        measure_wids(files, Path(folder))


if __name__ == "__main__":
    main()
