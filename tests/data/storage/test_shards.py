"""Shards: the same samples, bit for bit, and the same training, as from the files they were made of."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_remote import on_disk, same_samples

from conftest import write_folder
from fakes.coco import fake_coco_voc
from fakes.pascal import fake_sbd, fake_voc
from fakes.remote_servers import SECRET, s3_server, web_server
from fakes.runs import Silent, tiny
from fakes.scenes import fake_ade20k_full, fake_camvid, fake_nyud_mat
from refineseg.class_info import ClassInfo
from refineseg.data.checks.label_check import check_data, check_files
from refineseg.data.datasets import DATASETS, data_splits, open_dataset, open_sources, parse_data
from refineseg.data.samples.sample import Sample, Without
from refineseg.data.shard_writer import ShardOptions, write_shards
from refineseg.data.storage.remote import forget_remotes
from refineseg.data.storage.shards import ShardSource, open_shards
from refineseg.errors import DatasetError, OutputError
from refineseg.training.run import RunRequest, start_run


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REFINESEG_CACHE", str(tmp_path / "cache"))
    forget_remotes()
    yield tmp_path / "cache"
    forget_remotes()


@pytest.fixture(scope="module")
def s3():
    import fsspec

    with s3_server():
        fs = fsspec.filesystem("s3", skip_instance_cache=True)
        fs.mkdir("bucket")
        yield fs


def shard(name, root, out, *, split="train", size=256_000_000):
    return write_shards(open_dataset(name, root, split=split), str(out), ShardOptions(name, split, size))


def members(folder):
    """Every file in every shard: name -> content."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for info in archive:
                assert info.name not in found
                found[info.name] = archive.extractfile(info).read()
    return found


@pytest.mark.parametrize(
    ("name", "make", "split", "as_files"),
    [
        ("voc", fake_voc, "val", True),
        ("voc", fake_voc, "test", True),
        ("sbd", fake_sbd, "train", True),
        ("coco_voc", fake_coco_voc, "train", True),
        ("camvid", fake_camvid, "fit", True),
        ("nyud", fake_nyud_mat, "train", False),
        ("ade20k", fake_ade20k_full, "train", None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_shards_hold_the_same_samples_and_where_they_can_the_original_files(tmp_path, name, make, split, as_files):
    make(tmp_path / "files")
    original = open_dataset(name, tmp_path / "files", split=split)
    assert shard(name, tmp_path / "files", tmp_path / "shards", split=split, size=6000) > 1
    found = open_dataset(name, tmp_path / "shards", split=split)
    same_samples(found, original)
    assert found.notes == original.notes
    assert parse_data(f"shards:{tmp_path / 'shards'}") == (name, tmp_path / "shards")
    if as_files is not None:
        files = {p.read_bytes() for p in (tmp_path / "files").rglob("*") if p.is_file() and "annot" not in str(p)}
        images = [content for key, content in members(tmp_path / "shards" / split).items() if key[-4:] != ".png"]
        images += [content for key, content in members(tmp_path / "shards" / split).items() if "image.png" in key]
        assert len(images) == len(original)
        assert {content in files for content in images} == {as_files}


def test_the_tar_files_follow_the_convention_of_webdataset(tmp_path):
    """Read with the standard library alone: files of a sample follow each other and share the name up to the dot."""
    fake_voc(tmp_path / "files")
    shard("voc", tmp_path / "files", tmp_path / "shards")
    found = members(tmp_path / "shards" / "train")
    dataset = open_dataset("voc", tmp_path / "files", split="train")
    assert [key.partition(".")[2] for key in found] == ["jpg", "png"] * len(dataset)
    assert len({key.partition(".")[0] for key in found}) == len(dataset)
    (tmp_path / "mask.png").write_bytes(list(found.values())[1])
    with Image.open(tmp_path / "mask.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), dataset[0].mask)


def test_images_in_shards_have_the_marks_of_their_files(tmp_path):
    """So that it is known, too, which of them were trained on: through joined splits, and some left out."""
    root = write_folder(tmp_path / "files", splits={"train": 3, "val": 2})
    (root / "classes.txt").write_text("ground\nsky\nsquare\n")
    for split in ("train", "val"):
        shard("folder", root, tmp_path / "shards", split=split)
    found = Without(open_dataset("folder", tmp_path / "shards", split="train+val"), {"001"})
    files = [root / "images" / place for place in ("train/000.png", "train/002.png", "val/000.png")]
    contents = [path.read_bytes() for path in files]
    marks = [image for _, image, _ in check_files(found).samples]
    assert marks == [f"{len(content)}-{zlib.crc32(content):08x}" for content in contents]


@pytest.mark.slow
def test_training_on_shards_gives_the_same_weights(tmp_path):
    root = write_folder(tmp_path / "files", splits={"train": 6, "val": 2})
    (root / "classes.txt").write_text("ground\nsky\nsquare\n")
    for split in ("train", "val"):
        shard("folder", root, tmp_path / "shards", split=split, size=20_000)
    for name, data in (("a", f"folder:{root}"), ("b", f"shards:{tmp_path / 'shards'}")):
        start_run(RunRequest(tiny(), data, device="cpu"), tmp_path / name, progress=Silent())
    first, second = (load_file(tmp_path / name / "last.safetensors") for name in "ab")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    first, second = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in "ab")
    for result in (first, second):  # shards do not know the sizes of their images before they are read
        result.pop("measurement_protocol")
    assert first == second
    assert json.loads((tmp_path / "b" / "run.json").read_text())["data"] == f"folder:{tmp_path / 'shards'}"


@pytest.mark.slow
def test_shards_in_a_bucket_are_written_read_in_parts_and_trained_on(s3, tmp_path, cache):
    root = write_folder(tmp_path / "files", splits={"train": 6, "val": 2}, size=(96, 96))
    (root / "classes.txt").write_text("ground\nsky\nsquare\n")
    for split in ("train", "val"):
        shard("folder", root, "s3://bucket/shards", split=split, size=60_000)
    found, original = (open_dataset("folder", place, split="train") for place in ("s3://bucket/shards", root))
    np.testing.assert_array_equal(check_data(found).pixel_counts, check_data(original).pixel_counts)
    assert on_disk(cache) < sum(path.stat().st_size for path in root.rglob("images/*/*")) / 2
    same_samples(found, original)
    for name, data in (("a", f"folder:{root}"), ("b", "shards:s3://bucket/shards")):
        start_run(RunRequest(tiny(1), data, device="cpu", num_workers=2), tmp_path / name, progress=Silent())
    first, second = (load_file(tmp_path / name / "last.safetensors") for name in "ab")
    assert all(torch.equal(first[key], second[key]) for key in first)
    written = (tmp_path / "b" / "run.json").read_text()
    assert json.loads(written)["data"] == "folder:s3://bucket/shards"
    everything = b"".join(path.read_bytes() for path in (tmp_path / "b").glob("*.*"))
    assert SECRET.encode() not in everything
    with pytest.raises(DatasetError, match=r"expected no shards of train in s3://bucket/shards, but there are"):
        shard("folder", root, "s3://bucket/shards")


def test_a_web_server_of_shards_needs_no_list(tmp_path):
    fake_voc(tmp_path / "files")
    for split in ("train", "val"):
        shard("voc", tmp_path / "files", tmp_path / "shards", split=split)
    with web_server(tmp_path / "shards") as (url, _):
        same_samples(open_dataset("shards", url, split="val"), open_dataset("voc", tmp_path / "files", split="val"))


class Hostile:
    """Samples whose names are no file names, of odd sizes, without masks, and of wide masks."""

    names = ("../../etc/passwd", "a.b/c.jpg", "", "CON", "ä\n\t\udcff", "x" * 300, "x" * 300 + "y", "-rf *", "%2E")
    class_info = ClassInfo(tuple(f"class {i}" for i in range(300)), ignore_index=65535)
    notes = ("a note",)

    def __len__(self):
        return len(self.names)

    def name(self, index):
        return self.names[index]

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (1 + index, 3, 3), dtype=np.uint8)
        mask = rng.choice(np.array([0, 7, 299, 65535], np.uint16), (1 + index, 3))
        return Sample(image, None if index == 3 else mask, self.names[index])

    def read_mask(self, index):
        return self[index].mask


def test_hostile_names_and_wide_masks_come_back_as_they_were(tmp_path):
    write_shards(Hostile(), str(tmp_path / "out"), ShardOptions("folder", "train", 4000))
    same_samples(open_dataset("folder", tmp_path / "out", split="train"), Hostile())
    keys = [name.partition(".")[0] for name in members(tmp_path / "out" / "train")]
    assert all(set(key) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789%-_") for key in keys)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_a_mask_of_other_values_is_refused(tmp_path):
    class Stray(Hostile):
        def __getitem__(self, index):
            return Sample(np.zeros((2, 2, 3), np.uint8), np.full((2, 2), 300, np.uint16), "stray")

    with pytest.raises(DatasetError, match=r"expected 0\.\.299 or 65535, got 300 in 4 pixels"):
        write_shards(Stray(), str(tmp_path / "out"), ShardOptions("folder", "train"))
    assert not list((tmp_path / "out").rglob("*.tar"))


def test_writing_goes_on_after_a_kill_and_ends_with_the_same_bytes(tmp_path):
    root = write_folder(tmp_path / "files", splits={"train": 12})
    (root / "classes.txt").write_text("ground\nsky\nsquare\n")
    program = (
        "import sys, time\nfrom refineseg.data.datasets import open_dataset\n"
        "from refineseg.data.shard_writer import ShardOptions, write_shards\n"
        "def report(done, total):\n    print(done, flush=True)\n    time.sleep(60 if done == 8 else 0)\n"
        "write_shards(open_dataset('folder', sys.argv[1], split='train'), sys.argv[2], "
        "ShardOptions('folder', 'train', 30_000), report=report)\n"
    )
    command = [sys.executable, "-c", program, str(root), str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert any(line == "8\n" for line in process.stdout)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    process.stdout.close()
    half = sorted(path.name for path in (tmp_path / "killed" / "train").iterdir() if path.name[0] != ".")
    assert half[0] == "shard-000000.tar"
    assert half[-1] == "unfinished.json"
    with pytest.raises(DatasetError, match=r"expected shards in .*no index\.json"):
        open_dataset("shards", tmp_path / "killed", split="train")
    kept = (tmp_path / "killed" / "train" / "shard-000000.tar").stat().st_mtime_ns
    with pytest.raises(DatasetError, match=r"where writing was interrupted, got others; remove that folder"):
        shard("folder", root, tmp_path / "killed", size=40_000)
    shard("folder", root, tmp_path / "killed", size=30_000)
    assert (tmp_path / "killed" / "train" / "shard-000000.tar").stat().st_mtime_ns == kept
    shard("folder", root, tmp_path / "whole", size=30_000)
    first, second = (
        {
            p.relative_to(tmp_path / name): p.read_bytes()
            for p in (tmp_path / name).rglob("*")
            if p.name[0] != "." and p.is_file()
        }
        for name in ("killed", "whole")
    )
    assert first == second


def test_what_is_there_is_not_overwritten(tmp_path):
    fake_voc(tmp_path / "voc")
    shard("voc", tmp_path / "voc", tmp_path / "out")
    with pytest.raises(DatasetError, match="expected no shards of train in .*, but there are; choose another folder"):
        shard("voc", tmp_path / "voc", tmp_path / "out")
    root = write_folder(tmp_path / "own", splits={"val": 1, "train": 1})
    with pytest.raises(DatasetError, match="expected a new folder or shards of folder in .*, got shards of voc"):
        shard("folder", root, tmp_path / "out", split="val")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.json").write_text("[]")
    with pytest.raises(DatasetError, match=r"got another index\.json; choose another folder"):
        shard("folder", root, tmp_path / "mine", split="val")


def test_damaged_and_absent_shards_are_named(tmp_path):
    fake_voc(tmp_path / "voc")
    shard("voc", tmp_path / "voc", tmp_path / "out", size=3000)
    first = tmp_path / "out" / "train" / "shard-000000.tar"
    content = first.read_bytes()
    dataset = open_dataset("voc", tmp_path / "out", split="train")
    first.write_bytes(content[:700] + bytes([content[700] ^ 1]) + content[701:])
    with pytest.raises(DatasetError, match=r"bytes of 000000-2007_000001\.jpg in .*shard-000000\.tar .*got others"):
        dataset[0]
    first.write_bytes(content[:-1])
    with pytest.raises(
        DatasetError, match=rf"expected {len(content)} bytes in .*, got {len(content) - 1}; copy it again"
    ):
        open_dataset("voc", tmp_path / "out", split="train")
    first.unlink()
    with pytest.raises(DatasetError, match=r"but 1 are absent: shard-000000\.tar"):
        open_dataset("voc", tmp_path / "out", split="train")
    with pytest.raises(DatasetError, match=r"expected a split of train .*got 'val'; write it with: refineseg shard"):
        open_dataset("voc", tmp_path / "out", split="val")
    index = tmp_path / "out" / "index.json"
    index.write_text(index.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(DatasetError, match=r"expected shards of version 1 in .*, got 2; update refineseg"):
        open_dataset("voc", tmp_path / "out", split="train")


def test_shards_of_another_data_set_are_refused(tmp_path):
    fake_voc(tmp_path / "voc")
    shard("voc", tmp_path / "voc", tmp_path / "out")
    with pytest.raises(DatasetError, match="expected shards of camvid in .*, got those of voc; say voc:"):
        open_dataset("camvid", tmp_path / "out", split="train")
    with pytest.raises(DatasetError, match=r"expected shards in .*, but it has no index\.json of theirs"):
        parse_data(f"shards:{tmp_path / 'voc'}")


def test_splits_join_and_sources_join_as_from_files(tmp_path):
    fake_voc(tmp_path / "voc")
    fake_sbd(tmp_path / "sbd")
    for split in ("train", "val"):
        shard("voc", tmp_path / "voc", tmp_path / "out", split=split)
    assert data_splits("voc", tmp_path / "out") == ("train", "val")
    assert data_splits("voc", tmp_path / "voc") is DATASETS["voc"].splits is None
    same_samples(
        open_sources(f"shards:{tmp_path / 'out'}+sbd:{tmp_path / 'sbd'}", split="train"),
        open_sources(f"voc:{tmp_path / 'voc'}+sbd:{tmp_path / 'sbd'}", split="train"),
    )
    same_samples(
        open_dataset("shards", tmp_path / "out", split="train+val"),
        open_dataset("voc", tmp_path / "voc", split="train+val"),
    )


def test_the_command_writes_every_split_and_says_how_to_go_on(refineseg, tmp_path):
    fake_voc(tmp_path / "voc")
    arguments = ["shard", f"voc:{tmp_path / 'voc'}", "--split", "train+val", "--out", str(tmp_path / "out")]
    status, out, err = refineseg(*arguments, "--megabytes", "0.006")
    assert status == 0, err
    assert out.splitlines()[0] == f"train: 3 samples in 2 tar files below {tmp_path / 'out'}"
    assert f"refineseg train --data voc:{tmp_path / 'out'} --out RUN" in err
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert (index["source"], list(index["splits"])) == ("voc", ["train", "val"])
    assert refineseg(*arguments, "--megabytes", "0").status == 2


def test_wrong_places_and_splits_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="expected a split whose name can be a folder's, got '../x'"):
        ShardOptions("voc", "../x")
    with pytest.raises(DatasetError, match="expected shards of at least 1 byte, got 0"):
        ShardOptions("voc", "train", 0)
    with pytest.raises(DatasetError, match="or an address that can be written to .s3://, gs://., got https://host/x"):
        write_shards(Hostile(), "https://host/x", ShardOptions("folder", "train"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file exists and is a file; choose"):
        write_shards(Hostile(), str(tmp_path / "file"), ShardOptions("folder", "train"))


def test_reading_any_sample_reads_its_bytes_alone(tmp_path, monkeypatch):
    fake_voc(tmp_path / "voc")
    shard("voc", tmp_path / "voc", tmp_path / "out")
    dataset = open_dataset("voc", tmp_path / "out", split="train")
    assert isinstance(dataset.source, ShardSource)
    mask = dataset.read_mask(2)
    monkeypatch.setattr(ShardSource, "image", lambda *_: pytest.fail("the image was read"))
    np.testing.assert_array_equal(dataset.read_mask(2), mask)
    assert Path(dataset.source.shards[0]).name == "shard-000000.tar"


@pytest.mark.parametrize("more", ["", ', "source": "voc"', ', "source": "voc", "splits": 3'])
def test_an_index_without_source_or_splits_is_refused(tmp_path, more):
    (tmp_path / "index.json").write_text(f'{{"format": "refineseg shards", "version": 1{more}}}')
    with pytest.raises(
        DatasetError, match=r"expected the index of shards in .*index\.json, got .*write the shards again"
    ):
        open_shards(tmp_path, "train")
