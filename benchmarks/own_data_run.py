"""One contender of ``own_data.py`` in one process: a network learns from a folder for some minutes, val measures it.

    python benchmarks/own_data_run.py "smp Unet" --data folder:ROOT --minutes 5 --seed 0 --out result.json

The time counts from ``--begun`` (``time.time()`` of the caller), so imports and the reading of files count. The
measurement at the end is not.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from own_data import NETWORKS, OURS
from peer_networks import build_model
from torch import nn

import refineseg
from refineseg.data.checks.label_check import check_data
from refineseg.data.datasets import open_sources
from refineseg.data.samples.sample import Dataset
from refineseg.evaluate.predicting import evaluate
from refineseg.files.writing import written_beside
from refineseg.predict.predictor import Predictor
from refineseg.segmenter import Segmenter
from refineseg.terminal.printing import Terminal
from refineseg.training.budget import fit_to_budget
from refineseg.training.crop_size import fit_crops
from refineseg.training.feeding import PhaseData, TrainingData
from refineseg.training.loop import train
from refineseg.training.progress import TerminalProgress
from refineseg.training.recipes.table import find_recipe
from refineseg.training.request import Budget

CROP, BATCH = 320, 8


def with_verb(recipe: str, data: str, minutes: float, seed: int, begun: float) -> Segmenter:
    """What ``refineseg train --budget`` makes, with a recipe as it ships."""
    left = 60 * minutes - (time.time() - begun)
    with tempfile.TemporaryDirectory() as folder:
        run = refineseg.train(
            data, Path(folder) / "run", recipe=recipe, budget=f"{left:.1f}s", device="cpu", settings={"seed": seed}
        )
        return run.segmenter  # the last one: the best one is chosen by val


def in_our_loop(network: str, data: str, minutes: float, seed: int, begun: float) -> Segmenter:
    """Another library's network in the loop and the recipe that ours has by default."""
    now = Budget(60 * minutes, time.monotonic() - (time.time() - begun))
    train_set, val = open_sources(data, split="train"), open_sources(data, split="val")
    config = replace(find_recipe("folder_refineseg_lite0_5cascade"), variant=network, seed=seed)
    progress = TerminalProgress(Terminal(stderr=True))
    config = fit_crops(config, train_set, progress)
    segmenter = build_model(network, train_set.class_info, seed=seed, imagenet=True)
    loaded = TrainingData((PhaseData(train_set, check_data(train_set).pixel_counts),) * len(config.phases), val, data)
    config = fit_to_budget(segmenter, config, loaded, now, device="cpu", num_workers=None, progress=progress)
    with tempfile.TemporaryDirectory() as folder:
        loaded = loaded.measured_on(config.val_images)
        return train(segmenter, config, loaded, Path(folder), device="cpu", progress=progress)


class DiceLoss(nn.Module):
    """1 - the mean Dice of the classes that occur in a batch, as the other library's examples use it."""

    def forward(self, logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Logits (N, K, H, W), masks (N, H, W) with 255 for void -> a scalar."""
        valid = (masks != 255)[:, None]
        truth = nn.functional.one_hot(masks.where(valid[:, 0], 0), logits.shape[1]).permute(0, 3, 1, 2) * valid
        shares = logits.softmax(1) * valid
        both, all_of_them = (shares * truth).sum((0, 2, 3)), (shares + truth).sum((0, 2, 3))
        occurs = truth.sum((0, 2, 3)) > 0
        return ((1 - 2 * both / all_of_them.clamp_min(1e-7)) * occurs).sum() / logits.shape[1]


def crop_side(samples: Dataset) -> int:
    """320; for smaller images the next multiple of 32, which is what the other library's networks need."""
    longest = max(max(samples.read_mask(i).shape) for i in range(len(samples)))
    return min(CROP, -(-longest // 32) * 32)


def augmented(image: np.ndarray[Any, Any], mask: np.ndarray[Any, Any], side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the other library's example does: mirrored, shifted and scaled, padded, cut, with other colours."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    pixels = torch.from_numpy(np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)).transpose(2, 0, 1)))
    steps = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomAffine(0, translate=(0.1, 0.1), scale=(0.5, 1.5), fill={tv_tensors.Mask: 255, "others": 0}),
            v2.RandomCrop(side, pad_if_needed=True, fill={tv_tensors.Mask: 255, "others": 0}),
            v2.ColorJitter(0.2, 0.2, 0.2, 0.05),
        ]
    )
    image_out, mask_out = steps(tv_tensors.Image(pixels), tv_tensors.Mask(torch.from_numpy(mask.astype(np.int64))))
    return image_out, mask_out


def documented_loop(network: str, data: str, minutes: float, seed: int, begun: float) -> Segmenter:
    """A plain loop as in the other library's examples: Adam at 2e-4 with a cosine, Dice loss, float32."""
    end = 60 * minutes + begun
    torch.manual_seed(seed)
    samples: Dataset = open_sources(data, split="train")
    pairs = [samples[i] for i in range(len(samples))]
    side = crop_side(samples)
    segmenter = build_model(network, samples.class_info, seed=seed, imagenet=True).train()
    optimiser, loss_of = torch.optim.Adam(segmenter.parameters(), lr=2e-4), DiceLoss()
    order: list[int] = []
    first, steps = time.time(), 0
    while (now := time.time()) < end:
        while len(order) < BATCH:
            order += torch.randperm(len(pairs)).tolist()
        batch, order = order[:BATCH], order[BATCH:]
        made = [augmented(pairs[i].image, pairs[i].mask, side) for i in batch]  # type: ignore[arg-type]
        images, masks = torch.stack([m[0] for m in made]), torch.stack([m[1] for m in made])
        for group in optimiser.param_groups:
            group["lr"] = 1e-5 + (2e-4 - 1e-5) * (1 + math.cos(math.pi * min(1.0, (now - first) / (end - first)))) / 2
        optimiser.zero_grad()
        loss_of(segmenter(images.contiguous(memory_format=torch.channels_last)), masks).backward()
        optimiser.step()
        steps += 1
    print(f"{network}: {steps} steps")
    return segmenter


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contender", choices=NETWORKS)
    parser.add_argument("--data", required=True, help="folder:ROOT with the splits train and val")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--begun", type=float, default=None)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    begun = time.time() if options.begun is None else options.begun
    torch.set_num_threads(options.threads)
    name, network = options.contender, NETWORKS[options.contender]
    train_with = in_our_loop if name.endswith("our loop") else with_verb if name in OURS else documented_loop
    segmenter = train_with(network, options.data, options.minutes, options.seed, begun)
    seconds = time.time() - begun
    matrix = evaluate(Predictor(segmenter.eval(), device="cpu"), open_sources(options.data, split="val"))
    found = {
        "contender": name,
        "network": network,
        "seed": options.seed,
        "minutes": options.minutes,
        "seconds": seconds,
    }
    with written_beside(options.out) as temporary:
        temporary.write_text(json.dumps({**found, "mean_iou": matrix.mean_iou, "torch": torch.__version__}, indent=1))


if __name__ == "__main__":
    main()
