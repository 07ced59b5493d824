"""A whole data set in a device's memory, and crops cut there in batches: small data train at the network's speed.

In: a data set that fits. Out: the same kind of batches as :mod:`refineseg.data.loading`, already on the device. Where a
crop lies, its scale, flip and colour come from the same draws as there, and masks are equal to it; images are resized
from one of two resolutions without a filter, so they differ from it by a few grey levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from refineseg.data.augment import Augmentation, padding_pixel, recoloured
from refineseg.data.loading import Batch, epoch_order, mix_seeds
from refineseg.data.sample import Dataset
from refineseg.errors import DatasetError

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
        names: Of the samples.
        ignore_index: Void value.
    """

    images: Tensor
    halves: Tensor
    masks: Tensor
    sizes_hw: tuple[tuple[int, int], ...]
    names: tuple[str, ...]
    ignore_index: int

    def batches(self, augmentation: Augmentation, *, batch_size: int, seed: int, epoch: int) -> ResidentBatches:
        """The batches of one epoch, in the order that loading from files has."""
        order = epoch_order(len(self.names), batch_size=batch_size, seed=seed, epoch=epoch)
        return ResidentBatches(self, augmentation, order, seed, epoch)

    def crops(self, indices: Sequence[int], augmentation: Augmentation, *, seed: int, epoch: int) -> Batch:
        """The crops of some samples."""
        device = self.images.device
        placed = [self._place(index, augmentation, seed, epoch) for index in indices]
        height, width = (max(sides) for sides in zip(*(p.crop_hw for p in placed), strict=True))
        chosen = torch.tensor(list(indices), device=device)
        rows, row_inside = _sources(height, [(p.top, p.resized_hw[0], p.size_hw[0]) for p in placed], device)
        columns, column_inside = _sources(width, [(p.left, p.resized_hw[1], p.size_hw[1]) for p in placed], device)
        flips = torch.tensor([p.flip for p in placed], device=device)
        columns = torch.where(flips[:, None], columns.flip(1), columns)
        column_inside = torch.where(flips[:, None], column_inside.flip(1), column_inside)
        inside = row_inside[:, :, None] & column_inside[:, None, :]  # (N, h, w)
        masks = self.masks[chosen[:, None, None], rows.long()[:, :, None], columns.long()[:, None, :]].long()
        masks = masks.masked_fill(~inside, self.ignore_index)
        images = torch.empty(len(placed), 3, height, width, device=device)
        for stored, divisor, members in self._resolutions(placed):
            picked = torch.tensor(members, device=device)
            grid = torch.stack(
                [
                    (2 * columns[picked] / divisor / stored.shape[3] - 1)[:, None, :].expand(-1, height, -1),
                    (2 * rows[picked] / divisor / stored.shape[2] - 1)[:, :, None].expand(-1, -1, width),
                ],
                dim=3,
            ).float()  # (n, h, w, 2)
            images[picked] = F.grid_sample(
                stored[chosen[picked]].float(), grid, mode="bilinear", padding_mode="border", align_corners=False
            )
        if augmentation.colour:
            images = recoloured(images, torch.tensor([p.colours for p in placed], device=device))
        padding = torch.tensor(padding_pixel(3), device=device)[None, :, None, None]
        images = torch.where(inside[:, None], images, padding)
        return Batch(
            images.round_().clamp_(0, 255).to(torch.uint8), masks, tuple(self.names[index] for index in indices)
        )

    def _resolutions(self, placed: Sequence[_Placed]) -> Iterator[tuple[Tensor, int, list[int]]]:
        """Which samples are cut from the full and which from the half resolution."""
        half = [p.resized_hw[0] < _HALF_BELOW * p.size_hw[0] for p in placed]
        for stored, divisor, wanted in ((self.images, 1, False), (self.halves, 2, True)):
            members = [i for i, is_half in enumerate(half) if is_half == wanted]
            if members:
                yield stored, divisor, members

    def _place(self, index: int, augmentation: Augmentation, seed: int, epoch: int) -> _Placed:
        generator = torch.Generator().manual_seed(mix_seeds(seed, epoch, index))
        draw = torch.rand(7, generator=generator).tolist()
        size_hw = self.sizes_hw[index]
        resized_hw = augmentation.resized(draw[0], size_hw)
        crop_hw = augmentation.crop_of(resized_hw)
        mask: Tensor | None = None
        if augmentation.crop_centre == "class":
            mask = self.masks[index, : size_hw[0], : size_hw[1]]
        top, left = augmentation.corner(draw, resized_hw, crop_hw, mask=mask, ignore_index=self.ignore_index)
        return _Placed(
            size_hw, resized_hw, crop_hw, top, left, augmentation.flip and draw[3] < 0.5, augmentation.colours(draw)
        )


@dataclass(frozen=True)
class _Placed:
    """Where a crop lies in a resized image."""

    size_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    crop_hw: tuple[int, int]
    top: int
    left: int
    flip: bool
    colours: tuple[float, float, float]


@dataclass(frozen=True)
class ResidentBatches:
    """The batches of one epoch."""

    data: ResidentData
    augmentation: Augmentation
    order: list[list[int]]
    seed: int
    epoch: int

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        for indices in self.order:
            yield self.data.crops(indices, self.augmentation, seed=self.seed, epoch=self.epoch)


def _sources(length: int, axes: Sequence[tuple[int, int, int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """For each crop and output pixel of one axis: where its centre lies in the stored image, and whether it is inside.

    Args:
        length: Of the crop.
        axes: For each crop: first pixel, length of the resized image, length of the stored image.
        device: Where.

    Returns:
        (N, length) coordinates in pixels of the stored image (whole numbers are edges), and (N, length) bool.
    """
    first, resized, stored = (torch.tensor(values, device=device)[:, None] for values in zip(*axes, strict=True))
    at = torch.arange(length, device=device)[None] + first
    inside = at < resized
    coordinates = (at.double() + 0.5) * stored / resized  # in double precision, so that masks are picked as by a resize
    return torch.where(inside, coordinates, stored - 0.5), inside


def hold(dataset: Dataset, *, device: torch.device, max_bytes: int) -> ResidentData | None:
    """Read a whole data set into a device's memory.

    Args:
        dataset: Labelled images with three channels.
        device: Where.
        max_bytes: Most bytes it may take there.

    Returns:
        None where it does not fit; that is known before everything is read.

    Raises:
        DatasetError: A sample has no mask.
    """
    samples, height, width = [], 0, 0
    for index in range(len(dataset)):
        sample = dataset[index]
        if sample.mask is None:
            raise DatasetError(f"expected a labelled image for training, got {sample.name} without a mask")
        height, width = max(height, sample.image.shape[0]), max(width, sample.image.shape[1])
        wide = dataset.class_info.ignore_index > 255
        if len(dataset) * height * width * (3.75 + (2 if wide else 1)) > max_bytes or sample.image.shape[2] != 3:
            return None
        samples.append(sample)
    size = (len(samples), 3, height, width)
    images = torch.empty(size, dtype=torch.uint8, device=device)
    masks = torch.full(
        (size[0], height, width),
        dataset.class_info.ignore_index,
        dtype=torch.int32 if wide else torch.uint8,
        device=device,
    )
    halves = torch.empty(size[0], 3, -(-height // 2), -(-width // 2), dtype=torch.uint8, device=device)
    for index, sample in enumerate(samples):
        h, w = sample.image.shape[:2]
        assert sample.mask is not None
        pixels = torch.from_numpy(sample.image).permute(2, 0, 1)[None].to(device)
        padded = F.pad(pixels.float(), (0, width - w, 0, height - h), mode="replicate")
        images[index] = padded[0].to(torch.uint8)
        halves[index] = F.avg_pool2d(padded, 2, ceil_mode=True)[0].round().to(torch.uint8)
        masks[index, :h, :w] = torch.from_numpy(sample.mask.astype("int32")).to(device, masks.dtype)
    sizes = tuple((s.image.shape[0], s.image.shape[1]) for s in samples)
    return ResidentData(images, halves, masks, sizes, tuple(s.name for s in samples), dataset.class_info.ignore_index)
