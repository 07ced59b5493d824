"""Recipes: functions that return a complete configuration.

A recipe is named ``<data set>_<variant>``, with a suffix where a data set has several for a variant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from refineseg.data.crops.options import CropOptions
from refineseg.data.samples.given import GIVEN
from refineseg.errors import ConfigError
from refineseg.terminal.arguments import hint
from refineseg.training.config import LossOptions, Phase, TrainingConfig
from refineseg.training.recipes.papers import PAPER_RECIPES


def camvid_refinenet_lw_mobilenetv2() -> TrainingConfig:
    """CamVid from scratch, train + val, no validation: the first phase of the model shipped first.

    Small crops of shrunk images first (a third of the time per crop), then full resolution with a cosine to zero:
    within one CPU budget the network sees about twice as many epochs as with full crops throughout. Nothing is
    selected: the last averaged weights are the model.
    """
    return TrainingConfig(
        recipe="camvid_refinenet_lw_mobilenetv2",
        variant="refinenet_lw_mobilenetv2",
        phases=(
            Phase(
                epochs=18,
                crops=CropOptions((192, 256), (0.5, 1.1)),
                batch_size=6,
                encoder_lr=2e-3,
                decoder_lr=1e-3,
                schedule="constant",
                warmup_epochs=2.0,
            ),
            Phase(
                epochs=14,
                crops=CropOptions((288, 384), (0.6, 1.7)),
                batch_size=6,
                encoder_lr=2e-3,
                decoder_lr=1e-3,
                schedule="cosine",
            ),
        ),
        train_split="train+val",
        val_split=None,
        loss=LossOptions(class_weight_power=0.5),
        weight_decay=0.01,
        colour=0.3,
        ema_decay=0.998,
        clip_norm=1.0,
        pretrained="no",
    )


def camvid_refinenet_lw_mobilenetv2_long() -> TrainingConfig:
    """CamVid from scratch on a GPU: 1000 epochs of train + val, no validation; not yet run on a GPU.

    What published networks of this size take (1000 epochs of full frames), with the images held on the device. Nothing
    is selected: the last averaged weights are the model. Its choices are those that can be defended without
    measurements; ``benchmarks/camvid_recipes.py`` measures them on drives that are held out of train.
    """
    return TrainingConfig(
        recipe="camvid_refinenet_lw_mobilenetv2_long",
        variant="refinenet_lw_mobilenetv2",
        phases=(
            Phase(
                epochs=1000,
                crops=CropOptions((352, 480), (0.5, 2.0)),
                batch_size=16,
                encoder_lr=2e-3,
                decoder_lr=1e-3,
                schedule="cosine",
                warmup_epochs=10.0,
            ),
        ),
        train_split="train+val",
        val_split=None,
        loss=LossOptions(class_weight_power=0.2),
        weight_decay=0.02,
        colour=0.3,
        ema_decay=0.999,
        clip_norm=1.0,
        pretrained="no",
    )


def camvid_refinenet_lw_resnet101_long() -> TrainingConfig:
    """CamVid from scratch on a GPU, a large network as a teacher: 600 epochs of train + val; not yet run on a GPU.

    The light-weight decoder, because the full one costs five times as much and a teacher need not be the best network
    but a better one than its pupil.
    """
    pupil = camvid_refinenet_lw_mobilenetv2_long()
    phase = replace(pupil.phases[0], epochs=600, encoder_lr=1e-3)
    return replace(
        pupil, recipe="camvid_refinenet_lw_resnet101_long", variant="refinenet_lw_resnet101", phases=(phase,)
    )


def camvid_refinenet_lw_mobilenetv2_distilled() -> TrainingConfig:
    """The long CamVid recipe with a teacher: what ``camvid_refinenet_lw_resnet101_long`` trained; not yet run on a GPU.

    The teacher is expected where that recipe is told to leave it; name another by ``--set teacher=FILE``.
    """
    return replace(
        camvid_refinenet_lw_mobilenetv2_long(),
        recipe="camvid_refinenet_lw_mobilenetv2_distilled",
        teacher="runs/camvid_refinenet_lw_resnet101_long/last.safetensors",
    )


def camvid_refineseg_small() -> TrainingConfig:
    """CamVid from scratch on ``refineseg_small``, train + val, no validation: made for two CPU cores.

    As :func:`camvid_refinenet_lw_mobilenetv2`: small crops of shrunk images first, then full resolution with a cosine
    to zero. A step costs a quarter of that of LW-MobileNet-v2, so the same time holds four times the epochs.
    """
    return TrainingConfig(
        recipe="camvid_refineseg_small",
        variant="refineseg_small",
        phases=(
            Phase(
                epochs=30,
                crops=CropOptions((192, 256), (0.5, 1.1)),
                batch_size=8,
                encoder_lr=2e-3,
                decoder_lr=1e-3,
                schedule="constant",
                warmup_epochs=1.0,
            ),
            Phase(
                epochs=24,
                crops=CropOptions((288, 384), (0.6, 1.7)),
                batch_size=8,
                encoder_lr=2e-3,
                decoder_lr=1e-3,
                schedule="cosine",
            ),
        ),
        train_split="train+val",
        val_split=None,
        loss=LossOptions(class_weight_power=0.3),
        weight_decay=0.01,
        colour=0.3,
        ema_decay=0.998,
        clip_norm=1.0,
        pretrained="no",
    )


def camvid_refineseg_nano() -> TrainingConfig:
    """CamVid from scratch on ``refineseg_nano``, train + val, no validation: the recipe of the shipped ``camvid_nano``.

    As :func:`camvid_refineseg_small`, whose steps cost three times as much, for more than three times the epochs.
    """
    small = camvid_refineseg_small()
    first, last = small.phases
    return replace(
        small,
        recipe="camvid_refineseg_nano",
        variant="refineseg_nano",
        phases=(replace(first, epochs=60), replace(last, epochs=130)),
    )


def camvid_refineseg_lite0() -> TrainingConfig:
    """CamVid on ``refineseg_lite0`` from ImageNet weights, train + val, no validation: made for one CPU core.

    Small crops of shrunk images first, then twice larger crops that end at full frames with a cosine to zero. The
    encoder, which has learned already, gets a quarter of the decoder's rate. White balance varies, so that the model
    does not learn the colours of one camera by heart. The shipped ``camvid`` was trained in five runs
    (16 + 9, then 18 + 8, then 32 + 28 of these phases, then 46 + 44 epochs, then 18 + 34 of larger crops), and is a
    mean of the last four (docs/experiments.md).
    """
    first, last = (replace(phase, encoder_lr=5e-4, decoder_lr=2e-3) for phase in camvid_refineseg_small().phases)
    frames = replace(last, epochs=8, crops=CropOptions((352, 480), (0.8, 1.25)))
    return replace(
        camvid_refineseg_small(),
        recipe="camvid_refineseg_lite0",
        variant="refineseg_lite0",
        phases=(
            replace(first, epochs=16),
            replace(last, epochs=9, warmup_epochs=0.3),
            replace(last, epochs=18, schedule="constant", warmup_epochs=0.5),
            frames,
            replace(
                frames, epochs=32, crops=CropOptions((352, 480), (0.6, 2.0)), schedule="constant", warmup_epochs=0.5
            ),
            replace(frames, epochs=28, crops=CropOptions((352, 480), (0.8, 1.7)), warmup_epochs=0.0),
        ),
        loss=LossOptions(class_weight_power=0.2),
        colour=0.4,
        white_balance=0.15,
        ema_decay=0.995,
        pretrained="yes",
    )


def nyud_refineseg_lite0() -> TrainingConfig:
    """NYUDv2-40 on ``refineseg_lite0`` from ImageNet weights, no validation: made for one CPU core.

    Crops of half-size images first, then larger ones, and nearly full images with a cosine to zero. The shipped
    ``nyud`` was trained in three runs (23, then 10 + 20 + 7, then 12 + 22 epochs), and is the mean of the last two
    (docs/experiments.md), without the Lovasz loss. That was worth 1.4 points of mean IoU on held-out rooms in a short
    run. Choices are made by training on ``fit`` and measuring on ``held_out``
    (``--set train_split=fit --set val_split=held_out``).
    """
    first = Phase(
        epochs=33,
        crops=CropOptions((224, 288), (0.4, 0.9)),
        batch_size=8,
        encoder_lr=3e-4,
        decoder_lr=2e-3,
        schedule="constant",
        warmup_epochs=1.0,
    )
    middle = replace(first, epochs=32, crops=CropOptions((288, 384), (0.5, 1.4)), warmup_epochs=0.0)
    last = replace(middle, epochs=25, crops=CropOptions((416, 544), (0.7, 1.4)), schedule="cosine")
    return TrainingConfig(
        recipe="nyud_refineseg_lite0",
        variant="refineseg_lite0",
        phases=(first, middle, last),
        val_split=None,
        loss=LossOptions(class_weight_power=0.2, lovasz=0.5),
        colour=0.4,
        white_balance=0.15,
        ema_decay=0.997,
        clip_norm=1.0,
        pretrained="yes",
    )


def folder_refineseg_lite0() -> TrainingConfig:
    """Your own pictures, on a network that is a tenth to a fifth faster than the default's, with coarser masks.

    ImageNet weights in the encoder, which are installed with this package; one phase with a cosine to zero.
    """
    base = folder_refinenet_lw_mobilenetv2()
    phase = replace(base.phases[0], encoder_lr=5e-4, decoder_lr=2e-3)
    return replace(base, recipe="folder_refineseg_lite0", variant="refineseg_lite0", phases=(phase,), pretrained="yes")


def folder_refineseg_lite0_5cascade() -> TrainingConfig:
    """Your own pictures: the default where no recipe is named.

    ImageNet weights in the encoder, which are installed with this package; one phase with a cosine to zero. Made for
    tens to thousands of photographs on a laptop; change it with ``--epochs --lr --batch-size --set``. The fifth block
    was worth up to 2.3 points of mean IoU in the same minutes on held-out parts of three sets, most on thin cracks.
    """
    return replace(
        folder_refineseg_lite0(), recipe="folder_refineseg_lite0_5cascade", variant="refineseg_lite0_5cascade"
    )


def folder_refinenet_lw_mobilenetv2() -> TrainingConfig:
    """Your own pictures on Light-Weight RefineNet's MobileNet-v2.

    ImageNet weights in the encoder if they can be had, so it gets a lower rate than the decoder; one phase with a
    cosine to zero. Made for tens to thousands of photographs on a laptop; change it with ``--epochs --lr --batch-size
    --set``. The Lovasz loss was worth 0.6 to 2 points of mean IoU on held-out parts of three sets.
    Photographs of many megapixels are reduced (:mod:`refineseg.training.crop_size`).
    """
    return TrainingConfig(
        recipe="folder_refinenet_lw_mobilenetv2",
        variant="refinenet_lw_mobilenetv2",
        phases=(
            Phase(
                epochs=60,
                crops=CropOptions((320, 320), (0.5, 1.5), at_most_images=True),
                batch_size=8,
                encoder_lr=1e-3,
                decoder_lr=1e-3,
                schedule="cosine",
                warmup_epochs=1.0,
            ),
        ),
        loss=LossOptions(lovasz=0.5),
        ema_decay=0.99,
        clip_norm=1.0,
        input_scale=None,
    )


RECIPES: dict[str, Callable[..., TrainingConfig]] = {
    "camvid_refinenet_lw_mobilenetv2": camvid_refinenet_lw_mobilenetv2,
    "camvid_refineseg_small": camvid_refineseg_small,
    "camvid_refineseg_nano": camvid_refineseg_nano,
    "camvid_refinenet_lw_mobilenetv2_long": camvid_refinenet_lw_mobilenetv2_long,
    "camvid_refinenet_lw_resnet101_long": camvid_refinenet_lw_resnet101_long,
    "camvid_refinenet_lw_mobilenetv2_distilled": camvid_refinenet_lw_mobilenetv2_distilled,
    "camvid_refineseg_lite0": camvid_refineseg_lite0,
    "nyud_refineseg_lite0": nyud_refineseg_lite0,
    "folder_refineseg_lite0": folder_refineseg_lite0,
    "folder_refineseg_lite0_5cascade": folder_refineseg_lite0_5cascade,
    "folder_refinenet_lw_mobilenetv2": folder_refinenet_lw_mobilenetv2,
    **PAPER_RECIPES,
}
"""Every recipe by name; those of the papers take ``released=True`` for what the authors' code does otherwise."""

_OWN_DATA = ("folder", "coco", "labelme", "cvat", "label_studio", "yolo", "pairs")
DEFAULT_RECIPE = {
    **dict.fromkeys(_OWN_DATA, "folder_refineseg_lite0_5cascade"),
    "camvid": "camvid_refineseg_lite0",
    "idd_lite": "folder_refineseg_lite0_5cascade",
    "person_part": "person_part_refinenet_lw_resnet50",
    "nyud": "nyud_refinenet_lw_resnet50",
    "voc": "voc_refinenet_lw_resnet50",
    "pascal_context": "pascal_context_refinenet_lw_resnet101",
    "sunrgbd": "sunrgbd_refinenet_resnet101",
    "ade20k": "ade20k_refinenet_resnet101",
    "cityscapes": "cityscapes_refinenet_resnet101",
}
"""The recipe of a data set where none is named."""


def find_recipe(name: str, *, released: bool = False) -> TrainingConfig:
    """The configuration of a recipe.

    Args:
        name: A key of :data:`RECIPES`.
        released: What the authors' published code does, where it differs from the paper.

    Raises:
        ConfigError: No such recipe (the message names the near ones), or ``released`` for one not of the papers.
    """
    if name not in RECIPES:
        raise ConfigError(
            f"expected a recipe, got {name!r}; {hint(name, RECIPES, listed='`refineseg models` lists them')}"
        )
    if released and name not in PAPER_RECIPES:
        raise ConfigError(f"expected a recipe of the papers with --released, got {name}; leave --released out")
    return RECIPES[name](released=True) if released else RECIPES[name]()


def default_recipe(data: str) -> str:
    """The recipe of a data set where none is named.

    Raises:
        ConfigError: It has none.
    """
    if data == GIVEN:
        data = "folder"  # somebody's own
    if data not in DEFAULT_RECIPE:
        raise ConfigError(f"expected a recipe for {data}, which has none by default; `refineseg models` lists them")
    return DEFAULT_RECIPE[data]


def recipe_summary(name: str) -> str:
    """One line about a recipe: its docstring's first, or length and crops of a paper's recipe."""
    recipe = RECIPES[name]
    if not isinstance(recipe, partial):
        return (recipe.__doc__ or "").splitlines()[0]
    config = recipe()
    phases = ", ".join(
        f"{phase.epochs} epochs{f' of {chr(43).join(phase.data)}' if phase.data else ''}" for phase in config.phases
    )
    return f"{phases}; crops of {config.phases[0].crops.crop_hw[0]}, batches of {config.phases[0].batch_size}"
