"""The named networks: which encoder, which cascade, from where in the papers; without torch.

In: a variant's name. Out: a :class:`Variant`, which :mod:`refineseg.networks.building` makes a network of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from refineseg.errors import ConfigError
from refineseg.networks.families import (
    LIGHT_WEIGHT,
    LIGHT_WEIGHT_MOBILE,
    MULTI_TASK,
    REFINENET,
    DecoderOptions,
    PoolingOrder,
    Resize,
    check_resize,
)
from refineseg.networks.timm_names import check_timm_name
from refineseg.terminal.arguments import hint


@dataclass(frozen=True)
class Variant:
    """A network of the papers by name.

    Args:
        encoder: A key of :data:`~refineseg.networks.encoder_table.ENCODERS`, or a timm name.
        options: The decoder family.
        groups: Levels of each block, coarsest block first, as indices of the encoder's maps (finest first; those of the
            second encoder follow those of the first).
        source: Where it is described.
        two_scale: Two encoders, on the image enlarged by 1.2 and shrunk to 0.6.
        encoder_options: Options of ``timm.create_model``, for encoders of our own proportions, which no library has
            weights of.
        original_align_corners: Whether the published weights were trained with ``align_corners``.
    """

    encoder: str
    options: DecoderOptions
    groups: tuple[tuple[int, ...], ...]
    source: str
    two_scale: bool = False
    original_align_corners: bool = True
    encoder_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NetworkOptions:
    """What a network's weights ask for beside the variant; the defaults are for weights of our own.

    Args:
        align_corners: Whether bilinear enlargement aligns corners inside the network; the PyTorch ports' weights need
            True.
        resize: How feature maps are enlarged; the authors' MATLAB weights need ``matlab_gpu`` or ``matlab_cpu``.
        padded: Images are padded so that every scale inside is exactly 2; the original networks take them as they are.
        width: Factor on the decoder's channels (rounded to multiples of 8); 1 in the papers.
        num_links: Links of each chained residual pooling; None: as the variant says.
        pooling_order: Order of pooling and convolution in each link; None: as the variant says.
        caffe_strides: Stages of a ResNet shrink in their first 1x1 convolution, as the authors' encoders do, and not in
            the 3x3.
        encoder_options: Further options of ``timm.create_model``; only for timm encoders.
    """

    align_corners: bool = False
    resize: Resize = "bilinear"
    padded: bool = True
    width: float = 1.0
    num_links: int | None = None
    pooling_order: PoolingOrder | None = None
    caffe_strides: bool = False
    encoder_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        flags = (self.align_corners, self.padded, self.caffe_strides)
        if not all(isinstance(flag, bool) for flag in flags) or not isinstance(self.encoder_options, Mapping):
            raise ConfigError(f"expected true or false for align_corners, padded and caffe_strides, got {self}")
        if not 0 < self.width < math.inf or (self.num_links is not None and self.num_links < 0):
            raise ConfigError(f"expected width above 0 and num_links of at least 0, got {self.width}, {self.num_links}")
        if self.pooling_order not in (None, *get_args(PoolingOrder)):
            raise ConfigError(f"expected pooling_order of {get_args(PoolingOrder)}, got {self.pooling_order!r}")
        check_resize(self.resize)

    def decoder(self, options: DecoderOptions) -> DecoderOptions:
        """A family's options, with what is said here in place of them."""
        options = replace(
            options,
            num_links=options.num_links if self.num_links is None else self.num_links,
            pooling_order=self.pooling_order or options.pooling_order,
        )
        if self.width == 1:
            return options
        widths = (max(8, round(self.width * channels / 8) * 8) for channels in (*options.level_widths, options.width))
        *level_widths, width = widths
        return replace(options, level_widths=tuple(level_widths), width=width)


FOUR_CASCADED = ((3,), (2,), (1,), (0,))
"""One level per block: RefineNet-4 .. RefineNet-1 of the paper's figure 2c."""

FIVE_CASCADED = ((4,), (3,), (2,), (1,), (0,))
"""Ours: one more block on the encoder's maps at stride 2, so that logits have half the image's size."""

TWO_CASCADED = ((3, 2), (1, 0))
"""Figure 2b; which levels share a block is inferred from the released code's mechanism."""

SINGLE = ((3, 2, 1, 0),)
"""Figure 2a: one block fuses all levels."""

TWO_SCALE_7_PATHS = ((7, 6, 3), (5, 2), (1,), (0,))
"""Levels 0..3 are those at scale 1.2, 4..7 those at 0.6; equal resolutions meet, the finest map at 0.6 is not used."""

TWO_SCALE_8_PATHS = ((7, 3), (6, 2), (5, 1), (4, 0))
"""The wiring of the released code: equal levels of both scales meet."""

SIX_LEVELS = ((5, 4), (3, 2), (1,), (0,))
"""MobileNet-v2: the two maps of stride 32, and of stride 16, enter one block."""

_RF, _LW = "Lin et al. 2017, figure 2c", "Nekrasov et al. 2018, section 3"
_DT, _TABLE_9 = "DenseTorch (follow-up of Nekrasov et al.)", "Lin et al. 2017, table 9"
_FULL: dict[str, tuple[DecoderOptions, tuple[tuple[int, ...], ...], str]] = {
    "": (REFINENET, FOUR_CASCADED, _RF),
    "_single": (REFINENET, SINGLE, f"{_TABLE_9}, figure 2a"),
    "_2cascade": (REFINENET, TWO_CASCADED, f"{_TABLE_9}, figure 2b"),
    "_2scale": (REFINENET, TWO_SCALE_7_PATHS, f"{_TABLE_9}, figure 2d (7 paths)"),
    "_2scale8": (REFINENET, TWO_SCALE_8_PATHS, "released code, 8 paths"),
    "_2links": (replace(REFINENET, num_links=2), FOUR_CASCADED, "Lin et al. 2017, section 4 (default of the tables)"),
    "_0links": (replace(REFINENET, num_links=0), FOUR_CASCADED, "Lin et al. 2017, table 2 (without pooling)"),
    "_improved": (replace(REFINENET, pooling_order="conv_pool"), FOUR_CASCADED, "released code, improved pooling"),
}

VARIANTS: dict[str, Variant] = {
    **{
        f"refinenet_resnet{depth}{suffix}": Variant(
            f"resnet{depth}.tv_in1k", options, groups, source, two_scale=suffix.startswith("_2scale")
        )
        for depth in (50, 101, 152)
        for suffix, (options, groups, source) in _FULL.items()
    },
    "refinenet_lw_resnet50": Variant("resnet50.tv_in1k", LIGHT_WEIGHT, FOUR_CASCADED, _LW),
    "refinenet_lw_resnet101": Variant("resnet101.tv_in1k", LIGHT_WEIGHT, FOUR_CASCADED, _LW),
    "refinenet_lw_resnet152": Variant("resnet152.tv_in1k", LIGHT_WEIGHT, FOUR_CASCADED, _LW),
    "refinenet_lw_mobilenetv2": Variant("mobilenetv2", LIGHT_WEIGHT_MOBILE, SIX_LEVELS, _LW),
    "refinenet_lw_nasnetmobile": Variant("nasnetmobile", LIGHT_WEIGHT_MOBILE, FOUR_CASCADED, f"{_LW}; wiring ours"),
    "refinenet_lw_resnet18_densetorch": Variant("resnet18.tv_in1k", LIGHT_WEIGHT_MOBILE, FOUR_CASCADED, _DT),
    "refinenet_lw_resnet50_densetorch": Variant("resnet50.tv_in1k", LIGHT_WEIGHT_MOBILE, FOUR_CASCADED, _DT),
    "refinenet_lw_mobilenetv2_multitask": Variant(
        "mobilenetv2", MULTI_TASK, SIX_LEVELS, "Nekrasov et al. 2019, segmentation head", original_align_corners=False
    ),
    **{
        f"refineseg_lite{number}": Variant(
            f"lite{number}",
            replace(LIGHT_WEIGHT, level_widths=(128, 64), width=64),
            FOUR_CASCADED,
            f"ours: Light-Weight RefineNet's decoder of a quarter of its width on EfficientNet-Lite{number}",
        )
        for number in (0, 1, 2)
    },
    **{
        f"refineseg_lite{number}_5cascade": Variant(
            f"lite{number}",
            replace(LIGHT_WEIGHT, level_widths=(128, 64, 64, 64, 32), width=64, num_last_links=0, num_last_units=1),
            FIVE_CASCADED,
            f"ours: refineseg_lite{number} with a fifth block at half the image's size",
        )
        for number in (0, 1, 2)
    },
    "refineseg_small": Variant(
        "resnet18",
        replace(LIGHT_WEIGHT, level_widths=(128, 64), width=64),
        FOUR_CASCADED,
        "ours: Light-Weight RefineNet's decoder of a quarter of its width on a ResNet-18 of half its width",
        encoder_options={"channels": (32, 64, 128, 256)},
    ),
    "refineseg_nano": Variant(
        "resnet18",
        replace(LIGHT_WEIGHT, level_widths=(64, 32), width=32, num_links=2),
        FOUR_CASCADED,
        "ours: refineseg_small of half its width, with 3x3 convolutions in place of the first 7x7, and 2 links",
        encoder_options={"channels": (16, 32, 64, 128), "stem_type": "deep", "stem_width": 8},  # 3x3s, not one 7x7
    ),
}
"""Every named variant; ``refinenet:NAME`` and ``refinenet_lw:NAME`` take any encoder of four maps besides."""


def output_stride(name: str) -> int:
    """Pixels of the network's input, in height and in width, for one of its logits: 4, or 2 with five blocks.

    Raises:
        ConfigError: No such variant.
    """
    return 2 if find_variant(name).groups == FIVE_CASCADED else 4


def _check_backbone(family: str, name: str) -> None:
    own = [key for key, variant in VARIANTS.items() if variant.encoder == name and variant.groups == SIX_LEVELS]
    if own:
        raise ConfigError(
            f"expected an encoder of four maps in {family}:NAME, got {name!r}, which has six; name {' or '.join(own)}, "
            f"or timm's {family}:mobilenetv2_100"
        )
    if all(name != variant.encoder for variant in VARIANTS.values()):
        check_timm_name(name)


def find_variant(name: str) -> Variant:
    """The variant of a name, ``refinenet:NAME`` and ``refinenet_lw:NAME`` with an encoder of ours or of timm included.

    Raises:
        ConfigError: No such variant, or an encoder that has not four maps; the message names the near ones.
    """
    if name in VARIANTS:
        return VARIANTS[name]
    family, colon, backbone = name.partition(":")
    suffix = family.removeprefix("refinenet")
    if colon and backbone and family == "refinenet_lw":
        _check_backbone(family, backbone)
        return Variant(backbone, LIGHT_WEIGHT, FOUR_CASCADED, f"{_LW}, encoder by name")
    if colon and backbone and family != suffix and suffix in _FULL:
        _check_backbone(family, backbone)
        options, groups, source = _FULL[suffix]
        return Variant(backbone, options, groups, f"{source}, encoder by name", two_scale=suffix.startswith("_2scale"))
    raise ConfigError(
        f"expected a variant, got {name!r}; {hint(name, VARIANTS, listed='`refineseg models` lists them')}; or any "
        "timm backbone: refinenet_lw:NAME, refinenet:NAME"
    )
