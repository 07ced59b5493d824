"""Going on with something else: whatever a result depends on is recorded, compared, and told."""

import io
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from test_survival import same_weights

from conftest import write_folder
from fakes.runs import Silent, tensors
from refineseg.data.crops.options import CropOptions
from refineseg.data.datasets import open_dataset
from refineseg.data.samples.run_record import RECORD_NAME, RunRecord
from refineseg.data.shard_writer import ShardOptions, write_shards
from refineseg.errors import CheckpointError, DatasetError
from refineseg.networks.variants import NetworkOptions
from refineseg.predict.folder.files import FileOptions, predict_files
from refineseg.predict.folder.records import INPUTS_RECORD
from refineseg.predict.options import PredictorOptions
from refineseg.predict.outputs.kinds import Outputs
from refineseg.preprocessing import Preprocessing
from refineseg.segmenter import ModelSpec, Segmenter, build, load, load_spec
from refineseg.terminal.following import TerminalFollower
from refineseg.terminal.printing import Terminal
from refineseg.training.config import Phase, TrainingConfig
from refineseg.training.reproduction import train_within
from refineseg.training.run import RunRequest, resume_run, start_run
from refineseg.training.run_record import model_marks

PHASE = Phase(epochs=2, crops=CropOptions((48, 64), (1.0, 1.0)), batch_size=2, encoder_lr=1e-3, decoder_lr=2e-3)
CONFIG = TrainingConfig(
    recipe="test", variant="refineseg_nano", phases=(PHASE,), pretrained="no", precision="fp32", checkpoint_every_s=0.0
)


def classes(root, *names, ids=None, colours=None):
    listed = [{"id": i, "name": name} for i, name in zip(ids or range(len(names)), names, strict=True)]
    for entry, colour in zip(listed, colours or (), strict=False):
        entry["color"] = colour
    (root / "classes.json").write_text(json.dumps({"classes": listed}))


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A data set and a run that stopped after the first of two epochs."""
    folder = tmp_path_factory.mktemp("begun")
    root = write_folder(folder / "d", splits={"train": 4, "val": 1})
    classes(root, "ground", "sky", "square")
    start_run(
        RunRequest(CONFIG, f"folder:{root}", device="cpu", num_workers=0, stop_after_s=0.01),
        folder / "run",
        progress=Silent(),
    )
    return folder


@pytest.fixture
def place(begun, tmp_path):
    """A copy of both, elsewhere and with other times."""
    for name in ("d", "run"):
        shutil.copytree(begun / name, tmp_path / name, copy_function=shutil.copy)
    return tmp_path


def go_on(place):
    progress = Silent()
    resume_run(place / "run", data=f"folder:{place / 'd'}", device="cpu", num_workers=0, progress=progress)
    return progress.said


def _added(root):
    classes(root, "ground", "sky", "square", "tree")


def _removed(root):
    classes(root, "ground", "sky")
    for path in (root / "masks").rglob("*.png"):
        mask = np.asarray(Image.open(path)).copy()
        mask[mask == 2] = 0
        Image.fromarray(mask).save(path)


def _reordered(root):
    classes(root, "sky", "ground", "square")


def _renamed(root):
    classes(root, "ground", "heaven", "square")


def _other_ids(root):
    classes(root, "ground", "sky", "square", ids=(0, 2, 1))


def _other_colours(root):
    classes(root, "ground", "sky", "square", colours=[[1, 2, 3]])


def _merged(root):
    (root / "remap.json").write_text(json.dumps({"square": "ground"}))


def _image(root):
    path = root / "images/train/001.png"
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)


def _mask(root):
    path = root / "masks/train/001.png"
    mask = np.asarray(Image.open(path)).copy()
    mask[0, 0] = (mask[0, 0] + 1) % 3
    Image.fromarray(mask).save(path)


def _validation(root):
    path = root / "images/val/000.png"
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)


def _more(root):
    for kind in ("images", "masks"):
        shutil.copy(root / kind / "train/000.png", root / kind / "train/zzz.png")


def _fewer(root):
    for kind in ("images", "masks"):
        (root / kind / "train/003.png").unlink()


CHANGES = {
    _added: r"1 classes are new \(tree\)",
    _removed: r"1 classes are gone \(square\)",
    _reordered: r"2 classes stand in another order \(0 was ground and is sky",
    _renamed: r"1 classes are gone \(sky\).*1 classes are new \(heaven\)",
    _other_ids: "the values or colours that masks write for the classes are others",
    _other_colours: "3 classes have another colour",
    _merged: r"1 classes are gone \(square\)",
    _image: r"folder:train: 1 images have changed \(001\)",
    _mask: r"folder:train: 1 masks have changed \(001\)",
    _validation: r"validation on folder:val: 1 images have changed \(000\)",
    _more: r"folder:train: 1 samples are new \(zzz\)",
    _fewer: r"folder:train: 1 samples are gone \(003\)",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_a_run_does_not_go_on_with_other_data_and_says_what_differs_and_what_to_do(place, change):
    change(place / "d")
    before = {path.name: path.read_bytes() for path in (place / "run").iterdir() if path.is_file()}
    with pytest.raises(CheckpointError, match="(?s)" + CHANGES[change]) as error:
        go_on(place)
    assert "--init" in str(error.value)
    assert before == {path.name: path.read_bytes() for path in (place / "run").iterdir() if path.is_file()}


@pytest.mark.slow
def test_a_copy_of_the_data_elsewhere_is_the_same_data_and_gives_the_same_weights(begun, place):
    go_on(place)
    start_run(
        RunRequest(CONFIG, f"folder:{begun / 'd'}", device="cpu", num_workers=0), place / "whole", progress=Silent()
    )
    assert same_weights(place / "run", place / "whole")


def test_a_run_of_an_earlier_version_goes_on_with_a_note_and_is_recorded_from_then_on(place):
    (place / "run" / RECORD_NAME).unlink()
    assert any("no record of its data" in line for line in go_on(place))
    assert (place / "run" / RECORD_NAME).is_file()


def test_the_classes_of_a_run_of_an_earlier_version_are_known_from_its_model(place):
    (place / "run" / RECORD_NAME).unlink()
    _added(place / "d")
    with pytest.raises(CheckpointError, match=r"1 classes are new \(tree\)"):
        go_on(place)


@pytest.mark.parametrize("content", ["{", "[" * 5000, '{"format": 2}', '{"format": 1, "data": 3}'])
def test_a_damaged_or_newer_record_is_an_error_in_words(place, content):
    (place / "run" / RECORD_NAME).write_text(content)
    with pytest.raises(CheckpointError, match=r"expected .*record.*data\.json"):
        go_on(place)


def test_a_run_that_had_learned_nothing_begins_with_the_data_of_now(place):
    for name in ("checkpoint.pt", "last.safetensors", "best.safetensors"):
        (place / "run" / name).unlink()
    _added(place / "d")
    assert any("1 classes are new (tree); it had learned nothing yet" in line for line in go_on(place))
    assert load_spec(place / "run/last.safetensors").class_info.names == ("ground", "sky", "square", "tree")


@pytest.mark.slow
def test_a_run_does_not_go_on_with_another_teacher(begun, tmp_path):
    teacher = tmp_path / "teacher.safetensors"
    load(begun / "run/last.safetensors").save(teacher)
    config = replace(CONFIG, teacher=str(teacher))
    data, out = f"folder:{begun / 'd'}", tmp_path / "run"
    start_run(RunRequest(config, data, device="cpu", num_workers=0, stop_after_s=0.01), out, progress=Silent())
    build("refineseg_nano", class_info=load_spec(teacher).class_info).save(teacher)
    with pytest.raises(CheckpointError, match="the file of the teacher has changed"):
        resume_run(out, data=None, device="cpu", num_workers=0, progress=Silent())


def test_a_run_that_started_from_a_model_goes_on_with_that_models_network(begun, tmp_path):
    """Options of the network that change no tensor, and such that change many; pixels; and the licence."""
    info = load_spec(begun / "run/last.safetensors").class_info
    options = NetworkOptions(width=0.5, align_corners=True)
    source = Segmenter(ModelSpec("refineseg_nano", info, Preprocessing.tensorflow(), options, licence="of the model"))
    source.save(tmp_path / "source.safetensors")
    request = {"config": CONFIG, "data": f"folder:{begun / 'd'}", "init": str(tmp_path / "source.safetensors")}
    stopped = RunRequest(**request, device="cpu", num_workers=0, stop_after_s=0.01)
    start_run(stopped, tmp_path / "run", progress=Silent())
    resume_run(tmp_path / "run", data=None, device="cpu", num_workers=0, progress=Silent())
    start_run(RunRequest(**request, device="cpu", num_workers=0), tmp_path / "whole", progress=Silent())
    again, whole = (load_spec(tmp_path / name / "last.safetensors") for name in ("run", "whole"))
    assert again.options == whole.options == source.spec.options
    assert again.preprocessing == source.spec.preprocessing
    assert again.licence == whole.licence == "of the model"
    assert same_weights(tmp_path / "run", tmp_path / "whole")


def test_a_teacher_that_is_not_there_is_not_said_to_have_changed(begun, tmp_path):
    known = RunRecord({}, {"teacher": "0" * 64})
    assert known.differences(RunRecord({}, model_marks("away/teacher.safetensors", None, None))) == [
        "there is no teacher away/teacher.safetensors (a relative path counts from the folder of the command)"
    ]


def test_the_seeds_of_a_reproduction_learn_from_the_same_data(place):
    _image(place / "d")
    with pytest.raises(CheckpointError, match=r"1 images have changed \(001\)"):
        train_within(
            place / "seed1",
            CONFIG,
            f"folder:{place / 'd'}",
            device="cpu",
            progress=Silent(),
            same_data_as=place / "run",
        )
    assert not (place / "seed1").exists()


def test_writing_shards_does_not_go_on_with_changed_masks(place):
    root, out = place / "d", place / "shards"
    options = ShardOptions("folder", "train", shard_bytes=1)
    dataset = open_dataset("folder", root, split="train")

    def interrupt(done, _total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(dataset, str(out), options, report=interrupt)
    _mask(root)
    with pytest.raises(DatasetError, match="expected the same data and options as in"):
        write_shards(open_dataset("folder", root, split="train"), str(out), options)


@pytest.fixture(scope="module")
def predict():
    """Predict a folder into another; what was said, and how many images were done and kept."""
    options = PredictorOptions.parse(device="cpu")

    def run(source, out, *, resume=True):
        said = io.StringIO()
        result = predict_files(
            [source],
            out,
            model="camvid",
            options=options,
            files=FileOptions(Outputs.parse("mask"), resume=resume),
            follower=TerminalFollower(Terminal(file=said, width=1000)),
        )
        return said.getvalue(), result.done, result.resumed

    return run


def photo(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), np.uint8)
    Image.fromarray(np.kron(pixels, np.ones((8, 8, 1), np.uint8))).save(path, format="BMP")  # all of one length


def stale(folder, predict, tmp_path):
    """Whether a mask differs from that of a fresh prediction."""
    predict(folder, tmp_path / "fresh", resume=False)
    return [
        path.name
        for path in (tmp_path / "fresh").glob("*.png")
        if path.read_bytes() != (tmp_path / "out" / path.name).read_bytes()
    ]


def _newer(path):
    photo(path, 7)


def _older(path):
    photo(path, 7)
    os.utime(path, (1e9, 1e9))


def _same_times_and_length(path):
    times = path.stat()
    photo(path, 7)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.slow_except("_newer")
@pytest.mark.parametrize("change", [_newer, _older, _same_times_and_length])
def test_resumed_predictions_of_a_replaced_image_are_made_anew_and_it_is_said(tmp_path, predict, change):
    for i in range(3):
        photo(tmp_path / f"in/{i}.bmp", i)
    assert predict(tmp_path / "in", tmp_path / "out", resume=False)[1:] == (3, 0)
    assert predict(tmp_path / "in", tmp_path / "out")[1:] == (0, 3)
    change(tmp_path / "in/1.bmp")
    said, *counts = predict(tmp_path / "in", tmp_path / "out")
    assert counts == [1, 2]
    assert "in/1.bmp or its result has changed since: it is predicted anew" in said
    assert stale(tmp_path / "in", predict, tmp_path) == []
    assert predict(tmp_path / "in", tmp_path / "out")[1:] == (0, 3)


def test_a_copy_of_the_images_is_the_same_and_other_images_of_the_same_names_are_not(tmp_path, predict):
    for i in range(2):
        photo(tmp_path / f"in/{i}.bmp", i)
        photo(tmp_path / f"other/{i}.bmp", i + 10)
    predict(tmp_path / "in", tmp_path / "out", resume=False)
    shutil.copytree(tmp_path / "in", tmp_path / "copy", copy_function=shutil.copy)
    assert predict(tmp_path / "copy", tmp_path / "out")[1:] == (0, 2)
    assert predict(tmp_path / "other", tmp_path / "out")[1:] == (2, 0)
    assert stale(tmp_path / "other", predict, tmp_path) == []


def test_images_in_a_zip_file_are_compared_too(tmp_path, predict):
    for i in range(2):
        photo(tmp_path / f"in/{i}.bmp", i)
    archive = tmp_path / "in.zip"
    shutil.make_archive(str(tmp_path / "in"), "zip", tmp_path / "in")
    predict(archive, tmp_path / "out", resume=False)
    assert predict(archive, tmp_path / "out")[1:] == (0, 2)
    photo(tmp_path / "in/1.bmp", 7)
    archive.unlink()
    shutil.make_archive(str(tmp_path / "in"), "zip", tmp_path / "in")
    assert predict(archive, tmp_path / "out")[1:] == (1, 1)


def test_results_of_an_earlier_version_are_kept_unless_the_image_is_newer(tmp_path, predict):
    for i in range(2):
        photo(tmp_path / f"in/{i}.bmp", i)
    predict(tmp_path / "in", tmp_path / "out", resume=False)
    (tmp_path / "out" / INPUTS_RECORD).unlink()
    assert predict(tmp_path / "in", tmp_path / "out")[1:] == (0, 2)
    photo(tmp_path / "in/1.bmp", 7)
    assert predict(tmp_path / "in", tmp_path / "out")[1:] == (1, 1)


def test_a_record_cut_off_in_its_last_line_is_read_as_far_as_it_goes(tmp_path, predict):
    for i in range(2):
        photo(tmp_path / f"in/{i}.bmp", i)
    predict(tmp_path / "in", tmp_path / "out", resume=False)
    record = tmp_path / "out" / INPUTS_RECORD
    record.write_bytes(record.read_bytes()[:-5])
    assert predict(tmp_path / "in", tmp_path / "out")[1:] == (0, 2)


def test_new_classes_on_a_model_are_drawn_by_the_seed(folder_root, tmp_path):
    build("refineseg_nano", num_classes=7).save(tmp_path / "seven.safetensors")
    heads = []
    for state, seed in ((0, 1), (5, 1), (0, 2)):
        phase = replace(PHASE, epochs=1, encoder_lr=0.0, decoder_lr=0.0)
        config = replace(CONFIG, phases=(phase,), seed=seed, weight_decay=0.0, ema_decay=None)
        torch.manual_seed(state)  # what an earlier call left behind
        out = tmp_path / f"{state}_{seed}"
        request = RunRequest(config, f"folder:{folder_root}", device="cpu", init=str(tmp_path / "seven.safetensors"))
        start_run(request, out, progress=Silent())
        heads.append(tensors(out / "last.safetensors")["decoder.classifier.weight"])
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
