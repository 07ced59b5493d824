"""A prediction as the detections of ``supervision``, for its annotators, trackers and counters.

In: a prediction. Out: ``supervision.Detections``. The only file that imports supervision.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refineseg.errors import MissingExtraError
from refineseg.prediction import Prediction


def detections_of(prediction: Prediction) -> Any:  # noqa: ANN401 - supervision.Detections
    """See :meth:`~refineseg.prediction.Prediction.to_supervision`, which is this.

    Raises:
        MissingExtraError: supervision is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        raise MissingExtraError("supervision", extra="supervision", purpose="make detections of a mask") from error
    areas, names = prediction.areas, prediction.class_info.names
    found = [int(i) for i in np.argsort(-areas, kind="stable") if areas[i]]
    if not found:
        return supervision.Detections.empty()
    masks = np.stack([prediction.mask == index for index in found])
    sure = prediction.confidence
    return supervision.Detections(
        xyxy=supervision.mask_to_xyxy(masks),
        mask=masks,
        class_id=np.array(found),
        confidence=None if sure is None else np.array([sure[mask].mean() for mask in masks]),
        data={"class_name": np.array([names[index] for index in found])},
    )
