"""A training run from its description: open and check the data, make the model, train, or go on where a run stopped.

In: names, as the command line has them. Out: the run's folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from refineseg._version import __version__
from refineseg.class_info import ClassInfo
from refineseg.data.datasets import DATASETS, data_splits, open_dataset, parse_sources
from refineseg.data.label_check import check_labels
from refineseg.data.sample import Concatenation, Dataset, Without
from refineseg.errors import CheckpointError, ConfigError, DatasetError
from refineseg.preprocessing import Preprocessing
from refineseg.protocol import Learned
from refineseg.segmenter import ModelSpec, Segmenter, load, load_spec
from refineseg.training.checkpoint import FILE_NAME, load_checkpoint
from refineseg.training.config import TrainingConfig, from_json, to_json
from refineseg.training.distillation import check_teacher
from refineseg.training.feeding import PhaseData, TrainingData
from refineseg.training.loggers import check_logs
from refineseg.training.loop import train
from refineseg.training.optim import draw_decoder
from refineseg.training.progress import Progress
from refineseg.training.provenance import learned_before, run_protocol
from refineseg.writing import written_beside


@dataclass(frozen=True)
class RunRequest:
    """What the user asks for.

    Args:
        config: The complete configuration.
        data: ``NAME:ROOT``, or several joined by ``+``; the first is validated on.
        init: Model to fine-tune: a shipped name or a model file; None: a new one.
        device: ``auto``, ``cpu`` or ``cuda``.
        num_workers: Reading processes; None: chosen.
        encoder_weights: File with ImageNet weights of the encoder; None: the library's.
        skip_missing: Leave out phases whose data are not given, and not refuse the run.
        log: Where numbers go beside ``metrics.jsonl``, see :mod:`refineseg.training.loggers`.
        stop_after_s: Stop after the last epoch that ends within so many seconds; None: after the last epoch.
    """

    config: TrainingConfig
    data: str
    init: str | None = None
    device: str = "auto"
    num_workers: int | None = None
    encoder_weights: Path | None = None
    skip_missing: bool = False
    log: tuple[str, ...] = ()
    stop_after_s: float | None = None


def start_run(request: RunRequest, folder: Path, *, progress: Progress) -> Segmenter:
    """Train into a folder that holds no run yet.

    Raises:
        CheckpointError: The folder already holds a run.
        ConfigError: Options that contradict each other.
        DatasetError: Data that cannot be trained on; nothing has been written then.
        MissingExtraError: A logger's package is not installed.
    """
    begun = time.monotonic()
    check_logs(request.log)
    if (folder / "run.json").exists() or (folder / FILE_NAME).exists():
        raise CheckpointError(
            f"expected a folder without a run, got {folder}; "
            f"go on with it by --resume --out {folder}, or choose another"
        )
    sources = parse_sources(request.data)
    config = _phases_with_data(request, tuple(sources), progress)
    name, root = next(iter(sources.items()))
    splits = data_splits(name, root)
    if splits is not None and config.val_split == "val" and "val" not in splits:
        progress.say("no val split: training without validation (the last model is the result)")
        config = replace(config, val_split=None)
    data = _open(sources, config, progress)
    class_info = data.phases[0].dataset.class_info
    segmenter, config = _make_model(request, config, class_info, _licence(sources, config, class_info), progress)
    description: dict[str, Any] = {
        "version": __version__,
        "data": "+".join(f"{name}:{root.resolve()}" for name, root in sources.items()),
        "init": request.init,
        "started_from": segmenter.spec.provenance["started_from"],
        "earlier": segmenter.spec.provenance.get("earlier"),
        "log": list(request.log),
        "config": to_json(config),
    }
    with written_beside(folder / "run.json") as temporary:
        temporary.write_text(json.dumps(description, indent=1), encoding="utf-8")
    _note_protocol(segmenter, config, tuple(sources), data)
    return train(
        segmenter,
        config,
        data,
        folder,
        device=request.device,
        num_workers=request.num_workers,
        progress=progress,
        log=request.log,
        stop_after_s=_left(request.stop_after_s, begun),
    )


def _left(seconds: float | None, begun: float) -> float | None:
    """What is left of a time limit."""
    return None if seconds is None else seconds - (time.monotonic() - begun)


def resume_run(
    folder: Path,
    *,
    data: str | None,
    device: str,
    num_workers: int | None,
    progress: Progress,
    log: Sequence[str] = (),
    stop_after_s: float | None = None,
) -> Segmenter:
    """Go on with the run in a folder, from its last checkpoint.

    Args:
        folder: Of the run.
        data: Where the data set lies now; None: where it lay.
        device: ``auto``, ``cpu`` or ``cuda``.
        num_workers: Reading processes; None: chosen.
        progress: Shows what happens.
        log: Loggers beside those that the run was started with.
        stop_after_s: As in :class:`RunRequest`.

    Raises:
        CheckpointError: There is no run in the folder, or it is damaged.
    """
    begun = time.monotonic()
    path = folder / "run.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        config = from_json(description["config"])
        data = data or str(description["data"])
        started_from, init = str(description["started_from"]), description["init"]
        log = tuple(dict.fromkeys((*description.get("log", ()), *log)))
    except FileNotFoundError as error:
        raise CheckpointError(f"expected a run to resume in {folder}, but there is no {path.name}") from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"expected the description of a run in {path}, which is damaged ({error!r})") from error
    check_logs(log)
    sources = parse_sources(data)
    opened = _open(sources, config, progress)
    class_info = opened.phases[0].dataset.class_info
    licence = _licence(sources, config, class_info)
    if (folder / FILE_NAME).exists():  # the weights come from there
        segmenter = _new_model(config, class_info, licence)
    else:
        progress.say("no epoch was complete: starting from the beginning")
        request = RunRequest(config, data, init)
        segmenter, config = _make_model(request, config, class_info, licence, progress)
    segmenter.with_provenance({"started_from": started_from, "earlier": description.get("earlier")})
    _note_protocol(segmenter, config, tuple(sources), opened)
    return train(
        segmenter,
        config,
        opened,
        folder,
        device=device,
        num_workers=num_workers,
        progress=progress,
        log=log,
        stop_after_s=_left(stop_after_s, begun),
    )


def epochs_done(folder: Path) -> int:
    """How many epochs of the run in a folder are saved; 0 where it holds none.

    A run is complete when they are its configuration's ``num_epochs``.

    Raises:
        CheckpointError: The checkpoint is damaged.
    """
    checkpoint = load_checkpoint(folder)
    return 0 if checkpoint is None else int(checkpoint["epoch"])


def _note_protocol(segmenter: Segmenter, config: TrainingConfig, names: tuple[str, ...], data: TrainingData) -> None:
    """What the weights learn from, into the model's provenance."""
    known = segmenter.spec.provenance
    protocol = run_protocol(
        config,
        names,
        tuple(phase.dataset for phase in data.phases),
        data.val,
        started_from=str(known["started_from"]),
        earlier=learned_before(known.get("earlier")),
        teacher=None if config.teacher is None else Learned.from_provenance(load_spec(config.teacher).provenance),
    )
    segmenter.with_provenance({"protocol": protocol})


def _phases_with_data(request: RunRequest, names: tuple[str, ...], progress: Progress) -> TrainingConfig:
    """The configuration, without the phases whose data sets are not given where that was asked for.

    Raises:
        ConfigError: A phase needs data that are not given, or no phase is left.
    """
    phases, wanted = [], {}
    for number, phase in enumerate(request.config.phases, 1):
        missing = [part for part in phase.data if part.partition(":")[0] not in names]
        if not missing:
            phases.append(phase)
        elif request.skip_missing:
            progress.say(f"phase {number} is left out: no --data for {', '.join(missing)}")
        else:
            wanted[number] = missing
    if wanted:
        told = ", ".join(f"{' and '.join(parts)} (phase {number})" for number, parts in wanted.items())
        more = dict.fromkeys(part.partition(":")[0] for parts in wanted.values() for part in parts)
        raise ConfigError(
            f"expected data for {told} of {request.config.recipe} too, got {', '.join(names)} only; join them as "
            f"--data {'+'.join(f'{name}:ROOT' for name in (*names, *more))}, or say --skip-missing"
        )
    return replace(request.config, phases=tuple(phases))


def _licence(sources: Mapping[str, Path], config: TrainingConfig, class_info: ClassInfo) -> str:
    """What a model inherits from the data it is trained on, and from its teacher.

    Raises:
        ConfigError: The teacher's classes are others.
        ModelFileError: There is no such teacher.
    """
    licences = [DATASETS[name].licence for name in sources]
    if config.teacher is not None:
        licences.append(check_teacher(config.teacher, class_info).licence)
    return "; ".join(dict.fromkeys(part for part in licences if part))


def _open(sources: Mapping[str, Path], config: TrainingConfig, progress: Progress) -> TrainingData:
    """Open what every phase needs and check every label before anything is computed."""
    first, root = next(iter(sources.items()))
    val_set = None if config.val_split is None else open_dataset(first, root, split=config.val_split)
    held_out = frozenset() if val_set is None else frozenset(val_set.name(i) for i in range(len(val_set)))
    phases: dict[tuple[str, ...], PhaseData] = {}
    for phase in config.phases:
        parts = phase.data or tuple(f"{name}:{config.train_split}" for name in sources)
        if parts not in phases:
            phases[parts] = _open_phase(parts, sources, held_out, f"{first}:{config.val_split}", progress)
    if val_set is not None:
        check_labels(val_set)
        progress.say(f"{len(val_set)} validation images ({config.val_split})")
    chosen = [phase.data or tuple(f"{name}:{config.train_split}" for name in sources) for phase in config.phases]
    described = (f"{', '.join(parts)}, {len(phase.dataset)} images" for parts, phase in phases.items())
    return TrainingData(tuple(phases[parts] for parts in chosen), val_set, "; ".join(described))


def _open_phase(
    parts: Sequence[str], sources: Mapping[str, Path], held_out: frozenset[str], val: str, progress: Progress
) -> PhaseData:
    """The training data of a phase, without the images it is measured on."""
    opened: list[Dataset] = []
    for part in parts:
        name, _, split = part.partition(":")
        if name not in sources:
            raise ConfigError(f"expected --data with {name}:ROOT for {part}, got {', '.join(sources)}; join them by +")
        dataset = open_dataset(name, sources[name], split=split)
        same_ids = DATASETS[name].ids and DATASETS[name].ids == DATASETS[val.partition(":")[0]].ids
        kept = Without(dataset, held_out if same_ids else ())
        if kept.dropped:
            progress.say(f"{kept.dropped} images of {val} are left out of {part}")
        opened.append(kept if kept.dropped else dataset)
    joined = opened[0] if len(opened) == 1 else Concatenation(opened)
    if not len(joined):
        raise DatasetError(f"expected training images in {', '.join(parts)}, got none that are not in {val}")
    progress.say(f"{len(joined)} training images ({' + '.join(parts)}); checking every label")
    return PhaseData(joined, check_labels(joined))


def _new_model(
    config: TrainingConfig, class_info: ClassInfo, licence: str, *, pretrained: bool | Path = False
) -> Segmenter:
    spec = ModelSpec(
        config.variant,
        class_info,
        replace(Preprocessing.imagenet(), input_scale=config.input_scale),
        config.network,
        licence=licence,
    )
    segmenter = Segmenter(spec, pretrained=pretrained)
    if config.init_std is not None:
        draw_decoder(segmenter, config.init_std)
    return segmenter


def _make_model(
    request: RunRequest, config: TrainingConfig, class_info: ClassInfo, licence: str, progress: Progress
) -> tuple[Segmenter, TrainingConfig]:
    """The model to start from, and the configuration with the variant and pretraining that were really used."""
    if request.init is not None:
        source = load(request.init)
        earlier = Learned.from_provenance(source.spec.provenance).to_json()
        segmenter = fine_tune(source, class_info, progress)
        licence = "; ".join(dict.fromkeys(part for part in (segmenter.spec.licence, licence) if part))
        segmenter.spec = replace(segmenter.spec, licence=licence)
        segmenter.with_provenance({"started_from": f"model {request.init}", "earlier": earlier})
        return segmenter, replace(config, variant=segmenter.spec.variant, pretrained="no")
    torch.manual_seed(config.seed)
    pretrained = config.pretrained != "no"
    if request.encoder_weights is not None:
        segmenter = _new_model(config, class_info, licence, pretrained=request.encoder_weights)
        segmenter.with_provenance({"started_from": f"ImageNet weights in {request.encoder_weights.name}"})
        return segmenter, replace(config, pretrained="yes")
    if pretrained:
        progress.say(f"looking for ImageNet weights of {config.variant} (--no-pretrained trains from scratch)")
        try:
            segmenter = _new_model(config, class_info, licence, pretrained=True)
        except ConfigError as error:
            if config.pretrained == "yes" or "cannot be had" not in str(error):
                raise
            progress.say(f"training from scratch: no ImageNet weights for {config.variant} ({_reason(error)})")
            pretrained = False
    if not pretrained:
        torch.manual_seed(config.seed)
        segmenter = _new_model(config, class_info, licence)
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
