"""What is done with an image, in three steps that any engine can run where it likes: load, predict, keep.

In: :class:`~refineseg.batch.manifest.Entry`, an input as it was listed. Out: the
:class:`~refineseg.batch.manifest.ManifestRow` of it, after the results were written and read back. A step that fails
gives the row of the failure; steps pass on what they have no use for.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from refineseg.batch.job import BatchJob
from refineseg.batch.keys import output_key
from refineseg.batch.manifest import Entry, ManifestRow
from refineseg.batch.stores import is_as_listed, open_store
from refineseg.data.storage.objects import Mark
from refineseg.devices import is_out_of_memory
from refineseg.errors import DatasetError, OutputError, RefinesegError
from refineseg.images.files import Picture, read_picture
from refineseg.predict.batches import too_large
from refineseg.predict.outputs.kinds import encode
from refineseg.predict.raster.headers import is_raster
from refineseg.prediction import Prediction

if TYPE_CHECKING:
    from refineseg.predict.array_predictor import AnyPredictor

_READINGS = 3  # of an image that changes
_MOST_HELD = 256 * 2**20  # bytes of the predictions of a chunk that wait to be written, where there are several


@dataclass(frozen=True, slots=True)
class Loaded:
    """Pixels of an input.

    Args:
        row: ManifestRow as far as it is known.
        picture: Pixels.
    """

    row: ManifestRow
    picture: Picture


@dataclass(frozen=True, slots=True)
class Predicted:
    """A prediction of an input.

    Args:
        row: ManifestRow as far as it is known.
        prediction: Prediction.
    """

    row: ManifestRow
    prediction: Prediction

    @property
    def num_bytes(self) -> int:
        """Memory of its arrays."""
        one = self.prediction
        arrays = (one.image, one.mask, one.probabilities, one.confidence)
        return sum(array.nbytes for array in arrays if array is not None)


class Worker:
    """The steps of one process.

    Args:
        job: What to do.
        num_channels: Channels of the model.
    """

    def __init__(self, job: BatchJob, *, num_channels: int) -> None:
        self._job, self._num_channels = job, num_channels
        self._source, self._out = open_store(job.source), open_store(job.out)

    def load(self, entry: Entry) -> Loaded | ManifestRow:
        """Read and decode."""
        row, key = entry.row, entry.row.key
        start = time.perf_counter()
        try:
            content, listed = self._read(key, entry.listed)
        except FileNotFoundError:
            return row.failed("input", "it vanished between listing and reading")
        except (DatasetError, OSError) as error:
            return row.failed("storage", str(error))
        except RefinesegError as error:  # no ordinary file
            return row.failed("input", str(error))
        except MemoryError:
            return row.failed("worker", "not enough memory to read it")
        if listed is None:
            return row.failed("input", "it changed again and again while it was read; the next call predicts it")
        read, digest = time.perf_counter(), hashlib.sha256(content).hexdigest()
        row = replace(row, size=listed.size, etag=listed.version, mark=self._job.mark_of(listed), sha256=digest)
        try:
            if is_raster(Path(key), content=content):
                text = "a raster, or an image with more pixels than are read at once; predict it by itself: "
                return row.failed("input", f"{text}refineseg predict FILE --out OUT")
            picture = read_picture(
                Path(key), content=content, reading=self._job.reading, num_channels=self._num_channels
            )
        except RefinesegError as error:
            return row.failed("input", str(error))
        except MemoryError:
            return row.failed("worker", "not enough memory to decode it")
        seconds = {"read_s": read - start, "decode_s": time.perf_counter() - read}
        height, width = picture.image.shape[:2]
        return Loaded(replace(row, seconds=seconds, height=height, width=width), picture)

    def _read(self, key: str, listed: Mark) -> tuple[bytes, Mark | None]:
        """A content and its mark, a later one where it has changed since it was listed; None: it changes on and on.

        Raises:
            FileNotFoundError: It vanished.
            DatasetError: It cannot be read.
            ImageError: It is no ordinary file.
        """
        for _ in range(_READINGS):
            content = self._source.read(key)
            if is_as_listed(content, listed, self._source, key):
                return content, listed
            listed = self._source.mark(key) or listed
        return content, None

    def keep(self, predicted: Predicted) -> ManifestRow:
        """Encode, write, and read back; then the row is right."""
        row, outputs = predicted.row, self._job.outputs
        prediction = outputs.finished(predicted.prediction)
        seconds, written = {**row.seconds, "encode_s": 0.0, "write_s": 0.0}, []
        for kind, ending in outputs.endings.items():
            start = time.perf_counter()
            name = output_key(row.key) + ending
            try:
                content = encode(prediction, kind, outputs, name=row.key)
                encoded = time.perf_counter()
                mark = self._out.write(name, content)
            except OutputError as error:
                return row.failed("storage", str(error))
            except (RefinesegError, OSError, MemoryError) as error:
                return row.failed("worker", f"{kind}: {error}")
            seconds["encode_s"] += encoded - start
            seconds["write_s"] += time.perf_counter() - encoded
            digest = hashlib.sha256(content).hexdigest()
            written.append({"kind": kind, "key": name, "size": mark.size, "sha256": digest, "etag": mark.version})
        areas = tuple(int(area) for area in prediction.areas)
        return replace(row, outputs=tuple(written), areas=areas, seconds=seconds)


class BatchModel:
    """The middle step, with the model.

    Args:
        job: What to do.
    """

    def __init__(self, job: BatchJob) -> None:
        import torch

        if torch.get_num_threads() != job.threads:
            torch.set_num_threads(job.threads)  # other runtimes take as many
        self._job = job
        self._opened = job.options.opened_for_images(job.model)
        job.outputs.check(self._opened.spec.class_info)
        scored = job.outputs.needs_probabilities or job.outputs.needs_confidence
        job.options.check_use(self._opened, scored=scored, batch_size=job.batch_size)
        self.class_info = self._opened.spec.class_info

    @cached_property
    def _predictor(self) -> AnyPredictor:
        return self._job.options.image_predictor(self._opened)

    @property
    def backend(self) -> str:
        """Name of the runtime."""
        return self._opened.backend

    @property
    def num_channels(self) -> int:
        """Channels of the images that it takes."""
        return self._predictor.num_channels

    def predict(self, items: Sequence[Any]) -> Iterator[Any]:
        """Predict what is loaded, in batches of one size; the rest is passed on."""
        by_shape: dict[tuple[int, ...], list[Loaded]] = {}
        for item in items:
            if isinstance(item, Loaded):
                by_shape.setdefault(item.picture.image.shape, []).append(item)
            else:
                yield item
        for group in by_shape.values():
            size = self._job.batch_size
            for start in range(0, len(group), size):
                yield from self._batch(group[start : start + size], size)

    def _batch(self, some: Sequence[Loaded], size: int) -> Iterator[Predicted | ManifestRow]:
        start, outputs = time.perf_counter(), self._job.outputs
        images = [item.picture.image for item in some]
        scored = outputs.needs_probabilities or outputs.needs_confidence
        size_hw = images[0].shape[0], images[0].shape[1]
        text = too_large(self._predictor.whole_bytes(size_hw, scored=scored), size_hw)
        if text is not None:
            yield from (item.row.failed("worker", text) for item in some)
            return
        images += images[-1:] * (size - len(images))
        try:
            predictions = self._predictor.batch(
                images, probabilities=outputs.needs_probabilities, confidence=outputs.needs_confidence
            )
        except RefinesegError as error:
            yield from (item.row.failed("input", str(error)) for item in some)
            return
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if size > 1:
                for item in some:
                    yield from self._batch([item], 1)
            else:
                yield some[0].row.failed("worker", "not enough memory to predict it")
            return
        took = (time.perf_counter() - start) / len(some)
        for item, prediction in zip(some, predictions, strict=False):  # without the copies
            row = replace(item.row, seconds={**item.row.seconds, "model_s": took})
            yield Predicted(row, prediction.without(item.picture.valid))


def load_all(worker: Worker, items: Sequence[Any], pool: ThreadPoolExecutor) -> list[Future[Any]]:
    """Load what is an input, in threads."""
    return [pool.submit(worker.load, item) if isinstance(item, Entry) else _there(item) for item in items]


def keep_all(worker: Worker, items: Iterable[Any], pool: ThreadPoolExecutor) -> list[Future[Any]]:
    """Keep what is a prediction, in threads; while many bytes wait for that, no other is taken."""
    found: list[Future[Any]] = []
    held: deque[tuple[Future[Any], int]] = deque()
    for item in items:
        if isinstance(item, Predicted):
            while held and sum(num_bytes for _, num_bytes in held) + item.num_bytes > _MOST_HELD:
                wait([held.popleft()[0]])
            held.append((pool.submit(worker.keep, item), item.num_bytes))
        found.append(held[-1][0] if isinstance(item, Predicted) else _there(item))
    return found


def _there(item: object) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(item)
    return future


@dataclass(frozen=True)
class Started:
    """An engine that has started.

    Args:
        first: Function that does what is left, and gives rows and what else the listing told.
        again: Function that lists once more and does what :attr:`first` left out; None: it leaves nothing out.
        setting: How it computes, for the report.
    """

    first: Callable[[], Iterator[list[Any]]]
    again: Callable[[], Iterator[list[Any]]] | None
    setting: dict[str, Any]


class BatchEngine(Protocol):
    """What runs a job."""

    def started(self, job: BatchJob, model: BatchModel) -> AbstractContextManager[Started]:
        """The engine, ready to work; at the end of the block it is stopped."""
