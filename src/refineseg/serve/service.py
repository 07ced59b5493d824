"""From an uploaded image to an answer: decoded in threads, predicted by one thread, encoded in threads.

In: bytes and what is asked for. Out: a future of an :class:`~refineseg.serve.answers.Answer`. It knows nothing of HTTP.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from refineseg.errors import ConfigError, RequestError
from refineseg.images.files import Picture, read_picture
from refineseg.predict.predictor import Predictor
from refineseg.predict.views.scoring_views import check_scales
from refineseg.predict.views.tiling import TilingOptions
from refineseg.prediction import Prediction
from refineseg.runtimes.open import OpenedModel
from refineseg.serve.answers import ANSWERS, Answer, answer, needs, needs_scores
from refineseg.serve.batching import BatchRunner, WaitingImage
from refineseg.serve.limits import UPLOAD, MemoryBudget, RequestLimits, Reservation, memory_needed
from refineseg.serve.metrics import ServiceMetrics

_WARM_UP_HW = (512, 512)
_MOST_PREDICTORS = 64


class ServedModel:
    """A model that clients may choose.

    Args:
        name: Name that clients use.
        opened: The model in its runtime.
    """

    def __init__(self, name: str, opened: OpenedModel) -> None:
        self.name, self.opened = name, opened
        self._predictors: dict[tuple[tuple[float, ...], bool], Predictor] = {}
        self._lock = threading.Lock()

    def predictor(self, scales: Sequence[float] = (1.0,), *, flip: bool = False) -> Predictor:
        """The predictor of a choice of scales; the same object for the same choice, so that images share batches.

        Raises:
            ConfigError: Scales that cannot be.
        """
        key = (check_scales(scales), flip)
        with self._lock:
            if key not in self._predictors:
                if len(self._predictors) >= _MOST_PREDICTORS:
                    self._predictors.clear()
                tiling = TilingOptions() if self.cuts(key[0], flip=flip) else None
                self._predictors[key] = Predictor(self.opened, scales=key[0], flip=flip, tiling=tiling)
            return self._predictors[key]

    def cuts(self, scales: Sequence[float], *, flip: bool) -> bool:
        """Whether large images are predicted in tiles; others are seen whole."""
        return tuple(scales) == (1.0,) and not flip and self.opened.inner is not None

    @property
    def gives_scores(self) -> bool:
        """Whether there are probabilities; an exported file may give classes only."""
        return "logits" in self.opened.description.outputs

    def named(self, error: BaseException) -> BaseException:
        """An error under the name that clients know, without the path of the model on this machine."""
        path = self.opened.source
        if not isinstance(error, ConfigError) or not isinstance(path, Path):
            return error
        return ConfigError(str(error).replace(str(path), self.name))

    def to_json(self) -> dict[str, Any]:
        """What clients may know of it."""
        info, spec = self.opened.class_info, self.opened.spec
        return {
            "name": self.name,
            "variant": spec.variant,
            "backend": self.opened.backend,
            "precision": self.opened.precision,
            "licence": spec.licence,
            "outputs": [name for name in ANSWERS if self.gives_scores or not needs_scores(name)],
            "size": self.opened.description.size_hw,
            "ignore_index": info.ignore_index,
            "classes": [
                {"index": i, "name": name, "colour": list(colour)}
                for i, (name, colour) in enumerate(zip(info.names, info.palette, strict=True))
            ],
        }


@dataclass(frozen=True)
class Ask:
    """What a client asks for.

    Args:
        model: Model that it chose.
        outputs: Names of outputs.
        scales: Scales whose scores are averaged.
        flip: Average with the mirrored image.
    """

    model: ServedModel
    outputs: tuple[str, ...] = ("mask",)
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False


@dataclass
class ImageRequest:
    """One image on its way.

    Args:
        content: Bytes of the file; empty once they are decoded.
        ask: What is wanted.
        future: Becomes the answer.
        dropped: Whether nobody waits any more.
    """

    content: bytes
    ask: Ask
    future: Future[Answer] = field(default_factory=Future)
    dropped: bool = False


def settle(future: Future[Prediction], result: Prediction | BaseException) -> None:
    """Give a future its result, or its error."""
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)


class SegmentService:
    """All models, their queue and their threads.

    Args:
        models: The models that clients may choose; the first is the usual one.
        limits: What requests may cost.
        workers: Number of threads that decode and encode.
        batch_size: As in :class:`~refineseg.serve.batching.BatchRunner`.
    """

    def __init__(
        self, models: Sequence[ServedModel], limits: RequestLimits, *, workers: int = 2, batch_size: int | None = None
    ) -> None:
        self.models: Mapping[str, ServedModel] = {model.name: model for model in models}
        if len(self.models) < len(models) or not models:
            raise ConfigError(
                f"expected models of different names, got {', '.join(m.name for m in models) or 'none'}; give names "
                "of your own: --model NAME=FILE"
            )
        self.limits, self.metrics, self.budget = limits, ServiceMetrics(), MemoryBudget(limits.memory_bytes)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="refineseg-images")
        self._runner = BatchRunner(batch_size, self._observe)
        self._lock = threading.Lock()
        self._pending, self._seconds_per_image = 0, 0.1
        self.is_ready = self._is_closing = False

    @property
    def pending(self) -> int:
        """Images that wait or are worked on."""
        return self._pending

    def find_model(self, name: str | None) -> ServedModel:
        """A model by the name that a client gave; None: the first.

        Raises:
            RequestError: The operator named no such model.
        """
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise RequestError(
                f"expected a model of {', '.join(self.models)}, got {name[:100]!r}; GET /v1/models lists them",
                status=422,
            )
        return self.models[name]

    def check_room(self) -> None:
        """Whether another image may wait.

        Raises:
            RequestError: As many wait as may.
        """
        if self._pending >= self.limits.max_waiting:
            seconds = max(1, round(self._pending * self._seconds_per_image))
            raise RequestError(
                f"expected fewer than {self.limits.max_waiting} images at a time, got one more; try again in "
                f"{seconds} s",
                status=429,
                retry_after_s=seconds,
            )

    def warm_up(self) -> None:
        """Predict an empty image with every model, so that the first client does not wait for compilation."""
        for model in self.models.values():
            predictor, gives = model.predictor(), model.opened.description
            picture = Picture(np.zeros((*(gives.size_hw or _WARM_UP_HW), predictor.num_channels), np.uint8), None)
            for confidence in (False, True) if "logits" in gives.outputs else (False,):
                future: Future[Prediction] = Future()
                done = partial(settle, future)
                self._runner.put(WaitingImage(picture, predictor, False, confidence, lambda: False, done))
                try:
                    future.result()
                except RequestError:  # the service is ending
                    return
        self.is_ready = not self._is_closing

    def submit(self, content: bytes, ask: Ask, held: Reservation) -> ImageRequest:
        """Begin with an image whose file has arrived.

        Args:
            content: All bytes of the file.
            ask: What is wanted.
            held: Memory that is reserved for the upload; more is reserved here, and all is given back in the end.

        Raises:
            ImageError: No image.
            RequestError: It is too large, or there is no room.
        """
        try:
            height, width = self.limits.check_image(content, ask.scales)
            scored = needs(ask.outputs, "probabilities") or needs(ask.outputs, "confidence")
            scored |= ask.flip or tuple(ask.scales) != (1.0,)
            largest = max(1.0, *ask.scales)
            size_hw = (round(height * largest), round(width * largest))
            predictor = ask.model.predictor(ask.scales, flip=ask.flip)
            self.limits.check_whole((height, width), predictor.whole_bytes((height, width), scored=scored))
            num_classes = ask.model.opened.class_info.num_classes
            held.grow(memory_needed(size_hw, num_classes=num_classes, scored=scored))
            with self._lock:
                self.check_room()
                self._pending += 1
        except BaseException:
            held.release()
            raise
        request = ImageRequest(content, ask)
        request.future.add_done_callback(lambda _: self._leave(held))
        self._pool.submit(self._decode, request)
        return request

    def _leave(self, held: Reservation) -> None:
        held.release()
        with self._lock:
            self._pending -= 1

    def _decode(self, request: ImageRequest) -> None:
        ask, notes = request.ask, list[str]()
        try:
            if request.dropped:
                raise RequestError("nobody waits for this image any more", status=503)
            begin = time.monotonic()
            predictor = ask.model.predictor(ask.scales, flip=ask.flip)
            picture = read_picture(
                UPLOAD, content=request.content, num_channels=predictor.num_channels, noted=notes.append
            )
            request.content = b""
            self.metrics.stage("decode", time.monotonic() - begin)
        except BaseException as error:  # noqa: BLE001 - each request is told
            request.future.set_exception(error)
            return

        def done(result: Prediction | BaseException) -> None:
            if isinstance(result, BaseException):
                request.future.set_exception(ask.model.named(result))
            else:
                self._pool.submit(self._encode, request, result, tuple(notes))

        self._runner.put(
            WaitingImage(
                picture,
                predictor,
                needs(ask.outputs, "probabilities"),
                needs(ask.outputs, "confidence") and (ask.model.gives_scores or needs_scores(*ask.outputs)),
                lambda: request.dropped,
                done,
            )
        )

    def _encode(self, request: ImageRequest, prediction: Prediction, notes: tuple[str, ...]) -> None:
        begin = time.monotonic()
        try:
            result = answer(prediction, request.ask.outputs, notes=notes)
        except BaseException as error:  # noqa: BLE001 - each request is told
            request.future.set_exception(error)
            return
        self.metrics.stage("encode", time.monotonic() - begin)
        request.future.set_result(result)

    def _observe(self, num_images: int, waited_s: float, seconds: float) -> None:
        self.metrics.batch(num_images)
        self.metrics.stage("wait", waited_s)
        self.metrics.stage("predict", seconds)
        self._seconds_per_image += 0.1 * (seconds / num_images - self._seconds_per_image)

    def close(self) -> None:
        """Finish what was accepted, and end the threads."""
        self.is_ready, self._is_closing = False, True
        while self._pending:
            time.sleep(0.02)
        self._runner.close()
        self._pool.shutdown()
