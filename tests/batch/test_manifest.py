"""The manifest: which row of an input holds, whatever files its rows lie in, and how little is kept in memory."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refineseg.batch.keys import Part, key_hash
from refineseg.batch.manifest import Manifest, ManifestRow, Recorder
from refineseg.batch.stores import LocalStore
from refineseg.errors import DatasetError

ROWS = st.builds(
    lambda key, generation, cause: ManifestRow(
        key, 10, "e", 2**63 + generation, "m", generation, cause=cause, reason=cause
    ),
    st.sampled_from(["a.png", "b.png", "ü/c d.png", "d.png"]),
    st.integers(1, 4),
    st.sampled_from(["", "input", "storage"]),
)


def holding(rows):
    """By a dictionary: the latest generation of every key, done before failed."""
    found = {}
    for row in rows:
        found[row.key] = max(found.get(row.key, (0, False)), (row.generation, not row.cause))
    return found


def told(manifest):
    state = manifest.state()
    rows = [row for table in manifest.latest(state) for row in table.to_pylist()]
    assert len({row["key"] for row in rows}) == len(rows), "a key has two rows that hold"
    places = state.places([key_hash(row["key"]) for row in rows])
    assert sorted(places) == list(range(len(state.hashes)))
    assert [int(mark) for mark in state.marks[places]] == [row["mark"] for row in rows]
    return {row["key"]: (row["generation"], row["status"] == "done") for row in rows}


@settings(max_examples=25, deadline=None)
@given(files=st.lists(st.lists(ROWS, min_size=1, max_size=5), max_size=4))
def test_the_row_of_the_latest_generation_holds(tmp_path_factory, files):
    manifest = Manifest(LocalStore(str(tmp_path_factory.mktemp("out"))))
    for rows in files:
        manifest.write(rows)
    expected = holding(row for rows in files for row in rows)
    assert told(manifest) == expected
    kept = [(name, manifest._store.read(name)) for name in manifest.files()]
    manifest.put_together()
    assert len(manifest.files()) == min(1, len(files))
    assert told(manifest) == expected
    for name, content in kept:  # killed before the old files were removed
        manifest._store.write(name, content)
    assert told(manifest) == expected


def test_a_part_knows_its_own_inputs_only(tmp_path):
    store = LocalStore(str(tmp_path))
    rows = [ManifestRow(f"{i}.png", i, "", i, "m", 1) for i in range(100)]
    Manifest(store).write(rows)
    parts = [Manifest(store, Part(index, 3)).state() for index in (1, 2, 3)]
    assert sum(len(state.hashes) for state in parts) == 100
    found = {bytes(one) for state in parts for one in state.hashes}
    assert found == {key_hash(row.key).rstrip(b"\0") for row in rows}
    Manifest(store, Part(1, 3)).put_together()
    assert len(Manifest(store).files()) == 1, "files of other parts are left alone"


def test_rows_are_written_now_and_then_and_at_the_end(tmp_path):
    manifest = Manifest(LocalStore(str(tmp_path)))
    recorder = Recorder(manifest, rows=3, seconds=100)
    for i in range(7):
        recorder.add([ManifestRow(f"{i}.png", i, "", i, "m", 1)])
    assert sum(len(table) for table in manifest.tables()) == 6
    recorder.flush()
    recorder.flush()
    assert sum(len(table) for table in manifest.tables()) == 7


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", b"\0" * 100])
def test_a_file_that_is_none_is_named(tmp_path, content):
    manifest = Manifest(LocalStore(str(tmp_path)))
    manifest.write([ManifestRow("a.png", 1, "", 1, "m", 1)])
    (tmp_path / ".refineseg" / "manifest" / "part-x.parquet").write_bytes(content)
    with pytest.raises(DatasetError, match=r"manifest/part-x.parquet, got another one"):
        manifest.state()


MANY = """
import sys, time
import fsspec
from fsspec.spec import AbstractFileSystem
from dataclasses import replace
from refineseg.batch.job import BatchJob
from refineseg.batch.listing import Listed, chunks
from refineseg.batch.manifest import Manifest, ManifestRow
from refineseg.batch.stores import LocalStore, open_store
from refineseg.batch.keys import Part
from refineseg.devices import resident_memory
from refineseg.images.reading import USUAL
from refineseg.predict.options import PredictorOptions
from refineseg.predict.outputs.kinds import Outputs

out, count = sys.argv[1], int(sys.argv[2])

class Many(AbstractFileSystem):
    protocol = "many"
    def ls(self, path, detail=True, **_):
        path = self._strip_protocol(path)
        if path.count("/"):
            names = [f"{path}/{i:04d}.jpg" for i in range(1000)]
            return [{"name": n, "size": 1000, "type": "file", "ETag": n[-9:]} for n in names]
        return [{"name": f"{path}/{i:04d}", "size": 0, "type": "directory"} for i in range(count // 1000)]

fsspec.register_implementation("many", Many)
job = BatchJob("many://b", out, "m", PredictorOptions.parse(), Outputs(), USUAL, "id", 1, 1, 1, Part())
list(open_store("many://b").pages())  # what the libraries need
before = resident_memory(reset=True)
start = time.monotonic()
entries = done = 0
manifest, rows = Manifest(LocalStore(out)), []
for chunk in chunks(job):
    entries += sum(not isinstance(item, Listed) for item in chunk)
    if "write" in sys.argv:
        rows += [replace(item.row, areas=(1,) * 11) for item in chunk if not isinstance(item, Listed)]
        if len(rows) >= 20000:
            manifest.write(rows)
            rows = []
if rows:
    manifest.write(rows)
more = resident_memory(most=True) - before
print(entries, chunk[-1].inputs, chunk[-1].kept, more // 2**20, time.monotonic() - start)
"""


def listed(out, count, *words):
    """A listing of many keys in a process of its own: entries, inputs, kept, MiB more at most, seconds."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    call = [sys.executable, "-c", MANY, str(out), str(count), *words]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr
    entries, inputs, kept, mib, seconds = done.stdout.split()
    return int(entries), int(inputs), int(kept), int(mib), float(seconds)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux")
def test_a_million_keys_are_listed_and_resumed_in_bounded_memory(tmp_path):
    count = 1_000_000
    entries, inputs, kept, mib, seconds = listed(tmp_path / "empty", count)
    print(f"listed {count} keys: {mib} MiB more, {seconds:.0f} s")
    assert (entries, inputs, kept) == (count, count, 0)
    assert mib < 60  # the same as of 20 000 keys
    listed(tmp_path / "out", count, "write")
    entries, inputs, kept, mib, seconds = listed(tmp_path / "out", count)
    print(f"resumed {count} keys: {mib} MiB more, {seconds:.0f} s")
    assert (entries, inputs, kept) == (0, count, count)
    assert mib < 250


@pytest.mark.parametrize("column", ["key", "key_hash", "status", "outputs", "areas", "height"])
def test_a_file_of_the_manifest_with_empty_values_is_named(tmp_path, column):
    manifest = Manifest(LocalStore(str(tmp_path)))
    manifest.write([ManifestRow("a.png", None, "e", 1, "m", 1)])  # a storage need not tell a size
    (name,) = manifest.files()
    assert len(list(manifest.latest(manifest.state()))) == 1
    table = pq.read_table(tmp_path / name)
    place = table.schema.get_field_index(column)
    empty = pa.nulls(1, table.schema.field(place).type)
    pq.write_table(table.set_column(place, table.schema.field(place), empty), tmp_path / name)
    with pytest.raises(DatasetError, match=f"expected a file of the manifest in .*no {column}.*; remove it"):
        list(manifest.tables())


def test_a_part_that_puts_its_files_together_meanwhile_takes_no_row_away(tmp_path):
    reader, writer = (Manifest(LocalStore(str(tmp_path))) for _ in range(2))
    for name in ("a.png", "b.png", "c.png"):
        writer.write([ManifestRow(name, 10, "e", 1, "m", 1)])
    tables = reader.tables()
    keys = next(tables)["key"].to_pylist()
    writer.put_together()
    assert len(writer.files()) == 1
    for table in tables:
        keys += table["key"].to_pylist()
    assert set(keys) == {"a.png", "b.png", "c.png"}
