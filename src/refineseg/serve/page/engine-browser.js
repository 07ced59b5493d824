// The engine that runs the model in this browser, in a thread of its own; no picture leaves it. See engine-http.js.

import { outlinesOf } from "./outlines.js";
import { pixelsOf } from "./picture.js";
import { writeValues } from "./png.js";

export class BrowserEngine {
  isLocal = true;
  #waiting = new Map();
  #count = 0;
  #last = Promise.resolve();
  #broken = false;

  /** @param settings {models, limits: {pixels}} */
  constructor(settings) {
    this.settings = settings;
    this.worker = new Worker(new URL("browser-worker.js", import.meta.url), { type: "module" });
    this.worker.addEventListener("message", ({ data }) => {
      const { resolve, reject } = this.#waiting.get(data.id);
      this.#waiting.delete(data.id);
      if (data.error) reject(new Error(data.error));
      else resolve(data);
    });
    this.worker.addEventListener("error", () => {
      this.#broken = true;
      for (const { reject } of this.#waiting.values()) reject(new Error("The model cannot be started in this browser."));
      this.#waiting.clear();
    });
  }

  async describe() {
    return this.settings;
  }

  /** One picture at a time; one that another was chosen after is left out. */
  segment(picture, model, signal) {
    const turn = this.#last.catch(() => {}).then(() => {
      if (this.#broken) throw new Error("The model cannot be started in this browser.");
      if (signal?.aborted) throw new DOMException("Another picture was chosen.", "AbortError");
      return this.#segment(picture, model);
    });
    this.#last = turn;
    return turn;
  }

  async #segment(picture, model) {
    if (!picture.bitmap) throw new Error("This browser cannot read this file as a picture. JPEG and PNG work everywhere.");
    const { width, height } = picture.bitmap;
    const scale = Math.min(1, Math.sqrt(this.settings.limits.pixels / (width * height)));
    let bitmap = picture.bitmap;
    if (scale < 1) {
      const size = { resizeWidth: Math.floor(width * scale), resizeHeight: Math.floor(height * scale) };
      bitmap = await createImageBitmap(picture.bitmap, { ...size, resizeQuality: "high", premultiplyAlpha: "none" });
    }
    const pixels = pixelsOf(bitmap).buffer;
    const id = this.#count++;
    const done = new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
    const request = { id, file: model.file, width: bitmap.width, height: bitmap.height, classes: model.classes.length, void: model.ignore_index, pixels };
    this.worker.postMessage(request, [pixels]);
    const { mask, confidence, how } = await done;
    document.body.dataset.runs = how;
    return {
      width: bitmap.width, height: bitmap.height, mask, confidence,
      maskFile: await writeValues(mask, bitmap.width, bitmap.height, model.classes.map((c) => c.colour)),
      notes: scale < 1 ? `The picture was shrunk to ${bitmap.width} x ${bitmap.height} pixels, which this browser can hold.` : "",
    };
  }

  async outlines(picture, model, result) {
    const text = JSON.stringify(outlinesOf(result, model.classes));
    return new Blob([text], { type: "application/geo+json" });
  }
}
