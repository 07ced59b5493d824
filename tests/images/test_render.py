"""Pictures made a strip at a time: the same bytes as whole ones, and no more memory than a file needs."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image, ImageFont

from refineseg import class_info
from refineseg.class_info import ClassInfo
from refineseg.images import render
from refineseg.images.encoding import write_image
from refineseg.predict.outputs.kinds import Outputs, write_prediction
from refineseg.prediction import Prediction

CLASSES = ClassInfo(("sky", "road", "tree"), ((1, 2, 3), (140, 50, 60), (7, 208, 9)))
RNG = np.random.default_rng(0)


def whole_overlay(image, mask, opacity):
    """Pixel by pixel in exact arithmetic; halves go to the even number."""
    picture = image.copy()
    for index, colour in enumerate(CLASSES.palette):
        blended = image.astype(np.float64) * (1 - opacity) + np.array(colour) * opacity
        picture[mask == index] = np.rint(blended).astype(np.uint8)[mask == index]
    return picture


@pytest.fixture(params=[1, 50, 500, 10**6], ids=lambda pixels: f"{pixels} pixels at a time")
def strips(request, monkeypatch):
    monkeypatch.setattr(render, "_STRIP_PIXELS", request.param)
    monkeypatch.setattr(class_info, "_PAINTED_AT_A_TIME", request.param)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
@pytest.mark.parametrize("size", [(37, 23), (1, 1), (1, 90), (90, 1)])
def test_strips_make_the_picture_of_the_whole(strips, size, dtype):
    image = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    mask, truth = (RNG.choice([0, 1, 2, 255], size).astype(dtype) for _ in range(2))
    for opacity in (0.0, 0.25, 0.5, 1.0):
        painted = render.overlay(image, mask, CLASSES, opacity=opacity, legend=False)
        np.testing.assert_array_equal(painted, whole_overlay(image, mask, opacity))
    shown = sorted({0, 1, 2} & set(mask.ravel().tolist()), key=lambda index: -int((mask == index).sum()))
    below = [render.legend(CLASSES, shown, width=size[1])] if shown else []
    np.testing.assert_array_equal(
        render.overlay(image, mask, CLASSES), np.concatenate([whole_overlay(image, mask, 0.5), *below])
    )
    colours = np.array([*CLASSES.palette, (0, 0, 0)])
    np.testing.assert_array_equal(CLASSES.colours(mask), colours[np.where(mask == 255, 3, mask)])
    right = np.where((mask == truth)[..., None], (235, 235, 235), (230, 30, 30))
    right[truth == 255] = 0
    np.testing.assert_array_equal(render.error_map(mask, truth, CLASSES), right)


@pytest.mark.parametrize("name", ["background", "Background ", "_background_", "bg"])
def test_a_background_stays_as_it_is_and_has_no_place_in_the_legend(name):
    image = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 10:30] = 1
    classes = ClassInfo((name, "cell"))
    painted = render.overlay(image, mask, classes)
    behind = mask == 0
    np.testing.assert_array_equal(painted[:40][behind], image[behind])
    assert (painted[:40][~behind] != image[~behind]).any()
    np.testing.assert_array_equal(painted[40:], render.legend(classes, [1], width=60))


def test_the_file_of_an_overlay_is_that_of_the_whole_picture(tmp_path):
    image = RNG.integers(0, 256, (600, 700, 3), dtype=np.uint8)  # two strips
    mask = RNG.choice([0, 1, 2, 255], (600, 700)).astype(np.uint8)
    prediction = Prediction(image, mask, CLASSES)
    write_prediction(prediction, tmp_path / "a", Outputs(("overlay",)))
    counts = [int((mask == index).sum()) for index in range(3)]
    order = sorted(range(3), key=lambda index: -counts[index])
    whole = np.concatenate([whole_overlay(image, mask, 0.5), render.legend(CLASSES, order, width=700)])
    write_image(tmp_path / "whole.jpg", whole)
    assert (tmp_path / "a_overlay.jpg").read_bytes() == (tmp_path / "whole.jpg").read_bytes()


def test_pictures_stand_side_by_side_under_their_titles():
    pictures = [np.full((9, 7, 3), value, np.uint8) for value in (10, 200)]
    row = np.asarray(render.side_by_side(iter(pictures), ["a", "b"]))
    assert row.shape == (29, 18, 3)
    np.testing.assert_array_equal(row[20:, :7], pictures[0])
    np.testing.assert_array_equal(row[20:, 11:], pictures[1])


@pytest.mark.parametrize("width", [1, 30, 100, 300])
def test_titles_of_narrow_pictures_are_whole(width):
    titles = ["image", "errors: 12.3 % of the labelled pixels"]
    row = np.asarray(render.side_by_side([np.zeros((9, width, 3), np.uint8)] * 2, titles))
    font = ImageFont.load_default(12)
    ink = sum(np.asarray(font.getmask(word), dtype=int).sum() for title in titles for word in title.split())
    assert (255 - row[:-9, :, 0].astype(int)).sum() == ink
    assert (row[-9:] == 0).all(axis=2).sum() == 2 * 9 * width


# -------------------------------------------------------------------------------------------------- memory from outside

PEAK = """
import re, sys, resource
from pathlib import Path
import numpy as np
from PIL import Image
Image.MAX_IMAGE_PIXELS = None
from refineseg.terminal.printing import Terminal
from refineseg.class_info import ClassInfo
from refineseg.predict.folder.file_run import FileRun
from refineseg.terminal.following import TerminalFollower
from refineseg.predict.outputs.kinds import Outputs
from refineseg.predict.folder.plan import plan_files
from refineseg.predict.predictor import Predictor
from refineseg.predict.stream import StreamOptions
from refineseg.scoring import Scorer


class Brightest(Scorer):
    class_info = ClassInfo(("red", "green", "blue"))

    def logits(self, images):
        return images.float()

    def class_map(self, images):
        return images.amax(dim=1) // 100


outputs = Outputs(tuple(sys.argv[1].split(",")))
plan = plan_files([sys.argv[2]], Path(sys.argv[3]), endings=outputs.endings.values())
predictor = Predictor(Brightest(), device="cpu")
predictor(np.zeros((40, 40, 3), np.uint8))
run = FileRun(predictor.class_info, outputs=outputs, follower=TerminalFollower(Terminal(quiet=True)))
status = Path("/proc/self/status")
print(re.search(r"VmRSS:\\s+(\\d+)", status.read_text())[1])
run.images(plan.files, predictor, options=StreamOptions(workers=4), since_ns=None)
assert run.result.done == len(plan.files), run.result.failures
print(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1])
"""


def peak_mb(folder, out, kinds):
    """What a process needs besides what it has before the first image."""
    command = [sys.executable, "-c", textwrap.dedent(PEAK), kinds, str(folder), str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    before, most = (int(line) / 1024 for line in ended.stdout.split("\n") if line.isdigit())
    return most - before


@pytest.mark.slow
def test_an_overlay_takes_little_more_memory_than_the_mask_alone_and_many_no_more_than_one(tmp_path):
    """One image of 16 megapixels, then six of 9 among small ones, on four threads; as the system counts, in MB."""
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    Image.new("RGB", (4000, 4000), (200, 90, 30)).save(tmp_path / "one" / "a.jpg")
    for i in range(6):
        Image.new("RGB", (3000, 3000), (200, 90, 30)).save(tmp_path / "many" / f"large{i}.jpg")
        Image.new("RGB", (200, 100), (200, 90, 30)).save(tmp_path / "many" / f"small{i}.jpg")
    mask = peak_mb(tmp_path / "one", tmp_path / "out", "mask")
    both = peak_mb(tmp_path / "one", tmp_path / "out", "mask,overlay")
    many = peak_mb(tmp_path / "many", tmp_path / "out2", "mask,overlay")
    assert both < mask + 8 * 16, (mask, both)
    assert many < 700, many


def test_comparisons_name_the_classes_that_occur_and_the_colours_of_errors():
    info = ClassInfo(("sky", "road", "never seen"), ((0, 0, 250), (250, 250, 0), (9, 99, 9)))
    truth, mask = np.zeros((40, 60), np.uint8), np.zeros((40, 60), np.uint8)
    truth[:, 30:], truth[0] = 1, 255
    image = np.full((40, 60, 3), 128, np.uint8)
    bare = np.asarray(render.compared((image, truth), mask, info, errors="errors", legend=False))
    named = np.asarray(render.compared((image, truth), mask, info, errors="errors"))
    assert named.shape[0] > bare.shape[0]
    assert np.array_equal(named[: bare.shape[0]], bare)
    legend = {tuple(colour) for colour in named[bare.shape[0] :].reshape(-1, 3).tolist()}
    assert {(0, 0, 250), (250, 250, 0), (235, 235, 235), (230, 30, 30), (0, 0, 0)} <= legend
    assert (9, 99, 9) not in legend
