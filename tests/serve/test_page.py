"""The page in a real browser: its mask is the command line's, and everything on it works by mouse, keyboard and touch.

Chromium is driven by Playwright. Pictures of the page go to ``$REFINESEG_SCREENSHOTS``, where that is set.
"""

import io
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import refineseg as package
from conftest import untrained
from fakes.services import photograph, png, running
from refineseg.class_info import ClassInfo

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SHOTS = os.environ.get("REFINESEG_SCREENSHOTS")
WAIT_MS = 120_000


@pytest.fixture(scope="module")
def service(model, tmp_path_factory):
    info = ClassInfo(("ground", "sky", "square"), ((60, 70, 50), (150, 190, 240), (220, 40, 40)))
    second = untrained(tmp_path_factory.mktemp("second") / "second.safetensors", info, seed=4)
    with running({"tiny": model, "second": second}) as found:
        yield found


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright here")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
        )
        yield browser
        browser.close()


@contextmanager
def page_of(chromium, address, **options):
    """A page that is ready; any message of an error on it fails the test, and so does a request to elsewhere."""
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    complaints = []
    page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request", lambda request: request.url.startswith((address, "blob:", "data:")) or complaints.append(request.url)
    )
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    yield page
    context.close()
    assert complaints == []


def shot(page, name):
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{SHOTS}/{name}.png")


def drop(page, content, name="photo.png"):
    """Drop a file onto the page, as a person does."""
    transfer = page.evaluate_handle(
        """([bytes, name]) => {
            const t = new DataTransfer(); t.items.add(new File([new Uint8Array(bytes)], name)); return t; }""",
        [list(content), name],
    )
    page.dispatch_event("body", "dragover", {"dataTransfer": transfer})
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    page.wait_for_selector("#legend button")
    page.wait_for_selector("#progress", state="hidden")


def until(page, condition):
    """Wait for a condition in JavaScript; Playwright's own waiting would need a weaker policy of the page."""
    for _ in range(300):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(condition)


def saved(page, kind):
    with page.expect_download() as download:
        page.click(f"[data-save={kind}]")
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def predicted(refineseg, model, content, folder):
    """What the command line writes: the files of its folder."""
    (folder / "photo.png").write_bytes(content)
    status, _, err = refineseg(
        "predict", folder / "photo.png", "--out", folder / "out", "--model", model, "--device", "cpu",
        "--save", "mask,polygons",
    )  # fmt: skip
    assert status == 0, err
    return folder / "out"


def test_a_dropped_picture_has_the_mask_of_the_command_line(chromium, service, model, refineseg, tmp_path):
    """The mask that the page saves is the same file, and the colours on the screen are those of its classes."""
    content = png(photograph((120, 160)))
    out = predicted(refineseg, model, content, tmp_path)
    with page_of(chromium, service.address) as page:
        shot(page, "empty")
        drop(page, content)
        shot(page, "result")
        name, mask = saved(page, "mask")
        assert name == "photo.png"
        assert mask == (out / "photo.png").read_bytes()
        assert saved(page, "outlines") == ("photo.geojson", (out / "photo.geojson").read_bytes())
        page.fill("#opacity", "100")
        _, overlay = saved(page, "overlay")
    classes = np.asarray(Image.open(io.BytesIO(mask)))
    colours = np.array([(60, 70, 50), (150, 190, 240), (220, 40, 40)])
    with Image.open(io.BytesIO(overlay)) as picture:
        assert np.array_equal(np.asarray(picture.convert("RGB")), colours[classes])


def test_the_legend_has_the_shares_and_isolates_a_class(chromium, service):
    content = png(photograph((120, 160)))
    areas = service.segment(content, "output=areas").json["classes"]
    with page_of(chromium, service.address) as page:
        drop(page, content)
        rows = page.locator("#legend button")
        shown = [row for row in areas if row["pixels"]]
        assert [text.split("\n")[0] for text in rows.all_inner_texts()] == [row["name"] for row in shown]
        assert f"{100 * shown[0]['share']:.0f} %" in rows.nth(0).inner_text()
        rows.nth(0).click()
        assert rows.nth(0).get_attribute("aria-pressed") == "true"
        page.fill("#opacity", "100")
        shot(page, "isolated")
        _, overlay = saved(page, "overlay")
        rows.nth(0).click()
        assert rows.nth(0).get_attribute("aria-pressed") == "false"
    mask = np.asarray(Image.open(io.BytesIO(service.segment(content).body)))
    with Image.open(io.BytesIO(overlay)) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    colours = np.array([(60, 70, 50), (150, 190, 240), (220, 40, 40)])
    chosen = mask == shown[0]["index"]
    assert np.array_equal(pixels[chosen], colours[mask[chosen]])
    assert np.array_equal(pixels[~chosen], photograph((120, 160))[~chosen])


def test_hovering_tells_class_and_confidence(chromium, service):
    content = png(photograph((120, 160)))
    mask = np.asarray(Image.open(io.BytesIO(service.segment(content).body)))
    sure = np.asarray(Image.open(io.BytesIO(service.segment(content, "output=confidence").body)))
    with page_of(chromium, service.address) as page:
        drop(page, content)
        box = page.locator("#pane-1 canvas").bounding_box()
        scale = min(box["width"] / 160, box["height"] / 120)
        for x, y in ((20, 30), (80, 60), (150, 100)):
            left = box["x"] + box["width"] / 2 + (x + 0.5 - 80) * scale
            page.mouse.move(left, box["y"] + box["height"] / 2 + (y + 0.5 - 60) * scale)
            name, share = ("ground", "sky", "square")[mask[y, x]], f"{100 * float(sure[y, x]) / 255:.0f} % sure"
            for _ in range(50):  # the page draws it with its next frame
                told = page.inner_text("#tip").replace("\xa0", " ").strip()
                if told.startswith(name) and share in told:
                    break
                page.wait_for_timeout(100)
            assert told.startswith(name)
            assert share in told
        page.mouse.move(2, 2)
        assert page.is_hidden("#tip")


def test_pictures_come_from_a_dialog_the_clipboard_the_camera_and_samples(chromium, service):
    content = png(photograph((50, 60)))
    with page_of(chromium, service.address, permissions=["camera"]) as page:
        page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": content})
        page.wait_for_selector("#legend button")
        assert saved(page, "mask") == ("a.png", service.segment(content).body)
        other = png(photograph((40, 70), seed=9))
        page.evaluate(
            """bytes => { const t = new DataTransfer();
                t.items.add(new File([new Uint8Array(bytes)], 'x.png', {type: 'image/png'}));
                window.dispatchEvent(new ClipboardEvent('paste', {clipboardData: t})); }""",
            list(other),
        )
        page.wait_for_selector("#pane-1 canvas[aria-label^='pasted']")
        assert saved(page, "mask") == ("pasted.png", service.segment(other).body)
        page.click("header [data-source=camera]")
        until(page, "document.querySelector('#camera video').readyState >= 2")
        shot(page, "camera")
        page.click("#shoot")
        page.wait_for_selector("#pane-1 canvas[aria-label^='camera']")
        until(page, "document.querySelector('#camera video').srcObject === null")
    with page_of(chromium, service.address) as page:
        page.click("#samples button")
        page.wait_for_selector("#legend button")
        sample = service.call("GET", "/samples/avenue.png").body
        assert saved(page, "mask") == ("avenue.png", service.segment(sample).body)


def test_two_models_stand_side_by_side(chromium, service):
    content = png(photograph((120, 160)))
    with page_of(chromium, service.address) as page:
        page.select_option("#second", "second")
        drop(page, content)
        assert page.is_visible("#pane-2")
        shares = []
        for name in ("tiny", "second"):
            rows = service.segment(content, f"output=areas&model={name}").json["classes"]
            shares += [row["share"] for row in rows if row["name"] == "sky"]
        row = page.locator("#legend button", has_text="sky").inner_text()
        assert all(f"{100 * share:.0f}" in row or f"{100 * share:.1f}" in row for share in shares)
        page.click("[data-zoom=in]")
        page.check("#wipe")
        assert page.locator(".divider:visible").count() == 2
        shot(page, "two")
        page.select_option("#second", "")
        page.wait_for_selector("#pane-2", state="hidden")


def test_before_and_after_can_be_wiped_and_zoom_keeps_its_place(chromium, service):
    with page_of(chromium, service.address) as page:
        drop(page, png(photograph((300, 400))))
        page.check("#wipe")
        divider = page.locator("#pane-1 .divider")
        box, canvas = divider.bounding_box(), page.locator("#pane-1 canvas").bounding_box()
        page.mouse.move(box["x"] + 20, box["y"] + 100)
        page.mouse.down()
        page.mouse.move(canvas["x"] + canvas["width"] * 0.25, box["y"] + 100)
        page.mouse.up()
        assert divider.get_attribute("aria-valuenow") == "25"
        x, y = canvas["x"] + canvas["width"] * 0.6, canvas["y"] + canvas["height"] * 0.4
        page.mouse.move(x, y)
        before = page.inner_text("#tip")
        for _ in range(3):
            page.mouse.wheel(0, -300)
        page.wait_for_timeout(100)
        page.mouse.move(x, y)
        assert page.inner_text("#tip") == before
        shot(page, "wiped")


def test_everything_can_be_done_with_the_keyboard(chromium, service):
    with page_of(chromium, service.address) as page:
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.closest('#samples') !== null"):
                break
        page.keyboard.press("Enter")
        page.wait_for_selector("#legend button")
        page.focus("#pane-1 canvas")
        page.keyboard.press("+")
        page.keyboard.press("ArrowRight")
        status = page.inner_text("#status")
        assert status.split()[0] in ("ground", "sky", "square")
        assert "sure" in status
        page.focus("#wipe")
        page.keyboard.press("Space")
        page.focus("#pane-1 .divider")
        page.keyboard.press("ArrowLeft")
        assert page.get_attribute("#pane-1 .divider", "aria-valuenow") == "48"
        page.focus("#legend button")
        page.keyboard.press("Enter")
        assert page.get_attribute("#legend button", "aria-pressed") == "true"
        page.keyboard.press("Escape")
        assert page.get_attribute("#legend button", "aria-pressed") == "false"
        page.focus("#opacity")
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#opacity-value") == "56 %"
        unnamed = page.evaluate(
            """[...document.querySelectorAll('button, select, input:not([hidden]), canvas')]
                .filter((e) => e.offsetParent && !e.ariaLabel && !e.labels?.length && !e.textContent.trim())
                .filter((e) => !e.querySelector('img[alt]'))
                .map((e) => e.outerHTML)"""
        )
        assert unnamed == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_colour_schemes(chromium, service, scheme):
    phone = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
    with page_of(chromium, service.address, color_scheme=scheme, **phone) as page:
        shot(page, f"phone-empty-{scheme}")
        page.tap("#samples button")
        page.wait_for_selector("#legend button")
        shot(page, f"phone-{scheme}")
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390
        small = page.evaluate(
            """[...document.querySelectorAll('button')].filter((b) => b.offsetParent && b.offsetHeight < 32)
                .map((b) => b.outerHTML)"""
        )
        assert small == []
        page.tap("#legend button")
        assert page.get_attribute("#legend button", "aria-pressed") == "true"
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        red = int(ground.split("(")[1].split(",")[0])
        assert (red < 60) == (scheme == "dark")


def test_errors_are_words_and_the_picture_before_stays(chromium, service):
    with page_of(chromium, service.address) as page:
        drop(page, png(photograph((50, 60))))
        page.evaluate("() => { window.fetch = () => Promise.reject(new TypeError('gone')); }")
        page.set_input_files("#file", {"name": "b.png", "mimeType": "image/png", "buffer": png(photograph((30, 30)))})
        page.wait_for_selector("#error:not([hidden])")
        assert "does not answer" in page.inner_text("#error p")
        assert page.locator("#legend button").count()
        shot(page, "error")
        page.click("#error button")
        assert page.is_hidden("#error")


@contextmanager
def asked_for_token(chromium, model):
    """The page of a service with a token, whose dialog is open; a refusal is told on its console."""
    with running({"tiny": model}, token="a-long-enough-secret") as service:
        context = chromium.new_context()
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.goto(service.address)
        page.wait_for_selector("#token[open]")
        yield page
        context.close()


def test_a_token_is_asked_for_once(chromium, model):
    with asked_for_token(chromium, model) as page:
        page.fill("#token input", "a-long-enough-secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("body[data-ready]")
        drop(page, png(photograph((50, 60))))
        assert saved(page, "mask")[1]


def test_settings_hold_nothing_but_names(service):
    assert set(json.loads(service.call("GET", "/settings.json").body)) == {"engine", "samples"}


def test_models_of_other_classes_are_not_mixed(chromium, model, tmp_path):
    """The list is that of the first model; a class that is chosen in it is none of the second model's."""
    other = untrained(tmp_path / "other.safetensors", ClassInfo(("water", "field", "road", "wall")), seed=3)
    with running({"tiny": model, "other": other}) as service, page_of(chromium, service.address) as page:
        page.select_option("#second", "other")
        drop(page, png(photograph((120, 160))))
        assert "different classes. These are the classes of tiny." in page.inner_text("#absent")
        names = page.locator("#legend button").all_inner_texts()
        assert names
        assert all(text.split("\n")[0] in ("ground", "sky", "square") for text in names)
        assert not any("·" in text for text in names)
        pictures = "() => [1, 2].map((i) => document.querySelector(`#pane-${i} canvas`).toDataURL())"
        before = page.evaluate(pictures)
        page.click("#legend button")
        after = page.evaluate(pictures)
        assert (before[0] != after[0] or len(names) == 1, before[1] == after[1]) == (True, True)
        page.select_option("#second", "")
        page.select_option("#model", "other")
        until(page, "document.querySelector('#pane-1 canvas').getAttribute('aria-label').includes('other')")
        assert page.locator("#legend button[aria-pressed=true]").count() == 0, "a class of another model is chosen"


def test_a_model_that_is_chosen_meanwhile_gets_the_picture_that_was_opened_last(chromium, service):
    held = []
    with page_of(chromium, service.address) as page:
        drop(page, png(photograph((50, 60))), "first.png")
        page.route("**/v1/segment*", lambda route: held.append(route))
        page.set_input_files(
            "#file", {"name": "last.png", "mimeType": "image/png", "buffer": png(photograph((40, 70), seed=9))}
        )
        for _ in range(100):
            if held:
                break
            page.wait_for_timeout(50)
        page.unroute("**/v1/segment*")
        page.select_option("#model", "second")
        until(page, "document.querySelector('#pane-1 canvas').getAttribute('aria-label').startsWith('last, second')")


def test_a_file_that_gives_classes_only_can_be_looked_at(chromium, model, tmp_path):
    package.export(tmp_path / "m.onnx", model=model, size=(50, 60))
    content = png(photograph((50, 60)))
    with running({"file": str(tmp_path / "m.onnx")}) as service, page_of(chromium, service.address) as page:
        drop(page, content)
        assert saved(page, "mask") == ("photo.png", service.segment(content).body)
        assert json.loads(saved(page, "outlines")[1])["features"]
        box = page.locator("#pane-1 canvas").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        until(page, "!document.querySelector('#tip').hidden")
        assert "sure" not in page.inner_text("#tip")


def test_the_camera_is_off_when_its_dialog_is_left(chromium, service):
    with page_of(chromium, service.address, permissions=["camera"]) as page:
        page.evaluate(
            """() => { const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
                navigator.mediaDevices.getUserMedia = async (o) => (window.used = await ask(o)); }"""
        )
        page.evaluate("() => { HTMLMediaElement.prototype.play = () => new Promise(() => {}); }")  # a slow phone
        page.click("#empty [data-source=camera]")
        page.wait_for_selector("#camera[open]")
        page.click("#no-shoot")
        until(page, "window.used.getTracks().every((track) => track.readyState === 'ended')")


def test_a_wrong_token_is_said_and_the_dialog_can_be_left(chromium, model):
    with asked_for_token(chromium, model) as page:
        page.fill("#token input", "no secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#token .wrong:not([hidden])")
        assert page.input_value("#token input") == ""
        page.keyboard.press("Escape")
        page.wait_for_selector("#error:not([hidden])")
        assert "token" in page.inner_text("#error p")
        page.set_input_files("#file", {"name": "b.png", "mimeType": "image/png", "buffer": png(photograph((30, 30)))})
        page.wait_for_selector("#token[open]")  # it is asked for again
        page.fill("#token input", "a-long-enough-secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#legend button")


def test_a_sample_that_cannot_be_fetched_is_said(chromium, service):
    with page_of(chromium, service.address) as page:
        page.evaluate("() => { window.fetch = async () => new Response('', { status: 502 }); }")
        page.click("#samples button")
        page.wait_for_selector("#error:not([hidden])")
        assert "cannot be fetched (status 502)" in page.inner_text("#error p")


def test_a_background_is_not_painted_until_it_is_chosen(chromium, tmp_path):
    info = ClassInfo(("Background", "thing"), ((60, 70, 50), (220, 40, 40)))
    picture = photograph((120, 160))
    own = untrained(tmp_path / "own.safetensors", info)
    with running({"own": own}) as service, page_of(chromium, service.address) as page:
        drop(page, png(picture))
        page.fill("#opacity", "100")
        mask = np.asarray(Image.open(io.BytesIO(saved(page, "mask")[1])))
        shown = [saved(page, "overlay")[1]]
        page.click("#legend button[data-index='0']")
        shown.append(saved(page, "overlay")[1])
    pictures = [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in shown]
    behind = (mask == 0)[..., None]
    assert behind.any()
    assert np.array_equal(pictures[0], np.where(behind, picture, np.array(info.palette[1])))
    assert np.array_equal(pictures[1], np.where(behind, np.array(info.palette[0]), picture))


def test_after_a_file_that_is_no_picture_a_model_is_chosen_for_the_one_that_stays(chromium, service, tmp_path):
    """Also a file that was changed since it was opened is told as such, and a camera that only https pages have."""
    context = chromium.new_context()
    page = context.new_page()  # not page_of: refused requests are told on the console
    page.set_default_timeout(WAIT_MS)
    page.goto(service.address)
    page.wait_for_selector("body[data-ready]")
    drop(page, png(photograph((50, 60))), "first.png")
    page.set_input_files("#file", {"name": "b.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    page.wait_for_selector("#error:not([hidden])")
    page.select_option("#model", "second")
    page.wait_for_selector("#pane-1 canvas[aria-label^='first, second']")
    assert page.is_hidden("#error")
    file = tmp_path / "changed.png"
    file.write_bytes(png(photograph((50, 60))))
    page.set_input_files("#file", str(file))
    page.wait_for_selector("#pane-1 canvas[aria-label^='changed, second']")
    file.write_bytes(png(photograph((70, 80))))
    os.utime(file, (1, 1))
    page.select_option("#model", "tiny")
    page.wait_for_selector("#error:not([hidden])")
    assert "cannot be read" in page.inner_text("#error p")
    page.evaluate("() => { Object.defineProperty(navigator, 'mediaDevices', { value: undefined }); }")
    page.evaluate("() => document.querySelector('[data-source=camera]').click()")
    page.wait_for_function("() => document.querySelector('#error p').textContent.includes('(https)')")
    context.close()


def test_the_tip_of_a_picture_goes_with_it(chromium, service):
    with page_of(chromium, service.address) as page:
        drop(page, png(photograph((50, 60))), "first.png")
        page.wait_for_selector("#pane-1 canvas[aria-label^='first']")
        page.focus("#pane-1 canvas")
        page.keyboard.press("ArrowRight")
        assert page.is_visible("#tip")
        drop(page, png(photograph((60, 50))), "second.png")
        page.wait_for_selector("#pane-1 canvas[aria-label^='second']")
        assert page.is_hidden("#tip")
