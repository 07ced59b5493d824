"""TensorBoard, MLflow and Weights & Biases: what arrives and is read back, after a resume and a lost tracker, too."""

import json
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from test_survival import tiny, train_here

from conftest import write_folder
from fakes.runs import Silent
from refineseg.errors import ConfigError, MissingExtraError
from refineseg.training import loggers
from refineseg.training.loggers import Loggers, numbers_of
from refineseg.training.request import check_logs
from refineseg.training.run import RunRequest, resume_run, start_run

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(autouse=True)
def _no_tracker_of_this_machine(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)


def half_and_whole(root, out, log):
    """A run stopped after its first epoch, and resumed; ``metrics.jsonl``."""
    config = replace(tiny(3), val_every=1)
    train_here(config, root, out, stop_after_s=0.01, log=log)
    resume_run(out, data=None, device="cpu", num_workers=None, progress=Silent())
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_both_get_every_number_once_also_of_a_resumed_run(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    root = write_folder(tmp_path / "data", splits={"train": 4, "val": 2})
    out = tmp_path / "run"
    entries = half_and_whole(root, out, ("tensorboard", "mlflow"))

    events = accumulator.EventAccumulator(str(out / "tensorboard"), size_guidance={"images": 0}).Reload()
    client = mlflow.MlflowClient(tracking_uri=(out / "mlruns").as_uri())
    run_id = json.loads((out / "mlflow.json").read_text())["run_id"]
    names = {name for entry in entries for name in numbers_of(entry)}
    assert {"train/loss", "train/images_per_s", "train/encoder_lr", "val/mean_iou"} <= names
    assert sum(name.startswith("val_iou/") for name in names) == 3
    assert set(events.Tags()["scalars"]) == names
    for name in names:
        expected = [(entry["epoch"], numbers_of(entry)[name]) for entry in entries if name in numbers_of(entry)]
        assert [(e.step, pytest.approx(e.value)) for e in events.Scalars(name)] == expected
        assert sorted((m.step, m.value) for m in client.get_metric_history(run_id, name)) == expected
    assert "ema_decay" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert set(events.Tags()["images"]) == {"val/000", "val/001"}
    assert {e.step for e in events.Images("val/000")} == {1, 2, 3}
    tracked = client.get_run(run_id)
    assert tracked.data.params["ema_decay"] == "0.9"
    assert tracked.data.params["phases.0.epochs"] == "3"
    assert tracked.info.status == "FINISHED"
    assert tracked.info.run_name == "run"


def test_epochs_done_again_after_a_kill_are_not_seen_twice(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    said = []
    for done, epochs in ((0, (1, 2, 3)), (1, (2, 3, 4))):  # epochs 2 and 3 were complete, and not yet saved
        opened = Loggers.open(("tensorboard", "mlflow"), tmp_path, {"seed": 3}, done=done, say=said.append)
        for epoch in epochs:
            opened.epoch({"epoch": epoch, "loss": 1.0 / epoch})
        opened.close(finished=epoch == 4)
    assert not said
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("train/loss")] == [1, 2, 3, 4]
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    run_id = json.loads((tmp_path / "mlflow.json").read_text())["run_id"]
    assert sorted(m.step for m in client.get_metric_history(run_id, "train/loss")) == [1, 2, 3, 4]


class Tracker(BaseHTTPRequestHandler):
    """The calls of MLflow's REST interface that a run needs, on loopback; mlflow-skinny brings no server."""

    def do_GET(self):
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        if path.endswith("experiments/get-by-name"):
            self.server.names.append(query["experiment_name"][0])
            self.answer(404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none yet"})
        elif path.endswith("metrics/get-history"):
            self.answer(200, {"metrics": [m for m in self.server.metrics if m["key"] == query["metric_key"][0]]})
        else:
            self.answer(200, {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("experiments/create"):
            self.answer(200, {"experiment_id": "7"})
        elif self.path.endswith("runs/create"):
            self.answer(
                200, {"run": {"info": {"run_id": "abc", "experiment_id": "7", "status": "RUNNING"}, "data": {}}}
            )
        else:
            self.server.metrics += body.get("metrics", [])
            self.server.params += body.get("params", [])
            info = {"run_id": "abc", "experiment_id": "7", "status": body.get("status", "RUNNING")}
            self.server.statuses.append(body.get("status"))
            self.answer(200, {"run_info": info})

    def answer(self, status, content):
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_arguments):
        pass


def serve(port=0):
    server = HTTPServer(("127.0.0.1", port), Tracker)
    server.names, server.metrics, server.params, server.statuses = [], [], [], []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def test_a_tracker_that_goes_away_is_said_once_and_gets_what_it_missed_when_it_is_back(tmp_path, monkeypatch):
    """MLflow's own client speaks HTTP to the tracker."""
    pytest.importorskip("mlflow")
    monkeypatch.setattr(loggers, "RETRY_AFTER_S", 0.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = serve()
    port = server.server_address[1]
    said = []
    log = Loggers.open((f"mlflow:http://127.0.0.1:{port}",), tmp_path, {"seed": 3}, done=0, say=said.append)
    log.epoch({"epoch": 1, "loss": 0.5})
    assert [m["step"] for m in server.metrics] == [1]
    assert {p["key"]: p["value"] for p in server.params} == {"seed": "3"}
    assert server.names == ["refineseg"]
    server.shutdown()
    server.server_close()
    for epoch in (2, 3):
        log.epoch({"epoch": epoch, "loss": 0.5})
    assert len(said) == 1
    assert "cannot log to mlflow:http://127.0.0.1" in said[0]
    assert "training goes on" in said[0]
    back = serve(port)
    log.close(finished=True)
    assert [m["step"] for m in back.metrics] == [2, 3]
    assert back.statuses[-1] == "FINISHED"
    back.shutdown()
    back.server_close()
    assert len(said) == 1


def offline_records(folder):
    """The records of wandb's files: a log as LevelDB has it, in blocks of 32 KiB, behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        content, at, whole = path.read_bytes(), 7, b""
        while at + 7 <= len(content):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
            whole += content[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):  # complete, or the last part
                yield Record.FromString(whole)
                whole = b""


@pytest.mark.slow  # the library starts a process of its own, twice
def test_weights_and_biases_gets_the_numbers_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    said = []
    for epochs in ((1, 2), (3,)):  # stopped, and resumed
        opened = Loggers.open(("wandb",), tmp_path, {"seed": 3}, done=epochs[0] - 1, say=said.append)
        for epoch in epochs:
            opened.epoch({"epoch": epoch, "loss": 1.0 / epoch, "class_iou": {"sky": 0.5}})
        opened.close(finished=epoch == 3)
    assert not said
    waited_until = time.monotonic() + 30
    while sum(record.WhichOneof("record_type") == "exit" for record in offline_records(tmp_path)) < 2:
        assert time.monotonic() < waited_until, "a process of the library's own writes"
        time.sleep(0.1)
    records = list(offline_records(tmp_path))
    runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert {run.run_id for run in runs} == {json.loads((tmp_path / "wandb.json").read_text())["run_id"]}
    assert {run.project for run in runs} == {"refineseg"}
    assert {item.key: item.value_json for item in runs[0].config.update}["seed"] == "3"
    logged = {}
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            logged[items["_step"]] = (items["train/loss"], items["val_iou/sky"])
    assert logged == {1: (1.0, 0.5), 2: (0.5, 0.5), 3: (pytest.approx(1 / 3), 0.5)}


def test_training_ends_well_without_its_tracker(folder_root, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = serve()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()  # nobody listens there now
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    progress = train_here(tiny(2), folder_root, tmp_path / "run", log=("mlflow",))
    assert [e["epoch"] for e in progress.entries] == [1, 2]
    assert sum("cannot log to mlflow" in line for line in progress.said) == 1
    assert "mlflow has not got 2 epochs; metrics.jsonl has them all" in progress.said


@pytest.mark.parametrize("name", ["wandbs", "tensorboard:somewhere", "", "mlflows"])
def test_unknown_loggers_are_refused_before_anything_is_written(name, folder_root, tmp_path):
    with pytest.raises(ConfigError, match="expected --log tensorboard, mlflow, mlflow:URI, wandb, wandb:PROJECT, got"):
        train_here(tiny(1), folder_root, tmp_path / "run", log=(name,))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "module"), [("tensorboard",) * 2, ("mlflow",) * 2, ("wandb",) * 2])
def test_a_missing_package_names_its_extra(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"log to {name}.*refineseg\[{name}\]"):
        check_logs([name])


@pytest.mark.slow
def test_a_call_that_came_to_nothing_leaves_no_run_of_a_tracker(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    root = write_folder(tmp_path / "data", splits={"train": 4, "val": 2})

    class Broken(Silent):
        def step(self, *_):
            raise RuntimeError("in the first epoch")

    first = tiny(1)
    first = replace(first, phases=(replace(first.phases[0], decoder_lr=0.5),))
    request = RunRequest(first, f"folder:{root}", device="cpu", log=("mlflow",))
    with pytest.raises(RuntimeError):
        start_run(request, tmp_path / "run", progress=Broken())
    train_here(tiny(1), root, tmp_path / "run", log=("mlflow",))
    run_id = json.loads((tmp_path / "run/mlflow.json").read_text())["run_id"]
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "run/mlruns").as_uri())
    assert client.get_run(run_id).data.params["phases.0.decoder_lr"] == "0.002"
