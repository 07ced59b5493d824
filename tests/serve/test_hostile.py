"""What strangers send: it is refused in words, nothing of theirs is opened, and the service lives."""

import contextlib
import io
import json
import socket
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from PIL import Image

from fakes.services import photograph, png, running
from refineseg.errors import RequestError
from refineseg.images.damage import _segments
from refineseg.serve import connections
from refineseg.serve.gate import Admission
from refineseg.serve.limits import RequestLimits, num_tiff_pages


@pytest.fixture(scope="module")
def service(model):
    limits = RequestLimits(max_bytes=200_000, max_pixels=300_000, max_frames=8, upload_s=0.6, memory_bytes=60_000_000)
    with running({"tiny": model}, limits) as found:
        yield found
        assert found.segment(png(photograph())).status == 200, "the service does not live"
        assert found.service.budget.reserved == 0
        assert found.service.pending == 0


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def declared(width, height, packed=b""):
    """A PNG that declares a size, whatever it holds."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def tiff_of_pages(count, *, last=0):
    """A TIFF whose directories are empty; the last one leads to ``last``."""
    pages = [struct.pack("<HI", 0, 8 + 6 * (i + 1) if i + 1 < count else last) for i in range(count)]
    return b"II*\0" + struct.pack("<I", 8) + b"".join(pages)


def jpeg_of_scans(count):
    buffer = io.BytesIO()
    Image.fromarray(photograph()).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    return data[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x3f\x3f\x00\x00" * count + data[-2:]


HOSTILE = {
    "empty": (b"", 422, "expected an image"),
    "text": (b"<html><script>alert(1)</script>", 422, "expected an image"),
    "path": (b"/etc/passwd", 422, "expected an image"),
    "pickle": (b"\x80\x04cos\nsystem\n(S'touch /tmp/owned'\ntR.", 422, "expected an image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 422, "expected an image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "expected an image"),
    "many pixels": (declared(5000, 5000, bytes(80_000)), 413, "at most 300000 pixels"),
    "many pixels, not square": (declared(5000, 5001, bytes(80_000)), 413, "at most 300000 pixels"),
    "bomb": (declared(540, 540, zlib.compress(b"")), 422, "decompression bomb"),
    "cut off": (png(photograph())[:400], 422, "expected"),
    "many pages": (tiff_of_pages(200), 422, "expected"),
    "endless pages": (tiff_of_pages(3, last=8), 422, "expected"),
    "many scans": (jpeg_of_scans(300), 413, "scans"),
    "many bytes": (bytes(300_000), 413, "at most 200000 bytes"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_uploads_are_refused_in_words(service, kind):
    content, status, words = HOSTILE[kind]
    reply = service.segment(content)
    assert (reply.status, words in reply.json["error"]) == (status, True), reply.body
    assert "Traceback" not in reply.body.decode()


def test_a_polyglot_is_what_its_pixels_are(service):
    """An image with a program behind it: the pixels are read, the rest is never looked at."""
    content = png(photograph())
    assert service.segment(content + b"#!/bin/sh\ntouch /tmp/owned\n").body == service.segment(content).body


def test_a_long_run_of_fill_bytes_takes_no_time():
    """A pattern that tries every beginning of the run took hours for two megabytes."""
    data = jpeg_of_scans(0)
    filled = data[:-2] + b"\xff" * 40_000 + b"\0" + data[-2:]
    start = time.monotonic()
    found = list(_segments(filled))
    assert time.monotonic() - start < 2
    assert [code for code, _, _ in found] == [code for code, _, _ in _segments(data)]
    padded = data[:-2] + b"\xff\xff" + data[-2:]  # fill bytes before a marker belong to no scan
    assert [end for _, _, end in _segments(padded)] == [end for _, _, end in _segments(data)]


def test_a_client_that_leaves_during_its_upload_is_no_fault(service):
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(b"POST /v1/segment HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000\r\n\r\nabc")
    assert service.logged(r"\b499\b"), service.lines
    assert not any("Traceback" in line for line in service.lines)


def test_pages_of_a_tiff_are_counted_no_further_than_needed():
    assert num_tiff_pages(tiff_of_pages(5), most=8) == 5
    assert num_tiff_pages(tiff_of_pages(500_000), most=8) == 9
    assert num_tiff_pages(tiff_of_pages(3, last=8), most=8) == 9
    assert num_tiff_pages(png(photograph()), most=8) == 0
    buffer = io.BytesIO()
    pages = [Image.fromarray(photograph()) for _ in range(4)]
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    assert num_tiff_pages(buffer.getvalue(), most=8) == 4


def test_a_tiff_of_many_real_pages_is_refused(service):
    buffer = io.BytesIO()
    pages = [Image.fromarray(np.zeros((8, 8, 3), np.uint8)) for _ in range(12)]
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    reply = service.segment(buffer.getvalue())
    assert (reply.status, "at most 8 pictures" in reply.json["error"]) == (413, True)


def test_pixels_are_counted_at_the_largest_scale(service):
    reply = service.segment(png(photograph((300, 300))), "scales=1,2")
    assert (reply.status, "at the largest scale" in reply.json["error"]) == (413, True)


def test_memory_is_reserved_before_anything_is_decoded(model):
    with running({"tiny": model}, RequestLimits(memory_bytes=200_000)) as service:
        reply = service.segment(png(photograph((300, 300))))
        assert (reply.status, "memory" in reply.json["error"]) == (413, True)
        assert service.segment(png(photograph((30, 30)))).status == 200


@contextlib.contextmanager
def connected(service):
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as link:
        yield link


def received(link):
    """Everything until the other side closes."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := link.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_a_slow_body_is_given_up(service):
    with connected(service) as link:
        link.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
        begin = time.monotonic()
        answer = received(link)
    assert time.monotonic() - begin < 10
    assert b" 408 " in answer
    assert b"expected the whole upload within 0.6 s" in answer


def test_a_body_without_a_length_is_counted_while_it_comes(service):
    piece = b"%x\r\n" % 50_000 + bytes(50_000) + b"\r\n"
    with connected(service) as link:
        link.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(6):
            link.sendall(piece)
        link.sendall(b"0\r\n\r\n")
        assert b"at most 200000 bytes" in received(link)


def test_a_client_that_waits_for_leave_is_told_before_it_sends(service):
    with connected(service) as link:
        head = b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999\r\nExpect: 100-continue\r\n\r\n"
        link.sendall(head)
        assert b" 413 " in received(link)


def test_a_huge_header_is_refused(service):
    with connected(service) as link:
        with contextlib.suppress(ConnectionError):
            link.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000)
        answer = received(link)
    assert b" 431 " in answer
    assert b"expected a header of at most" in answer


def test_a_header_that_does_not_end_is_given_up(model, monkeypatch):
    monkeypatch.setattr(connections, "HEADER_S", 0.4)
    with running({"tiny": model}) as service:
        for begun in (b"", b"GET /healthz HTT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"):
            with connected(service) as link:
                link.sendall(begun)
                assert b" 408 " in received(link)
        with connected(service) as link:  # a second request on a connection, too
            link.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea")
            answer = received(link)
        assert answer.count(b"HTTP/1.1 200") == 1
        assert b" 408 " in answer


@pytest.mark.parametrize(
    "sent", [b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GARBAGE\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"]
)
def test_what_is_no_http_is_refused(service, sent):
    with connected(service) as link:
        link.sendall(sent + b"\r\n\r\n")
        answer = received(link)
    assert answer == b"" or b" 400 " in answer or b" 200 " in answer


def test_a_client_that_leaves_does_not_hold_its_place(service):
    body = png(photograph((500, 500)))
    for _ in range(5):
        with connected(service) as link:
            head = f"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            link.sendall(head.encode() + body)
    deadline = time.monotonic() + 20
    while service.service.pending and time.monotonic() < deadline:
        time.sleep(0.05)
    assert service.service.pending == 0


def test_many_tiny_requests_are_answered(service):
    """Bounded: two thousand in all, on eight connections at a time."""

    def asked(number):
        return service.call("POST", f"/v1/segment?n={number}", b"x").status

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(asked, range(2000))) == {422}


def test_the_log_is_printable_by_its_printer_and_has_no_line_of_a_client(service):
    service.call("GET", "/%0Afake%20line%1b[2J")
    from refineseg.terminal.printable import printable

    assert service.logged("fake line")
    assert all(len(printable(line).splitlines()) == 1 for line in service.lines)


def test_a_body_of_the_largest_size_is_taken_and_json_errors_are_json(service):
    noise = np.random.default_rng(0).integers(0, 256, (250, 260, 3), np.uint8)
    content = png(noise)
    assert 190_000 < len(content) < 200_000
    assert service.segment(content).status == 200
    assert json.loads(service.segment(b"x").body)["request_id"]


def is_closed_within(connection, seconds):
    connection.settimeout(seconds)
    try:
        while connection.recv(65536):
            pass
    except (ConnectionResetError, BrokenPipeError):
        return True
    except TimeoutError:
        return False
    return True


QUIET = {
    "a line break after an answer": (b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", b"\r\n"),
    "a body that does not come": (b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 999999\r\n\r\n", b"a"),
    "a trailer without end": (
        b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", QUIET)
def test_connections_that_end_no_request_are_closed(model, monkeypatch, kind):
    """A byte after an answer ended uvicorn's timer, and no other one ran."""
    monkeypatch.setattr(connections, "HEADER_S", 0.5)
    monkeypatch.setattr(connections, "_LINGER_S", 0.5)
    request, more = QUIET[kind]
    with running({"tiny": model}) as service, socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(request)
        assert b"200 OK" in connection.recv(65536)
        connection.sendall(more)
        assert is_closed_within(connection, 10)


def test_a_trailer_is_not_kept(model):
    head = b"POST /v1/segment HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
    with running({"tiny": model}) as service, socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(head)
        with contextlib.suppress(ConnectionError):
            for _ in range(400):
                connection.sendall(b"a: b\r\n" * 2000)
        assert is_closed_within(connection, 10)
        assert service.call("GET", "/healthz").status == 200


def test_who_runs_a_service_reaches_it_by_other_names_than_strangers():
    admission = Admission.at("0.0.0.0", token=None, allowed=("Masks.example.org:8000",))
    for host in (b"masks.example.org", b"MASKS.example.org:8000", b"127.0.0.1:8000", b"localhost"):
        admission.check("/v1/models", {b"host": host})
    for path in ("/healthz", "/readyz"):
        admission.check(path, {b"host": b"10.1.2.3:8000"})
    with pytest.raises(RequestError, match="--allow-host"):
        admission.check("/v1/models", {b"host": b"evil.example.com"})


def test_what_is_no_request_is_refused_in_the_words_of_the_service(service):
    for wrong in (b"\x16\x03\x01\x02\x00 tls", b"GET / HTTP/1.1\r\ncontent-length: x\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
            connection.sendall(wrong)
            head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request")
        assert b"x-request-id" in head
        assert json.loads(body)["error"].startswith("expected an HTTP request")


def test_a_client_that_leaves_before_its_answer_is_no_timeout(service):
    content = png(photograph((400, 500)))
    head = b"POST /v1/segment HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n\r\n" % len(content)
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
            connection.sendall(head + content)
    assert service.segment(png(photograph())).status == 200
    assert not any(" 504 " in line for line in service.lines), service.lines


def test_a_big_tiff_whose_next_page_lies_beyond_all_files_has_one_page():
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, photograph(), bigtiff=True, byteorder="<", photometric="rgb")
    data = bytearray(buffer.getvalue())
    (place,) = struct.unpack_from("<Q", data, 8)
    (count,) = struct.unpack_from("<Q", data, place)
    struct.pack_into("<Q", data, place + 8 + 20 * count, 2**63)
    assert num_tiff_pages(bytes(data), most=8) == 1
