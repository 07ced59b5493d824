"""The HTTP interface; the only door to ``fastapi``.

In: a :class:`~refineseg.serve.service.SegmentService`. Out: an ASGI application: ``POST /v1/segment``,
``GET /v1/models``, ``/healthz``, ``/readyz``, ``/metrics``, ``/openapi.json``, and the page.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from refineseg._version import __version__
from refineseg.errors import ConfigError, ImageError, MissingExtraError, RefinesegError, RequestError
from refineseg.predict.views.scoring_views import parse_scales
from refineseg.serve import metrics as numbers
from refineseg.serve.answers import ANSWERS, Answer, parse_outputs
from refineseg.serve.forms import FIELD, image_of_form
from refineseg.serve.gate import Admission, Gate, error_body
from refineseg.serve.limits import Reservation
from refineseg.serve.page_files import ServedFiles
from refineseg.serve.service import Ask, ImageRequest, SegmentService

_CHUNK = 1 << 18
_SENT_S = 600.0  # in which a client must have taken a whole answer
_DRAINED_BYTES = 256_000_000
_DRAINED_S = 3.0

_ERROR = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["error", "request_id"],
            "properties": {"error": {"type": "string"}, "request_id": {"type": "string"}},
        }
    }
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "No such form, or a damaged request.", "content": _ERROR},
    401: {"description": "No token, or a wrong one.", "content": _ERROR},
    403: {"description": "A request under another name, or of another site.", "content": _ERROR},
    408: {"description": "The upload took too long.", "content": _ERROR},
    413: {"description": "More bytes, pixels, pictures or memory than the service takes.", "content": _ERROR},
    422: {"description": "No image, or no such model, output or scales.", "content": _ERROR},
    429: {"description": "As many images wait as may; see Retry-After.", "content": _ERROR},
    501: {"description": "An optional package of the server is not installed.", "content": _ERROR},
    503: {"description": "The service is starting or ending.", "content": _ERROR},
    504: {"description": "The result took too long.", "content": _ERROR},
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "requestBody": {
        "required": True,
        "description": f"The bytes of an image file, or a form whose field `{FIELD}` is one.",
        "content": {
            "application/octet-stream": _BINARY,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}
_RESULTS = dict.fromkeys(dict.fromkeys(kind.content_type for kind in ANSWERS.values()), _BINARY)
_RESULTS["application/json"] = {"schema": {"type": "object"}}
_RESULTS["application/geo+json"] = {"schema": {"type": "object"}}
_RESULTS["multipart/form-data"] = {"schema": {"type": "object"}}


async def _drain(request: Request) -> None:
    """Read the rest of a refused upload for a moment: a client that still sends would not see the answer."""
    if request.headers.get("expect", "").lower() == "100-continue":
        return
    left = _DRAINED_BYTES
    try:
        async with asyncio.timeout(_DRAINED_S):
            while left > 0:
                message = await request.receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return


async def _read_body(request: Request, service: SegmentService, held: Reservation) -> bytes:
    """The whole body, within the limits of bytes and time.

    Raises:
        RequestError: It is too large, too slow, or there is no room for it.
    """
    limits = service.limits
    try:
        declared = int(request.headers.get("content-length", "0"))
        limits.check_declared_bytes(declared)
        held.grow(declared)
        chunks, size = list[bytes](), 0
        async with asyncio.timeout(limits.upload_s):
            async for chunk in request.stream():
                size += len(chunk)
                limits.check_declared_bytes(size)
                if size > declared:  # sent in pieces, without a length
                    held.grow(size - declared)
                    declared = size
                chunks.append(chunk)
    except TimeoutError as error:
        raise RequestError(
            f"expected the whole upload within {limits.upload_s:g} s, got a part of it; send it faster", status=408
        ) from error
    except ClientDisconnect as error:
        raise RequestError("expected the whole upload, but the client went away", status=499) from error
    except RequestError:
        await _drain(request)
        raise
    return b"".join(chunks)


async def _finished(http: Request, request: ImageRequest, limit_s: float) -> Answer:
    """The answer, unless it takes too long or the client goes away: then the image is dropped where it waits."""
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()
    request.future.add_done_callback(lambda _: loop.call_soon_threadsafe(arrived.set))
    result, gone = asyncio.create_task(arrived.wait()), asyncio.create_task(_disconnected(http))
    try:
        await asyncio.wait({result, gone}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        left = gone.done()
    finally:
        result.cancel()
        gone.cancel()
        request.dropped = not request.future.done()
    if request.dropped and left:
        raise RequestError("expected to answer, but the client went away", status=499)
    if request.dropped:
        raise RequestError(
            f"expected a result within {limit_s:g} s, got none; try again, or shrink the image", status=504
        )
    return request.future.result()


async def _disconnected(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _pieces(body: bytes | memoryview) -> AsyncIterator[bytes]:
    view = memoryview(body)
    for start in range(0, len(view), _CHUNK):
        yield bytes(view[start : start + _CHUNK])


class _HeldResponse(StreamingResponse):
    """An answer in pieces; its memory is reserved until it is sent, or given up.

    Args:
        body: All bytes.
        held: What is reserved for them.
        media_type: Media type.
        headers: Further headers.
    """

    def __init__(
        self, body: bytes | memoryview, held: Reservation, *, media_type: str, headers: Mapping[str, str]
    ) -> None:
        super().__init__(_pieces(body), media_type=media_type, headers=headers)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            async with asyncio.timeout(_SENT_S):
                await super().__call__(scope, receive, send)
        finally:
            self._held.release()


def _sent(found: Answer, held: Reservation) -> Response:
    headers = {"cache-control": "no-store"}
    if found.file_name:
        headers["content-disposition"] = f'inline; filename="{found.file_name}"'
    if found.notes:
        headers["x-note"] = "; ".join(found.notes).encode("ascii", "replace").decode()[:500]
    if len(found.body) <= _CHUNK:
        return Response(bytes(found.body), media_type=found.content_type, headers=headers)
    headers["content-length"] = str(len(found.body))
    held.grow(len(found.body))
    return _HeldResponse(found.body, held, media_type=found.content_type, headers=headers)


async def _warm_up(service: SegmentService, log: Callable[[str], None]) -> None:
    try:
        await asyncio.to_thread(service.warm_up)
    except Exception as error:  # noqa: BLE001 - the service says that it is not ready
        log(f"warm-up failed: {error}")


def create_app(
    service: SegmentService, *, admission: Admission | None = None, log: Callable[[str], None] = lambda line: None
) -> Gate:
    """The application.

    Args:
        service: What computes; it is warmed up when the application starts, and closed when it ends.
        admission: Rules of who may ask; None: anybody may.
        log: Called with each line of the log.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.create_task(_warm_up(service, log))
        yield
        await asyncio.to_thread(service.close)
        await asyncio.gather(warming, return_exceptions=True)

    app = FastAPI(
        title="refineseg",
        version=__version__,
        description="Semantic segmentation of images. Errors are words in the field `error`.",
        docs_url=None,  # these pages fetch scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    _add_errors(app)
    _add_segment(app, service)
    _add_facts(app, service)
    _add_page(app, ServedFiles())
    return Gate(app, admission or Admission(), service.metrics, log)


def _add_errors(app: FastAPI) -> None:
    def answered(request: Request, error: RequestError) -> Response:
        body, headers = error_body(error, request.state.request_id)
        return Response(body, error.status, {k.decode(): v.decode() for k, v in headers})

    @app.exception_handler(RefinesegError)
    def deliberate(request: Request, error: RefinesegError) -> Response:
        if isinstance(error, RequestError):
            return answered(request, error)
        status = (
            422 if isinstance(error, ImageError | ConfigError) else 501 if isinstance(error, MissingExtraError) else 500
        )
        return answered(request, RequestError(str(error), status=status))

    @app.exception_handler(RequestValidationError)
    def wrong_query(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:100]
        text = f"expected another value of {where}: {first['msg']}; see /openapi.json"
        return answered(request, RequestError(text, status=422))

    @app.exception_handler(Exception)
    def unexpected(request: Request, _: Exception) -> Response:  # which is raised again, and logged by the gate
        text = "expected to answer, but the service failed; its operator finds the reason in the log"
        return answered(request, RequestError(text, status=500))

    @app.exception_handler(HTTPException)
    def no_such_place(request: Request, error: HTTPException) -> Response:
        text = {
            404: "expected an address of this service, got another; /openapi.json lists them",
            405: "expected another method at this address; see /openapi.json",
        }.get(error.status_code, str(error.detail))
        response = answered(request, RequestError(text, status=error.status_code))
        response.headers.update(error.headers or {})
        return response


def _add_segment(app: FastAPI, service: SegmentService) -> None:
    known_model = Query(
        default=None,
        max_length=200,
        description="A name of /v1/models; else the first.",
        json_schema_extra={"enum": [*service.models, None]},
    )

    @app.post(
        "/v1/segment",
        responses={200: {"description": "The result.", "content": _RESULTS}, **_REFUSALS},
        openapi_extra=_BODY,
        response_class=Response,
    )
    async def segment(
        request: Request,
        model: str | None = known_model,
        output: Annotated[
            str,
            Query(
                max_length=200,
                description=f"{', '.join(ANSWERS)}; several, with commas, come as a form.",
                json_schema_extra={"pattern": "^({0})(,({0}))*$".format("|".join(ANSWERS))},
            ),
        ] = "mask",
        scales: Annotated[
            str,
            Query(
                max_length=200,
                description="Scales whose probabilities are averaged: 0.5,1,1.5.",
                json_schema_extra={"pattern": r"^[0-9.]+(,[0-9.]+)*$"},
            ),
        ] = "1",
        flip: Annotated[bool, Query(description="Average with the mirrored image.")] = False,
    ) -> Response:
        """Segment an image: its class mask as a palette PNG, or what `output` names."""
        held = Reservation(service.budget)
        try:
            ask = Ask(service.find_model(model), parse_outputs(output), parse_scales(scales), flip)
            if not service.is_ready:
                raise RequestError("expected a service that is ready, got one that is starting or ending; try again",
                                   status=503, retry_after_s=2)  # fmt: skip
            service.check_room()
        except RefinesegError:
            await _drain(request)
            raise
        try:
            content = await _read_body(request, service, held)
            content_type = request.headers.get("content-type", "")
            if content_type.lower().startswith("multipart/form-data"):
                content = await asyncio.to_thread(image_of_form, content, content_type)
        except BaseException:
            held.release()
            raise
        job = await asyncio.to_thread(service.submit, content, ask, held)  # it looks through the file
        del content
        found = await _finished(request, job, service.limits.request_s)
        return _sent(found, Reservation(service.budget))


def _add_facts(app: FastAPI, service: SegmentService) -> None:
    @app.get("/v1/models", responses={401: _REFUSALS[401], 403: _REFUSALS[403]})
    async def models() -> JSONResponse:
        """The models with their classes, the outputs, and the limits; the first model is the usual one."""
        limits = service.limits
        return JSONResponse(
            {
                "models": [model.to_json() for model in service.models.values()],
                "outputs": list(ANSWERS),
                "limits": {"bytes": limits.max_bytes, "pixels": limits.max_pixels, "seconds": limits.request_s},
            }
        )

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        """Whether the process lives."""
        return JSONResponse({"status": "alive"})

    @app.get("/readyz", responses={503: {"description": "Not every model is warmed up yet."}})
    async def readyz() -> JSONResponse:
        """Whether every model has been warmed up, and the service is not ending."""
        ready = service.is_ready
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    @app.get("/metrics", response_class=Response, responses={401: _REFUSALS[401], 200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        text = service.metrics.text(pending=service.pending, reserved=service.budget.reserved)
        return Response(text, media_type=numbers.CONTENT_TYPE)


def _add_page(app: FastAPI, files: ServedFiles) -> None:
    async def page(request: Request) -> Response:
        file = await asyncio.to_thread(files.find, request.url.path.lstrip("/"))
        headers = {"etag": file.etag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == file.etag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.content_type, headers=headers)

    for address in files.addresses:
        app.add_api_route(f"/{address}", page, methods=["GET"], include_in_schema=False)
