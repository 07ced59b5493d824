"""A net under a redesign: what eight calls of the command line write, against ``hashes.json`` beside this file.

In: a small network whose weights come from a formula, and inputs made here. Out: for each file that a call writes, the
hash of what must stay (pixels, palette, georeference, names of tensors, keys of JSON) and the numbers whose last digits
differ from one processor to the next, which are compared with a tolerance. Only the command line and the
public names of the package are used, so that the files behind them may move. What people read (help, messages, pictures
with legends) may change and is not compared.

Masks are the same on every machine because no pixel is near a tie: the last test measures that. After a change that is
meant to change results, write the file anew and read its difference:
``REFINESEG_WRITE_HASHES=1 ./dev pytest tests/net -m "slow or not slow"``.
"""

import csv
import hashlib
import json
import os
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import refineseg
from conftest import call

STORE = Path(__file__).with_name("hashes.json")
CLASSES = refineseg.ClassInfo(("ground", "sky", "square"), ((60, 70, 50), (150, 190, 240), (220, 40, 40)))
SEED = 1
BIAS = (-1561.75, 1112.25, -38.25)  # of the classifier; found by a search for three classes and no tie
SOFTER = 2**-9  # of the classifier, so that probabilities are not all 0 and 1; exact, so no class changes
TIE = 1e-4  # of the largest logit; processors differ by a hundredth of it
NEAR = 5e-3

COMMANDS = {
    "photo": ["predict photo.png --out out --save mask,overlay,probabilities,confidence"],
    "folder": ["predict data/images --out out --save mask --areas areas.csv --json numbers.json"],
    "raster": ["predict raster.tif --out out --save mask --tile 64"],
    "video": ["predict clip.mkv --out out --save mask,overlay"],
    "polygons": [
        "predict photo.png --out out --save polygons --smallest-area 20",
        "predict photo.png --out coco --save polygons --polygon-format coco",
    ],
    "evaluate": [
        "evaluate --data folder:data --json numbers.json --boundary --out out",
        "evaluate --data folder:data --json scaled.json --scales 0.75,1 --flip --out out",
    ],
    "train": [
        "train --data folder:data --out out --variant refineseg_nano --no-pretrained --epochs 2 --batch-size 2 "
        "--workers 0 --set phases.0.crop_hw=[32,32]"
    ],
    "export": [
        "export --size 40x56 --out out/net.onnx",
        "predict photo.png --out masks --save mask --model out/net.onnx",
    ],
}
SLOW = ("train", "export")


# ------------------------------------------------------------------------------------------------------------- inputs


def formula_model():
    """The smallest network with weights that only a change of its tensors' names or shapes can change."""
    random = np.random.RandomState(SEED)  # the one generator whose numbers are promised for ever
    segmenter = refineseg.build("refineseg_nano", class_info=CLASSES).eval()
    state = segmenter.state_dict()
    for name in sorted(state):
        values = state[name]
        if not values.is_floating_point():
            continue
        drawn = random.standard_normal(tuple(values.shape))
        if values.ndim == 4:
            drawn *= np.sqrt(2 / np.prod(values.shape[1:]))
        elif name.endswith("running_var"):
            drawn = 1 + 0.2 * np.abs(drawn)
        elif name.endswith("weight"):
            drawn = 1 + 0.2 * drawn
        else:
            drawn *= 0.2
        values.copy_(torch.from_numpy(drawn))
    classifier = "network.decoder.classifier"
    state[f"{classifier}.bias"].copy_(torch.tensor(BIAS))
    for leaf in ("weight", "bias"):
        state[f"{classifier}.{leaf}"] *= SOFTER
    segmenter.load_state_dict(state)
    return segmenter


def picture(height, width, *, shift=0):
    """Waves of three colours and two boxes: every scale has something to see."""
    rows, columns = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin((rows * a + (columns + shift) * b) / 9 + 2 * a) for a, b in ((1, 2), (3, -1), (0, 1))]
    image = np.stack(waves, axis=2).astype(np.uint8)
    image[height // 3 : height // 2, width // 4 : width // 2] = (220, 40, 40)
    image[height // 2 :, width // 2 + 6 : width // 2 + 20] = (20, 90, 200)
    return image


PICTURES = {"photo": picture(40, 56), "raster": picture(40, 96, shift=5)}
FRAMES = [picture(24, 32, shift=3 * i) for i in range(3)]
SAMPLES = [picture(28 + 2 * i, 36, shift=11 * i) for i in range(3)]


def write_inputs(folder):
    rasterio, av = pytest.importorskip("rasterio"), pytest.importorskip("av")
    Image.fromarray(PICTURES["photo"]).save(folder / "photo.png")
    for i, (split, sample) in enumerate(zip(("train", "train", "val"), SAMPLES, strict=True)):
        for kind, pixels in (("images", sample), ("masks", (sample[..., 0] // 86).astype(np.uint8))):
            (folder / "data" / kind / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / "data" / kind / split / f"{i}.png")
    (folder / "data" / "classes.txt").write_text("\n".join(CLASSES.names))
    bands = PICTURES["raster"].transpose(2, 0, 1)
    place = {"crs": "EPSG:32616", "transform": rasterio.Affine(0.5, 0, 733601, 0, -0.5, 3725139)}
    shape = {"count": 3, "height": bands.shape[1], "width": bands.shape[2], "dtype": "uint8"}
    with rasterio.open(folder / "raster.tif", "w", driver="GTiff", photometric="RGB", **shape, **place) as file:
        file.write(bands)
    with av.open(str(folder / "clip.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)  # keeps every pixel
        stream.height, stream.width, stream.pix_fmt = 24, 32, "bgr0"
        for i, image in enumerate(FRAMES):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    formula_model().save(folder / "net.safetensors")


# -------------------------------------------------------------------------------------- what is compared of each file


def keys(value, above=""):
    """The keys of nested JSON; entries of lists count once."""
    if isinstance(value, dict):
        return sorted({above, *(key for name, inner in value.items() for key in keys(inner, f"{above}/{name}"))})
    if isinstance(value, list):
        return sorted({above, *(key for inner in value for key in keys(inner, f"{above}[]"))})
    return [above]


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value


def pixels(array):
    array = np.ascontiguousarray(array)
    return [str(array.dtype), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]


def facts_of_png(path):
    with Image.open(path) as image:
        if path.stem.endswith("_confidence"):
            return [image.mode, image.size], {"mean": float(np.asarray(image).mean())}
        return [image.mode, image.getpalette(), pixels(image), sorted(image.info)], {}


def facts_of_jpg(path):
    with Image.open(path) as image:
        return [image.mode, image.width], {}  # its height is that of a legend, which depends on a font


def facts_of_npz(path):
    with np.load(path) as arrays:
        what = [[name, str(arrays[name].dtype), arrays[name].shape] for name in sorted(arrays)]
        means = arrays["probabilities"].astype(float).mean(axis=(1, 2))
        return [what, arrays["classes"].tolist()], {f"mean {i}": mean for i, mean in enumerate(means)}


def facts_of_tif(path):
    import rasterio

    with rasterio.open(path) as file:
        profile = {key: str(value) for key, value in file.profile.items()}
        colours = {key: list(colour) for key, colour in file.colormap(1).items()}
        return [profile, colours, file.overviews(1), file.descriptions, pixels(file.read())], {}


def facts_of_video(path):
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        what = [stream.codec_context.name, stream.pix_fmt, stream.width]
        frames = list(container.decode(video=0))
        times = [str(frame.pts * frame.time_base) for frame in frames]
        exact = [pixels(frame.to_ndarray()) for frame in frames] if path.suffix == ".mkv" else []
        return [what, times, exact], {}


def facts_of_json(path):
    content = json.loads(path.read_text())
    if path.suffix == ".geojson" or path.stem.endswith("coco") or "annotations" in content:
        return rounded(content), {}
    if "confusion_matrix" in content and path.name in ("numbers.json", "scaled.json"):  # not of a trained network
        numbers = {name: content[name] for name in ("mean_iou", "pixel_accuracy", "mean_accuracy")}
        if path.stem == "scaled":  # nobody looked for ties in averages over scales
            return keys(content), numbers
        return [keys(content), content["confusion_matrix"], rounded(numbers)], {}
    return keys(content), {}


def facts_of_jsonl(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    if not all(isinstance(line, dict) for line in lines):  # the record of inputs: names, times and sizes
        return [len(line) for line in lines], {}
    losses = {f"{name} {i}": line[name] for i, line in enumerate(lines) for name in line if name.endswith("loss")}
    return [keys(line) for line in lines], losses


def facts_of_model(path):
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    said = {key: keys(json.loads(text)) for key, text in header.pop("__metadata__").items()}
    return [said, {name: (tensor["dtype"], tensor["shape"]) for name, tensor in header.items()}], {}


def facts_of_onnx(path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(path)
    ends = [
        (value.name, value.type.tensor_type.elem_type, [d.dim_value for d in value.type.tensor_type.shape.dim])
        for value in (*model.graph.input, *model.graph.output)
    ]
    return [ends, {entry.key: keys(json.loads(entry.value)) for entry in model.metadata_props}], {}


def facts_of_csv(path):
    with path.open(newline="") as file:
        return list(csv.reader(file)), {}


FACTS = {
    ".png": facts_of_png,
    ".jpg": facts_of_jpg,
    ".npz": facts_of_npz,
    ".tif": facts_of_tif,
    ".mkv": facts_of_video,
    ".mp4": facts_of_video,
    ".json": facts_of_json,
    ".geojson": facts_of_json,
    ".jsonl": facts_of_jsonl,
    ".safetensors": facts_of_model,
    ".onnx": facts_of_onnx,
    ".csv": facts_of_csv,
}
DRAWN = ("curves.png", "confusion_matrix.png")  # by a library, with its fonts, as the validation pictures


def facts(path):
    """What of a file must stay, as a hash, and the numbers that must stay near."""
    if path.suffix not in FACTS or path.name in DRAWN or path.parent.name == "validation":
        return {"hash": "is there"}
    exact, near = FACTS[path.suffix](path)
    digest = hashlib.sha256(json.dumps(exact, sort_keys=True).encode()).hexdigest()[:16]
    return {"hash": digest, **({"near": {name: float(f"{value:.5g}") for name, value in near.items()}} if near else {})}


# -------------------------------------------------------------------------------------------------------------- tests


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in COMMANDS])
def test_a_call_writes_what_it_always_wrote(name, inputs, tmp_path, monkeypatch, capsys):
    for entry in inputs.iterdir():
        (tmp_path / entry.name).symlink_to(entry, target_is_directory=entry.is_dir())
    monkeypatch.chdir(tmp_path)  # so that no path in a file depends on the machine
    for command in COMMANDS[name]:
        words = command.split() if command.startswith("export") else [*command.split(), "--device", "cpu"]
        words += [] if "--model" in words or words[0] == "train" else ["--model", "net.safetensors"]
        done = call(monkeypatch, capsys, *words)
        assert done.status == 0, done.err
    written = sorted(p for p in tmp_path.rglob("*") if p.is_file() and not p.is_symlink())
    found = {path.relative_to(tmp_path).as_posix(): facts(path) for path in written}
    stored = json.loads(STORE.read_text()) if STORE.exists() else {}
    if os.environ.get("REFINESEG_WRITE_HASHES"):
        STORE.write_text(json.dumps({**stored, name: found}, indent=1, sort_keys=True) + "\n")
        return
    assert found.keys() == stored[name].keys()
    for path, fact in found.items():
        assert fact["hash"] == stored[name][path]["hash"], f"{path} is another"
        assert fact.get("near", {}) == pytest.approx(stored[name][path].get("near", {}), rel=NEAR), path


def test_no_pixel_is_near_a_tie():
    """Then rounding, which differs between processors, decides no pixel's class. Weights or inputs make it so."""
    segmenter = formula_model()
    for image in (*PICTURES.values(), *FRAMES, *SAMPLES):
        with torch.inference_mode():
            logits = segmenter(torch.from_numpy(image.copy()).permute(2, 0, 1)[None])
        first, second = logits.topk(2, dim=1).values.unbind(1)
        assert (first - second).min() > TIE * logits.abs().max(), image.shape
        assert len(logits.argmax(1).unique()) >= 2, "a mask of one class shows nothing"
