"""``refineseg demo``: a folder that a plain server sends; the model runs in the browser and gives the same mask."""

import functools
import http.server
import json
import shutil
import threading
from dataclasses import replace
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

import refineseg
from conftest import call
from fakes.services import png
from refineseg.errors import ConfigError
from refineseg.serve import web_runtime
from refineseg.serve.page_files import package_files
from refineseg.serve.static_page import write_static_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Quiet(http.server.SimpleHTTPRequestHandler):
    isolated = False

    def log_message(self, *arguments):
        """Nothing."""

    def end_headers(self):
        if self.isolated:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


class Isolated(Quiet):
    isolated = True


@pytest.mark.slow
def test_the_static_page_gives_the_mask_of_the_command_line(monkeypatch, capsys, tmp_path):
    """With one thread, and with several where the server allows it; no request leaves the folder's server."""
    if CHROMIUM is None or shutil.which("npm") is None:
        pytest.skip("no Chromium or no npm here")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright here")
    status, out, err = call(monkeypatch, capsys, "demo", tmp_path / "demo", "--model", "camvid_nano")
    assert status == 0, err
    assert "python -m http.server" in out
    image = np.ascontiguousarray(photographs.astronaut()[:400, :500])
    (tmp_path / "a.png").write_bytes(png(image))
    arguments = ("--model", "camvid_nano", "--save", "mask", "--device", "cpu")
    assert call(monkeypatch, capsys, "predict", tmp_path / "a.png", "--out", tmp_path / "out", *arguments)[0] == 0
    with Image.open(tmp_path / "out" / "a.png") as written:
        expected, palette = np.asarray(written), written.getpalette()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for handler, threads in ((Quiet, False), (Isolated, True)):
            made = functools.partial(handler, directory=str(tmp_path / "demo"))
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), made)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}/"
            page, complaints = browser.new_page(), []
            page.set_default_timeout(240_000)
            page.on("pageerror", lambda error, to=complaints: to.append(str(error)))
            page.on("console", lambda m, to=complaints: m.type == "error" and to.append(m.text))
            page.on("request", lambda r, to=complaints, at=address: r.url.startswith((at, "blob:")) or to.append(r.url))
            page.goto(address)
            page.set_input_files("#file", str(tmp_path / "a.png"))
            page.wait_for_selector("#legend button")
            with page.expect_download() as download:
                page.click("[data-save=mask]")
            with Image.open(download.value.path()) as saved:
                assert saved.getpalette()[:33] == palette[:33]
                assert (np.asarray(saved) == expected).mean() >= 0.999
            several = threads and page.evaluate("navigator.hardwareConcurrency") > 1
            assert (page.get_attribute("body", "data-runs") == "wasm 1") != several
            assert complaints == []
            page.close()
            server.shutdown()
            server.server_close()
        browser.close()


DECODE = """
async ([picture, file]) => {
  const { decoded, pixelsOf } = await import(picture);
  const bitmap = await decoded(await (await fetch(file)).blob());
  return Array.from(pixelsOf(bitmap));
}
"""


def test_transparent_pixels_keep_the_colours_of_the_file(tmp_path):
    """As in ``predict``: they are seen by the pixels around them."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright here")
    rgba = np.random.default_rng(0).integers(0, 256, (12, 20, 4), np.uint8)
    rgba[:6, :, 3] = 0
    (tmp_path / "a.png").write_bytes(png(rgba))
    (tmp_path / "picture.js").write_bytes(package_files()["picture.js"].content)
    (tmp_path / "index.html").write_text("<!doctype html>")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        found = page.evaluate(DECODE, ["/picture.js", "/a.png"])
        browser.close()
    server.shutdown()
    server.server_close()
    np.testing.assert_array_equal(np.array(found, np.uint8).reshape(rgba.shape), rgba)


def test_another_copy_of_the_runtime_is_refused_by_name(refineseg, tmp_path):
    status, _, err = refineseg("demo", tmp_path / "out", "--runtime", tmp_path)
    assert status == 2
    assert f"onnxruntime-web {web_runtime.VERSION}" in err
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "ort.wasm.min.mjs").write_text("changed")
    status, _, err = refineseg("demo", tmp_path / "out", "--runtime", tmp_path)
    assert (status, "got another file" in err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_wrong_calls_are_refused_before_work(refineseg, tmp_path, monkeypatch):
    assert "exported here" in refineseg("demo", tmp_path / "out", "--model", "m.onnx")[2]
    monkeypatch.setenv("PATH", str(tmp_path))
    status, _, err = refineseg("demo", tmp_path / "out")
    assert (status, "npm" in err) == (2, True)


def test_the_files_of_the_page_name_no_other_machine():
    for name, file in package_files().items():
        text = file.content.decode()
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", ""), name
        assert "https://" not in text, name


def test_modules_of_the_page_are_read_by_a_parser_of_javascript():
    """A quick guard where no browser is."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here")
    import subprocess

    for name, file in package_files().items():
        if name.endswith(".js"):
            done = subprocess.run(
                [node, "--input-type=module", "--check"], input=file.content, capture_output=True, check=False
            )
            assert done.returncode == 0, (name, done.stderr.decode()[:300])


OUTLINES = """
import { outlinesOf } from "FILE";
const rows = ["00000", "01101", "01001", "00011", "22000"];
const mask = Uint8Array.from(rows.join(""));
const classes = [0, 1].map((index) => ({ name: "ab"[index], index, colour: [index, 0, 255] }));
console.log(JSON.stringify(outlinesOf({ width: 5, height: 5, mask }, classes)));
"""


def test_outlines_cover_the_pixels_of_their_class(tmp_path):
    """Filled again by Pillow's polygons they would miss corners, so areas and holes are compared."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here")
    import json
    import subprocess

    (tmp_path / "outlines.mjs").write_bytes(package_files()["outlines.js"].content)
    script = OUTLINES.replace("FILE", str(tmp_path / "outlines.mjs"))
    done = subprocess.run([node, "--input-type=module"], input=script.encode(), capture_output=True, check=True)
    found = json.loads(done.stdout)["features"]
    from shapely.geometry import Point, shape

    mask = np.array([list(row) for row in ("00000", "01101", "01001", "00011", "22000")], int)
    assert len(found) == 3  # void has no outline
    for y, x in np.ndindex(mask.shape):
        middle = Point(x + 0.5, y + 0.5)
        inside = [f["properties"]["class_index"] for f in found if shape(f["geometry"]).contains(middle)]
        assert inside == ([mask[y, x]] if mask[y, x] < 2 else [])
    for feature in found:
        assert shape(feature["geometry"]).is_valid
        assert shape(feature["geometry"]).area == feature["properties"]["area"]
        assert feature["properties"]["colour"] in ("#0000ff", "#0100ff")


@pytest.mark.slow
def test_the_address_of_a_model_leads_to_its_file_whatever_its_name_is(tmp_path):
    segmenter = refineseg.build("refineseg_nano", num_classes=2)
    write_static_page(tmp_path / "site", {"run#2 50%": segmenter}, {})
    [described] = json.loads((tmp_path / "site" / "settings.json").read_text())["models"]
    address = urlsplit(described["file"])
    assert not address.fragment
    assert (tmp_path / "site" / unquote(address.path)).is_file()


@pytest.mark.parametrize("name", ["index.html", "settings.json", "models/mine.onnx"])
def test_a_folder_of_other_files_is_refused_and_an_earlier_page_is_not(tmp_path, refineseg, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"engine": "mine"}')
    status, _, err = refineseg("demo", tmp_path, "--runtime", tmp_path)
    assert (status, f"got {tmp_path / name.split('/')[0]}, which `refineseg demo` did not write" in err) == (2, True)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]
    path.unlink()
    for folder in (tmp_path / "models").parent.iterdir():
        folder.rmdir()
    write_static_page(tmp_path, {}, {})
    assert json.loads((tmp_path / "settings.json").read_text())["engine"] == "browser"
    write_static_page(tmp_path, {}, {})


def test_a_model_that_no_page_can_hold_leaves_no_half_folder(tmp_path):
    fits, reduces = (refineseg.build("refineseg_nano", num_classes=2) for _ in range(2))
    reduces.spec = replace(reduces.spec, preprocessing=replace(reduces.spec.preprocessing, input_scale=0.5))
    grey = refineseg.build("refineseg_nano", num_classes=2, in_channels=1)
    for refused, message in ((reduces, "got b, which resizes images"), (grey, "got b, which takes other channels")):
        with pytest.raises(ConfigError, match=message):
            write_static_page(tmp_path / "site", {"a": fits, "b": refused}, {})
        assert not (tmp_path / "site").exists()
