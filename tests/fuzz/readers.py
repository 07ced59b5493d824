"""Every reader of files from strangers: what writes an honest file, and what reads it to its end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from conftest import untrained, write_folder
from fakes import own, pascal, scenes
from refineseg.class_info import ClassInfo, LabelTable

COLOURS = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Reader:
    """A reader under test.

    Args:
        write: Writes what is read into an empty folder; gives the file that is changed.
        read: Reads the folder to its end.
        is_json: Whether the file is JSON, whose values are changed, too.
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], object]
    is_json: bool = False


def picture(ending: str, pixels: np.ndarray = COLOURS) -> Reader:
    def write(folder: Path) -> Path:
        Image.fromarray(pixels).save(folder / f"image.{ending}")
        return folder / f"image.{ending}"

    def read(folder: Path) -> object:
        from refineseg.images.files import read_image_size, read_picture

        read_image_size(folder / f"image.{ending}")
        return read_picture(folder / f"image.{ending}")

    return Reader(write, read)


def mask() -> Reader:
    def write(folder: Path) -> Path:
        image = Image.fromarray(COLOURS[..., 0] % 4).convert("P")
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
        image.save(folder / "mask.png")
        return folder / "mask.png"

    def read(folder: Path) -> object:
        from refineseg.images.files import mask_values, read_mask

        values = mask_values(folder / "mask.png")
        table = LabelTable({value: index % 4 for index, value in enumerate(values)})
        return read_mask(folder / "mask.png", table=table, ignore_index=255)

    return Reader(write, read)


def raster() -> Reader:
    def write(folder: Path) -> Path:
        from rasterio.transform import Affine

        from fakes.rasters import write as write_raster

        values = np.random.default_rng(0).integers(0, 255, (3, 70, 90), dtype=np.uint8)
        options = {"tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate", "crs": "EPSG:32631"}
        return write_raster(folder / "scene.tif", values, transform=Affine(2, 0, 0, 0, -2, 0), **options)

    def read(folder: Path) -> object:
        from refineseg.predict.raster.files import open_raster, quietly
        from refineseg.predict.views.tiling import Region

        with quietly(), open_raster(folder / "scene.tif") as found:  # a raster without a place is a raster
            found.check_complete()
            height, width = (min(200, size) for size in found.size_hw)
            places = found.crs, found.transform, found.places()
            return found.read((1,), Region(0, 0, height, width)), places

    return Reader(write, read)


def data(
    name: str, fake: Callable[[Path], object], file: str, *, changed: Callable[[Path], None] | None = None
) -> Reader:
    """A data set of which one file is changed; all its samples are read."""

    def write(folder: Path) -> Path:
        fake(folder)
        if changed is not None:
            changed(folder)
        return sorted(folder.glob(file))[0]

    def read(folder: Path) -> object:
        from refineseg.data.datasets import open_dataset

        dataset = open_dataset(name, folder, split="train")
        return [dataset[index] for index in range(min(4, len(dataset)))]

    return Reader(write, read, file.endswith(".json"))


def pictures(folder: Path) -> None:
    write_folder(folder, splits={"train": 1}, size=(24, 30))


def beside(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8")


def named(name: str, content: str) -> Reader:
    """A file about classes in a folder of images and masks."""

    def changed(folder: Path) -> None:
        (folder / "classes.txt").write_text("ground\nsky\nsquare\n")
        if name != "remap.json" and name != "remap.csv":
            (folder / "classes.txt").unlink()
        beside(name, content)(folder)

    return data("folder", pictures, name, changed=changed)


CLASSES = {
    "num_classes": 3,
    "ignore_index": 255,
    "classes": [
        {"id": 0, "name": "ground", "color": [60, 70, 50]},
        {"id": 1, "name": "sky", "color": [150, 190, 240], "ignore": False},
        {"id": 2, "name": "square"},
    ],
}


def network(write_mat: Callable[[Path, dict[str, object]], object]) -> Reader:
    def write(folder: Path) -> Path:
        from fakes.matconvnet_files import Dag, draw

        dag = Dag()
        dag.conv("conv1", draw((4, 3, 3, 3), 0), draw((4,), 1))
        write_mat(folder / "net.mat", dag.struct())
        return folder / "net.mat"

    def read(folder: Path) -> object:
        from refineseg.original.matconvnet import read_matconvnet

        return read_matconvnet(folder / "net.mat")

    return Reader(write, read)


def write_old(path: Path, variables: dict[str, object]) -> None:
    from fakes.matconvnet_files import write_v5

    write_v5(path, variables, compress=True)


def write_new(path: Path, variables: dict[str, object]) -> None:
    from fakes.matconvnet_files import write_v73

    write_v73(path, variables)


def model() -> Reader:
    def write(folder: Path) -> Path:
        return Path(untrained(folder / "model.safetensors", ClassInfo(("a", "b"))))

    def read(folder: Path) -> object:
        from refineseg.networks.model_names import classes_in
        from refineseg.segmenter import load

        classes_in(folder / "model.safetensors")
        return load(folder / "model.safetensors")

    return Reader(write, read)


def description() -> Reader:
    def write(folder: Path) -> Path:
        from refineseg.runtimes.description import Description
        from refineseg.segmenter import load_spec

        spec = load_spec(untrained(folder / "model.safetensors", ClassInfo(("a", "b"))))
        (folder / "description.json").write_text(Description(spec).to_text())
        return folder / "description.json"

    def read(folder: Path) -> object:
        from refineseg.runtimes.description import Description

        content = (folder / "description.json").read_bytes().decode("utf-8", "replace")
        return Description.from_text(content, folder / "model.onnx")

    return Reader(write, read, is_json=True)


def trained(name: str) -> Reader:
    """A file in the folder of a run."""

    def write(folder: Path) -> Path:
        import torch

        from fakes.runs import tiny
        from refineseg.data.samples.record import DataRecord
        from refineseg.data.samples.run_record import RunRecord
        from refineseg.training.checkpoint import save_checkpoint
        from refineseg.training.config import to_json

        place, classes = folder / "run", ClassInfo(("a", "b"))
        place.mkdir()
        description = {"data": "folder:x", "started_from": "scratch", "init": None, "config": to_json(tiny(1))}
        (place / "run.json").write_text(json.dumps(description))
        RunRecord({"folder:train": DataRecord(classes, {}, (("a", "1", "2"),))}, {"init": "camvid"}).write(place)
        lines = {"epoch": 1, "loss": 0.5, "decoder_lr": 0.1}, {"epoch": 2, "loss": 0.4, "mean_iou": 0.1}
        (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        state = {"config": {}, "epoch": 1, "history": [], "network": {"w": torch.zeros(3)}, "optimiser": {}}
        save_checkpoint(place, state)
        return place / name

    def read(folder: Path) -> object:
        from refineseg.data.samples.run_record import RunRecord
        from refineseg.evaluate.reports import history_of
        from refineseg.training.checkpoint import load_checkpoint
        from refineseg.training.request import read_run

        run_folder = folder / "run"
        history = history_of(str(run_folder / "best.safetensors"), None) if name.endswith("l") else None
        read_any = load_checkpoint(run_folder) if name.endswith(".pt") else None
        return read_run(run_folder), RunRecord.read(run_folder), history, read_any

    return Reader(write, read, is_json=name.endswith(".json"))


def tracker() -> Reader:
    """``mlflow.json`` and ``wandb.json``."""

    def write(folder: Path) -> Path:
        (folder / "mlflow.json").write_text('{"tracking_uri": "file:///mlruns", "run_id": "0a1b2c3d"}')
        return folder / "mlflow.json"

    def read(folder: Path) -> object:
        from refineseg.training.loggers import known_run

        return known_run(folder / "mlflow.json")

    return Reader(write, read, is_json=True)


def seed_of_a_reproduction(name: str) -> Reader:
    """What a reproduction reads of a seed: how far it came, and its result."""

    def write(folder: Path) -> Path:
        from fakes.runs import tiny
        from refineseg.evaluate.comparison import KEY
        from refineseg.evaluate.metrics import ConfusionMatrix
        from refineseg.evaluate.protocol import MeasurementProtocol
        from refineseg.networks.model_spec import ModelSpec
        from refineseg.preprocessing import Preprocessing
        from refineseg.segmenter import Segmenter

        place, classes = folder / "seed0", ClassInfo(("a", "b"))
        place.mkdir()
        network = Segmenter(ModelSpec(tiny(1).variant, classes, Preprocessing.imagenet()))
        network.with_provenance({"epochs": 2}).save(place / "last.safetensors")
        lines = ({"epoch": i, "loss": 0.5, "decoder_lr": 0.1, "seconds": 30.0} for i in (1, 2))
        (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        measured = {
            **ConfusionMatrix(classes).to_json(),
            "boundary": {"mean_iou": 0.5},
            KEY: MeasurementProtocol("camvid", "test").to_json(),
        }
        known = {"version": "0", "recipe": "r", "epochs": 2, "hardware": "CPU", "torch": "2", "training_seconds": 60.0}
        described = {"variant": "refineseg_nano", "model": "last.safetensors", "model_sha256": "0", "training": known}
        (place / "test.json").write_text(json.dumps({**measured, **described}))
        return place / name

    def read(folder: Path) -> object:
        from fakes.runs import tiny
        from refineseg.training.reproduction import _done, _state
        from refineseg.training.request import ReproductionRequest

        request = ReproductionRequest("camvid", tiny(4), f"camvid:{folder}", folder, seeds=(0,))
        return (_state if name.endswith("l") else _done)(request, 0)

    return Reader(write, read, is_json=name.endswith(".json"))


def result() -> Reader:
    def write(folder: Path) -> Path:
        from refineseg.evaluate.comparison import KEY

        protocol = {"dataset": "camvid", "split": "test", "scales": [1]}
        value = {"mean_iou": 0.5, "per_class": {"sky": {"iou": 0.5}}, "boundary": {"mean_iou": 0.5}, KEY: protocol}
        (folder / "result.json").write_text(json.dumps(value))
        return folder / "result.json"

    def read(folder: Path) -> object:
        from refineseg.evaluate.comparison import read_result

        return read_result(folder / "result.json")

    return Reader(write, read, is_json=True)


def results_record() -> Reader:
    identity = {"model": "0123", "options": {"scales": [1.0], "flip": False}}

    def write(folder: Path) -> Path:
        from refineseg.predict.folder.records import RECORD, begin_record

        begin_record(folder, identity, resume=False)
        return folder / RECORD

    def read(folder: Path) -> object:
        from refineseg.predict.folder.records import begin_record

        return begin_record(folder, identity, resume=True)

    return Reader(write, read, is_json=True)


def raster_journal() -> Reader:
    identity = {"input": {"name": "scene.tif", "bytes": 9}, "options": {"scales": [1.0]}}

    def write(folder: Path) -> Path:
        from refineseg.predict.raster.job import RasterJob

        job = RasterJob(folder / "scene.tif")
        job.open(identity, resume=False)
        job.keep("scale", 3.5)
        job.release()
        return job.folder / "job.json"

    def read(folder: Path) -> object:
        from refineseg.predict.raster.job import RasterJob

        job = RasterJob(folder / "scene.tif")
        try:
            return job.open(identity, resume=True), dict(job.facts)
        finally:
            job.release()

    return Reader(write, read, is_json=True)


READERS: dict[str, Reader] = {
    "png": picture("png"),
    "jpeg": picture("jpg"),
    "tiff of 16 bits": picture("tif", COLOURS[..., 0].astype(np.uint16) * 200),
    "webp": picture("webp"),
    "gif": picture("gif"),
    "bmp": picture("bmp"),
    "mask": mask(),
    "geotiff": raster(),
    "classes.json": named("classes.json", json.dumps(CLASSES)),
    "classes.txt": named("classes.txt", "ground\nsky\nsquare\n"),
    "labelmap.txt": named("labelmap.txt", "ground:60,70,50::\nsky:150,190,240::\nsquare:220,40,40::\n"),
    "remap.json": named("remap.json", '{"ground": "below", "square": "below", "sky": null}'),
    "remap.csv": named("remap.csv", "ground,below\nsquare,below\nsky,\n"),
    "pairs": data("pairs", own.fake_pairs, "list.txt"),
    "coco": data("coco", own.fake_coco, "annotations/instances_train.json"),
    "labelme": data("labelme", own.fake_labelme, "*.json"),
    "label_studio": data("label_studio", own.fake_label_studio, "*.json"),
    "yolo": data("yolo", own.fake_yolo, "labels/train/*.txt"),
    "yolo's data.yaml": data("yolo", own.fake_yolo, "data.yaml"),
    "cvat": data("cvat", own.fake_cvat, "ImageSets/Segmentation/default.txt"),
    "camvid": data("camvid", scenes.fake_camvid, "train.txt"),
    "sbd": data("sbd", pascal.fake_sbd, "**/*.mat"),
    "person_part": data("person_part", lambda root: pascal.fake_person_part(root, masks="mat"), "**/*.mat"),
    "pascal_context": data("pascal_context", pascal.fake_pascal_context, "**/*.mat"),
    "nyud": data("nyud", scenes.fake_nyud_mat, "*labeled.mat"),
    "nyud's splits": data("nyud", scenes.fake_nyud_mat, "splits.mat"),
    "sunrgbd": data("sunrgbd", scenes.fake_sunrgbd_toolbox, "**/SUNRGBD2Dseg.mat"),
    "sunrgbd's table": data("sunrgbd", scenes.fake_sunrgbd_toolbox, "**/SUNRGBDMeta.mat"),
    "network of MATLAB 5": network(write_old),
    "network of MATLAB 7.3": network(write_new),
    "model": model(),
    "description": description(),
    "run.json": trained("run.json"),
    "data.json": trained("data.json"),
    "metrics.jsonl": trained("metrics.jsonl"),
    "checkpoint": trained("checkpoint.pt"),
    "run of a tracker": tracker(),
    "epochs of a seed": seed_of_a_reproduction("metrics.jsonl"),
    "result of a seed": seed_of_a_reproduction("test.json"),
    "result": result(),
    "record of results": results_record(),
    "journal of a raster": raster_journal(),
}
