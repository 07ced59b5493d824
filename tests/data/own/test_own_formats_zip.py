"""Zip files read in place: ordinary ones like folders, hostile ones refused, nothing ever written."""

import contextlib
import io
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fakes.own import FAKES, zipped
from refineseg.data.datasets import open_dataset
from refineseg.errors import ConfigError, DatasetError, ImageError
from refineseg.files import archives
from refineseg.images.files import find_images, read_image_size, read_rgb

PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def _png(pixels=PIXELS):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _zip(path: Path, files, *, method=zipfile.ZIP_DEFLATED) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as archive:
        warnings.simplefilter("ignore")  # duplicate names
        for name, content in files:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_path_goes_on_inside_a_zip_file(tmp_path, method):
    files = [
        ("a/b.png", _png()),
        ("a/c/d.PNG", _png()),
        (".hidden/e.png", b""),
        ("__MACOSX/a/._b.png", b""),
        ("f.txt", b"x"),
    ]
    path = _zip(tmp_path / "my.ZIP", files, method=method)
    assert find_images(path) == [path / "a" / "b.png", path / "a" / "c" / "d.PNG"]
    assert archives.subfolders(path) == ("a",)
    assert archives.subfolders(path / "a") == ("c",)
    assert archives.is_folder(path / "a")
    assert not archives.is_folder(path / "x")
    assert not archives.is_folder(path / "f.txt")
    assert archives.is_file(path / "f.txt")
    assert not archives.is_file(path)
    np.testing.assert_array_equal(read_rgb(path / "a" / "b.png"), PIXELS)
    assert read_image_size(path / "a" / "c" / "d.PNG") == (2, 4)
    with pytest.raises(ImageError, match=r"expected an image file, but there is no .*my\.ZIP/a/x\.png"):
        read_rgb(path / "a" / "x.png")
    with pytest.raises(ImageError, match=r"expected an image, got .*f\.txt, which is none, damaged"):
        read_rgb(path / "f.txt")


def test_a_zip_file_that_changes_is_read_anew(tmp_path):
    path = _zip(tmp_path / "a.zip", [("a.txt", b"one")])
    assert archives.read_text(path / "a.txt") == "one"
    _zip(path, [("a.txt", b"another")])
    assert archives.read_text(path / "a.txt") == "another"


def test_names_with_backslashes_are_folders(tmp_path):
    path = _zip(tmp_path / "a.zip", [("a|b.txt", b"x")])
    path.write_bytes(path.read_bytes().replace(b"a|b.txt", b"a\\b.txt"))
    assert archives.list_files(path) == ("a/b.txt",)
    assert archives.read_text(path / "a" / "b.txt") == "x"


def test_a_folder_called_zip_is_a_folder(tmp_path):
    (tmp_path / "a.zip").mkdir()
    (tmp_path / "a.zip" / "b.png").write_bytes(_png())
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.zip" / "b.png"), PIXELS)
    assert archives.locate(tmp_path / "a.zip" / "b.png") is None


@pytest.mark.parametrize("name", ["../../outside.png", "/etc/passwd", "C:/windows/a.png", "a/../../b.png", "..\\c.png"])
def test_names_that_leave_the_archive_are_refused(tmp_path, name):
    path = (
        _zip(tmp_path / "in" / "a.zip", [])
        if (tmp_path / "in").mkdir()
        else _zip(tmp_path / "in" / "a.zip", [(name, b"x")])
    )
    with pytest.raises(
        DatasetError, match=r"expected names inside the archive in .*, but 1 leave it: '.*'; pack it again"
    ):
        archives.list_files(path)
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "a.zip"]


def test_encrypted_files_are_refused(tmp_path):
    path = _zip(tmp_path / "a.zip", [("a.png", _png())])
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 8] |= 1  # the bit of encryption in the table of contents
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"files without a password in .*, but 1 are encrypted: 'a\.png'; decrypt"):
        archives.is_folder(path)


def test_links_other_methods_and_doubled_names_are_refused(tmp_path):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    path = _zip(tmp_path / "a.zip", [(link, b"/etc/passwd")])
    with pytest.raises(DatasetError, match=r"expected files in .*, but 1 are links: 'link\.png'"):
        archives.list_files(path)
    path = _zip(tmp_path / "b.zip", [("a.png", _png())], method=zipfile.ZIP_LZMA)
    with pytest.raises(DatasetError, match=r"expected files stored or deflated in .*, but 1 are packed in another way"):
        archives.list_files(path)
    path = _zip(tmp_path / "c.zip", [("a.png", _png()), ("a.png", b"x"), ("./a.png", b"y")])
    with pytest.raises(DatasetError, match=r"expected every name once in .*, but 1 are there twice: 'a\.png'"):
        archives.list_files(path)


def test_archives_inside_archives_are_not_opened(tmp_path):
    inner = _zip(tmp_path / "inner.zip", [("a.png", _png())])
    path = _zip(tmp_path / "outer.zip", [("inner.zip", inner.read_bytes()), ("more.tar.gz", b"")])
    with pytest.raises(
        DatasetError, match=r"expected images and labels in .*, but 2 are archives themselves: 'inner\.zip'"
    ):
        open_dataset("folder", path, split="train")
    path = _zip(tmp_path / "mixed.zip", [("inner.zip", inner.read_bytes()), ("readme.md", b"x")])
    with pytest.raises(
        DatasetError, match=r"got 1 \.md, 1 \.zip directly in it; several archives inside are not read: unpack"
    ):
        open_dataset("folder", path, split="train")


def test_a_bomb_that_declares_its_size_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_UNPACKED", 1000)
    path = _zip(tmp_path / "a.zip", [("a.png", bytes(1001))])
    with pytest.raises(
        DatasetError, match=r"files of at most 1000 bytes in .*, but 1 are larger: 'a\.png \(1001 bytes\)'"
    ):
        archives.list_files(path)


def test_a_file_packed_more_tightly_than_any_picture_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_BOMB_BYTES", 100_000)
    path = _zip(tmp_path / "a.zip", [("a.png", bytes(200_000)), ("b.json", b"[]" * 2000)])
    with pytest.raises(DatasetError, match=r"1 are decompression bombs: 'a\.png \(\d+ bytes become 200000\)'; unpack"):
        archives.list_files(path)


@pytest.mark.parametrize(("declared", "got"), [(10, "more"), (3_000_000, "fewer")])
def test_a_bomb_that_lies_about_its_size_yields_no_more_than_it_declared(tmp_path, declared, got):
    path = _zip(tmp_path / "a.zip", [("a.bin", bytes(2_000_000))])
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", declared)
    path.write_bytes(content)
    with pytest.raises(
        DatasetError, match=rf"expected to unpack a\.bin of .*, but it holds {got} bytes than the {declared} declared"
    ):
        archives.read_bytes(path / "a.bin")


def test_a_bomb_takes_no_memory_beyond_what_it_declared(tmp_path):
    path = _zip(tmp_path / "a.zip", [("a.bin", bytes(50_000_000))])
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 1000)
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match="more bytes than the 1000 declared"):
            archives.read_bytes(path / "a.bin")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data.replace(b"payload", b"PAYLOAD"), "its checksum is another"),
        (lambda data: data.replace(b"PK\x03\x04", b"PK\x07\x07"), "no file begins where the table of contents says"),
    ],
)
def test_damaged_files_are_named(tmp_path, change, reason):
    path = _zip(tmp_path / "a.zip", [("a.txt", b"payload")], method=zipfile.ZIP_STORED)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DatasetError, match=rf"expected to unpack a\.txt of .*a\.zip, but {reason}; pack or download"):
        archives.read_bytes(path / "a.txt")


def test_cut_and_foreign_files_are_no_zip_files(tmp_path):
    path = zipped(FAKES["cvat"](tmp_path / "data"))
    whole = path.read_bytes()
    for content in (b"", b"x" * 100, whole[: len(whole) // 2], whole[:-10]):
        path.write_bytes(content)
        with pytest.raises(
            DatasetError, match=r"expected a zip file, got .*data\.zip: .*; pack it again, or unpack it"
        ):
            open_dataset("folder", path, split="train")


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_is_a_message_or_harmless(tmp_path, seed):
    path = zipped(FAKES["cvat"](tmp_path / "data"))
    rng = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    for at in rng.integers(0, len(content), 20):
        content[at] = int(rng.integers(0, 256))
    path.write_bytes(content)
    with contextlib.suppress(DatasetError, ImageError, ConfigError):  # and no other error
        dataset = open_dataset("cvat", path, split="train")
        for index in range(len(dataset)):
            dataset.read_mask(index)


def test_a_list_in_a_zip_file_does_not_lead_out_of_it(tmp_path):
    (tmp_path / "secret.png").write_bytes(_png())
    lines = f"a.png a.png\n{tmp_path / 'secret.png'} a.png\n"
    path = _zip(tmp_path / "a.zip", [("list.txt", lines), ("a.png", _png()), ("classes.txt", "a\nb")])
    with pytest.raises(DatasetError, match=r"expected files inside .*, got '.*secret\.png', which leaves the zip file"):
        open_dataset("pairs", path, split="train")
    yaml = f"train: {tmp_path}\nnames: [a]\n"
    path = _zip(tmp_path / "b.zip", [("data.yaml", yaml), ("labels/a.txt", "")])
    with pytest.raises(DatasetError, match=r"expected the images of train in .* \(named in .*\), but there is no"):
        open_dataset("yolo", path, split="train")
