"""Models on a hub: a folder, and the library's own client against a hub on loopback that stores what it is sent."""

import base64
import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import refineseg
from refineseg.class_info import ClassInfo
from refineseg.errors import MissingExtraError, ModelFileError
from refineseg.networks.hub import Hub, page_of, write_page
from refineseg.networks.model_spec import ModelSpec
from refineseg.preprocessing import Preprocessing

NAME = "anna/garden"


class Repository(BaseHTTPRequestHandler):
    """The calls of the hub that huggingface_hub makes to store a file, large or small, and to load it."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub = self.server
        hub.calls.append(("POST", self.path, dict(self.headers)))
        if self.headers.get("Authorization") != "Bearer hf_test":
            self.answer(401, {"error": "no such token"})
        elif self.path == "/api/repos/create":
            hub.made.append(json.loads(body))
            self.answer(200, {"url": f"{hub.address}/{NAME}"})
        elif self.path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                 "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]  # fmt: skip
            self.answer(200, {"files": files})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for one in objects:
                one["actions"] = {"upload": {"href": f"{hub.address}/upload/{one['oid']}"}}
            self.answer(200, {"transfer": "basic", "objects": objects}, "application/vnd.git-lfs+json")
        elif self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    hub.files[line["value"]["path"]] = hub.blobs[line["value"]["oid"]]
            self.answer(200, {"commitUrl": f"{hub.address}/{NAME}/commit/{'a' * 40}", "commitOid": "a" * 40})
        else:
            self.answer(200, {"errors": [], "warnings": []})

    def do_PUT(self):
        body = b""
        if "Content-Length" in self.headers:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        else:  # in chunks, each after its length
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.server.blobs[hashlib.sha256(body).hexdigest()] = body
        self.answer(200, {})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.calls.append((self.command, self.path, dict(self.headers)))
        content = self.server.files.get(self.path.rpartition("/")[2])
        if not self.path.startswith(f"/{NAME}/resolve/") or content is None:
            kind = "EntryNotFound" if NAME in self.path else "RepoNotFound"
            self.answer(404, {"error": kind}, headers={"X-Error-Code": kind})
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def answer(self, status, content, kind="application/json", headers=()):
        text = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(text)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, *_arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # a protocol of one company's servers
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    hub = ThreadingHTTPServer(("127.0.0.1", 0), Repository)
    hub.address = f"http://127.0.0.1:{hub.server_address[1]}"
    hub.files, hub.blobs, hub.made, hub.calls = {}, {}, [], []
    threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
    yield hub
    hub.shutdown()
    hub.server_close()


@pytest.fixture(scope="module")
def segmenter():
    return refineseg.build("refineseg_nano", class_info=ClassInfo(("bed", "path")))


def test_a_folder_holds_the_usual_file_and_a_page(segmenter, tmp_path):
    segmenter.save_pretrained(tmp_path / "garden")
    assert refineseg.from_pretrained(tmp_path / "garden").digest() == segmenter.digest()
    assert refineseg.load(tmp_path / "garden" / "model.safetensors").digest() == segmenter.digest()
    page = (tmp_path / "garden" / "README.md").read_text()
    assert "# garden" in page
    assert "bed, path" in page
    with pytest.raises(ModelFileError, match=r"expected a model\.safetensors in the folder"):
        refineseg.from_pretrained(tmp_path)


def test_the_page_in_the_current_folder_has_its_name(segmenter, tmp_path, monkeypatch):
    (tmp_path / "garden").mkdir()
    monkeypatch.chdir(tmp_path / "garden")
    segmenter.save_pretrained(".")
    page = (tmp_path / "garden" / "README.md").read_text()
    assert "# garden\n" in page
    assert 'from_pretrained("garden")' in page


def test_names_and_licences_that_no_page_can_hold_are_escaped(tmp_path):
    names, licence = ("\ud800", "a\nb"), "x\n---\ny\udcff"
    write_page(tmp_path, ModelSpec("refineseg_nano", ClassInfo(names), Preprocessing.imagenet(), licence=licence), "it")
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "2 classes: \\ud800, a\\nb." in page
    assert "Licence of the weights: x\\n---\\ny\\udcff" in page
    assert page.splitlines().count("---") == 2


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the library's own upload
def test_a_model_that_was_pushed_is_loaded_again(segmenter, server, tmp_path):
    hub = Hub(token="hf_test", endpoint=server.address, cache_dir=tmp_path / "cache")
    assert segmenter.push_to_hub(NAME, private=True, hub=hub).startswith(f"{server.address}/{NAME}/commit/")
    assert server.made[0]["name"] in (NAME, "garden")
    assert server.made[0].get("private") is True or server.made[0].get("visibility") == "private"
    assert sorted(server.files) == ["README.md", "model.safetensors"]
    segmenter.save(tmp_path / "same.safetensors")
    assert server.files["model.safetensors"] == (tmp_path / "same.safetensors").read_bytes()  # the usual format
    again = refineseg.Segmenter.from_pretrained(NAME, hub=hub)
    assert again.digest() == segmenter.digest()
    asked = len(server.calls)
    offline = Hub(cache_dir=tmp_path / "cache", local_files_only=True)
    assert refineseg.from_pretrained(NAME, hub=offline).digest() == segmenter.digest()
    assert len(server.calls) == asked
    agents = {headers["user-agent"] for _, _, headers in server.calls if "user-agent" in headers}
    assert not [agent for agent in agents if "torch/" in agent]  # no report of what is installed


def test_what_a_hub_has_not_or_refuses_is_said(segmenter, server, tmp_path):
    hub = Hub(token="hf_test", endpoint=server.address, cache_dir=tmp_path)
    for name in ("nobody/nothing", NAME, "no such name"):
        with pytest.raises(ModelFileError, match=rf"OWNER/NAME of a model with model\.safetensors .*, got {name}: "):
            refineseg.from_pretrained(name, hub=hub)
    wrong = Hub(token="hf_wrong", endpoint=server.address)
    with pytest.raises(ModelFileError, match=f"expected a hub that takes {NAME}, got .*hf auth login"):
        segmenter.push_to_hub(NAME, hub=wrong)
    server.files["model.safetensors"] = b"nothing of the kind"
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        refineseg.from_pretrained(NAME, hub=hub)


def test_without_the_library_its_extra_is_named(segmenter, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for action in (lambda: refineseg.from_pretrained(NAME), lambda: segmenter.push_to_hub(NAME)):
        with pytest.raises(MissingExtraError, match=r"refineseg\[hub\]"):
            action()


def test_the_page_of_a_model_says_its_licence_and_numbers():
    provenance = {"metrics": {"split": "val", "mean_iou": 0.663}}
    info, licence = ClassInfo(("a", "b")), "CC BY-NC 4.0: research"
    spec = ModelSpec("refineseg_nano", info, Preprocessing.imagenet(), licence=licence, provenance=provenance)
    page = page_of(spec, NAME)
    head = page.split("---")[1]
    assert 'license_name: "CC BY-NC 4.0: research"' in head
    assert "mIoU 66.3 % on the split val" in page
    assert f'from_pretrained("{NAME}")' in page
    assert "license" not in page_of(ModelSpec("refineseg_nano", spec.class_info, spec.preprocessing), NAME)
