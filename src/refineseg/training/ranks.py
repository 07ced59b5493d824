"""What the processes of a run do together: sums, decisions of the first one, and its errors.

In: values and tensors of each process. Out: those of all, or those of the first. One process is alone: then everything
here gives back what it is given, and nothing is imported, started or waited for.

Every process calls the same functions in the same order. Values travel between CPUs (gloo), also where gradients travel
between GPUs (NCCL), so that a decision never waits for a GPU.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn

from refineseg.devices import find_device
from refineseg.errors import ConfigError, ProcessError, RefinesegError, told
from refineseg.training.config import TrainingConfig
from refineseg.training.launch import Launch

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

T = TypeVar("T")

_PATIENCE = timedelta(hours=2)  # the others wait while the first looks at every image
_MEETING = timedelta(minutes=15)  # machines may start one after the other
_LOST = ("connection closed by peer", "connection reset by peer", "broken pipe", "gloo")


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if _several() else 0


def size() -> int:
    """Number of all processes."""
    return dist.get_world_size() if _several() else 1


def is_first() -> bool:
    """Whether this is the process that decides, writes files and speaks."""
    return rank() == 0


def agreed(value: T) -> T:
    """The value of the first process."""
    if not _several():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def gathered(value: T) -> list[T]:
    """The values of all processes."""
    values = [value] * size()
    if _several():
        dist.all_gather_object(values, value)
    return values


def most(number: int) -> int:
    """The largest number of all processes; cheap enough for every step."""
    if not _several():
        return number
    largest = torch.tensor(number)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def least(number: int) -> int:
    """The smallest number of all processes."""
    return -most(-number)


def summed(tensor: Tensor) -> Tensor:
    """The sum over all processes, on the tensor's device."""
    if not _several():
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def make_same(module: nn.Module, *, buffers_only: bool = False) -> None:
    """Give a module the parameters and buffers of the first process."""
    if _several():
        for tensor in [*([] if buffers_only else module.parameters()), *module.buffers()]:
            values = tensor.detach().contiguous()
            dist.broadcast(values, src=0)
            tensor.detach().copy_(values)


def share_of(count: int) -> range:
    """Which of so many samples this process measures: equal parts in order, the first ones by the first process."""
    first, end = (-(-count * number // size()) for number in (rank(), rank() + 1))
    return range(first, end)


def of_first(function: Callable[[], T]) -> T:
    """What a function gives in the first process, which alone calls it.

    Raises:
        ProcessError: It failed there; the first process raises what it raised.
    """
    if not _several():
        return function()
    done: list[Any] = [False, None]
    try:
        if is_first():
            done = [True, function()]
    finally:
        dist.broadcast_object_list(done, src=0)
    if not done[0]:
        raise ProcessError
    value: T = done[1]
    return value


def of_all(function: Callable[[], T]) -> T:
    """What a function gives in this process, once it has succeeded in all; it must not wait for the others.

    Raises:
        RefinesegError: It failed in a process; the first process tells how, and of which.
    """
    if not _several():
        return function()
    value: Any = None
    own: RefinesegError | None = None
    try:
        value = function()
    except RefinesegError as error:
        own = error
    errors = gathered(None if own is None else tuple(map(str, own.args)))
    if not any(errors):
        result: T = value
        return result
    if own is not None and is_first() and len(set(errors)) == 1:
        raise own
    raise told_once(ProcessError(*_of_each(errors)))


def _of_each(errors: Sequence[tuple[str, ...] | None]) -> Iterator[str]:
    """Lines with each error and the processes that it belongs to."""
    for error in dict.fromkeys(error for error in errors if error):
        processes = [str(number) for number, other in enumerate(errors) if other == error]
        first, *more = error
        yield f"in process {', '.join(processes)} of {len(errors)}: {first}"
        yield from more


def told_once(error: RefinesegError) -> RefinesegError:
    """An error that all processes raise, which the first one tells."""
    return error if is_first() else ProcessError()


@contextmanager
def together(launch: Launch, device: str) -> Iterator[None]:
    """Bring the processes of a launch together for as long as the block lasts; one process stays alone.

    Args:
        launch: How they were started; processes that a program has brought together stay so.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: A device that not every process can have.
        ProcessError: They do not meet, or one ended before the others; or any error of a process that is not the first.
    """
    if launch.size == 1 or _several():
        yield
        return
    kind = _check_device(launch, device)
    try:
        store = _meet(launch)
        backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=launch.rank, world_size=launch.size, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise ProcessError(
            f"expected {launch.size} processes to meet (MASTER_ADDR, MASTER_PORT), got none of the others "
            f"({told(error)}); start all of them, on machines that reach each other"
        ) from error
    if launch.rank:  # what all would warn of, the first one warns of
        logging.getLogger("refineseg").setLevel(logging.ERROR)
        warnings.simplefilter("ignore")
    try:
        yield
    except ProcessError:
        raise
    except RefinesegError as error:
        if is_first():
            raise
        first, *more = error.args
        raise ProcessError(f"in process {launch.rank} of {launch.size}: {first}", *more) from error
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        text = f"lost another process of this run, which was killed or tells why it ended ({told(error)})"
        raise told_once(ProcessError(f"{text}; the run goes on from its last checkpoint with --resume")) from error
    dist.destroy_process_group()


def _meet(launch: Launch) -> Store:
    """A part of the launch's store that nobody but these processes has written to.

    ``torchrun`` may keep its store when it starts workers again, with the addresses of dead ones in it; who reads them
    waits for ever. So each process gives itself a new name, which only a first process that lives can answer.

    Raises:
        RuntimeError: The others do not come.
    """
    from torch._C._distributed_c10d import PrefixStore  # which not every build of PyTorch has
    from torch.distributed.rendezvous import rendezvous

    whole, _, _ = next(rendezvous("env://", timeout=_MEETING))
    store, own, others = PrefixStore("refineseg", whole), uuid4().hex, range(1, launch.size)
    end, meeting = time.monotonic() + _MEETING.total_seconds(), own
    if launch.rank:
        store.set(f"name/{launch.rank}", own)
    while True:  # and not a call that waits, which no signal would reach
        if launch.rank and store.check([f"answer/{own}"]):
            meeting = store.get(f"answer/{own}").decode()
            store.set(f"{meeting}/{launch.rank}", "here")
            break
        if launch.rank == 0:
            for number in others:
                if store.check([f"name/{number}"]):
                    store.set(f"answer/{store.get(f'name/{number}').decode()}", own)
            if store.check([f"{own}/{number}" for number in others]):
                break
        if time.monotonic() > end:
            raise RuntimeError(f"not all came in {_MEETING}")
        time.sleep(0.05)
    return PrefixStore(meeting, store)


def _is_lost(error: RuntimeError) -> bool:
    """Whether another process ended; gloo says it in words alone."""
    return isinstance(error, dist.DistError) or any(text in str(error).lower() for text in _LOST)


def _check_device(launch: Launch, device: str) -> str:
    """Give every process of a machine a GPU of its own, or the CPU."""
    place = find_device(device)
    if place.type not in ("cpu", "cuda") or ":" in device:
        raise ConfigError(
            f"expected --device auto, cpu or cuda for {launch.size} processes, each of which takes the GPU of its "
            f"number, got {device}; set CUDA_VISIBLE_DEVICES to choose GPUs"
        )
    if place.type == "cuda":
        if launch.local_size > torch.cuda.device_count():
            raise ConfigError(
                f"expected at most one process for each GPU of a machine ({torch.cuda.device_count()}), got "
                f"{launch.local_size}; start torchrun with --nproc-per-node {torch.cuda.device_count()}, or say "
                "--device cpu"
            )
        torch.cuda.set_device(launch.local_rank)
    return place.type


def check_config(config: TrainingConfig, *, processes: int, device: str) -> None:
    """Whether so many processes can share a run.

    Args:
        config: Configuration of the run.
        processes: Number of them.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: A batch that they do not divide, or settings that need one process or GPUs.
    """
    if processes == 1:
        return
    for phase in config.phases:
        check_batch(phase.batch_size, processes)
    if config.compile not in ("auto", "off"):
        raise ConfigError(
            f"expected compile=off or auto for {processes} processes, got {config.compile}, which has not been tried "
            "with several; leave it out"
        )
    if config.sync_norm and find_device(device).type != "cuda":
        raise ConfigError(
            f"expected GPUs for sync_norm with {processes} processes, got the CPU, for which PyTorch has no "
            "synchronised normalisation; say --set freeze_norm=true to keep the encoder's statistics, or leave it out"
        )


def check_batch(batch_size: int, processes: int, *, samples: int | None = None) -> None:
    """Whether processes divide a batch.

    Args:
        batch_size: Crops of a step, of all processes.
        processes: Number of them.
        samples: Number of training samples, which is the batch where it is less; None: not known yet.

    Raises:
        ConfigError: They do not.
    """
    batch = batch_size if samples is None else min(batch_size, samples)
    if batch % processes:
        got = f"{batch}" if batch == batch_size else f"{batch} (batch_size {batch_size}, {samples} training images)"
        raise ConfigError(
            f"expected a batch that {processes} processes divide, got {got}: the batch of a recipe is that of all "
            f"processes; give --batch-size {max(1, batch // processes) * processes}, or start as many processes as "
            "divide it"
        )
