"""The recipes of both papers: for every row of their tables a complete training configuration.

In: a variant's name. Out: a :class:`~refineseg.training.config.TrainingConfig`. ``released=True`` gives what the
authors' published code does where it differs from the paper.

What is published, and what is not:

* RefineNet: SGD with momentum 0.9 and weight decay 5e-4 on everything, learning rate 5e-4 (the ResNet: a tenth),
  batches of one, random scales 0.7 to 1.3, mirroring, crops of 400 (Cityscapes: 600) pixels, new filters drawn with
  deviation 0.01, frozen normalisation statistics, loss at the network's output resolution. The lengths of the schedules
  are not published ("divide by ten when it stops improving"). Here a run has about 120 000 steps and then 40 000 at a
  tenth of the rates: the authors' sanity figure (ResNet-50 on VOC, three days on a Titan X) is of this order.
* Released code, where it differs: four pooling links, "improved" pooling but for VOC and Cityscapes, images enlarged by
  1.2, shorter side clamped to 450..1100, scales in steps of 0.1, crops around a pixel of a random class and without
  padding.
* Light-Weight RefineNet: the NYUDv2 recipe of its code, three phases of 100 epochs (momentum is kept between phases
  here, as in the second version of the code). Other data sets are described in the paper only, with the same optimiser;
  the lengths here keep about the number of steps of the NYUDv2 recipe. VOC: two phases of 100 epochs, after COCO.

Sources: Lin et al., CVPR 2017, sections 3 and 4, and the released MATLAB code; Nekrasov et al., BMVC 2018, section 4,
and the released code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from refineseg.data.crops.options import CropOptions
from refineseg.networks.variants import NetworkOptions
from refineseg.training.config import LossOptions, Phase, TrainingConfig

_ENLARGEMENT = 1.2
_SHORT_SIDE = (450, 1100)


@dataclass(frozen=True)
class FullPlan:
    """What differs between the data sets of the full network.

    Args:
        data: Name of the data set.
        epochs: At full rates, and at a tenth of them.
        links: Pooling links of the paper's table.
        crop: Side of the crops in pixels.
        improved: Whether the released code's model convolves before it pools.
        first: Data of additional phases of their own, in front; the last phase learns from the data set alone.
        first_epochs: First epoch of each of them.
        val_split: What the table measures.
    """

    data: str
    epochs: tuple[int, int]
    links: int = 2
    crop: int = 400
    improved: bool = True
    first: tuple[tuple[str, ...], ...] = ()
    first_epochs: tuple[int, ...] = ()
    val_split: str = "val"


_PERSON_PART = FullPlan("person_part", (70, 24), links=4)
_NYUD = FullPlan("nyud", (150, 50), val_split="test")
_VOC = FullPlan(
    "voc",
    (30, 27),
    links=4,
    improved=False,
    first=(("coco_voc:train",), ("voc:train", "sbd:all")),
    first_epochs=(1, 10),
)
_CITYSCAPES = FullPlan("cityscapes", (40, 14), crop=600, improved=False)
_PASCAL_CONTEXT = FullPlan("pascal_context", (24, 8))
_SUNRGBD = FullPlan("sunrgbd", (24, 8), val_split="test")
_ADE20K = FullPlan("ade20k", (6, 2))


def full_recipe(plan: FullPlan, variant: str, *, released: bool = False) -> TrainingConfig:
    """RefineNet on one data set.

    Chosen here: the number of epochs (see the module), and that the loss is taken at output resolution as in the
    released code, where the paper is silent. ``best`` is the model with the highest mIoU on the split of the table;
    ``last`` was not selected.
    """
    phase = Phase(
        epochs=plan.epochs[0],
        crops=CropOptions((plan.crop, plan.crop), (0.7, 1.3), pad=False),
        batch_size=1,
        encoder_lr=5e-5,
        decoder_lr=5e-4,
        schedule="constant",
    )
    if released:
        phase = replace(phase, crops=replace(phase.crops, scale_step=0.1, short_side=_SHORT_SIDE, crop_centre="class"))
    front = (replace(phase, epochs=n, data=data) for n, data in zip(plan.first_epochs, plan.first, strict=True))
    last = replace(phase, epochs=plan.epochs[1], encoder_lr=5e-6, decoder_lr=5e-5)
    network = NetworkOptions(
        num_links=None if "links" in variant else 4 if released else plan.links,  # an ablation keeps its own number
        pooling_order="conv_pool" if released and plan.improved else None,
    )
    own: tuple[Phase, ...] = (phase, last)
    if plan.first:  # other data came first: the data set alone is what remains
        own = tuple(replace(p, data=(f"{plan.data}:train",)) for p in own)
    return TrainingConfig(
        recipe=f"{plan.data}_{variant}",
        variant=variant,
        phases=(*front, *own),
        val_split=plan.val_split,
        val_every=5,
        optimiser="sgd",
        momentum=0.9,
        weight_decay=5e-4,
        decay_vectors=True,
        colour=0.0,
        ema_decay=None,
        clip_norm=None,
        pretrained="yes",
        freeze_norm=True,
        init_std=0.01,
        loss=LossOptions(loss_resolution="output"),
        input_scale=_ENLARGEMENT if released else 1.0,
        network=network,
    )


_STAGES = ((5e-4, 5e-3), (2.5e-4, 2.5e-3), (1e-4, 1e-3))
_STAGES_V2 = ((5e-4, 5e-3), (2.5e-4, 2.5e-3), (1.25e-4, 1.25e-3))


def light_weight_recipe(data: str, epochs: int, variant: str, *, released: bool = False) -> TrainingConfig:
    """Light-Weight RefineNet: three phases of falling rates.

    ``released``: the rates of the second version of the code, and enlargement with aligned corners, which weights of
    our own otherwise do without (every scale is then exactly 2).
    """
    phases = tuple(
        Phase(
            epochs=epochs,
            crops=CropOptions((500, 500), (0.5, 2.0), smallest_side=350),
            batch_size=6,
            encoder_lr=encoder_lr,
            decoder_lr=decoder_lr,
            schedule="constant",
        )
        for encoder_lr, decoder_lr in (_STAGES_V2 if released else _STAGES)
    )
    return TrainingConfig(
        recipe=f"{data}_{variant}",
        variant=variant,
        phases=phases,
        val_split="test" if data == "nyud" else "val",
        val_every=5,
        optimiser="sgd",
        momentum=0.9,
        weight_decay=1e-5,
        decay_vectors=True,
        colour=0.0,
        ema_decay=None,
        clip_norm=None,
        pretrained="no" if "nasnet" in variant else "yes",
        freeze_norm="nasnet" not in variant,
        network=NetworkOptions(align_corners=released, padded=not released),
    )


def light_weight_voc_recipe(variant: str, *, released: bool = False) -> TrainingConfig:
    """Light-Weight RefineNet on VOC: COCO, then SBD without VOC's val images, then VOC.

    The paper names COCO, SBD and VOC; the code's VOC script has the last two phases of 100 epochs (``released``).
    COCO's 20 epochs are our choice: at 95 000 images they are about 300 000 steps of six crops.
    """
    base = light_weight_recipe("voc", 100, variant, released=released)
    coco, sbd, voc = base.phases
    phases = (replace(sbd, data=("sbd:train_noval",)), replace(voc, data=("voc:train",)))
    if released:
        phases = (
            replace(coco, data=("sbd:train_noval",)),
            replace(sbd, data=("voc:train",)),
        )
        return replace(base, phases=phases)
    return replace(base, phases=(replace(coco, epochs=20, data=("coco_voc:train",)), *phases))


_FULL_ROWS: tuple[tuple[FullPlan, tuple[str, ...]], ...] = (
    (_PERSON_PART, ("resnet101", "resnet152", "resnet50", "resnet50_0links")),  # and table 2
    (_NYUD, ("resnet50", "resnet50_0links", "resnet101", "resnet152")),  # and table 2
    (_NYUD, ("resnet50_single", "resnet50_2cascade", "resnet50_2scale")),  # table 9
    (_VOC, ("resnet101", "resnet152")),
    (_CITYSCAPES, ("resnet101",)),
    (_PASCAL_CONTEXT, ("resnet101", "resnet152")),
    (_SUNRGBD, ("resnet101", "resnet152")),
    (_ADE20K, ("resnet101", "resnet152")),
)
_LIGHT_ROWS: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("person_part", 50, ("resnet50", "resnet101", "resnet152")),
    ("nyud", 100, ("resnet50", "resnet101", "resnet152")),
    ("pascal_context", 20, ("resnet101", "resnet152")),
)
_LIGHT_VOC = ("resnet50", "resnet101", "resnet152", "mobilenetv2", "nasnetmobile")

PAPER_RECIPES: dict[str, Callable[..., TrainingConfig]] = {
    **{
        f"{plan.data}_refinenet_{encoder}": partial(full_recipe, plan, f"refinenet_{encoder}")
        for plan, encoders in _FULL_ROWS
        for encoder in encoders
    },
    **{
        f"{data}_refinenet_lw_{encoder}": partial(light_weight_recipe, data, epochs, f"refinenet_lw_{encoder}")
        for data, epochs, encoders in _LIGHT_ROWS
        for encoder in encoders
    },
    **{
        f"voc_refinenet_lw_{encoder}": partial(light_weight_voc_recipe, f"refinenet_lw_{encoder}")
        for encoder in _LIGHT_VOC
    },
}
"""Every row of both papers' tables, as ``<data set>_<variant>``."""
