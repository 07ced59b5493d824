"""Pillow's warnings, held back while files are read.

In and out: nothing; ``with warnings.held_back():`` around reading.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class PillowWarnings:
    """Holds back Pillow's warnings (odd EXIF, large images) while any thread reads.

    The filters of ``warnings`` belong to the process: two threads that overlap in ``catch_warnings`` can leave the
    filters of one of them behind for good. So the first reader sets the filter and the last one takes it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._saved = warnings.catch_warnings()

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """No warnings from Pillow inside the block."""
        with self._lock:
            if self._readers == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                if self._readers == 0:
                    self._saved.__exit__(None, None, None)
