"""The engine of one process: chunks through the three steps, threads around the model.

In: chunks of a listing. Out: rows, as they come. At most three chunks are loaded ahead, and as many wait to be written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from refineseg.batch.job import BatchJob
from refineseg.batch.listing import chunks
from refineseg.batch.work import BatchModel, Started, Worker, keep_all, load_all
from refineseg.devices import find_device

_AHEAD = 3


class OneProcess:
    """Runs a job in this process."""

    @contextmanager
    def started(self, job: BatchJob, model: BatchModel) -> Iterator[Started]:
        """See :class:`~refineseg.batch.work.BatchEngine`."""
        setting = {"engine": "none", "workers": 1, "gpus": 0, "device": str(find_device(job.options.device))}
        yield Started(lambda: in_this_process(job, model, chunks(job)), None, setting)


def in_this_process(job: BatchJob, model: BatchModel, found: Iterable[list[Any]]) -> Iterator[list[Any]]:
    """Rows, and what else the listing told, in the order of the listing."""
    worker = Worker(job, num_channels=model.num_channels)
    loading: deque[list[Future[Any]]] = deque()
    keeping: deque[list[Future[Any]]] = deque()

    def results(futures: list[Future[Any]]) -> list[Any]:
        return [future.result() for future in futures]

    pool = ThreadPoolExecutor(job.io_threads, thread_name_prefix="refineseg-batch")
    try:
        for chunk in found:
            loading.append(load_all(worker, chunk, pool))
            if len(loading) > _AHEAD:
                keeping.append(keep_all(worker, model.predict(results(loading.popleft())), pool))
            if len(keeping) > _AHEAD:
                yield results(keeping.popleft())
        while loading or keeping:
            if loading:
                keeping.append(keep_all(worker, model.predict(results(loading.popleft())), pool))
            if len(keeping) > _AHEAD or not loading:
                yield results(keeping.popleft())
    except KeyboardInterrupt:
        while keeping:  # what is predicted is written and recorded
            yield results(keeping.popleft())
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
