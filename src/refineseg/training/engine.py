"""Steps of training on the device of a process, as fast as it goes without changing what is computed.

In: batches of pixels and masks, an :class:`~refineseg.training.objective.Objective`. Out: changed weights, and losses
that stay on the device: nothing in a step asks a GPU for a value, so the host prepares the next step meanwhile.

Where memory is short, a batch is computed in pieces whose gradients are added up; totals and weights of the loss are
added up too, so that the gradient is that of the whole batch. Only normalisation statistics are then those of a piece.
(Online hard example mining chooses its pixels within a piece.)

Several processes (:mod:`refineseg.training.ranks`) each compute their share of a batch. Fabric's data parallelism (DDP)
adds up their gradients while they are computed; totals and weights of the loss are added up too, so the gradient is
that of the mean over all pixels of the whole batch, however many of them are labelled in each share.

``torch.compile``: in the mode of the configuration, or with ``auto`` in mode ``reduce-overhead`` (fused kernels, CUDA
graphs) for the rest of a phase on a GPU, once its second epoch has shown that it would take longer than
:data:`COMPILE_PAYS_S`; never on a CPU, where it was slower (``docs/experiments.md``), and never where crops differ in
size (``pad`` false). Batches of an epoch all have one shape (:func:`~refineseg.data.crops.loading.epoch_order` leaves
out one that is not full), so that nothing is compiled twice.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from refineseg.data.crops.loading import Batch
from refineseg.devices import find_device, is_out_of_memory, keep_freed_memory
from refineseg.errors import ConfigError
from refineseg.segmenter import Segmenter
from refineseg.training import ranks
from refineseg.training.config import Phase, TrainingConfig
from refineseg.training.gradients import faster_gradients
from refineseg.training.launch import find_launch
from refineseg.training.objective import LossSum, Objective
from refineseg.training.optim import clip_gradients, hardware_has_bf16, one_value, sees_one_value
from refineseg.training.state import RunState

COMPILE_PAYS_S = 240.0
"""Seconds of a phase, and of the time limit, that must be left for ``compile`` = ``auto`` to compile.

That takes one to two minutes; a call of ten minutes has more.
"""


class _Spread(nn.Module):
    """A loss as a module, which data parallelism takes: it watches the parameters of the model in it.

    Args:
        segmenter: The model.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(
        self, score: Callable[[Tensor, Tensor], LossSum], images: Tensor, masks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Total and weight of an objective of the model."""
        part = score(images, masks)
        return part.total, part.weight


class Engine:
    """A device with a precision, and the steps computed on it.

    On a CPU, the process keeps the memory that it frees from then on: a step takes two thirds of the time
    (``docs/speed.md``).

    Args:
        config: Configuration of the run.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        say: Shows a line to the user.

    Raises:
        ConfigError: No such device.
    """

    def __init__(self, config: TrainingConfig, *, device: str, say: Callable[[str], None]) -> None:
        place = find_device(device)
        bf16 = config.precision == "bf16" or (config.precision == "auto" and hardware_has_bf16(place))
        for name in ("lightning.fabric", "lightning.pytorch"):  # which tell of every setting they are given
            logging.getLogger(name).setLevel(logging.WARNING)
        self._config, self._say = config, say
        setup: dict[str, Any] = {"devices": 1 if place.index is None else [place.index]}
        if ranks.size() > 1:
            here = find_launch().local_size
            setup = {"devices": here, "num_nodes": ranks.size() // here, "plugins": [TorchElasticEnvironment()]}
            setup["strategy"] = DDPStrategy()
        self._fabric = Fabric(accelerator=place.type, precision="bf16-mixed" if bf16 else "32-true", **setup)
        if ranks.size() > 1:
            self._fabric.launch()
        self._spread: Any = None  # several processes: the module whose gradients they add up
        self.device: torch.device = self._fabric.device
        if self.device.type == "cpu":
            keep_freed_memory()

    def place(self, segmenter: Segmenter) -> None:
        """Put a model on the device, and give it the first process's weights."""
        self._fabric.to_device(segmenter)
        if ranks.size() > 1:
            if self._config.sync_norm:
                nn.SyncBatchNorm.convert_sync_batchnorm(segmenter)  # type: ignore[no-untyped-call]
            ranks.make_same(segmenter)
            # said of 1x1 filters, whose order in memory is nobody's choice
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            self._spread = self._fabric.setup_module(_Spread(segmenter), move_to_device=False)

    def mode(self, phase: Phase, *, rest_s: float | None) -> str:
        """How to compile; ``rest_s``: how long the rest of the phase would take, None where that is not known yet."""
        if not phase.crops.pad or ranks.size() > 1:
            return "off"
        if self._config.compile != "auto":
            return self._config.compile
        pays = self.device.type == "cuda" and rest_s is not None and rest_s > COMPILE_PAYS_S
        return "reduce-overhead" if pays else "off"

    def stepper(self, state: RunState, objective: Objective, mode: str, *, equal_crops: bool = True) -> Stepper:
        """What computes the steps of a phase; ``equal_crops``: all of its crops have one size."""
        # trying all algorithms takes seconds for each new size: it pays where there is one for a whole phase
        torch.backends.cudnn.benchmark = equal_crops
        asked_for = self._config.compile != "auto"
        return Stepper(self._fabric, self._spread, state, objective, self._config.clip_norm, mode, asked_for, self._say)


class Stepper:
    """Optimiser steps of one phase. Made by :meth:`Engine.stepper`."""

    def __init__(
        self,
        fabric: Fabric,
        spread: Any,  # noqa: ANN401 - Fabric's wrapper of _Spread, or None
        state: RunState,
        objective: Objective,
        clip_norm: float | None,
        mode: str,
        asked_for: bool,
        say: Callable[[str], None],
    ) -> None:
        self._fabric, self._spread, self._state, self._objective = fabric, spread, state, objective
        self._clip_norm, self._mode, self._say = clip_norm, mode, say
        self._compiled: dict[str, Callable[[Tensor, Tensor], LossSum]] = {"off": objective}
        self._asked_for = asked_for
        self._undo = _Undo(state.segmenter, fabric.device)

    def step(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """One optimiser step.

        Args:
            batch: On the host or the device.

        Returns:
            The loss, and the norm that the gradient had before it was clipped (None: it is not clipped), both on the
            device.

        Raises:
            ConfigError: Not even a single crop fits into memory.
        """
        state = self._state
        # pinned memory is copied while the host goes on; a GPU computes the step after the copy in any case
        images, masks = (part.to(self._fabric.device, non_blocking=True) for part in (batch.images, batch.masks))
        self._undo.remember()
        while (loss := self._gradient(images, masks)) is None:  # memory was short; now the pieces are smaller
            self._undo.restore()
        try:
            norm = clip_gradients(state.segmenter, self._clip_norm)
            state.optimiser.step()
            if state.average is not None:
                state.average.update()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ConfigError(
                "expected enough memory for the optimiser's state, which no smaller micro-batch can spare; train a "
                f"smaller variant, or optimiser=sgd ({_first_line(error)})"
            ) from error
        return loss, norm

    def _gradient(self, images: Tensor, masks: Tensor) -> Tensor | None:
        """Gradients of a batch into the parameters; its loss, or None where memory was short."""
        size = min(self._state.micro_batch or len(images), len(images))
        try:
            return self._added_up(images, masks, num_pieces=-(-len(images) // size))
        except ValueError as error:
            one, reduced = images[:1], self._objective.takes_reduced
            if sees_one_value(self._state.segmenter, one, resized_already=reduced):  # memory short, or a crop shrank
                raise one_value(images.shape[2:]) from error
            raise
        except (RuntimeError, MemoryError) as error:
            if self._mode != "off" and _is_compiler_error(error):
                self._without_compiling(error)
                return None
            if not is_out_of_memory(error):
                raise
            if self._spread is not None:
                raise ConfigError(
                    f"expected enough memory for {size} crops of {images.shape[2]}x{images.shape[3]} pixels in every "
                    f"process, got too little ({_first_line(error)}); several processes do not change their steps on "
                    f"the way: say --set micro_batch={max(1, size // 2)}, or choose smaller crops"
                ) from error
            if size == 1:
                raise ConfigError(
                    f"expected enough memory for one crop of {images.shape[2]}x{images.shape[3]} pixels, got too "
                    f"little; choose smaller crops or a smaller variant ({_first_line(error)})"
                ) from error
            self._state.micro_batch = size // 2
            self._say(
                f"out of memory with {size} crops at a time ({_first_line(error)}): going on with {size // 2}. A step "
                f"still learns from {len(images)} crops with the same loss; normalisation statistics are of {size // 2}"
            )
        # outside of the except block, whose exception held the tensors of the failed attempt
        self._state.optimiser.zero_grad(set_to_none=True)
        if self._fabric.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _without_compiling(self, error: BaseException) -> None:
        """Go on as the network is, where compiling was not asked for by name."""
        reason = f"torch.compile does not work here ({_first_line(error)})"
        if self._asked_for:
            raise ConfigError(f"expected a machine that can compile for compile={self._mode}: {reason}") from error
        self._say(f"{reason}: going on without")
        self._mode = "off"

    def _added_up(self, images: Tensor, masks: Tensor, *, num_pieces: int) -> Tensor:
        """Gradients of the mean loss over a batch computed in pieces; returns that loss."""
        self._state.optimiser.zero_grad(set_to_none=True)
        score = self._score("default" if self._mode != "off" and num_pieces > 1 else self._mode)
        if num_pieces == 1 and self._spread is None:
            with self._fabric.autocast():
                loss = score(images, masks).mean
            self._backward(loss)
            return loss.detach()
        total, weight = torch.zeros(2, device=images.device).unbind()
        pixels = masks.numel()  # a constant in the size of the weights, so that gradients stay in a usual range
        pieces = list(zip(images.tensor_split(num_pieces), masks.tensor_split(num_pieces), strict=True))
        for number, (piece, truth) in enumerate(pieces, 1):
            with self._together_if(number == num_pieces):
                with self._fabric.autocast():
                    part_total, part_weight = self._parts(score, piece, truth)
                self._backward(part_total / pixels)
            total, weight = total + part_total.detach(), weight + part_weight.detach()
        total, weight = ranks.summed(torch.stack([total, weight])).unbind()
        weight = weight.clamp(min=1e-6)
        gradients = [p.grad for p in self._state.segmenter.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, ranks.size() * pixels / weight)  # data parallelism took the mean over processes
        return total / weight

    def _parts(
        self, score: Callable[[Tensor, Tensor], LossSum], images: Tensor, masks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Total and weight of the loss of a piece."""
        if self._spread is not None:
            total, weight = self._spread(score, images, masks)
            return total, weight
        part = score(images, masks)
        return part.total, part.weight

    def _together_if(self, last: bool) -> AbstractContextManager[object]:
        """The processes add up their gradients in the last piece of a batch only."""
        return nullcontext() if self._spread is None else self._fabric.no_backward_sync(self._spread, enabled=not last)

    def _backward(self, loss: Tensor) -> None:
        with faster_gradients(self._fabric.device, compiled=self._mode != "off"):
            self._fabric.backward(loss)

    def _score(self, mode: str) -> Callable[[Tensor, Tensor], LossSum]:
        """The objective, compiled in a mode when it is first asked for."""
        if mode not in self._compiled:
            self._say(f"compiling the network and its loss (torch.compile, {mode}); this takes a minute or two")
            self._compiled[mode] = torch.compile(self._objective.__call__, mode=mode, dynamic=False)
        if mode in ("reduce-overhead", "max-autotune"):
            # what the step before returned may be overwritten now
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return self._compiled[mode]


class _Undo:
    """What a failed attempt at a gradient changes beside the gradient: buffers (normalisation) and random state."""

    def __init__(self, segmenter: Segmenter, device: torch.device) -> None:
        self._device = device
        buffers = [buffer.detach() for buffer in segmenter.buffers()]
        kinds = {buffer.dtype for buffer in buffers}
        self._own = [[b for b in buffers if b.dtype == kind] for kind in kinds]  # one kernel copies all of a kind
        self._kept = [[b.clone() for b in group] for group in self._own]
        self._random: list[Tensor] = []

    def remember(self) -> None:
        for own, kept in zip(self._own, self._kept, strict=True):
            torch._foreach_copy_(kept, own)
        self._random = [torch.get_rng_state()]
        if self._device.type == "cuda":
            self._random.append(torch.cuda.get_rng_state(self._device))

    def restore(self) -> None:
        for own, kept in zip(self._own, self._kept, strict=True):
            torch._foreach_copy_(own, kept)
        torch.set_rng_state(self._random[0])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(self._random[1], self._device)


def _is_compiler_error(error: BaseException) -> bool:
    from torch._dynamo.exc import TorchDynamoException  # imported late: a second that only compiled runs need

    return isinstance(error, TorchDynamoException)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:150] if lines else type(error).__name__
