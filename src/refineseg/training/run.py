"""A training run from its description: open and check the data, make the model, train, or go on where a run stopped.

In: names, as the command line has them. Out: the run's folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from refineseg._version import __version__
from refineseg.class_info import ClassInfo
from refineseg.data.datasets import DATASETS, open_dataset, parse_data
from refineseg.data.folder import folder_splits
from refineseg.data.label_check import check_labels
from refineseg.errors import CheckpointError, ConfigError
from refineseg.images import written_beside
from refineseg.segmenter import Segmenter, build, load
from refineseg.training.checkpoint import FILE_NAME
from refineseg.training.config import TrainingConfig, from_json, to_json
from refineseg.training.loop import TrainingData, train
from refineseg.training.progress import Progress


@dataclass(frozen=True)
class RunRequest:
    """What the user asks for.

    Args:
        config: The complete configuration.
        data: ``NAME:ROOT``.
        init: Model to fine-tune: a shipped name or a model file; None: a new one.
        device: ``auto``, ``cpu`` or ``cuda``.
        num_workers: Reading processes; None: chosen.
    """

    config: TrainingConfig
    data: str
    init: str | None = None
    device: str = "auto"
    num_workers: int | None = None


def start_run(request: RunRequest, folder: Path, *, progress: Progress) -> Segmenter:
    """Train into a folder that holds no run yet.

    Raises:
        CheckpointError: The folder already holds a run.
        ConfigError: Options that contradict each other.
        DatasetError: Data that cannot be trained on; nothing has been written then.
    """
    if (folder / "run.json").exists() or (folder / FILE_NAME).exists():
        raise CheckpointError(
            f"expected a folder without a run, got {folder}; "
            f"go on with it by --resume --out {folder}, or choose another"
        )
    config = request.config
    name, root = parse_data(request.data)
    if name == "folder" and config.val_split == "val" and "val" not in folder_splits(root):
        progress.say("no val split: training without validation (the last model is the result)")
        config = replace(config, val_split=None)
    data = _open(request.data, config, progress)
    segmenter, config = _make_model(request, config, data.train.class_info, DATASETS[name].licence, progress)
    folder.mkdir(parents=True, exist_ok=True)
    description: dict[str, Any] = {
        "version": __version__,
        "data": f"{name}:{root.resolve()}",
        "init": request.init,
        "started_from": segmenter.spec.provenance["started_from"],
        "config": to_json(config),
    }
    with written_beside(folder / "run.json") as temporary:
        temporary.write_text(json.dumps(description, indent=1), encoding="utf-8")
    return train(
        segmenter, config, data, folder, device=request.device, num_workers=request.num_workers, progress=progress
    )


def resume_run(
    folder: Path, *, data: str | None, device: str, num_workers: int | None, progress: Progress
) -> Segmenter:
    """Go on with the run in a folder, from its last complete epoch.

    Args:
        folder: Of the run.
        data: Where the data set lies now; None: where it lay.
        device: ``auto``, ``cpu`` or ``cuda``.
        num_workers: Reading processes; None: chosen.
        progress: Shows what happens.

    Raises:
        CheckpointError: There is no run in the folder, or it is damaged.
    """
    path = folder / "run.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        config = from_json(description["config"])
        data = data or str(description["data"])
        started_from, init = str(description["started_from"]), description["init"]
    except FileNotFoundError as error:
        raise CheckpointError(f"expected a run to resume in {folder}, but there is no {path.name}") from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"expected the description of a run in {path}, which is damaged ({error!r})") from error
    opened = _open(data, config, progress)
    licence = DATASETS[parse_data(data)[0]].licence
    if (folder / FILE_NAME).exists():  # the weights come from there
        segmenter = build(config.variant, class_info=opened.train.class_info)
        segmenter.spec = replace(segmenter.spec, licence=licence)
    else:
        progress.say("no epoch was complete: starting from the beginning")
        request = RunRequest(config, data, init)
        segmenter, config = _make_model(request, config, opened.train.class_info, licence, progress)
    segmenter.with_provenance({"started_from": started_from})
    return train(segmenter, config, opened, folder, device=device, num_workers=num_workers, progress=progress)


def _open(data: str, config: TrainingConfig, progress: Progress) -> TrainingData:
    """Open the splits and check every label before anything is computed."""
    name, root = parse_data(data)
    train_set = open_dataset(name, root, split=config.train_split)
    val_set = None if config.val_split is None else open_dataset(name, root, split=config.val_split)
    progress.say(f"{len(train_set)} training images ({config.train_split}); checking every label")
    counts = check_labels(train_set)
    if val_set is not None:
        check_labels(val_set)
        progress.say(f"{len(val_set)} validation images ({config.val_split})")
    return TrainingData(train_set, counts, val_set, f"{name}:{config.train_split}, {len(train_set)} images")


def _make_model(
    request: RunRequest, config: TrainingConfig, class_info: ClassInfo, licence: str, progress: Progress
) -> tuple[Segmenter, TrainingConfig]:
    """The model to start from, and the configuration with the variant and pretraining that were really used."""
    if request.init is not None:
        segmenter = fine_tune(load(request.init), class_info, progress)
        licence = "; ".join(dict.fromkeys(part for part in (segmenter.spec.licence, licence) if part))
        segmenter.spec = replace(segmenter.spec, licence=licence)
        segmenter.with_provenance({"started_from": f"model {request.init}"})
        return segmenter, replace(config, variant=segmenter.spec.variant, pretrained="no")
    pretrained = config.pretrained != "no"
    if pretrained:
        progress.say(f"looking for ImageNet weights of {config.variant} (--no-pretrained trains from scratch)")
        try:
            segmenter = build(config.variant, class_info=class_info, pretrained=True)
        except ConfigError as error:
            if config.pretrained == "yes" or "cannot be had" not in str(error):
                raise
            progress.say(f"training from scratch: no ImageNet weights for {config.variant} ({_reason(error)})")
            pretrained = False
    if not pretrained:
        import torch

        torch.manual_seed(config.seed)
        segmenter = build(config.variant, class_info=class_info)
    segmenter.spec = replace(segmenter.spec, licence=licence)
    segmenter.with_provenance({"started_from": "ImageNet weights of timm" if pretrained else "scratch"})
    return segmenter, replace(config, pretrained="yes" if pretrained else "no")


def _reason(error: Exception) -> str:
    text = str(error)
    return text[text.find("(") + 1 : text.rfind(")")][:120] if "(" in text else text[:120]


def fine_tune(source: Segmenter, class_info: ClassInfo, progress: Progress) -> Segmenter:
    """A model of other classes that starts from another model's weights.

    The classifier is kept where the classes are the same and made anew where they are not; everything not taken over is
    listed.
    """
    segmenter = Segmenter(replace(source.spec, class_info=class_info, provenance={}))
    old, new = source.network.state_dict(), segmenter.network.state_dict()
    same_classes = source.class_info.names == class_info.names
    taken = {
        name: tensor
        for name, tensor in old.items()
        if new[name].shape == tensor.shape and (same_classes or not name.startswith("decoder.classifier."))
    }
    segmenter.network.load_state_dict({**new, **taken})
    left = [name for name in new if name not in taken]
    progress.say(
        f"fine-tuning: {len(taken)} of {len(new)} tensors taken over; "
        + (f"not loaded, made anew: {', '.join(left)}" if left else "nothing is made anew, the classes are the same")
    )
    return segmenter


def recipe_options(
    config: TrainingConfig, *, epochs: int | None, lr: float | None, batch_size: int | None
) -> TrainingConfig:
    """Apply the plain options ``--epochs --lr --batch-size``.

    The learning rate is the decoder's; the encoder's keeps its ratio to it.

    Raises:
        ConfigError: ``epochs`` for a recipe of several phases.
    """
    phases: Sequence[Any] = config.phases
    if epochs is not None:
        if len(phases) > 1:
            raise ConfigError(
                f"expected --epochs for a recipe of one phase, but {config.recipe} has {len(phases)}; "
                "use --set phases.0.epochs=N --set phases.1.epochs=N"
            )
        phases = [replace(phases[0], epochs=epochs, warmup_epochs=min(phases[0].warmup_epochs, epochs / 2))]
    if lr is not None:
        phases = [
            replace(p, decoder_lr=lr, encoder_lr=lr * (p.encoder_lr / p.decoder_lr if p.decoder_lr else 1))
            for p in phases
        ]
    if batch_size is not None:
        phases = [replace(p, batch_size=batch_size) for p in phases]
    return replace(config, phases=tuple(phases))
