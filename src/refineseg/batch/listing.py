"""The images of a folder or an address that are left to do, as a stream; however many there are, a page is in memory.

In: a job and the manifest. Out: chunks of :class:`~refineseg.batch.work.Entry`, rows of inputs that can only fail, and
at the end one :class:`Listed`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from refineseg.batch.job import BatchJob
from refineseg.batch.keys import is_hidden, key_hash
from refineseg.batch.manifest import Manifest, Row, State
from refineseg.batch.stores import open_store
from refineseg.batch.work import MOST_BYTES, Entry
from refineseg.data.storage.objects import Mark
from refineseg.images.files import IMAGE_SUFFIXES

_CHUNK, _CHUNK_BYTES = 16, 16 * 2**20  # images and bytes of files that are worked on together


@dataclass
class Listed:
    """What was found.

    Args:
        inputs: Number of images of this part.
        kept: Number of images whose row holds.
        failed: Number of those whose row is a failure.
        others: Number of names that are no images.
    """

    inputs: int = 0
    kept: int = 0
    failed: int = 0
    others: int = 0


def is_image(key: str) -> bool:
    """Whether a key is taken for an image."""
    return key.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(key)


def is_text(key: str) -> bool:
    """Whether a name can be written as UTF-8; some of a Linux disk cannot."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def chunks(job: BatchJob) -> Iterator[list[Any]]:
    """What is left to do, in groups that are worked on together.

    Raises:
        DatasetError: The folder cannot be listed, or the manifest not be read.
    """
    listed = Listed()
    state = Manifest(open_store(job.out), job.part).state()
    chunk: list[Any] = []
    size = 0
    for page in open_store(job.source).pages():
        for item in _left(page, job, state, listed):
            if chunk and isinstance(item, Entry) and size + (item.listed.size or 0) > _CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
            chunk.append(item)
            size += (item.listed.size or 0) if isinstance(item, Entry) else 0
            if len(chunk) >= max(_CHUNK, job.batch_size):
                yield chunk
                chunk, size = [], 0
    yield [*chunk, listed]


def _left(page: list[tuple[str, Mark]], job: BatchJob, state: State, listed: Listed) -> Iterator[Entry | Row]:
    """Of a page of the listing, what has no row that holds."""
    mine = []
    for key, mark in page:
        if not is_image(key):
            listed.others += 1
            continue
        shown = key if is_text(key) else key.encode(errors="surrogateescape").decode(errors="backslashreplace")
        hashed = key_hash(shown)
        if job.part.has(hashed):
            mine.append((key, shown, hashed, mark))
    listed.inputs += len(mine)
    places = state.places([hashed for _, _, hashed, _ in mine])
    for (key, shown, _, listed_mark), place in zip(mine, places, strict=True):
        mark = job.mark_of(listed_mark)
        known = place >= 0
        if known and state.marks[place] == mark and (state.done[place] or not job.retry_failed):
            listed.kept += 1
            listed.failed += not state.done[place]
            continue
        generation = int(state.generations[place]) + 1 if known else 1
        row = Row(shown, listed_mark.size, listed_mark.version, mark, job.model_id, generation)
        if key != shown:
            yield row.failed("input", "expected a name in UTF-8; rename the file")
        elif (listed_mark.size or 0) > MOST_BYTES:
            yield row.failed("input", f"expected at most {MOST_BYTES} bytes, got {listed_mark.size}; predict it alone")
        else:
            yield Entry(row, listed_mark)
