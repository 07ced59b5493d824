"""The engine of many processes and machines: the door to Ray, whose Data library streams chunks through the steps.

In: a job. Out: rows, as they come. One task lists, tasks load, actors predict, tasks keep; Ray holds each of them back
while what follows is full. Chunks travel as bytes of our own making from process to process of one cluster.

An actor that takes the last CPU of a cluster leaves none to the tasks that feed it, and Ray Data waits for ever. So
actors get what is left when tasks have theirs, and more of them are refused. Ray tries a chunk three times; a chunk
whose process ended each time is left out, as is everything behind a listing that ended. So Ray's word that all is done
counts for nothing: what is left is found by listing again, and :func:`one_by_one` finds the image that ends a process.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import pyarrow as pa

from refineseg._version import __version__
from refineseg.batch.job import BatchJob
from refineseg.batch.listing import chunks
from refineseg.batch.manifest import Entry
from refineseg.batch.work import BatchModel, Predicted, Started, Worker, keep_all, load_all
from refineseg.devices import free_memory
from refineseg.errors import ConfigError, told

_WAIT_S = 20  # for a cluster to answer
_TASK_CPUS, _LISTING_CPUS = 0.5, 0.25  # they mostly wait; different numbers also keep Ray from joining two steps in one
_TASK_SHARE = 0.1  # of a cluster's CPUs, at least one, that actors leave to tasks
_MOST_STORE = 2 * 2**30  # bytes of Ray's own store on this machine
_RETRIES = 2  # by default Ray repeats for ever what ends its process
_COLUMN = "items"


@dataclass(frozen=True)
class Setting:
    """How a job lies on a cluster.

    Args:
        workers: Number of actors.
        cpus: Number of CPUs of an actor.
        gpus: Number of GPUs of an actor.
        tasks: Number of tasks that load, and as many that keep, at a time.
    """

    workers: int
    cpus: int
    gpus: int
    tasks: int


def check_address(address: str) -> None:
    """Whether a cluster answers at an address, within twenty seconds.

    Raises:
        ConfigError: It is no ``host:port``, or nothing answers there.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in address:
        raise ConfigError(
            f"expected the address of a Ray cluster as host:port, for instance 10.0.0.1:6379, got {address!r}; "
            "`ray status` on the head names it"
        )
    advice = "start it with `ray start --head`, check host and port, or leave --address out to use this machine"
    try:
        socket.create_connection((host, int(port)), timeout=_WAIT_S / 2).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"expected a Ray cluster at {address}, but {told(error)}; {advice}") from error
    asked = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:  # in a process of its own: Ray ends the one that waits too long
        subprocess.run(asked, timeout=_WAIT_S, check=True, capture_output=True)
    except (subprocess.SubprocessError, OSError) as error:
        raise ConfigError(
            f"expected a Ray cluster at {address}, but what listens there is none, or of another version; {advice}"
        ) from error


@contextmanager
def _silent() -> Iterator[None]:
    """Without what Ray's C++ code writes to the terminal while it starts; its errors are exceptions as well."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def cluster(address: str | None, *, workers: int | None, threads: int) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine; at the end it is left, or ended.

    Args:
        address: Address of the cluster; None: this machine.
        workers: Number of actors of a cluster that is started here.
        threads: Number of CPUs of each of them.

    Raises:
        ConfigError: It does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is not None:
        check_address(address)
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.getsignal(number) for number in numbers]
    warnings.filterwarnings("ignore", module="ray|refineseg.batch.ray_engine")  # of its own options, and of small jobs
    try:
        if address is None:
            # logical CPUs: those of the actors, and some for tasks, which mostly wait for the disk or the network
            cores = os.cpu_count() or 2
            quiet["num_cpus"] = (workers or max(1, cores // threads)) * threads + max(2, cores // 4)
            quiet["object_store_memory"] = max(128 * 2**20, min(_MOST_STORE, free_memory() // 8))
            quiet["include_dashboard"] = False
        with _silent():
            ray.init(address=address or "local", **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ConfigError(f"expected Ray to start, but {told(error)}") from error
    try:
        if threading.current_thread() is threading.main_thread():  # else Ray has put none of its own there
            for number, handler in zip(numbers, handlers, strict=True):
                signal.signal(number, handler)
        yield
    finally:
        ray.shutdown()


def has_gpu() -> bool:
    """Whether a machine of the cluster has a GPU."""
    import ray

    return bool(ray.cluster_resources().get("GPU", 0) >= 1)


def setting_of(*, workers: int | None, threads: int, on_gpu: bool) -> Setting:
    """How many actors, of how many CPUs.

    Raises:
        ConfigError: More than the cluster has room for.
    """
    import ray

    total = ray.cluster_resources()
    cpus, gpus = int(total.get("CPU", 0)), int(total.get("GPU", 0))
    largest = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
    each = 1 if on_gpu else threads
    most = int(cpus - max(1.0, _TASK_SHARE * cpus)) // each if each <= largest else 0
    most = min(most, gpus) if on_gpu else most
    if most < 1 or (workers or 1) > most:
        raise ConfigError(
            f"expected at most {most} workers of {each} CPUs{' and a GPU' if on_gpu else ''}, so that tasks that read "
            f"and write have CPUs, too, got {workers or 1}; the cluster has {cpus} CPUs (at most {largest} on a "
            f"machine) and {gpus} GPUs: give fewer --workers or --threads"
        )
    chosen = workers or most
    tasks = max(1, int((cpus - chosen * each) / (2 * _TASK_CPUS) - _LISTING_CPUS))
    return Setting(chosen, each, int(on_gpu), tasks)


def _packed(items: Iterable[Any]) -> pa.Table:
    """A chunk as one row: Ray may split and join tables, but no row."""
    return pa.table({_COLUMN: pa.array([pickle.dumps(list(items), 5)], pa.large_binary())})


def _items(table: pa.Table) -> list[Any]:
    return [item for chunk in table[_COLUMN] for item in pickle.loads(chunk.as_buffer())]


@lru_cache(maxsize=1)
def _worker(job: BatchJob, num_channels: int) -> tuple[Worker, ThreadPoolExecutor]:
    """Of this process."""
    return Worker(job, num_channels=num_channels), ThreadPoolExecutor(job.io_threads)


def _load(table: pa.Table, job: BatchJob, num_channels: int) -> pa.Table:
    worker, pool = _worker(job, num_channels)
    return _packed([future.result() for future in load_all(worker, _items(table), pool)])


def _keep(table: pa.Table, job: BatchJob, num_channels: int) -> pa.Table:
    worker, pool = _worker(job, num_channels)
    return _packed([future.result() for future in keep_all(worker, _items(table), pool)])


class _Actor:
    """A process with the model."""

    def __init__(self, job: BatchJob, version: str) -> None:
        if version != __version__:
            raise ConfigError(f"expected refineseg {version} on every machine, got {__version__}; install the same")
        self._network = BatchModel(job)
        self._worker = Worker(job, num_channels=self._network.num_channels)

    def __call__(self, table: pa.Table) -> pa.Table:
        return _packed(self._network.predict(_items(table)))

    def ready(self) -> bool:
        return True

    def one(self, entry: Entry) -> Any:  # noqa: ANN401 - a row
        (item,) = self._network.predict([self._worker.load(entry)])
        return self._worker.keep(item) if isinstance(item, Predicted) else item


def streamed(job: BatchJob, setting: Setting, *, num_channels: int) -> Iterator[list[Any]]:
    """Rows, and what else the listing told, in any order; chunks whose processes ended too often are left out.

    Args:
        job: What to do.
        setting: Actors.
        num_channels: Channels of the model.
    """
    import ray
    import ray.data
    from ray.data.block import BlockMetadata

    context = ray.data.DataContext.get_current()
    for name in ("ray", "ray.data"):  # which set their levels when they are imported
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    context.target_max_block_size = 1  # byte: every chunk is a block and may go another way

    class Listing(ray.data.Datasource):  # type: ignore[misc]  # Ray has no types
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(
            self,
            parallelism: int,
            per_task_row_limit: int | None = None,
            data_context: Any = None,  # noqa: ANN401
        ) -> list[Any]:
            known = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ray.data.ReadTask(lambda: map(_packed, chunks(job)), known)]

    task: Any = {"batch_size": 1, "batch_format": "pyarrow", "zero_copy_batch": True}
    pool = ray.data.TaskPoolStrategy(size=setting.tasks)
    common = {**task, "compute": pool, "num_cpus": _TASK_CPUS, "max_retries": _RETRIES}
    common["fn_kwargs"] = {"job": job, "num_channels": num_channels}
    once: Any = {"max_retries": 0}  # the manifest has grown: listed again, other chunks would have the same numbers
    rows = (
        ray.data.read_datasource(Listing(), override_num_blocks=1, num_cpus=_LISTING_CPUS, **once)
        .map_batches(_load, **common)
        .map_batches(
            _Actor,
            **task,
            fn_constructor_args=(job, __version__),
            compute=ray.data.ActorPoolStrategy(size=setting.workers),
            num_cpus=setting.cpus,
            num_gpus=setting.gpus,
            max_task_retries=_RETRIES,
        )
        .map_batches(_keep, **common)
    )
    try:
        for table in rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield _items(table)
    except ray.exceptions.RayError as error:  # what is left is done one by one, where the cause is told
        logging.getLogger(__name__).info("Ray Data stopped: %s", told(error))


def one_by_one(job: BatchJob, setting: Setting, left: Iterable[list[Any]]) -> Iterator[list[Any]]:
    """Images whose chunk was left out, each alone, so that the one that ends its process fails and no other.

    Raises:
        ConfigError: No actor can be started.
    """
    import ray

    actor_class: Any = ray.remote(num_cpus=setting.cpus, num_gpus=setting.gpus, max_restarts=0)(_Actor)
    idle: list[Any] = []
    running: dict[Any, tuple[Any, Entry]] = {}

    def first_done() -> list[Any]:
        (done,), _ = ray.wait(list(running), num_returns=1)
        actor, entry = running.pop(done)
        try:
            row = ray.get(done)
        except ray.exceptions.RayTaskError as error:  # of our own code or of the network's
            idle.append(actor)
            return [entry.row.failed("worker", told(error.cause))]
        except ray.exceptions.RayError as error:
            reason = f"the process that worked on it ended; not enough memory? ({told(error)})"
            return [entry.row.failed("worker", reason)]
        idle.append(actor)
        return [row]

    for chunk in left:
        for item in chunk:
            if not isinstance(item, Entry):
                yield [item]
                continue
            if len(running) == setting.workers:
                yield first_done()
            if not idle:
                idle.append(_started(actor_class, job))
            actor = idle.pop()
            running[actor.one.remote(item)] = actor, item
    while running:
        yield first_done()


def _started(actor_class: Any, job: BatchJob) -> Any:  # noqa: ANN401 - Ray has no types
    import ray

    actor = actor_class.remote(job, __version__)
    try:
        ray.get(actor.ready.remote(), timeout=600)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise ConfigError(f"expected a worker with the model {job.model} to start, but {told(cause)}") from error
    return actor


@dataclass(frozen=True)
class RayEngine:
    """Runs a job on a cluster.

    Args:
        address: Address of a cluster; None: this machine.
        workers: Number of actors; None: chosen.
        device: Device as the call names it; auto: a GPU where the cluster has one.
    """

    address: str | None = None
    workers: int | None = None
    device: str = "auto"

    @contextmanager
    def started(self, job: BatchJob, model: BatchModel) -> Iterator[Started]:
        """See :class:`~refineseg.batch.work.BatchEngine`.

        Raises:
            ConfigError: A cluster that does not answer or has no room.
        """
        with cluster(self.address, workers=self.workers, threads=job.threads):
            on_gpu = self.device.startswith("cuda") or (self.device == "auto" and has_gpu())
            device = "cuda" if on_gpu else "cpu" if self.device == "auto" else self.device
            placed = replace(job, options=replace(job.options, device=device))
            setting = setting_of(workers=self.workers, threads=job.threads, on_gpu=on_gpu)
            yield Started(
                lambda: streamed(placed, setting, num_channels=model.num_channels),
                lambda: one_by_one(placed, setting, chunks(replace(placed, retry_failed=False))),
                {"engine": "ray", "workers": setting.workers, "gpus": setting.gpus, "device": device},
            )
