"""Many images through one predictor: files are read ahead in threads, images of one size share a batch.

In: paths, however many. Out: a prediction or an error per path. Memory is bounded: paths are taken a window at a time,
sizes are read from headers first, and only so many pixels are decoded ahead as fit :data:`PIXEL_BYTES_AHEAD`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING

from refineseg.devices import is_out_of_memory
from refineseg.errors import ConfigError, ImageError, ImageSizeError, RefinesegError
from refineseg.images.files import Picture, read_image_size, read_picture
from refineseg.images.reading import USUAL, Reading
from refineseg.predict.batches import too_large
from refineseg.prediction import Prediction

if TYPE_CHECKING:  # which loads torch; the options are asked for before that
    from refineseg.predict.array_predictor import AnyPredictor

PIXEL_BYTES_AHEAD = 256 * 2**20
"""Decoded images that wait for the network; one image larger than this is read alone."""

_DECODING_BYTES = 7  # per pixel: Pillow's own picture has 4
_WINDOW_BATCHES = 8  # among so many batches' worth of files, those of one size are put together
_LEAST_WINDOW = 32
_BATCH_PIXELS = 8 * 2**20  # of a batch whose size is chosen here
_MOST_BATCHED = 16
_MOST_WORKERS = 16
_MOST_ASKED = 4096


@dataclass(frozen=True)
class StreamOptions:
    """How many images are worked on together. None of it changes a result by more than rounding.

    Args:
        batch_size: Images of one size that the network sees together; None: 1 on a CPU, where more is slower, and on a
            GPU up to 16, of 8 megapixels in all.
        workers: Threads that read and write files; None: as many as cores, 2 to 16.
        probabilities: Predictions get the probabilities of all classes.
        confidence: Predictions get the probability of each pixel's likeliest class.
        reading: How stored pixels become what the network sees.

    Raises:
        ConfigError: A number below 1.
    """

    batch_size: int | None = None
    workers: int | None = None
    probabilities: bool = False
    confidence: bool = False
    reading: Reading = USUAL

    def __post_init__(self) -> None:
        for name, value in (("batch size", self.batch_size), ("number of workers", self.workers)):
            if value is not None and not 1 <= value <= _MOST_ASKED:
                end = "at least 1" if value < 1 else f"at most {_MOST_ASKED}"
                raise ConfigError(f"expected a {name} of {end}, got {value}")

    @property
    def num_threads(self) -> int:
        """Threads that read and write."""
        return self.workers or min(_MOST_WORKERS, max(2, os.cpu_count() or 2))


@dataclass(frozen=True)
class Item:
    """One path on its way: found, examined, decoded, predicted; it says how far it came.

    Args:
        index: Its place among the paths, from 0.
        path: As it was given.
        size_hw: Height and width as its header says; None where it is not examined, failed or was set aside.
        picture: Its pixels, only while they wait for the network.
        prediction: Its prediction; None where it failed or was set aside.
        error: Why it failed; None where it did not.
        notes: What a user should know of how it was read.
        scaled: Its pixels had not 8 bits.
    """

    index: int
    path: Path
    size_hw: tuple[int, int] | None = None
    picture: Picture | None = field(default=None, repr=False)
    prediction: Prediction | None = None
    error: RefinesegError | None = None
    notes: tuple[str, ...] = ()
    scaled: bool = False


def predicted(
    paths: Iterable[Path],
    predictor: AnyPredictor,
    *,
    options: StreamOptions,
    pool: ThreadPoolExecutor,
    set_aside: Callable[[Path], bool] | None = None,
) -> Iterator[Item]:
    """Predict every path; images come out a batch at a time, which is not quite the order they go in.

    Args:
        paths: Image files; taken as they are needed.
        predictor: The model.
        options: Batches and threads.
        pool: Where files are read; what is written elsewhere may share it.
        set_aside: Whether a file is to be left to others; it comes out without prediction and error.

    Yields:
        One :class:`Item` per path.
    """
    waiting: deque[list[Future[Item]]] = deque()
    bytes_of: deque[int] = deque()
    for batch in _batches(paths, predictor, options=options, pool=pool, set_aside=set_aside):
        sizes = [item.size_hw for item in batch if item.size_hw is not None]
        if not sizes:
            yield from batch
            continue
        needed = sum(_DECODING_BYTES * height * width for height, width in sizes)
        while waiting and (sum(bytes_of) + needed > PIXEL_BYTES_AHEAD or len(waiting) > options.num_threads):
            bytes_of.popleft()
            yield from _finished(waiting.popleft(), predictor, options)
        waiting.append([pool.submit(_decode, item, options.reading, predictor.num_channels) for item in batch])
        bytes_of.append(needed)
    while waiting:
        yield from _finished(waiting.popleft(), predictor, options)


def _batches(
    paths: Iterable[Path],
    predictor: AnyPredictor,
    *,
    options: StreamOptions,
    pool: ThreadPoolExecutor,
    set_aside: Callable[[Path], bool] | None,
) -> Iterator[list[Item]]:
    """Files of one size, as many as a batch holds; the order depends on the files alone, never on time."""
    largest = options.batch_size or (_MOST_BATCHED if predictor.prefers_batches else 1)
    window = max(_LEAST_WINDOW, _WINDOW_BATCHES * largest)

    def examined(item: Item) -> Item:
        try:
            if set_aside is not None and set_aside(item.path):
                return item
            return replace(item, size_hw=read_image_size(item.path))
        except RefinesegError as error:
            return replace(item, error=error)

    items = (Item(index, path) for index, path in enumerate(paths))
    while some := list(islice(items, window)):
        known = list(pool.map(examined, some))
        if largest > 1:
            known.sort(key=lambda item: item.size_hw or (0, 0))  # stable: files of one size stay in order
        for size_hw, group in groupby(known, key=lambda item: item.size_hw):
            count = largest
            if size_hw is not None and options.batch_size is None:
                count = max(1, min(largest, _BATCH_PIXELS // (size_hw[0] * size_hw[1])))
            while part := list(islice(group, count)):
                yield part


def _decode(item: Item, reading: Reading, num_channels: int) -> Item:
    notes: list[str] = []
    try:
        picture = read_picture(item.path, reading=reading, num_channels=num_channels, noted=notes.append)
    except RefinesegError as error:
        return replace(item, error=error)
    return replace(item, picture=picture, notes=tuple(notes), scaled=picture.scaled)


def _finished(futures: Sequence[Future[Item]], predictor: AnyPredictor, options: StreamOptions) -> Iterator[Item]:
    by_shape: dict[tuple[int, ...], list[tuple[Item, Picture]]] = {}
    for item in [future.result() for future in futures]:
        if item.picture is None:
            yield item
        else:  # headers and pixels agree on the size, except in damaged files
            by_shape.setdefault(item.picture.image.shape, []).append((replace(item, picture=None), item.picture))
    for group in by_shape.values():
        yield from _predict(group, predictor, options)


def _predict(group: Sequence[tuple[Item, Picture]], predictor: AnyPredictor, options: StreamOptions) -> Iterator[Item]:
    """A batch; where it needs too much memory, its images by themselves."""
    images = [picture.image for _, picture in group]
    scored = options.probabilities or options.confidence
    size_hw = images[0].shape[0], images[0].shape[1]
    text = too_large(predictor.whole_bytes(size_hw, scored=scored), size_hw)
    if text is not None:
        yield from (replace(item, error=ImageError(f"{item.path}: {text}")) for item, _ in group)
        return
    try:
        predictions = predictor.batch(images, probabilities=options.probabilities, confidence=options.confidence)
    except ConfigError as error:
        of_size = isinstance(error, ImageSizeError) or predictor.cuts(size_hw)  # and need not be wrong for others
        if not of_size:
            raise
        yield from (replace(item, error=ConfigError(f"{item.path}: {error}")) for item, _ in group)
        return
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if len(group) > 1:
            for one in group:
                yield from _predict([one], predictor, options)
            return
        item, (height, width) = group[0][0], images[0].shape[:2]
        text = f"{item.path}: not enough memory for {height}x{width} pixels; predict it in tiles, or shrink it"
        yield replace(item, error=ImageError(text))
        return
    for (item, picture), prediction in zip(group, predictions, strict=True):
        yield replace(item, prediction=prediction.without(picture.valid))


@contextmanager
def file_threads(options: StreamOptions) -> Iterator[ThreadPoolExecutor]:
    """A pool that does not keep a broken-off run alive: what has not begun is dropped."""
    pool = ThreadPoolExecutor(options.num_threads, thread_name_prefix="refineseg-files")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def predictions(
    paths: Iterable[str | Path],
    predictor: AnyPredictor,
    *,
    options: StreamOptions,
    failed: Callable[[Path, RefinesegError], None] | None = None,
) -> Iterator[tuple[Path, Prediction]]:
    """See :meth:`~refineseg.predict.files.FilePredictor.stream`, which is this."""
    errors: list[str] = []
    with file_threads(options) as pool:
        for item in in_order(predicted(map(Path, paths), predictor, options=options, pool=pool)):
            if item.prediction is not None:
                yield item.path, item.prediction
            elif item.error is not None and failed is not None:
                failed(item.path, item.error)
            elif item.error is not None:
                errors.append(str(item.error))
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise ImageError(f"{errors[0]}{more}; all other images were predicted")


def in_order(items: Iterator[Item]) -> Iterator[Item]:
    """Items by their index again; those that came too early wait (at most a window of files)."""
    early: dict[int, Item] = {}
    expected = 0
    for item in items:
        early[item.index] = item
        while expected in early:
            yield early.pop(expected)
            expected += 1
