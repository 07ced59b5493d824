"""Batch prediction of a bucket: a real S3 server on loopback, and names that only buckets have."""

import fsspec
import numpy as np
import pytest
from PIL import Image

import refineseg as package
from fakes.remote_servers import forget_file_systems, s3_server
from fakes.services import photograph, png
from refineseg.batch.keys import output_key
from refineseg.data.storage import remote_access
from refineseg.data.storage.objects import list_pages, object_mark, write_object

ODD = ("a b.png", "ü%41.png", "ü%2541.png", "x//y.png", "../up.png", "q?v=1&w#h.png", "+plus.png", "a*[b].png", "~.png")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(remote_access, "_FIRST_PAUSE_S", 0.01)


@pytest.fixture(scope="module")
def s3():
    with s3_server():
        fs = fsspec.filesystem("s3", skip_instance_cache=True)
        fs.mkdir("bucket")
        yield fs


def put(fs, key, content):
    fs.call_s3("put_object", Bucket="bucket", Key=key, Body=content)


def get(fs, key):
    return fs.call_s3("get_object", Bucket="bucket", Key=key)


def test_odd_keys_each_have_a_mask_of_their_own(s3, model, tmp_path):
    predictor = package.Predictor(model)
    images = {key: photograph((20, 30), seed) for seed, key in enumerate(ODD)}
    for key, image in images.items():
        put(s3, f"in/{key}", png(image))
    put(s3, "in/folder/", b"")
    put(s3, "in/broken.png", b"\x89PNG no more")
    put(s3, "input/other.png", png(images[ODD[0]]))
    report = package.predict("s3://bucket/in", "s3://bucket/out", model=model, save="mask", device="cpu")
    assert (report.done, report.failed, report.listed.inputs) == (len(ODD), 1, len(ODD) + 1)
    names = {name for page in list_pages("s3://bucket/out") for name, _ in page if not name.startswith(".refineseg/")}
    assert names == {f"{output_key(key)}.png" for key in ODD}
    for key, image in images.items():
        path = tmp_path / "mask.png"
        s3.get_file(f"bucket/out/{output_key(key)}.png", path)
        with Image.open(path) as mask:
            np.testing.assert_array_equal(np.asarray(mask), predictor(image).mask)
    again = package.predict("s3://bucket/in", "s3://bucket/out", model=model, save="mask", device="cpu")
    assert (again.done, again.listed.kept) == (0, len(ODD) + 1)
    found = package.predict("s3://bucket/in", "s3://bucket/out", audit=True)
    assert (found.failed, found.is_clean) == (1, False)
    assert found.faults[0].startswith("failed: broken.png")
    assert len(found.faults) == 1


@pytest.mark.slow
def test_a_bucket_is_listed_a_page_after_the_other(s3):
    s3.pipe({f"bucket/many/{i:04d}.png": b"x" for i in range(1003)}, batch_size=16)
    pages = [[name for name, _ in page] for page in list_pages("s3://bucket/many")]
    assert [len(page) for page in pages] == [1000, 3]
    assert sorted(name for page in pages for name in page) == [f"{i:04d}.png" for i in range(1003)]


def test_what_is_written_is_known_by_its_md5(s3):
    write_object("s3://bucket/one/x", memoryview(b"abc"))
    assert object_mark("s3://bucket/one/x").md5 == "900150983cd24fb0d6963f7d28e17f72"  # of RFC 1321
    assert object_mark("s3://bucket/one/none") is None


def test_a_bucket_that_is_not_there_and_missing_credentials_are_told(s3, refineseg, model, monkeypatch):
    put(s3, "some/a.png", png(photograph((20, 30))))
    words = ("--model", model, "--device", "cpu")
    status, _, err = refineseg("predict", "s3://nowhere/in", "--out", "s3://bucket/o", *words)
    assert (status, "there is no s3://nowhere/in" in err) == (2, True), err
    status, _, err = refineseg("predict", "s3://bucket/some", "--out", "s3://nowhere/o", *words)
    assert (status, "expected to write s3://nowhere/o/.refineseg/options.json" in err) == (2, True), err
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    forget_file_systems()
    try:
        status, _, err = refineseg("predict", "s3://bucket/some", "--out", "s3://bucket/o", *words)
        assert (status, "Credentials" in err, "give credentials" in err) == (2, True, True), err
    finally:
        forget_file_systems()
