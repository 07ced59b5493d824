"""Pretraining without labels: the network fills in hidden squares of the training images.

In: the images of a data set, a training configuration. Out: a model of three "classes" (red, green, blue), whose file
is what ``train --init`` starts from: everything but the classifier is taken over.

It is a first phase of its own and says so: the model's provenance names the images, and a model that was trained from
it names it in ``started_from``. Labels are not used; the images are those of the training split alone.

Source: the task is that of Pathak et al., CVPR 2016 (context encoders) and He et al., CVPR 2022 (masked autoencoders),
with the absolute difference of normalised pixels as the loss.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from refineseg.class_info import ClassInfo
from refineseg.data.crops.augment import padding_pixel
from refineseg.data.crops.loading import mix_seeds
from refineseg.devices import find_device
from refineseg.errors import ConfigError
from refineseg.networks.building import preprocessing_of
from refineseg.networks.model_spec import ModelSpec
from refineseg.segmenter import Segmenter
from refineseg.training.config import TrainingConfig
from refineseg.training.feeding import Feed, TrainingData, default_workers, held
from refineseg.training.gradients import faster_gradients
from refineseg.training.optim import clip_gradients, hardware_has_bf16, make_optimiser, set_rates
from refineseg.training.progress import Progress


@dataclass(frozen=True)
class Hiding:
    """What is hidden.

    Args:
        share: Share of the squares, 0..1.
        side: Side of a square, in pixels.
    """

    share: float = 0.5
    side: int = 32

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.side < 1:
            raise ConfigError(f"expected a share between 0 and 1 and a side of at least 1 pixel, got {self}")

    def squares(
        self,
        count: int,
        size_hw: tuple[int, int],
        *,
        generator: torch.Generator,
        device: torch.device | None = None,
    ) -> Bool[Tensor, "n h w"]:
        """Which pixels of a batch are hidden; in every image the same number of squares, but for those at its edge.

        Args:
            count: Images.
            size_hw: Height and width of each.
            generator: Generator of the host, so that the same squares are hidden everywhere.
            device: Where the result is wanted; a GPU is not waited for. None: the host.
        """
        rows, columns = (-(-length // self.side) for length in size_hw)
        order = torch.rand(count, rows * columns, generator=generator).argsort(dim=1).argsort(dim=1)
        hidden = (order < max(1, round(self.share * rows * columns))).reshape(count, rows, columns)
        if device is not None and device.type == "cuda":
            hidden = hidden.pin_memory().to(device, non_blocking=True)
        large = hidden.repeat_interleave(self.side, dim=1).repeat_interleave(self.side, dim=2)
        return large[:, : size_hw[0], : size_hw[1]]


def reconstruction_loss(
    segmenter: Segmenter, images: UInt8[Tensor, "n 3 h w"], hidden: Bool[Tensor, "n h w"]
) -> Float[Tensor, ""]:
    """Mean absolute difference of normalised pixels where they are hidden, of a model that does not see them."""
    values = (torch.full((), round(value), dtype=torch.uint8, device=images.device) for value in padding_pixel(3))
    grey = torch.stack(list(values))[None, :, None, None]  # filled on the device, which a copy would wait for
    filled = segmenter(torch.where(hidden[:, None], grey, images)).float()
    with torch.autocast(images.device.type, enabled=False):
        pixels = replace(segmenter.spec.preprocessing, input_scale=1.0)(images, dtype=torch.float32)
        difference = (filled - pixels).abs().mean(1)
        mean: Tensor = (difference * hidden).sum() / hidden.sum().clamp(min=1)
        return mean


def pretrain(
    config: TrainingConfig,
    data: TrainingData,
    *,
    device: str = "auto",
    hiding: Hiding | None = None,
    num_workers: int | None = None,
    progress: Progress,
    stop_after_s: float | None = None,
) -> Segmenter:
    """Train a network of the configuration's variant to fill in what is hidden.

    Args:
        config: Variant, network options, phases (lengths, crops, rates, batches), optimiser and seed; everything about
            labels is left aside.
        data: Its training images, as a run has them.
        device: ``auto``, ``cpu``, ``cuda``, ...
        hiding: What is hidden; None: half of the squares of 32 pixels.
        num_workers: Reading processes; None: chosen.
        progress: Told one line per epoch.
        stop_after_s: Stop after the epoch in which so many seconds have passed; None: after the last.

    Returns:
        The model, in evaluation mode on the CPU; save it, and start a run from it by ``--init``.

    Raises:
        ConfigError: There is no such device, or data must be held on it and do not fit.
    """
    hiding, place, begun = hiding or Hiding(), find_device(device), time.monotonic()
    phases = (
        replace(p, crops=replace(p.crops, crop_centre="uniform", copy_paste=0.0, class_balance=0.0))
        for p in config.phases
    )
    config = replace(config, phases=tuple(phases))
    torch.manual_seed(config.seed)
    preprocessing = replace(preprocessing_of(config.variant), input_scale=config.input_scale)
    spec = ModelSpec(config.variant, ClassInfo(("red", "green", "blue")), preprocessing, config.network)
    segmenter = Segmenter(spec).to(place).train()
    optimiser = make_optimiser(segmenter, config)
    data = held(data, config, place, progress)
    workers = default_workers(place) if num_workers is None else num_workers
    data = data if workers else data.cached(config.cache_mib << 20)
    bf16 = config.precision == "bf16" or (config.precision == "auto" and hardware_has_bf16(place))
    feeds = [
        Feed(learned, phase, config, workers=workers, device=place)
        for learned, phase in zip(data.phases, config.phases, strict=True)
    ]
    losses: list[float] = []
    for epoch in range(config.num_epochs):
        phase, done = config.phase_of(epoch)
        batches = feeds[next(i for i, candidate in enumerate(config.phases) if candidate is phase)].epoch(epoch)
        total = torch.zeros((), device=place)
        for index, batch in enumerate(batches):
            set_rates(optimiser, phase, done + (index + 1) / len(batches))
            images = batch.images.to(place, non_blocking=True)
            generator = torch.Generator().manual_seed(mix_seeds(config.seed, epoch, index, 2))
            size_hw = (images.shape[2], images.shape[3])
            hidden = hiding.squares(len(images), size_hw, generator=generator, device=place)
            with torch.autocast(place.type, torch.bfloat16, enabled=bf16):
                loss = reconstruction_loss(segmenter, images, hidden)
            optimiser.zero_grad(set_to_none=True)
            with faster_gradients(place):
                loss.backward()  # type: ignore[no-untyped-call]
            clip_gradients(segmenter, config.clip_norm)
            optimiser.step()
            total += loss.detach()
        losses.append(float(total) / len(batches))
        progress.say(f"epoch {epoch + 1}/{config.num_epochs}: difference {losses[-1]:.4f}")
        if stop_after_s is not None and time.monotonic() - begun > stop_after_s:
            break
    task = f"hidden squares of {hiding.side} pixels, {hiding.share:.0%} of each image"
    facts = {"task": task, "variant": config.variant, "epochs": len(losses), "difference": losses[-1]}
    origin = {"data": data.description, "started_from": "scratch", "seed": config.seed, "pretraining": facts}
    return segmenter.eval().cpu().with_provenance(origin)
