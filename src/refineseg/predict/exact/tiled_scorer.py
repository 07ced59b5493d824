"""Prediction of images of any size in tiles, with the result of the whole image and no seams.

In: a segmenter and a :class:`~refineseg.predict.views.tiling.PixelSource`. Out: logits or classes of one tile after the
other, in any order. A tile is computed from all the pixels its result depends on (:func:`needed_context`), in strips of
rows, so that memory is bounded whatever the image; see :mod:`refineseg.predict.exact.streaming`. Networks that see the
whole image at once are refused, and can be predicted by overlapping tiles that are averaged
(:mod:`refineseg.predict.exact.blending`). :class:`Cutter` predicts images in memory so, where they are too large.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from refineseg.devices import free_memory
from refineseg.errors import ConfigError
from refineseg.networks.encoders import TwoScaleEncoder
from refineseg.predict.exact.blending import Blending
from refineseg.predict.exact.exact_plan import RESULT_BYTES, TilePlan, context_of, plan_tiles
from refineseg.predict.exact.graph import Graph
from refineseg.predict.exact.streaming import maps_bytes, needed_spans, stream
from refineseg.predict.exact.tracing import trace
from refineseg.predict.views.tiling import ArraySource, PixelSource, Region, TilingOptions
from refineseg.prediction import Prediction
from refineseg.runtimes.eager import TorchScorer
from refineseg.scoring import class_map_of, confidence_of, probabilities_of
from refineseg.segmenter import Segmenter

PROGRAM_BYTES = 10**9
"""What Python, torch and its compiled kernels take without any image, on a CPU."""

_CONTEXT_SIDE = 8960  # larger than twice any context, and a multiple of all strides (of 160 too)
PROOF_SIDE = 256
"""Longest side of the crop that is compared with the whole image, in pixels."""


def memory_of(options: TilingOptions, device: torch.device) -> int:
    """What prediction may take in all: as asked for, or half of what is free on the device."""
    if options.memory_bytes is not None:
        return options.memory_bytes
    return free_memory(device) // 2


class TiledScorer:
    """Scores one image tile by tile.

    Tiles can be asked for in any order and any number of times; each gives the same result every time.

    Args:
        segmenter: The model; it is moved to the device and set to evaluation mode.
        size_hw: Height and width of the image.
        options: How it is cut. Tiles depend on these, the model, the size and the kind of device alone, if
            ``memory_bytes`` is given.
        device: Device of the network.
        precision: ``float32``, or ``bfloat16`` autocast.
        keeps_logits: Tiles are made so small that all logits of one fit into the memory; without, only its classes do,
            and logits are had by :meth:`strips`.

    Raises:
        ConfigError: The network sees the whole image at once and ``options.mode`` is ``exact``, or the memory is not
            enough for any tile.

    Example:
        >>> import refineseg
        >>> from refineseg.predict.views.tiling import ArraySource
        >>> segmenter = refineseg.build("refinenet_lw_mobilenetv2", num_classes=4)
        >>> scorer = TiledScorer(segmenter, (100, 70), options=TilingOptions(64), device=torch.device("cpu"))
        >>> source = ArraySource(np.zeros((100, 70, 3), np.uint8))
        >>> [tuple(scorer.class_map(source, tile).shape) for tile in scorer.tiles]
        [(64, 64), (64, 6), (36, 64), (36, 6)]
    """

    def __init__(
        self,
        segmenter: Segmenter,
        size_hw: tuple[int, int],
        *,
        options: TilingOptions,
        device: torch.device,
        precision: Literal["float32", "bfloat16"] = "float32",
        keeps_logits: bool = False,
    ) -> None:
        if min(size_hw) < 1:
            raise ConfigError(f"expected an image of at least 1x1 pixels, got {size_hw[0]}x{size_hw[1]}")
        self._segmenter = segmenter.to(device).eval()
        self._size_hw, self._device, self._autocast = size_hw, device, precision == "bfloat16"
        self.options = replace(options, memory_bytes=memory_of(options, device))
        self._graph: Graph | None = None
        self._blending: Blending | None = None
        if options.mode == "blend":
            self._blending = Blending(self._score, size_hw, options=self.options)
            self._plan = self._blending.plan
        else:
            self._graph = trace(self._segmenter, size_hw)
            self._plan = plan_tiles(
                self._graph,
                options=self.options,
                budget=_map_budget(self._segmenter, self.options),
                result_bytes=RESULT_BYTES + (4 * segmenter.class_info.num_classes if keeps_logits else 0),
            )

    @property
    def tiles(self) -> tuple[Region, ...]:
        """Disjoint regions that cover the image, row by row."""
        return self._plan.tiles

    @property
    def plan(self) -> TilePlan:
        """How the image is cut."""
        return self._plan

    @property
    def extra_arithmetic(self) -> float:
        """Multiply-adds of all tiles, divided by those of the whole image."""
        return self._plan.extra_arithmetic

    def strips(self, source: PixelSource, tile: Region) -> Iterator[tuple[Region, Float[Tensor, "k h w"]]]:
        """The logits of a tile in strips from top to bottom, so that those of all its pixels need not be in memory.

        Args:
            source: The image.
            tile: One of :attr:`tiles`, or any other region of the image.

        Yields:
            Regions of the image that together are the tile, and their logits.

        Raises:
            ConfigError: An image of another size or other channels, or a region that is not in it.
        """
        self._check(source, tile)
        if self._graph is None:
            assert self._blending is not None
            yield tile, self._blending.logits(source, tile)
            return
        strips = stream(self._graph, tile, lambda region: self.pixels(source, region), step=self._plan.step)
        while True:
            with torch.inference_mode(), self._precision():
                made = next(strips, None)
            if made is None:
                return
            yield made[0], made[1][0]

    def logits(self, source: PixelSource, tile: Region) -> Float[Tensor, "k h w"]:
        """All logits of a tile, on the device; for large tiles :meth:`strips` takes less memory.

        Args:
            source: The image.
            tile: One of :attr:`tiles`, or any other region of the image.

        Raises:
            ConfigError: As :meth:`strips`.
        """
        made: Tensor | None = None
        for region, part in self.strips(source, tile):
            if region == tile:
                return part
            made = part.new_empty((part.shape[0], *tile.size_hw)) if made is None else made
            made[(slice(None), *region.slices_in(tile))] = part
        assert made is not None
        return made

    def class_map(self, source: PixelSource, tile: Region) -> Int64[Tensor, "h w"]:
        """The likeliest class of every pixel of a tile, on the device.

        Args:
            source: The image.
            tile: One of :attr:`tiles`, or any other region of the image.

        Raises:
            ConfigError: As :meth:`strips`.
        """
        classes = torch.empty(tile.size_hw, dtype=torch.int64, device=self._device)
        for region, part in self.strips(source, tile):
            classes[region.slices_in(tile)] = class_map_of(part[None])[0]
        return classes

    def _check(self, source: PixelSource, tile: Region) -> None:
        channels = self._segmenter.spec.preprocessing.in_channels
        if source.size_hw != self._size_hw or source.num_channels != channels:
            raise ConfigError(
                f"expected an image of {self._size_hw[0]}x{self._size_hw[1]} pixels with {channels} channels, for "
                f"which the tiles are, got {source.size_hw[0]}x{source.size_hw[1]} with {source.num_channels}"
            )
        if not Region.whole(self._size_hw).contains(tile):
            raise ConfigError(f"expected a tile inside {self._size_hw[0]}x{self._size_hw[1]} pixels, got {tile}")

    def pixels(self, source: PixelSource, region: Region) -> UInt8[Tensor, "1 c h w"]:
        """A region of an image, on the device."""
        pixels = np.array(source.read(region))  # torch wants memory that may be written to
        return torch.from_numpy(pixels).permute(2, 0, 1)[None].to(self._device)

    def proof_window(self, crop: Region) -> tuple[Region, bool]:
        """The part of the image with which whole-image inference gives a crop its logits; else the largest that fits.

        Returns:
            The region, and whether its logits in the crop are those of the whole image.
        """
        assert self._graph is not None
        whole, budget = Region.whole(self._size_hw), _map_budget(self._segmenter, self.options)
        if _whole_bytes(self._graph) <= budget:
            return whole, True
        if _keeps_places(self._segmenter):
            multiple = int(self._segmenter.network.encoder.size_multiple)  # type: ignore[arg-type]
            rows = needed_spans(self._graph, 0, (crop.top, crop.bottom))[0]
            columns = needed_spans(self._graph, 1, (crop.left, crop.right))[0]
            assert rows is not None
            assert columns is not None
            (top, bottom), (left, right) = _outward(rows, multiple), _outward(columns, multiple)
            window = whole.intersection(Region(top, left, bottom, right))
            assert window is not None
            if _whole_bytes(trace(self._segmenter, window.size_hw)) <= budget:
                return window, True
        side = max(self._size_hw)
        while side > PROOF_SIDE:
            side = max(PROOF_SIDE, side * 3 // 4)
            window = crop.grown((side - PROOF_SIDE) // 2, size_hw=self._size_hw)
            if _whole_bytes(trace(self._segmenter, window.size_hw)) <= budget:
                return window, False
        return crop, False

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._autocast)

    def _score(self, source: PixelSource, region: Region) -> Tensor:
        """A region as if it were an image of its own: (K, h, w)."""
        with torch.inference_mode(), self._precision():
            logits: Tensor = self._segmenter(self.pixels(source, region))
            return logits[0].float()


def _map_budget(segmenter: Segmenter, options: TilingOptions) -> int:
    """Memory without the program and the weights."""
    assert options.memory_bytes is not None
    weights = sum(tensor.numel() * tensor.element_size() for tensor in segmenter.state_dict().values())
    return options.memory_bytes - PROGRAM_BYTES - int(weights)


def _keeps_places(segmenter: Segmenter) -> bool:
    """Whether a part of an image, cut at multiples of 32, is computed as it is in the whole: scales are exactly 2."""
    options, encoder = segmenter.spec.options, segmenter.network.encoder
    plain = options.padded and options.resize == "bilinear" and not options.align_corners
    return plain and segmenter.spec.preprocessing.input_scale == 1 and not isinstance(encoder, TwoScaleEncoder)


def _outward(span: tuple[int, int], multiple: int) -> tuple[int, int]:
    return span[0] // multiple * multiple, -(-span[1] // multiple) * multiple


def needed_context(segmenter: Segmenter) -> int:
    """How many pixels on each side of a pixel its class depends on, in a large image.

    Raises:
        ConfigError: The network sees the whole image at once.

    Example:
        >>> import refineseg
        >>> needed_context(refineseg.build("refinenet_lw_mobilenetv2", num_classes=2))
        790
    """
    return context_of(trace(segmenter.eval(), (_CONTEXT_SIDE, _CONTEXT_SIDE)))


def fits_whole(segmenter: Segmenter, size_hw: tuple[int, int], *, options: TilingOptions, device: torch.device) -> bool:
    """Whether ``segmenter(images)`` of one image stays within the memory.

    Small images cost no more than a multiplication; larger ones are followed through the network, without computing.
    """
    budget = _map_budget(segmenter, replace(options, memory_bytes=memory_of(options, device)))
    if size_hw[0] * size_hw[1] * _MOST_PIXEL_BYTES <= budget:
        return True
    try:
        graph = trace(segmenter, size_hw)
    except ConfigError:  # sees the whole image at once: no exact tiles, so that it is tried where it may just fit
        sure = options.mode == "blend" or options.memory_bytes is not None
        return size_hw[0] * size_hw[1] * _USUAL_PIXEL_BYTES <= (budget if sure else 2 * budget)
    return _whole_bytes(graph) <= budget


_MOST_PIXEL_BYTES = 4000
_USUAL_PIXEL_BYTES = 1500


def _whole_bytes(graph: Graph) -> int:
    size_hw = graph.maps[graph.output].size_hw
    return int(1.5 * maps_bytes(graph, Region.whole(size_hw), step=10 * size_hw[0] + 320))


class Cutter:
    """Predicts images in tiles where they have to be.

    Args:
        scorer: The segmenter, with its device and precision.
        options: How images are cut.
    """

    def __init__(self, scorer: TorchScorer, options: TilingOptions) -> None:
        self._scorer, self._options = scorer, options
        self._fits: dict[tuple[int, int], bool] = {}  # by size; a predictor can be pickled with it

    def cuts(self, size_hw: tuple[int, int]) -> bool:
        """Whether an image of this size is predicted in tiles."""
        tile = self._options.tile
        if isinstance(tile, int):
            return max(size_hw) > tile
        if tile != "auto":
            return False
        if size_hw not in self._fits:
            scorer = self._scorer
            fits = fits_whole(scorer.segmenter, size_hw, options=self._options, device=scorer.device)
            self._fits = {**dict(list(self._fits.items())[-1000:]), size_hw: fits}
        return not self._fits[size_hw]

    def __call__(
        self, image: UInt8[np.ndarray, "h w c"], *, probabilities: bool = False, confidence: bool = False
    ) -> Prediction:
        """Predict an image, tile by tile.

        Args:
            image: Pixels.
            probabilities: Whether to return the probabilities of all classes, which takes as much memory as they do.
            confidence: Whether to return the probability of each pixel's likeliest class.

        Raises:
            ConfigError: The network sees the whole image at once and tiles are to be exact, or the memory is not enough
                for any tile.
        """
        classes, source = self._scorer.class_info, ArraySource(image)
        scorer = TiledScorer(
            self._scorer.segmenter,
            source.size_hw,
            options=self._options,
            device=self._scorer.device,
            precision=self._scorer.precision,
        )
        mask = np.empty(source.size_hw, classes.mask_dtype)
        scores = np.empty((classes.num_classes, *source.size_hw), np.float32) if probabilities else None
        sure = np.empty(source.size_hw, np.float32) if probabilities or confidence else None
        for tile in scorer.tiles:
            for region, logits in scorer.strips(source, tile):
                with torch.inference_mode():
                    mask[region.slices] = class_map_of(logits[None])[0].cpu().numpy()
                    if sure is None:
                        continue
                    soft = probabilities_of(logits[None])
                    sure[region.slices] = confidence_of(soft)[0].cpu().numpy()
                    if scores is not None:
                        scores[(slice(None), *region.slices)] = soft[0].cpu().numpy()
        return Prediction(image, mask, classes, scores, sure)
