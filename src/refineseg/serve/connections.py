"""Connections that send a header which is too large or too slow, or that never end, are answered and closed.

In: bytes of a connection. Out: what uvicorn makes of them, or a refusal. uvicorn's fast parser has no limits.
"""

from __future__ import annotations

import asyncio
import uuid
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from refineseg.errors import RequestError
from refineseg.serve.gate import error_body

HEADER_BYTES = 16_384
"""Most bytes of a request's line and header."""
HEADER_S = 10.0
"""Seconds in which they must have arrived."""
_FRAMING_BYTES, _FRAMING_SHARE = 1 << 20, 16  # of a request's body that are no body: chunks of one byte take six
_LINGER_S = 5.0  # in which a client must have sent what it announced, once it is answered
_STUCK_S = 90.0  # in which a client must take something of an answer


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits on headers.

    It overrides methods of a library's class, because uvicorn makes its connections of such a class and has no other
    place to ask before a header is complete.
    """

    _header_bytes = _body_bytes = _received_bytes = 0
    _in_header = True
    _is_complete = True  # nothing more comes of the request
    _too_late: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self._await_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._forget_timer()
        self._forget_stuck()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not take what it is sent; a transport that is closed would wait for that, too."""
        super().pause_writing()
        self._stuck = self.loop.call_later(_STUCK_S, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        self._forget_stuck()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Bytes came; those of a header are counted."""
        while data and self.parser is not None and not self.transport.is_closing():
            if not self._in_header:
                self._received_bytes += len(data)
                super().data_received(data)
                break
            room = HEADER_BYTES - self._header_bytes
            if room <= 0:
                self._refuse(431, f"expected a header of at most {HEADER_BYTES} bytes, got more; send fewer or shorter")
                return
            piece, data = data[:room], data[room:]
            self._header_bytes += len(piece)
            super().data_received(piece)
        if self._received_bytes - self._body_bytes > _FRAMING_BYTES + _FRAMING_SHARE * self._body_bytes:
            self.transport.abort()  # a trailer without end
        elif self._is_idle and self._too_late is None and self.timeout_keep_alive_task is None:
            self._await_header()  # any byte ends uvicorn's timer

    @property
    def _is_idle(self) -> bool:
        cycle = cast(Any, self.cycle)
        return not self.transport.is_closing() and (cycle is None or cycle.response_complete)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_header, self._is_complete = True, False
        if self._too_late is None:
            self._await_header()

    def on_headers_complete(self) -> None:
        """Its header is complete."""
        self._in_header, self._header_bytes = False, 0
        self._body_bytes = self._received_bytes = 0
        self._forget_timer()
        super().on_headers_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the header; those behind a body are not kept."""
        if self._in_header:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._is_complete = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """It is answered; what a client announced and does not send is not waited for."""
        super().on_response_complete()
        if not self._is_complete:
            self.loop.call_later(_LINGER_S, self._end_incomplete)

    def _end_incomplete(self) -> None:
        if not self._is_complete and self._is_idle:
            self.transport.abort()

    def _await_header(self) -> None:
        self._too_late = self.loop.call_later(HEADER_S, self._on_late)

    def _forget_timer(self) -> None:
        if self._too_late is not None:
            self._too_late.cancel()
            self._too_late = None

    def _forget_stuck(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _on_late(self) -> None:
        self._too_late = None
        self._refuse(408, f"expected a complete header within {HEADER_S:g} s, got a part of one; send it at once")

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, in the words of this service."""
        self._refuse(400, f"expected an HTTP request, got another one ({msg.rstrip('.')})")

    def _refuse(self, status: int, text: str) -> None:
        cycle = cast(Any, self.cycle)
        if cycle is None or cycle.response_complete:  # else another answer is on its way
            request_id = uuid.uuid4().hex[:16]
            body, headers = error_body(RequestError(text, status=status), request_id)
            headers = [*dict([*headers, (b"connection", b"close")]).items(), (b"x-request-id", request_id.encode())]
            lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode(), *(b": ".join(one) for one in headers)]
            self.transport.write(b"\r\n".join([*lines, b"", body]))
        self.transport.close()
