"""The data of a run: every split that a phase needs, looked at file by file before anything is computed or written.

In: roots of data sets and a configuration. Out: :class:`~refineseg.training.feeding.TrainingData`, and its records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import zip_longest

import numpy as np

from refineseg.data.checks.label_check import CheckedData, check_data, check_learnable
from refineseg.data.checks.looking import Palettes
from refineseg.data.datasets import Root, ids_of, open_dataset
from refineseg.data.readers.transfer import joined_for_training
from refineseg.data.samples.record import DataRecord, shared_marks
from refineseg.data.samples.run_record import HELD_OUT, validation_name
from refineseg.data.samples.sample import Dataset, Without
from refineseg.errors import ConfigError, DatasetError, LabelError
from refineseg.evaluate.predicting import class_table
from refineseg.images.files import first_names
from refineseg.terminal.printing import warn
from refineseg.training import ranks
from refineseg.training.config import TrainingConfig
from refineseg.training.feeding import PhaseData, TrainingData
from refineseg.training.progress import Progress, say_notes


def open_data(
    sources: Mapping[str, Root], config: TrainingConfig, progress: Progress
) -> tuple[TrainingData, dict[str, DataRecord]]:
    """Open what every phase needs and look at every image and mask before anything is computed.

    Of several processes the first one looks; each opens the same data.

    Returns:
        The data, and the record of each part of them: what it is (``folder:train``) -> how it is.

    Raises:
        ConfigError: A phase needs data that are not given.
        DatasetError: Data that cannot be trained on.
    """
    first, root = next(iter(sources.items()))
    val_set = _validation(config, first, root)
    held_out = frozenset() if val_set is None else frozenset(val_set.name(i) for i in range(len(val_set)))
    phases: dict[tuple[str, ...], PhaseData] = {}
    usual_void, palettes = 0.0, Palettes()
    records: dict[str, DataRecord] = {}
    for phase in config.phases:
        parts = phase.data or tuple(f"{name}:{config.train_split}" for name in sources)
        if parts not in phases:
            val = f"{first}:{config.val_split}"
            phases[parts], checked = _open_phase(parts, sources, held_out, val, palettes, progress)
            records[" + ".join(parts)], usual_void = checked.record, max(usual_void, checked.void_share)
    if val_set is not None:
        class_table(next(iter(phases.values())).dataset.class_info, val_set.class_info)  # else no epoch is measured
        check = partial(check_data, one_class=True, usual_void=usual_void, palettes=palettes)
        try:
            checked = _checked(val_set, check)
        except LabelError as error:
            names = first_names([val_set.name(i) for i in range(len(val_set))])
            told = f"these are the validation images ({config.val_split}: {names})"
            if config.val_split == HELD_OUT:
                told += "; correct them, or say --set val_share=0 or another --set seed"
            raise LabelError(*error.args, told) from error
        record = checked.record
        _tell_unmeasured(phases[next(iter(phases))], checked, progress)
        _tell_shared(records, record, is_training=f"{first}:{config.val_split}" in records)
        records[validation_name(f"{first}:{config.val_split}")] = record
        progress.say(f"{len(val_set)} validation images ({config.val_split})")
        if config.val_split != HELD_OUT:  # else they are those of the training images
            say_notes([val_set], progress)
    chosen = [phase.data or tuple(f"{name}:{config.train_split}" for name in sources) for phase in config.phases]
    described = (f"{', '.join(parts)}, {len(phase.dataset)} images" for parts, phase in phases.items())
    data = TrainingData(tuple(phases[parts] for parts in chosen), val_set, "; ".join(described))
    if ranks.size() > 1:
        ranks.of_all(lambda: _check_batches(data, config))
    return data, records


def _check_batches(data: TrainingData, config: TrainingConfig) -> None:
    """Whether the processes divide every batch, where there are fewer samples than it takes, too."""
    for phase, learned in zip(config.phases, data.phases, strict=True):
        ranks.check_batch(phase.batch_size, ranks.size(), samples=len(learned.dataset))


def _validation(config: TrainingConfig, name: str, root: Root) -> Dataset | None:
    """What is measured: a split, or training images that are held out; None: nothing."""
    if config.val_split is None:
        return None
    if config.val_split != HELD_OUT:
        return open_dataset(name, root, split=config.val_split)
    whole = open_dataset(name, root, split=config.train_split)
    names = list(dict.fromkeys(whole.name(i) for i in range(len(whole))))  # of joined splits some may be alike
    order = np.random.default_rng(config.seed).permutation(len(names))
    held_out = max(1, round(config.val_share * len(names)))
    return Without(whole, [names[int(index)] for index in order[held_out:]])


def _open_phase(
    parts: Sequence[str],
    sources: Mapping[str, Root],
    held_out: frozenset[str],
    val: str,
    palettes: Palettes,
    progress: Progress,
) -> tuple[PhaseData, CheckedData]:
    """The training data of a phase, without the images it is measured on."""
    opened: list[Dataset] = []
    given: list[Dataset] = []
    for part in parts:
        name, _, split = part.partition(":")
        if name not in sources:
            raise ConfigError(f"expected --data with {name}:ROOT for {part}, got {', '.join(sources)}; join them by +")
        dataset = open_dataset(name, sources[name], split=split)
        val_name, _, val_split = val.partition(":")
        same_ids = ids_of(name) and ids_of(name) == ids_of(val_name)
        kept = Without(dataset, held_out if same_ids or (val_split == HELD_OUT and name == val_name) else ())
        if kept.dropped:
            progress.say(
                f"{kept.dropped} of {len(dataset)} images of {part} are left out of training, because they are measured"
            )
        opened.append(kept if kept.dropped else dataset)
        given.append(dataset)
    joined, unions = joined_for_training(opened)
    if not len(joined):
        raise DatasetError(f"expected training images in {', '.join(parts)}, got none that are not in {val}")
    progress.say(f"{len(joined)} training images ({' + '.join(parts)}); looking at every image and mask")
    checked = _checked(joined, partial(check_learnable, palettes=palettes))
    say_notes([*given, joined], progress)
    for note in checked.notes:
        progress.say(f"note: {note}")
    return PhaseData(joined, checked.pixel_counts, unions=unions), checked


def _checked(dataset: Dataset, check: Callable[[Dataset], CheckedData]) -> CheckedData:
    """What the first process finds; the others must have opened samples of the same names.

    Raises:
        DatasetError: They have not, or the data cannot be trained on.
    """
    checked = ranks.of_first(lambda: check(dataset))
    names = [name for name, _, _ in checked.record.samples]

    def compare() -> None:
        own = [dataset.name(index) for index in range(len(dataset))]
        if own != names:
            other = next(pair for pair in zip_longest(own, names) if pair[0] != pair[1])
            raise DatasetError(
                f"expected the same data in every process, got {len(own)} samples here and {len(names)} in process 0 "
                f"(the first other one: {other[0]} and {other[1]}); copy the data to every machine, or share a folder"
            )

    if ranks.size() > 1:
        ranks.of_all(compare)
    return checked


def _tell_unmeasured(learned: PhaseData, val: CheckedData, progress: Progress) -> None:
    """Which classes training images show and validation images do not, and the other way round."""
    names = learned.dataset.class_info.names
    pairs = list(zip(names, learned.pixel_counts, val.pixel_counts, strict=False))  # unions of classes come behind them
    missing = [name for name, in_training, in_val in pairs if in_training and not in_val]
    if missing:
        progress.say(f"note: no validation image shows {first_names(missing)}; the mIoU says nothing about them")
    in_unions = {names[index] for union in learned.unions for index in union}
    new = [name for name, in_training, in_val in pairs if in_val and not in_training and name not in in_unions]
    if new:
        progress.say(
            f"note: no training image shows {first_names(new)}, which validation images show: nothing is learned of it"
        )


def _tell_shared(records: Mapping[str, DataRecord], val: DataRecord, *, is_training: bool) -> None:
    """Warn of validation images that are trained on, unless that was asked for by giving one split for both."""
    if is_training:
        return
    shared = {name: other for record in records.values() for name, other in shared_marks(record, val)}
    if shared:
        shown = ", ".join(f"{name} equals {other} of training" for name, other in list(shared.items())[:3])
        more = f" and {len(shared) - 3} more" if len(shared) > 3 else ""
        warn(
            f"{len(shared)} of {len(val.samples)} validation images are training images, too ({shown}{more}); "
            "the measurement will be too good: keep each image in one split; `refineseg doctor` names them all"
        )
