"""The engine of one process: chunks through the three steps, threads around the network.

In: chunks of a listing. Out: rows, as they come. At most three chunks are loaded ahead, and as many wait to be written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from refineseg.batch.job import BatchJob
from refineseg.batch.work import Entry, Network, Predicted, Worker

_AHEAD = 3


def load_all(worker: Worker, items: Sequence[Any], pool: ThreadPoolExecutor) -> list[Future[Any]]:
    """Load what is an input, in threads."""
    return [pool.submit(worker.load, item) if isinstance(item, Entry) else _there(item) for item in items]


def keep_all(worker: Worker, items: Iterable[Any], pool: ThreadPoolExecutor) -> list[Future[Any]]:
    """Keep what is a prediction, in threads."""
    return [pool.submit(worker.keep, item) if isinstance(item, Predicted) else _there(item) for item in items]


def _there(item: object) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(item)
    return future


def in_this_process(job: BatchJob, network: Network, chunks: Iterable[list[Any]]) -> Iterator[list[Any]]:
    """Rows, and what else the listing told, in the order of the listing."""
    worker = Worker(job, num_channels=network.num_channels)
    loading: deque[list[Future[Any]]] = deque()
    keeping: deque[list[Future[Any]]] = deque()

    def results(futures: list[Future[Any]]) -> list[Any]:
        return [future.result() for future in futures]

    pool = ThreadPoolExecutor(job.io_threads, thread_name_prefix="refineseg-batch")
    try:
        for chunk in chunks:
            loading.append(load_all(worker, chunk, pool))
            if len(loading) > _AHEAD:
                keeping.append(keep_all(worker, network.predict(results(loading.popleft())), pool))
            if len(keeping) > _AHEAD:
                yield results(keeping.popleft())
        while loading or keeping:
            if loading:
                keeping.append(keep_all(worker, network.predict(results(loading.popleft())), pool))
            if len(keeping) > _AHEAD or not loading:
                yield results(keeping.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
