"""A table of calls over all verbs: exit status and message; a wrong call ends before anything heavy is imported.

The whole table is run by one process that has never imported PyTorch, and must not have done so at its end.
"""

import errno
import json
import os
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from conftest import write_folder
from refineseg import cli
from refineseg.errors import ConfigError
from refineseg.terminal import arguments

HEAVY = ("torch", "timm", "lightning", "safetensors", "onnxruntime", "openvino", "matplotlib", "mlflow")

RUN_ALL = """
import contextlib, io, json, sys, time
import typer
from refineseg import cli
command = typer.main.get_command(cli.app)
typer.main.get_command = lambda app: command  # built once, not for every call
results = []
for arguments in json.load(sys.stdin):
    sys.argv = ["refineseg", *arguments]
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            status = end.code or 0
        except BaseException as error:
            status = f"{type(error).__name__}: {error}"
    heavy = [name for name in HEAVY if name in sys.modules]
    results.append([status, out.getvalue(), err.getvalue(), heavy])
print(json.dumps(results))
"""

NO_MODEL = r"expected a shipped model \(camvid, .*nyud_lite2\) or a \.safetensors file, got "
OWN = "for your own images say folder:mine$"
A_FILE = "note.txt exists and is a file; choose another"
CANNOT = "cannot be written to .*; choose a folder that can be written to"
NUMBER = "Input should be a valid|is not a valid"

# See play(): mine (a data set), pics (with a picture), empty, a.png, note.txt, orig.pth, run (a broken run).
WRONG = [
    # verbs
    ("segment", 2, "No such command 'segment'"),
    ("evaluat", 2, "No such command 'evaluat'. Did you mean 'evaluate'"),
    ("datasets x", 2, "unexpected extra argument"),
    ("models --jsn x", 2, "No such option:? '?--jsn.*--json"),
    # predict
    ("predict", 2, "Missing argument 'INPUT...'"),
    ("predict a.png", 2, "Missing option '--out'"),
    ("predict a.png --out ''", 2, "expected something after --out, got an empty text"),
    ("predict a.png --out=", 2, "expected something after --out, got an empty text"),
    ("predict a.png --out o --model nope", 2, NO_MODEL + "'nope', which is neither$"),
    ("predict a.png --out o --model camvd", 2, NO_MODEL + "'camvd', .*; near: camvid"),
    ("predict a.png --out o --model ./nope.safetensors", 2, NO_MODEL + ".*but there is no such file$"),
    ("predict a.png --out o --model run/bst.safetensors", 2, "no such file; near: run/best.safetensors$"),
    ("predict a.png --out o --model run", 2, "which is a folder; name run/best.safetensors$"),
    ("predict a.png --out o --model mine", 2, "which is a folder; name a model file in it"),
    ("predict a.png --out o --model note.txt/x.safetensors", 2, "but there is no such file"),
    ("predict a.png --out o --model orig.pth", 2, "refineseg convert orig.pth --variant NAME --out orig.safetensors$"),
    ("predict a.png --out o --model no/rf.pth.tar", 2, "refineseg convert no/rf.pth.tar .* --out no/rf.safetensors$"),
    ("predict a.png --out o --model refinenet_lw_resnet50", 2, "is a network without weights; train it"),
    ("predict a.png --out o --model absent.onnx", 2, "expected an exported file, but there is no absent.onnx"),
    ("predict a.png --out note.txt", 2, "expected --out FOLDER, got note.txt, but .*" + A_FILE),
    ("predict a.png --out note.txt/deep/o", 2, "expected --out FOLDER, got note.txt/deep/o, but .*" + A_FILE),
    ("predict a.png --out /proc/nope", 2, "expected to write --out /proc/nope, but /proc " + CANNOT),
    ("predict a.png --out .", 2, "results would overwrite a.png; choose another folder"),
    ("predict a.png --out o --json pics", 2, "expected --json FILE, got pics, which is a folder; name a file in it"),
    ("predict a.png --out o --json note.txt/x.json", 2, "expected --json FILE, .*" + A_FILE),
    ("predict a.png --out o --json /proc/nope/x.json", 2, CANNOT),
    ("predict a.png --out o --json /dev/null", 2, "a device or a pipe; name an ordinary file"),
    ("predict a.png --out o --json a.png", 2, "expected --json as a new file or an earlier result, got a.png"),
    ("predict pics --out o --json pics/b.png", 2, "expected --json as a new file or an earlier result, got pics/b.png"),
    ("predict a.png --out o --json o", 2, "expected --json FILE apart from --out FOLDER, got o"),
    ("predict a.png --out o/deep --json o", 2, "expected --json FILE apart from --out FOLDER, got o/deep below it"),
    ("predict a.png --out o --areas t.json --json t.json", 2, "expected different files as --areas and --json"),
    ("predict a.png --out o --areas t.xlsx", 2, r"expected --areas FILE ending in \.csv or \.json, got t.xlsx"),
    ("predict a.png --out o --areas note.txt/t.csv", 2, "expected --areas FILE, .*" + A_FILE),
    ("predict a.png --out o --backend tensorflow", 2, "expected a backend of auto, .*got 'tensorflow'; near: tensorrt"),
    ("predict a.png --out o --backend torch_export", 2, "expected an exported file .* got camvid; export it first"),
    ("predict a.png --out o --backend onnxruntime --precision bfloat16", 2, "backends that have it: .*torch"),
    ("predict a.png --out o --backend openvino --device cuda", 2, r"expected a device of openvino \(cpu\), got cuda"),
    ("predict a.png --out o --backend openvino --protocol authors", 2, "expected --backend torch .* got openvino"),
    ("predict a.png --out o --device tpu", 2, "expected a device of this machine .* got 'tpu'; use auto"),
    ("predict a.png --out o --device cuda:x", 2, "expected a device of this machine"),
    ("predict a.png --out o --precision half", 2, "expected a precision of float32, bfloat16, got 'half'"),
    ("predict a.png --out o --scales 1,a", 2, "expected --scales as numbers with commas"),
    ("predict a.png --out o --scales 0", 2, "each above 0 and at most 8, got 0"),
    ("predict a.png --out o --scales nan", 2, "each above 0 and at most 8, got nan"),
    ("predict a.png --out o --protocol author", 2, "expected a protocol .* near: authors"),
    ("predict a.png --out o --protocol authors --flip", 2, "has none; leave --flip out"),
    ("predict a.png --out o --enlargement 1.2", 2, "expected an enlargement only with the authors' protocols"),
    ("predict a.png --out o --save mask,depth", 2, "expected --save with some of mask, .* got depth"),
    ("predict a.png --out o --tile large", 2, "expected --tile auto, off or a number of pixels, got 'large'"),
    ("predict a.png --out o --tile 7", 2, "expected tiles of at least 32 pixels, got 7"),
    ("predict a.png --out o --tile-mode fast", 2, "expected --tile-mode of exact, blend"),
    ("predict a.png --out o --tile-mode blend --overlap -1", 2, "expected an overlap from 0"),
    ("predict a.png --out o --overlap x", 2, NUMBER),
    ("predict a.png --out o --memory lots", 2, "expected an amount of memory such as 4GB"),
    ("predict a.png --out o --memory 0", 2, "expected an amount of memory such as 4GB"),
    ("predict a.png --out o --unknown-below 60", 2, "expected a probability 0..1"),
    ("predict a.png --out o --unknown-below nan", 2, "expected a probability 0..1"),
    ("predict a.png --out o --batch-size 0", 2, "expected a batch size of at least 1, got 0"),
    ("predict a.png --out o --batch-size 99999999999999999999", 2, "expected a batch size of at most 4096"),
    ("predict a.png --out o --workers 100000", 2, "expected a number of workers of at most 4096"),
    ("predict a.png --out o --workers two", 2, NUMBER),
    ("predict a.png --out o --bands red", 2, "expected --bands as whole numbers"),
    ("predict a.png --out o --percentiles 98,2", 2, "expected two rising percentiles"),
    ("predict a.png --out o --value-range 3", 2, "expected --value-range as 2 numbers"),
    ("predict a.png --out o --nodata none", 2, "expected --nodata as a number"),
    ("predict a.png --out o --smooth 2", 2, "expected smooth between 0 and 1"),
    ("predict a.png --out o --seconds -1", 2, "expected seconds between 0"),
    ("predict a.png --out o --live maybe", 2, "expected live to be auto, yes, no"),
    ("predict a.png --out o --save polygons --simplify -1", 2, "expected simplify to be a number of pixels from 0 on"),
    ("predict a.png --out o --save polygons --polygon-format shp", 2, "expected a polygon format of geojson, coco"),
    (
        "predict a.png --out o --save probabilities --probability-format png",
        2,
        "expected a probability format of npz, tiff",
    ),
    ("predict a.png --out o --save confidence --confidence-format jpg", 2, "expected a confidence format of png8"),
    ("predict a.png --out o --save polygons --classes road,nope", 2, "expected classes of sky, .* got nope"),
    ("predict a.png --out o --tile 256 --flip", 2, "expected --tile only as auto or off with --scales, --flip"),
    ("predict a.png --out o --tile 256 --scales 0.5,1", 2, "expected --tile only as auto or off"),
    ("predict nope.png --out o --json j.json --areas a.csv", 1, "^skipped: .* there is no nope.png$"),
    ("predict nope.png --out o", 1, "^skipped: expected an image or a folder, but there is no nope.png$"),
    ("predict nope.png nope2 --out o", 1, "there is no nope.png\n.*there is no nope2$"),
    ("predict empty --out o", 1, "expected images in empty, found none"),
    ("predict '' --out o", 1, "got an empty name"),
    ("train --data folder:mine --out mine/images/train/run", 2, "expected --out apart from the images of mine"),
    ("evaluate --model run/best.safetensors --data folder:mine --split val --out mine/images/val/o", 2, "apart from"),
    # evaluate
    ("evaluate", 2, "Missing option '--data'"),
    ("evaluate --data mine", 2, OWN),
    ("evaluate --data cityscapes", 2, "expected NAME:ROOT, .* got 'cityscapes'; say where it lies: cityscapes:FOLDER$"),
    ("evaluate --data cityscape:x", 2, "got 'cityscape:x'; near: cityscapes$"),
    ("evaluate --data folde:mine", 2, "got 'folde:mine'; near: folder$"),
    ("evaluate --data qqq:mine", 2, "`refineseg datasets` lists the names$"),
    ("evaluate --data s3://bucket/x", 2, "say what lies there: folder:s3://bucket/x$"),
    ("evaluate --data folder:", 2, "expected a folder after folder:, got none; folder:. is the current folder"),
    ("evaluate --data folder:min", 2, "got 'min', which is not there; near: mine$"),
    ("evaluate --data camvid:mine", 2, "expected CamVid in mine, but there is no"),
    ("evaluate --data folder:mine --split tst", 2, "expected a split of train, val .* got 'tst'"),
    ("evaluate --data folder:mine --split train+tst", 2, "expected a split of train, val .* got 'tst'"),
    ("evaluate --data voc:mine --split vall", 2, "expected a VOC split of train, val"),
    ("evaluate --data folder:mine+folder:mine", 2, "expected every data set once"),
    ("evaluate --data folder:mine --out note.txt", 2, A_FILE),
    ("evaluate --data folder:mine --json pics", 2, "expected --json FILE, got pics, which is a folder"),
    ("evaluate --data folder:mine --submission s", 2, "expected --submission with a data set of voc, cityscapes"),
    ("evaluate --data folder:mine --pictures -1", 2, "expected --pictures of at least 0, got -1"),
    ("evaluate --data folder:mine --against nope.json", 2, "as --against, but there is no nope.json"),
    ("evaluate --data folder:mine --against note.txt", 2, "expected a result of `refineseg evaluate --json`"),
    ("evaluate --data folder:mine --model orig.pth", 2, "refineseg convert orig.pth"),
    ("evaluate --data folder:mine --backend tensorflow", 2, "near: tensorrt"),
    ("evaluate --data folder:mine --scales x", 2, "expected --scales as numbers"),
    ("evaluate --data folder:mine --device x", 2, "expected a device of this machine"),
    # train
    ("train", 2, "expected --out FOLDER for the run"),
    ("train --out o", 2, "expected --data NAME:ROOT"),
    ("train --data mine --out o", 2, OWN),
    ("train --data folder:mine --out note.txt", 2, A_FILE),
    ("train --data folder:mine --out run", 2, "expected a folder without a run, got run; go on with it by --resume"),
    ("train nope --data folder:mine --out o", 2, "expected a recipe, got 'nope'; `refineseg models` lists them$"),
    ("train camvid_refineseg_nan --data folder:mine --out o", 2, "near: camvid_refineseg_nano, [^,]*, [^,]*$"),
    ("train --data folder:mine --out o --variant refinenet_lw_resnet5", 2, "near: refinenet_lw_resnet50, "),
    ("train --data folder:mine --out o --variant refinenet_lw:resnet5", 2, "a timm model .* near: resnet50"),
    ("train --data folder:mine --out o --variant refinenet:qqqqqq", 2, r"timm\.list_models\(\) lists them$"),
    ("train --data folder:mine --out o --set variant=refinenet_lw:convnex_tiny", 2, "near: convnext_tiny"),
    ("train --data folder:mine --out o --set colour=9", 2, "expected colour in 0..1, got 9"),
    ("train --data folder:mine --out o --set colur=0.1", 2, "got 'colur=0.1'; near: colour"),
    ("train --data folder:mine --out o --set colour", 2, "got 'colour'; write --set colour=VALUE"),
    ("train --data folder:mine --out o --set phases.0.epoch=3", 2, "near: phases.0.epochs"),
    ("train --data folder:mine --out o --set network.widht=2", 2, "near: network.width"),
    ("train --data folder:mine --out o --set weight_decay=NaN", 2, "weight_decay to be a finite number, got nan"),
    ("train --data folder:mine --out o --set seed=abc", 2, "expected config.seed to be int, got 'abc'"),
    ("train --data folder:mine --out o --set teacher=nope", 2, NO_MODEL + "'nope'"),
    ("train --data folder:mine --out o --set train_split=trian", 2, "expected a split of train, val"),
    ("train --data folder:mine --out o --epochs 0", 2, "expected phase.epochs of at least 1, got 0"),
    ("train --data folder:mine --out o --lr nan", 2, "expected learning rates of at least 0"),
    ("train --data folder:mine --out o --minutes nan", 2, "expected --minutes above 0, got nan"),
    ("train --data folder:mine --out o --budget soon", 2, "such as 90s, 5m or 1.5h, of a year at most, got 'soon'"),
    ("train --data folder:mine --out o --budget 5m --epochs 3", 2, "expected --budget alone"),
    ("train --data folder:mine --out o --workers -1", 2, "expected --workers of at least 0, got -1"),
    ("train --data folder:mine --out o --device gpu", 2, "expected a device of this machine"),
    ("train --data folder:mine --out o --log comet", 2, "mlflow:URI, wandb, wandb:PROJECT, got 'comet'"),
    ("train --data folder:mine --out o --config nope.json", 2, "as --config, but there is no nope.json"),
    ("train --data folder:mine --out o --config pics", 2, "got pics, which is a folder"),
    ("train --data folder:mine --out o --init camvid --variant x", 2, "expected a variant, got 'x'"),
    ("train --data folder:mine --out o --init camvid --pretrained", 2, "expected --init without --pretrained"),
    ("train --data folder:mine --out o --init camvid --set variant=x", 2, "expected --variant NAME beside --init"),
    ("train --data folder:mine --out o --init orig.pth", 2, "refineseg convert orig.pth"),
    ("train --data folder:mine --out o --encoder-weights nope", 2, "as --encoder-weights, but there is no nope"),
    ("train nyud_refinenet_lw_resnet50 --data folder:mine --out o", 2, "expected a split of train, val .* 'test'"),
    ("train voc_refinenet_lw_resnet50 --data folder:mine --out o", 2, "expected data for coco_voc:train"),
    ("train --resume --out o", 2, "expected a run to resume in o, but there is no run.json"),
    ("train --resume --out run", 2, "expected the description of a run in run/run.json, which is damaged"),
    ("train --resume --out o --epochs 3", 2, "a run keeps its settings"),
    # export, convert
    ("export --out m.xyz", 2, "expected a file name ending in .onnx, .xml, .pt2 as --out, got m.xyz"),
    ("export --out m.onnx --model nope", 2, NO_MODEL),
    ("export --out m.onnx --format openvno", 2, "expected --format onnx, openvino, .* got 'openvno'"),
    ("export --out note.txt/m.onnx", 2, "expected --out FILE, .*" + A_FILE),
    ("export --out m.onnx --outputs mask", 2, "expected --outputs of class_map, logits, got mask"),
    ("export --out m.onnx --size 0x0", 2, "expected a size HEIGHTxWIDTH"),
    ("export --out m.onnx --precision int8", 2, "expected --precision int8 and --calibrate NAME:ROOT together"),
    ("export --out m.onnx --precision int8 --calibrate folder:mine", 2, "expected --format openvino with .* int8"),
    (f"export --out {'n' * 250}.onnx --accept folder:mine", 2, "at most 239 bytes as --out with --accept, .*got 255"),
    (f"export --out {'n/' * 2100}m.onnx", 2, "whose name is too long"),
    ("export --out m.onnx --accept mine", 2, OWN),
    ("export --out m.onnx --accept folder:mine --agreement 2", 2, "expected --agreement of at most 1, got 2"),
    ("export --out m.onnx --accept folder:mine --check", 2, "is checked as --out, but there is no m.onnx"),
    ("convert orig.pht --variant refineseg_nano --out m.safetensors", 2, "there is no orig.pht; near: orig.pth"),
    ("convert pics --variant refineseg_nano --out m.safetensors", 2, "got pics, which is a folder"),
    ("convert orig.pth --variant refinenet_lw_resnet5 --out m.safetensors", 2, "near: refinenet_lw_resnet50"),
    ("convert orig.pth --variant refineseg_nano --out m.pth", 2, "expected --out FILE.safetensors, got m.pth"),
    ("convert orig.pth --variant refineseg_nano --out note.txt/m.safetensors", 2, A_FILE),
    ("convert orig.pth --variant refineseg_nano --out m.safetensors --classes nyu", 2, "got 'nyu'; near: nyud$"),
    ("convert orig.pth --variant refineseg_nano --out m.safetensors --void keep", 2, "with a .mat file only"),
    # bench
    ("bench --model refinenet_lw_resnet5", 2, "or a variant, got 'refinenet_lw_resnet5'; near: refinenet_lw_resnet50"),
    ("bench --model refinenet_lw:regnety_3", 2, "near: regnety_"),
    ("bench --size 5", 2, "expected a size HEIGHTxWIDTH"),
    ("bench --backend tensorflow", 2, "near: tensorrt"),
    ("bench --precision half", 2, "expected a precision of float32, bfloat16, int8, got 'half'"),
    ("bench --batch 0", 2, "expected --batch-size of at least 1, got 0"),
    ("bench --batch 99999999999", 2, "expected --batch-size of at most 4096"),
    ("bench --repeats 99999999999999", 2, "expected --repeats of at most 1e.06"),
    ("bench --stages note.txt", 2, "expected a folder of images as --stages, got note.txt, where there is none"),
    ("bench --stages empty", 2, "expected a folder of images as --stages, got empty, where there is none"),
    ("bench --folder nope", 2, "as --folder, but there is no nope"),
    ("bench --training nope --data folder:mine", 2, "expected a recipe, got 'nope'"),
    ("bench --counts --json pics", 2, "expected --json FILE, got pics, which is a folder"),
    # doctor, models, shard, card, reproduce
    ("doctor mine", 2, OWN),
    ("doctor voc:a+sbd:b", 2, "expected one data set here, got voc:a and sbd:b; run this for each of them"),
    ("doctor folder:mine --out c", 2, "expected --out with --fix"),
    ("doctor folder:mine --html pics", 2, "expected --html FILE, got pics, which is a folder"),
    ("doctor folder:mine --json x --html x", 2, "expected different files as --html and --json"),
    ("doctor folder:mine --fix --out note.txt", 2, A_FILE),
    ("models --json note.txt/x.json", 2, A_FILE),
    ("shard mine --split train --out s", 2, OWN),
    ("shard folder:mine --split tst --out s", 2, "expected a split of train, val"),
    ("shard folder:mine --split train --out note.txt", 2, A_FILE),
    ("shard folder:mine --split train --out s --megabytes 0", 2, "expected --megabytes above 0"),
    ("shard folder:mine --split train --out s --megabytes 1e-9", 2, "expected --megabytes above 0"),
    ("shard folder:mine --split train --out s3://", 2, "expected an address such as s3://bucket/prefix, got s3:"),
    ("shard folder:mine --split train --out ftp://host/x", 2, "an address that can be written to"),
    ("shard folder:mine --split train+train --out s", 2, "expected every split once, got 'train.train'"),
    ("card --data folder:mine --split val --out note.txt", 2, A_FILE),
    ("card --data folder:mine --split val --out c --failures -1", 2, "expected --pictures of at least 0"),
    ("card --data folder:mine --split val --out c --card pics", 2, "expected --card FILE, got pics"),
    ("card --data folder:mine --split val --out c --history no.jsonl", 2, "as --history, but there is no no.jsonl"),
    ("reproduce cmvid --data camvid:mine --out o", 2, "expected one of camvid to reproduce, got 'cmvid'"),
    ("reproduce camvid --data folder:mine --out o", 2, "expected --data camvid:ROOT to reproduce camvid"),
    ("reproduce camvid --data camvid:mine --out o", 2, "expected CamVid in mine"),
    ("reproduce camvid --data camvid:mine --out o --seeds 1,1", 2, "expected --seeds as different numbers"),
    ("reproduce camvid --data camvid:mine --out o --recipe nope", 2, "expected a recipe, got 'nope'"),
    # serve, demo
    ("serve x", 2, "unexpected extra argument"),
    ("serve --port 70000", 2, "expected --port of at most 65535, got 70000$"),
    ("serve --model nope", 2, NO_MODEL + "'nope', which is neither$"),
    ("serve --model a=camvid --model a=camvid_nano", 2, "of different names, got a twice; .*--model NAME=FILE$"),
    ("serve --backend torh", 2, "expected a backend of .*; near: torch"),
    ("serve --threads 0", 2, "expected --threads of at least 1, got 0$"),
    ("serve --token-file gone", 2, "expected a file as --token-file, but there is no gone$"),
    ("serve --token-file note.txt", 2, "expected a token of at least 16 letters and digits"),
    ("demo", 2, "Missing argument 'OUT'"),
    ("demo o --model nope", 2, NO_MODEL + "'nope', which is neither$"),
    ("demo o --model m.onnx", 2, "or a .safetensors file, which is exported here, got m.onnx$"),
    ("demo note.txt", 2, A_FILE),
    ("demo o --runtime empty", 2, "expected a copy of onnxruntime-web .* as --runtime, got empty"),
]

RIGHT = [
    *((f"{verb} --help", 0, "^$") for verb in ("", "predict", "train", "evaluate", "bench", "export", "doctor")),
    ("--version", 0, "^$"),
    ("datasets", 0, "^$"),
]


def play(folder):
    """Files for the calls."""
    write_folder(folder / "mine", splits={"train": 1, "val": 1}, size=(40, 50))
    (folder / "mine" / "classes.txt").write_text("ground\nsky\nsquare\n")
    for name in ("empty", "pics", "run"):
        (folder / name).mkdir()
    for name in ("a.png", "pics/b.png"):
        Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(folder / name)
    for name in ("note.txt", "orig.pth", "run/best.safetensors"):
        (folder / name).write_text("x")
    (folder / "run" / "run.json").write_text("{}")


def tree(folder):
    return {str(path): path.stat().st_mtime_ns if path.is_file() else 0 for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Status, stdout, stderr and heavy imports of every call, and what was there before and after them."""
    folder = tmp_path_factory.mktemp("calls")
    play(folder)
    before = tree(folder)
    done = subprocess.run(
        [sys.executable, "-c", f"HEAVY = {HEAVY!r}\n{RUN_ALL}"],
        input=json.dumps([shlex.split(line) for line, _, _ in [*WRONG, *RIGHT]]),
        cwd=folder,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = dict(zip((line for line, _, _ in [*WRONG, *RIGHT]), json.loads(done.stdout), strict=True))
    return SimpleNamespace(found=found, before=before, after=tree(folder))


@pytest.mark.parametrize(("line", "status", "message"), [*WRONG, *RIGHT], ids=lambda value: str(value)[:70])
def test_every_call_has_its_exit_status_and_one_message(answers, line, status, message):
    got, out, err, heavy = answers.found[line]
    assert got == status, err
    assert re.search(message, err.strip(), re.MULTILINE), err
    assert "Traceback" not in err
    assert not heavy, f"loaded {heavy}"
    if status:
        assert out == ""
        lines = [text for text in err.splitlines() if text and not text.startswith(("Usage:", "Try "))]
        assert len(lines) == (2 if "nope2" in line else 1)
        assert len(lines[0]) < 400


def test_the_table_has_all_verbs_and_wrong_calls_leave_nothing_behind(answers):
    verbs = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    assert verbs <= {line.split()[0] for line, _, _ in WRONG if line} | {"datasets"}
    assert len(WRONG) >= 80
    assert answers.after == answers.before


def test_names_that_are_not_known_never_bring_the_whole_list(answers):
    from refineseg.data.datasets import DATASETS
    from refineseg.networks.variants import VARIANTS
    from refineseg.training.recipes.table import RECIPES

    for line, (status, _, err, _) in answers.found.items():
        for table in (DATASETS, VARIANTS, RECIPES):
            shown = [name for name in table if re.search(rf"(?<![\w/]){name}(?!\w)", err)]
            assert not status or len(shown) <= 5, f"{line}: {shown}"


@pytest.mark.parametrize(
    ("name", "known", "near"),
    [
        ("Cityscapes", ["voc", "cityscapes"], ["cityscapes"]),
        ("colur", ["phases", "colour", "seed"], ["colour"]),
        ("qqq", ["voc", "cityscapes"], []),
        ("", ["voc"], []),
        ("nano", ["refineseg_nano", "refineseg_small"], ["refineseg_nano"]),
    ],
)
def test_near_names_are_few_and_near(name, known, near):
    assert arguments.nearest(name, known) == near


def test_every_model_of_timm_may_be_an_encoder():
    import timm

    from refineseg.networks.timm_names import check_timm_name, timm_names

    assert set(timm.list_models()) <= timm_names()[0]
    for name in ("resnet50.tv_in1k", "tv_resnet50", "convnext_tiny"):  # the second is an old name
        check_timm_name(name)


def test_a_full_disk_is_one_error_of_its_own(tmp_path, monkeypatch):
    arguments.check_outputs({"--json": tmp_path / "new" / "x.json"}, {"--out": tmp_path / "o"})
    assert list(tmp_path.iterdir()) == []
    full = os.statvfs(tmp_path)

    def none_left(path):
        return SimpleNamespace(f_blocks=full.f_blocks, f_bavail=0, f_frsize=full.f_frsize)

    with monkeypatch.context() as patched:
        patched.setattr(os, "statvfs", none_left)
        with pytest.raises(ConfigError, match="expected room for --json .* there is no room left in .*; free some"):
            arguments.check_outputs({"--json": tmp_path / "x.json"})

    def refused(*, dir):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(arguments.tempfile, "TemporaryFile", refused)
    with pytest.raises(ConfigError, match="there is no room left"):
        arguments.check_outputs({}, {"--out": tmp_path / "deep" / "er"})


@pytest.mark.skipif(os.geteuid() == 0, reason="an administrator may write everywhere")
def test_a_folder_that_must_not_be_written_to_is_refused(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    with pytest.raises(ConfigError, match="cannot be written to"):
        arguments.check_outputs({"--json": closed / "x.json"})


def called(monkeypatch, capsys, line):
    monkeypatch.setattr(sys, "argv", ["refineseg", *shlex.split(line)])
    status = 0
    try:
        cli.main()
    except SystemExit as end:
        status = end.code or 0
    return status, *capsys.readouterr()


@pytest.mark.slow
def test_calls_that_are_done_or_done_in_part_have_status_0_and_1(tmp_path, monkeypatch, capsys):
    play(tmp_path)
    monkeypatch.chdir(tmp_path)
    model = "--model camvid --device cpu"
    for line, status, message in (
        (f"predict a.png pics --out o {model} --json o.json --areas areas.csv", 0, ""),
        (f"predict a.png nope.png --out o2 {model}", 1, "there is no nope.png"),
        (f"predict note.txt --out o4 {model}", 1, "note.txt"),
        (f"predict a.png --out o5 {model} --save probabilities --classes nope", 2, "got nope"),
        ("train --data folder:mine --out r --epochs 1 --no-pretrained --device cpu --workers 0 "
         "--variant refineseg_nano --set phases.0.crop_hw=[64,64]", 0, ""),
        ("train --resume --out r", 0, ""),
        ("evaluate --data folder:mine --model r/last.safetensors --out ev --json e.json", 0, ""),
        ("evaluate --data folder:mine --model camvid", 2, "expected the model's classes"),
        ("evaluate --data folder:mine --model r/last.safetensors --against e.json", 0, ""),
        ("card --data folder:mine --split val --model r/last.safetensors --out c", 0, ""),
        ("shard folder:mine --split train+val --out s", 0, ""),
        ("shard folder:mine --split train --out s", 2, "expected no shards of train in s"),
        ("bench --counts --json counts.json", 0, ""),
        ("models --json models.json", 0, ""),
        ("convert orig.pth --variant refineseg_nano --out m.safetensors", 2, "orig.pth"),
    ):  # fmt: skip
        got, _, err = called(monkeypatch, capsys, line)
        assert got == status, f"{line}: {err}"
        assert message in err
        assert "Traceback" not in err
    for name in ("o.json", "areas.csv", "e.json", "counts.json", "models.json", "c/card.md"):
        assert (tmp_path / name).is_file()
    assert not (tmp_path / "m.safetensors").exists()
