"""Data sets in remote folders: the same samples as on the disk, lazily, within a budget, whatever happens meanwhile."""

import contextlib
import http.server
import json
import os
import pickle
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from conftest import write_folder
from fakes.loading import training_batches
from fakes.own import FAKES
from fakes.pascal import fake_sbd, fake_voc
from fakes.remote_servers import SECRET, listed, s3_server, web_server
from fakes.scenes import fake_camvid, fake_cityscapes, fake_nyud_mat, fake_sunrgbd_toolbox
from refineseg.data.checks.label_check import check_data
from refineseg.data.crops.augment import Augmentation
from refineseg.data.datasets import open_dataset, parse_data
from refineseg.data.storage import mirror, remote_access
from refineseg.data.storage.mirror import CacheOptions
from refineseg.data.storage.remote import RemotePath, forget_remotes, open_root
from refineseg.data.storage.remote_access import RemoteFile, check_names
from refineseg.errors import ConfigError, DatasetError, ImageError, MissingExtraError
from refineseg.images.files import read_rgb


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for every test, and no long pauses between attempts."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("REFINESEG_CACHE", str(folder))
    monkeypatch.setattr(remote_access, "_FIRST_PAUSE_S", 0.01)
    forget_remotes()
    yield folder
    forget_remotes()


@pytest.fixture(scope="module")
def s3():
    with s3_server():
        fs = fsspec.filesystem("s3", skip_instance_cache=True)
        fs.mkdir("bucket")
        yield fs


def upload(fs, folder, prefix):
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            fs.put_file(str(path), f"bucket/{prefix}/{path.relative_to(folder).as_posix()}")
    return f"s3://bucket/{prefix}"


def held(cache):
    """What is on the disk: path in the remote folder -> bytes."""
    kept = [path for folder in cache.glob("*/files") for path in folder.rglob("*") if path.is_file()]
    return {path.name: path.stat().st_size for path in kept if path.stat().st_size}


def on_disk(cache):
    """Bytes of everything kept at one moment, parts and unfinished downloads included."""
    with contextlib.closing(sqlite3.connect(cache / "index.sqlite", timeout=60, isolation_level=None)) as index:
        index.execute("BEGIN IMMEDIATE")  # nobody removes or begins a file meanwhile
        sizes = {}  # by inode: a download may take its name between two looks
        for path in cache.rglob("*"):
            if not path.name.startswith("index.sqlite"):
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    sizes[status.st_ino] = status.st_size if stat.S_ISREG(status.st_mode) else 0
    return sum(sizes.values())


def same_samples(first, second):
    assert len(first) == len(second) > 0
    assert first.class_info == second.class_info
    for i in range(len(first)):
        a, b = first[i], second[i]
        assert a.name == b.name == first.name(i) == second.name(i)
        np.testing.assert_array_equal(a.image, b.image)
        assert (a.mask is None) == (b.mask is None)
        if a.mask is not None:
            assert a.mask.dtype == b.mask.dtype
            np.testing.assert_array_equal(a.mask, b.mask)
            np.testing.assert_array_equal(first.read_mask(i), second.read_mask(i))


def write_own(root):
    return write_folder(root, splits={"train": 4})


@pytest.mark.slow_except("nyud--train", "camvid--fit", "folder--train")
@pytest.mark.parametrize(
    ("name", "make", "split"),
    [
        ("voc", fake_voc, "train+val"),
        ("voc", fake_voc, "test"),
        ("sbd", fake_sbd, "train"),
        ("nyud", fake_nyud_mat, "train"),
        ("sunrgbd", fake_sunrgbd_toolbox, "train"),
        ("cityscapes", fake_cityscapes, "train"),
        ("camvid", fake_camvid, "fit"),
        ("folder", write_own, "train"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bucket_gives_the_same_samples_as_the_disk(s3, tmp_path, name, make, split):
    root = tmp_path / "local"
    make(root)
    url = upload(s3, root, f"{name}-{split}")
    same_samples(open_dataset(name, url, split=split), open_dataset(name, root, split=split))


def test_a_zip_file_in_a_bucket_is_read_in_place(s3, tmp_path):
    root = write_own(tmp_path / "local")
    shutil.make_archive(str(tmp_path / "packed"), "zip", root)
    s3.put_file(str(tmp_path / "packed.zip"), "bucket/archive/packed.zip")
    same_samples(
        open_dataset("folder", "s3://bucket/archive/packed.zip", split="train"),
        open_dataset("folder", root, split="train"),
    )


def test_a_web_server_with_a_list_gives_the_same_samples(tmp_path):
    root = write_own(tmp_path / "own words ä")
    for kind in ("images", "masks"):
        (root / kind / "train" / "000.png").rename(root / kind / "train" / "a b#%20ü.png")
    with web_server(listed(root)) as (url, _):
        same_samples(open_dataset("folder", url, split="train"), open_dataset("folder", root, split="train"))


def noise(root, count=4, size=(200, 200)):
    """Photographs of more than 16 KiB, and small masks."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind / "train").mkdir(parents=True)
    (root / "classes.txt").write_text("a\nb\n")
    for i in range(count):
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(image).save(root / "images" / "train" / f"{i}.jpg", quality=95)
        mask = np.zeros(size, np.uint8)
        mask[:50] = 1
        Image.fromarray(mask).save(root / "masks" / "train" / f"{i}.png")
    return root


def test_opening_fetches_lists_alone_and_checking_labels_fetches_no_photograph(s3, tmp_path, cache):
    root = noise(tmp_path / "local")
    url = upload(s3, root, "lazy")
    dataset = open_dataset("folder", url, split="train")
    assert set(held(cache)) == {"classes.txt"}
    np.testing.assert_array_equal(
        check_data(dataset).pixel_counts, check_data(open_dataset("folder", root, split="train")).pixel_counts
    )
    assert set(held(cache)) == {"classes.txt", "0.png", "1.png", "2.png", "3.png"}
    photographs = sum(path.stat().st_size for path in (root / "images" / "train").iterdir())
    assert on_disk(cache) < photographs / 2
    same_samples(dataset, open_dataset("folder", root, split="train"))
    assert {"0.jpg", "1.jpg", "2.jpg", "3.jpg"} <= set(held(cache))


def test_a_size_that_is_not_in_the_first_bytes_is_read_from_the_whole_file(s3, tmp_path):
    root = noise(tmp_path / "local", count=1)
    path = root / "images" / "train" / "0.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    exif[0x010E] = "x" * 40000
    with Image.open(path) as image:
        image.crop((0, 0, 200, 120)).save(path, exif=exif, quality=95)
    mask = np.zeros((200, 120), np.uint8)
    mask[:50] = 1
    Image.fromarray(mask).save(root / "masks" / "train" / "0.png")
    url = upload(s3, root, "sideways")
    assert check_data(open_dataset("folder", url, split="train")).pixel_counts.tolist() == [150 * 120, 50 * 120]


@pytest.mark.slow
@pytest.mark.parametrize("max_bytes", [10**9, 120_000])
def test_worker_processes_give_the_same_batches_even_where_little_fits(s3, tmp_path, cache, max_bytes):
    root = noise(tmp_path / "local", count=8, size=(100, 100))
    url = upload(s3, root, f"workers-{max_bytes}")
    open_root(url, options=CacheOptions(cache, max_bytes, grace_s=0.5))
    augmentation = Augmentation(crop_hw=(32, 32), scale=(0.8, 1.2))
    options = {"batch_size": 2, "seed": 1, "epoch": 0}
    expected = list(
        training_batches(open_dataset("folder", root, split="train"), augmentation, num_workers=0, **options)
    )
    dataset = open_dataset("folder", url, split="train")
    dataset[0]  # this process has used the network before it forks
    found = list(training_batches(dataset, augmentation, num_workers=2, **options))
    assert len(found) == len(expected) == 4
    for a, b in zip(found, expected, strict=True):
        assert a.names == b.names
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.masks, b.masks)
    assert on_disk(cache) <= max_bytes


def test_a_process_started_anew_reads_what_it_is_handed(s3, tmp_path):
    root = fake_voc(tmp_path / "local")
    dataset = open_dataset("voc", upload(s3, root or tmp_path / "local", "spawned"), split="train")
    (tmp_path / "dataset.pickle").write_bytes(pickle.dumps(dataset))
    program = (
        "import pickle, sys, pathlib; dataset = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()); "
        "print(dataset[1].image.sum(), dataset.pairs[1].image)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "dataset.pickle")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.split() == [str(dataset[1].image.sum()), str(dataset.pairs[1].image)]


def files_of(folder, sizes):
    folder.mkdir(parents=True)
    for i, size in enumerate(sizes):
        (folder / f"{i:02d}.bin").write_bytes(bytes([i + 1]) * size)
    return folder


def test_no_more_bytes_than_the_budget_are_kept_and_the_content_stays_right(tmp_path, cache):
    folder = files_of(tmp_path / "remote", [10_000] * 12)
    root = open_root(f"file://{folder}", options=CacheOptions(cache, 35_000, grace_s=0.0))
    for _ in range(2):
        for path in sorted(root.iterdir()):
            assert path.read_bytes() == (folder / path.name).read_bytes()
            assert on_disk(cache) <= 35_000
    assert set(held(cache)) == {"09.bin", "10.bin", "11.bin"}  # the longest unused went


def test_processes_share_one_budget(tmp_path, cache):
    folder = files_of(tmp_path / "remote", [10_000] * 7)
    url = f"file://{folder}"
    open_root(url, options=CacheOptions(cache, 45_000, grace_s=0.5))
    program = (
        "import sys\nfrom pathlib import Path\nfrom refineseg.data.storage.mirror import CacheOptions\n"
        "from refineseg.data.storage.remote import open_root\n"
        f"root = open_root({url!r}, options=CacheOptions(Path({str(cache)!r}), 45_000, grace_s=0.5))\n"
        "for path in sorted(root.iterdir(), reverse=sys.argv[1] == 'b'):\n"
        "    assert set(path.read_bytes()) == {int(path.stem) + 1} and path.stat().st_size == 10_000, path\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, which]) for which in "ab"]
    most = 0
    while any(process.poll() is None for process in processes):
        most = max(most, on_disk(cache))
        time.sleep(0.01)
    assert [process.returncode for process in processes] == [0, 0]
    assert 10_000 < most <= 45_000
    with sqlite3.connect(cache / "index.sqlite") as index:
        counted = index.execute("SELECT bytes FROM total").fetchone()[0]
    assert counted == on_disk(cache)


def test_a_file_larger_than_the_budget_is_refused(tmp_path, cache):
    folder = files_of(tmp_path / "remote", [1000])
    root = open_root(f"file://{folder}", options=CacheOptions(cache, 999))
    with pytest.raises(DatasetError, match=r"cache of 999 bytes, got 1000; set REFINESEG_CACHE_GB to more"):
        (root / "00.bin").read_bytes()


def test_without_room_a_process_waits_and_then_says_so(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(mirror, "_WAIT_S", 0.0)
    folder = files_of(tmp_path / "remote", [1000, 1000])
    root = open_root(f"file://{folder}", options=CacheOptions(cache, 1500, grace_s=0.5))
    assert (root / "00.bin").read_bytes()
    begun = time.monotonic()
    assert (root / "01.bin").read_bytes()  # as soon as the first is not in use any more
    assert time.monotonic() - begun > 0.3
    forget_remotes()
    root = open_root(f"file://{folder}", options=CacheOptions(cache, 1500, grace_s=100.0))
    monkeypatch.setattr(mirror, "_WAIT_S", -199.8)
    with pytest.raises(DatasetError, match="the other files are in use; set REFINESEG_CACHE_GB"):
        (root / "00.bin").read_bytes()


def test_a_kill_in_the_middle_of_a_fetch_leaves_no_half_file(tmp_path, cache):
    root = files_of(tmp_path / "remote", [500_000])
    expected = (root / "00.bin").read_bytes()
    with web_server(listed(root)) as (url, state):
        state.update(slow="00.bin", stop_after=200_000)
        program = f"from refineseg.data.storage.remote import open_root; (open_root({url!r}) / '00.bin').read_bytes()"
        process = subprocess.Popen([sys.executable, "-c", program])
        assert state["waiting"].wait(30)
        end = time.monotonic() + 10
        while on_disk(cache) < 50_000 and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
        half = [path for path in (cache / "unfinished").iterdir() if path.stat().st_size]
        assert [0 < path.stat().st_size < 500_000 for path in half] == [True]
        assert held(cache) == {}
        state["slow"] = ""
        state["go_on"].set()
        found = open_root(url)
        assert not [path for path in (cache / "unfinished").iterdir() if path.stat().st_size]
        assert (found / "00.bin").read_bytes() == expected


def test_processes_that_want_the_same_file_download_it_once(tmp_path):
    root = files_of(tmp_path / "remote", [300_000])
    with web_server(listed(root)) as (url, state):
        found = open_root(url)
        before = state["requests"]
        threads = [threading.Thread(target=(found / "00.bin").read_bytes) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert state["requests"] - before <= 2  # one that asks for the size, one for the content


def test_a_file_that_vanished_or_changed_is_named(tmp_path, cache):
    folder = files_of(tmp_path / "remote", [100, 100])
    root = open_root(f"file://{folder}")
    (folder / "00.bin").unlink()
    (folder / "01.bin").write_bytes(b"longer" * 100)
    with pytest.raises(DatasetError, match=r"expected file://.*/00\.bin, which was listed, but it is gone"):
        (root / "00.bin").read_bytes()
    with pytest.raises(DatasetError, match=r"expected 100 bytes in file://.*01\.bin, as listed, got 600: it changed"):
        (root / "01.bin").read_bytes()
    assert held(cache) == {}


def test_a_later_opening_sees_what_changed_meanwhile(tmp_path):
    folder = files_of(tmp_path / "remote", [100, 100])
    root = open_root(f"file://{folder}")
    assert len((root / "00.bin").read_bytes()) == 100
    (folder / "00.bin").write_bytes(b"other" * 20)
    (folder / "01.bin").unlink()
    (folder / "sub").mkdir()
    (folder / "sub" / "new.bin").write_bytes(b"new")
    forget_remotes()
    root = open_root(f"file://{folder}")
    assert (root / "00.bin").read_bytes() == b"other" * 20
    assert sorted(path.name for path in root.iterdir()) == ["00.bin", "sub"]
    assert sorted(str(path) for path in root.rglob("*.bin")) == [str(root / "00.bin"), str(root / "sub" / "new.bin")]
    assert list(root.glob("*.bin")) == [root / "00.bin"]
    assert (root / "sub" / "new.bin").read_bytes() == b"new"


def test_a_network_that_goes_away_is_an_error_that_names_the_file(tmp_path):
    root = write_own(tmp_path / "local")
    with web_server(listed(root)) as (url, _):
        dataset = open_dataset("folder", url, split="train")
    with pytest.raises(
        DatasetError, match=r"to read http://127\.0\.0\.1:\d+/images/train/000\.png, but .*; tried 4 times"
    ):
        dataset[0]


def test_a_wrong_bucket_folder_or_access_is_told_without_secrets(s3, monkeypatch):
    with pytest.raises(DatasetError, match=r"there is no s3://nobody/voc \(.*bucket does not exist"):
        open_dataset("voc", "s3://nobody/voc", split="train")
    with pytest.raises(DatasetError, match=r"expected files below s3://bucket/nothing, got none"):
        open_dataset("voc", "s3://bucket/nothing", split="train")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(DatasetError, match=r"list s3://bucket/x, but .*NoCredentials.*give credentials") as caught:
        open_dataset("voc", "s3://bucket/x", split="train")
    assert SECRET not in str(caught.value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.mark.parametrize("url", ["https://ann:pw@host/data", "s3://key:pw@bucket/data", "https://host/data?sig=pw"])
def test_an_address_with_a_password_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigError, match="expected a plain address without user, password and query") as caught:
        parse_data(f"voc:{url}")
    assert "pw" not in str(caught.value)


def test_a_missing_package_and_an_unknown_kind_of_address_say_what_to_do(monkeypatch):
    with pytest.raises(ConfigError, match="expected an address that fsspec knows .* got nonsense://"):
        open_root("nonsense://bucket/x")

    def absent(*_, **__):
        raise ImportError("Install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec, "filesystem", absent)
    with pytest.raises(MissingExtraError, match=r"expected the package gcsfs to read gs://.*refineseg\[gcs\]"):
        open_root("gs://bucket/x")


def test_a_web_server_without_a_list_says_how_to_write_it(tmp_path):
    with (
        web_server(tmp_path) as (url, _),
        pytest.raises(DatasetError, match=r"expected files\.txt in http.*find \. -type f"),
    ):
        open_root(url)


@pytest.mark.parametrize("size", ["²", "-1", "9" * 5000])
def test_a_list_with_sizes_that_are_none_is_refused(tmp_path, size):
    (tmp_path / "files.txt").write_text(f"a.png\t{size}\n")
    with web_server(tmp_path) as (url, _), pytest.raises(DatasetError, match="expected 'path' or 'path<TAB>bytes' on"):
        open_root(url)


@pytest.mark.parametrize("name", ["../a.png", "a//b.png", "/a.png", "a/./b.png", "a\udcff.png", "a/" * 2100 + "b"])
def test_names_that_lead_out_of_the_folder_are_refused(name):
    with pytest.raises(DatasetError, match="expected relative paths below s3://b"):
        check_names({name: RemoteFile(1, "")}, "s3://b")


def test_a_name_that_is_file_and_folder_is_refused():
    with pytest.raises(DatasetError, match="to be a file or a folder, got both"):
        check_names({"a": RemoteFile(1, ""), "a/b": RemoteFile(1, "")}, "s3://b")


@pytest.mark.parametrize("text", ["0", "-1", "many", "nan", "inf"])
def test_a_wrong_budget_is_refused(monkeypatch, text):
    monkeypatch.setenv("REFINESEG_CACHE_GB", text)
    with pytest.raises(ConfigError, match="expected a positive number of gigabytes in REFINESEG_CACHE_GB"):
        CacheOptions.from_environment()


def test_a_damaged_table_says_which_folder_to_remove(tmp_path, cache):
    folder = files_of(tmp_path / "remote", [100])
    cache.mkdir()
    (cache / "index.sqlite").write_bytes(b"no table at all " * 100)
    with pytest.raises(DatasetError, match=r"table of kept files in .*; remove the folder"):
        open_root(f"file://{folder}")


def test_a_remote_path_behaves_as_a_path_and_prints_as_its_address(tmp_path):
    folder = write_own(tmp_path / "remote")
    url = f"file://{folder}"
    root = open_root(url + "/")
    image = root / "images" / "train" / "000.png"
    assert isinstance(image, RemotePath)
    assert (str(image), f"{root}") == (f"{url}/images/train/000.png", url)
    assert image.parent.parent.parent == root == image.resolve().parents[2]
    assert hash(image) == hash(root / "images/train/000.png")
    assert str(image.relative_to(root)) == "images/train/000.png"
    assert (image.is_file(), image.is_dir(), root.is_dir(), (root / "no").exists()) == (True, False, True, False)
    assert image.with_suffix(".jpg").name == "000.jpg"
    assert pickle.loads(pickle.dumps(image)) == image
    assert image.stat().st_size == (folder / "images" / "train" / "000.png").stat().st_size
    assert json.dumps({"data": f"folder:{root.resolve()}"}) == json.dumps({"data": f"folder:{url}"})
    with pytest.raises(ImageError, match=r"expected an image file, but there is no file://.*/no\.png"):
        read_rgb(root / "no.png")


@contextlib.contextmanager
def redirecting_server(target):
    """A web server that sends every request to ``target`` + path, but serves ``/here/``."""

    class Redirecting(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            if self.path.startswith("/here/"):
                self.send_response(200)
                self.send_header("Content-Length", "5")
                self.end_headers()
                self.wfile.write(b"a.txt" if self.path.endswith("files.txt") else b"local")
                return
            self.send_response(302)
            self.send_header("Location", target + self.path)
            self.end_headers()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirecting)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def test_a_redirect_to_another_server_or_scheme_is_refused_and_the_other_is_never_asked(tmp_path):
    secret = listed(files_of(tmp_path / "web", [10]))
    with web_server(secret) as (other, state):
        for target in (other, other.replace("127.0.0.1", "localhost"), "file:///etc", "ftp://127.0.0.1"):
            with redirecting_server(target) as url, pytest.raises(DatasetError) as error:
                open_root(url)
            assert "from its own server, but that sends to another host, port or scheme" in str(error.value)
        assert state["requests"] == 0


def test_a_redirect_on_the_same_server_is_followed(tmp_path):
    with redirecting_server("/here") as url:
        assert (open_root(f"{url}/data") / "a.txt").read_bytes() == b"local"


def test_a_link_that_leads_out_of_a_file_address_is_refused(tmp_path):
    root = files_of(tmp_path / "root", [10])
    (tmp_path / "secret.txt").write_text("secret")
    assert open_root(f"file://{root}").is_dir()
    forget_remotes()
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(DatasetError, match=r"to lie in it, but .*link\.txt is a link to .*secret\.txt; copy that file"):
        open_root(f"file://{root}")


def test_a_web_file_that_changed_is_brought_anew_although_the_list_tells_no_sizes(tmp_path):
    source = listed(files_of(tmp_path / "web", [10]))
    name = next(path.name for path in source.iterdir() if path.name != "files.txt")
    with web_server(source) as (url, state):
        assert (open_root(url) / name).read_bytes() == (source / name).read_bytes()
        forget_remotes()
        asked = state["requests"]
        assert len((open_root(url) / name).read_bytes()) == 10
        assert state["requests"] == asked + 1  # the list alone
        for content in (b"0123456789", b"longer than before"):
            (source / name).write_bytes(content)
            os.utime(source / name, (time.time() + len(content),) * 2)  # the server tells whole seconds
            forget_remotes()
            assert (open_root(url) / name).read_bytes() == content


@pytest.mark.parametrize("form", FAKES)
def test_every_own_form_is_the_same_in_a_remote_folder_and_opening_fetches_no_image(tmp_path, cache, form):
    root = FAKES[form](tmp_path / "local")
    name = {"roboflow": "coco", "label_studio_png": "label_studio"}.get(form, form)
    dataset = open_dataset(name, f"file://{root}", split="train")
    assert not [kept for kept in held(cache) if kept.endswith(".png")]
    if form == "pairs":
        assert isinstance(dataset.pairs[0].image, RemotePath)
    same_samples(dataset, open_dataset(name, root, split="train"))
