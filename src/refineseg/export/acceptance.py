"""Whether an exported file does what the model does, on real images: the proof a file is shipped with.

In: two scorers and a data set. Out: an :class:`Acceptance`: agreement of the masks, worst image, mIoU of both; written
beside the file as JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from refineseg.data.samples.sample import Dataset, Sample
from refineseg.errors import DatasetError
from refineseg.evaluate.metrics import ConfusionMatrix
from refineseg.scoring import Scorer


@dataclass(frozen=True)
class Tolerance:
    """How far an exported file may be from its model.

    Args:
        agreement: Least share of equal pixels over all images, 0..1.
        worst_agreement: Least share in any one image.
        mean_iou_drift: Most that the mIoU may change, either way, 0..1; only where there are labels.
    """

    agreement: float = 0.9999
    worst_agreement: float = 0.999
    mean_iou_drift: float = 0.001

    @classmethod
    def of(cls, precision: str) -> Tolerance:
        """What is asked where nothing else was said: of quantised files only that the mIoU holds, to half a point."""
        return cls(0.95, 0.8, 0.005) if precision == "int8" else cls()


@dataclass(frozen=True)
class Acceptance:
    """What a comparison found.

    Args:
        data: Data set and split of the images.
        num_images: How many.
        agreement: Share of pixels with the model's class, over all images.
        worst_image: Name of the image that agrees least.
        worst_agreement: Its share.
        model_mean_iou: Mean IoU of the model, 0..1; None without labels.
        file_mean_iou: Mean IoU of the exported file.
        tolerance: What was asked.
        sha256: SHA-256 of the file that was compared, with its weights behind it where they lie beside it.
    """

    data: str
    num_images: int
    agreement: float
    worst_image: str
    worst_agreement: float
    model_mean_iou: float | None
    file_mean_iou: float | None
    tolerance: Tolerance
    sha256: str = ""

    @property
    def complaints(self) -> tuple[str, ...]:
        """What lies beyond the tolerance, in words; empty: accepted."""
        found = []
        if self.agreement < self.tolerance.agreement:
            found.append(
                f"{100 * self.agreement:.4f} % of the pixels have the model's class, expected at least "
                f"{100 * self.tolerance.agreement:g} %"
            )
        if self.worst_agreement < self.tolerance.worst_agreement:
            found.append(
                f"in the worst image, {self.worst_image}, {100 * self.worst_agreement:.3f} % of the pixels agree, "
                f"expected at least {100 * self.tolerance.worst_agreement:g} %"
            )
        if self.model_mean_iou is not None and self.file_mean_iou is not None:
            drift = abs(self.file_mean_iou - self.model_mean_iou)
            if not drift <= self.tolerance.mean_iou_drift:
                found.append(
                    f"mIoU went from {100 * self.model_mean_iou:.2f} to {100 * self.file_mean_iou:.2f} %, expected "
                    f"at most {100 * self.tolerance.mean_iou_drift:g} points of change (worst image: "
                    f"{self.worst_image})"
                )
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """All of it, and whether the file is accepted."""
        return {
            "accepted": not self.complaints,
            "complaints": list(self.complaints),
            "sha256": self.sha256,
            "data": self.data,
            "num_images": self.num_images,
            "agreement": self.agreement,
            "worst_image": self.worst_image,
            "worst_agreement": self.worst_agreement,
            "model_mean_iou": self.model_mean_iou,
            "file_mean_iou": self.file_mean_iou,
            "tolerance": vars(self.tolerance),
        }


def compare(
    model: Scorer,
    exported: Scorer,
    dataset: Dataset,
    *,
    data: str,
    tolerance: Tolerance,
    size_hw: tuple[int, int] | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Acceptance:
    """Run both on every image.

    Args:
        model: The original.
        exported: The file, in its runtime.
        dataset: Images; labels are used where they are of the model's classes.
        data: How the data set is called in the report.
        tolerance: What is asked.
        size_hw: The one size the file takes; images of others are left out.
        report: Called with (images done, images in all).

    Raises:
        DatasetError: No image of that size.
    """
    matrices: list[ConfusionMatrix] | None = None
    if dataset.class_info.names == model.class_info.names:
        matrices = [ConfusionMatrix(dataset.class_info), ConfusionMatrix(dataset.class_info)]
    equal, pixels, shares = 0, 0, list[tuple[float, str]]()  # parts of joined data may have equal names
    for index in range(len(dataset)):
        if report is not None:
            report(index, len(dataset))
        sample: Sample = dataset[index]
        if size_hw is not None and sample.image.shape[:2] != size_hw:
            continue
        batch = torch.from_numpy(np.ascontiguousarray(sample.image)).permute(2, 0, 1)[None]
        masks = [scorer.class_map(batch)[0].cpu().numpy() for scorer in (model, exported)]
        same = int((masks[0] == masks[1]).sum())
        equal, pixels = equal + same, pixels + masks[0].size
        shares.append((same / masks[0].size, sample.name))
        if sample.mask is None:
            matrices = None
        elif matrices is not None:
            for matrix, mask in zip(matrices, masks, strict=True):
                matrix.update(mask, sample.mask)
    if not shares:
        raise DatasetError(f"expected images of {size_hw} pixels in {data} to accept the file by, got none")
    worst_share, worst = min(shares, key=lambda pair: pair[0])
    labelled = matrices is not None and all(matrix.counts.any() for matrix in matrices)
    ious = [matrix.mean_iou for matrix in matrices] if matrices is not None and labelled else [None, None]
    return Acceptance(data, len(shares), equal / pixels, worst, worst_share, ious[0], ious[1], tolerance)
