"""Where the time of a prediction goes: decoding, preprocessing, network, enlargement and argmax, encoding, each apart.

In: a segmenter and image files. Out: milliseconds of each stage, one after the other in one thread; ``refineseg
predict`` reads and writes files in threads while the network works, so its rate lies between the sum's and the
network's.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.table import Table

from refineseg.errors import ConfigError
from refineseg.images.encoding import write_mask
from refineseg.images.files import find_images, read_rgb
from refineseg.predict.predictor import stacked
from refineseg.segmenter import Segmenter, enlarged_classes

STAGES = ("decode", "preprocess", "network", "enlarge and argmax", "encode")
_MOST_IMAGES = 8


def stage_images(images: Path) -> Sequence[Path]:
    """The files that are timed: one, or the first eight of a folder.

    Raises:
        ConfigError: There is no such file or folder, or no image in it.
    """
    paths: Sequence[Path] = [images] if images.is_file() else find_images(images)[:_MOST_IMAGES]
    if not paths:
        raise ConfigError(f"expected an image or a folder of images for --stages, got {images}, where there is none")
    return paths


def measure_stages(
    segmenter: Segmenter, images: Path, *, device: torch.device, repeats: int = 5
) -> list[dict[str, Any]]:
    """Time every stage for some images, in float32, rewritten for inference.

    Args:
        segmenter: It is copied.
        images: A file, or a folder of which the first eight are taken.
        device: Device of the network.
        repeats: Rounds over all images, after one that is not counted.

    Returns:
        For each stage: name, median and 95th percentile in milliseconds, share of the sum of medians.

    Raises:
        ConfigError: No image there, or fewer than one round.
        ImageError: One cannot be read.
    """
    if repeats < 1:
        raise ConfigError(f"expected at least one image in {images} and one round, got {repeats} rounds")
    paths = stage_images(images)
    network = copy.deepcopy(segmenter).fuse().to(device)
    times: dict[str, list[float]] = {stage: [] for stage in STAGES}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats + 1):
            for path in paths:
                found = _one(network, path, Path(folder) / "mask.png", device)
                for stage, seconds in zip(STAGES, found, strict=True):
                    times[stage] += [1e3 * seconds] if turn else []
    medians = {stage: float(np.median(own)) for stage, own in times.items()}
    total = sum(medians.values())
    return [
        {
            "stage": stage,
            "p50_ms": medians[stage],
            "p95_ms": float(np.percentile(times[stage], 95)),
            "share": medians[stage] / total,
            "images": len(paths),
            "repeats": repeats,
        }
        for stage in STAGES
    ]


@torch.inference_mode()
def _one(segmenter: Segmenter, path: Path, target: Path, device: torch.device) -> list[float]:
    """Seconds of each stage of one image."""
    seconds: list[float] = []

    def timed(call: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever a stage gives
        begin = time.perf_counter()
        result = call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
        return result

    image = timed(lambda: read_rgb(path))
    x, inner_hw = timed(lambda: segmenter.network_input(stacked([image]).to(device)))
    logits = timed(lambda: segmenter.network(x))
    sizes = (x.shape[2], x.shape[3]), inner_hw, (image.shape[0], image.shape[1])
    mask = timed(lambda: enlarged_classes(logits, *sizes)[0].cpu().numpy())
    timed(lambda: write_mask(target, mask, segmenter.class_info))
    return seconds


def stages_table(stages: Sequence[dict[str, Any]], images: Path) -> Table:
    """For the terminal."""
    title = f"stages of {images}, {stages[0]['images']} images, {stages[0]['repeats']} rounds, PyTorch float32"
    table = Table("stage", title=title, title_justify="left", box=box.SIMPLE)
    for name in ("p50 ms", "p95 ms", "share"):
        table.add_column(name, justify="right")
    for row in stages:
        table.add_row(row["stage"], f"{row['p50_ms']:.1f}", f"{row['p95_ms']:.1f}", f"{100 * row['share']:.1f} %")
    return table
