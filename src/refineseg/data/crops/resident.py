"""A whole data set in a device's memory, and crops cut there in batches: small data train at the network's speed.

In: a data set that fits. Out: the same kind of batches as :mod:`refineseg.data.crops.loading`, already on the device.
Where a crop lies, its scale, turn, flip, colour and what is pasted into it come from the same draws as there, and
masks are equal to it, but for images much larger than a crop, which may lie less than a pixel away there; images are
resized from one of two resolutions without a filter, so they differ from it by a few grey levels.

What is drawn for an epoch goes to the device as one table, and everything after that is computed there: nothing waits
for the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from refineseg.data.crops.augment import padding_pixel, recoloured
from refineseg.data.crops.balance import Donors, count_classes
from refineseg.data.crops.loading import Batch, Share, epoch_order, mix_seeds, read_samples
from refineseg.data.crops.placement import Augmentation, Colours, Placed, corners, turned_sources
from refineseg.data.samples.sample import Dataset
from refineseg.errors import DatasetError
from refineseg.scoring import class_dtype

_HALF_BELOW = 0.75
"""Images shrunk by less than this factor are sampled from a copy at half size, so that nothing is skipped."""


@dataclass(frozen=True)
class ResidentData:
    """Every sample of a data set, on one device; smaller images are padded at the bottom and the right.

    Args:
        images: (N, 3, H, W) uint8.
        halves: (N, 3, ceil(H / 2), ceil(W / 2)) uint8, the same at half size.
        masks: (N, H, W), uint8 or int32.
        sizes_hw: Size of each image without padding.
        names: Names of the samples.
        ignore_index: Void value.
        counts: (N, K) pixels of each class in each image, on the host.
    """

    images: Tensor
    halves: Tensor
    masks: Tensor
    sizes_hw: tuple[tuple[int, int], ...]
    names: tuple[str, ...]
    ignore_index: int
    counts: NDArray[np.int64]

    def batches(
        self,
        augmentation: Augmentation,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        steps: int | None = None,
        share: Share = Share(),  # noqa: B008 - frozen
    ) -> ResidentBatches:
        """The batches of one epoch, or a share of each, in the order that loading from files has."""
        order = epoch_order(
            len(self.names),
            batch_size=batch_size,
            seed=seed,
            epoch=epoch,
            steps=steps,
            counts=self.counts,
            class_balance=augmentation.class_balance,
        )
        return ResidentBatches(self, augmentation, share.of(order), seed, epoch)

    def crops(self, indices: Sequence[int], augmentation: Augmentation, *, seed: int, epoch: int) -> Batch:
        """The crops of some samples."""
        return next(iter(ResidentBatches(self, augmentation, [list(indices)], seed, epoch)))

    def cut(self, plan: _CropPlan) -> Batch:
        """The crops of a batch that is planned."""
        images, masks, inside = self._pixels(plan.crops, plan.crop_hw)
        if plan.donors is not None:
            targets = plan.donors.column("target").long()
            donated, labels, _ = self._pixels(plan.donors, plan.crop_hw)
            pasted = labels == plan.donors.column("class").long()[:, None, None]
            images[targets] = torch.where(pasted[:, None], donated, images[targets])
            masks[targets] = torch.where(pasted, labels, masks[targets])
            inside[targets] |= pasted
        if plan.coloured:
            factors = [plan.crops.column(name) for name in ("brightness", "contrast", "saturation", "red", "blue")]
            images = recoloured(images, torch.stack(factors, dim=1).float())
        for channel, value in enumerate(padding_pixel(3)):  # numbers, not a tensor, which would wait for the device
            images[:, channel].masked_fill_(~inside, value)
        return Batch(images.round_().clamp_(0, 255).to(torch.uint8), masks, plan.names)

    def _pixels(self, crops: _CropTable, crop_hw: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, h, w) float images, (N, h, w) int64 masks, and which pixels lie inside of the images."""
        (height, width), chosen = crop_hw, crops.column("index").long()
        first = self._first(crops, chosen, crop_hw)
        resized, sizes = crops.pair("resized"), crops.pair("size")
        flips = crops.column("flip") > 0
        if crops.turned:
            _, sources, inside = turned_sources(first, resized, sizes, flips, crops.column("degrees"), crop_hw)
            rows, columns = sources.unbind(1)  # (N, h, w)
        else:
            axes = zip(crop_hw, first.unbind(1), resized.unbind(1), sizes.unbind(1), strict=True)
            (rows, row_inside), (columns, column_inside) = (_sources(*axis) for axis in axes)
            columns = torch.where(flips[:, None], columns.flip(1), columns)
            column_inside = torch.where(flips[:, None], column_inside.flip(1), column_inside)
            inside = row_inside[:, :, None] & column_inside[:, None, :]  # (N, h, w)
            rows, columns = rows[:, :, None], columns[:, None, :]
        masks = self.masks[chosen[:, None, None], rows.long(), columns.long()].long()
        masks = masks.masked_fill(~inside, self.ignore_index)
        images = torch.empty(len(chosen), 3, height, width, device=self.images.device)
        for stored, divisor, start, stop in (
            (self.images, 1, 0, crops.num_full),
            (self.halves, 2, crops.num_full, len(chosen)),
        ):
            if start == stop:
                continue
            picked = crops.column("order")[start:stop].long()
            grid = torch.stack(
                [
                    (2 * columns[picked] / divisor / stored.shape[3] - 1).expand(-1, height, width),
                    (2 * rows[picked] / divisor / stored.shape[2] - 1).expand(-1, height, width),
                ],
                dim=3,
            ).float()  # (n, h, w, 2)
            images[picked] = F.grid_sample(
                stored[chosen[picked]].float(), grid, mode="bilinear", padding_mode="border", align_corners=False
            )
        return images, masks, inside

    def _first(self, crops: _CropTable, chosen: Tensor, crop_hw: tuple[int, int]) -> Tensor:
        """(N, 2) first row and column of each crop in its resized image."""
        starts = crops.pair("start").long()
        if not crops.anchored:
            return starts
        # which pixel of the image is the class's pixel number `rank`: where the running count of them passes it
        is_class = self.masks[chosen].flatten(1) == crops.column("class").to(self.masks.dtype)[:, None]
        position = (is_class.cumsum(1, dtype=torch.int32) <= crops.column("rank")[:, None]).sum(1)
        width = self.masks.shape[2]
        pixels = torch.stack([position.div(width, rounding_mode="floor"), position % width], dim=1)
        sizes = crops.pair("size")
        # of an image without labels, the middle
        pixels = torch.where(crops.column("class")[:, None] < 0, sizes.div(2, rounding_mode="floor"), pixels)
        sides = crops.pair("crop")
        return corners(pixels, sizes, crops.pair("resized"), sides, None if crops.in_middle else starts)


_COLUMNS = (
    *("index", "target", "order", "size_height", "size_width", "resized_height", "resized_width"),
    *("crop_height", "crop_width", "start_height", "start_width", "flip", "degrees", "class", "rank"),
    *("brightness", "contrast", "saturation", "red", "blue"),
)


@dataclass(frozen=True)
class _CropTable:
    """Crops of one batch: a table on the device with a row for each, and what the host must know.

    Args:
        table: (n, columns) float64.
        num_full: How many are cut from the full resolution; column ``order`` names those first.
        turned: Some may be turned.
        anchored: They hold a pixel of a class (columns ``class`` and ``rank``) ...
        in_middle: ... in their middle.
    """

    table: Tensor
    num_full: int
    turned: bool
    anchored: bool
    in_middle: bool

    def column(self, name: str) -> Tensor:
        return self.table[:, _COLUMNS.index(name)]

    def pair(self, name: str) -> Tensor:
        """(n, 2) height and width, or row and column."""
        first = _COLUMNS.index(f"{name}_height")
        return self.table[:, first : first + 2]


@dataclass(frozen=True)
class _CropPlan:
    """A batch before it is cut; ``donors`` are the crops that are pasted from."""

    crops: _CropTable
    donors: _CropTable | None
    crop_hw: tuple[int, int]
    coloured: bool
    names: tuple[str, ...]


@dataclass(frozen=True)
class ResidentBatches:
    """The batches of one epoch.

    Args:
        data: What they are cut from.
        augmentation: How crops are drawn.
        order: Samples of each batch.
        seed: Seed of the run.
        epoch: Its number.
        plans: The crops, where they are drawn already; None: they are drawn when the first batch is asked for.
    """

    data: ResidentData
    augmentation: Augmentation
    order: list[list[int]]
    seed: int
    epoch: int
    plans: tuple[_CropPlan, ...] | None = None

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        for plan in self._plans() if self.plans is None else self.plans:
            yield self.data.cut(plan)

    def drawn(self) -> ResidentBatches:
        """The same with all crops drawn now, which takes the host some 10 ms for 500 of them."""
        return replace(self, plans=tuple(self._plans()))

    def _plans(self) -> Iterator[_CropPlan]:
        """All batches, drawn at once: their tables reach the device in one copy that nothing waits for."""
        data, wanted = self.data, self.augmentation
        donors = Donors(data.counts) if wanted.copy_paste else None
        rows: list[list[float]] = []
        facts: list[tuple[int, int, int, int, tuple[int, int]]] = []
        for indices in self.order:
            own, given = [], []
            for target, index in enumerate(indices):
                crop, donated = self._drawn(index, target, donors)
                own.append(crop)
                given += [] if donated is None else [donated]
            num_full, num_full_given = _order(own), _order(given)
            rows += own + given
            sides = (max(int(row[_COLUMNS.index(f"crop_{axis}")]) for row in own) for axis in ("height", "width"))
            facts.append((len(own), len(given), num_full, num_full_given, tuple(sides)))  # type: ignore[arg-type]
        table = torch.tensor(rows, dtype=torch.float64)
        if data.images.device.type == "cuda":
            table = table.pin_memory().to(data.images.device, non_blocking=True)
        turned, of_class, done = bool(wanted.rotation), wanted.crop_centre == "class", 0
        for indices, (count, num_given, num_full, num_full_given, crop_hw) in zip(self.order, facts, strict=True):
            middle, end = done + count, done + count + num_given
            crops = _CropTable(table[done:middle], num_full, turned, anchored=of_class, in_middle=True)
            given_crops = _CropTable(table[middle:end], num_full_given, turned, anchored=True, in_middle=False)
            names = tuple(data.names[index % len(data.names)] for index in indices)
            yield _CropPlan(crops, given_crops if num_given else None, crop_hw, wanted.recolours, names)
            done = end

    def _drawn(self, index: int, target: int, donors: Donors | None) -> tuple[list[float], list[float] | None]:
        """The row of a crop, and of the crop that is pasted into it."""
        data, wanted = self.data, self.augmentation
        draw = wanted.draw(torch.Generator().manual_seed(mix_seeds(self.seed, self.epoch, index)))
        index %= len(data.names)
        placed = wanted.place(draw, data.sizes_hw[index])
        anchor = (-1, 0)
        if wanted.crop_centre == "class":
            present = np.flatnonzero(data.counts[index])
            if len(present):
                chosen = int(present[int(draw[1] * len(present))])
                anchor = (chosen, int(draw[2] * int(data.counts[index, chosen])))
        row = _row(index, target, placed, anchor, wanted.colours(draw))
        donor = donors.choose(draw[9], draw[10]) if donors is not None and wanted.pastes(draw) else None
        if donor is None:
            return row, None
        given = wanted.place_donor(draw, data.sizes_hw[donor[0]], placed.crop_hw)
        return row, _row(donor[0], target, given, donor[1:], (1.0,) * 5)


def _row(index: int, target: int, placed: Placed, anchor: tuple[int, int], colours: Colours) -> list[float]:
    """A crop as a row of the table; ``order`` comes later."""
    sides = (*placed.size_hw, *placed.resized_hw, *placed.crop_hw, placed.top, placed.left)
    values = (index, target, math.nan, *sides, placed.flip, placed.degrees, *anchor, *colours)
    return [float(value) for value in values]


def _order(rows: list[list[float]]) -> int:
    """Note which rows are cut from the full and which from the half resolution; returns how many from the full."""
    resized, size = _COLUMNS.index("resized_height"), _COLUMNS.index("size_height")
    half = [row[resized] < _HALF_BELOW * row[size] for row in rows]
    for place, member in enumerate(sorted(range(len(rows)), key=half.__getitem__)):
        rows[place][_COLUMNS.index("order")] = float(member)
    return half.count(False)


def _sources(length: int, first: Tensor, resized: Tensor, stored: Tensor) -> tuple[Tensor, Tensor]:
    """For each crop and output pixel of one axis: where its centre lies in the stored image, and whether it is inside.

    Args:
        length: Length of the crop.
        first: (N,) first pixel of each crop.
        resized: (N,) length of the resized image.
        stored: (N,) length of the stored image.

    Returns:
        (N, length) coordinates in pixels of the stored image (whole numbers are edges), and (N, length) bool.
    """
    first, resized, stored = first[:, None], resized[:, None], stored[:, None]
    at = torch.arange(length, device=first.device)[None] + first
    inside = at < resized
    coordinates = (at.double() + 0.5) * stored / resized  # in double precision, so that masks are picked as by a resize
    return torch.where(inside, coordinates, stored - 0.5), inside


def hold(dataset: Dataset, *, device: torch.device, max_bytes: int) -> ResidentData | None:
    """Read a whole data set into a device's memory.

    Args:
        dataset: Labelled images with three channels.
        device: Device that holds them.
        max_bytes: Most bytes it may take there.

    Returns:
        None where it does not fit; that is known before everything is read.

    Raises:
        DatasetError: A sample has no mask.
    """
    samples, height, width = [], 0, 0
    dtype = class_dtype(dataset.class_info.ignore_index)
    for sample in read_samples(dataset):
        if sample.mask is None:
            raise DatasetError(f"expected a labelled image for training, got {sample.name} without a mask")
        height, width = max(height, sample.image.shape[0]), max(width, sample.image.shape[1])
        if len(dataset) * height * width * (3.75 + dtype.itemsize) > max_bytes or sample.image.shape[2] != 3:
            return None
        samples.append(sample)
    size = (len(samples), 3, height, width)
    images = torch.empty(size, dtype=torch.uint8, device=device)
    masks = torch.full((size[0], height, width), dataset.class_info.ignore_index, dtype=dtype, device=device)
    halves = torch.empty(size[0], 3, -(-height // 2), -(-width // 2), dtype=torch.uint8, device=device)
    for index, sample in enumerate(samples):
        h, w = sample.image.shape[:2]
        assert sample.mask is not None
        pixels = torch.from_numpy(sample.image).permute(2, 0, 1)[None].to(device)
        padded = F.pad(pixels.float(), (0, width - w, 0, height - h), mode="replicate")
        images[index] = padded[0].to(torch.uint8)
        halves[index] = F.avg_pool2d(padded, 2, ceil_mode=True)[0].round().to(torch.uint8)
        masks[index, :h, :w] = torch.from_numpy(sample.mask.astype("int32")).to(device, dtype)
    sizes = tuple((s.image.shape[0], s.image.shape[1]) for s in samples)
    num_classes = dataset.class_info.num_classes
    counts = np.stack([count_classes(sample.mask, num_classes) for sample in samples if sample.mask is not None])
    names = tuple(sample.name for sample in samples)
    return ResidentData(images, halves, masks, sizes, names, dataset.class_info.ignore_index, counts)
