"""Numbers of the papers, and ours where there are any: mean IoU, parameters, multiply-adds.

Out: :data:`PUBLISHED_SCORES` and :data:`MEASURED_SCORES`, both by recipe name ``<data set>_<variant>``;
:data:`COMPARATORS`, other networks by data set, each with the protocol of its number; and :data:`PUBLISHED_COUNTS` by
variant.

Sources: Lin et al., "RefineNet", CVPR 2017; Nekrasov et al., "Light-Weight RefineNet", BMVC 2018, and the table in the
README of its code.
"""

from __future__ import annotations

from dataclasses import dataclass

from refineseg.evaluate.protocol import EVERY_CLASS, NO_OTHER_DATA, VOID_LEFT_OUT, MeasurementProtocol

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
        dataset: Data set, by our name.
        split: Split, by our name; the papers' "test" of Person-Part is ``val``.
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

    @property
    def measurement(self) -> MeasurementProtocol:
        """The conditions as far as they are stated, which is not far."""
        single = self.protocol == SINGLE
        return MeasurementProtocol(
            self.dataset,
            self.split,
            scales=(1.0,) if single else None,
            flip=True if "flip" in self.protocol else False if single else None,
            crf=True if "CRF" in self.protocol else None,
        )


@dataclass(frozen=True)
class Comparator:
    """A mean IoU of another network, to stand beside ours.

    Args:
        network: As its authors name it.
        mean_iou: 0..1.
        protocol: The conditions, as far as they are known.
        source: Where the number stands.
        verified: Whether number and protocol were checked there; otherwise at least one of the two is from memory.
        note: What else a reader should know.
    """

    network: str
    mean_iou: float
    protocol: MeasurementProtocol
    source: str
    verified: bool = True
    note: str = ""


@dataclass(frozen=True)
class MeasuredScore:
    """A mean IoU of a model that comes with this package.

    Args:
        model: Its name for ``refineseg.load``.
        variant: Its network.
        dataset: Data set, by our name.
        split: Split of the data set.
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
        multiply_adds: Multiply-adds of one image.
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

_TRAIN_VAL = ("camvid:train", "camvid:val")

COMPARATORS: dict[str, tuple[Comparator, ...]] = {
    "camvid": (
        Comparator(
            "DABNet",
            0.667,
            MeasurementProtocol(
                "camvid",
                "test",
                num_classes=11,
                num_images=233,
                image_size="360x480",
                compression="lossless",
                void=VOID_LEFT_OUT,
                mean=EVERY_CLASS,
                trained_on=_TRAIN_VAL,
                other_data=NO_OTHER_DATA,
                scales=(1.0,),
                flip=False,
                crf=False,
            ),
            "Li et al. 2019 and its repository, Reagan1311/DABNet",
            note="0.76 M parameters, 1000 epochs; its test script offers the best of the last ten models by test",
        ),
        Comparator(
            "FC-DenseNet103",
            0.669,
            MeasurementProtocol(
                "camvid",
                "test",
                num_classes=11,
                num_images=233,
                image_size="360x480",
                trained_on=("camvid:train",),
                other_data=NO_OTHER_DATA,
                crf=False,
            ),
            "Jegou et al. 2017",
            verified=False,
            note="9.4 M parameters; val decides when training ends; from memory",
        ),
        Comparator(
            "AGLNet",
            0.694,
            MeasurementProtocol("camvid", "test"),
            "Zhou et al. 2020, abstract",
            verified=False,
            note="1.12 M parameters; that it is of the same frames and from scratch is from memory",
        ),
        Comparator(
            "LETNet",
            0.705,
            MeasurementProtocol("camvid", "test", image_size="360x480", trained_on=_TRAIN_VAL),
            "Xu et al. 2023, README of IVIPLab/LETNet",
            verified=False,
            note="1000 epochs; train + val by the name of its checkpoint; the rest is from memory",
        ),
    ),
}
"""Networks trained from scratch on the same frames, by data set, lowest first."""

MEASURED_SCORES: dict[str, tuple[MeasuredScore, ...]] = {
    "camvid_refineseg_lite0": (
        MeasuredScore(
            "camvid",
            "refineseg_lite0",
            "camvid",
            "test",
            0.686,
            SINGLE,
            "refineseg evaluate --model camvid --data camvid:CAMVID --split test --boundary --json camvid_test.json",
        ),
    ),
    "camvid_refineseg_nano": (
        MeasuredScore(
            "camvid_nano",
            "refineseg_nano",
            "camvid",
            "test",
            0.552,
            SINGLE,
            "refineseg evaluate --model camvid_nano --data camvid:CAMVID --split test --boundary --json nano.json",
        ),
    ),
    "nyud_refineseg_lite0": (
        MeasuredScore(
            "nyud",
            "refineseg_lite0",
            "nyud",
            "test",
            0.383,
            SINGLE,
            "refineseg evaluate --model nyud --data nyud:NYUD --split test --boundary --json nyud_test.json",
        ),
    ),
    "nyud_refineseg_lite2": (
        MeasuredScore(
            "nyud_lite2",
            "refineseg_lite2",
            "nyud",
            "test",
            0.398,
            SINGLE,
            "refineseg evaluate --model nyud_lite2 --data nyud:NYUD --split test --boundary --json nyud_test.json",
        ),
    ),
}
"""Of the shipped models, by recipe name; their cards in ``packages/weights`` tell more."""
