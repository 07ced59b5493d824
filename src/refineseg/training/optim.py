"""Optimiser, learning-rate schedule and the average of the weights.

In: a network and a configuration. Out: plain torch objects, and :class:`WeightAverage`. Nothing here waits for the
device.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from refineseg.errors import ConfigError
from refineseg.segmenter import Segmenter
from refineseg.training import ranks
from refineseg.training.config import Phase, TrainingConfig

_POLY_POWER = 0.9
_USUAL_MOMENTUM = 0.1  # of PyTorch's batch normalisation
_FORGETTING = 10.0


def make_optimiser(segmenter: Segmenter, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over four groups: encoder and decoder, with and without weight decay.

    Vectors (biases, norms) are not decayed unless the configuration says so. Where PyTorch has a fused step (one pass
    over the memory instead of several: on CPUs half the time), it is used.
    """
    groups: list[dict[str, Any]] = []
    for part, module in (("encoder", segmenter.network.encoder), ("decoder", segmenter.network.decoder)):
        parameters = list(module.parameters())
        decayed = [p for p in parameters if config.decay_vectors or p.ndim > 1]
        plain = [p for p in parameters if not (config.decay_vectors or p.ndim > 1)]
        for members, decay in ((decayed, config.weight_decay), (plain, 0.0)):
            if members:
                groups.append({"params": members, "weight_decay": decay, "part": part})
    fused = True if _has_fused_step(segmenter) else None  # None: PyTorch's choice, foreach on most devices
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum, fused=fused)
    return torch.optim.AdamW(groups, lr=0.0, fused=fused)


def _has_fused_step(module: nn.Module) -> bool:
    return all(p.device.type in ("cuda", "cpu") and p.is_floating_point() for p in module.parameters())


def rate_factor(phase: Phase, progress: float) -> float:
    """Share of a phase's learning rates in force.

    Args:
        phase: The phase.
        progress: Epochs of the phase done so far, with fractions.
    """
    if progress < phase.warmup_epochs:
        return progress / phase.warmup_epochs
    t = (progress - phase.warmup_epochs) / max(phase.epochs - phase.warmup_epochs, 1e-9)
    if phase.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(t, 1.0)))
    if phase.schedule == "poly":
        return float((1 - min(t, 1.0)) ** _POLY_POWER)
    return 1.0


def set_rates(optimiser: torch.optim.Optimizer, phase: Phase, progress: float) -> None:
    """Set every group's learning rate for the next step; ``progress`` as in :func:`rate_factor`."""
    factor = rate_factor(phase, progress)
    for group in optimiser.param_groups:
        group["lr"] = factor * (phase.encoder_lr if group["part"] == "encoder" else phase.decoder_lr)


class WeightAverage:
    """Exponential moving average of weights and normalisation statistics.

    Early in training the decay is lower (``(1 + n) / (10 + n)`` after n steps), so that random weights are forgotten.
    The steps are counted on the host: PyTorch's ``AveragedModel`` counts them on the device and asks it at every step.

    Args:
        segmenter: What is averaged; it must stay on its device.
        decay: Decay of the average in the long run, 0..1.
    """

    def __init__(self, segmenter: Segmenter, decay: float) -> None:
        self.module = copy.deepcopy(segmenter)
        self._decay, self._steps = decay, 0
        own, currents = ([*module.parameters(), *module.buffers()] for module in (self.module, segmenter))
        pairs = [(mean.detach(), current.detach()) for mean, current in zip(own, currents, strict=True)]
        self._averaged = _columns([pair for pair in pairs if pair[0].is_floating_point()])
        self._copied = _columns([pair for pair in pairs if not pair[0].is_floating_point()])

    @torch.no_grad()
    def update(self) -> None:
        """Take the model as it is now into the average."""
        n = self._steps
        share = 1 - min(self._decay, (1 + n) / (10 + n)) if n else 1.0
        torch._foreach_lerp_(*self._averaged, share)
        if self._copied[0]:
            torch._foreach_copy_(*self._copied)
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Everything that must be kept, under the names of PyTorch's ``AveragedModel``."""
        weights = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        return {"n_averaged": torch.tensor(self._steps), **weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self._steps = int(state["n_averaged"])
        self.module.load_state_dict({k.removeprefix("module."): v for k, v in state.items() if k != "n_averaged"})


def _columns(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [mean for mean, _ in pairs], [current for _, current in pairs]


def hardware_has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is native there (on other hardware it is emulated and slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        if not hasattr(torch.cpu, "get_capabilities"):  # older PyTorch: not known, and float32 is right everywhere
            return False
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("sve_bf16"))
    return False


def clip_gradients(module: nn.Module, norm: float | None) -> Tensor | None:
    """Shrink the gradient to at most ``norm``; returns the norm it had, on the device. None leaves it."""
    return None if norm is None else nn.utils.clip_grad_norm_(module.parameters(), norm)


def freeze_statistics(module: nn.Module) -> None:
    """Let batch normalisation use its stored mean and variance, until ``train()`` is called again."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.SyncBatchNorm):
            part.eval()


def let_statistics_follow(segmenter: Segmenter, num_steps: int) -> None:
    """Let batch normalisation forget the statistics that a run starts from: of 100 steps and more, e**-10 are left.

    EfficientNet's statistics move by a hundredth of a step, so after 60 steps half of ImageNet's would be left. A run
    of a thousand steps and more keeps what its network has; nothing moves faster than PyTorch's default, a tenth.

    Args:
        segmenter: The model that will learn.
        num_steps: Steps of the whole run.
    """
    least = min(_USUAL_MOMENTUM, _FORGETTING / max(1, num_steps))
    for part in segmenter.modules():
        if isinstance(part, nn.BatchNorm2d | nn.SyncBatchNorm) and part.momentum is not None:
            part.momentum = max(part.momentum, least)


def check_statistics(segmenter: Segmenter, config: TrainingConfig, num_samples: Sequence[int]) -> None:
    """Whether batch normalisation sees several values of each channel in every step, which it takes statistics of.

    One crop alone, whose coarsest map is one pixel (32x32 at stride 32), has one value; so has a map that was pooled
    over the whole crop.

    Args:
        segmenter: The model; it stays as it is.
        config: Configuration of the run.
        num_samples: Training samples of each phase.

    Raises:
        ConfigError: It sees one value.
    """
    for phase, count in zip(config.phases, num_samples, strict=True):
        batch = min(phase.batch_size, count) // (1 if config.sync_norm else ranks.size())
        pieces = -(-batch // min(config.micro_batch or batch, batch))
        if batch // pieces > 1:
            continue
        model = copy.deepcopy(segmenter).train()
        if config.freeze_norm:
            freeze_statistics(model.network.encoder)
        shape = (1, segmenter.spec.preprocessing.in_channels, *phase.crops.crop_hw)
        crop = torch.zeros(shape, dtype=torch.uint8, device=next(model.parameters()).device)
        if sees_one_value(model, crop, resized_already=(config.input_scale or 1.0) < 1):
            raise one_value(phase.crops.crop_hw)


def sees_one_value(segmenter: Segmenter, images: Tensor, *, resized_already: bool = False) -> bool:
    """Whether a batch normalisation of a model in training takes statistics of one value for each channel.

    PyTorch refuses that with a plain ValueError; the shapes tell it from others.

    Args:
        segmenter: The model; it stays as it is.
        images: Crops that it learns from at a time.
        resized_already: Crops are cut from images that were resized.
    """
    found: list[bool] = []

    def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(norm.training and inputs[0].numel() == inputs[0].shape[1])

    trial = copy.deepcopy(segmenter)
    for part in trial.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.register_forward_pre_hook(look)
    with contextlib.suppress(ValueError), torch.no_grad(), torch.random.fork_rng(devices=[]):
        trial(images, resized_already=resized_already)
    return any(found)


def one_value(crop_hw: Sequence[int]) -> ConfigError:
    """What to say of it."""
    return ConfigError(
        f"expected at least two crops at a time, or larger ones, got one of {crop_hw[0]}x{crop_hw[1]} pixels, of which "
        "normalisation sees one value per channel; raise --batch-size (and give as many images) or "
        "phases.0.crop_hw, or say --set freeze_norm=true to keep the encoder's statistics"
    )


def draw_decoder(segmenter: Segmenter, std: float) -> None:
    """Draw the decoder's filters anew from a normal distribution of mean 0, with biases 0, as both papers do."""
    for part in segmenter.network.decoder.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
