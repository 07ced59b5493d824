"""Videos: what goes in comes out frame by frame, at the same times, whatever is wrong with it."""

import http.server
import json
import re
import resource
import signal
import socket
import struct
import sys
import threading
import time
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import refineseg
from conftest import SHARED
from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, ImageError, MissingExtraError, OutputError
from refineseg.images import render
from refineseg.predict.video import files as video_files
from refineseg.predict.video import run as video_run
from refineseg.predict.video.files import VideoReader, VideoWriter
from refineseg.predict.video.overlay import FramePainter
from refineseg.predict.video.pipeline import Channel, Workers
from refineseg.predict.video.smoothing import FlickerScore, Motion, Smoother
from refineseg.predict.video.sources import camera_device, find_source, upright
from refineseg.predict.video.times import FrameTimes
from refineseg.predict.video.video import VideoOptions, is_video, predict_video
from refineseg.prediction import Prediction

av = pytest.importorskip("av", reason="videos need PyAV")
CLASSES = ClassInfo(("dark", "middle", "bright"), ((200, 0, 0), (0, 200, 0), (0, 0, 200)))
BOTH = VideoOptions(kinds=("overlay", "mask"))


class BrightnessPredictor:
    """A stand-in: the class of a pixel is how bright it is."""

    def __init__(self, *, pause_s=0.0, class_info=CLASSES):
        self.class_info, self.pause_s, self.calls = class_info, pause_s, 0

    def __call__(self, image, *, probabilities=False):
        self.calls += 1
        time.sleep(self.pause_s)
        grey = image.astype(np.float32).mean(axis=2)
        distance = np.stack([-np.abs(grey - centre) / 40 for centre in (40, 128, 215)])
        chances = (np.exp(distance) / np.exp(distance).sum(axis=0)).astype(np.float32)
        mask = (grey[None] > np.array([84, 171.5])[:, None, None]).sum(axis=0).astype(np.uint8)
        return Prediction(image, mask, self.class_info, chances if probabilities else None)


def moving_square(count, size=(48, 64), *, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    images = []
    for i in range(count):
        image = np.full((*size, 3), 60.0)
        image[: size[0] // 2] = (100, 150, 220)
        left = (2 * i) % (size[1] - 12)
        image[8:30, left : left + 12] = (230, 230, 210)
        images.append((image + rng.normal(0, noise, image.shape)).clip(0, 255).astype(np.uint8))
    return images


def write_clip(path, images, *, times=None, base=Fraction(1, 25), codec="libx264", gop=6, rotation=None, sound=None):
    """``ffv1`` keeps the pixels exactly, at any size; mp4 have their index in front."""
    movflags = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
    pixels = {"libx264": "yuv420p", "ffv1": "bgr0", "mpeg4": "yuv420p"}[codec]
    with av.open(str(path), "w", options=movflags) as container:
        stream = container.add_stream(codec, rate=25, options={"g": str(gop)})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.time_base, stream.codec_context.time_base = pixels, base, base
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if sound is not None:
            write_sound(container, sound, seconds=len(images) / 25)
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = i if times is None else times[i], base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound(container, codec, *, seconds):
    stream = container.add_stream(codec, rate=16000, layout="mono")
    samples = np.random.default_rng(0).normal(0, 0.1, (1, int(16000 * seconds))).astype(np.float32)
    chunks = [samples[:, i : i + 1024] for i in range(0, samples.shape[1], 1024)]
    resampler = av.AudioResampler(stream.format.name, "mono", 16000)
    for i, chunk in enumerate(chunks):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(chunk), "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, 1024 * i, Fraction(1, 16000)
        for part in resampler.resample(frame):
            container.mux(stream.encode(part))
    container.mux(stream.encode(None))


def read_masks(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


def read_images(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def frame_times(path):
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def sound_bytes(path):
    with av.open(str(path)) as container:
        return b"".join(bytes(packet) for packet in container.demux(audio=0))


def test_a_model_of_one_channel_predicts_the_first_band_of_frames(tmp_path):
    clip = write_clip(tmp_path / "clip.mkv", moving_square(3), codec="ffv1")
    refineseg.build("refineseg_nano", num_classes=3, in_channels=1).save(tmp_path / "grey.safetensors")
    refineseg.predict(clip, tmp_path / "out", model=str(tmp_path / "grey.safetensors"), save="mask", backend="torch")
    predictor = refineseg.Predictor(refineseg.load(tmp_path / "grey.safetensors"))
    masks = read_masks(tmp_path / "out" / "clip_mask.mkv")
    for image, mask in zip(moving_square(3), masks, strict=True):
        assert np.array_equal(predictor(image[..., :1]).mask, mask)


def test_the_mask_track_holds_exactly_the_predictors_masks_at_an_odd_size(tmp_path):
    torch.manual_seed(0)
    predictor = refineseg.Predictor(refineseg.build("refinenet_lw_mobilenetv2", num_classes=5), device="cpu")
    images = moving_square(4, (45, 67), noise=30.0)
    clip = write_clip(tmp_path / "clip.mkv", images, codec="ffv1")
    result = predict_video(clip, tmp_path / "out" / "clip", predictor, options=VideoOptions(kinds=("mask",)))
    masks = read_masks(tmp_path / "out" / "clip_mask.mkv")
    assert result.frames == len(masks) == 4
    assert result.paths == (tmp_path / "out" / "clip_mask.mkv",)
    for image, mask in zip(images, masks, strict=True):
        np.testing.assert_array_equal(mask, predictor(image).mask)
    with av.open(str(result.paths[0])) as container:
        assert ClassInfo.from_json(json.loads(container.metadata["CLASSES"])) == predictor.class_info
    shares = np.bincount(np.concatenate(masks).ravel(), minlength=5) / np.concatenate(masks).size
    np.testing.assert_allclose(list(result.shares.values()), shares)


def test_masks_of_more_than_256_classes_are_kept_too(tmp_path):
    values = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) % 700
    info = VideoReader(find_source(write_clip(tmp_path / "a.mkv", moving_square(1), codec="ffv1"))).info
    writer = VideoWriter(tmp_path / "wide.mkv", size_hw=(48, 64), info=info, wide=True)
    writer.write(values, 0)
    writer.finish()
    np.testing.assert_array_equal(read_masks(tmp_path / "wide.mkv")[0], values)


@pytest.mark.parametrize("size", [(45, 67), (48, 64), (1, 1)])
def test_the_overlay_is_the_usual_overlay_grown_to_even_sides(tmp_path, size):
    images = [np.full((1, 1, 3), 200, np.uint8)] * 2 if size == (1, 1) else moving_square(3, size)
    clip = write_clip(tmp_path / "clip.mkv", images, codec="ffv1")
    options = VideoOptions(legend=False, quality=1)
    predict_video(clip, tmp_path / "o", BrightnessPredictor(), options=options)
    shown = read_images(tmp_path / "o.mp4")
    assert len(shown) == len(images)
    for image, picture in zip(images, shown, strict=True):
        assert picture.shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
        expected = render.overlay(image, BrightnessPredictor()(image).mask, CLASSES, legend=False)
        assert (
            np.abs(picture[: size[0], : size[1]].astype(int) - expected).mean() < 8
        )  # colours are kept for 2x2 pixels


def test_the_legend_stands_below_and_is_the_same_in_every_frame(tmp_path):
    clip = write_clip(tmp_path / "clip.mkv", moving_square(2, (120, 160)), codec="ffv1")
    predict_video(clip, tmp_path / "o", BrightnessPredictor(), options=VideoOptions(quality=1))
    first, second = read_images(tmp_path / "o.mp4")
    strip = render.legend(CLASSES, range(3), width=160)
    assert first.shape[0] == 120 + strip.shape[0] + strip.shape[0] % 2
    assert np.abs(first[120 : 120 + len(strip)].astype(int) - strip).mean() < 12
    assert np.abs(first[120:].astype(int) - second[120:]).mean() < 2


def test_times_of_a_variable_rate_are_kept(tmp_path):
    times = [500, 600, 650, 1400, 1407, 5000]
    clip = write_clip(tmp_path / "clip.mp4", moving_square(6), times=times, base=Fraction(1, 1000))
    predict_video(clip, tmp_path / "o", BrightnessPredictor(), options=BOTH)
    assert frame_times(clip) == [Fraction(t, 1000) for t in times]
    assert frame_times(tmp_path / "o.mp4") == frame_times(clip)
    with av.open(str(tmp_path / "o.mp4")) as container:
        assert container.duration + container.start_time >= 5_000_000  # or players would stop too early
    np.testing.assert_allclose(frame_times_float(tmp_path / "o_mask.mkv"), frame_times_float(clip), atol=0.0005)


def frame_times_float(path):
    return [float(t) for t in frame_times(path)]


def test_shares_over_time_are_written_for_every_frame(tmp_path):
    images = moving_square(3)
    clip = write_clip(tmp_path / "clip.mkv", images, codec="ffv1")
    options = VideoOptions(kinds=("mask",), frame_shares=True)
    result = predict_video(clip, tmp_path / "o", BrightnessPredictor(), options=options)
    lines = (tmp_path / "o_shares.csv").read_text().splitlines()
    assert lines[0] == "frame,time_s,dark,middle,bright"
    for i, (line, image) in enumerate(zip(lines[1:], images, strict=True)):
        values = [float(value) for value in line.split(",")]
        assert values[0] == i
        assert values[1] == pytest.approx(i / 25, abs=0.001)
        shares = BrightnessPredictor()(image).shares
        np.testing.assert_allclose(values[2:], [shares[name] for name in CLASSES.names], atol=1e-6)
    assert json.loads(json.dumps(result.to_json()))["frames"] == 3
    assert "3 frames" in result.summary()


@pytest.mark.parametrize(("rotation", "quarter_turns"), [(90, 1), (-90, 3), (180, 2)])
def test_rotation_is_applied(tmp_path, rotation, quarter_turns):
    image = moving_square(1)[0]
    clip = write_clip(tmp_path / "clip.mp4", [image] * 2, rotation=rotation)
    result = predict_video(clip, tmp_path / "o", BrightnessPredictor(), options=VideoOptions(kinds=("mask",)))
    expected = np.rot90(BrightnessPredictor()(image).mask, quarter_turns)
    assert result.size_hw == expected.shape
    assert (read_masks(tmp_path / "o_mask.mkv")[0] == expected).mean() > 0.95  # H.264 blurs edges


def test_mirrored_and_turned_matrices_are_upright():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for matrix in [
        (1, 0, 0, 1),
        (-1, 0, 0, 1),
        (1, 0, 0, -1),
        (0, 1, 1, 0),
        (0, -1, 1, 0),
        (0, 1, -1, 0),
        (0, -1, -1, 0),
    ]:
        a, b, c, d = matrix
        shown = upright(image, matrix)
        for y in range(2):
            for x in range(3):  # x' = a x + c y, y' = b x + d y, moved into the picture
                right, down = a * x + c * y, b * x + d * y
                assert (shown[down % shown.shape[0], right % shown.shape[1]] == image[y, x]).all() or min(
                    a, b, c, d
                ) < 0
                row = down + (shown.shape[0] - 1 if min(b, d) < 0 else 0)
                column = right + (shown.shape[1] - 1 if min(a, c) < 0 else 0)
                assert (shown[row, column] == image[y, x]).all()
    assert upright(image, (2, 3, 5, 7)) is image


def test_broken_frames_in_the_middle_are_left_out_and_counted_once(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", moving_square(40, noise=10.0))
    content = bytearray(clip.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2500] = np.random.default_rng(0).integers(0, 256, 2500, dtype=np.uint8).tobytes()
    clip.write_bytes(content)
    result = predict_video(clip, tmp_path / "o", BrightnessPredictor(), options=BOTH)
    assert result.broken > 0
    assert result.frames + result.broken == 40
    assert len(result.failures) == 1
    assert f"{clip}: {result.broken} broken frames were left out, the first at " in result.failures[0]
    times = frame_times_float(tmp_path / "o.mp4")
    assert len(times) == result.frames
    assert times[0] == 0
    assert times[-1] == pytest.approx(39 / 25)  # the rest keeps its place in time
    np.testing.assert_allclose(frame_times_float(tmp_path / "o_mask.mkv"), times, atol=0.0005)


def test_a_frame_that_decodes_with_damage_is_broken_too(tmp_path):
    clip = write_clip(tmp_path / "clip.ts", moving_square(40, noise=10.0))
    content = bytearray(clip.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 60] = np.random.default_rng(3).integers(0, 256, 60, dtype=np.uint8).tobytes()
    clip.write_bytes(content)
    result = predict_video(clip, tmp_path / "o", BrightnessPredictor(), options=VideoOptions(kinds=("mask",)))
    assert 0 < result.broken < 5
    # what the encoder writes differs from processor to processor: the damage may take whole packets with it
    lost = re.findall(r"(\d+) frames? (?:is|are) missing, of which nothing is left", " ".join(result.failures))
    assert result.frames + result.broken + sum(map(int, lost)) == 40
    assert any("the rest is done" in failure for failure in result.failures)


def test_colours_come_back_as_they_were_painted(tmp_path):
    image = np.zeros((48, 64, 3), np.uint8)
    image[:] = (200, 30, 60)
    clip = write_clip(tmp_path / "clip.mkv", [image], codec="ffv1")
    options = VideoOptions(opacity=0.0, legend=False, quality=1)
    predict_video(clip, tmp_path / "o", BrightnessPredictor(), options=options)
    np.testing.assert_allclose(read_images(tmp_path / "o.mp4")[0].mean(axis=(0, 1)), (200, 30, 60), atol=4)
    with av.open(str(tmp_path / "o.mp4")) as container:
        luma = next(container.decode(video=0)).to_ndarray()[:48].mean()
    assert luma == pytest.approx(16 + 219 / 255 * (0.2126 * 200 + 0.7152 * 30 + 0.0722 * 60), abs=2)  # BT.709


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_a_file_cut_short_is_done_as_far_as_it_goes_and_reported(tmp_path, ending):
    clip = write_clip(tmp_path / f"long.{ending}", moving_square(50, noise=10.0))
    cut = tmp_path / f"cut.{ending}"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    result = predict_video(cut, tmp_path / "o", BrightnessPredictor(), options=BOTH)
    assert 10 < result.frames < 40
    assert len(read_masks(tmp_path / "o_mask.mkv")) == result.frames
    assert any("expected frames up to 2.00 s, but they end at" in failure for failure in result.failures)
    assert not predict_video(clip, tmp_path / "o", BrightnessPredictor()).failures


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_lost_frames_of_which_nothing_is_left_are_reported(tmp_path, ending):
    times = [0, 40, 80, 120, 160, 200, 240, 360, 400, 440]  # two are missing after 240
    clip = write_clip(tmp_path / f"clip.{ending}", moving_square(10), times=times, base=Fraction(1, 1000))
    result = predict_video(clip, tmp_path / "o", BrightnessPredictor())
    if ending == "mp4":  # which says that it has ten frames, and has ten
        assert not result.failures
    else:
        expected = f"{clip}: 2 frames are missing, of which nothing is left; what could be decoded is done"
        assert result.failures == (expected,)


def test_names_in_a_file_that_are_no_text_do_no_harm(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", moving_square(4))
    content = clip.read_bytes()
    assert b"VideoHandler" in content
    clip.write_bytes(content.replace(b"VideoHandler", b"Vid\xa9oHandler"))
    assert predict_video(clip, tmp_path / "o", BrightnessPredictor()).frames == 4


def test_a_last_frame_that_stays_long_is_no_missing_end(tmp_path):
    """As in recordings of screens: the last second shows nothing new."""
    packets = []
    with av.open(str(write_clip(tmp_path / "a.mp4", moving_square(4), codec="mpeg4"))) as container:
        video = container.streams.video[0]
        packets += [packet for packet in container.demux(video) if packet.size]
        with av.open(str(tmp_path / "clip.mp4"), "w") as longer:
            stream = longer.add_stream_from_template(video)
            for packet in packets:
                packet.stream = stream
                packet.duration *= 50 if packet is packets[-1] else 1
                longer.mux(packet)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.duration > 2_000_000
    assert not predict_video(tmp_path / "clip.mp4", tmp_path / "o", BrightnessPredictor()).failures


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "which is empty (0 bytes); replace or remove it"),
        (b"these are words\n" * 50, "which is damaged, cut short, or of an unknown kind"),
        (b"\0\0\0\x1cftypisom" + b"\0" * 100, "replace or remove it"),
        (None, "expected a video, but there is no"),
    ],
)
def test_what_is_no_video_is_refused_without_a_trace(tmp_path, content, message):
    clip = tmp_path / "clip.mp4"
    if content is not None:
        clip.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        predict_video(clip, tmp_path / "out" / "clip", BrightnessPredictor())
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_list_of_other_files_is_no_video_whatever_its_name_says(tmp_path):
    write_clip(tmp_path / "secret.mp4", [np.zeros((64, 64, 3), np.uint8)] * 4)
    (tmp_path / "clip.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with pytest.raises(ImageError, match=r"clip.mp4, which is a list of other files; replace or remove it"):
        predict_video(tmp_path / "clip.mp4", tmp_path / "out" / "clip", BrightnessPredictor())
    assert not (tmp_path / "out").exists()


def test_sound_without_pictures_is_refused(tmp_path):
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        write_sound(container, "aac", seconds=1)
    with pytest.raises(ImageError, match=r"clip.mp4, which holds no pictures; replace or remove it"):
        predict_video(tmp_path / "clip.mp4", tmp_path / "o", BrightnessPredictor())


def test_a_video_without_one_good_frame_leaves_no_file(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", moving_square(10, noise=10.0))
    content = bytearray(clip.read_bytes())
    start = content.find(b"mdat") + 4
    content[start:] = bytes(len(content) - start)
    clip.write_bytes(content)
    with pytest.raises(ImageError, match=r"expected frames in .*clip.mp4, got none that can be decoded"):
        predict_video(clip, tmp_path / "out" / "o", BrightnessPredictor())
    assert not list((tmp_path / "out").iterdir())


def test_frames_of_another_size_are_scaled_to_the_first(tmp_path):
    for i, size in enumerate([(48, 64), (24, 32), (48, 64)]):
        Image.fromarray(moving_square(1, size)[0]).save(tmp_path / f"f_{i}.png")
    result = predict_video(tmp_path / "f_%d.png", tmp_path / "o", BrightnessPredictor(), options=BOTH)
    assert (result.frames, result.resized, result.size_hw) == (3, 1, (48, 64))
    assert {mask.shape for mask in read_masks(tmp_path / "o_mask.mkv")} == {(48, 64)}


def test_a_stream_that_changes_its_size_is_scaled_to_the_first(tmp_path):
    parts = [write_clip(tmp_path / f"{i}.ts", moving_square(10, size)) for i, size in enumerate([(48, 64), (96, 64)])]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    result = predict_video(both, tmp_path / "o", BrightnessPredictor(), options=BOTH)
    assert (result.frames, result.resized, result.size_hw) == (20, 10, (48, 64))
    times = frame_times(tmp_path / "o.mp4")
    assert len(times) == 20
    assert all(earlier < later for earlier, later in pairwise(times))


def test_a_sequence_keeps_gaps_leaves_broken_images_out_and_orders_by_number(tmp_path):
    images = moving_square(4)
    for number, image in zip((8, 9, 10, 12), images, strict=True):
        Image.fromarray(image).save(tmp_path / f"walk_{number:03d}.png")
    (tmp_path / "walk_011.png").write_bytes(b"no image")
    options = VideoOptions(kinds=("mask",), frame_rate=10.0)
    for name in (tmp_path / "walk_%03d.png", str(tmp_path)):
        target = tmp_path / "out" / "o"
        result = predict_video(name, target, BrightnessPredictor(), options=options)
        assert (result.frames, result.broken) == (4, 1)
        assert "1 broken frame was left out, the first walk_011.png: expected an image" in result.failures[0]
        masks = read_masks(tmp_path / "out" / "o_mask.mkv")
        for image, mask in zip(images, masks, strict=True):
            np.testing.assert_array_equal(mask, BrightnessPredictor()(image).mask)
        np.testing.assert_allclose(frame_times_float(tmp_path / "out" / "o_mask.mkv"), [0, 0.1, 0.2, 0.4], atol=0.0005)
    with pytest.raises(ImageError, match=r"expected images as frames, but there is no .*run_%d.png"):
        predict_video(tmp_path / "run_%d.png", tmp_path / "o", BrightnessPredictor())


def test_recordings_that_were_joined_follow_each_other(tmp_path):
    """Each begins its clock anew; the second one's frames came within a millisecond before."""
    for name, count in (("a", 30), ("b", 20)):
        write_clip(tmp_path / f"{name}.ts", moving_square(count))
    joined = tmp_path / "joined.ts"
    joined.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    result = predict_video(joined, tmp_path / "o", BrightnessPredictor())
    assert (result.frames, result.failures) == (50, ())
    assert result.notes == ("the clock jumps back once; what follows is joined on",)
    steps = np.diff(frame_times_float(tmp_path / "o.mp4"))
    assert sorted(steps.round(3))[1:] == [0.04] * 48  # but of one frame, which could have been a damaged one


def test_a_single_frame_with_a_time_of_long_ago_moves_no_other():
    times = FrameTimes(Fraction(1, 25), Fraction(25), begin=0)
    assert [times.next(stamp) for stamp in (100, 101, 3, 103, None, 105)] == [100, 101, 102, 103, 104, 105]
    assert times.notes == []


def test_a_broadcast_begins_at_0_and_a_matroska_film_that_begins_late_is_whole(tmp_path):
    late = [3600 * 25 + i for i in range(20)]
    for name, start_s in (("o.ts", 0.0), ("o.mkv", 3600.0)):
        result = predict_video(
            write_clip(tmp_path / name, moving_square(20), times=late),
            tmp_path / "out" / name[2:],
            BrightnessPredictor(),
        )
        assert result.failures == ()
        np.testing.assert_allclose(
            frame_times_float(tmp_path / "out" / f"{name[2:]}.mp4"), start_s + np.arange(20) / 25, atol=0.001
        )


def test_frames_larger_than_the_memory_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "clip.mkv", moving_square(3))
    monkeypatch.setattr(video_files, "_ALWAYS_THERE", 48 * 64 * 120)
    monkeypatch.setattr(video_files, "free_memory", lambda: 0)
    assert predict_video(clip, tmp_path / "o", BrightnessPredictor()).frames == 3
    monkeypatch.setattr(video_files, "_ALWAYS_THERE", 48 * 64 * 120 - 1)
    with pytest.raises(ImageError, match=r"expected frames of at most 3071 pixels, .*got 48x64 in .*clip\.mkv; shrink"):
        predict_video(clip, tmp_path / "o", BrightnessPredictor())


def test_names_of_images_that_are_no_numbers_of_frames_are_told(tmp_path):
    for names, message in (
        (("1.png", "01.png"), r"expected one image for each number, got 01.png and 1.png"),
        (("1403636579763555584.png", "1403636579813555584.png"), r"expected numbers of frames, got .*too far apart"),
    ):
        folder = tmp_path / names[0]
        folder.mkdir()
        for name in names:
            Image.fromarray(moving_square(1)[0]).save(folder / name)
        with pytest.raises(ImageError, match=message):
            predict_video(folder / "%d.png", tmp_path / "o", BrightnessPredictor())
        assert predict_video(folder, tmp_path / "o", BrightnessPredictor()).frames == 2
    assert find_source("%99999999999d.png").kind == "file"
    (tmp_path / "1.png" / "1.png").rename(tmp_path / "1.png" / "1²2.png")
    assert predict_video(tmp_path / "1.png", tmp_path / "o", BrightnessPredictor()).frames == 2


def test_addresses_that_are_none_are_told_and_no_part_of_a_password_is():
    with pytest.raises(ConfigError, match="expected an address such as"):
        is_video("rtsp://[::1")
    assert find_source("rtsp://user:pa@ss@host/door?mail=a@b").shown == "rtsp://host/door?mail=a@b"


def test_folders_are_ordered_by_numbers_as_numbers_and_missing_numbers_are_noted(tmp_path):
    for number in (1, 2, 10):
        Image.fromarray(np.full((4, 4, 3), 20 * number, np.uint8)).save(tmp_path / f"f{number}.png")
    options = VideoOptions(kinds=("mask",), frame_shares=True)
    predict_video(tmp_path, tmp_path / "out" / "a", BrightnessPredictor(), options=options)
    assert [int(mask[0, 0]) for mask in read_masks(tmp_path / "out" / "a_mask.mkv")] == [0, 0, 2]
    result = predict_video(tmp_path / "f%d.png", tmp_path / "out" / "b", BrightnessPredictor(), options=options)
    assert result.notes == ("7 numbers are missing in the sequence; their time is left empty",)


def test_sound_is_copied_as_it_is_or_said_to_be_left_out(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", moving_square(25), sound="aac")
    result = predict_video(clip, tmp_path / "o", BrightnessPredictor())
    assert result.notes == ()
    assert sound_bytes(tmp_path / "o.mp4") == sound_bytes(clip)
    short = predict_video(clip, tmp_path / "short", BrightnessPredictor(), options=VideoOptions(seconds=0.4))
    assert short.frames == 10
    assert not short.failures
    assert 0 < len(sound_bytes(tmp_path / "short.mp4")) < 0.6 * len(sound_bytes(clip))
    raw = write_clip(tmp_path / "raw.mkv", moving_square(25), sound="pcm_s16le")
    result = predict_video(raw, tmp_path / "o2", BrightnessPredictor())
    assert result.notes == ("the sound (pcm_s16le) is left out: an mp4 cannot hold it as it is",)


def test_smoothing_equals_its_definition_and_resets_where_pixels_move_and_scenes_change():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 4, (6, 7, 3)).astype(np.uint8) + 50 for _ in range(8)]
    images[3][:2, :3] += 90  # moves in and out
    images[6:] = [image + np.uint8(120) for image in images[6:]]  # another scene
    chances = [rng.dirichlet(np.ones(4), (6, 7)).astype(np.float32).transpose(2, 0, 1) for _ in images]
    motion, smoother = Motion(static_below=10.0, cut_above=30.0), Smoother(0.6)
    average = grey = None
    for image, probabilities in zip(images, chances, strict=True):
        level = image.astype(np.float64) @ (0.299, 0.587, 0.114)
        still = np.zeros((6, 7), bool) if grey is None else np.abs(level - grey) < 10
        if grey is None or np.abs(level - grey).mean() > 30:
            still[:] = False
        past = np.zeros((4, 6, 7)) if average is None else average
        average = np.where(still, 0.6 * past + 0.4 * probabilities, probabilities)
        grey = level
        np.testing.assert_array_equal(smoother.mask(probabilities, motion.static(image)), average.argmax(axis=0))
    assert motion.cuts == 1


def test_the_flicker_score_counts_label_changes_of_static_pixels_only():
    score = FlickerScore()
    first, second = np.array([[0, 1, 2, 2]]), np.array([[0, 2, 1, 2]])
    score.update(first, None)
    assert score.score is None
    score.update(second, np.array([[True, True, False, True]]))  # one of three
    score.update(first, None)  # another scene
    score.update(first, np.array([[True, False, False, False]]))  # none of one
    assert score.score == pytest.approx(1 / 4)


def test_smoothing_steadies_a_noisy_static_clip(tmp_path):
    rng = np.random.default_rng(0)
    scene = np.repeat(np.linspace(20, 235, 64)[None, :, None], 48, axis=0).repeat(3, axis=2)
    images = [(scene + rng.normal(0, 3, scene.shape)).clip(0, 255).astype(np.uint8) for _ in range(20)]
    clip = write_clip(tmp_path / "clip.mkv", images, codec="ffv1")
    rough = predict_video(clip, tmp_path / "a", BrightnessPredictor(), options=VideoOptions(kinds=("mask",)))
    options = VideoOptions(kinds=("mask",), smooth=0.8)
    smooth = predict_video(clip, tmp_path / "b", BrightnessPredictor(), options=options)
    assert rough.flicker_before == rough.flicker_after == smooth.flicker_before
    assert 0 < smooth.flicker_after < 0.5 * smooth.flicker_before
    masks = read_masks(tmp_path / "a_mask.mkv")
    changes = np.mean([earlier != later for earlier, later in pairwise(masks)])
    assert rough.flicker_before == pytest.approx(changes, rel=0.05)  # nearly every pixel is static here


@pytest.mark.slow  # it measures time
def test_the_workers_work_at_the_same_time(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "clip.mp4", moving_square(40))
    pause_s, write, paint = 0.03, VideoWriter.write, video_run.FramePainter.paint

    def slow_write(self, pixels, when):
        time.sleep(pause_s)
        write(self, pixels, when)

    def slow_paint(self, image, mask):
        time.sleep(pause_s)
        return paint(self, image, mask)

    monkeypatch.setattr(VideoWriter, "write", slow_write)
    monkeypatch.setattr(video_run.FramePainter, "paint", slow_paint)
    result = predict_video(clip, tmp_path / "o", BrightnessPredictor(pause_s=pause_s))
    assert result.frames == 40
    assert 40 * pause_s <= result.seconds < 2 * 40 * pause_s  # one after the other, it would be 3 times


def test_a_fast_decoder_does_not_fill_the_memory(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "clip.mp4", moving_square(60))
    decoded, most, frame = [], [], VideoReader._frame
    predictor = BrightnessPredictor(pause_s=0.005)

    def counted(self, picture):
        decoded.append(1)
        most.append(len(decoded) - predictor.calls)
        return frame(self, picture)

    monkeypatch.setattr(VideoReader, "_frame", counted)
    predict_video(clip, tmp_path / "o", predictor, options=VideoOptions(queue=3))
    assert len(decoded) == 60
    assert max(most) <= 3 + 2  # those in the channel, one in the decoder's hand, one about to be predicted


def serve_once(content, *, piece=4096, pause_s=0.0):
    """A server of one connection; the address of what it sends."""
    server = socket.create_server(("127.0.0.1", 0))

    def send():
        connection, _ = server.accept()
        with connection, server:
            for start in range(0, len(content), piece):
                try:
                    connection.sendall(content[start : start + piece])
                except OSError:
                    return
                time.sleep(pause_s)

    threading.Thread(target=send, daemon=True).start()
    return f"tcp://127.0.0.1:{server.getsockname()[1]}"


def test_a_live_stream_drops_the_oldest_frames_and_counts_them(tmp_path):
    clip = write_clip(tmp_path / "clip.ts", moving_square(50))
    slow = BrightnessPredictor(pause_s=0.02)
    result = predict_video(serve_once(clip.read_bytes()), tmp_path / "o", slow, options=VideoOptions(queue=2))
    assert result.dropped > 5
    assert result.frames + result.dropped == 50
    assert not result.failures
    times = frame_times_float(tmp_path / "o.mp4")
    assert times[-1] == pytest.approx(49 / 25, abs=0.001)  # the newest is never dropped; times start at 0
    patient = VideoOptions(live=False, queue=2)
    result = predict_video(serve_once(clip.read_bytes()), tmp_path / "o", slow, options=patient)
    assert (result.frames, result.dropped) == (50, 0)


def serve_rtsp(content):
    """A camera for one viewer: RTSP with a transport stream in RTP packets on the same connection."""
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    address = f"rtsp://127.0.0.1:{port}/door"
    description = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=door\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:1\r\n"
    answers = {
        "OPTIONS": ("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN", ""),
        "DESCRIBE": ("Content-Type: application/sdp", description),
        "SETUP": ("Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1", ""),
        "PLAY": ("Session: 1", ""),
    }

    def talk():
        connection, _ = server.accept()
        with connection, server:
            requests = connection.makefile("rb")
            method = ""
            while method != "PLAY":
                lines = []
                while (line := requests.readline().strip().decode()) != "":
                    lines.append(line)
                method = lines[0].split()[0]
                number = next(line for line in lines if line.lower().startswith("cseq"))
                head, body = answers[method]
                reply = f"RTSP/1.0 200 OK\r\n{number}\r\n{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
                connection.sendall(reply.encode())
            for i, start in enumerate(range(0, len(content), 7 * 188)):
                payload = content[start : start + 7 * 188]
                packet = struct.pack(">BBHII", 0x80, 33, i % 65536, 900 * i, 7) + payload  # RFC 3550, RFC 2250
                connection.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                time.sleep(0.001)

    threading.Thread(target=talk, daemon=True).start()
    return address


def test_an_rtsp_camera_is_read_to_its_end(tmp_path):
    clip = write_clip(tmp_path / "clip.ts", moving_square(50))
    address = serve_rtsp(clip.read_bytes())
    result = predict_video(address, tmp_path / "door", BrightnessPredictor(), options=BOTH)
    assert result.frames + result.dropped >= 49  # nothing says that the last frame is complete
    assert result.frames == len(read_images(tmp_path / "door.mp4"))
    assert not result.failures


def test_a_stream_that_falls_silent_is_ended_and_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(video_files, "_PATIENCE_S", 1.0)
    content = write_clip(tmp_path / "clip.ts", moving_square(50)).read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as server:
        opened = []

        def send_half():
            opened.append(server.accept()[0])
            opened[0].sendall(content[: len(content) // 2])

        threading.Thread(target=send_half, daemon=True).start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        result = predict_video(address, tmp_path / "o", BrightnessPredictor(), options=BOTH)
        opened[0].close()
    assert 10 < result.frames + result.dropped < 40
    assert len(read_masks(tmp_path / "o_mask.mkv")) == result.frames
    assert "the source stopped: nothing came for 1 s; what could be decoded is done" in result.failures[0]


@pytest.fixture
def ctrl_c():
    """Ctrl-C interrupts, also where the tests run in the background and inherit that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_a_live_source_properly_and_leaves_nothing_of_a_file(tmp_path):
    clip = write_clip(tmp_path / "clip.ts", moving_square(50))

    class Interrupted(BrightnessPredictor):
        def __call__(self, image, *, probabilities=False):
            if self.calls == 5:
                signal.raise_signal(signal.SIGINT)
            return super().__call__(image, probabilities=probabilities)

    address = serve_once(clip.read_bytes(), piece=2000, pause_s=0.01)
    result = predict_video(address, tmp_path / "out" / "live", Interrupted(), options=BOTH)
    assert result.frames == 5
    assert result.notes == ("ended by Ctrl-C",)
    assert len(read_images(tmp_path / "out" / "live.mp4")) == 5
    with pytest.raises(KeyboardInterrupt):
        predict_video(clip, tmp_path / "file" / "o", Interrupted(), options=BOTH)
    assert not list((tmp_path / "file").iterdir())


def test_a_web_address_is_read_as_a_file_and_never_drops(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    source = write_clip(folder / "clip.mkv", moving_square(30))
    predict_video(source, folder / "front", BrightnessPredictor())  # what is written can be read while it loads
    handler = partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        slow = BrightnessPredictor(pause_s=0.01)
        result = predict_video(f"{address}/front.mp4", tmp_path / "o", slow, options=VideoOptions(queue=1))
        with pytest.raises(
            ImageError, match=r"expected a stream at http://.*no.mp4, but: .*; check address and network"
        ):
            predict_video(f"{address}/no.mp4", tmp_path / "o", slow)
        server.shutdown()
    assert (result.frames, result.dropped, result.failures) == (30, 0, ())


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_an_address_nobody_serves_and_a_camera_that_is_not_there_are_said(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(
        ImageError, match=rf"expected a stream at rtsp://127.0.0.1:{port}/door, but: Connection refused"
    ):
        predict_video(f"rtsp://name:secret@127.0.0.1:{port}/door", tmp_path / "o", BrightnessPredictor())
    if sys.platform == "linux" and not Path("/dev/video97").exists():
        with pytest.raises(ImageError, match="expected a camera number 97, but /dev/video97 cannot be opened"):
            predict_video("97", tmp_path / "o", BrightnessPredictor())


def test_cameras_are_opened_as_each_system_names_them(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    assert camera_device("2") == ("/dev/video2", "v4l2")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert camera_device("2") == ("2", "avfoundation")
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigError, match="expected a camera on Linux or macOS, got Windows"):
        camera_device("2")


@pytest.mark.parametrize("limit", [3000, 30000, 60000])
def test_a_full_disk_is_said_and_leaves_no_file(tmp_path, limit):
    clip = write_clip(tmp_path / "clip.mkv", moving_square(30, (96, 128), noise=60.0), codec="ffv1")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OutputError, match="expected to write .*o.mp4.*, but .*File too large.*; choose a folder"):
            predict_video(clip, tmp_path / "out" / "o", BrightnessPredictor(), options=BOTH)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", moving_square(2))
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="expected to write .*o.mp4, but .*; choose a folder"):
        predict_video(clip, tmp_path / "out" / "o", BrightnessPredictor())


def test_the_source_is_never_overwritten(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", moving_square(2))
    before = clip.read_bytes()
    with pytest.raises(ConfigError, match="expected results apart from the source, but .*; choose another folder"):
        predict_video(clip, tmp_path / "clip", BrightnessPredictor())
    assert clip.read_bytes() == before


def test_a_predictor_that_fails_stops_everything(tmp_path):
    class Failing(BrightnessPredictor):
        def __call__(self, image, *, probabilities=False):
            if self.calls == 3:
                raise RuntimeError("out of memory")
            return super().__call__(image, probabilities=probabilities)

    clip = write_clip(tmp_path / "clip.mp4", moving_square(30))
    with pytest.raises(ImageError, match=r"clip.mp4: not enough memory for 48x64 pixels; shrink the video"):
        predict_video(clip, tmp_path / "out" / "o", Failing())
    assert not list((tmp_path / "out").iterdir())


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "clip.mp4").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"package av to read and write videos.*refineseg\[video\]"):
        predict_video(tmp_path / "clip.mp4", tmp_path / "o", BrightnessPredictor())


def test_a_channel_keeps_order_and_capacity_and_a_failing_worker_stops_the_others():
    channel, seen, fullest = Channel(2), [], []

    def produce():
        for i in range(50):
            channel.put(i)
            fullest.append(len(channel._items))
        channel.end()

    with Workers(channel) as workers:
        workers.start(produce)
        seen += channel
    assert seen == list(range(50))
    assert max(fullest) <= 2

    def fail():
        raise ValueError("worker")

    def fill_for_ever():
        endless = Channel(1)
        with Workers(endless) as workers:
            workers.start(fail)
            while True:
                endless.put(0)

    with pytest.raises(ValueError, match="worker"):
        fill_for_ever()


@pytest.mark.parametrize(
    ("source", "video", "kind", "stem"),
    [
        ("a/clip.MP4", True, "file", "clip"),
        ("a/image.jpg", False, "file", "image"),
        ("rtsp://user:word@10.0.0.1:554/door/1.sdp", True, "address", "1"),
        (Path("rtsp://10.0.0.1"), True, "address", "10.0.0.1"),
        ("https://example.org/a/b.mp4?key=1", True, "address", "b"),
        ("0", True, "camera", "camera0"),
        ("walk/frame_%05d.png", True, "sequence", "frame"),
        ("walk/%d.png", True, "sequence", "frames"),
        ("notes.txt", False, "file", "notes"),
    ],
)
def test_sources_are_known_by_their_names(source, video, kind, stem):
    assert is_video(source) is video
    found = find_source(source)
    assert (found.kind, found.stem) == (kind, stem)


def test_a_folder_is_no_video_unless_it_is_given_as_one(tmp_path, monkeypatch):
    assert not is_video(tmp_path)
    assert find_source(tmp_path).kind == "sequence"
    assert find_source("²").kind == "file"
    (tmp_path / "7").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not is_video("7")
    assert is_video("8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            {"save": "overlay,polygons"},
            "expected --save with some of overlay, mask for a video, got 'overlay,polygons'",
        ),
        ({"save": ""}, "expected --save with some of"),
        ({"smooth": 1.5}, "expected smooth between 0 and 1, got 1.5"),
        ({"live": "perhaps"}, "expected live to be auto, yes, no, got 'perhaps'"),
        ({"frame_rate": 0.0}, "expected frame_rate between 0.001 and 10000, got 0.0"),
    ],
)
def test_wrong_options_are_said(words, message):
    with pytest.raises(ConfigError) as caught:
        VideoOptions.parse(**words)
    assert message in str(caught.value)
    with pytest.raises(ConfigError, match="expected kinds of overlay, mask for a video, got none"):
        VideoOptions(kinds=())
    assert VideoOptions.parse(save="mask,overlay", live="no").kinds == ("overlay", "mask")


def test_a_real_clip_is_read_frame_by_frame(tmp_path):
    clip = SHARED / "samples" / "extras" / "video_camvid_val" / "0016E5_val_15hz.mp4"
    if not clip.is_file():
        pytest.skip(f"the real clip is absent: {clip}")
    result = predict_video(clip, tmp_path / "o", BrightnessPredictor(), options=VideoOptions(seconds=1.0))
    assert (result.frames, result.size_hw, result.failures) == (15, (360, 480), ())
    assert result.cuts == 0


def test_a_film_that_was_trimmed_without_encoding_is_whole(tmp_path):
    """Its edit begins after a key frame: the packets before are there to decode the others, and are never shown."""
    write_clip(tmp_path / "whole.mp4", moving_square(30), gop=10)
    with (
        av.open(str(tmp_path / "whole.mp4")) as source,
        av.open(str(tmp_path / "trimmed.mp4"), "w", options={"avoid_negative_ts": "disabled"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        shift = round(4 / 25 / source.streams.video[0].time_base)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                target.mux(packet)
    with av.open(str(tmp_path / "trimmed.mp4")) as trimmed:
        packets = list(trimmed.demux(video=0))
        assert sum(packet.is_discard for packet in packets) == 4, "the case is not made"
    result = predict_video(tmp_path / "trimmed.mp4", tmp_path / "out", BrightnessPredictor(), options=BOTH)
    assert (result.frames, result.failures) == (26, ())


def test_a_background_is_not_painted_over_frames_and_has_no_place_in_the_legend():
    classes = ClassInfo(("background", "cell"), ((0, 0, 200), (200, 0, 0)))
    image, mask = np.full((120, 160, 3), 100, np.uint8), np.zeros((120, 160), np.uint8)
    mask[:40], mask[100:] = 1, 255
    picture = FramePainter(classes, (120, 160)).paint(image, mask)
    np.testing.assert_array_equal(picture[40:120], image[40:])
    assert (picture[:40] == (150, 50, 50)).all()
    strip = render.legend(classes, [1], width=160)
    np.testing.assert_array_equal(picture[120 : 120 + len(strip)], strip)
