"""What the doctor calls an error, training, evaluation and sharding refuse or handle, before anything is written."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from conftest import write_folder
from fakes.doctor_faults import CLASSES, MAKERS, pair, put
from fakes.runs import Silent, tiny
from refineseg.data.checks import facts
from refineseg.data.checks.endings import ends_as_it_should
from refineseg.data.checks.kinds import FATAL, KINDS
from refineseg.data.checks.label_check import check_data
from refineseg.data.datasets import open_dataset
from refineseg.data.shard_writer import ShardOptions, write_shards
from refineseg.doctor.examination import examine
from refineseg.errors import ImageError, LabelError, RefinesegError
from refineseg.evaluate.measuring import EvaluationFiles, evaluate_to_files
from refineseg.predict.options import PredictorOptions
from refineseg.terminal.printing import Terminal
from refineseg.training.run import RunRequest, start_run

QUIET = Terminal(file=io.StringIO())


def healthy(root):
    """Three training pairs, one of validation, and the list of classes."""
    for i in range(4):
        put(root, f"{'train' if i < 3 else 'val'}/good{i}", *pair(i))
    listed = [{"id": i, "name": name, "color": list(colour)} for i, (name, colour) in enumerate(CLASSES)]
    (root / "classes.json").write_text(json.dumps({"ignore_index": 255, "classes": listed}))


def _refused(root, name, image, mask):
    put(root, name, image, mask)
    (root / "train" / "images").mkdir(parents=True)  # two layouts at once


def _bad_class_file(root, name, image, mask):
    (root / "classes.json").write_text("{")


def _missing_class_file(root, name, image, mask):
    (root / "classes.json").unlink()
    for path in (root / "masks").rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) // 85 * 7).save(path)


def _mixed_palettes(root, name, image, mask):
    """Two masks with the same two colours, of which each has another number in each of them."""
    for number, colours in enumerate(((90, 90, 90, 200, 0, 0), (200, 0, 0, 90, 90, 90))):
        put(root, f"{name}{number}", image + np.uint8(number), mask)
        file = Image.fromarray((mask == 1).astype(np.uint8), mode="P")
        file.putpalette(colours)
        file.save(root / "masks" / f"{name}{number}.png")


def _name_case(root, name, image, mask):
    put(root, name, image, mask)
    path = root / "images" / f"{name}.png"
    path.rename(path.with_name("BAD.PNG"))


PLANTED = MAKERS | {
    "refused": _refused,
    "bad_class_file": _bad_class_file,
    "missing_class_file": _missing_class_file,
    "name_case": _name_case,
    "mixed_palettes": _mixed_palettes,
}


def test_the_list_of_fatal_checks_is_all_that_the_doctor_calls_an_error():
    assert set(FATAL) == {kind for kind in KINDS if KINDS[kind].severity == "error"}


@pytest.mark.parametrize("kind", [kind for kind in FATAL if kind != "one_class"])  # which only training refuses
def test_training_evaluation_and_shards_refuse_or_handle_each_error_of_the_doctor(tmp_path, kind, caplog):
    root = tmp_path / "data"
    healthy(root)
    check_data(open_dataset("folder", root, split="train"))  # sound so far
    PLANTED[kind](root, "train/bad", *pair(20))
    found = {finding.kind for finding in examine(f"folder:{root}").findings if finding.severity == "error"}
    assert kind in found
    progress, out = Silent(), tmp_path / "run"
    request = RunRequest(tiny(1), f"folder:{root}", device="cpu")
    if FATAL[kind].outcome == "refused":
        with pytest.raises(RefinesegError) as error:
            start_run(request, out, progress=progress)
        assert not out.exists()
        assert FATAL[kind].found_by == "opening" or "bad" in str(error.value)
        with pytest.raises(RefinesegError):
            evaluate_to_files(
                "camvid",
                f"folder:{root}",
                "train",
                options=PredictorOptions.parse(),
                files=EvaluationFiles(out),
                console=QUIET,
            )
        with pytest.raises(RefinesegError):
            write_shards(open_dataset("folder", root, split="train"), str(out), ShardOptions("folder", "train"))
        assert not out.exists()
    elif FATAL[kind].outcome == "told":
        start_run(request, out, progress=progress)
        assert "are training images, too" in caplog.text
    else:  # colours that are those of the classes are read as meant; others are refused
        dataset = open_dataset("folder", root, split="train")
        bad = next(i for i in range(len(dataset)) if dataset.name(i) == "bad")
        mask = pair(20)[1]
        assert np.array_equal(dataset.read_mask(bad), np.where(mask == 255, 0, mask))
        check_data(dataset)


def test_a_palette_numbered_otherwise_is_told_with_file_and_remedy(tmp_path):
    root = tmp_path / "data"
    healthy(root)
    MAKERS["palette_mask"](root, "train/bad", *pair(20))
    with pytest.raises(LabelError) as error:
        check_data(open_dataset("folder", root, split="train"))
    text = str(error.value)
    assert text.startswith("expected data without errors, got 1 in 4 samples:\n")
    assert "masks/train/bad.png: palette_mask: palette masks whose colours say other classes" in text
    assert "refineseg doctor NAME:ROOT" in text


def encoded(kind, mode="RGB", **options):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    packed = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(packed, format=kind, **options)
    return packed.getvalue()


FILES = {
    "a.jpg": encoded("JPEG"),
    "b.png": encoded("PNG"),
    "c.gif": encoded("GIF", "P"),
    "d.webp": encoded("WEBP"),
    "e.bmp": encoded("BMP"),
    "f.tif": encoded("TIFF"),
    "g.tif": encoded("TIFF", compression="tiff_deflate"),
    "h.jp2": encoded("JPEG2000"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_whole_file_is_known_by_its_end_and_a_truncated_one_is_decoded_and_refused(tmp_path, name, monkeypatch):
    path, content = tmp_path / name, FILES[name]
    path.write_bytes(content)
    with Image.open(path) as image:
        kind = image.format
    assert ends_as_it_should(path, kind)
    with monkeypatch.context() as patched:
        patched.setattr(facts, "read_rgb", lambda _: pytest.fail("decoded"))
        assert facts.glance_at_image(path).hw == (40, 50)
    for share in (0.3, 0.6, 0.9, 0.99):
        path.write_bytes(content[: int(share * len(content))])
        try:
            assert not ends_as_it_should(path, kind)
        except OSError:
            pytest.fail("raised")


@pytest.mark.parametrize("name", ["bad.gif", "bad.tif"])
def test_a_mask_of_several_pictures_is_refused_and_of_an_image_training_says_it(tmp_path, name):
    root = tmp_path / "data"
    healthy(root)
    image, mask = pair(20)
    put(root, "train/bad", image, mask)
    (root / "images" / "train" / "bad.png").unlink()
    pages = [Image.fromarray(image[::-1])]
    Image.fromarray(image).save(root / "images" / "train" / name, save_all=True, append_images=pages)
    progress = Silent()
    start_run(RunRequest(tiny(1), f"folder:{root}", device="cpu"), tmp_path / "run", progress=progress)
    assert any(f"note: of 1 files of several pictures the first is read: {root}" in line for line in progress.said)
    (root / "masks" / "train" / "bad.png").unlink()
    Image.fromarray(mask).save(
        root / "masks" / "train" / name, save_all=True, append_images=[Image.fromarray(mask[::-1])]
    )
    with pytest.raises(RefinesegError, match=r"expected a mask of one picture, got .*bad\.\w+, which holds several"):
        check_data(open_dataset("folder", root, split="train"))
    kinds = {finding.kind for finding in examine(f"folder:{root}").findings}
    assert kinds >= {"unreadable_mask", "several_pictures"}


def test_a_truncated_image_is_named_before_training_and_the_repaired_rerun_works(tmp_path):
    root, out = write_folder(tmp_path / "d", splits={"train": 2, "val": 1}), tmp_path / "run"
    (root / "classes.txt").write_text("ground\nsky\nsquare\n")
    path = root / "images/train/001.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    request = RunRequest(tiny(1), f"folder:{root}", device="cpu")
    with pytest.raises(RefinesegError, match=r"1 of 2 images or masks cannot be used:\n.*001\.png"):
        start_run(request, out, progress=Silent())
    assert not out.exists()
    path.write_bytes(whole)
    start_run(request, out, progress=Silent())
    assert (out / "last.safetensors").is_file()


def test_damage_that_only_decoding_shows_leaves_no_run_behind_either(tmp_path):
    root, out = write_folder(tmp_path / "d", splits={"train": 2, "val": 1}), tmp_path / "run"
    path = root / "images/train/001.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    request = RunRequest(tiny(1), f"folder:{root}", device="cpu", num_workers=0)
    with pytest.raises(ImageError, match=r"001\.png"):
        start_run(request, out, progress=Silent())
    assert not out.exists()


def test_the_look_counts_the_same_pixels_as_the_reader(tmp_path):
    root = tmp_path / "data"
    healthy(root)
    MAKERS["rgb_mask"](root, "train/colours", *pair(20))
    dataset = open_dataset("folder", root, split="train")
    expected = sum(np.bincount(m[m < 3], minlength=3) for m in map(dataset.read_mask, range(len(dataset))))
    assert check_data(dataset).pixel_counts.tolist() == expected.tolist()


def test_camvid_is_sound(camvid_root):
    for split, count in (("val", 101),):
        record = check_data(open_dataset("camvid", camvid_root, split=split)).record
        assert len({image for _, image, _ in record.samples}) == count


def test_a_coloured_mask_of_several_pictures_is_refused_before_training(tmp_path):
    healthy(tmp_path)
    image, mask = pair(20)
    put(tmp_path, "train/bad", image, mask)[1].unlink()
    palette = np.array([colour for _, colour in CLASSES], np.uint8)
    page = Image.fromarray(palette[np.where(mask == 255, 0, mask)])
    page.save(tmp_path / "masks/train/bad.tif", save_all=True, append_images=[page.rotate(180)])
    with pytest.raises(RefinesegError, match="mask of one picture"):
        check_data(open_dataset("folder", tmp_path, split="train"))
    assert "unreadable_mask" in {found.kind for found in examine(f"folder:{tmp_path}").findings}
