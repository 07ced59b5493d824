"""Predict image files and folders into a folder of masks and overlays.

In: paths. Out: ``OUT/<name>.png`` (palette PNG, value = class index), ``OUT/<name>_overlay.jpg``, and a line per image
on stdout with the share of each class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from refineseg.errors import ConfigError, ImageError
from refineseg.images import find_images, first_names, read_rgb, write_image, write_mask, written_beside
from refineseg.predict.predictor import Predictor, PredictorOptions
from refineseg.scoring import Prediction

KINDS = ("mask", "overlay", "probabilities")
_SMALLEST_SHARE = 0.0005


@dataclass(frozen=True)
class _Job:
    """One image file, and its results' path without an ending."""

    source: Path
    target: Path


def predict_files(
    inputs: Sequence[Path],
    out: Path,
    *,
    model: str,
    save: str,
    options: PredictorOptions,
    console: Console,
) -> int:
    """Predict every image; what cannot be read or written is named and skipped.

    Args:
        inputs: Image files, and folders that are searched with their subfolders.
        out: Where results go; the structure below an input folder is kept.
        model: A shipped name or a model file.
        save: Kinds of results, of :data:`KINDS`, with commas.
        options: How to predict.
        console: For failures and progress.

    Returns:
        How many inputs failed.

    Raises:
        ConfigError: Unknown kinds, or results that would overwrite each other or an input; nothing has been written
            then.
    """
    kinds = tuple(kind.strip() for kind in save.split(","))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ConfigError(f"expected --save with some of {', '.join(KINDS)}, got {', '.join(unknown)}")
    jobs, failures = _plan(inputs, out)
    _refuse_collisions(jobs)
    for message in failures:
        console.print(message, style="red", highlight=False, soft_wrap=True)
    predictor = options.open(model)
    failed = len(failures)
    for job in track(jobs, "predicting", console=console, transient=True, disable=not console.is_terminal):
        try:
            prediction = _predict(predictor, job, "probabilities" in kinds)
            _write(prediction, job, kinds)
        except (ImageError, OSError) as error:
            console.print(f"skipped: {error}", style="red", highlight=False, soft_wrap=True)
            failed += 1
        else:
            print(f"{job.source}: {_shares(prediction)}")
    return failed


def _plan(inputs: Sequence[Path], out: Path) -> tuple[list[_Job], list[str]]:
    """What to predict and where to, and what is wrong with the rest."""
    jobs, failures = [], []
    for path in inputs:
        if path.is_dir():
            found = [image for image in find_images(path) if not image.resolve().is_relative_to(out.resolve())]
            jobs += [_Job(image, out / image.relative_to(path).with_suffix("")) for image in found]
            if not found:
                failures.append(f"skipped: expected images in {path}, found none")
        elif path.exists():
            jobs.append(_Job(path, out / path.stem))
        else:
            failures.append(f"skipped: expected an image or a folder, but there is no {path}")
    return jobs, failures


def _refuse_collisions(jobs: Sequence[_Job]) -> None:
    seen: dict[Path, Path] = {}
    for job in jobs:
        other = seen.setdefault(job.target, job.source)
        if other.resolve() != job.source.resolve():
            raise ConfigError(
                f"expected different names, but {other} and {job.source} would both become {job.target}.png; "
                "predict them into different folders"
            )
    sources = {job.source.resolve() for job in jobs}
    overwritten = [job.source for job in jobs if job.target.with_name(job.target.name + ".png").resolve() in sources]
    if overwritten:
        raise ConfigError(
            f"expected --out apart from the inputs, but masks would overwrite {first_names(overwritten)}; "
            "choose another folder"
        )


def _predict(predictor: Predictor, job: _Job, probabilities: bool) -> Prediction:
    image = read_rgb(job.source)
    try:
        return predictor(image, probabilities=probabilities)
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error).lower():
            raise
        height, width = image.shape[:2]
        raise ImageError(f"{job.source}: not enough memory for {height}x{width} pixels; shrink or cut it") from error


def _write(prediction: Prediction, job: _Job, kinds: Sequence[str]) -> None:
    target = job.target
    if "mask" in kinds:
        write_mask(target.with_name(target.name + ".png"), prediction.mask, prediction.class_info)
    if "overlay" in kinds:
        write_image(target.with_name(target.name + "_overlay.jpg"), prediction.overlay())
    if "probabilities" in kinds and prediction.probabilities is not None:
        path = target.with_name(target.name + "_probabilities.npz")
        with written_beside(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                probabilities=prediction.probabilities.astype(np.float16),
                classes=np.array(prediction.class_info.names),
            )


def _shares(prediction: Prediction) -> str:
    """``sky 40.1 %, road 30.0 %``: largest first, without what rounds to nothing."""
    shares = prediction.shares
    order = [int(i) for i in np.argsort(-shares, kind="stable") if shares[i] >= _SMALLEST_SHARE]
    return ", ".join(f"{prediction.class_info.names[i]} {100 * shares[i]:.1f} %" for i in order)
