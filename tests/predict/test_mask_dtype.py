"""One rule for the dtype of masks: 8 bits where classes and void fit, in arrays, tensors and files alike."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from refineseg.class_info import ClassInfo
from refineseg.images.encoding import encode_mask
from refineseg.networks.fused import enlarged_class_map
from refineseg.predict.exact.tiled_scorer import Cutter
from refineseg.predict.predictor import Predictor
from refineseg.predict.views.tiling import TilingOptions
from refineseg.prediction import Prediction
from refineseg.runtimes.eager import TorchScorer
from refineseg.runtimes.graph import InferenceGraph
from refineseg.runtimes.torch_compile import WholeFunction
from refineseg.scoring import class_map_of_enlarged
from refineseg.segmenter import build

NARROW, WIDE = (np.uint8, torch.uint8), (np.uint16, torch.int32)


@pytest.mark.parametrize(
    ("num_classes", "void", "masks", "classes"),
    [  # masks hold void, which class maps of networks do not
        (2, 255, NARROW, NARROW),
        (2, 256, WIDE, NARROW),
        (255, 255, NARROW, NARROW),
        (256, 65535, WIDE, NARROW),
        (257, 65535, WIDE, WIDE),
    ],
)
def test_every_mask_has_the_dtype_that_its_classes_and_void_need(num_classes, void, masks, classes):
    info = ClassInfo(tuple(map(str, range(num_classes))), ignore_index=void)
    assert info.mask_dtype == masks[0]
    logits = torch.zeros(1, num_classes, 2, 3)
    logits[:, -1] = 1.0
    maps = class_map_of_enlarged(logits, (8, 12), (8, 12)), enlarged_class_map(logits, 4)
    assert [(found.dtype, int(found.min())) for found in maps] == [(classes[1], num_classes - 1)] * 2

    segmenter = build("refineseg_nano", class_info=info)
    assert WholeFunction(segmenter, output="class_map").class_dtype == classes[1]
    assert InferenceGraph(segmenter, outputs=("class_map",)).class_dtype == classes[1]
    image = np.zeros((40, 50, 3), np.uint8)
    cutter = Cutter(TorchScorer(segmenter, device=torch.device("cpu")), TilingOptions(tile=32, mode="blend", overlap=8))
    for prediction in (Predictor(segmenter)(image), Predictor(segmenter)(image, confidence=True), cutter(image)):
        assert prediction.mask.dtype == masks[0]

    mask = np.full((1, 2), num_classes - 1, np.int64)
    mask[0, 1] = void
    stored = Image.open(io.BytesIO(encode_mask(mask, info)))
    assert stored.mode == ("P" if masks is NARROW else "I;16")
    assert np.asarray(stored).tolist() == mask.tolist()


@pytest.mark.parametrize("given", [np.uint8, np.uint16, np.int64])
def test_void_fits_into_the_mask_of_a_prediction_made_by_others(given):
    made = Prediction(
        np.zeros((1, 2, 3), np.uint8), np.array([[0, 1]], given), ClassInfo(("a", "b"), ignore_index=65535)
    )
    assert made.without(np.array([[True, False]])).mask.tolist() == [[0, 65535]]
