"""The HTTP interface, over a real connection: answers, choices, refusals in words, numbers."""

import io
import json
import re
from email import message_from_bytes

import numpy as np
import pytest
from PIL import Image

from conftest import untrained
from fakes.services import photograph, png, running
from refineseg.class_info import ClassInfo
from refineseg.serve.limits import RequestLimits


@pytest.fixture(scope="module")
def service(model, tmp_path_factory):
    """Two tiny models; no test changes anything in it."""
    other = untrained(tmp_path_factory.mktemp("other") / "other.safetensors", ClassInfo(("a", "b", "c", "d")), seed=2)
    with running({"tiny": model, "other": other}) as found:
        yield found


@pytest.fixture(scope="module")
def photo():
    return photograph()


def values(body):
    with Image.open(io.BytesIO(body)) as mask:
        return np.asarray(mask)


def test_the_mask_is_the_file_that_the_command_line_writes(service, photo, model, refineseg, tmp_path):
    """Byte for byte, and so are the other files."""
    (tmp_path / "in.png").write_bytes(png(photo))
    status, _, err = refineseg(
        "predict", tmp_path / "in.png", "--out", tmp_path / "out", "--model", model, "--device", "cpu",
        "--save", "mask,overlay,polygons,confidence",
    )  # fmt: skip
    assert status == 0, err
    for output, name in (
        ("mask", "in.png"), ("overlay", "in_overlay.jpg"),
        ("polygons", "in.geojson"), ("confidence", "in_confidence.png"),
    ):  # fmt: skip
        reply = service.segment(png(photo), f"output={output}")
        assert reply.status == 200
        assert reply.body == (tmp_path / "out" / name).read_bytes(), output


def test_scales_and_mirror_images_are_those_of_the_command_line(service, photo, model, refineseg, tmp_path):
    (tmp_path / "in.png").write_bytes(png(photo))
    views = ("--scales", "0.5,1", "--flip", "--save", "mask", "--device", "cpu")
    refineseg("predict", tmp_path / "in.png", "--out", tmp_path / "out", "--model", model, *views)
    reply = service.segment(png(photo), "scales=0.5,1&flip=true")
    assert reply.body == (tmp_path / "out" / "in.png").read_bytes()
    assert reply.body != service.segment(png(photo)).body


def test_a_client_chooses_among_the_models_that_the_operator_named(service, photo):
    names = [model["name"] for model in service.call("GET", "/v1/models").json["models"]]
    assert names == ["tiny", "other"]
    assert values(service.segment(png(photo)).body).max() <= 2
    areas = service.segment(png(photo), "model=other&output=areas").json
    assert {c["name"] for c in areas["classes"]} == {"a", "b", "c", "d"}
    for name in ("camvid", "../tiny", "/etc/passwd", "tiny.safetensors", "http://127.0.0.1/x"):
        reply = service.segment(png(photo), f"model={name}")
        assert reply.status == 422
        assert "expected a model of tiny, other" in reply.json["error"]


def test_areas_are_counted_pixels(service, photo):
    mask = values(service.segment(png(photo)).body)
    found = service.segment(png(photo), "output=areas").json
    assert (found["height"], found["width"], found["unknown"]) == (*mask.shape, 0)
    for row in found["classes"]:
        assert row["pixels"] == int((mask == row["index"]).sum())
        assert row["share"] == pytest.approx(row["pixels"] / mask.size)


def test_several_outputs_come_as_a_form_in_one_answer(service, photo):
    reply = service.segment(png(photo), "output=mask,areas,probabilities")
    message = message_from_bytes(b"Content-Type: " + reply.headers["content-type"].encode() + b"\r\n\r\n" + reply.body)
    parts = {
        part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
        for part in message.get_payload()
    }
    assert set(parts) == {"mask", "areas", "probabilities"}
    assert parts["mask"] == service.segment(png(photo)).body
    assert json.loads(parts["areas"])["width"] == photo.shape[1]
    with np.load(io.BytesIO(parts["probabilities"])) as stored:
        assert np.abs(stored["probabilities"].astype(np.float64).sum(axis=0) - 1).max() < 2e-3


def test_a_form_and_raw_bytes_give_the_same(service, photo):
    body = b'--xx\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'
    body += (
        b'--xx\r\nContent-Disposition: form-data; name="image"; filename="../../a.png"\r\n\r\n'
        + png(photo)
        + b"\r\n--xx--\r\n"
    )
    reply = service.segment(body, content_type="multipart/form-data; boundary=xx")
    assert reply.status == 200
    assert reply.body == service.segment(png(photo)).body


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"--xx\r\nContent-Disposition: form-data; name=b\r\n\r\nx\r\n--xx--\r\n", "multipart/form-data; boundary=xx"),
        (b"no form at all", "multipart/form-data; boundary=xx"),
        (b"x", "multipart/form-data"),
        (b"--xx\r\n" + b"A: b\r\n" * 5 + b"\r\n", "multipart/form-data; boundary=xx"),
        (b"--xx\r\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n" * 50, "multipart/form-data; boundary=xx"),
        (b"--xx\r\nA: " + b"b" * 10_000 + b"\r\n\r\n", "multipart/form-data; boundary=xx"),
    ],
)  # fmt: skip
def test_forms_without_an_image_are_refused_in_words(service, body, content_type):
    reply = service.segment(body, content_type=content_type)
    assert reply.status == 400
    assert "field image" in reply.json["error"]


def test_transparent_pixels_hold_no_data(service, photo):
    seen = np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)])
    seen[:10, :, 3] = 0
    reply = service.segment(png(seen))
    assert (values(reply.body)[:10] == 255).all()
    assert (values(reply.body)[10:] != 255).all()


def test_every_answer_has_an_id_that_the_log_has_too(service, photo):
    reply = service.segment(png(photo), x_request_id="my-own.id_7")
    assert reply.headers["x-request-id"] == "my-own.id_7"
    assert service.logged(r"^my-own\.id_7 POST /v1/segment 200 \d+ ms$")
    wrong = service.segment(b"nothing", x_request_id="a b")
    assert wrong.headers["x-request-id"] == wrong.json["request_id"] != "a b"


def test_health_readiness_and_numbers(service, photo):
    assert service.call("GET", "/healthz").status == 200
    assert service.call("GET", "/readyz").status == 200
    before = service.call("GET", "/metrics").body.decode()
    service.segment(png(photo))
    after = service.call("GET", "/metrics").body.decode()

    def count(text):
        found = re.search(r'refineseg_requests_total\{route="/v1/segment",status="200"\} (\S+)', text)
        return float(found[1]) if found else 0.0

    assert count(after) == count(before) + 1
    assert 'refineseg_stage_seconds_count{stage="predict"}' in after
    assert "refineseg_pending_images 0.0" in after
    assert "refineseg_reserved_bytes 0.0" in after


def test_unknown_addresses_do_not_become_labels(service):
    for i in range(5):
        assert service.call("GET", f"/{i}/..%2f..%2fetc/passwd").status == 404
    assert "passwd" not in service.call("GET", "/metrics").body.decode()


def test_the_page_and_its_files_are_local_and_under_a_strict_policy(service):
    page = service.call("GET", "/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    text = page.body.decode()
    assert not re.findall(r"(?:https?:)?//|<style|style=|onclick|javascript:", text)
    for name in re.findall(r'(?:href|src)="([^"]+)"', text):
        assert service.call("GET", f"/{name}").status == 200
    sample = service.call("GET", "/samples/avenue.png")
    with Image.open(io.BytesIO(sample.body)) as picture:
        assert picture.size == (640, 480)
    again = service.call("GET", "/style.css", if_none_match=service.call("GET", "/style.css").headers["etag"])
    assert (again.status, again.body) == (304, b"")


def test_other_sites_and_other_names_may_not_ask(service, photo):
    assert "access-control-allow-origin" not in service.segment(png(photo), origin="http://evil.example").headers
    assert service.segment(png(photo), sec_fetch_site="cross-site").status == 403
    other = service.segment(png(photo), host="evil.example")
    assert other.status == 403
    assert "--allow-host" in other.json["error"]


def test_a_token_is_asked_for_where_there_is_one(model, photo):
    with running({"tiny": model}, token="a-long-enough-secret") as service:
        for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic a-long-enough-secret"},
                      {"authorization": "Bearer a-long-enough-secretx"}, {"authorization": "Bearer \xff"}):  # fmt: skip
            reply = service.segment(png(photo), **given)
            assert reply.status == 401
            assert reply.headers["www-authenticate"] == "Bearer"
            assert "secret" not in reply.json["error"]
            assert service.call("GET", "/metrics", **given).status == 401
        right = {"authorization": "Bearer a-long-enough-secret"}
        assert service.segment(png(photo), **right).status == 200
        assert service.call("GET", "/metrics", **right).status == 200
        for open_to_all in ("/", "/healthz", "/readyz"):
            assert service.call("GET", open_to_all).status == 200
        assert not any("secret" in line for line in service.lines)


def test_wrong_queries_are_refused_in_words(service, photo):
    for query, words in {
        "output=masks": "expected output with some of mask",
        "output=": "expected output",
        "scales=a": "expected --scales as numbers",
        "scales=0": "expected 1 to",
        "scales=1e9": "expected 1 to",
        "flip=perhaps": "query.flip",
        f"model={'x' * 300}": "query.model",
    }.items():
        reply = service.segment(png(photo), query)
        assert (reply.status, words in reply.json["error"]) == (422, True), (query, reply.body)
    assert service.call("GET", "/v1/segment").status == 405
    assert service.call("GET", "/nowhere").json["error"].startswith("expected an address")


def test_large_results_are_streamed_with_their_length(service):
    image = np.zeros((700, 900, 3), np.uint8)
    image[::7, ::5] = 255
    reply = service.segment(png(image), "output=probabilities")
    assert int(reply.headers["content-length"]) == len(reply.body) > 2**18


def test_a_service_that_is_starting_says_so(model, photo, monkeypatch):
    from refineseg.serve.service import SegmentService

    monkeypatch.setattr(SegmentService, "warm_up", lambda self: None)
    with running({"tiny": model}, ready=False) as service:
        assert service.call("GET", "/healthz").status == 200
        assert service.call("GET", "/readyz").status == 503
        assert service.segment(png(photo)).status == 503


def test_a_request_that_takes_too_long_is_told_and_dropped(model, photo):
    with running({"tiny": model}, RequestLimits(request_s=0.0001)) as service:
        reply = service.segment(png(photo))
        assert reply.status == 504
        assert "expected a result within" in reply.json["error"]
