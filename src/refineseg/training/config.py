"""The frozen, complete description of a training run, and its JSON and ``key=value`` forms.

In: a recipe's values, overrides such as ``phases.0.epochs=20``. Out: a validated :class:`TrainingConfig`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Literal

from refineseg.data.crops.options import CropOptions
from refineseg.errors import ConfigError, require
from refineseg.networks.variants import NetworkOptions
from refineseg.terminal.arguments import hint

CHECKPOINT = "checkpoint.pt"
"""Name of the file in a run's folder from which it goes on."""

RUN_FILES = ("best.safetensors", "last.safetensors", "metrics.jsonl", "metrics.json", "curves.png")
"""What a run writes beside its checkpoint and its record."""

PICTURES_FOLDER = "validation"
"""Its folder of validation images, one picture for each measurement."""


@dataclass(frozen=True)
class Phase:
    """A part of training with its own length, crops and learning rates.

    Args:
        epochs: Passes over the training data.
        crops: Size, scale and place of the crops.
        data: Data sets of this phase, each ``NAME:SPLIT``; empty: the run's data and ``train_split``.
        batch_size: Crops per step, of all processes together.
        encoder_lr: Learning rate of the encoder at the start of the phase (after warm-up).
        decoder_lr: Learning rate of the decoder.
        schedule: How the rates fall to 0 over the phase: ``cosine``, ``poly`` ((1 - t) ** 0.9), or ``constant`` (not).
        warmup_epochs: Linear rise from 0 at the start, in epochs.
        epoch_steps: Steps of each epoch, which go through the images again and again; None: one pass over them.
    """

    epochs: int
    crops: CropOptions
    batch_size: int
    encoder_lr: float
    decoder_lr: float
    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    warmup_epochs: float = 0.0
    data: tuple[str, ...] = ()
    epoch_steps: int | None = None

    def __post_init__(self) -> None:
        require(self.epoch_steps is None or self.epoch_steps >= 1, "phase.epoch_steps of at least 1", self.epoch_steps)
        require(self.epochs >= 1, "phase.epochs of at least 1", self.epochs)
        require(self.batch_size >= 1, "phase.batch_size of at least 1", self.batch_size)
        require(min(self.crops.crop_hw) >= 32, "crops.crop_hw of at least 32 x 32 pixels", self.crops.crop_hw)
        rates = (self.encoder_lr, self.decoder_lr)
        require(all(0 <= rate < math.inf for rate in rates), "learning rates of at least 0", rates)
        whole = self.crops.pad or self.batch_size == 1
        require(whole, "phase.batch_size 1 where crops shrink (pad false)", self.batch_size)
        require(all(":" in part for part in self.data), "phase.data as NAME:SPLIT", self.data)
        require(0 <= self.warmup_epochs <= self.epochs, "phase.warmup_epochs within the phase", self.warmup_epochs)


@dataclass(frozen=True)
class LossOptions:
    """Cross entropy of pixels, the weights of pixels and classes, and losses of whole regions beside it.

    Args:
        loss_resolution: ``image``: logits enlarged to the masks; ``output``: masks picked at the network's output.
        class_weight_power: 0: none; 0.5: mild; 1: median frequency balancing.
        class_weight_style: ``median`` frequency balancing, or the ``logarithm`` of the frequency (ENet's).
        label_smoothing: 0..1.
        ohem_threshold: Online hard example mining below this probability; None: off.
        ohem_share: Share of the labelled pixels that are kept at least.
        border_weight: Further weight of pixels at a border between classes (1: they count twice); 0: none.
        border_radius: The further weight falls to 0 over this many pixels.
        lovasz: How much the Lovasz-Softmax loss counts beside cross entropy.
        lovasz_over: Its regions are those of each ``image``, or of the ``batch``.
        lovasz_stride: It sees every so many-th row and column; 4 makes it 16 times as cheap.
        dice: How much the Dice loss counts beside cross entropy.
    """

    loss_resolution: Literal["image", "output"] = "image"
    class_weight_power: float = 0.0
    class_weight_style: Literal["median", "logarithm"] = "median"
    label_smoothing: float = 0.0
    ohem_threshold: float | None = None
    ohem_share: float = 0.1
    border_weight: float = 0.0
    border_radius: int = 3
    lovasz: float = 0.0
    lovasz_over: Literal["image", "batch"] = "image"
    lovasz_stride: int = 1
    dice: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.label_smoothing < 1, "label_smoothing in 0..1", self.label_smoothing)
        require(
            self.ohem_threshold is None or 0 < self.ohem_threshold <= 1, "ohem_threshold in 0..1", self.ohem_threshold
        )
        require(0 <= self.ohem_share <= 1, "ohem_share in 0..1", self.ohem_share)
        extra = (self.border_weight, self.lovasz, self.dice)
        require(min(extra) >= 0, "border_weight, lovasz and dice of at least 0", extra)
        require(self.border_radius >= 1, "border_radius of at least 1", self.border_radius)
        require(self.lovasz_stride >= 1, "lovasz_stride of at least 1", self.lovasz_stride)


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides the result of a run but the data.

    Args:
        recipe: Name of the recipe it comes from.
        variant: The network.
        phases: Parts of training, one after the other; optimiser state and weight average go on through them.
        train_split: Split to learn from; ``train+val`` joins.
        val_split: Split to measure after each epoch; None: none, and the last model is the result.
        val_every: Measure every so many epochs (and at the end).
        val_images: Images of the validation split that are measured, evenly spread over it; None: all.
        val_share: Share of the training images that are held out and measured where own data have no split for it.
        patience: Stop after so many measurements in a row without a better mIoU; None: never.
        optimiser: ``adamw``, or ``sgd`` with ``momentum``.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of filters.
        decay_vectors: Also decay biases and norms, as the papers' code does.
        loss: The loss, where it is computed, and its weights.
        teacher: Model to learn from beside the masks: a shipped name or a model file of the same classes; None: none.
        teacher_weight: How much its divergence counts beside the losses above.
        teacher_temperature: Both models' logits are divided by it.
        flip: Mirror half of the crops.
        colour: Largest relative change of brightness, contrast, saturation.
        white_balance: Largest natural logarithm of the factors of red and blue: 0.2 changes them by up to a fifth.
        ema_decay: Decay of the average of the weights, which is what is measured and saved; None: off.
        clip_norm: Largest gradient norm; None: off.
        pretrained: Start the encoder from ImageNet weights; ``auto``: if they can be had.
        freeze_norm: Keep the encoder's normalisation statistics as they are; scale and shift are still trained.
        sync_norm: Take normalisation statistics over the crops of all processes (PyTorch's SyncBatchNorm, on GPUs), not
            over those of each; one process has them all.
        init_std: Draw the decoder's filters from a normal distribution of this deviation, biases 0; None: PyTorch's
            defaults.
        input_scale: Resize images by this factor in front of the network (the RefineNet authors': 1.2); the model does
            so in every prediction. Below 1, crops are cut from the reduced images. None: 1, or less for photographs of
            many megapixels.
        network: What the network is built with beside the variant: decoder width, pooling links and order, resizing.
        augment_on: Where crops are cut: ``host``; ``device``, from images held there (experimental on a GPU); ``auto``:
            on a GPU where they fit. Crops of the two differ by a few grey levels, and
            those of much larger images by less than a pixel.
        cache_mib: MiB of decoded images kept in memory where no processes read (``--workers 0``), and a third of the
            free memory at most; changes no result.
        precision: ``bf16`` autocast, ``fp32``, or ``auto``: bf16 where the hardware computes in it.
        compile: Mode of ``torch.compile`` (experimental on a GPU); ``off``; ``auto``: ``reduce-overhead`` (with CUDA
            graphs) on a GPU for the rest of a phase that would take long enough to pay for it, see
            :mod:`refineseg.training.engine`.
        micro_batch: Most crops computed at a time; larger batches are added up from pieces, whose normalisation
            statistics are then those of a piece. None: whole batches, until memory is short.
        checkpoint_every_s: Save checkpoint and models when an epoch ends and this many seconds have passed since the
            last time, or fifty times as long as saving takes; always after the first and the last epoch, and after each
            one of several processes. Changes no result.
        seed: Seed of everything random.
    """

    recipe: str
    variant: str
    phases: tuple[Phase, ...]
    train_split: str = "train"
    val_split: str | None = "val"
    val_every: int = 1
    val_images: int | None = None
    val_share: float = 0.1
    patience: int | None = None
    optimiser: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    weight_decay: float = 0.01
    decay_vectors: bool = False
    loss: LossOptions = field(default_factory=LossOptions)
    teacher: str | None = None
    teacher_weight: float = 1.0
    teacher_temperature: float = 1.0
    flip: bool = True
    colour: float = 0.3
    white_balance: float = 0.0
    ema_decay: float | None = 0.999
    clip_norm: float | None = 10.0
    pretrained: Literal["auto", "yes", "no"] = "auto"
    freeze_norm: bool = False
    sync_norm: bool = False
    init_std: float | None = None
    input_scale: float | None = 1.0
    network: NetworkOptions = field(default_factory=NetworkOptions)
    augment_on: Literal["auto", "host", "device"] = "auto"
    cache_mib: int = 2048
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: Literal["auto", "off", "default", "reduce-overhead", "max-autotune"] = "auto"
    micro_batch: int | None = None
    checkpoint_every_s: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        require(bool(self.phases), "at least one phase", self.phases)
        require(self.val_every >= 1, "val_every of at least 1", self.val_every)
        require(self.val_images is None or self.val_images >= 1, "val_images of at least 1", self.val_images)
        require(0 <= self.val_share < 1, "val_share in 0..1", self.val_share)
        require(self.patience is None or self.patience >= 1, "patience of at least 1", self.patience)
        require(self.ema_decay is None or 0 < self.ema_decay < 1, "ema_decay between 0 and 1", self.ema_decay)
        require(self.teacher_weight >= 0, "teacher_weight of at least 0", self.teacher_weight)
        require(self.teacher_temperature > 0, "teacher_temperature above 0", self.teacher_temperature)
        require(self.input_scale is None or 0 < self.input_scale <= 8, "input_scale above 0, up to 8", self.input_scale)
        require(self.init_std is None or self.init_std > 0, "init_std above 0", self.init_std)
        require(self.cache_mib >= 0, "cache_mib of at least 0", self.cache_mib)
        require(self.micro_batch is None or self.micro_batch >= 1, "micro_batch of at least 1", self.micro_batch)
        require(self.checkpoint_every_s >= 0, "checkpoint_every_s of at least 0", self.checkpoint_every_s)
        require(0 <= self.seed < 2**63, "seed in 0..2**63 - 1", self.seed)
        require(self.weight_decay >= 0, "weight_decay of at least 0", self.weight_decay)
        require(0 <= self.momentum < 1, "momentum in 0..1", self.momentum)
        require(0 <= self.colour < 1, "colour in 0..1", self.colour)
        require(0 <= self.white_balance <= 1, "white_balance in 0..1", self.white_balance)
        require(self.clip_norm is None or self.clip_norm > 0, "clip_norm above 0", self.clip_norm)

    @property
    def num_epochs(self) -> int:
        """Epochs of all phases."""
        return sum(phase.epochs for phase in self.phases)

    def phase_of(self, epoch: int) -> tuple[Phase, int]:
        """The phase an epoch (0-based) belongs to, and its number within that phase."""
        for phase in self.phases:
            if epoch < phase.epochs:
                return phase, epoch
            epoch -= phase.epochs
        raise IndexError(epoch)


def to_json(config: TrainingConfig) -> dict[str, Any]:
    """The configuration as plain values, the content of ``run.json``."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def _convert(value: object, kind: Any, where: str) -> Any:  # noqa: ANN401 - types are values here
    """``value`` (from JSON) as the annotated type ``kind``; the few kinds configs are made of."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        return _convert(value, next(a for a in args if a is not type(None)), where)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"expected {where} to be one of {', '.join(map(str, args))}, got {value!r:.200}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) == len(value):
            return tuple(_convert(v, k, f"{where}.{i}") for i, (v, k) in enumerate(zip(value, kinds, strict=True)))
    elif is_dataclass(kind) and isinstance(value, Mapping):
        return _from_mapping(kind, value, where)
    elif origin is Mapping and isinstance(value, Mapping):
        return dict(value)
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not abs(value) <= sys.float_info.max:  # math.isfinite() fails on whole numbers of 400 digits
            raise ConfigError(f"expected {where} to be a finite number, got {value!s:.100}")
        return float(value)
    elif kind in (int, str, bool) and type(value) is kind:
        return value
    name = kind.__name__ if isinstance(kind, type) and not args else str(kind)
    raise ConfigError(f"expected {where} to be {name}, got {value!r:.200}")


_OLD_NAMES = {"boundary": "border_weight", "boundary_radius": "border_radius"}  # of run.json and --set before 0.2


def _grouped(value: Mapping[str, Any], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by the names of today: those of a group may stand beside it, where files before 0.2 have them."""
    group_of = {f.name: name for name, kind in kinds.items() if is_dataclass(kind) for f in dataclasses.fields(kind)}
    named = {_OLD_NAMES.get(key, key): item for key, item in value.items()}
    grouped = {key: item for key, item in named.items() if key in kinds or key not in group_of}
    for key, group in group_of.items():
        if key in named and key not in kinds and isinstance(grouped.setdefault(group, {}), Mapping):
            grouped[group] = {**grouped[group], key: named[key]}
    return grouped


def _from_mapping(cls: Any, value: Mapping[str, Any], where: str) -> Any:  # noqa: ANN401
    kinds = typing.get_type_hints(cls)
    value = _grouped(value, kinds)
    unknown = [key for key in value if key not in kinds]
    if unknown:
        near = hint(unknown[0], kinds, listed=f"its keys are those of `refineseg train --set`, {len(kinds)} in all")
        raise ConfigError(
            f"expected only known keys in {where}, got {', '.join(f'{key!s:.60}' for key in unknown[:3])}; {near}"
        )
    try:
        return cls(**{key: _convert(item, kinds[key], f"{where}.{key}") for key, item in value.items()})
    except TypeError as error:
        raise ConfigError(f"expected a complete {where}: {error}") from error


def from_json(value: Mapping[str, Any]) -> TrainingConfig:
    """A configuration from plain values.

    Raises:
        ConfigError: A field is unknown, missing, or of the wrong type or range; it is named.
    """
    config: TrainingConfig = _from_mapping(TrainingConfig, value, "config")
    return config


def _keys(value: object, prefix: str = "") -> Iterator[str]:
    """Every key that :func:`override` takes, dotted."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield f"{prefix}{key}"
        yield from _keys(item, f"{prefix}{key}.")
        if isinstance(value, Mapping) and isinstance(item, Mapping):  # the name of a group may be left out
            yield from _keys(item, prefix)


def override(config: TrainingConfig, settings: Sequence[str]) -> TrainingConfig:
    """Replace single values.

    Args:
        config: What to start from.
        settings: ``key=value`` with dotted keys, values in JSON or plain text: ``phases.0.epochs=20``,
            ``val_split=null``, ``phases.0.crops.crop_hw=[256,256]``, ``optimiser=sgd``. The name of a group may be
            left out: ``lovasz=1`` is ``loss.lovasz=1``.

    Raises:
        ConfigError: No such key, or a value of the wrong type or range.
    """
    plain = to_json(config)
    for setting in settings:
        key, equals, text = setting.partition("=")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        place: Any = plain
        *path, last = key.split(".")
        last = _OLD_NAMES.get(last, last)
        try:
            for part in path:
                place = place[int(part)] if isinstance(place, list) else place[part]
            if isinstance(place, dict) and last not in place:  # a key of a group, written without it
                place = next((group for group in place.values() if isinstance(group, dict) and last in group), place)
            known = last in place if isinstance(place, dict) else 0 <= int(last) < len(place)
        except (KeyError, IndexError, ValueError, TypeError):
            known = False
        if not equals or not known:
            listed = "the run.json of any run shows them all"
            wrong = hint(key, _keys(plain), listed=listed) if not known else f"write --set {key}=VALUE"
            raise ConfigError(f"expected --set KEY=VALUE with a key of the config, got {setting!r}; {wrong}")
        place[int(last) if isinstance(place, list) else last] = value
    return from_json(plain)
