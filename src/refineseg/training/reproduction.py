"""From a data set to the table: train every seed, measure each, and say how far they lie apart.

In: a recipe, seeds, and a budget of minutes. Out: a folder with a run per seed, ``table.md`` and ``table.json``.

Called again with the same options it goes on where it stopped, also after a kill.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from refineseg.data.samples.run_record import RECORD_NAME
from refineseg.errors import CheckpointError, ConfigError, ModelFileError, RefinesegError
from refineseg.evaluate.card import CardFiles, write_card
from refineseg.evaluate.measuring import EvaluationFiles, evaluate_to_files
from refineseg.evaluate.reports import read_history
from refineseg.files.archives import decoded, read_bytes
from refineseg.files.foreign_text import parse_json
from refineseg.files.writing import written_beside
from refineseg.predict.options import PredictorOptions
from refineseg.predict.views.tiling import TilingOptions
from refineseg.segmenter import load_spec
from refineseg.terminal.printing import Terminal
from refineseg.training.config import TrainingConfig, from_json, to_json
from refineseg.training.progress import Progress
from refineseg.training.reproduction_table import SeedResult, markdown, summary
from refineseg.training.request import ReproductionRequest, find_reproduction
from refineseg.training.run import RunRequest, resume_run, start_run

_DESCRIPTION = "reproduction.json"
_FAILURES = 8
_START_S = 150.0
"""Seconds of the budget that must be left for another seed to start."""


@dataclass(frozen=True)
class ReproductionState:
    """How far a reproduction has come.

    Args:
        results: Results of the seeds that are trained and measured.
        left: What is still to do, in words; empty: nothing.
    """

    results: tuple[SeedResult, ...]
    left: tuple[str, ...]


def reproduce(request: ReproductionRequest, *, progress: Progress, console: Terminal) -> ReproductionState:
    """Train and measure as many seeds as the budget allows, and write the table of those that are done.

    Raises:
        CheckpointError: The folder holds a reproduction of another recipe, or a run is damaged.
        ConfigError: Options that contradict each other.
        DatasetError: Data that cannot be trained on or measured.
    """
    begun = time.monotonic()
    _check_folder(request)
    results: list[SeedResult] = []
    started = False
    for seed in request.seeds:
        result = _done(request, seed)
        # a seed that starts reads the data and may compile: the first may always, others need room for it
        if result is None and not _used_up(request, begun, spare_s=_START_S if started else 0.0):
            started = True
            progress.say(f"seed {seed}: {_state(request, seed)}")
            trained = train_within(
                _seed_folder(request, seed),
                replace(request.config, seed=seed),
                request.data,
                device=request.device,
                num_workers=request.num_workers,
                stop_after_s=None if request.minutes is None else 60 * request.minutes - (time.monotonic() - begun),
                progress=progress,
                same_data_as=_first_run(request),
            )
            if trained and not _used_up(request, begun):
                result = _measure(request, seed, console)
        if result is not None:
            results.append(result)
    if len({result.value.get("data_mark") for result in results} - {None, ""}) > 1:
        split = find_reproduction(request.name).split
        raise CheckpointError(
            f"expected every seed to be measured on the same files, but those of {split} have changed in between; put "
            f"them back, remove {request.out}/seed*/{split}.json and call it again: every seed is measured anew"
        )
    done = {result.seed for result in results}
    left = tuple(f"seed {seed}: {_state(request, seed)}" for seed in request.seeds if seed not in done)
    state = ReproductionState(tuple(results), left)
    _write(request, state)
    return state


def _used_up(request: ReproductionRequest, begun: float, *, spare_s: float = 0.0) -> bool:
    return request.minutes is not None and time.monotonic() - begun + spare_s >= 60 * request.minutes


def _seed_folder(request: ReproductionRequest, seed: int) -> Path:
    return request.out / f"seed{seed}"


def _first_run(request: ReproductionRequest) -> Path | None:
    """The folder of a seed that has learned something: all seeds of a table have the same data."""
    folders = (_seed_folder(request, seed) for seed in request.seeds)
    return next((folder for folder in folders if epochs_done(folder) and (folder / RECORD_NAME).is_file()), None)


def _check_folder(request: ReproductionRequest) -> None:
    """Note what is reproduced, or compare with what was noted."""
    path = request.out / _DESCRIPTION
    asked = {"name": request.name, "config": {**to_json(request.config), "seed": None}}  # the seeds may grow
    if path.is_file() and any(request.out.glob("seed*")):  # else nothing came of it
        try:
            noted = json.loads(path.read_text(encoding="utf-8"))
            noted = {**noted, "config": {**to_json(from_json({**noted["config"], "seed": 0})), "seed": None}}
        except (ValueError, RecursionError, TypeError, KeyError, ConfigError) as error:
            raise CheckpointError(f"expected what is reproduced in {path}, which is damaged ({error})") from error
        if noted != asked:
            raise CheckpointError(
                f"expected the recipe of the reproduction in {request.out}, got another one; call it with the same "
                "--recipe and --set, or choose another --out"
            )
        return
    with written_beside(path) as temporary:
        temporary.write_text(json.dumps(asked, indent=1), encoding="utf-8")


def train_within(
    folder: Path,
    config: TrainingConfig,
    data: str,
    *,
    device: str = "auto",
    num_workers: int | None = None,
    stop_after_s: float | None = None,
    progress: Progress,
    same_data_as: Path | None = None,
) -> bool:
    """Begin a run or go on with it until it is trained or its time is up.

    Args:
        folder: Folder of the run.
        config: Configuration of a run that begins; one that is there keeps its own.
        data: ``NAME:ROOT``.
        device: ``auto``, ``cpu``, ``cuda``, ...
        num_workers: Reading processes; None: chosen.
        stop_after_s: Stop at the end of an epoch within so many seconds, but not before the first; None: no limit.
        progress: Shows what happens.
        same_data_as: Folder of a run whose data a run that begins must have; None: any.

    Returns:
        Whether it is trained.
    """
    if epochs_done(folder) < config.num_epochs:
        if (folder / "run.json").is_file():
            resume_run(
                folder,
                data=data,
                device=device,
                num_workers=num_workers,
                progress=progress,
                stop_after_s=stop_after_s,
            )
        else:
            request = RunRequest(
                config,
                data,
                device=device,
                num_workers=num_workers,
                stop_after_s=stop_after_s,
                same_data_as=same_data_as,
            )
            start_run(request, folder, progress=progress)
    return epochs_done(folder) >= config.num_epochs


def epochs_done(folder: Path) -> int:
    """Epochs behind the model file of a run; 0 without one."""
    try:
        return int(load_spec(folder / "last.safetensors").provenance.get("epochs", 0))
    except ModelFileError:
        return 0


def _state(request: ReproductionRequest, seed: int) -> str:
    """How far a seed has come, and how long the rest would take at the speed so far."""
    epochs, total = epochs_done(_seed_folder(request, seed)), request.config.num_epochs
    if epochs >= total:
        return "trained, not measured"
    path = _seed_folder(request, seed) / "metrics.jsonl"
    if not epochs or not path.is_file():
        return f"not begun, {total} epochs"
    try:
        seconds = [float(entry["seconds"]) for entry in read_history(path)[-20:]]
    except (ConfigError, KeyError, TypeError, ValueError):  # training writes the file anew from its checkpoint
        seconds = []
    if not seconds:
        return f"{epochs} of {total} epochs"
    rest = (total - epochs) * sum(seconds) / len(seconds) / 60
    return f"{epochs} of {total} epochs, the rest takes about {rest:.1f} minutes"


def _model(request: ReproductionRequest, seed: int) -> Path:
    """The best model where a validation split chose it, else the last one."""
    folder = _seed_folder(request, seed)
    best = folder / "best.safetensors"
    return best if request.config.val_split is not None and best.is_file() else folder / "last.safetensors"


def _measure(request: ReproductionRequest, seed: int, console: Terminal) -> SeedResult:
    """Measure a trained seed once, and write its card."""
    split, folder, model = find_reproduction(request.name).split, _seed_folder(request, seed), _model(request, seed)
    options = PredictorOptions.parse(device=request.device, tiling=TilingOptions())
    result = evaluate_to_files(
        str(model),
        request.data,
        split,
        options=options,
        files=EvaluationFiles(folder / "card", pictures=_FAILURES),
        console=console,
        boundary=True,
    )
    write_card(result, CardFiles(folder / "card", history=folder / "metrics.jsonl"))
    provenance = load_spec(model).provenance
    value = {
        "seed": seed,
        "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "training": {
            key: provenance.get(key) for key in ("version", "recipe", "epochs", "hardware", "torch", "training_seconds")
        },
        **result.to_json(),
        "model": str(model.relative_to(request.out)),
        "data": request.name,
    }
    with written_beside(folder / f"{split}.json") as temporary:
        temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")
    return SeedResult(seed, value)


def _done(request: ReproductionRequest, seed: int) -> SeedResult | None:
    """The result of a seed that was measured earlier."""
    path = _seed_folder(request, seed) / f"{find_reproduction(request.name).split}.json"
    if not path.is_file():
        return None
    try:
        found = SeedResult(seed, parse_json(decoded(read_bytes(path))))
        markdown(summary([found], request.config, left=()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RefinesegError) as error:
        raise CheckpointError(
            f"expected a result in {path}, which is damaged ({error!r:.200}); remove it, and it is measured anew"
        ) from error
    return found


def _write(request: ReproductionRequest, state: ReproductionState) -> None:
    """``table.json`` and ``table.md``."""
    if not state.results:
        return
    value = summary(state.results, request.config, left=state.left)
    for name, text in (("table.json", json.dumps(value, indent=1)), ("table.md", markdown(value))):
        with written_beside(request.out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def lines(state: ReproductionState, out: Path, seeds: Sequence[int]) -> list[str]:
    """What to say at the end."""
    said = [f"{len(state.results)} of {len(seeds)} seeds are trained and measured"]
    if state.results:
        said += [f"table: {out / 'table.md'}", f"numbers: {out / 'table.json'}"]
    if state.left:
        said += ["left, by calling the same command again:", *(f"  {part}" for part in state.left)]
    return said
