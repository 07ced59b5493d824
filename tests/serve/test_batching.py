"""The queue: batches by size, the oldest first, a bound with words, an orderly end."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

from fakes.services import opened, photograph, png, running
from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, RequestError
from refineseg.images.files import Picture
from refineseg.predict.predictor import Predictor
from refineseg.scoring import Scorer
from refineseg.serve.batching import BatchRunner, WaitingImage
from refineseg.serve.limits import MemoryBudget, RequestLimits, Reservation
from refineseg.serve.service import SegmentService, ServedModel, settle


class Noting(Scorer):
    """A scorer whose class of a pixel is its red value modulo 2; it notes shapes, and can be held."""

    def __init__(self):
        self.shapes, self.go = [], threading.Event()
        self.fails_from = 99

    @property
    def class_info(self):
        return ClassInfo(("even", "odd"))

    def logits(self, images):
        assert self.go.wait(20)
        self.shapes.append(tuple(images.shape))
        if len(images) >= self.fails_from:
            raise MemoryError
        odd = (images[:, 0] % 2).float()
        return torch.stack([1 - odd, odd], dim=1)


def waiting(predictor, image, *, dropped=lambda: False, confidence=False):
    future = Future()
    done = partial(settle, future)
    return future, WaitingImage(Picture(image, None), predictor, False, confidence, dropped, done)


@pytest.fixture
def runner():
    made = []

    def start(batch_size):
        seen = []
        made.append(BatchRunner(batch_size, lambda *facts: seen.append(facts)))
        return made[-1], seen

    yield start
    for one in made:
        one.close()


def image(value, size_hw=(4, 5)):
    return np.full((*size_hw, 3), value, np.uint8)


def test_images_of_one_size_share_a_batch_and_each_gets_its_own_result(runner):
    scorer = Noting()
    predictor = Predictor(scorer)
    queue, seen = runner(3)
    put = [waiting(predictor, image(0))]  # which the thread takes alone
    queue.put(put[0][1])
    time.sleep(0.2)
    for value, size in ((1, (4, 5)), (2, (6, 5)), (3, (4, 5)), (4, (4, 5)), (5, (6, 5)), (6, (4, 5))):
        put.append(waiting(predictor, image(value, size)))
        queue.put(put[-1][1])
    scorer.go.set()
    masks = [future.result(20).mask for future, _ in put]
    assert [int(mask[0, 0]) for mask in masks] == [0, 1, 0, 1, 0, 1, 0]
    assert [shape[0] for shape in scorer.shapes] == [1, 3, 2, 1], "the oldest first, those of its size with it"
    assert [facts[0] for facts in seen] == [1, 3, 2, 1]


def test_on_a_cpu_images_go_one_by_one_by_default(runner):
    scorer = Noting()
    scorer.go.set()
    queue, _ = runner(None)
    futures = []
    for value in range(4):
        future, one = waiting(Predictor(scorer), image(value))
        queue.put(one)
        futures.append(future)
    assert [future.result(20).mask.shape for future in futures] == [(4, 5)] * 4
    assert {shape[0] for shape in scorer.shapes} == {1}


def test_images_whose_client_is_gone_are_not_computed(runner):
    scorer = Noting()
    queue, _ = runner(1)
    first, one = waiting(Predictor(scorer), image(0))
    gone, two = waiting(Predictor(scorer), image(1), dropped=lambda: True)
    queue.put(one)
    queue.put(two)
    scorer.go.set()
    first.result(20)
    with pytest.raises(RequestError, match="nobody waits"):
        gone.result(20)
    assert len(scorer.shapes) == 1


def test_a_batch_that_needs_too_much_memory_is_predicted_image_by_image(runner):
    scorer = Noting()
    scorer.fails_from = 2
    queue, _ = runner(4)
    predictor = Predictor(scorer)
    put = [waiting(predictor, image(value)) for value in range(4)]
    for _, one in put:
        queue.put(one)
    scorer.go.set()
    assert [int(future.result(20).mask[0, 0]) for future, _ in put] == [0, 1, 0, 1]
    scorer.fails_from = 1
    future, one = waiting(predictor, image(1))
    queue.put(one)
    with pytest.raises(RequestError, match="memory suffices"):
        future.result(20)


def test_an_error_of_one_image_ends_neither_the_thread_nor_the_others(runner):
    scorer = Noting()
    scorer.go.set()
    queue, _ = runner(1)
    predictor = Predictor(scorer)
    bad, one = waiting(predictor, np.zeros((4, 5), np.uint8))
    good, two = waiting(predictor, image(1))
    queue.put(one)
    queue.put(two)
    with pytest.raises(ConfigError):
        bad.result(20)
    assert good.result(20).mask.all()


def test_closing_predicts_what_waits():
    scorer = Noting()
    queue = BatchRunner(2, lambda *facts: None)
    put = [waiting(Predictor(scorer), image(1)) for _ in range(3)]
    for _, one in put:
        queue.put(one)
    scorer.go.set()
    queue.close()
    assert all(future.done() for future, _ in put)


def test_memory_is_given_back_once():
    budget = MemoryBudget(100)
    held, other = Reservation(budget), Reservation(budget)
    held.grow(60)
    other.grow(40)
    with pytest.raises(RequestError, match="try again") as busy:
        other.grow(1)
    assert (busy.value.status, busy.value.retry_after_s) == (429, 2)
    held.release()
    held.release()
    assert budget.reserved == 40
    with pytest.raises(RequestError, match="shrink") as never:
        held.grow(101)
    assert never.value.status == 413


def test_a_full_queue_answers_429_with_a_time_and_goes_on(model):
    content = png(photograph((300, 400)))
    with running({"tiny": model}, RequestLimits(max_waiting=2)) as service, ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda _: service.segment(content), range(36)))
        refused = [reply for reply in replies if reply.status == 429]
        assert {reply.status for reply in replies} == {200, 429}
        assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)
        assert "expected fewer than 2 images at a time" in refused[0].json["error"]
        assert len({reply.body for reply in replies if reply.status == 200}) == 1
        assert service.segment(content).status == 200


def test_the_end_waits_for_what_was_accepted(model):
    content = png(photograph((300, 400)))
    with running({"tiny": model}) as service, ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(service.segment, content) for _ in range(8)]
        deadline = time.monotonic() + 20
        while service.service.pending < 4 and time.monotonic() < deadline:
            time.sleep(0.002)
        service.server.should_exit = True
        statuses = [future.result(60).status for future in futures if not _refused(future)]
    assert len(statuses) >= 4
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 4


def _refused(future):
    """A connection that came after the end had begun."""
    return isinstance(future.exception(60), ConnectionError)


def test_batches_give_the_masks_of_single_images(model):
    images = [png(photograph((60, 80), seed=seed)) for seed in range(12)]
    with running({"tiny": model}, batch_size=4) as together, ThreadPoolExecutor(12) as pool:
        batched = list(pool.map(lambda content: together.segment(content).body, images))
        numbers = together.call("GET", "/metrics").body.decode()
    assert 'refineseg_batch_images_bucket{le="1.0"}' in numbers
    with running({"tiny": model}) as alone:
        assert batched == [alone.segment(content).body for content in images]


def test_a_service_that_ends_while_it_warms_up_does_not_wait_for_ever(model):
    service = SegmentService([ServedModel("tiny", opened(model))], RequestLimits())
    service.close()
    warming = threading.Thread(target=service.warm_up, daemon=True)
    warming.start()
    warming.join(30)
    assert (warming.is_alive(), service.is_ready) == (False, False)
