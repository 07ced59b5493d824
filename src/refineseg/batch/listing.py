"""The images of a folder or an address that are left to do, as a stream; however many there are, a page is in memory.

In: a job and the manifest. Out: chunks of :class:`~refineseg.batch.manifest.Entry`, rows of inputs that can only fail,
and at the end one :class:`Listed`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from refineseg.batch.job import BatchJob
from refineseg.batch.keys import Listed, is_image, is_text, key_hash
from refineseg.batch.manifest import Entry, Manifest, ManifestRow, State
from refineseg.batch.stores import open_store
from refineseg.data.storage.objects import Mark

MOST_BYTES = 512 * 2**20
"""Of an image file; a larger one is a failure before it is read."""

_CHUNK, _CHUNK_BYTES = 16, 16 * 2**20  # images and bytes of files that are worked on together


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


def _left(page: list[tuple[str, Mark]], job: BatchJob, state: State, listed: Listed) -> Iterator[Entry | ManifestRow]:
    """Of a page of the listing, what has no row that holds."""
    mine = []
    for key, listed_mark in page:
        if not is_image(key):
            listed.others += 1
            continue
        shown = key if is_text(key) else key.encode(errors="surrogateescape").decode(errors="backslashreplace")
        hashed = key_hash(shown)
        if job.part.has(hashed):
            mine.append((key, shown, hashed, listed_mark))
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
        row = ManifestRow(shown, listed_mark.size, listed_mark.version, mark, job.model_id, generation)
        if key != shown:
            yield row.failed("input", "expected a name in UTF-8; rename the file")
        elif (listed_mark.size or 0) > MOST_BYTES:
            yield row.failed("input", f"expected at most {MOST_BYTES} bytes, got {listed_mark.size}; predict it alone")
        else:
            yield Entry(row, listed_mark)
