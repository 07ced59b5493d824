"""The process of the service: it starts, tells its address, and ends in order; the only door to ``uvicorn``'s server.

In: an application, an address. Out: nothing; it returns after SIGTERM or Ctrl-C, when all accepted requests are done.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from refineseg.errors import ConfigError
from refineseg.serve.connections import LimitedProtocol

_MOST_CONNECTIONS = 1024
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Lines(logging.Handler):
    """uvicorn's own messages as lines of the log."""

    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Log a message; its traceback, if any, has been logged where the error was caught."""
        self._log(f"- {record.getMessage()}")


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    Args:
        host: Name or address.
        port: Port; 0: any free one.

    Raises:
        ConfigError: The address is taken, is not of this machine, or may not be used.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(found[0], socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"expected an address of this machine as --host, got {host!r} ({error})") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(found[4])
        listening.listen(2048)  # whoever reads the address may connect at once
        listening.set_inheritable(True)
    except OSError as error:
        listening.close()
        what = "that is free" if error.errno == errno.EADDRINUSE else "that may be used"
        raise ConfigError(
            f"expected an address {what}, got {host}:{port} ({error.strerror}); choose another --port, or 0 for any"
        ) from error
    return listening


def address_of(listening: socket.socket) -> str:
    """What a person types into a browser."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _signals_of_uvicorn() -> Iterator[None]:
    """Around uvicorn, which takes the signals over and raises them again when it has ended in order."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    """uvicorn's server, which tells when it answers, and when signals end it in order.

    Args:
        config: Configuration.
        begun: Called then.
    """

    def __init__(self, config: uvicorn.Config, begun: Callable[[], None]) -> None:
        super().__init__(config)
        self._begun = begun

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets=sockets)
        self._begun()


def run_service(
    app: Any,  # noqa: ANN401 - ASGI
    listening: socket.socket,
    *,
    grace_s: float,
    log: Callable[[str], None],
    begun: Callable[[], None] = lambda: None,
) -> None:
    """Serve until a signal; accepted requests are finished first.

    Args:
        app: ASGI application.
        listening: Socket of :func:`bound_socket`.
        grace_s: Seconds that accepted requests have after the signal.
        log: Called with uvicorn's warnings.
        begun: Called when it answers, and signals end it in order.
    """
    logger = logging.getLogger("uvicorn.error")
    handler = _Lines(log)
    logger.addHandler(handler)
    logger.propagate = False
    config = uvicorn.Config(
        app,
        http=LimitedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(grace_s)),
    )
    try:
        with _signals_of_uvicorn():
            asyncio.run(_Server(config, begun).serve([listening]))
    finally:
        logger.removeHandler(handler)
