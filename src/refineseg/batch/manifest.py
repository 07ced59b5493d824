"""The manifest: what became of every input, as Parquet files in ``OUT/.refineseg/manifest``.

In: rows. Out: files that are written whole and never changed, and :class:`State`, which knows of 10^6 inputs in some
dozens of megabytes which are done. Of several rows of one input the one of the latest generation holds; a process that
predicts an input again gives its row the next generation, so that no clock decides.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from refineseg.batch.keys import Part, key_hash
from refineseg.batch.stores import Store
from refineseg.data.storage.objects import Mark
from refineseg.errors import DatasetError, told

FOLDER = ".refineseg"
"""Below the results: everything that is no result."""

_FOLDER = f"{FOLDER}/manifest"
_DONE, _FAILED = "done", "failed"
_LARGEST = 1_000_000  # rows of a file that is made of several
_TIMES = ("read_s", "decode_s", "model_s", "encode_s", "write_s")
_MAY_BE_EMPTY = ("size", *_TIMES)
_OUTPUT = pa.struct(
    [("kind", pa.string()), ("key", pa.string()), ("size", pa.int64()), ("sha256", pa.string()), ("etag", pa.string())]
)
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("key_hash", pa.binary(16)),
        ("size", pa.int64()),
        ("etag", pa.string()),
        ("sha256", pa.string()),
        ("mark", pa.uint64()),
        ("model_id", pa.string()),
        ("generation", pa.int32()),
        ("status", pa.string()),
        ("cause", pa.string()),
        ("reason", pa.string()),
        ("outputs", pa.list_(_OUTPUT)),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("areas", pa.list_(pa.int64())),
        *((name, pa.float32()) for name in _TIMES),
        ("run", pa.string()),
        ("written", pa.timestamp("ms", tz="UTC")),
    ]
)
"""Columns of the manifest."""


@dataclass(frozen=True)
class ManifestRow:
    """What became of one input.

    Args:
        key: Name of the input below its folder.
        size: Bytes as they were listed.
        etag: Version as it was listed.
        mark: Hash of size, version and model: the row holds while it is the same.
        model_id: Hash of the model file and of the options that change a result.
        generation: Number of times that the input was predicted.
        sha256: SHA-256 of the content that was read.
        cause: Whose fault a failure is: ``input``, ``storage``, ``worker``; empty: it is done.
        reason: Why it failed.
        outputs: What was written, each with kind, key, size, sha256, etag.
        height: Number of rows of pixels.
        width: Number of columns of pixels.
        areas: Number of pixels of each class.
        seconds: Seconds by what took them.
    """

    key: str
    size: int | None
    etag: str
    mark: int
    model_id: str
    generation: int
    sha256: str = ""
    cause: str = ""
    reason: str = ""
    outputs: tuple[dict[str, Any], ...] = ()
    height: int = 0
    width: int = 0
    areas: tuple[int, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    def failed(self, cause: str, reason: str) -> ManifestRow:
        """The row of the same input, which has failed."""
        text = reason.encode(errors="backslashreplace").decode()  # names of folders may be no UTF-8
        return replace(self, cause=cause, reason=text, outputs=(), areas=())

    def plain(self) -> dict[str, Any]:
        """By the names of the columns."""
        values = {name: value for name, value in asdict(self).items() if name != "seconds"}
        status = _FAILED if self.cause else _DONE
        return {**values, **self.seconds, "key_hash": key_hash(self.key), "status": status}


@dataclass(frozen=True, slots=True)
class Entry:
    """An input that is to be predicted.

    Args:
        row: ManifestRow as far as it is known.
        listed: Mark of the input when it was listed.
    """

    row: ManifestRow
    listed: Mark


class State:
    """What the manifest knows of the inputs of a part: 29 bytes for each in arrays, no Python object.

    Args:
        hashes: Hashes of the keys, in order.
        marks: Marks of the inputs.
        generations: Generations of their rows.
        done: Whether they are done.
    """

    def __init__(
        self, hashes: NDArray[np.bytes_], marks: NDArray[np.uint64], generations: NDArray[np.int32], done: NDArray[Any]
    ) -> None:
        order = np.lexsort((done, generations, hashes))
        last = np.ones(len(order), bool)
        last[:-1] = hashes[order[1:]] != hashes[order[:-1]]
        kept = order[last]  # of equal keys the one of the latest generation; done before failed
        self.hashes, self.marks = hashes[kept], marks[kept]
        self.generations, self.done = generations[kept], done[kept]

    def places(self, hashes: Sequence[bytes] | NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Where the keys are; -1 where they are not."""
        wanted = np.asarray(hashes, "S16")
        places = np.searchsorted(self.hashes, wanted)
        found = places < len(self.hashes)
        found[found] = self.hashes[places[found]] == wanted[found]
        return np.where(found, places, -1)


def _hashes(table: pa.Table) -> NDArray[np.bytes_]:
    column = pa.concat_arrays(table["key_hash"].chunks) if len(table) else pa.array([], pa.binary(16))
    return np.frombuffer(column.buffers()[1] or b"", "S16", len(column), 16 * column.offset)


class Manifest:
    """The manifest of one folder of results.

    Args:
        store: Folder of results.
        part: Inputs that this process has.
    """

    def __init__(self, store: Store, part: Part | None = None) -> None:
        self._store, self._part = store, part or Part()
        self._prefix = f"{_FOLDER}/part-{self._part.index}-of-{self._part.count}-"
        self.run = uuid.uuid4().hex[:12]

    def write(self, rows: Sequence[ManifestRow]) -> None:
        """Add a file with rows.

        Raises:
            OutputError: It cannot be written.
        """
        now = pa.scalar(int(time.time() * 1000), pa.timestamp("ms", tz="UTC"))
        table = pa.Table.from_pylist([{**row.plain(), "run": self.run} for row in rows], SCHEMA)
        place = SCHEMA.get_field_index("written")
        self._write_table(table.set_column(place, SCHEMA.field(place), pa.repeat(now, len(rows))))

    def _write_table(self, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        content = sink.getvalue().to_pybytes()
        self._store.write(f"{self._prefix}{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet", content)

    def files(self) -> list[str]:
        """Names of the files."""
        found = (name for page in self._store.pages(_FOLDER) for name, _ in page)
        return sorted(name for name in found if name.endswith(".parquet") and "/.refineseg-" not in name)

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows, a file after the other; some twice, where another part puts its files together meanwhile.

        Raises:
            DatasetError: A file that is none of the manifest.
        """
        done, gone = set[str](), set[str]()
        while True:
            for name in self.files():
                if name in done or name in gone:
                    continue
                try:
                    table = self._table(name, columns)
                except FileNotFoundError:  # what is in it is in a file that the next list has
                    gone.add(name)
                    break
                done.add(name)
                yield table
            else:
                return

    def _table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        try:
            table = pq.read_table(
                pa.BufferReader(self._store.read(name)), columns=None if columns is None else list(columns)
            )
            wanted = SCHEMA.names if columns is None else columns
            empty = [column for column in wanted if column not in _MAY_BE_EMPTY and table[column].null_count]
            if empty:
                raise ValueError(f"no {', '.join(empty)}")
            return table.cast(pa.schema([SCHEMA.field(column) for column in wanted]))
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise DatasetError(
                f"expected a file of the manifest in {self._store.place}/{name}, got another one ({told(error)}); "
                "remove it: its images are predicted again"
            ) from error

    def state(self) -> State:
        """What is known of the inputs of this part.

        Raises:
            DatasetError: A file that is none of the manifest.
        """
        found: list[list[NDArray[Any]]] = [[], [], [], []]
        for table in self.tables(("key_hash", "mark", "generation", "status")):
            hashes = _hashes(table)
            mine = np.frombuffer(hashes, ">u8")[::2] % np.uint64(self._part.count) == self._part.index - 1
            done = pc.equal(table["status"], _DONE).to_numpy()
            for values, new in zip(found, (hashes, table["mark"], table["generation"], done), strict=True):
                values.append(np.asarray(new)[mine])
        empty = np.zeros(0, "S16"), np.zeros(0, np.uint64), np.zeros(0, np.int32), np.zeros(0, bool)
        hashes, marks, generations, done = (
            np.concatenate([none, *some]) for none, some in zip(empty, found, strict=True)
        )
        return State(hashes, marks, generations.astype(np.int32), done)

    def latest(self, state: State, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows of this part that hold, each once.

        Args:
            state: State of the manifest as it is.
            columns: Names of the columns; None: all.
        """
        wanted = None if columns is None else list(dict.fromkeys((*columns, "key_hash", "generation", "status")))
        left = np.ones(len(state.hashes), bool)
        for table in self.tables(wanted):
            places = state.places(_hashes(table))
            known = np.flatnonzero(places >= 0)
            places, generations = places[known], table["generation"].to_numpy()[known]
            done = pc.equal(table["status"], _DONE).to_numpy()[known]
            holds = (state.generations[places] == generations) & (state.done[places] == done) & left[places]
            _, once = np.unique(places[holds], return_index=True)  # after a kill, files that were put together remain
            left[places[holds]] = False
            yield table.take(pa.array(np.sort(known[holds][once])))

    def put_together(self) -> None:
        """Make one file of the small files of this part: it is written and checked before they are removed.

        Raises:
            OutputError: It cannot be written.
        """
        small = []
        for name in (one for one in self.files() if one.startswith(self._prefix)):
            table = self._table(name)
            if len(table) < _LARGEST // 2:
                small.append((name, table))
            if sum(len(one) for _, one in small) >= _LARGEST:
                self._replace(small)
                small = []
        self._replace(small)

    def _replace(self, small: Sequence[tuple[str, pa.Table]]) -> None:
        if len(small) > 1:
            self._write_table(pa.concat_tables([table for _, table in small]))
            for name, _ in small:
                self._store.remove(name)


class Recorder:
    """Collects rows and writes them to the manifest now and then; what is not written yet is done again after a kill.

    Args:
        manifest: Manifest.
        rows: Number of rows after which a file is written.
        seconds: Seconds after which a file is written.
    """

    def __init__(self, manifest: Manifest, *, rows: int = 2000, seconds: float = 5.0) -> None:
        self._manifest, self._most, self._seconds = manifest, rows, seconds
        self._rows: list[ManifestRow] = []
        self._last = time.monotonic()

    def add(self, rows: Iterable[ManifestRow]) -> None:
        """Take rows, and write where it is time."""
        self._rows.extend(rows)
        if len(self._rows) >= self._most or time.monotonic() - self._last > self._seconds:
            self.flush()

    def flush(self) -> None:
        """Write what is there."""
        if self._rows:
            self._manifest.write(self._rows)
        self._rows, self._last = [], time.monotonic()
