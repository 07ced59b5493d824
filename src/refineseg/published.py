"""Numbers of the papers, and ours where there are any: mean IoU, parameters, multiply-adds.

Out: :data:`PUBLISHED_SCORES` and :data:`MEASURED_SCORES`, both by recipe name ``<data set>_<variant>``, and
:data:`PUBLISHED_COUNTS` by variant.

Sources: Lin et al., "RefineNet", CVPR 2017; Nekrasov et al., "Light-Weight RefineNet", BMVC 2018, and the table in the
README of its code.
"""

from __future__ import annotations

from dataclasses import dataclass

_LIN = "Lin et al. 2017"
_LIN_2 = "Lin et al. 2017, table 2"
_LIN_9 = "Lin et al. 2017, table 9"
_NEKRASOV = "Nekrasov et al. 2018, README of its code"
_SERVER = "PASCAL VOC leader board"

SINGLE, MULTI, MULTI_FLIP = "single scale", "multi-scale", "multi-scale, flip"
NOT_STATED = "not stated"

CODE_2020 = "Light-Weight RefineNet code, weights of 2020 (trained on COCO, SBD, VOC)"


@dataclass(frozen=True)
class PublishedScore:
    """A mean IoU that others published.

    Args:
        variant: The network, by our name.
        dataset: By our name.
        split: By our name of that data set's splits; the papers' "test" of Person-Part is ``val``.
        mean_iou: 0..1, over the classes of the data set.
        protocol: How images were scored: ``single scale``, ``multi-scale`` (the paper does not say which scales), ...
        source: Where it stands.
    """

    variant: str
    dataset: str
    split: str
    mean_iou: float
    protocol: str
    source: str


@dataclass(frozen=True)
class MeasuredScore:
    """A mean IoU of a model that comes with this package.

    Args:
        model: Its name for ``refineseg.load``.
        variant: Its network.
        dataset: By our name.
        split: Of the data set.
        mean_iou: 0..1.
        protocol: How images were scored.
        command: What reproduces it, given the data.
    """

    model: str
    variant: str
    dataset: str
    split: str
    mean_iou: float
    protocol: str
    command: str


@dataclass(frozen=True)
class PublishedCounts:
    """Size and cost of a network as published, rounded.

    Args:
        parameters: Number of trainable values.
        multiply_adds: Of one image.
        num_classes: With how many classes our count, at 512x512, rounds to both numbers.
        decimals: Published decimals, in units of 10^6 parameters and 10^9 multiply-adds.
        source: Where they stand.
    """

    parameters: int
    multiply_adds: int
    num_classes: int
    decimals: int
    source: str

    def shown(self, parameters: int, multiply_adds: int) -> tuple[str, str]:
        """Counts with the published decimals.

        Example:
            >>> PUBLISHED_COUNTS["refinenet_lw_mobilenetv2"].shown(3_284_565, 9_301_098_496)
            ('3.3 M', '9.3 G')
        """
        return f"{parameters / 1e6:.{self.decimals}f} M", f"{multiply_adds / 1e9:.{self.decimals}f} G"


PUBLISHED_COUNTS: dict[str, PublishedCounts] = {
    "refinenet_resnet101": PublishedCounts(
        118_000_000, 263_000_000_000, 21, 0, "Nekrasov et al. 2018, of RefineNet-101"
    ),
    "refinenet_lw_resnet50": PublishedCounts(27_000_000, 33_000_000_000, 40, 0, _NEKRASOV),
    "refinenet_lw_resnet101": PublishedCounts(46_000_000, 52_000_000_000, 40, 0, _NEKRASOV),
    "refinenet_lw_resnet152": PublishedCounts(62_000_000, 71_000_000_000, 40, 0, _NEKRASOV),
    "refinenet_lw_mobilenetv2": PublishedCounts(3_300_000, 9_300_000_000, 40, 1, _NEKRASOV),
}
"""The README of the light-weight code says 625x468 of its numbers; they hold at 512x512 only (see docs/counts.md)."""

PUBLISHED_SCORES: dict[str, tuple[PublishedScore, ...]] = {
    "person_part_refinenet_resnet101": (
        PublishedScore("refinenet_resnet101", "person_part", "val", 0.686, MULTI, _LIN),
    ),
    "person_part_refinenet_resnet152": (
        PublishedScore("refinenet_resnet152", "person_part", "val", 0.688, MULTI, _LIN),
    ),
    "nyud_refinenet_resnet50": (
        PublishedScore("refinenet_resnet50", "nyud", "test", 0.425, SINGLE, _LIN_2),
        PublishedScore("refinenet_resnet50", "nyud", "test", 0.438, MULTI, _LIN_2),
    ),
    "nyud_refinenet_resnet101": (
        PublishedScore("refinenet_resnet101", "nyud", "test", 0.436, SINGLE, _LIN_2),
        PublishedScore("refinenet_resnet101", "nyud", "test", 0.447, MULTI, _LIN_2),
    ),
    "nyud_refinenet_resnet152": (PublishedScore("refinenet_resnet152", "nyud", "test", 0.465, MULTI, _LIN),),
    "nyud_refinenet_resnet50_0links": (
        PublishedScore("refinenet_resnet50_0links", "nyud", "test", 0.404, SINGLE, _LIN_2),
    ),
    "nyud_refinenet_resnet50_single": (
        PublishedScore("refinenet_resnet50_single", "nyud", "test", 0.403, SINGLE, _LIN_9),
    ),
    "nyud_refinenet_resnet50_2cascade": (
        PublishedScore("refinenet_resnet50_2cascade", "nyud", "test", 0.409, SINGLE, _LIN_9),
    ),
    "nyud_refinenet_resnet50_2scale": (
        PublishedScore("refinenet_resnet50_2scale", "nyud", "test", 0.431, SINGLE, _LIN_9),
    ),
    "voc_refinenet_resnet101": (PublishedScore("refinenet_resnet101", "voc", "test", 0.824, f"{MULTI}, CRF", _LIN),),
    "voc_refinenet_resnet152": (PublishedScore("refinenet_resnet152", "voc", "test", 0.834, f"{MULTI}, CRF", _LIN),),
    "cityscapes_refinenet_resnet101": (
        PublishedScore("refinenet_resnet101", "cityscapes", "test", 0.736, MULTI, _LIN),
    ),
    "pascal_context_refinenet_resnet101": (
        PublishedScore("refinenet_resnet101", "pascal_context", "val", 0.471, MULTI, _LIN),
    ),
    "pascal_context_refinenet_resnet152": (
        PublishedScore("refinenet_resnet152", "pascal_context", "val", 0.473, MULTI, _LIN),
    ),
    "sunrgbd_refinenet_resnet101": (PublishedScore("refinenet_resnet101", "sunrgbd", "test", 0.457, MULTI, _LIN),),
    "sunrgbd_refinenet_resnet152": (PublishedScore("refinenet_resnet152", "sunrgbd", "test", 0.459, MULTI, _LIN),),
    "ade20k_refinenet_resnet101": (PublishedScore("refinenet_resnet101", "ade20k", "val", 0.402, MULTI, _LIN),),
    "ade20k_refinenet_resnet152": (PublishedScore("refinenet_resnet152", "ade20k", "val", 0.407, MULTI, _LIN),),
    "voc_refinenet_lw_resnet50": (
        PublishedScore("refinenet_lw_resnet50", "voc", "val", 0.785, SINGLE, _NEKRASOV),
        PublishedScore("refinenet_lw_resnet50", "voc", "test", 0.811, NOT_STATED, _SERVER),
        PublishedScore("refinenet_lw_resnet50", "voc", "val", 0.8204, NOT_STATED, CODE_2020),
        PublishedScore("refinenet_lw_resnet50", "voc", "test", 0.8341, MULTI_FLIP, CODE_2020),
    ),
    "voc_refinenet_lw_resnet101": (
        PublishedScore("refinenet_lw_resnet101", "voc", "val", 0.803, SINGLE, _NEKRASOV),
        PublishedScore("refinenet_lw_resnet101", "voc", "test", 0.820, NOT_STATED, _SERVER),
    ),
    "voc_refinenet_lw_resnet152": (
        PublishedScore("refinenet_lw_resnet152", "voc", "val", 0.821, SINGLE, _NEKRASOV),
        PublishedScore("refinenet_lw_resnet152", "voc", "test", 0.827, NOT_STATED, _SERVER),
    ),
    "voc_refinenet_lw_mobilenetv2": (
        PublishedScore("refinenet_lw_mobilenetv2", "voc", "val", 0.762, SINGLE, _NEKRASOV),
        PublishedScore("refinenet_lw_mobilenetv2", "voc", "test", 0.792, NOT_STATED, _SERVER),
        PublishedScore("refinenet_lw_mobilenetv2", "voc", "val", 0.7830, NOT_STATED, CODE_2020),
        PublishedScore("refinenet_lw_mobilenetv2", "voc", "test", 0.8028, MULTI_FLIP, CODE_2020),
    ),
    "person_part_refinenet_lw_resnet50": (
        PublishedScore("refinenet_lw_resnet50", "person_part", "val", 0.649, SINGLE, _NEKRASOV),
    ),
    "person_part_refinenet_lw_resnet101": (
        PublishedScore("refinenet_lw_resnet101", "person_part", "val", 0.667, SINGLE, _NEKRASOV),
    ),
    "person_part_refinenet_lw_resnet152": (
        PublishedScore("refinenet_lw_resnet152", "person_part", "val", 0.676, SINGLE, _NEKRASOV),
    ),
    "pascal_context_refinenet_lw_resnet101": (
        PublishedScore("refinenet_lw_resnet101", "pascal_context", "val", 0.451, SINGLE, _NEKRASOV),
    ),
    "pascal_context_refinenet_lw_resnet152": (
        PublishedScore("refinenet_lw_resnet152", "pascal_context", "val", 0.458, SINGLE, _NEKRASOV),
    ),
    "nyud_refinenet_lw_resnet50": (PublishedScore("refinenet_lw_resnet50", "nyud", "test", 0.417, SINGLE, _NEKRASOV),),
    "nyud_refinenet_lw_resnet101": (
        PublishedScore("refinenet_lw_resnet101", "nyud", "test", 0.436, SINGLE, _NEKRASOV),
    ),
    "nyud_refinenet_lw_resnet152": (
        PublishedScore("refinenet_lw_resnet152", "nyud", "test", 0.444, SINGLE, _NEKRASOV),
    ),
}
"""What to aim at, by recipe name. The RefineNet paper pools in two links where it does not say four (VOC, Person-Part);
its scores stand at the networks of four, which is what its authors released."""

MEASURED_SCORES: dict[str, tuple[MeasuredScore, ...]] = {
    "camvid_refinenet_lw_mobilenetv2": (
        MeasuredScore(
            "camvid",
            "refinenet_lw_mobilenetv2",
            "camvid",
            "test",
            0.485,
            SINGLE,
            "refineseg evaluate --model camvid --data camvid:CAMVID --split test --json camvid_test.json",
        ),
    ),
}
"""Of the shipped models, by recipe name; their cards in ``refineseg/weights`` tell more."""
