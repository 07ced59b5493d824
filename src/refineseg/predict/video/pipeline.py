"""Workers that work at the same time, joined by channels that hold a few items each.

In: jobs and the channels between them. Out: nothing of its own; a failure of one worker stops the others and is raised.
The slowest worker sets the pace, and the channels' capacities bound the memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_GLANCE_S = 0.2  # waiting ends that often, so that Ctrl-C is heard on systems whose locks do not hear it


class StoppedError(Exception):
    """A worker learns that the others have stopped; never seen outside the pipeline."""


class Channel(Generic[T]):
    """Items in order from one worker to the next, at most ``capacity`` of them waiting.

    Args:
        capacity: Number of items, at least 1.
    """

    def __init__(self, capacity: int) -> None:
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._changed = threading.Condition()
        self._ended = self._cancelled = False

    def put(self, item: T) -> None:
        """Hand an item over; waits for room.

        Raises:
            StoppedError: Nobody will take it.
        """
        with self._changed:
            while len(self._items) >= self._capacity and not self._cancelled:
                self._changed.wait(_GLANCE_S)
            self._append(item)

    def put_newest(self, item: T) -> int:
        """Hand an item over without waiting; where there is no room, the oldest that waits is dropped.

        Returns:
            How many were dropped: 0 or 1.

        Raises:
            StoppedError: Nobody will take it.
        """
        with self._changed:
            dropped = len(self._items) >= self._capacity
            if dropped:
                self._items.popleft()
            self._append(item)
        return int(dropped)

    def _append(self, item: T) -> None:
        if self._cancelled:
            raise StoppedError
        self._items.append(item)
        self._changed.notify_all()

    def end(self) -> None:
        """No more items; those that wait are still taken."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """Both sides stop at once; what waits is lost."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Items until the end.

        Raises:
            StoppedError: The channel was cancelled.
        """
        while True:
            with self._changed:
                while not self._items and not self._ended and not self._cancelled:
                    self._changed.wait(_GLANCE_S)
                if self._cancelled:
                    raise StoppedError
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


class Workers:
    """Jobs in threads; use as a context manager around the job of the calling thread.

    Leaving it waits for all jobs. A failure anywhere, the calling thread's included, cancels every channel, and the
    first failure in the order of the jobs is raised.

    Args:
        channels: All between the jobs.
    """

    def __init__(self, *channels: Channel[Any]) -> None:
        self._channels = channels
        self._pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="refineseg-video")
        self._futures: list[Future[None]] = []

    def start(self, job: Callable[[], None]) -> None:
        """Run a job in a thread of its own."""

        def finished(future: Future[None]) -> None:
            if not isinstance(future.exception(), StoppedError | None):
                self.cancel()

        future = self._pool.submit(job)
        self._futures.append(future)
        future.add_done_callback(finished)

    def cancel(self) -> None:
        """Stop all jobs where they next meet a channel."""
        for channel in self._channels:
            channel.cancel()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.cancel()
        self._pool.shutdown()
        if error is not None and not isinstance(error, StoppedError):
            return  # the calling thread's own failure came first
        for future in self._futures:
            failure = future.exception()
            if failure is not None and not isinstance(failure, StoppedError):
                raise failure
