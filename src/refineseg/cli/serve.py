"""``refineseg serve``: wiring only, heavy imports inside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from refineseg.cli.app import BackendName, Device, Precision, messages, verb
from refineseg.errors import ConfigError
from refineseg.terminal.arguments import check_input_file, check_number
from refineseg.terminal.printing import print_lines

_WHO, _LIMITS, _CORES = "Who may ask", "Limits of a request", "Cores"
_TOKEN = "REFINESEG_TOKEN"
_LEAST_TOKEN = 16


Models = Annotated[
    list[str] | None,
    typer.Option(
        help="Model that clients choose: a shipped name (camvid, camvid_nano, nyud, nyud_lite2), a file, or NAME=FILE; "
        "repeat it for several. By default camvid.",
    ),
]
Host = Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine.")]
Port = Annotated[int, typer.Option(help="Port to listen at; 0 for any free one.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        help=f"File with the token that calls must show; or set the environment variable {_TOKEN}.",
        rich_help_panel=_WHO,
    ),
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        help="Name under which a gateway reaches the service, for instance masks.example.org; repeat it for several.",
        rich_help_panel=_WHO,
    ),
]
MaxBytes = Annotated[str, typer.Option(help="Most bytes of an upload, for instance 32MB.", rich_help_panel=_LIMITS)]
MaxPixels = Annotated[int, typer.Option(help="Most pixels of an image.", rich_help_panel=_LIMITS)]
UploadSeconds = Annotated[float, typer.Option(help="Seconds in which an upload must arrive.", rich_help_panel=_LIMITS)]
Seconds = Annotated[float, typer.Option(help="Seconds from the upload to the result.", rich_help_panel=_LIMITS)]
MaxWaiting = Annotated[
    int, typer.Option(help="Most images that wait; further ones get status 429.", rich_help_panel=_LIMITS)
]
Memory = Annotated[
    str | None,
    typer.Option(
        help="Memory for uploads and decoded images, for instance 2GB; by default half of the free memory.",
        rich_help_panel=_LIMITS,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(help="Number of threads that decode and encode; by default 2 to 16.", rich_help_panel=_CORES),
]
Threads = Annotated[
    int | None,
    typer.Option(help="Number of threads of the network; by default all cores.", rich_help_panel=_CORES),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        help="Most images of one size in a batch; by default 1 on a CPU and up to 16 on a GPU.",
        rich_help_panel=_CORES,
    ),
]


@verb(
    "refineseg serve",
    "refineseg serve --model camvid --model camvid_nano --backend auto",
    "refineseg serve --model trees=runs/first/best.safetensors --port 8080",
)
def serve(
    model: Models = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    device: Device = "auto",
    precision: Precision = "float32",
    backend: BackendName = None,
    token_file: TokenFile = None,
    allow_host: AllowHost = None,
    max_bytes: MaxBytes = "32MB",
    max_pixels: MaxPixels = 32_000_000,
    upload_seconds: UploadSeconds = 20.0,
    seconds: Seconds = 60.0,
    max_waiting: MaxWaiting = 128,
    memory: Memory = None,
    workers: Workers = None,
    threads: Threads = None,
    batch_size: BatchSize = None,
) -> None:
    """Serve a page and an HTTP interface.

    Drop an image on the page and see its mask; POST /v1/segment does the same for programs.
    """
    from refineseg.serve.naming import named_models

    check_number("--port", port, least=0, most=65535)
    for option, value in (("--workers", workers), ("--threads", threads), ("--batch-size", batch_size)):
        check_number(option, value, least=1, most=1024)
    token = _token(token_file)
    named = named_models(model or ["camvid"], device=device, precision=precision, backend=backend)

    # from here on NumPy is there
    from refineseg.devices import free_memory, keep_freed_memory
    from refineseg.predict.views.tiling import parse_bytes
    from refineseg.serve.limits import RequestLimits

    memory_bytes = free_memory() // 2 if memory is None else parse_bytes(memory)
    limits = RequestLimits(
        parse_bytes(max_bytes), max_pixels, upload_s=upload_seconds, request_s=seconds, max_waiting=max_waiting,
        memory_bytes=memory_bytes,
    )  # fmt: skip
    check_installed()
    from refineseg.serve.running import address_of, bound_socket, run_service

    listening = bound_socket(host, port)
    keep_freed_memory()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    service = _service(named, limits, workers, batch_size, device=device, precision=precision, backend=backend)

    from refineseg.serve.app import create_app
    from refineseg.serve.gate import Admission

    console = messages()
    admission = Admission.at(host, token=token, allowed=tuple(allow_host or ()))
    if token is None and not admission.hosts:
        console.say(
            f"everybody who reaches {host} may use this service; set {_TOKEN} or --token-file to ask for a token"
        )
    app = create_app(service, admission=admission, log=console.say)
    address = f"page: {address_of(listening)}"
    run_service(app, listening, grace_s=seconds, log=console.say, begun=lambda: print_lines(address))
    console.say("stopped; everything that was accepted is done")


def check_installed() -> None:
    """Whether the packages of the service are there.

    Raises:
        MissingExtraError: One is not.
    """
    import importlib.util

    from refineseg.errors import MissingExtraError

    for package in ("fastapi", "uvicorn", "httptools", "python_multipart", "prometheus_client"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra="serve", purpose="answer over HTTP")


def _token(file: Path | None) -> str | None:
    check_input_file("--token-file", file)
    if file is not None:
        token = file.read_text(encoding="utf-8", errors="replace").strip()
    elif _TOKEN in os.environ:
        token = os.environ[_TOKEN].strip()
    else:
        return None
    if len(token) < _LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"expected a token of at least {_LEAST_TOKEN} letters and digits, got another; make one: openssl "
            "rand -hex 32"
        )
    return token


def _service(
    named: dict[str, str],
    limits: Any,  # noqa: ANN401 - RequestLimits
    workers: int | None,
    batch_size: int | None,
    *,
    device: str,
    precision: str,
    backend: str | None,
) -> Any:  # noqa: ANN401 - SegmentService; from here on PyTorch is there
    from refineseg.predict.options import PredictorOptions
    from refineseg.predict.stream import StreamOptions
    from refineseg.serve.service import SegmentService, ServedModel

    how = PredictorOptions.parse(device=device, precision=precision, backend=backend)
    models = [ServedModel(name, how.opened(file)) for name, file in named.items()]
    return SegmentService(models, limits, workers=StreamOptions(workers=workers).num_threads, batch_size=batch_size)
