"""Which pixels an operation needs, counted by hand one tap at a time, and against torch's own resizing."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from refineseg.predict.exact.axis_rules import Window, needed, torch_taps

WINDOWS = [
    Window(size, out, kernel, stride, padding, dilation)
    for size, kernel, stride, padding, dilation in itertools.product(
        (1, 2, 7, 12), (1, 2, 3, 5), (1, 2, 3), (0, 1, 2), (1, 2)
    )
    if padding <= dilation * (kernel - 1)
    and (out := (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1) > 0
]
WINDOWS += [Window(5, 9, padding=2), Window(5, 3, padding=-1), Window(1, 4, padding=1)]  # borders and cuts


def taps_of(window, index):
    """Positions of the taps of an output, also those beside the input."""
    return [index * window.stride - window.padding + window.dilation * tap for tap in range(window.kernel)]


def test_a_window_needs_the_pixels_under_its_taps():
    for window in WINDOWS:
        for index in range(window.out_size):
            first, last = window.first(index), window.last(index)
            assert 0 <= first <= last < window.in_size, (window, index)
            between = range(taps_of(window, index)[0], taps_of(window, index)[-1] + 1)
            inside = [place for place in between if 0 <= place < window.in_size]
            assert not inside or (first, last) == (inside[0], inside[-1]), (window, index)
            assert needed(window, (0, index + 1)) == (window.first(0), last + 1)


def test_a_window_says_what_lies_beside_the_input():
    for window in WINDOWS:
        for low, high in itertools.combinations(range(window.out_size + 1), 2):
            positions = range(taps_of(window, low)[0], taps_of(window, high - 1)[-1] + 1)
            if any(0 <= place < window.in_size for place in positions):
                before, after = (sum(c) for c in zip(*((p < 0, p >= window.in_size) for p in positions), strict=True))
                assert window.surplus((low, high)) == (before, after), (window, low, high)


def test_as_many_outputs_are_there_as_have_all_their_inputs():
    for window in WINDOWS:
        for count in range(window.in_size + 1):
            there = itertools.takewhile(
                lambda index, window=window, count=count: window.last(index) < count, range(window.out_size)
            )
            found = window.available(count)
            assert found <= len(list(there)), (window, count)
            # an output whose first taps lie on the input and the last beside it waits for the whole input, no longer
            sure = [index for index in range(window.out_size) if taps_of(window, index)[-1] < count and count > 0]
            assert found == (window.out_size if count == window.in_size else len(sure)), (window, count)


@pytest.mark.parametrize("sizes", [(1, 5), (5, 1), (7, 14), (33, 65), (90, 31), (64, 50)])
@pytest.mark.parametrize(
    ("mode", "align_corners", "antialias"),
    [
        *(("bilinear", aligned, False) for aligned in (True, False)),
        *(("bicubic", aligned, False) for aligned in (True, False)),
        *(("nearest", None, False), ("bilinear", False, True)),
    ],
)
def test_taps_give_what_torch_gives(sizes, mode, align_corners, antialias):
    size, new_size = sizes
    options = {"mode": mode, "align_corners": align_corners, "antialias": antialias}
    taps = torch_taps(size, new_size, **options, dtype=torch.float64, device=torch.device("cpu"))
    values = torch.from_numpy(np.random.default_rng(0).normal(size=size))
    wanted = F.interpolate(values[None, None, :, None].expand(-1, -1, -1, 2), size=(new_size, 2), **options)[0, 0, :, 0]
    found = (values.numpy()[taps.indices] * taps.weights).sum(axis=1)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)
    for index in range(new_size):
        used = taps.indices[index][taps.weights[index] != 0]
        assert taps.first(index) <= used.min()
        assert taps.last(index) >= used.max()
    for count in range(size + 1):
        there = [index for index in range(new_size) if taps.last(index) < count]
        assert taps.available(count) == len(there), count
