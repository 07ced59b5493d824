"""The image in a form that a browser or ``curl -F`` sends; the only door to ``python_multipart``.

In: the complete body, in memory. Out: the bytes of the field ``image``. Nothing is written to a disk.
"""

from __future__ import annotations

from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from refineseg.errors import RequestError

FIELD = "image"
"""Name of the field that holds the image."""

_MOST_PARTS = 20
_MOST_HEADER = 4096


class _Parts:
    """Collects the bytes of the first field of the right name."""

    def __init__(self) -> None:
        self.found: list[bytes] | None = None
        self.complete = False
        self._count = 0
        self._name, self._value, self._disposition = b"", b"", b""
        self._wanted = False

    def begin(self) -> None:
        self._count += 1
        self._disposition, self._wanted = b"", False
        if self._count > _MOST_PARTS:
            raise _refused(f"more than {_MOST_PARTS} fields")

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]
        self._check_header()

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._check_header()

    def _check_header(self) -> None:
        if len(self._name) + len(self._value) > _MOST_HEADER:
            raise _refused(f"a header of more than {_MOST_HEADER} bytes")

    def header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def headers_finished(self) -> None:
        name = parse_options_header(self._disposition)[1].get(b"name")
        self._wanted = self.found is None and name == FIELD.encode()
        if self._wanted:
            self.found = []

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted and self.found is not None:
            self.found.append(data[start:end])

    def end(self) -> None:
        self.complete = True


def _refused(got: str) -> RequestError:
    return RequestError(
        f"expected a form whose field {FIELD} is an image file, got {got}; send it as curl -F {FIELD}=@photo.jpg does, "
        "or the bytes of the file alone",
        status=400,
    )


def image_of_form(body: bytes, content_type: str) -> bytes:
    """The image file in a form.

    Args:
        body: The whole form.
        content_type: Value of its header, with the boundary.

    Raises:
        RequestError: No such form, no such field, or more fields than anybody needs.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise _refused("one without a boundary")
    parts = _Parts()
    callbacks: Any = {
        "on_part_begin": parts.begin,
        "on_header_field": parts.header_name,
        "on_header_value": parts.header_value,
        "on_header_end": parts.header_end,
        "on_headers_finished": parts.headers_finished,
        "on_part_data": parts.data,
        "on_part_end": parts.end,
    }
    try:
        parser = MultipartParser(boundary, callbacks)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise _refused(f"one that is damaged ({error})") from error
    if parts.found is None or not parts.complete:
        raise _refused("none")
    return b"".join(parts.found)
