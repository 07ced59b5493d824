"""Optimiser, learning-rate schedule and the average of the weights.

In: a network and a configuration. Out: plain torch objects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from refineseg.segmenter import Segmenter
from refineseg.training.config import Phase, TrainingConfig

_POLY_POWER = 0.9


def make_optimiser(segmenter: Segmenter, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over four groups: encoder and decoder, with and without weight decay.

    Vectors (biases, norms) are not decayed unless the configuration says so.
    """
    groups: list[dict[str, Any]] = []
    for part, module in (("encoder", segmenter.network.encoder), ("decoder", segmenter.network.decoder)):
        parameters = list(module.parameters())
        decayed = [p for p in parameters if config.decay_vectors or p.ndim > 1]
        plain = [p for p in parameters if not (config.decay_vectors or p.ndim > 1)]
        for members, decay in ((decayed, config.weight_decay), (plain, 0.0)):
            if members:
                groups.append({"params": members, "weight_decay": decay, "part": part})
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=0.0)


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


def weight_average(segmenter: Segmenter, decay: float) -> AveragedModel:
    """Exponential moving average of weights and normalisation statistics.

    Early in training the decay is lower (``(1 + n) / (10 + n)`` after n steps), so that random weights are forgotten.
    """

    def average(averages: Sequence[Tensor], currents: Sequence[Tensor], steps: Tensor | int) -> None:
        n = int(steps)
        share = 1 - min(decay, (1 + n) / (10 + n))
        for mean, current in zip(averages, currents, strict=True):
            if mean.is_floating_point():
                mean.lerp_(current.to(mean.dtype), share)
            else:
                mean.copy_(current)

    return AveragedModel(segmenter, multi_avg_fn=average, use_buffers=True)


def hardware_has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is native there (on other hardware it is emulated and slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("sve_bf16"))
    return False


def clip_gradients(module: nn.Module, norm: float | None) -> None:
    """Shrink the gradient to at most ``norm``; None leaves it."""
    if norm is not None:
        nn.utils.clip_grad_norm_(module.parameters(), norm)


def freeze_statistics(module: nn.Module) -> None:
    """Let batch normalisation use its stored mean and variance, until ``train()`` is called again."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()


def draw_decoder(segmenter: Segmenter, std: float) -> None:
    """Draw the decoder's filters anew from a normal distribution of mean 0, with biases 0, as both papers do."""
    for part in segmenter.network.decoder.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
