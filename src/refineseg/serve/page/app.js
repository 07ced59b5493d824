// The page: it takes pictures from everywhere, asks an engine, and shows what comes back.

import { HttpEngine } from "./engine-http.js";
import { decoded } from "./picture.js";
import { Pane, View } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const view = new View();
const panes = [new Pane($("pane-1"), view, pointed), new Pane($("pane-2"), view, pointed)];
// asked: the picture that was opened last, whether its result is there or not; turn: counts openings
const state = { engine: null, models: [], known: null, token: null, picture: null, asked: null, results: [], job: null, turn: 0 };

const percent = (share) => (share === 0 ? "0 %" : share >= 0.0995 ? `${Math.round(100 * share)} %` : share >= 0.0005 ? `${(100 * share).toFixed(1)} %` : "under 0.1 %");
const spoken = (name) => name.replaceAll("_", " ");
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;

// ---- start ----

async function begin() {
  const settings = await (await fetch("settings.json")).json();
  if (settings.engine === "browser") {
    const { BrowserEngine } = await import("./engine-browser.js");
    state.engine = new BrowserEngine(settings);
  } else state.engine = new HttpEngine(askToken);
  $("privacy").textContent = settings.engine === "browser"
    ? "Pictures stay in this browser."
    : state.engine.isLocal ? "Pictures go to the service on this computer. It keeps none." : `Pictures go to ${location.host}. It keeps none.`;
  $("samples").append(...settings.samples.map(({ file, title }) => {
    const button = make("button", { type: "button", title });
    button.append(make("img", { src: file, alt: title, width: 144, height: 108, loading: "lazy" }));
    button.addEventListener("click", () => openAddress(file));
    return make("li", {}, button);
  }));
}
const begun = begin();

async function describe() {
  const found = await state.engine.describe();
  state.models = found.models;
  for (const model of state.models) {
    $("model").append(new Option(model.name));
    $("second").append(new Option(model.name));
  }
  $("second-label").hidden = state.models.length < 2;
  document.body.dataset.ready = "true";
}

/** Wait until the models are known; ask once more where that failed. */
async function known() {
  await begun;
  state.known ??= describe();
  try {
    await state.known;
  } catch (error) {
    state.known = null;
    throw error;
  }
}

/** One dialog, however many requests need the token; "": none was given. */
function askToken(wrong) {
  const dialog = $("token"), input = dialog.querySelector("input");
  state.token ??= new Promise((resolve) => {
    input.value = dialog.returnValue = "";
    dialog.querySelector(".wrong").hidden = !wrong;
    dialog.showModal();
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "go" ? input.value.trim() : ""), { once: true });
  }).finally(() => (state.token = null));
  return state.token;
}

// ---- pictures come in ----

async function openAddress(address) {
  const turn = ++state.turn;
  let blob;
  try {
    const response = await fetch(address);
    if (!response.ok) throw new Error(`status ${response.status}`);
    blob = await response.blob();
  } catch (error) {
    if (turn === state.turn) fail(new Error(`The picture cannot be fetched (${error.message}). Is the service still running?`));
    return;
  }
  await take(blob, address.split("/").at(-1), turn);
}

async function open(blob, name = "picture") {
  await take(blob, name, ++state.turn);
}

/** Look at a picture, unless another one was opened since. */
async function take(blob, name, turn) {
  const bitmap = await decoded(blob);
  if (turn !== state.turn) {
    bitmap?.close();
    return;
  }
  const picture = { blob, bitmap, name: name.replace(/\.[^.]*$/, "") || "picture" };
  const before = state.asked;
  if (bitmap && !state.picture) show(picture, []); // something to look at meanwhile
  const done = compute(picture);
  if (before !== state.picture) before?.bitmap?.close();
  await done;
}

/** Ask for what is chosen; a picture or model that is chosen meanwhile takes its place. */
async function compute(picture) {
  state.job?.abort();
  const job = (state.job = new AbortController());
  state.asked = picture;
  $("error").hidden = true;
  busy(true);
  const begin = performance.now();
  try {
    await known();
    if (job.signal.aborted) return;
    const models = [$("model").value, $("second").value].filter(Boolean).map((name) => state.models.find((m) => m.name === name));
    const results = await Promise.all(
      models.map(async (model) => ({ ...(await state.engine.segment(picture, model, job.signal)), model })),
    );
    if (job.signal.aborted) return;
    show(picture, results.map((result) => ({ ...result, shares: sharesOf(result) })));
    tellResult((performance.now() - begin) / 1000);
  } catch (error) {
    if (job.signal.aborted) return;
    fail(error);
    if (!state.results.length) back();
    else if (picture !== state.picture) { // another model is for the one that stays
      state.asked = state.picture;
      picture.bitmap?.close();
    }
  }
  busy(false);
}

/** Put a picture with its results in the place of the one before. */
function show(picture, results) {
  if (picture !== state.picture) view.set({ zoom: 1, x: 0.5, y: 0.5, chosen: null });
  else if (!sameClasses([...results, ...state.results]) || !results.some((r) => r.shares[view.chosen])) view.set({ chosen: null });
  const before = state.picture;
  Object.assign(state, { picture, results });
  reveal();
  if (before !== picture) before?.bitmap?.close();
}

function back() {
  state.picture = null;
  for (const id of ["panes", "zoom", "panel", "sources"]) $(id).hidden = true;
  $("empty").hidden = false;
}

const namesOf = (result) => result.model.classes.map((c) => c.name).join("\n");
const sameClasses = (results) => results.every((r) => namesOf(r) === namesOf(results[0]));

function sharesOf({ mask, model }) {
  const counts = new Float64Array(65536);
  for (const value of mask) counts[value]++;
  return model.classes.map(({ index }) => counts[index] / mask.length);
}

function busy(on) {
  $("progress").hidden = !on;
  $("stage").setAttribute("aria-busy", on);
  if (on) $("status").textContent = "Looking at the picture ...";
}

function fail(error) {
  $("status").textContent = "";
  $("error").querySelector("p").textContent = capital(error.message);
  $("error").hidden = false;
}

// ---- what is shown ----

function reveal() {
  const [first, second] = state.results;
  $("empty").hidden = $("tip").hidden = true; // the tip told of what was shown before
  for (const id of ["panes", "zoom", "sources"]) $(id).hidden = false;
  $("panel").hidden = !first;
  $("pane-2").hidden = !second;
  $("stage").classList.toggle("two", Boolean(second));
  state.results.forEach((result, i) => {
    panes[i].show(state.picture, result, result.model.classes, sameClasses([first, result]));
    panes[i].figure.querySelector("figcaption").textContent = second ? result.model.name : "";
    const largest = topClasses(result).map(([name, share]) => `${name} ${percent(share)}`);
    panes[i].canvas.setAttribute("aria-label", `${state.picture.name}, ${result.model.name}: ${largest.join(", ")}`);
  });
  if (!first) panes[0].show(state.picture, null, []);
  else drawLegend();
}

function topClasses({ model, shares }) {
  return model.classes.map((c) => [spoken(c.name), shares[c.index]]).sort((a, b) => b[1] - a[1]).filter(([, s]) => s > 0).slice(0, 3);
}

function tellResult(seconds) {
  const [first] = state.results;
  const found = topClasses(first).map(([name, share]) => `${name} ${percent(share)}`).join(", ");
  const notes = [first.notes, state.picture.bitmap ? "" : "This browser cannot show this kind of file, so only the colours are shown."];
  $("status").textContent = `${found}. ${seconds.toFixed(1)} s. ${notes.filter(Boolean).map(capital).join(" ")}`;
}

function drawLegend() {
  const results = state.results, [first] = results;
  const same = sameClasses(results), listed = same ? results : [first];
  const most = (i) => Math.max(...listed.map((r) => r.shares[i]));
  const order = first.model.classes.map((c) => c.index).sort((a, b) => most(b) - most(a));
  const rows = order.filter((i) => most(i) > 0).map((i) => {
    const { name, colour } = first.model.classes[i];
    const chip = make("span", { className: "chip" });
    chip.style.background = css(colour);
    const shown = listed.map((r) => percent(r.shares[i])).join(" · ");
    const bars = listed.map((r, which) => {
      const fill = make("i");
      fill.style.width = `${100 * r.shares[i]}%`;
      return make("span", { className: which ? "bar b" : "bar" }, fill);
    });
    const button = make("button", { type: "button" }, chip, make("span", { textContent: spoken(name) }), make("span", { className: "share", textContent: shown }), ...bars);
    button.dataset.index = i;
    button.addEventListener("click", () => view.set({ chosen: view.chosen === i ? null : i }));
    return make("li", {}, button);
  });
  $("legend").replaceChildren(...rows);
  const absent = order.filter((i) => most(i) === 0).map((i) => spoken(first.model.classes[i].name));
  const notes = [
    same ? "" : `The two models have different classes. These are the classes of ${first.model.name}.`,
    absent.length && absent.length < 40 ? `Not found: ${absent.join(", ")}` : "",
  ];
  $("absent").textContent = notes.filter(Boolean).join(" ");
  showChosen();
}

function showChosen() {
  $("legend").classList.toggle("chosen", view.chosen !== null);
  for (const button of $("legend").querySelectorAll("button")) button.setAttribute("aria-pressed", Number(button.dataset.index) === view.chosen);
}
view.addEventListener("change", showChosen);

function pointed(where, pane, aloud = false) {
  const tip = $("tip");
  const known = where && pane.result?.model.classes[where.index];
  tip.hidden = !known;
  if (!known) {
    if (aloud) $("status").textContent = where ? "no class here" : "outside of the picture";
    return;
  }
  tip.querySelector(".chip").style.background = css(known.colour);
  tip.querySelector(".what").textContent = spoken(known.name);
  tip.querySelector(".sure").textContent = where.sure === null ? "" : `${Math.round(100 * where.sure)} % sure`;
  const stage = $("stage").getBoundingClientRect(), box = pane.canvas.getBoundingClientRect();
  const left = Math.min(box.left - stage.left + where.x + 14, stage.width - tip.offsetWidth - 8);
  const top = box.top - stage.top + where.y + (where.y > 60 ? -44 : 18);
  tip.style.transform = `translate(${Math.round(Math.max(8, left))}px, ${Math.round(top)}px)`;
  if (aloud) $("status").textContent = tip.textContent.trim();
}

// ---- saving ----

function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** The picture with its colours as they are shown, at its full size. */
async function overlayFile() {
  const { width, height } = panes[0].size;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  if (state.picture.bitmap) context.drawImage(state.picture.bitmap, 0, 0, width, height);
  context.globalAlpha = state.picture.bitmap ? view.opacity : 1;
  context.imageSmoothingEnabled = false;
  context.drawImage(panes[0].layer, 0, 0, width, height);
  return canvas.convertToBlob({ type: "image/png" });
}

const savers = {
  mask: async (picture, [first]) => save(first.maskFile, `${picture.name}.png`),
  overlay: async (picture) => save(await overlayFile(), `${picture.name}_overlay.png`),
  outlines: async (picture, [first]) => save(await state.engine.outlines(picture, first.model, first), `${picture.name}.geojson`),
};
for (const button of document.querySelectorAll("[data-save]")) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      await savers[button.dataset.save](state.picture, state.results); // of now: another may be opened meanwhile
    } catch (error) {
      fail(error);
    }
    button.disabled = false;
  });
}

// ---- controls ----

for (const id of ["model", "second"]) $(id).addEventListener("change", () => state.asked && compute(state.asked));
$("opacity").addEventListener("input", () => {
  $("opacity-value").textContent = `${$("opacity").value} %`;
  view.set({ opacity: $("opacity").value / 100 });
});
$("wipe").addEventListener("change", () => view.set({ wipe: $("wipe").checked ? 0.5 : null }));
for (const button of document.querySelectorAll("[data-zoom]")) {
  button.addEventListener("click", () => {
    if (button.dataset.zoom === "fit") view.set({ zoom: 1, x: 0.5, y: 0.5 });
    else panes[0].zoomAt(button.dataset.zoom === "in" ? 1.5 : 1 / 1.5);
  });
}
for (const button of document.querySelectorAll("[data-source]")) {
  button.addEventListener("click", () => (button.dataset.source === "file" ? $("file").click() : openCamera()));
}
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) open(file, file.name);
  $("file").value = "";
});
$("error").querySelector("button").addEventListener("click", () => ($("error").hidden = true));
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  $("error").hidden = true;
  if (view.chosen !== null) view.set({ chosen: null });
});
addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])][0];
  if (file) open(file, "pasted");
});
for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    $("hint").hidden = false;
  });
}
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("hint").hidden = true;
});
addEventListener("drop", (event) => {
  event.preventDefault();
  $("hint").hidden = true;
  const [file] = event.dataTransfer.files;
  if (file) open(file, file.name);
  else fail(new Error("That was no file. Drop a picture from this computer."));
});

// ---- camera ----

async function openCamera() {
  const dialog = $("camera"), video = dialog.querySelector("video");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } } });
  } catch (error) {
    const known = { NotAllowedError: "The browser does not allow it here.", NotFoundError: "None was found." };
    const why = navigator.mediaDevices
      ? (known[error.name] ?? `(${error.message})`)
      : "Browsers give it only to pages of this computer and to encrypted addresses (https).";
    fail(new Error(`The camera cannot be used. ${why}`));
    return;
  }
  const end = () => stream.getTracks().forEach((track) => track.stop());
  if (dialog.open) return end(); // it was asked for twice
  const shoot = () => {
    if (!video.videoWidth) return; // nothing is seen yet
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.convertToBlob({ type: "image/png" }).then((blob) => open(blob, "camera"));
    dialog.close();
  };
  $("shoot").addEventListener("click", shoot);
  dialog.addEventListener("close", () => {
    $("shoot").removeEventListener("click", shoot);
    end();
    video.srcObject = null;
  }, { once: true });
  video.srcObject = stream;
  dialog.showModal();
  try {
    await video.play();
  } catch (error) {
    if (!dialog.open) return; // it was left meanwhile
    dialog.close();
    fail(new Error(`The camera gives no picture (${error.message}).`));
  }
}
$("no-shoot").addEventListener("click", () => $("camera").close());

known().catch(fail);
