"""Connections that send a header which is too large or too slow are answered and closed.

In: bytes of a connection. Out: what uvicorn makes of them, or a refusal. uvicorn's fast parser has no limits.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_BYTES = 16_384
"""Most bytes of a request's line and header."""
HEADER_S = 10.0
"""Seconds in which they must have arrived."""


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits on headers.

    It overrides methods of a library's class, because uvicorn makes its connections of such a class and has no other
    place to ask before a header is complete.
    """

    _header_bytes = 0
    _in_header = True
    _too_late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self._await_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._forget_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came; those of a header are counted."""
        while data and self.parser is not None and not self.transport.is_closing():
            if not self._in_header:
                super().data_received(data)
                return
            room = HEADER_BYTES - self._header_bytes
            if room <= 0:
                self._refuse(431, f"expected a header of at most {HEADER_BYTES} bytes, got more; send fewer or shorter")
                return
            piece, data = data[:room], data[room:]
            self._header_bytes += len(piece)
            super().data_received(piece)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_header = True
        if self._too_late is None:
            self._await_header()

    def on_headers_complete(self) -> None:
        """Its header is complete."""
        self._in_header, self._header_bytes = False, 0
        self._forget_timer()
        super().on_headers_complete()

    def _await_header(self) -> None:
        self._too_late = self.loop.call_later(HEADER_S, self._on_late)

    def _forget_timer(self) -> None:
        if self._too_late is not None:
            self._too_late.cancel()
            self._too_late = None

    def _on_late(self) -> None:
        self._too_late = None
        self._refuse(408, f"expected a complete header within {HEADER_S:g} s, got a part of one; send it at once")

    def _refuse(self, status: int, text: str) -> None:
        cycle = cast(Any, self.cycle)
        if cycle is None or cycle.response_complete:  # else another answer is on its way
            body = json.dumps({"error": text}).encode()
            head = (
                f"HTTP/1.1 {status} {'Request Timeout' if status == 408 else 'Request Header Fields Too Large'}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()
