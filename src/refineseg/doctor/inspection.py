"""Look at one case of the inventory: at its files, or, where the reader gives arrays, through the reader.

In: a case. Out: its :class:`~refineseg.data.checks.facts.CaseFacts`.
"""

from __future__ import annotations

import numpy as np

from refineseg.data.checks.facts import CaseFacts, ImageFacts, MaskFacts, image_facts, inspect_pair
from refineseg.data.samples.sample import Dataset
from refineseg.doctor.inventory import Case
from refineseg.errors import DatasetError, ImageError, LabelError


def inspect(case: Case) -> CaseFacts:
    """The facts of one case; never raises for what is in a file."""
    return inspect_pair(case.image, case.mask, decode=True) if case.source is None else _inspect_source(*case.source)


def _inspect_source(dataset: Dataset, index: int) -> CaseFacts:
    """A case of a reader that gives arrays: its refusal is what is wrong."""
    try:
        sample = dataset[index]
    except ImageError as error:
        return CaseFacts(ImageFacts(str(error)), None)
    except LabelError as error:
        return CaseFacts(None, MaskFacts(str(error), "unknown_values"))
    except DatasetError as error:
        return CaseFacts(None, MaskFacts(str(error), "refused"))
    hw = (sample.image.shape[0], sample.image.shape[1])
    image = image_facts(sample.image, hw, hw, 1, -1)
    if sample.mask is None:
        return CaseFacts(image, None)
    values, counts = np.unique(sample.mask, return_counts=True)
    found = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return CaseFacts(image, MaskFacts(form="classes", hw=hw, counts=found, distinct=len(found)))
