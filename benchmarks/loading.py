"""How fast training crops are read and cut: from JPEG files, from the decoded cache, from images held on a device.

    ./dev python benchmarks/loading.py --workers 2

Draws photographs of 375x500 and 512x683 pixels (the usual sizes of VOC and ADE20K) with masks into a folder, and cuts
512x512 crops with random scale, flip and colour, in batches of 8. Prints images per second of each way, in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from refineseg.data.crops.augment import Augmentation
from refineseg.data.crops.loading import Batch, DecodedCache, HostBatches
from refineseg.data.crops.resident import hold
from refineseg.data.datasets import open_dataset

CLASSES = {"classes": [{"id": i, "name": f"class {i}"} for i in range(8)]}
BATCH_SIZE = 8


def draw_folder(root: Path, count: int) -> None:
    """Photograph-like JPEGs (smooth noise over several scales) and masks of blobs."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind / "train").mkdir(parents=True)
    (root / "classes.json").write_text(json.dumps(CLASSES), encoding="utf-8")
    for index in range(count):
        height, width = ((375, 500), (512, 683))[index % 2]
        pixels = np.zeros((height, width, 3))
        for step in (4, 16, 64):
            coarse = rng.integers(0, 256, (height // step + 2, width // step + 2, 3), dtype=np.uint8)
            pixels += np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), float) / 3
        blobs = rng.integers(0, 8, (height // 40 + 2, width // 40 + 2), dtype=np.uint8)
        mask = Image.fromarray(blobs).resize((width, height), Image.Resampling.NEAREST)
        Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / "train" / f"{index:04d}.jpg", quality=92)
        mask.save(root / "masks" / "train" / f"{index:04d}.png")


def rate(batches: Iterable[Batch]) -> float:
    """Images per second of one pass, from the first batch on: starting the workers is not counted."""
    iterator = iter(batches)
    next(iterator)
    begun, images = time.perf_counter(), 0
    for batch in iterator:
        images += len(batch.names)
    return images / (time.perf_counter() - begun)


def main() -> None:
    """All ways in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="where images are held")
    arguments = parser.parse_args()
    augmentation = Augmentation((512, 512), (0.5, 2.0), colour=0.3)
    with tempfile.TemporaryDirectory() as folder:
        draw_folder(Path(folder), arguments.images)
        dataset = open_dataset("folder", folder, split="train")
        cache = DecodedCache(dataset, max_bytes=1 << 30)
        for index in range(len(cache)):
            _ = cache[index]
        held = hold(dataset, device=torch.device(arguments.device), max_bytes=4 << 30)
        assert held is not None
        common = {"batch_size": BATCH_SIZE, "seed": 0}
        ways: dict[str, Callable[[int], Iterable[Batch]]] = {
            f"JPEG files, {arguments.workers} workers": lambda epoch: HostBatches(
                dataset, augmentation, num_workers=arguments.workers, **common
            ).epoch(epoch),
            f"decoded cache, {arguments.workers} workers": lambda epoch: HostBatches(
                cache, augmentation, num_workers=arguments.workers, **common
            ).epoch(epoch),
            f"held on {arguments.device}": lambda epoch: held.batches(augmentation, epoch=epoch, **common),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for epoch in range(arguments.rounds):
            for name, way in ways.items():
                rates[name].append(rate(way(epoch)))
    for name, values in rates.items():
        print(f"{name}: {statistics.median(values):.0f} images/s (rounds: {', '.join(f'{v:.0f}' for v in values)})")


if __name__ == "__main__":
    main()
