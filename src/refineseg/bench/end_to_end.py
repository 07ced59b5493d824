"""``refineseg bench --folder``: the whole of ``refineseg predict FOLDER --save mask`` against its network alone.

In: a model and a folder of images. Out: images per second of both, in turns in one run and in one process: the network
from pixels that are decoded already to the class map, and all that ``predict`` does once the model is there: planning,
headers, decoding, network, masks as PNG files, lines and areas. Every image size is seen before, so that no program is
compiled meanwhile.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from refineseg.bench.benchmark import BenchReport, model_or_variant
from refineseg.bench.contenders import measurable
from refineseg.bench.timing import describe_machine
from refineseg.errors import ConfigError
from refineseg.images.files import find_images, read_image_size, read_rgb
from refineseg.predict.folder.file_options import FileOptions
from refineseg.predict.folder.files import predict_plan
from refineseg.predict.folder.plan import plan_files
from refineseg.predict.options import PredictorOptions
from refineseg.predict.outputs.kinds import Outputs, write_prediction
from refineseg.predict.predictor import stacked
from refineseg.predict.raster.headers import is_raster
from refineseg.predict.views.tiling import TilingOptions
from refineseg.prediction import Prediction
from refineseg.runtimes.open import OpenedModel, check_backend, open_model, place_of
from refineseg.runtimes.table import BACKENDS, Precision, is_exported
from refineseg.terminal.following import TerminalFollower
from refineseg.terminal.printing import Terminal

MOST_IMAGES = 64
"""So many are taken of a folder; decoded they are all in memory."""

ROUNDS = 3
_BACKENDS = ("torch", "onnxruntime", "openvino")


@dataclass(frozen=True)
class FolderRow:
    """What was measured of one runtime in one precision.

    Args:
        model: Name or file.
        backend: The runtime.
        precision: Precision of the network.
        images: How many.
        sizes: ``HEIGHTxWIDTH`` -> how many have it.
        network_per_s: Images per second of the network alone, median of the rounds.
        predict_per_s: Images per second of ``predict``, median of the rounds.
        ratio: Median over the rounds of the one over the other.
        bound: What the ratio would be if files were worked on by all cores at once and without waiting, beside a
            network that alone keeps all cores busy.
        network_cpu_ms: CPU time of an image, network alone, all threads.
        predict_cpu_ms: CPU time of an image in ``predict``, all threads.
        decode_cpu_ms: CPU time of headers and decoding of an image, in one thread.
        encode_cpu_ms: CPU time of a mask's areas, encoding and writing, in one thread.
        mask_bytes: Mean size of a mask file.
        threads: Threads of the network.
        workers: Threads that read and write files.
        rounds: How often each was measured.
    """

    model: str
    backend: str
    precision: str
    images: int
    sizes: dict[str, int]
    network_per_s: float
    predict_per_s: float
    ratio: float
    bound: float
    network_cpu_ms: float
    predict_cpu_ms: float
    decode_cpu_ms: float
    encode_cpu_ms: float
    mask_bytes: float
    threads: int
    workers: int
    rounds: int


def folder_images(folder: Path) -> list[Path]:
    """The files that are measured.

    Raises:
        ConfigError: There is no such folder, or no image in it.
    """
    paths = find_images(folder)[:MOST_IMAGES] if folder.is_dir() else []
    if not paths:
        raise ConfigError(f"expected a folder of images for --folder, got {folder}, where there is none")
    return paths


class _Way:
    """One runtime in one precision, which predicts the folder.

    Args:
        opened: The model in it.
        paths: The image files.
        images: Their pixels, a batch of one each.
        console: Shows failures.
    """

    def __init__(self, opened: OpenedModel, paths: Sequence[Path], images: Sequence[Tensor], console: Terminal) -> None:
        self.opened, self._paths, self._images = opened, paths, images
        self._follower = TerminalFollower(console, results=False)
        precision = "bfloat16" if opened.precision == "bfloat16" else "float32"
        self._options = PredictorOptions.parse(
            device=opened.device, precision=precision, backend=opened.backend, tiling=TilingOptions()
        )
        self._files = FileOptions(Outputs(("mask",)), batch_size=1)  # as the network alone
        self.workers = self._files.stream.num_threads
        self.scorer = opened.scorer

    def network(self) -> None:
        """Class maps of pixels in memory, in memory."""
        for images in self._images:
            self.scorer.class_map(images).cpu()

    def predict(self) -> None:
        """Everything ``predict`` does after the model was loaded."""
        with tempfile.TemporaryDirectory() as out:
            plan = plan_files(self._paths, Path(out), endings=self._files.outputs.endings.values())
            result = predict_plan(
                plan, Path(out), self.opened, options=self._options, files=self._files, follower=self._follower
            )
        if result.done != len(self._paths):
            first = result.failures[0] if result.failures else "some are rasters"
            raise ConfigError(f"expected images that can be predicted for --folder, but {first}")


def _timed(call: Callable[[], None]) -> tuple[float, float]:
    """Seconds, and CPU seconds of all threads."""
    begin, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - begin, time.process_time() - cpu


def _in_turns(ways: Sequence[_Way], rounds: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """(ways, rounds, network and predict, seconds and CPU seconds); who is first changes from round to round."""
    times = np.zeros((len(ways), rounds, 2, 2))
    for way in ways:
        way.network()
        way.predict()
    for turn in range(rounds):
        for step in range(len(ways)):
            index = (turn + step) % len(ways)
            calls = (ways[index].network, ways[index].predict)
            for which in (0, 1) if turn % 2 == 0 else (1, 0):
                times[index, turn, which] = _timed(calls[which])
    return times


def _file_work(way: _Way, paths: Sequence[Path], images: Sequence[Tensor]) -> tuple[float, float, float]:
    """CPU milliseconds of decoding and of encoding one image, and bytes of a mask: means, in this thread alone."""
    info, decode_s, encode_s, size = way.scorer.class_info, 0.0, 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        for path, image in zip(paths, images, strict=True):
            mask = way.scorer.class_map(image)[0].cpu().numpy().astype(info.mask_dtype)
            begin = time.thread_time()
            is_raster(path)
            read_image_size(path)
            pixels = read_rgb(path)
            decoded = time.thread_time()
            prediction = Prediction(pixels, mask, info)
            [written] = write_prediction(prediction, Path(folder) / "mask", Outputs(("mask",)))
            assert prediction.areas.sum() <= mask.size
            encode_s += time.thread_time() - decoded
            decode_s += decoded - begin
            size += written.stat().st_size
    return 1e3 * decode_s / len(paths), 1e3 * encode_s / len(paths), size / len(paths)


def _opened(model: str, backend: str, precision: str, device: torch.device) -> OpenedModel:
    kind: Precision = "bfloat16" if precision == "bfloat16" else "float32"
    opened = model if is_exported(model) else model_or_variant(model)
    return open_model(opened, backend=backend, device=str(device), precision=kind)


def _choices(model: str, backend: str | None, precision: str | None, device: torch.device) -> list[tuple[str, str]]:
    """Backends and precisions that are measured."""
    if is_exported(model):
        return [(backend or "auto", precision or "float32")]
    if backend is not None:
        name = check_backend(backend, precision=precision or "float32", device=device)
        return [(name, one) for one in BACKENDS[name].precisions if precision in (None, one)]
    names = [name for name in _BACKENDS if name in measurable(device)]
    found = [(name, one) for name in names for one in BACKENDS[name].precisions if precision in (None, one)]
    if not found:
        raise ConfigError(f"expected a precision of {', '.join(names)} for --folder, got {precision}")
    return found


def bench_folder(
    model: str,
    folder: Path,
    *,
    device: str = "auto",
    backend: str | None = None,
    precision: str | None = None,
    rounds: int | None = None,
    console: Terminal | None = None,
) -> BenchReport:
    """Measure ``predict`` on a folder, masks only, against the network alone.

    Args:
        model: A shipped model, a model file, a variant (untrained) or an exported file.
        folder: Folder of images; the first :data:`MOST_IMAGES` are taken.
        device: ``auto``, ``cpu``, ``cuda``, ...
        backend: A key of :data:`~refineseg.runtimes.table.BACKENDS`; None: torch, onnxruntime and openvino, where
            they are installed.
        precision: ``float32`` or ``bfloat16``; None: both.
        rounds: How often each is measured; None: :data:`ROUNDS`.
        console: Shows what is measured.

    Raises:
        ConfigError: A wrong option, no image there, or one that cannot be predicted.
        ImageError: An image cannot be read.
    """
    paths = folder_images(folder)
    rounds = ROUNDS if rounds is None else rounds
    if rounds < 1:
        raise ConfigError(f"expected at least one round, got {rounds}")
    place = place_of(device, backend, model)
    choices = _choices(model, backend, precision, place)
    images = [stacked([read_rgb(path)]) for path in paths]
    quiet, ways = Terminal(quiet=True), []
    for name, one in choices:
        if console is not None:
            console.say(f"opening {model} in {name}, {one}")
        opened = _opened(model, name, one, place)
        if precision not in (None, opened.precision):
            raise ConfigError(
                f"expected the precision of {model}, which is {opened.precision}, got {precision}; leave --precision "
                "out"
            )
        ways.append(_Way(opened, paths, images, quiet))
    sizes = dict(Counter(f"{image.shape[2]}x{image.shape[3]}" for image in images).most_common())
    times = _in_turns(ways, rounds)
    rows = []
    for way, own in zip(ways, times, strict=True):
        decode_ms, encode_ms, size = _file_work(way, paths[:16], images[:16])
        per_image = np.median(own, axis=0) / len(paths)  # (network and predict, seconds and CPU seconds)
        network_s = float(per_image[0, 0])
        row = FolderRow(
            model=model,
            backend=way.opened.backend,
            precision=way.opened.precision,
            images=len(paths),
            sizes=sizes,
            network_per_s=1 / network_s,
            predict_per_s=1 / float(per_image[1, 0]),
            ratio=float(np.median(own[:, 0, 0] / own[:, 1, 0])),
            bound=network_s / (network_s + (decode_ms + encode_ms) / 1e3 / (os.cpu_count() or 1)),
            network_cpu_ms=1e3 * float(per_image[0, 1]),
            predict_cpu_ms=1e3 * float(per_image[1, 1]),
            decode_cpu_ms=decode_ms,
            encode_cpu_ms=encode_ms,
            mask_bytes=size,
            threads=torch.get_num_threads(),
            workers=way.workers,
            rounds=rounds,
        )
        rows.append(row)
    return BenchReport([asdict(row) for row in rows], describe_machine(place), _table(rows))


def _table(rows: Sequence[FolderRow]) -> Table:
    first = rows[0]
    sizes = ", ".join(f"{count} of {size}" for size, count in list(first.sizes.items())[:3])
    more = ", ..." if len(first.sizes) > 3 else ""
    title = (
        f"{first.model}, predict --save mask of {first.images} images ({sizes}{more}), {first.rounds} rounds; images/s"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for name in ("backend", "precision"):
        table.add_column(name, no_wrap=True)
    numbers = ("network\nper s", "predict\nper s", "ratio", "bound", "network\nCPU ms", "predict\nCPU ms")
    for name in (*numbers, "decode\nCPU ms", "encode\nCPU ms"):
        table.add_column(Text(name), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.backend,
            row.precision,
            f"{row.network_per_s:.2f}",
            f"{row.predict_per_s:.2f}",
            f"{100 * row.ratio:.1f} %",
            f"{100 * row.bound:.1f} %",
            *(f"{ms:.1f}" for ms in (row.network_cpu_ms, row.predict_cpu_ms, row.decode_cpu_ms, row.encode_cpu_ms)),
        )
    return table
