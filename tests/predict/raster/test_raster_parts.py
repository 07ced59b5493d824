"""One raster shared by several processes: the same bytes as of one, whatever ends first, starts late or is killed."""

import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from test_raster import pixels, run
from test_raster_jobs import ended, forked, needs_fork

from fakes.rasters import UTM, PointScorer, point_model, write
from refineseg.errors import ConfigError
from refineseg.predict.raster import raster
from refineseg.predict.raster.job import RasterJob
from refineseg.predict.raster.raster import RasterOptions

pytestmark = [needs_fork, pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")]
KINDS = "mask,confidence,overlay,probabilities"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return point_model()


@pytest.fixture(autouse=True)
def point_scorer(monkeypatch):
    monkeypatch.setattr(raster, "_scorer", PointScorer)
    monkeypatch.setattr(PointScorer, "scored", [])


@pytest.fixture
def raster_and_truth(tmp_path, model):
    src = write(tmp_path / "in.tif", pixels((400, 330), dtype="uint16"), nodata=0, **UTM)
    run(src, tmp_path / "whole" / "in.tif", model, tile=64, kinds=KINDS)
    return src, {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}


def part_of(src, dst, model, index, count):
    """A process that predicts its part."""

    def work(said):
        PointScorer.scored.clear()
        result = run(src, dst, model, tile=64, kinds=KINDS, part=(index, count))
        said.write(f"{len(PointScorer.scored)} scored, {result.tiles_left} left, {len(result.paths)} files")

    return forked(work)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_parts_one_after_the_other_and_the_last_one_writes(raster_and_truth, tmp_path, model):
    src, truth = raster_and_truth
    dst = tmp_path / "parts" / "in.tif"
    said = []
    for index in (2, 3, 1):
        child, words = part_of(src, dst, model, index, 3)
        with words:
            said.append(words.read())
        assert ended(child) == 0
        if index != 1:
            assert [path.name for path in dst.parent.iterdir()] == [".in.tif.parts"]
    assert said == ["14 scored, 28 left, 0 files", "14 scored, 14 left, 0 files", "14 scored, 0 left, 5 files"]
    assert bytes_of(dst.parent) == truth
    child, words = part_of(src, dst, model, 2, 3)  # called again: nothing to do
    with words:
        assert words.read() == "0 scored, 0 left, 5 files"
    assert ended(child) == 0


def test_parts_at_once_share_a_journal_and_one_writes(raster_and_truth, tmp_path, model, monkeypatch):
    src, truth = raster_and_truth
    dst = tmp_path / "parts" / "in.tif"
    monkeypatch.setattr(PointScorer, "delay_s", 0.01)
    children = [part_of(src, dst, model, index, 4) for index in (1, 2, 3, 4)]
    said = []
    for child, words in children:
        with words:
            said.append(words.read())
        assert ended(child) == 0
    assert sum(int(words.split()[0]) for words in said) == 42
    assert bytes_of(dst.parent) == truth
    assert any("0 left, 5 files" in words for words in said)


@pytest.mark.slow
def test_the_same_part_twice_and_the_whole_beside_a_part_are_refused(raster_and_truth, tmp_path, model, monkeypatch):
    src, truth = raster_and_truth
    dst = tmp_path / "parts" / "in.tif"
    monkeypatch.setattr(PointScorer, "delay_s", 0.2)
    first, words = part_of(src, dst, model, 1, 2)
    tiles = dst.parent / ".in.tif.parts"
    while not list(tiles.glob("tile_*.npz")):
        time.sleep(0.01)
    second, refused = part_of(src, dst, model, 1, 2)
    with refused:
        assert "expected one process with part 1/2" in refused.read()
    assert ended(second) == 1
    whole, refused = part_of(src, dst, model, 1, 1)
    with refused:
        assert "expected to be alone with" in refused.read()
    assert ended(whole) == 1
    monkeypatch.setattr(PointScorer, "delay_s", 0.0)
    other, others_words = part_of(src, dst, model, 2, 2)
    with words, others_words:
        assert {words.read().split(", ", 1)[1], others_words.read().split(", ", 1)[1]} >= {"0 left, 5 files"}
    assert (ended(first), ended(other)) == (0, 0)
    assert bytes_of(dst.parent) == truth


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_parts_that_are_killed_at_random_end_with_the_same_bytes(raster_and_truth, tmp_path, model, monkeypatch, seed):
    src, truth = raster_and_truth
    dst, rng = tmp_path / "parts" / "in.tif", random.Random(seed)
    monkeypatch.setattr(PointScorer, "delay_s", 0.02)
    for _ in range(6):  # rounds of three parts, of which one is killed
        children = [part_of(src, dst, model, index, 3) for index in (1, 2, 3)]
        time.sleep(rng.uniform(0.0, 0.4))
        os.kill(children[rng.randrange(3)][0], signal.SIGKILL)
        for child, words in children:
            with words:
                words.read()
            ended(child)
        if dst.exists():
            break
    for index in (1, 2, 3):
        child, words = part_of(src, dst, model, index, 3)
        with words:
            words.read()
        assert ended(child) == 0
    assert bytes_of(dst.parent) == truth


def test_a_part_cannot_begin_anew():
    with pytest.raises(ConfigError, match="expected --part without --no-resume"):
        RasterOptions(part=(1, 2), resume=False)


def test_tiles_that_a_broken_off_removal_left_are_no_part_of_a_job(raster_and_truth, tmp_path, model):
    """The journal goes first, and then a kill: the second part took them for finished tiles of the first one."""
    src, truth = raster_and_truth
    dst = tmp_path / "parts" / "in.tif"
    left = RasterJob(dst)
    left.open({}, resume=True)
    for index in range(42):
        left.write_tile(index, [("mask", number, np.zeros((96, 96), np.uint8)) for number in range(2)])
    left.release()
    (left.folder / "job.json").unlink()
    for index in (1, 2):
        child, words = part_of(src, dst, model, index, 2)
        with words:
            words.read()
        assert ended(child) == 0
    assert bytes_of(dst.parent) == truth
