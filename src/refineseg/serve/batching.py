"""Images that wait for the network, and the one thread that predicts them.

In: decoded images with what is wanted of them. Out: predictions, each given to its image's ``done``. The oldest image
goes first; those that can share its batch go with it. Nobody waits for a batch to fill: while the network is busy,
images gather by themselves.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from refineseg.devices import is_out_of_memory
from refineseg.errors import ConfigError, RequestError
from refineseg.images.files import Picture
from refineseg.predict.predictor import Predictor
from refineseg.prediction import Prediction

_BATCH_PIXELS = 8 * 2**20


@dataclass(frozen=True)
class WaitingImage:
    """A decoded image on its way through the network.

    Args:
        picture: Pixels.
        predictor: Predictor of the model and views that are asked for.
        probabilities: Whether the probabilities of all classes are wanted.
        confidence: Whether the probability of the likeliest class is wanted.
        dropped: Asked before the image is predicted: whether nobody waits for it any more.
        done: Called with a prediction or an error, in the thread of the network; it must be quick.
        since: Time when it began to wait.
    """

    picture: Picture
    predictor: Predictor
    probabilities: bool
    confidence: bool
    dropped: Callable[[], bool]
    done: Callable[[Prediction | BaseException], None]
    since: float = field(default_factory=time.monotonic)

    def shares_batch_with(self, other: WaitingImage) -> bool:
        """Whether both can be predicted together."""
        return (
            self.predictor is other.predictor
            and self.picture.image.shape == other.picture.image.shape
            and (self.probabilities, self.confidence) == (other.probabilities, other.confidence)
        )


class BatchRunner:
    """The queue and its thread: one computation at a time, whatever the number of models, since they share the cores.

    Args:
        batch_size: Most images of one size in a batch; None: 1 on a CPU, where more is no faster, and on a GPU up to
            16 images of 8 megapixels together.
        observed: Called with the number of images of a batch, their longest wait, and the seconds it took.
    """

    def __init__(self, batch_size: int | None, observed: Callable[[int, float, float], None]) -> None:
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"expected a batch size of at least 1, got {batch_size}")
        self._batch_size, self._observed = batch_size, observed
        self._waiting: deque[WaitingImage] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="refineseg-network", daemon=True)
        self._thread.start()

    def put(self, image: WaitingImage) -> None:
        """Let an image wait for its turn; how many may wait is the service's to say. After the end it is refused."""
        with self._changed:
            closed = self._closed
            if not closed:
                self._waiting.append(image)
                self._changed.notify()
        if closed:
            image.done(RequestError("expected a service that is ready, got one that is ending", status=503))

    def close(self) -> None:
        """Predict what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _largest(self, first: WaitingImage) -> int:
        if self._batch_size is not None:
            return self._batch_size
        if not first.predictor.prefers_batches:
            return 1
        height, width = first.picture.image.shape[:2]
        fitting: int = _BATCH_PIXELS // (height * width)
        return max(1, min(16, fitting))

    def _next(self) -> list[WaitingImage]:
        """The oldest image and those that share its batch, in their order; none: the end."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if not self._waiting:
                return []
            batch = [self._waiting.popleft()]
            most, others = self._largest(batch[0]), deque[WaitingImage]()
            while self._waiting and len(batch) < most:
                image = self._waiting.popleft()
                (batch if image.shares_batch_with(batch[0]) else others).append(image)
            self._waiting.extendleft(reversed(others))
            return batch

    def _run(self) -> None:
        while batch := self._next():
            wanted = []
            for image in batch:
                if image.dropped():
                    image.done(RequestError("nobody waits for this image any more", status=503))
                else:
                    wanted.append(image)
            if wanted:
                begin = time.monotonic()
                _predict(wanted)
                self._observed(len(wanted), begin - min(i.since for i in wanted), time.monotonic() - begin)


def _predict(batch: list[WaitingImage]) -> None:
    """A batch; where it needs too much memory, its images by themselves."""
    first = batch[0]
    try:
        predictions = first.predictor.batch(
            [image.picture.image for image in batch], probabilities=first.probabilities, confidence=first.confidence
        )
        results = [p.without(i.picture.valid) for p, i in zip(predictions, batch, strict=True)]
    except Exception as error:  # noqa: BLE001 - the thread must live, and each request is told
        if not is_out_of_memory(error):
            for image in batch:
                image.done(error)
        elif len(batch) > 1:
            for image in batch:
                _predict([image])
        else:
            height, width = first.picture.image.shape[:2]
            text = f"expected an image that the memory suffices for, got {height}x{width} pixels; shrink or cut it"
            first.done(RequestError(text, status=413))
        return
    for image, prediction in zip(batch, results, strict=True):
        image.done(prediction)
