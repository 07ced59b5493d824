"""What holds for every request: its id, who may ask, headers of safety, numbers, a line in the log, errors in words.

In and out: an ASGI application.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from refineseg.errors import RequestError
from refineseg.serve.metrics import ServiceMetrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
_SAFETY = [
    (name.encode(), value.encode())
    for name, value in {
        "content-security-policy": CONTENT_POLICY,
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-embedder-policy": "require-corp",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    }.items()
]
_GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
_PROBED = ("/healthz", "/readyz")  # by whoever runs the service, under the address of its machine; they tell nothing
_SEND_S = 60.0  # in which a client must take a piece of an answer
_ROUTES = ("/v1/segment", "/v1/models", "/healthz", "/readyz", "/metrics", "/openapi.json")


@dataclass(frozen=True)
class Admission:
    """Who may ask.

    Args:
        token: Token that every call of the API and the numbers must show; None: anybody may call.
        hosts: Names under which the service is reached; a request under another is a trick of a web page. Empty: any.
    """

    token: str | None = None
    hosts: tuple[str, ...] = ()

    @classmethod
    def at(cls, host: str, *, token: str | None, allowed: tuple[str, ...] = ()) -> Admission:
        """Of a service that is bound to an address.

        Args:
            host: Address; on a loopback one only local names are taken, beside those that are allowed.
            token: As above.
            allowed: Further names.
        """
        local = host in ("localhost", "::1") or host.startswith("127.")
        named = (*map(_host_name, allowed), f"[{host}]" if ":" in host else host)
        return cls(token, (*_LOCAL_HOSTS, *named) if local or allowed else ())

    def check(self, path: str, headers: dict[bytes, bytes]) -> None:
        """Whether a request may go on.

        Raises:
            RequestError: It may not.
        """
        name = _host_name(headers.get(b"host", b"").decode("latin-1"))
        if self.hosts and name not in self.hosts and path not in _PROBED:
            raise RequestError(
                f"expected a request to {', '.join(self.hosts[:3])}, got one to {name[:100]!r}; if the service is "
                "meant to be reached so, start it with --allow-host",
                status=403,
            )
        if path.startswith("/v1/") and headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site"):
            raise RequestError("expected a request of the service's own page, got one of another site", status=403)
        if self.token is not None and (path.startswith("/v1/") or path in ("/metrics", "/openapi.json")):
            given = headers.get(b"authorization", b"")
            scheme, _, shown = given.partition(b" ")
            digests = (hashlib.sha256(text).digest() for text in (shown.strip(), self.token.encode()))
            if not (hmac.compare_digest(*digests) and scheme.lower() == b"bearer"):
                raise RequestError(
                    "expected the header 'Authorization: Bearer TOKEN' with the token of this service, got "
                    f"{'another' if given else 'none'}",
                    status=401,
                )


def _host_name(host: str) -> str:
    return re.sub(r":\d*$", "", host).lower()


class Gate:
    """An ASGI application around another.

    Args:
        app: The other.
        admission: Rules of who may ask.
        metrics: Where requests are counted.
        log: Called with one line per request, and with the lines of errors that nobody expected.
    """

    def __init__(self, app: Any, admission: Admission, metrics: ServiceMetrics, log: Callable[[str], None]) -> None:  # noqa: ANN401 - ASGI
        self._app, self._admission, self._metrics, self._log = app, admission, metrics, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, path = time.monotonic(), str(scope["path"])
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _GIVEN_ID.fullmatch(given) else uuid.uuid4().hex[:16]
        scope.setdefault("state", {})["request_id"] = request_id
        status, started = 500, False

        async def answering(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                started, status = True, message["status"]
                message["headers"] = [*message["headers"], *_SAFETY, (b"x-request-id", request_id.encode())]
            async with asyncio.timeout(_SEND_S):
                await send(message)

        try:
            try:
                self._admission.check(path, headers)
            except RequestError as error:
                await refuse(answering, error, request_id)
            else:
                await self._app(scope, receive, answering)
        except Exception as error:  # noqa: BLE001 - of our own making: it is logged, and the service goes on
            for line in "".join(traceback.format_exception(error)).rstrip().split("\n"):
                self._log(f"{request_id} {line}")
            if not started:
                text = "expected to answer, but the service failed; its operator finds the reason in the log"
                await refuse(answering, RequestError(text, status=500), request_id)
        finally:
            seconds = time.monotonic() - begin
            self._metrics.answered(path if path in _ROUTES else "page", status, seconds)
            self._log(f"{request_id} {scope['method']} {path[:200]} {status} {1000 * seconds:.0f} ms")


async def refuse(send: Send, error: RequestError, request_id: str) -> None:
    """Answer with an error in words."""
    body, headers = error_body(error, request_id)
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def error_body(error: RequestError, request_id: str) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Body and headers of an answer that is an error."""
    import json

    body = json.dumps({"error": str(error), "request_id": request_id}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status in (400, 401, 403, 408, 413):  # what is left of the request is not read
        headers.append((b"connection", b"close"))
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    return body, headers
