"""A training run from its description: open and check the data, make the model, train, or go on where a run stopped.

In: names, as the command line has them. Out: the run's folder.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from refineseg._version import __version__
from refineseg.class_info import ClassInfo
from refineseg.data.datasets import Root, check_apart, licence_of, parse_sources
from refineseg.data.samples.given import GivenData
from refineseg.data.samples.run_record import RECORD_NAME, RunRecord
from refineseg.errors import CheckpointError, ConfigError, ModelFileError, WeightsUnavailableError
from refineseg.evaluate.protocol import Learned
from refineseg.files.writing import written_beside
from refineseg.networks.building import encoder_of, preprocessing_of
from refineseg.networks.model_spec import ModelSpec
from refineseg.segmenter import Segmenter, load, load_spec
from refineseg.training import ranks
from refineseg.training.budget import fit_to_budget
from refineseg.training.callbacks import Callbacks
from refineseg.training.checkpoint import load_checkpoint
from refineseg.training.config import CHECKPOINT, RUN_FILES, TrainingConfig, to_json
from refineseg.training.crop_size import fit_crops, fit_input
from refineseg.training.distillation import check_teacher
from refineseg.training.feeding import TrainingData
from refineseg.training.fine_tuning import check_variant, fine_tune, fit
from refineseg.training.loop import train
from refineseg.training.opening import open_data
from refineseg.training.optim import draw_decoder
from refineseg.training.progress import Progress
from refineseg.training.provenance import learned_before, run_protocol
from refineseg.training.request import (
    CALL,
    LAUNCH,
    Budget,
    check_logs,
    check_new_run,
    fitted,
    read_run,
    resumed_data,
    was_begun_by,
)
from refineseg.training.run_record import check_record, model_marks


@dataclass(frozen=True)
class RunRequest:
    """What the user asks for.

    Args:
        config: The complete configuration.
        data: ``NAME:ROOT``, or several joined by ``+``, of which the first is validated on; or what a program gave.
        init: Model to fine-tune: a shipped name or a model file; None: a new one.
        init_variant: Variant that takes over the weights of ``init`` that fit it; None: that of the model.
        device: ``auto``, ``cpu`` or ``cuda``.
        num_workers: Reading processes; None: chosen.
        encoder_weights: File with ImageNet weights of the encoder; None: the library's.
        skip_missing: Leave out phases whose data are not given, and not refuse the run.
        log: Where numbers go beside ``metrics.jsonl``, see :mod:`refineseg.training.loggers`.
        stop_after_s: Stop after the last epoch that ends within so many seconds; None: after the last epoch.
        budget: Time to fit the schedule into; None: the configuration's lengths.
        same_data_as: Folder of a run whose data these must be; None: any.
        callbacks: What is called after each epoch, and may end the run.
        launch: Mark of the call and of the launch that makes it, by which restarted processes know their run; None:
            ``torchrun`` did not start them.
    """

    config: TrainingConfig
    data: str | GivenData
    init: str | None = None
    device: str = "auto"
    num_workers: int | None = None
    encoder_weights: Path | None = None
    skip_missing: bool = False
    log: tuple[str, ...] = ()
    stop_after_s: float | None = None
    budget: Budget | None = None
    same_data_as: Path | None = None
    callbacks: Callbacks | None = None
    launch: str | None = None
    init_variant: str | None = None


def start_run(request: RunRequest, folder: Path, *, progress: Progress) -> Segmenter:
    """Train into a folder that holds no run yet.

    Raises:
        CheckpointError: The folder already holds a run, or another call has begun one in it meanwhile.
        ConfigError: Options that contradict each other.
        DatasetError: Data that cannot be trained on; nothing has been written then.
        MissingExtraError: A logger's package is not installed.
    """
    begun = time.monotonic()
    check_logs(request.log)
    if ranks.is_first():  # which writes into it while others may not have come so far
        check_new_run(folder)
    if request.init is not None:
        check_variant(request.init, request.init_variant)
    sources = parse_sources(request.data)
    check_apart("--out", folder, request.data)
    config = fitted(request.config, sources, skip_missing=request.skip_missing, say=progress.say)
    data, records = open_data(sources, config, progress)
    source = 1.0 if request.init is None else load_spec(request.init).preprocessing.input_scale
    config = fit_input(config, data.phases[0].dataset, progress, source=source)
    config = fit_crops(config, data.phases[0].dataset, progress)
    record = RunRecord(records, model_marks(config.teacher, request.init, request.encoder_weights))
    if request.same_data_as is not None:
        check_record(request.same_data_as, record, progress)
    class_info = data.phases[0].dataset.class_info
    segmenter, config = _make_model(request, config, class_info, _licence(sources, config, class_info), progress)
    config = ranks.agreed(config)  # pretrained weights may be had in one place alone; those of the first count
    if request.budget is not None:
        config = fit_to_budget(
            segmenter,
            config,
            data.measured_on(config.val_images).reduced(config.input_scale),
            request.budget,
            device=request.device,
            num_workers=request.num_workers,
            progress=progress,
        )
    data = _measured_on(data, config, progress)
    description: dict[str, Any] = {
        "version": __version__,
        "data": "+".join(_place(name, root) for name, root in sources.items()),
        "init": request.init,
        "encoder_weights": None if request.encoder_weights is None else str(request.encoder_weights.resolve()),
        "started_from": segmenter.spec.provenance["started_from"],
        "earlier": segmenter.spec.provenance.get("earlier"),
        "model": replace(segmenter.spec, provenance={}).to_json(),
        "log": list(request.log),
        CALL: uuid4().hex,
        **({} if request.launch is None else {LAUNCH: request.launch}),
        "config": to_json(config),
    }
    is_new = not folder.exists()
    if ranks.is_first():
        check_new_run(folder)  # again: looking at the data took minutes, in which another call may have begun a run
        record.write(folder)
        with written_beside(folder / "run.json") as temporary:
            temporary.write_text(json.dumps(description, indent=1), encoding="utf-8")
    _note_protocol(segmenter, config, tuple(sources), data)
    try:
        return train(
            segmenter,
            config,
            data.reduced(config.input_scale),
            folder,
            device=request.device,
            num_workers=request.num_workers,
            progress=progress,
            log=request.log,
            stop_after_s=_left(request.stop_after_s, begun),
            callbacks=request.callbacks,
        )
    except Exception:
        is_ours = ranks.is_first() and was_begun_by(description[CALL], folder, key=CALL)  # and not another call's
        if is_ours and not (folder / CHECKPOINT).exists():
            # nothing was learned: the same call must work once the cause is mended
            with contextlib.suppress(OSError):
                _undo(folder, is_new=is_new)
        raise


def _measured_on(data: TrainingData, config: TrainingConfig, progress: Progress) -> TrainingData:
    """With the validation images that the configuration measures."""
    fewer = data.measured_on(config.val_images)
    if data.val is not None and fewer.val is not None and len(fewer.val) < len(data.val):
        progress.say(f"{len(fewer.val)} of {len(data.val)} validation images are measured (val_images)")
    return fewer


def _place(name: str, root: Root) -> str:
    """By what a run finds its data again."""
    return str(root) if isinstance(root, GivenData) else f"{name}:{root.resolve()}"


def _undo(folder: Path, *, is_new: bool) -> None:
    """Remove what a run wrote that came to nothing: models are written before the first checkpoint, which may fail."""
    for name in ("run.json", RECORD_NAME, "mlflow.json", "wandb.json", *RUN_FILES):
        (folder / name).unlink(missing_ok=True)
    if is_new and not any(folder.iterdir()):
        folder.rmdir()


def _left(seconds: float | None, begun: float) -> float | None:
    """What is left of a time limit."""
    return None if seconds is None else seconds - (time.monotonic() - begun)


def resume_run(
    folder: Path,
    *,
    data: str | GivenData | None,
    device: str,
    num_workers: int | None,
    progress: Progress,
    log: Sequence[str] = (),
    stop_after_s: float | None = None,
    callbacks: Callbacks | None = None,
) -> Segmenter:
    """Go on with the run in a folder, from its last checkpoint.

    Args:
        folder: Folder of the run.
        data: Where the data set lies now; None: where it lay.
        device: ``auto``, ``cpu`` or ``cuda``.
        num_workers: Reading processes; None: chosen.
        progress: Shows what happens.
        log: Loggers beside those that the run was started with.
        stop_after_s: As in :class:`RunRequest`.
        callbacks: What is called after each epoch, and may end the run.

    Raises:
        CheckpointError: There is no run in the folder, it is damaged, or it learned from other data or another teacher.
    """
    begun = time.monotonic()
    description, config = read_run(folder)
    data = data or resumed_data(description)
    started_from, init = str(description["started_from"]), description["init"]
    weights = None if description.get("encoder_weights") is None else Path(description["encoder_weights"])
    log = tuple(dict.fromkeys((*description.get("log", ()), *log)))
    check_logs(log)
    sources = parse_sources(data)
    opened, records = open_data(sources, config, progress)
    check_record(folder, RunRecord(records, model_marks(config.teacher, init, weights)), progress)
    class_info = opened.phases[0].dataset.class_info
    licence = _licence(sources, config, class_info)
    if (folder / CHECKPOINT).exists():  # the weights come from there
        segmenter = _remade(description, class_info) or _new_model(config, class_info, licence)
    else:
        progress.say("no epoch was complete: starting from the beginning")
        request = RunRequest(config, data, init, encoder_weights=weights, init_variant=config.variant)
        segmenter, config = _make_model(request, config, class_info, licence, progress)
    segmenter.with_provenance({"started_from": started_from, "earlier": description.get("earlier")})
    opened = _measured_on(opened, config, progress)
    _note_protocol(segmenter, config, tuple(sources), opened)
    return train(
        segmenter,
        config,
        opened.reduced(config.input_scale),
        folder,
        device=device,
        num_workers=num_workers,
        progress=progress,
        log=log,
        stop_after_s=_left(stop_after_s, begun),
        callbacks=callbacks,
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


def _licence(sources: Mapping[str, Root], config: TrainingConfig, class_info: ClassInfo) -> str:
    """What a model inherits from the data it is trained on, and from its teacher.

    Raises:
        ConfigError: The teacher's classes are others.
        ModelFileError: There is no such teacher.
    """
    licences = [licence_of(name) for name in sources]
    if config.teacher is not None:
        licences.append(check_teacher(config.teacher, class_info, input_scale=config.input_scale).licence)
    return "; ".join(dict.fromkeys(part for part in licences if part))


def _new_model(
    config: TrainingConfig, class_info: ClassInfo, licence: str, *, pretrained: bool | Path = False
) -> Segmenter:
    spec = ModelSpec(
        config.variant,
        class_info,
        replace(preprocessing_of(config.variant), input_scale=config.input_scale or 1.0),
        config.network,
        licence=licence,
    )
    segmenter = Segmenter(spec, pretrained=pretrained)
    if config.init_std is not None:
        draw_decoder(segmenter, config.init_std)
    return segmenter


def _remade(description: Mapping[str, Any], class_info: ClassInfo) -> Segmenter | None:
    """The model of a run, without its weights; a model that it started from may have had options of its own.

    None: the run was begun by a version that did not write it down.

    Raises:
        CheckpointError: The description is damaged.
    """
    if "model" not in description:
        return None
    try:
        return Segmenter(replace(ModelSpec.from_json(description["model"]), class_info=class_info, provenance={}))
    except (ModelFileError, ConfigError, AttributeError) as error:
        raise CheckpointError(f"expected the model of the run in run.json, which is damaged ({error})") from error


def _make_model(
    request: RunRequest, config: TrainingConfig, class_info: ClassInfo, licence: str, progress: Progress
) -> tuple[Segmenter, TrainingConfig]:
    """The model to start from, and the configuration with the variant and pretraining that were really used."""
    torch.manual_seed(config.seed)
    if request.init is not None:
        source = load(request.init)
        earlier = Learned.from_provenance(source.spec.provenance).to_json()
        segmenter = fine_tune(source, class_info, progress, variant=request.init_variant)
        if request.init_variant is None and config.variant != (own := source.spec.variant):
            other = f"; --variant {config.variant} takes over what fits" if fit(own, config.variant) else ""
            progress.say(f"the network is {own}, as {request.init} has it, and not {config.variant}{other}")
        licence = "; ".join(dict.fromkeys(part for part in (segmenter.spec.licence, licence) if part))
        preprocessing = replace(segmenter.spec.preprocessing, input_scale=config.input_scale or 1.0)
        segmenter.spec = replace(segmenter.spec, licence=licence, preprocessing=preprocessing)
        segmenter.with_provenance({"started_from": f"model {request.init}", "earlier": earlier})
        spec = segmenter.spec
        return segmenter, replace(config, variant=spec.variant, network=spec.options, pretrained="no")
    pretrained = config.pretrained != "no"
    if request.encoder_weights is not None:
        segmenter = _new_model(config, class_info, licence, pretrained=request.encoder_weights)
        segmenter.with_provenance({"started_from": f"ImageNet weights in {request.encoder_weights.name}"})
        return segmenter, replace(config, pretrained="yes")
    encoder = encoder_of(config.variant)
    if pretrained:
        if encoder.weights is None:  # a network may have to answer, which takes a while
            progress.say(f"looking for ImageNet weights of {config.variant} (--no-pretrained trains from scratch)")
        try:
            segmenter = _new_model(config, class_info, licence, pretrained=True)
        except WeightsUnavailableError as error:
            if config.pretrained == "yes":
                raise
            progress.say(f"training from scratch: no ImageNet weights for {config.variant} ({error.reason:.120})")
            pretrained = False
    if not pretrained:
        torch.manual_seed(config.seed)
        segmenter = _new_model(config, class_info, licence)
    segmenter.with_provenance({"started_from": f"ImageNet weights of {encoder.source}" if pretrained else "scratch"})
    return segmenter, replace(config, pretrained="yes" if pretrained else "no")
